//! BFD across restarts of bgpd and bfdd.
//!
//! When a client of bfdd disconnects, bfdd sends "down" to the peers at once, even if another client wants the session
//! (`_ptm_bfd_session_del`, `bfdd/ptm_adapter.c`). A busy leaf may process that packet before it sees the end of bgpd's
//! TCP connection. It then tears BGP down instead of waiting for the restart. Therefore bgpd is no client of bfdd,
//! unless BFD is faster than the hold time of BGP. bfdd gets peers that are configured in bfdd itself, one for each
//! peer of bgpd, and a restart of bgpd does not affect them.
//!
//! A new bfdd uses new discriminators. An FRR peer ignores packets with other discriminators until the old session has
//! timed out (it drops packets without *your discriminator* while the session is up: seen with 10.3, `BFD_PKT` "not
//! overridden"). The timeout comes seconds after the new bfdd runs, and the peer then tears BGP down. Therefore we end
//! the old session on behalf of the crashed bfdd: with its discriminators and the state AdminDown, which a peer must
//! not treat as a failure of the path (RFC 5882 §3.2).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use rustix::net::sockopt::set_ipv6_unicast_hops;
use serde::{Deserialize, Serialize};

use super::neighbors::Neighbors;
use super::vty::{CONFIGURE, Reply};
use crate::model::{IfName, Value as _};

/// The commands that list bfdd's sessions. Any reply shows that bfdd is responsive.
pub const SHOW_SESSIONS: [&str; 2] = ["enable", "show bfd peers json"];

/// The BFD profile of frr.conf with the timers of the configuration.
const PROFILE: &str = "fabric";

/// Destination port of single-hop control packets (RFC 5881 §4).
const PORT: u16 = 3784;

/// Lowest source port of single-hop control packets (RFC 5881 §4).
const FIRST_SOURCE_PORT: u16 = 49152;

/// Version 1, diagnostic 7, "administratively down" (RFC 5880 §4.1).
const VERSION_AND_DIAGNOSTIC: u8 = 1 << 5 | 7;

/// State AdminDown, no flags (RFC 5880 §4.1).
const ADMIN_DOWN: u8 = 0;

/// Length of a control packet without authentication, in bytes (RFC 5880 §4.1).
const LENGTH: u8 = 24;

/// TTL or hop limit of single-hop control packets (RFC 5881 §5).
const HOP_LIMIT: u8 = 255;

/// Desired Min TX and Required Min RX interval of a session that is not up, in microseconds (RFC 5880 §6.8.3).
const SLOW_INTERVAL: u32 = 1_000_000;

/// Required Min Echo RX interval: no echo packets (RFC 5880 §4.1).
const NO_ECHO: u32 = 0;

/// A session of bfdd, from `show bfd peers json`: the fields that are needed to end it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BfddSession {
    peer: IpAddr,
    #[serde(default)]
    interface: String,
    #[serde(default)]
    multihop: bool,
    status: String,
    id: u32,
    remote_id: u32,
    #[serde(default)]
    detect_multiplier: u8,
}

/// Replaces `sessions` by those in the replies to [`SHOW_SESSIONS`]. A reply that is not valid changes nothing. Returns
/// whether `sessions` changed.
pub fn update_sessions(sessions: &mut Vec<BfddSession>, replies: &[Reply]) -> bool {
    let now = replies.last().and_then(|reply| serde_json::from_str::<Vec<BfddSession>>(&reply.text).ok());
    now.is_some_and(|now| std::mem::replace(sessions, now) != *sessions)
}

/// The link-local address of the leaf at the other end of each fabric port; `None` if bgpd has no neighbor on that
/// interface any more, for example because its name has changed.
pub type PeerAddresses = BTreeMap<IfName, Option<Ipv6Addr>>;

