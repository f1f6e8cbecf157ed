//! Schedule of the checks of the kernel's state: soon after a change, never in a tight loop. Pure.

use std::time::{Duration, Instant};

/// Delay from a change to the check, because changes come in bursts.
const CHANGE_DELAY: Duration = Duration::from_millis(5);
/// Shortest time between two checks: on a host where pods come and go, the state changes all the time.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
/// Delay until the next attempt after a failed repair.
pub const RETRY: Duration = Duration::from_secs(5);
/// Repairs that may follow each other without a delay …
const REPAIR_BURST: u32 = 20;
/// … and the interval between further ones: while a conflicting writer undoes the repairs, the supervisor must not
/// repeat them at full speed.
const REPAIR_INTERVAL: Duration = Duration::from_secs(5);

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairOutcome {
    /// The observed state is the desired state.
    Clean,
    /// Drift was repaired.
    Repaired,
    /// Drift could not be repaired.
    Failed,
    /// Check again after this time, or earlier if something changes.
    CheckAfter(Duration),
}

/// Decides when the next check is due.
#[derive(Debug, Default)]
pub struct RepairSchedule {
    due: Option<Instant>,
    not_before: Option<Instant>,
    /// When the budget of repairs is full again, at one repair every [`REPAIR_INTERVAL`].
    budget_refilled_at: Option<Instant>,
}

impl RepairSchedule {
    /// The kernel's state may have changed.
    pub fn state_changed(&mut self, now: Instant) {
        self.check_by(now + CHANGE_DELAY);
    }

    /// Checks at this time, or earlier if something changes.
    pub fn check_by(&mut self, at: Instant) {
        let at = self.not_before.map_or(at, |not_before| at.max(not_before));
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// When to check.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A check is done. Returns the delay until the next one if there were too many repairs.
    pub fn check_done(&mut self, outcome: RepairOutcome, now: Instant) -> Option<Duration> {
        let (retry, pause) = match outcome {
            RepairOutcome::Clean | RepairOutcome::Repaired => (None, MIN_INTERVAL),
            RepairOutcome::Failed => (Some(RETRY), RETRY),
            RepairOutcome::CheckAfter(wait) => (Some(wait), MIN_INTERVAL),
        };
        (self.due, self.not_before) = (retry.map(|wait| now + wait), Some(now + pause));
        if outcome != RepairOutcome::Repaired {
            return None;
        }
        let budget_refilled_at = self.budget_refilled_at.map_or(now, |at| at.max(now)) + REPAIR_INTERVAL;
        self.budget_refilled_at = Some(budget_refilled_at);
        let wait = budget_refilled_at
            .checked_duration_since(now + REPAIR_INTERVAL * REPAIR_BURST)
            .filter(|wait| !wait.is_zero())?;
        self.not_before = Some(now + wait);
        // That check sees what the conflicting writer does meanwhile.
        self.due = self.not_before;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_changes_causes_one_check() {
        let (mut schedule, now) = (RepairSchedule::default(), Instant::now());
        assert_eq!(schedule.due(), None);
        schedule.state_changed(now);
        schedule.state_changed(now + CHANGE_DELAY / 2);
        assert_eq!(schedule.due(), Some(now + CHANGE_DELAY));
        assert_eq!(schedule.check_done(RepairOutcome::Clean, now + CHANGE_DELAY), None);
        assert_eq!(schedule.due(), None);
        schedule.state_changed(now + CHANGE_DELAY);
        assert_eq!(schedule.due(), Some(now + CHANGE_DELAY + MIN_INTERVAL));
    }

    #[test]
    fn repairs_against_a_conflicting_writer_are_slowed_down() {
        let (mut schedule, mut now) = (RepairSchedule::default(), Instant::now());
        let begin = now;
        for _ in 0..REPAIR_BURST {
            assert_eq!(schedule.check_done(RepairOutcome::Repaired, now), None);
        }
        for _ in 0..10 {
            let wait = schedule.check_done(RepairOutcome::Repaired, now).unwrap();
            schedule.state_changed(now);
            assert_eq!(schedule.due(), Some(now + wait));
            now += wait;
        }
        assert_eq!(now - begin, 10 * REPAIR_INTERVAL);
        // No conflict for a while.
        now += REPAIR_INTERVAL * (REPAIR_BURST + 1);
        assert_eq!(schedule.check_done(RepairOutcome::Repaired, now), None);
    }

    #[test]
    fn a_failed_repair_is_retried() {
        let (mut schedule, now) = (RepairSchedule::default(), Instant::now());
        schedule.check_done(RepairOutcome::Failed, now);
        schedule.state_changed(now);
        assert_eq!(schedule.due(), Some(now + RETRY));
        schedule.check_done(RepairOutcome::CheckAfter(RETRY), now);
        assert_eq!(schedule.due(), Some(now + RETRY));
        schedule.state_changed(now);
        assert_eq!(schedule.due(), Some(now + MIN_INTERVAL));
    }
}
