use super::*;

fn read(vars: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let base = [("NODE_IP", "10.0.0.1"), ("ASN_LOCAL", "65001"), ("FE_MACS", "02:00:00:00:00:01")];
    let base = base.iter().filter(|(name, _)| !vars.iter().any(|(n, _)| n == name));
    from_vars(base.chain(vars).map(|(k, v)| ((*k).into(), (*v).into())))
        .map_err(|problems| problems.into_iter().map(|p| p.0).collect())
}

#[test]
fn the_table_and_the_fields_are_the_same() {
    // Every row reaches a field: a text that no type takes comes back as this variable's problem.
    for setting in SETTINGS {
        let problems = read(&[(setting.name, "\u{1}")]).unwrap_err();
        assert_eq!(problems.len(), 1, "{}: {problems:?}", setting.name);
        assert!(problems[0].starts_with(setting.name), "{problems:?}");
    }
}

#[test]
fn defaults_are_those_of_the_table() {
    let config = read(&[]).unwrap();
    assert_eq!(config.metallb.vrf.to_string(), "metallb");
    assert_eq!(config.metallb.table.get(), 88);
    assert_eq!(config.metallb.v6.frr.to_string(), "fda1:b2c3:d4e5:1::");
    assert_eq!(config.metallb.v6.prefix, 127);
    assert_eq!(config.metallb.speaker_asn.to_string(), "4000099999");
    assert_eq!(config.namespace.as_deref(), Some("perouter"));
    assert!(config.timers.bfd.is_some() && config.mtu.is_none());
}

#[test]
fn empty_means_unset_and_blanks_do_not_count() {
    assert_eq!(read(&[("VRF_METALLB", " "), ("INTERFACE_MTU", "")]), read(&[]));
    assert_eq!(read(&[("NODE_IP", " 10.0.0.1\t")]), read(&[]));
    assert!(read(&[("NODE_IP", "")]).unwrap_err()[0].contains("must be set"));
}

#[test]
fn all_problems_come_together() {
    let problems = read(&[("NODE_IP", "x"), ("ASN_LOCAL", "0"), ("FE_MACS", "y"), ("ENABLE_BFD", "maybe")]);
    assert_eq!(problems.unwrap_err().len(), 4);
}

#[test]
fn a_misspelt_name_is_put_right() {
    for (name, nearest) in [
        ("ASN_LOCLA", "ASN_LOCAL"),
        ("FE_MAC", "FE_MACS"),
        ("node_ip", "NODE_IP"),
        ("PEER_IP_FRRR", "PEER_IP_FRR"),
        ("RETURN_PAHT", "RETURN_PATH"),
    ] {
        let problems = read(&[(name, "1")]).unwrap_err();
        assert_eq!(problems, [format!("{name}: unknown variable, did you mean {nearest}?")]);
    }
    let foreign =
        [("PATH", "/bin"), ("HOME", "/"), ("HOSTNAME", "n"), ("METALLB_NAMESPACE", "x"), ("NETS", "y")];
    assert!(read(&foreign).is_ok());
}

#[test]
fn a_value_that_is_not_text_is_named() {
    use std::os::unix::ffi::OsStringExt as _;
    let vars = [("NODE_IP", b"10.0.0.\xff".to_vec()), ("OTHER", b"\xff".to_vec())];
    let vars = vars.map(|(k, v)| (k.into(), OsString::from_vec(v)));
    let problems = from_vars(vars).unwrap_err();
    assert!(problems.iter().any(|p| p.0.starts_with("NODE_IP=") && p.0.contains("UTF-8")), "{problems:?}");
}

#[test]
fn secrets_are_not_shown() {
    let problems = read(&[("FABRIC_PASSWORD", "top secret")]).unwrap_err();
    assert!(!problems[0].contains("secret") && problems[0].starts_with("FABRIC_PASSWORD"), "{problems:?}");
}

