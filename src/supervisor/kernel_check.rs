//! Checks of the kernel's state, and what follows from them.

use std::collections::VecDeque;
use std::time::Instant;

use crate::frr::DaemonKind;
use crate::node::{CheckOutcome, UNMOUNTED_GRACE};
use crate::time::Time;

use super::policy::Event;
use super::repairs::{RETRY, RepairOutcome};
use super::{End, Supervisor};
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
    pub(super) fn reconfigure(&mut self, events: &mut VecDeque<Event>) {
        // These would continue with the new processes.
        self.end_load();
        self.queued_drift_repairs.clear();
        self.read_parts();
        events.push_back(Event::Reconfigured { can_roll_back: self.node.config_store.can_roll_back() });
    }
}
