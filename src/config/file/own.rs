//! Addresses that are the node's own already, so that no one else may have them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::Config;
use crate::model::{Peer, Underlay, UnderlayInterface, node_source};

/// Networks, each with whose it is, as the end of a sentence.
pub(super) type Own = Vec<(IpNet, String)>;

/// The node's addresses by the environment.
pub(super) fn of_node(config: &Config) -> Own {
    let pairs = [Some(config.metallb.v6), config.metallb.v4].into_iter().flatten();
    let mut own: Own = pairs.map(|pair| (pair.frr_net().trunc(), "the link to MetalLB".into())).collect();
    own.push((host(config.node_ip.get()), "NODE_IP".into()));
    own.push((host(node_source(config.node_ip)), "the node's source address for ICMPv6".into()));
    own
}

/// Its addresses in the fabric by the file.
pub(super) fn of_underlay(underlay: &Underlay) -> Own {
    let mut own: Own = underlay.vteps().map(|ip| (IpNet::from(ip), "this node's VTEP".into())).collect();
    for interface in &underlay.interfaces {
        if let UnderlayInterface::Macvlan { name, addresses, .. } = interface {
            own.extend(addresses.iter().map(|net| (IpNet::from(net.addr()), format!("this node's {name}"))));
        }
    }
    own
}

/// The addresses of its neighbors.
pub(super) fn of_neighbors(underlay: &Underlay) -> Own {
    let address = |peer: &Peer| match peer {
        Peer::Address(ip) => Some((IpNet::from(*ip), "a neighbor of the underlay".into())),
        Peer::Interface(_) | Peer::Range(_) => None,
    };
    underlay.neighbors.iter().filter_map(|neighbor| address(&neighbor.peer)).collect()
}

fn host(ip: impl Into<IpAddr>) -> IpNet {
    IpNet::from(ip.into())
}

/// Whose all of `net` is.
pub(super) fn owner(own: &Own, net: IpNet) -> Option<&str> {
    own.iter().find(|(mine, _)| mine.contains(&net)).map(|(_, whose)| whose.as_str())
}
