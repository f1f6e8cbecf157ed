//! The event log: this program's last log records, for the status.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::time::Time;

/// A record of the event log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct LoggedEvent {
    /// When it was logged.
    pub at: Time,
    /// `info`, `warn` or `error`.
    pub level: String,
    /// The log message.
    pub text: String,
}

/// The last log records of this program.
#[derive(Debug)]
pub struct EventLog {
    events: VecDeque<LoggedEvent>,
    /// Number of records since the start.
    total: u64,
}

/// Number of records that are kept.
const MAX_EVENTS: usize = 300;

/// The event log of this process. The logger fills it.
static EVENT_LOG: Mutex<EventLog> = Mutex::new(EventLog { events: VecDeque::new(), total: 0 });

impl EventLog {
    fn get() -> MutexGuard<'static, Self> {
        EVENT_LOG.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record.
    pub fn push(level: log::Level, text: String) {
        let mut log = Self::get();
        if log.events.len() == MAX_EVENTS {
            log.events.pop_front();
        }
        let level = level.as_str().to_lowercase();
        log.events.push_back(LoggedEvent { at: Time::now(), level, text });
        log.total += 1;
    }

    /// The records that are kept, the newest last, and the number of all records since the start.
    pub fn read() -> (Vec<LoggedEvent>, u64) {
        let log = Self::get();
        (log.events.iter().cloned().collect(), log.total)
    }

    /// Number of records since the start.
    pub fn total() -> u64 {
        Self::get().total
    }
}
