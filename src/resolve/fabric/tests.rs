use super::*;
use crate::model::NsState;

const A: &str = "02:00:00:00:00:0a";
const B: &str = "02:00:00:00:00:0b";

fn mac(text: &str) -> MacAddr {
    MacAddr::parse(text).unwrap()
}

fn link(name: &str, kind: LinkKind, now: &str, made_with: Option<&str>) -> Link {
    Link { mac: Some(mac(now)), permanent_mac: made_with.map(mac), ..Link::new(1, name, kind) }
}

fn names(macs: &[&str], host: Vec<Link>, router: Vec<Link>) -> Result<Vec<String>, String> {
    let now = Namespaces {
        host: NsState { links: host.into_iter().collect(), ..NsState::default() },
        router: Some(NsState { links: router.into_iter().collect(), ..NsState::default() }),
    };
    let macs: Vec<NicSelector> = macs.iter().map(|m| NicSelector::Mac(mac(m))).collect();
    let search = find_nics(&macs, &now, &[]);
    if search.is_complete() {
        return Ok(search.found.iter().map(|f| format!("{} {}", f.side, f.name)).collect());
    }
    let rejected: Vec<String> = search.rejected.into_iter().map(|(_, sentence)| sentence).collect();
    Err(if rejected.is_empty() { list_links(all_links(&now)) } else { rejected.join("; ") })
}

#[test]
fn the_permanent_address_takes_precedence() {
    // A bond gives both its ports the address of the first.
    let ports = vec![
        link("eth0", LinkKind::Device, A, Some(A)),
        link("eth1", LinkKind::Device, A, Some(B)),
        link("bond0", LinkKind::Other("bond".into()), A, None),
    ];
    assert_eq!(names(&[A, B], ports, vec![]), Ok(vec!["host eth0".into(), "host eth1".into()]));
}

#[test]
fn a_device_that_copies_an_address_is_not_a_nic() {
    for kind in ["vlan", "macvlan", "bond", "bridge", "ipvlan"] {
        let copy = || link("copy", LinkKind::Other(kind.into()), A, None);
        let nic = link("eth0", LinkKind::Device, A, Some(A));
        assert_eq!(names(&[A], vec![copy(), nic], vec![]), Ok(vec!["host eth0".into()]));
        assert_eq!(names(&[A], vec![copy()], vec![]), Err(format!("copy {A} ({kind})")));
    }
}

#[test]
fn a_port_is_replaced_by_the_master_with_its_address() {
    let port = |name: &str, master: &str, made_with| Link {
        master: Some(master.into()),
        ..link(name, LinkKind::Device, A, made_with)
    };
    let numbered = |links: Vec<Link>| {
        let mut index = 1;
        links
            .into_iter()
            .map(|link| {
                index += 1;
                Link { index, ..link }
            })
            .collect::<Vec<_>>()
    };
    let found = |links| names(&[A], numbered(links), vec![]);
    let eth0 = || Ok(vec!["host eth0".to_owned()]);
    // A synthetic NIC and its virtual function. Either one, both or neither reports a permanent address.
    for (nic, function) in
        [(None, Some(A)), (Some(A), None), (None, None), (Some(A), Some(A)), (None, Some(B))]
    {
        assert_eq!(
            found(vec![link("eth0", LinkKind::Device, A, nic), port("eth1", "eth0", function)]),
            eth0()
        );
    }
    // A failover device and both of its ports.
    let failover = vec![
        link("eth0", LinkKind::Device, A, None),
        port("eth0nsby", "eth0", Some(A)),
        port("eth1", "eth0", Some(A)),
    ];
    assert_eq!(found(failover), eth0());
    // Functions without an address are not duplicates.
    let none = |name: &str, master: Option<&str>| Link {
        master: master.map(Into::into),
        ..Link::new(1, name, LinkKind::Device)
    };
    let nic = || link("eth0", LinkKind::Device, A, Some(A));
    assert_eq!(
        found(vec![nic(), none("vf0", Some("eth0")), none("vf1", Some("eth0")), none("vf2", None)]),
        eth0()
    );
    assert_eq!(found(vec![nic(), port("vf0", "none", Some(B)), none("none", None)]), eth0());
    // A bond replaces its ports, a bridge does not.
    let master = |kind: &str| link("m", LinkKind::Other(kind.into()), A, None);
    assert_eq!(found(vec![master("bond"), port("eth0", "m", Some(A))]), Ok(vec!["host m".into()]));
    let bridge = Link { kind: LinkKind::Bridge, ..master("") };
    assert_eq!(found(vec![bridge, port("eth0", "m", Some(A))]), eth0());
}

