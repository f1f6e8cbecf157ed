// The configuration file changes while the nodes run. Included by evpn.rs.

const MORE: &str = "
- vrf: blue
  vni: 101
  hostSession: {asn: 64514, hostASN: 64515, localCIDR: {ipv4: 192.169.20.0/24, ipv6: '2001:db8:c::/64'}}
l2vnis:
- vni: 201
  routingDomain: {type: L3VNI, l3vni: {name: blue}}
  gatewayIPs: [192.168.201.1/24]
";

/// Replaces the file of node `i`, as Kubernetes and editors do.
fn put(i: usize, text: &str) {
    std::fs::write(format!("/tmp/.vnis{i}.new"), text).unwrap();
    std::fs::rename(format!("/tmp/.vnis{i}.new"), format!("/tmp/vnis{i}.yaml")).unwrap();
}

/// Two nodes with sessions that no standstill of the machine ends. bgpd reacts to BFD if that is faster than its hold
/// time, hence such a slow BFD.
fn steady(extra: &[(&str, &str)]) -> Evpn {
    let timers = [("BGP_KEEPALIVE_TIME", "30"), ("BGP_HOLD_TIME", "90"), ("BFD_DETECT_MULTIPLIER", "50")];
    Evpn::with(false, &vnis(false), &[&timers, extra].concat())
}

/// How often each of the leaf's and the host's sessions has come up and has ended.
fn session_counts() -> Vec<(String, String)> {
    let mut session_counts = vec![];
    for (router, peers) in [("leaf1", &["node", "node2"]), ("speaker", &["192.169.10.1", "2001:db8:a::1"])] {
        for peer in peers {
            let session = wait_until(&format!("{router}'s session with {peer}"), SOON, || {
                let all = show(router, "bgpd", &format!("show bgp neighbors {peer} json"));
                (all[peer]["bgpState"] == "Established").then(|| all[peer].clone())
            });
            let number = |name: &str| session[name].to_string();
            session_counts.push((
                format!("{router} {peer}"),
                number("connectionsEstablished") + " " + &number("connectionsDropped"),
            ));
        }
    }
    session_counts
}

#[test]
fn the_file_changes_while_traffic_flows() {
    let lab = steady(&[("LIVENESS_TIMEOUT", "30")]);
    every_way_is_open(10);
    let more = vnis(false).replace("l2vnis:\n", MORE.trim_start());
    let (few, many) = (vnis(false), more);
    let (before, running) = (session_counts(), daemons_of(&lab));
    let flows = flows();
    thread::sleep(Duration::from_secs(1));
    let at_leaf =
        |what: &str| vty("leaf1", "bgpd", "show bgp l2vpn evpn route type prefix").unwrap().contains(what);
    for turn in 0..2 {
        let from: Vec<usize> = lab.nodes.iter().map(|node| node.log().len()).collect();
        for i in 0..2 {
            put(i, &many);
        }
        for (i, node) in lab.nodes.iter().enumerate() {
            println!("{}", node.wait_log_after(from[i], "is active", SOON).lines().last().unwrap());
        }
        wait_until("the new VNI's routes at the leaf", SOON, || {
            at_leaf("[192.169.20.2]") && at_leaf("[192.169.20.3]") && at_leaf("[192.168.201.0]")
        });
        assert_eq!(ping("host", "192.169.20.1", 5, 10), (5, 5));
        // From one node's VRF to the other's.
        wait_until("a way through the new VNI", SOON, || {
            ip("perouter", "route show vrf blue proto bgp").contains("192.169.20.3")
        });
        let from: Vec<usize> = lab.nodes.iter().map(|node| node.log().len()).collect();
        for i in 0..2 {
            put(i, &few);
        }
        for (i, node) in lab.nodes.iter().enumerate() {
            println!("{}", node.wait_log_after(from[i], "is active", SOON).lines().last().unwrap());
        }
        wait_until("its routes to be removed", SOON, || !at_leaf("[192.169.20.2]") && !at_leaf("[192.168.201.0]"));
        let left = ip("perouter", "-br link");
        assert!(!left.contains("101") && !left.contains("blue") && !left.contains("201"), "{turn}: {left}");
    }
    wait_until("FRR to remove the VRF", SOON, || {
        vty("node", "mgmtd", "show running-config").is_ok_and(|text| !text.contains("blue"))
    });
    // The same file again is no change.
    let from = lab.nodes[0].log().len();
    put(0, &few);
    lab.nodes[0].wait_log_after(from, "matches the active configuration", SOON);
    thread::sleep(Duration::from_secs(2));
    let cost = Cost::of(flows);
    println!("a VNI in each plane twice added and removed: {cost}");
    // Before 10.6 the removal of a VRF restarts the daemons, and EVPN has no graceful restart.
    if std::env::var("LAB_SUITE").is_ok_and(|suite| suite == "trixie") {
        return;
    }
    assert_eq!(cost.lost, 0, "{cost}");
    assert_eq!(session_counts(), before);
    assert_eq!(daemons_of(&lab), running);
    let log = lab.nodes[0].log_text();
    assert!(!log.contains("exited (pid") && !log.contains("rolled back") && !log.contains("restarting"), "{log}");
}

