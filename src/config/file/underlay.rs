//! Converts the file's underlay into the model's, for this node.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::Config;
use crate::model::{IfName, NeighborId, RouterId, Underlay, UnderlayInterface, Value as _};

use super::address;
use super::entries::{self, GracefulRestart, InterfaceEntry, InterfaceType, TunnelEndpoint};
use super::names::is_managed_device;
use super::neighbor::neighbor;
use super::node_addresses::{find_owner, of_environment, of_underlay};
use super::report::{Located, Location, Report};
use super::values::CLUSTER_ID;

/// The default name of a macvlan: upstream's name for an interface created by CNI.
const MACVLAN: &str = "net1";

/// Converts the underlay. An invalid part does not affect the others. `index`: the node's number, if known.
pub(super) fn resolve_underlay(
    file: &entries::UnderlayEntry,
    index: Option<u32>,
    config: &Config,
    report: &mut Report<'_>,
) -> Underlay {
    let mut underlay = Underlay::default();
    if let Some(asn) = &file.asn
        && asn.value != config.settings.asn_local
    {
        report.add(
            &asn.location,
            format_args!("differs from ASN_LOCAL={}, which is used", config.settings.asn_local),
        );
    }
    if let (Some(net), Some(index)) = (&file.router_id, index) {
        match address::router_id(net.0, index) {
            Ok(ip) => underlay.router_id = RouterId::parse(&ip.to_string()).ok(),
            Err(reason) => report.add(&net.location, format_args!("{reason}: the router-id remains NODE_IP")),
        }
    }
    if let (Some(tunnel), Some(index)) = (&file.tunnel, index)
        && let Some(tunnel) = &tunnel.0
    {
        vtep(tunnel, index, config, &mut underlay, report);
    }
    if let Some(reflector) = &file.reflector {
        let (id, location) = match &reflector.cluster_id {
            Some(id) => (id.get(), &id.location),
            None => (CLUSTER_ID, &reflector.location),
        };
        match &file.router_id {
            Some(net) if net.0.contains(&IpAddr::V4(id)) => report.add(
                location,
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
    let mut own = of_environment(config);
    // The VTEP's address may be the node's address.
    own.retain(|(net, _)| net.addr() != IpAddr::V4(config.settings.node_ip.get()));
    let cidrs = &tunnel.cidrs.0;
    if let [first, second] = &cidrs[..]
        && first.addr().is_ipv4() == second.addr().is_ipv4()
    {
        report.add(&second.location, "the second subnet of its family: the VTEP is left out");
        return;
    }
    for cidr in cidrs {
        let free = |ip: IpAddr| match find_owner(&own, ip.into()) {
            Some(whose) => Err(format!("yields {ip}, which is {whose}")),
            None => Ok(ip),
        };
        match address::vtep(cidr.value, index).and_then(free) {
            Ok(IpAddr::V4(ip)) => underlay.vtep4 = Some(ip),
            Ok(IpAddr::V6(ip)) => underlay.vtep6 = Some(ip),
            Err(reason) => {
                report.add(&cidr.location, format_args!("{reason}: this address of the VTEP is left out"));
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
        let location =
            given.stale.as_ref().or(given.restart.as_ref()).map_or(&given.location, |n| &n.location);
        report.add(
            location,
            format_args!("a stale-path time of {stale_s} is less than a restart time of {restart_s}"),
        );
        return None;
    }
    Some((restart, stale))
}

fn interfaces(
    list: &[Located<InterfaceEntry>],
    config: &Config,
    underlay: &mut Underlay,
    report: &mut Report<'_>,
) {
    let vrf = config.metallb.vrf.as_ifname();
    // The parents of the macvlans with their location. A parent NIC must stay in the host namespace.
    let mut parents: Vec<(IfName, Location)> = vec![];
    for entry in list {
        let Some((interface, location, parent)) = interface(entry, report) else { continue };
        let name = interface.name();
        let reason = if is_managed_device(name.as_str()) {
            "reserved for a managed device"
        } else if name == vrf {
            "the name of VRF_METALLB"
        } else if underlay.interfaces.iter().any(|other| other.name() == name) {
            "listed twice"
        } else {
            if let Some(parent) = parent {
                parents.push((parent, entry.location.clone()));
            }
            underlay.interfaces.push(interface);
            continue;
        };
        report.add(&location, format_args!("{name} is {reason}: this interface is left out"));
    }
    for (parent, location) in parents {
        let reason = match underlay.interfaces.iter().find(|other| *other.name() == parent) {
            _ if is_managed_device(parent.as_str()) => "a managed device",
            _ if parent == *vrf => "the device of VRF_METALLB",
            Some(UnderlayInterface::Device(_)) => "moved into FRR's namespace by another entry",
            Some(UnderlayInterface::Macvlan { .. }) => "a macvlan of this file, which is in FRR's namespace",
            None => continue,
        };
        report.add(
            &location,
            format_args!("its parent {parent} is {reason}, not a NIC that stays in the host namespace: this interface is left out"),
        );
        underlay
            .interfaces
            .retain(|other| !matches!(other, UnderlayInterface::Macvlan { parent: p, .. } if *p == parent));
    }
}

/// One interface, the location of its name, and its parent NIC.
fn interface(
    entry: &Located<InterfaceEntry>,
    report: &mut Report<'_>,
) -> Option<(UnderlayInterface, Location, Option<IfName>)> {
    let (wanted, other) = match entry.kind.value {
        InterfaceType::NetworkDevice => (("networkDevice", entry.device.is_some()), entry.macvlan.is_some()),
        InterfaceType::Macvlan => (("macvlan", entry.macvlan.is_some()), entry.device.is_some()),
    };
    if !wanted.1 || other {
        let kind = entry.kind.value;
        report.add(
            &entry.location,
            format_args!("type {kind} needs {} and nothing else: this interface is left out", wanted.0),
        );
        return None;
    }
    if let Some(device) = &entry.device {
        let name = &device.name;
        return Some((UnderlayInterface::Device(name.0.clone()), name.location.clone(), None));
    }
    let macvlan = entry.macvlan.as_ref()?;
    let (name, location) = match &macvlan.name {
        Some(name) => (name.0.clone(), name.location.clone()),
        None => (IfName::parse(MACVLAN).ok()?, macvlan.location.clone()),
    };
    let parent = macvlan.parent.0.clone();
    let addresses = macvlan.addresses.iter().flat_map(|list| &list.0);
    let mut unique: Vec<IpNet> = vec![];
    for address in addresses {
        if unique.iter().any(|other| other.addr() == address.0.addr()) {
            report.add(&address.location, "is listed twice: this interface is left out");
            return None;
        }
        unique.push(address.0);
    }
    let interface = UnderlayInterface::Macvlan { name, parent: parent.clone(), addresses: unique };
    Some((interface, location, Some(parent)))
}

fn neighbors(
    list: &[Located<entries::NeighborEntry>],
    config: &Config,
    underlay: &mut Underlay,
    report: &mut Report<'_>,
) {
    let own = [of_environment(config), of_underlay(underlay)].concat();
    for entry in list {
        let Some(neighbor) = neighbor(entry, config, report) else { continue };
        let location = match &neighbor.peer {
            NeighborId::Address(_) => entry.address.as_ref().map(|address| &address.location),
            NeighborId::Interface(_) => entry.interface.as_ref().map(|interface| &interface.location),
            NeighborId::Range(_) => entry.range.as_ref().map(|range| &range.location),
        };
        let location = location.unwrap_or(&entry.location);
        let whose = match &neighbor.peer {
            NeighborId::Address(ip) => find_owner(&own, IpNet::from(*ip)),
            NeighborId::Range(net) => find_owner(&own, *net),
            NeighborId::Interface(name) => {
                (name == config.metallb.vrf.as_ifname()).then_some("the device of VRF_METALLB")
            }
        };
        if let Some(whose) = whose {
            report.add(
                location,
                format_args!("is {whose} and cannot be a neighbor: this neighbor is left out"),
            );
            continue;
        }
        let clashes = |other: &NeighborId| match (other, &neighbor.peer) {
            (NeighborId::Range(a), NeighborId::Range(b)) => address::overlaps(*a, *b),
            (a, b) => a == b,
        };
        if underlay.neighbors.iter().any(|other| clashes(&other.peer)) {
            let reason = match &neighbor.peer {
                NeighborId::Address(_) | NeighborId::Interface(_) => "is listed twice",
                NeighborId::Range(_) => "overlaps with another range",
            };
            report.add(location, format_args!("{reason}: this neighbor is left out"));
            continue;
        }
        underlay.neighbors.push(neighbor);
    }
}
