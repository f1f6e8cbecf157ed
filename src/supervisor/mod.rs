//! The daemons as our children: one thread, one `poll` over signals, output and answers.

mod output;
mod policy;
mod signals;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use log::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use crate::frr::daemons::{BIN_DIR, RUN_DIR};
use crate::frr::vty::Ping;
use crate::frr::{Daemon, Version};
use crate::kernel::Kernel;

use output::Lines;
use policy::{Action, Event, Policy};
pub use signals::Signals;

/// How often a starting daemon is asked whether it answers: it takes some 50 ms, and only then is asked at all.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// The daemons and everything that the loop looks at.
#[derive(Debug)]
pub struct Supervisor<'a> {
    daemons: Vec<&'static Daemon>,
    with_file: Vec<&'static Daemon>,
    version: Version,
    kernel: &'a mut Kernel,
    window: Duration,
    /// When the reserve routes go.
    reserve_until: Option<Instant>,
    signals: Signals,
    policy: Policy,
    children: Vec<Option<Child>>,
    /// Daemons whose first answer we wait for.
    pings: Vec<Waiting>,
    /// vtysh runs that load the configuration: the one under way, and those after it.
    load: Option<Child>,
    load_queue: VecDeque<Option<&'static str>>,
    load_well: bool,
    stopping: bool,
    finished: bool,
}

#[derive(Debug)]
struct Child {
    name: &'static str,
    pid: Pid,
    /// `None` once the program has closed it.
    output: Option<File>,
    lines: Lines,
    /// The last thing it said, for the line about its end.
    last: String,
    /// We ended it ourselves.
    killed: bool,
}

#[derive(Debug)]
struct Waiting {
    daemon: usize,
    ping: Option<Ping>,
    ask_at: Instant,
}

impl<'a> Supervisor<'a> {
    /// Takes the daemons, to be run in FRR's namespace; those `with_file` read their configuration from a file,
    /// the others get it from vtysh. Routes are kept in reserve for `window` after a death.
    pub fn new(
        version: Version,
        daemons: &[&'static Daemon],
        with_file: &[&'static Daemon],
        kernel: &'a mut Kernel,
        window: Duration,
        signals: Signals,
    ) -> Self {
        let now = Instant::now();
        Self {
            policy: Policy::new(daemons, with_file, now),
            with_file: with_file.to_vec(),
            children: daemons.iter().map(|_| None).collect(),
            daemons: daemons.to_vec(),
            version,
            kernel,
            window,
            reserve_until: None,
            signals,
            pings: vec![],
            load: None,
            load_queue: VecDeque::new(),
            load_well: true,
            stopping: false,
            finished: false,
        }
    }

    /// Runs the daemons until a signal asks for the end and all of them are gone.
    ///
    /// # Errors
    /// The loop itself can't go on.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = VecDeque::from([Event::Tick]);
        // What an earlier instance left needs cover while the new daemons settle; copies that it left itself may
        // be all that there is of some routes.
        self.cover(true);
        self.reserve_until = Some(Instant::now() + self.window);
        loop {
            while let Some(event) = events.pop_front() {
                let now = Instant::now();
                for action in self.policy.step(event, now) {
                    self.act(action, &mut events);
                }
            }
            if self.finished {
                return Ok(());
            }
            self.wait(&mut events)?;
        }
    }

    fn act(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::Start(i) => match self.start(i) {
                Ok(child) => {
                    log::info!("{} started, pid {}", child.name, child.pid);
                    self.children[i] = Some(child);
                    self.pings.push(Waiting { daemon: i, ping: None, ask_at: Instant::now() });
                }
                Err(e) => {
                    log::error!("{}: cannot be started: {e}", self.daemons[i].name);
                    events.push_back(Event::Exited(i));
                }
            },
            Action::Kill(i) => {
                if let Some(child) = &mut self.children[i] {
                    log::info!("{}: killing pid {}", child.name, child.pid);
                    child.kill();
                }
            }
            Action::Load(which) => {
                self.load_well = true;
                self.load_queue = if which.len() == self.daemons.len() {
                    [None].into()
                } else {
                    which.iter().map(|&i| Some(self.daemons[i].name)).collect()
                };
                self.next_load(events);
            }
            Action::AbortLoad => {
                log::error!("vtysh: loading the configuration hangs, ending it");
                self.end_load();
            }
            Action::Complete => log::info!("all daemons answer and have their configuration"),
            Action::Incomplete => log::error!(
                "all daemons answer, but not all of the configuration could be loaded: see vtysh's words above"
            ),
            Action::Finished => self.finished = true,
        }
    }

