//! Workloads that say nothing: the kernel is made to ask for those that it has not heard of for a while. Otherwise
//! their MAC addresses age out of the bridges (after 300 s), FRR takes their EVPN routes back, and no one finds them.

use std::collections::HashSet;

use netlink_packet_core::NLM_F_REPLACE;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use crate::model::{Desired, Side, SpecKind};

use super::Kernel;
use super::netlink::Refusal;
use super::object::Object;

impl Kernel {
    /// Has the kernel ask for every neighbour behind a gateway that it takes for stale. It sends what it would send
    /// itself if there were traffic, and forgets who does not answer.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn refresh_neighbours(&mut self, desired: &Desired) -> Result<usize, Refusal> {
        let bridges: HashSet<u32> =
            gateways(desired).filter_map(|name| self.router_index(name).ok()).collect();
        let nl = self.router_netlink();
        let mut asked = 0;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = NeighbourMessage::default();
            filter.header.family = family;
            let silent = nl.dump(Object::GetNeighbour(filter), |answer| match answer {
                Object::NewNeighbour(found) => {
                    (bridges.contains(&found.header.ifindex) && is_silent(&found)).then(|| used(&found))
                }
                _ => None,
            })?;
            for neighbour in silent {
                // It may be gone by now.
                if nl.change(Object::NewNeighbour(neighbour), NLM_F_REPLACE).is_ok() {
                    asked += 1;
                }
            }
        }
        Ok(asked)
    }
}

fn gateways(desired: &Desired) -> impl Iterator<Item = &str> {
    let of_workloads = |link: &&crate::model::LinkSpec| {
        link.side == Side::Router && link.kind == SpecKind::Bridge && !link.addresses.is_empty()
    };
    desired.links.iter().filter(of_workloads).map(|link| link.name.as_str())
}

/// Stale, learnt here, and not under a link-local address, which no route leads to.
fn is_silent(found: &NeighbourMessage) -> bool {
    let link_local = |attribute: &NeighbourAttribute| matches!(attribute, NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) if ip.is_unicast_link_local());
    found.header.state == NeighbourState::Stale
        && !found.header.flags.contains(NeighbourFlags::ExtLearned)
        && !found.attributes.iter().any(link_local)
}

/// The neighbour as if a packet were to be sent to it (`NTF_USE`).
fn used(found: &NeighbourMessage) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = found.header.family;
    message.header.ifindex = found.header.ifindex;
    message.header.flags = NeighbourFlags::Use;
    let destination =
        |attribute: &&NeighbourAttribute| matches!(attribute, NeighbourAttribute::Destination(_));
    message.attributes.extend(found.attributes.iter().find(destination).cloned());
    message
}
