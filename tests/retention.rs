// Services of MetalLB's speaker are retained until it reconnects. Included by node.rs.

/// The route to the service as a leaf has it: AS path, communities, whether it is stale.
fn service_at(leaf: &str) -> (String, String, bool) {
    let route = show(leaf, "bgpd", &format!("show bgp ipv4 unicast {SERVICE4}/32 json"));
    let paths = route["paths"].as_array().cloned().unwrap_or_default();
    let path = paths.into_iter().find(|path| path["peer"]["interface"] == "node").unwrap_or_default();
    let text = |pointer: &str| path.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    (text("/aspath/string"), text("/community/string"), path["stale"] == true)
}

/// Both leaves have another path to the services, by a node of another AS, and announce it although the node's is
/// better for them.
fn foreign_paths(lab: &Lab) {
    for (leaf, asn) in lab.leaves.iter().zip(LEAF_ASN) {
        let config = format!(
            "route-map foreign permit 10\n set as-path prepend 65002 4000099998 4000099999\n set local-preference 50\n set weight 0\nexit\n\
             router bgp {asn}\n address-family ipv4 unicast\n  network {SERVICE4}/32 route-map foreign\n  neighbor node addpath-tx-all-paths\n exit-address-family\n \
             address-family ipv6 unicast\n  network {SERVICE6}/128 route-map foreign\n  neighbor node addpath-tx-all-paths\n exit-address-family\nexit\n"
        );
        leaf.configure(&config).unwrap();
    }
    for prefix in [format!("{SERVICE4}/32"), format!("{SERVICE6}/128")] {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        wait_until("the foreign path", SOON, || {
            let route = show("node", "bgpd", &format!("show bgp {family} unicast {prefix} json"));
            route["paths"].as_array().is_some_and(|paths| paths.len() == 3)
        });
    }
    // add-path has reset the leaves' sessions: until the node's End-of-RIB they have its routes as stale ones.
    for leaf in ["leaf1", "leaf2"] {
        wait_until(&format!("{leaf} to have the fresh routes"), SOON, || {
            let (path, _, stale) = service_at(leaf);
            !path.is_empty() && !stale
        });
    }
}

#[test]
fn services_stay_announced_until_a_slow_speaker_is_back() {
    let speaker = Speaker {
        extra: "route-map fda1:b2c3:d4e5:1::-out permit 1\n set community 65000:7 additive\nexit\n".into(),
        ..Speaker::default()
    };
    let lab = Lab::new(Options { speaker: Some(speaker), ..Options::default() });
    lab.announce("198.51.100.101/32");
    // bgpd sends its routes to zebra while the speaker is still not connected.
    let node = Runner::new(&lab, &[("METALLB_HOLD_TIME", "120"), ("GR_SELECT_DEFER_TIME", "1")]);
    every_ping_is_answered(&SERVICES, 20);
    both_leaves_have("198.51.100.101/32");
    foreign_paths(&lab);
    let before = service_at("leaf1");
    assert_eq!((before.1.as_str(), before.2), ("65000:7", false));
    wait_until("the services to be stored", SOON, || {
        std::fs::read_to_string("/run/frr/services.json").is_ok_and(|text| text.contains("198.51.100.101"))
    });
    let flows = flows();
    let supervisor = node.node.as_ref().unwrap();
    let returns = || supervisor.log().iter().filter(|(_, l)| l.contains("the speaker is back:")).count();
    // A quick speaker.
    node.kill(&["bgpd"]);
    wait_until("the speaker to be back", SOON, || returns() == 1);
    settle();
    wait_until("the service as it was", SOON, || service_at("leaf1") == before);
    // A slow one.
    let speaker = Pid::from_raw(lab.speaker.as_ref().unwrap().pid("bgpd").unwrap().cast_signed()).unwrap();
    kill_process(speaker, Signal::STOP).unwrap();
    // The second kill comes before the speaker is back: the leaves keep a route only over one restart.
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
    // What the speaker withdraws meanwhile is removed when its End-of-RIB has come.
    lab.withdraw("198.51.100.101/32");
    wait_until("the speaker to be back", SOON, || returns() == 2);
    supervisor.wait_log("the speaker no longer announces 1 services: 198.51.100.101/32", SOON);
    wait_until("what was withdrawn to go", SOON, || !has_route("leaf1", "198.51.100.101/32"));
    wait_until("the service as it was", SOON, || service_at("leaf1") == before);
    // A kill while the services retained before are still being released.
    kill_process(speaker, Signal::STOP).unwrap();
    node.kill(&["bgpd"]);
    thread::sleep(Duration::from_secs(12));
    kill_process(speaker, Signal::CONT).unwrap();
    wait_until("the speaker to be back again", SOON, || returns() == 3);
    wait_until("the service as it was", SOON, || service_at("leaf1") == before);
    thread::sleep(Duration::from_secs(8));
    wait_until("the backup routes to be removed", Duration::from_secs(20), || {
        !ip("perouter", "route show table all").contains("198.51.100.101")
    });
    let config = vtysh("node", "show running-config");
    assert!(!config.contains("frr-supervisor-held") && !config.contains("import-check"), "{config}");
    let cost = Cost::of(flows);
    println!("bgpd killed four times, the speaker not connected: {cost}");
    assert_eq!(cost.lost, 0, "{cost}");
}

