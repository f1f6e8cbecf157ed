//! The file's underlay as offers: its settings, and each link and neighbor alone.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{Config, MetallbConfig};
use crate::intent::{Key, Part, Space};
use crate::model::{IfName, NeighborId, RouterId, UnderlayInterface, Value as _, icmpv6_source};

use super::address;
use super::entries::{self, GracefulRestart, InterfaceEntry, InterfaceType, TunnelEndpoint};
use super::names::is_managed_device;
use super::neighbor::neighbor;
use super::offers::FileOffers;
use super::report::{Located, Location, Report};
use super::values::CLUSTER_ID;

/// The default name of a macvlan: upstream's name for an interface created by CNI.
const MACVLAN: &str = "net1";

/// What a device is called that is no VRF.
const INTERFACE: &str = "an interface";

/// Where a link to the fabric is.
const MOVED: &str = "in FRR's namespace";

/// Adds the underlay. `index`: the node's number, if known.
pub(super) fn underlay(
    file: &Located<entries::UnderlayEntry>,
    index: Option<u32>,
    config: &Config,
    offers: &mut FileOffers<'_>,
    report: &mut Report<'_>,
) {
    if let Some(asn) = &file.asn
        && asn.value != config.settings.asn_local
    {
        report.add(
            &asn.location,
            format_args!("differs from ASN_LOCAL={}, which is used", config.settings.asn_local),
        );
    }
    let mut single =
        |name: &str, entry: &Location, location: &Location, part: Option<Part>, report: &Report<'_>| {
            let content = part.map(|part| {
                let mut draft = offers.entry(report.describe(entry));
                match (&part, &file.router_id) {
                    // Another node's identifier would be this cluster's.
                    (Part::RouterId(_), Some(net)) => draft.subnet(Space::RouterIds, net.0, location),
                    (Part::ClusterId(id), _) => {
                        draft.subnet(Space::RouterIds, IpNet::from(IpAddr::from(*id)), location)
                    }
                    _ => {}
                }
                draft.finish(part)
            });
            offers.add(format!("underlay.{name}"), "setting", entry, content);
        };
    if let (Some(net), Some(index)) = (&file.router_id, index) {
        let id = address::router_id(net.0, index);
        if let Err(reason) = &id {
            report.add(&net.location, format_args!("{reason}: the router-id remains NODE_IP"));
        }
        let id = id.ok().and_then(|ip| RouterId::parse(&ip.to_string()).ok());
        single("routerIDCIDR", &net.location, &net.location, id.map(Part::RouterId), report);
    }
    if let Some(reflector) = &file.reflector {
        let (id, location) = match &reflector.cluster_id {
            Some(id) => (id.get(), &id.location),
            None => (CLUSTER_ID, &reflector.location),
        };
        single("routeReflector", &reflector.location, location, Some(Part::ClusterId(id)), report);
    }
    if let Some(restart) = &file.restart {
        let part = graceful_restart(restart, config, report);
        single("gracefulRestart", &restart.location, &restart.location, part, report);
    }
    if let (Some(tunnel), Some(index)) = (&file.tunnel, index)
        && let Some(tunnel) = &tunnel.0
    {
        vtep(tunnel, index, offers, report);
    }
    interfaces(&file.interfaces.0, offers, report);
    neighbors(&file.neighbors.0, config, offers, report);
}

fn vtep(tunnel: &TunnelEndpoint, index: u32, offers: &mut FileOffers<'_>, report: &mut Report<'_>) {
    const KIND: &str = "address of the VTEP";
    let cidrs = &tunnel.cidrs.0;
    if let [first, second] = &cidrs[..]
        && first.addr().is_ipv4() == second.addr().is_ipv4()
    {
        report.add(&second.location, "the second subnet of its family: the VTEP is left out");
        for family in ["ipv4", "ipv6"] {
            offers.add(format!("underlay.tunnelEndpoint/{family}"), KIND, &second.location, None);
        }
        return;
    }
    for cidr in cidrs {
        let content = match address::vtep(cidr.value, index) {
            Ok(ip) => {
                let mut draft =
                    offers.entry(format!("this node's VTEP, {}", report.describe(&cidr.location)));
                draft.subnet(Space::Default, IpNet::from(ip), &cidr.location);
                draft.provide(Key::Vtep);
                draft.provide(Key::VtepOf(ip.is_ipv6()));
                Some(draft.finish(Part::Vtep(ip)))
            }
            Err(reason) => {
                report.add(&cidr.location, format_args!("{reason}: this {KIND} is left out"));
                None
            }
        };
        let family = if cidr.addr().is_ipv6() { "ipv6" } else { "ipv4" };
        offers.add(format!("underlay.tunnelEndpoint/{family}"), KIND, &cidr.location, content);
    }
}

