//! The key of each line, and the command that negates it.

use ipnet::IpNet;

/// The kind of context in which a rule holds; FRR calls it a node of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CliNode {
    Root,
    Router,
    Family,
    RouteMap,
    Profile,
    Interface,
}

/// How a line is negated, and the effect of a new line with the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Negation {
    /// `no` and the whole line. A new line with this key replaces it.
    Line,
    /// `no` and the key. A new line with this key replaces it.
    Key,
    /// `no` and the key. A new line with this key replaces it, but the daemon keeps an option (`route-map`, `metric` …)
    /// that the new line does not have.
    KeyWithOptions,
    /// `no` and the whole line, before the new line: the daemon would keep both, or refuse the new one.
    BeforeReplacement,
}

/// Commands that exist once for each key. The pattern is the key: the first words of the line, `*` for any word and `#`
/// for a number. The first matching rule counts. A line without a rule is its own key. `tests/grammar.rs` checks all
/// rules with real daemons.
const RULES: &[(CliNode, &str, Negation)] = &[
    (CliNode::Root, "ip prefix-list * seq *", Negation::Line),
    (CliNode::Root, "ipv6 prefix-list * seq *", Negation::Line),
    (CliNode::Root, "bgp as-path access-list * seq *", Negation::Line),
    (CliNode::Root, "bgp community-list # seq *", Negation::Line),
    (CliNode::Root, "bgp community-list * * seq *", Negation::Line),
    (CliNode::Root, "bgp large-community-list # seq *", Negation::Line),
    (CliNode::Root, "bgp large-community-list * * seq *", Negation::Line),
    (CliNode::Root, "bgp extcommunity-list # seq *", Negation::Line),
    (CliNode::Root, "bgp extcommunity-list * * seq *", Negation::Line),
    (CliNode::Root, "access-list * seq *", Negation::Line),
    (CliNode::Root, "ipv6 access-list * seq *", Negation::Line),
    (CliNode::Root, "ip protocol *", Negation::Line),
    (CliNode::Root, "ipv6 protocol *", Negation::Line),
    (CliNode::Root, "bgp route-map delay-timer", Negation::Key),
    (CliNode::Root, "bgp update-delay", Negation::Key),
    (CliNode::Root, "bgp advertise-delay", Negation::Key),
    (CliNode::Root, "bgp graceful-restart stalepath-time", Negation::Key),
    (CliNode::Root, "bgp graceful-restart restart-time", Negation::Key),
    (CliNode::Root, "bgp graceful-restart select-defer-time", Negation::Key),
    (CliNode::Root, "bgp graceful-restart rib-stale-time", Negation::Key),
    (CliNode::Root, "bgp session-dscp", Negation::Key),
    (CliNode::Root, "bgp input-queue-limit", Negation::Key),
    (CliNode::Root, "bgp output-queue-limit", Negation::Key),
    (CliNode::Root, "zebra nexthop-group keep", Negation::Key),
    (CliNode::Root, "zebra zapi-packets", Negation::Key),
    (CliNode::Root, "zebra dplane limit", Negation::Key),
    (CliNode::Root, "zebra work-queue", Negation::Key),
    (CliNode::Root, "log stdout", Negation::Key),
    (CliNode::Root, "log syslog", Negation::Key),
    (CliNode::Root, "log monitor", Negation::Key),
    (CliNode::Root, "log file", Negation::Key),
    (CliNode::Root, "log facility", Negation::Key),
    (CliNode::Root, "log timestamp precision", Negation::Key),
    (CliNode::Root, "hostname", Negation::Key),
    (CliNode::Root, "domainname", Negation::Key),
    (CliNode::Root, "ip router-id", Negation::Line),
    (CliNode::Root, "ipv6 router-id", Negation::Line),
    (CliNode::Interface, "description", Negation::Key),
    (CliNode::Interface, "bandwidth", Negation::Key),
    (CliNode::Interface, "ipv6 nd prefix *", Negation::BeforeReplacement),
    (CliNode::Interface, "ipv6 nd rdnss *", Negation::BeforeReplacement),
    (CliNode::Interface, "ipv6 nd dnssl *", Negation::BeforeReplacement),
    (CliNode::Interface, "ipv6 nd *", Negation::Key),
    (CliNode::Router, "bgp router-id", Negation::Key),
    (CliNode::Router, "bgp cluster-id", Negation::Key),
    (CliNode::Router, "bgp confederation identifier", Negation::Key),
    (CliNode::Router, "bgp max-med administrative", Negation::Key),
    (CliNode::Router, "bgp max-med on-startup", Negation::Key),
    (CliNode::Router, "bgp minimum-holdtime", Negation::Key),
    (CliNode::Router, "bgp tcp-keepalive", Negation::Key),
    (CliNode::Router, "bgp bestpath bandwidth", Negation::Key),
    (CliNode::Router, "bgp conditional-advertisement timer", Negation::Line),
    (CliNode::Router, "bgp default-originate timer", Negation::Line),
    (CliNode::Router, "bgp graceful-restart stalepath-time", Negation::Key),
    (CliNode::Router, "bgp graceful-restart restart-time", Negation::Key),
    (CliNode::Router, "bgp graceful-restart select-defer-time", Negation::Key),
    (CliNode::Router, "bgp graceful-restart rib-stale-time", Negation::Key),
    (CliNode::Router, "bgp long-lived-graceful-restart stale-time", Negation::Key),
    (CliNode::Router, "bgp listen limit", Negation::Key),
    (CliNode::Router, "bgp default local-preference", Negation::Key),
    (CliNode::Router, "bgp default subgroup-pkt-queue-max", Negation::Key),
    (CliNode::Router, "timers bgp", Negation::Key),
    (CliNode::Router, "update-delay", Negation::Key),
    (CliNode::Router, "read-quanta", Negation::Line),
    (CliNode::Router, "write-quanta", Negation::Line),
    (CliNode::Router, "coalesce-time", Negation::Line),
    (CliNode::Router, "neighbor * timers connect", Negation::Key),
    (CliNode::Router, "neighbor * timers delayopen", Negation::Key),
    (CliNode::Router, "neighbor * timers", Negation::Key),
    (CliNode::Router, "neighbor * remote-as", Negation::Line),
    (CliNode::Router, "neighbor * interface", Negation::Line),
    (CliNode::Router, "neighbor * description", Negation::Key),
    (CliNode::Router, "neighbor * password", Negation::Key),
    (CliNode::Router, "neighbor * port", Negation::Key),
    (CliNode::Router, "neighbor * ebgp-multihop", Negation::Key),
    (CliNode::Router, "neighbor * ttl-security hops", Negation::Line),
    (CliNode::Router, "neighbor * update-source", Negation::Key),
    (CliNode::Router, "neighbor * local-as", Negation::Key),
    (CliNode::Router, "neighbor * local-role", Negation::Line),
    (CliNode::Router, "neighbor * tcp-mss", Negation::Key),
    (CliNode::Router, "neighbor * advertisement-interval", Negation::Key),
    (CliNode::Router, "neighbor * shutdown rtt", Negation::KeyWithOptions),
    (CliNode::Router, "neighbor * shutdown", Negation::KeyWithOptions),
    (CliNode::Router, "neighbor * path-attribute discard", Negation::Key),
    (CliNode::Router, "neighbor * path-attribute treat-as-withdraw", Negation::Line),
    (CliNode::Router, "neighbor * bfd check-control-plane-failure", Negation::Line),
    (CliNode::Router, "neighbor * bfd strict", Negation::Line),
    // The line switches BFD on, with or without a profile.
    (CliNode::Router, "neighbor * bfd", Negation::KeyWithOptions),
    (CliNode::Family, "neighbor * allowas-in", Negation::Key),
    (CliNode::Family, "neighbor * weight", Negation::Key),
    (CliNode::Family, "neighbor * maximum-prefix", Negation::Key),
    (CliNode::Family, "neighbor * maximum-prefix-out", Negation::Key),
    (CliNode::Family, "neighbor * default-originate", Negation::Key),
    (CliNode::Family, "neighbor * unsuppress-map", Negation::Line),
    (CliNode::Family, "neighbor * advertise-map", Negation::Line),
    (CliNode::Family, "neighbor * soo", Negation::Key),
    (CliNode::Family, "neighbor * dampening", Negation::Key),
    (CliNode::Family, "neighbor * addpath-tx-best-selected", Negation::Key),
    (CliNode::Family, "neighbor * addpath-rx-paths-limit", Negation::Key),
    (CliNode::Family, "network * rd *", Negation::BeforeReplacement),
    (CliNode::Family, "network * label-index", Negation::BeforeReplacement),
    (CliNode::Family, "network *", Negation::Key),
    (CliNode::Family, "aggregate-address *", Negation::Key),
    (CliNode::Family, "redistribute * #", Negation::KeyWithOptions),
    (CliNode::Family, "redistribute *", Negation::KeyWithOptions),
    (CliNode::Family, "distance bgp", Negation::Key),
    (CliNode::Family, "bgp dampening", Negation::Key),
    (CliNode::Family, "table-map", Negation::Line),
    (CliNode::Family, "maximum-paths ibgp", Negation::Key),
    (CliNode::Family, "maximum-paths", Negation::Key),
    (CliNode::Family, "import vrf route-map", Negation::Key),
    (CliNode::Family, "rd vpn export", Negation::Line),
    (CliNode::Family, "label vpn export", Negation::Line),
    (CliNode::Family, "nexthop vpn export", Negation::Line),
    (CliNode::Family, "rt vpn *", Negation::Line),
    (CliNode::Family, "route-map vpn *", Negation::Line),
    (CliNode::Family, "advertise * unicast", Negation::Key),
    (CliNode::Family, "rd", Negation::Line),
    (CliNode::RouteMap, "set ip next-hop", Negation::Line),
    (CliNode::RouteMap, "set ipv6 next-hop *", Negation::Line),
    (CliNode::RouteMap, "set as-path *", Negation::Line),
    (CliNode::RouteMap, "set evpn gateway-ip *", Negation::Line),
    (CliNode::RouteMap, "set extcommunity *", Negation::Line),
    (CliNode::RouteMap, "set *", Negation::Line),
    (CliNode::RouteMap, "match community", Negation::Line),
    (CliNode::RouteMap, "match large-community", Negation::Line),
    (CliNode::RouteMap, "match extcommunity", Negation::Line),
    (CliNode::RouteMap, "description", Negation::Key),
    (CliNode::RouteMap, "call", Negation::Key),
    (CliNode::RouteMap, "on-match", Negation::Line),
    (CliNode::Profile, "echo transmit-interval", Negation::Line),
    (CliNode::Profile, "echo receive-interval", Negation::Line),
    (CliNode::Profile, "*", Negation::Line),
];

