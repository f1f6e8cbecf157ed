//! Configuration lines as they may be shown: without passwords. What is not known to be none is hidden, since the word before a
//! password may be misspelt. Pure.

use std::borrow::Cow;

use crate::config::file::sounds_secret;

/// First words of lines of frr.conf, but for those of passwords.
const HEADS: &[&str] = &[
    "access-list",
    "address-family",
    "advertise",
    "advertise-all-vni",
    "advertise-default-gw",
    "advertise-svi-ip",
    "agentx",
    "aggregate-address",
    "allow-ecmp",
    "autort",
    "bfd",
    "bgp",
    "call",
    "continue",
    "debug",
    "default-originate",
    "description",
    "detect-multiplier",
    "distance",
    "dup-addr-detection",
    "echo",
    "echo-interval",
    "echo-mode",
    "enable",
    "end",
    "evpn",
    "exit",
    "exit-address-family",
    "exit-vni",
    "exit-vrf",
    "flooding",
    "fpm",
    "frr",
    "hostname",
    "import",
    "export",
    "interface",
    "ip",
    "ipv6",
    "label",
    "line",
    "link-params",
    "log",
    "mac",
    "match",
    "maximum-paths",
    "minimum-ttl",
    "mpls",
    "neighbor",
    "network",
    "nexthop",
    "nexthop-group",
    "no",
    "on-match",
    "passive-mode",
    "pbr-map",
    "peer",
    "profile",
    "rd",
    "receive-interval",
    "redistribute",
    "route-map",
    "route-target",
    "router",
    "router-id",
    "rpki",
    "rt",
    "segment-routing",
    "service",
    "set",
    "sid",
    "shutdown",
    "srv6",
    "table-map",
    "timers",
    "transmit-interval",
    "use-underlays-nexthop-weight",
    "vni",
    "vnc",
    "vrf",
    "zebra",
];

/// What may follow a neighbor's name, but for its password.
const NEIGHBOR: &[&str] = &[
    "accept-own",
    "activate",
    "addpath-rx-paths-limit",
    "addpath-tx-all-paths",
    "addpath-tx-best-selected",
    "addpath-tx-bestpath-per-AS",
    "advertise-map",
    "advertisement-interval",
    "aigp",
    "allowas-in",
    "as-override",
    "attribute-unchanged",
    "bfd",
    "capability",
    "dampening",
    "default-originate",
    "description",
    "disable-addpath-rx",
    "disable-connected-check",
    "disable-link-bw-encoding-ieee",
    "distribute-list",
    "dont-capability-negotiate",
    "ebgp-multihop",
    "encapsulation-mpls",
    "encapsulation-srv6",
    "enforce-first-as",
    "enforce-multihop",
    "extended-link-bandwidth",
    "extended-optional-parameters",
    "filter-list",
    "graceful-restart",
    "graceful-restart-disable",
    "graceful-restart-helper",
    "graceful-shutdown",
    "interface",
    "ip-transparent",
    "local-as",
    "local-role",
    "maximum-prefix",
    "maximum-prefix-out",
    "next-hop-self",
    "nexthop-local",
    "oad",
    "override-capability",
    "passive",
    "path-attribute",
    "peer-group",
    "port",
    "prefix-list",
    "remote-as",
    "remove-private-AS",
    "route-map",
    "route-reflector-client",
    "route-server-client",
    "rpki",
    "send-community",
    "send-nexthop-characteristics",
    "sender-as-path-loop-detection",
    "shutdown",
    "soft-reconfiguration",
    "solo",
    "soo",
    "strict-capability-match",
    "tcp-mss",
    "timers",
    "ttl-security",
    "unsuppress-map",
    "update-source",
    "weight",
];

/// Words that stand before a key, in the languages of FRR's other daemons.
const KEYS: [&str; 5] = ["key-string", "authentication-key", "message-digest-key", "md5", "authentication"];

/// What is said in the place of what is hidden.
const HIDDEN: &str = "…";

/// How far a misspelt word may be from what was meant: two letters.
const SLIP: usize = 2;

/// What stands before a line that vtysh or a daemon quotes (`vtysh_config_from_file`, `vtysh/vtysh.c`; `vty_command`, `lib/vty.c`).
const QUOTES: [&str; 6] = [
    "nknown command",
    "mbiguous command",
    "ommand incomplete",
    "not allowed",
    "to communicate",
    "processing",
];

