//! Shadow routes: copies of the BGP routes, in reserve, for the time in which zebra may take its own away.
//!
//! A copy has the same destination, table and next hops, our own protocol number and a metric behind every
//! other, so the kernel turns to it only while zebra's own route is missing: when a new zebra sweeps what its
//! predecessor left, when bgpd's "update complete" overtakes the routes themselves, when a next-hop group is
//! exchanged. The kernel drops a copy with its interface, and passes over it while that has no carrier
//! (`ignore_routes_with_linkdown`).

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Netlink, Refusal};

/// The protocol number of what is there for a while, as the copies are; 200 is that of what we keep for good.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(201);

/// Their metric. zebra takes the first byte of a kernel route's metric for its distance: 254, so that it
/// never prefers a copy to a route of its own.
const METRIC: u32 = 0xfe00_0000;

/// Copies every BGP route of the namespace, in all tables. Returns how many there are.
///
/// With `new_zebra` no zebra runs and one is about to start: then IPv4 routes over an IPv6 next hop leave
/// only their copies. A starting zebra takes such routes over without the next hop (seen with 10.3:
/// `192.0.2.0/25 nhid 14 via inet6 fe80::… dev eth1` becomes `192.0.2.0/25 nhid 40 dev eth1`), and what it
/// does not find it can't spoil.
///
/// # Errors
/// The routes can't be read; a copy that the kernel refuses is left out with a warning.
pub(super) fn install(nl: &mut Netlink, new_zebra: bool) -> Result<usize, Refusal> {
    let mut installed = 0;
    for route in dump(nl, RouteProtocol::Bgp)? {
        let Some(copy) = copy(route.clone()) else { continue };
        match nl.change(RouteNetlinkMessage::NewRoute(copy), NLM_F_CREATE | NLM_F_REPLACE) {
            Ok(()) => installed += 1,
            Err(e) => {
                log::warn!("a route can't be kept in reserve: {e}");
                continue;
            }
        }
        if new_zebra && is_via_other_family(&route.attributes) {
            delete(nl, route);
        }
    }
    Ok(installed)
}

fn is_via_other_family(attributes: &[RouteAttribute]) -> bool {
    attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Via(_) => true,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| is_via_other_family(&hop.attributes)),
        _ => false,
    })
}

fn delete(nl: &mut Netlink, mut route: RouteMessage) {
    // What tells it from its copy; with next hop and group number both, the kernel finds no such route.
    route.header.flags = RouteFlags::empty();
    route.attributes.retain(|attribute| {
        matches!(
            attribute,
            RouteAttribute::Destination(_) | RouteAttribute::Table(_) | RouteAttribute::Priority(_)
        )
    });
    match nl.change(RouteNetlinkMessage::DelRoute(route), 0) {
        // The kernel has dropped it with its interface meanwhile.
        Err(e) if e.error.raw_os_error() != Some(ESRCH) => log::warn!("a route can't be removed: {e}"),
        _ => {}
    }
}

/// Removes every copy, also those that an earlier run left. Returns how many there were.
///
/// # Errors
/// The routes can't be read.
pub(super) fn remove(nl: &mut Netlink) -> Result<usize, Refusal> {
    remove_if(nl, |_| true)
}

fn remove_if(nl: &mut Netlink, which: impl Fn(&RouteMessage) -> bool) -> Result<usize, Refusal> {
    let mut copies = dump(nl, PROTOCOL)?;
    copies.retain(which);
    let count = copies.len();
    copies.into_iter().for_each(|copy| delete(nl, copy));
    Ok(count)
}

/// No such route (`asm-generic/errno-base.h`).
const ESRCH: i32 = 3;

fn dump(nl: &mut Netlink, protocol: RouteProtocol) -> Result<Vec<RouteMessage>, Refusal> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        filter.header.protocol = protocol;
        routes.extend(nl.dump(RouteNetlinkMessage::GetRoute(filter), |answer| match answer {
            RouteNetlinkMessage::NewRoute(route) if route.header.protocol == protocol => Some(route),
            _ => None,
        })?);
    }
    Ok(routes)
}

