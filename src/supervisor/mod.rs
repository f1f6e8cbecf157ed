//! Supervisor of the daemons and of the node: one thread with one `poll` over signals, output, replies and kernel
//! events.

mod activity;
mod back_off;
mod backup;
mod bfd_peers;
mod build;
mod carrier;
mod change;
mod config_load;
mod connects;
mod daemons;
mod drift;
mod fib;
mod graceful_shutdown;
mod kernel_check;
mod linked_kill;
mod output;
mod policy;
mod process;
mod queries;
mod reload;
mod repairs;
mod retention;
mod rollback;
mod services;
mod show;
mod stop;
mod watch;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::config::Config;
use crate::frr::vty::socket;
use crate::frr::{Daemon, DaemonKind, bfd, sockets, state};
use crate::kernel::{Connects, KernelEvents};
use crate::node::Node;
use crate::signals::Signals;
use crate::status::{NodePhase, Probe, Publisher};

use bfd_peers::BfdState;
use build::Build;
use config_load::ConfigLoad;
use connects::MAX_BLOCK_EXTENSION;
use daemons::Process;
use drift::ConfigDrift;
use graceful_shutdown::GracefulShutdown;
use kernel_check::KernelState;
use linked_kill::LinkedKill;
use policy::{Action, Event, Policy, PolicySettings};
use process::Child;
use queries::DaemonQuery;
use queries::QueryState;
use reload::{ConfigFile, RunningChange};
pub use rollback::RollbackHistory;
use services::Services;
pub use show::describe;
use stop::Ending;
pub use stop::withdraws;
use watch::FileWatch;

/// Limit of the time until the first reply of a new bgpd: the policy kills it earlier.
const START_BLOCK_TIME: Duration = Duration::from_secs(60);

/// Interval of the checks for silent workloads: well below the 300 s after which a bridge forgets a MAC address.
const NEIGHBOUR_REFRESH_INTERVAL: Duration = Duration::from_secs(30);

/// Largest number of names in a log line.
const MAX_LOGGED_NAMES: usize = 20;

/// Duration of an iteration of the loop after which replies may have arrived that the loop has not read yet.
const LONG_ITERATION: Duration = Duration::from_secs(1);

/// Why the loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A signal has requested the stop.
    Stopped,
    /// This configuration needs other daemons, or another start order.
    Reconfigured(Box<Config>),
    /// FRR's namespace is lost, and why.
    NamespaceGone(&'static str),
}

/// The daemons, and everything that the loop polls.
#[derive(Debug)]
pub struct Supervisor<'a> {
    /// The configuration from the environment alone.
    base: &'a Config,
    node: &'a mut Node,
    signals: &'a mut Signals,
    publisher: Arc<Publisher>,
    history: &'a mut RollbackHistory,
    probe: Option<Probe>,
    /// In the order of their start; the restart policy counts them by it.
    processes: Vec<Process>,
    /// The text of frr.conf.
    text: String,
    /// The parts of frr.conf that daemons read from a file.
    parts: Vec<(DaemonKind, String)>,
    policy: Policy,
    /// Start of the current iteration of the loop.
    iteration_started: Instant,
    carriers: carrier::FabricPorts,
    /// Kills zebra when the bgpd of a VTEP exits.
    linked_kill: Option<LinkedKill>,
    backup: backup::BackupRouteJobs,
    /// The directions in which BGP connects are blocked, and until when.
    blocked_connects: Vec<(Connects, Instant)>,
    queries: QueryState,
    bfd: BfdState,
    services: Services,
    load: ConfigLoad,
    file: ConfigFile,
    change: RunningChange,
    drift: ConfigDrift,
    kernel: KernelState,
    ending: Ending,
}

