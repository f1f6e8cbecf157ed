//! Configuration and observed state → desired state. Pure.

mod fabric;
mod vnis;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{Config, MetallbConfig, PeerPair, ReturnMode};
use crate::model::{
    Desired, IfName, IpRule, LinkSpec, MAIN_TABLE, Namespaces, OWNER_PROTOCOL, Ownership, ReturnPath, Route,
    Side, SpecKind, Sysctl, VETH_FRR, VETH_HOST, Value as _, default_net, icmpv6_source,
};

pub use fabric::{FabricNic, NicSearch, NicSelector, describe_missing, find_nics, rejection_reason};

/// Priority of the managed rules: after the local table (0) and a CNI's rules (Cilium 9–110), before the main table
/// (32766).
const RULE_PRIORITY: u32 = 8800;

/// The highest IPv6 metric. The kernel accepts 31 bits for IPv6, 32 for IPv4.
const MAX_METRIC_V6: u32 = i32::MAX as u32;

/// Metric of the default route through the veth pair: lower priority than routes from DHCP (1024) or a router
/// advertisement.
const DEFAULT_ROUTE_METRIC: u32 = 8192;

/// The desired state, and warnings for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The desired state of the kernel.
    pub desired: Desired,
    /// The fabric ports' names in FRR's namespace, in the order of `FE_MACS`.
    pub ports: Vec<IfName>,
    /// Whether `NODE_IP` is an address of FRR's namespace.
    pub node_ip_is_local: bool,
    /// The addresses of the fabric NICs.
    pub port_addresses: Vec<IpNet>,
    /// Warnings, one sentence each.
    pub warnings: Vec<String>,
}

/// Computes the desired state with the fabric NICs that were found and for which there is no [`rejection_reason`].
pub fn resolve(config: &Config, now: &Namespaces, found: &[FabricNic]) -> Resolved {
    let isolated = now.router.is_some();
    let mut warnings = Vec::new();
    let mtu = match config.settings.interface_mtu {
        Some(mtu) => Some(mtu.get()),
        None => found.first().map(|nic| nic.mtu),
    };
    let mut desired = Desired {
        links: links(config, now, found, mtu),
        sysctls: sysctls(config, now, isolated, found),
        routes: Vec::new(),
        no_ra_default: found.iter().map(|nic| nic.name.clone()).collect(),
        rules: Vec::new(),
        marks: None,
        keep_unlisted: false,
    };
    let underlay_mtu =
        found.iter().map(|nic| nic.mtu).chain(vnis::macvlan_parent_mtus(&config.overlay, now)).min();
    vnis::add_overlay(&config.overlay, underlay_mtu, isolated, &mut desired);
    let ipv6 = desired.links.iter().filter(|link| needs_ipv6(link)).map(|link| Sysctl {
        side: link.side,
        path: format!("net/ipv6/conf/{}/disable_ipv6", link.name),
        value: "0",
    });
    let ipv6: Vec<_> = ipv6.collect();
    desired.sysctls.extend(ipv6);
    if isolated {
        return_path(config, now, found, &mut desired, &mut warnings);
    }
    // A moved NIC brings its addresses into FRR's namespace.
    let node_ip = IpAddr::from(config.settings.node_ip.get());
    let moved_addresses =
        desired.links.iter().filter(|l| matches!(l.kind, SpecKind::Nic(_))).flat_map(|l| &l.addresses);
    let node_ip_is_local = has_address(now, Side::Router, node_ip)
        || moved_addresses.into_iter().any(|net| net.addr() == node_ip);
    if !isolated && !node_ip_is_local {
        warnings.push(format!(
            "NODE_IP {node_ip} is not (yet) an address of this node: routes from the fabric have no preferred source (src); \
             add {node_ip}/32 to a dummy (DummyLinkConfig), or correct NODE_IP"
        ));
    }
    Resolved {
        desired,
        ports: found
            .iter()
            .filter(|nic| matches!(nic.selector, NicSelector::Mac(_)))
            .map(|nic| nic.name.clone())
            .collect(),
        node_ip_is_local,
        port_addresses: found.iter().flat_map(|nic| original_addresses(now, nic)).collect(),
        warnings,
    }
}

/// Whether the link needs IPv6. A host may disable it by default, and every program can.
fn needs_ipv6(link: &LinkSpec) -> bool {
    let carries_none = matches!(link.kind, SpecKind::Vxlan(_) | SpecKind::Veth(..));
    !link.addresses.is_empty() || (link.side == Side::Router && !carries_none)
}

fn has_address(now: &Namespaces, side: Side, ip: IpAddr) -> bool {
    let mut addresses = now.get(side).links.iter().flat_map(|link| &link.addresses);
    addresses.any(|address| address.net.addr() == ip)
}