/// The change is so long that status queries run during it: mgmtd of 10.3 discards uncommitted changes when any
/// connection ends.
#[test]
fn our_own_queries_disturb_no_change() {
    let lab = steady(&[]);
    let maps: String = (1..=100).map(|n| format!("    route-map many permit {n}\n     set metric {n}\n")).collect();
    let many = format!("{}rawFRRConfigs:\n- rawConfig: |\n{maps}", vnis(false));
    let from = lab.nodes[0].log().len();
    put(0, &many);
    lab.nodes[0].wait_log_after(from, "is active", SOON);
    let running = vty("node", "mgmtd", "show running-config").unwrap();
    let is_there = |n: &u32| running.contains(&format!("route-map many permit {n}\n set metric {n}\n"));
    let lost: Vec<u32> = (1..=100).filter(|n| !is_there(n)).collect();
    assert!(lost.is_empty(), "{lost:?}: {running}");
}

fn daemons_of(lab: &Evpn) -> Vec<String> {
    ["zebra", "bgpd", "mgmtd", "staticd", "bfdd"]
        .map(|d| std::fs::read_to_string(lab.run(0, &format!("{d}.pid"))).unwrap_or_default())
        .to_vec()
}

#[test]
fn what_is_refused_changes_nothing() {
    let lab = steady(&[]);
    every_way_is_open(10);
    let running =
        || ["mgmtd", "bgpd", "bfdd"].map(|d| vty("node", d, "show running-config").unwrap_or_default());
    let stored = || std::fs::read_to_string("/run/frr/frr.conf").unwrap();
    let (before, kept, sessions, pids) = (running(), stored(), session_counts(), daemons_of(&lab));
    let base = vnis(false);
    let raw = |lines: &str| {
        format!("{base}rawFRRConfigs:\n- rawConfig: |\n    {}\n", lines.replace('\n', "\n    "))
    };
    let more = base.replace("l2vnis:\n", MORE.trim_start());
    for (what, file, words) in [
        ("a line that FRR does not know", raw("router bgp 65001\n no-such-thing 5"), "no-such-thing"),
        ("a line that only bgpd refuses", raw("router bgp 65001\n neighbor 192.0.2.99 peer-group nowhere"), "rawFRRConfigs"),
        ("another after a VNI", format!("{more}rawFRRConfigs:\n- rawConfig: |\n    router bgp 65001\n     neighbor 192.0.2.99 peer-group nowhere\n"), "rawFRRConfigs"),
        ("another AS number", raw("router bgp 65009\n bgp router-id 1.2.3.4"), "65009"),
        ("no YAML", format!("{base}: ["), "vnis0.yaml:"),
        ("a VNI twice", base.replace("vni: 200", "vni: 100"), "the VNI of l3vnis[0]"),
        ("a VRF under a managed name", base.replace("vrf: red", "vrf: lound").replace("name: red", "name: lound"), "reserved for a managed device"),
        ("a line at the margin", raw("router ospf6x"), "router ospf6x"),
        ("a line in a family", raw("router bgp 65001\n address-family ipv4 unicast\n  no-such-thing"), "no-such-thing"),
        ("a prefix that is none", raw("ip prefix-list x seq 5 permit 10.0.0.0/33"), "10.0.0.0/33"),
        ("a route map that is none", raw("route-map x maybe 10"), "route-map x"),
        ("a VNI too large", raw("vrf red\n vni 99999999"), "99999999"),
        ("a neighbor with no AS number", raw("router bgp 65001\n neighbor 192.0.2.9 remote-as nobody"), "neighbor 192.0.2.9 remote-as"),
        ("a group deleted under its members", raw("router bgp 65001\n neighbor fabric local-as 65001"), "local-as"),
        ("an unknown key", base.replace("vni: 100", "vnii: 100"), "did you mean vni?"),
        ("a number that is none", base.replace("vni: 100", "vni: hundred"), "vni="),
        ("a number out of range", base.replace("vni: 100", "vni: 16777216"), "16777216"),
        ("a subnet that is none", base.replace("192.169.10.0/24", "192.169.10.0/40"), "192.169.10.0/40"),
        ("a subnet without room", base.replace("192.169.10.0/24", "192.169.10.0/32"), "192.169.10.0/32"),
        ("subnets that overlap", base.replace("192.168.200.1/24", "192.169.10.1/24"), "overlaps"),
        ("a gateway that is no host", base.replace("192.168.200.1/24", "192.168.200.0/24"), "192.168.200.0/24"),
        ("a domain that is not there", base.replace("name: red", "name: reed"), "reed"),
        ("no VTEP", base.replace("  tunnelEndpoint: {cidrs: ['100.65.0.0/24']}", "  neighbors: []"), "needs underlay.tunnelEndpoint"),
        ("a managed bridge as an external one", base.replace("lifecycle: Managed", "lifecycle: External, name: br-hs-7"), "reserved for a managed device"),
        ("the same AS number on both sides", base.replace("hostASN: 64515", "hostASN: 0"), "hostASN"),
        ("what is not served", base.replace("type: L3VNI", "type: L3VPN"), "not supported"),
        ("a map where a list is meant", base.replace("l2vnis:\n- vni", "l2vnis:\n  vni"), "not a list"),
        ("an empty pass-through", format!("{base}l3passthrough: {{}}\n"), "l3passthrough"),
        ("a file that is too large", format!("{base}# {}\n", "x".repeat(5 << 20)), "larger than 4 MiB"),
        ("keys without end", (0..62_000).map(|n| format!("key{n}: 1\n")).collect(), "more than 256 keys"),
        ("aliases without end", format!("a: &a {}\nl3vnis:\n{}", "x".repeat(100_000), "- *a\n".repeat(400_000)), "4 MiB of text"),
        ("a file that is not text", format!("{base}\u{0}"), "vnis0.yaml"),
        ("a NIC that is not there", base.replace("  tunnelEndpoint", "  interfaces: [{type: NetworkDevice, networkDevice: {interfaceName: eth7}}]\n  tunnelEndpoint"), "no interface is called eth7"),
    ] {
        let from = lab.nodes[0].log().len();
        put(0, &file);
        let log = lab.nodes[0].wait_log_after(from, "the previous configuration stays active", SOON);
        assert!(log.contains(words), "{what}: {log}");
        println!("{what}: {}", log.lines().find(|line| line.contains("ERROR")).unwrap());
        assert_eq!(stored(), kept, "{what}");
        wait_until(what, SOON, || running() == before);
        let from = lab.nodes[0].log().len();
        put(0, &base);
        wait_until("the file to be read", SOON, || {
            let is_read = |line: &str| line.contains("matches the active configuration") || line.contains("is active: 0 commands");
            lab.nodes[0].log()[from..].iter().any(|(_, line)| is_read(line))
        });
    }
    assert_eq!((session_counts(), daemons_of(&lab)), (sessions, pids));
    // A change succeeds on a full disk, too.
    let used = exec("", &["sh", "-c", "df -k --output=used /run | tail -1"]);
    // A little more than the present use, which varies, and that is filled.
    let size = used.trim().parse::<u32>().unwrap() + 256;
    exec("", &["mount", "-o", &format!("remount,size={size}k"), "/run"]);
    exec("", &["sh", "-c", "cat /dev/zero >/run/fill 2>/dev/null || true"]);
    for (file, blue) in [(&more, true), (&base, false)] {
        let from = lab.nodes[0].log().len();
        put(0, file);
        lab.nodes[0].wait_log_after(from, "is active", SOON);
        // A VRF is removed from the configuration when the kernel has removed its device.
        wait_until("mgmtd to have it", SOON, || running()[0].contains("vrf blue") == blue);
    }
    exec("", &["sh", "-c", "rm /run/fill && mount -o remount,size=50% /run"]);
    wait_until("all to be as before", SOON, || running() == before);
    // If a daemon hangs or exits during a change, no daemon has refused it: it is rolled back, and retried when all
    // daemons run.
    let pid = || Pid::from_raw(daemons_of(&lab)[1].trim().parse().unwrap()).unwrap();
    for exits in [false, true] {
        let from = lab.nodes[0].log().len();
        let bgpd = pid();
        kill_process(bgpd, Signal::STOP).unwrap();
        put(0, &more);
        if exits {
            wait_until("the change to begin", SOON, || status()["counts"]["changing"] == true);
            thread::sleep(Duration::from_secs(1));
            kill_process(bgpd, Signal::KILL).unwrap();
        }
        let log = lab.nodes[0].wait_log_after(from, "retrying when all daemons run", SOON);
        assert!(log.contains("bgpd: "), "{log}");
        lab.nodes[0].wait_log_after(from, "is active", SOON);
        assert!(stored().contains("vrf blue"));
        let from = lab.nodes[0].log().len();
        put(0, &base);
        lab.nodes[0].wait_log_after(from, "is active", SOON);
        assert_eq!(stored(), kept);
    }
    // A daemon is killed while a file is read that takes long.
    let from = lab.nodes[0].log().len();
    let bgpd = Pid::from_raw(daemons_of(&lab)[1].trim().parse().unwrap()).unwrap();
    let keys: String = (0..120).map(|n| format!("k{n}: 1,")).collect();
    put(0, &format!("l3vnis:\n{}", format!("- {{{keys}}}\n").repeat(1000)));
    thread::sleep(Duration::from_millis(200));
    kill_process(bgpd, Signal::KILL).unwrap();
    lab.nodes[0].wait_log_after(from, "bgpd started", Duration::from_secs(2));
    lab.nodes[0].wait_log_after(from, "the previous configuration stays active", SOON);
}

