//! Supervisor of the daemons and of the node: one thread with one `poll` over signals, output, replies and kernel
//! events.

mod activity;
mod back_off;
mod backup;
mod build;
mod carrier;
mod change;
mod drift;
mod fib;
mod graceful_shutdown;
mod linked_kill;
mod output;
mod policy;
mod process;
mod reload;
mod repairs;
mod retention;
mod rollback;
mod show;
mod watch;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

use crate::config::{Config, OnStop};
use crate::frr::daemons::{BIN_DIR, RUN_DIR, SOCKET_DIR};
use crate::frr::delta::Step;
use crate::frr::memfd::Memfd;
use crate::frr::retained::RetainedRouters;
use crate::frr::vty::{PING, Query, Reply, socket};
use crate::frr::{
    Daemon, DaemonKind, bfd, host, neighbors, redact_output, sockets, solicit, state, with_log_settings,
};
use crate::kernel::{Connects, KernelEvents};
use crate::limits;
use crate::model::{FilePath, IfName};
use crate::node::{CheckOutcome, Node, UNMOUNTED_GRACE};
use crate::printable::first;
use crate::signals::Signals;
use crate::status::{NodePhase, Probe, Publisher};
use crate::time::Time;

use build::Build;
use change::{Change, RepairReport, Task};
use drift::DriftMonitor;
use graceful_shutdown::{GracefulShutdown, ShutdownOutcome};
use linked_kill::LinkedKill;
use policy::{ADMIN_DOWN_DELAY, Action, Event, Policy, PolicySettings};
use process::Child;
use reload::{FileRead, PendingConfig};
use repairs::{RETRY, RepairOutcome, RepairSchedule};
use retention::{Retention, RetentionEvent, RetentionOutcome};
pub use rollback::RollbackHistory;
use show::DaemonHistory;
pub use show::describe;
use watch::FileWatch;

/// Interval of the queries to a daemon that starts, until its first reply, which takes some 50 ms.
const START_QUERY_INTERVAL: Duration = Duration::from_millis(5);

/// Delay from the pings to the collection of all replies: a wake-up for each reply would cost more than the reply.
const COLLECT_DELAY: Duration = Duration::from_millis(100);

/// Interval of the queries to bfdd and bgpd about their sessions while sessions may be new.
const SESSION_QUERY_INTERVAL: Duration = Duration::from_millis(200);

/// Duration of these queries after the start of a daemon, or after a change in bgpd's log. Later the pings notice
/// changes.
const SESSION_QUERY_TIME: Duration = Duration::from_secs(10);

/// Interval, in periodic checks, of the queries to bgpd about its neighbors, in case its log does not report changes.
const NEIGHBOR_QUERY_CHECKS: u32 = 10;

/// Time from the first reply of a new bgpd during which its outbound connects stay blocked: zebra needs some 10 ms to
/// announce the ports to it.
const OUTBOUND_BLOCK_TIME: Duration = Duration::from_millis(500);

/// Time from the first reply of a new bgpd during which inbound connects stay blocked: bgpd connects a second after its
/// first attempt, and later on a loaded machine.
const INBOUND_BLOCK_TIME: Duration = Duration::from_secs(5);

/// Longest extension of these times while backup routes are being installed.
const MAX_BLOCK_EXTENSION: Duration = Duration::from_secs(30);

/// Limit of the time until the first reply of a new bgpd: the policy kills it earlier.
const START_BLOCK_TIME: Duration = Duration::from_secs(60);

/// Interval of Router Solicitations. A host would wait for 4 s (RFC 4861 §10).
const SOLICIT_INTERVAL: Duration = Duration::from_secs(1);

/// Interval of the checks for silent workloads: well below the 300 s after which a bridge forgets a MAC address.
const NEIGHBOUR_REFRESH_INTERVAL: Duration = Duration::from_secs(30);

/// Time from the end of the retention until FRR has installed or removed its own routes.
const PRUNE_DELAY: Duration = Duration::from_secs(5);

/// Largest number of names in a log line.
const MAX_LOGGED_NAMES: usize = 20;

/// Duration of an iteration of the loop after which replies may have arrived that the loop has not read yet.
const LONG_ITERATION: Duration = Duration::from_secs(1);

