//! Checks of the kernel's state, and what follows from them.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::PollFd;

use super::backup::BackupRouteJobs;
use super::carrier::FabricPorts;
use super::fib;
use super::part::Part;
use super::policy::Event;
use super::repairs::RepairSchedule;
use super::repairs::{RETRY, RepairOutcome};
use super::{End, Supervisor};
use crate::config::Config;
use crate::frr::DaemonKind;
use crate::kernel::{CONFIRM_DELAY, Connects, KernelEvents, RouterNetns};
use crate::node::{CheckOutcome, UNMOUNTED_GRACE};
use crate::reconciler::{Checked, Job, NodeView};
use crate::status::Probe;
use crate::time::Time;

/// Interval of the checks for silent workloads: well below the 300 s after which a bridge forgets a MAC address.
const NEIGHBOUR_REFRESH_INTERVAL: Duration = Duration::from_secs(30);

/// The checks of the kernel.
#[derive(Debug)]
pub(super) struct KernelState {
    pub(super) repairs: RepairSchedule,
    /// Whether a check is running, and whether the kernel's state has changed since its start.
    pub(super) check: Option<RunningCheck>,
    pub(super) fib: fib::FibCheck,
    /// The last change of the last repair.
    last_repair: String,
    /// Another program reverts the repairs.
    pub(super) has_conflicting_writer: bool,
    /// When to check for silent workloads, if the node is their gateway.
    pub(super) workloads_at: Option<Instant>,
    /// The table of mounts has changed.
    pub(super) mounts_changed: bool,
    pub(super) carriers: FabricPorts,
    pub(super) backup: BackupRouteJobs,
    /// The directions in which BGP connects are blocked, and until when.
    pub(super) blocked_connects: Vec<(Connects, Instant)>,
    /// Detects a second zebra, and packets with a wrong password.
    pub(super) probe: Option<Probe>,
}

/// A check that the reconciler does.
#[derive(Debug, Default)]
pub(super) struct RunningCheck {
    /// The kernel's state has changed since its start, and must be checked again.
    is_outdated: bool,
}

impl KernelState {
    pub(super) fn new(router: &RouterNetns, config: &Config, now: Instant) -> Self {
        Self {
            repairs: RepairSchedule::default(),
            check: None,
            fib: fib::FibCheck::new(now),
            last_repair: String::new(),
            has_conflicting_writer: false,
            workloads_at: config.overlay.has_gateways().then_some(now),
            mounts_changed: false,
            carriers: FabricPorts::default(),
            backup: BackupRouteJobs::default(),
            // An earlier instance may have left them blocked.
            blocked_connects: vec![(Connects::Outbound, now), (Connects::Inbound, now)],
            probe: router
                .ns()
                .within(Probe::open)
                .inspect_err(|e| log::warn!("a second zebra or a wrong password cannot be detected: {e}"))
                .ok(),
        }
    }

    /// The kernel's state may have changed.
    pub(super) fn state_changed(&mut self, now: Instant) {
        self.repairs.state_changed(now);
        if let Some(check) = &mut self.check {
            check.is_outdated = true;
        }
    }
}

/// What the kernel reports.
pub(super) struct KernelEventPart;

impl Part for KernelEventPart {
    fn add_fds<'a>(&self, supervisor: &'a Supervisor<'_>, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(supervisor.node.monitor.fds());
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        let KernelEvents { managed_changed, nexthop_deleted } = supervisor.node.monitor.drain();
        let mounts_changed = std::mem::take(&mut supervisor.kernel.mounts_changed);
        if nexthop_deleted {
            supervisor.kernel.fib.next_hop_removed(now);
        }
        if managed_changed || mounts_changed {
            supervisor.kernel.state_changed(now);
        }
        if mounts_changed && let Some(watch) = &mut supervisor.config.file.watch {
            watch.mounts_changed(now);
        }
        if managed_changed && supervisor.ending.end.is_none() {
            supervisor.check_ports(now);
        }
        Ok(())
    }
}

/// Checks of the kernel's state.
pub(super) struct KernelCheckPart;

impl Part for KernelCheckPart {
    fn runs_while_stopping(&self) -> bool {
        false
    }

    fn deadline(&self, supervisor: &Supervisor<'_>) -> Option<Instant> {
        // A pending change may still need what the check would remove.
        supervisor.kernel.repairs.due().filter(|_| supervisor.can_check_kernel())
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        if supervisor.can_check_kernel() && supervisor.kernel.repairs.due().is_some_and(|due| due <= now) {
            supervisor.kernel.check = Some(RunningCheck::default());
            supervisor.node.reconciler.send(Job::Check);
        }
        Ok(())
    }
}

