//! BFD across restarts of bgpd and bfdd.
//!
//! A bfdd whose client goes tells the peers "down" at once, whoever else wants the session (`_ptm_bfd_session_del`,
//! `bfdd/ptm_adapter.c`), and a busy leaf may take that in before it sees the end of bgpd's TCP connection: then it tears
//! BGP down where it should wait for the restart. So bgpd is no client of bfdd, unless BFD is faster than BGP's own hold
//! time: bfdd gets peers of its own, those that bgpd has, and does not hear of bgpd's end.
//!
//! A new bfdd has new discriminators, and an FRR peer ignores what it says until the old session has timed out (it drops
//! packets without *your discriminator* while it is up: seen with 10.3, `BFD_PKT` "not overridden"). Then, seconds after
//! all is well again, it tears BGP down. So we end the old session in the name of the dead bfdd: with state AdminDown,
//! which must not be taken for a failure of the path (RFC 5882 §3.2), and the discriminators that it had.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use rustix::net::sockopt::set_ipv6_unicast_hops;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::vty::{Answer, CONFIGURE};
use crate::model::{IfName, Value as _};

/// The commands that ask bfdd for its sessions; any answer shows that it lives.
pub const QUESTIONS: [&str; 2] = ["enable", "show bfd peers json"];

/// The profile of frr.conf that has our timers.
const PROFILE: &str = "fabric";

/// Destination port of single-hop control packets (RFC 5881 §4).
const PORT: u16 = 3784;

/// Source ports are from here on (RFC 5881 §4).
const FIRST_SOURCE_PORT: u16 = 49152;

/// Version 1, diagnostic 7, "administratively down" (RFC 5880 §4.1).
const VERSION_AND_DIAGNOSTIC: u8 = 1 << 5 | 7;

/// State AdminDown, no flags.
const ADMIN_DOWN: u8 = 0;

/// Length of a control packet without authentication.
const LENGTH: u8 = 24;

/// Both intervals in a session that is not up, in microseconds (RFC 5880 §6.8.3).
const SLOW: u32 = 1_000_000;

/// A session, as far as it takes to end it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Session {
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

/// Reads what `show bfd peers json` says into `sessions`. Whether that has changed them.
pub fn take_in(sessions: &mut Vec<Session>, answers: &[Answer]) -> bool {
    let now = answers.last().and_then(|answer| serde_json::from_str::<Vec<Session>>(&answer.text).ok());
    now.is_some_and(|now| std::mem::replace(sessions, now) != *sessions)
}

/// The leaf at the other end of each port.
pub type Peers = BTreeMap<IfName, Ipv6Addr>;

/// Reads bgpd's answer to [`QUESTION`](super::neighbors::QUESTION) into `peers`; one that is not known (any more) stays what it was.
pub fn take_in_peers(peers: &mut Peers, answer: &Value) {
    for (name, neighbor) in answer.as_object().into_iter().flatten() {
        let address = neighbor.get("bgpNeighborAddr").and_then(Value::as_str).and_then(|ip| ip.parse().ok());
        if let (Ok(port), Some(ip)) = (IfName::parse(name), address.filter(Ipv6Addr::is_unicast_link_local)) {
            peers.insert(port, ip);
        }
    }
}