#[test]
fn a_nic_with_a_name_that_frr_uses_is_rejected() {
    let vars = [("NODE_IP", "10.0.0.1"), ("ASN_LOCAL", "65001"), ("FE_MACS", A)];
    let config = crate::config::from_vars(vars.map(|(k, v)| (k.into(), v.into()))).unwrap();
    let rejection = |name: &str, selector: NicSelector| {
        let now = Namespaces {
            host: NsState {
                links: [link(name, LinkKind::Device, A, None)].into_iter().collect(),
                ..NsState::default()
            },
            router: None,
        };
        let name = IfName::parse(name).unwrap();
        rejection_reason(&config, &now, &FabricNic { selector, side: Side::Host, index: 1, name, mtu: 1500 })
    };
    let sentence = rejection("fabric", NicSelector::Mac(mac(A))).unwrap();
    assert!(sentence.contains("the name of a peer group"), "{sentence}");
    assert_eq!(rejection("eth0", NicSelector::Mac(mac(A))), None);
    // The checks of the file cover this one.
    assert_eq!(rejection("fabric", NicSelector::Name(IfName::parse("fabric").unwrap())), None);
}

#[test]
fn a_nic_is_found_where_it_was_moved_to() {
    let nic = link("eth0", LinkKind::Device, A, None);
    assert_eq!(names(&[A], vec![], vec![nic]), Ok(vec!["FRR's namespace eth0".into()]));
}

#[test]
fn a_known_nic_is_preferred_to_new_links() {
    let find = |now: &Namespaces, before: &[FabricNic]| {
        find_nics(&[NicSelector::Mac(mac(A)), NicSelector::Mac(mac(B))], now, before)
    };
    let names = |search: &NicSearch| search.found.iter().map(|f| f.name.to_string()).collect::<Vec<_>>();
    let veth = |index, name: &str, address| Link { index, ..link(name, LinkKind::Veth(99), address, None) };
    let marked = |link: Link| Link { alias: Some("frr-supervisor nic".into()), ..link };
    let state = |links: Vec<Link>| NsState { links: links.into_iter().collect(), ..NsState::default() };
    // After a start, the mark in FRR's namespace identifies the NIC.
    let own = state(vec![marked(veth(5, "eth0", A)), marked(veth(6, "eth1", B))]);
    let beside = vec![veth(7, "twin", A), link("real", LinkKind::Device, B, Some(B))];
    let now = Namespaces { host: state(beside), router: Some(own) };
    let search = find(&now, &[]);
    assert_eq!(names(&search), ["eth0", "eth1"]);
    assert!(search.is_complete());
    // A mark in the host namespace has no meaning.
    let now = Namespaces {
        host: state(vec![marked(veth(5, "eth0", A)), veth(6, "eth1", A)]),
        router: Some(NsState::default()),
    };
    assert!(find(&now, &[]).rejected[0].1.contains("2 interfaces"));
    // In the host namespace, the NIC of the last search is preferred.
    let one = Namespaces { host: state(vec![veth(5, "eth0", A), veth(6, "eth1", B)]), router: None };
    let before = find(&one, &[]).found;
    let two = Namespaces {
        host: state(vec![veth(5, "eth0", A), veth(6, "eth1", B), veth(7, "a", A), veth(8, "b", B)]),
        router: None,
    };
    assert_eq!(find(&two, &[]).rejected.len(), 2);
    assert_eq!(names(&find(&two, &before)), ["eth0", "eth1"]);
    // An ambiguous NIC does not affect the other.
    let gone =
        Namespaces { host: state(vec![veth(6, "eth1", B), veth(7, "a", A), veth(9, "c", A)]), router: None };
    let search = find(&gone, &before);
    assert_eq!((names(&search), search.rejected.len()), (vec!["eth1".to_owned()], 1));
    // A NIC that was given the other's address is still recognized.
    let own = state(vec![marked(veth(5, "eth0", B)), marked(veth(6, "eth1", B))]);
    let now = Namespaces { host: NsState::default(), router: Some(own) };
    let before: Vec<FabricNic> =
        before.into_iter().map(|nic| FabricNic { side: Side::Router, ..nic }).collect();
    assert_eq!(names(&find(&now, &before)), ["eth0", "eth1"]);
}

#[test]
fn an_ambiguous_address_is_reported_with_its_links() {
    let twins = vec![link("eth0", LinkKind::Device, A, None), link("eth1", LinkKind::Device, A, None)];
    let problem = names(&[A], twins, vec![]).unwrap_err();
    assert!(problem.contains("eth0") && problem.contains("eth1") && problem.contains("2 interfaces"));
    let both = vec![link("eth0", LinkKind::Device, A, Some(B))];
    assert!(names(&[B], both.clone(), vec![]).is_ok());
    let problem = names(&[A, B], both, vec![]).unwrap_err();
    assert!(problem.contains("are both eth0"), "{problem}");
}
