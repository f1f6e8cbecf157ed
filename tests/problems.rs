// How the node reports problems. Included by node.rs.

/// The node's configuration file.
const CONFIG: &str = "/tmp/seen.yaml";

fn put_config(text: &str) {
    std::fs::write("/tmp/.seen.new", text).unwrap();
    std::fs::rename("/tmp/.seen.new", CONFIG).unwrap();
}

/// Every fault is reported with its remedy in the file, on the page, in the metrics and in the log, and is resolved
/// afterwards.
#[test]
fn every_fault_is_reported_everywhere_and_clears() {
    put_config("rawFRRConfigs: []\n");
    let speaker = Speaker { password: Some("s3cr3t-words".into()), ..Speaker::default() };
    let mut lab = Lab::new(Options { speaker: Some(speaker), ..Options::default() });
    let node = up(&lab, &[("CONFIG_FILE", CONFIG), ("METALLB_PASSWORD", "s3cr3t-words")]);
    let ready = || get("/readyz").is_ok_and(|answer| answer == (200, "ready\n".into()));
    let healthy = || status()["health"] == "healthy" && ready();
    // What is reported and when does not depend on the wall clock.
    let step_clock = |days: i64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        exec("", &["date", "-s", &format!("@{}", now.cast_signed() + days * 86_400)]);
    };
    wait_until("a healthy node", SOON, healthy);
    assert_eq!(get("/healthz").unwrap(), (200, "ok\n".into()));
    let await_fault = |code: &str, from: usize| {
        let (after, problem) = await_problem(&node, code, from);
        println!("{code}: reported after {} ms: {}", after.as_millis(), problem["what"]);
        problem
    };
    let await_resolved = |problem: &Value| {
        let after = await_end(&node, problem);
        println!("{}: resolved after {} ms", problem["code"], after.as_millis());
    };
    let from = || node.log().len();

    // A leaf is down.
    let at = from();
    step_clock(-1);
    ip("leaf2", "link set node down");
    let problem = await_fault("link-down", at);
    let (code, body) = get("/readyz").unwrap();
    assert!(code == 503 && body.contains("BGP with eth2 in VRF default is "), "{code} {body}");
    assert_eq!(status()["health"], "degraded");
    // The problem stays, also while there is no bgpd to query.
    let at = from();
    signal_daemons(&lab, "perouter", &["bgpd"], Signal::KILL);
    let restarted = std::time::Instant::now();
    while restarted.elapsed() < Duration::from_secs(5) {
        assert!(problems().contains(&"link-down".to_owned()), "{:?}", problems());
        thread::sleep(Duration::from_millis(100));
    }
    assert!(!node.log()[at..].iter().any(|(_, line)| line.contains("resolved after")), "{}", node.log_text());
    ip("leaf2", "link set node up");
    await_resolved(&problem);
    settle();

    // Settings of the leaf that end the session, with their remedy.
    let leaf1 = |lines: &str| drop(vtysh("leaf1", &format!("conf t\nrouter bgp 65101\n{lines}\nend\nclear bgp *")));
    let family = |line: &str| format!("address-family ipv4 unicast\n{line}\nexit-address-family");
    lab.announce("198.51.100.77/32");
    both_leaves_have("198.51.100.77/32");
    let all: [(&str, String, String); 3] = [
        ("no neighbor … shutdown", "neighbor node shutdown".into(), "no neighbor node shutdown".into()),
        (
            "maximum-prefix",
            family("neighbor node maximum-prefix 1"),
            family("no neighbor node maximum-prefix 1"),
        ),
        ("GTSM", "neighbor node ttl-security hops 1".into(), "no neighbor node ttl-security hops 1".into()),
    ];
    for (words, wrong, right) in all {
        let (at, begin) = (from(), std::time::Instant::now());
        leaf1(&wrong);
        let find = || {
            let all = status();
            let mut all = all["problems"].as_array().into_iter().flatten();
            all.find(|p| p["remedy"].to_string().contains(words) || p["what"].to_string().contains(words)).cloned()
        };
        let problem = wait_until(&format!("a remedy for {words}"), SOON, find);
        println!("{words}: reported after {} ms: {}", begin.elapsed().as_millis(), problem["what"]);
        node.wait_log_after(at, words, SOON);
        leaf1(&right);
        // FRR 10.3, as the leaf, once stayed Idle for more than a minute after GTSM was removed.
        let removed = std::time::Instant::now();
        let mut flapped = false;
        wait_until("the session", SOON, || {
            if !flapped && removed.elapsed() > Duration::from_secs(20) {
                println!("{words}: the leaf stays {}: its port flaps", session("leaf1", "default", "node"));
                ip_batch("leaf1", "link set node down\nlink set node up\n");
                flapped = true;
            }
            !problems().contains(&"session-down".to_owned())
        });
        settle();
    }

    lab.withdraw("198.51.100.77/32");

    // Another host on the link has the port's address, or its MAC address. The text of the problem may change
    // meanwhile.
    let recovered = || {
        wait_until("the session", SOON, || !problems().contains(&"session-down".to_owned()));
        settle();
    };
    let ours = "fe80::fa:b0ff:fe00:101/64";
    ip("leaf1", &format!("addr add {ours} dev node nodad"));
    let at = from();
    ip("perouter", "addr flush dev eth1 scope link");
    vtysh("leaf1", "clear bgp *");
    node.wait_log_after(at, "(duplicate address)", SOON);
    ip("leaf1", &format!("addr del {ours} dev node"));
    ip_batch("perouter", "link set eth1 down\nlink set eth1 up\n");
    recovered();
    let theirs = ip_json("leaf1", "link show node")[0]["address"].as_str().unwrap().to_owned();
    let at = from();
    ip_batch("leaf1", &format!("link set node down\nlink set node address {}\nlink set node up\n", MACS[0]));
    let problem = await_fault("session-down", at);
    assert!(problem["remedy"].as_str().unwrap().contains("MAC address"), "{problem}");
    ip_batch("leaf1", &format!("link set node down\nlink set node address {theirs}\nlink set node up\n"));
    recovered();

    // Another AS number at the leaf.
    let at = from();
    step_clock(2);
    vtysh("leaf1", "conf t\nrouter bgp 65101\nneighbor node remote-as 65009\nend\nclear bgp *");
    let problem = await_fault("wrong-as", at);
    vtysh("leaf1", "conf t\nrouter bgp 65101\nneighbor node remote-as external\nend\nclear bgp *");
    await_resolved(&problem);

    // A password at the leaf.
    let at = from();
    vtysh("leaf2", "conf t\nrouter bgp 65102\nneighbor node password wrong\nend\nclear bgp *");
    let problem = await_fault("wrong-password", at);
    assert!(problem["what"].as_str().unwrap().contains("FABRIC_PASSWORD is not set"), "{problem}");
    vtysh("leaf2", "conf t\nrouter bgp 65102\nno neighbor node password\nend\nclear bgp *");
    await_resolved(&problem);

    // A NIC is missing.
    let at = from();
    Lab::unload_nic();
    let problem = await_fault("interface-missing", at);
    Lab::reload_nic();
    await_resolved(&problem);
    settle();

    // A next hop that is not reachable.
    let at = from();
    let map = "route-map fda1:b2c3:d4e5:1::-out permit 1";
    vtysh("speaker", &format!("conf t\n{map}\nset ip next-hop 10.99.0.9\nend\nclear bgp * soft out"));
    let problem = await_fault("next-hop-inaccessible", at);
    assert_eq!(problem["subject"], "10.99.0.9");
    vtysh("speaker", &format!("conf t\n{map}\nno set ip next-hop 10.99.0.9\nend\nclear bgp * soft out"));
    await_resolved(&problem);

    // MetalLB does not connect.
    let at = from();
    let speaker = lab.options.speaker.clone().unwrap();
    lab.speaker.as_mut().unwrap().kill("bgpd");
    let problem = await_fault("metallb-down", at);
    lab.speaker.as_mut().unwrap().restart("bgpd", &speaker.config());
    await_resolved(&problem);

    // A daemon hangs.
    let at = from();
    signal_daemons(&lab, "perouter", &["staticd"], Signal::STOP);
    let problem = await_fault("daemon-hung", at);
    await_resolved(&problem);

    // A daemon that keeps crashing.
    let at = from();
    for _ in 0..4 {
        signal_daemons(&lab, "perouter", &["staticd"], Signal::KILL);
        thread::sleep(Duration::from_millis(100));
        wait_until("staticd", SOON, || daemons(&lab, "perouter").iter().any(|(name, _)| name == "staticd"));
    }
    let crashing = await_fault("daemon-crash-loop", at);

    // The veth pair is deleted: repaired at once, counted and reported.
    let repairs = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("frr_supervisor_repairs_total "));
        line.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    let before = repairs(&get("/metrics").unwrap().1);
    let events = || status()["events"].as_array().cloned().unwrap_or_default();
    ip("host", "link del metallb-frr");
    wait_until("the repair in the metrics", SOON, || get("/metrics").is_ok_and(|(_, text)| repairs(&text) > before));
    wait_until("the repair among the events", SOON, || {
        events().iter().any(|event| event["text"].as_str().is_some_and(|text| text.starts_with("repaired in")))
    });
    wait_until("the device's own count", SOON, || {
        let all = status();
        let devices = all["devices"].as_array().cloned().unwrap_or_default();
        devices.iter().any(|d| d["name"] == "frr-metallb" && d["repaired"].as_u64() > Some(0) && d["ok"] == true)
    });
    assert!(get("/").unwrap().1.contains("repaired in"));

    // Another FRR in the namespace.
    let at = from();
    let mut other = Router::new("other", "perouter", &[("zebra", "-P 0 -r")]);
    Router::start_all(&mut [(&mut other, String::new())]);
    let problem = await_fault("second-zebra", at);
    drop(other);
    await_resolved(&problem);

    // An invalid entry, and a file that is no YAML.
    for (code, text, place) in [
        ("configuration-incomplete", "l3vnis:\n  - vni: 99999999\n", "seen.yaml:2"),
        ("configuration-rejected", "l3vnis:\n  - [\n", "seen.yaml:2"),
    ] {
        let at = from();
        put_config(text);
        let problem = await_fault(code, at);
        assert!(problem["what"].as_str().unwrap().contains(place), "{problem}");
        put_config("rawFRRConfigs: []\n");
        await_resolved(&problem);
    }

    // A configuration that FRR itself refuses: vtysh, or bgpd where vtysh accepts it. The problem names the place, and
    // not the password.
    for line in ["neighbor 10.9.9.9 pasword s3cr3t-too", "neighbor 10.9.9.9 password s3cr3t-too"] {
        let at = from();
        put_config(&format!(
            "rawFRRConfigs:\n- rawConfig: |\n    router bgp 65001\n     neighbor 10.9.9.9 pass\n- rawConfig: |\n    router bgp 65001\n     {line}\n"
        ));
        let problem = await_fault("configuration-rejected", at);
        let what = problem["what"].as_str().unwrap();
        println!("refused: {what}");
        put_config("rawFRRConfigs: []\n");
        await_resolved(&problem);
    }
    assert!(!node.log_text().contains("s3cr3t"), "{}", node.log_text());

    step_clock(-1);
    await_resolved(&crashing);
    wait_until("a healthy node", SOON, healthy);
    for path in ["/", "/metrics", "/status.json", "/status.txt"] {
        assert!(!get(path).unwrap().1.contains("s3cr3t"), "{path}");
    }
}