/// One of the program's constant device names.
fn fixed_name(name: &'static str) -> IfName {
    #[allow(clippy::unwrap_used)] // Letters and dashes, at most 15.
    IfName::parse(name).unwrap()
}

fn links(config: &Config, now: &Namespaces, found: &[FabricNic], mtu: Option<u32>) -> Vec<LinkSpec> {
    let plain = LinkSpec::new;
    let isolated = now.router.is_some();
    let mut links = Vec::new();
    if isolated {
        // Without an IPv6 address the namespace cannot send "packet too big". The address is not announced; it is only
        // the source of ICMPv6. IPv4 has 192.0.0.8 for this purpose (RFC 7600).
        let source = IpNet::from(IpAddr::from(icmpv6_source(config.settings.node_ip)));
        links.push(LinkSpec {
            addresses: vec![source],
            ..plain(Side::Router, fixed_name("lo"), SpecKind::Foreign)
        });
    }
    if let Some(metallb) = &config.metallb {
        let addresses = |of: fn(PeerPair) -> IpNet| metallb.pairs().map(of).collect::<Vec<_>>();
        let vrf = metallb.vrf.as_ifname();
        links.push(plain(Side::Router, vrf.clone(), SpecKind::Vrf(metallb.table.get())));
        links.push(LinkSpec {
            mtu,
            master: Some(vrf.clone()),
            addresses: addresses(PeerPair::frr_net),
            ..plain(Side::Router, fixed_name(VETH_FRR), SpecKind::Veth(Side::Host, fixed_name(VETH_HOST)))
        });
        links.push(LinkSpec {
            mtu,
            addresses: addresses(PeerPair::metallb_net),
            ..plain(Side::Host, fixed_name(VETH_HOST), SpecKind::Veth(Side::Router, fixed_name(VETH_FRR)))
        });
    }
    for nic in found {
        let kind = if isolated { SpecKind::Nic(nic.side) } else { SpecKind::Foreign };
        let addresses = if isolated { original_addresses(now, nic) } else { vec![] };
        links.push(LinkSpec { addresses, ..plain(Side::Router, nic.name.clone(), kind) });
    }
    links
}

/// The addresses that move with a NIC: those in its original namespace, or those that its mark records.
fn original_addresses(now: &Namespaces, nic: &FabricNic) -> Vec<IpNet> {
    let Some(link) = now.get(nic.side).link(nic.name.as_str()) else { return vec![] };
    match link.ownership() {
        Some(Ownership::MovedNic(addresses)) => addresses,
        _ => link.addresses.iter().filter(|a| a.permanent).map(|a| a.net).collect(),
    }
}

fn sysctl(side: Side, path: String, value: &'static str) -> Sysctl {
    Sysctl { side, path, value }
}

/// The reverse-path check of a link with asymmetric traffic, which a strict check drops as spoofed. Service traffic is
/// asymmetric: the client's packets arrive over the veth pair whatever the host's route to the client is. On a link
/// without an IPv4 address a loose check is as strict as a strict one (`__fib_validate_source`,
/// `net/ipv4/fib_frontend.c`): only no check helps. On a link with an IPv4 address a loose check overrides a strict
/// check of `conf/all`.
fn relaxed_rp_filter(side: Side, dev: &str, has_ipv4: bool) -> Sysctl {
    sysctl(side, format!("net/ipv4/conf/{dev}/rp_filter"), if has_ipv4 { "2" } else { "0" })
}

/// Whether the link of that name has an IPv4 address.
fn has_ipv4(now: &Namespaces, side: Side, name: &str) -> bool {
    now.get(side).link(name).is_some_and(|link| link.addresses.iter().any(|a| a.net.addr().is_ipv4()))
}

/// The sysctls of a link to the fabric.
fn port_sysctls(isolated: bool, name: &IfName, has_ipv4: bool) -> Vec<Sysctl> {
    let mut list = if isolated {
        // The NIC keeps the host's setting when it moves.
        [("ipv4", "rp_filter", "0"), ("ipv6", "forwarding", "1")]
            .map(|(family, what, value)| {
                sysctl(Side::Router, format!("net/{family}/conf/{name}/{what}"), value)
            })
            .to_vec()
    } else {
        // A reply may arrive by another leaf.
        vec![relaxed_rp_filter(Side::Router, name.as_str(), has_ipv4)]
    };
    // A leaf sends router advertisements for BGP unnumbered. A default route from them would be preferred to BGP's.
    // Addresses and prefixes follow the host's settings.
    list.push(sysctl(Side::Router, format!("net/ipv6/conf/{name}/accept_ra_defrtr"), "0"));
    list
}

