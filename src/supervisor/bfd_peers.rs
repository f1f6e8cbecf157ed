//! The BFD sessions of bfdd, and the peers that the supervisor configures in it.

use crate::frr::vty::{Query, Reply, socket};
use crate::frr::{DaemonKind, bfd, state};

use super::Supervisor;
impl Supervisor<'_> {
    pub(super) fn process_bfd_sessions(&mut self, replies: &[Reply]) {
        if bfd::update_sessions(&mut self.bfd_sessions, replies) {
            state::save_state(state::BFD_SESSIONS, &self.bfd_sessions);
        }
        let commands = bfd::peer_commands(&self.bfd_peers, &self.bfd_sessions);
        if !commands.is_empty() && self.bfd_query.is_none() {
            log::debug!(daemon = "bfdd"; "bfdd: {}", commands.join("; "));
            self.bfd_query = self
                .running(DaemonKind::Bfdd)
                .and_then(|i| Query::commands(&socket(self.daemons[i].kind), commands).ok());
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
