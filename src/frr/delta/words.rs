//! What FRR's configuration commands are about, and how each is undone. Pure.

use ipnet::IpNet;

/// Which context a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum In {
    Root,
    Router,
    Family,
    RouteMap,
    Profile,
    Interface,
}

/// How a line is undone, and what another about the same does to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    /// `no` and all of it; another takes its place.
    Line,
    /// `no` and what it is about; another takes its place.
    Key,
    /// The same, but of a part that the other does not have (`route-map`, `metric` …) the daemon keeps what it had.
    Parts,
    /// `no` and all of it, before the other comes: both would be there, or the daemon would refuse.
    First,
}

/// Commands of which one of a sort can be given: its first words, `*` for any and `#` for a number. The first that fits
/// counts; what fits none stands for itself. All are tried on real daemons (`tests/grammar.rs`).
const RULES: &[(In, &str, Undo)] = &[
    (In::Root, "ip prefix-list * seq *", Undo::Line),
    (In::Root, "ipv6 prefix-list * seq *", Undo::Line),
    (In::Root, "bgp as-path access-list * seq *", Undo::Line),
    (In::Root, "bgp community-list # seq *", Undo::Line),
    (In::Root, "bgp community-list * * seq *", Undo::Line),
    (In::Root, "bgp large-community-list # seq *", Undo::Line),
    (In::Root, "bgp large-community-list * * seq *", Undo::Line),
    (In::Root, "bgp extcommunity-list # seq *", Undo::Line),
    (In::Root, "bgp extcommunity-list * * seq *", Undo::Line),
    (In::Root, "access-list * seq *", Undo::Line),
    (In::Root, "ipv6 access-list * seq *", Undo::Line),
    (In::Root, "ip protocol *", Undo::Line),
    (In::Root, "ipv6 protocol *", Undo::Line),
    (In::Root, "bgp route-map delay-timer", Undo::Key),
    (In::Root, "bgp update-delay", Undo::Key),
    (In::Root, "bgp advertise-delay", Undo::Key),
    (In::Root, "bgp graceful-restart stalepath-time", Undo::Key),
    (In::Root, "bgp graceful-restart restart-time", Undo::Key),
    (In::Root, "bgp graceful-restart select-defer-time", Undo::Key),
    (In::Root, "bgp graceful-restart rib-stale-time", Undo::Key),
    (In::Root, "bgp session-dscp", Undo::Key),
    (In::Root, "bgp input-queue-limit", Undo::Key),
    (In::Root, "bgp output-queue-limit", Undo::Key),
    (In::Root, "zebra nexthop-group keep", Undo::Key),
    (In::Root, "zebra zapi-packets", Undo::Key),
    (In::Root, "zebra dplane limit", Undo::Key),
    (In::Root, "zebra work-queue", Undo::Key),
    (In::Root, "log stdout", Undo::Key),
    (In::Root, "log syslog", Undo::Key),
    (In::Root, "log monitor", Undo::Key),
    (In::Root, "log file", Undo::Key),
    (In::Root, "log facility", Undo::Key),
    (In::Root, "log timestamp precision", Undo::Key),
    (In::Root, "hostname", Undo::Key),
    (In::Root, "domainname", Undo::Key),
    (In::Root, "ip router-id", Undo::Line),
    (In::Root, "ipv6 router-id", Undo::Line),
    (In::Interface, "description", Undo::Key),
    (In::Interface, "bandwidth", Undo::Key),
    (In::Interface, "ipv6 nd prefix *", Undo::First),
    (In::Interface, "ipv6 nd rdnss *", Undo::First),
    (In::Interface, "ipv6 nd dnssl *", Undo::First),
    (In::Interface, "ipv6 nd *", Undo::Key),
    (In::Router, "bgp router-id", Undo::Key),
    (In::Router, "bgp cluster-id", Undo::Key),
    (In::Router, "bgp confederation identifier", Undo::Key),
    (In::Router, "bgp max-med administrative", Undo::Key),
    (In::Router, "bgp max-med on-startup", Undo::Key),
    (In::Router, "bgp minimum-holdtime", Undo::Key),
    (In::Router, "bgp tcp-keepalive", Undo::Key),
    (In::Router, "bgp bestpath bandwidth", Undo::Key),
    (In::Router, "bgp conditional-advertisement timer", Undo::Line),
    (In::Router, "bgp default-originate timer", Undo::Line),
    (In::Router, "bgp graceful-restart stalepath-time", Undo::Key),
    (In::Router, "bgp graceful-restart restart-time", Undo::Key),
    (In::Router, "bgp graceful-restart select-defer-time", Undo::Key),
    (In::Router, "bgp graceful-restart rib-stale-time", Undo::Key),
    (In::Router, "bgp long-lived-graceful-restart stale-time", Undo::Key),
    (In::Router, "bgp listen limit", Undo::Key),
    (In::Router, "bgp default local-preference", Undo::Key),
    (In::Router, "bgp default subgroup-pkt-queue-max", Undo::Key),
    (In::Router, "timers bgp", Undo::Key),
    (In::Router, "update-delay", Undo::Key),
    (In::Router, "read-quanta", Undo::Line),
    (In::Router, "write-quanta", Undo::Line),
    (In::Router, "coalesce-time", Undo::Line),
    (In::Router, "neighbor * timers connect", Undo::Key),
    (In::Router, "neighbor * timers delayopen", Undo::Key),
    (In::Router, "neighbor * timers", Undo::Key),
    (In::Router, "neighbor * remote-as", Undo::Line),
    (In::Router, "neighbor * interface", Undo::Line),
    (In::Router, "neighbor * description", Undo::Key),
    (In::Router, "neighbor * password", Undo::Key),
    (In::Router, "neighbor * port", Undo::Key),
    (In::Router, "neighbor * ebgp-multihop", Undo::Key),
    (In::Router, "neighbor * ttl-security hops", Undo::Line),
    (In::Router, "neighbor * update-source", Undo::Key),
    (In::Router, "neighbor * local-as", Undo::Key),
    (In::Router, "neighbor * local-role", Undo::Line),
    (In::Router, "neighbor * tcp-mss", Undo::Key),
    (In::Router, "neighbor * advertisement-interval", Undo::Key),
    (In::Router, "neighbor * shutdown rtt", Undo::Parts),
    (In::Router, "neighbor * shutdown", Undo::Parts),
    (In::Router, "neighbor * path-attribute discard", Undo::Key),
    (In::Router, "neighbor * path-attribute treat-as-withdraw", Undo::Line),
    (In::Router, "neighbor * bfd check-control-plane-failure", Undo::Line),
    (In::Router, "neighbor * bfd strict", Undo::Line),
    // Whatever profile it names, it is BFD that is on or off.
    (In::Router, "neighbor * bfd", Undo::Parts),
    (In::Family, "neighbor * allowas-in", Undo::Key),
    (In::Family, "neighbor * weight", Undo::Key),
    (In::Family, "neighbor * maximum-prefix", Undo::Key),
    (In::Family, "neighbor * maximum-prefix-out", Undo::Key),
    (In::Family, "neighbor * default-originate", Undo::Key),
    (In::Family, "neighbor * unsuppress-map", Undo::Line),
    (In::Family, "neighbor * advertise-map", Undo::Line),
    (In::Family, "neighbor * soo", Undo::Key),
    (In::Family, "neighbor * dampening", Undo::Key),
    (In::Family, "neighbor * addpath-tx-best-selected", Undo::Key),
    (In::Family, "neighbor * addpath-rx-paths-limit", Undo::Key),
    (In::Family, "network * rd *", Undo::First),
    (In::Family, "network * label-index", Undo::First),
    (In::Family, "network *", Undo::Key),
    (In::Family, "aggregate-address *", Undo::Key),
    (In::Family, "redistribute * #", Undo::Parts),
    (In::Family, "redistribute *", Undo::Parts),
    (In::Family, "distance bgp", Undo::Key),
    (In::Family, "bgp dampening", Undo::Key),
    (In::Family, "table-map", Undo::Line),
    (In::Family, "maximum-paths ibgp", Undo::Key),
    (In::Family, "maximum-paths", Undo::Key),
    (In::Family, "import vrf route-map", Undo::Key),
    (In::Family, "rd vpn export", Undo::Line),
    (In::Family, "label vpn export", Undo::Line),
    (In::Family, "nexthop vpn export", Undo::Line),
    (In::Family, "rt vpn *", Undo::Line),
    (In::Family, "route-map vpn *", Undo::Line),
    (In::Family, "advertise * unicast", Undo::Key),
    (In::Family, "rd", Undo::Line),
    (In::RouteMap, "set ip next-hop", Undo::Line),
    (In::RouteMap, "set ipv6 next-hop *", Undo::Line),
    (In::RouteMap, "set as-path *", Undo::Line),
    (In::RouteMap, "set evpn gateway-ip *", Undo::Line),
    (In::RouteMap, "set extcommunity *", Undo::Line),
    (In::RouteMap, "set *", Undo::Line),
    (In::RouteMap, "match community", Undo::Line),
    (In::RouteMap, "match large-community", Undo::Line),
    (In::RouteMap, "match extcommunity", Undo::Line),
    (In::RouteMap, "description", Undo::Key),
    (In::RouteMap, "call", Undo::Key),
    (In::RouteMap, "on-match", Undo::Line),
    (In::Profile, "echo transmit-interval", Undo::Line),
    (In::Profile, "echo receive-interval", Undo::Line),
    (In::Profile, "*", Undo::Line),
];

