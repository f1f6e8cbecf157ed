//! Configuration lines for display, without passwords. A line is shown up to the first word that may be a password.
//! This is every word that is not known: the keyword before a password may be misspelt, abbreviated or missing. Pure.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::config::file::is_password_keyword;
use crate::model::{MacAddr, Value as _};

mod vocabulary;

use vocabulary::{BEFORE_NAMES, KEYWORDS};

/// Keywords before a secret, of all of FRR's daemons. The keyword is shown, and nothing after it.
const BEFORE_SECRETS: [&str; 9] = [
    "authentication",
    "authentication-key",
    "enable",
    "key",
    "key-string",
    "md5",
    "message-digest-key",
    "password",
    "secret",
];

/// Replaces the hidden part of a line.
const MASK: &str = "…";

/// The longest first word or name that is shown, in bytes. The longest keyword has 31.
const SHOWN_WORD_MAX: usize = 40;

/// The characters of AS path patterns.
const AS_PATH_PATTERN: &[u8] = b"0123456789^$_.*+?()[]|-";

/// The messages in which a daemon or vtysh quotes a line without its number (`vty_command`, `lib/vty.c`;
/// `vtysh_execute_func`, `vtysh/vtysh.c`), without the first letter, which may be upper or lower case.
const QUOTING_MESSAGES: [&str; 3] = ["nknown command", "mbiguous command", "ommand incomplete"];

/// The kind of a word of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Keyword(&'a str),
    Number,
    Address,
    Prefix,
    /// Route targets, communities.
    Pair,
    /// A name that the operator has chosen.
    Name,
}

impl<'a> Token<'a> {
    /// Classifies `word` after the token `before`. `timers`: the line has the keyword `timers` before. `None`: unknown.
    fn classify(word: &'a str, before: Option<Self>, timers: bool) -> Option<Self> {
        if KEYWORDS.binary_search(&word).is_ok() {
            return Some(Self::Keyword(word));
        }
        // A value is accepted only after a keyword that takes one: a password of digits may follow a neighbor's
        // address.
        let Some(Self::Keyword(keyword)) = before else {
            return match (before?, Self::value(word)?) {
                (Self::Number, Self::Number) if timers => Some(Self::Number),
                (Self::Prefix, Self::Address) => Some(Self::Address),
                (Self::Pair, Self::Pair) => Some(Self::Pair),
                _ => None,
            };
        };
        let is_pattern =
            || ["permit", "deny"].contains(&keyword) && word.bytes().all(|b| AS_PATH_PATTERN.contains(&b));
        let is_name =
            || BEFORE_NAMES.contains(&keyword) && is_plain(word, "._-") && !is_password_keyword(word);
        Self::value(word).or_else(|| (is_name() || is_pattern()).then_some(Self::Name))
    }

    fn value(word: &str) -> Option<Self> {
        let is_number =
            |word: &str| word.len() <= 10 && !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        let is_pair = || {
            let (first, second) = word.rsplit_once(':')?;
            Some(
                is_number(second)
                    && (is_number(first) || first.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4())),
            )
        };
        // A prefix whose length is out of range is accepted, too.
        let is_prefix = || {
            let (address, length) = word.split_once('/')?;
            Some(address.parse::<IpAddr>().is_ok() && is_number(length))
        };
        if is_number(word) {
            Some(Self::Number)
        } else if word.parse::<IpAddr>().is_ok() || MacAddr::parse(word).is_ok() {
            Some(Self::Address)
        } else if is_prefix() == Some(true) {
            Some(Self::Prefix)
        } else {
            is_pair()?.then_some(Self::Pair)
        }
    }
}

/// A configuration line for display.
pub fn redact(line: &str) -> Cow<'_, str> {
    let (mut before, mut timers, mut end) = (None, false, 0);
    for (at, word) in words(line) {
        let token = Token::classify(word, before, timers);
        let is_before_secret = BEFORE_SECRETS.contains(&&*word.to_ascii_lowercase());
        let ends_here = is_before_secret || (token.is_none() && is_typo(word));
        // The first word of an unknown line is shown unless it looks like a password.
        if ends_here || token.is_some() || (end == 0 && is_plain_text(word)) {
            end = at + word.len();
        }
        if ends_here || token.is_none() {
            break;
        }
        timers |= word == "timers";
        before = token;
    }
    if line[end..].trim().is_empty() {
        return Cow::Borrowed(line);
    }
    if end == 0 {
        let margin = line.len() - line.trim_start().len();
        return Cow::Owned(format!("{}{MASK}", &line[..margin]));
    }
    Cow::Owned(format!("{} {MASK}", &line[..end]))
}