/// How long each of these daemons is down: from its kill until the log line about its restart.
fn downtimes(lab: &Lab, node: &Supervisor, names: &[&str]) -> Vec<Duration> {
    names
        .iter()
        .map(|name| {
            let (from, killed) = (node.log().len(), node.started.elapsed());
            signal_daemons(lab, "perouter", &[name], Signal::KILL);
            let text = format!("{name} started (pid");
            node.wait_log_after(from, &text, SOON);
            let log = node.log();
            let (at, _) = log[from..].iter().find(|(_, line)| line.contains(&text)).unwrap();
            let downtime = at.saturating_sub(killed);
            node.wait_log_after(from, DAEMONS_ANSWER, SOON);
            downtime
        })
        .collect()
}

/// Runs clients of all bad kinds until `stop` is set. Returns the number of their connections.
fn flood(stop: &std::sync::atomic::AtomicBool) -> u64 {
    use std::io::{Read as _, Write as _};
    use std::sync::atomic::Ordering::Relaxed;
    let mut connections = 0;
    let mut open = Vec::new();
    while !stop.load(Relaxed) {
        let Ok(mut stream) = in_ns("host", || std::net::TcpStream::connect(LISTEN)) else { continue };
        connections += 1;
        let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
        let words: &[u8] = match connections % 6 {
            0 => b"GET / HTTP/1.1\r\n\r\n",
            1 => b"GET /metrics HTTP/1.1\r\n\r\n",
            2 => b"POST / HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n",
            3 => b"\x16\x03\x01\x00\xff\xff\x00\n\n\n",
            // Never ends.
            4 => b"GET /status.json HTTP/1.1\r\nA: ",
            _ => &[b'a'; 20_000],
        };
        let _ = stream.write_all(words);
        match connections % 3 {
            // Reads the reply.
            0 => {
                let _ = stream.read_to_end(&mut Vec::new());
            }
            // Stays connected, and does not read.
            1 => open.push(stream),
            _ => {}
        }
        if open.len() > 100 {
            open.clear();
        }
    }
    connections
}

