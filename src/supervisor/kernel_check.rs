//! Checks of the kernel's state, and what follows from them.

use super::fib;
use super::repairs::RepairSchedule;
use crate::config::Config;
use std::collections::VecDeque;
use std::time::Instant;

use crate::frr::DaemonKind;
use crate::node::{CheckOutcome, UNMOUNTED_GRACE};
use crate::time::Time;

use super::policy::Event;
use super::repairs::{RETRY, RepairOutcome};
use super::{End, Supervisor};
/// The checks of the kernel.
#[derive(Debug)]
pub(super) struct KernelState {
    pub(super) repairs: RepairSchedule,
    pub(super) fib: fib::FibCheck,
    /// Another program reverts the repairs.
    pub(super) has_conflicting_writer: bool,
    /// When to check for silent workloads, if the node is their gateway.
    pub(super) workloads_at: Option<Instant>,
}

impl KernelState {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        Self {
            repairs: RepairSchedule::default(),
            fib: fib::FibCheck::new(now),
            has_conflicting_writer: false,
            workloads_at: config.overlay.has_gateways().then_some(now),
        }
    }
}

impl Supervisor<'_> {
    /// Checks the kernel's state and repairs drift.
    pub(super) fn check_kernel(&mut self, events: &mut VecDeque<Event>) {
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
                self.ending.end = Some(End::NamespaceGone(how));
                self.end_load();
                events.push_back(Event::Stop);
                RepairOutcome::Clean
            }
        };
        let delay = self.kernel.repairs.check_done(outcome, Instant::now());
        if outcome == RepairOutcome::Repaired || delay.is_some() != self.kernel.has_conflicting_writer {
            self.kernel.has_conflicting_writer = delay.is_some();
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
    pub(super) fn reconfigure(&mut self, events: &mut VecDeque<Event>) {
        // These would continue with the new processes.
        self.end_load();
        self.drift.queued.clear();
        self.read_parts();
        events.push_back(Event::Reconfigured { can_roll_back: self.node.config_store.can_roll_back() });
    }
}
