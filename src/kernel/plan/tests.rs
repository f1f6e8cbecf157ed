use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::config::{Config, from_vars};
use crate::model::{
    Address, Asn, BridgePort, HostBridge, HostSession, KernelRoute, KernelRouteKind, KernelRule, KernelTable,
    L2Vni, L3Vni, MacAddr, NsState, OWNER, OWNER_GROUP, Overlay, RemoteAs, Value as _, Vni, VrfName,
};
use crate::resolve::{NicSelector, find_nics, rejection_reason, resolve};

const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];

fn plan(desired: &Desired, now: &Namespaces) -> Plan {
    super::plan(desired, now.clone())
}

pub(super) fn config(extra: &[(&str, &str)]) -> Config {
    let base =
        [("NODE_IP", "10.0.0.1"), ("ASN_LOCAL", "65001"), ("FE_MACS", "02:00:00:00:00:01,02:00:00:00:00:02")];
    from_vars(base.iter().chain(extra).map(|(k, v)| ((*k).into(), (*v).into()))).unwrap()
}

/// A configuration with a routing domain, a broadcast domain in it, a separate broadcast domain, and a pass-through.
fn with_vnis(vteps: [&str; 2], vnis: &[u32]) -> Config {
    let session = |net: &str| HostSession {
        asn: Asn::parse("64514").unwrap(),
        remote: RemoteAs::External,
        ends: vec![(format!("{net}.1/24").parse().unwrap(), format!("{net}.2/24").parse().unwrap())],
        bfd: None,
    };
    let local: IpAddr = vteps[0].parse().unwrap();
    let tunnel = |vni| Tunnel { vni: Vni::new(vni).unwrap(), port: 4789, local };
    let mut overlay = Overlay::default();
    overlay.underlay.vtep4 = vteps.iter().find_map(|ip| ip.parse().ok());
    overlay.underlay.vtep6 = vteps.iter().find_map(|ip| ip.parse().ok());
    overlay.passthrough = vnis.contains(&100).then(|| session("192.0.3"));
    for &vni in vnis {
        let name = format!("v{vni}");
        let vrf = VrfName::parse("red").ok();
        if vni == 100 {
            overlay.l3vnis.push(L3Vni {
                name,
                vrf: vrf.unwrap(),
                tunnel: tunnel(vni),
                session: Some(session("192.0.4")),
                export: vec![],
                import: vec![],
            });
        } else {
            let master =
                HostBridge { name: IfName::parse(&format!("br-hs-{vni}")).unwrap(), managed: vni < 300 };
            overlay.l2vnis.push(L2Vni {
                name,
                tunnel: tunnel(vni),
                vrf: vrf.filter(|_| vni == 200),
                master: Some(master),
                gateways: (vni == 200).then(|| "192.0.5.1/24".parse().unwrap()).into_iter().collect(),
            });
        }
    }
    Config { overlay, ..config(&[]) }
}

const VTEPS: [&str; 2] = ["100.65.0.1", "2001:db8:65::1"];

fn device(index: u32, name: &str, mac: Option<&str>) -> Link {
    Link {
        mac: mac.map(|m| MacAddr::parse(m).unwrap()),
        mtu: 9000,
        up: true,
        ..Link::new(index, name, LinkKind::Device)
    }
}

/// A node with its two NICs and without managed objects.
pub(super) fn fresh(isolated: bool) -> Namespaces {
    let host = NsState {
        links: [device(1, "lo", None), device(2, "eth1", Some(MACS[0])), device(3, "eth2", Some(MACS[1]))]
            .into_iter()
            .collect(),
        ..NsState::default()
    };
    let router = NsState { links: [device(1, "lo", None)].into_iter().collect(), ..NsState::default() };
    Namespaces { host, router: isolated.then_some(router) }
}

pub(super) fn desired(config: &Config, now: &Namespaces) -> Option<Desired> {
    let search = find_nics(&NicSelector::from_config(config), now, &[]);
    let is_fit =
        search.is_complete() && search.found.iter().all(|nic| rejection_reason(config, now, nic).is_none());
    is_fit.then(|| resolve(config, now, &search.found).desired)
}

pub(super) fn simulate_all(ops: &[Op], mut now: Namespaces) -> Namespaces {
    ops.iter().for_each(|op| op.simulate(&mut now));
    now
}

fn op_lines(plan: &Plan) -> Vec<String> {
    plan.ops.iter().map(ToString::to_string).collect()
}

