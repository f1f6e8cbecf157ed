//! A change of the running configuration, on a separate thread: sends commands to one daemon after the other, and rolls
//! them back if one is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::frr::delta::{Step, VtyCommand};
use crate::frr::vty::{Reply, Terminal, socket};
use crate::frr::{DaemonKind, redact, redact_output};
use crate::node::Candidate;

/// Longest time for one command. A thousand VRFs take FRR seconds in all.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// bgpd refuses to remove the instance of a VRF until zebra has reported that the VRF has no VNI any more.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);
const MAX_ATTEMPTS: u32 = 300;

/// zebra notices the kernel's changes within milliseconds.
const CLEANUP_INTERVAL: Duration = Duration::from_millis(100);
const CLEANUP_ATTEMPTS: u32 = 50;

/// Part of mgmtd's reply while another session has its configuration locked (`mgmtd/mgmt_fe_adapter.c`).
const LOCKED: &str = "could not lock";

/// Why a change was rolled back.
#[derive(Debug, PartialEq, Eq)]
pub struct ChangeError {
    /// The daemon, the command and its reply, as one sentence.
    pub reason: String,
    /// The command.
    pub command: String,
    /// Daemons whose running configuration differs from the one before the change: they must restart.
    pub diverged: BTreeSet<DaemonKind>,
    /// No daemon has refused a command: one exited meanwhile, could not be reached, or was locked.
    pub interrupted: bool,
    /// Interrupted because another session had the configuration locked the whole time.
    pub locked: bool,
}

impl From<String> for ChangeError {
    fn from(reason: String) -> Self {
        Self::before_change(reason)
    }
}

impl ChangeError {
    /// An error before the first command.
    fn before_change(reason: String) -> Self {
        let (command, diverged) = (String::new(), BTreeSet::new());
        Self { reason, command, diverged, interrupted: true, locked: false }
    }
}

/// Work on a separate thread. Its file descriptor is readable when the work is done.
#[derive(Debug)]
pub struct Task<T> {
    done: UnixStream,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Task<T> {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread is available.
    pub fn start(work: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let (done, end) = UnixStream::pair()?;
        let thread = thread::Builder::new().name("change".into()).spawn(move || {
            // This end closes with the thread, even if it panics.
            let _end = end;
            work()
        })?;
        Ok(Self { done, thread })
    }

    /// Whether the work is done. The thread may end a moment later, which [`Self::join`] waits for.
    pub fn is_finished(&self) -> bool {
        let mut fds = [PollFd::new(&self.done, PollFlags::IN)];
        self.thread.is_finished() || poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// The result; `None` if the thread has panicked.
    pub fn join(self) -> Option<T> {
        self.thread.join().ok()
    }
}

impl<T> AsFd for Task<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }
}

/// A running change.
#[derive(Debug)]
pub struct Change {
    /// The configuration that it applies.
    pub candidate: Candidate,
    /// The number of its commands.
    pub commands: usize,
    /// Steps that follow after the change of the kernel.
    pub late: Vec<Step>,
    /// Time of its start.
    pub started: Instant,
    /// The thread that sends the commands.
    pub task: Task<Result<(), ChangeError>>,
}

impl Change {
    /// Starts the change: `steps` lead to the candidate, `late` follows after the change of the kernel, and `undo`
    /// computes the steps that roll the change back if a command is refused.
    ///
    /// # Errors
    /// No thread is available.
    pub fn start(
        candidate: Candidate,
        steps: Vec<Step>,
        undo: impl FnOnce() -> Vec<Step> + Send + 'static,
        late: Vec<Step>,
    ) -> io::Result<Self> {
        let commands = steps.iter().map(|step| step.commands.len()).sum();
        let vrfs: Vec<String> = late.iter().flat_map(|step| &step.commands).filter_map(removed_vrf).collect();
        let task = Task::start(move || {
            apply_steps(&steps, undo, open_terminal)?;
            // zebra crashes if a VRF is removed while it still processes the VRF's routes (seen with 10.3).
            if let Err(e) =
                open_terminal(DaemonKind::Zebra).and_then(|mut zebra| await_removed_routes(&mut zebra, &vrfs))
            {
                log::warn!(
                    daemon = "zebra";
                    "zebra: {e}; it may still have BGP routes in a VRF that is being removed"
                );
            }
            Ok(())
        })?;
        Ok(Self { candidate, commands, late, started: Instant::now(), task })
    }
}