/// The exit code and the output of `plan` with the node's environment and this file.
fn plan_of(node: &Supervisor, file: &str) -> (i32, String) {
    let environment = std::fs::read_to_string(format!("/proc/{}/environ", node.pid())).unwrap();
    let vars = environment.split_terminator('\0').filter_map(|var| var.split_once('='));
    let mut command = std::process::Command::new(program());
    command.arg("plan").env_clear().envs(vars).env("CONFIG_FILE", file);
    let output = in_ns("host", || command.output()).unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code().unwrap(), text)
}

/// An entry that is invalid keeps its last version, and one that is new and valid is applied. `plan` says what a change
/// does before it is made.
#[test]
fn the_valid_rest_of_a_file_is_applied() {
    let lab = steady(&[]);
    every_way_is_open(10);
    let node = &lab.nodes[0];
    let (sessions, pids) = (session_counts(), daemons_of(&lab));
    let (file, other) = ("/tmp/vnis0.yaml", "/tmp/other.yaml");
    assert_eq!(plan_of(node, file), (0, "kernel: no change\nFRR: no change\n".into()));
    let broken = vnis(false).replace("hostASN: 64515", "hostASN: 64514").replace("l2vnis:\n", MORE.trim_start());
    let problem = "this l3vni keeps its last accepted version";

    let links = || ["host", "perouter"].map(|ns| ip(ns, "-br link"));
    let before = links();
    std::fs::copy(file, "/tmp/kept.yaml").unwrap();
    std::fs::write(other, &broken).unwrap();
    let (code, text) = plan_of(node, other);
    println!("{text}");
    assert_eq!(code, 2, "{text}");
    for line in ["FRR's namespace: create VXLAN vni101", "router bgp 64514 vrf blue", "vrf blue; vni 101", problem] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!(links(), before);
    let from = node.log().len();
    put(0, &broken);
    node.wait_log_after(from, "is active", SOON);
    let log: String = node.log()[from..].iter().map(|(_, line)| format!("{line}\n")).collect();
    assert!(log.contains(problem), "{log}");
    wait_until("the new VNI", SOON, || ip("perouter", "-br link").contains("vni101"));
    wait_until("the problem", SOON, || {
        let all = status();
        all["problems"].as_array().into_iter().flatten().any(|p| {
            p["code"] == "configuration-incomplete" && p["what"].to_string().contains(problem)
        })
    });
    wait_until("the devices", SOON, || plan_of(node, file).1.starts_with("kernel: no change\nFRR: no change\n"));
    let (code, text) = plan_of(node, file);
    assert!(code == 0 && text.contains(problem), "{code}: {text}");
    assert_eq!((session_counts(), daemons_of(&lab)), (sessions.clone(), pids));
    every_way_is_open(10);

    // It stays without the file.
    let from = node.log().len();
    std::fs::remove_file(file).unwrap();
    node.wait_log_after(from, "the previous configuration stays active", SOON);
    assert!(ip("perouter", "-br link").contains("vni101"));
    let from = node.log().len();
    std::fs::rename("/tmp/kept.yaml", file).unwrap();
    node.wait_log_after(from, "is active", SOON);
    wait_until("the devices to be as before", SOON, || {
        links().map(|all| all.lines().count()) == before.clone().map(|all| all.lines().count())
    });
}

