//! Problems with their position: the message, the source line and a caret.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fmt::Display;

use crate::config::ConfigProblem;
use crate::printable::printable;

use super::entries::{has_public_values, is_known_key};
use super::tree::YamlPosition;

/// How many characters of an invalid value a problem shows.
const MAX_VALUE_CHARS: usize = 60;

/// How many characters of a source line a problem shows.
const EXCERPT_CHARS: usize = 100;

/// The longest source line that is shown, in bytes. Finding a column scans the line.
const MAX_LINE_BYTES: usize = 16 << 10;

/// How many problems are reported. The rest is only counted: a log of thousands of problems is slow and does not help.
const MAX_PROBLEMS: usize = 50;

/// The text of one file.
#[derive(Debug)]
pub(super) struct SourceFile<'a> {
    name: &'a str,
    text: &'a str,
    /// Its lines. They are split only if there is a problem.
    lines: OnceCell<Vec<&'a str>>,
    /// The spans that may be shown, by begin and end: keys, and words that are known not to be secret. Everything else
    /// may be secret.
    public_spans: Vec<(YamlPosition, YamlPosition)>,
    /// The text is not valid YAML, and nothing of it was read.
    is_unparsable: bool,
}

impl<'a> SourceFile<'a> {
    pub fn new(name: &'a str, text: &'a str) -> Self {
        Self { name, text, lines: OnceCell::new(), public_spans: vec![], is_unparsable: false }
    }

    fn lines(&self) -> &[&'a str] {
        self.lines.get_or_init(|| lines(self.text))
    }

    /// The public spans on these lines, in order.
    fn public_spans_on(&self, lines: &BTreeSet<usize>) -> Vec<(YamlPosition, YamlPosition)> {
        if self.is_unparsable {
            let of = |line: &usize| self.lines().get(line - 1).map(|text| known_spans(*line, text));
            return lines.iter().filter_map(of).flatten().collect();
        }
        let on = |(begin, end): &&(YamlPosition, YamlPosition)| {
            lines.range(begin.line..).next().is_some_and(|line| *line <= end.line)
        };
        let mut spans: Vec<_> = self.public_spans.iter().filter(on).copied().collect();
        spans.sort_unstable();
        spans.dedup();
        spans
    }

    fn excerpt(&self, position: YamlPosition, public: &[(YamlPosition, YamlPosition)]) -> Option<String> {
        let YamlPosition { line, column } = position;
        let text = self.lines().get(line - 1).filter(|text| text.len() <= MAX_LINE_BYTES)?;
        let margin = " ".repeat(line.to_string().len());
        let (at, hidden) = (column - 1, public_prefix_len(line, text, public));
        if at > hidden {
            return Some(format!("  {line} | (not shown, it may contain a password)"));
        }
        let begin = if at < EXCERPT_CHARS { 0 } else { at - EXCERPT_CHARS / 2 };
        let known = text.trim_end().chars().take(hidden);
        let rest = (hidden < text.trim_end().chars().count()).then_some('…');
        let window: String = known.chain(rest).skip(begin).take(EXCERPT_CHARS).map(printable_char).collect();
        let indent = " ".repeat(at - begin);
        Some(format!("  {line} | {}\n  {margin} | {indent}^", window.trim_end()))
    }
}

/// The lines as YAML counts them. A carriage return alone may end a line (YAML 1.2.2 §5.4).
fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
    if text.contains('\r') {
        lines = lines.into_iter().flat_map(|line| line.split('\r')).collect();
    }
    lines
}

/// Maps each character to one column, without control sequences for a terminal.
fn printable_char(c: char) -> char {
    match c {
        '\t' => ' ',
        c if matches!(printable(c.encode_utf8(&mut [0; 4])), Cow::Owned(_)) => '\u{fffd}',
        c => c,
    }
}

/// The number of leading characters of a line that are YAML punctuation or inside a public span. `public` is sorted.
fn public_prefix_len(line: usize, text: &str, public: &[(YamlPosition, YamlPosition)]) -> usize {
    let mut rest = text.chars().peekable();
    let mut public = public.iter().peekable();
    let mut at = YamlPosition { line, column: 1 };
    let mut known_to = at;
    while let Some(c) = rest.next() {
        while let Some((_, end)) = public.next_if(|(begin, _)| *begin <= at) {
            known_to = known_to.max(*end);
        }
        if at >= known_to && !is_punctuation(c, rest.peek()) {
            break;
        }
        at.column += 1;
    }
    at.column - 1
}