/// Whether `word` differs from a keyword in one letter: the operator needs to see the typo. Short keywords do not
/// count, since they resemble too many other words.
fn is_typo(word: &str) -> bool {
    let resembles = |known: &str| {
        known.len() > 4
            && known.len().abs_diff(word.len()) < 2
            && strsim::damerau_levenshtein(word, known) == 1
    };
    is_plain(word, "-") && !is_password_keyword(word) && KEYWORDS.iter().any(|known| resembles(known))
}

/// A line of FRR's output for display. The output may quote a configuration line.
pub fn redact_output(output: &str) -> Cow<'_, str> {
    if let Some(at) = quoted_line_offset(output) {
        return match redact(&output[at..]) {
            Cow::Borrowed(_) => Cow::Borrowed(output),
            Cow::Owned(line) => Cow::Owned(format!("{}{line}", &output[..at])),
        };
    }
    let parts = output.split(|c: char| !c.is_ascii_alphanumeric());
    match parts.map(|part| (offset_in(output, part), part)).find(|(_, part)| is_password_keyword(part)) {
        Some((at, part)) if output[at + part.len()..].contains(char::is_alphanumeric) => {
            Cow::Owned(format!("{} {MASK}", &output[..at + part.len()]))
        }
        _ => Cow::Borrowed(output),
    }
}

/// The offset in `output` of the line that FRR quotes.
fn quoted_line_offset(output: &str) -> Option<usize> {
    let after = |mark: &str, from: usize| Some(from + output[from..].find(mark)? + mark.len());
    if let Some((number, at)) = line_number_offsets(output) {
        // `Unknown command on config line 3: …` (`vty_read_file`, `lib/vty.c`).
        if output[..number].ends_with("config ") {
            return Some(at);
        }
        // `line 3: % Unknown command[4]: …`, `line 3: Warning[4]...: …`,
        // `line 3: Failure to communicate[13] to bgpd, line: …` (`vtysh_config_from_file`, `vtysh/vtysh.c`).
        let is_message = ["%", "Warning", "Failure"].iter().any(|word| output[at..].starts_with(word));
        return if is_message { after(": ", at) } else { Some(at) };
    }
    let quote = QUOTING_MESSAGES.iter().filter_map(|message| after(message, 0)).min();
    // With `log commands`: `vty[3]@(config-router)# …`, `config-from-file# …`.
    let typed = || after("@(", 0).or_else(|| after("config-from-file", 0)).and_then(|from| after("# ", from));
    quote.and_then(|from| after(": ", from)).or_else(typed)
}

/// The offsets at which the first `line 3: ` begins and ends.
fn line_number_offsets(output: &str) -> Option<(usize, usize)> {
    output.match_indices("line ").find_map(|(at, _)| {
        let (number, _) = output[at + 5..].split_once(": ")?;
        let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        is_number.then_some((at, at + 5 + number.len() + 2))
    })
}

/// The words of `line` with their offsets.
fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.split_whitespace().map(|word| (offset_in(line, word), word))
}

/// The offset of `part` in `line`, which contains it.
fn offset_in(line: &str, part: &str) -> usize {
    part.as_ptr().addr() - line.as_ptr().addr()
}

/// Whether `word` is short and consists of letters, digits and the characters `also`.
fn is_plain(word: &str, also: &str) -> bool {
    word.len() <= SHOWN_WORD_MAX && word.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}

