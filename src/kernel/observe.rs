//! What the kernel has, read by netlink and from `/proc/sys`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, Inet6DevConf, InetDevConf, InfoBridgePort,
    InfoData, InfoKind, InfoPortData, InfoVrf, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::model::{
    Address, BridgePort, Link, LinkKind, Links, MacAddr, Marks, NsState, OWNER_PROTOCOL, ReturnPath, Route,
    Rule, Vxlan,
};
use crate::resolve::{MAIN_TABLE, default_net};

use super::netlink::{Netlink, Refusal};
use super::nft;

/// Reads links, addresses, routes and rules by `nl`, and those of the kernel parameters `wanted` that links bring along.
///
/// # Errors
/// The kernel refused a request.
pub fn observe<'a>(nl: &mut Netlink, wanted: impl Iterator<Item = &'a str>) -> Result<NsState, Refusal> {
    let (mut links, confs) = links(nl)?;
    addresses(nl, &mut links)?;
    let names: HashMap<u32, String> = links.values().map(|l| (l.index, l.name.clone())).collect();
    let (routes, rules) = (routes(nl, &names)?, rules(nl)?);
    let links: Links = links.into_values().collect();
    let brought = wanted.filter_map(|path| {
        let [_, version, _, link, name] = path.split('/').collect::<Vec<_>>().try_into().ok()?;
        let value = confs.get(&links.get(link)?.index)?.get(version, name)?;
        Some((path.to_owned(), Some(value.to_string())))
    });
    Ok(NsState { sysctls: brought.collect(), links, routes, rules, ..NsState::default() })
}

/// Kernel parameters of one link.
#[derive(Default)]
struct Conf {
    v4: Option<InetDevConf>,
    v6: Option<Inet6DevConf>,
}

impl Conf {
    /// Those that we set.
    fn get(&self, version: &str, name: &str) -> Option<i32> {
        match (version, name) {
            ("ipv4", "rp_filter") => Some(self.v4.as_ref()?.rp_filter),
            ("ipv6", "forwarding") => Some(self.v6.as_ref()?.forwarding),
            ("ipv6", "accept_dad") => Some(self.v6.as_ref()?.accept_dad),
            ("ipv6", "accept_ra") => Some(self.v6.as_ref()?.accept_ra),
            _ => None,
        }
    }
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

type ByIndex<T> = HashMap<u32, T>;

/// Every link, and its kernel parameters.
fn links(nl: &mut Netlink) -> Result<(ByIndex<Link>, ByIndex<Conf>), Refusal> {
    let mut request = LinkMessage::default();
    // Counters are the larger part of a link, and nothing that we look at.
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let all = nl.dump(RouteNetlinkMessage::GetLink(request), |answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(link(message)),
        _ => None,
    })?;
    let (mut links, mut confs, mut relations) = (HashMap::new(), HashMap::new(), Vec::new());
    for (link, relation, conf) in all {
        relations.push(relation);
        confs.insert(link.index, conf);
        links.insert(link.index, link);
    }
    let name = |links: &HashMap<u32, Link>, index: Option<u32>| Some(links.get(&index?)?.name.clone());
    for relation in relations {
        let (master, parent) = (name(&links, relation.master), name(&links, relation.parent));
        if let Some(link) = links.get_mut(&relation.of) {
            (link.master, link.parent) = (master, parent);
        }
    }
    Ok((links, confs))
}

/// Other links that one refers to, by index.
#[derive(Default)]
struct Relation {
    of: u32,
    master: Option<u32>,
    parent: Option<u32>,
}