/// Updates `peers` from bgpd's neighbors. An interface whose peer has no link-local address keeps its entry. A list without
/// neighbors changes nothing: bgpd may be starting.
pub fn update_peers(peers: &mut PeerAddresses, neighbors: &Neighbors) {
    if neighbors.is_empty() {
        return;
    }
    for (port, address) in peers.iter_mut() {
        address.take_if(|_| !neighbors.contains_key(port.as_str()));
    }
    for (name, neighbor) in neighbors {
        let address = neighbor.bgp_neighbor_addr.parse().ok();
        if let (Ok(port), Some(ip)) = (IfName::parse(name), address.filter(Ipv6Addr::is_unicast_link_local)) {
            peers.insert(port, Some(ip));
        }
    }
}

/// The commands that add the `peers` without a session to bfdd, and remove the other peers of their interfaces. Empty if
/// bfdd has exactly these peers.
pub fn peer_commands(peers: &PeerAddresses, sessions: &[BfddSession]) -> Vec<String> {
    let mut commands = Vec::new();
    for (port, ip) in peers {
        let on_port = |s: &&BfddSession| s.interface == port.as_str() && !s.multihop && s.is_link_local();
        let (current, outdated): (Vec<_>, Vec<_>) =
            sessions.iter().filter(on_port).partition(|session| ip.is_some_and(|ip| session.peer == ip));
        commands.extend(outdated.iter().map(|session| format!("no peer {} interface {port}", session.peer)));
        if let Some(ip) = ip.filter(|_| current.is_empty()) {
            commands.extend([
                format!("peer {ip} interface {port}"),
                format!("profile {PROFILE}"),
                "exit".to_owned(),
            ]);
        }
    }
    if !commands.is_empty() {
        commands.splice(..0, CONFIGURE.into_iter().chain(["bfd"]).map(str::to_owned));
    }
    commands
}

impl BfddSession {
    /// The peer's address.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    fn is_link_local(&self) -> bool {
        matches!(self.peer, IpAddr::V6(ip) if ip.is_unicast_link_local())
    }
}

/// The sessions of an exited bfdd whose peers get AdminDown: single-hop sessions that were up.
pub fn peers_to_notify(sessions: &[BfddSession]) -> impl Iterator<Item = &BfddSession> {
    sessions.iter().filter(|session| session.status == "up" && !session.multihop)
}

/// Sends an AdminDown packet to each of [`peers_to_notify`]. The calling thread must be in FRR's namespace. Returns the
/// number of packets sent.
///
/// # Errors
/// The first send that failed. The packets for the other peers are still sent.
pub fn send_admin_down(sessions: &[BfddSession]) -> io::Result<usize> {
    let results: Vec<io::Result<()>> = peers_to_notify(sessions).map(send).collect();
    let sent = results.iter().filter(|result| result.is_ok()).count();
    results.into_iter().collect::<io::Result<()>>().map(|()| sent)
}

