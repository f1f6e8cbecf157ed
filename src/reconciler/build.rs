//! The kernel part of a change, in small batches: no more at once than FRR can process.

use std::thread;
use std::time::{Duration, Instant};

use super::{NodeView, Outcome, Worker};
use crate::frr::DaemonKind;
use crate::frr::vty::{PING, Query, socket};
use crate::node::Candidate;

/// Daemons that get the events of links, addresses and VRFs.
const NOTIFIED_DAEMONS: [DaemonKind; 2] = [DaemonKind::Zebra, DaemonKind::Bgpd];

/// Interval between two checks for their replies.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// Longest wait for them; the next batch follows in any case.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

impl Worker {
    /// Makes the candidate the active configuration, and changes the kernel.
    pub(super) fn adopt(&mut self, candidate: Candidate) {
        let is_same_text = candidate.active.store.active() == self.node.active.store.active();
        let result = self.build(candidate);
        if is_same_text {
            self.history.same_text_activated(&self.node.active);
        } else {
            self.history.other_activated();
        }
        self.report(Outcome::Built(result, NodeView::new(&self.node)));
    }

    /// Changes the kernel to the candidate, which becomes the node's configuration. Returns the number of changes.
    pub(super) fn build(&mut self, candidate: Candidate) -> Result<usize, String> {
        let started = Instant::now();
        let changes = self.node.adopt(candidate);
        self.node.publish_configuration();
        let mut changes = changes?;
        loop {
            self.progress(true);
            match self.node.build(&mut changes) {
                Ok(true) => break,
                Ok(false) if self.is_build_over() => break,
                Ok(false) => {
                    log::debug!("{} kernel changes remain", changes.remaining());
                    self.await_daemons();
                }
                Err(e) => {
                    log::error!("{e}");
                    break;
                }
            }
        }
        Ok(self.node.finish_build(changes, started))
    }

    /// Waits until the daemons have processed the events of a batch, do not run, or do not reply in time.
    fn await_daemons(&self) {
        let (mut pending, mut queries) = (Vec::from(NOTIFIED_DAEMONS), vec![]);
        let until = Instant::now() + REPLY_TIMEOUT;
        while Instant::now() < until && !self.is_build_over() {
            pending.retain(|daemon| match Query::show(&socket(*daemon), [PING]) {
                Ok(query) => {
                    queries.push(query);
                    false
                }
                // The daemon runs, but is too busy to accept connections.
                Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
            });
            queries.retain_mut(|query| matches!(query.poll_replies(), Ok(None)));
            if queries.is_empty() && pending.is_empty() {
                return;
            }
            thread::sleep(CHECK_INTERVAL);
        }
    }
}
