//! Addresses of the node, computed from subnets and the node's number by OpenPERouter's rules.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::values::{require_host_address, require_unicast};

/// The address at `offset` from the start of the subnet, if the subnet contains it.
pub(super) fn nth_address(net: IpNet, offset: u32) -> Option<IpAddr> {
    let ip = match net.network() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().checked_add(offset)?).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits().checked_add(offset.into())?).into(),
    };
    net.contains(&ip).then_some(ip)
}

/// The VTEP's address: the network address plus the node's number. A host prefix is the address itself.
pub(super) fn vtep(net: IpNet, index: u32) -> Result<IpAddr, String> {
    let offset = if net.prefix_len() == net.max_prefix_len() { 0 } else { index };
    let ip = nth_address(net, offset).ok_or_else(|| format!("has no address for node {index}"))?;
    require_unicast(ip).map_err(|e| format!("yields {ip}, {e}"))?;
    Ok(ip)
}

/// The BGP identifier: the network address plus the node's number plus one.
pub(super) fn router_id(net: IpNet, index: u32) -> Result<IpAddr, String> {
    let ip = index.checked_add(1).and_then(|offset| nth_address(net, offset));
    let ip = ip.ok_or_else(|| format!("has no address for node {index}"))?;
    require_unicast(ip).map_err(|e| format!("yields {ip}, {e}"))?;
    Ok(ip)
}

/// Both ends of a session with the host: the router's, which is equal on every node, and the host's.
pub(super) fn session_addresses(
    net: IpNet,
    index: u32,
    literal: Option<IpAddr>,
) -> Result<(IpNet, IpNet), String> {
    let first = net.network();
    let ends_in_zero = match first {
        IpAddr::V4(ip) => ip.octets()[3] == 0,
        IpAddr::V6(ip) => ip.octets()[15] == 0,
    };
    let skipped = u32::from(ends_in_zero);
    let router = nth_address(net, skipped).ok_or("has no address for the router")?;
    require_unicast(router).map_err(|e| format!("yields {router}, {e}"))?;
    let ip = match literal {
        Some(ip) if !net.contains(&ip) => return Err(format!("does not contain hostIP {ip}")),
        Some(ip) if ip == router => {
            return Err(format!("yields {ip}, which is hostIP, as the router's address"));
        }
        Some(ip) => ip,
        None => index
            .checked_add(1 + skipped)
            .and_then(|offset| nth_address(net, offset))
            .ok_or_else(|| format!("has no address for node {index}"))?,
    };
    let with_length = |ip| IpNet::new(ip, net.prefix_len()).map_err(|e| e.to_string());
    let host_end = with_length(ip)?;
    require_unicast(ip)
        .and_then(|()| require_host_address(host_end))
        .map_err(|e| format!("yields {ip}, {e}"))?;
    Ok((with_length(router)?, host_end))
}

/// Subnets that do not overlap, each with its owner.
#[derive(Debug, Default)]
pub(super) struct AllocatedSubnets(BTreeMap<IpAddr, (IpNet, String)>);

impl AllocatedSubnets {
    /// Adds a subnet that overlaps none of them.
    pub fn add(&mut self, net: IpNet, whose: String) {
        self.0.insert(net.network(), (net, whose));
    }

    /// The first subnet that overlaps `net`.
    pub fn overlapping(&self, net: IpNet) -> Option<&(IpNet, String)> {
        // The last subnet that starts at or before the end of `net`. All earlier subnets end before this one starts.
        let (_, last) = self.0.range(..=net.broadcast()).next_back()?;
        overlaps(last.0, net).then_some(last)
    }
}

