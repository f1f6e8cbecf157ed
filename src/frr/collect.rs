//! When to collect the replies to several queries that were sent at the same time.

use std::time::{Duration, Instant};

/// The time until the first collection. Each further delay is twice as long: a wake-up for each reply would cost more
/// than the replies.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// The longest delay.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// The time of the next collection; none without an open query.
#[derive(Debug, Default)]
pub struct CollectTimer(Option<(Instant, Duration)>);

impl CollectTimer {
    /// Queries were sent.
    pub fn start(&mut self, now: Instant) {
        self.0 = Some((now + FIRST_DELAY, FIRST_DELAY));
    }

    /// The time of the next collection.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.map(|(at, _)| at)
    }

    /// Whether to collect now. If so, schedules the next collection.
    pub fn take_due(&mut self, now: Instant) -> bool {
        let Some((_, delay)) = self.0.filter(|(at, _)| *at <= now) else { return false };
        let delay = (delay * 2).min(MAX_DELAY);
        self.0 = Some((now + delay, delay));
        true
    }

    /// No query is open any more.
    pub fn stop(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_to_a_second() {
        let sent = Instant::now();
        let mut timer = CollectTimer::default();
        assert!(!timer.take_due(sent) && timer.deadline().is_none());
        timer.start(sent);
        let mut at = Vec::new();
        for ms in 0..4_000 {
            if timer.take_due(sent + Duration::from_millis(ms)) {
                at.push(ms);
            }
        }
        assert_eq!(at, [100, 300, 700, 1_500, 2_500, 3_500]);
        timer.stop();
        assert_eq!(timer.deadline(), None);
    }
}