/// Neighbors' commands of which the last word says which of two it is.
const DIRECTED: [&str; 4] = ["route-map", "prefix-list", "filter-list", "distribute-list"];

/// Words that begin a part which a daemon keeps until it is undone.
const PARTS: [&str; 5] = ["route-map", "metric", "message", "count", "profile"];

fn place(head: &str) -> Option<In> {
    Some(match head.split(' ').next()? {
        "" | "vrf" => In::Root,
        "router" => In::Router,
        "address-family" | "vni" => In::Family,
        "route-map" => In::RouteMap,
        "profile" | "peer" => In::Profile,
        "interface" => In::Interface,
        _ => return None,
    })
}

/// How many bytes of `line` the pattern covers, if it fits.
fn fits(pattern: &str, line: &str) -> Option<usize> {
    let mut rest = line;
    for wanted in pattern.split(' ') {
        let word = rest.split(' ').next().filter(|word| !word.is_empty())?;
        let fine = match wanted {
            "*" => true,
            "#" => word.bytes().all(|b| b.is_ascii_digit()),
            _ => wanted == word,
        };
        if !fine {
            return None;
        }
        rest = rest[word.len()..].strip_prefix(' ').unwrap_or_default();
    }
    Some(line.len() - rest.len())
}

fn rule(head: &str, line: &str) -> Option<(usize, Undo)> {
    let place = place(head)?;
    RULES.iter().filter(|rule| rule.0 == place).find_map(|rule| Some((fits(rule.1, line)?, rule.2)))
}