#[test]
fn clients_of_any_sort_do_not_disturb() {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    const DAEMONS: [&str; 3] = ["staticd", "mgmtd", "bgpd"];
    let lab = Lab::new(Options::default());
    let quiet = {
        let node = up(&lab, &[]);
        downtimes(&lab, &node, &DAEMONS)
    };
    let node = up(&lab, &[]);
    let stop = AtomicBool::new(false);
    let (busy, connections) = thread::scope(|scope| {
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(|| flood(&stop))).collect();
        thread::sleep(Duration::from_secs(1));
        let busy = [(); 3].map(|()| downtimes(&lab, &node, &DAEMONS));
        thread::sleep(Duration::from_secs(3));
        stop.store(true, Relaxed);
        (busy, clients.into_iter().map(|client| client.join().unwrap()).sum::<u64>())
    });
    println!("down without clients {quiet:?}; with {connections} connections {busy:?}");
    // On one processor the clients use their share of it; but nothing may wait for them, which would take their 3 s
    // each time.
    for (i, name) in DAEMONS.iter().enumerate() {
        let least = busy.iter().map(|times| times[i]).min();
        assert!(least < Some(Duration::from_millis(2500)), "{name}: {busy:?}");
    }
    assert!(connections > 100, "{connections}");
    // Then it answers at once again.
    wait_until("an answer", Duration::from_secs(5), || get("/healthz").is_ok_and(|(code, _)| code == 200));
    let (code, head, body) = request("HEAD / HTTP/1.1\r\n\r\n").unwrap();
    assert!(code == 200 && body.is_empty() && head.contains("Content-Security-Policy: default-src 'none'"), "{head}");
    assert_eq!(request("DELETE / HTTP/1.1\r\n\r\n").unwrap().0, 405);
    assert_eq!(get("/etc/passwd").unwrap().0, 404);
    settle();
}

