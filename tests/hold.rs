// What MetalLB's speaker announced stays announced while it is not back. Included by node.rs.

/// The route to the service as a leaf has it: AS path, communities, whether it is stale.
fn service_at(leaf: &str) -> (String, String, bool) {
    let route = show(leaf, "bgpd", &format!("show bgp ipv4 unicast {SERVICE4}/32 json"));
    let path = &route["paths"][0];
    let text = |pointer: &str| path.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    (text("/aspath/string"), text("/community/string"), path["stale"] == true)
}

#[test]
fn services_stay_announced_until_a_slow_speaker_is_back() {
    let speaker = Speaker {
        extra: "route-map fda1:b2c3:d4e5:1::-out permit 1\n set community 65000:7 additive\nexit\n".into(),
        ..Speaker::default()
    };
    let lab = Lab::new(Options { speaker: Some(speaker), ..Options::default() });
    lab.announce("198.51.100.101/32");
    // bgpd shall tell zebra what it has while the speaker is still away.
    let node = Runner::new(&lab, &[("METALLB_HOLD_TIME", "120"), ("GR_SELECT_DEFER_TIME", "1")]);
    every_ping_is_answered(&SERVICES, 20);
    both_leaves_have("198.51.100.101/32");
    let before = service_at("leaf1");
    assert_eq!((before.1.as_str(), before.2), ("65000:7", false));
    wait_until("the services to be known", SOON, || {
        std::fs::read_to_string("/run/frr/services.json").is_ok_and(|text| text.contains("198.51.100.101"))
    });
    let flows = flows();
    let speaker = Pid::from_raw(lab.speaker.as_ref().unwrap().pid("bgpd").unwrap().cast_signed()).unwrap();
    kill_process(speaker, Signal::STOP).unwrap();
    // The second death comes before the speaker is back: the leaves keep a route only over one.
    for _ in 0..2 {
        node.kill(&["bgpd"]);
        for leaf in ["leaf1", "leaf2"] {
            wait_until(&format!("{leaf}'s session"), SOON, || session(leaf, "default", "node") == "Established");
        }
        for leaf in ["leaf1", "leaf2"] {
            wait_until(&format!("{leaf} to have it from the new bgpd"), SOON, || service_at(leaf) == before);
        }
    }
    thread::sleep(Duration::from_secs(5));
    kill_process(speaker, Signal::CONT).unwrap();
    // What the speaker withdraws meanwhile goes when it has spoken.
    lab.withdraw("198.51.100.101/32");
    let supervisor = node.node.as_ref().unwrap();
    supervisor.wait_log("the speaker is back:", SOON);
    wait_until("what was withdrawn to go", SOON, || !has_route("leaf1", "198.51.100.101/32"));
    wait_until("the service as it was", SOON, || service_at("leaf1") == before);
    // A death while what was held before is still being cleared up.
    kill_process(speaker, Signal::STOP).unwrap();
    node.kill(&["bgpd"]);
    thread::sleep(Duration::from_secs(12));
    kill_process(speaker, Signal::CONT).unwrap();
    wait_until("the speaker to be back again", SOON, || {
        supervisor.log().iter().filter(|(_, line)| line.contains("the speaker is back:")).count() == 2
    });
    wait_until("the service as it was", SOON, || service_at("leaf1") == before);
    thread::sleep(Duration::from_secs(8));
    wait_until("the reserve to go", Duration::from_secs(20), || {
        !ip("perouter", "route show table all").contains("198.51.100.101")
    });
    let config = vtysh("node", "show running-config");
    assert!(!config.contains("frr-supervisor-held") && !config.contains("import-check"), "{config}");
    let cost = Cost::of(flows);
    println!("three deaths of bgpd, the speaker away: {cost}");
    assert_eq!(cost.lost, 0, "{cost}");
}

#[test]
fn nothing_is_held_for_a_speaker_that_does_not_come_back() {
    let lab = Lab::new(Options::default());
    let node = Runner::new(&lab, &[("METALLB_HOLD_TIME", "6")]);
    wait_until("the services to be known", SOON, || {
        std::fs::read_to_string("/run/frr/services.json")
            .is_ok_and(|text| SERVICES.iter().all(|service| text.contains(service)))
    });
    let speaker = lab.speaker.as_ref().unwrap().pid("bgpd").unwrap();
    kill_process(Pid::from_raw(speaker.cast_signed()).unwrap(), Signal::KILL).unwrap();
    node.kill(&["bgpd"]);
    wait_until("the leaf to have it from the new bgpd", SOON, || {
        session("leaf1", "default", "node") == "Established" && !service_at("leaf1").2
    });
    let line = node.node.as_ref().unwrap().wait_log("the speaker has not come back for 6 s", SOON).1;
    assert!(line.contains(SERVICE4) && line.contains(SERVICE6), "{line}");
    wait_until("the route to go", SOON, || !has_route("leaf1", &format!("{SERVICE4}/32")));
}
