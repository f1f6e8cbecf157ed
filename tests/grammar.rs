//! Every command with several parts, from each of its forms to each other: the commands lead to the same configuration
//! as a start, and do not first remove a line that the new line overwrites. Real daemons.

use super::lab::*;
use frr_supervisor::frr::Document;
use frr_supervisor::frr::Version;
use frr_supervisor::frr::delta::{Delta, delta};
use frr_supervisor::model::{Value as _, VrfName};

/// The context of a line; N is the pair's number.
const ROUTER: &str =
    "router bgp 65001 vrf vN\n bgp router-id 192.0.2.1\n neighbor 10.0.0.1 remote-as 65002\n LINE\nexit\n";
const UNICAST: &str = "router bgp 65001 vrf vN\n bgp router-id 192.0.2.1\n neighbor 10.0.0.1 remote-as 65002\n !\n \
                       address-family ipv4 unicast\n  neighbor 10.0.0.1 activate\n  LINE\n exit-address-family\nexit\n";
const UNICAST6: &str = "router bgp 65001 vrf vN\n bgp router-id 192.0.2.1\n !\n \
                       address-family ipv6 unicast\n  LINE\n exit-address-family\nexit\n";
const EVPN: &str = "router bgp 65001 vrf vN\n bgp router-id 192.0.2.1\n !\n \
                    address-family l2vpn evpn\n  LINE\n exit-address-family\nexit\n";
const MAP: &str = "route-map mN permit 10\n LINE\nexit\n";
const PROFILE: &str = "bfd\n profile pN\n  LINE\n exit\nexit\n";
const ROOT: &str = "LINE\n";

/// How a line that differs replaces the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// It overwrites it.
    InPlace,
    /// It overwrites it, unless the new line lacks a part, which the daemon would keep.
    UnlessPartsGo,
    /// The daemon would keep both, or refuses.
    Undone,
    /// They are independent of each other, and the new one comes first.
    After,
}
use How::{After, InPlace, Undone, UnlessPartsGo};

