// What the underlay has to do without help from the leaves. Included by evpn.rs.

/// Leaves that announce only a default route, and do not resolve next hops through one themselves.
const ONLY_A_DEFAULT: &str = "no ip nht resolve-via-default
no ipv6 nht resolve-via-default
ip prefix-list only seq 5 permit 0.0.0.0/0
ipv6 prefix-list only seq 5 permit ::/0
router bgp 65101
 address-family ipv4 unicast
  neighbor node default-originate
  neighbor node prefix-list only out
  neighbor node2 default-originate
  neighbor node2 prefix-list only out
 exit-address-family
 address-family ipv6 unicast
  neighbor node default-originate
  neighbor node prefix-list only out
  neighbor node2 default-originate
  neighbor node2 prefix-list only out
 exit-address-family
exit
";

fn behind_a_default_route(v6: bool) {
    let lab = Evpn::with(v6, &vnis(v6), &[("LIVENESS_TIMEOUT", "30")]);
    lab.leaf.configure(ONLY_A_DEFAULT).unwrap();
    let family = if v6 { "-6" } else { "-4" };
    for i in 0..2 {
        wait_until("a default route and no other", SOON, || {
            let routes = ip(&lab.router(i), &format!("{family} route show proto bgp"));
            routes.contains("default") && !routes.contains("100.65.0.") && !routes.contains("2001:db8:65:")
        });
    }
    every_way_is_open(50);
}

#[test]
fn leaves_that_announce_only_a_default_route_are_enough() {
    behind_a_default_route(false);
}

#[test]
fn a_default_route_is_enough_over_ipv6() {
    behind_a_default_route(true);
}

const INTERNAL: &str = "underlay:
  tunnelEndpoint: {cidrs: [100.65.0.0/24, 'fd00:65::/64']}
  neighbors:
  - {address: '2001:db8:2::1', asn: 65102, addressFamilies: [{type: ipv4unicast}], properties: [{type: ebgpMultiHop, ebgpMultiHop: {ttl: 4}}]}
l3passthrough: {hostSession: {asn: 65001, hostType: Internal, localCIDR: {ipv4: 192.169.12.0/24}}}
";

/// A host with the node's own AS number on the pass-through has a route to the fabric, and the fabric one to the host;
/// a neighbor with an IPv6 address announces IPv4 routes.
#[test]
fn an_internal_host_and_ipv4_over_an_ipv6_session() {
    let lab = Lab::new(Options { speaker: None, bfd: None, ..Options::default() });
    lab.leaves[1]
        .configure(
            "router bgp 65102
 neighbor fd00:65:: remote-as 65001
 neighbor fd00:65:: ebgp-multihop 4
 neighbor fd00:65:: update-source 2001:db8:2::1
 neighbor fd00:65:: capability extended-nexthop
 neighbor fd00:65:: timers connect 1
 no neighbor node activate
 address-family ipv4 unicast
  no neighbor node activate
  neighbor fd00:65:: activate
  network 198.18.7.0/24
 exit-address-family
exit
",
        )
        .unwrap();
    let mut host = Router::new("inner", "host", &[("zebra", "-P 0"), ("bgpd", "-P 0 -p 0")]);
    let config = "router bgp 65001
 bgp router-id 192.169.12.2
 neighbor 192.169.12.1 remote-as 65001
 neighbor 192.169.12.1 timers connect 1
exit
";
    Router::start_all(&mut [(&mut host, config.into())]);
    std::fs::write("/tmp/inner.yaml", INTERNAL).unwrap();
    let node = start(&lab, &[("CONFIG_FILE", "/tmp/inner.yaml"), ("ENABLE_BFD", "false"), ("RETURN_PATH", "none")]);
    node.wait_log(DAEMONS_ANSWER, SOON);
    wait_until("the session with the host", SOON, || session("inner", "default", "192.169.12.1") == "Established");
    // The host can resolve the next hop of its route.
    wait_until("the fabric's route at the host", SOON, || ip("host", "route show proto bgp").contains(CLIENT_NET4[0]));
    assert!(ip("host", "route show proto bgp").contains("192.169.12.1"), "{}", ip("host", "route show proto bgp"));
    wait_until("the host's end at the leaf", SOON, || has_route("leaf1", "192.169.12.2/32"));
    wait_until("an answer", SOON, || ping("host", CLIENT4[0], 1, 10).1 == 1);
    assert_eq!(ping("client1", "192.169.12.2", 50, 5), (50, 50));
    // IPv4 over the session with an IPv6 address.
    wait_until("the IPv6 session", SOON, || session("node", "default", "2001:db8:2::1") == "Established");
    wait_until("its IPv4 route", SOON, || ip("perouter", "route show proto bgp").contains("198.18.7.0/24"));
    drop(host);
}