/// Whether a character is YAML punctuation, given the character that follows.
fn is_punctuation(c: char, next: Option<&char>) -> bool {
    match c {
        // Without a blank it may be the start of a word.
        '-' | ':' | '?' => next.is_none_or(|next| " \t[{".contains(*next)),
        c => " \t[]{},".contains(c),
    }
}

/// The known keys of a line that is not valid YAML, and their values if these are single words.
fn known_spans(line: usize, text: &str) -> Vec<(YamlPosition, YamlPosition)> {
    let mut words = vec![];
    let chars: Vec<char> = text.chars().take(MAX_LINE_BYTES).collect();
    let end_of = |from: usize, more: &str| {
        let is_over = |c: &char| !c.is_ascii_alphanumeric() && !more.contains(*c);
        chars[from..].iter().position(is_over).map_or(chars.len(), |length| from + length)
    };
    let mut add = |from, to| {
        words.push((YamlPosition { line, column: from + 1 }, YamlPosition { line, column: to + 1 }));
        to
    };
    let mut at = 0;
    while let Some(c) = chars.get(at) {
        let end = end_of(at, "");
        if end == at {
            if !is_punctuation(*c, chars.get(at + 1)) {
                break;
            }
            at += 1;
            continue;
        }
        let key: String = chars[at..end].iter().collect();
        if chars.get(end) != Some(&':') || !is_known_key(&key) {
            break;
        }
        at = add(at, end) + 1;
        if has_public_values(&key) {
            let blanks = chars[at.min(chars.len())..].iter().take_while(|c| **c == ' ').count();
            let value = at + blanks;
            if blanks > 0 {
                at = add(value, end_of(value, "._-/\"':"));
            }
        }
    }
    words
}

/// Whether the word means a password, perhaps misspelt.
pub(crate) fn is_password_keyword(word: &str) -> bool {
    if word.len() < 3 {
        return false;
    }
    let word = word.to_ascii_lowercase();
    // At most two letters differ.
    let like_password = (6..=10).contains(&word.len()) && strsim::damerau_levenshtein(&word, "password") <= 2;
    word.contains("passw") || ["pass", "pwd", "secret"].contains(&word.as_str()) || like_password
}

/// The location of a value, and its text.
#[derive(Debug, Clone)]
pub(super) struct Location {
    pub file: usize,
    pub position: YamlPosition,
    pub path: String,
    /// The value, if it is one word and not a secret.
    pub value_text: Option<String>,
}

impl Location {
    /// Whether the value at `path` is this one or a part of it.
    fn contains(&self, file: usize, path: &str) -> bool {
        let rest = path.strip_prefix(&self.path).filter(|_| file == self.file);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }
}

/// A value and its location.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub value: T,
    pub location: Location,
}

impl<T> std::ops::Deref for Located<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// The problems found so far.
#[derive(Debug)]
pub(super) struct Report<'a> {
    sources: Vec<SourceFile<'a>>,
    /// Each with its file, position and path.
    problems: Vec<(usize, YamlPosition, String, String)>,
    /// How many problems are not reported.
    omitted: usize,
}

impl<'a> Report<'a> {
    pub fn new(sources: Vec<SourceFile<'a>>) -> Self {
        Self { sources, problems: vec![], omitted: 0 }
    }

    /// Reports an invalid value. `allowed` describes the valid ones.
    pub fn invalid(&mut self, location: &Location, reason: impl Display, allowed: &str) {
        self.add(location, format_args!("{reason} (allowed: {allowed})"));
    }

    /// Reports a problem whose reason is complete.
    pub fn add(&mut self, location: &Location, reason: impl Display) {
        if self.is_full() {
            return self.count_omitted();
        }
        let value = match &location.value_text {
            Some(text) => format!("={}", quoted(text)),
            None => String::new(),
        };
        let path = if location.path.is_empty() { "the file" } else { &location.path };
        let sentence = format!("{path}{value}: {reason}");
        self.problems.push((location.file, location.position, location.path.clone(), sentence));
    }

