// Changes on a node with fifty other sessions. Included by node.rs.

const SESSIONS: usize = 50;

/// BIRD with one address for each session, each a peer of its own, on a separate link to the node.
struct Peers(std::process::Child);

impl Peers {
    fn start() -> Self {
        ip_batch("", "netns add peers\nlink add eth3 netns host type veth peer name eth0 netns peers\n");
        ip_batch("host", "link set eth3 up\naddr add 10.50.0.1/24 dev eth3\n");
        let mut links = String::from("link set lo up\nlink set eth0 up\n");
        let mut config =
            String::from("log \"/tmp/peers.log\" all;\nrouter id 10.50.0.11;\nprotocol device {}\n");
        for n in 0..=SESSIONS {
            let address = peer(n);
            links += &format!("addr add {address}/24 dev eth0\n");
            config += &format!(
                "protocol static s{n} {{ ipv4; route 10.60.{n}.0/24 blackhole; }}\n\
                 protocol bgp p{n} {{\n local {address} as {asn};\n neighbor 10.50.0.1 as 65001;\n strict bind on;\n direct;\n\
                 connect retry time 1; connect delay time 1; error wait time 1, 2;\n\
                 ipv4 {{ import none; export where proto = \"s{n}\"; }};\n}}\n",
                asn = 65200 + n
            );
        }
        ip_batch("peers", &links);
        std::fs::write("/tmp/peers.conf", config).unwrap();
        let start =
            || Command::new("bird").args(["-f", "-c", "/tmp/peers.conf", "-s", "/tmp/peers.ctl"]).spawn();
        Self(in_ns("peers", start).unwrap())
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn peer(n: usize) -> String {
    format!("10.50.0.{}", 11 + n)
}

/// How often the session with each peer has come up and has ended, of those that are up.
fn session_counts() -> BTreeMap<String, (u64, u64)> {
    let all = show("node", "bgpd", "show bgp neighbors json");
    let number = |peer: &Value, name: &str| peer[name].as_u64().unwrap_or_default();
    let up = all.as_object().into_iter().flatten().filter(|(_, peer)| peer["bgpState"] == "Established");
    up.map(|(name, peer)| {
        (name.clone(), (number(peer, "connectionsEstablished"), number(peer, "connectionsDropped")))
    })
    .collect()
}

#[test]
fn a_change_does_not_affect_fifty_other_sessions() {
    let lab = Lab::new(Options::default());
    let _peers = Peers::start();
    let file = "/tmp/many.yaml";
    // A standstill of the machine ends none of them.
    let timers = "holdTimeSeconds: 90, keepaliveTimeSeconds: 30";
    let text = |peers: std::ops::Range<usize>, raw: &str| {
        let mut text = String::from(
            "underlay:\n  interfaces: [{type: NetworkDevice, networkDevice: {interfaceName: eth3}}]\n  neighbors:\n",
        );
        for n in peers {
            text += &format!("  - {{address: {}, asn: {}, {timers}}}\n", peer(n), 65200 + n);
        }
        if !raw.is_empty() {
            text += &format!("rawFRRConfigs:\n- rawConfig: |\n    {}\n", raw.replace('\n', "\n    "));
        }
        text
    };
    std::fs::write(file, text(0..SESSIONS, "")).unwrap();
    let node = up(&lab, &[("CONFIG_FILE", file)]);
    wait_until("all sessions", SOON, || (0..SESSIONS).all(|n| session_counts().contains_key(&peer(n))));
    // A session may end once more soon after it has come up.
    let before = wait_until("sessions that stay", SOON, || {
        let before = session_counts();
        thread::sleep(Duration::from_secs(5));
        (session_counts() == before).then_some(before)
    });
    let flows = flows();
    thread::sleep(Duration::from_secs(1));
    let list = "ip prefix-list some seq 5 permit 10.60.0.0/16 le 24";
    let map = "route-map some permit 10\n match ip address prefix-list some\nexit";
    let used = format!(
        "router bgp 65001\n address-family ipv4 unicast\n  neighbor {} route-map some in\n exit-address-family\nexit",
        peer(3)
    );
    let announced = "router bgp 65001\n no bgp network import-check\n address-family ipv4 unicast\n  network 192.0.2.240/28\n exit-address-family\nexit";
    for (what, next) in [
        ("a neighbor added", text(0..SESSIONS + 1, "")),
        ("a neighbor removed", text(0..SESSIONS, "")),
        ("a list and a map", text(0..SESSIONS, &format!("{list}\n{map}"))),
        ("a map for one neighbor", text(0..SESSIONS, &format!("{list}\n{map}\n{used}"))),
        (
            "an entry more in each",
            text(
                0..SESSIONS,
                &format!(
                    "{list}\nip prefix-list some seq 10 permit 10.61.0.0/16\n{map}\nroute-map some deny 20\nexit\n{used}"
                ),
            ),
        ),
        ("a prefix announced", text(0..SESSIONS, announced)),
        ("all as it was", text(0..SESSIONS, "")),
    ] {
        let from = node.log().len();
        std::fs::write(file, next).unwrap();
        let log = node.wait_log_after(from, "is active", SOON);
        println!("{what}: {}", log.lines().find(|line| line.contains("is active")).unwrap());
        if what == "a neighbor added" {
            wait_until("its session", SOON, || session_counts().contains_key(&peer(SESSIONS)));
        }
        if what == "a prefix announced" {
            wait_until("the prefix at a leaf", SOON, || has_route("leaf1", "192.0.2.240/28"));
        }
    }
    thread::sleep(Duration::from_secs(2));
    let cost = Cost::of(flows);
    println!("seven changes beside {} sessions: {cost}", before.len());
    assert_eq!(session_counts(), before);
    assert_eq!(cost.lost, 0, "{cost}");
    assert!(before.len() > SESSIONS);
}
