use proptest::prelude::*;

use super::super::tests::{example, parse_at};

fn problems_of(text: &str) -> String {
    let (_, problems) = parse_at(0, text);
    assert!(!problems.is_empty(), "{text}");
    problems.join("\n")
}

/// The value of an unknown key, and any text that is not valid YAML, may contain a password.
#[test]
fn only_public_text_is_shown() {
    let mut texts: Vec<String> = vec![];
    for key in [
        "psk",
        "passphrase",
        "psswd",
        "md5",
        "authKey",
        "key",
        "sharedSecret",
        "pword",
        "asns",
        "\"psk\"",
        "? psk\n   ",
    ] {
        texts.extend([
            format!("underlay: {{neighbors: [{{address: 1.1.1.1, asn: 5, {}: hunter2}}]}}\n", key.trim_start_matches("? ").trim()),
            format!("underlay: {{neighbors: [{{{}: hunter2, address: 1.1.1.1, asn: 0}}]}}\n", key.trim_start_matches("? ").trim()),
            format!("underlay:\n  neighbors:\n  - address: 1.1.1.1\n    asn: 5\n    {key}: hunter2\n"),
            format!("underlay:\n  neighbors:\n  - address: 1.1.1.1\n    asn: 5\n    {key}: {{a: [hunter2], hunter2: 1}}\n"),
            format!("underlay:\n  neighbors:\n  - address: 1.1.1.1\n    asn: 5\n    {key}: |\n      hunter2\n    port: 0\n"),
            // Not valid YAML.
            format!("underlay:\n  neighbors:\n  - address: 1.1.1.1\n    {key}: hunter2: x\n"),
            format!("underlay:\n  neighbors: [{{address: 1.1.1.1, {key}: hunter2\n"),
            format!("underlay:\n  neighbors:\n  - address: 1.1.1.1\n    {key}: hunter2\n    {key}: hunter2\n"),
            format!("underlay:\n  neighbors:\n  - {{{key}: a, hunter2: 1, hunter2: 2}}\n"),
            format!("underlay:\n  neighbors:\n  - {{asn: 5 {key}: hunter2}}\n"),
            format!("underlay:\n  neighbors:\n  - {{address: 1.1.1.1, asn: 5 {key}:hunter2}}\n"),
            format!("underlay:\n  neighbors:\n  - address: 1.1.1.1 {} hunter2\n", key.trim_matches(['?', ' ', '\n', '"'])),
            format!("underlay:\n  neighbors:\n  - {{asn: *x, {key}: hunter2}}\n"),
        ]);
    }
    for value in [
        "\"ip ospf message-digest-key 1 md5 hunter2\\e\"",
        "[\"isis authentication-key hunter2\"]",
        "{isis authentication-key hunter2: 1}",
        "{a: hunter2}",
        "!x hunter2",
        "\"hunter2",
        "hunter2: x",
        "|\n   hunter2\n  priority: -1",
    ] {
        texts.push(format!("rawFRRConfigs:\n- rawConfig: {value}\n"));
        texts.push(format!("rawFRRConfigs:\n- rawconfig: {value}\n"));
        if !value.starts_with('|') {
            texts.push(format!("rawFRRConfigs: [{{rawConfig: {value}, priority: -1}}]\n"));
            texts.push(format!("rawFRRConfigs: [{{priority: -1, rawConfig: {value}}}]\n"));
        }
    }
    texts.extend(
        [
            "hunter2\n",
            "underlay:\r  asn: 0\r  x:\r    # y\nz: 000hunter2\n",
            "underlay:\r  neighbors: [{asn: 0}, {asn: 000000000000, psk: 1}]\r\n# x\n\r  {a: hunter2hunter2hunter2}\n",
            "[hunter2]\n",
            "psk:hunter2\n",
            "underlay:\n  neighbors:\n  - psk:hunter2\n",
            "underlay:\n  neighbors: [psk hunter2]\n",
            "underlay:\n  neighbors: hunter2\n",
            "underlay:\n  neighbors: [{address: 1.1.1.1, psk:hunter2}]\n",
            "underlay:\n  neighbors: [{address: 1.1.1.1, psk hunter2: 1}]\n",
            "underlay:\n  asn: {psk: hunter2}\n",
            "underlay:\n  asn: 5 # psk hunter2\n",
            "underlay:\n  asn: 5 # hunter2: x\n  x\n",
            "x: &p hunter2\nunderlay:\n  asn: 0\n  isis: *p\n",
            "underlay: {isis: {baseNet: hunter2}}\n",
            "l3vnis:\n- {vrf: red, vni: 1, nodeSelector: {matchLabels: {psk: hunter2}}}\n",
        ]
        .map(Into::into),
    );
    for text in texts {
        let problems = problems_of(&text);
        assert!(!problems.contains("hunter2"), "{text}\n{problems}");
    }
}

