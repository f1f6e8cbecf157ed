//! The TCP connections of a network namespace, as the kernel lists them. Parsing is pure.

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Limit of bytes read from a table: the host's namespace can have any number of connections.
const MAX_TABLE_BYTES: u64 = 1 << 20;

/// BGP's TCP port (RFC 4271 §8.2.2).
const BGP_PORT: u16 = 179;

/// State of a connection (`net/tcp_states.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpState {
    /// Data can be sent.
    Established,
    /// This end has asked for the connection.
    SynSent,
    /// The other end has asked for it, and has not acknowledged the answer.
    SynReceived,
    /// One or both ends are closing it.
    Closing,
    /// Both ends have closed it, or it is no connection.
    Closed,
}

/// A connection of BGP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BgpConnection {
    /// The other end's address.
    pub peer: IpAddr,
    /// Its state.
    pub state: TcpState,
    /// This end accepted it: its port is BGP's.
    pub is_inbound: bool,
    /// Bytes that the peer has not acknowledged.
    pub unacknowledged: u32,
    /// How often they were sent again.
    pub retransmissions: u32,
}

/// A table of the network namespace whose tables are in `directory`: `/proc/PID/net` or `/proc/thread-self/net`. `None`:
/// it can't be read. Those of IPv6 exist only if the kernel has IPv6.
pub fn net_table(directory: &str, name: &str) -> Option<String> {
    let mut text = String::new();
    File::open(format!("{directory}/{name}")).ok()?.take(MAX_TABLE_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The BGP connections of that namespace.
pub fn bgp_connections(directory: &str) -> Option<Vec<BgpConnection>> {
    Some(parse(&[net_table(directory, "tcp")?, net_table(directory, "tcp6").unwrap_or_default()]))
}

/// Parses `/proc/net/tcp` and `tcp6`: a number, both ends, the state, the lengths of the queues, the timer,
/// retransmissions, and more (`Documentation/networking/proc_net_tcp.rst`).
fn parse(tables: &[String]) -> Vec<BgpConnection> {
    tables.iter().flat_map(|table| table.lines()).filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<BgpConnection> {
    let fields: Vec<&str> = line.split_whitespace().skip(1).take(6).collect();
    let [local, remote, state, queues, _, retransmissions] = fields[..] else { return None };
    let ((_, local_port), (peer, remote_port)) = (endpoint(local)?, endpoint(remote)?);
    let is_inbound = local_port == BGP_PORT;
    let state = match state {
        "01" => TcpState::Established,
        "02" => TcpState::SynSent,
        "03" | "0C" => TcpState::SynReceived,
        // FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING.
        "04" | "05" | "08" | "09" | "0B" => TcpState::Closing,
        _ => TcpState::Closed,
    };
    let number = |text| u32::from_str_radix(text, 16).ok();
    let unacknowledged = number(queues.split(':').next()?)?;
    let connection =
        BgpConnection { peer, state, is_inbound, unacknowledged, retransmissions: number(retransmissions)? };
    (is_inbound || remote_port == BGP_PORT).then_some(connection)
}

/// Parses an endpoint: an address, as 32-bit words in host byte order, and a port.
fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<u32>> = (0..address.len() / 8)
        .map(|i| u32::from_str_radix(address.get(8 * i..8 * i + 8)?, 16).ok())
        .collect();
    let octets: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let address = match octets.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)),
        _ => return None,
    };
    Some((address, port))
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn connections_of_bgp_are_parsed() {
        let tables = [
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100000A:00B3 0200000A:1000 01 0000002B:00000000 01:0000001A 00000003 0 0 1\n   \
             1: 0100000A:0016 0200000A:1000 01 00000000:00000000 00:00000000 00000000 0 0 1\n"
                .to_owned(),
            "   5: 000080FE000000000000000001010000:A002 000080FE00000000FF00FA0201020000:00B3 05 \
             00000000:00000000 00:00000000 00000000 0 0 0\n"
                .to_owned(),
        ];
        let inbound = BgpConnection {
            peer: "10.0.0.2".parse().unwrap(),
            state: TcpState::Established,
            is_inbound: true,
            unacknowledged: 43,
            retransmissions: 3,
        };
        let outbound = BgpConnection {
            peer: "fe80::2fa:ff:0:201".parse().unwrap(),
            state: TcpState::Closing,
            is_inbound: false,
            unacknowledged: 0,
            retransmissions: 0,
        };
        assert_eq!(parse(&tables), [inbound, outbound]);
        let states = ["02", "03", "0C", "04", "08", "09", "0B", "06", "0A"].map(|state| {
            let line =
                format!("0: 0100000A:00B3 0200000A:1000 {state} 00000000:00000000 00:00000000 00000000");
            parse_line(&line).unwrap().state
        });
        let closing = TcpState::Closing;
        let (sent, received, closed) = (TcpState::SynSent, TcpState::SynReceived, TcpState::Closed);
        assert_eq!(states, [sent, received, received, closing, closing, closing, closing, closed, closed]);
        assert_eq!(endpoint("zz:00B3"), None);
        assert_eq!(endpoint("00:00B3"), None);
    }
}
