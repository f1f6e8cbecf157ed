//! Notifications to systemd.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::{DaemonState, NodePhase, Publisher, Status, text};

/// Notifications to systemd, if it started this program.
pub(super) struct Systemd {
    /// Interval of the watchdog notifications.
    interval: Option<Duration>,
    /// When the next watchdog notification is due.
    pub(super) due: Option<Instant>,
    is_ready: bool,
    is_reloading: bool,
    /// The last status line.
    last_line: String,
}

impl Systemd {
    pub(super) fn new() -> Self {
        let interval = sd_notify::watchdog_enabled().map(|interval| interval / 2);
        Self {
            interval,
            due: interval.map(|_| Instant::now()),
            is_ready: false,
            is_reloading: false,
            last_line: String::new(),
        }
    }

    pub(super) fn notify(states: &[NotifyState<'_>]) {
        // Without systemd's socket there is nothing to do.
        let _ = sd_notify::notify(states);
    }

    pub(super) fn keep_alive(&mut self, publisher: &Publisher, now: Instant) {
        if let Some(interval) = self.interval
            && self.due.is_some_and(|due| due <= now)
        {
            self.due = Some(now + interval);
            if publisher.is_alive() {
                Self::notify(&[NotifyState::Watchdog]);
            }
        }
    }

    pub(super) fn notify_status(&mut self, status: &Status) {
        let line = text::line(status);
        if line != self.last_line {
            Self::notify(&[NotifyState::Status(&line)]);
            self.last_line = line;
        }
        let all_running = status.daemons.iter().all(|daemon| daemon.state == DaemonState::Running);
        match status.phase {
            NodePhase::Running if !self.is_ready && all_running => {
                Self::notify(&[NotifyState::Ready]);
                self.is_ready = true;
            }
            NodePhase::Stopping if self.is_ready => {
                Self::notify(&[NotifyState::Stopping]);
                self.is_ready = false;
            }
            _ => {}
        }
        if self.is_ready && self.is_reloading != status.counts.changing {
            self.is_reloading = status.counts.changing;
            if !self.is_reloading {
                Self::notify(&[NotifyState::Ready]);
            } else if let Ok(now) = NotifyState::monotonic_usec_now() {
                Self::notify(&[NotifyState::Reloading, now]);
            }
        }
    }
}