/// Time that backup routes stay installed after the end of the retention.
const RETENTION_MARGIN: Duration = Duration::from_secs(5);

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
    records: Vec<DaemonHistory>,
    probe: Option<Probe>,
    daemons: Vec<&'static Daemon>,
    /// The text of frr.conf.
    text: String,
    /// The parts of frr.conf that daemons read from a file.
    parts: Vec<(DaemonKind, String)>,
    policy: Policy,
    children: Vec<Option<Child>>,
    /// Daemons that have not replied since their start.
    starting: Vec<DaemonQuery>,
    /// Pinged daemons without a reply; `None` if the connection failed.
    pings: Vec<(usize, Option<Query>)>,
    /// Pinged daemons that have replied to the first of several commands, and so are alive.
    partial_replies: Vec<(usize, Query)>,
    /// When to collect the replies to the pings, and the delay until the next collection.
    collect_at: Option<(Instant, Duration)>,
    /// Queries of daemons whose sessions may be new, and the end of these queries.
    session_queries: Option<(Vec<DaemonQuery>, Instant)>,
    /// Number of periodic checks.
    checks: u32,
    /// Start of the current iteration of the loop.
    iteration_started: Instant,
    /// Earliest next Router Solicitation.
    solicit_at: Instant,
    /// The last known BFD sessions of bfdd.
    bfd_sessions: Vec<bfd::BfddSession>,
    /// The BFD peers that the supervisor configures in bfdd.
    bfd_peers: bfd::PeerAddresses,
    /// The running configuration of BFD peers.
    bfd_query: Option<Query>,
    /// bfdd's last error for one of them.
    bfd_error: Option<String>,
    /// The sessions of an exited bfdd, and when to send their peers AdminDown: after the exit of bgpd, so that BGP is
    /// in graceful restart.
    admin_down: Option<(Instant, Vec<bfd::BfddSession>)>,
    retention: Retention,
    carriers: carrier::FabricPorts,
    /// Released services, and when to prune their backup routes.
    released: Option<(Instant, BTreeSet<IpNet>)>,
    repairs: RepairSchedule,
    fib_check: fib::FibCheck,
    /// Another program reverts the repairs.
    has_conflicting_writer: bool,
    /// Kills zebra when the bgpd of a VTEP exits.
    linked_kill: Option<LinkedKill>,
    /// When to check for silent workloads, if the node is their gateway.
    workloads_at: Option<Instant>,
    backup: backup::BackupRouteJobs,
    /// The directions in which BGP connects are blocked, and until when.
    blocked_connects: Vec<(Connects, Instant)>,
    /// The running vtysh that loads the configuration.
    load: Option<Child>,
    /// The daemons of the next runs of vtysh; `None` for all daemons.
    load_queue: VecDeque<Option<DaemonKind>>,
    load_succeeded: bool,
    /// The watch on the configuration file, if there is one.
    watch: Option<FileWatch>,
    file_read: Option<FileRead>,
    pending_config: Option<PendingConfig>,
    /// How often in a row the running change was interrupted before.
    interruptions: u32,
    /// The last reported problems of the file, so that they are logged once.
    reported_problems: Vec<String>,
    /// When to read the file again without an event.
    reread_at: Option<Instant>,
    /// Whether the file was read since it is watched.
    has_read_file: bool,
    change: Option<Change>,
    build: Option<Build>,
    /// The running removal of what is left of VRFs in FRR's configuration.
    cleanup: Option<Task<()>>,
    /// Finished queries. They are closed while nothing is being configured: whenever a connection is closed, mgmtd of
    /// FRR 10.3 discards uncommitted changes (`mgmt_fe_session_cfg_txn_cleanup`, `mgmtd/mgmt_fe_adapter.c`; not in
    /// 10.4).
    finished_queries: Vec<Query>,
    drift: DriftMonitor,
    /// The running repair of a daemon's configuration.
    drift_repair: Option<Task<RepairReport>>,
    /// The next repairs.
    queued_drift_repairs: VecDeque<Step>,
    graceful_shutdown: Option<GracefulShutdown>,
    end: Option<End>,
    finished: bool,
}

