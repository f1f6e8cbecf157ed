use super::*;

#[test]
fn lines_are_joined_from_pieces() {
    let mut lines = LineBuffer::default();
    let mut seen = Vec::new();
    for piece in ["one\ntw", "o\n\nthr", "ee"] {
        lines.push(piece.as_bytes(), |line| seen.push(line.to_owned()));
    }
    lines.flush(|line| seen.push(line.to_owned()));
    assert_eq!(seen, ["one", "two", "three"]);
    lines.push(&vec![b'x'; 3 * MAX_LINE], |line| assert_eq!(line.len(), MAX_LINE));
}

#[test]
fn levels() {
    let level_and_text = |line| {
        let parsed = parse(line);
        (parsed.level, parsed.text)
    };
    let line = "2026/11/21 00:28:30 warnings: BGP: [XYZ-1][EC 33554454] peer down";
    assert_eq!(level_and_text(line), (Level::Warn, "[XYZ-1][EC 33554454] peer down"));
    let line = "2026/11/21 00:28:30.123 ZEBRA: [XYZ-1] started";
    assert_eq!(level_and_text(line), (Level::Info, "[XYZ-1] started"));
    assert_eq!(level_and_text("ZEBRA: Received signal 11"), (Level::Warn, "Received signal 11"));
    assert_eq!(level_and_text("line 3: % Unknown command: x"), (Level::Warn, "line 3: % Unknown command: x"));
    assert_eq!(level_and_text("plain words: here"), (Level::Info, "plain words: here"));
}

#[test]
fn what_every_start_prints_is_debug() {
    let at = "2026/11/21 00:28:30.123 ";
    for line in [
        "informational: MGMTD: [RQT05-4D0H5][EC 100663319] vty_open_config: failed to open configuration file /etc/frr//ripd.conf: \
         No such file or directory, checking backup",
        "errors: BGP: [HKWM3-ZC5QP] can't connect to fe80::1 fd 4 : Permission denied",
    ] {
        assert_eq!(parse(&format!("{at}{line}")).level, Level::Debug, "{line}");
    }
    let line = "errors: BGP: can't connect to 10.0.0.1 fd 4 : Permission denied";
    assert_eq!(parse(&format!("{at}{line}")).level, Level::Error);
}

#[test]
fn a_message_begins_where_its_identifiers_end() {
    fn message(line: &str) -> Option<&str> {
        parse(line).message
    }
    for identifiers in ["", "[HZN6M-XRM1G] ", "[HZN6M-XRM1G][EC 33554454] ", "[EC 33554454] "] {
        let line = format!("2026/11/21 00:28:30.123 informational: BGP: {identifiers}%NOTIFICATION: sent");
        assert_eq!(message(&line), Some("%NOTIFICATION: sent"));
    }
    let nested = "2026/11/21 00:28:30.123 informational: BGP: [M59KS-A3ZXZ] %ADJCHANGE: neighbor x([HZN6M-XRM1G] %NOTIFICATION: a)";
    assert!(message(nested).unwrap().starts_with("%ADJCHANGE"));
    // A line without a timestamp is no message of the log.
    for line in [
        "1/1 1:1 BGP: %NOTIFICATION: sent",
        "BGP: [HZN6M-XRM1G] %NOTIFICATION: sent",
        "[HZN6M-XRM1G] %NOTIFICATION: sent",
        "%NOTIFICATION: sent",
    ] {
        assert_eq!(message(line), None, "{line}");
    }
}

/// The lines of these writes.
fn lines(written: &[&str]) -> Vec<String> {
    let (mut lines, mut seen) = (LineBuffer::default(), Vec::new());
    for written in written {
        lines.push(written.as_bytes(), |line| seen.push(line.to_owned()));
    }
    lines.flush(|line| seen.push(line.to_owned()));
    seen
}

#[test]
fn a_line_break_in_a_peer_name_does_not_end_the_message() {
    for name in [
        "a\n[HZN6M-XRM1G] %NOTIFICATION: sent to neighbor eth1 2/2 (b",
        "a\n2026/11/29 03:00:00 alerts: BGP: zebra (pid 7) is gone: killed",
        "\n2026/11/29 03:00:00 B: %NOTIFICATION: sent to neighbor eth1 2/2",
        "2026/11/21 00:28:30.124 errors: BGP: [M59KS-A3ZXZ] x\n",
        "\n2026/11/21 00:28:30.124 errors: BGP: [M59KS-A3ZXZ] x\n\n\n",
    ] {
        let first = format!(
            "2026/11/21 00:28:30.123 informational: BGP: [M59KS-A3ZXZ] %ADJCHANGE: neighbor fda1::1({name}) in vrf default Up\n"
        );
        let second = "2026/11/21 00:28:30.124 informational: BGP: next (x)\n";
        let crash = "critical: BGP: Received signal 6\n";
        let seen = lines(&["before", &first, second, crash, "  in ", "file\nand\n", &first]);
        assert_eq!(seen.len(), 7, "{seen:?}");
        for first in [&seen[1], &seen[6]] {
            assert_eq!(*first, printable(&first.replace("\\n", "\n")));
            let parsed = parse(first);
            assert_eq!(parsed.level, Level::Info, "{first}");
            let whole = format!("%ADJCHANGE: neighbor fda1::1({}) in vrf default Up", printable(name));
            assert_eq!(parsed.message, Some(whole.as_str()));
        }
        assert_eq!(seen[3], crash.trim_end());
        assert_eq!(seen[4..6], ["  in file", "and"]);
    }
}

/// Before the daemon has read its configuration, one write contains several messages.
#[test]
fn messages_before_the_configuration_are_separate_lines() {
    let written = "2026/11/21 00:28:30 BGP: [M59KS-A3ZXZ] one\n2026/11/21 00:28:30 BGP: two\n";
    assert_eq!(lines(&[written]).len(), 2);
}

#[test]
fn control_characters_are_escaped() {
    let mut lines = LineBuffer::default();
    lines.push(b"a\x1b[31mb\rc\x9b\xff\n", |line| assert_eq!(line, "a\\u{1b}[31mb\\rc\u{fffd}\u{fffd}"));
}
