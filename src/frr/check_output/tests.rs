use super::*;

#[test]
fn raw_entries_of_a_line_contain_all_of_it() {
    let raw: Vec<_> = [
        "route-map x permit 1\n set metric 1\n",
        "router bgp 65001\n neighbor 10.0.0.1 remote-as 1\n timers bgp 3 9\n",
        "route-map x permit 10\n set  metric 10\n neighbor 10.0.0.1 remote-as 12\n",
        "interface x\n timers bgp 3 9\n",
    ]
    .map(|text| RawLines { source: String::new(), text: text.into() })
    .into();
    let blocks = raw.iter().zip(1..).map(|(raw, number)| raw.framed(number).join("\n") + "\n");
    let text = format!("router bgp 65001\nexit\n{}", blocks.collect::<String>());
    for (line, path, entries) in [
        ("route-map x permit 10", None, &[2][..]),
        ("set metric 10", None, &[2]),
        ("set metric 1", None, &[0]),
        ("neighbor 10.0.0.1 remote-as 12", None, &[2]),
        ("neighbor 10.0.0.1 remote-as 1", None, &[1]),
        ("timers bgp 3 9", None, &[1, 3]),
        ("timers bgp 3 9", Some(&["interface x"][..]), &[3]),
        ("timers bgp 3 9", Some(&["router bgp 65001"]), &[1]),
        ("timers bgp 3 9", Some(&[]), &[]),
        // The template has this line, too.
        ("router bgp 65001", None, &[]),
        ("set metric", None, &[]),
        ("", None, &[]),
    ] {
        assert_eq!(raw_entries_of(&raw, &text, line, path), entries, "{line:?} in {path:?}");
    }
}

#[test]
fn vtysh_output_is_parsed() {
    let text = "hostname x\n neighbor 10.0.0.1 password:s3cret\nip route s3cret x\nexit\n";
    let output = "line 2: % Unknown command[21]:  neighbor 10.0.0.1 password:s3cret\n\
                line 3: Warning[4]...: ip route s3cret x\n\nline 4: % Ambiguous command[4]: exit\n\n\
                line 5: % Unknown command[4]: end-of-this-configuration\nHostname length should be less than 255 chars\n\
                Configuration file[/run/frr/frr.conf] processing failure: 2\n";
    let output = CheckOutput::parse(output, text);
    assert!(output.is_complete);
    let failure = CheckFailure(output.diagnostics).to_string();
    assert_eq!(
        failure,
        "vtysh refuses the configuration: line 2: % Unknown command: neighbor 10.0.0.1 …; line 3: Warning: ip route …; \
         line 4: % Ambiguous command: exit; Hostname length should be less than 255 chars"
    );
    let many: Vec<_> = (1..9).map(|line| Diagnostic { line: Some(line), text: "x".into() }).collect();
    assert!(CheckFailure(many).to_string().ends_with("line 5: x; and 3 more"));
}

/// The outputs of FRR 10.7, 10.3 and 8.4.
#[test]
fn an_early_end_is_noticed() {
    for (output, is_complete, text) in [
        ("line 3: % Unknown command[4]: end-of-this-configuration", true, ""),
        ("line 3: % Unknown command[28]: end-of-this-configuration", true, ""),
        (
            "line 2: Warning[4]...: early exit from config file",
            false,
            "line 2: \"exit\" ends the configuration",
        ),
        ("line 3: % Unknown command[3]: end-of-this-configuration", false, "\"quit\" or the like ends"),
        ("", false, "\"quit\" or the like ends"),
        // This line is part of the text.
        ("line 1: % Unknown command[4]: end-of-this-configuration", false, "\"quit\" or the like ends"),
    ] {
        let output = CheckOutput::parse(output, "end-of-this-configuration\nexit\n");
        assert_eq!(output.is_complete, is_complete, "{output:?}");
        assert!(is_complete || output.into_incomplete().to_string().contains(text), "{text}");
    }
    assert_eq!(with_end_marker("a"), "a\nend-of-this-configuration\n");
    assert_eq!(with_end_marker("a\n"), "a\nend-of-this-configuration\n");
    let long = format!("a\n{}\n", "x".repeat(FRR_LINE_MAX + 1));
    assert_eq!(overlong_lines(&long).unwrap().0[0].line, Some(2));
    assert_eq!(overlong_lines(&long[..FRR_LINE_MAX]), None);
}

fn raw_entries() -> Vec<RawLines> {
    let raw = |text: &str| RawLines { source: String::new(), text: text.into() };
    vec![
        raw("ip prefix-list good seq 5 permit 192.0.2.0/24\n"),
        raw("interface x\n address-family ipv4 unicast\n"),
        raw("router bgp 65001\n timers bgp 3 9\n"),
        raw("interface x\n timers bgp 3 9\n"),
    ]
}

fn diagnostic(line: Option<usize>) -> Diagnostic {
    Diagnostic { line, text: "% Unknown command".into() }
}

#[test]
fn the_entry_with_the_refused_line_is_left_out() {
    let raw = raw_entries();
    let blocks: Vec<String> =
        raw.iter().zip(1..).map(|(raw, number)| raw.framed(number).join("\n") + "\n!\n").collect();
    // The template has the same lines.
    let text = format!(
        "router bgp 65001\n timers bgp 3 9\n address-family ipv4 unicast\n exit-address-family\nexit\n{}bfd\n",
        blocks.concat()
    );
    let number = |line: &str, nth: usize| {
        text.lines().zip(1..).filter(|(other, _)| *other == line).nth(nth).map(|(_, number)| number)
    };
    let never = |_: &[usize]| -> Option<CheckFailure> { panic!("no check is needed") };
    let family = diagnostic(number(" address-family ipv4 unicast", 1));
    let timers = diagnostic(number(" timers bgp 3 9", 2));
    let failure = CheckFailure(vec![family.clone()]);
    assert_eq!(blame(&raw, &text, &failure, never), [(1, failure.clone())]);
    let failure = CheckFailure(vec![family.clone(), timers.clone()]);
    let both = [(1, CheckFailure(vec![family])), (3, CheckFailure(vec![timers]))];
    assert_eq!(blame(&raw, &text, &failure, never), both);
    assert_eq!(blame(&[], &text, &failure, never), []);

    // A diagnostic without a line, or with a line of the template.
    for other in [diagnostic(None), diagnostic(Some(2)), diagnostic(Some(999))] {
        let failure = CheckFailure(vec![other, both[0].1.0[0].clone()]);
        let because = |i: usize| CheckFailure(vec![diagnostic(Some(i))]);
        let two = |which: &[usize]| which.iter().find(|i| [0, 2].contains(*i)).map(|i| because(*i));
        assert_eq!(blame(&raw, &text, &failure, two), [(0, because(0)), (2, because(2))]);
        // The template itself has an error.
        assert_eq!(blame(&raw, &text, &failure, |_| Some(because(1))), []);
        // No entry fails alone.
        assert_eq!(blame(&raw, &text, &failure, |_| None), both[..1]);
        let failure = CheckFailure(vec![diagnostic(None)]);
        assert_eq!(blame(&raw, &text, &failure, |_| None).len(), 4);
    }
}