#[test]
fn a_fresh_node_is_built_in_an_order_that_works() {
    let mut now = fresh(true);
    let net: IpNet = "192.0.2.1/31".parse().unwrap();
    now.host.link_mut("eth1").unwrap().addresses.push(Address { net, permanent: true });
    let desired = desired(&config(&[]), &now).unwrap();
    let plan = plan(&desired, &now);
    assert_eq!(plan.conflicts, []);
    let devices: Vec<_> = op_lines(&plan).into_iter().filter(|w| !w.contains("sysctl")).collect();
    assert_eq!(
        devices,
        [
            "FRR's namespace: add address fda1:b2c3:d4e5::a00:1/128 to lo",
            "FRR's namespace: create VRF metallb, table 88",
            "FRR's namespace: mark metallb \"frr-supervisor\"",
            "FRR's namespace: set metallb up",
            "FRR's namespace: create veth frr-metallb, peer metallb-frr (host), port of metallb",
            "FRR's namespace: mark frr-metallb \"frr-supervisor\"",
            "FRR's namespace: set frr-metallb mtu 9000",
            "FRR's namespace: add address fda1:b2c3:d4e5:1::/127 to frr-metallb",
            "FRR's namespace: add address 169.254.88.0/31 to frr-metallb",
            "FRR's namespace: set frr-metallb up",
            "host: mark metallb-frr \"frr-supervisor\"",
            "host: set metallb-frr mtu 9000",
            "host: add address fda1:b2c3:d4e5:1::1/127 to metallb-frr",
            "host: add address 169.254.88.1/31 to metallb-frr",
            "host: set metallb-frr up",
            "host: mark eth1 \"frr-supervisor nic 192.0.2.1/31\"",
            "host: move eth1 to FRR's namespace",
            "FRR's namespace: add address 192.0.2.1/31 to eth1",
            "FRR's namespace: set eth1 up",
            "host: mark eth2 \"frr-supervisor nic\"",
            "host: move eth2 to FRR's namespace",
            "FRR's namespace: set eth2 up",
            "host: add route 0.0.0.0/0 via 169.254.88.0 dev metallb-frr table 880 metric 0",
            "host: add route 0.0.0.0/0 via 169.254.88.0 dev metallb-frr table 254 metric 4294967295",
            "host: add route ::/0 via fda1:b2c3:d4e5:1:: dev metallb-frr table 880 metric 1024",
            "host: add route ::/0 via fda1:b2c3:d4e5:1:: dev metallb-frr table 254 metric 2147483647",
            "host: add rule 8800: IPv4 fwmark 0x1000/0x1000 lookup 880",
            "host: add rule 8800: IPv6 fwmark 0x1000/0x1000 lookup 880",
            "host: mark connections that come in over metallb-frr with 0x1000",
        ]
    );
}

#[test]
fn with_netns_host_the_nics_stay_unchanged() {
    let now = fresh(false);
    let desired = desired(&config(&[("NETNS", "host")]), &now).unwrap();
    let plan = plan(&desired, &now);
    let of_nics = |line: &&String| line.contains("eth1") || line.contains("eth2");
    let of_nics: Vec<_> = op_lines(&plan).iter().filter(of_nics).cloned().collect();
    let wanted = ["rp_filter = 0", "disable_ipv6 = 0", "accept_ra_defrtr = 0"];
    assert!(of_nics.iter().all(|line| wanted.iter().any(|end| line.ends_with(end))), "{of_nics:#?}");
    assert_eq!(of_nics.len(), 2 * wanted.len(), "{of_nics:#?}");
    assert!(plan.ops.iter().all(|op| !matches!(op, Op::AddRoute { .. } | Op::SetMarks(_))));
}

#[test]
fn no_advertisement_of_a_workload_reaches_the_host() {
    let now = fresh(true);
    let desired = desired(&with_vnis(VTEPS, &[100, 200, 300]), &now).unwrap();
    let set = |path: &str| {
        let of = |s: &&Sysctl| s.side == Side::Host && s.path == format!("net/ipv6/conf/{path}");
        desired.sysctls.iter().find(of).map(|sysctl| sysctl.value)
    };
    for end in ["metallb-frr", "host-e-100", "host-e-200", "host-e-300", "pt-host"] {
        assert_eq!(set(&format!("{end}/accept_ra")), Some("0"), "{end}");
    }
    // An unmanaged bridge stays unchanged.
    assert_eq!(
        ["br-hs-200", "br-hs-300"].map(|bridge| set(&format!("{bridge}/disable_ipv6"))),
        [Some("1"), None]
    );
    for end in ["metallb-frr", "host-e-100", "pt-host"] {
        assert_eq!(set(&format!("{end}/disable_ipv6")), Some("0"), "{end}");
    }
}

