// A leaf whose daemons stop, whose port loses its carrier, and which boots slowly. Included by node.rs.

/// FRR's routes in the node's kernel with a next hop on `port`, and backup routes.
fn routes_over(port: &str) -> Vec<String> {
    let lines = |family| ["bgp", "201"].map(|p| ip("perouter", &format!("-o {family} route show table all proto {p}")));
    let all = ["-4", "-6"].map(lines).concat().concat();
    all.lines().filter(|line| line.contains(&format!("dev {port} "))).map(str::to_owned).collect()
}

#[track_caller]
fn assert_no_route_over(port: &str, seconds: u64, what: &str) {
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(seconds) {
        assert_eq!(routes_over(port), Vec::<String>::new(), "{what}, after {:?}", begin.elapsed());
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_leaf_that_boots_slowly_gets_no_traffic_before_its_session_is_up() {
    let mut lab = Lab::new(Options::default());
    let node = up(&lab, &[]);
    wait_until("both paths to the fabric", SOON, || ["eth1", "eth2"].iter().all(|p| routes_over(p).len() >= 4));

    // By then a route refresh is over, during which 10.3 would not keep the routes (`bgp_clear_route_node`,
    // bgpd/bgp_route.c).
    thread::sleep(Duration::from_secs(5));
    // While its port has a carrier, a leaf whose daemons have stopped still forwards.
    lab.leaves[0].kill("");
    thread::sleep(Duration::from_secs(2));
    assert!(routes_over("eth1").len() >= 4, "kept during the restart of its daemons");
    // A carrier loss so short that only the kernel's counter shows it.
    ip_batch("leaf1", "link set node down\nlink set node up\n");
    wait_until("the routes to go", Duration::from_secs(2), || routes_over("eth1").is_empty());
    assert_no_route_over("eth1", 2, "after a short loss");
    lab.boot_leaf(0);
    wait_until("its routes", SOON, || routes_over("eth1").len() >= 4);
    settle();

    lab.leaves[0].kill("");
    thread::sleep(Duration::from_millis(500));
    ip("leaf1", "link set node down");
    wait_until("the routes to go", Duration::from_secs(2), || routes_over("eth1").is_empty());
    thread::sleep(Duration::from_secs(1));
    ip("leaf1", "link set node up");
    if !node.log_text().contains("FRR 10.7,") {
        // zebra uses the route for a moment, until bgpd has sent it the remaining ones.
        thread::sleep(Duration::from_secs(1));
    }
    assert_no_route_over("eth1", 4, "after it is up again");
    lab.boot_leaf(0);
    wait_until("its routes", SOON, || routes_over("eth1").len() >= 4);
    // No line of this is left in bgpd's configuration.
    let running = vty("node", "bgpd", "show running-config").unwrap();
    assert!(!running.contains("shutdown"), "{running}");
    assert!(!node.log_text().contains("was changed by someone else"), "{}", node.log_text());
    settle();
    every_ping_is_answered(&SERVICES, 20);
}

#[test]
fn a_port_that_flaps_while_bgpd_is_down_loses_no_route_permanently() {
    let mut lab = Lab::new(Options::default());
    let node = up(&lab, &[("GR_SELECT_DEFER_TIME", "15")]);
    let both = || ["eth1", "eth2"].iter().all(|p| routes_over(p).len() >= 4);
    wait_until("both paths to the fabric", SOON, both);
    thread::sleep(Duration::from_secs(5));
    lab.leaves[0].kill("");
    thread::sleep(Duration::from_secs(2));
    signal_daemons(&lab, "perouter", &["bgpd"], Signal::KILL);
    thread::sleep(Duration::from_millis(400));
    ip("leaf1", "link set node down");
    thread::sleep(Duration::from_secs(1));
    ip("leaf1", "link set node up");
    // zebra keeps the routes that the kernel dropped until bgpd runs again. They must not return to the kernel before
    // the leaf's session is up.
    wait_until("the routes to go", Duration::from_secs(4), || routes_over("eth1").is_empty());
    assert_no_route_over("eth1", 6, "before its session is up");
    lab.boot_leaf(0);
    wait_until("its routes", SOON, both);
    every_ping_is_answered(&SERVICES, 20);
    drop(node);
}
