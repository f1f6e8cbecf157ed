//! Configuration and what the kernel has → what the kernel shall have. Pure.

mod fabric;
mod vnis;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::config::{Config, PeerPair, ReturnMode};
use crate::model::{
    Desired, IfName, LinkSpec, Namespaces, OWNER_PROTOCOL, ReturnPath, Role, Route, Rule, Side, SpecKind,
    Sysctl, VETH_FRR, VETH_HOST, Value as _, node_source,
};

pub use fabric::{By, Found, Search, find, missing, objection};

/// The kernel's main table (`RT_TABLE_MAIN`, `linux/rtnetlink.h`).
pub const MAIN_TABLE: u32 = 254;

/// Position of our rules: after the local table (0) and a CNI's own (Cilium 9–110), before main (32766).
const RULE_PRIORITY: u32 = 8800;

/// The largest IPv6 metric: the kernel takes 31 bits there, 32 for IPv4.
const LAST_METRIC_V6: u32 = i32::MAX as u32;

/// Metric of the default route through the veth pair: behind any that DHCP (1024) or an RA would set.
const DEFAULT_ROUTE_METRIC: u32 = 8192;

/// What shall be, and what the operator should know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What the kernel shall have.
    pub desired: Desired,
    /// The fabric ports' names in FRR's namespace, in the order of `FE_MACS`.
    pub ports: Vec<IfName>,
    /// Whether `NODE_IP` is an address of FRR's namespace.
    pub node_ip_is_local: bool,
    /// The addresses of the fabric NICs.
    pub port_addresses: Vec<IpNet>,
    /// Sentences worth a warning.
    pub notes: Vec<String>,
}

/// Works out the wanted state with the fabric NICs that were found and to which there is no [`objection`].
pub fn resolve(config: &Config, now: &Namespaces, found: &[Found]) -> Resolved {
    let isolated = now.router.is_some();
    let mut notes = Vec::new();
    let mtu = match config.mtu {
        Some(mtu) => Some(mtu.get()),
        None => found.first().map(|nic| nic.mtu),
    };
    let mut desired = Desired {
        links: links(config, now, found, mtu),
        sysctls: sysctls(config, now, isolated, found),
        routes: Vec::new(),
        no_advertised_default: found.iter().map(|nic| nic.name.clone()).collect(),
        rules: Vec::new(),
        marks: None,
        keep_others: false,
    };
    let underlay_mtu = found.iter().map(|nic| nic.mtu).chain(vnis::lower_mtus(&config.overlay, now)).min();
    vnis::add(&config.overlay, underlay_mtu, isolated, &mut desired);
    let ipv6 = desired.links.iter().filter(|link| needs_ipv6(link)).map(|link| Sysctl {
        side: link.side,
        path: format!("net/ipv6/conf/{}/disable_ipv6", link.name),
        value: "0",
    });
    let ipv6: Vec<_> = ipv6.collect();
    desired.sysctls.extend(ipv6);
    if isolated {
        return_path(config, now, found, &mut desired, &mut notes);
    }
    // With a NIC that brings it along it is there, too.
    let node_ip = IpAddr::from(config.node_ip.get());
    let brought =
        desired.links.iter().filter(|l| matches!(l.kind, SpecKind::Nic(_))).flat_map(|l| &l.addresses);
    let node_ip_is_local =
        has_address(now, Side::Router, node_ip) || brought.into_iter().any(|net| net.addr() == node_ip);
    if !isolated && !node_ip_is_local {
        notes.push(format!(
            "NODE_IP {node_ip} is no address of this node (yet): routes from the fabric have no preferred source"
        ));
    }
    Resolved {
        desired,
        ports: found.iter().filter(|nic| matches!(nic.by, By::Mac(_))).map(|nic| nic.name.clone()).collect(),
        node_ip_is_local,
        port_addresses: found.iter().flat_map(|nic| home_addresses(now, nic)).collect(),
        notes,
    }
}

/// Whether the link is of no use without IPv6, which a host may have off by default and everyone can switch off.
fn needs_ipv6(link: &LinkSpec) -> bool {
    let carries_none = matches!(link.kind, SpecKind::Vxlan(_) | SpecKind::Veth(..));
    !link.addresses.is_empty() || (link.side == Side::Router && !carries_none)
}

fn has_address(now: &Namespaces, side: Side, ip: IpAddr) -> bool {
    let mut addresses = now.get(side).links.iter().flat_map(|link| &link.addresses);
    addresses.any(|address| address.net.addr() == ip)
}

/// One of the constant names that we give.
fn own_name(name: &'static str) -> IfName {
    #[allow(clippy::unwrap_used)] // Letters and dashes, 15 at most.
    IfName::parse(name).unwrap()
}

