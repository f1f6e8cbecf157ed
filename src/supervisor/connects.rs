//! The connect guard of a new bgpd: when BGP connects are blocked, and when they are allowed again.

use std::io;
use std::time::{Duration, Instant};

use super::Supervisor;
use super::part::Part;
use super::repairs::RETRY;
use crate::kernel::Connects;

/// Limit of the time until the first reply of a new bgpd: the policy kills it earlier.
pub(super) const START_BLOCK_TIME: Duration = Duration::from_secs(60);

/// Time from the first reply of a new bgpd during which its outbound connects stay blocked: zebra needs some 10 ms to
/// announce the ports to it.
const OUTBOUND_BLOCK_TIME: Duration = Duration::from_millis(500);

/// Time from the first reply of a new bgpd during which inbound connects stay blocked: bgpd connects a second after its
/// first attempt, and later on a loaded machine.
const INBOUND_BLOCK_TIME: Duration = Duration::from_secs(5);

/// Longest extension of these times while backup routes are being installed.
pub(super) const MAX_BLOCK_EXTENSION: Duration = Duration::from_secs(30);

/// The end of the block.
pub(super) struct ConnectPart;

impl Part for ConnectPart {
    fn deadline(&self, supervisor: &Supervisor<'_>) -> Option<Instant> {
        let extension = supervisor.block_extension();
        supervisor.kernel.blocked_connects.iter().map(|(_, at)| *at + extension).min()
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        supervisor.allow_due_connects(now);
        Ok(())
    }
}

impl Supervisor<'_> {
    /// Blocks the BGP connects of a bgpd that is about to start, and those of its peers.
    pub(super) fn block_connects(&mut self) {
        let until = Instant::now() + START_BLOCK_TIME;
        self.kernel.blocked_connects = vec![(Connects::Outbound, until), (Connects::Inbound, until)];
        for (direction, _) in &self.kernel.blocked_connects {
            if let Err(e) = self.node.router.block_connects(*direction) {
                log::warn!(
                    "{direction} BGP connections cannot be blocked: {e}; a new session may be established and closed again"
                );
            }
        }
    }

    /// Schedules the end of the block after the first reply of a new bgpd.
    pub(super) fn schedule_connects(&mut self, now: Instant) {
        self.kernel.blocked_connects = vec![
            (Connects::Outbound, now + OUTBOUND_BLOCK_TIME),
            (Connects::Inbound, now + INBOUND_BLOCK_TIME),
        ];
    }

    /// Extension of the block while backup routes are being installed: bgpd changes routes as soon as its sessions are
    /// established.
    fn block_extension(&self) -> Duration {
        if self.kernel.backup.is_installing() { MAX_BLOCK_EXTENSION } else { Duration::ZERO }
    }

    /// Allows the connects whose block has ended.
    pub(super) fn allow_due_connects(&mut self, now: Instant) {
        let extension = self.block_extension();
        let router = &mut self.node.router;
        self.kernel.blocked_connects.retain_mut(|(direction, at)| {
            if *at + extension > now {
                return true;
            }
            let allowed = router.allow_connects(*direction);
            if let Err(e) = &allowed {
                log::error!(
                    "{direction} BGP connections are still blocked (ip -6 rule, priority 8799): {e}; no new session comes up; \
                     retrying"
                );
                *at = now + RETRY;
            }
            allowed.is_err()
        });
    }
}
