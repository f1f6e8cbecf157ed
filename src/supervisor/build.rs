//! The kernel part of a change, in small batches: no more at once than FRR can process, and so that a daemon that exits
//! is restarted meanwhile.

use std::io;
use std::time::{Duration, Instant};

use crate::frr::DaemonKind;
use crate::frr::delta::Step;
use crate::frr::vty::{PING, Query, socket};
use crate::kernel::Changes;

/// Daemons that get the events of links, addresses and VRFs.
const NOTIFIED_DAEMONS: [DaemonKind; 2] = [DaemonKind::Zebra, DaemonKind::Bgpd];

/// Interval between two checks for their replies.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// Longest wait for them; the next batch follows in any case.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Changes of the kernel in progress.
#[derive(Debug)]
pub struct Build {
    /// The remaining changes, and the results of the others.
    pub changes: Changes,
    /// Time of the start.
    pub started: Instant,
    /// Number of commands that FRR has executed before; `None` after a rollback.
    pub commands: Option<usize>,
    /// Steps for FRR after the last batch.
    pub late: Vec<Step>,
    /// Daemons without a query yet.
    pending: Vec<DaemonKind>,
    queries: Vec<Query>,
    queried_at: Instant,
    check_at: Instant,
}

impl Build {
    /// No change is made yet.
    pub fn new(changes: Changes, commands: Option<usize>, late: Vec<Step>, now: Instant) -> Self {
        Self {
            changes,
            started: now,
            commands,
            late,
            pending: vec![],
            queries: vec![],
            queried_at: now,
            check_at: now,
        }
    }

    /// When to call [`Self::is_processed`] again.
    pub fn deadline(&self) -> Instant {
        self.check_at
    }

    /// Called after a batch: queries the daemons that get its events, to find out when they have processed them.
    pub fn batch_done(&mut self, now: Instant) {
        self.pending = NOTIFIED_DAEMONS.into();
        self.queries.clear();
        self.send_queries();
        (self.queried_at, self.check_at) = (now, now + CHECK_INTERVAL);
    }

    fn send_queries(&mut self) {
        let queries = &mut self.queries;
        self.pending.retain(|daemon| match Query::show(&socket(*daemon), [PING]) {
            Ok(query) => {
                queries.push(query);
                false
            }
            // The daemon runs, but is too busy to accept connections.
            Err(e) => e.kind() == io::ErrorKind::WouldBlock,
        });
    }

    /// Whether the daemons have processed the batch, do not run, or have timed out.
    pub fn is_processed(&mut self, now: Instant) -> bool {
        self.queries.retain_mut(|query| matches!(query.poll_replies(), Ok(None)));
        self.send_queries();
        let is_processed =
            (self.queries.is_empty() && self.pending.is_empty()) || now >= self.queried_at + REPLY_TIMEOUT;
        if !is_processed {
            self.check_at = now + CHECK_INTERVAL;
        }
        is_processed
    }
}