fn links(config: &Config, now: &Namespaces, found: &[Found], mtu: Option<u32>) -> Vec<LinkSpec> {
    let metallb = &config.metallb;
    let addresses =
        |of: fn(PeerPair) -> IpNet| std::iter::once(metallb.v6).chain(metallb.v4).map(of).collect::<Vec<_>>();
    let plain = LinkSpec::new;
    let isolated = now.router.is_some();
    let vrf = metallb.vrf.as_ifname();
    let mut links = Vec::new();
    if isolated {
        // Without an IPv6 address the namespace could not say "packet too big": it is not announced,
        // and its only use is to be the source of ICMP. IPv4 has 192.0.0.8 for that (RFC 7600).
        let source = IpNet::from(IpAddr::from(node_source(config.node_ip)));
        links.push(LinkSpec {
            addresses: vec![source],
            ..plain(Side::Router, own_name("lo"), SpecKind::Foreign)
        });
    }
    links.push(plain(Side::Router, vrf.clone(), SpecKind::Vrf(metallb.table.get())));
    links.push(LinkSpec {
        mtu,
        master: Some(vrf.clone()),
        addresses: addresses(PeerPair::frr_net),
        ..plain(Side::Router, own_name(VETH_FRR), SpecKind::Veth(Side::Host, own_name(VETH_HOST)))
    });
    links.push(LinkSpec {
        mtu,
        addresses: addresses(PeerPair::metallb_net),
        ..plain(Side::Host, own_name(VETH_HOST), SpecKind::Veth(Side::Router, own_name(VETH_FRR)))
    });
    for nic in found {
        let kind = if isolated { SpecKind::Nic(nic.side) } else { SpecKind::Foreign };
        let addresses = if isolated { home_addresses(now, nic) } else { vec![] };
        links.push(LinkSpec { addresses, ..plain(Side::Router, nic.name.clone(), kind) });
    }
    links
}

/// The addresses that a NIC takes along: those that it has at home, or those that its mark remembers.
fn home_addresses(now: &Namespaces, nic: &Found) -> Vec<IpNet> {
    let Some(link) = now.get(nic.side).link(nic.name.as_str()) else { return vec![] };
    match link.role() {
        Some(Role::Nic(addresses)) => addresses,
        _ => link.addresses.iter().filter(|a| a.permanent).map(|a| a.net).collect(),
    }
}

fn on(side: Side, path: String, value: &'static str) -> Sysctl {
    Sysctl { side, path, value }
}

/// Strict reverse-path checks see asymmetric routing as spoofing, and services are asymmetric: the client comes in over the veth
/// pair whatever the host's own route to it is. On a link without an IPv4 address a loose check is a strict one
/// (`__fib_validate_source`, `net/ipv4/fib_frontend.c`), and only none helps; on one with an address a loose one overrules a strict one
/// for all links.
fn unchecked(side: Side, dev: &str, has_ipv4: bool) -> Sysctl {
    on(side, format!("net/ipv4/conf/{dev}/rp_filter"), if has_ipv4 { "2" } else { "0" })
}

/// Whether the link of that name has an IPv4 address.
fn has_ipv4(now: &Namespaces, side: Side, name: &str) -> bool {
    now.get(side).link(name).is_some_and(|link| link.addresses.iter().any(|a| a.net.addr().is_ipv4()))
}

/// What a link to the fabric needs.
fn of_port(isolated: bool, name: &IfName, has_ipv4: bool) -> Vec<Sysctl> {
    let mut list = if isolated {
        // It brought the host's setting along.
        [("ipv4", "rp_filter", "0"), ("ipv6", "forwarding", "1")]
            .map(|(family, what, value)| on(Side::Router, format!("net/{family}/conf/{name}/{what}"), value))
            .to_vec()
    } else {
        // What leaves by one leaf may be answered by another.
        vec![unchecked(Side::Router, name.as_str(), has_ipv4)]
    };
    // A leaf advertises itself for the sake of BGP; a default route of that would come before BGP's own. Addresses and prefixes are
    // taken as the host has it.
    list.push(on(Side::Router, format!("net/ipv6/conf/{name}/accept_ra_defrtr"), "0"));
    list
}

