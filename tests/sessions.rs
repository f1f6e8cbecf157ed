// Other sessions than those with the leaves and MetalLB, each with a real peer. Included by evpn.rs.

const FAR: &str = "underlay:
  tunnelEndpoint: {cidrs: [100.65.0.0/24]}
  routeReflector: {clusterID: 192.0.2.1}
  neighbors:
  - {address: 203.0.113.2, asn: 65102, password: s3cr3t, properties: [{type: ebgpMultiHop, ebgpMultiHop: {ttl: 4}}]}
  - listenRange: 192.0.2.0/24
    type: Internal
    addressFamilies: [{type: ipv4unicast}, {type: evpn, properties: [{type: routeReflectorClient}]}]
l3passthrough: {hostSession: {asn: 65001, hostASN: 4000099999, localCIDR: {ipv4: 192.169.12.0/24}}}
";

/// The address that the host announces over the pass-through.
const PASSED: &str = "198.51.100.77";

/// A VTEP behind a leaf whose only session is with the node.
fn client_of(i: usize) -> Router {
    let client = ["client1", "client2"][i];
    ip_batch(
        client,
        &format!(
            "link add br300 type bridge\nlink set br300 up\n\
             link add vxlan300 type vxlan id 300 local {} dstport 4789 nolearning\nlink set vxlan300 master br300 up\n",
            CLIENT4[i]
        ),
    );
    Router::new(client, client, &[("zebra", "-P 0"), ("bgpd", "-P 0")])
}

fn client_config(i: usize) -> String {
    format!(
        "ip nht resolve-via-default
router bgp 65001
 bgp router-id {id}
 no bgp default ipv4-unicast
 no bgp network import-check
 neighbor 100.65.0.0 remote-as 65001
 neighbor 100.65.0.0 timers connect 1
 address-family ipv4 unicast
  neighbor 100.65.0.0 activate
  network 198.18.{i}.0/24
 exit-address-family
 address-family l2vpn evpn
  neighbor 100.65.0.0 activate
  advertise-all-vni
 exit-address-family
exit
",
        id = CLIENT4[i]
    )
}

#[test]
fn neighbors_of_every_kind_establish_sessions() {
    let extra = format!(
        "router bgp 4000099999
 neighbor 192.169.12.1 remote-as 65001
 neighbor 192.169.12.1 timers connect 1
 address-family ipv4 unicast
  neighbor 192.169.12.1 activate
  network {PASSED}/32
 exit-address-family
exit
"
    );
    let lab = Lab::new(Options { speaker: Some(Speaker { extra, ..Speaker::default() }), ..Options::default() });
    ip("host", &format!("addr add {PASSED}/32 dev lo"));
    lab.leaves[1]
        .configure(
            "router bgp 65102
 neighbor 100.65.0.0 remote-as 65001
 neighbor 100.65.0.0 password s3cr3t
 neighbor 100.65.0.0 ebgp-multihop 4
 neighbor 100.65.0.0 update-source 203.0.113.2
 address-family ipv4 unicast
  network 203.0.113.2/32
  neighbor 100.65.0.0 activate
",
        )
        .unwrap();
    let mut clients = [client_of(0), client_of(1)];
    let [one, two] = &mut clients;
    Router::start_all(&mut [(one, client_config(0)), (two, client_config(1))]);
    std::fs::write("/tmp/far.yaml", FAR).unwrap();
    let node = up(&lab, &[("CONFIG_FILE", "/tmp/far.yaml"), ("LIVENESS_TIMEOUT", "30")]);

    // Over several hops, with a password.
    wait_until("the far leaf", SOON, || session("node", "default", "203.0.113.2") == "Established");
    // Clients of the listen range, which connect from any address of it: each has the other's route, reflected.
    for i in [0, 1] {
        let client = ["client1", "client2"][i];
        // 10.3 may not show a session that is up and whose routes it has; the client does.
        wait_until("the client", SOON, || session(client, "default", "100.65.0.0") == "Established");
        let reflected = wait_until("the reflected route", SOON, || {
            let text = vtysh(client, "show bgp l2vpn evpn route detail type multicast");
            text.contains("Cluster list: 192.0.2.1").then_some(text)
        });
        assert!(reflected.contains(&format!("Originator: {}", CLIENT4[1 - i])), "{reflected}");
        // Routes other than EVPN have the node's address as the next hop, and are not reflected between clients.
        wait_until("the client's route", SOON, || has_route("node", &format!("198.18.{i}.0/24")));
        assert!(!has_route(client, &format!("198.18.{}.0/24", 1 - i)));
    }
    // The address that the host announces over the pass-through is reachable through the fabric.
    both_leaves_have(&format!("{PASSED}/32"));
    for client in ["client1", "client2"] {
        wait_until("an answer", SOON, || ping(client, PASSED, 1, 10).1 == 1);
        assert_eq!(ping(client, PASSED, 100, 5), (100, 100), "{client}");
    }
    assert!(!node.log_text().contains("exited (pid"), "{}", node.log_text());
    drop(clients);
}

/// BFD in the VRF detects a hung host, long before the hold time of 90 s.
#[test]
fn a_hung_host_is_detected_in_its_vrf() {
    let file = vnis(false).replace("    hostASN", "    bfd: {receiveInterval: 300, transmitInterval: 300, detectMultiplier: 3}\n    hostASN");
    let lab = Evpn::with(false, &file, &[]);
    for speaker in &lab.speakers {
        speaker.configure("router bgp 64515\n neighbor 192.169.10.1 bfd\n neighbor 192.169.10.1 bfd 3 300 300\n").unwrap();
    }
    let bfd = || {
        let peers = show("node", "bfdd", "show bfd peers json");
        let peer = peers.as_array().unwrap().iter().find(|peer| peer["peer"] == HOST4[0]).cloned();
        peer.is_some_and(|peer| peer["status"] == "up" && peer["vrf"] == "red")
    };
    wait_until("BFD with the host", SOON, bfd);
    wait_until("the host's session", SOON, || session("node", "red", HOST4[0]) == "Established");
    let hung: Vec<Pid> =
        ["bgpd", "bfdd"].iter().map(|name| Pid::from_raw(lab.speakers[0].pid(name).unwrap().cast_signed()).unwrap()).collect();
    hung.iter().for_each(|pid| kill_process(*pid, Signal::STOP).unwrap());
    let start = Instant::now();
    wait_until("the end of the session", SOON, || session("node", "red", HOST4[0]) != "Established");
    println!("a hung host is detected after {} ms", start.elapsed().as_millis());
    assert!(start.elapsed() < Duration::from_secs(30));
    hung.iter().for_each(|pid| kill_process(*pid, Signal::CONT).unwrap());
    wait_until("the host's session again", SOON, || session("node", "red", HOST4[0]) == "Established");
    wait_until("BFD with the host again", SOON, bfd);
}
