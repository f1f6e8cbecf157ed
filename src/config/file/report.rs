//! What is wrong and where: the sentence, the source line and a caret.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap};
use std::fmt::{Display, Write as _};

use crate::config::Problem;

use super::tree::{Kind, Node, Place};

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
    /// Lines, counted from 1, that may hold a password.
    hidden: BTreeSet<usize>,
    /// The same, by the words on them: only asked for where there is a problem.
    hidden_by_words: OnceCell<Vec<bool>>,
}

impl<'a> Source<'a> {
    pub fn new(name: &'a str, text: &'a str) -> Self {
        Self { name, text, lines: OnceCell::new(), hidden: BTreeSet::new(), hidden_by_words: OnceCell::new() }
    }

    fn lines(&self) -> &[&'a str] {
        self.lines.get_or_init(|| self.text.lines().collect())
    }

    /// Hides where the values of passwords begin, which the words of a line alone do not tell: a line of its own, or
    /// one behind an alias.
    pub fn hide_passwords(&mut self, node: &Node) {
        self.look_for_passwords(node, &mut HashMap::new());
    }

    /// `known`: what keys sound like, of which there are few.
    fn look_for_passwords<'n>(&mut self, node: &'n Node, known: &mut HashMap<&'n str, bool>) {
        match &node.kind {
            Kind::List(list) => list.iter().for_each(|node| self.look_for_passwords(node, known)),
            Kind::Map(map) => {
                for (key, value) in map.iter() {
                    if *known.entry(&*key.name).or_insert_with_key(|name| sounds_secret(name)) {
                        self.hide(value);
                    } else {
                        self.look_for_passwords(value, known);
                    }
                }
            }
            _ => {}
        }
    }

    fn hide(&mut self, node: &Node) {
        self.hidden.extend([node.place.line, node.written.line]);
        match &node.kind {
            Kind::List(list) => list.iter().for_each(|node| self.hide(node)),
            Kind::Map(map) => map.iter().for_each(|(_, value)| self.hide(value)),
            _ => {}
        }
    }

    fn hides(&self, line: usize) -> bool {
        self.hidden.contains(&line)
            || self
                .hidden_by_words
                .get_or_init(|| hidden_by_words(self.lines()))
                .get(line - 1)
                .is_some_and(|hidden| *hidden)
    }

    fn excerpt(&self, place: Place) -> Option<String> {
        let Place { line, column } = place;
        let text = self.lines().get(line - 1).filter(|text| text.len() <= LONGEST_LINE)?;
        let margin = " ".repeat(line.to_string().len());
        if self.hides(line) {
            return Some(format!("  {line} | (not shown, it may hold a password)"));
        }
        let at = column - 1;
        let begin = if at < EXCERPT { 0 } else { at - EXCERPT / 2 };
        let window: String = text.chars().skip(begin).take(EXCERPT).map(visible).collect();
        let indent = " ".repeat(at - begin);
        Some(format!("  {line} | {}\n  {margin} | {indent}^", window.trim_end()))
    }
}

/// One column for each character, and none that a terminal acts upon.
fn visible(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// Lines that name a password, those below them that are deeper, and those that may be what an alias stands for.
fn hidden_by_words(lines: &[&str]) -> Vec<bool> {
    let mut hidden = vec![false; lines.len()];
    let mut below = None;
    let depth = |line: &str| line.chars().take_while(|c| " \t-".contains(*c)).count();
    for (hidden, line) in hidden.iter_mut().zip(lines) {
        let secret = line.split(|c: char| !c.is_ascii_alphanumeric()).any(sounds_secret);
        if secret {
            below = Some(depth(line));
        } else if !line.trim().is_empty() && below.is_some_and(|above| depth(line) <= above) {
            below = None;
        }
        *hidden = below.is_some();
    }
    if hidden.contains(&true) {
        hidden.iter_mut().zip(lines).for_each(|(hidden, line)| *hidden |= line.contains(" &"));
    }
    hidden
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
    pub sources: Vec<Source<'a>>,
    found: Vec<(usize, Place, Problem)>,
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
        self.add(spot.file, spot.place, format!("{}{value}: {reason}", spot.path));
    }

    /// The file itself can't be read as YAML.
    pub fn broken(&mut self, file: usize, place: Place, reason: &str) {
        if self.is_full() {
            return self.count();
        }
        let hidden = self.sources.get(file).is_some_and(|source| source.hides(place.line));
        // What the parser quotes may be the password.
        let reason = if hidden { reason.split(['`', ':', '\'']).next().unwrap_or_default() } else { reason };
        self.add(file, place, cut(&reason.chars().map(visible).collect::<String>(), 4 * SHOWN));
    }

    fn add(&mut self, file: usize, place: Place, sentence: String) {
        let Some(source) = self.sources.get(file) else { return };
        let mut text = format!("{}:{}:{}: {sentence}", source.name, place.line, place.column);
        if let Some(excerpt) = source.excerpt(place) {
            // Writing to a String can't fail.
            let _ = write!(text, "\n{excerpt}");
        }
        self.found.push((file, place, Problem(text)));
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
        let mut problems: Vec<_> = self.found.into_iter().map(|(_, _, problem)| problem).collect();
        if self.more > 0 {
            problems.push(Problem(format!(
                "CONFIG_FILE: there are {} more problems; correct the {NAMED} that are named, and the next are",
                self.more
            )));
        }
        problems
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
