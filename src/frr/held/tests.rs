use super::*;
use crate::frr::delta::Command;
use crate::model::Value as _;

fn place() -> Place {
    let asn = |text| Asn::parse(text).unwrap();
    Place { asn: asn("65001"), vrf_asn: asn("4000099998"), vrf: VrfName::parse("metallb").unwrap() }
}

fn path(more: &str) -> String {
    format!(
        r#"[{{"aspath":{{"string":"1"}},"bestpath":{{"overall":false}}}},
        {{"aspath":{{"string":"4000099999","length":1}},"origin":"IGP","metric":0,{more}"bestpath":{{"overall":true}}}}]"#
    )
}

fn answer(prefix: &str, more: &str) -> String {
    format!(
        r#"{{"vrfName":"metallb","tableVersion":7,"routes":{{"{prefix}":{{"prefix":"{prefix}","paths":{}}}}}}}"#,
        path(more)
    )
}

fn known(answers: &[String]) -> Services {
    let mut known = Services::default();
    for (prefix, attributes) in answers.iter().flat_map(|answer| services(answer)) {
        known.insert(prefix, attributes.unwrap());
    }
    known
}

#[test]
fn what_was_announced_is_announced_again_as_it_was() {
    let known = known(&[
        answer("198.51.100.1/32", r#""community":{"string":"65000:1 no-export"},"#),
        answer("2001:db8::1/128", r#""locPrf":300,"#),
        // One route by itself, as it is shown when it is asked for by its prefix.
        format!(
            r#"{{"prefix":"198.51.100.2/32","paths":{}}}"#,
            path(r#""community":{"string":"65000:1 no-export"},"#)
        ),
        r#"{"routes":{"198.51.100.9/32":[]}}"#.into(),
    ]);
    assert_eq!(known.len(), 3);
    let text = place().configuration(&known);
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
    assert_eq!(place().configuration(&Services::default()), "");
    let release = place().release(&["198.51.100.2/32".parse().unwrap()]);
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
fn what_is_not_the_default_instances_own_is_taken_back() {
    let off = " no bgp network import-check\n";
    let taken_back = |text: &str| {
        let commands = place().tidy(2, text);
        assert_eq!(commands.last().unwrap(), "no route-map frr-supervisor-held-1");
        commands.contains(&"bgp network import-check".to_owned())
    };
    // An instance of a VRF may have it; that says nothing of the default one.
    for theirs in [
        String::new(),
        format!("router bgp 65001 vrf red\n{off}exit\n!\nrouter bgp 65001\n bgp router-id 10.0.0.1\nexit\n"),
        format!("router bgp 65001\n neighbor x\n !\nexit\n!\nrouter bgp 65001 vrf red\n{off}exit\n"),
        format!("router bgp 65001 view v\n{off}"),
        format!("router bgp 65001\nroute-map x permit 1\n{off}"),
        format!("router bgp 65001\n{off} bgp network import-check\n"),
    ] {
        assert!(taken_back(&theirs), "{theirs}");
    }
    for ours in [
        format!("router bgp 65001\n{off}exit\n"),
        format!("router bgp 65001 as-notation plain\n bgp x\n !\n{off}"),
        format!("router bgp 65001 vrf default\n{off}"),
        format!(
            "router bgp 7 vrf red\nexit\nrouter bgp 65001\n address-family ipv4 unicast\n exit-address-family\n{off}exit\n"
        ),
    ] {
        assert!(!taken_back(&ours), "{ours}");
    }
}

#[test]
fn what_can_not_be_said_again_is_not_retained() {
    let long = format!(r#""community":{{"string":"{}"}},"#, "65000:1 ".repeat(200));
    for more in [
        r#""extendedCommunity":{"string":"LB:65000:1"},"#,
        r#""community":{"string":"65000:1\n network 0.0.0.0/0"},"#,
        &long,
    ] {
        assert_eq!(services(&answer("198.51.100.1/32", more))[0].1, None);
    }
    let confederation = answer("198.51.100.1/32", "").replace("4000099999", "(65001) {1,2}");
    assert_eq!(services(&confederation)[0].1, None);
    assert_eq!(services("% No such VRF"), []);
}

#[test]
fn a_service_is_released_when_the_speakers_own_path_has_its_place() {
    let vrf = r#"{"prefix":"198.51.100.1/32","paths":[{"valid":true,"bestpath":{"overall":true}}]}"#;
    let default = |imported: &str, retained: &str| {
        format!(
            r#"{{"prefix":"198.51.100.1/32","paths":[{{"importedFrom":"x:1",{imported}"sourced":true,"local":true}},
            {{"valid":true,{retained}"sourced":true,"local":true}}]}}"#
        )
    };
    let best = r#""bestpath":{"overall":true},"#;
    let valid = format!(r#""valid":true,{best}"#);
    assert_eq!(turn(vrf, &default(&valid, "")), Turn::Taken);
    // The operator's own template gives the speaker no weight.
    assert_eq!(turn(vrf, &default(r#""valid":true,"#, best)), Turn::Taken);
    // Its next hop is not known yet in the default instance; or no path is selected yet.
    assert_eq!(turn(vrf, &default(r#""valid":false,"#, best)), Turn::Waiting);
    assert_eq!(turn(vrf, &default("", best)), Turn::Waiting);
    assert_eq!(turn(vrf, &default(r#""valid":true,"#, "")), Turn::Waiting);
    // It is there, but not usable in the VRF.
    let alone = r#"{"paths":[{"valid":true,"bestpath":{"overall":true},"sourced":true,"local":true}]}"#;
    assert_eq!(turn(r#"{"prefix":"198.51.100.1/32","paths":[]}"#, alone), Turn::Waiting);
    assert_eq!(turn("{}", alone), Turn::Absent);
    // What is no answer says nothing.
    assert_eq!(turn("", ""), Turn::Waiting);
    assert_eq!(turn("% x", alone), Turn::Waiting);
}

#[test]
fn a_service_that_no_leaf_is_told_of_is_named_with_the_reason() {
    let plain = services(&answer("198.51.100.1/32", "")).remove(0).1.unwrap();
    let marked = |community: &str| {
        let more = format!(r#""community":{{"string":"65000:7 {community}"}},"#);
        services(&answer("198.51.100.1/32", &more)).remove(0).1.unwrap()
    };
    let imported = r#"{"importedFrom":"x:1","valid":true,"bestpath":{"overall":true}}"#;
    let told = format!(r#"{{"advertisedTo":{{"eth1":{{}}}},"paths":[{imported}]}}"#);
    let alone = format!(r#"{{"paths":[{imported}]}}"#);
    assert_eq!(unannounced(&told, &plain), None);
    let each = r#"{"paths":[{"importedFrom":"x:1","advertisedTo":{"eth1":{}},"bestpath":{"overall":true}}]}"#;
    assert_eq!(unannounced(each, &plain), None);
    assert_eq!(unannounced("% x", &plain), None);
    assert_eq!(unannounced("{}", &plain), Some(Unannounced::NotImported));
    assert_eq!(unannounced(&alone, &plain), Some(Unannounced::Filtered));
    assert_eq!(unannounced(&alone, &marked("no-export")), Some(Unannounced::Community("no-export")));
    assert_eq!(unannounced(&alone, &marked("no-advertise")), Some(Unannounced::Community("no-advertise")));
    let deferred = r#"{"paths":[{"importedFrom":"x:1","valid":true}]}"#;
    assert_eq!(unannounced(deferred, &plain), None);
    let unresolved = r#"{"paths":[{"importedFrom":"x:1","valid":false}]}"#;
    assert_eq!(unannounced(unresolved, &plain), Some(Unannounced::Unusable));
    let beaten = r#"{"paths":[{"importedFrom":"x:1","valid":true},{"bestpath":{"overall":true}}]}"#;
    assert_eq!(unannounced(beaten, &plain), Some(Unannounced::NotBest));
    let leafs = beaten.replace(r#"{"best"#, r#"{"peer":{"peerId":"fe80::1","type":"external"},"best"#);
    assert_eq!(unannounced(&leafs, &plain), Some(Unannounced::Learned));
}

#[test]
fn the_speaker_is_back_when_it_has_said_all() {
    let neighbor = |state: &str, v4: bool| {
        format!(
            r#"{{"vrfId":2,"fd00::1":{{"bgpState":"{state}","gracefulRestartInfo":{{"endOfRibRecv":
            {{"ipv4Unicast":{v4},"ipv6Unicast":true}}}}}}}}"#
        )
    };
    assert_eq!(speaker_is_back(&neighbor("Established", true)), (true, true));
    assert_eq!(speaker_is_back(&neighbor("Established", false)), (true, false));
    assert_eq!(speaker_is_back(&neighbor("Active", true)), (false, false));
    assert_eq!(speaker_is_back("{}"), (false, false));
    assert_eq!(speaker_is_back(""), (false, false));
}

#[test]
fn the_summary_tells_of_changes() {
    let answer = |v4: u64| {
        format!(
            r#"{{"ipv4Unicast":{{"vrfName":"metallb","tableVersion":{v4},"peers":{{"fd00::1":{{"pfxRcd":3}}}}}},
            "ipv6Unicast":{{"tableVersion":8}}}}"#
        )
    };
    let seen = summary(&answer(7)).unwrap();
    assert_eq!((seen.tables, seen.received), (Tables { v4: 7, v6: 8 }, 3));
    let later = summary(&answer(9)).unwrap().tables;
    assert_eq!(later.changes_since(seen.tables), Some(2));
    assert_eq!(seen.tables.changes_since(later), None);
    assert_eq!(
        place().changes_questions(seen.tables)[0],
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
    let commands = texts.iter().map(|text| Command { text: (*text).into(), optional: false }).collect();
    let mut steps = [Step { daemon: "bgpd", commands }];
    spare(&mut steps);
    let left: Vec<&str> = steps[0].commands.iter().map(|command| command.text.as_str()).collect();
    assert_eq!(left, [texts[0], texts[1], texts[2], "x"]);
}