impl<'a> Supervisor<'a> {
    /// Takes a node that is set up.
    ///
    /// # Errors
    /// The active configuration cannot be read.
    pub fn new(
        base: &'a Config,
        node: &'a mut Node,
        signals: &'a mut Signals,
        publisher: &Arc<Publisher>,
        history: &'a mut RollbackHistory,
    ) -> io::Result<Self> {
        let now = Instant::now();
        history.node_set_up(node, publisher);
        let daemons = node.daemons(&node.config);
        let (text, parts) = node.config_store.parts(node.version);
        let reads_file = |d: &&Daemon| d.is_configured_by_file() && part(&parts, d.kind).is_some();
        let with_file: Vec<_> = daemons.iter().copied().filter(reads_file).collect();
        let bfd_sessions: Vec<bfd::BfddSession> = state::load_state(state::BFD_SESSIONS);
        let settings = PolicySettings {
            daemons: &daemons,
            with_file: &with_file,
            liveness_timeout: Duration::from_secs(node.config.liveness_timeout_s.into()),
            can_roll_back: node.config_store.can_roll_back(),
            has_stale_bfd_sessions: !bfd_sessions.is_empty(),
            seed: std::process::id() ^ now.elapsed().subsec_nanos() ^ u32::from(node.config.node_ip.get()),
        };
        Ok(Self {
            policy: Policy::new(settings, now),
            processes: daemons.iter().map(|daemon| Process::new(daemon, publisher)).collect(),
            probe: node
                .kernel
                .router_ns()
                .within(Probe::open)
                .inspect_err(|e| log::warn!("a second zebra or a wrong password cannot be detected: {e}"))
                .ok(),
            publisher: Arc::clone(publisher),
            history,
            text,
            parts,
            iteration_started: now,
            carriers: carrier::FabricPorts::default(),
            linked_kill: None,
            backup: backup::BackupRouteJobs::default(),
            // An earlier instance may have left them blocked.
            blocked_connects: vec![(Connects::Outbound, now), (Connects::Inbound, now)],
            queries: QueryState::new(now),
            bfd: BfdState::new(bfd_sessions, now),
            services: Services::new(&node.config, now),
            load: ConfigLoad::default(),
            file: ConfigFile::new(base, now),
            change: RunningChange::default(),
            drift: ConfigDrift::new(node.version, now),
            kernel: KernelState::new(&node.config, now),
            ending: Ending::default(),
            base,
            node,
            signals,
        })
    }

    /// Runs the daemons until a signal requests the stop or their namespace is lost, and all of them have exited.
    ///
    /// # Errors
    /// The loop cannot continue.
    pub fn run(mut self) -> io::Result<End> {
        let mut events = VecDeque::from([Event::Tick]);
        self.show_configuration();
        self.publisher.update(|facts| facts.set_phase(NodePhase::Running));
        self.check_ports(Instant::now());
        // The routes of an earlier instance need backup routes while the new daemons start. Some of its backup routes
        // may have no original.
        self.retain_services();
        self.install_backup_routes(true);
        loop {
            while let Some(event) = events.pop_front() {
                let now = Instant::now();
                for action in self.policy.step(event, now) {
                    self.act(action, &mut events);
                }
            }
            self.show_daemons(Instant::now());
            if self.ending.finished {
                self.allow_due_connects(Instant::now() + START_BLOCK_TIME + MAX_BLOCK_EXTENSION);
                return Ok(self.ending.end.take().unwrap_or(End::Stopped));
            }
            self.wait(&mut events)?;
        }
    }

