//! Diagnostics of BGP sessions that are down, read from the kernel: the link-local addresses of the ports, and
//! half-open TCP connections. They are read only while a session is down. Parsing is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Limit of bytes read from a table: the host's namespace can have any number of connections.
const MAX_TABLE_BYTES: u64 = 1 << 20;

/// Address flag: duplicate address detection failed (`IFA_F_DADFAILED`, `linux/if_addr.h`).
const IFA_F_DADFAILED: u32 = 0x08;

/// Scope of link-local addresses (`IPV6_ADDR_LINKLOCAL`, `net/ipv6.h`).
const IPV6_ADDR_LINKLOCAL: u32 = 0x20;

/// States of TCP connections (`net/tcp_states.h`).
const ESTABLISHED: &str = "01";
const SYN_SENT: &str = "02";
const SYN_RECEIVED: &str = "03";

/// Number of retransmissions from which on the peer counts as not acknowledging.
const MIN_RETRANSMISSIONS: u32 = 2;

/// BGP's TCP port (RFC 4271 §8.2.2).
const BGP_PORT: u16 = 179;

/// State of an interface's link-local address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLocal {
    /// It is assigned, or duplicate address detection still runs.
    Assigned,
    /// Another station on the link has the same address.
    Duplicate,
}

/// Diagnostics of one network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// Interfaces that have a link-local address.
    pub link_local: BTreeMap<String, LinkLocal>,
    /// Their link-local addresses, with the interfaces.
    pub own_addresses: BTreeSet<(String, IpAddr)>,
    /// Peers that send packets to this node and ignore those of this node: they do not acknowledge data on a
    /// connection, or the connection attempts of both ends stay half open.
    pub ignoring_peers: BTreeSet<IpAddr>,
}

/// Reads the diagnostics of the network namespace of a process. `None`: the process has exited.
pub fn read(pid: u32) -> Option<Diagnostics> {
    let table = |name: &str| {
        let mut text = String::new();
        File::open(format!("/proc/{pid}/net/{name}"))
            .ok()?
            .take(MAX_TABLE_BYTES)
            .read_to_string(&mut text)
            .ok()?;
        Some(text)
    };
    // These files exist only if the kernel has IPv6.
    let [addresses, tcp6] = ["if_inet6", "tcp6"].map(|name| table(name).unwrap_or_default());
    let (link_local, own_addresses) = link_local_addresses(&addresses);
    Some(Diagnostics { link_local, own_addresses, ignoring_peers: ignoring_peers(&[table("tcp")?, tcp6]) })
}

/// Parses `/proc/net/if_inet6`: address, index, prefix length, scope, flags, name.
fn link_local_addresses(text: &str) -> (BTreeMap<String, LinkLocal>, BTreeSet<(String, IpAddr)>) {
    let (mut states, mut own) = (BTreeMap::new(), BTreeSet::new());
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, scope, flags, name] = fields[..] else { continue };
        let number = |text| u32::from_str_radix(text, 16);
        let (Ok(IPV6_ADDR_LINKLOCAL), Ok(flags)) = (number(scope), number(flags)) else { continue };
        if let Ok(address) = u128::from_str_radix(address, 16) {
            own.insert((name.to_owned(), Ipv6Addr::from_bits(address).into()));
        }
        if flags & IFA_F_DADFAILED == 0 {
            states.insert(name.to_owned(), LinkLocal::Assigned);
        } else {
            states.entry(name.to_owned()).or_insert(LinkLocal::Duplicate);
        }
    }
    (states, own)
}