/// What a line in that context is about: another line about the same takes its place.
pub fn about(head: &str, line: &str) -> String {
    // What is set one way or the other.
    let plain = line.strip_prefix("no ").unwrap_or(line);
    let words: Vec<&str> = plain.split(' ').collect();
    match (place(head), &words[..]) {
        (Some(In::Family), ["neighbor", peer, what, _, way]) if DIRECTED.contains(what) => {
            return format!("neighbor {peer} {what} {way}");
        }
        // Either is of the whole prefix, which may be written with host bits.
        (Some(In::Family), [what @ ("network" | "aggregate-address"), prefix, more @ ..])
            if more.first() != Some(&"rd") =>
        {
            return format!("{what} {}", truncated(prefix));
        }
        (Some(In::Family), ["distance", number, prefix, ..])
            if number.bytes().all(|b| b.is_ascii_digit()) =>
        {
            return format!("distance {}", truncated(prefix));
        }
        (Some(In::Router), ["neighbor", peer, what, ..]) if what.starts_with("graceful-restart") => {
            return format!("neighbor {peer} graceful-restart");
        }
        (Some(In::RouteMap), ["match", what @ .., _]) if rule(head, plain).is_none() => {
            return format!("match {}", what.join(" "));
        }
        (Some(In::Root), ["ip" | "ipv6", "route", ..]) => return static_route(&words),
        _ => {}
    }
    rule(head, plain).map_or(plain, |(length, _)| plain[..length].trim_end()).to_owned()
}

/// A prefix as FRR keeps it.
fn truncated(prefix: &str) -> String {
    prefix.parse::<IpNet>().map_or_else(|_| prefix.to_owned(), |net| net.trunc().to_string())
}

/// What tells one static route from another in every version: all but its distance, tag and metric.
fn static_route(words: &[&str]) -> String {
    let mut key = vec![];
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "tag" | "metric" => drop(rest.next()),
            "table" | "label" | "vrf" | "nexthop-vrf" | "color" => {
                key.push((*word).to_owned());
                key.extend(rest.next().map(|word| (*word).to_owned()));
            }
            number if number.bytes().all(|b| b.is_ascii_digit()) => {}
            _ if key.len() == 2 => key.push(truncated(word)),
            _ => key.push((*word).to_owned()),
        }
    }
    key.join(" ")
}

