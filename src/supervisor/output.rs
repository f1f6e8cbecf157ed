//! What a daemon prints, line by line, as log records under its name.

use log::Level;

use crate::printable::printable;

/// A line is cut here; FRR's own buffer for one is smaller.
const LONGEST_LINE: usize = 8192;

/// Collects what is written into lines.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes in what was written at once, hands every line that it completes to `line`. A message of FRR's log is one line, whatever a
    /// peer has called itself: with `log immediate-mode` each of them is written by itself (`vzlog_tls`, `lib/zlog.c`), and with
    /// `log record-priority` those can be told from messages of the time before, when nothing is known of any peer yet.
    pub fn push(&mut self, written: &[u8], mut line: impl FnMut(&str)) {
        if is_prioritised(written) {
            self.flush(&mut line);
            self.rest.extend(written.iter().take(LONGEST_LINE));
            return self.flush(&mut line);
        }
        for &byte in written {
            if byte == b'\n' || self.rest.len() == LONGEST_LINE {
                self.flush(&mut line);
            }
            if byte != b'\n' {
                self.rest.push(byte);
            }
        }
    }

    /// Hands on what was not ended by a newline.
    pub fn flush(&mut self, mut line: impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.rest);
        let text = text.trim_end();
        if !text.is_empty() {
            line(&printable(text));
        }
        self.rest.clear();
    }
}

/// A line, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Said<'l> {
    /// How much it is worth to be known.
    pub level: Level,
    /// The line without the time and the daemon's name, which are ours to give.
    pub text: &'l str,
    /// Of a message of FRR's log what the daemon itself has put there: what follows the identifiers at its beginning. What a peer
    /// is called may be further on in it.
    pub message: Option<&'l str>,
}

/// Takes apart what an FRR daemon prints.
///
/// With `log record-priority` a line reads `2026/11/21 00:28:30 warnings: BGP: [XXXXX-XXXXX][EC 33554454] …`; before the configuration is
/// read the priority is missing. The first identifier tells messages apart and goes with `no log unique-id`, the second is that of an
/// error and goes with `no log error-category` (`zlog_msg_text`, `lib/zlog.c`).
pub fn parse(line: &str) -> Said<'_> {
    let timed = without_time(line);
    let text = timed.unwrap_or(line);
    let prioritised = PRIORITIES.iter().find_map(|(word, level)| Some((*level, text.strip_prefix(word)?)));
    // vtysh's complaints and a crash report have no priority.
    let complaint = text.contains("% ") || text.contains("Received signal");
    let unprioritised = if complaint { Level::Warn } else { Level::Info };
    let (level, text) = prioritised.unwrap_or((unprioritised, text));
    match text.split_once(": ") {
        Some((name, rest)) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase()) => {
            Said { level, text: rest, message: timed.map(|_| without_identifiers(rest)) }
        }
        _ => Said { level, text, message: None },
    }
}

