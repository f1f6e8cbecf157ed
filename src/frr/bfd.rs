//! BFD across a restart of bfdd.
//!
//! A new bfdd has new discriminators, and an FRR peer ignores what it says until the old session has timed out (it drops
//! packets without *your discriminator* while it is up: seen with 10.3, `BFD_PKT` "not overridden"). Then, seconds after
//! all is well again, it tears BGP down. So we end the old session in the name of the dead bfdd: with state AdminDown,
//! which must not be taken for a failure of the path (RFC 5882 §3.2), and the discriminators that it had.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use rustix::net::sockopt::set_ipv6_unicast_hops;
use serde::{Deserialize, Serialize};

use super::vty::Answer;

/// The commands that ask bfdd for its sessions; any answer shows that it lives.
pub const QUESTIONS: [&str; 2] = ["enable", "show bfd peers json"];

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
    // bfdd's own ports are still in use only if it lives.
    let socket = (FIRST_SOURCE_PORT..).find_map(|port| UdpSocket::bind((any, port)).ok());
    let socket = socket.ok_or(io::ErrorKind::AddrInUse)?;
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
    fn what_is_no_answer_changes_nothing() {
        let mut known = sessions(ANSWER);
        take_in(&mut known, &[Answer { well: false, text: "%".into() }]);
        assert_eq!(known, sessions(ANSWER));
        take_in(&mut known, &[Answer { well: true, text: "[]".into() }]);
        assert_eq!(known, []);
    }
}
