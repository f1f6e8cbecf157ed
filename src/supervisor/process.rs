//! One child process: its output, its log lines and its exit.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use log::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use rustix::process::{Pid, Signal, kill_process};

use super::activity::{self, ThreadActivity};
use super::output::{self, LineBuffer};
use crate::frr::memfd;
use crate::frr::redact_output;
use crate::status::NOTIFICATION_PREFIX;

/// Send buffer of a daemon's output socket in bytes. Each unread message takes some 768 of them.
const OUTPUT_BUFFER: usize = 2 << 20;

/// Prefix of the message that bgpd logs when a session comes up or goes down (`bgp log-neighbor-changes`,
/// `bgpd/bgp_fsm.c`).
const SESSION_CHANGED: &str = "%ADJCHANGE: neighbor ";

/// End of the message that zebra logs when the kernel refuses a route (`rib_process_result`, `zebra/zebra_rib.c`).
const INSTALL_FAILED: &str = ": Route install failed";

/// Limit of stored notifications: a peer may send any number of them.
const MAX_NOTIFICATIONS: usize = 256;

/// Part of the message that vtysh prints when a connection to mgmtd of FRR 10.3 has ended between two of its commands.
/// vtysh ignores the error, and the object that it was about to add is missing (`VTY_CHECK_XPATH`, `lib/vty.h`). The
/// supervisor closes no connection meanwhile, see `Supervisor::finished_queries`.
const OBJECT_DELETED: &str = "Current configuration object was deleted by another process";

/// Message that vtysh prints when a daemon refuses a line because of its meaning, or mgmtd is locked. vtysh ignores the
/// error (`nb_cli_apply_changes`, `lib/northbound_cli.c`; `vty_mgmt_handle_commit_config_reply`,
/// `mgmtd/mgmt_vty_frontend.c`).
const CONFIGURATION_FAILED: &str = "% Configuration failed.";

/// Part of the message that vtysh prints ten times a second while another session has mgmtd's configuration locked
/// (`vtysh_read_config`, `vtysh/vtysh_config.c`). A transaction that never ends causes it, too.
const DATASTORE_LOCKED: &str = "running datastore locked by another session";

/// Bytes that are read of one write; the rest is lost. They hold the messages of FRR's log at a daemon's start, and
/// every line that is shown.
const MAX_WRITE: usize = 16 << 10;

/// Limit of writes that are read before the loop continues.
const WRITES_PER_READ: usize = 64;

/// Limit of writes that are read after the exit, more than the socket can hold: the kernel doubles the requested buffer
/// size (`sock_setsockopt`, `net/core/sock.c`), and the shortest write takes some 700 bytes.
const MAX_REMAINING_WRITES: usize = 2 * OUTPUT_BUFFER / 512;

/// A process that uses at most this much processor time between two checks is idle: it waits for another process.
const IDLE_CPU_TIME: Duration = Duration::from_millis(30);

/// A child process that was started and is not reaped yet.
#[derive(Debug)]
pub struct Child {
    pub name: &'static str,
    pub pid: Pid,
    /// A socket that keeps the boundaries between writes. `None` once the process has closed it.
    pub output: Option<OwnedFd>,
    line_buffer: LineBuffer,
    /// The last log line, for the message about the exit.
    last_line: String,
    /// Whether the supervisor has killed it.
    killed: bool,
    started: Instant,
    /// The last sample of the main thread, and its time.
    thread_sample: Option<(ThreadActivity, Instant)>,
    /// Processor time of all threads at the last check.
    last_cpu_time: Option<Duration>,
    findings: OutputFindings,
}

/// Facts found in the output that the supervisor has not processed yet.
#[derive(Debug, Default)]
struct OutputFindings {
    sessions_changed: bool,
    install_failed: bool,
    notifications: Vec<String>,
    has_lost_changes: bool,
    is_refused: bool,
    is_locked_out: bool,
}

