use std::ffi::OsString;

use proptest::prelude::*;

use super::*;
use crate::config::{Objects, WithFile, from_vars};
use crate::model::{BgpFamily, NeighborBfd, NeighborId, RemoteAs, Underlay, UnderlayInterface};

fn config(vars: &[(&str, &str)]) -> Config {
    let base = [("NODE_IP", "10.0.0.1"), ("ASN_LOCAL", "65001"), ("FE_MACS", "02:00:00:00:00:01")];
    let all = base.iter().chain(vars).map(|(k, v)| (OsString::from(k), OsString::from(v)));
    from_vars(all).unwrap()
}

/// One file on a node with this number.
pub(super) fn parse_at(index: u32, text: &str) -> (Overlay, Vec<String>) {
    let files = [("vnis.yaml".to_owned(), text.to_owned())];
    let (overlay, problems) = parse_files(&files, &config(&[("NODE_INDEX", &index.to_string())]));
    (overlay, problems.into_iter().map(|problem| problem.0).collect())
}

/// One valid file.
fn parse_valid(index: u32, text: &str) -> Overlay {
    let (overlay, problems) = parse_at(index, text);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(!overlay.incomplete);
    overlay
}

pub(super) fn example() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/vnis.example.yaml")).unwrap()
}

/// A minimal file with a VTEP.
const VTEP: &str = "underlay:\n  tunnelEndpoint:\n    cidrs: [100.65.0.0/24]\n";