/// A configuration line as it may be shown. The contexts that it is in may stand before it, each with a colon, and the sign of a
/// difference.
pub fn redact(line: &str) -> Cow<'_, str> {
    let mut from = 0;
    for part in line.split_inclusive(": ") {
        if let Some(shown) = first_words(part) {
            return Cow::Owned(format!("{}{} {HIDDEN}", &line[..from], part[..shown].trim_end()));
        }
        from += part.len();
    }
    Cow::Borrowed(line)
}

/// What FRR says, as it may be shown: it may quote a line.
pub fn redact_said(said: &str) -> Cow<'_, str> {
    let after = |mark: &str, from: usize| Some(from + said[from..].find(mark)? + mark.len());
    // `% Unknown command[4]: …`, `Failure to communicate[13] to bgpd, line: …`.
    let quote = QUOTES.iter().filter_map(|words| after(words, 0)).min();
    let quoted = quote.and_then(|from| after(": ", from));
    // With `log commands`: `vty[3]@(config-router)# …`.
    let typed = || after("@(", 0).and_then(|from| after("# ", from));
    if let Some(at) = quoted.or_else(typed) {
        return match redact(&said[at..]) {
            Cow::Borrowed(_) => Cow::Borrowed(said),
            Cow::Owned(line) => Cow::Owned(format!("{}{line}", &said[..at])),
        };
    }
    match words(said).find(|(_, word)| is_password(word)) {
        Some((at, word)) if !said[at + word.len()..].trim().is_empty() => {
            Cow::Owned(format!("{} {HIDDEN}", &said[..at + word.len()]))
        }
        _ => Cow::Borrowed(said),
    }
}

/// The words with their places.
fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.split_whitespace().map(|word| (word.as_ptr().addr() - line.as_ptr().addr(), word))
}

/// Whether the word means a password, perhaps misspelt. Quotation marks and the like may be at it.
fn is_password(word: &str) -> bool {
    sounds_secret(word.trim_matches(|c: char| !c.is_ascii_alphanumeric()))
}

fn is(word: &str, known: &[&str]) -> bool {
    known.contains(&word.trim_end_matches([':', ',', '.', ';']))
}

/// Whether the word may be a misspelt one of these.
fn is_like(word: &str, known: &[&str]) -> bool {
    known.iter().any(|known| known.len() > 4 && strsim::damerau_levenshtein(word, known) <= SLIP)
}