/// The forms of a command, which exist from that version on.
const COMMANDS: &[(Version, &str, How, &[&str])] = &[
    (
        ANY,
        UNICAST,
        InPlace,
        &["network 10.9.0.0/16", "network 10.9.0.0/16 route-map a", "network 10.9.0.0/16 route-map b"],
    ),
    (ANY, UNICAST, Undone, &["network 10.9.0.0/16 label-index 5", "network 10.9.0.0/16 label-index 6"]),
    (
        ANY,
        UNICAST6,
        InPlace,
        &["network 2001:db8::/32", "network 2001:db8::/32 route-map a", "network 2001:db8::/32 route-map b"],
    ),
    (
        ANY,
        UNICAST,
        InPlace,
        &[
            "aggregate-address 10.9.0.0/16",
            "aggregate-address 10.9.0.0/16 summary-only",
            "aggregate-address 10.9.0.0/16 as-set",
            "aggregate-address 10.9.0.0/16 route-map a",
            "aggregate-address 10.9.0.0/16 route-map b",
        ],
    ),
    (
        ANY,
        UNICAST6,
        InPlace,
        &["aggregate-address 2001:db8::/32", "aggregate-address 2001:db8::/32 summary-only"],
    ),
    (
        ANY,
        UNICAST,
        UnlessPartsGo,
        &[
            "redistribute connected",
            "redistribute connected route-map a",
            "redistribute connected route-map b",
            "redistribute connected metric 5",
            "redistribute connected metric 6",
            "redistribute connected metric 5 route-map a",
        ],
    ),
    (
        ANY,
        UNICAST,
        UnlessPartsGo,
        &["redistribute table N", "redistribute table N metric 5", "redistribute table N route-map a"],
    ),
    (ANY, UNICAST, InPlace, &["distance bgp 20 200 200", "distance bgp 30 200 200"]),
    (ANY, UNICAST, InPlace, &["distance 30 10.9.0.0/16", "distance 40 10.9.0.0/16"]),
    (ANY, UNICAST, InPlace, &["maximum-paths 4", "maximum-paths 5"]),
    (
        ANY,
        UNICAST,
        InPlace,
        &["maximum-paths ibgp 4", "maximum-paths ibgp 4 equal-cluster-length", "maximum-paths ibgp 5"],
    ),
    (ANY, UNICAST, InPlace, &["bgp dampening 15 750 2000 60", "bgp dampening 20 750 2000 60"]),
    (ANY, UNICAST, InPlace, &["table-map a", "table-map b"]),
    (ANY, UNICAST, InPlace, &["import vrf route-map a", "import vrf route-map b"]),
    (ANY, UNICAST, InPlace, &["rd vpn export 1:1", "rd vpn export 1:2"]),
    (ANY, UNICAST, InPlace, &["label vpn export 20", "label vpn export 21", "label vpn export auto"]),
    (ANY, UNICAST, InPlace, &["nexthop vpn export 10.0.0.9", "nexthop vpn export 10.0.0.8"]),
    (ANY, UNICAST, InPlace, &["rt vpn import 1:1", "rt vpn import 1:1 1:2", "rt vpn import 1:3"]),
    (ANY, UNICAST, InPlace, &["rt vpn export 1:1", "rt vpn export 1:1 1:2", "rt vpn export 1:3"]),
    (ANY, UNICAST, InPlace, &["route-map vpn export a", "route-map vpn export b"]),
    (
        ANY,
        UNICAST,
        InPlace,
        &[
            "neighbor 10.0.0.1 allowas-in",
            "neighbor 10.0.0.1 allowas-in 5",
            "neighbor 10.0.0.1 allowas-in origin",
        ],
    ),
    (ANY, UNICAST, InPlace, &["neighbor 10.0.0.1 weight 5", "neighbor 10.0.0.1 weight 6"]),
    (
        ANY,
        UNICAST,
        InPlace,
        &[
            "neighbor 10.0.0.1 maximum-prefix 10",
            "neighbor 10.0.0.1 maximum-prefix 10 90",
            "neighbor 10.0.0.1 maximum-prefix 11 warning-only",
            "neighbor 10.0.0.1 maximum-prefix 10 restart 5",
            "neighbor 10.0.0.1 maximum-prefix 10 force",
        ],
    ),
    (
        ANY,
        UNICAST,
        InPlace,
        &["neighbor 10.0.0.1 maximum-prefix-out 10", "neighbor 10.0.0.1 maximum-prefix-out 11"],
    ),
    (
        ANY,
        UNICAST,
        InPlace,
        &[
            "neighbor 10.0.0.1 default-originate",
            "neighbor 10.0.0.1 default-originate route-map a",
            "neighbor 10.0.0.1 default-originate route-map b",
        ],
    ),
    (ANY, UNICAST, InPlace, &["neighbor 10.0.0.1 route-map a in", "neighbor 10.0.0.1 route-map b in"]),
    (ANY, UNICAST, InPlace, &["neighbor 10.0.0.1 prefix-list a out", "neighbor 10.0.0.1 prefix-list b out"]),
    (ANY, UNICAST, InPlace, &["neighbor 10.0.0.1 filter-list a out", "neighbor 10.0.0.1 filter-list b out"]),
    (
        ANY,
        UNICAST,
        InPlace,
        &["neighbor 10.0.0.1 distribute-list a out", "neighbor 10.0.0.1 distribute-list b out"],
    ),
    (ANY, UNICAST, InPlace, &["neighbor 10.0.0.1 unsuppress-map a", "neighbor 10.0.0.1 unsuppress-map b"]),
    (
        ANY,
        UNICAST,
        InPlace,
        &[
            "neighbor 10.0.0.1 advertise-map a exist-map b",
            "neighbor 10.0.0.1 advertise-map a non-exist-map b",
            "neighbor 10.0.0.1 advertise-map c exist-map b",
        ],
    ),
    (ANY, UNICAST, After, &["neighbor 10.0.0.1 next-hop-self", "neighbor 10.0.0.1 next-hop-self force"]),
    (
        ANY,
        UNICAST,
        Undone,
        &[
            "neighbor 10.0.0.1 remove-private-AS",
            "neighbor 10.0.0.1 remove-private-AS all",
            "neighbor 10.0.0.1 remove-private-AS replace-AS",
            "neighbor 10.0.0.1 remove-private-AS all replace-AS",
        ],
    ),
    (
        ANY,
        UNICAST,
        Undone,
        &[
            "no neighbor 10.0.0.1 send-community",
            "no neighbor 10.0.0.1 send-community extended",
            "no neighbor 10.0.0.1 send-community all",
        ],
    ),
    (
        ANY,
        UNICAST,
        Undone,
        &[
            "neighbor 10.0.0.1 attribute-unchanged",
            "neighbor 10.0.0.1 attribute-unchanged as-path",
            "neighbor 10.0.0.1 attribute-unchanged next-hop med",
        ],
    ),
    (
        ANY,
        UNICAST,
        Undone,
        &[
            "neighbor 10.0.0.1 capability orf prefix-list both",
            "neighbor 10.0.0.1 capability orf prefix-list send",
        ],
    ),
    (NEW, UNICAST, InPlace, &["neighbor 10.0.0.1 soo 1:1", "neighbor 10.0.0.1 soo 1:2"]),
    (
        NEW,
        UNICAST,
        InPlace,
        &["neighbor 10.0.0.1 addpath-tx-best-selected 2", "neighbor 10.0.0.1 addpath-tx-best-selected 3"],
    ),
    (
        NEW,
        UNICAST,
        InPlace,
        &["neighbor 10.0.0.1 addpath-rx-paths-limit 2", "neighbor 10.0.0.1 addpath-rx-paths-limit 3"],
    ),
    (
        NEW,
        UNICAST,
        InPlace,
        &["neighbor 10.0.0.1 dampening 15 750 2000 60", "neighbor 10.0.0.1 dampening 20 750 2000 60"],
    ),
    (ANY, ROUTER, InPlace, &["neighbor 10.0.0.1 remote-as 65003", "neighbor 10.0.0.1 remote-as external"]),
    (
        ANY,
        ROUTER,
        InPlace,
        &["neighbor eth1 interface remote-as 65003", "neighbor eth1 interface v6only remote-as 65003"],
    ),
    (ANY, ROUTER, InPlace, &["neighbor 10.0.0.1 timers 3 9", "neighbor 10.0.0.1 timers 5 15"]),
    (ANY, ROUTER, InPlace, &["neighbor 10.0.0.1 timers connect 3", "neighbor 10.0.0.1 timers connect 5"]),
    (ANY, ROUTER, InPlace, &["neighbor 10.0.0.1 timers delayopen 3", "neighbor 10.0.0.1 timers delayopen 5"]),
    (
        ANY,
        ROUTER,
        InPlace,
        &["neighbor 10.0.0.1 advertisement-interval 3", "neighbor 10.0.0.1 advertisement-interval 5"],
    ),
    (ANY, ROUTER, InPlace, &["neighbor 10.0.0.1 description a", "neighbor 10.0.0.1 description a b"]),
    (ANY, ROUTER, InPlace, &["neighbor 10.0.0.1 password a", "neighbor 10.0.0.1 password b"]),
    (ANY, ROUTER, InPlace, &["neighbor 10.0.0.1 port 1000", "neighbor 10.0.0.1 port 1001"]),
    (
        ANY,
        ROUTER,
        InPlace,
        &[
            "neighbor 10.0.0.1 ebgp-multihop",
            "neighbor 10.0.0.1 ebgp-multihop 5",
            "neighbor 10.0.0.1 ebgp-multihop 6",
        ],
    ),
    (
        ANY,
        ROUTER,
        InPlace,
        &["neighbor 10.0.0.1 ttl-security hops 1", "neighbor 10.0.0.1 ttl-security hops 2"],
    ),
    (ANY, ROUTER, Undone, &["neighbor 10.0.0.1 ttl-security hops 1", "neighbor 10.0.0.1 ebgp-multihop 2"]),
    (
        ANY,
        ROUTER,
        InPlace,
        &["neighbor 10.0.0.1 update-source 10.0.0.2", "neighbor 10.0.0.1 update-source lo"],
    ),
    (
        ANY,
        ROUTER,
        InPlace,
        &[
            "neighbor 10.0.0.1 local-as 65009",
            "neighbor 10.0.0.1 local-as 65009 no-prepend",
            "neighbor 10.0.0.1 local-as 65009 no-prepend replace-as",
            "neighbor 10.0.0.1 local-as 65008",
        ],
    ),
    (
        ANY,
        ROUTER,
        UnlessPartsGo,
        &[
            "neighbor 10.0.0.1 shutdown",
            "neighbor 10.0.0.1 shutdown message a",
            "neighbor 10.0.0.1 shutdown message b c",
        ],
    ),
    (
        ANY,
        ROUTER,
        UnlessPartsGo,
        &[
            "neighbor 10.0.0.1 shutdown rtt 5",
            "neighbor 10.0.0.1 shutdown rtt 6",
            "neighbor 10.0.0.1 shutdown rtt 6 count 2",
        ],
    ),
    (
        NEW,
        ROUTER,
        InPlace,
        &[
            "neighbor 10.0.0.1 local-role customer",
            "neighbor 10.0.0.1 local-role customer strict-mode",
            "neighbor 10.0.0.1 local-role peer",
        ],
    ),
    (NEW, ROUTER, InPlace, &["neighbor 10.0.0.1 tcp-mss 900", "neighbor 10.0.0.1 tcp-mss 901"]),
    (
        NEW,
        ROUTER,
        InPlace,
        &["neighbor 10.0.0.1 path-attribute discard 26", "neighbor 10.0.0.1 path-attribute discard 26 27"],
    ),
    (
        NEW,
        ROUTER,
        InPlace,
        &[
            "neighbor 10.0.0.1 path-attribute treat-as-withdraw 26",
            "neighbor 10.0.0.1 path-attribute treat-as-withdraw 26 27",
        ],
    ),
    (
        ANY,
        ROUTER,
        UnlessPartsGo,
        &["neighbor 10.0.0.1 bfd", "neighbor 10.0.0.1 bfd profile a", "neighbor 10.0.0.1 bfd profile b"],
    ),
    (
        ANY,
        ROUTER,
        Undone,
        &[
            "neighbor 10.0.0.1 bfd\n neighbor 10.0.0.1 bfd check-control-plane-failure",
            "neighbor 10.0.0.1 bfd profile a\n neighbor 10.0.0.1 bfd check-control-plane-failure",
            "neighbor 10.0.0.1 bfd",
        ],
    ),
    // FRR prints a refusal for `neighbor … graceful-restart` and applies it nevertheless.
    (
        ANY,
        ROUTER,
        InPlace,
        &["neighbor 10.0.0.1 graceful-restart-helper", "neighbor 10.0.0.1 graceful-restart-disable"],
    ),
    (ANY, ROUTER, InPlace, &["bgp cluster-id 1.1.1.1", "bgp cluster-id 1.1.1.2"]),
    (ANY, ROUTER, InPlace, &["bgp confederation identifier 5", "bgp confederation identifier 6"]),
    (
        ANY,
        ROUTER,
        InPlace,
        &["bgp max-med administrative", "bgp max-med administrative 5", "bgp max-med administrative 6"],
    ),
    (
        ANY,
        ROUTER,
        InPlace,
        &["bgp max-med on-startup 5", "bgp max-med on-startup 5 6", "bgp max-med on-startup 6"],
    ),
    (ANY, ROUTER, InPlace, &["update-delay 5", "update-delay 6", "update-delay 6 5"]),
    (ANY, ROUTER, InPlace, &["read-quanta 5", "read-quanta 6"]),
    (ANY, ROUTER, InPlace, &["write-quanta 5", "write-quanta 6"]),
    (ANY, ROUTER, InPlace, &["coalesce-time 5", "coalesce-time 6"]),
    (ANY, ROUTER, InPlace, &["timers bgp 3 9", "timers bgp 5 15"]),
    (ANY, ROUTER, InPlace, &["bgp minimum-holdtime 5", "bgp minimum-holdtime 6"]),
    (NEW, ROUTER, InPlace, &["bgp tcp-keepalive 5 5 5", "bgp tcp-keepalive 6 5 5"]),
    (
        ANY,
        ROUTER,
        Undone,
        &["bgp bestpath as-path multipath-relax", "bgp bestpath as-path multipath-relax as-set"],
    ),
    (
        ANY,
        ROUTER,
        Undone,
        &[
            "bgp bestpath med confed",
            "bgp bestpath med missing-as-worst",
            "bgp bestpath med confed missing-as-worst",
        ],
    ),
    (ANY, ROUTER, InPlace, &["bgp bestpath bandwidth ignore", "bgp bestpath bandwidth skip-missing"]),
    (ANY, ROUTER, InPlace, &["bgp default local-preference 5", "bgp default local-preference 6"]),
    (
        ANY,
        ROUTER,
        InPlace,
        &["bgp default subgroup-pkt-queue-max 50", "bgp default subgroup-pkt-queue-max 60"],
    ),
    (
        ANY,
        ROUTER,
        InPlace,
        &["bgp graceful-restart stalepath-time 50", "bgp graceful-restart stalepath-time 60"],
    ),
    (ANY, ROUTER, InPlace, &["bgp graceful-restart restart-time 50", "bgp graceful-restart restart-time 60"]),
    (
        ANY,
        ROUTER,
        InPlace,
        &["bgp graceful-restart select-defer-time 50", "bgp graceful-restart select-defer-time 60"],
    ),
    (
        ANY,
        ROUTER,
        InPlace,
        &["bgp long-lived-graceful-restart stale-time 50", "bgp long-lived-graceful-restart stale-time 60"],
    ),
    (
        ANY,
        ROUTER,
        InPlace,
        &["bgp conditional-advertisement timer 50", "bgp conditional-advertisement timer 51"],
    ),
    (ANY, ROUTER, InPlace, &["bgp listen limit 50", "bgp listen limit 51"]),
    (
        ANY,
        ROUTER,
        Undone,
        &["bgp confederation peers 5", "bgp confederation peers 5 6", "bgp confederation peers 7"],
    ),
    (
        ANY,
        EVPN,
        InPlace,
        &[
            "advertise ipv4 unicast",
            "advertise ipv4 unicast route-map a",
            "advertise ipv4 unicast route-map b",
            "advertise ipv4 unicast gateway-ip",
        ],
    ),
    (ANY, EVPN, InPlace, &["rd 1:1", "rd 1:2"]),
    (ANY, EVPN, After, &["route-target import 1:1", "route-target import 1:2"]),
    (ANY, UNICAST, After, &["import vrf a", "import vrf b"]),
    (
        ANY,
        MAP,
        InPlace,
        &["set community 1:1", "set community 1:1 additive", "set community none", "set community 1:2 1:3"],
    ),
    (ANY, MAP, InPlace, &["set large-community 1:1:1", "set large-community 1:1:1 additive"]),
    (ANY, MAP, InPlace, &["set metric 5", "set metric +5", "set metric rtt"]),
    (ANY, MAP, InPlace, &["set local-preference 5", "set local-preference 6"]),
    (
        NEW,
        MAP,
        InPlace,
        &["set as-path prepend 1", "set as-path prepend 2 2", "set as-path prepend last-as 3"],
    ),
    (ANY, MAP, InPlace, &["set as-path exclude 1", "set as-path exclude 2 3"]),
    (ANY, MAP, InPlace, &["set extcommunity rt 1:1", "set extcommunity rt 1:2"]),
    (
        ANY,
        MAP,
        InPlace,
        &[
            "set extcommunity bandwidth 5",
            "set extcommunity bandwidth 5 non-transitive",
            "set extcommunity bandwidth cumulative",
        ],
    ),
    (ANY, MAP, InPlace, &["set ip next-hop 10.0.0.1", "set ip next-hop 10.0.0.2"]),
    (ANY, MAP, InPlace, &["set ipv6 next-hop global 2001:db8::1", "set ipv6 next-hop global 2001:db8::2"]),
    (
        ANY,
        MAP,
        Undone,
        &[
            "set evpn gateway-ip ipv4 10.0.0.1",
            "set evpn gateway-ip ipv4 10.0.0.1\n set evpn gateway-ip ipv6 2001:db8::1",
            "set evpn gateway-ip ipv6 2001:db8::2",
        ],
    ),
    (ANY, MAP, InPlace, &["set origin igp", "set origin egp"]),
    (ANY, MAP, InPlace, &["set weight 5", "set weight 6"]),
    (ANY, MAP, InPlace, &["set tag 5", "set tag 6"]),
    (ANY, MAP, InPlace, &["set src 10.0.0.1", "set src 10.0.0.2"]),
    (ANY, MAP, InPlace, &["set aggregator as 5 10.0.0.1", "set aggregator as 6 10.0.0.1"]),
    (ANY, MAP, InPlace, &["description a", "description b c"]),
    (ANY, MAP, InPlace, &["call a", "call b"]),
    (ANY, MAP, InPlace, &["on-match next", "on-match goto 20"]),
    (ANY, MAP, InPlace, &["match ip address prefix-list a", "match ip address prefix-list b"]),
    (ANY, MAP, InPlace, &["match community a", "match community b", "match community b exact-match"]),
    (
        ANY,
        MAP,
        InPlace,
        &["match large-community a", "match large-community b", "match large-community b exact-match"],
    ),
    (ANY, MAP, InPlace, &["match extcommunity a", "match extcommunity b"]),
    (ANY, MAP, InPlace, &["match tag 5", "match tag 6"]),
    (ANY, MAP, InPlace, &["match metric 5", "match metric 6"]),
    (ANY, MAP, InPlace, &["match as-path a", "match as-path b"]),
    (ANY, MAP, InPlace, &["match peer 10.0.0.1", "match peer 10.0.0.2"]),
    (ANY, MAP, InPlace, &["match interface a", "match interface b"]),
    (ANY, MAP, InPlace, &["match evpn vni 5", "match evpn vni 6"]),
    // In FRR 8.4 only the default value itself restores the default.
    (NEW, PROFILE, InPlace, &["receive-interval 100", "receive-interval 200"]),
    (NEW, PROFILE, InPlace, &["echo transmit-interval 100", "echo transmit-interval 200"]),
    (ANY, PROFILE, InPlace, &["minimum-ttl 100", "minimum-ttl 200"]),
    (
        ANY,
        ROOT,
        InPlace,
        &[
            "ip prefix-list lN seq 5 permit 10.0.0.0/8",
            "ip prefix-list lN seq 5 permit 10.0.0.0/8 le 24",
            "ip prefix-list lN seq 5 deny 10.0.0.0/8",
        ],
    ),
    (
        ANY,
        ROOT,
        InPlace,
        &["bgp as-path access-list lN seq 5 permit ^1$", "bgp as-path access-list lN seq 5 deny ^2$"],
    ),
    (
        ANY,
        ROOT,
        InPlace,
        &["bgp community-list standard lN seq 5 permit 1:1", "bgp community-list standard lN seq 5 deny 1:2"],
    ),
    (
        ANY,
        ROOT,
        InPlace,
        &[
            "bgp large-community-list standard lN seq 5 permit 1:1:1",
            "bgp large-community-list standard lN seq 5 deny 1:1:2",
        ],
    ),
    (
        ANY,
        ROOT,
        InPlace,
        &[
            "bgp extcommunity-list standard lN seq 5 permit rt 1:1",
            "bgp extcommunity-list standard lN seq 5 deny rt 1:2",
        ],
    ),
    (ANY, ROOT, InPlace, &["access-list lN seq 5 permit 10.0.0.0/8", "access-list lN seq 5 deny 10.0.0.0/8"]),
    (ANY, ROOT, Undone, &["ip route NET 10.0.0.1", "ip route NET 10.0.0.2", "ip route NET 10.0.0.1 5"]),
    (
        ANY,
        ROOT,
        Undone,
        &["ip route NET 10.0.0.1", "ip route NET 10.0.0.1 tag 5", "ip route NET 10.0.0.1 tag 6"],
    ),
];

