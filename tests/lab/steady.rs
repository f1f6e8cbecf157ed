//! Detects standstills of the machine. A virtual machine may stand still for seconds, longer than any router's timers:
//! a failure in that time proves nothing, and `steadily` runs that test once more.

use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::sh::raise_priority;

const TURN: Duration = Duration::from_millis(100);

/// The delay that is a standstill. A busy machine is late by a tenth of the time, and sometimes by a second.
const STILL: Duration = Duration::from_secs(2);

/// The longest delay since the test began, in milliseconds.
static WORST: AtomicU64 = AtomicU64::new(0);

/// To be called when a test begins: if the test fails, and the machine stood still meanwhile, its output has a line
/// about that.
pub fn watch_the_machine() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        thread::spawn(|| {
            raise_priority();
            let mut late = Duration::ZERO;
            loop {
                let start = Instant::now();
                thread::sleep(TURN);
                let took = start.elapsed();
                late = (late + took - TURN).saturating_sub(took / 10);
                WORST.fetch_max(late.as_millis() as u64, Relaxed);
            }
        });
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            usual(info);
            // A standstill at this moment is known only when it is over.
            thread::sleep(2 * TURN);
            if let Some(time) = stood_still() {
                eprintln!("the machine stood still for {time:?}");
            }
        }));
    });
    WORST.store(0, Relaxed);
}

/// How long the machine stood still since the test began or the last call; nothing if it did not.
pub fn stood_still() -> Option<Duration> {
    Some(Duration::from_millis(WORST.swap(0, Relaxed))).filter(|time| *time >= STILL)
}
