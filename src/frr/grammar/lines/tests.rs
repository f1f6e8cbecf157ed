use super::*;

#[test]
fn each_line_has_a_key_and_a_negation() {
    let (router, family) = ("router bgp 1", "address-family ipv4 unicast");
    for (head, line, expected_key, negation) in [
        (
            "",
            "ip prefix-list a seq 5 permit any",
            "ip prefix-list a seq 5",
            "no ip prefix-list a seq 5 permit any",
        ),
        (router, "neighbor x timers 3 9", "neighbor x timers", "no neighbor x timers"),
        (router, "neighbor x timers connect 5", "neighbor x timers connect", "no neighbor x timers connect"),
        (router, "neighbor x password y", "neighbor x password", "no neighbor x password"),
        (router, "neighbor x bfd profile p", "neighbor x bfd", "no neighbor x bfd"),
        (router, "no bgp default ipv4-unicast", "bgp default ipv4-unicast", "bgp default ipv4-unicast"),
        (
            router,
            "bgp listen range 10.0.0.0/8 peer-group g",
            "bgp listen range 10.0.0.0/8 peer-group g",
            "no bgp listen range 10.0.0.0/8 peer-group g",
        ),
        (family, "neighbor x route-map m out", "neighbor x route-map out", "no neighbor x route-map m out"),
        (family, "redistribute connected route-map m", "redistribute connected", "no redistribute connected"),
        (family, "redistribute table 10 metric 5", "redistribute table 10", "no redistribute table 10"),
        (family, "network 10.0.0.0/8", "network 10.0.0.0/8", "no network 10.0.0.0/8"),
        (family, "network 10.0.0.1/8 route-map m", "network 10.0.0.0/8", "no network 10.0.0.1/8"),
        (
            family,
            "aggregate-address 10.0.0.0/8 summary-only",
            "aggregate-address 10.0.0.0/8",
            "no aggregate-address 10.0.0.0/8",
        ),
        (family, "distance 5 10.0.0.0/8", "distance 10.0.0.0/8", "no distance 5 10.0.0.0/8"),
        (
            "",
            "ip route 10.0.0.1/8 10.9.9.9 eth0 tag 5 20 table 7",
            "ip route 10.0.0.0/8 10.9.9.9 eth0 table 7",
            "no ip route 10.0.0.1/8 10.9.9.9 eth0 tag 5 20 table 7",
        ),
        (
            "route-map m permit 1",
            "match community a exact-match",
            "match community",
            "no match community a exact-match",
        ),
        (
            "route-map m permit 1",
            "match ip address prefix-list a",
            "match ip address prefix-list",
            "no match ip address prefix-list a",
        ),
        (
            "route-map m permit 1",
            "set community 1:1 additive",
            "set community",
            "no set community 1:1 additive",
        ),
        ("route-map m permit 1", "on-match goto 20", "on-match", "no on-match goto"),
        ("vrf red", "vni 7", "vni 7", "no vni 7"),
        ("profile p", "transmit-interval 300", "transmit-interval", "no transmit-interval 300"),
    ] {
        assert_eq!(
            (key(head, line).as_str(), negate(head, line).as_str()),
            (expected_key, negation),
            "{line}"
        );
    }
}

#[test]
fn only_what_the_daemon_would_keep_is_negated_first() {
    let (router, family) = ("router bgp 1", "address-family ipv4 unicast");
    for (head, old, new, negation) in [
        (family, "network 10.0.0.0/8 route-map a", "network 10.0.0.0/8 route-map b", None),
        (family, "network 10.0.0.0/8 route-map a", "network 10.0.0.0/8", None),
        (
            family,
            "network 10.0.0.0/8 label-index 5",
            "network 10.0.0.0/8",
            Some("no network 10.0.0.0/8 label-index 5"),
        ),
        (family, "network 10.0.0.0/8", "network 10.0.0.0/8 label-index 5", Some("no network 10.0.0.0/8")),
        (family, "redistribute connected route-map a", "redistribute connected metric 5 route-map b", None),
        (
            family,
            "redistribute connected metric 5",
            "redistribute connected",
            Some("no redistribute connected"),
        ),
        (router, "neighbor x bfd", "neighbor x bfd profile a", None),
        (router, "neighbor x bfd profile a", "neighbor x bfd", Some("no neighbor x bfd profile a")),
        (router, "no bgp default ipv4-unicast", "bgp default ipv4-unicast", None),
        (
            "",
            "ip route 10.0.0.0/8 Null0",
            "ip route 10.0.0.0/8 Null0 5",
            Some("no ip route 10.0.0.0/8 Null0"),
        ),
    ] {
        assert_eq!(negate_before(head, old, new).as_deref(), negation, "{old} → {new}");
    }
}