const ANY: Version = Version(8, 4);
const NEW: Version = Version(10, 3);

/// Whether the old line has a part that the new one lacks.
fn parts_go(old: &str, new: &str) -> bool {
    ["route-map", "metric", "message", "count", "profile"]
        .iter()
        .any(|part| old.contains(part) && !new.contains(part))
}

/// The commands that lead from one text to the other.
fn between(old: &str, new: &str) -> Vec<String> {
    match delta(&old.into(), &new.into(), version()) {
        Delta::Commands(steps, late) => {
            let all = steps.into_iter().chain(late).flat_map(|step| step.commands);
            all.map(|command| command.text).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_changed_part_is_changed_in_place() {
    let only = std::env::var("LAB_ONLY").unwrap_or_default();
    let (mut old, mut new) = (String::new(), String::new());
    let mut wrong = vec![];
    let mut names: Vec<(String, String, String)> = vec![];
    for (since, place, how, forms) in COMMANDS {
        if *since > version() || !forms.iter().any(|form| form.contains(&only)) {
            continue;
        }
        let all: Vec<&str> = ["!"].into_iter().chain(forms.iter().copied()).collect();
        for (a, b) in all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b))).filter(|(a, b)| a != b) {
            let number = names.len() + 1;
            let (n, net) = (number.to_string(), format!("10.{}.{}.0/24", 100 + number / 256, number % 256));
            let text = |line: &str| place.replace("LINE", line).replace("NET", &net).replace('N', &n);
            let commands = between(&text(a), &text(b));
            let undone = commands.iter().any(|command| {
                let back = a.lines().any(|line| line.trim().strip_prefix("no ") == Some(command));
                command.starts_with("no ") || back
            });
            let may = match how {
                _ if a == "!" || b == "!" => true,
                InPlace => false,
                UnlessPartsGo => parts_go(a, b),
                Undone => true,
                After => {
                    commands.iter().position(|c| c == b) < commands.iter().position(|c| c.starts_with("no "))
                }
            };
            if undone && !may {
                wrong.push(format!("{a:?} → {b:?}: {commands:?}"));
            }
            old += &text(a);
            new += &text(b);
            names.push((n, net, format!("{a:?} → {b:?}")));
        }
    }
    let first = "router bgp 65001\n bgp router-id 192.0.2.1\nexit\n";
    let (old, new) = (format!("{first}{old}"), format!("{first}{new}"));
    let live = Standalone::start("glive", &old);
    let fresh = Standalone::start("gfresh", &new);
    let Delta::Commands(steps, late) = delta(&Document::parse(&old), &Document::parse(&new), version())
    else {
        panic!("no commands")
    };
    for step in [steps, late].concat() {
        for (command, status, output) in live.send(&step) {
            if status != 0 && !command.optional {
                wrong.push(format!(
                    "{}: {:?} is refused: {status} {}",
                    step.daemon,
                    command.text,
                    output.trim()
                ));
            }
        }
    }
    for ((daemon, has), (_, wants)) in live.running().iter().zip(&fresh.running()) {
        for (what, lines) in [("too much", has.difference(wants)), ("missing", wants.difference(has))] {
            for line in lines {
                let of = names.iter().find(|(n, net, _)| {
                    [
                        format!("vrf v{n}:"),
                        format!("map m{n} "),
                        format!("profile p{n}:"),
                        format!(" l{n} "),
                        format!(" {net}"),
                    ]
                    .iter()
                    .any(|word| line.contains(word.as_str()))
                });
                wrong.push(format!("{}: {daemon}: {what}: {line}", of.map_or("?", |(.., pair)| pair)));
            }
        }
    }
    println!("{} pairs", names.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Commands that bgpd has once for all its instances.
#[test]
fn commands_that_exist_once_are_overwritten() {
    let words = ["bgp route-map delay-timer", "bgp update-delay", "bgp session-dscp"];
    let later = [
        "bgp graceful-restart restart-time",
        "bgp graceful-restart stalepath-time",
        "bgp input-queue-limit",
        "bgp output-queue-limit",
    ];
    let words: Vec<&str> = words.into_iter().chain(later.into_iter().filter(|_| version() >= NEW)).collect();
    let text = |n: u32| {
        let lines: String = words.iter().map(|words| format!("{words} {n}\n")).collect();
        lines + "router bgp 65001\n bgp router-id 192.0.2.1\nexit\n"
    };
    let (old, new) = (text(30), text(40));
    let (live, fresh) = (Standalone::start("olive", &old), Standalone::start("ofresh", &new));
    let Delta::Commands(steps, _) = delta(&Document::parse(&old), &Document::parse(&new), version()) else {
        panic!("no commands")
    };
    let refused: Vec<_> =
        steps.iter().flat_map(|step| live.send(step)).filter(|(_, status, _)| *status != 0).collect();
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(live.running(), fresh.running());
    let running = format!("{:?}", live.running());
    assert_eq!(running.matches(" 40\"").count(), words.len(), "{running}");
}

/// Names like words of FRR's commands, or the beginning of one.
#[test]
fn a_vrf_may_have_any_accepted_name() {
    let names = [
        "all",
        "a",
        "al",
        "default",
        "d",
        "def",
        "route-map",
        "r",
        "route",
        "route-ma",
        "view",
        "v",
        "vrf",
        "vr",
        "none",
        "any",
        "ipv4",
        "ipv6",
        "summary",
        "json",
        "neighbors",
        "neighbor",
        "unicast",
        "l2vpn",
        "evpn",
        "detail",
        "exit",
        "no",
        "Null0",
        "7",
        "red",
    ];
    let names: Vec<&str> = names.into_iter().filter(|name| VrfName::parse(name).is_ok()).collect();
    println!("{names:?}");
    let mut text = String::new();
    for name in &names {
        text += &format!("router bgp 65002 vrf {name}\n bgp router-id 192.0.2.1\nexit\n");
    }
    text += "router bgp 65001\n bgp router-id 192.0.2.1\n address-family ipv4 unicast\n";
    for name in &names {
        text += &format!("  import vrf {name}\n");
    }
    text += " exit-address-family\nexit\n";
    let live = Standalone::start("glive", &text);
    let (_, running) = live.running().into_iter().find(|(daemon, _)| *daemon == "bgpd").unwrap();
    for name in &names {
        for line in [
            format!("router bgp 65002 vrf {name}: bgp router-id 192.0.2.1"),
            format!("router bgp 65001: address-family ipv4 unicast: import vrf {name}"),
        ] {
            assert!(running.contains(&line), "{name}: {running:?}");
        }
        for query in ["summary json", "ipv4 unicast json", "neighbors json"] {
            let answer = vty("glive", "bgpd", &format!("show bgp vrf {name} {query}")).unwrap();
            assert!(answer.trim_start().starts_with('{'), "{name}: {query}: {answer}");
            // A reply for all VRFs would name the default instance, too.
            let others = names.iter().chain(&["default"]).filter(|other| *other != name);
            for other in others {
                assert!(!answer.contains(&format!("\"vrfName\":\"{other}\"")), "{name}: {query}: {answer}");
                assert!(!answer.contains(&format!("\"{other}\":{{")), "{name}: {query}: {answer}");
            }
        }
    }
    let rest = "router bgp 65001\n bgp router-id 192.0.2.1\nexit\n";
    let Delta::Commands(steps, _) = delta(&Document::parse(&text), &rest.into(), version()) else {
        panic!("no commands")
    };
    for step in &steps {
        for (command, status, output) in live.send(step) {
            assert_eq!(status, 0, "{}: {output}", command.text);
        }
    }
}
