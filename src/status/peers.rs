//! Who the BGP sessions are with, by the configuration: what a session is called, or says, settles nothing. Pure.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::Role;
use crate::config::Config;
use crate::model::Peer;

/// How the built-in template's line about a peer on a port ends.
const OF_PORTS_GROUP: &str = " peer-group fabric";

/// bgpd's word for the VRF that has none.
const DEFAULT_VRF: &str = "default";

/// The peers that there can be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// Addresses, interfaces and groups that frr.conf has as neighbors, in any VRF.
    names: BTreeSet<String>,
    /// Subnets from which anyone may dial, and whether that is the fabric.
    ranges: Vec<(IpNet, bool)>,
    /// Those of the fabric.
    fabric: BTreeSet<String>,
    /// The host's ends, with their VRFs.
    hosts: BTreeSet<(String, String)>,
    /// The VRF of MetalLB's speaker, and its addresses.
    metallb: (String, BTreeSet<String>),
    /// The template is the operator's own, which may have a fabric that no setting names.
    own_template: bool,
}

impl Peers {
    /// Those of a configuration, and of the frr.conf that it has led to.
    pub fn new(config: &Config, text: &str) -> Self {
        let overlay = &config.overlay;
        let mut peers = Self {
            metallb: (
                config.metallb.vrf.to_string(),
                std::iter::once(config.metallb.v6)
                    .chain(config.metallb.v4)
                    .map(|pair| pair.metallb.to_string())
                    .collect(),
            ),
            own_template: config.template.is_some(),
            ..Self::default()
        };
        let passthrough = overlay.passthrough.iter().map(|session| (DEFAULT_VRF.to_owned(), session));
        let of_vnis =
            overlay.l3vnis.iter().filter_map(|vni| Some((vni.vrf.to_string(), vni.session.as_ref()?)));
        for (vrf, session) in passthrough.chain(of_vnis) {
            peers.hosts.extend(session.ends.iter().map(|(_, host)| (vrf.clone(), host.addr().to_string())));
        }
        for neighbor in &overlay.underlay.neighbors {
            match &neighbor.peer {
                Peer::Address(address) => drop(peers.fabric.insert(address.to_string())),
                Peer::Interface(name) => drop(peers.fabric.insert(name.to_string())),
                Peer::Range(range) => peers.ranges.push((*range, true)),
            }
        }
        for line in text.lines().map(str::trim) {
            if let Some((name, rest)) = line.strip_prefix("neighbor ").and_then(|rest| rest.split_once(' ')) {
                peers.names.insert(name.to_owned());
                if rest.starts_with("interface ") && rest.ends_with(OF_PORTS_GROUP) {
                    peers.fabric.insert(name.to_owned());
                }
            }
            let range = line.strip_prefix("bgp listen range ").and_then(|rest| rest.split(' ').next());
            if let Some(range) = range.and_then(|range| range.parse().ok())
                && !peers.ranges.iter().any(|(known, _)| *known == range)
            {
                peers.ranges.push((range, false));
            }
        }
        peers
    }

    /// What a session is to us.
    pub fn role(&self, vrf: &str, peer: &str) -> Role {
        let in_range = || {
            let address = peer.parse::<std::net::IpAddr>().ok();
            address.is_some_and(|a| self.ranges.iter().any(|(range, ours)| *ours && range.contains(&a)))
        };
        if vrf == self.metallb.0 {
            if self.metallb.1.contains(peer) || self.own_template { Role::Metallb } else { Role::Other }
        } else if self.hosts.contains(&(vrf.to_owned(), peer.to_owned())) {
            Role::Host
        } else if vrf == DEFAULT_VRF && (self.fabric.contains(peer) || in_range() || self.own_template) {
            Role::Fabric
        } else {
            Role::Other
        }
    }

    /// Whether there can be a session with it.
    pub fn is_known(&self, peer: &str) -> bool {
        let dials = |peer: &str| {
            let address = peer.parse::<std::net::IpAddr>();
            address.is_ok_and(|address| self.ranges.iter().any(|(range, _)| range.contains(&address)))
        };
        self.names.contains(peer) || dials(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_vars;

    const FILE: &str = "
underlay:
  tunnelEndpoint: {cidrs: [100.65.0.0/24]}
  neighbors:
  - {address: 192.0.2.1, asn: 65000}
  - {listenRange: 100.64.0.0/24, asn: 65001}
l3vnis:
- {vrf: red, vni: 100, hostSession: {asn: 64514, hostASN: 64515, localCIDR: {ipv4: 192.168.10.0/24}}}
l3passthrough: {hostSession: {asn: 65001, hostASN: 64515, localCIDR: {ipv4: 192.168.9.0/24}}}
rawFRRConfigs: []
";

    fn config(extra: &[(&str, &str)]) -> Config {
        let vars =
            [("NODE_IP", "10.0.0.1"), ("ASN_LOCAL", "65001"), ("FE_MACS", "02:00:00:00:00:01")].into_iter();
        let vars = vars.chain(extra.iter().copied()).map(|(k, v)| (k.into(), v.into()));
        let mut config = from_vars(vars).unwrap();
        let (overlay, problems) = crate::config::file::load(&[("x.yaml".into(), FILE.into())], &config);
        assert_eq!(problems, []);
        config.add(overlay).unwrap();
        config
    }

    const TEXT: &str = "router bgp 65001\n neighbor fabric peer-group\n neighbor eth1 interface v6only peer-group fabric\n \
        neighbor 192.168.9.2 remote-as 64515\n neighbor 203.0.113.9 remote-as 3\n bgp listen range 198.51.100.0/24 peer-group x\n";

    #[test]
    fn roles_come_from_the_configuration() {
        let peers = Peers::new(&config(&[]), TEXT);
        for (vrf, peer, role) in [
            ("default", "eth1", Role::Fabric),
            ("default", "192.0.2.1", Role::Fabric),
            ("default", "100.64.0.7", Role::Fabric),
            ("default", "192.168.9.2", Role::Host),
            ("default", "203.0.113.9", Role::Other),
            ("default", "198.51.100.7", Role::Other),
            ("red", "192.168.10.2", Role::Host),
            ("red", "eth1", Role::Other),
            ("default", "192.168.10.2", Role::Other),
            ("metallb", "fda1:b2c3:d4e5:1::1", Role::Metallb),
            ("metallb", "fda1::9", Role::Other),
        ] {
            assert_eq!(peers.role(vrf, peer), role, "{vrf} {peer}");
        }
        let own = Peers::new(&config(&[("FRR_TEMPLATE", "/x")]), TEXT);
        assert_eq!(own.role("default", "203.0.113.9"), Role::Fabric);
        assert_eq!(own.role("default", "192.168.9.2"), Role::Host);
    }

    /// What the built-in template says of a port is understood here.
    #[test]
    fn the_ports_are_the_fabrics() {
        let text = include_str!("../../tests/golden/perouter.conf");
        assert!(text.contains("neighbor eth1 interface"));
        assert_eq!(Peers::new(&config(&[]), text).role("default", "eth1"), Role::Fabric);
    }

    #[test]
    fn who_is_no_neighbor_is_not_known() {
        let peers = Peers::new(&config(&[]), TEXT);
        for known in ["eth1", "192.168.9.2", "203.0.113.9", "100.64.0.9", "198.51.100.1"] {
            assert!(peers.is_known(known), "{known}");
        }
        for unknown in ["eth2", "", "203.0.113.10", "100.65.0.9", "eth1 "] {
            assert!(!peers.is_known(unknown), "{unknown}");
        }
    }
}