fn sysctls(config: &Config, now: &Namespaces, isolated: bool, found: &[FabricNic]) -> Vec<Sysctl> {
    let mut list = Vec::new();
    // Whether the link to MetalLB has IPv4 addresses, if there is one.
    let veth_v4 = config.metallb.as_ref().map(|metallb| metallb.v4.is_some());
    if isolated {
        // A new namespace lacks these settings: forwarding, ECMP hashing over ports, no routes over a dead port, and
        // addresses that survive a link going down.
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
            list.push(sysctl(Side::Router, path.into(), value));
        }
        let rp_filter = format!("net/ipv4/conf/{VETH_FRR}/rp_filter");
        list.extend(veth_v4.map(|_| sysctl(Side::Router, rp_filter, "0")));
    } else {
        list.extend(veth_v4.map(|v4| relaxed_rp_filter(Side::Router, VETH_FRR, v4)));
    }
    list.extend(veth_v4.map(|v4| relaxed_rp_filter(Side::Host, VETH_HOST, v4)));
    list.extend(
        found
            .iter()
            .flat_map(|nic| port_sysctls(isolated, &nic.name, has_ipv4(now, nic.side, nic.name.as_str()))),
    );
    if veth_v4.is_none() {
        return list;
    }
    // Both ends are managed: duplicate address detection would only delay the first session by one second.
    for (side, dev) in [(Side::Router, VETH_FRR), (Side::Host, VETH_HOST)] {
        list.push(sysctl(side, format!("net/ipv6/conf/{dev}/accept_dad"), "0"));
    }
    // FRR sends router advertisements over the veth pair. A default route from them is not wanted.
    list.push(sysctl(Side::Host, format!("net/ipv6/conf/{VETH_HOST}/accept_ra"), "0"));
    list
}

/// Adds the return path of the host's replies through the veth pair.
fn return_path(
    config: &Config,
    now: &Namespaces,
    found: &[FabricNic],
    desired: &mut Desired,
    warnings: &mut Vec<String>,
) {
    let Some(metallb) = config.metallb.as_ref().filter(|_| config.settings.return_path != ReturnMode::None)
    else {
        return;
    };
    // An address that moves away with its NIC cannot be the source for the host.
    let stays = |name: &str| !found.iter().any(|nic| nic.side == Side::Host && nic.name.as_str() == name);
    let staying = now.host.links.iter().filter(|link| stays(&link.name));
    let node_ip = IpAddr::from(config.settings.node_ip.get());
    let src = staying.flat_map(|link| &link.addresses).any(|a| a.net.addr() == node_ip).then_some(node_ip);
    for v6 in [false, true] {
        let mut add = |table, metric| {
            let route = default_route(metallb, src, v6, table, metric);
            desired.routes.push((Side::Host, route));
        };
        if config.settings.return_path == ReturnMode::DefaultRoute {
            add(MAIN_TABLE, DEFAULT_ROUTE_METRIC);
            warnings.extend(competing_default_route(now, v6, stays));
            continue;
        }
        // The kernel's default metric of an IPv6 route is 1024 (IP6_RT_PRIO_USER).
        add(config.settings.return_table.get(), if v6 { 1024 } else { 0 });
        // A reply is routed once before it is marked, and that lookup must succeed.
        add(MAIN_TABLE, if v6 { MAX_METRIC_V6 } else { u32::MAX });
        let (mark, table) = (config.settings.return_mark.0, config.settings.return_table.get());
        let rule = IpRule { v6, priority: RULE_PRIORITY, mark: (mark, mark), table };
        desired.rules.push((Side::Host, rule));
    }
    if config.settings.return_path == ReturnMode::Connmark {
        desired.marks = Some(ReturnPath { dev: fixed_name(VETH_HOST), mark: config.settings.return_mark.0 });
    }
}

fn default_route(metallb: &MetallbConfig, src: Option<IpAddr>, v6: bool, table: u32, metric: u32) -> Route {
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

/// The warning that the host has another default route, in addition to the managed one.
fn competing_default_route(now: &Namespaces, v6: bool, stays: impl Fn(&str) -> bool) -> Option<String> {
    let other = now.host.routes.iter().find(|route| {
        let is_default = route.dst == default_net(v6) && route.table == MAIN_TABLE;
        is_default && route.protocol != OWNER_PROTOCOL && stays(&route.dev)
    })?;
    Some(format!(
        "the host has another {} default route on {}, which RETURN_PATH=default-route does not replace: \
         replies to clients may use it; set RETURN_PATH=connmark for such a host",
        if v6 { "IPv6" } else { "IPv4" },
        other.dev
    ))
}
