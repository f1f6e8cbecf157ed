//! The BFD sessions of bfdd, and the peers that the supervisor configures in it.

use super::policy::ADMIN_DOWN_DELAY;
use crate::frr::vty::{Query, Reply, socket};
use crate::frr::{DaemonKind, bfd, state};
use std::time::Instant;

use super::Supervisor;
/// What is known of bfdd.
#[derive(Debug)]
pub(super) struct BfdState {
    /// The last known BFD sessions of bfdd.
    pub(super) sessions: Vec<bfd::BfddSession>,
    /// The BFD peers that the supervisor configures in bfdd.
    pub(super) peers: bfd::PeerAddresses,
    /// The running configuration of BFD peers.
    pub(super) query: Option<Query>,
    /// bfdd's last error for one of them.
    pub(super) error: Option<String>,
    /// The sessions of an exited bfdd, and when to send their peers AdminDown: after the exit of bgpd, so that BGP is
    /// in graceful restart.
    pub(super) admin_down: Option<(Instant, Vec<bfd::BfddSession>)>,
}

impl BfdState {
    /// `exited`: the sessions that an earlier instance saved.
    pub(super) fn new(exited: Vec<bfd::BfddSession>, now: Instant) -> Self {
        Self {
            sessions: vec![],
            peers: bfd::PeerAddresses::new(),
            query: None,
            error: None,
            admin_down: Some((now + ADMIN_DOWN_DELAY, exited)),
        }
    }
}

impl Supervisor<'_> {
    pub(super) fn process_bfd_sessions(&mut self, replies: &[Reply]) {
        if bfd::update_sessions(&mut self.bfd.sessions, replies) {
            state::save_state(state::BFD_SESSIONS, &self.bfd.sessions);
        }
        let commands = bfd::peer_commands(&self.bfd.peers, &self.bfd.sessions);
        if !commands.is_empty() && self.bfd.query.is_none() {
            log::debug!(daemon = "bfdd"; "bfdd: {}", commands.join("; "));
            self.bfd.query = self
                .running(DaemonKind::Bfdd)
                .and_then(|i| Query::commands(&socket(self.processes[i].daemon.kind), commands).ok());
        }
    }

    /// Sends BFD AdminDown to the peers of an exited bfdd.
    pub(super) fn send_admin_down(&mut self, sessions: &[bfd::BfddSession]) {
        let sent = self.node.kernel.router_ns().within(|| Ok(bfd::send_admin_down(sessions)));
        match sent.and_then(|sent| sent) {
            Ok(0) => {}
            Ok(n) => log::info!(daemon = "bfdd"; "BFD AdminDown sent to {n} peers, because bfdd has exited"),
            Err(e) => log::warn!(
                daemon = "bfdd";
                "BFD AdminDown cannot be sent: {e}; the peers may close their BGP sessions"
            ),
        }
    }
}
