//! Reads the observed state from the kernel, by netlink and from `/proc/sys`.

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

use crate::model::{
    IpRule, KernelRule, LinkKind, LinkMap, Marks, NsState, OWNER_PROTOCOL, ReturnPath, Route,
};
use crate::model::{MAIN_TABLE, default_net};

use super::kernel_made::{self, ObservedAddress};
use super::link::{self, ParsedLink};
use super::netlink::{Netlink, NetlinkError};
use super::nft;
use super::rtnl::RtnlMessage;

/// Reads links, addresses, routes and rules by `nl`, and those of the `wanted` kernel parameters that link messages
/// contain.
///
/// # Errors
/// The kernel refused a request.
pub fn observe<'a>(nl: &mut Netlink, wanted: impl Iterator<Item = &'a str>) -> Result<NsState, NetlinkError> {
    let mut links = links(nl)?;
    let addresses = addresses(nl, &mut links)?;
    let (routes, rules) = (routes(nl, &links)?, rules(nl)?);
    let missing_kernel_routes = kernel_made::routes(&links, &addresses, &kernel_routes(nl)?);
    let has_vrf = links.iter().any(|parsed| matches!(parsed.link.kind, LinkKind::Vrf(_)));
    let missing_kernel_rules = kernel_made::rules(&kernel_rules(nl)?, has_vrf);
    let confs: Vec<_> = links.iter().map(|parsed| (parsed.link.index, parsed.conf)).collect();
    let conf = |index| confs.binary_search_by_key(&index, |(index, _)| *index).ok().map(|at| confs[at].1);
    let links: LinkMap = links.into_iter().map(|parsed| parsed.link).collect();
    let from_links = wanted.filter_map(|path| {
        let [_, version, _, link, name] = path.split('/').collect::<Vec<_>>().try_into().ok()?;
        let value = conf(links.get(link)?.index)?.get(version, name)?;
        Some((path.to_owned(), Some(value.to_string())))
    });
    let sysctls = from_links.collect();
    Ok(NsState {
        sysctls,
        links,
        routes,
        rules,
        missing_kernel_routes,
        missing_kernel_rules,
        ..NsState::default()
    })
}

/// Reads kernel parameters in the calling thread's namespace. `None` stands for one that does not exist.
pub fn sysctls<'a>(paths: impl Iterator<Item = &'a str>) -> BTreeMap<String, Option<String>> {
    paths.map(|path| (path.to_owned(), sysctl(path))).collect()
}

/// Reads one kernel parameter. There may be thousands, so this takes one `read`; all managed parameters are short
/// numbers.
fn sysctl(path: &str) -> Option<String> {
    let mut value = [0; 64];
    let length = File::open(format!("/proc/sys/{path}")).ok()?.read(&mut value).ok()?;
    Some(String::from_utf8_lossy(&value[..length]).trim().to_owned())
}

/// Compares the managed nftables table with the desired one. A kernel without nftables counts as one without the table.
///
/// # Errors
/// The kernel refused.
pub fn marks(socket: &netlink_sys::Socket, wanted: Option<&ReturnPath>) -> io::Result<Marks> {
    match nft::observe(socket) {
        Ok(None) => Ok(Marks::Absent),
        // If another program created a table of this name, `nft::install` fails.
        Ok(Some(table)) if !table.is_owned() && wanted.is_none() => Ok(Marks::Absent),
        Ok(Some(table)) => Ok(match wanted {
            Some(path) if table.drift(path).is_none() => Marks::Exactly(path.clone()),
            _ => Marks::Other,
        }),
        Err(e) if e.is_unsupported() => Ok(Marks::Absent),
        Err(e) => Err(io::Error::other(e)),
    }
}

/// All links, sorted by index.
fn links(nl: &mut Netlink) -> Result<Vec<ParsedLink>, NetlinkError> {
    let mut request = LinkMessage::default();
    // Counters are the larger part of a link message, and are not used.
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut links = nl.dump_raw(RtnlMessage::GetLink(request), link::read)?;
    links.sort_unstable_by_key(|parsed| parsed.link.index);
    for i in 0..links.len() {
        let name = |index: Option<u32>| position(&links, index?).map(|i| links[i].link.name.clone());
        let (master, parent) = (name(links[i].master), name(links[i].parent));
        (links[i].link.master, links[i].link.parent) = (master, parent);
    }
    Ok(links)
}

/// Position of the link with that index.
fn position(links: &[ParsedLink], index: u32) -> Option<usize> {
    links.binary_search_by_key(&index, |parsed| parsed.link.index).ok()
}

