//! The environment as an offer: what its settings use, and no other source may.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Config, MetallbConfig};
use crate::intent::{Claim, Content, Key, Offer, OfferId, Origin, Part, SourceKind, Space};
use crate::model::icmpv6_source;

/// What a VRF is called in a message.
pub const VRF: &str = "a VRF";

impl Config {
    /// The offer of the environment.
    pub fn offer(&self) -> Offer<Part> {
        let origin = |object: &str| Origin { object: object.into(), location: None };
        let mut content = Content::new(Part::Settings);
        if let Some(metallb) = &self.metallb {
            let name = metallb.vrf.as_ifname();
            let claim = |key, value: Option<&str>| Claim {
                key,
                value: value.map(Into::into),
                origin: origin("the environment (VRF_METALLB)"),
            };
            content.claims = vec![
                claim(Key::Vrf(metallb.vrf.clone()), None),
                claim(Key::Device(name.clone()), None),
                claim(Key::Kind(name.clone()), Some(VRF)),
            ];
        }
        let node_ip = self.settings.node_ip;
        let source = IpNet::from(IpAddr::from(icmpv6_source(node_ip)));
        let pairs = self.metallb.iter().flat_map(MetallbConfig::pairs);
        let links: Vec<IpNet> = pairs.map(|pair| pair.frr_net().trunc()).collect();
        for space in [Space::Host, Space::Default] {
            let links = links.iter().map(|net| (space.clone(), *net, origin("the link to MetalLB")));
            content.subnets.extend(links);
            content.subnets.push((space, source, origin("the node's source address for ICMPv6")));
        }
        // The VTEP may have this address.
        content.subnets.push((Space::Host, IpNet::from(IpAddr::from(node_ip.get())), origin("NODE_IP")));
        let id = OfferId { source: SourceKind::Environment, name: "environment".into() };
        Offer { id, content: Ok(Arc::new(content)) }
    }
}
