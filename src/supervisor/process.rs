//! One child process: its output, its words and its end.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use log::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use rustix::process::{Pid, Signal, kill_process};

use super::output::{self, Lines};
use super::work::{self, Work};
use crate::frr::handover::{self, Handover};
use crate::frr::redact_said;
use crate::status::NOTIFICATION;

/// Bytes that a daemon may have written and we have not read: each message takes some 768 of them.
const OUTPUT_BUFFER: usize = 2 << 20;

/// How the message begins that bgpd prints then (`bgp log-neighbor-changes`, `bgpd/bgp_fsm.c`).
const SESSION_CHANGED: &str = "%ADJCHANGE: neighbor ";

/// How the message ends that zebra prints when the kernel does not take a route (`rib_process_result`, `zebra/zebra_rib.c`).
const INSTALL_FAILED: &str = ": Route install failed";

/// Notifications that are kept until they are taken in: a peer may send any number of them.
const MOST_NOTIFICATIONS: usize = 256;

/// Of what vtysh prints, and goes on as if all were well, when a connection to mgmtd of FRR 10.3 has ended between two of its
/// commands: what was to be added there is not (`VTY_CHECK_XPATH`, `lib/vty.h`). None of ours does: `Supervisor::over`.
const UNDONE: &str = "Current configuration object was deleted by another process";

/// What vtysh prints, and goes on as if all were well, when a daemon refuses a line by its meaning, or mgmtd is locked
/// (`nb_cli_apply_changes`, `lib/northbound_cli.c`; `vty_mgmt_handle_commit_config_reply`, `mgmtd/mgmt_vty_frontend.c`).
const CONFIGURATION_FAILED: &str = "% Configuration failed.";

/// Of what vtysh prints ten times a second while someone else has mgmtd's configuration locked (`vtysh_read_config`,
/// `vtysh/vtysh_config.c`): a transaction that does not end, too.
const LOCKED_OUT: &str = "running datastore locked by another session";

/// Of one write no more is read, in bytes: several messages of FRR's log at a daemon's start, and any line that is shown.
const LONGEST_WRITE: usize = 16 << 10;

/// So many writes are taken in before we turn to something else.
const AT_ONCE: usize = 64;

/// More writes than the socket of one that is gone has room for: the kernel doubles what is asked for (`sock_setsockopt`,
/// `net/core/sock.c`), and the shortest write takes some 700 bytes.
const MOST_WRITES: usize = 2 * OUTPUT_BUFFER / 512;

/// Who uses no more processor time from one round to the next waits for someone.
const RESTING: Duration = Duration::from_millis(30);

/// A child that was started and not yet reaped.
#[derive(Debug)]
pub struct Child {
    pub name: &'static str,
    pub pid: Pid,
    /// Where each of its writes comes as one, however much of it is read at a time. `None` once the program has closed it.
    pub output: Option<OwnedFd>,
    lines: Lines,
    /// The last thing it said, for the line about its end.
    last: String,
    /// We ended it ourselves.
    killed: bool,
    started: Instant,
    /// How much it had worked when it was asked last.
    mark: Option<(Work, Instant)>,
    /// The processor time that it had used when it was looked at last.
    used_before: Option<Duration>,
    heard: Heard,
}

/// What it has said of others than itself, and no one has taken in yet.
#[derive(Debug, Default)]
struct Heard {
    sessions_changed: bool,
    install_failed: bool,
    notifications: Vec<String>,
    undone: bool,
    refused: bool,
    locked_out: bool,
}

impl Child {
    /// Starts a program with its output in a socket of ours, something to hold as its standard input and files that it inherits, in a
    /// process group of its own so that no terminal signal reaches it.
    pub fn with_input(
        name: &'static str,
        mut command: Command,
        input: Stdio,
        inherited: &[&Handover],
    ) -> io::Result<Self> {
        // Unlike a pipe it keeps apart what was written apart.
        let (read, write) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        // A daemon waits when it is full. Without the capability it keeps the kernel's own size.
        let _ = sockopt::set_socket_send_buffer_size_force(&write, OUTPUT_BUFFER);
        // What systemd is told is ours to say.
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        command.stdin(input).stdout(write.try_clone()?).stderr(write).process_group(0);
        let child = handover::spawn(&mut command, inherited)?;
        let started = Instant::now();
        Ok(Self {
            started,
            mark: Some((Work::default(), started)),
            name,
            pid: Pid::from_child(&child),
            output: Some(read),
            lines: Lines::default(),
            last: String::new(),
            killed: false,
            used_before: None,
            heard: Heard::default(),
        })
    }

    /// Reads what there is, and no more than some turns of it, so that a chatterbox can't keep us.
    pub fn read(&mut self) {
        self.take_writes(AT_ONCE);
    }

    fn take_writes(&mut self, most: usize) {
        let mut buffer = [0; LONGEST_WRITE];
        for _ in 0..most {
            let Some(output) = &self.output else { return };
            match rustix::io::read(output, &mut buffer) {
                // Nothing was written, or no one is left who could.
                Ok(0) if !has_hung_up(output) => {}
                Ok(0) => self.output = None,
                Ok(n) => {
                    let (name, last) = (self.name, &mut self.last);
                    let heard = &mut self.heard;
                    self.lines.push(&buffer[..n], |line| say(name, line, last, heard));
                }
                Err(_) => return,
            }
        }
    }