/// Commands of a neighbor whose last word is the direction, `in` or `out`.
const DIRECTIONAL: [&str; 4] = ["route-map", "prefix-list", "filter-list", "distribute-list"];

/// First words of options that a daemon keeps until they are negated.
const OPTIONS: [&str; 5] = ["route-map", "metric", "message", "count", "profile"];

fn cli_node(head: &str) -> Option<CliNode> {
    Some(match head.split(' ').next()? {
        "" | "vrf" => CliNode::Root,
        "router" => CliNode::Router,
        "address-family" | "vni" => CliNode::Family,
        "route-map" => CliNode::RouteMap,
        "profile" | "peer" => CliNode::Profile,
        "interface" => CliNode::Interface,
        _ => return None,
    })
}

/// The number of bytes of `line` that the pattern covers, if it matches.
fn matched_length(pattern: &str, line: &str) -> Option<usize> {
    let mut rest = line;
    for wanted in pattern.split(' ') {
        let word = rest.split(' ').next().filter(|word| !word.is_empty())?;
        let is_match = match wanted {
            "*" => true,
            "#" => word.bytes().all(|b| b.is_ascii_digit()),
            _ => wanted == word,
        };
        if !is_match {
            return None;
        }
        rest = rest[word.len()..].strip_prefix(' ').unwrap_or_default();
    }
    Some(line.len() - rest.len())
}