impl<E: From<String>> Task<Result<(), E>> {
    /// The result of the work, or an error if the thread has panicked.
    pub fn result(self) -> Result<(), E> {
        self.thread
            .join()
            .unwrap_or_else(|_| Err("the thread that made the change has panicked".to_owned().into()))
    }
}

/// The VRF that a command removes.
fn removed_vrf(command: &VtyCommand) -> Option<String> {
    command.text.strip_prefix("no vrf ").map(Into::into)
}

/// Waits until the VRFs contain no BGP routes.
fn await_removed_routes(zebra: &mut impl Execute, vrfs: &[String]) -> io::Result<()> {
    for vrf in vrfs {
        for version in ["ip", "ipv6"] {
            let command = format!("do show {version} route vrf {vrf} bgp json");
            for _ in 0..MAX_ATTEMPTS {
                let routes = zebra.execute(&command)?.text;
                if !routes.contains("prefix") {
                    break;
                }
                thread::sleep(RETRY_INTERVAL);
            }
        }
    }
    Ok(())
}

/// Result of a repair by commands.
#[derive(Debug)]
pub struct RepairReport {
    /// The daemon.
    pub daemon: DaemonKind,
    /// The running configuration after the repair; or why the repair failed, and whether the reason is transient: the
    /// daemon exited meanwhile, or another session had the configuration locked.
    pub result: Result<String, (String, bool)>,
}

/// Repairs the running configuration of a daemon, and reads it at once: someone may change it again later.
///
/// # Errors
/// No thread is available.
pub fn start_repair(step: Step) -> io::Result<Task<RepairReport>> {
    Task::start(move || {
        let daemon = step.daemon;
        let running = || Ok(open_terminal(daemon)?.execute("do show running-config")?.text);
        let unreachable = |e: io::Error| (format!("{daemon}: {e}"), true);
        let done = run_step(&step, open_terminal).map_err(|failure| (failure.reason, failure.interrupted));
        RepairReport { daemon, result: done.and_then(|()| running().map_err(unreachable)) }
    })
}

/// Removes what is left of VRFs from FRR's configuration after the kernel has removed them. `None` if there is nothing
/// to do or no thread is available.
pub fn start_cleanup(late: Vec<Step>) -> Option<Task<()>> {
    if late.is_empty() {
        return None;
    }
    Task::start(move || clean_up(&late))
        .inspect_err(|e| log::debug!("removed VRFs stay in FRR's configuration: {e}"))
        .ok()
}

/// Repeats each late command until it has an effect. Nothing depends on the result.
fn clean_up(late: &[Step]) {
    for (step, command) in
        late.iter().flat_map(|step| step.commands.iter().map(move |command| (step, command)))
    {
        let is_removed = || -> io::Result<bool> {
            let mut terminal = open_terminal(step.daemon)?;
            terminal.execute(&command.text)?;
            let running = terminal.execute("do show running-config")?.text;
            Ok(!running.lines().any(|line| Some(line) == command.text.strip_prefix("no ")))
        };
        for _ in 0..CLEANUP_ATTEMPTS {
            thread::sleep(CLEANUP_INTERVAL);
            if is_removed().unwrap_or(false) {
                break;
            }
        }
    }
}

fn open_terminal(daemon: DaemonKind) -> io::Result<Terminal> {
    Terminal::open(&socket(daemon), COMMAND_TIMEOUT)
}

/// A session that executes commands; tests use a fake one.
trait Execute {
    fn execute(&mut self, command: &str) -> io::Result<Reply>;
}