/// Whether `word` is short and consists of letters and hyphens.
fn is_plain_text(word: &str) -> bool {
    word.len() <= SHOWN_WORD_MAX && word.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn vocabulary_is_sorted_and_has_no_keyword_before_a_secret() {
        assert!(KEYWORDS.is_sorted_by(|a, b| a < b));
        assert!(BEFORE_NAMES.iter().all(|word| KEYWORDS.contains(word)));
        assert!(!KEYWORDS.iter().any(|word| BEFORE_SECRETS.contains(word)));
    }

    #[test]
    fn lines_without_a_secret_are_shown() {
        for line in [
            "",
            "router bgp 65001 vrf red",
            " neighbor 10.0.0.1 remote-as 65000",
            "no neighbor fe80::1 timers 3 9",
            "neighbor eth1 interface peer-group fabric",
            "network 10.0.0.0/24 route-map a",
            "ip route 10.0.0.0/8 192.0.2.1",
            "ip prefix-list metallb seq 5 permit 0.0.0.0/0 ge 1",
            "neighbor 10.0.0.1 password",
            "no zebra nexthop kernel enable",
            "route-map x permit 10",
            "set community 1:2 3:4 additive",
            "bgp as-path access-list x seq 5 permit ^(65001_)+[0-9]$",
            "route-target import 192.0.2.1:7",
            "ip prefix-list x seq 5 permit 10.0.0.0/33",
        ] {
            assert!(matches!(redact(line), Cow::Borrowed(_)), "{line}: {}", redact(line));
        }
        for output in [
            "line 3: % Unknown command: no-such-thing",
            "line 3: Warning[4]...: early",
            "[HZN6M-XRM1G] %NOTIFICATION: sent to neighbor eth1 2/2 (OPEN Message Error/Bad Peer AS) 2 bytes fd e9",
            "Configuration file[/run/frr/frr.conf] processing failure: 2",
            "Failure to communicate[13] to bgpd",
            "% Ambiguous command.",
            "Hostname length should be less than 255 chars",
            "vty[3]@(config-router)# neighbor 10.0.0.1 remote-as 1",
        ] {
            assert!(matches!(redact_output(output), Cow::Borrowed(_)), "{output}: {}", redact_output(output));
        }
    }

    /// Every rendered line is shown in full, except passwords and descriptions.
    #[test]
    fn rendered_lines_are_shown() {
        let text = include_str!("../../tests/golden/vnis.conf");
        let host = include_str!("../../tests/golden/host.conf");
        for line in text.lines().chain(host.lines()).filter(|line| !line.trim_start().starts_with('!')) {
            let shown = redact(line);
            let free =
                ["password", "description"].into_iter().find(|word| line.contains(&format!(" {word} ")));
            assert!(free.is_some() || matches!(shown, Cow::Borrowed(_)), "{line}: {shown}");
            assert!(free.is_none_or(|word| shown.ends_with(&format!(" {word} …"))), "{line}: {shown}");
        }
    }

    /// Checks every form in which FRR quotes a line.
    #[test]
    fn possible_secrets_are_hidden() {
        for (line, shown) in [
            ("neighbor 10.0.0.1 password s3cret", "neighbor 10.0.0.1 password …"),
            ("no neighbor 10.0.0.1 password s3cret", "no neighbor 10.0.0.1 password …"),
            ("neighbor 10.0.0.1 pasword s3cret", "neighbor 10.0.0.1 …"),
            ("neighbor 10.0.0.1 PASSWORD s3cret", "neighbor 10.0.0.1 PASSWORD …"),
            ("neighbor 10.0.0.1 pwd s3cret", "neighbor 10.0.0.1 …"),
            ("neighbor 10.0.0.1 password:s3cret", "neighbor 10.0.0.1 …"),
            ("neighbor 10.0.0.1 password=s3cret", "neighbor 10.0.0.1 …"),
            ("neighbor 10.0.0.1 PASSWORD:s3cret", "neighbor 10.0.0.1 …"),
            ("neighbor 10.0.0.1 remot-as 65000", "neighbor 10.0.0.1 remot-as …"),
            ("neighbor 10.0.0.1 remote-as 5 pw s3cret", "neighbor 10.0.0.1 remote-as 5 …"),
            ("neighbor 10.0.0.1 port s3cret", "neighbor 10.0.0.1 port …"),
            ("neighbor 10.0.0.1 s3cret", "neighbor 10.0.0.1 …"),
            ("neighbor 10.0.0.1: s3cret", "neighbor …"),
            ("neighbor 10.0.0.1 12345678", "neighbor 10.0.0.1 …"),
            ("neighbor 10.0.0.1 dead::beef", "neighbor 10.0.0.1 …"),
            ("neighbor 10.0.0.1 remote-as 5 12345678", "neighbor 10.0.0.1 remote-as 5 …"),
            ("neighbor fda1:b2c3:: s3cret", "neighbor fda1:b2c3:: …"),
            ("neighbor 10.0.0.1 parole s3cret", "neighbor 10.0.0.1 …"),
            ("neighbor password s3cret 10.0.0.1", "neighbor password …"),
            ("neighbor password:s3cret 10.0.0.1", "neighbor …"),
            ("neighbor\t10.0.0.1\tpassword\ts3cret", "neighbor\t10.0.0.1\tpassword …"),
            ("neigbor 10.0.0.1 pasword s3cret", "neigbor …"),
            ("nei 10.0.0.1 pass s3cret", "nei …"),
            ("NEIGHBOR 10.0.0.1 s3cret", "NEIGHBOR …"),
            ("password s3cret", "password …"),
            ("password:s3cret", "…"),
            ("s3cret", "…"),
            ("enable password 8 s3cret", "enable …"),
            ("enable s3cret", "enable …"),
            ("enable pword s3cret", "enable …"),
            ("bgp pw s3cret", "bgp …"),
            (
                "bgp listen range 10.0.0.0/8 peer-group x pword s3cret",
                "bgp listen range 10.0.0.0/8 peer-group x …",
            ),
            ("ip protocol bgp s3cret x", "ip protocol bgp …"),
            ("ip rip auth string s3cret", "ip rip …"),
            ("ip ospf auth-key s3cret", "ip ospf …"),
            ("ip ospf AUTHENTICATION-KEY s3cret", "ip ospf AUTHENTICATION-KEY …"),
            ("ip ospf MESSAGE-DIGEST-KEY 1 MD5 s3cret", "ip ospf MESSAGE-DIGEST-KEY …"),
            ("ip ospf message-digest-key 1 md5 s3cret", "ip ospf message-digest-key …"),
            ("ip ospf mess 1 md s3cret", "ip ospf …"),
            ("ip ospf autentication-key s3cret", "ip ospf …"),
            ("mpls ldp neighbor 1.1.1.1 pw s3cret", "mpls ldp neighbor 1.1.1.1 …"),
            ("peer 1.1.1.1 auth s3cret", "peer 1.1.1.1 …"),
            ("key-string s3cret", "key-string …"),
            ("isis password clear s3cret", "isis password …"),
            ("description the s3cret", "description …"),
            ("router ospf6x s3cret", "router ospf6x …"),
            ("bgp no-such-thing", "bgp …"),
        ] {
            assert_eq!(redact(line), shown);
            for before in [
                "line 17: % Unknown command[4]: ",
                "line 17: % Unknown command: ",
                "% Unknown command: ",
                "% [NO] Unknown command: ",
                "% Ambiguous command: ",
                "line 17: % Ambiguous command[21]: ",
                "line 17: Failure to communicate[13] to bgpd, line:  ",
                "line 17: Warning[5]...: ",
                "line 17: Warning...: ",
                "line 17: ",
                "line 3: % Command incomplete[4]: ",
                "[ABCDE-12345] Command returned Warning on config line 12: ",
                "[EC 100663304] Unknown command on config line 5: ",
                "[VTVCM-Y2NW3] vty[3]@(config-router)# ",
                "[ABCDE-12345] config-from-file# ",
            ] {
                assert_eq!(redact_output(&format!("{before}{line}")), format!("{before}{shown}"));
            }
        }
        assert_eq!(redact_output("the password \"s3cret\" is too long"), "the password …");
        assert_eq!(redact_output("bad value password:s3cret"), "bad value password …");
    }

    proptest! {
        /// One or two typos in either word.
        #[test]
        fn typos_reveal_no_secret(
            head in 0..8_usize, keyword in 0..8_usize, with in "[a-z]", twice in any::<bool>(), secret in "[!-~]{4,20}"
        ) {
            let typo = |word: &str, at: usize| format!("{}{with}{}", &word[..at], &word[(at + 1).min(word.len())..]);
            let misspelt = typo("password", keyword);
            for line in [
                format!("{} 10.0.0.1 {misspelt} {secret}Z9", typo("neighbor", head)),
                format!("neighbor 10.0.0.1 {misspelt} {secret}Z9"),
                format!("neighbor 10.0.0.1 {misspelt}:{secret}Z9"),
                format!("neighbor 10.0.0.1 {} {secret}Z9", if twice { typo(&misspelt, head) } else { misspelt.clone() }),
                format!("{misspelt} {secret}Z9"),
            ] {
                prop_assert!(!redact(&line).contains("Z9"), "{line}: {}", redact(&line));
                let output = format!("line 4: % Unknown command[4]: {line}");
                prop_assert!(!redact_output(&output).contains("Z9"), "{output}");
            }
        }

        /// A word that is neither a value nor a keyword is shown only after a keyword that a name follows.
        #[test]
        fn an_unknown_word_among_keywords_is_hidden(first in 0..KEYWORDS.len(), second in 0..KEYWORDS.len(), upper in any::<bool>()) {
            let (first, second) = (KEYWORDS[first], KEYWORDS[second]);
            prop_assume!(!BEFORE_NAMES.contains(&first) && !BEFORE_NAMES.contains(&second));
            let cased = if upper { second.to_uppercase() } else { second.into() };
            for line in [
                format!("{first} {cased} s3cret x"),
                format!("neighbor 10.0.0.1 {first} {cased} s3cret"),
                format!("neighbor 10.0.0.1 {first}s3cret {cased}"),
            ] {
                prop_assert!(!redact(&line).contains("s3cret"), "{line}: {}", redact(&line));
            }
        }
    }
}
