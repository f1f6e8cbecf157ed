// Leaves that are not FRR, at a stop and at a kill. Included by node.rs.

fn another_leaf(kind: Kind) {
    let mut lab = Lab::new(Options::default());
    let leaf = Other::instead(&mut lab, kind);
    let services = [format!("{SERVICE4}/32"), format!("{SERVICE6}/128")];
    let comes_up = |env: &[(&str, &str)]| {
        let node = start(&lab, env);
        node.wait_log(DAEMONS_ANSWER, SOON);
        for service in &services {
            wait_until(&format!("{service} at {kind:?}"), SOON, || leaf.is_established() && leaf.has(service));
        }
        wait_until("the other leaf", SOON, || session("leaf1", "default", "node") == "Established");
        node
    };
    let mut node = comes_up(&[]);
    println!("{}\n{}", leaf.session(), leaf.route(&services[0]));
    // GoBGP has no routes in the kernel.
    let clients = if kind == Kind::Bird { &["client1", "client2"][..] } else { &["client1"] };
    pings(clients, &SERVICES, 20);

    let mut lost = Vec::new();
    // BIRD's BFD detects after 15 s that the session of a stopped bfdd is down; GoBGP has no BFD.
    let bfd_seconds = if kind == Kind::Bird { 20 } else { 6 };
    for (what, daemon, seconds) in [("SIGTERM, preserve", "", bfd_seconds), ("SIGKILL bgpd", "bgpd", 6)] {
        wait_until("the session", SOON, || leaf.is_established() && leaf.has_bfd_or_none());
        let flows = flows_of(clients);
        thread::sleep(Duration::from_secs(1));
        if daemon.is_empty() {
            node.terminate();
            thread::sleep(Duration::from_secs(1));
            assert!(services.iter().all(|service| leaf.has(service)), "{what}: {}", leaf.session());
            node = comes_up(&[]);
        } else {
            assert!(daemons(&lab, "perouter").iter().any(|(name, _)| name == daemon));
            signal_daemons(&lab, "perouter", &[daemon], Signal::KILL);
        }
        for _ in 0..2 * seconds {
            thread::sleep(Duration::from_millis(500));
            assert!(services.iter().all(|service| leaf.has(service)), "{what}: {}", leaf.log_text());
        }
        let cost = Cost::of(flows);
        println!("{kind:?}, {what}: {cost}");
        lost.extend((cost.lost > 0).then(|| format!("{what}: {cost}")));
    }
    assert_eq!(lost, Vec::<String>::new());

    node.terminate();
    let mut node = comes_up(&[("ON_STOP", "withdraw"), ("DRAIN_TIME", "5")]);
    let begin = std::time::Instant::now();
    node.signal(Signal::TERM);
    // RFC 8326's community, as each of them writes it.
    let marks = ["(65535,0)", "65535:0", "graceful-shutdown", "planned-shut"];
    wait_until("the route to be less preferred", SOON, || {
        let route = leaf.route(&services[0]);
        marks.iter().any(|mark| route.to_lowercase().contains(mark))
    });
    let announced = begin.elapsed();
    node.terminate();
    let withdrawn = || !services.iter().any(|service| leaf.has(service));
    // Long before the end of the restart time and BFD's detection.
    wait_until("the routes to be removed", Duration::from_secs(10), withdrawn);
    println!("{kind:?}, withdraw: less preferred after {announced:?}, withdrawn after {:?}", begin.elapsed());
}

#[test]
fn a_leaf_may_be_bird() {
    another_leaf(Kind::Bird);
}

#[test]
fn a_leaf_may_be_gobgp() {
    another_leaf(Kind::Gobgp);
}
