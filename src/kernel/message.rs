//! Builds the netlink messages of planned changes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoMacVlan, InfoPortData,
    InfoPortKind, InfoVeth, InfoVrf, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use crate::model::{
    IfName, IpRule, KernelRoute, KernelRouteKind, KernelRule, KernelTable, MAIN_TABLE, MacAddr, OWNER_GROUP,
    OWNER_PROTOCOL, Route, SpecKind,
};

use super::Op;
use super::kernel_made::{DEFAULT_TABLE, LOCAL_TABLE, kernel_rule_priority};
use super::netlink::NetlinkError;
use super::op::{FABRIC_PORT, LOOPBACK, LinkSetting};

/// Metric of the kernel's own IPv6 routes (`net/ip6_route.h`).
const IP6_RT_PRIO_ADDRCONF: u32 = 256;

/// Objects that a new link refers to by file descriptor or index.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkRefs {
    /// The namespace of a veth's peer, or the namespace into which the kernel puts a macvlan.
    pub netns: Option<RawFd>,
    /// The lower link of a macvlan.
    pub lower: Option<u32>,
    /// The bridge or VRF of which the link becomes a port.
    pub master: Option<u32>,
}

/// The message that creates a link, with the ownership group. The kernel accepts neither an alias nor settings of a
/// bridge port or of IPv6 in this message.
pub fn create(name: &IfName, kind: &SpecKind, mac: Option<MacAddr>, to: LinkRefs) -> LinkMessage {
    let mut message = LinkUnspec::new_with_name(name.as_str()).link_group(OWNER_GROUP).build();
    let info = match kind {
        SpecKind::Foreign | SpecKind::Nic(_) => return message,
        SpecKind::Vrf(table) => {
            vec![LinkInfo::Kind(InfoKind::Vrf), LinkInfo::Data(InfoData::Vrf(vec![InfoVrf::TableId(*table)]))]
        }
        SpecKind::Veth(_, peer) => {
            // The kernel creates the peer in its namespace. The message must not set it up (`ENOTCONN`).
            let mut peer = LinkUnspec::new_with_name(peer.as_str()).link_group(OWNER_GROUP).build();
            peer.attributes.extend(to.netns.map(LinkAttribute::NetNsFd));
            // By default the kernel creates one queue per possible CPU, enables one of them, and waits for RCU at each
            // end (`veth_init_queues`, drivers/net/veth.c).
            let one_queue = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];
            peer.attributes.extend(one_queue.clone());
            message.attributes.extend(one_queue);
            vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))]
        }
        SpecKind::Dummy => vec![LinkInfo::Kind(InfoKind::Dummy)],
        SpecKind::Bridge => vec![LinkInfo::Kind(InfoKind::Bridge)],
        SpecKind::Vxlan(tunnel) => {
            let data = vec![
                InfoVxlan::Id(tunnel.vni.get()),
                InfoVxlan::Port(tunnel.port),
                local(tunnel.local),
                InfoVxlan::Learning(false),
                InfoVxlan::Link(LOOPBACK),
            ];
            vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))]
        }
        SpecKind::Macvlan(_) => {
            message.attributes.extend(to.netns.map(LinkAttribute::NetNsFd));
            message.attributes.extend(to.lower.map(LinkAttribute::Link));
            let data = vec![InfoMacVlan::Mode(MacVlanMode::Bridge)];
            vec![LinkInfo::Kind(InfoKind::MacVlan), LinkInfo::Data(InfoData::MacVlan(data))]
        }
    };
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
    message.attributes.extend(to.master.map(LinkAttribute::Controller));
    message.attributes.push(LinkAttribute::LinkInfo(info));
    message
}

fn local(ip: IpAddr) -> InfoVxlan {
    match ip {
        IpAddr::V4(ip) => InfoVxlan::Local(ip),
        IpAddr::V6(ip) => InfoVxlan::Local6(ip),
    }
}

/// How many of the first `ops` fit into one message about one link. The kernel applies the contents of a message in its
/// own order: settings of a bridge port before a new master, settings of IPv6 after the link is up.
pub fn ops_in_one_message(ops: &[Op]) -> usize {
    let Some(Op::Set { side, name, .. }) = ops.first() else { return 1 };
    let mut count = 0;
    let (mut addr_gen, mut master) = (false, false);
    for op in ops {
        match op {
            Op::Set { side: s, name: n, what } if (s, n) == (side, name) => match what {
                LinkSetting::Up if addr_gen => break,
                LinkSetting::Port if master => break,
                LinkSetting::AddrGenNone => addr_gen = true,
                LinkSetting::Master(_) => master = true,
                _ => {}
            },
            _ => break,
        }
        count += 1;
    }
    count
}