fn graceful_restart(
    given: &Located<GracefulRestart>,
    config: &Config,
    report: &mut Report<'_>,
) -> Option<Part> {
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
    Some(Part::GracefulRestart(restart, stale))
}

fn interfaces(list: &[Located<InterfaceEntry>], offers: &mut FileOffers<'_>, report: &mut Report<'_>) {
    for entry in list {
        let mut draft = offers.entry(report.describe(&entry.location));
        let mut identity = None;
        let content = interface(entry, report).and_then(|(interface, location, parent)| {
            let name = interface.name();
            identity = Some(name.clone());
            if is_managed_device(name.as_str()) {
                report.add(
                    &location,
                    format_args!("{name} is reserved for a managed device: this interface is left out"),
                );
                return None;
            }
            draft.claim(Key::Device(name.clone()), &location);
            draft.share(Key::Kind(name.clone()), INTERFACE, &location);
            draft.share(Key::Namespace(name.clone()), MOVED, &location);
            if let Some(parent) = parent {
                let reason = match () {
                    () if is_managed_device(parent.as_str()) => Some("a managed device"),
                    () if parent == *name => Some("the macvlan itself"),
                    () => None,
                };
                if let Some(reason) = reason {
                    report.add(
                        &entry.location,
                        format_args!("its parent {parent} is {reason}: this interface is left out"),
                    );
                    return None;
                }
                draft.share(Key::Kind(parent.clone()), INTERFACE, &entry.location);
                draft.share(Key::Namespace(parent), "left in the host namespace", &entry.location);
            }
            if let UnderlayInterface::Macvlan { addresses, .. } = &interface {
                for net in addresses {
                    draft.subnet(Space::Default, IpNet::from(net.addr()), &location);
                }
            }
            Some(draft.finish(Part::Interface(interface)))
        });
        let identity = identity.map_or_else(|| "?".into(), |name: IfName| name.to_string());
        offers.add(format!("underlay.interfaces/{identity}"), "interface", &entry.location, content);
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
    offers: &mut FileOffers<'_>,
    report: &mut Report<'_>,
) {
    const KIND: &str = "neighbor";
    let pairs = config.metallb.iter().flat_map(MetallbConfig::pairs);
    let mut own: Vec<(IpNet, &str)> =
        pairs.map(|pair| (pair.frr_net().trunc(), "the link to MetalLB")).collect();
    let host = |ip: IpAddr| IpNet::from(ip);
    own.push((host(config.settings.node_ip.get().into()), "NODE_IP"));
    own.push((host(icmpv6_source(config.settings.node_ip).into()), "the node's source address for ICMPv6"));
    for entry in list {
        let mut draft = offers.entry(report.describe(&entry.location));
        let neighbor = neighbor(entry, config, report);
        let identity = neighbor.as_ref().map_or_else(|| "?".into(), |neighbor| neighbor.peer.to_string());
        let content = neighbor.and_then(|neighbor| {
            let location = match &neighbor.peer {
                NeighborId::Address(_) => entry.address.as_ref().map(|address| &address.location),
                NeighborId::Interface(_) => entry.interface.as_ref().map(|interface| &interface.location),
                NeighborId::Range(_) => entry.range.as_ref().map(|range| &range.location),
            };
            let location = location.unwrap_or(&entry.location);
            draft.claim(Key::Neighbor(neighbor.peer.to_string()), location);
            let net = match &neighbor.peer {
                NeighborId::Address(ip) => Some(IpNet::from(*ip)),
                NeighborId::Range(net) => Some(*net),
                NeighborId::Interface(_) => None,
            };
            let owner = net.and_then(|net| own.iter().find(|(own, _)| own.contains(&net)));
            if let Some((_, whose)) = owner {
                report.add(
                    location,
                    format_args!("is {whose} and cannot be a neighbor: this neighbor is left out"),
                );
                return None;
            }
            match &neighbor.peer {
                NeighborId::Address(ip) => draft.subnet(Space::Default, IpNet::from(*ip), location),
                NeighborId::Range(net) => draft.subnet(Space::Listen, *net, location),
                NeighborId::Interface(name) => draft.share(Key::Kind(name.clone()), INTERFACE, location),
            }
            Some(draft.finish(Part::Neighbor(neighbor)))
        });
        offers.add(format!("underlay.neighbors/{identity}"), KIND, &entry.location, content);
    }
}