/// The refresh of silent workloads.
pub(super) struct WorkloadPart;

impl Part for WorkloadPart {
    fn deadline(&self, supervisor: &Supervisor<'_>) -> Option<Instant> {
        supervisor.kernel.workloads_at
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        if supervisor.kernel.workloads_at.is_some_and(|at| at <= now) {
            supervisor.node.reconciler.send(Job::RefreshNeighbours);
            supervisor.kernel.workloads_at = Some(now + NEIGHBOUR_REFRESH_INTERVAL);
        }
        Ok(())
    }
}

impl Supervisor<'_> {
    /// Whether a check can start.
    fn can_check_kernel(&self) -> bool {
        self.kernel.check.is_none() && !self.is_kernel_change_pending()
    }

    /// Processes the result of a check.
    pub(super) fn kernel_checked(&mut self, checked: Checked) {
        let Checked { outcome, took, active, view } = checked;
        let is_outdated = self.kernel.check.take().is_some_and(|check| check.is_outdated);
        self.config.active.adopt(*active);
        self.node_changed(view);
        let outcome = match outcome {
            CheckOutcome::Clean => RepairOutcome::Clean,
            CheckOutcome::Repaired(last) => {
                log::warn!("repaired in {} µs; last change: {last}", took.as_micros());
                self.kernel.last_repair = last.to_string();
                RepairOutcome::Repaired
            }
            CheckOutcome::Reconfigured { ports } => {
                log::warn!(
                    "the fabric NICs are now {ports}: all daemons restart in place with another frr.conf"
                );
                self.reconfigure();
                RepairOutcome::Repaired
            }
            // zebra confuses the two names (`set_ifindex`, `zebra/interface.c`: "results are uncertain").
            CheckOutcome::PortRenamed { renamed, reconfigured } => {
                log::warn!(
                    daemon = "zebra";
                    "fabric ports were renamed ({}): restarting zebra, which knows them under the old names",
                    renamed.join(", ")
                );
                if reconfigured {
                    self.reconfigure();
                }
                self.events.extend(self.running(DaemonKind::Zebra).map(Event::Restart));
                RepairOutcome::Repaired
            }
            CheckOutcome::Partial => RepairOutcome::CheckAfter(RETRY),
            CheckOutcome::Failed => RepairOutcome::Failed,
            CheckOutcome::Unmounted => RepairOutcome::CheckAfter(UNMOUNTED_GRACE),
            CheckOutcome::NamespaceLost(how) => {
                self.ending.end = Some(End::NamespaceGone(how));
                self.end_load();
                self.events.push_back(Event::Stop);
                RepairOutcome::Clean
            }
        };
        let now = Instant::now();
        let delay = self.kernel.repairs.check_done(outcome, now);
        if is_outdated {
            self.kernel.repairs.state_changed(now);
        }
        self.confirm_missing_routes();
        if outcome == RepairOutcome::Repaired || delay.is_some() != self.kernel.has_conflicting_writer {
            self.kernel.has_conflicting_writer = delay.is_some();
            self.publisher.update(|facts| {
                facts.conflicting_writer = delay.map(|_| self.kernel.last_repair.clone());
                if outcome == RepairOutcome::Repaired {
                    facts.counts.repairs += 1;
                    facts.counts.last_repair = Some(Time::now());
                }
            });
        }
        if let Some(delay) = delay {
            log::error!(
                "too many repairs: a conflicting writer reverts them; last repair: {}; the next check is in {} s",
                self.kernel.last_repair,
                delay.as_secs()
            );
        }
    }

    /// The reconciler has done a job.
    pub(super) fn node_changed(&mut self, view: NodeView) {
        let has_other_ports = self.node.view.fabric_ports != view.fabric_ports;
        self.node.view = view;
        if has_other_ports {
            self.check_ports(Instant::now());
        }
    }

    /// Checks again whether routes are missing that the kernel may be about to create.
    pub(super) fn confirm_missing_routes(&mut self) {
        if self.node.view.has_unconfirmed_routes {
            self.kernel.repairs.check_by(Instant::now() + CONFIRM_DELAY);
        }
    }

    /// Another configuration is active because of the ports.
    pub(super) fn reconfigure(&mut self) {
        // These would continue with the new processes.
        self.end_load();
        self.config.drift.queued.clear();
        let can_roll_back = self.config.active.store.can_roll_back();
        self.events.push_back(Event::Reconfigured { can_roll_back });
    }
}