/// Whether two networks have an address in common.
pub(super) fn overlaps(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn overlapping_subnets_are_found() {
        let mut taken = AllocatedSubnets::default();
        for text in ["10.0.0.0/24", "10.0.2.0/24", "2001:db8::/64"] {
            taken.add(net(text), text.into());
        }
        for (text, whose) in [
            ("10.0.0.128/25", Some("10.0.0.0/24")),
            ("10.0.1.0/24", None),
            ("10.0.2.0/32", Some("10.0.2.0/24")),
            ("10.0.2.0/23", Some("10.0.2.0/24")),
            ("9.0.0.0/8", None),
            ("2001:db8::1/128", Some("2001:db8::/64")),
            ("2001:db8:1::/64", None),
        ] {
            assert_eq!(taken.overlapping(net(text)).map(|(_, who)| who.as_str()), whose, "{text}");
        }
    }

    #[test]
    fn the_vtep_address_is_at_the_index() {
        for (cidr, index, ip) in [
            ("100.65.0.0/24", 0, Ok("100.65.0.0")),
            ("100.65.0.0/24", 255, Ok("100.65.0.255")),
            ("100.65.0.0/24", 256, Err("has no address for node 256")),
            ("100.65.0.128/25", 3, Ok("100.65.0.131")),
            ("100.65.0.7/32", 9, Ok("100.65.0.7")),
            ("100.65.0.6/31", 1, Ok("100.65.0.7")),
            ("100.65.0.6/31", 2, Err("has no address for node 2")),
            ("fd00:65::/64", 16_777_215, Ok("fd00:65::ff:ffff")),
            ("fd00:65::5/128", 16_777_215, Ok("fd00:65::5")),
            ("fd00:65::/127", 2, Err("has no address for node 2")),
            ("255.255.255.255/32", 0, Err("yields 255.255.255.255, not a unicast address")),
        ] {
            let ip = ip.map(|ip: &str| ip.parse().unwrap()).map_err(str::to_owned);
            assert_eq!(vtep(net(cidr), index), ip, "{cidr} {index}");
        }
    }

    #[test]
    fn the_router_id_is_one_above_the_index() {
        assert_eq!(router_id(net("10.0.0.0/24"), 0).unwrap().to_string(), "10.0.0.1");
        assert_eq!(router_id(net("10.0.0.0/24"), 254).unwrap().to_string(), "10.0.0.255");
        assert!(router_id(net("10.0.0.0/24"), 255).is_err());
        assert!(router_id(net("10.0.0.1/32"), 0).is_err());
    }

    #[test]
    fn session_addresses_depend_on_the_last_octet() {
        for (cidr, index, router, host) in [
            ("192.169.10.0/24", 0, "192.169.10.1", "192.169.10.2"),
            ("192.169.10.0/24", 252, "192.169.10.1", "192.169.10.254"),
            ("192.169.10.128/25", 0, "192.169.10.128", "192.169.10.129"),
            ("192.169.10.2/31", 0, "192.169.10.2", "192.169.10.3"),
            ("fd00:10::/64", 0, "fd00:10::1", "fd00:10::2"),
            ("fd00:10::2/127", 0, "fd00:10::2", "fd00:10::3"),
            ("fd00:10::100/120", 4, "fd00:10::101", "fd00:10::106"),
        ] {
            let (a, b) = session_addresses(net(cidr), index, None).unwrap();
            assert_eq!((a.addr().to_string(), b.addr().to_string()), (router.into(), host.into()), "{cidr}");
            assert_eq!((a.prefix_len(), b.prefix_len()), (net(cidr).prefix_len(), net(cidr).prefix_len()));
        }
        for (cidr, index) in [
            ("192.169.10.0/24", 253),
            ("192.169.10.128/25", 126),
            ("192.169.10.0/31", 0),
            ("192.169.10.2/31", 1),
            ("fd00:10::/127", 0),
            ("192.169.10.0/32", 0),
            ("192.169.10.5/32", 0),
            ("224.0.0.0/24", 0),
        ] {
            assert!(session_addresses(net(cidr), index, None).is_err(), "{cidr} {index}");
        }
    }

    #[test]
    fn a_literal_host_ip_must_be_in_the_subnet() {
        let pair = |cidr, ip: &str| session_addresses(net(cidr), 9, Some(ip.parse().unwrap()));
        assert_eq!(pair("10.1.0.0/31", "10.1.0.0").unwrap(), (net("10.1.0.1/31"), net("10.1.0.0/31")));
        assert_eq!(pair("10.1.0.0/24", "10.1.0.77").unwrap().1, net("10.1.0.77/24"));
        for ip in ["10.2.0.1", "10.1.0.1", "10.1.0.0", "10.1.0.255", "fd00::1"] {
            assert!(pair("10.1.0.0/24", ip).is_err(), "{ip}");
        }
    }
}