    /// Reports that the file is not valid YAML.
    pub fn yaml_error(&mut self, file: usize, position: YamlPosition, reason: &str) {
        if self.is_full() {
            return self.count_omitted();
        }
        if let Some(source) = self.sources.get_mut(file) {
            source.is_unparsable = true;
        }
        let reason: String = reason.chars().map(printable_char).collect();
        self.problems.push((file, position, String::new(), truncate(&reason, 4 * MAX_VALUE_CHARS)));
    }

    /// Marks a span as public: a key, or a word that is not a secret.
    pub fn mark_public(&mut self, file: usize, begin: YamlPosition, end: YamlPosition) {
        if let Some(source) = self.sources.get_mut(file) {
            source.public_spans.push((begin, end));
        }
    }

    /// Replaces the end of the sentences about `entry` and its parts.
    pub fn replace_end(&mut self, entry: &Location, end: &str, other: &str) {
        for (_, _, _, sentence) in
            self.problems.iter_mut().filter(|(file, _, path, _)| entry.contains(*file, path))
        {
            if let Some(begin) = sentence.strip_suffix(end) {
                *sentence = format!("{begin}{other}");
            }
        }
    }

    /// The sentences about `entry` and its parts.
    pub fn sentences(&self, entry: &Location) -> Vec<String> {
        let of_entry = self.problems.iter().filter(|(file, _, path, _)| entry.contains(*file, path));
        of_entry.map(|(.., sentence)| sentence.clone()).collect()
    }

    /// Whether further problems are only counted.
    pub fn is_full(&self) -> bool {
        self.problems.len() >= MAX_PROBLEMS
    }

    /// Counts a problem that is not reported.
    pub fn count_omitted(&mut self) {
        self.omitted += 1;
    }

    /// A location as another problem refers to it.
    pub fn describe(&self, location: &Location) -> String {
        let file = self.sources.get(location.file).map_or("", |source| source.name);
        format!("{} ({file}:{})", location.path, location.position.line)
    }

    /// Whether there is no problem.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// The reported problems in the order of the text, and how many more there are.
    pub fn into_problems(mut self) -> Vec<ConfigProblem> {
        self.problems.sort_by_key(|(file, position, ..)| (*file, *position));
        let mut problems = vec![];
        for (i, source) in self.sources.iter().enumerate() {
            let found = || self.problems.iter().filter(|(file, ..)| *file == i);
            let lines: BTreeSet<usize> = found().map(|(_, position, ..)| position.line).collect();
            let public = if lines.is_empty() { continue } else { source.public_spans_on(&lines) };
            for (_, position, _, sentence) in found() {
                let YamlPosition { line, column } = position;
                let excerpt = source.excerpt(*position, &public).map(|text| format!("\n{text}"));
                let text = excerpt.unwrap_or_default();
                problems.push(ConfigProblem(format!("{}:{line}:{column}: {sentence}{text}", source.name)));
            }
        }
        if self.omitted > 0 {
            problems.push(ConfigProblem(format!(
                "CONFIG_FILE: {} more problems are not shown: correct the first {MAX_PROBLEMS}",
                self.omitted
            )));
        }
        problems
    }
}

/// Whether an entry is valid.
#[derive(Debug)]
pub(super) struct EntryCheck<'a, 'b> {
    pub valid: bool,
    /// The kind of the entry, for the messages.
    pub kind: &'static str,
    pub report: &'a mut Report<'b>,
}

impl EntryCheck<'_, '_> {
    /// Reports a problem, and rejects the entry.
    pub fn reject(&mut self, location: &Location, reason: impl Display) {
        self.report.add(location, format_args!("{reason}: this {} is left out", self.kind));
        self.valid = false;
    }
}

/// The start of a value: as much as a problem shows, plus one character if there is more.
pub(super) fn limited(text: &str) -> String {
    text.chars().take(MAX_VALUE_CHARS + 1).collect()
}

/// A value as a problem shows it.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", truncate(text, MAX_VALUE_CHARS))
}

fn truncate(text: &str, limit: usize) -> String {
    let mut shown: String = text.chars().take(limit).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests;
