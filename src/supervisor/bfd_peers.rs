//! The BFD sessions of bfdd, and the peers that the supervisor configures in it.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::Supervisor;
use super::part::Part;
use super::policy::Event;
use crate::frr::vty::{Query, Reply, socket};
use crate::frr::{DaemonKind, bfd, redact_output, state};
use crate::kernel::{BgpConnection, TcpState, bgp_connections};

/// Time from the exit of bfdd until its peers get AdminDown. Most peers notice the exit of bgpd within that time.
const ADMIN_DOWN_DELAY: Duration = Duration::from_millis(300);
/// The same for a peer that has not closed its end of the TCP connection: its bgpd is busy, and may take AdminDown for
/// a failure before it has noticed the exit of bgpd. bgpd does not start before.
const MAX_ADMIN_DOWN_DELAY: Duration = Duration::from_secs(3);
/// Interval between two looks at the connections.
const CONNECTION_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What is known of bfdd.
#[derive(Debug)]
pub(super) struct BfdState {
    /// The last known BFD sessions of bfdd.
    sessions: Vec<bfd::BfddSession>,
    /// The BFD peers that the supervisor configures in bfdd.
    pub(super) peers: bfd::PeerAddresses,
    /// The running configuration of BFD peers.
    query: Option<(Query, Vec<String>)>,
    /// bfdd's last error for one of them.
    error: Option<String>,
    admin_down: Option<AdminDown>,
}

/// The sessions of an exited bfdd, whose peers get AdminDown when they have noticed the exit of bgpd: BGP is in graceful
/// restart then.
#[derive(Debug)]
struct AdminDown {
    sessions: Vec<bfd::BfddSession>,
    next_at: Instant,
    latest_at: Instant,
}

impl AdminDown {
    fn new(sessions: Vec<bfd::BfddSession>, now: Instant) -> Self {
        Self { sessions, next_at: now + ADMIN_DOWN_DELAY, latest_at: now + MAX_ADMIN_DOWN_DELAY }
    }

    /// Whether the packets are to be sent now. `connections`: those of FRR's network namespace.
    fn is_due(&mut self, connections: impl FnOnce() -> Vec<BgpConnection>, now: Instant) -> bool {
        if now < self.next_at {
            return false;
        }
        let peers: BTreeSet<IpAddr> =
            bfd::peers_to_notify(&self.sessions).map(|session| session.peer()).collect();
        let is_open = |c: &BgpConnection| {
            matches!(c.state, TcpState::Established | TcpState::Closing) && peers.contains(&c.peer)
        };
        if now >= self.latest_at || peers.is_empty() || !connections().iter().any(is_open) {
            return true;
        }
        self.next_at = (now + CONNECTION_POLL_INTERVAL).min(self.latest_at);
        false
    }
}

impl BfdState {
    /// `exited`: the sessions that an earlier instance saved.
    pub(super) fn new(exited: Vec<bfd::BfddSession>, now: Instant) -> Self {
        Self {
            sessions: vec![],
            peers: bfd::PeerAddresses::new(),
            query: None,
            error: None,
            admin_down: (!exited.is_empty()).then(|| AdminDown::new(exited, now)),
        }
    }

    /// Processes the replies to the configuration of peers.
    fn take_replies(&mut self) {
        if let Some((Ok(replies), commands)) = Query::take_ended_with(&mut self.query) {
            let refused = commands.into_iter().zip(replies).find(|(_, reply)| !reply.success);
            let error =
                refused.map(|(command, reply)| format!("{command:?}: {}", redact_output(reply.text.trim())));
            if let Some(text) = error.as_ref().filter(|_| error != self.error) {
                log::warn!(daemon = "bfdd"; "bfdd refuses {text}; this peer stays without BFD");
            }
            self.error = error;
        }
    }

