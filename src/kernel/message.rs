//! Netlink messages for the changes that the planner asks for.

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
    IfName, KernelRoute, KernelRouteKind, KernelRule, KernelTable, MacAddr, OWNER_GROUP, OWNER_PROTOCOL,
    Route, Rule, SpecKind,
};

use super::Op;
use super::netlink::Refusal;
use super::op::{FABRIC_PORT, LOOPBACK, Setting};

/// What a new link refers to by number.
#[derive(Debug, Clone, Copy, Default)]
pub struct Relations {
    /// The namespace of a veth's other end, or the one that a macvlan is to be in.
    pub netns: Option<RawFd>,
    /// The link that a macvlan stands on.
    pub lower: Option<u32>,
    /// The bridge or VRF that it is to be a port of.
    pub master: Option<u32>,
}

/// A link to be made, of our group from its first moment. The kernel takes neither an alias nor a port's or IPv6's
/// settings in this message.
pub fn create(name: &IfName, kind: &SpecKind, mac: Option<MacAddr>, to: Relations) -> LinkMessage {
    let mut message = LinkUnspec::new_with_name(name.as_str()).link_group(OWNER_GROUP).build();
    let info = match kind {
        SpecKind::Foreign | SpecKind::Nic(_) => return message,
        SpecKind::Vrf(table) => {
            vec![LinkInfo::Kind(InfoKind::Vrf), LinkInfo::Data(InfoData::Vrf(vec![InfoVrf::TableId(*table)]))]
        }
        SpecKind::Veth(_, peer) => {
            // Born in its namespace. It must not be asked to be up (`ENOTCONN`).
            let mut peer = LinkUnspec::new_with_name(peer.as_str()).link_group(OWNER_GROUP).build();
            peer.attributes.extend(to.netns.map(LinkAttribute::NetNsFd));
            // Unasked, the kernel makes one for each possible CPU, lets one of them be used, and waits for RCU at each end
            // (`veth_init_queues`, drivers/net/veth.c).
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

/// How many of the first `ops` the kernel takes in one message about one link, in the order in which it carries out what
/// is in it: a port's settings before a new master, IPv6's after the link is up.
pub fn joined(ops: &[Op]) -> usize {
    let Some(Op::Set { side, name, .. }) = ops.first() else { return 1 };
    let mut n = 0;
    let (mut addr_gen, mut master) = (false, false);
    for op in ops {
        match op {
            Op::Set { side: s, name: n, what } if (s, n) == (side, name) => match what {
                Setting::Up if addr_gen => break,
                Setting::Port if master => break,
                Setting::AddrGenNone => addr_gen = true,
                Setting::Master(_) => master = true,
                _ => {}
            },
            _ => break,
        }
        n += 1;
    }
    n
}

/// Adds settings to a message about one link; `master` is the new master's index, 0 for none.
pub fn settings<'a>(message: &mut LinkMessage, settings: impl Iterator<Item = &'a Setting>, master: u32) {
    let mut info = Vec::new();
    for setting in settings {
        let attributes = &mut message.attributes;
        match setting {
            Setting::Mark { role, group } => {
                attributes.push(LinkAttribute::IfAlias(role.alias()));
                attributes.extend(group.then_some(LinkAttribute::Group(OWNER_GROUP)));
            }
            Setting::Mtu(mtu) => attributes.push(LinkAttribute::Mtu(*mtu)),
            Setting::Mac(mac) => attributes.push(LinkAttribute::Address(mac.octets().to_vec())),
            Setting::Master(_) => attributes.push(LinkAttribute::Controller(master)),
            Setting::AddrGenNone => {
                let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
                attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
            }
            Setting::Port => {
                let port = vec![
                    InfoBridgePort::NeighSupress(FABRIC_PORT.neigh_suppress),
                    InfoBridgePort::Learning(FABRIC_PORT.learning),
                ];
                info.push(LinkInfo::PortKind(InfoPortKind::Bridge));
                info.push(LinkInfo::PortData(InfoPortData::BridgePort(port)));
            }
            Setting::Vxlan { local: ip } => {
                let mut data = vec![InfoVxlan::Learning(false), InfoVxlan::Link(LOOPBACK)];
                data.extend(ip.map(local));
                info.push(LinkInfo::Kind(InfoKind::Vxlan));
                info.push(LinkInfo::Data(InfoData::Vxlan(data)));
            }
            Setting::Up => {
                message.header.flags |= LinkFlags::Up;
                message.header.change_mask |= LinkFlags::Up;
            }
        }
    }
    if !info.is_empty() {
        message.attributes.push(LinkAttribute::LinkInfo(info));
    }
}

/// A message about the link of that name.
pub fn named(name: &str) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_name(name)
}

/// Without duplicate address detection: both ends are ours, and a tentative address can't be bound to.
/// An IPv4 link-local address has link scope, so that it is no source for traffic that goes further (RFC 3927 §2.7).
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

/// A route by the link with that index, or an unreachable destination.
///
/// # Errors
/// Its parts are of different families.
pub fn route(index: Option<u32>, route: &Route) -> Result<RouteMessage, Refusal> {
    fn invalid(e: impl std::fmt::Display) -> Refusal {
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

/// A route as the kernel makes it by itself.
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
        // It has scopes of addresses instead.
        message.header.scope = RouteScope::Universe;
        // IP6_RT_PRIO_ADDRCONF (`net/ip6_route.h`).
        message.attributes.push(RouteAttribute::Priority(256));
    }
    message.attributes.extend(route.src.map(|src| {
        RouteAttribute::PrefSource(match src {
            IpAddr::V4(ip) => RouteAddress::Inet(ip),
            IpAddr::V6(ip) => RouteAddress::Inet6(ip),
        })
    }));
    message
}

/// A rule as the kernel makes it by itself.
pub fn kernel_rule(rule: KernelRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.action = RuleAction::ToTable;
    // `fib_default_rules_init`, net/ipv4/fib_rules.c; `vrf_fib_rule`, drivers/net/vrf.c.
    let (priority, to) = match rule.to {
        KernelTable::Local => (0, RuleAttribute::Table(255)),
        KernelTable::Vrf => (1000, RuleAttribute::L3MDev(true)),
        KernelTable::Main => (32766, RuleAttribute::Table(254)),
        KernelTable::Default => (32767, RuleAttribute::Table(253)),
    };
    message.attributes =
        vec![RuleAttribute::Priority(priority), to, RuleAttribute::Protocol(RouteProtocol::Kernel)];
    message
}

/// A rule of ours.
pub fn rule(rule: &Rule) -> RuleMessage {
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
