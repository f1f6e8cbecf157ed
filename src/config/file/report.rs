//! What is wrong and where: the sentence, the source line and a caret.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fmt::Display;

use crate::config::Problem;
use crate::printable::printable;

use super::entries::{has_words, is_key};
use super::tree::Place;

/// How many characters of a bad value a problem shows.
const SHOWN: usize = 60;

/// How many characters of a source line a problem shows.
const EXCERPT: usize = 100;

/// The longest line that is shown, in bytes: to find a column takes a walk through it.
const LONGEST_LINE: usize = 16 << 10;

/// How many problems are named. What is more is counted: a log of thousands helps no one, and takes its time.
const NAMED: usize = 50;

/// The text of one file.
#[derive(Debug)]
pub(super) struct Source<'a> {
    name: &'a str,
    text: &'a str,
    /// Its lines, only taken apart where there is a problem.
    lines: OnceCell<Vec<&'a str>>,
    /// What may be shown of it, by where it begins and ends: keys, and words of which their reader knows that they are no
    /// secrets. Of all the rest no one knows what it is.
    shown: Vec<(Place, Place)>,
    /// It is no YAML, so that nothing of it was read.
    broken: bool,
}

impl<'a> Source<'a> {
    pub fn new(name: &'a str, text: &'a str) -> Self {
        Self { name, text, lines: OnceCell::new(), shown: vec![], broken: false }
    }

    fn lines(&self) -> &[&'a str] {
        self.lines.get_or_init(|| lines(self.text))
    }

    /// What may be shown of these lines, in their order.
    fn shown_on(&self, lines: &BTreeSet<usize>) -> Vec<(Place, Place)> {
        if self.broken {
            let of = |line: &usize| self.lines().get(line - 1).map(|text| known_words(*line, text));
            return lines.iter().filter_map(of).flatten().collect();
        }
        let on = |(begin, end): &&(Place, Place)| {
            lines.range(begin.line..).next().is_some_and(|line| *line <= end.line)
        };
        let mut shown: Vec<_> = self.shown.iter().filter(on).copied().collect();
        shown.sort_unstable();
        shown.dedup();
        shown
    }

    fn excerpt(&self, place: Place, shown: &[(Place, Place)]) -> Option<String> {
        let Place { line, column } = place;
        let text = self.lines().get(line - 1).filter(|text| text.len() <= LONGEST_LINE)?;
        let margin = " ".repeat(line.to_string().len());
        let (at, hidden) = (column - 1, hidden_from(line, text, shown));
        if at > hidden {
            return Some(format!("  {line} | (not shown, it may hold a password)"));
        }
        let begin = if at < EXCERPT { 0 } else { at - EXCERPT / 2 };
        let known = text.trim_end().chars().take(hidden);
        let rest = (hidden < text.trim_end().chars().count()).then_some('…');
        let window: String = known.chain(rest).skip(begin).take(EXCERPT).map(visible).collect();
        let indent = " ".repeat(at - begin);
        Some(format!("  {line} | {}\n  {margin} | {indent}^", window.trim_end()))
    }
}

/// The lines as YAML counts them, which may end with a carriage return alone (YAML 1.2.2 §5.4).
fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
    if text.contains('\r') {
        lines = lines.into_iter().flat_map(|line| line.split('\r')).collect();
    }
    lines
}

/// One column for each character, and none that a terminal acts upon.
fn visible(c: char) -> char {
    match c {
        '\t' => ' ',
        c if matches!(printable(c.encode_utf8(&mut [0; 4])), Cow::Owned(_)) => '\u{fffd}',
        c => c,
    }
}

/// How many characters of a line come before the first that is neither punctuation of YAML nor may be shown; `shown` is in
/// order.
fn hidden_from(line: usize, text: &str, shown: &[(Place, Place)]) -> usize {
    let mut rest = text.chars().peekable();
    let mut shown = shown.iter().peekable();
    let mut at = Place { line, column: 1 };
    let mut known_to = at;
    while let Some(c) = rest.next() {
        while let Some((_, end)) = shown.next_if(|(begin, _)| *begin <= at) {
            known_to = known_to.max(*end);
        }
        if at >= known_to && !is_punctuation(c, rest.peek()) {
            break;
        }
        at.column += 1;
    }
    at.column - 1
}

/// Whether a character, with this one behind it, has a meaning of its own in YAML.
fn is_punctuation(c: char, next: Option<&char>) -> bool {
    match c {
        // Without a blank it may begin a word.
        '-' | ':' | '?' => next.is_none_or(|next| " \t[{".contains(*next)),
        c => " \t[]{},".contains(c),
    }
}