/// zebra gets 150 VRFs with a VNI, and then as many more.
#[test]
fn a_hundred_and_fifty_more_vnis_end_no_daemon() {
    let l3vnis = |n: u32| -> String {
        let one = |i: u32| {
            format!(
                "- {{vrf: v{i}, vni: {}, hostSession: {{asn: 64514, hostASN: 64515, localCIDR: {{ipv4: 10.{}.{}.0/24}}}}}}\n",
                1000 + i,
                100 + i / 200,
                i % 200
            )
        };
        (0..n).map(one).collect()
    };
    let with = |n: u32| vnis(false).replace("l2vnis:\n", &(l3vnis(n) + "l2vnis:\n"));
    let lab = steady(&[]);
    every_way_is_open(10);
    let flows = flows();
    for n in [150, 300] {
        let (from, begin) = (lab.nodes[0].log().len(), Instant::now());
        put(0, &with(n));
        let log = lab.nodes[0].wait_log_after(from, "is active", Duration::from_secs(300));
        println!("{n}: {}, after {:.1} s", log.lines().last().unwrap(), begin.elapsed().as_secs_f64());
        thread::sleep(Duration::from_secs(20));
        let log: String = lab.nodes[0].log()[from..].iter().map(|(_, line)| format!("{line}\n")).collect();
        assert!(!log.contains("exited (pid") && !log.contains("is unresponsive ("), "{log}");
    }
    let cost = Cost::of(flows);
    println!("300 VNIs added: {cost}");
    assert_eq!(cost.lost, 0, "{cost}");
}