    fn act(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::Start(i) => {
                let name = self.processes[i].daemon.kind;
                match name {
                    DaemonKind::Bgpd => self.block_connects(),
                    DaemonKind::Zebra => self.await_backup_jobs(),
                    _ => {}
                }
                match self.start(i) {
                    Ok(child) => {
                        let pid = child.pid;
                        log::info!(daemon = name, pid = pid.as_raw_nonzero().get(); "{name} started (pid {pid})");
                        self.processes[i].child = Some(child);
                        self.processes[i].history.started(&self.publisher);
                        self.queries.starting.push(DaemonQuery {
                            daemon: i,
                            query: None,
                            next_at: Instant::now(),
                        });
                    }
                    Err(e) => {
                        if self.processes[i].history.start_failed(e.to_string()) {
                            log::error!(daemon = name; "{name} cannot be started: {e}; retrying");
                        }
                        events.push_back(Event::StartFailed(i));
                    }
                }
            }
            Action::PeriodicCheck => {
                self.queries.checks = self.queries.checks.wrapping_add(1);
                if crate::files::retry() {
                    // Publish that the problem is resolved; the next update may be a minute away.
                    self.publisher.update(|_| ());
                }
                if self.node.has_sysctl_drift() {
                    self.kernel.repairs.state_changed(Instant::now());
                }
                self.probe();
                let ready = self
                    .processes
                    .iter()
                    .map(|p| p.daemon)
                    .filter(|daemon| self.ready(daemon.kind).is_some());
                ready.for_each(|daemon| sockets::restore(daemon.kind));
                events.extend(self.load.running.as_mut().map(|load| Event::Loading { idle: load.is_idle() }));
                // Failed connections are retried. Until then they count as a missing reply.
                let failed = self.queries.pings.iter().filter(|(_, query)| query.is_none()).map(|(i, _)| *i);
                let failed: Vec<usize> = failed.collect();
                self.queries.pings.retain(|(_, query)| query.is_some());
                failed.into_iter().for_each(|i| self.ping(i, events));
            }
            Action::Ping(i) => {
                if let Some(child) = &mut self.processes[i].child {
                    child.sample_main_thread();
                }
                self.ping(i, events);
            }
            // Its reply may have arrived during this iteration.
            Action::CheckBusy(i) if self.iteration_started.elapsed() >= LONG_ITERATION => {
                events.push_back(Event::PingFailed(i));
            }
            Action::CheckBusy(i) => {
                if let Some(child) = &mut self.processes[i].child {
                    let is_busy = child.is_main_thread_busy();
                    log::debug!(daemon = child.name; "{} has not answered; busy: {is_busy}", child.name);
                    events.push_back(if is_busy { Event::Busy(i) } else { Event::Idle(i) });
                }
            }
            Action::Abort(i) => {
                let Process { daemon, child, .. } = &mut self.processes[i];
                if let Some(child) = child {
                    let (name, pid, s) = (daemon.kind, child.pid, self.node.config.liveness_timeout_s);
                    if sockets::is_missing(name) {
                        // The daemon may work, so a backtrace would show nothing.
                        log::error!(
                            daemon = name, pid = pid.as_raw_nonzero().get();
                            "{name} (pid {pid}) cannot be reached for {s} s: its socket {} was removed; restarting it",
                            socket(name).display()
                        );
                        child.kill();
                    } else {
                        log::error!(
                            daemon = name, pid = pid.as_raw_nonzero().get();
                            "{name} (pid {pid}) is unresponsive (LIVENESS_TIMEOUT={s} s): aborting it; its backtrace follows"
                        );
                        child.abort();
                    }
                }
            }
            Action::Kill(i) => {
                if let Some(child) = &mut self.processes[i].child {
                    let (name, pid) = (child.name, child.pid);
                    log::info!(daemon = name, pid = pid.as_raw_nonzero().get(); "killing {name} (pid {pid})");
                    child.kill();
                }
            }
            Action::Load(which) => {
                self.load.succeeded = true;
                which.iter().for_each(|&i| self.reset_drift(i));
                self.load.queue = if which.len() == self.processes.len() {
                    [None].into()
                } else {
                    which.iter().map(|&i| Some(self.processes[i].daemon.kind)).collect()
                };
                self.start_next_load(events);
            }
            Action::AbortLoad => {
                log::error!("vtysh: loading the configuration hangs: killing vtysh");
                self.end_load();
            }
            Action::Complete => {
                log::info!("all daemons answer and have their configuration");
                self.publisher.update(|facts| facts.incomplete = false);
            }
            Action::Incomplete => {
                log::error!(
                    "all daemons answer, but parts of the configuration could not be loaded: see the output of vtysh above"
                );
                self.publisher.update(|facts| facts.incomplete = true);
            }
            Action::MarkGood => {
                self.node.config_store.mark_good();
                self.history.mark_good(self.node);
                log::debug!("the active configuration is stored as the last-known-good configuration");
            }
            Action::RollBack(i) => self.roll_back(i, events),
            Action::Finished => self.ending.finished = true,
        }
    }

    /// The index of the daemon of that name, if its process runs.
    fn running(&self, name: DaemonKind) -> Option<usize> {
        self.processes.iter().position(|p| p.daemon.kind == name && p.child.is_some())
    }

    /// The index of the daemon of that name, if it has replied since its start.
    fn ready(&self, name: DaemonKind) -> Option<usize> {
        self.running(name).filter(|i| !self.queries.starting.iter().any(|starting| starting.daemon == *i))
    }

    /// The process of the daemon of that name, if it has replied since its start.
    fn ready_child(&self, name: DaemonKind) -> Option<&Child> {
        self.processes[self.ready(name)?].child.as_ref()
    }

    fn read_parts(&mut self) {
        (self.text, self.parts) = self.node.config_store.parts(self.node.version);
        self.show_configuration();
    }

    /// Called when a daemon runs, or is about to run, with exactly its configuration.
    fn reset_drift(&mut self, i: usize) {
        let daemon = self.processes[i].daemon.kind;
        self.drift.monitor.reset(daemon, Instant::now());
        self.publisher.update(|facts| drop(facts.drift.remove(daemon.name())));
    }

    /// Whether a change of the kernel runs or will follow a change of FRR's configuration.
    fn is_kernel_change_pending(&self) -> bool {
        self.change.commands.is_some() || self.change.build.is_some()
    }

    /// When to continue if nothing happens.
    fn next_deadline(&self) -> Option<Instant> {
        let is_running = self.ending.end.is_none();
        let queries =
            self.queries.starting.iter().chain(self.queries.sessions.iter().flat_map(|(queries, _)| queries));
        let next_queries = queries.filter(|q| q.query.is_none()).map(|q| q.next_at);
        let unresponsive = self.policy.next_unresponsive_at(Instant::now());
        let repairs = self.kernel.repairs.due().filter(|_| is_running && !self.is_kernel_change_pending());
        let others = [
            unresponsive,
            self.policy.next_deadline(),
            self.backup.until,
            self.backup.retry_at,
            repairs,
            self.bfd.deadline(),
            self.kernel.workloads_at,
            self.queries.collect_at.map(|(at, _)| at),
        ];
        let graceful_shutdown = self.ending.graceful_shutdown.as_ref().map(GracefulShutdown::deadline);
        let released = self.services.released.as_ref().map(|(at, _)| *at);
        let extension = self.block_extension();
        let connects = self.blocked_connects.iter().map(|(_, at)| *at + extension);
        let file = self.file.watch.as_ref().and_then(FileWatch::due).filter(|_| is_running);
        let carriers = self.carriers.deadline().filter(|_| is_running);
        let drift = self.drift.monitor.deadline().filter(|_| is_running && self.policy.is_complete());
        let complete = self.policy.is_complete();
        let pending = self.file.pending.as_ref().filter(|_| !self.is_changing() && is_running);
        let pending = pending.map(|pending| pending.due(complete));
        let build = self.change.build.as_ref().map(Build::deadline).filter(|_| is_running);
        let reread = self.file.reread_at.filter(|_| is_running);
        let fib_check = self.kernel.fib.deadline().filter(|_| is_running);
        let more = graceful_shutdown
            .into_iter()
            .chain(self.services.retention.deadline())
            .chain(released)
            .chain(carriers)
            .chain(connects)
            .chain(file)
            .chain(pending)
            .chain(reread)
            .chain(build)
            .chain(fib_check)
            .chain(drift);
        next_queries.chain(others.into_iter().flatten()).chain(more).min()
    }

    /// Waits until something happens and adds the events.
    fn wait(&mut self, events: &mut VecDeque<Event>) -> io::Result<()> {
        let now = Instant::now();
        let timeout = self.next_deadline().map(|at| at.saturating_duration_since(now));
        let mounts_changed = {
            let mut fds = vec![PollFd::new(&*self.signals, PollFlags::IN)];
            fds.extend(self.node.fds());
            fds.extend(self.backup.task().map(|task| PollFd::new(task, PollFlags::IN)));
            // While stopping, nothing reads these, and a readable one would wake the loop again and again.
            let is_running = self.ending.end.is_none();
            if is_running {
                fds.extend(self.file.watch.as_ref().map(|watch| PollFd::new(watch, PollFlags::IN)));
                fds.extend(self.file.read.as_ref().map(|read| PollFd::new(&read.task, PollFlags::IN)));
                fds.extend(
                    self.change.commands.as_ref().map(|change| PollFd::new(&change.task, PollFlags::IN)),
                );
                fds.extend(self.change.cleanup.as_ref().map(|task| PollFd::new(task, PollFlags::IN)));
                fds.extend(self.kernel.fib.task().map(|task| PollFd::new(task, PollFlags::IN)));
                fds.extend(self.drift.repair.as_ref().map(|task| PollFd::new(task, PollFlags::IN)));
            }
            let children = self.processes.iter().map(|p| &p.child).chain([&self.load.running]).flatten();
            let outputs = children.filter_map(|child| child.output.as_ref());
            fds.extend(outputs.map(|output| PollFd::new(output, PollFlags::IN)));
            let queries = self
                .queries
                .starting
                .iter()
                .chain(self.queries.sessions.iter().flat_map(|(queries, _)| queries));
            let queries = queries
                .filter_map(|q| q.query.as_ref())
                .chain(&self.bfd.query)
                .chain(self.services.retention.queries());
            let queries = queries.chain(self.carriers.queries().filter(|_| is_running));
            fds.extend(
                queries
                    .chain(self.ending.graceful_shutdown.iter().filter_map(GracefulShutdown::query))
                    .map(|query| PollFd::new(query, PollFlags::IN)),
            );
            match poll(&mut fds, timeout.and_then(|t| Timespec::try_from(t).ok()).as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            fds.iter().any(|fd| fd.revents().contains(PollFlags::PRI))
        };
        let now = Instant::now();
        self.iteration_started = now;
        for child in self.processes.iter_mut().map(|p| &mut p.child).chain([&mut self.load.running]).flatten()
        {
            child.read();
        }
        // Every child, so that no finding is processed later.
        let mut sessions_changed = false;
        for child in self.processes.iter_mut().filter_map(|p| p.child.as_mut()) {
            sessions_changed |= child.take_sessions_changed();
            if child.take_install_failed() {
                self.kernel.fib.install_failed(now);
            }
        }
        if sessions_changed {
            self.start_session_queries(now);
            self.show_notifications();
            self.kernel.fib.sessions_changed(now);
        }
        if self.signals.stop_requested() && self.ending.end != Some(End::Stopped) {
            self.stop(events, now);
        }
        self.reap(events)?;
        self.poll_queries(events);
        self.step_graceful_shutdown(events, now);
        self.step_admin_down(events, now);
        self.step_retention(now);
        let KernelEvents { managed_changed, nexthop_deleted } = self.node.drain_events();
        if nexthop_deleted {
            self.kernel.fib.next_hop_removed(now);
        }
        if managed_changed || mounts_changed {
            self.kernel.repairs.state_changed(now);
        }
        if mounts_changed && let Some(watch) = &mut self.file.watch {
            watch.mounts_changed(now);
        }
        if self.ending.end.is_none() {
            if managed_changed {
                self.check_ports(now);
            }
            self.drop_stale_paths(now);
            self.process_file_changes(events, now);
            self.check_drift(events, now);
            self.check_fib(now);
        }
        // A pending change may still need what the check would remove.
        if self.ending.end.is_none()
            && !self.is_kernel_change_pending()
            && self.kernel.repairs.due().is_some_and(|due| due <= now)
        {
            self.check_kernel(events);
        }
        if self.backup.until.is_some_and(|until| until <= now) {
            self.remove_backup_routes();
        }
        if self.kernel.workloads_at.is_some_and(|at| at <= now) {
            self.node.refresh_neighbours();
            self.kernel.workloads_at = Some(now + NEIGHBOUR_REFRESH_INTERVAL);
        }
        self.run_backup_jobs();
        self.allow_due_connects(now);
        if !self.is_configuring() {
            self.queries.finished.clear();
        }
        events.push_back(Event::Tick);
        Ok(())
    }
}

/// The part of the configuration that a daemon reads from its file, without what is added at its start.
fn part(parts: &[(DaemonKind, String)], name: DaemonKind) -> Option<&str> {
    parts.iter().find(|(daemon, _)| *daemon == name).map(|(_, text)| text.as_str())
}