/// The keys that we know of a line that is no YAML, and their values if they are single words.
fn known_words(line: usize, text: &str) -> Vec<(Place, Place)> {
    let mut words = vec![];
    let chars: Vec<char> = text.chars().take(LONGEST_LINE).collect();
    let end_of = |from: usize, more: &str| {
        let is_over = |c: &char| !c.is_ascii_alphanumeric() && !more.contains(*c);
        chars[from..].iter().position(is_over).map_or(chars.len(), |length| from + length)
    };
    let mut add = |from, to| {
        words.push((Place { line, column: from + 1 }, Place { line, column: to + 1 }));
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
        if chars.get(end) != Some(&':') || !is_key(&key) {
            break;
        }
        at = add(at, end) + 1;
        if has_words(&key) {
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
pub(crate) fn sounds_secret(word: &str) -> bool {
    if word.len() < 3 {
        return false;
    }
    let word = word.to_ascii_lowercase();
    // Two letters more or less at most.
    let like_password = (6..=10).contains(&word.len()) && strsim::damerau_levenshtein(&word, "password") <= 2;
    word.contains("passw") || ["pass", "pwd", "secret"].contains(&word.as_str()) || like_password
}

/// Where a value stands, and what it says.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    pub file: usize,
    pub place: Place,
    pub path: String,
    /// The value, if it is one word and no secret.
    pub shown: Option<String>,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub value: T,
    pub spot: Spot,
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
    sources: Vec<Source<'a>>,
    /// Each with its file and place.
    found: Vec<(usize, Place, String)>,
    /// How many are not named.
    more: usize,
}

impl<'a> Report<'a> {
    pub fn new(sources: Vec<Source<'a>>) -> Self {
        Self { sources, found: vec![], more: 0 }
    }

    /// Something is wrong with a value; `allowed` says what is right.
    pub fn wrong(&mut self, spot: &Spot, reason: impl Display, allowed: &str) {
        self.complain(spot, format_args!("{reason} (allowed: {allowed})"));
    }

    /// Something is wrong with a value, and the reason says it all.
    pub fn complain(&mut self, spot: &Spot, reason: impl Display) {
        if self.is_full() {
            return self.count();
        }
        let value = match &spot.shown {
            Some(shown) => format!("={}", quoted(shown)),
            None => String::new(),
        };
        let path = if spot.path.is_empty() { "the file" } else { &spot.path };
        self.add(spot.file, spot.place, format!("{path}{value}: {reason}"));
    }

    /// The file itself can't be read as YAML.
    pub fn broken(&mut self, file: usize, place: Place, reason: &str) {
        if self.is_full() {
            return self.count();
        }
        if let Some(source) = self.sources.get_mut(file) {
            source.broken = true;
        }
        self.add(file, place, cut(&reason.chars().map(visible).collect::<String>(), 4 * SHOWN));
    }

    /// What stands there is a key, or a word that is no secret.
    pub fn may_be_shown(&mut self, file: usize, begin: Place, end: Place) {
        if let Some(source) = self.sources.get_mut(file) {
            source.shown.push((begin, end));
        }
    }

    fn add(&mut self, file: usize, place: Place, sentence: String) {
        self.found.push((file, place, sentence));
    }

    /// Whether what follows is only counted.
    pub fn is_full(&self) -> bool {
        self.found.len() >= NAMED
    }

    /// Counts a problem that is not named.
    pub fn count(&mut self) {
        self.more += 1;
    }

    /// A place as another problem names it.
    pub fn name(&self, spot: &Spot) -> String {
        let file = self.sources.get(spot.file).map_or("", |source| source.name);
        format!("{} ({file}:{})", spot.path, spot.place.line)
    }

    /// Whether there is no problem.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Those that were found first, in the order of the text, and how many more there are.
    pub fn into_problems(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|(file, place, _)| (*file, *place));
        let mut problems = vec![];
        for (i, source) in self.sources.iter().enumerate() {
            let found = || self.found.iter().filter(|(file, ..)| *file == i);
            let lines: BTreeSet<usize> = found().map(|(_, place, _)| place.line).collect();
            let shown = if lines.is_empty() { continue } else { source.shown_on(&lines) };
            for (_, place, sentence) in found() {
                let Place { line, column } = place;
                let excerpt = source.excerpt(*place, &shown).map(|text| format!("\n{text}"));
                let text = excerpt.unwrap_or_default();
                problems.push(Problem(format!("{}:{line}:{column}: {sentence}{text}", source.name)));
            }
        }
        if self.more > 0 {
            problems.push(Problem(format!(
                "CONFIG_FILE: there are {} more problems; correct the {NAMED} that are named, and the next are",
                self.more
            )));
        }
        problems
    }
}

/// Whether an entry stays.
#[derive(Debug)]
pub(super) struct Judge<'a, 'b> {
    pub sound: bool,
    /// What kind of entry it is.
    pub what: &'static str,
    pub report: &'a mut Report<'b>,
}

impl Judge<'_, '_> {
    /// Something is wrong with it.
    pub fn leave_out(&mut self, spot: &Spot, reason: impl Display) {
        self.report.complain(spot, format_args!("{reason}: this {} is left out", self.what));
        self.sound = false;
    }
}

/// As much of a value as a problem shows, and one character more where that is not all.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN + 1).collect()
}

/// A value as a problem shows it.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", cut(text, SHOWN))
}

fn cut(text: &str, limit: usize) -> String {
    let mut shown: String = text.chars().take(limit).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests;