#[test]
fn a_default_route_of_a_router_advertisement_is_removed_and_does_not_block_a_nic() {
    let route = |dev: &str, protocol| Route {
        dst: "::/0".parse().unwrap(),
        table: 254,
        via: "fe80::1".parse().ok(),
        dev: dev.into(),
        metric: 1024,
        src: None,
        protocol,
    };
    let of = |isolated: bool, protocol| {
        let mut now = fresh(isolated);
        now.host.routes = vec![route("eth1", protocol), route("eth0", protocol)];
        let config = if isolated { config(&[]) } else { config(&[("NETNS", "host")]) };
        let desired = desired(&config, &now)?;
        let deleted = |op: &Op| matches!(op, Op::DelRoute { .. }).then(|| op.to_string());
        Some(plan(&desired, &now).ops.iter().filter_map(deleted).collect::<Vec<_>>())
    };
    let removal = "host: remove route ::/0 via fe80::1 dev eth1 table 254 metric 1024";
    assert_eq!(of(false, RA_PROTOCOL), Some(vec![removal.to_owned()]));
    assert_eq!(of(true, RA_PROTOCOL), Some(vec![]), "the route disappears when the NIC is moved");
    for protocol in [3, 4, 16] {
        assert_eq!(of(false, protocol), Some(vec![]));
        assert_eq!(of(true, protocol), None, "a NIC with the node's default route");
    }
}

#[test]
fn removed_kernel_routes_and_rules_are_added_again() {
    let now = fresh(true);
    let desired = desired(&config(&[]), &now).unwrap();
    let mut built = simulate_all(&plan(&desired, &now).ops, now);
    let router = built.router.as_mut().unwrap();
    let port = router.link_mut("eth1").unwrap();
    (port.up, port.running) = (true, true);
    let route = |kind, dst: &str, dev: &str| KernelRoute {
        kind,
        dst: dst.parse().unwrap(),
        table: 254,
        dev: dev.into(),
        src: None,
    };
    let subnet = KernelRouteKind::Connected;
    router.missing_kernel_routes =
        vec![route(subnet, "fe80::/64", "eth1"), route(subnet, "192.0.2.0/24", "other")];
    router.missing_kernel_rules = vec![KernelRule { v6: true, to: KernelTable::Main }];
    built.host.missing_kernel_routes =
        vec![route(KernelRouteKind::Local, "192.0.2.9/32", "eth0"), route(subnet, "192.0.2.0/24", "eth0")];
    let plan = plan(&desired, &built);
    let wanted = [
        "FRR's namespace: add address fe80::ff:fe00:1/64 to eth1",
        "host: add kernel route local 192.0.2.9/32 dev eth0 table 254",
        "FRR's namespace: add kernel rule 32766: IPv6 lookup main",
        "FRR's namespace: add kernel route fe80::/64 dev eth1 table 254",
    ];
    assert_eq!(op_lines(&plan), wanted);
    let after = simulate_all(&plan.ops, built);
    assert_eq!(op_lines(&super::plan(&desired, after)), Vec::<String>::new());
}

#[test]
fn a_foreign_interface_is_not_replaced() {
    let mut now = fresh(true);
    now.host.links.insert(device(7, "metallb-frr", None));
    let desired = desired(&config(&[]), &now).unwrap();
    let plan = plan(&desired, &now);
    assert_eq!(plan.conflicts.len(), 1, "{:?}", plan.conflicts);
    assert!(plan.conflicts[0].1.contains("metallb-frr"));
    assert!(
        plan.ops.iter().filter_map(touched).all(|(_, name)| name != "metallb-frr"),
        "{:#?}",
        op_lines(&plan)
    );
}

#[test]
fn a_nic_that_is_no_longer_configured_is_moved_back_with_its_addresses() {
    let now = fresh(true);
    let both = config(&[]);
    let built = simulate_all(&plan(&desired(&both, &now).unwrap(), &now).ops, now);
    let one = config(&[("FE_MACS", MACS[0])]);
    let plan = plan(&desired(&one, &built).unwrap(), &built);
    assert_eq!(
        op_lines(&plan),
        [
            "FRR's namespace: move eth2 to host",
            "host: set eth2 up",
            "host: remove the ownership mark of eth2"
        ]
    );
}

