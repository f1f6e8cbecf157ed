use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn the_vtep_address_is_at_the_index() {
    for (cidr, index, ip) in [
        ("100.65.0.0/24", 0, Ok("100.65.0.0")),
        ("100.65.0.0/24", 255, Ok("100.65.0.255")),
        ("100.65.0.0/24", 256, Err("is too small: it has no address for node 256 (NODE_INDEX)")),
        ("100.65.0.128/25", 3, Ok("100.65.0.131")),
        ("100.65.0.7/32", 9, Ok("100.65.0.7")),
        ("100.65.0.6/31", 1, Ok("100.65.0.7")),
        ("100.65.0.6/31", 2, Err("is too small: it has no address for node 2 (NODE_INDEX)")),
        ("fd00:65::/64", 16_777_215, Ok("fd00:65::ff:ffff")),
        ("fd00:65::5/128", 16_777_215, Ok("fd00:65::5")),
        ("fd00:65::/127", 2, Err("is too small: it has no address for node 2 (NODE_INDEX)")),
        ("255.255.255.255/32", 0, Err("yields 255.255.255.255, not a unicast address")),
    ] {
        let ip = ip.map(|ip: &str| ip.parse().unwrap()).map_err(str::to_owned);
        assert_eq!(vtep(net(cidr), index), ip, "{cidr} {index}");
    }
}

#[test]
fn the_router_id_is_one_above_the_index() {
    assert_eq!(router_id(net("10.0.0.0/24"), 0).unwrap().to_string(), "10.0.0.1");
    assert_eq!(router_id(net("10.0.0.0/24"), 254).unwrap().to_string(), "10.0.0.255");
    assert!(router_id(net("10.0.0.0/24"), 255).is_err());
    assert!(router_id(net("10.0.0.1/32"), 0).is_err());
}

#[test]
fn session_addresses_depend_on_the_last_octet() {
    for (cidr, index, router, host) in [
        ("192.169.10.0/24", 0, "192.169.10.1", "192.169.10.2"),
        ("192.169.10.0/24", 252, "192.169.10.1", "192.169.10.254"),
        ("192.169.10.128/25", 0, "192.169.10.128", "192.169.10.129"),
        ("192.169.10.2/31", 0, "192.169.10.2", "192.169.10.3"),
        ("fd00:10::/64", 0, "fd00:10::1", "fd00:10::2"),
        ("fd00:10::2/127", 0, "fd00:10::2", "fd00:10::3"),
        ("fd00:10::100/120", 4, "fd00:10::101", "fd00:10::106"),
    ] {
        let (a, b) = session_addresses(net(cidr), index, None).unwrap();
        assert_eq!((a.addr().to_string(), b.addr().to_string()), (router.into(), host.into()), "{cidr}");
        assert_eq!((a.prefix_len(), b.prefix_len()), (net(cidr).prefix_len(), net(cidr).prefix_len()));
    }
    for (cidr, index) in [
        ("192.169.10.0/24", 253),
        ("192.169.10.128/25", 126),
        ("192.169.10.0/31", 0),
        ("192.169.10.2/31", 1),
        ("fd00:10::/127", 0),
        ("192.169.10.0/32", 0),
        ("192.169.10.5/32", 0),
        ("224.0.0.0/24", 0),
    ] {
        assert!(session_addresses(net(cidr), index, None).is_err(), "{cidr} {index}");
    }
}

#[test]
fn a_literal_host_ip_must_be_in_the_subnet() {
    let pair = |cidr, ip: &str| session_addresses(net(cidr), 9, Some(ip.parse().unwrap()));
    assert_eq!(pair("10.1.0.0/31", "10.1.0.0").unwrap(), (net("10.1.0.1/31"), net("10.1.0.0/31")));
    assert_eq!(pair("10.1.0.0/24", "10.1.0.77").unwrap().1, net("10.1.0.77/24"));
    for ip in ["10.2.0.1", "10.1.0.1", "10.1.0.0", "10.1.0.255", "fd00::1"] {
        assert!(pair("10.1.0.0/24", ip).is_err(), "{ip}");
    }
}