impl Execute for Terminal {
    fn execute(&mut self, command: &str) -> io::Result<Reply> {
        Terminal::execute(self, command)
    }
}

fn apply_steps<S: Execute>(
    steps: &[Step],
    undo: impl FnOnce() -> Vec<Step>,
    connect: impl Fn(DaemonKind) -> io::Result<S>,
) -> Result<(), ChangeError> {
    let running = |daemon| -> io::Result<Vec<String>> {
        Ok(comparable_lines(&connect(daemon)?.execute("do show running-config")?.text))
    };
    let mut before = BTreeMap::new();
    for daemon in steps.iter().map(|step| step.daemon) {
        let lines = running(daemon).map_err(|e| ChangeError::before_change(format!("{daemon}: {e}")))?;
        before.insert(daemon, lines);
    }
    let failure = steps.iter().find_map(|step| run_step(step, &connect).err());
    let Some(CommandFailure { command, reason, interrupted }) = failure else { return Ok(()) };
    // Some commands may not have been executed, so undoing them fails: only the running configuration counts.
    for step in undo() {
        if let Ok(mut terminal) = connect(step.daemon) {
            let is_unreachable = |command: &VtyCommand| terminal.execute(&command.text).is_err();
            let _ = step.commands.iter().any(is_unreachable);
        }
    }
    let differs =
        |(daemon, lines): &(DaemonKind, Vec<String>)| running(*daemon).map_or(true, |now| now != *lines);
    let diverged = before.into_iter().filter(differs).map(|(daemon, _)| daemon).collect();
    let locked = interrupted && reason.contains(LOCKED);
    Err(ChangeError { reason, command, diverged, interrupted, locked })
}

/// The sorted lines of a running configuration: lines that were removed and added again may be at another place. An
/// empty interface stays in FRR's configuration and has no effect.
fn comparable_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for line in text.lines() {
        if line == "exit" && lines.last().is_some_and(|last| last.starts_with("interface ")) {
            lines.pop();
        } else {
            lines.push(line.into());
        }
    }
    lines.retain(|line| line != "!");
    lines.sort();
    lines
}

/// A command that was not executed.
struct CommandFailure {
    command: String,
    reason: String,
    /// The daemon did not reply, or was locked.
    interrupted: bool,
}

/// Sends a step to its daemon. The reason of a failure names the daemon and the command.
fn run_step<S: Execute>(
    step: &Step,
    connect: impl Fn(DaemonKind) -> io::Result<S>,
) -> Result<(), CommandFailure> {
    let unreachable =
        |e: io::Error| CommandFailure { command: String::new(), reason: e.to_string(), interrupted: true };
    connect(step.daemon).map_err(unreachable).and_then(|mut terminal| send(&mut terminal, step)).map_err(
        |failure| {
            let lines: Vec<_> = failure.reason.lines().map(redact_output).collect();
            let reason = format!("{}: {:?}: {}", step.daemon, redact(&failure.command), lines.join("; "));
            CommandFailure { reason, ..failure }
        },
    )
}

/// Sends the commands until one is refused.
fn send(terminal: &mut impl Execute, step: &Step) -> Result<(), CommandFailure> {
    for command in &step.commands {
        let failed = |interrupted| {
            move |reason: String| CommandFailure { command: command.text.clone(), reason, interrupted }
        };
        for attempt in 1.. {
            let reply = terminal.execute(&command.text).map_err(|e| failed(true)(e.to_string()))?;
            if reply.success || command.optional {
                break;
            }
            // mgmtd has one candidate configuration, and another vtysh may have it locked for a moment.
            let is_transient = command.text.starts_with("no router bgp ") || reply.text.contains(LOCKED);
            if !is_transient || attempt >= MAX_ATTEMPTS {
                return Err(failed(is_transient)(reply.text.trim().to_owned()));
            }
            thread::sleep(RETRY_INTERVAL);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