/// The commands that give bfdd those `peers` that it has no session with, and take away those that they came in the
/// place of. None if all is as it should be.
pub fn commands(peers: &Peers, sessions: &[Session]) -> Vec<String> {
    let mut commands = Vec::new();
    for (port, ip) in peers {
        let here = |s: &&Session| s.interface == port.as_str() && !s.multihop && s.is_link_local();
        let (same, other): (Vec<_>, Vec<_>) =
            sessions.iter().filter(here).partition(|session| session.peer == IpAddr::V6(*ip));
        commands.extend(other.iter().map(|session| format!("no peer {} interface {port}", session.peer)));
        if same.is_empty() {
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

impl Session {
    fn is_link_local(&self) -> bool {
        matches!(self.peer, IpAddr::V6(ip) if ip.is_unicast_link_local())
    }
}

/// Tells every single-hop peer whose session was up that it is down on purpose; the calling thread is in FRR's
/// namespace. Returns how many were told.
///
/// # Errors
/// The first packet that could not be sent; the others were tried all the same.
pub fn bow_out(sessions: &[Session]) -> io::Result<usize> {
    let up = sessions.iter().filter(|s| s.status == "up" && !s.multihop);
    let results: Vec<io::Result<()>> = up.map(send).collect();
    let told = results.iter().filter(|result| result.is_ok()).count();
    results.into_iter().collect::<io::Result<()>>().map(|()| told)
}

fn send(session: &Session) -> io::Result<()> {
    let any: IpAddr = match session.peer {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // bfdd's own ports are still in use only if it lives. Any other error would be the next port's, too.
    let is_free =
        |bound: &io::Result<UdpSocket>| !matches!(bound, Err(e) if e.kind() == io::ErrorKind::AddrInUse);
    let bound = (FIRST_SOURCE_PORT..=u16::MAX).map(|port| UdpSocket::bind((any, port))).find(is_free);
    let socket = bound.unwrap_or(Err(io::ErrorKind::AddrInUse.into()))?;
    let to = match session.peer {
        IpAddr::V4(ip) => {
            socket.set_ttl(255)?;
            SocketAddr::from((ip, PORT))
        }
        IpAddr::V6(ip) => {
            set_ipv6_unicast_hops(&socket, Some(255))?;
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
fn packet(session: &Session) -> [u8; LENGTH as usize] {
    let mut packet = [0; LENGTH as usize];
    packet[..4].copy_from_slice(&[
        VERSION_AND_DIAGNOSTIC,
        ADMIN_DOWN,
        session.detect_multiplier.max(1),
        LENGTH,
    ]);
    let words = [session.id, session.remote_id, SLOW, SLOW, 0];
    for (place, word) in packet[4..].chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"[{"multihop":false,"peer":"fe80::1","vrf":"default","interface":"eth1","id":16909060,
        "remote-id":84281096,"status":"up","uptime":3,"detect-multiplier":5,"rtt-min":0}]"#;

    fn sessions(text: &str) -> Vec<Session> {
        let mut sessions = vec![];
        take_in(&mut sessions, &[Answer { well: true, text: text.into() }]);
        sessions
    }

    #[test]
    fn the_packet_is_what_the_peer_expects_of_the_session() {
        let packet = packet(&sessions(ANSWER)[0]);
        assert_eq!(packet[..4], [0x27, 0, 5, 24]);
        assert_eq!(packet[4..12], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(packet[12..], [0, 0x0f, 0x42, 0x40, 0, 0x0f, 0x42, 0x40, 0, 0, 0, 0]);
    }

    #[test]
    fn bfdd_has_the_peers_that_bgpd_has() {
        let mut peers = Peers::new();
        let answer = |ip| {
            format!(r#"{{"eth1":{{"bgpNeighborAddr":"{ip}"}},"fd00::1":{{"bgpNeighborAddr":"fd00::1"}}}}"#)
        };
        let take_in_peers = |peers: &mut Peers, text: &str| {
            take_in_peers(peers, &serde_json::from_str(text).unwrap_or_default());
        };
        for nothing in ["", "[]", r#"{"eth1":{}}"#, &answer("none")] {
            take_in_peers(&mut peers, nothing);
            assert_eq!(commands(&peers, &[]), [""; 0], "{nothing}");
        }
        take_in_peers(&mut peers, &answer("fe80::1"));
        take_in_peers(&mut peers, &answer("none"));
        let add = |ip| vec![format!("peer {ip} interface eth1"), "profile fabric".into(), "exit".into()];
        assert_eq!(commands(&peers, &[])[2..], [vec!["bfd".to_owned()], add("fe80::1")].concat());
        assert_eq!(commands(&peers, &sessions(ANSWER)), [""; 0]);
        take_in_peers(&mut peers, &answer("fe80::2"));
        let instead = [vec!["no peer fe80::1 interface eth1".to_owned()], add("fe80::2")].concat();
        assert_eq!(commands(&peers, &sessions(ANSWER))[3..], instead);
        let other = ANSWER.replace("eth1", "eth2");
        assert_eq!(commands(&peers, &sessions(&other))[3..], add("fe80::2"));
    }

    #[test]
    fn what_is_no_answer_changes_nothing() {
        let mut known = sessions(ANSWER);
        take_in(&mut known, &[Answer { well: false, text: "%".into() }]);
        assert_eq!(known, sessions(ANSWER));
        take_in(&mut known, &[Answer { well: true, text: "[]".into() }]);
        assert_eq!(known, []);
    }
}