/// The output and the exit status of `frr-supervisor status`, and the notifications to systemd.
#[test]
fn the_command_and_systemd_report_the_same_status() {
    let command = |args: &[&str]| {
        let output = in_ns("host", || Command::new(program()).arg("status").args(args).output()).unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let lab = Lab::new(Options::default());
    let (code, text) = command(&[]);
    assert!(code == 3 && text.contains("does not run"), "{code} {text}");
    let path = "/tmp/notify.sock";
    let _ = std::fs::remove_file(path);
    let systemd = std::os::unix::net::UnixDatagram::bind(path).unwrap();
    let all = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let received = std::sync::Arc::clone(&all);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n) = systemd.recv(&mut buffer) {
            *received.lock().unwrap() += &format!("{}\n", String::from_utf8_lossy(&buffer[..n]));
        }
    });
    let await_notified = |words: &[&str], limit: Duration| {
        let mut notified = String::new();
        wait_until(&format!("the notification {words:?} to systemd"), limit, || {
            notified += &std::mem::take(&mut *all.lock().unwrap());
            words.iter().all(|word| notified.contains(word))
        });
    };
    let mut node = up(&lab, &[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "2000000")]);
    let lines = [
        ("healthy", "running since"),
        ("bgpd", "running"),
        ("eth1", "Established"),
        (SERVICE4, "announced"),
        (SERVICE6, "announced"),
    ];
    wait_until("a healthy node with its services", SOON, || {
        let (code, text) = command(&[]);
        let is_there = |(name, state): &(&str, &str)| {
            text.lines().any(|line| line.starts_with(name) && line.contains(state))
        };
        code == 0 && lines.iter().all(is_there)
    });
    assert_eq!(serde_json::from_str::<Value>(&command(&["--json"]).1).unwrap()["schema"], 1);
    wait_until("as many lines over HTTP", SOON, || {
        get("/status.txt").is_ok_and(|(_, text)| text.lines().count() == command(&[]).1.lines().count())
    });
    await_notified(&["READY=1", "STATUS=healthy: 3 of 3 BGP sessions up"], SOON);
    await_notified(&["WATCHDOG=1"], Duration::from_secs(5));

    // The daemons do not inherit the socket.
    let pid = daemons(&lab, "perouter").into_iter().find(|(name, _)| name == "bgpd").unwrap().1;
    assert!(!std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap().contains("NOTIFY_SOCKET"));

    ip("leaf1", "link set node down");
    wait_until("a degraded node", SOON, || {
        let (code, text) = command(&[]);
        code == 1 && text.contains("eth1 has no link")
    });
    ip("leaf2", "link set node down");
    wait_until("a node that is cut off", SOON, || command(&[]).0 == 3);
    node.terminate();
    await_notified(&["STATUS=down: ", "STOPPING=1"], SOON);
    let (code, text) = command(&[]);
    assert!(code == 3 && text.contains("does not run; its last phase was stopping"), "{code} {text}");
}

/// `make alerts` gives its output to promtool.
#[test]
fn the_metrics_are_well_formed() {
    let lab = Lab::new(Options::default());
    let _node = up(&lab, &[]);
    wait_until("a healthy node", SOON, || status_of("health") == "healthy");
    let mut wanted = vec!["frr_supervisor_services{state=\"announced\"} 2\n".to_owned()];
    for (name, port) in [("frrk8s_bgp_session_up", ""), ("metallb_bgp_session_up", ":179")] {
        wanted.push(format!("{name}{{peer=\"eth1{port}\",vrf=\"default\"}} 1\n"));
        wanted.push(format!("{name}{{peer=\"fda1:b2c3:d4e5:1::1{port}\",vrf=\"metallb\"}} 1\n"));
    }
    let (head, text) = wait_until("the services and the sessions", SOON, || {
        let (_, head, text) = request("GET /metrics HTTP/1.1\r\n\r\n").ok()?;
        wanted.iter().all(|line| text.contains(line)).then_some((head, text))
    });
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
    for line in text.lines() {
        println!("metrics: {line}");
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(line.starts_with('#') || (!name.is_empty() && value.parse::<f64>().is_ok()), "{line}");
    }
}
