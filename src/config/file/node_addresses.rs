//! Addresses that the node already uses. No other entry may use them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::Config;
use crate::model::{NeighborId, Underlay, UnderlayInterface, icmpv6_source};

/// Networks, each with its owner as the end of a sentence.
pub(super) type NodeAddresses = Vec<(IpNet, String)>;

/// The node's addresses from the environment.
pub(super) fn of_environment(config: &Config) -> NodeAddresses {
    let pairs = [Some(config.metallb.v6), config.metallb.v4].into_iter().flatten();
    let mut own: NodeAddresses =
        pairs.map(|pair| (pair.frr_net().trunc(), "the link to MetalLB".into())).collect();
    own.push((host(config.settings.node_ip.get()), "NODE_IP".into()));
    own.push((host(icmpv6_source(config.settings.node_ip)), "the node's source address for ICMPv6".into()));
    own
}

/// The node's fabric addresses from the file.
pub(super) fn of_underlay(underlay: &Underlay) -> NodeAddresses {
    let mut own: NodeAddresses =
        underlay.vteps().map(|ip| (IpNet::from(ip), "this node's VTEP".into())).collect();
    for interface in &underlay.interfaces {
        if let UnderlayInterface::Macvlan { name, addresses, .. } = interface {
            own.extend(addresses.iter().map(|net| (IpNet::from(net.addr()), format!("this node's {name}"))));
        }
    }
    own
}

/// The addresses of the underlay's neighbors.
pub(super) fn of_neighbors(underlay: &Underlay) -> NodeAddresses {
    let address = |peer: &NeighborId| match peer {
        NeighborId::Address(ip) => Some((IpNet::from(*ip), "a neighbor of the underlay".into())),
        NeighborId::Interface(_) | NeighborId::Range(_) => None,
    };
    underlay.neighbors.iter().filter_map(|neighbor| address(&neighbor.peer)).collect()
}

fn host(ip: impl Into<IpAddr>) -> IpNet {
    IpNet::from(ip.into())
}

/// The owner of a network that contains all of `net`.
pub(super) fn find_owner(own: &NodeAddresses, net: IpNet) -> Option<&str> {
    own.iter().find(|(owned, _)| owned.contains(&net)).map(|(_, owner)| owner.as_str())
}
