//! Diagnostics of BGP sessions that are down, read from the kernel: the link-local addresses of the ports, and
//! half-open TCP connections. They are read only while a session is down. Parsing is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use crate::kernel::{BgpConnection, TcpState, bgp_connections, net_table};

/// Address flag: duplicate address detection failed (`IFA_F_DADFAILED`, `linux/if_addr.h`).
const IFA_F_DADFAILED: u32 = 0x08;

/// Scope of link-local addresses (`IPV6_ADDR_LINKLOCAL`, `net/ipv6.h`).
const IPV6_ADDR_LINKLOCAL: u32 = 0x20;

/// Number of retransmissions from which on the peer counts as not acknowledging.
const MIN_RETRANSMISSIONS: u32 = 2;

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
    let directory = format!("/proc/{pid}/net");
    let connections = bgp_connections(&directory)?;
    let addresses = net_table(&directory, "if_inet6").unwrap_or_default();
    let (link_local, own_addresses) = link_local_addresses(&addresses);
    Some(Diagnostics { link_local, own_addresses, ignoring_peers: ignoring_peers(&connections) })
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

/// The peers of [`Diagnostics::ignoring_peers`].
fn ignoring_peers(connections: &[BgpConnection]) -> BTreeSet<IpAddr> {
    let peers = |which: fn(&&BgpConnection) -> bool| -> BTreeSet<IpAddr> {
        connections.iter().filter(which).map(|connection| connection.peer).collect()
    };
    let inbound = peers(|c| c.state == TcpState::SynReceived && c.is_inbound);
    let outbound = peers(|c| c.state == TcpState::SynSent && !c.is_inbound);
    let unacknowledged = peers(|c| {
        c.state == TcpState::Established && c.unacknowledged > 0 && c.retransmissions >= MIN_RETRANSMISSIONS
    });
    inbound.intersection(&outbound).copied().chain(unacknowledged).collect()
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

    #[test]
    fn peers_that_ignore_packets_of_this_node_are_found() {
        let peer: IpAddr = "fe80::2fa:ff:0:201".parse().unwrap();
        let connection = |state, is_inbound| BgpConnection {
            peer,
            state,
            is_inbound,
            unacknowledged: 0,
            retransmissions: 0,
        };
        let inbound = connection(TcpState::SynReceived, true);
        let outbound = connection(TcpState::SynSent, false);
        assert_eq!(ignoring_peers(&[inbound]), BTreeSet::new());
        assert_eq!(ignoring_peers(&[outbound]), BTreeSet::new());
        assert_eq!(ignoring_peers(&[inbound, outbound]), BTreeSet::from([peer]));
        let sent = |unacknowledged, retransmissions| BgpConnection {
            unacknowledged,
            retransmissions,
            ..connection(TcpState::Established, true)
        };
        assert_eq!(ignoring_peers(&[sent(43, 3)]).len(), 1);
        assert_eq!(ignoring_peers(&[sent(43, 1)]).len(), 0);
        assert_eq!(ignoring_peers(&[sent(0, 3)]).len(), 0);
    }
}
