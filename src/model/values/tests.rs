use super::*;
use proptest::prelude::*;

#[test]
fn mac_addresses_are_unicast() {
    let mac = MacAddr::parse("00:1B:44:11:3a:B7").unwrap();
    assert_eq!(mac.to_string(), "00:1b:44:11:3a:b7");
    assert_eq!(MacAddr::parse("00-1b-44-11-3a-b7").unwrap(), mac);
    for bad in ["01:00:5e:00:00:01", "00:00:00:00:00:00", "0:1:2:3:4:5", "00:11:22:33:44"] {
        assert!(MacAddr::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn reserved_numbers_are_rejected() {
    for bad in
        ["0", "23456", "65535", "4294967295", "4294967296", "-1", "+1", "065001", "1.1", "AS1", "0x10", "1e3"]
    {
        assert!(Asn::parse(bad).is_err(), "{bad}");
    }
    for bad in ["0", "253", "254", "255", "4294967296", "088", "+88"] {
        assert!(TableId::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_number_has_one_spelling() {
    for bad in ["007", "00", "+7", "-0", "7 ", "0x7", "7e0", "7.0", ""] {
        assert!(Ranged::<0, 100>::parse(bad).is_err() && Vni::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(Ranged::<0, 100>::parse("0").unwrap().get(), 0);
    for bad in
        ["010.0.0.0/8", "10.0.0.0/08", "10.0.0.0/+8", "10/8", "10.0.0.0/33", "fd00::/064", "fd00::/129", "/8"]
    {
        assert!(IpNet::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(IpNet::parse("0.0.0.0/0").unwrap().prefix_len(), 0);
    for bad in [
        "065001:1",
        "65001:01",
        "65001:+1",
        "1.1.1.01:1",
        "4294967296:1",
        "65536:65536",
        "1:4294967296",
        "1:",
    ] {
        assert!(RouteTarget::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(RouteTarget::parse("0:0").unwrap().to_string(), "0:0");
    assert!(<SocketAddr as Value>::parse("127.0.0.1:09080").is_err());
}

#[test]
fn passwords_are_not_shown() {
    let secret = Password::parse("s3cr3t").unwrap();
    assert!(!format!("{secret:?}").contains("s3cr3t"));
}

proptest! {
    /// No accepted value contains text that could start another line or token of frr.conf.
    #[test]
    fn no_value_contains_a_line_break(text in ".{0,40}") {
        let plain = |s: &str| !s.chars().any(|c| c.is_control() || c.is_whitespace());
        if let Ok(v) = IfName::parse(&text) { prop_assert!(plain(v.as_str())); }
        if let Ok(v) = VrfName::parse(&text) { prop_assert!(plain(&v.to_string())); }
        if let Ok(v) = Password::parse(&text) { prop_assert!(plain(v.reveal())); }
        if let Ok(v) = NamespaceName::parse(&text) {
            prop_assert!(!v.to_string().contains('/') && v.to_string() != "..");
        }
    }

    #[test]
    fn mac_round_trip(octets: [u8; 6]) {
        if let Some(mac) = MacAddr::new(octets) {
            prop_assert_eq!(MacAddr::parse(&mac.to_string()).unwrap(), mac);
        }
    }
}