/// The length of the key of `line` in bytes, and how the line is negated, if a rule matches.
fn find_rule(head: &str, line: &str) -> Option<(usize, Negation)> {
    let node = cli_node(head)?;
    RULES.iter().filter(|rule| rule.0 == node).find_map(|rule| Some((matched_length(rule.1, line)?, rule.2)))
}

/// The key of a line in the context that `head` opens: a new line with this key replaces the line.
pub fn key(head: &str, line: &str) -> String {
    // `no` is one of the two values of such a line.
    let plain = line.strip_prefix("no ").unwrap_or(line);
    let words: Vec<&str> = plain.split(' ').collect();
    match (cli_node(head), &words[..]) {
        (Some(CliNode::Family), ["neighbor", peer, what, _, direction]) if DIRECTIONAL.contains(what) => {
            return format!("neighbor {peer} {what} {direction}");
        }
        // The key is the prefix, which may be written with host bits.
        (Some(CliNode::Family), [what @ ("network" | "aggregate-address"), prefix, more @ ..])
            if more.first() != Some(&"rd") =>
        {
            return format!("{what} {}", without_host_bits(prefix));
        }
        (Some(CliNode::Family), ["distance", number, prefix, ..])
            if number.bytes().all(|b| b.is_ascii_digit()) =>
        {
            return format!("distance {}", without_host_bits(prefix));
        }
        (Some(CliNode::Router), ["neighbor", peer, what, ..]) if what.starts_with("graceful-restart") => {
            return format!("neighbor {peer} graceful-restart");
        }
        (Some(CliNode::RouteMap), ["match", what @ .., _]) if find_rule(head, plain).is_none() => {
            return format!("match {}", what.join(" "));
        }
        (Some(CliNode::Root), ["ip" | "ipv6", "route", ..]) => return static_route_key(&words),
        _ => {}
    }
    find_rule(head, plain).map_or(plain, |(length, _)| plain[..length].trim_end()).to_owned()
}