impl Child {
    /// Starts a program in its own process group, so that no terminal signal reaches it. Its output goes to a socket;
    /// `input` is its standard input, and it inherits the files in `inherited`.
    pub fn spawn(
        name: &'static str,
        mut command: Command,
        input: Stdio,
        inherited: &[BorrowedFd<'_>],
    ) -> io::Result<Self> {
        // Unlike a pipe, the socket keeps the boundaries between writes.
        let (read, write) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        // A daemon blocks while the socket is full. Without the capability, the socket keeps the kernel's default size.
        let _ = sockopt::set_socket_send_buffer_size_force(&write, OUTPUT_BUFFER);
        // Only the supervisor sends notifications to systemd.
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        command.stdin(input).stdout(write.try_clone()?).stderr(write).process_group(0);
        let child = memfd::spawn(&mut command, inherited)?;
        let started = Instant::now();
        Ok(Self {
            started,
            thread_sample: Some((ThreadActivity::default(), started)),
            name,
            pid: Pid::from_child(&child),
            output: Some(read),
            line_buffer: LineBuffer::default(),
            last_line: String::new(),
            killed: false,
            last_cpu_time: None,
            findings: OutputFindings::default(),
        })
    }

    /// Reads the available output, at most [`WRITES_PER_READ`] writes, so that a child that writes without end does not
    /// block the loop.
    pub fn read(&mut self) {
        self.read_writes(WRITES_PER_READ);
    }

    fn read_writes(&mut self, limit: usize) {
        let mut buffer = [0; MAX_WRITE];
        for _ in 0..limit {
            let Some(output) = &self.output else { return };
            match rustix::io::read(output, &mut buffer) {
                // An empty write, or the end of the output.
                Ok(0) if !has_hung_up(output) => {}
                Ok(0) => self.output = None,
                Ok(n) => {
                    let (name, last_line) = (self.name, &mut self.last_line);
                    let findings = &mut self.findings;
                    self.line_buffer.push(&buffer[..n], |line| log_line(name, line, last_line, findings));
                }
                Err(_) => return,
            }
        }
    }

    /// Whether the log has reported a session that came up or went down since the last call.
    pub fn take_sessions_changed(&mut self) -> bool {
        std::mem::take(&mut self.findings.sessions_changed)
    }

    /// Whether the log has reported a route that the kernel refused since the last call.
    pub fn take_install_failed(&mut self) -> bool {
        std::mem::take(&mut self.findings.install_failed)
    }

    /// The BGP notifications in the log since the last call.
    pub fn take_notifications(&mut self) -> Vec<String> {
        std::mem::take(&mut self.findings.notifications)
    }

    /// Whether a daemon has refused a part of what vtysh loads, see [`CONFIGURATION_FAILED`].
    pub fn is_refused(&self) -> bool {
        self.findings.is_refused
    }

    /// Whether vtysh has lost changes, see [`OBJECT_DELETED`].
    pub fn has_lost_changes(&self) -> bool {
        self.findings.has_lost_changes
    }

    /// Time since the start.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes a sample of the main thread for [`Self::is_main_thread_busy`].
    pub fn sample_main_thread(&mut self) {
        self.thread_sample = ThreadActivity::sample(self.pid).map(|activity| (activity, Instant::now()));
    }

    /// Whether the main thread was busy since the last sample. Takes a new sample.
    pub fn is_main_thread_busy(&mut self) -> bool {
        let before = self.thread_sample.take();
        self.sample_main_thread();
        // A process that cannot be sampled has exited and is about to be reaped.
        before
            .zip(self.thread_sample)
            .is_none_or(|((before, at), (now, _))| now.is_busy_since(before, at.elapsed()))
    }

    /// Whether it has only waited for other processes since the last call.
    pub fn is_idle(&mut self) -> bool {
        let now = self.cpu_time();
        let cpu_time = now
            .zip(std::mem::replace(&mut self.last_cpu_time, now))
            .map(|(now, before)| now.saturating_sub(before));
        std::mem::take(&mut self.findings.is_locked_out)
            || cpu_time.is_some_and(|cpu_time| cpu_time <= IDLE_CPU_TIME)
    }

    /// The processor time that all threads have used.
    fn cpu_time(&self) -> Option<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_nonzero())).ok()?;
        Some(activity::parse_stat(&text)?.0)
    }

    /// The last log line.
    pub fn last_log_line(&self) -> &str {
        &self.last_line
    }

    /// Whether the supervisor has killed it.
    pub fn was_killed(&self) -> bool {
        self.killed
    }

    /// Sends SIGKILL. This fails only if the process has exited; it is then about to be reaped.
    pub fn kill(&mut self) {
        self.killed = true;
        let _ = kill_process(self.pid, Signal::KILL);
    }

    /// Sends SIGABRT, so that it writes a backtrace and exits. This fails only if the process has exited.
    pub fn abort(&self) {
        let _ = kill_process(self.pid, Signal::ABORT);
    }

    /// Reads the rest of the output after the exit.
    pub fn read_rest(&mut self) {
        self.read_writes(MAX_REMAINING_WRITES);
        let (name, last_line, findings) = (self.name, &mut self.last_line, &mut self.findings);
        self.line_buffer.flush(|line| log_line(name, line, last_line, findings));
    }

    /// The end of the message about the exit: the last log line, if there is one.
    pub fn last_log_line_suffix(&self) -> String {
        if self.last_line.is_empty() { String::new() } else { format!("; last log line: {}", self.last_line) }
    }

    /// Log level of the message about the exit.
    pub fn exit_log_level(&self) -> Level {
        if self.killed { Level::Info } else { Level::Warn }
    }
}