/// The command that undoes a line of that context.
pub fn undo(head: &str, line: &str) -> String {
    if let Some(rest) = line.strip_prefix("no ") {
        return rest.to_owned();
    }
    if place(head) == Some(In::RouteMap) && line.starts_with("on-match goto ") {
        return "no on-match goto".into();
    }
    match rule(head, line) {
        Some((length, Undo::Key | Undo::Parts)) => format!("no {}", line[..length].trim_end()),
        _ => format!("no {line}"),
    }
}

/// What has to be undone of `old` before `new`, which is about the same, takes its place. `None`: nothing, it is overwritten.
pub fn in_the_way(head: &str, old: &str, new: &str) -> Option<String> {
    if old.starts_with("no ") || new.starts_with("no ") {
        return None;
    }
    let has = |line: &str, part: &str| line.split(' ').skip(2).any(|word| word == part);
    let goes = |part: &&&str| has(old, part) && !has(new, part);
    match rule(head, old).map(|(_, how)| how) {
        Some(Undo::First) => Some(undo(head, old)),
        Some(Undo::Parts) => {
            let part = PARTS.iter().find(|part| goes(part))?;
            // A profile goes without the session.
            Some(if *part == "profile" { format!("no {old}") } else { undo(head, old) })
        }
        // bgpd changes no label, and gives none to a network that it has.
        _ if matches!(rule(head, new), Some((_, Undo::First))) => Some(undo(head, old)),
        // The versions differ in what of a static route they overwrite.
        None if place(head) == Some(In::Root) => Some(undo(head, old)),
        _ => None,
    }
}

/// Lines of this sort are independent of each other and serve the same end: the new one comes before the old one goes.
pub fn sort(head: &str, line: &str) -> Option<String> {
    let words: Vec<&str> = line.split(' ').collect();
    match (place(head)?, &words[..]) {
        (In::Family, ["neighbor", peer, "next-hop-self", ..]) => {
            Some(format!("neighbor {peer} next-hop-self"))
        }
        (In::Family, ["route-target", way, ..]) => Some(format!("route-target {way}")),
        (In::Family, ["import", "vrf", name]) if *name != "route-map" => Some("import vrf".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lines_are_about_and_how_they_are_undone() {
        let (router, family) = ("router bgp 1", "address-family ipv4 unicast");
        for (head, line, key, no) in [
            (
                "",
                "ip prefix-list a seq 5 permit any",
                "ip prefix-list a seq 5",
                "no ip prefix-list a seq 5 permit any",
            ),
            (router, "neighbor x timers 3 9", "neighbor x timers", "no neighbor x timers"),
            (
                router,
                "neighbor x timers connect 5",
                "neighbor x timers connect",
                "no neighbor x timers connect",
            ),
            (router, "neighbor x password y", "neighbor x password", "no neighbor x password"),
            (router, "neighbor x bfd profile p", "neighbor x bfd", "no neighbor x bfd"),
            (router, "no bgp default ipv4-unicast", "bgp default ipv4-unicast", "bgp default ipv4-unicast"),
            (
                router,
                "bgp listen range 10.0.0.0/8 peer-group g",
                "bgp listen range 10.0.0.0/8 peer-group g",
                "no bgp listen range 10.0.0.0/8 peer-group g",
            ),
            (
                family,
                "neighbor x route-map m out",
                "neighbor x route-map out",
                "no neighbor x route-map m out",
            ),
            (
                family,
                "redistribute connected route-map m",
                "redistribute connected",
                "no redistribute connected",
            ),
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
            assert_eq!((about(head, line).as_str(), undo(head, line).as_str()), (key, no), "{line}");
        }
    }

    #[test]
    fn only_what_would_stay_is_undone_first() {
        let (router, family) = ("router bgp 1", "address-family ipv4 unicast");
        for (head, old, new, undone) in [
            (family, "network 10.0.0.0/8 route-map a", "network 10.0.0.0/8 route-map b", None),
            (family, "network 10.0.0.0/8 route-map a", "network 10.0.0.0/8", None),
            (
                family,
                "network 10.0.0.0/8 label-index 5",
                "network 10.0.0.0/8",
                Some("no network 10.0.0.0/8 label-index 5"),
            ),
            (family, "network 10.0.0.0/8", "network 10.0.0.0/8 label-index 5", Some("no network 10.0.0.0/8")),
            (
                family,
                "redistribute connected route-map a",
                "redistribute connected metric 5 route-map b",
                None,
            ),
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
            assert_eq!(in_the_way(head, old, new).as_deref(), undone, "{old} → {new}");
        }
    }
}