fn nets(session: Option<&crate::model::HostSession>) -> Vec<(String, String)> {
    session.unwrap().ends.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

fn pair(a: &str, b: &str) -> (String, String) {
    (a.into(), b.into())
}

#[test]
fn an_empty_file_adds_nothing() {
    for text in ["", "\n", "# nothing\n", "---\n", "{}", "l3vnis:\nl2vnis: []\n"] {
        assert_eq!(parse_valid(3, text), Overlay::default(), "{text:?}");
    }
    assert_eq!(parse_files(&[], &config(&[])), (Overlay::default(), vec![]));
}

#[test]
fn the_example_is_valid() {
    let overlay = parse_valid(3, &example());
    assert_eq!(overlay, parse_valid(3, &example()));

    let underlay = &overlay.underlay;
    assert_eq!(underlay.vtep4.unwrap().to_string(), "100.65.0.3");
    assert_eq!(underlay.vtep6.unwrap().to_string(), "fd00:65::3");
    assert_eq!(underlay.router_id.unwrap().to_string(), "10.255.0.4");
    assert_eq!(underlay.cluster_id.unwrap().to_string(), "192.0.2.1");
    assert_eq!(underlay.graceful_restart, Some((Some(120), Some(360))));
    assert!(
        matches!(&underlay.interfaces[0], UnderlayInterface::Device(name) if name.as_str() == "eth2.100")
    );
    let UnderlayInterface::Macvlan { name, parent, addresses } = &underlay.interfaces[1] else { panic!() };
    assert_eq!((name.as_str(), parent.as_str(), addresses.len()), ("net1", "eth3", 2));
    assert_eq!(addresses[0].to_string(), "192.0.2.130/25");

    let [leaf, unnumbered, clients] = &underlay.neighbors[..] else { panic!() };
    assert_eq!(leaf.peer, NeighborId::Address("192.0.2.129".parse().unwrap()));
    assert_eq!(leaf.password.as_ref().unwrap().reveal(), "change-me");
    assert_eq!(
        (leaf.port, leaf.timers, leaf.connect_s, leaf.multihop),
        (Some(1179), Some((3, 9)), Some(5), Some(4))
    );
    let bfd = NeighborBfd {
        receive_ms: Some(300),
        transmit_ms: Some(300),
        multiplier: Some(3),
        passive: true,
        minimum_ttl: Some(250),
    };
    assert_eq!(leaf.bfd, Some(bfd));
    assert_eq!((unnumbered.remote, unnumbered.bfd), (RemoteAs::External, None));
    assert_eq!(unnumbered.families, [(BgpFamily::Ipv6Unicast, false)]);
    assert_eq!(clients.peer, NeighborId::Range("10.1.0.0/16".parse().unwrap()));
    assert_eq!(clients.families, [(BgpFamily::Ipv4Unicast, false), (BgpFamily::Evpn, true)]);

    let [red, blue] = &overlay.l3vnis[..] else { panic!() };
    assert_eq!((red.name.as_str(), red.vrf.to_string().as_str()), ("red", "red"));
    assert_eq!((red.tunnel.port, red.tunnel.local.to_string().as_str()), (4789, "100.65.0.3"));
    assert_eq!((red.export.len(), red.import[1].to_string().as_str()), (1, "192.0.2.1:7"));
    let wanted = [pair("192.169.10.1/24", "192.169.10.5/24"), pair("fd00:10::1/64", "fd00:10::5/64")];
    assert_eq!(nets(red.session.as_ref()), wanted);
    assert_eq!((blue.name.as_str(), blue.tunnel.port), ("blue", 4790));
    assert_eq!(blue.tunnel.local.to_string(), "fd00:65::3");
    assert_eq!(nets(blue.session.as_ref()), [pair("192.169.11.1/31", "192.169.11.0/31")]);
    assert_eq!(blue.session.as_ref().unwrap().remote, RemoteAs::Internal);

    let [web, plain] = &overlay.l2vnis[..] else { panic!() };
    assert_eq!((web.name.as_str(), web.vrf.as_ref().unwrap().to_string().as_str()), ("web", "red"));
    assert_eq!(
        web.gateways.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["192.170.1.1/24", "fd00:170:1::1/64"]
    );
    let bridge =
        |vni: &crate::model::L2Vni| vni.master.as_ref().map(|m| (m.name.to_string(), m.managed)).unwrap();
    assert_eq!((bridge(web), bridge(plain)), (("br-hs-110".into(), true), ("br0".into(), false)));
    assert_eq!((plain.name.as_str(), &plain.vrf), ("l2-210", &None));

    assert_eq!(nets(overlay.passthrough.as_ref()), [pair("192.169.12.1/24", "192.169.12.5/24")]);
    assert!(
        overlay.raw[0].text.contains("early") && overlay.raw[1].text.contains("late"),
        "{:?}",
        overlay.raw
    );
}

#[test]
fn alternative_key_names_are_accepted() {
    let text = example();
    let text = text.replace("l3passthrough:", "bgppassthrough:").replace("rawFRRConfigs:", "rawfrrconfigs:");
    assert_eq!(parse_valid(3, &text), parse_valid(3, &example()));
    let text = "underlays:\n- tunnelEndpoint:\n    cidrs: [100.65.0.0/24]\n";
    assert_eq!(parse_valid(1, text), parse_valid(1, VTEP));
    assert_eq!(parse_valid(0, "nodeIndex:\n  index: 7\n").underlay, Underlay::default());
}

#[test]
fn the_node_index_of_the_file_is_used() {
    let vtep = |index, text: &str| parse_valid(index, text).underlay.vtep4.unwrap().to_string();
    let text = format!("{VTEP}nodeIndex:\n  index: 7\n");
    assert_eq!((vtep(0, &text).as_str(), vtep(7, &text).as_str()), ("100.65.0.7", "100.65.0.7"));
    assert_eq!(vtep(9, VTEP), "100.65.0.9");
}

#[test]
fn a_neighbor_with_the_local_asn_is_internal() {
    let text = "underlay:\n  neighbors:\n  - address: fd00::1\n    asn: 65001\n  - interface: eth1\n    asn: 65100\n  - address: 10.0.0.9\n    type: External\n    properties:\n    - type: ebgpMultiHop\n    bfd: {}\n";
    let neighbors = parse_valid(0, text).underlay.neighbors;
    assert_eq!(neighbors[0].remote, RemoteAs::Internal);
    assert!(matches!(neighbors[1].remote, RemoteAs::Asn(asn) if asn.to_string() == "65100"));
    assert_eq!((neighbors[2].multihop, neighbors[2].bfd), (Some(255), Some(NeighborBfd::default())));
    assert_eq!((&neighbors[2].families, neighbors[2].timers), (&vec![], None));
}

#[test]
fn absent_keys_have_defaults() {
    let text = "underlay:\n  tunnelEndpoint:\n    cidrs: [\"fd00:65::/64\"]\n  routeReflector: {}\n  gracefulRestart:\n    stalePathTimeSeconds: 400\n  interfaces:\n  - type: Macvlan\n    macvlan: {parent: eth1}\nl3vnis:\n- vrf: Red_1\n  vni: 10\nl2vnis:\n- vni: 20\n  routingDomain: {type: L3VNI, l3vni: {name: Red_1}}\n";
    let overlay = parse_valid(2, text);
    assert_eq!(overlay.underlay.cluster_id.unwrap().to_string(), "192.0.2.1");
    assert_eq!(overlay.underlay.graceful_restart, Some((None, Some(400))));
    assert_eq!(overlay.underlay.interfaces[0].name().as_str(), "net1");
    assert_eq!((overlay.underlay.vtep4, overlay.underlay.router_id), (None, None));
    assert_eq!(overlay.l3vnis[0].tunnel.local.to_string(), "fd00:65::2");
    assert_eq!((overlay.l3vnis[0].name.as_str(), &overlay.l3vnis[0].session), ("Red_1", &None));
    assert_eq!(
        (overlay.l2vnis[0].vrf.as_ref(), overlay.l2vnis[0].name.as_str()),
        (Some(&overlay.l3vnis[0].vrf), "l2-20")
    );
    assert!(overlay.l2vnis[0].master.is_none() && overlay.l2vnis[0].gateways.is_empty());
}

#[test]
fn yaml_aliases_are_resolved() {
    let text = format!(
        "{VTEP}l3vnis:\n- &a\n  vrf: red\n  vni: 10\n  vxlanPort: &port 4790\n- <<: *a\n  vrf: blue\n  vni: 11\n- vrf: green\n  vni: 12\n  vxlanPort: *port\n"
    );
    let ports: Vec<_> =
        parse_valid(0, &text).l3vnis.iter().map(|vni| (vni.name.clone(), vni.tunnel.port)).collect();
    assert_eq!(ports, [("red".into(), 4790), ("blue".into(), 4790), ("green".into(), 4790)]);
}

/// Every key that OpenPERouter has ever had, by its map: it is supported, or the problem names the replacement.
#[test]
fn every_openperouter_key_is_known() {
    let entries: [(&str, &str, &[&str]); 13] = [
        ("nodeIndex: {index: 0", "}", &["interfaceName", "cidr"]),
        (
            "a: 1",
            "",
            &["nodeName", "logLevel", "l3vpns", "apiVersion", "kind", "metadata", "spec", "status", "items"],
        ),
        (
            "underlay: {asn: 65001",
            "}",
            &[
                "routeridcidr",
                "vtepcidr",
                "vtepInterface",
                "nics",
                "evpn",
                "isis",
                "srv6",
                "metadata",
                "spec",
            ],
        ),
        ("underlay: {tunnelEndpoint: {cidrs: [10.9.0.0/24]", "}}", &["vtepcidr", "vtepInterface"]),
        (
            "underlay: {neighbors: [{address: 10.9.0.1, asn: 5",
            "}]}",
            &[
                "hostasn",
                "hostASN",
                "passwordSecret",
                "holdTime",
                "keepaliveTime",
                "connectTime",
                "ebgpMultiHop",
            ],
        ),
        (
            "underlay: {neighbors: [{address: 10.9.0.1, asn: 5, bfd: {receiveInterval: 300",
            "}}]}",
            &["echoInterval", "echoMode", "passiveMode", "minimumTtl"],
        ),
        (
            "l3vnis: [{vrf: red, vni: 1",
            "}]",
            &["asn", "hostasn", "localcidr", "hostsession", "vxlanport", "spec"],
        ),
        (
            "l3vnis: [{vrf: red, vni: 1, hostSession: {asn: 1, hostASN: 2, localCIDR: {ipv4: 10.9.0.0/24}",
            "}}]",
            &["hostasn", "hosttype", "localcidr"],
        ),
        (
            "l2vnis: [{vni: 1",
            "}]",
            &["vrf", "l2gatewayip", "l2gatewayips", "hostmaster", "vxlanport", "metadata", "kind"],
        ),
        (
            "l2vnis: [{vni: 1, hostMaster: {type: LinuxBridge",
            "}}]",
            &["name", "autocreate", "autoCreate", "ovsBridge"],
        ),
        (
            "l2vnis: [{vni: 1, hostMaster: {type: LinuxBridge, linuxBridge: {lifecycle: Managed",
            "}}}]",
            &["autoCreate"],
        ),
        ("l3passthrough: {nodeSelector: {}", "}", &["hostsession", "spec"]),
        ("rawFRRConfigs: [{rawConfig: '!'", "}]", &["metadata", "apiVersion"]),
    ];
    for (begin, end, keys) in entries {
        for key in keys {
            let text =
                if begin == "a: 1" { format!("{key}: 1\n") } else { format!("{begin}, {key}: 1{end}\n") };
            let problems = parse_at(0, &text).1.join("\n");
            let about = problems
                .lines()
                .filter(|line| line.starts_with("vnis.yaml:"))
                .find(|line| line.contains(&format!("{key}: ")) || line.contains(&format!("{key}\": ")));
            assert!(about.is_some_and(|line| line.contains("not supported: ")), "{text}{problems}");
            assert!(!problems.contains("unknown key"), "{text}{problems}");
        }
    }
}

#[test]
fn files_are_merged() {
    let parse_files = |files: &[(&str, &str)]| {
        let files: Vec<_> =
            files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let (overlay, problems) = parse_files(&files, &config(&[]));
        (overlay, problems.into_iter().map(|problem| problem.0).collect::<Vec<_>>())
    };
    let red = "l3vnis:\n- vrf: red\n  vni: 10\n";
    let web = "l2vnis:\n- vni: 20\n  routingDomain: {type: L3VNI, l3vni: {name: red}}\n";
    let (overlay, problems) = parse_files(&[("a", web), ("b", VTEP), ("c", ""), ("d", red)]);
    assert_eq!((overlay.l3vnis.len(), overlay.l2vnis.len(), problems.len()), (1, 1, 0), "{problems:?}");

    // A problem in one file does not affect the others.
    let (overlay, problems) =
        parse_files(&[("a", VTEP), ("b", "l3vnis: ["), ("c", red), ("d", VTEP), ("e", red)]);
    assert_eq!((overlay.l3vnis.len(), overlay.incomplete), (1, true));
    assert!(problems[0].starts_with("b:1:9: unclosed bracket"), "{problems:?}");
    assert!(
        problems[1].starts_with("d:2:3: underlay: is allowed only once and is already set at underlay (a:2)"),
        "{problems:?}"
    );
    assert!(
        problems[2].starts_with("e:2:8: l3vnis[0].vrf=\"red\": already the VRF of l3vnis[0] (c:2)"),
        "{problems:?}"
    );
    assert!(
        problems[3].starts_with("e:3:8: l3vnis[0].vni=\"10\": already the VNI of l3vnis[0] (c:2)"),
        "{problems:?}"
    );
    assert_eq!(problems.len(), 4);
}

#[test]
fn the_number_of_vnis_is_limited() {
    let list =
        |from: u32, n: u32| -> String { (from..from + n).map(|vni| format!("- vni: {vni}\n")).collect() };
    let files = [
        ("a".to_owned(), format!("{VTEP}l2vnis:\n{}", list(1, 4000))),
        ("b".to_owned(), format!("l2vnis:\n{}", list(5000, 97))),
    ];
    let (overlay, problems) = parse_files(&files, &config(&[]));
    assert_eq!((overlay.l2vnis.len(), problems.len()), (4096, 1));
    assert!(problems[0].0.starts_with("b:98:3: l2vnis[96]: too many VNIs"), "{}", problems[0]);
}

/// The problems of these files, found within the time limit. Debug builds are slow and the machine may be busy:
/// quadratic run time takes minutes.
fn problems_in_time(name: &str, files: &[String]) -> Vec<String> {
    let files: Vec<_> =
        files.iter().enumerate().map(|(i, text)| (format!("{i}.yaml"), text.clone())).collect();
    let begin = std::time::Instant::now();
    let (overlay, problems) = parse_files(&files, &config(&[]));
    assert!(begin.elapsed().as_secs() < 10, "{name} took {:?}", begin.elapsed());
    assert_eq!(overlay.incomplete, !problems.is_empty());
    problems.into_iter().map(|problem| problem.0).collect()
}

#[test]
fn a_too_large_file_gets_one_problem_quickly() {
    let keys = |n: usize| -> String { (0..n).map(|i| format!("  key{i}: 1\n")).collect() };
    let long = "x".repeat(100_000);
    let list = format!("[{}]", vec!["1"; 10_000].join(","));
    for (name, text, reason) in [
        (
            "a long text, repeated",
            format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 200_000].join(",")),
            "4 MiB of text",
        ),
        (
            "a long key, repeated",
            format!("a: &a\n  ? {long}\nb: [{}]\n", vec!["*a"; 50_000].join(",")),
            "4 MiB of text",
        ),
        (
            "a list, repeated",
            format!("a: &a {list}\nb: [{}]\n", vec!["*a"; 100_000].join(",")),
            "250000 nodes",
        ),
        ("a list", format!("l3vnis: [{}]\n", vec!["1"; 2_000_000].join(",")), "250000 nodes"),
        ("keys", keys(62_000).replace("  ", ""), "more than 256 keys"),
        ("keys of an entry", format!("l3vnis:\n-\n{}", keys(62_000)), "more than 256 keys"),
        (
            "keys that are merged",
            format!("a: &a\n{}b:\n  <<: *a\n{}", keys(200), keys(100).replace("key", "k")),
            "more than 256 keys",
        ),
    ] {
        let problems = problems_in_time(name, &[text]);
        assert!(problems.len() == 1 && problems[0].contains(reason), "{name}: {problems:?}");
        assert!(problems[0].starts_with("0.yaml:") && problems[0].len() < 400, "{name}: {problems:?}");
    }
    // Repeated merges count only once.
    let merged = format!("a: &a\n{}b: [{}]\n", keys(200), vec!["{<<: [*a, *a]}"; 300].join(","));
    problems_in_time("merged", &[merged]);
}

