//! Starts and exits of the daemons' processes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::process::{WaitOptions, wait};

use super::linked_kill::LinkedKill;
use super::part::Part;
use super::policy::Event;
use super::process::Child;
use super::retention::Retention;
use super::services::PRUNE_DELAY;
use super::show::DaemonHistory;
use super::{Supervisor, linked_kill};
use crate::children;
use crate::frr::Daemon;
use crate::frr::daemons::BIN_DIR;
use crate::frr::memfd::Memfd;
use crate::frr::{DaemonKind, host, sockets};
use crate::status::Publisher;

/// A daemon with its process.
#[derive(Debug)]
pub(super) struct Process {
    pub daemon: &'static Daemon,
    /// The process, if it runs.
    pub child: Option<Child>,
    pub history: DaemonHistory,
    /// Kills zebra when this process, the bgpd of a VTEP, exits.
    linked_kill: Option<LinkedKill>,
}

impl Process {
    /// No process yet; what is published of an earlier one goes on.
    pub(super) fn new(daemon: &'static Daemon, publisher: &Publisher) -> Self {
        let history = DaemonHistory::load(daemon.kind.name(), publisher);
        Self { daemon, child: None, history, linked_kill: None }
    }

    fn has_pid(&self, pid: Pid) -> bool {
        self.child.as_ref().is_some_and(|child| child.pid == pid)
    }
}

/// The output of the daemons and of vtysh.
pub(super) struct OutputPart;

impl Part for OutputPart {
    fn add_fds<'a>(&self, supervisor: &'a Supervisor<'_>, fds: &mut Vec<PollFd<'a>>) {
        let children = supervisor.processes.iter().map(|process| &process.child);
        let children = children.chain([&supervisor.config.load.running]).flatten();
        let outputs = children.filter_map(|child| child.output.as_ref());
        fds.extend(outputs.map(|output| PollFd::new(output, PollFlags::IN)));
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        let mut sessions_changed = false;
        for child in supervisor.processes.iter_mut().filter_map(|process| process.child.as_mut()) {
            child.read();
            sessions_changed |= child.take_sessions_changed();
            if child.take_install_failed() {
                supervisor.kernel.fib.install_failed(now);
            }
        }
        if let Some(vtysh) = &mut supervisor.config.load.running {
            vtysh.read();
        }
        if sessions_changed {
            supervisor.start_session_queries(now);
            supervisor.show_notifications();
            supervisor.kernel.fib.sessions_changed(now);
        }
        Ok(())
    }
}

/// The processes, and the restart policy's times. SIGCHLD wakes the loop.
pub(super) struct ProcessPart;

impl Part for ProcessPart {
    fn deadline(&self, supervisor: &Supervisor<'_>) -> Option<Instant> {
        let policy = &supervisor.policy;
        policy.next_deadline().into_iter().chain(policy.next_unresponsive_at(Instant::now())).min()
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, _: Instant) -> io::Result<()> {
        supervisor.reap()
    }
}