/// The peers of [`Diagnostics::ignoring_peers`], from `/proc/net/tcp` and `tcp6`: a number, both ends, the state, the
/// lengths of the queues, the timer, retransmissions, and more (`Documentation/networking/proc_net_tcp.rst`).
fn ignoring_peers(tables: &[String]) -> BTreeSet<IpAddr> {
    let (mut inbound, mut outbound, mut unacknowledged) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for line in tables.iter().flat_map(|table| table.lines()) {
        let mut fields = line.split_whitespace().skip(1);
        let (Some(local), Some(remote), Some(state)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (Some((_, local_port)), Some((peer, remote_port))) = (endpoint(local), endpoint(remote)) else {
            continue;
        };
        match state {
            SYN_RECEIVED if local_port == BGP_PORT => drop(inbound.insert(peer)),
            SYN_SENT if remote_port == BGP_PORT => drop(outbound.insert(peer)),
            ESTABLISHED if local_port == BGP_PORT || remote_port == BGP_PORT => {
                let queued = fields.next().and_then(|queues| queues.split(':').next());
                let retransmissions = fields.nth(1).and_then(|times| u32::from_str_radix(times, 16).ok());
                let has_queue = queued.is_some_and(|bytes| bytes.contains(|c| c != '0'));
                if has_queue && retransmissions.is_some_and(|times| times >= MIN_RETRANSMISSIONS) {
                    unacknowledged.insert(peer);
                }
            }
            _ => {}
        }
    }
    inbound.intersection(&outbound).copied().chain(unacknowledged).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_parsed() {
        let text = "00000000000000000000000000000001 01 80 10 80       lo\n\
            fe80000000000000000000fffe000101 02 40 20 80     eth1\n\
            fe80000000000000000000fffe000201 03 40 20 c8     eth2\n\
            fda100000000000000000000000000ff 04 40 00 80     eth3\n\
            fe80000000000000000000fffe000401 05 40 20 c0     eth4\n";
        let (states, own) = link_local_addresses(text);
        assert!(own.contains(&("eth1".to_owned(), "fe80::ff:fe00:101".parse().unwrap())) && own.len() == 3);
        assert_eq!(states.get("eth1"), Some(&LinkLocal::Assigned));
        assert_eq!(states.get("eth2"), Some(&LinkLocal::Duplicate));
        assert_eq!(states.get("eth3"), None);
        assert_eq!(states.get("eth4"), Some(&LinkLocal::Assigned), "duplicate address detection runs");
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn peers_that_ignore_packets_of_this_node_are_found() {
        let line = |local: &str, remote: &str, state: &str| {
            format!("   0: {local} {remote} {state} 00000000:00000000\n")
        };
        let (us, peer) = ("000080FE000000000000000001010000", "000080FE00000000FF00FA0201020000");
        let inbound = line(&format!("{us}:00B3"), &format!("{peer}:A001"), SYN_RECEIVED);
        let outbound = line(&format!("{us}:A002"), &format!("{peer}:00B3"), SYN_SENT);
        assert_eq!(ignoring_peers(&[inbound.clone(), String::new()]), BTreeSet::new());
        assert_eq!(ignoring_peers(std::slice::from_ref(&outbound)), BTreeSet::new());
        let peer: IpAddr = "fe80::2fa:ff:0:201".parse().unwrap();
        assert_eq!(ignoring_peers(&["sl local_address".into(), inbound + &outbound]), BTreeSet::from([peer]));
        let four = line("0100000A:00B3", "0200000A:1000", SYN_RECEIVED)
            + &line("0100000A:1000", "0200000A:00B3", SYN_SENT);
        assert_eq!(ignoring_peers(&[four]), BTreeSet::from(["10.0.0.2".parse().unwrap()]));
        let sent = |tail: &str| format!("   5: 0100000A:00B3 0200000A:1000 01 {tail}\n");
        assert_eq!(ignoring_peers(&[sent("0000002B:00000000 01:0000001A 00000003 0 0 1")]).len(), 1);
        assert_eq!(ignoring_peers(&[sent("0000002B:00000000 01:0000001A 00000001 0 0 1")]).len(), 0);
        assert_eq!(ignoring_peers(&[sent("00000000:00000000 02:0000001A 00000003 0 0 1")]).len(), 0);
        assert_eq!(endpoint("zz:00B3"), None);
        assert_eq!(endpoint("00:00B3"), None);
    }
}