#[test]
fn the_limits_apply_to_all_files_together() {
    let file =
        |name: char| format!("x-{name}: &a [{}]\ny-{name}: [*a, *a, *a]\n", vec!["1"; 20_000].join(","));
    let problems = problems_in_time("files", &('a'..='z').map(file).collect::<Vec<_>>());
    let broken: Vec<_> =
        problems.iter().filter(|problem| problem.contains("more than 250000 nodes")).collect();
    assert!(broken.len() == 23 && broken[0].starts_with("3.yaml:1:"), "{broken:?}");
    assert!(broken.iter().all(|problem| problem.ends_with(": this file is left out")), "{broken:?}");

    // A file above the limit uses nothing of the budget.
    let bomb = format!("x: &a [{}]\ny: [{}]\n", vec!["1"; 10_000].join(","), vec!["*a"; 100].join(","));
    let red = "l3vnis:\n- vrf: red\n  vni: 10\n".to_owned();
    let files =
        [("0.yaml".to_owned(), bomb), ("1.yaml".to_owned(), VTEP.to_owned()), ("2.yaml".to_owned(), red)];
    let (overlay, problems) = parse_files(&files, &config(&[]));
    assert_eq!((overlay.l3vnis.len(), overlay.incomplete, problems.len()), (1, true, 1), "{problems:?}");
    assert!(problems[0].0.starts_with("0.yaml:2:"), "{problems:?}");
}

