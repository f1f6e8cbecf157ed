use super::*;

#[test]
fn leaving_the_configuration_is_refused() {
    for (text, line) in [
        ("exit\n", 1),
        ("  exit\n", 1),
        ("end\n", 1),
        ("quit\n", 1),
        ("qui\n", 1),
        ("q\n", 1),
        ("ex\n", 1),
        ("en\n", 1),
        ("router bgp 1\n en\n", 2),
        ("router bgp 1\n quit\n", 2),
        ("router bgp 1\nexit\nexit\n", 3),
        ("router bgp 1\n!\n exit\n! x\n\n exit\n", 6),
        ("router bgp 1\n address-family ipv4 unicast\n exit-address-family\nexit\nexit\n", 5),
        ("route-map a permit 1\nroute-map a permit 2\nexit\nexit\n", 4),
        ("vrf red\n vni 5\nexit-vrf\nexit\n", 4),
        ("bfd\n profile a\n profile b\n exit\nexit\nexit\n", 6),
        ("ip prefix-list a permit any\nexit\n", 2),
        ("interface x\n shutdown\nexit\nexit\n", 4),
        ("no router bgp 1\nexit\n", 2),
    ] {
        let error = raw_lines_error(text).unwrap_or_else(|| panic!("{text:?}"));
        assert!(error.starts_with(&format!("raw line {line}: \"")), "{text:?}: {error}");
    }
    let long = format!("!\nip prefix-list {} permit any\n", "x".repeat(FRR_LINE_MAX));
    assert!(raw_lines_error(&long).unwrap().starts_with("raw line 2 is longer than 4094 bytes"));
}

#[test]
fn closing_a_context_is_allowed() {
    for text in [
        "",
        "! exit\n# quit\n",
        "router bgp 1\nexit\n",
        "rou bg 1\nexit\n",
        "int eth0\nexit\n",
        "router bgp 1\n address-family ipv4 unicast\n  network 10.0.0.0/8\n exit-address-family\n !\nexit\n!\n",
        "router bgp 1\n address-family l2vpn evpn\n  vni 7\n   rd 1:1\n  exit-vni\n  vni 8\n  exit\n exit\nexit\n",
        "router bgp 1\n bmp targets x\n exit\n segment-routing srv6\n exit\n vnc defaults\n exit-vnc\nexit\n",
        "bfd\n profile a\n exit\n peer 10.0.0.1\n exit\nexit\nbfd\nexit\n",
        "vrf red\n rpki\n exit\nexit-vrf\nrpki\nexit\n",
        "interface x\n link-params\n exit-link-params\nexit\n",
        "segment-routing\n srv6\n  locators\n   locator x\n   exit\n  exit\n exit\nexit\n",
        "key chain a\n key 1\n exit\nexit\n",
        "line vty\nexit\nrouter ospf\nexit\n",
        "route-map a permit 1\n match ip address x\nroute-map a permit 2\nexit\nip prefix-list x permit any\n",
    ] {
        assert_eq!(raw_lines_error(text), None, "{text:?}");
    }
}

fn raw(text: &str) -> RawLines {
    RawLines { source: String::new(), text: text.into() }
}

#[test]
fn open_contexts_are_closed_at_the_end() {
    for (text, end) in [
        ("router bgp 65001", &["router bgp 65001", "exit"][..]),
        (
            "router bgp 65001\n address-family ipv4 unicast\n  network 10.0.0.0/8",
            &["router bgp 65001", "exit"],
        ),
        (
            "  router  bgp 65001\n  exit\nroute-map a permit 1\n set metric 1\n!",
            &["route-map a permit 1", "exit"],
        ),
        ("vrf red\n rpki", &["vrf red", "exit"]),
        // Inside the context `rpki`, the word `rpki` begins another command.
        ("rpki\n rpki cache", &["interface lo", "exit"]),
        ("router ospf6x\n", &["interface lo", "exit"]),
        ("router bgp x\n", &["interface lo", "exit"]),
        ("route-map x maybe 10\n", &["interface lo", "exit"]),
        ("int eth0\n shut\n", &["interface lo", "exit"]),
        ("router bgp 65001\nexit\n", &[]),
        ("bfd\n profile a\n exit\nexit\n", &[]),
        ("ip prefix-list a permit any\n", &[]),
    ] {
        let framed = raw(text).framed(3);
        let own = text.lines().count();
        assert_eq!(framed[0], "! raw lines 3");
        assert_eq!(framed[1 + own..framed.len() - 1], *end, "{text:?}");
        assert_eq!(framed[framed.len() - 1], "! end of raw lines 3");
    }
    assert_eq!(raw("  vrf a\n   vni 5\n  exit\n").framed(1)[1..4], ["vrf a", " vni 5", "exit"]);
    assert_eq!(raw("!\n  vrf a\n vni 5\nexit").framed(1)[1..5], ["!", "vrf a", "vni 5", "exit"]);
}

#[test]
fn entries_are_located_in_the_rendered_text() {
    let all = [raw("exit\n"), raw("router bgp 1\n timers bgp 3 9\n"), raw("exit\n")];
    let blocks: Vec<String> = all
        .iter()
        .zip(1..)
        .map(|(raw, number)| format!("  {}\n!\n", raw.framed(number).join("\n")))
        .collect();
    let text = format!("router bgp 1\n timers bgp 3 9\nexit\n{}bfd\n", blocks.concat());
    let found = raw_line_ranges(&all, &text);
    assert_eq!(found, [Some(4..=6), Some(8..=13), Some(15..=17)]);
    // A template may omit comments.
    let text = text.replace("! raw lines 2\n", "");
    assert_eq!(raw_line_ranges(&all, &text)[1], None);
    assert_eq!(raw_line_ranges(&[], ""), []);
    assert_eq!(raw_line_ranges(&all[..1], "")[0], None);
}
