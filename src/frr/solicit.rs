//! Router Solicitations (RFC 4861 §4.1). bgpd learns the address of a peer on a port from the Router Advertisements that
//! zebra receives, and a zebra that is new has received none: by itself a router says it again after 10 s (FRR's
//! `ipv6 nd ra-interval`) or many minutes. Until then bgpd does not dial, and turns away the peer that does.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, netdevice, sendto, socket_with, sockopt,
};
use serde_json::Value;

use crate::model::{IfName, Value as _};

/// All routers on the link (RFC 4291 §2.7.1).
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Type 133, without options; the kernel fills the checksum in.
const PACKET: [u8; 8] = [133, 0, 0, 0, 0, 0, 0, 0];

/// The ports on which bgpd does not know its peer's address, by its answer to `show bgp neighbors json`.
pub fn strangers(answer: &Value) -> Vec<IfName> {
    let neighbors = answer.as_object().into_iter().flatten();
    let unknown = neighbors.filter(|(_, n)| n.get("bgpNeighborAddr").and_then(Value::as_str) == Some("none"));
    unknown.filter_map(|(name, _)| IfName::parse(name).ok()).collect()
}

/// Asks the routers on `ports` to advertise themselves; the calling thread is in FRR's namespace.
///
/// # Errors
/// The first packet that could not be sent; the others were tried all the same.
pub fn solicit(ports: &[IfName]) -> io::Result<()> {
    let socket =
        socket_with(AddressFamily::INET6, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMPV6))?;
    // Others are ignored (RFC 4861 §6.1.1).
    sockopt::set_ipv6_multicast_hops(&socket, 255)?;
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
    fn strangers_are_ports_without_an_address() {
        let answer = r#"{"eth1":{"bgpNeighborAddr":"none"},"eth2":{"bgpNeighborAddr":"fe80::1"},"lo":{}}"#;
        let strangers = |text: &str| strangers(&serde_json::from_str(text).unwrap_or_default());
        assert_eq!(strangers(answer), [IfName::parse("eth1").unwrap()]);
        assert_eq!(strangers("% no bgpd"), []);
    }
}