fn link(message: LinkMessage) -> (Link, Relation, Conf) {
    let mut link = Link::new(message.header.index, "", LinkKind::Device);
    link.up = message.header.flags.contains(LinkFlags::Up);
    link.carrier = message.header.flags.contains(LinkFlags::LowerUp);
    let mut relation = Relation { of: link.index, ..Relation::default() };
    let mut conf = Conf::default();
    let mut lower = None;
    let mut elsewhere = false;
    let mac = |bytes: Vec<u8>| bytes.try_into().ok().and_then(MacAddr::new);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = mac(bytes),
            LinkAttribute::PermAddress(bytes) => link.permanent_mac = mac(bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => relation.master = Some(index),
            LinkAttribute::Link(index) => lower = Some(index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::LinkInfo(infos) => {
                if let Some(kind) = kind(&infos) {
                    link.kind = kind;
                }
                link.port = infos.iter().find_map(bridge_port);
            }
            LinkAttribute::AfSpecUnspec(specs) => {
                for spec in specs {
                    match spec {
                        AfSpecUnspec::Inet(specs) => {
                            conf.v4 = specs.into_iter().find_map(|spec| match spec {
                                AfSpecInet::DevConf(conf) => Some(conf),
                                _ => None,
                            });
                        }
                        AfSpecUnspec::Inet6(specs) => {
                            link.addr_gen_none =
                                specs.contains(&AfSpecInet6::AddrGenMode(In6AddrGenMode::None));
                            conf.v6 = specs.into_iter().find_map(|spec| match spec {
                                AfSpecInet6::DevConf(conf) => Some(conf),
                                _ => None,
                            });
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    match &mut link.kind {
        LinkKind::Veth(peer) | LinkKind::Macvlan(peer) => *peer = lower.unwrap_or(0),
        _ if !elsewhere => relation.parent = lower.filter(|&index| index != link.index),
        _ => {}
    }
    (link, relation, conf)
}

fn kind(infos: &[LinkInfo]) -> Option<LinkKind> {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })?;
    Some(match kind {
        InfoKind::Veth => LinkKind::Veth(0),
        InfoKind::Vrf => LinkKind::Vrf(
            infos
                .iter()
                .find_map(|info| match info {
                    LinkInfo::Data(InfoData::Vrf(data)) => data.iter().find_map(|d| match d {
                        InfoVrf::TableId(table) => Some(*table),
                        _ => None,
                    }),
                    _ => None,
                })
                .unwrap_or(0),
        ),
        InfoKind::Dummy => LinkKind::Dummy,
        InfoKind::Bridge => LinkKind::Bridge,
        InfoKind::MacVlan => LinkKind::Macvlan(0),
        InfoKind::Vxlan => {
            let mut vxlan = Vxlan { vni: 0, port: 0, local: None, dev: 0, learning: true };
            let data = infos.iter().find_map(|info| match info {
                LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
                _ => None,
            });
            for datum in data.into_iter().flatten() {
                match datum {
                    InfoVxlan::Id(vni) => vxlan.vni = *vni,
                    InfoVxlan::Port(port) => vxlan.port = *port,
                    InfoVxlan::Local(ip) => vxlan.local = Some((*ip).into()),
                    InfoVxlan::Local6(ip) => vxlan.local = Some((*ip).into()),
                    InfoVxlan::Link(index) => vxlan.dev = *index,
                    InfoVxlan::Learning(learning) => vxlan.learning = *learning,
                    _ => {}
                }
            }
            LinkKind::Vxlan(vxlan)
        }
        other => LinkKind::Other(other.to_string()),
    })
}

fn bridge_port(info: &LinkInfo) -> Option<BridgePort> {
    let LinkInfo::PortData(InfoPortData::BridgePort(data)) = info else { return None };
    Some(BridgePort {
        neigh_suppress: data.contains(&InfoBridgePort::NeighSupress(true)),
        learning: data.contains(&InfoBridgePort::Learning(true)),
    })
}

fn addresses(nl: &mut Netlink, links: &mut HashMap<u32, Link>) -> Result<(), Refusal> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let all = nl.dump(request, |answer| match answer {
        RouteNetlinkMessage::NewAddress(message) => address(message),
        _ => None,
    })?;
    for (index, address) in all {
        if let Some(link) = links.get_mut(&index) {
            link.addresses.push(address);
        }
    }
    Ok(())
}

/// An address and its link's index, unless it is link-local.
fn address(message: AddressMessage) -> Option<(u32, Address)> {
    if message.header.scope == AddressScope::Link && message.header.family == AddressFamily::Inet6 {
        return None;
    }
    let mut ip = None;
    let mut flags = AddressFlags::empty();
    for attribute in message.attributes {
        match attribute {
            // On a point-to-point link IFA_ADDRESS is the peer's and IFA_LOCAL ours.
            AddressAttribute::Local(local) => ip = Some(local),
            AddressAttribute::Address(address) => ip = ip.or(Some(address)),
            AddressAttribute::Flags(f) => flags = f,
            _ => {}
        }
    }
    let net = IpNet::new(ip?, message.header.prefix_len).ok()?;
    Some((message.header.index, Address { net, permanent: flags.contains(AddressFlags::Permanent) }))
}

fn routes(nl: &mut Netlink, names: &HashMap<u32, String>) -> Result<Vec<Route>, Refusal> {
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
            let found = nl.dump(RouteNetlinkMessage::GetRoute(filter), |answer| {
                let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
                let ours = u8::from(message.header.protocol) == OWNER_PROTOCOL;
                let is_default = message.header.destination_prefix_length == 0;
                (ours == (table == 0) && (ours || is_default)).then(|| hops(&message, names))
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
fn hops(message: &RouteMessage, names: &HashMap<u32, String>) -> Vec<Route> {
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
    let name = |index: Option<u32>| names.get(&index.filter(|_| somewhere)?).cloned();
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
        rules.extend(nl.dump(RouteNetlinkMessage::GetRule(filter), |answer| match answer {
            RouteNetlinkMessage::NewRule(message) => our_rule(&message),
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
