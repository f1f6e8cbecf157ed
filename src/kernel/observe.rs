//! What the kernel has, read by netlink and from `/proc/sys`.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};

use crate::model::{KernelRule, LinkKind, Links, Marks, NsState, OWNER_PROTOCOL, ReturnPath, Route, Rule};
use crate::resolve::{MAIN_TABLE, default_net};

use super::link::{self, Said};
use super::lost::{self, SeenAddress};
use super::netlink::{Netlink, Refusal};
use super::nft;
use super::object::Object;

/// Reads links, addresses, routes and rules by `nl`, and those of the kernel parameters `wanted` that links bring along.
///
/// # Errors
/// The kernel refused a request.
pub fn observe<'a>(nl: &mut Netlink, wanted: impl Iterator<Item = &'a str>) -> Result<NsState, Refusal> {
    let mut links = links(nl)?;
    let addresses = addresses(nl, &mut links)?;
    let (routes, rules) = (routes(nl, &links)?, rules(nl)?);
    let lost_routes = lost::routes(&links, &addresses, &kernel_routes(nl)?);
    let has_vrf = links.iter().any(|said| matches!(said.link.kind, LinkKind::Vrf(_)));
    let lost_rules = lost::rules(&kernel_rules(nl)?, has_vrf);
    let confs: Vec<_> = links.iter().map(|said| (said.link.index, said.conf)).collect();
    let conf = |index| confs.binary_search_by_key(&index, |(index, _)| *index).ok().map(|at| confs[at].1);
    let links: Links = links.into_iter().map(|said| said.link).collect();
    let brought = wanted.filter_map(|path| {
        let [_, version, _, link, name] = path.split('/').collect::<Vec<_>>().try_into().ok()?;
        let value = conf(links.get(link)?.index)?.get(version, name)?;
        Some((path.to_owned(), Some(value.to_string())))
    });
    let sysctls = brought.collect();
    Ok(NsState { sysctls, links, routes, rules, lost_routes, lost_rules, ..NsState::default() })
}

/// Reads kernel parameters in the calling thread's namespace; one that does not exist is `None`.
pub fn sysctls<'a>(paths: impl Iterator<Item = &'a str>) -> BTreeMap<String, Option<String>> {
    paths.map(|path| (path.to_owned(), sysctl(path))).collect()
}

/// There may be thousands, so it is read in one go: what we set is a number.
fn sysctl(path: &str) -> Option<String> {
    let mut value = [0; 64];
    let length = File::open(format!("/proc/sys/{path}")).ok()?.read(&mut value).ok()?;
    Some(String::from_utf8_lossy(&value[..length]).trim().to_owned())
}

/// Compares our nftables table with what it should be.
///
/// # Errors
/// The kernel refused; a kernel without nftables has no table of ours.
pub fn marks(socket: &netlink_sys::Socket, wanted: Option<&ReturnPath>) -> io::Result<Marks> {
    match nft::observe(socket) {
        Ok(None) => Ok(Marks::Absent),
        // A table of our name that someone else made is refused when ours is to be built.
        Ok(Some(table)) if !table.is_ours() && wanted.is_none() => Ok(Marks::Absent),
        Ok(Some(table)) => Ok(match wanted {
            Some(path) if table.drift(path).is_none() => Marks::Exactly(path.clone()),
            _ => Marks::Other,
        }),
        Err(e) if e.is_unsupported() => Ok(Marks::Absent),
        Err(e) => Err(io::Error::other(e)),
    }
}

/// Every link, by index.
fn links(nl: &mut Netlink) -> Result<Vec<Said>, Refusal> {
    let mut request = LinkMessage::default();
    // Counters are the larger part of a link, and nothing that we look at.
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut links = nl.dump_raw(Object::GetLink(request), link::read)?;
    links.sort_unstable_by_key(|said| said.link.index);
    for i in 0..links.len() {
        let name = |index: Option<u32>| at(&links, index?).map(|at| links[at].link.name.clone());
        let (master, parent) = (name(links[i].master), name(links[i].parent));
        (links[i].link.master, links[i].link.parent) = (master, parent);
    }
    Ok(links)
}

/// Where the link with that index is.
fn at(links: &[Said], index: u32) -> Option<usize> {
    links.binary_search_by_key(&index, |said| said.link.index).ok()
}

/// Gives each link its addresses.
fn addresses(nl: &mut Netlink, links: &mut [Said]) -> Result<Vec<SeenAddress>, Refusal> {
    let request = Object::GetAddress(AddressMessage::default());
    let all = nl.dump_raw(request, SeenAddress::read)?;
    for address in &all {
        let Some(at) = at(links, address.index) else { continue };
        links[at].link.link_local |= address.is_link_local();
        // The link-local one that each link has from the kernel is none that anyone gave it.
        if !address.is_kernels_link_local() {
            links[at].link.addresses.extend(address.address());
        }
    }
    Ok(all)
}