fn sysctls(config: &Config, now: &Namespaces, isolated: bool, found: &[Found]) -> Vec<Sysctl> {
    let mut list = Vec::new();
    let veth_v4 = config.metallb.v4.is_some();
    if isolated {
        // A router forwards; ECMP hashes over ports; a path over a dead port is not used; and an
        // address of a NIC survives its going down. A new namespace has none of this.
        for (path, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv6/conf/default/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/fib_multipath_hash_policy", "1"),
            ("net/ipv6/fib_multipath_hash_policy", "1"),
            ("net/ipv4/conf/all/ignore_routes_with_linkdown", "1"),
            ("net/ipv6/conf/all/ignore_routes_with_linkdown", "1"),
            ("net/ipv6/conf/all/keep_addr_on_down", "1"),
            ("net/ipv6/conf/all/disable_ipv6", "0"),
            ("net/ipv6/conf/default/disable_ipv6", "0"),
        ] {
            list.push(on(Side::Router, path.into(), value));
        }
        list.push(on(Side::Router, format!("net/ipv4/conf/{VETH_FRR}/rp_filter"), "0"));
    } else {
        list.push(unchecked(Side::Router, VETH_FRR, veth_v4));
    }
    list.push(unchecked(Side::Host, VETH_HOST, veth_v4));
    list.extend(
        found.iter().flat_map(|nic| of_port(isolated, &nic.name, has_ipv4(now, nic.side, nic.name.as_str()))),
    );
    // Both ends are ours: a check for duplicates would only hold the first session up by a second.
    for (side, dev) in [(Side::Router, VETH_FRR), (Side::Host, VETH_HOST)] {
        list.push(on(side, format!("net/ipv6/conf/{dev}/accept_dad"), "0"));
    }
    // FRR sends router advertisements over the veth; a default route learnt from them would be one too many.
    list.push(on(Side::Host, format!("net/ipv6/conf/{VETH_HOST}/accept_ra"), "0"));
    list
}

/// What leads the host's replies back through the veth pair.
fn return_path(
    config: &Config,
    now: &Namespaces,
    found: &[Found],
    desired: &mut Desired,
    notes: &mut Vec<String>,
) {
    if config.return_path == ReturnMode::None {
        return;
    }
    // An address that moves away with its NIC is no source for what stays.
    let stays = |name: &str| !found.iter().any(|nic| nic.side == Side::Host && nic.name.as_str() == name);
    let staying = now.host.links.iter().filter(|link| stays(&link.name));
    let node_ip = IpAddr::from(config.node_ip.get());
    let src = staying.flat_map(|link| &link.addresses).any(|a| a.net.addr() == node_ip).then_some(node_ip);
    for v6 in [false, true] {
        let mut add = |table, metric| {
            let route = default_route(config, src, v6, table, metric);
            desired.routes.push((Side::Host, route));
        };
        if config.return_path == ReturnMode::DefaultRoute {
            add(MAIN_TABLE, DEFAULT_ROUTE_METRIC);
            notes.extend(rival_default(now, v6, stays));
            continue;
        }
        // The kernel itself gives an IPv6 route without a metric 1024 (IP6_RT_PRIO_USER).
        add(config.return_table.get(), if v6 { 1024 } else { 0 });
        // A reply is looked up once before it is marked, and that must find something.
        add(MAIN_TABLE, if v6 { LAST_METRIC_V6 } else { u32::MAX });
        let (mark, table) = (config.return_mark, config.return_table.get());
        let rule = Rule { v6, priority: RULE_PRIORITY, mark: (mark, mark), table };
        desired.rules.push((Side::Host, rule));
    }
    if config.return_path == ReturnMode::Connmark {
        desired.marks = Some(ReturnPath { dev: own_name(VETH_HOST), mark: config.return_mark });
    }
}

fn default_route(config: &Config, src: Option<IpAddr>, v6: bool, table: u32, metric: u32) -> Route {
    let metallb = &config.metallb;
    let via = metallb.v4.filter(|_| !v6).unwrap_or(metallb.v6).frr;
    Route {
        dst: default_net(v6),
        table,
        via: Some(via),
        dev: VETH_HOST.into(),
        metric,
        src: src.filter(|_| !v6),
        protocol: OWNER_PROTOCOL,
    }
}

/// Says that the host has a default route of its own where ours was to be the only one.
fn rival_default(now: &Namespaces, v6: bool, stays: impl Fn(&str) -> bool) -> Option<String> {
    let other = now.host.routes.iter().find(|route| {
        let is_default = route.dst == default_net(v6) && route.table == MAIN_TABLE;
        is_default && route.protocol != OWNER_PROTOCOL && stays(&route.dev)
    })?;
    Some(format!(
        "the host has an {} default route of its own by {}, which RETURN_PATH=default-route does not replace: \
         replies to clients may leave by it; RETURN_PATH=connmark is for such a host",
        if v6 { "IPv6" } else { "IPv4" },
        other.dev
    ))
}

/// `0.0.0.0/0` or `::/0`.
pub fn default_net(v6: bool) -> IpNet {
    let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    // A prefix of length 0 exists in both families; from() makes the host prefix, which has none to fail on.
    IpNet::new(any, 0).unwrap_or_else(|_| any.into())
}