#[test]
fn a_changed_table_rebuilds_the_vrf_and_makes_the_veth_a_port_again() {
    let now = fresh(true);
    let built = simulate_all(&plan(&desired(&config(&[]), &now).unwrap(), &now).ops, now);
    let changed = config(&[("METALLB_VRF_ROUTE_TABLE_ID", "99")]);
    let plan = plan(&desired(&changed, &built).unwrap(), &built);
    assert_eq!(
        op_lines(&plan),
        [
            "FRR's namespace: delete metallb",
            "FRR's namespace: create VRF metallb, table 99",
            "FRR's namespace: mark metallb \"frr-supervisor\"",
            "FRR's namespace: set metallb up",
            "FRR's namespace: set frr-metallb master metallb",
        ]
    );
}

fn learning_is_off(port: Option<(bool, bool)>) -> bool {
    port.is_some_and(|(_, learning)| !learning)
}

prop_compose! {
    /// A link of any kind, with or without a mark, under a managed name or another one.
    fn any_link()(
        name in prop::sample::select(vec![
            "metallb", "frr-metallb", "metallb-frr", "eth1", "br0", "old", "red", "lound", "br-pe-100", "br-pe-200",
            "vni100", "vni300", "pe-e-100", "host-e-200", "br-hs-200", "br-hs-300", "pt-ns", "vni999",
        ]),
        kind in prop_oneof![
            Just(LinkKind::Dummy), Just(LinkKind::Macvlan(2)), Just(LinkKind::Vrf(10_000_100)),
            (prop::sample::select(vec![100, 200, 300]), any::<bool>(), prop::sample::select(VTEPS.to_vec())).prop_map(
                |(vni, learning, local)| LinkKind::Vxlan(Vxlan {
                    vni, port: 4789, local: local.parse().ok(), dev: u32::from(!learning), learning,
                })),
            Just(LinkKind::Device), (80u32..90).prop_map(LinkKind::Vrf), (0u32..12).prop_map(LinkKind::Veth),
            Just(LinkKind::Bridge), Just(LinkKind::Other("bond".into())),
        ],
        index in 10u32..20,
        grouped: bool,
        aliased: bool,
        nic: bool,
        up: bool,
        mtu in 1400u32..9000,
        address in prop::option::of(0u8..255),
        master in prop::option::of(prop::sample::select(vec!["br-pe-100", "red", "metallb"])),
        port in prop::option::of((any::<bool>(), any::<bool>())),
    ) -> Link {
        let net = address.map(|a| Address { net: format!("192.0.2.{a}/32").parse().unwrap(), permanent: true });
        let alias = match (aliased, nic) {
            (true, true) => Some(format!("{OWNER} nic 198.51.100.7/31")),
            (true, false) => Some(OWNER.to_owned()),
            (false, _) => None,
        };
        Link {
            kind, index, up, mtu, alias,
            master: master.map(Into::into),
            port: port.map(|(neigh_suppress, learning)| BridgePort { neigh_suppress, learning }),
            addr_gen_none: learning_is_off(port),
            group: if grouped { OWNER_GROUP } else { 0 },
            addresses: net.into_iter().collect(),
            ..device(0, name, None)
        }
    }
}

prop_compose! {
    fn any_state(isolated: bool)(
        host in prop::collection::vec(any_link(), 0..5),
        router in prop::collection::vec(any_link(), 0..5),
        taken in prop::sample::subsequence(vec![0usize, 1], 0..=2),
    ) -> Namespaces {
        let mut now = fresh(isolated);
        // Some NICs are already moved, with or without a mark.
        if isolated {
            for i in taken.into_iter().rev() {
                let mut nic = now.host.links.remove(["eth1", "eth2"][i]).unwrap();
                nic.group = OWNER_GROUP * u32::try_from(i).unwrap();
                nic.alias = (i == 1).then(|| format!("{OWNER} nic 192.0.2.9/31"));
                now.get_mut(Side::Router).links.insert(nic);
            }
        }
        let mut index = 100;
        for (side, links) in [(Side::Host, host), (Side::Router, router)] {
            for mut link in links {
                let state = now.get_mut(side);
                // Names and indexes are unique in a namespace.
                if state.link(&link.name).is_none() {
                    index += 1;
                    link.index = index;
                    state.links.insert(link);
                }
            }
        }
        now
    }
}

fn any_vnis() -> impl Strategy<Value = Vec<u32>> {
    prop::sample::subsequence(vec![100, 200, 300], 0..=3)
}

/// The link that an operation changes, on the side where it is before the change.
fn touched(op: &Op) -> Option<(Side, &str)> {
    op.link().filter(|_| {
        !matches!(op, Op::Create { .. } | Op::SetSysctl(_) | Op::AddRoute { .. } | Op::DelRoute { .. })
    })
}