#[test]
fn no_service_is_retained_for_a_speaker_that_does_not_return() {
    let lab = Lab::new(Options::default());
    let node = Runner::new(&lab, &[("METALLB_HOLD_TIME", "6")]);
    wait_until("the services to be stored", SOON, || {
        std::fs::read_to_string("/run/frr/services.json")
            .is_ok_and(|text| SERVICES.iter().all(|service| text.contains(service)))
    });
    // Services that are not announced to the leaves are reported with the reason.
    let map = "route-map fda1:b2c3:d4e5:1::-out permit 1";
    let mark = |set: &str| vtysh("speaker", &format!("conf t\n{map}\n{set}\nend\nclear bgp * soft out"));
    let import = |no: &str| {
        let block = format!("address-family ipv4 unicast\n{no}import vrf metallb\nend");
        vtysh("node", &format!("conf t\nrouter bgp 65001\n{block}"))
    };
    for (subject, words, begin, end) in [
        ("no-export", "community no-export", &(|| mark("set community no-export")) as &dyn Fn() -> String, &(|| mark("no set community")) as &dyn Fn() -> String),
        ("import", "import them from VRF metallb", &|| import("no "), &|| import("")),
    ] {
        let reported = || {
            let problems = status()["problems"].as_array().cloned().unwrap_or_default();
            problems.into_iter().find(|p| p["code"] == "service-not-announced" && p["subject"] == subject)
        };
        let from = std::time::Instant::now();
        begin();
        let problem = wait_until(&format!("{subject} to be reported"), SOON, &reported);
        println!("{subject}: reported after {} ms: {}", from.elapsed().as_millis(), problem["what"]);
        let what = problem["what"].as_str().unwrap();
        assert!(what.contains(words) && what.contains(SERVICE4), "{what}");
        end();
        wait_until(&format!("{subject} to be resolved"), SOON, || reported().is_none());
    }
    both_leaves_have(&format!("{SERVICE4}/32"));
    // The end of the speaker's session would withdraw its services: bgpd must not see it before its own end.
    let speaker = Pid::from_raw(lab.speaker.as_ref().unwrap().pid("bgpd").unwrap().cast_signed()).unwrap();
    kill_process(speaker, Signal::STOP).unwrap();
    node.kill(&["bgpd"]);
    kill_process(speaker, Signal::KILL).unwrap();
    wait_until("the leaf to have it from the new bgpd", SOON, || {
        session("leaf1", "default", "node") == "Established" && !service_at("leaf1").2
    });
    let line = node.node.as_ref().unwrap().wait_log("the speaker has not come back for 6 s", SOON).1;
    assert!(line.contains(SERVICE4) && line.contains(SERVICE6), "{line}");
    wait_until("the route to go", SOON, || !has_route("leaf1", &format!("{SERVICE4}/32")));
}

/// Thousands of services: bgpd is never queried for all of them at once, and no reply keeps it or the supervisor busy.
#[test]
fn thousands_of_services_take_little_memory() {
    const MANY: usize = 5_000;
    let networks: String =
        (0..MANY).map(|n| format!("  network 10.{}.{}.{}/32\n", n / 10_000, n / 100 % 100, n % 100)).collect();
    let speaker = Speaker {
        extra: format!(
            "ip prefix-list fda1:b2c3:d4e5:1::-allowed-ipv4 permit 10.0.0.0/8 le 32\n\
             router bgp 4000099999\n address-family ipv4 unicast\n{networks} exit-address-family\nexit\n"
        ),
        ..Speaker::default()
    };
    let lab = Lab::new(Options { speaker: Some(speaker), ..Options::default() });
    let node = Runner::new(&lab, &[("METALLB_HOLD_TIME", "120")]);
    let supervisor = node.node.as_ref().unwrap();
    let status = format!("/proc/{}", supervisor.pid());
    let memory = |what: &str| {
        let [rss, peak] = ["VmRSS", "VmHWM"].map(|name| number_of(&status, name) / 1024.0);
        println!("{what}: {rss:.1} MiB resident, {peak:.1} MiB at most");
        peak
    };
    memory("at first");
    let count = |text: &str| text.matches("/32\"").count();
    wait_until("all services to be stored", Duration::from_secs(300), || {
        std::fs::read_to_string("/run/frr/services.json").is_ok_and(|text| count(&text) > MANY)
    });
    memory("all services stored");
    let flows = flows();
    node.kill(&["bgpd"]);
    supervisor.wait_log("services stay announced until the speaker is back", SOON);
    let begin = std::time::Instant::now();
    supervisor.wait_log("the speaker is back:", Duration::from_secs(900));
    println!("all of them released {:.1} s after the kill", begin.elapsed().as_secs_f64());
    settle();
    thread::sleep(Duration::from_secs(10));
    let peak = memory("after a restart of bgpd");
    let cost = Cost::of(flows);
    println!("{MANY} services: {cost}");
    let log = supervisor.log_text();
    assert!(!log.contains("is unresponsive ("), "{log}");
    assert_eq!(log.matches("bgpd started").count(), 2, "{log}");
    assert_eq!(cost.lost, 0, "{cost}");
    assert!(peak < 64.0, "{peak} MiB");
}