/// Adds settings to a message about one link; `master` is the new master's index, 0 for none.
pub fn settings<'a>(message: &mut LinkMessage, settings: impl Iterator<Item = &'a LinkSetting>, master: u32) {
    let mut info = Vec::new();
    for setting in settings {
        let attributes = &mut message.attributes;
        match setting {
            LinkSetting::Mark { ownership, group } => {
                attributes.push(LinkAttribute::IfAlias(ownership.alias()));
                attributes.extend(group.then_some(LinkAttribute::Group(OWNER_GROUP)));
            }
            LinkSetting::Mtu(mtu) => attributes.push(LinkAttribute::Mtu(*mtu)),
            LinkSetting::Mac(mac) => attributes.push(LinkAttribute::Address(mac.octets().to_vec())),
            LinkSetting::Master(_) => attributes.push(LinkAttribute::Controller(master)),
            LinkSetting::AddrGenNone => {
                let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
                attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
            }
            LinkSetting::Port => {
                let port = vec![
                    InfoBridgePort::NeighSupress(FABRIC_PORT.neigh_suppress),
                    InfoBridgePort::Learning(FABRIC_PORT.learning),
                ];
                info.push(LinkInfo::PortKind(InfoPortKind::Bridge));
                info.push(LinkInfo::PortData(InfoPortData::BridgePort(port)));
            }
            LinkSetting::Vxlan { local: ip } => {
                let mut data = vec![InfoVxlan::Learning(false), InfoVxlan::Link(LOOPBACK)];
                data.extend(ip.map(local));
                info.push(LinkInfo::Kind(InfoKind::Vxlan));
                info.push(LinkInfo::Data(InfoData::Vxlan(data)));
            }
            LinkSetting::Up => {
                message.header.flags |= LinkFlags::Up;
                message.header.change_mask |= LinkFlags::Up;
            }
        }
    }
    if !info.is_empty() {
        message.attributes.push(LinkAttribute::LinkInfo(info));
    }
}

/// Builder of a message about the link of that name.
pub fn named(name: &str) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_name(name)
}

/// A message about an address. It disables duplicate address detection: both ends are managed, and a program can't bind
/// to a tentative address. An IPv4 link-local address gets link scope, so the kernel does not use it as source beyond
/// the link (RFC 3927 §2.7).
pub fn address(index: u32, net: IpNet) -> AddressMessage {
    match net {
        IpNet::V4(net) => {
            let builder = AddressMessageBuilder::<Ipv4Addr>::new().address(net.addr(), net.prefix_len());
            let mut message = builder.index(index).build();
            if net.addr().is_link_local() {
                message.header.scope = AddressScope::Link;
            }
            message
        }
        IpNet::V6(net) => {
            let builder = AddressMessageBuilder::<Ipv6Addr>::new().address(net.addr(), net.prefix_len());
            let mut message = builder.index(index).build();
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            message
        }
    }
}

/// A route over the link with that index, or an unreachable route without an index.
///
/// # Errors
/// Destination, next hop and source have different address families.
pub fn route(index: Option<u32>, route: &Route) -> Result<RouteMessage, NetlinkError> {
    fn invalid(e: impl std::fmt::Display) -> NetlinkError {
        io::Error::other(e.to_string()).into()
    }
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.dst.addr(), route.dst.prefix_len())
        .map_err(invalid)?
        .table_id(route.table)
        .protocol(RouteProtocol::from(route.protocol));
    builder = match index {
        Some(index) => builder.output_interface(index),
        None => builder.kind(RouteType::Unreachable),
    };
    if route.metric != 0 {
        builder = builder.priority(route.metric);
    }
    if let Some(via) = route.via {
        builder = builder.gateway(via).map_err(invalid)?;
    }
    if let Some(src) = route.src {
        builder = builder.pref_source(src).map_err(invalid)?;
    }
    Ok(builder.build())
}

/// A route with the attributes of one that the kernel creates by itself.
pub fn kernel_route(index: u32, route: &KernelRoute) -> RouteMessage {
    let v6 = route.dst.addr().is_ipv6();
    let mut message = RouteMessage::default();
    message.header.address_family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.destination_prefix_length = route.dst.prefix_len();
    message.header.protocol = RouteProtocol::Kernel;
    (message.header.kind, message.header.scope) = match route.kind {
        KernelRouteKind::Local => (RouteType::Local, RouteScope::Host),
        KernelRouteKind::Connected => (RouteType::Unicast, RouteScope::Link),
        KernelRouteKind::Multicast => (RouteType::Multicast, RouteScope::Link),
    };
    message.attributes = vec![
        RouteAttribute::Destination(match route.dst.addr() {
            IpAddr::V4(ip) => RouteAddress::Inet(ip),
            IpAddr::V6(ip) => RouteAddress::Inet6(ip),
        }),
        RouteAttribute::Table(route.table),
        RouteAttribute::Oif(index),
    ];
    if v6 {
        // IPv6 routes have no scope.
        message.header.scope = RouteScope::Universe;
        message.attributes.push(RouteAttribute::Priority(IP6_RT_PRIO_ADDRCONF));
    }
    message.attributes.extend(route.src.map(|src| {
        RouteAttribute::PrefSource(match src {
            IpAddr::V4(ip) => RouteAddress::Inet(ip),
            IpAddr::V6(ip) => RouteAddress::Inet6(ip),
        })
    }));
    message
}

/// A rule with the attributes of one that the kernel creates by itself.
pub fn kernel_rule(rule: KernelRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.action = RuleAction::ToTable;
    let to = match rule.to {
        KernelTable::Local => RuleAttribute::Table(LOCAL_TABLE),
        KernelTable::Vrf => RuleAttribute::L3MDev(true),
        KernelTable::Main => RuleAttribute::Table(MAIN_TABLE),
        KernelTable::Default => RuleAttribute::Table(DEFAULT_TABLE),
    };
    let priority = kernel_rule_priority(rule.to);
    message.attributes =
        vec![RuleAttribute::Priority(priority), to, RuleAttribute::Protocol(RouteProtocol::Kernel)];
    message
}

/// A managed rule.
pub fn rule(rule: &IpRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::from(OWNER_PROTOCOL)),
        RuleAttribute::FwMark(rule.mark.0),
        RuleAttribute::FwMask(rule.mark.1),
    ];
    message
}