    /// bfdd has exited. Its peers get AdminDown, and those of an earlier exit that wait for it.
    pub(super) fn exited(&mut self, now: Instant) {
        self.query = None;
        let mut sessions = std::mem::take(&mut self.sessions);
        sessions.extend(self.admin_down.take().into_iter().flat_map(|waiting| waiting.sessions));
        self.admin_down = Some(AdminDown::new(sessions, now));
    }
}

/// The peers that the supervisor configures in bfdd, and AdminDown for the peers of an exited bfdd.
pub(super) struct BfdPart;

impl Part for BfdPart {
    fn add_fds<'a>(&self, supervisor: &'a Supervisor<'_>, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(supervisor.bfd.query.as_ref().map(|(query, _)| PollFd::new(query, PollFlags::IN)));
    }

    fn deadline(&self, supervisor: &Supervisor<'_>) -> Option<Instant> {
        supervisor.bfd.admin_down.as_ref().map(|waiting| waiting.next_at)
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        supervisor.bfd.take_replies();
        supervisor.step_admin_down(now);
        Ok(())
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
            let bfdd = self.running(DaemonKind::Bfdd).map(|_| socket(DaemonKind::Bfdd));
            let query = bfdd.and_then(|socket| Query::commands(&socket, commands.clone()).ok());
            self.bfd.query = query.map(|query| (query, commands));
        }
    }

    /// Sends BFD AdminDown to the peers of an exited bfdd when they are ready for it.
    fn step_admin_down(&mut self, now: Instant) {
        let router = self.node.router.ns();
        let connections = || {
            let tables = router.within_on_this_thread(|| bgp_connections("/proc/thread-self/net"));
            tables.ok().flatten().unwrap_or_default()
        };
        let Some(due) = self.bfd.admin_down.take_if(|waiting| waiting.is_due(connections, now)) else {
            return;
        };
        self.events.push_back(Event::BfdPeersNotified);
        let sent = router.within(|| Ok(bfd::send_admin_down(&due.sessions)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_down_waits_for_peers_that_have_not_noticed_the_exit_of_bgpd() {
        let now = Instant::now();
        let peer: IpAddr = "fe80::102".parse().unwrap();
        let session = |peer: IpAddr, status: &str| -> bfd::BfddSession {
            let session = serde_json::json!({"peer": peer, "status": status, "id": 1, "remote-id": 2});
            serde_json::from_value(session).unwrap()
        };
        let connection = |peer, state| BgpConnection {
            peer,
            state,
            is_inbound: true,
            unacknowledged: 0,
            retransmissions: 0,
        };
        let sessions = || vec![session(peer, "up"), session("fe80::202".parse().unwrap(), "down")];
        let at = |ms| now + Duration::from_millis(ms);
        let unread = || -> Vec<BgpConnection> { unreachable!("the tables are not read before") };

        let mut waiting = AdminDown::new(sessions(), now);
        assert!(!waiting.is_due(unread, at(299)));
        assert!(!waiting.is_due(|| vec![connection(peer, TcpState::Closing)], at(300)));
        assert_eq!(waiting.next_at, at(350));
        assert!(!waiting.is_due(unread, at(310)));
        let others = || {
            vec![
                connection(peer, TcpState::Closed),
                connection(peer, TcpState::SynReceived),
                connection("fe80::202".parse().unwrap(), TcpState::Established),
            ]
        };
        assert!(waiting.is_due(others, at(350)));
        // A peer that is gone closes nothing.
        assert!(waiting.is_due(unread, at(3000)));
        assert!(AdminDown::new(vec![], now).is_due(unread, at(300)));
    }

    #[test]
    fn a_second_exit_of_bfdd_forgets_no_peer() {
        let now = Instant::now();
        let session: bfd::BfddSession = serde_json::from_value(
            serde_json::json!({"peer": "fe80::102", "status": "up", "id": 1, "remote-id": 2}),
        )
        .unwrap();
        let mut state = BfdState::new(vec![session.clone()], now);
        state.exited(now);
        assert_eq!(state.admin_down.unwrap().sessions, [session]);
    }
}