    fn start(&self, i: usize) -> io::Result<Child> {
        let daemon = self.daemons[i];
        let mut command = Command::new(Path::new(BIN_DIR).join(daemon.name));
        command.args(daemon.arguments(self.version, self.with_file.contains(&daemon)));
        // A child begins in the namespace of the thread that starts it.
        self.kernel.router_ns().within(|| spawn(daemon.name, command))
    }

    fn end_load(&mut self) {
        self.load_queue.clear();
        self.load_well = false;
        if let Some(child) = &mut self.load {
            child.kill();
        }
    }

    /// Keeps the BGP routes in reserve, before anyone has a chance to remove them.
    fn cover(&mut self, new_zebra: bool) {
        let begin = Instant::now();
        match self.kernel.shadow(new_zebra) {
            Ok(0) => {}
            Ok(n) => {
                let (us, s) = (begin.elapsed().as_micros(), self.window.as_secs());
                log::info!("{n} routes are in reserve for {s} s ({us} µs)");
                self.reserve_until = Some(Instant::now() + self.window);
            }
            Err(e) => log::error!("routes can't be kept in reserve: {e}; some packets may be lost"),
        }
    }

    fn uncover(&mut self) {
        self.reserve_until = None;
        match self.kernel.unshadow() {
            Ok(0) => {}
            Ok(n) => log::info!("{n} reserve routes removed"),
            Err(e) => log::error!("reserve routes can't be removed: {e}"),
        }
    }

    /// Starts the next vtysh, or reports that the last one is done.
    fn next_load(&mut self, events: &mut VecDeque<Event>) {
        while let Some(daemon) = self.load_queue.pop_front() {
            let mut command = Command::new("/usr/bin/vtysh");
            command.args(["--vty_socket", RUN_DIR, "--config_dir", RUN_DIR, "-b"]);
            if let Some(name) = daemon {
                command.args(["-d", name]);
            }
            match spawn("vtysh", command) {
                Ok(child) => {
                    self.load = Some(child);
                    return;
                }
                Err(e) => {
                    log::error!("vtysh: cannot be started: {e}");
                    self.load_well = false;
                }
            }
        }
        events.push_back(Event::Loaded(self.load_well));
    }