fn send(session: &BfddSession) -> io::Result<()> {
    let any: IpAddr = match session.peer {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port is in use only while a bfdd runs. Any other error would occur for the next port as well.
    let is_usable =
        |bound: &io::Result<UdpSocket>| !matches!(bound, Err(e) if e.kind() == io::ErrorKind::AddrInUse);
    let bound = (FIRST_SOURCE_PORT..=u16::MAX).map(|port| UdpSocket::bind((any, port))).find(is_usable);
    let socket = bound.unwrap_or(Err(io::ErrorKind::AddrInUse.into()))?;
    let to = match session.peer {
        IpAddr::V4(ip) => {
            socket.set_ttl(HOP_LIMIT.into())?;
            SocketAddr::from((ip, PORT))
        }
        IpAddr::V6(ip) => {
            set_ipv6_unicast_hops(&socket, Some(HOP_LIMIT))?;
            let scope = if session.interface.is_empty() {
                0
            } else {
                rustix::net::netdevice::name_to_index(&socket, &session.interface)?
            };
            SocketAddrV6::new(ip, PORT, 0, scope).into()
        }
    };
    socket.send_to(&packet(session), to).map(|_| ())
}

/// A control packet (RFC 5880 §4.1).
fn packet(session: &BfddSession) -> [u8; LENGTH as usize] {
    let mut packet = [0; LENGTH as usize];
    packet[..4].copy_from_slice(&[
        VERSION_AND_DIAGNOSTIC,
        ADMIN_DOWN,
        session.detect_multiplier.max(1),
        LENGTH,
    ]);
    let fields = [session.id, session.remote_id, SLOW_INTERVAL, SLOW_INTERVAL, NO_ECHO];
    for (bytes, field) in packet[4..].chunks_exact_mut(4).zip(fields) {
        bytes.copy_from_slice(&field.to_be_bytes());
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: &str = r#"[{"multihop":false,"peer":"fe80::1","vrf":"default","interface":"eth1","id":16909060,
        "remote-id":84281096,"status":"up","uptime":3,"detect-multiplier":5,"rtt-min":0}]"#;

    fn sessions(text: &str) -> Vec<BfddSession> {
        let mut sessions = vec![];
        update_sessions(&mut sessions, &[Reply { success: true, text: text.into() }]);
        sessions
    }

    #[test]
    fn the_packet_has_the_discriminators_of_the_session() {
        let packet = packet(&sessions(REPLY)[0]);
        assert_eq!(packet[..4], [0x27, 0, 5, 24]);
        assert_eq!(packet[4..12], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(packet[12..], [0, 0x0f, 0x42, 0x40, 0, 0x0f, 0x42, 0x40, 0, 0, 0, 0]);
    }

    #[test]
    fn bfdd_gets_the_peers_of_bgpd() {
        let mut peers = PeerAddresses::new();
        let reply = |ip| {
            format!(r#"{{"eth1":{{"bgpNeighborAddr":"{ip}"}},"fd00::1":{{"bgpNeighborAddr":"fd00::1"}}}}"#)
        };
        let update_peers = |peers: &mut PeerAddresses, text: &str| {
            update_peers(peers, &serde_json::from_str(text).unwrap_or_default());
        };
        for invalid in ["", "[]", r#"{"eth1":{}}"#, &reply("none")] {
            update_peers(&mut peers, invalid);
            assert_eq!(peer_commands(&peers, &[]), [""; 0], "{invalid}");
        }
        update_peers(&mut peers, &reply("fe80::1"));
        update_peers(&mut peers, &reply("none"));
        let add = |ip| vec![format!("peer {ip} interface eth1"), "profile fabric".into(), "exit".into()];
        assert_eq!(peer_commands(&peers, &[])[2..], [vec!["bfd".to_owned()], add("fe80::1")].concat());
        assert_eq!(peer_commands(&peers, &sessions(REPLY)), [""; 0]);
        update_peers(&mut peers, &reply("fe80::2"));
        let instead = [vec!["no peer fe80::1 interface eth1".to_owned()], add("fe80::2")].concat();
        assert_eq!(peer_commands(&peers, &sessions(REPLY))[3..], instead);
        let other = REPLY.replace("eth1", "eth2");
        assert_eq!(peer_commands(&peers, &sessions(&other))[3..], add("fe80::2"));
        // The interface has another name; a bgpd that starts shows no neighbor yet.
        update_peers(&mut peers, "{}");
        assert_eq!(peer_commands(&peers, &[])[3..], add("fe80::2"));
        update_peers(&mut peers, r#"{"fab0":{"bgpNeighborAddr":"fe80::3"}}"#);
        let commands = peer_commands(&peers, &sessions(REPLY));
        assert_eq!(commands[3], "no peer fe80::1 interface eth1");
        assert_eq!(commands[4], "peer fe80::3 interface fab0");
    }

    #[test]
    fn an_invalid_reply_changes_nothing() {
        let mut known = sessions(REPLY);
        update_sessions(&mut known, &[Reply { success: false, text: "%".into() }]);
        assert_eq!(known, sessions(REPLY));
        update_sessions(&mut known, &[Reply { success: true, text: "[]".into() }]);
        assert_eq!(known, []);
    }
}
