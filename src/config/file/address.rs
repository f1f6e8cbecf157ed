//! Addresses of the node, computed from subnets and the node's number by OpenPERouter's rules.

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
    let ip = nth_address(net, offset)
        .ok_or_else(|| format!("is too small: it has no address for node {index} (NODE_INDEX)"))?;
    require_unicast(ip).map_err(|e| format!("yields {ip}, {e}"))?;
    Ok(ip)
}

/// The BGP identifier: the network address plus the node's number plus one.
pub(super) fn router_id(net: IpNet, index: u32) -> Result<IpAddr, String> {
    let ip = index.checked_add(1).and_then(|offset| nth_address(net, offset));
    let ip = ip.ok_or_else(|| format!("is too small: it has no address for node {index} (NODE_INDEX)"))?;
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
            .ok_or_else(|| format!("is too small: it has no address for node {index} (NODE_INDEX)"))?,
    };
    let with_length = |ip| IpNet::new(ip, net.prefix_len()).map_err(|e| e.to_string());
    let host_end = with_length(ip)?;
    require_unicast(ip)
        .and_then(|()| require_host_address(host_end))
        .map_err(|e| format!("yields {ip}, {e}"))?;
    Ok((with_length(router)?, host_end))
}

#[cfg(test)]
mod tests;