/// Checks that a plan is complete and that it changes only managed links.
fn check_plan(config: &Config, now: Namespaces) -> Result<(), TestCaseError> {
    let Some(desired) = desired(config, &now) else { return Ok(()) };
    let full = plan(&desired, &now);
    // With a conflict of the base, nothing is applied.
    prop_assume!(full.conflicts.iter().all(|(part, _)| *part != Component::Base));
    let end = simulate_all(&full.ops, now.clone());
    prop_assert_eq!(
        op_lines(&plan(&desired, &end)),
        Vec::<String>::new(),
        "after a plan is applied, the next plan is empty"
    );

    let wanted_nic = |name: &str| {
        desired
            .links
            .iter()
            .any(|l| l.name.as_str() == name && matches!(l.kind, SpecKind::Nic(_) | SpecKind::Foreign))
    };
    let mut at = now.clone();
    for op in &full.ops {
        if let Some((side, name)) = touched(op) {
            let is_managed = at.get(side).link(name).is_some_and(|l| l.ownership().is_some());
            let harmless = matches!(
                op,
                Op::Move { .. }
                    | Op::Set { what: LinkSetting::Mark { .. } | LinkSetting::Up, .. }
                    | Op::AddAddress { .. }
            );
            prop_assert!(is_managed || (wanted_nic(name) && harmless), "{} changes an unmanaged link", op);
        }
        op.simulate(&mut at);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, max_global_rejects: 8192, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_is_complete_and_changes_only_managed_links(now in any_state(true)) {
        check_plan(&config(&[]), now)?;
    }

    #[test]
    fn a_plan_in_the_host_namespace_is_complete_and_changes_only_managed_links(now in any_state(false)) {
        check_plan(&config(&[("NETNS", "host")]), now)?;
    }

    #[test]
    fn a_plan_with_vnis_is_complete_and_changes_only_managed_links(now in any_state(true), vnis in any_vnis(), v6: bool) {
        check_plan(&with_vnis(if v6 { [VTEPS[1], VTEPS[0]] } else { VTEPS }, &vnis), now)?;
    }

    /// A change of the set of VNIs does not change links of VNIs in both sets.
    #[test]
    fn unchanged_vnis_are_not_touched(from in any_vnis(), to in any_vnis()) {
        let now = fresh(true);
        let built = simulate_all(&plan(&desired(&with_vnis(VTEPS, &from), &now).unwrap(), &now).ops, now);
        let wanted = with_vnis(VTEPS, &to);
        let change = plan(&desired(&wanted, &built).unwrap(), &built);
        let stays = |vni: u32| from.contains(&vni) && to.contains(&vni);
        for op in &change.ops {
            for vni in [200, 300].into_iter().filter(|vni| stays(*vni)) {
                let (of_vni, line) = (format!("-{vni}"), op.to_string());
                // The bridge of a broadcast domain may enter or leave the VRF of its routing domain.
                let joins = vni == 200 && line.contains("master");
                prop_assert!(!op.link().is_some_and(|(_, name)| name.ends_with(&of_vni)) || joins, "{line}");
            }
        }
        let end = simulate_all(&change.ops, built);
        prop_assert_eq!(op_lines(&plan(&desired(&wanted, &end).unwrap(), &end)), Vec::<String>::new());
    }

    /// A program that is killed after any operation and started again reaches the same final state.
    #[test]
    fn a_plan_can_be_interrupted_anywhere(now in any_state(true), cut in 0.0f64..1.0, vnis in any_vnis()) {
        let config = with_vnis(VTEPS, &vnis);
        let Some(whole) = desired(&config, &now) else { return Ok(()) };
        let full = plan(&whole, &now);
        prop_assume!(full.conflicts.iter().all(|(part, _)| *part != Component::Base));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let kept = (full.ops.len() as f64 * cut) as usize;
        let middle = simulate_all(&full.ops[..kept], now.clone());
        let again = desired(&config, &middle);
        let wanted = |d: &Desired| d.links.iter().map(|l| (l.name.clone(), l.addresses.clone())).collect::<Vec<_>>();
        prop_assert_eq!(again.as_ref().map(wanted), Some(wanted(&whole)));
        let end = simulate_all(&plan(&whole, &middle).ops, middle);
        let normal = |mut ns: Namespaces| {
            for side in [Side::Host, Side::Router] {
                let state = ns.get_mut(side);
                state.links.iter_mut().for_each(|l| {
                    l.index = 0;
                    if let LinkKind::Veth(peer) = &mut l.kind { *peer = 0; }
                });
            }
            ns
        };
        prop_assert_eq!(normal(end), normal(simulate_all(&full.ops, now)));
    }
}