#[test]
fn an_excerpt_shows_an_ordinary_mistake() {
    for (text, excerpt) in [
        ("underlay:\r  x: 1\r\n  asn: 0\r\n", "  3 |   asn: 0\n    |        ^"),
        (
            "underlay:\n  neighbors:\n  - address: 1.1.1.300\n    asn: 5\n",
            "  3 |   - address: 1.1.1.300\n    |              ^",
        ),
        ("underlay:\n  neighbours: []\n", "  2 |   neighbours: []\n    |   ^"),
        (
            "underlay: {neighbors: [{address: 1.1.1.1, asn: 5, psk: x, port: 1}]}\n",
            "  1 | underlay: {neighbors: [{address: 1.1.1.1, asn: 5, psk: …\n    |                                                   ^",
        ),
        ("l3vnis:\n- vrf: \"1red\"\n  vni: 1\n", "  2 | - vrf: \"1red\"\n    |        ^"),
        (
            "l3vnis:\n- {vrf: red, vni: 1, exportRTs: ['1:1', 1:x]}\n",
            "  2 | - {vrf: red, vni: 1, exportRTs: ['1:1', 1:x]}\n    |                                         ^",
        ),
        ("a: &a 17000000\nl3vnis:\n- vni: *a\n  vrf: red\n", "  3 | - vni: *a\n    |        ^"),
        ("rawFRRConfigs:\n- rawConfig: \"a\\e\"\n", "  2 | - rawConfig: …\n    |              ^"),
        ("underlay:\n  asn: 65001\n   port: 1\n", "  3 |    port: 1\n    |        ^"),
        (
            "underlay:\n  interfaces: [{type: Macvlan, macvlan: {parent: eth1}\n",
            "  2 |   interfaces: [{type: Macvlan, macvlan: {parent: eth1}\n",
        ),
    ] {
        let problems = problems_of(text);
        assert!(problems.contains(excerpt), "{text}\n{problems}");
    }
}

#[test]
fn control_characters_in_an_excerpt_are_replaced() {
    let problems = problems_of("l3vnis:\n- vrf: \"red\u{202e}\u{200f}x\"\n  vni: 1\n  # \u{2028}\n");
    assert!(problems.contains("  2 | - vrf: \"red\u{fffd}\u{fffd}x\""), "{problems}");
    assert!(!problems.contains(['\u{202e}', '\u{2028}', '\u{200f}']), "{problems:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// The value of an unknown key, at any position.
    #[test]
    fn the_value_of_an_unknown_key_is_not_shown(line in 0..200_usize, key in "[a-z]{2,8}[0-9]", more in ".{0,12}") {
        let text = example();
        let mut lines: Vec<String> = text.lines().map(Into::into).collect();
        let line = line % lines.len();
        let indent: String = lines[line].chars().take_while(|c| " -".contains(*c)).map(|_| ' ').collect();
        lines.insert(line + 1, format!("{indent}{key}: hunter2 {more}"));
        let (_, problems) = parse_at(3, &lines.join("\n"));
        prop_assert!(!problems.concat().contains("hunter2"), "{}", problems.join("\n"));
    }
}
