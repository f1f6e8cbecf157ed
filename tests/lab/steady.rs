//! Whether the machine itself goes on. One of many on its host may stand still for seconds, which no router's timers outlast:
//! what fails meanwhile says nothing, and `steadily` runs it once more.

use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::sh::go_first;

const TURN: Duration = Duration::from_millis(100);

/// That is standing still; a busy machine is late by a tenth of the time, and now and then by a second.
const STILL: Duration = Duration::from_secs(2);

/// Milliseconds that it has been late, at the worst since the test began.
static WORST: AtomicU64 = AtomicU64::new(0);

/// A test begins: if it fails, and the machine stood still meanwhile, its output says so.
pub fn watch_the_machine() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        thread::spawn(|| {
            go_first();
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
            // What stands still just now is known when it goes on.
            thread::sleep(2 * TURN);
            if let Some(time) = stood_still() {
                eprintln!("the machine stood still for {time:?}");
            }
        }));
    });
    WORST.store(0, Relaxed);
}

/// For how long, if it did since the test began or this was asked.
pub fn stood_still() -> Option<Duration> {
    Some(Duration::from_millis(WORST.swap(0, Relaxed))).filter(|time| *time >= STILL)
}