/// The routes that the kernel has made by itself.
fn kernel_routes(nl: &mut Netlink) -> Result<HashSet<lost::Key>, Refusal> {
    let mut all = HashSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        filter.header.protocol = RouteProtocol::Kernel;
        all.extend(nl.dump_raw(Object::GetRoute(filter), lost::route)?);
    }
    Ok(all)
}

/// The rules that lead to the kernel's own tables.
fn kernel_rules(nl: &mut Netlink) -> Result<Vec<KernelRule>, Refusal> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut filter = RuleMessage::default();
        filter.header.family = family;
        all.extend(nl.dump_raw(Object::GetRule(filter), lost::rule)?);
    }
    Ok(all)
}

fn routes(nl: &mut Netlink, links: &[Said]) -> Result<Vec<Route>, Refusal> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        #[allow(clippy::cast_possible_truncation)] // 254 fits the header's one byte.
        const MAIN: u8 = MAIN_TABLE as u8;
        // Two dumps that the kernel filters, rather than one of a fabric's whole table.
        for (protocol, table) in [(RouteProtocol::Other(OWNER_PROTOCOL), 0), (RouteProtocol::Unspec, MAIN)] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            filter.header.protocol = protocol;
            filter.header.table = table;
            // Of the main table the default routes: the second byte of `struct rtmsg` (`linux/rtnetlink.h`) is the prefix length.
            let worth = |route: &[u8]| table == 0 || route.get(1) == Some(&0);
            let found = nl.dump_those(Object::GetRoute(filter), worth, |answer| {
                let Object::NewRoute(message) = answer else { return None };
                let ours = u8::from(message.header.protocol) == OWNER_PROTOCOL;
                (ours == (table == 0)).then(|| hops(&message, links))
            });
            match found {
                // In a new namespace the main table is not there before its first route.
                Err(e) if e.error.kind() == io::ErrorKind::NotFound => {}
                found => routes.extend(found?.into_iter().flatten()),
            }
        }
    }
    Ok(routes)
}

/// One [`Route`] for every next hop of a route.
fn hops(message: &RouteMessage, links: &[Said]) -> Vec<Route> {
    let header = &message.header;
    let v6 = header.address_family == AddressFamily::Inet6;
    let mut route = Route {
        dst: default_net(v6),
        table: u32::from(header.table),
        via: None,
        dev: String::new(),
        metric: 0,
        src: None,
        protocol: u8::from(header.protocol),
    };
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                let net = ip(address).and_then(|ip| IpNet::new(ip, header.destination_prefix_length).ok());
                route.dst = net.unwrap_or(route.dst);
            }
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::PrefSource(address) => route.src = ip(address),
            RouteAttribute::MultiPath(list) => {
                hops.extend(list.iter().map(|hop| (Some(hop.interface_index), via(&hop.attributes))));
            }
            _ => {}
        }
    }
    if hops.is_empty() {
        let oif = message.attributes.iter().find_map(|a| match a {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        hops.push((oif, via(&message.attributes)));
    }
    // IPv6 says of an unreachable one that it is on lo.
    let somewhere = header.kind != RouteType::Unreachable;
    let name = |index: Option<u32>| Some(links[at(links, index.filter(|_| somewhere)?)?].link.name.clone());
    let name = |index| name(index).unwrap_or_default();
    hops.into_iter().map(|(oif, via)| Route { via, dev: name(oif), ..route.clone() }).collect()
}

fn via(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some(IpAddr::V4(*ip)),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn rules(nl: &mut Netlink) -> Result<Vec<Rule>, Refusal> {
    let mut rules = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut filter = RuleMessage::default();
        filter.header.family = family;
        rules.extend(nl.dump(Object::GetRule(filter), |answer| match answer {
            Object::NewRule(message) => our_rule(&message),
            _ => None,
        })?);
    }
    Ok(rules)
}

fn our_rule(message: &RuleMessage) -> Option<Rule> {
    let mut rule = Rule {
        v6: message.header.family == AddressFamily::Inet6,
        priority: 0,
        mark: (0, 0),
        table: u32::from(message.header.table),
    };
    let mut ours = false;
    rule.mark.1 = u32::MAX;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Protocol(protocol) => ours = u8::from(*protocol) == OWNER_PROTOCOL,
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(value) => rule.mark.0 = *value,
            RuleAttribute::FwMask(value) => rule.mark.1 = *value,
            RuleAttribute::Table(table) => rule.table = *table,
            _ => {}
        }
    }
    ours.then_some(rule)
}
