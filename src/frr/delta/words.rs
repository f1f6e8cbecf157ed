//! What FRR's configuration commands are about, and how each is undone. Pure.

/// Which context a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum In {
    Root,
    Router,
    Family,
    RouteMap,
    Profile,
}

/// How a line is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    /// `no` and all of it.
    Line,
    /// `no` and what it is about.
    Key,
}

/// Commands of which one of a sort can be given: its first words, `*` for any. The first that fits counts; what fits none
/// stands for itself.
const RULES: &[(In, &str, Undo)] = &[
    (In::Root, "ip prefix-list * seq *", Undo::Line),
    (In::Root, "ipv6 prefix-list * seq *", Undo::Line),
    (In::Root, "bgp as-path access-list * seq *", Undo::Line),
    (In::Root, "bgp community-list * * seq *", Undo::Line),
    (In::Root, "bgp large-community-list * * seq *", Undo::Line),
    (In::Root, "access-list * seq *", Undo::Line),
    (In::Root, "ipv6 access-list * seq *", Undo::Line),
    (In::Root, "ip protocol *", Undo::Line),
    (In::Root, "ipv6 protocol *", Undo::Line),
    (In::Router, "bgp router-id", Undo::Key),
    (In::Router, "bgp cluster-id", Undo::Key),
    (In::Router, "bgp graceful-restart stalepath-time", Undo::Key),
    (In::Router, "bgp graceful-restart restart-time", Undo::Key),
    (In::Router, "bgp graceful-restart select-defer-time", Undo::Key),
    (In::Router, "bgp graceful-restart rib-stale-time", Undo::Key),
    (In::Router, "bgp listen limit", Undo::Key),
    (In::Router, "bgp default local-preference", Undo::Key),
    (In::Router, "timers bgp", Undo::Key),
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
    (In::Router, "neighbor * advertisement-interval", Undo::Key),
    // Whatever profile it names, it is BFD that is on or off.
    (In::Router, "neighbor * bfd", Undo::Key),
    (In::Family, "neighbor * allowas-in", Undo::Key),
    (In::Family, "neighbor * weight", Undo::Key),
    (In::Family, "neighbor * maximum-prefix", Undo::Key),
    (In::Family, "neighbor * next-hop-self", Undo::Line),
    (In::Family, "redistribute *", Undo::Key),
    (In::Family, "maximum-paths ibgp", Undo::Key),
    (In::Family, "maximum-paths", Undo::Key),
    (In::Family, "rd vpn export", Undo::Line),
    (In::Family, "label vpn export", Undo::Line),
    (In::RouteMap, "set ip next-hop", Undo::Line),
    (In::RouteMap, "set ipv6 next-hop *", Undo::Line),
    (In::RouteMap, "set as-path *", Undo::Line),
    (In::RouteMap, "set extcommunity *", Undo::Line),
    (In::RouteMap, "set *", Undo::Line),
    (In::RouteMap, "description", Undo::Key),
    (In::RouteMap, "call", Undo::Key),
    (In::RouteMap, "on-match", Undo::Line),
    (In::Profile, "echo transmit-interval", Undo::Line),
    (In::Profile, "echo receive-interval", Undo::Line),
    (In::Profile, "*", Undo::Line),
];

/// Neighbors' commands of which the last word says which of two it is.
const DIRECTED: [&str; 3] = ["route-map", "prefix-list", "filter-list"];

fn place(head: &str) -> Option<In> {
    Some(match head.split(' ').next()? {
        "" => In::Root,
        "router" => In::Router,
        "address-family" => In::Family,
        "route-map" => In::RouteMap,
        "profile" => In::Profile,
        _ => return None,
    })
}

/// How many bytes of `line` the pattern covers, if it fits.
fn fits(pattern: &str, line: &str) -> Option<usize> {
    let mut rest = line;
    for wanted in pattern.split(' ') {
        let word = rest.split(' ').next().filter(|word| !word.is_empty())?;
        if wanted != "*" && wanted != word {
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
    let words: Vec<&str> = line.split(' ').collect();
    if let (Some(In::Family), ["neighbor", peer, what, _, way]) = (place(head), &words[..])
        && DIRECTED.contains(what)
    {
        return format!("neighbor {peer} {what} {way}");
    }
    if let (Some(In::RouteMap), ["match", what @ .., _]) = (place(head), &words[..]) {
        return format!("match {}", what.join(" "));
    }
    // What is set one way or the other.
    let plain = line.strip_prefix("no ").unwrap_or(line);
    rule(head, plain).map_or(plain, |(length, _)| plain[..length].trim_end()).to_owned()
}

/// The command that undoes a line of that context.
pub fn undo(head: &str, line: &str) -> String {
    if let Some(rest) = line.strip_prefix("no ") {
        return rest.to_owned();
    }
    match rule(head, line) {
        Some((length, Undo::Key)) => format!("no {}", line[..length].trim_end()),
        _ => format!("no {line}"),
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
            (family, "network 10.0.0.0/8", "network 10.0.0.0/8", "no network 10.0.0.0/8"),
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
            ("vrf red", "vni 7", "vni 7", "no vni 7"),
            ("profile p", "transmit-interval 300", "transmit-interval", "no transmit-interval 300"),
        ] {
            assert_eq!((about(head, line).as_str(), undo(head, line).as_str()), (key, no), "{line}");
        }
    }
}
