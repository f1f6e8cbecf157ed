//! The file's underlay → the model's, on this node.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::Config;
use crate::model::{IfName, Peer, RouterId, Underlay, UnderlayInterface, Value as _};

use super::address;
use super::entries::{self, GracefulRestart, Interface, InterfaceType, TunnelEndpoint};
use super::names::is_ours;
use super::neighbor::neighbor;
use super::own::{of_node, of_underlay, owner};
use super::report::{Located, Report, Spot};
use super::values::CLUSTER_ID;

/// The name of a macvlan that is not given one: upstream's for what CNI makes.
const MACVLAN: &str = "net1";

/// Reads the underlay; what is wrong with a part of it does not touch the others. `index`: the node's, if it is known.
pub(super) fn underlay(
    file: &entries::Underlay,
    index: Option<u32>,
    config: &Config,
    report: &mut Report<'_>,
) -> Underlay {
    let mut underlay = Underlay::default();
    if let Some(asn) = &file.asn
        && asn.value != config.asn
    {
        report.complain(&asn.spot, format_args!("not ASN_LOCAL={}, which holds", config.asn));
    }
    if let (Some(net), Some(index)) = (&file.router_id, index) {
        match address::router_id(net.0, index) {
            Ok(ip) => underlay.router_id = RouterId::parse(&ip.to_string()).ok(),
            Err(reason) => report.complain(&net.spot, format_args!("{reason}: the router-id stays NODE_IP")),
        }
    }
    if let (Some(tunnel), Some(index)) = (&file.tunnel, index)
        && let Some(tunnel) = &tunnel.0
    {
        vtep(tunnel, index, config, &mut underlay, report);
    }
    if let Some(reflector) = &file.reflector {
        let (id, spot) = match &reflector.cluster_id {
            Some(id) => (id.get(), &id.spot),
            None => (CLUSTER_ID, &reflector.spot),
        };
        match &file.router_id {
            Some(net) if net.0.contains(&IpAddr::V4(id)) => report.complain(
                spot,
                format_args!("cluster-id {id} is in routerIDCIDR {}: routes are not reflected", net.0),
            ),
            _ => underlay.cluster_id = Some(id),
        }
    }
    underlay.graceful_restart =
        file.restart.as_ref().and_then(|restart| graceful_restart(restart, config, report));
    interfaces(&file.interfaces.0, config, &mut underlay, report);
    neighbors(&file.neighbors.0, config, &mut underlay, report);
    underlay
}

fn vtep(
    tunnel: &TunnelEndpoint,
    index: u32,
    config: &Config,
    underlay: &mut Underlay,
    report: &mut Report<'_>,
) {
    let mut own = of_node(config);
    // A node may be reached by the address of its VTEP.
    own.retain(|(net, _)| net.addr() != IpAddr::V4(config.node_ip.get()));
    let cidrs = &tunnel.cidrs.0;
    if let [first, second] = &cidrs[..]
        && first.addr().is_ipv4() == second.addr().is_ipv4()
    {
        report.complain(&second.spot, "the second subnet of its family: the VTEP is left out");
        return;
    }
    for cidr in cidrs {
        let free = |ip: IpAddr| match owner(&own, ip.into()) {
            Some(whose) => Err(format!("leads to {ip}, which is {whose}")),
            None => Ok(ip),
        };
        match address::vtep(cidr.value, index).and_then(free) {
            Ok(IpAddr::V4(ip)) => underlay.vtep4 = Some(ip),
            Ok(IpAddr::V6(ip)) => underlay.vtep6 = Some(ip),
            Err(reason) => {
                report.complain(&cidr.spot, format_args!("{reason}: this address of the VTEP is left out"));
            }
        }
    }
}

fn graceful_restart(
    given: &Located<GracefulRestart>,
    config: &Config,
    report: &mut Report<'_>,
) -> Option<(Option<u32>, Option<u32>)> {
    let restart = given.restart.as_ref().map(|n| n.get());
    let stale = given.stale.as_ref().map(|n| n.get());
    let (restart_s, stale_s) =
        (restart.unwrap_or(config.timers.restart_s), stale.unwrap_or(config.timers.stalepath_s));
    if stale_s < restart_s {
        let spot = given.stale.as_ref().or(given.restart.as_ref()).map_or(&given.spot, |n| &n.spot);
        report.complain(
            spot,
            format_args!("a stale-path time of {stale_s} is less than a restart time of {restart_s}"),
        );
        return None;
    }
    Some((restart, stale))
}