/// A daemon that is queried repeatedly.
#[derive(Debug)]
struct DaemonQuery {
    daemon: usize,
    query: Option<Query>,
    next_at: Instant,
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
            children: daemons.iter().map(|_| None).collect(),
            records: daemons
                .iter()
                .map(|daemon| DaemonHistory::load(daemon.kind.name(), publisher))
                .collect(),
            probe: node
                .kernel
                .router_ns()
                .within(Probe::open)
                .inspect_err(|e| log::warn!("a second zebra or a wrong password cannot be detected: {e}"))
                .ok(),
            publisher: Arc::clone(publisher),
            history,
            daemons,
            text,
            parts,
            starting: vec![],
            pings: vec![],
            partial_replies: vec![],
            collect_at: None,
            session_queries: None,
            checks: 0,
            iteration_started: now,
            solicit_at: now,
            admin_down: Some((now + ADMIN_DOWN_DELAY, bfd_sessions)),
            bfd_sessions: vec![],
            bfd_peers: bfd::PeerAddresses::new(),
            bfd_query: None,
            bfd_error: None,
            retention: Retention::new(
                retained_routers(&node.config),
                socket(DaemonKind::Bgpd),
                Duration::from_secs(node.config.metallb.retention_s.into()),
                state::load_state(state::SERVICES),
                now,
            ),
            carriers: carrier::FabricPorts::default(),
            released: None,
            repairs: RepairSchedule::default(),
            fib_check: fib::FibCheck::new(now),
            has_conflicting_writer: false,
            linked_kill: None,
            workloads_at: node.config.overlay.has_gateways().then_some(now),
            backup: backup::BackupRouteJobs::default(),
            // An earlier instance may have left them blocked.
            blocked_connects: vec![(Connects::Outbound, now), (Connects::Inbound, now)],
            load: None,
            load_queue: VecDeque::new(),
            load_succeeded: true,
            watch: base.file.as_ref().and_then(watch_file),
            file_read: None,
            pending_config: None,
            interruptions: 0,
            reported_problems: vec![],
            // The file may have changed before it was watched.
            reread_at: base.file.as_ref().map(|_| now),
            has_read_file: false,
            change: None,
            build: None,
            cleanup: None,
            finished_queries: vec![],
            drift: DriftMonitor::new(node.version, now),
            drift_repair: None,
            queued_drift_repairs: VecDeque::new(),
            graceful_shutdown: None,
            end: None,
            finished: false,
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
            if self.finished {
                self.allow_due_connects(Instant::now() + START_BLOCK_TIME + MAX_BLOCK_EXTENSION);
                return Ok(self.end.take().unwrap_or(End::Stopped));
            }
            self.wait(&mut events)?;
        }
    }

    /// Time that backup routes stay installed after the exit of a daemon.
    fn window(&self) -> Duration {
        let config = &self.node.config;
        // Retained services need their routes.
        let retention = self
            .retention
            .is_active()
            .then(|| Duration::from_secs(config.metallb.retention_s.into()) + RETENTION_MARGIN);
        Duration::from_secs(config.timers.restart_s.into()).max(retention.unwrap_or_default())
    }

    fn act(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::Start(i) => {
                let name = self.daemons[i].kind;
                match name {
                    DaemonKind::Bgpd => self.block_connects(),
                    DaemonKind::Zebra => self.await_backup_jobs(),
                    _ => {}
                }
                match self.start(i) {
                    Ok(child) => {
                        let pid = child.pid;
                        log::info!(daemon = name, pid = pid.as_raw_nonzero().get(); "{name} started (pid {pid})");
                        self.children[i] = Some(child);
                        self.records[i].started(&self.publisher);
                        self.starting.push(DaemonQuery { daemon: i, query: None, next_at: Instant::now() });
                    }
                    Err(e) => {
                        if self.records[i].start_failed(e.to_string()) {
                            log::error!(daemon = name; "{name} cannot be started: {e}; retrying");
                        }
                        events.push_back(Event::StartFailed(i));
                    }
                }
            }
            Action::PeriodicCheck => {
                self.checks = self.checks.wrapping_add(1);
                if crate::files::retry() {
                    // Publish that the problem is resolved; the next update may be a minute away.
                    self.publisher.update(|_| ());
                }
                if self.node.has_sysctl_drift() {
                    self.repairs.state_changed(Instant::now());
                }
                self.probe();
                let ready = self.daemons.iter().filter(|daemon| self.ready(daemon.kind).is_some());
                ready.for_each(|daemon| sockets::restore(daemon.kind));
                events.extend(self.load.as_mut().map(|load| Event::Loading { idle: load.is_idle() }));
                // Failed connections are retried. Until then they count as a missing reply.
                let failed = self.pings.iter().filter(|(_, query)| query.is_none()).map(|(i, _)| *i);
                let failed: Vec<usize> = failed.collect();
                self.pings.retain(|(_, query)| query.is_some());
                failed.into_iter().for_each(|i| self.ping(i, events));
            }
            Action::Ping(i) => {
                if let Some(child) = &mut self.children[i] {
                    child.sample_main_thread();
                }
                self.ping(i, events);
            }
            // Its reply may have arrived during this iteration.
            Action::CheckBusy(i) if self.iteration_started.elapsed() >= LONG_ITERATION => {
                events.push_back(Event::PingFailed(i));
            }
            Action::CheckBusy(i) => {
                if let Some(child) = &mut self.children[i] {
                    let is_busy = child.is_main_thread_busy();
                    log::debug!(daemon = child.name; "{} has not answered; busy: {is_busy}", child.name);
                    events.push_back(if is_busy { Event::Busy(i) } else { Event::Idle(i) });
                }
            }
            Action::Abort(i) => {
                if let Some(child) = &mut self.children[i] {
                    let (name, pid, s) =
                        (self.daemons[i].kind, child.pid, self.node.config.liveness_timeout_s);
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
                if let Some(child) = &mut self.children[i] {
                    let (name, pid) = (child.name, child.pid);
                    log::info!(daemon = name, pid = pid.as_raw_nonzero().get(); "killing {name} (pid {pid})");
                    child.kill();
                }
            }
            Action::Load(which) => {
                self.load_succeeded = true;
                which.iter().for_each(|&i| self.reset_drift(i));
                self.load_queue = if which.len() == self.daemons.len() {
                    [None].into()
                } else {
                    which.iter().map(|&i| Some(self.daemons[i].kind)).collect()
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
            Action::Finished => self.finished = true,
        }
    }

    fn ping(&mut self, i: usize, events: &mut VecDeque<Event>) {
        let daemon = self.daemons[i];
        let with_neighbors = self.checks.is_multiple_of(NEIGHBOR_QUERY_CHECKS);
        let commands = status_commands(daemon, &self.retention, with_neighbors);
        let query = match Query::show(&socket(daemon.kind), commands) {
            Ok(query) => Some(query),
            Err(e) if limits::is_own_shortage(&e) => {
                let name = daemon.kind;
                log::error!(daemon = name; "{name} cannot be pinged: {e}; {}", limits::REMEDY);
                events.push_back(Event::PingFailed(i));
                return;
            }
            Err(_) => None,
        };
        self.pings.push((i, query));
        self.collect_at = Some((Instant::now() + COLLECT_DELAY, COLLECT_DELAY));
    }

    /// Processes a daemon's replies to the status commands.
    fn process_replies(&mut self, i: usize, replies: &[Reply]) {
        match self.daemons[i].kind {
            DaemonKind::Bfdd => self.process_bfd_sessions(replies),
            DaemonKind::Bgpd => {
                if replies.first().is_some_and(|summary| self.retention.take_summary(summary, Instant::now()))
                {
                    self.publisher.update(|facts| {
                        facts.session_changes += 1;
                        facts.services = self.retention.received();
                    });
                }
                if let Some(neighbors) = replies.get(1) {
                    let neighbors = serde_json::from_str(&neighbors.text).unwrap_or_default();
                    if self.node.config.timers.bfd.is_some_and(|bfd| !bfd.coupled) {
                        bfd::update_peers(&mut self.bfd_peers, &neighbors);
                    }
                    self.solicit(&solicit::unknown_peers(&neighbors));
                }
            }
            _ => {}
        }
    }

    /// Sends Router Solicitations on the ports whose peer address bgpd does not know.
    fn solicit(&mut self, ports: &[IfName]) {
        let now = Instant::now();
        if ports.is_empty() || now < self.solicit_at {
            return;
        }
        self.solicit_at = now + SOLICIT_INTERVAL;
        if let Err(e) = self.node.kernel.router_ns().within(|| solicit::solicit(ports)) {
            log::debug!("Router Solicitations cannot be sent: {e}");
        }
    }

    fn process_bfd_sessions(&mut self, replies: &[Reply]) {
        if bfd::update_sessions(&mut self.bfd_sessions, replies) {
            state::save_state(state::BFD_SESSIONS, &self.bfd_sessions);
        }
        let commands = bfd::peer_commands(&self.bfd_peers, &self.bfd_sessions);
        if !commands.is_empty() && self.bfd_query.is_none() {
            log::debug!(daemon = "bfdd"; "bfdd: {}", commands.join("; "));
            self.bfd_query = self
                .running(DaemonKind::Bfdd)
                .and_then(|i| Query::commands(&socket(self.daemons[i].kind), commands).ok());
        }
    }

    /// The index of the daemon of that name, if its process runs.
    fn running(&self, name: DaemonKind) -> Option<usize> {
        self.daemons.iter().position(|d| d.kind == name).filter(|&i| self.children[i].is_some())
    }

    /// The index of the daemon of that name, if it has replied since its start.
    fn ready(&self, name: DaemonKind) -> Option<usize> {
        self.running(name).filter(|i| !self.starting.iter().any(|starting| starting.daemon == *i))
    }

    /// The process of the daemon of that name, if it has replied since its start.
    fn ready_child(&self, name: DaemonKind) -> Option<&Child> {
        self.children[self.ready(name)?].as_ref()
    }

    fn read_parts(&mut self) {
        (self.text, self.parts) = self.node.config_store.parts(self.node.version);
        self.show_configuration();
    }

    /// Blocks the BGP connects of a bgpd that is about to start, and those of its peers.
    fn block_connects(&mut self) {
        let until = Instant::now() + START_BLOCK_TIME;
        self.blocked_connects = vec![(Connects::Outbound, until), (Connects::Inbound, until)];
        for (direction, _) in &self.blocked_connects {
            if let Err(e) = self.node.kernel.block_connects(*direction) {
                log::warn!(
                    "BGP connects cannot be blocked: {e}; a new session may be established and closed again"
                );
            }
        }
    }

    /// Schedules the end of the block after the first reply of a new bgpd.
    fn schedule_connects(&mut self, now: Instant) {
        self.blocked_connects = vec![
            (Connects::Outbound, now + OUTBOUND_BLOCK_TIME),
            (Connects::Inbound, now + INBOUND_BLOCK_TIME),
        ];
    }

    /// Extension of the block while backup routes are being installed: bgpd changes routes as soon as its sessions are
    /// established.
    fn block_extension(&self) -> Duration {
        if self.backup.is_installing() { MAX_BLOCK_EXTENSION } else { Duration::ZERO }
    }

    /// Allows the connects whose block has ended.
    fn allow_due_connects(&mut self, now: Instant) {
        let extension = self.block_extension();
        let kernel = &mut self.node.kernel;
        self.blocked_connects.retain_mut(|(direction, at)| {
            if *at + extension > now {
                return true;
            }
            let allowed = kernel.allow_connects(*direction);
            if let Err(e) = &allowed {
                log::error!("BGP connects are still blocked: {e}; retrying");
                *at = now + RETRY;
            }
            allowed.is_err()
        });
    }

    fn start(&mut self, i: usize) -> io::Result<Child> {
        let daemon = self.daemons[i];
        if daemon.kind == DaemonKind::Zebra
            && let Some(conflict) = self.node.zebra_conflict()
        {
            return Err(io::Error::other(conflict));
        }
        let retained =
            if daemon.kind == DaemonKind::Bgpd { self.retention.configuration() } else { String::new() };
        let config = part(&self.parts, daemon.kind)
            .map(|text| Memfd::sealed(daemon.kind.name(), &(text.to_owned() + &retained)));
        let config = config.transpose()?;
        let pid = Memfd::empty("pid")?;
        host::clear_socket_path(daemon.kind);
        let mut command = Command::new(Path::new(BIN_DIR).join(daemon.kind.name()));
        let config_path = config.as_ref().map(Memfd::path);
        command.args(daemon.arguments(self.node.version, config_path.as_deref(), &pid.path()));
        let inherited: Vec<&Memfd> = config.iter().chain([&pid]).collect();
        let victim =
            daemon.required_dependents().find_map(|name| self.children[self.running(name)?].as_ref());
        let victim = victim.map(|zebra| zebra.pid);
        let not_linked = |e: io::Error| {
            log::warn!(
                daemon = "zebra";
                "the linked kill of zebra cannot be set up: {e}; if bgpd exits, the VNIs lose packets until it runs again"
            );
        };
        let (link, ends) = victim.and_then(|_| linked_kill::create().map_err(not_linked).ok()).unzip();
        let (input, _last) = ends.map_or((Stdio::null(), None), |ends| (ends.input, Some(ends.inherited)));
        // A child starts in the namespace of the thread that creates it.
        let child = self
            .node
            .kernel
            .router_ns()
            .within(|| Child::spawn(daemon.kind.name(), command, input, &inherited))?;
        if let Some((link, victim)) = link.zip(victim) {
            self.linked_kill = link.arm(victim).map_err(not_linked).ok().map(|()| link);
        }
        host::write_pid_file(daemon.kind, child.pid);
        Ok(child)
    }

    /// Called when a daemon runs, or is about to run, with exactly its configuration.
    fn reset_drift(&mut self, i: usize) {
        let daemon = self.daemons[i].kind;
        self.drift.reset(daemon, Instant::now());
        self.publisher.update(|facts| drop(facts.drift.remove(daemon.name())));
    }

    fn end_load(&mut self) {
        self.load_queue.clear();
        self.load_succeeded = false;
        if let Some(child) = &mut self.load {
            child.kill();
        }
    }

    /// Retains the speaker's services: they stay announced to the leaves until the speaker announces them again.
    fn retain_services(&mut self) {
        let config = &self.node.config;
        // A bgpd that gets its configuration from vtysh starts without retained services.
        let is_in_file = part(&self.parts, DaemonKind::Bgpd).is_some();
        let is_allowed = |prefix: &IpNet| {
            let all = &config.metallb.allowed;
            is_in_file && (all.is_empty() || all.iter().any(|net| net.contains(prefix)))
        };
        match self.node.kernel.bgp_prefixes(config.metallb.table.get()) {
            Ok(mut prefixes) => {
                prefixes.retain(is_allowed);
                let n = self.retention.bgpd_exited(&prefixes, Instant::now());
                if n > 0 {
                    log::info!(
                        "{n} retained services stay announced until the speaker is back, for up to {} s",
                        config.metallb.retention_s
                    );
                }
            }
            Err(e) => {
                log::warn!("the kernel's routes cannot be read: {e}; retaining all known services");
                let known: BTreeSet<IpNet> =
                    self.retention.known().prefixes().copied().filter(is_allowed).collect();
                self.retention.bgpd_exited(&known, Instant::now());
            }
        }
        self.show_retained();
        self.show_unannounced();
    }

    /// Continues the retention and the queries for services.
    fn step_retention(&mut self, now: Instant) {
        let bgpd = self.ready(DaemonKind::Bgpd);
        let events = self.retention.step(bgpd.and_then(|_| part(&self.parts, DaemonKind::Bgpd)), now);
        if self.retention.is_waiting_for_prefixes() {
            match self.node.kernel.bgp_prefixes(self.node.config.metallb.table.get()) {
                Ok(prefixes) => self.retention.take_prefixes(prefixes, now),
                Err(e) => log::debug!("the routes of the services cannot be read: {e}"),
            }
        }
        for event in events {
            self.process_retention_event(event, now);
        }
        // Retained services need their routes.
        if let Some((until, retained)) = self.backup.until.as_mut().zip(self.retention.until()) {
            *until = (*until).max(retained + RETENTION_MARGIN);
        }
        if let Some((_, prefixes)) = self.released.take_if(|(at, _)| *at <= now) {
            self.queue_backup_job(backup::BackupJob::Prune(prefixes));
        }
    }

    fn process_retention_event(&mut self, event: RetentionEvent, now: Instant) {
        match event {
            RetentionEvent::KnownChanged => {
                self.publisher.update(|facts| facts.session_changes += 1);
                state::save_state(state::SERVICES, self.retention.known());
            }
            RetentionEvent::UnannouncedChanged => self.show_unannounced(),
            RetentionEvent::Released(withdrawn) => {
                self.show_retained();
                // Services that were withdrawn before another exit of bgpd are pruned now, too.
                if !withdrawn.is_empty() || self.released.is_some() {
                    let mut all = self.released.take().map(|(_, before)| before).unwrap_or_default();
                    all.extend(withdrawn);
                    self.released = Some((now + PRUNE_DELAY, all));
                }
            }
            RetentionEvent::Finished(RetentionOutcome::SpeakerBack(announced, withdrawn)) => {
                log::info!("the speaker is back: it announces {announced} services again");
                if !withdrawn.is_empty() {
                    log::info!(
                        "the speaker no longer announces {} services: {}",
                        withdrawn.len(),
                        first(MAX_LOGGED_NAMES, &withdrawn)
                    );
                }
            }
            RetentionEvent::Finished(RetentionOutcome::TimedOut(released, is_up)) => log::error!(
                "{} for {} s (METALLB_HOLD_TIME): {} services are no longer announced: {}",
                if is_up {
                    "the speaker is back, but its routes could not be used"
                } else {
                    "the speaker has not come back"
                },
                self.node.config.metallb.retention_s,
                released.len(),
                first(MAX_LOGGED_NAMES, &released)
            ),
        }
    }

    /// Sends BFD AdminDown to the peers of an exited bfdd.
    fn send_admin_down(&mut self, sessions: &[bfd::BfddSession]) {
        let sent = self.node.kernel.router_ns().within(|| Ok(bfd::send_admin_down(sessions)));
        match sent.and_then(|sent| sent) {
            Ok(0) => {}
            Ok(n) => log::info!(daemon = "bfdd"; "BFD AdminDown sent to {n} peers, because bfdd has exited"),
            Err(e) => log::warn!(
                daemon = "bfdd";
                "BFD AdminDown cannot be sent: {e}; the peers may close their BGP sessions"
            ),
        }
    }

    /// Starts the next vtysh, or reports the result after the last one.
    fn start_next_load(&mut self, events: &mut VecDeque<Event>) {
        while let Some(daemon) = self.load_queue.pop_front() {
            let start = || {
                let text = Memfd::sealed("frr.conf", &with_log_settings(&self.text))?;
                let mut command = Command::new("/usr/bin/vtysh");
                command.args(["--vty_socket", SOCKET_DIR, "--config_dir", RUN_DIR, "-f", &text.path()]);
                command.args(daemon.iter().flat_map(|name| ["-d", name.name()]));
                Child::spawn("vtysh", command, Stdio::null(), &[&text])
            };
            match start() {
                Ok(child) => {
                    self.load = Some(child);
                    return;
                }
                Err(e) => {
                    log::error!("vtysh: cannot be started: {e}");
                    self.load_succeeded = false;
                }
            }
        }
        events.push_back(Event::Loaded(self.load_succeeded));
    }

    /// Whether a change of the kernel runs or will follow a change of FRR's configuration.
    fn is_kernel_change_pending(&self) -> bool {
        self.change.is_some() || self.build.is_some()
    }

    /// When to continue if nothing happens.
    fn next_deadline(&self) -> Option<Instant> {
        let is_running = self.end.is_none();
        let queries =
            self.starting.iter().chain(self.session_queries.iter().flat_map(|(queries, _)| queries));
        let next_queries = queries.filter(|q| q.query.is_none()).map(|q| q.next_at);
        let unresponsive = self.policy.next_unresponsive_at(Instant::now());
        let admin_down = self.admin_down.as_ref().map(|(at, _)| *at);
        let repairs = self.repairs.due().filter(|_| is_running && !self.is_kernel_change_pending());
        let others = [
            unresponsive,
            self.policy.next_deadline(),
            self.backup.until,
            self.backup.retry_at,
            repairs,
            admin_down,
            self.workloads_at,
            self.collect_at.map(|(at, _)| at),
        ];
        let graceful_shutdown = self.graceful_shutdown.as_ref().map(GracefulShutdown::deadline);
        let released = self.released.as_ref().map(|(at, _)| *at);
        let extension = self.block_extension();
        let connects = self.blocked_connects.iter().map(|(_, at)| *at + extension);
        let file = self.watch.as_ref().and_then(FileWatch::due).filter(|_| is_running);
        let carriers = self.carriers.deadline().filter(|_| is_running);
        let drift = self.drift.deadline().filter(|_| is_running && self.policy.is_complete());
        let complete = self.policy.is_complete();
        let pending = self.pending_config.as_ref().filter(|_| !self.is_changing() && is_running);
        let pending = pending.map(|pending| pending.due(complete));
        let build = self.build.as_ref().map(Build::deadline).filter(|_| is_running);
        let reread = self.reread_at.filter(|_| is_running);
        let fib_check = self.fib_check.deadline().filter(|_| is_running);
        let more = graceful_shutdown
            .into_iter()
            .chain(self.retention.deadline())
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
            let is_running = self.end.is_none();
            if is_running {
                fds.extend(self.watch.as_ref().map(|watch| PollFd::new(watch, PollFlags::IN)));
                fds.extend(self.file_read.as_ref().map(|read| PollFd::new(&read.task, PollFlags::IN)));
                fds.extend(self.change.as_ref().map(|change| PollFd::new(&change.task, PollFlags::IN)));
                fds.extend(self.cleanup.as_ref().map(|task| PollFd::new(task, PollFlags::IN)));
                fds.extend(self.fib_check.task().map(|task| PollFd::new(task, PollFlags::IN)));
                fds.extend(self.drift_repair.as_ref().map(|task| PollFd::new(task, PollFlags::IN)));
            }
            let children = self.children.iter().chain([&self.load]).flatten();
            let outputs = children.filter_map(|child| child.output.as_ref());
            fds.extend(outputs.map(|output| PollFd::new(output, PollFlags::IN)));
            let queries =
                self.starting.iter().chain(self.session_queries.iter().flat_map(|(queries, _)| queries));
            let queries = queries
                .filter_map(|q| q.query.as_ref())
                .chain(&self.bfd_query)
                .chain(self.retention.queries());
            let queries = queries.chain(self.carriers.queries().filter(|_| is_running));
            fds.extend(
                queries
                    .chain(self.graceful_shutdown.iter().filter_map(GracefulShutdown::query))
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
        for child in self.children.iter_mut().chain([&mut self.load]).flatten() {
            child.read();
        }
        // Every child, so that no finding is processed later.
        let mut sessions_changed = false;
        for child in self.children.iter_mut().flatten() {
            sessions_changed |= child.take_sessions_changed();
            if child.take_install_failed() {
                self.fib_check.install_failed(now);
            }
        }
        if sessions_changed {
            self.start_session_queries(now);
            self.show_notifications();
            self.fib_check.sessions_changed(now);
        }
        if self.signals.stop_requested() && self.end != Some(End::Stopped) {
            self.stop(events, now);
        }
        self.reap(events)?;
        self.poll_queries(events);
        self.step_graceful_shutdown(events, now);
        if let Some((_, sessions)) = self.admin_down.take_if(|(at, _)| *at <= now) {
            self.send_admin_down(&sessions);
        }
        self.step_retention(now);
        let KernelEvents { managed_changed, nexthop_deleted } = self.node.drain_events();
        if nexthop_deleted {
            self.fib_check.next_hop_removed(now);
        }
        if managed_changed || mounts_changed {
            self.repairs.state_changed(now);
        }
        if mounts_changed && let Some(watch) = &mut self.watch {
            watch.mounts_changed(now);
        }
        if self.end.is_none() {
            if managed_changed {
                self.check_ports(now);
            }
            self.drop_stale_paths(now);
            self.process_file_changes(events, now);
            self.check_drift(events, now);
            self.check_fib(now);
        }
        // A pending change may still need what the check would remove.
        if self.end.is_none()
            && !self.is_kernel_change_pending()
            && self.repairs.due().is_some_and(|due| due <= now)
        {
            self.check_kernel(events);
        }
        if self.backup.until.is_some_and(|until| until <= now) {
            self.remove_backup_routes();
        }
        if self.workloads_at.is_some_and(|at| at <= now) {
            self.node.refresh_neighbours();
            self.workloads_at = Some(now + NEIGHBOUR_REFRESH_INTERVAL);
        }
        self.run_backup_jobs();
        self.allow_due_connects(now);
        if !self.is_configuring() {
            self.finished_queries.clear();
        }
        events.push_back(Event::Tick);
        Ok(())
    }

    /// A signal requests the stop, which takes precedence over any other end.
    fn stop(&mut self, events: &mut VecDeque<Event>, now: Instant) {
        let withdraw = withdraws(&self.node.config, self.signals);
        if withdraw && self.end.is_some() {
            // The daemons are stopping already, and the peers keep this node's routes: the next bgpd withdraws them.
            return;
        }
        self.end = Some(End::Stopped);
        self.show_stop();
        self.end_load();
        if !withdraw {
            log::info!("stopping: the peers keep this node's routes, and the kernel keeps its own");
            events.push_back(Event::Stop);
            return;
        }
        let drain = Duration::from_secs(self.node.config.drain_s.into());
        log::info!(
            "stopping: graceful shutdown: the peers prefer other paths, and the sessions are shut down in {} s",
            drain.as_secs()
        );
        let bgpd = self.ready_child(DaemonKind::Bgpd);
        let settled = bgpd.is_some_and(|bgpd| bgpd.age() >= SESSION_QUERY_TIME);
        let bgpd = bgpd.map(|bgpd| bgpd.pid);
        self.graceful_shutdown =
            Some(GracefulShutdown::start(socket(DaemonKind::Bgpd), &self.text, drain, bgpd, settled, now));
    }

    /// Does the next step of the graceful shutdown, and stops the daemons after the last one.
    fn step_graceful_shutdown(&mut self, events: &mut VecDeque<Event>, now: Instant) {
        let bgpd = self.ready_child(DaemonKind::Bgpd).map(|bgpd| bgpd.pid);
        let Some(outcome) = self.graceful_shutdown.as_mut().and_then(|shutdown| shutdown.step(bgpd, now))
        else {
            return;
        };
        self.graceful_shutdown = None;
        let effect = format!(
            "it may send traffic to this node for {} s (GR_RESTART_TIME), unless its port goes down",
            self.node.config.timers.restart_s
        );
        match outcome {
            ShutdownOutcome::Complete(missing) if missing.is_empty() => {}
            ShutdownOutcome::Complete(missing) => {
                let peers = first(MAX_LOGGED_NAMES, &missing);
                log::warn!("stopping: no session with {peers}: {effect}");
            }
            ShutdownOutcome::Failed => {
                log::error!(
                    daemon = "bgpd";
                    "stopping: the graceful shutdown failed, and every peer keeps this node's routes: {effect}"
                );
            }
        }
        events.push_back(Event::Stop);
    }

    /// Checks the kernel's state and repairs drift.
    fn check_kernel(&mut self, events: &mut VecDeque<Event>) {
        let begin = Instant::now();
        let outcome = match self.node.check() {
            CheckOutcome::Clean => RepairOutcome::Clean,
            CheckOutcome::Repaired(last) => {
                log::warn!("repaired in {} µs; last change: {last}", begin.elapsed().as_micros());
                RepairOutcome::Repaired
            }
            CheckOutcome::Reconfigured => {
                log::warn!("a fabric interface was renamed: FRR gets another configuration");
                self.reconfigure(events);
                RepairOutcome::Repaired
            }
            // zebra confuses the two names (`set_ifindex`, `zebra/interface.c`: "results are uncertain").
            CheckOutcome::PortRenamed { reconfigured } => {
                log::warn!(
                    daemon = "zebra";
                    "a fabric interface was renamed: restarting zebra, which knows it under the old name"
                );
                if reconfigured {
                    self.reconfigure(events);
                }
                events.extend(self.running(DaemonKind::Zebra).map(Event::Restart));
                RepairOutcome::Repaired
            }
            CheckOutcome::Partial => RepairOutcome::CheckAfter(RETRY),
            CheckOutcome::Failed => RepairOutcome::Failed,
            CheckOutcome::Unmounted => RepairOutcome::CheckAfter(UNMOUNTED_GRACE),
            CheckOutcome::NamespaceLost(how) => {
                self.end = Some(End::NamespaceGone(how));
                self.end_load();
                events.push_back(Event::Stop);
                RepairOutcome::Clean
            }
        };
        let delay = self.repairs.check_done(outcome, Instant::now());
        if outcome == RepairOutcome::Repaired || delay.is_some() != self.has_conflicting_writer {
            self.has_conflicting_writer = delay.is_some();
            self.publisher.update(|facts| {
                facts.conflicting_writer = delay.is_some();
                if outcome == RepairOutcome::Repaired {
                    facts.counts.repairs += 1;
                    facts.counts.last_repair = Some(Time::now());
                }
            });
        }
        if let Some(delay) = delay {
            log::error!(
                "too many repairs: a conflicting writer reverts them (see the repairs above); the next check is in {} s",
                delay.as_secs()
            );
        }
    }

    /// Another configuration is active because of the ports.
    fn reconfigure(&mut self, events: &mut VecDeque<Event>) {
        // These would continue with the new processes.
        self.end_load();
        self.queued_drift_repairs.clear();
        self.read_parts();
        events.push_back(Event::Reconfigured { can_roll_back: self.node.config_store.can_roll_back() });
    }

    /// Reaps every exited child: those of the supervisor and, if it is PID 1, orphans.
    fn reap(&mut self, events: &mut VecDeque<Event>) -> io::Result<()> {
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
            let daemon = self.children.iter().position(|child| child.as_ref().is_some_and(|c| c.pid == *pid));
            daemon.is_none_or(|i| self.daemons[i].required_dependents().next().is_none())
        });
        for (pid, status) in exited {
            let has_pid = |child: &Option<Child>| child.as_ref().is_some_and(|c| c.pid == pid);
            if let Some(i) = self.children.iter().position(has_pid) {
                if let Some(child) = self.children[i].take() {
                    self.daemon_exited(i, child, status, events);
                }
            } else if has_pid(&self.load) {
                if let Some(child) = self.load.take() {
                    self.load_exited(child, status);
                }
                self.start_next_load(events);
            } else {
                log::debug!("reaped orphan {pid}: {status}");
            }
        }
        Ok(())
    }

    fn daemon_exited(
        &mut self,
        i: usize,
        mut child: Child,
        status: ExitStatus,
        events: &mut VecDeque<Event>,
    ) {
        if self.daemons[i].kind == DaemonKind::Bgpd && self.end.is_none() {
            self.retain_services();
        }
        // While stopping, nothing would remove them.
        if self.daemons[i].owns_kernel_routes && self.end.is_none() {
            // The service of a route that is missing now may still be announced.
            if let Some((at, _)) = &mut self.released {
                *at = Instant::now()
                    + Duration::from_secs(self.node.config.metallb.retention_s.into())
                    + PRUNE_DELAY;
            }
            self.install_backup_routes(self.running(DaemonKind::Zebra).is_none());
        }
        child.read_rest();
        self.records[i].exited(&child, status);
        self.reset_drift(i);
        self.starting.retain(|q| q.daemon != i);
        self.pings.retain(|(daemon, _)| *daemon != i);
        self.partial_replies.retain(|(daemon, _)| *daemon != i);
        if let Some((queries, _)) = &mut self.session_queries {
            queries.retain(|q| q.daemon != i);
        }
        if self.daemons[i].owns_bfd_sessions {
            self.bfd_query = None;
            let sessions = std::mem::take(&mut self.bfd_sessions);
            self.admin_down = Some((Instant::now() + ADMIN_DOWN_DELAY, sessions));
        }
        let (name, pid) = (self.daemons[i].kind, child.pid);
        log::log!(
            child.exit_log_level(),
            daemon = name, pid = pid.as_raw_nonzero().get();
            "{name} exited (pid {pid}, {status}){}",
            child.last_log_line_suffix()
        );
        host::remove_pid_file(name);
        sockets::remove_hard_links(name);
        host::remove_daemon_directory(name, pid);
        events.push_back(Event::Exited(i));
    }

    fn load_exited(&mut self, mut child: Child, status: ExitStatus) {
        child.read_rest();
        if child.was_killed() {
            log::debug!("vtysh was killed");
            self.load_succeeded = false;
        } else if !status.success() {
            log::error!("vtysh: loading the configuration failed: {status}{}", child.last_log_line_suffix());
            self.load_succeeded = false;
        } else if child.is_refused() {
            log::error!("vtysh: parts of the configuration were refused: see its output above");
            self.load_succeeded = false;
        } else if child.has_lost_changes() {
            log::warn!("vtysh: a concurrent change interfered: loading the configuration again");
            self.load_succeeded = false;
        }
    }

    /// Queries bfdd and bgpd about their sessions for [`SESSION_QUERY_TIME`].
    fn start_session_queries(&mut self, now: Instant) {
        let ready: Vec<_> =
            [DaemonKind::Bfdd, DaemonKind::Bgpd].into_iter().filter_map(|name| self.ready(name)).collect();
        let (queries, until) = self.session_queries.get_or_insert((vec![], now));
        *until = now + SESSION_QUERY_TIME;
        for daemon in ready {
            if !queries.iter().any(|q| q.daemon == daemon) {
                queries.push(DaemonQuery { daemon, query: None, next_at: now });
            }
        }
    }

    /// Processes the replies of the daemons, and queries starting daemons again.
    fn poll_queries(&mut self, events: &mut VecDeque<Event>) {
        let now = Instant::now();
        let daemons = &self.daemons;
        let mut started = Vec::new();
        self.starting.retain_mut(|starting| {
            match starting.poll(daemons, || vec![PING.to_owned()], START_QUERY_INTERVAL, now, events) {
                Some(_) => {
                    started.push(starting.daemon);
                    false
                }
                None => true,
            }
        });
        started.iter().for_each(|i| sockets::add_hard_links(self.daemons[*i].kind));
        if started.iter().any(|i| self.daemons[*i].kind == DaemonKind::Bgpd) {
            self.schedule_connects(now);
        }
        if !started.is_empty() {
            self.start_session_queries(now);
            self.show_notifications();
        }
        events.extend(started.into_iter().map(Event::Responded));
        let mut replied = Vec::new();
        if let Some((queries, until)) = &mut self.session_queries {
            // A running query ends with its reply: daemons log an error if the other end closes the connection.
            let is_over = |q: &DaemonQuery| *until <= now && q.query.is_none();
            queries.retain_mut(|query| {
                if is_over(query) {
                    return false;
                }
                let daemon = self.daemons[query.daemon];
                let commands = || status_commands(daemon, &self.retention, true);
                let replies = query.poll(&self.daemons, commands, SESSION_QUERY_INTERVAL, now, events);
                replied.extend(replies.map(|replies| (query.daemon, replies)));
                !is_over(query)
            });
            if queries.is_empty() {
                self.session_queries = None;
            }
        }
        if self.collect_at.is_some_and(|(at, _)| at <= now) {
            self.collect_pings(events, &mut replied, now);
        }
        events.extend(replied.iter().map(|(i, _)| Event::Responded(*i)));
        for (i, replies) in replied {
            self.process_replies(i, &replies);
        }
        match self.bfd_query.as_mut().map(Query::poll_replies) {
            Some(Ok(None)) | None => {}
            Some(Ok(Some(replies))) => {
                self.bfd_query = None;
                let error = replies.into_iter().find(|reply| !reply.success).map(|reply| reply.text);
                if let Some(text) = error.as_ref().filter(|_| error != self.bfd_error) {
                    log::warn!(
                        daemon = "bfdd";
                        "bfdd refuses a peer, which stays without BFD: {}",
                        redact_output(text.trim())
                    );
                }
                self.bfd_error = error;
            }
            Some(Err(_)) => self.bfd_query = None,
        }
    }

    /// Collects the replies to the pings.
    fn collect_pings(
        &mut self,
        events: &mut VecDeque<Event>,
        replied: &mut Vec<(usize, Vec<Reply>)>,
        now: Instant,
    ) {
        for (i, query) in std::mem::take(&mut self.pings) {
            let Some(mut query) = query else {
                self.pings.push((i, None));
                continue;
            };
            match query.poll_replies() {
                Ok(Some(replies)) => {
                    replied.push((i, replies));
                    self.finished_queries.push(query);
                }
                Ok(None) if query.has_reply() => {
                    events.push_back(Event::Responded(i));
                    self.partial_replies.push((i, query));
                }
                // The policy decides how long to wait for a missing reply.
                Ok(None) => self.pings.push((i, Some(query))),
                Err(_) => self.pings.push((i, None)),
            }
        }
        for (i, mut query) in std::mem::take(&mut self.partial_replies) {
            match query.poll_replies() {
                Ok(Some(replies)) => {
                    replied.push((i, replies));
                    self.finished_queries.push(query);
                }
                Ok(None) => self.partial_replies.push((i, query)),
                Err(_) => {}
            }
        }
        let is_open = self.pings.iter().any(|(_, query)| query.is_some()) || !self.partial_replies.is_empty();
        self.collect_at =
            self.collect_at.filter(|_| is_open).map(|(_, delay)| (now + delay, delay.saturating_mul(2)));
    }
}

