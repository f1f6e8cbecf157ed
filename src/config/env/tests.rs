use super::*;

fn read(vars: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let base = [("NODE_IP", "10.0.0.1"), ("ASN_LOCAL", "65001"), ("FE_MACS", "02:00:00:00:00:01")];
    let base = base.iter().filter(|(name, _)| !vars.iter().any(|(n, _)| n == name));
    from_vars(base.chain(vars).map(|(k, v)| ((*k).into(), (*v).into())))
        .map_err(|problems| problems.into_iter().map(|p| p.0).collect())
}

#[test]
fn every_setting_has_a_field() {
    // Every row has a field: a text that no type accepts is reported for exactly this variable.
    for setting in SETTINGS {
        let problems = read(&[(setting.name, "\u{1}")]).unwrap_err();
        assert_eq!(problems.len(), 1, "{}: {problems:?}", setting.name);
        assert!(problems[0].starts_with(setting.name), "{problems:?}");
    }
}

#[test]
fn defaults_come_from_the_table() {
    let config = read(&[]).unwrap();
    let metallb = config.metallb.as_ref().unwrap();
    assert_eq!(metallb.vrf.to_string(), "metallb");
    assert_eq!(metallb.table.get(), 88);
    assert_eq!(metallb.v6.frr.to_string(), "fda1:b2c3:d4e5:1::");
    assert_eq!(metallb.v6.prefix, 127);
    assert_eq!(metallb.speaker_asn.to_string(), "4000099999");
    assert_eq!(config.settings.netns.as_deref(), Some("perouter"));
    assert!(config.timers.bfd.is_some() && config.settings.interface_mtu.is_none());
}

#[test]
fn bgpd_uses_bfd_only_if_it_is_faster_than_the_hold_time() {
    for (receive, multiplier, hold, coupled) in [
        ("3000", "5", "9", false),
        ("1000", "9", "9", false),
        ("300", "3", "9", true),
        ("3000", "5", "30", true),
    ] {
        let set = [
            ("BFD_RECEIVE_INTERVAL", receive),
            ("BFD_DETECT_MULTIPLIER", multiplier),
            ("BGP_HOLD_TIME", hold),
        ];
        let config = read(&[&set[..], &[("BFD_TRANSMIT_INTERVAL", "300")]].concat()).unwrap();
        assert_eq!(config.timers.bfd.unwrap().coupled, coupled, "{set:?}");
    }
}

#[test]
fn an_empty_value_is_unset_and_values_are_trimmed() {
    assert_eq!(read(&[("VRF_METALLB", " "), ("INTERFACE_MTU", "")]), read(&[]));
    assert_eq!(read(&[("NODE_IP", " 10.0.0.1\t")]), read(&[]));
    assert!(read(&[("NODE_IP", "")]).unwrap_err()[0].contains("must be set"));
}

#[test]
fn all_problems_are_reported_at_once() {
    let problems = read(&[("NODE_IP", "x"), ("ASN_LOCAL", "0"), ("FE_MACS", "y"), ("ENABLE_BFD", "maybe")]);
    assert_eq!(problems.unwrap_err().len(), 4);
}

#[test]
fn a_misspelt_name_gets_a_suggestion() {
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
fn control_characters_in_a_name_are_escaped() {
    let problems = read(&[("FE_\u{1b}[31mX\u{202e}\n", "1")]).unwrap_err();
    assert_eq!(problems, ["FE_\\u{1b}[31mX\\u{202e}\\n: unknown variable, did you mean FE_MACS?"]);
    assert!(read(&[(&format!("FE_{}", "X".repeat(10_000)), "1")]).unwrap_err()[0].len() < 150);
}

#[test]
fn the_link_to_the_speaker_must_not_contain_node_ip() {
    for vars in [
        [("NODE_IP", "169.254.88.1"), ("NETNS", "perouter"), ("LOG_LEVEL", "info")],
        [("NODE_IP", "169.254.88.0"), ("NETNS", "host"), ("LOG_LEVEL", "info")],
        [("PEER_IPV4_FRR", "10.0.0.2"), ("PEER_IPV4_METALLB", "10.0.0.3"), ("PEER_IPV4_PREFIX", "24")],
        [
            ("PEER_IP_FRR", "fda1:b2c3:d4e5::2"),
            ("PEER_IP_METALLB", "fda1:b2c3:d4e5::3"),
            ("PEER_IP_PREFIX", "64"),
        ],
    ] {
        let problems = read(&vars).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains("NODE_IP"), "{problems:?}");
        assert!(problems[0].contains("the subnet of the link to MetalLB"), "{problems:?}");
    }
    assert!(read(&[("NODE_IP", "169.254.88.1"), ("PEER_IPV4_FRR", "none")]).is_ok());
}

#[test]
fn each_forbidden_allowed_prefix_is_reported() {
    let problems =
        read(&[("METALLB_ALLOWED_PREFIXES", "127.0.0.0/8,198.51.100.0/24,10.0.0.1/32,::/0,10.0.0.0/24")]);
    let problems = problems.unwrap_err();
    assert!(problems.len() == 2 && problems[0].contains(": 127.0.0.0/8 is in 127.0.0.0/8, "), "{problems:?}");
    assert!(problems[1].contains(": 10.0.0.1/32 is in 10.0.0.1, the node's own address"), "{problems:?}");
    let problems = read(&[("METALLB_ALLOWED_PREFIXES", "10.0.0.1/24")]).unwrap_err();
    assert!(problems[0].contains("\"10.0.0.1/24\": has host bits set, write 10.0.0.0/24"), "{problems:?}");
}

#[test]
fn a_value_that_is_not_utf8_is_reported() {
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

include!("../../../tests/bad.rs");

#[test]
fn invalid_values_are_rejected() {
    for (name, value) in BAD {
        let problems = read(&[(name, value)]).expect_err(&format!("{name}={value:?}"));
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(problems[0].contains(name), "{problems:?}");
        assert!(!problems[0].contains('\n') && problems[0].len() < 300, "{problems:?}");
    }
    // The node's own addresses.
    for own in ["10.0.0.1/32", "fda1:b2c3:d4e5::a00:1/128"] {
        let problems = read(&[("NODE_IP", "10.0.0.1"), ("METALLB_ALLOWED_PREFIXES", own)]).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains(own), "{problems:?}");
    }
}

proptest::proptest! {
    /// For any value: no panic, and every problem is one line that names the variable.
    #[test]
    fn any_value_is_handled(which in 0..SETTINGS.len(), value in ".{0,80}") {
        if let Err(problems) = read(&[(SETTINGS[which].name, value.as_str())]) {
            for problem in problems {
                proptest::prop_assert!(!problem.contains('\n'));
                proptest::prop_assert!(problem.contains(SETTINGS[which].name), "{}", problem);
            }
        }
    }
}

#[test]
fn fe_macs_is_optional_only_with_a_file() {
    let read = |more: &[(&str, &str)]| {
        let vars = [("NODE_IP", "10.0.0.1"), ("ASN_LOCAL", "65001")];
        from_vars(vars.iter().chain(more).map(|(k, v)| ((*k).into(), (*v).into())))
    };
    let problems = read(&[]).unwrap_err();
    assert!(problems.len() == 1 && problems[0].0.starts_with("FE_MACS: must be set"), "{problems:?}");
    let mut config = read(&[("CONFIG_FILE", "/vnis.yaml")]).unwrap();
    assert!(config.add_overlay(Overlay::default()).unwrap_err().0.starts_with("FE_MACS: must be set"));
}
