//! Refreshes the neighbour entries of silent workloads. Otherwise their MAC addresses age out of the bridges (after 300
//! s), FRR withdraws their EVPN routes, and they are unreachable.

use std::collections::HashSet;

use netlink_packet_core::NLM_F_REPLACE;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use crate::model::{Desired, Side, SpecKind};

use super::Kernel;
use super::netlink::NetlinkError;
use super::rtnl::RtnlMessage;

impl Kernel {
    /// Makes the kernel probe all stale neighbours on the gateway bridges, as it does for traffic. The kernel removes
    /// the entries of neighbours that do not reply. Returns the number of probed neighbours.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn refresh_neighbours(&mut self, desired: &Desired) -> Result<usize, NetlinkError> {
        let bridges: HashSet<u32> =
            gateways(desired).filter_map(|name| self.router_index(name).ok()).collect();
        let nl = self.router_netlink();
        let mut probed = 0;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = NeighbourMessage::default();
            filter.header.family = family;
            let stale = nl.dump(RtnlMessage::GetNeighbour(filter), |reply| match reply {
                RtnlMessage::NewNeighbour(found) => {
                    (bridges.contains(&found.header.ifindex) && is_stale(&found)).then(|| probe(&found))
                }
                _ => None,
            })?;
            for neighbour in stale {
                // The kernel may have removed the entry in between.
                if nl.change(RtnlMessage::NewNeighbour(neighbour), NLM_F_REPLACE).is_ok() {
                    probed += 1;
                }
            }
        }
        Ok(probed)
    }
}

/// Names of the bridges with gateway addresses.
fn gateways(desired: &Desired) -> impl Iterator<Item = &str> {
    let is_gateway = |link: &&crate::model::LinkSpec| {
        link.side == Side::Router && link.kind == SpecKind::Bridge && !link.addresses.is_empty()
    };
    desired.links.iter().filter(is_gateway).map(|link| link.name.as_str())
}

/// Whether an entry is stale, learned on this node, and not of a link-local address, to which no route leads.
fn is_stale(found: &NeighbourMessage) -> bool {
    let link_local = |attribute: &NeighbourAttribute| matches!(attribute, NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) if ip.is_unicast_link_local());
    found.header.state == NeighbourState::Stale
        && !found.header.flags.contains(NeighbourFlags::ExtLearned)
        && !found.attributes.iter().any(link_local)
}

/// The request that makes the kernel probe a neighbour as if it had a packet for it (`NTF_USE`).
fn probe(found: &NeighbourMessage) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = found.header.family;
    message.header.ifindex = found.header.ifindex;
    message.header.flags = NeighbourFlags::Use;
    let destination =
        |attribute: &&NeighbourAttribute| matches!(attribute, NeighbourAttribute::Destination(_));
    message.attributes.extend(found.attributes.iter().find(destination).cloned());
    message
}
