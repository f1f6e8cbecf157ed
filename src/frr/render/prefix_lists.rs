//! The prefixes that MetalLB's speaker may announce, as entries of a prefix list.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{Config, MetallbConfig};
use crate::model::{MARTIANS, NeighborId, UnderlayInterface, icmpv6_source};

/// The shortest and longest prefix of a host or a pool of addresses, of IPv4 and IPv6.
const LENGTHS: [(u8, u8); 2] = [(16, 32), (48, 128)];

/// Entries for the allowed prefixes and their more-specifics; if there are none, for every prefix with the length of a
/// host or a pool.
pub(super) fn allowed(allowed: &[IpNet], v6: bool) -> Vec<String> {
    let (shortest, longest) = LENGTHS[usize::from(v6)];
    if allowed.is_empty() {
        return vec![format!("{} ge {shortest} le {longest}", if v6 { "::/0" } else { "0.0.0.0/0" })];
    }
    allowed.iter().filter(|net| net.addr().is_ipv6() == v6).map(|net| with_more_specifics(*net)).collect()
}

/// Entries for prefixes that are always denied: martians, the node's own addresses, and the known addresses of the
/// fabric.
pub(super) fn denied(
    config: &Config,
    metallb: &MetallbConfig,
    port_addresses: &[IpNet],
    v6: bool,
) -> Vec<String> {
    let mut entries: Vec<String> = MARTIANS[usize::from(v6)]
        .iter()
        .map(|net| format!("{net} le {}", LENGTHS[usize::from(v6)].1))
        .collect();
    let underlay = &config.overlay.underlay;
    let host = |ip: IpAddr| IpNet::from(ip);
    let mut whole: Vec<IpNet> =
        vec![host(config.settings.node_ip.get().into()), host(icmpv6_source(config.settings.node_ip).into())];
    whole.extend(underlay.router_id.map(|id| host(id.get().into())));
    whole.extend(underlay.vteps().map(IpNet::from));
    whole.extend(metallb.pairs().map(|pair| pair.frr_net().trunc()));
    whole.extend(
        config.overlay.passthrough.iter().flat_map(|session| &session.ends).map(|(local, _)| local.trunc()),
    );
    whole.extend(underlay.neighbors.iter().filter_map(|neighbor| match &neighbor.peer {
        NeighborId::Address(ip) => Some(host(*ip)),
        NeighborId::Range(net) => Some(*net),
        NeighborId::Interface(_) => None,
    }));
    let macvlans = underlay.interfaces.iter().flat_map(|interface| match interface {
        UnderlayInterface::Macvlan { addresses, .. } => &addresses[..],
        UnderlayInterface::Device(_) => &[],
    });
    let mut exact = vec![];
    let is_link_local = |net: &IpNet| matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
    for net in port_addresses.iter().chain(macvlans).filter(|net| !is_link_local(net)) {
        // Other addresses in a subnet with more than two ends may be a pool, if the operator allows them.
        if metallb.allowed.is_empty() || net.prefix_len() + 2 >= net.max_prefix_len() {
            whole.push(net.trunc());
        } else {
            whole.push(host(net.addr()));
            exact.push(net.trunc());
        }
    }
    entries.extend(whole.into_iter().filter(|net| net.addr().is_ipv6() == v6).map(with_more_specifics));
    entries.extend(exact.into_iter().filter(|net| net.addr().is_ipv6() == v6).map(|net| net.to_string()));
    let mut seen = std::collections::HashSet::new();
    entries.retain(|entry| seen.insert(entry.clone()));
    entries
}

