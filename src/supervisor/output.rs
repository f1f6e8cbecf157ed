//! What a daemon prints, line by line, as log records under its name.

use log::Level;

/// A line is cut here; FRR's own buffer for one is smaller.
const LONGEST_LINE: usize = 8192;

/// Collects bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes bytes in, hands every line that they complete to `line`.
    pub fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for &byte in bytes {
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
            line(text);
        }
        self.rest.clear();
    }
}

/// Splits what an FRR daemon prints into level and message: the time and the daemon's name are ours to give.
///
/// With `log record-priority` a line reads `2026/11/21 00:28:30 warnings: BGP: [EC 33554454] …`; before the
/// configuration is read the priority is missing.
pub fn parse(line: &str) -> (Level, &str) {
    let words = [
        ("emergencies: ", Level::Error),
        ("alerts: ", Level::Error),
        ("critical: ", Level::Error),
        ("errors: ", Level::Error),
        ("warnings: ", Level::Warn),
        ("notifications: ", Level::Info),
        ("informational: ", Level::Info),
        ("debugging: ", Level::Debug),
    ];
    let text = without_time(line);
    let prioritised = words.iter().find_map(|(word, level)| Some((*level, text.strip_prefix(word)?)));
    // vtysh's complaints and a crash report have no priority.
    let complaint = text.contains("% ") || text.contains("Received signal");
    let unprioritised = if complaint { Level::Warn } else { Level::Info };
    let (level, text) = prioritised.unwrap_or((unprioritised, text));
    match text.split_once(": ") {
        Some((name, rest)) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase()) => {
            (level, rest)
        }
        _ => (level, text),
    }
}

fn without_time(line: &str) -> &str {
    let mut words = line.splitn(3, ' ');
    let digits = |word: &str, separator: char| {
        word.contains(separator) && word.chars().all(|c| c.is_ascii_digit() || c == separator || c == '.')
    };
    match (words.next(), words.next(), words.next()) {
        (Some(date), Some(time), Some(rest)) if digits(date, '/') && digits(time, ':') => rest,
        _ => line,
    }
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
        let line = "2026/11/21 00:28:30 warnings: BGP: [XYZ-1][EC 33554454] peer down";
        assert_eq!(parse(line), (Level::Warn, "[XYZ-1][EC 33554454] peer down"));
        let line = "2026/11/21 00:28:30.123 ZEBRA: [XYZ-1] started";
        assert_eq!(parse(line), (Level::Info, "[XYZ-1] started"));
        assert_eq!(parse("ZEBRA: Received signal 11"), (Level::Warn, "Received signal 11"));
        assert_eq!(parse("line 3: % Unknown command: x"), (Level::Warn, "line 3: % Unknown command: x"));
        assert_eq!(parse("plain words: here"), (Level::Info, "plain words: here"));
    }
}
