//! The output of `vtysh -C` for a configuration, and which raw lines an error comes from. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::model::{FRR_LINE_MAX, RawLines, raw_line_ranges};

use super::delta::lines_with_path;
use super::redact::{redact, redact_output};

/// An invalid command, appended as the last line: vtysh's error for it shows that it has read all lines before.
const END_MARKER: &str = "end-of-this-configuration";

/// The node of vtysh after it has left the configuration (`ENABLE_NODE`, `lib/command.h`), as its errors print it.
const ENABLE_NODE: &str = "[3]";

/// The number of diagnostics that an error message lists.
const MAX_LISTED: usize = 5;

/// One error or warning of vtysh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The number of the line, counted from 1, if vtysh names one.
    pub line: Option<usize>,
    /// The message, without passwords.
    text: String,
}

/// Why a configuration fails the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckFailure(pub Vec<Diagnostic>);

impl fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vtysh refuses the configuration: ")?;
        for (i, diagnostic) in self.0.iter().take(MAX_LISTED).enumerate() {
            let between = if i == 0 { "" } else { "; " };
            match diagnostic.line {
                Some(line) => write!(f, "{between}line {line}: {}", diagnostic.text)?,
                None => write!(f, "{between}{}", diagnostic.text)?,
            }
        }
        match self.0.len().checked_sub(MAX_LISTED) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for CheckFailure {}

/// The output of a check.
#[derive(Debug, PartialEq, Eq)]
pub struct CheckOutput {
    /// vtysh has read the text to its last line.
    pub is_complete: bool,
    /// The errors and warnings, without the one for the end marker.
    pub diagnostics: Vec<Diagnostic>,
}

/// `text` with [`END_MARKER`] as its last line.
pub fn with_end_marker(text: &str) -> String {
    let line_break = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{line_break}{END_MARKER}\n")
}

/// The lines of `text` that are too long for FRR. FRR would read each as several lines, and might quote any of them.
pub fn overlong_lines(text: &str) -> Option<CheckFailure> {
    let long = text.lines().zip(1..).filter(|(line, _)| line.len() > FRR_LINE_MAX);
    let reason = format!("longer than {FRR_LINE_MAX} bytes, the longest line that FRR reads");
    let all: Vec<_> = long.map(|(_, line)| Diagnostic { line: Some(line), text: reason.clone() }).collect();
    (!all.is_empty()).then_some(CheckFailure(all))
}

impl CheckOutput {
    /// Parses vtysh's output for `text`, which was checked with or without the end marker.
    pub fn parse(output: &str, text: &str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let (mut is_complete, mut diagnostics) = (false, vec![]);
        for message in output.lines().map(str::trim).filter(|message| !message.is_empty()) {
            let numbered = message.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
            let numbered = numbered.and_then(|(number, rest)| Some((number.parse::<usize>().ok()?, rest)));
            match numbered {
                Some((number, rest)) if number > lines.len() && rest.contains(END_MARKER) => {
                    is_complete = !rest.contains(ENABLE_NODE);
                }
                Some((number, rest)) => {
                    let quoted = lines.get(number.wrapping_sub(1)).map_or("", |line| line.trim());
                    let text = if rest.ends_with("early exit from config file") {
                        format!("{:?} ends the configuration, and FRR reads no further", redact(quoted))
                    } else {
                        // vtysh may cut its quote of the line at any place, so the line is taken from the text.
                        let kind = rest.split(['[', ':']).next().unwrap_or_default();
                        format!("{}: {}", redact_output(kind.trim_end_matches('.')), redact(quoted))
                    };
                    diagnostics.push(Diagnostic { line: Some(number), text });
                }
                // A summary of the errors before it.
                None if message.contains("processing failure") => {}
                None => {
                    diagnostics.push(Diagnostic { line: None, text: redact_output(message).into_owned() });
                }
            }
        }
        Self { is_complete, diagnostics }
    }

    /// The failure for a text that vtysh has not read to its end.
    pub fn into_incomplete(mut self) -> CheckFailure {
        let has_cause =
            self.diagnostics.iter().any(|diagnostic| diagnostic.text.ends_with("reads no further"));
        if !has_cause {
            let text = "\"exit\", \"quit\" or the like ends the configuration before its last line, and FRR reads no further";
            self.diagnostics.push(Diagnostic { line: None, text: text.into() });
        }
        CheckFailure(self.diagnostics)
    }
}

/// The entries of `raw` to leave out of `text`, which failed the check, each with its errors. Empty if the errors do
/// not come from raw lines. `check_with` checks the text with only the given entries, and returns the failure, if any.
pub fn blame(
    raw: &[RawLines],
    text: &str,
    failure: &CheckFailure,
    mut check_with: impl FnMut(&[usize]) -> Option<CheckFailure>,
) -> Vec<(usize, CheckFailure)> {
    if raw.is_empty() {
        return vec![];
    }
    let ranges = raw_line_ranges(raw, text);
    let entry_at =
        |line: usize| ranges.iter().position(|range| range.as_ref().is_some_and(|r| r.contains(&line)));
    let mut named: BTreeMap<usize, Vec<Diagnostic>> = BTreeMap::new();
    let mut others = false;
    for diagnostic in &failure.0 {
        match diagnostic.line.and_then(entry_at) {
            Some(entry) => named.entry(entry).or_default().push(diagnostic.clone()),
            None => others = true,
        }
    }
    let named: Vec<_> =
        named.into_iter().map(|(entry, diagnostics)| (entry, CheckFailure(diagnostics))).collect();
    if !others {
        return named;
    }
    // An error in one entry may be reported at another line.
    if check_with(&[]).is_some() {
        return vec![];
    }
    let bad: Vec<_> = (0..raw.len()).filter_map(|i| Some((i, check_with(&[i])?))).collect();
    if !bad.is_empty() {
        return bad;
    }
    if named.is_empty() { (0..raw.len()).map(|i| (i, failure.clone())).collect() } else { named }
}

/// The entries of `raw` that contain `line`, a line of `text`, which was rendered from all of them. Empty if the
/// template has the line, too. `path`: the heads of the contexts that contain the line, if they are known.
pub fn raw_entries_of(raw: &[RawLines], text: &str, line: &str, path: Option<&[&str]>) -> Vec<usize> {
    let ranges = raw_line_ranges(raw, text);
    let same = |other: &str| !other.is_empty() && other.split_whitespace().eq(line.split_whitespace());
    let lines = lines_with_path(text, true).zip(1..);
    let matching =
        lines.filter(|((other_path, other), _)| same(other) && path.is_none_or(|path| path == other_path));
    let entry_at =
        |line: usize| ranges.iter().position(|range| range.as_ref().is_some_and(|r| r.contains(&line)));
    let entries: Option<BTreeSet<usize>> = matching.map(|(_, number)| entry_at(number)).collect();
    entries.unwrap_or_default().into_iter().collect()
}

#[cfg(test)]
mod tests;