#[test]
fn an_unreadable_file_keeps_the_others_and_the_kernel_state() {
    let dir = std::env::temp_dir().join(format!("frr-supervisor-overlay-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("a.yaml"), format!("{VTEP}l3vnis:\n- vrf: red\n  vni: 10\n")).unwrap();
    std::fs::write(dir.join("b.yaml"), b"\xff").unwrap();
    let config = config(&[("CONFIG_FILE", dir.to_str().unwrap())]);
    let WithFile { config: whole, problems, is_lost } = config.with_file(&Objects::default());
    let overlay = whole.unwrap().overlay;
    assert!(is_lost);
    assert_eq!((overlay.l3vnis.len(), overlay.incomplete, problems.len()), (1, true, 1), "{problems:?}");
    let path = config.settings.config_file.as_ref().unwrap();
    assert_eq!(check_without_config(path), problems);
    assert_eq!(empty_directory_warning(path), None);
    std::fs::remove_file(dir.join("a.yaml")).unwrap();
    assert_eq!(empty_directory_warning(path), None);
    // Removing the last file is the way to remove what it added.
    std::fs::rename(dir.join("b.yaml"), dir.join("b.json")).unwrap();
    assert!(empty_directory_warning(path).unwrap().contains("no *.yaml"));
    assert_eq!(config.with_file(&Objects::default()).problems, []);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_number_of_problems_is_limited() {
    let entries: String = (0..4096).map(|i| format!("- {{vni: x{i}, vrf: '!', foo: 1}}\n")).collect();
    let problems = problems_in_time("entries", &[format!("l3vnis:\n{entries}")]);
    assert_eq!(problems.len(), 51);
    assert!(problems[0].starts_with("0.yaml:2:"), "{}", problems[0]);
    assert!(
        problems[50].starts_with(&format!("CONFIG_FILE: {} more problems", 3 * 4096 - 50)),
        "{}",
        problems[50]
    );

    let keys: String = (0..120).map(|i| format!("k{i}: 1,")).collect();
    let entries = format!("- {{{keys}}}\n").repeat(900);
    assert_eq!(problems_in_time("unknown keys", &[format!("l3vnis:\n{entries}")]).len(), 51);
    let keys: String = (0..250).map(|i| format!("k{i}{}: 1\n", "x".repeat(900))).collect();
    assert_eq!(problems_in_time("long keys", &[keys]).len(), 51);
    // All problems on one line, and all of them below a password.
    let entries = vec!["{vni: 0, vrf: '!'}"; 4096].join(",");
    assert_eq!(problems_in_time("one line", &[format!("l3vnis: [{entries}]\n")]).len(), 51);
    let entries = vec!["{vni: 0, vrf: '!'}"; 800].join(",");
    assert_eq!(problems_in_time("one line that is shown", &[format!("l3vnis: [{entries}]\n")]).len(), 51);
    assert_eq!(problems_in_time("lines", &[format!("password: x\n{}", "\n".repeat(4_000_000))]).len(), 1);
}

/// The frr.conf of a node with this overlay.
fn rendered(overlay: Overlay) -> Result<String, String> {
    let mut config = config(&[]);
    config.add_overlay(overlay).unwrap();
    let version = crate::frr::Version::NEWEST;
    let inputs = crate::frr::Inputs {
        config: &config,
        ports: &[],
        port_addresses: &[],
        node_ip_is_local: false,
        version,
    };
    crate::frr::render(&inputs, None)
}

#[test]
fn tabs_in_raw_lines_become_blanks() {
    let raw = "rawFRRConfigs:\n- rawConfig: \"router bgp 65001\\n\\tbgp\\tcluster-id 192.0.2.1\\n\"\n- rawConfig: |\n    !\t\n    ip\tprefix-list x permit any\n";
    let text = rendered(parse_valid(0, raw)).unwrap();
    assert!(
        text.contains("\nrouter bgp 65001\n bgp cluster-id 192.0.2.1\nrouter bgp 65001\nexit\n! end"),
        "{text}"
    );
    assert!(text.contains("\n! \nip prefix-list x permit any\n! end of raw lines 2\n!\n"), "{text}");
}

#[test]
fn the_largest_allowed_file_can_be_rendered() {
    let entry = |i: u32| {
        format!(
            "- {{vrf: v{i}, vni: {i}, exportRTs: ['1:{i}'], importRTs: ['1:{i}', '1:1'], hostSession: {{asn: 64514, hostASN: 64515, localCIDR: {{ipv4: 10.{}.{}.0/24, ipv6: 'fd00:{i:x}::/64'}}, bfd: {{}}}}}}\n",
            i >> 8,
            i & 255
        )
    };
    let raw = format!("- rawConfig: |\n{}", "    !\n".repeat(9_999)).repeat(2);
    let text = format!("{VTEP}l3vnis:\n{}rawFRRConfigs:\n{raw}", (1..=4096).map(entry).collect::<String>());
    let rendered = rendered(parse_valid(0, &text)).unwrap();
    assert!(rendered.contains("vrf v4096\n"));

    let (overlay, problems) = parse_at(0, &text.replace("    !\n", "    !\n    !\n"));
    assert_eq!(overlay.raw.len(), 1);
    assert!(
        problems.len() == 1 && problems[0].contains("rawFRRConfigs[1]: too many raw lines"),
        "{problems:?}"
    );
}

#[test]
fn a_problem_has_its_line_and_a_caret() {
    let (_, problems) = parse_at(0, &format!("{VTEP}l3vnis:\n- vrf: red\n  vni: 16777216 # large\n"));
    let wanted = "vnis.yaml:6:8: l3vnis[0].vni=\"16777216\": out of range (allowed: an integer 1-16777215)\n  6 |   vni: 16777216 …\n    |        ^";
    assert_eq!(problems, [wanted]);
}

#[test]
fn passwords_are_never_shown() {
    let neighbor = |more: &str| format!("underlay:\n  neighbors:\n  - address: 10.0.0.11\n{more}");
    for text in [
        neighbor("    password: hush hush\n    asn: 65100\n"),
        neighbor("    asn: 65100\n    password:\n      hush hush\n"),
        neighbor("    asn: 65100\n    password: >-\n      hush\n      hush\n"),
        neighbor("    asn: 65100\n    password: [hush]\n"),
        neighbor("    asn: 65100\n    password: !hush x\n"),
        neighbor("    asn: 65100\n    password: *hush\n"),
        neighbor("    asn: 65100\n    password: \"hush\n"),
        neighbor("    asn: 65100\n    pasword: hush\n"),
        neighbor("    asn: 65100\n    Password : hush\n"),
        neighbor("    asn: 65100\n    passwd: hush\n"),
        "underlay:\n  neighbors:\n  - {address: x, password: hush}\n".into(),
        "underlay:\n  neighbors:\n  - {address: 10.0.0.11, asn: 1, password:\n    hush , port: 0}\n".into(),
        "underlay:\n  neighbors:\n  - password:hush\n".into(),
        "underlay:\n  neighbors:\n  - {address: 10.0.0.11, password:hush}\n".into(),
        "x: &p hush hush\nunderlay:\n  neighbors:\n  - address: 10.0.0.11\n    asn: 1\n    password: *p\n".into(),
        "rawFRRConfigs:\n- rawConfig: \"neighbor 10.0.0.11 password hush\\u0007\"\n".into(),
        "rawFRRConfigs:\n- rawConfig: |\n    router bgp 1\n     neighbor 10.0.0.11 password hush\n  priority: -1\n".into(),
    ] {
        let (_, problems) = parse_at(0, &text);
        assert!(!problems.is_empty(), "{text}");
        assert!(!problems.concat().contains("hush"), "{text}\n{}", problems.join("\n"));
    }
}

/// The expectations in the comments of a file in `tests/invalid`.
#[derive(Default)]
struct Expected<'a> {
    problems: Vec<&'a str>,
    keeps: Option<Vec<&'a str>>,
    vars: Vec<(&'a str, &'a str)>,
}

impl<'a> Expected<'a> {
    fn of(text: &'a str) -> Self {
        let mut expected = Self::default();
        for line in text.lines().map_while(|line| line.strip_prefix("# ")) {
            if let Some(list) = line.strip_prefix("keeps: ") {
                expected.keeps = Some(list.split(", ").filter(|what| *what != "nothing").collect());
            } else if let Some(var) = line.strip_prefix("with: ") {
                expected.vars.extend(var.split_once('='));
            } else {
                expected.problems.push(line);
            }
        }
        expected
    }
}

/// The valid entries of the overlay: those of the kinds in `wanted`, and all VNIs.
fn kept(overlay: &Overlay, wanted: &[&str]) -> Vec<String> {
    let has = |kind: &str| wanted.iter().any(|what| what.starts_with(kind));
    let mut kept: Vec<String> = overlay.l3vnis.iter().map(|vni| format!("l3vni {}", vni.name)).collect();
    kept.extend(overlay.l2vnis.iter().map(|vni| format!("l2vni {}", vni.tunnel.vni)));
    if has("neighbor") {
        kept.extend(overlay.underlay.neighbors.iter().map(|neighbor| match &neighbor.peer {
            NeighborId::Address(ip) => format!("neighbor {ip}"),
            NeighborId::Interface(name) => format!("neighbor {name}"),
            NeighborId::Range(net) => format!("neighbor {net}"),
        }));
    }
    if has("interface") {
        kept.extend(overlay.underlay.interfaces.iter().map(|link| format!("interface {}", link.name())));
    }
    kept
}

#[test]
fn every_invalid_file_is_rejected_with_its_reason() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/invalid");
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 70, "{} files", paths.len());
    let mut failures = vec![];
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let Expected { problems: wanted, keeps, vars } = Expected::of(&text);
        let begin = std::time::Instant::now();
        let (overlay, problems) = parse_files(&[(name.clone(), text.clone())], &config(&vars));
        assert!(begin.elapsed().as_secs() < 10, "{name} took {:?}", begin.elapsed());
        let problems: Vec<String> = problems.into_iter().map(|problem| problem.0).collect();
        let mut fail = |why: &str| failures.push(format!("{name}: {why}\n{}", problems.join("\n")));
        if problems.len() != wanted.len() || wanted.is_empty() {
            fail("unexpected number of problems");
        }
        for expected in &wanted {
            if !problems.iter().any(|problem| problem.contains(expected)) {
                fail(&format!("missing: {expected}"));
            }
        }
        for problem in &problems {
            let position = problem.strip_prefix(&format!("{name}:")).unwrap_or_default();
            let mut numbers =
                position.splitn(3, ':').take(2).map(|n| n.parse::<usize>().is_ok_and(|n| n > 0));
            if numbers.next() != Some(true) || numbers.next() != Some(true) {
                fail("no position");
            }
            if problem.contains("s3cr3t") {
                fail("shows a password");
            }
            if problem.chars().any(|c| c.is_control() && c != '\n') || problem.len() > 1200 {
                fail("has control characters or is too long");
            }
        }
        if !overlay.incomplete {
            fail("not incomplete");
        }
        if let Some(keeps) = keeps {
            let kept = kept(&overlay, &keeps);
            if kept != keeps {
                fail(&format!("keeps {kept:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// Every text of the overlay that reaches frr.conf or the kernel unchanged.
fn texts(overlay: &Overlay) -> Vec<String> {
    let mut texts = vec![];
    for link in &overlay.underlay.interfaces {
        texts.push(link.name().to_string());
        if let UnderlayInterface::Macvlan { parent, .. } = link {
            texts.push(parent.to_string());
        }
    }
    for neighbor in &overlay.underlay.neighbors {
        texts.extend(neighbor.password.as_ref().map(|password| password.reveal().to_owned()));
        if let NeighborId::Interface(name) = &neighbor.peer {
            texts.push(name.to_string());
        }
    }
    for vni in &overlay.l3vnis {
        texts.extend([vni.name.clone(), vni.vrf.to_string()]);
        texts.extend(vni.export.iter().chain(&vni.import).map(ToString::to_string));
    }
    for vni in &overlay.l2vnis {
        texts.push(vni.name.clone());
        texts.extend(vni.master.iter().map(|bridge| bridge.name.to_string()));
    }
    texts
}

#[derive(Debug, Clone)]
enum Change {
    Delete,
    Double,
    Replace(String),
}

fn changes() -> impl Strategy<Value = Change> {
    let words = [
        "*a",
        "&a ",
        "- ",
        ": ",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "\n",
        "\n  ",
        "\t",
        "\0",
        "null",
        "~",
        "-1",
        "1e9",
        "0x10",
        "10.0.0.0/8",
        "::/0",
        "true",
        "<<: ",
        "!!int ",
        "---\n",
        "|\n",
        ">\n",
        "#",
        "%",
        "password: ",
        "é",
        "\u{2028}",
    ];
    prop_oneof![
        Just(Change::Delete),
        Just(Change::Double),
        proptest::sample::select(words.to_vec()).prop_map(|word| Change::Replace(word.to_owned())),
        ".{0,12}".prop_map(Change::Replace),
    ]
}

fn changed(text: &str, at: usize, length: usize, change: &Change) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = at % chars.len().max(1);
    let end = (at + length).min(chars.len());
    let part = |from: usize, to: usize| chars[from..to].iter().collect::<String>();
    let middle = match change {
        Change::Delete => String::new(),
        Change::Double => part(at, end).repeat(2),
        Change::Replace(new) => new.clone(),
    };
    format!("{}{middle}{}", part(0, at), part(end, chars.len()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// For any change of a valid file: no panic, and no invalid value is accepted.
    #[test]
    fn any_change_of_a_file_is_handled(
        list in proptest::collection::vec((0..4096_usize, 0..40_usize, changes()), 1..4),
        index in 0..300_u32,
    ) {
        let mut text = example();
        for (at, length, change) in &list {
            text = changed(&text, *at, *length, change);
        }
        let (overlay, problems) = parse_at(index, &text);
        prop_assert_eq!((&overlay, &problems), (&parse_at(index, &text).0, &parse_at(index, &text).1));
        prop_assert_eq!(overlay.incomplete, !problems.is_empty());

        let l3 = overlay.l3vnis.iter().map(|vni| vni.tunnel.vni);
        let mut vnis: Vec<_> = l3.chain(overlay.l2vnis.iter().map(|vni| vni.tunnel.vni)).collect();
        let count = vnis.len();
        vnis.sort();
        vnis.dedup();
        prop_assert_eq!(vnis.len(), count);
        for text in texts(&overlay) {
            prop_assert!(!text.is_empty() && !text.contains(|c: char| c.is_control() || c.is_whitespace()), "{:?}", text);
        }
        for raw in &overlay.raw {
            prop_assert!(!raw.text.contains(|c: char| c.is_control() && c != '\n'), "{:?}", raw);
        }
        let vrfs: Vec<_> = overlay.l3vnis.iter().map(|vni| &vni.vrf).collect();
        prop_assert!(overlay.l2vnis.iter().flat_map(|vni| &vni.vrf).all(|vrf| vrfs.contains(&vrf)));
        for problem in &problems {
            prop_assert!(problem.starts_with("vnis.yaml:"), "{}", problem);
            prop_assert!(!problem.contains(|c: char| c.is_control() && c != '\n'), "{:?}", problem);
        }
        // If nothing was moved, the password is on its own line.
        if list.iter().all(|(.., change)| matches!(change, Change::Delete)) && text.contains("\n    password: change-me\n") {
            prop_assert!(!problems.concat().contains("change-me"), "{}", problems.join("\n"));
        }
    }
}

/// FRR ignores all lines after them.
#[test]
fn raw_lines_that_end_the_configuration_are_rejected_with_their_line() {
    let entries =
        ["\"exit\\n\"", "\"router bgp 65001\\n quit\"", "\"router bgp 65001\\nexit\\nexit\\n\"", "\" en\""];
    for entry in entries {
        let raw =
            format!("rawFRRConfigs:\n- rawConfig: \"ip prefix-list x permit any\"\n- rawConfig: {entry}\n");
        let (overlay, problems) = parse_at(0, &raw);
        assert_eq!(overlay.raw.len(), 1, "{entry}");
        assert!(problems.len() == 1 && problems[0].starts_with("vnis.yaml:3:"), "{problems:?}");
        assert!(problems[0].contains("rawFRRConfigs[1].rawConfig: raw line "), "{problems:?}");
    }
}

/// What is accepted of a file, after another one was accepted.
fn after(accepted: &Accepted<Part>, text: &str) -> FileContents {
    merge_files(
        &[("vnis.yaml".to_owned(), text.to_owned())],
        vec![],
        &config(&[]),
        accepted,
        Budget::default(),
    )
}

/// The names and VNIs of the VRFs.
fn vrfs(contents: &FileContents) -> Vec<String> {
    contents.overlay.l3vnis.iter().map(|l3| format!("{} {}", l3.name, l3.tunnel.vni)).collect()
}

#[test]
fn what_is_invalid_keeps_its_last_accepted_version() {
    let file = |rest: &str| format!("{VTEP}l3vnis:\n- {{vrf: red, vni: 10}}\n{rest}");
    let before = after(&Accepted::new(), &file("- {vrf: blue, vni: 20}\n- {vrf: green, vni: 30}\n"));
    assert_eq!(vrfs(&before), ["red 10", "blue 20", "green 30"]);

    // An invalid change, one that conflicts, a valid one, and one that is new.
    let now = after(
        &before.accepted,
        &file(
            "- {vrf: blue, vni: 21, hostSession: {asn: 1, hostASN: 1, localCIDR: {ipv4: 10.1.0.0/24}}}\n\
               - {vrf: green, vni: 10}\n- {vrf: new, vni: 40}\n",
        ),
    );
    assert_eq!(vrfs(&now), ["red 10", "blue 20", "green 30", "new 40"]);
    let problems: Vec<&str> = now.problems.iter().map(|problem| problem.0.lines().next().unwrap()).collect();
    assert_eq!(
        problems,
        [
            "vnis.yaml:6:55: l3vnis[1].hostSession.hostASN=\"1\": equal to asn: use hostType: Internal for iBGP: this l3vni \
             keeps its last accepted version",
            "vnis.yaml:7:21: l3vnis[2].vni=\"10\": already the VNI of l3vnis[0] (vnis.yaml:5): this l3vni keeps its last \
             accepted version",
        ]
    );

    // As long as there is an error, nothing is removed: with a misspelt name, an entry is another one.
    for blue in ["{vrf: blue, vni: x}", "{vrf: lo, vni: 20}", "{vrf: blu, vni: 20}", "{vrf: blue, vni: 10}"] {
        let now = after(&before.accepted, &file(&format!("- {blue}\n- {{vrf: lound, vni: 50}}\n")));
        let mut vrfs = vrfs(&now);
        vrfs.sort();
        assert_eq!(vrfs, ["blue 20", "green 30", "red 10"], "{blue}");
        let last = &now.problems.last().unwrap().0;
        assert!(
            last.starts_with("CONFIG_FILE: these entries are no longer there") && last.contains("green"),
            "{last}"
        );
    }
    let now = after(&before.accepted, &file("- {vrf: blue, vni: 20}\n"));
    assert_eq!(vrfs(&now), ["red 10", "blue 20"]);

    // What needs an entry that stays keeps it.
    let l2 = "l2vnis:\n- {vni: 60, routingDomain: {type: L3VNI, l3vni: {name: red}}}\n";
    let both = format!("{VTEP}l3vnis:\n- {{vrf: red, vni: 10}}\n{l2}");
    let whole = after(&Accepted::new(), &both);
    assert_eq!(whole.overlay.l2vnis.len(), 1);
    let now = after(&whole.accepted, &both.replace("vni: 10", "vnii: 10"));
    assert_eq!(now.overlay, whole.overlay);
    let now = after(&whole.accepted, &both.replace(VTEP, ""));
    assert_eq!(now.overlay, whole.overlay);
    let first = &now.problems[0].0;
    assert!(first.contains("needs underlay.tunnelEndpoint") && first.contains("keeps its last"), "{first}");
    assert_eq!(now.verdicts.iter().filter(|verdict| verdict.state == ObjectState::Kept).count(), 3);

    // Nothing of a file that is no YAML is known.
    for lost in ["l3vnis: [", "l3vnis: a: b"] {
        let now = after(&before.accepted, lost);
        assert!(now.is_lost && now.problems.len() == 1);
        assert_eq!(now.overlay, before.overlay);
    }
    // An empty file has no entry.
    assert_eq!(after(&before.accepted, "").overlay, Overlay::default());
}

#[test]
fn the_accepted_entries_can_be_stored() {
    for (index, text) in
        [(2, example()), (0, "nodeIndex: {index: 3}\nunderlay: {routeReflector: {}}\n".into())]
    {
        let config = config(&[("NODE_INDEX", &index.to_string())]);
        let read = |text: &str| {
            merge_files(
                &[("a".to_owned(), text.to_owned())],
                vec![],
                &config,
                &Accepted::new(),
                Budget::default(),
            )
        };
        let before = read(&text);
        assert_eq!(before.problems, []);
        let stored = stored_text(&before.accepted);
        let after = read(&stored);
        assert_eq!((after.problems, after.overlay), (vec![], before.overlay), "{stored}");
        assert_eq!(stored_text(&after.accepted), stored);
    }
}

#[test]
fn entries_may_exchange_what_they_use() {
    let file =
        |red: &str, blue: &str| format!("{VTEP}l3vnis:\n- {{vrf: red, {red}}}\n- {{vrf: blue, {blue}}}\n");
    let net = |n: u8| format!("hostSession: {{asn: 1, hostASN: 2, localCIDR: {{ipv4: 10.{n}.0.0/24}}}}");
    let before =
        after(&Accepted::new(), &file(&format!("vni: 10, {}", net(1)), &format!("vni: 20, {}", net(2))));
    let now =
        after(&before.accepted, &file(&format!("vni: 20, {}", net(2)), &format!("vni: 10, {}", net(1))));
    assert_eq!((vrfs(&now), now.problems), (vec!["red 20".into(), "blue 10".into()], vec![]));

    // Each takes what the next one had.
    let chain = |first: u32| {
        let vnis: String = (0..2000).map(|n| format!("- {{vrf: v{n}, vni: {}}}\n", first + n)).collect();
        format!("{VTEP}l3vnis:\n{vnis}")
    };
    let before = after(&Accepted::new(), &chain(1));
    let begin = std::time::Instant::now();
    assert_eq!(after(&before.accepted, &chain(2)).problems, []);
    assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
}

#[test]
fn the_nodes_number_stays_with_its_key() {
    let rest = format!("{VTEP}l3vnis:\n- {{vrf: red, vni: 10}}\n");
    let before = after(&Accepted::new(), &format!("nodeIndex: {{index: 7}}\n{rest}"));
    let vtep = |contents: &FileContents| contents.overlay.underlay.vtep4.unwrap().octets()[3];
    assert_eq!(vtep(&before), 7);
    for text in [
        format!("nodeIdx: {{index: 7}}\n{rest}"),
        format!("nodeIndex: {{index: x}}\n{rest}"),
        format!("{rest}- {{vrf: lo, vni: 20}}\n"),
    ] {
        let now = after(&before.accepted, &text);
        assert_eq!((vtep(&now), vrfs(&now)), (7, vec!["red 10".to_owned()]), "{text}");
    }
    assert_eq!(vtep(&after(&before.accepted, &rest)), 0);
    // Two files name different numbers.
    let files = [
        ("a.yaml".into(), "nodeIndex: {index: 9}\n".into()),
        ("b.yaml".into(), format!("nodeIndex: {{index: 7}}\n{rest}")),
    ];
    let now = merge_files(&files, vec![], &config(&[]), &before.accepted, Budget::default());
    assert_eq!(vtep(&now), 7);
}

#[test]
fn an_unchanged_entry_keeps_its_identity() {
    let raw = |lines: &[&str]| {
        let entries: String = lines.iter().map(|line| format!("- rawConfig: {line}\n")).collect();
        format!("rawFRRConfigs:\n{entries}")
    };
    let texts = |contents: &FileContents| {
        let mut texts: Vec<String> = contents.overlay.raw.iter().map(|raw| raw.text.clone()).collect();
        texts.sort();
        texts
    };
    let before = after(&Accepted::new(), &raw(&["a", "b", "c"]));
    assert_eq!(texts(&before), ["a", "b", "c"]);
    for lines in [&["exit", "b", "c"][..], &["b", "c", "exit"], &["c", "exit", "b"]] {
        assert_eq!(texts(&after(&before.accepted, &raw(lines))), ["a", "b", "c"], "{lines:?}");
    }
    assert_eq!(texts(&after(&before.accepted, &raw(&["c", "d"]))), ["c", "d"]);

    let file = |entries: &str| format!("{VTEP}l3vnis:\n{entries}");
    let before = after(&Accepted::new(), &file("- {vrf: red, vni: 10}\n"));
    let now = after(&before.accepted, &file("- {vrf: red, vni: 99}\n- {vrf: red, vni: 10}\n"));
    assert_eq!(vrfs(&now), ["red 10"]);
}

#[test]
fn what_stays_counts_for_the_limits() {
    let neighbors = |first: usize, count: usize, rest: &str| {
        let list: String = (first..first + count)
            .map(|n| format!("  - {{address: 10.{}.{}.1, asn: 65009}}\n", 1 + n / 200, n % 200))
            .collect();
        format!("underlay:\n  neighbors:\n{list}{rest}")
    };
    let before = after(&Accepted::new(), &neighbors(0, 128, ""));
    let now = after(&before.accepted, &neighbors(200, 128, "  - {address: x}\n"));
    assert_eq!(now.overlay.underlay.neighbors, before.overlay.underlay.neighbors);
    assert!(now.problems.iter().any(|problem| problem.0.contains("together with those that stay")));
    let (stored, problems) = accepted_from(stored_text(&now.accepted), &config(&[]));
    assert_eq!((assemble(&stored), problems), (now.overlay, vec![]));
}

#[test]
fn any_accepted_text_can_be_stored() {
    for text in ["! a\u{fffe}b\u{10ffff}", "! \u{2028}'\"\\", "! null", "! ä: [{#"] {
        let json = serde_json::json!({"rawFRRConfigs": [{"rawConfig": text}]}).to_string();
        let json: String = json
            .chars()
            .map(|c| if c == '\u{fffe}' { "\\ufffe".to_owned() } else { c.to_string() })
            .collect();
        let before = after(&Accepted::new(), &json);
        assert_eq!(before.problems, [], "{text:?}");
        let (stored, problems) = accepted_from(stored_text(&before.accepted), &config(&[]));
        assert_eq!((assemble(&stored), problems), (before.overlay, vec![]), "{text:?}");
    }
}