impl Supervisor<'_> {
    /// The daemons, in the order of their start.
    pub(super) fn daemons(&self) -> Vec<&'static Daemon> {
        self.processes.iter().map(|process| process.daemon).collect()
    }

    pub(super) fn start_daemon(&mut self, i: usize) -> io::Result<Child> {
        let daemon = self.processes[i].daemon;
        if daemon.kind == DaemonKind::Zebra
            && let Some(conflict) = &self.node.view.zebra_conflict
        {
            return Err(io::Error::other(conflict.clone()));
        }
        let retention = self.services.retention.as_ref().filter(|_| daemon.kind == DaemonKind::Bgpd);
        let retained = retention.map(Retention::configuration).unwrap_or_default();
        let config = self
            .config
            .active
            .store
            .part(daemon.kind)
            .map(|text| Memfd::sealed(daemon.kind.name(), &(text.to_owned() + &retained)));
        let config = config.transpose()?;
        let pid = Memfd::empty("pid")?;
        host::clear_socket_path(daemon.kind);
        let mut command = Command::new(Path::new(BIN_DIR).join(daemon.kind.name()));
        let config_path = config.as_ref().map(Memfd::path);
        command.args(daemon.arguments(self.node.version, config_path.as_deref(), &pid.path()));
        let victim =
            daemon.required_dependents().find_map(|name| self.processes[self.running(name)?].child.as_ref());
        let victim = victim.map(|zebra| zebra.pid);
        let not_linked = |e: io::Error| {
            log::warn!(
                daemon = "zebra";
                "the linked kill of zebra cannot be set up: {e}; if bgpd exits, the VNIs lose packets until it runs again"
            );
        };
        let (link, ends) = victim.and_then(|_| linked_kill::create().map_err(not_linked).ok()).unzip();
        let (input, last) = ends.map_or((Stdio::null(), None), |ends| (ends.input, Some(ends.inherited)));
        let files = config.iter().chain([&pid]).map(AsFd::as_fd);
        let inherited: Vec<BorrowedFd<'_>> = files.chain(last.as_ref().map(AsFd::as_fd)).collect();
        // A child starts in the namespace of the thread that creates it.
        let child =
            self.node.router.ns().within(|| Child::spawn(daemon.kind.name(), command, input, &inherited))?;
        if let Some((link, victim)) = link.zip(victim) {
            self.processes[i].linked_kill = link.arm(victim).map_err(not_linked).ok().map(|()| link);
        }
        host::write_pid_file(daemon.kind, child.pid);
        Ok(child)
    }

    /// Reaps every exited child: those of the supervisor and, if it is PID 1, orphans.
    fn reap(&mut self) -> io::Result<()> {
        let mut exited = vec![];
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => exited.push((pid, ExitStatus::from_raw(status.as_raw()))),
                Ok(None) | Err(Errno::CHILD) => break,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        // A daemon whose exit kills others comes before them, whatever order the kernel reports.
        exited.sort_by_key(|(pid, _)| {
            let daemon = self.processes.iter().position(|process| process.has_pid(*pid));
            daemon.is_none_or(|i| self.processes[i].daemon.required_dependents().next().is_none())
        });
        for (pid, status) in exited {
            let has_pid = |child: &Option<Child>| child.as_ref().is_some_and(|c| c.pid == pid);
            if let Some(i) = self.processes.iter().position(|process| process.has_pid(pid)) {
                if let Some(child) = self.processes[i].child.take() {
                    self.daemon_exited(i, child, status);
                }
            } else if has_pid(&self.config.load.running) {
                if let Some(child) = self.config.load.running.take() {
                    self.load_exited(child, status);
                }
                self.start_next_load();
            } else if !children::pass_on(pid.as_raw_nonzero().get().unsigned_abs(), status) {
                log::debug!("reaped orphan {pid}: {status}");
            }
        }
        Ok(())
    }

    pub(super) fn daemon_exited(&mut self, i: usize, mut child: Child, status: ExitStatus) {
        if self.processes[i].daemon.kind == DaemonKind::Bgpd && self.ending.end.is_none() {
            self.retain_services();
        }
        // While stopping, nothing would remove them.
        if self.processes[i].daemon.owns_kernel_routes && self.ending.end.is_none() {
            // The service of a route that is missing now may still be announced.
            if let Some((at, _)) = &mut self.services.released {
                let retention_s =
                    self.config.active.config.metallb.as_ref().map_or(0, |metallb| metallb.retention_s);
                *at = Instant::now() + Duration::from_secs(retention_s.into()) + PRUNE_DELAY;
            }
            self.install_backup_routes(self.running(DaemonKind::Zebra).is_none());
        }
        child.read_rest();
        self.processes[i].history.exited(&child, status);
        self.reset_drift(i);
        self.queries.starting.retain(|q| q.daemon != i);
        self.queries.pings.retain(|(daemon, _)| *daemon != i);
        self.queries.partial_replies.retain(|(daemon, _)| *daemon != i);
        if let Some((queries, _)) = &mut self.queries.sessions {
            queries.retain(|q| q.daemon != i);
        }
        if self.processes[i].daemon.owns_bfd_sessions {
            self.bfd.exited(Instant::now());
        }
        let (name, pid) = (self.processes[i].daemon.kind, child.pid);
        log::log!(
            child.exit_log_level(),
            daemon = name, pid = pid.as_raw_nonzero().get();
            "{name} exited (pid {pid}, {status}){}",
            child.last_log_line_suffix()
        );
        host::remove_pid_file(name);
        sockets::remove_hard_links(name);
        host::remove_daemon_directory(name, pid);
        self.events.push_back(Event::Exited(i));
    }
}
