//! The program under test, as a process in the node's host namespace.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::sh::{in_ns, must, wait_until};

/// A line of output, and its time since the start of the process.
pub type Line = (Duration, String);

pub struct Supervisor {
    child: Child,
    pub started: Instant,
    lines: Arc<Mutex<Vec<Line>>>,
    status: Option<ExitStatus>,
}

/// Whether the next start is one of LAB_FROM, the program of another commit, instead of the program under test.
pub static START_OTHER: AtomicBool = AtomicBool::new(false);

/// The program's path: LAB_SUPERVISOR, which is under /host inside the lab.
pub fn program() -> String {
    let name = if START_OTHER.load(Ordering::Relaxed) { "LAB_FROM" } else { "LAB_SUPERVISOR" };
    let path = must(name, std::env::var(name));
    let inside = format!("/host{path}");
    if Path::new(&inside).exists() { inside } else { path }
}

impl Supervisor {
    pub(super) fn start(ns: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program());
        command.args(args).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(env.iter().copied());
        Self::of(ns, command)
    }

    /// Starts a command that runs the program.
    pub fn of(ns: &str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = must("the supervisor", in_ns(ns, || command.spawn()));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|out| Box::new(out) as _),
            child.stderr.take().map(|err| Box::new(err) as _),
        ];
        for output in outputs.into_iter().flatten() {
            let lines = Arc::clone(&lines);
            // Ends with the last process that has the pipe open.
            thread::spawn(move || follow(output, started, &lines));
        }
        Self { child, started, lines, status: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its output so far, standard output and error together.
    pub fn log(&self) -> Vec<Line> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn log_text(&self) -> String {
        self.log().iter().map(|(at, line)| format!("{:8.3} {line}\n", at.as_secs_f64())).collect()
    }

    /// Waits for a line with `text` in it, and returns that line.
    #[track_caller]
    pub fn wait_log(&self, text: &str, limit: Duration) -> Line {
        wait_until(&format!("{text:?} in the log"), limit, || {
            self.log().into_iter().find(|(_, line)| line.contains(text))
        })
    }

    /// Waits for a line with `text` in it after the first `from` lines, and returns all lines after those.
    #[track_caller]
    pub fn wait_log_after(&self, from: usize, text: &str, limit: Duration) -> String {
        wait_until(&format!("{text:?} in the log"), limit, || {
            self.log()[from..].iter().any(|(_, line)| line.contains(text))
        });
        self.log()[from..].iter().map(|(_, line)| format!("{line}\n")).collect()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = must("wait", self.child.try_wait());
        }
        self.status
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            match self.ended() {
                Some(status) => return status,
                None if start.elapsed() > limit => {
                    panic!("the supervisor still runs after {limit:?}\n{}", self.log_text())
                }
                None => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        if let (None, Some(pid)) = (self.status, Pid::from_raw(self.pid().cast_signed())) {
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGTERM; its exit status, and how many seconds it took.
    #[track_caller]
    pub fn terminate(&mut self) -> (ExitStatus, f64) {
        let start = Instant::now();
        self.signal(Signal::TERM);
        let status = self.wait_end(Duration::from_secs(30));
        (status, start.elapsed().as_secs_f64())
    }

    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        self.status = Some(self.child.wait().unwrap_or(ExitStatus::from_raw(9)));
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill9();
        }
        if thread::panicking() && !verbose() {
            println!("--- the supervisor's log\n{}", self.log_text());
        }
    }
}

fn verbose() -> bool {
    std::env::var_os("LAB_VERBOSE").is_some_and(|value| value != "0")
}

fn follow(output: impl Read, started: Instant, lines: &Mutex<Vec<Line>>) {
    for line in BufReader::new(output).split(b'\n').map_while(std::result::Result::ok) {
        let (at, line) = (started.elapsed(), String::from_utf8_lossy(&line).into_owned());
        if verbose() {
            println!("supervisor {:8.3} {line}", at.as_secs_f64());
        }
        lines.lock().unwrap_or_else(PoisonError::into_inner).push((at, line));
    }
}