    /// Waits until something happens and turns it into events.
    fn wait(&mut self, events: &mut VecDeque<Event>) -> io::Result<()> {
        let now = Instant::now();
        if self.reserve_until.is_some_and(|until| until <= now) {
            self.uncover();
        }
        let asks = self.pings.iter().filter(|w| w.ping.is_none()).map(|w| w.ask_at);
        let deadlines = asks.chain(self.policy.next_deadline()).chain(self.reserve_until);
        let timeout = deadlines.min().map(|at| at.saturating_duration_since(now));
        {
            let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
            let children = self.children.iter().chain([&self.load]).flatten();
            let outputs = children.filter_map(|child| child.output.as_ref());
            fds.extend(outputs.map(|output| PollFd::new(output, PollFlags::IN)));
            let pings = self.pings.iter().filter_map(|w| w.ping.as_ref());
            fds.extend(pings.map(|ping| PollFd::from_borrowed_fd(ping.as_fd(), PollFlags::IN)));
            match poll(&mut fds, timeout.and_then(|t| Timespec::try_from(t).ok()).as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        for child in self.children.iter_mut().chain([&mut self.load]).flatten() {
            child.read();
        }
        if self.signals.stop_requested() {
            log::info!("stopping: the peers keep our routes and the kernel its own");
            self.end_load();
            self.stopping = true;
            events.push_back(Event::Stop);
        }
        self.reap(events)?;
        self.ask(events);
        events.push_back(Event::Tick);
        Ok(())
    }

    /// Collects every dead child, ours and, as PID 1, those that others left to us.
    fn reap(&mut self, events: &mut VecDeque<Event>) -> io::Result<()> {
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => (pid, ExitStatus::from_raw(status.as_raw())),
                Ok(None) | Err(Errno::CHILD) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            let is = |child: &Option<Child>| child.as_ref().is_some_and(|c| c.pid == pid);
            if let Some(i) = self.children.iter().position(is) {
                if let Some(mut child) = self.children[i].take() {
                    // At a stop no one is left who could take them away.
                    if self.daemons[i].holds_routes && !self.stopping {
                        let zebra = self.daemons.iter().position(|d| d.name == "zebra");
                        self.cover(zebra.is_none_or(|zebra| self.children[zebra].is_none()));
                    }
                    child.finish();
                    self.pings.retain(|w| w.daemon != i);
                    let level = if child.killed { Level::Info } else { Level::Warn };
                    log::log!(level, "{} (pid {pid}) is gone: {status}{}", child.name, child.epitaph());
                    events.push_back(Event::Exited(i));
                }
            } else if is(&self.load) {
                if let Some(mut child) = self.load.take() {
                    child.finish();
                    if !status.success() {
                        log::error!("vtysh: loading the configuration failed: {status}{}", child.epitaph());
                        self.load_well = false;
                    }
                }
                self.next_load(events);
            } else {
                log::debug!("reaped orphan {pid}: {status}");
            }
        }
    }

    /// Asks starting daemons whether they answer, and takes in the answers.
    fn ask(&mut self, events: &mut VecDeque<Event>) {
        let now = Instant::now();
        let daemons = &self.daemons;
        self.pings.retain_mut(|waiting| {
            if waiting.ping.is_none() && waiting.ask_at <= now {
                let path = Path::new(RUN_DIR).join(daemons[waiting.daemon].name).with_extension("vty");
                waiting.ping = Ping::send(&path).ok();
                waiting.ask_at = now + ASK_EVERY;
            }
            match waiting.ping.as_mut().map(Ping::receive) {
                Some(Ok(true)) => {
                    events.push_back(Event::Answered(waiting.daemon));
                    return false;
                }
                // A socket that a dead predecessor left, or a daemon not quite there: ask anew.
                Some(Err(_)) => waiting.ping = None,
                Some(Ok(false)) | None => {}
            }
            true
        });
    }
}

/// Starts a program with its output in our pipe, in a process group of its own so that no terminal signal reaches it.
fn spawn(name: &'static str, mut command: Command) -> io::Result<Child> {
    let (read, write): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    command.stdin(Stdio::null()).stdout(write.try_clone()?).stderr(write).process_group(0);
    let child = command.spawn()?;
    Ok(Child {
        name,
        pid: Pid::from_child(&child),
        output: Some(read.into()),
        lines: Lines::default(),
        last: String::new(),
        killed: false,
    })
}

impl Child {
    /// Reads what there is, and no more than a pipe holds, so that a chatterbox can't keep us.
    fn read(&mut self) {
        let mut buffer = [0; 16384];
        for _ in 0..4 {
            let Some(output) = &mut self.output else { return };
            match output.read(&mut buffer) {
                Ok(0) => self.output = None,
                Ok(n) => {
                    let (name, last) = (self.name, &mut self.last);
                    self.lines.push(&buffer[..n], |line| say(name, line, last));
                }
                Err(_) => return,
            }
        }
    }

    /// Ends it at once. It can only be gone already, and then its death is about to be seen.
    fn kill(&mut self) {
        self.killed = true;
        let _ = kill_process(self.pid, Signal::KILL);
    }

    fn finish(&mut self) {
        self.read();
        let (name, last) = (self.name, &mut self.last);
        self.lines.flush(|line| say(name, line, last));
    }

    fn epitaph(&self) -> String {
        if self.last.is_empty() { String::new() } else { format!("; its last words: {}", self.last) }
    }
}

fn say(name: &str, line: &str, last: &mut String) {
    let (level, message) = output::parse(line);
    log::log!(target: name, level, "{message}");
    message.clone_into(last);
}