/// The copy of a unicast route: next hops written out instead of named by number, since a new zebra may
/// remove the group, and with it every route that names it.
fn copy(mut route: RouteMessage) -> Option<RouteMessage> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    route.header.protocol = PROTOCOL;
    // Where zebra may not use next-hop objects, an IPv4 route leads to 169.254.0.1, which is in no subnet.
    route.header.flags &= RouteFlags::Onlink;
    route.attributes.retain(|attribute| {
        matches!(
            attribute,
            RouteAttribute::Destination(_)
                | RouteAttribute::Table(_)
                | RouteAttribute::Oif(_)
                | RouteAttribute::Gateway(_)
                | RouteAttribute::Via(_)
                | RouteAttribute::PrefSource(_)
                | RouteAttribute::MultiPath(_)
        )
    });
    let mut hops = false;
    for attribute in &mut route.attributes {
        match attribute {
            RouteAttribute::MultiPath(list) => {
                list.iter_mut().for_each(|hop| hop.flags &= RouteNextHopFlags::Onlink);
                hops = !list.is_empty();
            }
            RouteAttribute::Oif(_) => hops = true,
            _ => {}
        }
    }
    route.attributes.push(RouteAttribute::Priority(METRIC));
    hops.then_some(route)
}

fn destination(route: &RouteMessage) -> Option<(u32, IpNet)> {
    let mut table = u32::from(route.header.table);
    let mut address: Option<IpAddr> = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => address = Some((*ip).into()),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => address = Some((*ip).into()),
            _ => {}
        }
    }
    Some((table, IpNet::new(address?, route.header.destination_prefix_length).ok()?))
}

/// Removes the copies of routes to `prefixes` that have no original any more.
fn remove_orphans(nl: &mut Netlink, prefixes: &BTreeSet<IpNet>) -> Result<usize, Refusal> {
    let originals: BTreeSet<_> = dump(nl, RouteProtocol::Bgp)?.iter().filter_map(destination).collect();
    remove_if(nl, |copy| {
        destination(copy).is_some_and(|at| prefixes.contains(&at.1) && !originals.contains(&at))
    })
}

impl super::Kernel {
    /// Where BGP routes of `table` in FRR's namespace, or their copies, lead.
    ///
    /// # Errors
    /// The routes can't be read.
    pub fn bgp_prefixes(&mut self, table: u32) -> io::Result<BTreeSet<IpNet>> {
        let nl = self.router_netlink();
        let mut prefixes = BTreeSet::new();
        for protocol in [RouteProtocol::Bgp, PROTOCOL] {
            let routes = dump(nl, protocol)?;
            let here = routes.iter().filter_map(destination).filter(|(number, _)| *number == table);
            prefixes.extend(here.map(|(_, prefix)| prefix));
        }
        Ok(prefixes)
    }

    /// Removes from the reserve what leads to `prefixes` and has gone from FRR's own routes.
    ///
    /// # Errors
    /// The routes can't be read.
    pub fn unshadow_gone(&mut self, prefixes: &BTreeSet<IpNet>) -> io::Result<usize> {
        Ok(remove_orphans(self.router_netlink(), prefixes)?)
    }

    /// Puts the BGP routes of FRR's namespace in reserve; `new_zebra` if one is about to start.
    ///
    /// # Errors
    /// See [`install`].
    pub fn shadow(&mut self, new_zebra: bool) -> io::Result<usize> {
        Ok(install(self.router_netlink(), new_zebra)?)
    }

    /// Removes the reserve.
    ///
    /// # Errors
    /// See [`remove`].
    pub fn unshadow(&mut self) -> io::Result<usize> {
        Ok(remove(self.router_netlink())?)
    }
}
