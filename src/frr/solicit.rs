//! Router Solicitations (RFC 4861 §4.1). bgpd learns the address of an unnumbered peer from the Router Advertisements
//! that zebra receives. A zebra that has just started has received none. A router sends the next one on its own after
//! 10 s (FRR's `ipv6 nd ra-interval`) or many minutes. Until then bgpd does not connect, and rejects the peer's
//! connection.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, netdevice, sendto, socket_with, sockopt,
};

use super::neighbors::Neighbors;
use crate::model::{IfName, Value as _};

/// All routers on the link (RFC 4291 §2.7.1).
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// ICMPv6 type of a Router Solicitation (RFC 4861 §4.1).
const ROUTER_SOLICITATION: u8 = 133;

/// Hop limit of a valid Router Solicitation; receivers discard any other (RFC 4861 §6.1.1).
const HOP_LIMIT: u32 = 255;

/// A Router Solicitation without options; the kernel fills in the checksum.
const PACKET: [u8; 8] = [ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];

/// The interfaces on which bgpd does not know its peer's address.
pub fn unknown_peers(neighbors: &Neighbors) -> Vec<IfName> {
    let unknown = neighbors.iter().filter(|(_, neighbor)| neighbor.bgp_neighbor_addr == "none");
    unknown.filter_map(|(name, _)| IfName::parse(name).ok()).collect()
}

/// Sends a Router Solicitation on each of `ports`. The calling thread must be in FRR's namespace.
///
/// # Errors
/// The first send that failed. The packets for the other ports are still sent.
pub fn solicit(ports: &[IfName]) -> io::Result<()> {
    let socket =
        socket_with(AddressFamily::INET6, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMPV6))?;
    sockopt::set_ipv6_multicast_hops(&socket, HOP_LIMIT)?;
    sockopt::set_ipv6_multicast_loop(&socket, false)?;
    let send = |port: &IfName| {
        let scope = netdevice::name_to_index(&socket, port.as_str())?;
        sendto(&socket, &PACKET, SendFlags::empty(), &SocketAddrV6::new(ALL_ROUTERS, 0, 0, scope))?;
        Ok(())
    };
    let results: Vec<io::Result<()>> = ports.iter().map(send).collect();
    results.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_peers_are_interfaces_without_a_neighbor_address() {
        let reply = r#"{"eth1":{"bgpNeighborAddr":"none"},"eth2":{"bgpNeighborAddr":"fe80::1"},"lo":{}}"#;
        let unknown_peers = |text: &str| unknown_peers(&serde_json::from_str(text).unwrap_or_default());
        assert_eq!(unknown_peers(reply), [IfName::parse("eth1").unwrap()]);
        assert_eq!(unknown_peers("% no bgpd"), []);
    }
}