/// Many routes and many services: zebra is busy for seconds after a start, and until then no next hop is known.
#[test]
fn services_stay_announced_while_a_new_zebra_is_busy() {
    let speaker = Speaker::with_more(300);
    let services = speaker.services.clone();
    let lab = Lab::new(Options { speaker: Some(speaker), ..Options::default() });
    lab.announce_from_leaves(3000);
    let mut node = Runner::new(&lab, &[("METALLB_HOLD_TIME", "60")]);
    foreign_paths(&lab);
    let complete = || {
        let table = show("leaf2", "bgpd", "show bgp ipv4 unicast neighbors node routes json");
        table["routes"].as_object().is_some_and(|routes| services.iter().filter(|s| s.contains('.')).all(|s| routes.contains_key(s)))
    };
    wait_until("all services on the leaf", SOON, complete);
    wait_until("all services to be stored", SOON, || {
        std::fs::read_to_string("/run/frr/services.json").is_ok_and(|text| services.iter().all(|s| text.contains(s)))
    });
    let routes = RouteLog::start(&["perouter", "leaf1", "leaf2"]);
    let mut lost = vec![];
    for pause in [300, 1500, 4000] {
        settle();
        let flows = flows();
        thread::sleep(Duration::from_secs(1));
        node.disturb(&Cell::Everything);
        thread::sleep(Duration::from_millis(pause));
        node.kill(&["zebra", "bgpd"]);
        let supervisor = node.node.as_ref().unwrap();
        supervisor.wait_log("the speaker is back:", SOON);
        wait_until("all services on the leaf", SOON, complete);
        settle();
        thread::sleep(Duration::from_secs(10));
        let cost = Cost::of(flows);
        println!("zebra and bgpd killed {pause} ms after a start: {cost}\n{}", routes.explain(&cost, &node));
        lost.extend((cost.lost > 0).then(|| format!("{pause} ms: {cost}")));
    }
    assert_eq!(lost, Vec::<String>::new());
}

/// bgpd selects no route before every leaf has sent End-of-RIB or the deferral time is over, and one leaf is away. Its own
/// selection of the retained routes is older than that.
#[test]
fn services_stay_announced_while_one_leaf_is_in_maintenance() {
    let file = "/tmp/maintenance.yaml";
    let vnis = "underlay: {tunnelEndpoint: {cidrs: [100.65.0.0/24]}}
l3vnis:
- {vrf: red, vni: 100, hostSession: {asn: 64514, hostASN: 64515, localCIDR: {ipv4: 192.169.10.0/24}}}
l2vnis:
- {vni: 200, routingDomain: {type: L3VNI, l3vni: {name: red}}, gatewayIPs: [192.168.200.1/24]}
";
    std::fs::write(file, vnis).unwrap();
    let lab = Lab::new(Options::default());
    let node = Runner::new(&lab, &[("CONFIG_FILE", file)]);
    every_ping_is_answered(&SERVICES, 20);
    // A leaf whose bgpd is younger than its restart time announces a restart, and then no leaf is waited for.
    thread::sleep(Duration::from_secs(115));
    vtysh("leaf1", "conf t\nrouter bgp 65101\nneighbor node shutdown\nend");
    thread::sleep(Duration::from_secs(10));
    let supervisor = node.node.as_ref().unwrap();
    let mut lost = vec![];
    for (turn, daemon) in ["bgpd", "bgpd", "zebra"].into_iter().enumerate() {
        if turn == 1 {
            ip("leaf1", "link set node down");
            thread::sleep(Duration::from_secs(3));
        }
        let from = supervisor.log().len();
        let flows = flows_of(&["client2"]);
        thread::sleep(Duration::from_secs(1));
        node.kill(&[daemon]);
        supervisor.wait_log_after(from, "the speaker is back:", SOON);
        thread::sleep(Duration::from_secs(20));
        let cost = Cost::of(flows);
        println!("{daemon} killed, turn {turn}: {cost}");
        lost.extend((cost.lost > 0).then(|| format!("{daemon}, turn {turn}: {cost}")));
    }
    assert_eq!(lost, Vec::<String>::new());
}