fn with_more_specifics(net: IpNet) -> String {
    match net.prefix_len() {
        length if length == net.max_prefix_len() => net.to_string(),
        _ => format!("{net} le {}", net.max_prefix_len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_vars;

    const BASE: [(&str, &str); 3] =
        [("NODE_IP", "10.0.0.1"), ("ASN_LOCAL", "65001"), ("FE_MACS", "02:00:00:00:00:01")];

    /// Whether a prefix list with these entries permits `prefix`. The first matching entry counts.
    fn permits(config: &Config, ports: &[IpNet], prefix: &str) -> bool {
        let (prefix, metallb): (IpNet, _) = (prefix.parse().unwrap(), config.metallb.as_ref().unwrap());
        let v6 = prefix.addr().is_ipv6();
        let matches = |entry: &String| {
            let words: Vec<&str> = entry.split(' ').collect();
            let net: IpNet = words[0].parse().unwrap();
            let bound = |name| {
                words.iter().position(|word| *word == name).map(|i| words[i + 1].parse::<u8>().unwrap())
            };
            let (ge, le) = (bound("ge"), bound("le"));
            let shortest = ge.unwrap_or(net.prefix_len());
            let longest = le.unwrap_or(if ge.is_some() { net.max_prefix_len() } else { net.prefix_len() });
            net.contains(&prefix) && (shortest..=longest).contains(&prefix.prefix_len())
        };
        !denied(config, metallb, ports, v6).iter().any(matches)
            && allowed(&metallb.allowed, v6).iter().any(matches)
    }

    fn config(extra: &[(&str, &str)], file: &str) -> Config {
        let vars = BASE.iter().chain(extra).map(|(k, v)| ((*k).into(), (*v).into()));
        let mut config = from_vars(vars).unwrap();
        let (overlay, problems) =
            crate::config::file::parse_files(&[("a.yaml".into(), file.into())], &config);
        assert_eq!(problems, []);
        config.add_overlay(overlay).unwrap();
        config
    }

    const FILE: &str = "underlay:
  tunnelEndpoint: {cidrs: [100.65.0.0/24]}
  interfaces: [{type: Macvlan, macvlan: {parent: eth9, addresses: [192.0.2.60/31, 192.0.3.60/24]}}]
  neighbors: [{address: 198.18.0.9, asn: 65102}, {listenRange: 198.19.0.0/24, asn: 65103}]
l3passthrough: {hostSession: {asn: 65001, hostASN: 65002, localCIDR: {ipv4: 192.169.12.0/24}}}
";

    #[test]
    fn only_hosts_and_pools_are_permitted() {
        let plain = config(&[], "");
        for good in [
            "198.51.100.1/32",
            "198.51.100.0/24",
            "100.64.0.0/16",
            "10.0.0.2/32",
            "10.0.0.0/31",
            "2001:db8::/48",
            "fd00::1/128",
        ] {
            assert!(permits(&plain, &[], good), "{good}");
        }
        let bad = [
            "0.0.0.0/0",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "10.0.0.0/8",
            "198.50.0.0/15",
            "0.1.2.3/32",
            "127.0.0.0/8",
            "127.0.0.1/32",
            "169.254.88.1/32",
            "169.254.88.0/31",
            "169.254.0.0/16",
            "224.0.0.5/32",
            "240.0.0.0/16",
            "255.255.255.255/32",
            "10.0.0.1/32",
            "::/0",
            "::/1",
            "2001:db8::/32",
            "::1/128",
            "::ffff:10.0.0.1/128",
            "fe80::/64",
            "fe80::1/128",
            "ff02::1/128",
            "fda1:b2c3:d4e5:1::/127",
            "fda1:b2c3:d4e5:1::1/128",
            "fda1:b2c3:d4e5::a00:1/128",
        ];
        for prefix in bad {
            assert!(!permits(&plain, &[], prefix), "{prefix}");
        }
        // A denied prefix inside an allowed prefix stays denied.
        let all = config(&[("METALLB_ALLOWED_PREFIXES", "0.0.0.0/0,::/0")], "");
        for prefix in
            ["127.0.0.1/32", "169.254.88.1/32", "10.0.0.1/32", "fe80::1/128", "fda1:b2c3:d4e5:1::1/128"]
        {
            assert!(!permits(&all, &[], prefix), "{prefix}");
        }
        assert!(permits(&all, &[], "10.0.0.0/8"));
        let some = config(&[("METALLB_ALLOWED_PREFIXES", "198.51.100.0/24,203.0.113.7/32")], "");
        assert!(permits(&some, &[], "198.51.100.128/25") && permits(&some, &[], "203.0.113.7/32"));
        assert!(!permits(&some, &[], "203.0.113.8/32") && !permits(&some, &[], "2001:db8::1/128"));
    }

    #[test]
    fn no_prefix_of_the_fabric_is_permitted() {
        let plain = config(&[], FILE);
        let ports: Vec<IpNet> =
            ["10.255.1.0/31", "10.255.2.5/24", "fe80::1/64"].map(|net| net.parse().unwrap()).into();
        let fabric = [
            "100.65.0.0/32",
            "192.0.2.60/31",
            "192.0.2.61/32",
            "192.0.3.0/24",
            "192.0.3.60/32",
            "198.18.0.9/32",
            "198.19.0.7/32",
            "192.169.12.0/24",
            "192.169.12.2/32",
            "10.255.1.0/31",
            "10.255.1.1/32",
            "10.255.2.0/24",
            "10.255.2.5/32",
        ];
        let others = ["192.0.3.61/32", "10.255.2.128/25"];
        for prefix in fabric.iter().chain(&others) {
            assert!(!permits(&plain, &ports, prefix), "{prefix}");
        }
        assert!(permits(&plain, &ports, "198.18.0.8/32"));
        let named = config(&[("METALLB_ALLOWED_PREFIXES", "0.0.0.0/0")], FILE);
        assert!(fabric.iter().all(|prefix| !permits(&named, &ports, prefix)));
        assert!(others.iter().all(|prefix| permits(&named, &ports, prefix)));
    }
}
