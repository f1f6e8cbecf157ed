// The prefixes that MetalLB's speaker may announce, and ports that have IPv4 addresses. Included by node.rs.

/// On eth1 at the start, and on eth2 at runtime: such addresses would turn the sessions into IPv4 ones.
const LINK31: &str = "10.255.1.0/31";
const LINK30: &str = "10.255.2.1/30";

#[test]
fn what_the_speaker_may_not_announce_is_refused_and_reported() {
    let lab = Lab::new(Options::default());
    ip("host", &format!("addr add {LINK31} dev eth1"));
    // The service of another node, as a leaf announces it.
    lab.leaves[0]
        .configure(
            "route-map other permit 10\n set as-path prepend 65002 4000099998 4000099999\nexit\nrouter bgp 65101\n \
             address-family ipv4 unicast\n  network 198.51.100.50/32 route-map other\n exit-address-family\nexit\n",
        )
        .unwrap();
    let node = up(&lab, &[]);
    assert!(ip("perouter", "addr show eth1").contains(LINK31));
    assert_eq!(session("node", "default", "eth1"), "Established");
    wait_until("a healthy node", SOON, || status()["health"] == "healthy");

    let bad = [
        "0.0.0.0/1",
        "127.0.0.0/8",
        "169.254.88.0/31",
        "203.0.113.130/32",
        "10.255.1.1/32",
        "198.0.0.0/8",
        "fda1:b2c3:d4e5:1::/127",
        "2001:db8:100::/40",
    ];
    assert_eq!(bad[3], format!("{NODE_IP}/32"));
    let from = node.log().len();
    // The last one is a leaf's prefix, and passes the list.
    for prefix in bad.iter().chain(&[CLIENT_NET4[0]]) {
        lab.announce(prefix);
    }
    for prefix in ["198.51.100.50/32", "198.51.100.64/26", "2001:db8:100:1::/64"] {
        lab.announce(prefix);
    }
    for prefix in ["198.51.100.64/26", "2001:db8:100:1::/64"] {
        both_leaves_have(prefix);
    }
    let (after, problem) = await_problem(&node, "prefix-refused", from);
    println!("reported after {} ms: {}", after.as_millis(), problem["what"]);
    wait_until("all of them to be reported", SOON, || {
        let problems = status()["problems"].clone();
        let all = problems.as_array().into_iter().flatten();
        let what: String = all.filter_map(|p| p["what"].as_str()).collect();
        bad.iter().all(|prefix| what.contains(prefix))
    });
    for prefix in bad {
        assert!(["leaf1", "leaf2"].iter().all(|leaf| !has_route(leaf, prefix)), "{prefix}");
    }
    // A leaf's own prefix stays the leaf's; the node also announces a service of another node's speaker.
    let paths = |leaf: &str, prefix: &str| show(leaf, "bgpd", &format!("show bgp ipv4 unicast {prefix} json"));
    wait_until("the node's path to the service of two nodes", SOON, || {
        paths("leaf2", "198.51.100.50/32").to_string().contains("65001 4000099998 4000099999")
    });
    wait_until("the leaf's prefix in the VRF", SOON, || {
        show("node", "bgpd", &format!("show bgp vrf metallb ipv4 unicast {} json", CLIENT_NET4[0]))["paths"].is_array()
    });
    let (_, problem) = await_problem(&node, "service-not-announced", from);
    let text = problem.to_string();
    assert!(text.contains(CLIENT_NET4[0]) && text.contains("a leaf announces the same prefix"), "{problem}");
    assert!(!paths("leaf2", CLIENT_NET4[0]).to_string().contains("4000099999"));
    for prefix in bad.iter().chain(&[CLIENT_NET4[0]]) {
        lab.withdraw(prefix);
    }
    wait_until("the end of the problem", SOON, || status()["health"] == "healthy");

    // An address of this kind at runtime, and a bgpd that starts with it.
    ip("perouter", &format!("addr add {LINK30} dev eth2"));
    for _ in 0..2 {
        signal_daemons(&lab, "perouter", &["bgpd"], Signal::KILL);
        thread::sleep(Duration::from_secs(2));
        for port in ["eth1", "eth2"] {
            wait_until("the session", SOON, || session("node", "default", port) == "Established");
            let all = show("node", "bgpd", &format!("show bgp neighbors {port} json"));
            assert!(all[port]["hostForeign"].as_str().is_some_and(|ip| ip.starts_with("fe80:")), "{}", all[port]);
        }
    }
    every_ping_is_answered(&SERVICES, 20);
}

/// Leaves of one make with one link-local address, as an anycast gateway or a copied MAC address gives them.
#[test]
fn leaves_may_have_the_same_link_local_address() {
    let lab = Lab::new(Options { bfd: None, ..Options::default() });
    for leaf in ["leaf1", "leaf2"] {
        ip(leaf, "link set node down");
        ip(leaf, "link set node addrgenmode none");
        ip(leaf, "link set node up");
        ip(leaf, "addr add fe80::1/64 dev node nodad");
    }
    let _node = up(&lab, &[("ENABLE_BFD", "false")]);
    for port in ["eth1", "eth2"] {
        let all = show("node", "bgpd", &format!("show bgp neighbors {port} json"));
        assert_eq!(all[port]["hostForeign"], "fe80::1", "{}", all[port]);
    }
    every_ping_is_answered(&SERVICES, 20);
    signal_daemons(&lab, "perouter", &["bgpd"], Signal::KILL);
    thread::sleep(Duration::from_secs(2));
    settle();
    every_ping_is_answered(&SERVICES, 20);
}