fn interfaces(
    list: &[Located<Interface>],
    config: &Config,
    underlay: &mut Underlay,
    report: &mut Report<'_>,
) {
    let vrf = config.metallb.vrf.as_ifname();
    // Where a macvlan stands on, and its place: the NIC must stay.
    let mut parents: Vec<(IfName, Spot)> = vec![];
    for entry in list {
        let Some((interface, spot, parent)) = interface(entry, report) else { continue };
        let name = interface.name();
        let reason = if is_ours(name.as_str()) {
            "a name of our own devices"
        } else if name == vrf {
            "the name of VRF_METALLB"
        } else if underlay.interfaces.iter().any(|other| other.name() == name) {
            "there twice"
        } else {
            if let Some(parent) = parent {
                parents.push((parent, entry.spot.clone()));
            }
            underlay.interfaces.push(interface);
            continue;
        };
        report.complain(&spot, format_args!("{name} is {reason}: this interface is left out"));
    }
    for (parent, spot) in parents {
        let reason = match underlay.interfaces.iter().find(|other| *other.name() == parent) {
            _ if is_ours(parent.as_str()) => "a device of our own",
            _ if parent == *vrf => "the device of VRF_METALLB",
            Some(UnderlayInterface::Device(_)) => "moved into the namespace by another entry",
            Some(UnderlayInterface::Macvlan { .. }) => "a macvlan of this file, which is in the namespace",
            None => continue,
        };
        report.complain(
            &spot,
            format_args!("its parent {parent} is {reason}, not a NIC that stays with the host: this interface is left out"),
        );
        underlay
            .interfaces
            .retain(|other| !matches!(other, UnderlayInterface::Macvlan { parent: p, .. } if *p == parent));
    }
}

/// One interface, where its name stands, and the NIC below it.
fn interface(
    entry: &Located<Interface>,
    report: &mut Report<'_>,
) -> Option<(UnderlayInterface, Spot, Option<IfName>)> {
    let (wanted, other) = match entry.kind.value {
        InterfaceType::NetworkDevice => (("networkDevice", entry.device.is_some()), entry.macvlan.is_some()),
        InterfaceType::Macvlan => (("macvlan", entry.macvlan.is_some()), entry.device.is_some()),
    };
    if !wanted.1 || other {
        let kind = entry.kind.value;
        report.complain(
            &entry.spot,
            format_args!("type {kind} needs {} and nothing else: this interface is left out", wanted.0),
        );
        return None;
    }
    if let Some(device) = &entry.device {
        let name = &device.name;
        return Some((UnderlayInterface::Device(name.0.clone()), name.spot.clone(), None));
    }
    let macvlan = entry.macvlan.as_ref()?;
    let (name, spot) = match &macvlan.name {
        Some(name) => (name.0.clone(), name.spot.clone()),
        None => (IfName::parse(MACVLAN).ok()?, macvlan.spot.clone()),
    };
    let parent = macvlan.parent.0.clone();
    let addresses = macvlan.addresses.iter().flat_map(|list| &list.0);
    let mut unique: Vec<IpNet> = vec![];
    for address in addresses {
        if unique.iter().any(|other| other.addr() == address.0.addr()) {
            report.complain(&address.spot, "is there twice: this interface is left out");
            return None;
        }
        unique.push(address.0);
    }
    let interface = UnderlayInterface::Macvlan { name, parent: parent.clone(), addresses: unique };
    Some((interface, spot, Some(parent)))
}

fn neighbors(
    list: &[Located<entries::Neighbor>],
    config: &Config,
    underlay: &mut Underlay,
    report: &mut Report<'_>,
) {
    let own = [of_node(config), of_underlay(underlay)].concat();
    for entry in list {
        let Some(neighbor) = neighbor(entry, config, report) else { continue };
        let spot = match &neighbor.peer {
            Peer::Address(_) => entry.address.as_ref().map(|address| &address.spot),
            Peer::Interface(_) => entry.interface.as_ref().map(|interface| &interface.spot),
            Peer::Range(_) => entry.range.as_ref().map(|range| &range.spot),
        };
        let spot = spot.unwrap_or(&entry.spot);
        let whose = match &neighbor.peer {
            Peer::Address(ip) => owner(&own, IpNet::from(*ip)),
            Peer::Range(net) => owner(&own, *net),
            Peer::Interface(name) => {
                (name == config.metallb.vrf.as_ifname()).then_some("the device of VRF_METALLB")
            }
        };
        if let Some(whose) = whose {
            report
                .complain(spot, format_args!("is {whose}, where no neighbor is: this neighbor is left out"));
            continue;
        }
        let clashes = |other: &Peer| match (other, &neighbor.peer) {
            (Peer::Range(a), Peer::Range(b)) => address::overlap(*a, *b),
            (a, b) => a == b,
        };
        if underlay.neighbors.iter().any(|other| clashes(&other.peer)) {
            let reason = match &neighbor.peer {
                Peer::Address(_) | Peer::Interface(_) => "is there twice",
                Peer::Range(_) => "overlaps with another range",
            };
            report.complain(spot, format_args!("{reason}: this neighbor is left out"));
            continue;
        }
        underlay.neighbors.push(neighbor);
    }
}