impl OutputFindings {
    /// Examines a message of FRR's log.
    fn add_message(&mut self, message: &str) {
        let notification = message.starts_with(NOTIFICATION_PREFIX);
        self.sessions_changed |= notification || message.starts_with(SESSION_CHANGED);
        self.install_failed |= message.ends_with(INSTALL_FAILED);
        if notification && self.notifications.len() < MAX_NOTIFICATIONS {
            self.notifications.push(message.to_owned());
        }
    }

    /// Examines a line that is no message of FRR's log.
    fn add_line(&mut self, line: &str) {
        self.has_lost_changes |= line.contains(OBJECT_DELETED);
        self.is_refused |= line.contains(CONFIGURATION_FAILED);
        self.is_locked_out |= line.contains(DATASTORE_LOCKED);
    }
}

fn has_hung_up(output: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(output, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_err() || fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

fn log_line(name: &str, line: &str, last_line: &mut String, findings: &mut OutputFindings) {
    let parsed = output::parse(line);
    let redacted = redact_output(parsed.text);
    log::log!(target: name, parsed.level, "{redacted}");
    match parsed.message {
        Some(message) => findings.add_message(message),
        None => findings.add_line(parsed.text),
    }
    // The last one explains an exit; what FRR prints at every start does not.
    if parsed.level != log::Level::Debug {
        *last_line = redacted.into_owned();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::process::{WaitOptions, waitpid};

    use super::*;

    fn run(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Child::spawn("sh", command, Stdio::null(), &[]).unwrap()
    }

    #[test]
    fn an_incomplete_load_is_detected() {
        let findings = |line: &str| {
            let mut findings = OutputFindings::default();
            log_line("vtysh", line, &mut String::new(), &mut findings);
            (findings.is_refused, findings.has_lost_changes)
        };
        assert_eq!(findings("line 12: % Configuration failed."), (true, false));
        assert_eq!(findings(OBJECT_DELETED), (false, true));
        assert_eq!(findings("Configuration was read"), (false, false));
    }

    #[test]
    fn an_idle_process_differs_from_a_busy_one() {
        let mut children = [
            run("exec sleep 600"),
            run("while :; do :; done"),
            run(&format!("echo '{DATASTORE_LOCKED}'; while :; do :; done")),
        ];
        // The first check has nothing to compare with.
        children.iter_mut().for_each(|child| assert!(!child.is_idle()));
        while children[1..]
            .iter()
            .any(|c| c.cpu_time() <= c.last_cpu_time.map(|cpu_time| cpu_time + IDLE_CPU_TIME))
        {
            thread::sleep(Duration::from_millis(10));
        }
        children[2].read();
        assert_eq!(children.each_mut().map(Child::is_idle), [true, false, true]);
        for mut child in children {
            child.kill();
            waitpid(Some(child.pid), WaitOptions::empty()).unwrap();
        }
    }
}