impl DaemonQuery {
    /// Starts a query if it is due, and returns the replies once they have arrived.
    fn poll(
        &mut self,
        daemons: &[&'static Daemon],
        commands: impl FnOnce() -> Vec<String>,
        interval: Duration,
        now: Instant,
        events: &mut VecDeque<Event>,
    ) -> Option<Vec<Reply>> {
        if self.query.is_none() && self.next_at <= now {
            let query = Query::show(&socket(daemons[self.daemon].kind), commands());
            if query.as_ref().is_err_and(limits::is_own_shortage) {
                events.push_back(Event::PingFailed(self.daemon));
            }
            self.query = query.ok();
            self.next_at = now + interval;
        }
        match self.query.as_mut().map(Query::poll_replies) {
            Some(Ok(Some(replies))) => {
                self.query = None;
                Some(replies)
            }
            // The socket is that of an exited process, or the daemon is not ready: the query is repeated.
            Some(Err(_)) => {
                self.query = None;
                None
            }
            Some(Ok(None)) | None => None,
        }
    }
}

/// Whether a stop at this moment withdraws this node's routes from the peers.
pub fn withdraws(config: &Config, signals: &Signals) -> bool {
    signals.withdraw_requested() || state::on_stop_override().unwrap_or(config.on_stop) == OnStop::Withdraw
}

/// The commands that query the state of a daemon. Any reply shows that the daemon is alive.
fn status_commands(daemon: &Daemon, retention: &Retention, with_neighbors: bool) -> Vec<String> {
    match daemon.kind {
        DaemonKind::Bfdd => bfd::SHOW_SESSIONS.map(str::to_owned).to_vec(),
        DaemonKind::Bgpd => {
            let neighbors = with_neighbors.then(|| neighbors::SHOW_NEIGHBORS.to_owned());
            [retention.summary_command()].into_iter().chain(neighbors).collect()
        }
        _ => vec![PING.to_owned()],
    }
}

/// The part of the configuration that a daemon reads from its file, without what is added at its start.
fn part(parts: &[(DaemonKind, String)], name: DaemonKind) -> Option<&str> {
    parts.iter().find(|(daemon, _)| *daemon == name).map(|(_, text)| text.as_str())
}

fn watch_file(path: &FilePath) -> Option<FileWatch> {
    FileWatch::new(Path::new(path.as_str()))
        .inspect_err(|e| {
            log::warn!("CONFIG_FILE: cannot be watched for changes: {e}; send SIGHUP to read it again")
        })
        .ok()
}

/// The BGP instances that announce retained services.
fn retained_routers(config: &Config) -> RetainedRouters {
    let metallb = &config.metallb;
    RetainedRouters { asn: config.asn, vrf_asn: metallb.asn, vrf: metallb.vrf.clone() }
}
