//! Supervisor of the daemons and of the node.

mod actions;
mod activity;
mod back_off;
mod backup;
mod bfd_peers;
mod carrier;
mod change;
mod config_file;
mod config_load;
mod connects;
mod daemons;
mod drift;
mod fib;
mod graceful_shutdown;
mod kernel_check;
mod linked_kill;
mod node_handle;
mod output;
mod part;
mod policy;
mod process;
mod queries;
mod reconcile;
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

use rustix::event::PollFd;

use crate::config::Config;
use crate::frr::{Daemon, DaemonKind, bfd, state};
use crate::kernel::Monitor;
use crate::node::{self, ActiveConfig, Node, RollbackHistory};
use crate::signals::Signals;
use crate::status::{NodePhase, Publisher};

use bfd_peers::BfdState;
use config_file::ConfigFile;
use config_load::ConfigLoad;
use connects::{MAX_BLOCK_EXTENSION, START_BLOCK_TIME};
use daemons::Process;
use drift::ConfigDrift;
use kernel_check::KernelState;
use node_handle::NodeHandle;
use part::{PARTS, Part};
use policy::{Event, Policy, PolicySettings};
use process::Child;
use queries::QueryState;
use reload::RunningChange;
use services::Services;
use stop::Ending;
pub use stop::withdraws;

/// Largest number of names in a log line.
const MAX_LOGGED_NAMES: usize = 20;

/// The active configuration: its sources, what the daemons have of it, and its changes.
#[derive(Debug)]
struct ConfigState<'a> {
    /// The configuration from the environment alone.
    base: &'a Config,
    active: ActiveConfig,
    load: ConfigLoad,
    file: ConfigFile,
    change: RunningChange,
    drift: ConfigDrift,
}

/// Why the loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A signal has requested the stop.
    Stopped,
    /// This configuration needs other daemons, or another start order.
    Reconfigured(Arc<Config>),
    /// FRR's namespace is lost, and why.
    NamespaceGone(&'static str),
}

/// The daemons, and everything that the loop polls.
#[derive(Debug)]
pub struct Supervisor<'a> {
    node: NodeHandle,
    signals: &'a Signals,
    publisher: Arc<Publisher>,
    /// What the policy has not processed yet.
    events: VecDeque<Event>,
    /// In the order of their start; the restart policy counts them by it.
    processes: Vec<Process>,
    policy: Policy,
    config: ConfigState<'a>,
    queries: QueryState,
    bfd: BfdState,
    services: Services,
    kernel: KernelState,
    ending: Ending,
}

impl<'a> Supervisor<'a> {
    /// Takes a node that is set up, and starts its daemons. `monitor` has reported every change since the node's devices
    /// were read.
    ///
    /// # Errors
    /// No thread or descriptor is available.
    pub fn start(
        base: &'a Config,
        (node, monitor): (Node, Monitor),
        signals: &'a Signals,
        publisher: &Arc<Publisher>,
        mut history: Box<RollbackHistory>,
    ) -> io::Result<Self> {
        let now = Instant::now();
        let active = node.active.clone();
        history.node_set_up(&active, publisher);
        node.publish_configuration();
        let config = &active.config;
        let daemons = node::daemons(config, node.version);
        let reads_file = |d: &&Daemon| d.is_configured_by_file() && active.store.part(d.kind).is_some();
        let with_file: Vec<_> = daemons.iter().copied().filter(reads_file).collect();
        let bfd_sessions: Vec<bfd::BfddSession> = state::load_state(state::BFD_SESSIONS);
        let settings = PolicySettings {
            daemons: &daemons,
            with_file: &with_file,
            liveness_timeout: Duration::from_secs(config.settings.liveness_timeout.get().into()),
            can_roll_back: active.store.can_roll_back(),
            has_stale_bfd_sessions: !bfd_sessions.is_empty(),
            seed: std::process::id()
                ^ now.elapsed().subsec_nanos()
                ^ u32::from(config.settings.node_ip.get()),
        };
        let node = NodeHandle::start(node, monitor, history)?;
        let mut supervisor = Self {
            policy: Policy::new(settings, now),
            events: VecDeque::from([Event::Tick]),
            processes: daemons.iter().map(|daemon| Process::new(daemon, publisher)).collect(),
            publisher: Arc::clone(publisher),
            queries: QueryState::new(now),
            bfd: BfdState::new(bfd_sessions, now),
            services: Services::new(config, now),
            kernel: KernelState::new(&node.router, config, now),
            config: ConfigState {
                base,
                load: ConfigLoad::default(),
                file: ConfigFile::new(base, now),
                change: RunningChange::default(),
                drift: ConfigDrift::new(node.version, now),
                active,
            },
            ending: Ending::default(),
            node,
            signals,
        };
        supervisor.publisher.update(|facts| facts.set_phase(NodePhase::Running));
        supervisor.check_ports(now);
        supervisor.confirm_missing_routes();
        // The routes of an earlier instance need backup routes while the new daemons start. Some of its backup routes
        // may have no original.
        supervisor.retain_services();
        supervisor.install_backup_routes(true);
        supervisor.process_events();
        Ok(supervisor)
    }

    /// Adds the descriptors that become readable when there is something to do.
    pub fn add_fds<'b>(&'b self, fds: &mut Vec<PollFd<'b>>) {
        self.active_parts().for_each(|part| part.add_fds(self, fds));
    }

    /// When there is something to do if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.active_parts().filter_map(|part| part.deadline(self)).min()
    }

    /// Does what is due. `mounts_changed`: the table of mounts has changed. Returns why the daemons were stopped when all
    /// of them have exited.
    ///
    /// # Errors
    /// The loop cannot continue.
    pub fn step(&mut self, mounts_changed: bool) -> io::Result<Option<End>> {
        self.kernel.mounts_changed |= mounts_changed;
        let now = Instant::now();
        self.queries.iteration_started = now;
        for part in PARTS {
            if self.ending.end.is_none() || part.runs_while_stopping() {
                part.step(self, now)?;
            }
        }
        self.events.push_back(Event::Tick);
        self.process_events();
        if self.ending.end.is_some() {
            self.node.reconciler.begin_end();
        }
        if !self.ending.finished {
            return Ok(None);
        }
        self.allow_due_connects(Instant::now() + START_BLOCK_TIME + MAX_BLOCK_EXTENSION);
        Ok(Some(self.ending.end.take().unwrap_or(End::Stopped)))
    }

    /// The node without its daemons, and the history.
    pub fn into_node(self) -> (Node, Box<RollbackHistory>) {
        self.node.reconciler.into_node()
    }

    fn process_events(&mut self) {
        while let Some(event) = self.events.pop_front() {
            for action in self.policy.step(event, Instant::now()) {
                self.act(action);
            }
        }
        self.show_daemons(Instant::now());
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

    /// Called when a daemon runs, or is about to run, with exactly its configuration.
    fn reset_drift(&mut self, i: usize) {
        let daemon = self.processes[i].daemon.kind;
        self.config.drift.monitor.reset(daemon, Instant::now());
        self.publisher.update(|facts| drop(facts.drift.remove(daemon.name())));
    }

    /// Whether a change of the kernel runs or will follow a change of FRR's configuration.
    fn is_kernel_change_pending(&self) -> bool {
        self.config.change.commands.is_some() || self.config.change.job.is_some()
    }

    /// The parts that go on.
    fn active_parts(&self) -> impl Iterator<Item = &'static dyn Part> + use<> {
        let is_running = self.ending.end.is_none();
        PARTS.into_iter().filter(move |part| is_running || part.runs_while_stopping())
    }
}
