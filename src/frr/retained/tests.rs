use super::*;
use crate::frr::delta::VtyCommand;
use crate::model::Value as _;

fn routers() -> RetainedRouters {
    let asn = |text| Asn::parse(text).unwrap();
    RetainedRouters { asn: asn("65001"), vrf_asn: asn("4000099998"), vrf: VrfName::parse("metallb").unwrap() }
}

fn path(more: &str) -> String {
    format!(
        r#"[{{"aspath":{{"string":"1"}},"bestpath":{{"overall":false}}}},
        {{"aspath":{{"string":"4000099999","length":1}},"origin":"IGP","metric":0,{more}"bestpath":{{"overall":true}}}}]"#
    )
}

fn reply(prefix: &str, more: &str) -> String {
    format!(
        r#"{{"vrfName":"metallb","tableVersion":7,"routes":{{"{prefix}":{{"prefix":"{prefix}","paths":{}}}}}}}"#,
        path(more)
    )
}

fn known(replies: &[String]) -> Services {
    let mut known = Services::default();
    for (prefix, attributes) in replies.iter().flat_map(|reply| services(reply)) {
        known.insert(prefix, attributes.unwrap());
    }
    known
}

#[test]
fn services_are_announced_with_their_original_attributes() {
    let known = known(&[
        reply("198.51.100.1/32", r#""community":{"string":"65000:1 no-export"},"#),
        reply("2001:db8::1/128", r#""locPrf":300,"#),
        // One route, as bgpd shows it for a command with its prefix.
        format!(
            r#"{{"prefix":"198.51.100.2/32","paths":{}}}"#,
            path(r#""community":{"string":"65000:1 no-export"},"#)
        ),
        r#"{"routes":{"198.51.100.9/32":[]}}"#.into(),
    ]);
    assert_eq!(known.len(), 3);
    let text = routers().configuration(&known);
    assert_eq!(
        text,
        "route-map frr-supervisor-held-0 permit 10\n set as-path prepend 4000099998 4000099999\n set origin igp\n \
         set metric 0\n set community 65000:1 no-export\n set weight 29998\nexit\n\
         route-map frr-supervisor-held-1 permit 10\n set as-path prepend 4000099998 4000099999\n set origin igp\n \
         set metric 0\n set local-preference 300\n set weight 29998\nexit\n\
         router bgp 65001\n no bgp network import-check\n address-family ipv4 unicast\n \
         network 198.51.100.1/32 route-map frr-supervisor-held-0\n \
         network 198.51.100.2/32 route-map frr-supervisor-held-0\n exit-address-family\n \
         address-family ipv6 unicast\n network 2001:db8::1/128 route-map frr-supervisor-held-1\n \
         exit-address-family\nexit\n"
    );
    assert_eq!(routers().configuration(&Services::default()), "");
    let release = routers().release_commands(&["198.51.100.2/32".parse().unwrap()]);
    assert_eq!(
        release[2..],
        [
            "router bgp 65001",
            "address-family ipv4 unicast",
            "no network 198.51.100.2/32",
            "exit-address-family",
            "exit"
        ]
    );
}

#[test]
fn the_import_check_is_restored_unless_the_default_instance_has_none() {
    let off = " no bgp network import-check\n";
    let is_restored = |text: &str| {
        let commands = routers().cleanup_commands(2, &text.into());
        assert_eq!(commands.last().unwrap(), "no route-map frr-supervisor-held-1");
        commands.contains(&"bgp network import-check".to_owned())
    };
    // The setting of a VRF's instance does not count for the default one.
    for enabled in [
        String::new(),
        format!("router bgp 65001 vrf red\n{off}exit\n!\nrouter bgp 65001\n bgp router-id 10.0.0.1\nexit\n"),
        format!("router bgp 65001\n neighbor x\n !\nexit\n!\nrouter bgp 65001 vrf red\n{off}exit\n"),
        format!("router bgp 65001 view v\n{off}"),
        format!("router bgp 65001\nroute-map x permit 1\n{off}"),
        format!("router bgp 65001\n{off} bgp network import-check\n"),
    ] {
        assert!(is_restored(&enabled), "{enabled}");
    }
    for disabled in [
        format!("router bgp 65001\n{off}exit\n"),
        format!("router bgp 65001 as-notation plain\n bgp x\n !\n{off}"),
        format!("router bgp 65001 vrf default\n{off}"),
        format!(
            "router bgp 7 vrf red\nexit\nrouter bgp 65001\n address-family ipv4 unicast\n exit-address-family\n{off}exit\n"
        ),
    ] {
        assert!(!is_restored(&disabled), "{disabled}");
    }
}

#[test]
fn attributes_that_a_route_map_can_not_set_are_not_retained() {
    let long = format!(r#""community":{{"string":"{}"}},"#, "65000:1 ".repeat(200));
    for more in [
        r#""extendedCommunity":{"string":"LB:65000:1"},"#,
        r#""community":{"string":"65000:1\n network 0.0.0.0/0"},"#,
        &long,
    ] {
        assert_eq!(services(&reply("198.51.100.1/32", more))[0].1, None);
    }
    let confederation = reply("198.51.100.1/32", "").replace("4000099999", "(65001) {1,2}");
    assert_eq!(services(&confederation)[0].1, None);
    assert_eq!(services("% No such VRF"), []);
}

#[test]
fn a_service_is_released_when_the_speakers_path_is_imported() {
    let vrf = r#"{"prefix":"198.51.100.1/32","paths":[{"valid":true,"bestpath":{"overall":true}}]}"#;
    let default = |imported: &str, retained: &str| {
        format!(
            r#"{{"prefix":"198.51.100.1/32","paths":[{{"importedFrom":"x:1",{imported}"sourced":true,"local":true}},
            {{"valid":true,{retained}"sourced":true,"local":true}}]}}"#
        )
    };
    let best = r#""bestpath":{"overall":true},"#;
    let valid = format!(r#""valid":true,{best}"#);
    assert_eq!(speaker_path(vrf, &default(&valid, "")), SpeakerPath::Imported);
    // A template of the operator may give the speaker's paths no weight.
    assert_eq!(speaker_path(vrf, &default(r#""valid":true,"#, best)), SpeakerPath::Imported);
    // bgpd defers its selection: the retained route is still the best one.
    let weights = |imported: u16| {
        default(
            &format!(r#""valid":true,"weight":{imported},"#),
            r#""weight":29998,"bestpath":{"overall":true},"#,
        )
    };
    assert_eq!(speaker_path(vrf, &weights(29999)), SpeakerPath::Pending);
    assert_eq!(speaker_path(vrf, &weights(0)), SpeakerPath::Imported);
    // Its next hop is not resolved yet in the default instance, or no path is selected yet.
    assert_eq!(speaker_path(vrf, &default(r#""valid":false,"#, best)), SpeakerPath::Pending);
    assert_eq!(speaker_path(vrf, &default("", best)), SpeakerPath::Pending);
    assert_eq!(speaker_path(vrf, &default(r#""valid":true,"#, "")), SpeakerPath::Pending);
    // The VRF has the path, but it is not usable.
    let alone = r#"{"paths":[{"valid":true,"bestpath":{"overall":true},"sourced":true,"local":true}]}"#;
    assert_eq!(speaker_path(r#"{"prefix":"198.51.100.1/32","paths":[]}"#, alone), SpeakerPath::Pending);
    assert_eq!(speaker_path("{}", alone), SpeakerPath::Absent);
    // An invalid reply decides nothing.
    assert_eq!(speaker_path("", ""), SpeakerPath::Pending);
    assert_eq!(speaker_path("% x", alone), SpeakerPath::Pending);
}

#[test]
fn the_reason_why_a_service_is_not_announced_is_found() {
    let plain = services(&reply("198.51.100.1/32", "")).remove(0).1.unwrap();
    let marked = |community: &str| {
        let more = format!(r#""community":{{"string":"65000:7 {community}"}},"#);
        services(&reply("198.51.100.1/32", &more)).remove(0).1.unwrap()
    };
    let imported = r#"{"importedFrom":"x:1","valid":true,"bestpath":{"overall":true}}"#;
    let advertised = format!(r#"{{"advertisedTo":{{"eth1":{{}}}},"paths":[{imported}]}}"#);
    let unadvertised = format!(r#"{{"paths":[{imported}]}}"#);
    assert_eq!(unannounced(&advertised, &plain), None);
    let each = r#"{"paths":[{"importedFrom":"x:1","advertisedTo":{"eth1":{}},"bestpath":{"overall":true}}]}"#;
    assert_eq!(unannounced(each, &plain), None);
    assert_eq!(unannounced("% x", &plain), None);
    assert_eq!(unannounced("{}", &plain), Some(Unannounced::NotImported));
    assert_eq!(unannounced(&unadvertised, &plain), Some(Unannounced::Filtered));
    assert_eq!(unannounced(&unadvertised, &marked("no-export")), Some(Unannounced::Community("no-export")));
    assert_eq!(
        unannounced(&unadvertised, &marked("no-advertise")),
        Some(Unannounced::Community("no-advertise"))
    );
    let deferred = r#"{"paths":[{"importedFrom":"x:1","valid":true}]}"#;
    assert_eq!(unannounced(deferred, &plain), None);
    let unresolved = r#"{"paths":[{"importedFrom":"x:1","valid":false}]}"#;
    assert_eq!(unannounced(unresolved, &plain), Some(Unannounced::Unusable));
    let not_best = r#"{"paths":[{"importedFrom":"x:1","valid":true},{"bestpath":{"overall":true}}]}"#;
    assert_eq!(unannounced(not_best, &plain), Some(Unannounced::NotBest));
    let learned = not_best.replace(r#"{"best"#, r#"{"peer":{"peerId":"fe80::1","type":"external"},"best"#);
    assert_eq!(unannounced(&learned, &plain), Some(Unannounced::Learned));
}

#[test]
fn the_speaker_state_is_read_from_its_sessions() {
    let neighbor = |state: &str, v4: bool| {
        format!(
            r#"{{"vrfId":2,"fd00::1":{{"bgpState":"{state}","gracefulRestartInfo":{{"endOfRibRecv":
            {{"ipv4Unicast":{v4},"ipv6Unicast":true}}}}}}}}"#
        )
    };
    assert_eq!(speaker_state(&neighbor("Established", true)), (true, true));
    assert_eq!(speaker_state(&neighbor("Established", false)), (true, false));
    assert_eq!(speaker_state(&neighbor("Active", true)), (false, false));
    assert_eq!(speaker_state("{}"), (false, false));
    assert_eq!(speaker_state(""), (false, false));
}

#[test]
fn the_summary_shows_changes() {
    let reply = |v4: u64| {
        format!(
            r#"{{"ipv4Unicast":{{"vrfName":"metallb","tableVersion":{v4},"peers":{{"fd00::1":{{"pfxRcd":3}}}}}},
            "ipv6Unicast":{{"tableVersion":8}}}}"#
        )
    };
    let first = summary(&reply(7)).unwrap();
    assert_eq!((first.versions, first.received), (TableVersions { v4: 7, v6: 8 }, 3));
    let later = summary(&reply(9)).unwrap().versions;
    assert_eq!(later.changes_since(first.versions), Some(2));
    assert_eq!(first.versions.changes_since(later), None);
    assert_eq!(
        routers().changes_commands(first.versions)[0],
        "show bgp vrf metallb ipv4 unicast version 8 json detail"
    );
    assert_eq!(summary(""), None);
    assert_eq!(summary(r#"{"warning":"no such VRF"}"#), None);
}

#[test]
fn a_change_does_not_end_the_retention() {
    let texts = [
        "router bgp 65001 vrf red",
        "bgp network import-check",
        "router bgp 65001",
        "bgp network import-check",
        "x",
    ];
    let commands = texts.iter().map(|text| VtyCommand { text: (*text).into(), optional: false }).collect();
    let mut steps = [Step { daemon: crate::frr::DaemonKind::Bgpd, commands }];
    remove_import_check(&mut steps);
    let left: Vec<&str> = steps[0].commands.iter().map(|command| command.text.as_str()).collect();
    assert_eq!(left, [texts[0], texts[1], texts[2], "x"]);
}
