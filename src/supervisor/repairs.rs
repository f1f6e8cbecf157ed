//! When to look after the kernel's state: soon after a change, never in a tight loop. Pure.

use std::time::{Duration, Instant};

/// Changes come in bursts; a look waits this long for the rest.
const SETTLE: Duration = Duration::from_millis(5);
/// The least time between two looks: a host where pods come and go changes all the time.
const PAUSE: Duration = Duration::from_millis(50);
/// When to look again after something could not be put right.
pub const RETRY: Duration = Duration::from_secs(5);
/// So many repairs may come at once …
const BURST: u32 = 20;
/// … and then one in this time: against a program that undoes them we must not go on for ever at full speed.
const EVERY: Duration = Duration::from_secs(5);

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// All is as it should be.
    Nothing,
    /// Something was put right.
    Repaired,
    /// Something could not be put right.
    Failed,
    /// To be looked at again after this, or earlier if something changes.
    Later(Duration),
}

/// The schedule.
#[derive(Debug, Default)]
pub struct Repairs {
    due: Option<Instant>,
    not_before: Option<Instant>,
    /// When the last repair will be paid for, one every [`EVERY`].
    paid: Option<Instant>,
}

impl Repairs {
    /// Something may have changed.
    pub fn changed(&mut self, now: Instant) {
        let earliest = self.not_before.map_or(now + SETTLE, |at| at.max(now + SETTLE));
        self.due = Some(self.due.map_or(earliest, |due| due.min(earliest)));
    }

    /// When to look.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A look was taken. Returns how long to wait for the next one if there have been too many repairs.
    pub fn looked(&mut self, found: Found, now: Instant) -> Option<Duration> {
        let (again, pause) = match found {
            Found::Nothing | Found::Repaired => (None, PAUSE),
            Found::Failed => (Some(RETRY), RETRY),
            Found::Later(wait) => (Some(wait), PAUSE),
        };
        (self.due, self.not_before) = (again.map(|wait| now + wait), Some(now + pause));
        if found != Found::Repaired {
            return None;
        }
        let paid = self.paid.map_or(now, |at| at.max(now)) + EVERY;
        self.paid = Some(paid);
        let wait = paid.checked_duration_since(now + EVERY * BURST).filter(|wait| !wait.is_zero())?;
        self.not_before = Some(now + wait);
        // What the other program does meanwhile is seen then.
        self.due = self.not_before;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_changes_is_one_look() {
        let (mut repairs, now) = (Repairs::default(), Instant::now());
        assert_eq!(repairs.due(), None);
        repairs.changed(now);
        repairs.changed(now + SETTLE / 2);
        assert_eq!(repairs.due(), Some(now + SETTLE));
        assert_eq!(repairs.looked(Found::Nothing, now + SETTLE), None);
        assert_eq!(repairs.due(), None);
        repairs.changed(now + SETTLE);
        assert_eq!(repairs.due(), Some(now + SETTLE + PAUSE));
    }

    #[test]
    fn a_fight_is_slowed_down() {
        let (mut repairs, mut now) = (Repairs::default(), Instant::now());
        let begin = now;
        for _ in 0..BURST {
            assert_eq!(repairs.looked(Found::Repaired, now), None);
        }
        for _ in 0..10 {
            let wait = repairs.looked(Found::Repaired, now).unwrap();
            repairs.changed(now);
            assert_eq!(repairs.due(), Some(now + wait));
            now += wait;
        }
        assert_eq!(now - begin, 10 * EVERY);
        // Peace again.
        now += EVERY * (BURST + 1);
        assert_eq!(repairs.looked(Found::Repaired, now), None);
    }

    #[test]
    fn what_failed_is_tried_again() {
        let (mut repairs, now) = (Repairs::default(), Instant::now());
        repairs.looked(Found::Failed, now);
        repairs.changed(now);
        assert_eq!(repairs.due(), Some(now + RETRY));
        repairs.looked(Found::Later(RETRY), now);
        assert_eq!(repairs.due(), Some(now + RETRY));
        repairs.changed(now);
        assert_eq!(repairs.due(), Some(now + PAUSE));
    }
}