/// Each of these is refused with exactly one line that names the variable.
#[test]
fn bad_values() {
    let long = "a".repeat(300);
    let macs = (1..=65).map(|i| format!("02:00:00:00:00:{i:02x}")).collect::<Vec<_>>().join(",");
    let bad = [
        ("NODE_IP", "10.0.0"),
        ("NODE_IP", "fd00::1"),
        ("NODE_IP", "127.0.0.1"),
        ("NODE_IP", "224.0.0.1"),
        ("NODE_IP", "0.0.0.0"),
        ("NODE_IP", "10.0.0.1/32"),
        ("NODE_IP", "10.0.0.1\n!\nrouter bgp 1"),
        ("NODE_IP", &long),
        ("ASN_LOCAL", "0"),
        ("ASN_LOCAL", "4294967296"),
        ("ASN_LOCAL", "23456"),
        ("ASN_LOCAL", "AS65001"),
        ("ASN_LOCAL", "65001 vrf x"),
        ("FE_MACS", "02:00:00:00:00"),
        ("FE_MACS", "02:00:00:00:00:01,02:00:00:00:00:01"),
        ("FE_MACS", "01:00:5e:00:00:01"),
        ("FE_MACS", "00:00:00:00:00:00"),
        ("FE_MACS", ","),
        ("FE_MACS", "eth0"),
        ("FE_MACS", &macs),
        ("FE_TIMEOUT", "0"),
        ("FE_TIMEOUT", "1 h"),
        ("FABRIC_PASSWORD", "a b"),
        ("FABRIC_PASSWORD", "a\nb"),
        ("FABRIC_PASSWORD", "a|include"),
        ("FABRIC_PASSWORD", &long),
        ("NETNS", "../host"),
        ("NETNS", "a/b"),
        ("NETNS", "."),
        ("NETNS", &long),
        ("UNDERLAY_FORCE_MOVE", "2"),
        ("VRF_METALLB", "metallb-vrf-name"),
        ("VRF_METALLB", "default"),
        ("VRF_METALLB", "a b"),
        ("VRF_METALLB", "a!b"),
        ("VRF_METALLB", "m\n!"),
        ("VRF_METALLB", "frr-metallb"),
        ("METALLB_VRF_ROUTE_TABLE_ID", "254"),
        ("METALLB_VRF_ROUTE_TABLE_ID", "0"),
        ("METALLB_VRF_ROUTE_TABLE_ID", "main"),
        ("METALLB_VRF_ROUTE_TABLE_ID", "880"),
        ("ASN_VRF_METALLB", "4000099999"),
        ("ASN_METALLB_SPEAKER", "-1"),
        ("PEER_IP_FRR", "fe80::1"),
        ("PEER_IP_FRR", "10.0.0.1"),
        ("PEER_IP_FRR", "::1"),
        ("PEER_IP_FRR", "fda1:b2c3:d4e5:1::1"),
        ("PEER_IP_METALLB", "fda1:b2c3:d4e5:2::1"),
        ("PEER_IP_METALLB", "ff02::1"),
        ("PEER_IP_PREFIX", "128"),
        ("PEER_IP_PREFIX", "99999999999999999999"),
        ("PEER_IPV4_FRR", "fd00::1"),
        ("PEER_IPV4_METALLB", "169.254.88.2"),
        ("PEER_IPV4_METALLB", "none"),
        ("PEER_IPV4_PREFIX", "32"),
        ("METALLB_ALLOWED_PREFIXES", "198.51.100.1/24"),
        ("METALLB_ALLOWED_PREFIXES", "198.51.100.0"),
        ("METALLB_ALLOWED_PREFIXES", "any"),
        ("METALLB_PASSWORD", "#x"),
        ("INTERFACE_MTU", "1279"),
        ("INTERFACE_MTU", "65536"),
        ("INTERFACE_MTU", "jumbo"),
        ("RETURN_PATH", "default"),
        ("RETURN_MARK", "0x3"),
        ("RETURN_MARK", "0"),
        ("RETURN_TABLE", "255"),
        ("RETURN_TABLE", "88"),
        ("BGP_HOLD_TIME", "8"),
        ("BGP_KEEPALIVE_TIME", "4"),
        ("BGP_CONNECT_TIME", "0"),
        ("GR_RESTART_TIME", "4096"),
        ("GR_RESTART_TIME", "10"),
        ("GR_STALEPATH_TIME", "60"),
        ("GR_SELECT_DEFER_TIME", "56"),
        ("ENABLE_BFD", "si"),
        ("BFD_RECEIVE_INTERVAL", "9"),
        ("BFD_TRANSMIT_INTERVAL", "60001"),
        ("BFD_DETECT_MULTIPLIER", "1"),
        ("FRR_TEMPLATE", "frr.conf.j2"),
        ("FRR_TEMPLATE", "/run/../etc/shadow"),
        ("LOG_LEVEL", "trace"),
        ("LOG_FORMAT", "xml"),
    ];
    for (name, value) in bad {
        let problems = read(&[(name, value)]).expect_err(&format!("{name}={value:?}"));
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(problems[0].contains(name), "{problems:?}");
        assert!(!problems[0].contains('\n') && problems[0].len() < 300, "{problems:?}");
    }
}

proptest::proptest! {
    /// Whatever the environment says: no panic, and every problem is one line that names a variable.
    #[test]
    fn any_environment(which in 0..SETTINGS.len(), value in ".{0,80}") {
        if let Err(problems) = read(&[(SETTINGS[which].name, value.as_str())]) {
            for problem in problems {
                proptest::prop_assert!(!problem.contains('\n'));
                proptest::prop_assert!(problem.contains(SETTINGS[which].name), "{}", problem);
            }
        }
    }
}