/// Reads all addresses and assigns them to the links.
fn addresses(nl: &mut Netlink, links: &mut [ParsedLink]) -> Result<Vec<ObservedAddress>, NetlinkError> {
    let request = RtnlMessage::GetAddress(AddressMessage::default());
    let all = nl.dump_raw(request, ObservedAddress::read)?;
    for address in &all {
        let Some(i) = position(links, address.index) else { continue };
        links[i].link.link_local |= address.is_link_local();
        // The kernel assigns a link-local address to each link by itself. That address is not configuration.
        if !address.is_kernels_link_local() {
            links[i].link.addresses.extend(address.address());
        }
    }
    Ok(all)
}

/// Reads the routes that the kernel created by itself.
fn kernel_routes(nl: &mut Netlink) -> Result<HashSet<kernel_made::KernelRouteKey>, NetlinkError> {
    let mut all = HashSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        filter.header.protocol = RouteProtocol::Kernel;
        all.extend(nl.dump_raw(RtnlMessage::GetRoute(filter), kernel_made::route)?);
    }
    Ok(all)
}

/// Reads the rules that look up the kernel's own tables.
fn kernel_rules(nl: &mut Netlink) -> Result<Vec<KernelRule>, NetlinkError> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut filter = RuleMessage::default();
        filter.header.family = family;
        all.extend(nl.dump_raw(RtnlMessage::GetRule(filter), kernel_made::rule)?);
    }
    Ok(all)
}

/// Reads the managed routes and the default routes of the main table.
fn routes(nl: &mut Netlink, links: &[ParsedLink]) -> Result<Vec<Route>, NetlinkError> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        #[allow(clippy::cast_possible_truncation)] // 254 fits the header's one byte.
        const MAIN: u8 = MAIN_TABLE as u8;
        // Two dumps that the kernel filters are cheaper than one of all routes of a fabric.
        for (protocol, table) in [(RouteProtocol::Other(OWNER_PROTOCOL), 0), (RouteProtocol::Unspec, MAIN)] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            filter.header.protocol = protocol;
            filter.header.table = table;
            // Only default routes of the main table: the second byte of `struct rtmsg` (`linux/rtnetlink.h`) is the
            // prefix length.
            let is_wanted = |route: &[u8]| table == 0 || route.get(1) == Some(&0);
            let found = nl.dump_filtered(RtnlMessage::GetRoute(filter), is_wanted, |reply| {
                let RtnlMessage::NewRoute(message) = reply else { return None };
                let is_managed = u8::from(message.header.protocol) == OWNER_PROTOCOL;
                (is_managed == (table == 0)).then(|| hops(&message, links))
            });
            match found {
                // A new namespace has no main table before the first route in it.
                Err(e) if e.source.kind() == io::ErrorKind::NotFound => {}
                found => routes.extend(found?.into_iter().flatten()),
            }
        }
    }
    Ok(routes)
}

/// One [`Route`] for each next hop of a route.
fn hops(message: &RouteMessage, links: &[ParsedLink]) -> Vec<Route> {
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
    // The kernel reports unreachable IPv6 routes as routes over lo.
    let has_link = header.kind != RouteType::Unreachable;
    let name =
        |index: Option<u32>| Some(links[position(links, index.filter(|_| has_link)?)?].link.name.clone());
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

/// Reads the managed rules.
fn rules(nl: &mut Netlink) -> Result<Vec<IpRule>, NetlinkError> {
    let mut rules = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut filter = RuleMessage::default();
        filter.header.family = family;
        rules.extend(nl.dump(RtnlMessage::GetRule(filter), |reply| match reply {
            RtnlMessage::NewRule(message) => managed_rule(&message),
            _ => None,
        })?);
    }
    Ok(rules)
}

/// Parses a rule; `None` if it is not managed.
fn managed_rule(message: &RuleMessage) -> Option<IpRule> {
    let mut rule = IpRule {
        v6: message.header.family == AddressFamily::Inet6,
        priority: 0,
        mark: (0, 0),
        table: u32::from(message.header.table),
    };
    let mut is_managed = false;
    rule.mark.1 = u32::MAX;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Protocol(protocol) => is_managed = u8::from(*protocol) == OWNER_PROTOCOL,
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(value) => rule.mark.0 = *value,
            RuleAttribute::FwMask(value) => rule.mark.1 = *value,
            RuleAttribute::Table(table) => rule.table = *table,
            _ => {}
        }
    }
    is_managed.then_some(rule)
}
