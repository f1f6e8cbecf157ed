//! Parser for the output of daemons: splits it into lines and each line into level, text and message.

use log::Level;

use crate::printable::printable;

/// Longest line in bytes; a longer one is split. FRR's own buffer for a line is smaller.
const MAX_LINE: usize = 8192;

/// Buffer that splits output into lines.
#[derive(Debug, Default)]
pub struct LineBuffer {
    rest: Vec<u8>,
}

impl LineBuffer {
    /// Adds the bytes of one write and calls `line` with each complete line. A message of FRR's log is one line, even
    /// if a peer's name in it contains a line break. With `log immediate-mode`, FRR writes each message separately
    /// (`vzlog_tls`, `lib/zlog.c`). `log record-priority` distinguishes these messages from those before the daemon has
    /// read its configuration, which contain no peer's name.
    pub fn push(&mut self, written: &[u8], mut line: impl FnMut(&str)) {
        if has_priority(written) {
            self.flush(&mut line);
            self.rest.extend(written.iter().take(MAX_LINE));
            return self.flush(&mut line);
        }
        for &byte in written {
            if byte == b'\n' || self.rest.len() == MAX_LINE {
                self.flush(&mut line);
            }
            if byte != b'\n' {
                self.rest.push(byte);
            }
        }
    }

    /// Calls `line` with the rest that has no newline.
    pub fn flush(&mut self, mut line: impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.rest);
        let text = text.trim_end();
        if !text.is_empty() {
            line(&printable(text));
        }
        self.rest.clear();
    }
}

/// A parsed line.
#[derive(Debug, PartialEq, Eq)]
pub struct ParsedLine<'l> {
    /// Log level.
    pub level: Level,
    /// The line without the timestamp and the daemon's name.
    pub text: &'l str,
    /// For a message of FRR's log: the text after the identifiers at its beginning. It begins with text of the daemon
    /// itself; a peer's name can only follow further on.
    pub message: Option<&'l str>,
}

/// Parses a line of an FRR daemon's output.
///
/// With `log record-priority` a line reads `2026/11/21 00:28:30 warnings: BGP: [XXXXX-XXXXX][EC 33554454] …`; before
/// the daemon has read its configuration the priority is missing. The first identifier names the message and is absent
/// with `no log unique-id`. The second is an error code and is absent with `no log error-category` (`zlog_msg_text`,
/// `lib/zlog.c`).
pub fn parse(line: &str) -> ParsedLine<'_> {
    let after_timestamp = strip_timestamp(line);
    let text = after_timestamp.unwrap_or(line);
    let prioritised = PRIORITIES.iter().find_map(|(word, level)| Some((*level, text.strip_prefix(word)?)));
    // Errors of vtysh and crash reports have no priority.
    let is_error = text.contains("% ") || text.contains("Received signal");
    let unprioritised = if is_error { Level::Warn } else { Level::Info };
    let (level, text) = prioritised.unwrap_or((unprioritised, text));
    let level_of = |message: &str| if is_harmless(message) { Level::Debug } else { level };
    match text.split_once(": ") {
        Some((name, rest)) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase()) => {
            let message = strip_identifiers(rest);
            ParsedLine { level: level_of(message), text: rest, message: after_timestamp.map(|_| message) }
        }
        _ => ParsedLine { level: level_of(text), text, message: None },
    }
}

/// Messages of FRR that need no action, each by how it begins and ends: they appear at every start, while the connect
/// guard blocks, or for interfaces without link settings. Seen with FRR 10.3 and 10.7.
const HARMLESS: [(&str, &str); 10] = [
    (
        "vty_open_config: failed to open configuration file /etc/frr/",
        "No such file or directory, checking backup",
    ),
    ("vty_open_config: can't open configuration file [/etc/frr/", ".conf]"),
    ("can't connect to fe80:", " : Permission denied"),
    ("generic-netlink-cmd (NS 0) error: Operation not supported, type=", ""),
    ("Extended Error: failed to retrieve link settings", ""),
    ("Disabling MPLS support (no kernel support)", ""),
    ("Graceful restart configuration changed, reset ", " to take effect"),
    ("client ", " routes vrf=0"),
    ("", "last reset: Waiting for VRF to be initialized"),
    ("", ", whereas no BoRR received"),
];

fn is_harmless(message: &str) -> bool {
    HARMLESS.iter().any(|(first, last)| message.starts_with(first) && message.ends_with(last))
}

/// A message without the identifiers at its beginning.
fn strip_identifiers(text: &str) -> &str {
    // Five and five digits of Crockford's base 32 (`lib/xref.c`).
    let is_message_id = |word: &str| {
        let digit = |b: &u8| b.is_ascii_digit() || b.is_ascii_uppercase();
        word.len() == 11 && word.bytes().enumerate().all(|(i, b)| if i == 5 { b == b'-' } else { digit(&b) })
    };
    let is_error_code = |word: &str| {
        word.strip_prefix("EC ").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let strip = |text, is: &dyn Fn(&str) -> bool| {
        let found = str::strip_prefix(text, "[").and_then(|rest| rest.split_once(']'));
        found.filter(|(word, _)| is(word)).map_or(text, |(_, rest)| rest)
    };
    let rest = strip(strip(text, &is_message_id), &is_error_code);
    if rest.len() < text.len() { rest.strip_prefix(' ').unwrap_or(rest) } else { text }
}

/// The priorities of `log record-priority` (`prionames`, `lib/zlog_targets.c`).
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

/// Format of the timestamp at the beginning of a message (`ZLOG_TS_LEGACY`, `lib/zlog.c`); a fraction of the second may
/// follow.
const TIMESTAMP: &[u8] = b"0000/00/00 00:00:00";

/// The rest of the line after its timestamp, if it begins with one.
fn strip_timestamp(line: &str) -> Option<&str> {
    after_timestamp(line.as_bytes()).and_then(|rest| line.get(line.len() - rest.len()..))
}

fn after_timestamp(line: &[u8]) -> Option<&[u8]> {
    let (timestamp, rest) = line.split_at_checked(TIMESTAMP.len())?;
    let mut pairs = TIMESTAMP.iter().zip(timestamp);
    if !pairs.all(|(wanted, b)| if *wanted == b'0' { b.is_ascii_digit() } else { b == wanted }) {
        return None;
    }
    let fraction = rest.strip_prefix(b".").map(|rest| rest.iter().take_while(|b| b.is_ascii_digit()).count());
    rest.get(fraction.map_or(0, |digits| digits + 1)..)?.strip_prefix(b" ")
}

/// Whether it is a log message of a daemon that has read its configuration.
fn has_priority(written: &[u8]) -> bool {
    let rest = after_timestamp(written);
    rest.is_some_and(|rest| PRIORITIES.iter().any(|(word, _)| rest.starts_with(word.as_bytes())))
}

#[cfg(test)]
mod tests;
