//! The configured BGP neighbors and their roles. A role comes from the configuration, never from a neighbor's name or
//! messages. Pure.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::SessionRole;
use crate::config::Config;
use crate::frr::Document;
use crate::model::NeighborId;

/// End of the line with which the built-in template adds a port to the fabric's peer group.
const FABRIC_PEER_GROUP: &str = " peer-group fabric";

/// bgpd's name of the default VRF.
const DEFAULT_VRF: &str = "default";

/// The configured neighbors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfiguredPeers {
    /// Neighbors in frr.conf, in any VRF: addresses, interfaces and peer groups.
    names: BTreeSet<String>,
    /// Listen ranges, and whether their neighbors belong to the fabric.
    ranges: Vec<(IpNet, bool)>,
    /// Neighbors of the fabric.
    fabric: BTreeSet<String>,
    /// VRFs and addresses of the host's ends of the veth pairs.
    hosts: BTreeSet<(String, String)>,
    /// The VRF of MetalLB's speaker, and its addresses.
    metallb: Option<(String, BTreeSet<String>)>,
    /// The template is the operator's own: it may have fabric neighbors that no setting names.
    own_template: bool,
}

impl ConfiguredPeers {
    /// The neighbors of a configuration and of the frr.conf rendered from it.
    pub fn new(config: &Config, document: &Document) -> Self {
        let overlay = &config.overlay;
        let mut peers = Self {
            metallb: config.metallb.as_ref().map(|metallb| {
                (metallb.vrf.to_string(), metallb.pairs().map(|pair| pair.metallb.to_string()).collect())
            }),
            own_template: config.settings.frr_template.is_some(),
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
                NeighborId::Address(address) => drop(peers.fabric.insert(address.to_string())),
                NeighborId::Interface(name) => drop(peers.fabric.insert(name.to_string())),
                NeighborId::Range(range) => peers.ranges.push((*range, true)),
            }
        }
        for line in document.lines() {
            if let Some((name, rest)) = line.strip_prefix("neighbor ").and_then(|rest| rest.split_once(' ')) {
                peers.names.insert(name.to_owned());
                if rest.starts_with("interface ") && rest.ends_with(FABRIC_PEER_GROUP) {
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

    /// Role of a session.
    pub fn role(&self, vrf: &str, peer: &str) -> SessionRole {
        let in_range = || {
            let address = peer.parse::<std::net::IpAddr>().ok();
            address.is_some_and(|a| {
                self.ranges.iter().any(|(range, is_fabric)| *is_fabric && range.contains(&a))
            })
        };
        if let Some((_, speakers)) = self.metallb.as_ref().filter(|(metallb, _)| metallb == vrf) {
            if speakers.contains(peer) || self.own_template {
                SessionRole::Metallb
            } else {
                SessionRole::Other
            }
        } else if self.hosts.contains(&(vrf.to_owned(), peer.to_owned())) {
            SessionRole::Host
        } else if vrf == DEFAULT_VRF && (self.fabric.contains(peer) || in_range() || self.own_template) {
            SessionRole::Fabric
        } else {
            SessionRole::Other
        }
    }

    /// Whether the configuration allows a session with this neighbor.
    pub fn is_known(&self, peer: &str) -> bool {
        let in_range = |peer: &str| {
            let address = peer.parse::<std::net::IpAddr>();
            address.is_ok_and(|address| self.ranges.iter().any(|(range, _)| range.contains(&address)))
        };
        self.names.contains(peer) || in_range(peer)
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
        let (overlay, problems) =
            crate::config::file::parse_files(&[("x.yaml".into(), FILE.into())], &config);
        assert_eq!(problems, []);
        config.add_overlay(overlay).unwrap();
        config
    }

    const TEXT: &str = "router bgp 65001\n neighbor fabric peer-group\n neighbor eth1 interface v6only peer-group fabric\n \
        neighbor 192.168.9.2 remote-as 64515\n neighbor 203.0.113.9 remote-as 3\n bgp listen range 198.51.100.0/24 peer-group x\n";

    #[test]
    fn roles_come_from_the_configuration() {
        let peers = ConfiguredPeers::new(&config(&[]), &TEXT.into());
        for (vrf, peer, role) in [
            ("default", "eth1", SessionRole::Fabric),
            ("default", "192.0.2.1", SessionRole::Fabric),
            ("default", "100.64.0.7", SessionRole::Fabric),
            ("default", "192.168.9.2", SessionRole::Host),
            ("default", "203.0.113.9", SessionRole::Other),
            ("default", "198.51.100.7", SessionRole::Other),
            ("red", "192.168.10.2", SessionRole::Host),
            ("red", "eth1", SessionRole::Other),
            ("default", "192.168.10.2", SessionRole::Other),
            ("metallb", "fda1:b2c3:d4e5:1::1", SessionRole::Metallb),
            ("metallb", "fda1::9", SessionRole::Other),
        ] {
            assert_eq!(peers.role(vrf, peer), role, "{vrf} {peer}");
        }
        let own = ConfiguredPeers::new(&config(&[("FRR_TEMPLATE", "/x")]), &TEXT.into());
        assert_eq!(own.role("default", "203.0.113.9"), SessionRole::Fabric);
        assert_eq!(own.role("default", "192.168.9.2"), SessionRole::Host);
    }

    /// [`FABRIC_PEER_GROUP`] matches the built-in template.
    #[test]
    fn ports_of_the_built_in_template_are_fabric_neighbors() {
        let text = include_str!("../../tests/golden/perouter.conf");
        assert!(text.contains("neighbor eth1 interface"));
        assert_eq!(
            ConfiguredPeers::new(&config(&[]), &text.into()).role("default", "eth1"),
            SessionRole::Fabric
        );
    }

    #[test]
    fn only_configured_neighbors_are_known() {
        let peers = ConfiguredPeers::new(&config(&[]), &TEXT.into());
        for known in ["eth1", "192.168.9.2", "203.0.113.9", "100.64.0.9", "198.51.100.1"] {
            assert!(peers.is_known(known), "{known}");
        }
        for unknown in ["eth2", "", "203.0.113.10", "100.65.0.9", "eth1 "] {
            assert!(!peers.is_known(unknown), "{unknown}");
        }
    }
}