/// A message without the identifiers that it begins with.
fn without_identifiers(text: &str) -> &str {
    // Five and five digits of Crockford's base 32 (`lib/xref.c`).
    let unique = |word: &str| {
        let digit = |b: &u8| b.is_ascii_digit() || b.is_ascii_uppercase();
        word.len() == 11 && word.bytes().enumerate().all(|(i, b)| if i == 5 { b == b'-' } else { digit(&b) })
    };
    let category = |word: &str| {
        word.strip_prefix("EC ").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let without = |text, is: &dyn Fn(&str) -> bool| {
        let found = str::strip_prefix(text, "[").and_then(|rest| rest.split_once(']'));
        found.filter(|(word, _)| is(word)).map_or(text, |(_, rest)| rest)
    };
    let rest = without(without(text, &unique), &category);
    if rest.len() < text.len() { rest.strip_prefix(' ').unwrap_or(rest) } else { text }
}

/// The words of `log record-priority` (`prionames`, `lib/zlog_targets.c`).
const PRIORITIES: [(&str, Level); 8] = [
    ("emergencies: ", Level::Error),
    ("alerts: ", Level::Error),
    ("critical: ", Level::Error),
    ("errors: ", Level::Error),
    ("warnings: ", Level::Warn),
    ("notifications: ", Level::Info),
    ("informational: ", Level::Info),
    ("debugging: ", Level::Debug),
];

/// How a message begins (`ZLOG_TS_LEGACY`, `lib/zlog.c`); a fraction of the second may follow.
const TIME: &[u8] = b"0000/00/00 00:00:00";

/// The line after its time, if it begins with one.
fn without_time(line: &str) -> Option<&str> {
    after_time(line.as_bytes()).and_then(|rest| line.get(line.len() - rest.len()..))
}

fn after_time(line: &[u8]) -> Option<&[u8]> {
    let (time, rest) = line.split_at_checked(TIME.len())?;
    let mut pairs = TIME.iter().zip(time);
    if !pairs.all(|(wanted, b)| if *wanted == b'0' { b.is_ascii_digit() } else { b == wanted }) {
        return None;
    }
    let fraction = rest.strip_prefix(b".").map(|rest| rest.iter().take_while(|b| b.is_ascii_digit()).count());
    rest.get(fraction.map_or(0, |digits| digits + 1)..)?.strip_prefix(b" ")
}

/// Whether it is a message of a daemon that has read its configuration.
fn is_prioritised(written: &[u8]) -> bool {
    let after = after_time(written);
    after.is_some_and(|rest| PRIORITIES.iter().any(|(word, _)| rest.starts_with(word.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_pieces() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for piece in ["one\ntw", "o\n\nthr", "ee"] {
            lines.push(piece.as_bytes(), |line| seen.push(line.to_owned()));
        }
        lines.flush(|line| seen.push(line.to_owned()));
        assert_eq!(seen, ["one", "two", "three"]);
        lines.push(&vec![b'x'; 3 * LONGEST_LINE], |line| assert_eq!(line.len(), LONGEST_LINE));
    }

    #[test]
    fn levels() {
        let said = |line| {
            let said = parse(line);
            (said.level, said.text)
        };
        let line = "2026/11/21 00:28:30 warnings: BGP: [XYZ-1][EC 33554454] peer down";
        assert_eq!(said(line), (Level::Warn, "[XYZ-1][EC 33554454] peer down"));
        let line = "2026/11/21 00:28:30.123 ZEBRA: [XYZ-1] started";
        assert_eq!(said(line), (Level::Info, "[XYZ-1] started"));
        assert_eq!(said("ZEBRA: Received signal 11"), (Level::Warn, "Received signal 11"));
        assert_eq!(said("line 3: % Unknown command: x"), (Level::Warn, "line 3: % Unknown command: x"));
        assert_eq!(said("plain words: here"), (Level::Info, "plain words: here"));
    }

    #[test]
    fn a_message_begins_where_its_identifiers_end() {
        fn message(line: &str) -> Option<&str> {
            parse(line).message
        }
        for identifiers in ["", "[HZN6M-XRM1G] ", "[HZN6M-XRM1G][EC 33554454] ", "[EC 33554454] "] {
            let line =
                format!("2026/11/21 00:28:30.123 informational: BGP: {identifiers}%NOTIFICATION: sent");
            assert_eq!(message(&line), Some("%NOTIFICATION: sent"));
        }
        let nested = "2026/11/21 00:28:30.123 informational: BGP: [M59KS-A3ZXZ] %ADJCHANGE: neighbor x([HZN6M-XRM1G] %NOTIFICATION: a)";
        assert!(message(nested).unwrap().starts_with("%ADJCHANGE"));
        // What has no time is no message of the log.
        for line in [
            "1/1 1:1 BGP: %NOTIFICATION: sent",
            "BGP: [HZN6M-XRM1G] %NOTIFICATION: sent",
            "[HZN6M-XRM1G] %NOTIFICATION: sent",
            "%NOTIFICATION: sent",
        ] {
            assert_eq!(message(line), None, "{line}");
        }
    }

    /// What is written one after the other, as lines.
    fn lines(written: &[&str]) -> Vec<String> {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for written in written {
            lines.push(written.as_bytes(), |line| seen.push(line.to_owned()));
        }
        lines.flush(|line| seen.push(line.to_owned()));
        seen
    }

    #[test]
    fn a_line_break_in_a_name_makes_no_line() {
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
                let said = parse(first);
                assert_eq!(said.level, Level::Info, "{first}");
                let whole = format!("%ADJCHANGE: neighbor fda1::1({}) in vrf default Up", printable(name));
                assert_eq!(said.message, Some(whole.as_str()));
            }
            assert_eq!(seen[3], crash.trim_end());
            assert_eq!(seen[4..6], ["  in file", "and"]);
        }
    }

    /// Until the configuration is read, several messages are written at once.
    #[test]
    fn messages_of_the_start_are_lines_of_their_own() {
        let written = "2026/11/21 00:28:30 BGP: [M59KS-A3ZXZ] one\n2026/11/21 00:28:30 BGP: two\n";
        assert_eq!(lines(&[written]).len(), 2);
    }

    #[test]
    fn a_line_has_nothing_in_it_that_is_not_seen() {
        let mut lines = Lines::default();
        lines.push(b"a\x1b[31mb\rc\x9b\xff\n", |line| assert_eq!(line, "a\\u{1b}[31mb\\rc\u{fffd}\u{fffd}"));
    }
}