/// A prefix as FRR stores it.
fn without_host_bits(prefix: &str) -> String {
    prefix.parse::<IpNet>().map_or_else(|_| prefix.to_owned(), |net| net.trunc().to_string())
}

/// The key of a static route in every version: all words but the distance, the tag and the metric.
fn static_route_key(words: &[&str]) -> String {
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
            _ if key.len() == 2 => key.push(without_host_bits(word)),
            _ => key.push((*word).to_owned()),
        }
    }
    key.join(" ")
}

/// The command that removes a line of the context that `head` opens.
pub fn negate(head: &str, line: &str) -> String {
    if let Some(rest) = line.strip_prefix("no ") {
        return rest.to_owned();
    }
    if cli_node(head) == Some(CliNode::RouteMap) && line.starts_with("on-match goto ") {
        return "no on-match goto".into();
    }
    match find_rule(head, line) {
        Some((length, Negation::Key | Negation::KeyWithOptions)) => {
            format!("no {}", line[..length].trim_end())
        }
        _ => format!("no {line}"),
    }
}

/// The command that must come before `new`, which replaces `old` and has its key. `None`: `new` overwrites `old`.
pub fn negate_before(head: &str, old: &str, new: &str) -> Option<String> {
    if old.starts_with("no ") || new.starts_with("no ") {
        return None;
    }
    let has = |line: &str, option: &str| line.split(' ').skip(2).any(|word| word == option);
    let is_removed = |option: &&&str| has(old, option) && !has(new, option);
    match find_rule(head, old).map(|(_, how)| how) {
        Some(Negation::BeforeReplacement) => Some(negate(head, old)),
        Some(Negation::KeyWithOptions) => {
            let option = OPTIONS.iter().find(|option| is_removed(option))?;
            // `no … bfd profile …` removes the profile and keeps BFD on.
            Some(if *option == "profile" { format!("no {old}") } else { negate(head, old) })
        }
        // bgpd changes no label, and adds none to a network that it already has.
        _ if matches!(find_rule(head, new), Some((_, Negation::BeforeReplacement))) => {
            Some(negate(head, old))
        }
        // The versions of FRR differ in which parts of a static route they overwrite.
        None if cli_node(head) == Some(CliNode::Root) => Some(negate(head, old)),
        _ => None,
    }
}

/// The make-before-break group of a line, if it has one. Lines of one group are independent and have one purpose: the
/// new line is added before the old line is removed.
pub fn make_before_break_group(head: &str, line: &str) -> Option<String> {
    let words: Vec<&str> = line.split(' ').collect();
    match (cli_node(head)?, &words[..]) {
        (CliNode::Family, ["neighbor", peer, "next-hop-self", ..]) => {
            Some(format!("neighbor {peer} next-hop-self"))
        }
        (CliNode::Family, ["route-target", direction, ..]) => Some(format!("route-target {direction}")),
        (CliNode::Family, ["import", "vrf", name]) if *name != "route-map" => Some("import vrf".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
