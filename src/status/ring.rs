//! The last state changes: our own records in the log.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Event, Time};

/// The last state changes.
#[derive(Debug)]
pub struct Ring {
    events: VecDeque<Event>,
    /// How many there have been.
    total: u64,
}

/// So many are kept.
const EVENTS: usize = 300;

/// The one of this process, which the log fills.
static RING: Mutex<Ring> = Mutex::new(Ring { events: VecDeque::new(), total: 0 });

impl Ring {
    fn get() -> MutexGuard<'static, Self> {
        RING.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one.
    pub fn push(level: log::Level, text: String) {
        let mut ring = Self::get();
        if ring.events.len() == EVENTS {
            ring.events.pop_front();
        }
        let level = level.as_str().to_lowercase();
        ring.events.push_back(Event { at: Time::now(), level, text });
        ring.total += 1;
    }

    /// All of them, and how many there have been in all.
    pub fn read() -> (Vec<Event>, u64) {
        let ring = Self::get();
        (ring.events.iter().cloned().collect(), ring.total)
    }

    /// How many there have been in all.
    pub fn total() -> u64 {
        Self::get().total
    }
}