    /// Whether it has named a session that came up or went down since this was asked last.
    pub fn take_sessions_changed(&mut self) -> bool {
        std::mem::take(&mut self.heard.sessions_changed)
    }

    /// Whether it has said that the kernel does not take a route since this was asked last.
    pub fn take_install_failed(&mut self) -> bool {
        std::mem::take(&mut self.heard.install_failed)
    }

    /// The notifications that it has named since this was asked last.
    pub fn take_notifications(&mut self) -> Vec<String> {
        std::mem::take(&mut self.heard.notifications)
    }

    /// Whether it has said that something of what it does was refused.
    pub fn is_refused(&self) -> bool {
        self.heard.refused
    }

    /// Whether it has said that what it does was undone meanwhile.
    pub fn is_undone(&self) -> bool {
        self.heard.undone
    }

    /// For how long it has run.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Remembers how much it has worked, for [`Self::has_worked`].
    pub fn mark(&mut self) {
        self.mark = Work::of(self.pid).map(|work| (work, Instant::now()));
    }

    /// Whether its main thread has been at work since the mark, which another one replaces.
    pub fn has_worked(&mut self) -> bool {
        let before = self.mark.take();
        self.mark();
        // Of one that can't be looked at, the end is about to be seen.
        before.zip(self.mark).is_none_or(|((before, at), (now, _))| now.since(before, at.elapsed()))
    }

    /// Whether it has only waited for others since this was asked last.
    pub fn rests(&mut self) -> bool {
        let now = self.used();
        let used = now
            .zip(std::mem::replace(&mut self.used_before, now))
            .map(|(now, before)| now.saturating_sub(before));
        std::mem::take(&mut self.heard.locked_out) || used.is_some_and(|used| used <= RESTING)
    }

    /// The processor time that all its threads have used.
    fn used(&self) -> Option<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_nonzero())).ok()?;
        Some(work::stat(&text)?.0)
    }

    /// The last thing it said.
    pub fn last_words(&self) -> &str {
        &self.last
    }

    /// Whether we ended it.
    pub fn was_killed(&self) -> bool {
        self.killed
    }

    /// Ends it at once. It can only be gone already, and then its death is about to be seen.
    pub fn kill(&mut self) {
        self.killed = true;
        let _ = kill_process(self.pid, Signal::KILL);
    }

    /// Has it write down where it is and end. It can only be gone already.
    pub fn abort(&self) {
        let _ = kill_process(self.pid, Signal::ABORT);
    }

    /// Takes in what it said last.
    pub fn finish(&mut self) {
        self.take_writes(MOST_WRITES);
        let (name, last, heard) = (self.name, &mut self.last, &mut self.heard);
        self.lines.flush(|line| say(name, line, last, heard));
    }

    /// How the line about its end goes on.
    pub fn epitaph(&self) -> String {
        if self.last.is_empty() { String::new() } else { format!("; its last words: {}", self.last) }
    }

    /// How much its end is worth to be known.
    pub fn level(&self) -> Level {
        if self.killed { Level::Info } else { Level::Warn }
    }
}

impl Heard {
    /// Takes in a message of FRR's log.
    fn message(&mut self, message: &str) {
        let notification = message.starts_with(NOTIFICATION);
        self.sessions_changed |= notification || message.starts_with(SESSION_CHANGED);
        self.install_failed |= message.ends_with(INSTALL_FAILED);
        if notification && self.notifications.len() < MOST_NOTIFICATIONS {
            self.notifications.push(message.to_owned());
        }
    }

    /// Takes in a line of another sort.
    fn line(&mut self, line: &str) {
        self.undone |= line.contains(UNDONE);
        self.refused |= line.contains(CONFIGURATION_FAILED);
        self.locked_out |= line.contains(LOCKED_OUT);
    }
}

fn has_hung_up(output: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(output, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_err() || fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

fn say(name: &str, line: &str, last: &mut String, heard: &mut Heard) {
    let said = output::parse(line);
    let shown = redact_said(said.text);
    log::log!(target: name, said.level, "{shown}");
    match said.message {
        Some(message) => heard.message(message),
        None => heard.line(said.text),
    }
    *last = shown.into_owned();
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::process::{WaitOptions, waitpid};

    use super::*;

    fn run(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Child::with_input("sh", command, Stdio::null(), &[]).unwrap()
    }

    #[test]
    fn a_load_that_is_not_taken_whole_is_none() {
        let heard = |line: &str| {
            let mut heard = Heard::default();
            say("vtysh", line, &mut String::new(), &mut heard);
            (heard.refused, heard.undone)
        };
        assert_eq!(heard("line 12: % Configuration failed."), (true, false));
        assert_eq!(heard(UNDONE), (false, true));
        assert_eq!(heard("Configuration was read"), (false, false));
    }

    #[test]
    fn who_waits_is_told_from_who_works() {
        let mut children = [
            run("exec sleep 600"),
            run("while :; do :; done"),
            run(&format!("echo '{LOCKED_OUT}'; while :; do :; done")),
        ];
        // The first look has nothing to compare with.
        children.iter_mut().for_each(|child| assert!(!child.rests()));
        while children[1..].iter().any(|c| c.used() <= c.used_before.map(|used| used + RESTING)) {
            thread::sleep(Duration::from_millis(10));
        }
        children[2].read();
        assert_eq!(children.each_mut().map(Child::rests), [true, false, true]);
        for mut child in children {
            child.kill();
            waitpid(Some(child.pid), WaitOptions::empty()).unwrap();
        }
    }
}