/// Where that part of the line ends which may be shown, if something of it may not.
fn first_words(line: &str) -> Option<usize> {
    let signs = ["+", "-", "no", "do"];
    let words: Vec<(usize, &str)> = words(line).filter(|(_, word)| !signs.contains(word)).collect();
    let (_, head) = words.first()?;
    // Of a line that we do not know, the first word.
    let mut shown = if is(head, HEADS) { words.len() } else { 1 };
    let before = |(_, word): &(usize, &str)| is_password(word) || is(word, &KEYS) || is_like(word, &KEYS);
    if let Some(at) = words.iter().position(before) {
        shown = shown.min(at + 1);
    }
    if let ("neighbor", Some((_, word))) = (*head, words.get(2))
        && !is(word, NEIGHBOR)
    {
        // What is like no keyword may be the password itself.
        shown = shown.min(if is_password(word) || is_like(word, NEIGHBOR) { 3 } else { 2 });
    }
    let (at, last) = words.get(shown - 1).filter(|_| shown < words.len())?;
    Some(at + last.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_secret_is_shown() {
        for line in [
            "",
            "router bgp 65001 vrf red",
            " neighbor 10.0.0.1 remote-as 65000",
            "no neighbor fe80::1 timers 3 9",
            "neighbor eth1 interface peer-group fabric",
            "+ router bgp 1: neighbor 10.0.0.1 shutdown",
            "- router bgp 1: address-family ipv4 unicast: network 10.0.0.0/24",
            "ip prefix-list metallb seq 5 permit 0.0.0.0/0 ge 1",
            "neighbor 10.0.0.1 password",
            "route-map x permit 10: set community 1:2",
        ] {
            assert!(matches!(redact(line), Cow::Borrowed(_)), "{line}: {}", redact(line));
        }
        for said in [
            "line 3: % Unknown command: no-such-thing",
            "[HZN6M-XRM1G] %NOTIFICATION: sent to neighbor eth1 2/2 (OPEN Message Error/Bad Peer AS) 2 bytes fd e9",
            "Configuration file[/run/frr/frr.conf] processing failure: 2",
            "% Ambiguous command.",
            "vty[3]@(config-router)# neighbor 10.0.0.1 remote-as 1",
        ] {
            assert!(matches!(redact_said(said), Cow::Borrowed(_)), "{said}: {}", redact_said(said));
        }
    }

    #[test]
    fn what_follows_a_keyword_is_hidden_however_it_is_spelt() {
        for (line, shown) in [
            ("neighbor 10.0.0.1 password s3cret", "neighbor 10.0.0.1 password …"),
            ("no neighbor 10.0.0.1 password s3cret", "no neighbor 10.0.0.1 password …"),
            ("neighbor 10.0.0.1 pasword s3cret", "neighbor 10.0.0.1 pasword …"),
            ("neighbor 10.0.0.1 PASSWORD s3cret", "neighbor 10.0.0.1 PASSWORD …"),
            ("neighbor 10.0.0.1 pwd s3cret", "neighbor 10.0.0.1 pwd …"),
            ("neighbor 10.0.0.1 remot-as 65000", "neighbor 10.0.0.1 remot-as …"),
            ("neighbor 10.0.0.1 s3cret", "neighbor 10.0.0.1 …"),
            ("neighbor 10.0.0.1 parole s3cret", "neighbor 10.0.0.1 …"),
            ("neighbor password s3cret 10.0.0.1", "neighbor password …"),
            ("neighbor\t10.0.0.1\tpassword\ts3cret", "neighbor\t10.0.0.1\tpassword …"),
            ("neigbor 10.0.0.1 pasword s3cret", "neigbor …"),
            ("password s3cret", "password …"),
            ("enable password 8 s3cret", "enable password …"),
            ("ip ospf message-digest-key 1 md5 s3cret", "ip ospf message-digest-key …"),
            ("ip ospf autentication-key s3cret", "ip ospf autentication-key …"),
            ("key-string s3cret", "key-string …"),
            ("isis password clear s3cret", "isis …"),
            (
                "+ router bgp 1: neighbor 10.0.0.1 password s3cret",
                "+ router bgp 1: neighbor 10.0.0.1 password …",
            ),
            ("- router bgp 1: neigbor 10.0.0.1 s3cret", "- router bgp 1: neigbor …"),
        ] {
            assert_eq!(redact(line), shown);
            for before in [
                "line 17: % Unknown command[4]: ",
                "% Ambiguous command: ",
                "line 17: Failure to communicate[13] to bgpd, line:  ",
                "line 3: % Command incomplete[4]: ",
                "[VTVCM-Y2NW3] vty[3]@(config-router)# ",
            ] {
                assert_eq!(redact_said(&format!("{before}{line}")), format!("{before}{shown}"));
            }
        }
        assert_eq!(redact_said("the password \"s3cret\" is too long"), "the password …");
    }

    proptest! {
        /// One or two slips in either word.
        #[test]
        fn slips_show_nothing(
            head in 0..8_usize, keyword in 0..8_usize, with in "[a-z]", twice in any::<bool>(), secret in "[!-~]{4,20}"
        ) {
            let slip = |word: &str, at: usize| format!("{}{with}{}", &word[..at], &word[(at + 1).min(word.len())..]);
            let slipped = slip("password", keyword);
            for line in [
                format!("{} 10.0.0.1 {slipped} {secret}Z9", slip("neighbor", head)),
                format!("neighbor 10.0.0.1 {slipped} {secret}Z9"),
                format!("neighbor 10.0.0.1 {} {secret}Z9", if twice { slip(&slipped, head) } else { slipped.clone() }),
                format!("{slipped} {secret}Z9"),
            ] {
                prop_assert!(!redact(&line).contains("Z9"), "{line}: {}", redact(&line));
                let said = format!("line 4: % Unknown command[4]: {line}");
                prop_assert!(!redact_said(&said).contains("Z9"), "{said}");
            }
        }
    }
}
