//! The tree → typed values, with every problem reported: what a type is read by, and how a map is declared.

use serde_json::{Map, Value as Json, json};

use crate::model::Value;

use super::report::{Located, Report, Spot, quoted, shown};
use super::rules::rules;
use super::tree::{Key, Kind, Node, is_number, plain_integer};

/// A node, and how it is named.
#[derive(Debug)]
pub(super) struct At<'a> {
    pub node: &'a Node,
    pub file: usize,
    pub path: String,
}

impl<'a> At<'a> {
    /// Where it stands, with its value if that is one word.
    pub fn spot(&self) -> Spot {
        let shown = match &self.node.kind {
            Kind::Bool(text) | Kind::Number(text) | Kind::Scalar(text) => {
                // No value but a secret has several words: a key was forgotten, and no one knows what the others are.
                let first = text.split_whitespace().next().unwrap_or_default();
                Some(if is_one_word(text) { shown(text) } else { format!("{} …", shown(first)) })
            }
            _ => None,
        };
        Spot { file: self.file, place: self.node.place, path: self.path.clone(), shown }
    }

    /// The same without its value.
    pub fn silent(&self) -> Spot {
        Spot { shown: None, ..self.spot() }
    }

    fn key(&self, name: &str, node: &'a Node) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self { node, file: self.file, path: format!("{}{dot}{name}", self.path) }
    }

    fn item(&self, index: usize, node: &'a Node) -> Self {
        Self { node, file: self.file, path: format!("{}[{index}]", self.path) }
    }
}

/// A type that can be read from a node.
pub(super) trait Read: Sized {
    /// Whether its text must not be shown.
    const SECRET: bool = false;
    /// Whether it is one word, or a list of them.
    const WORDS: bool = false;
    /// The value, or `None` after having said why not.
    fn read(at: &At<'_>, report: &mut Report<'_>) -> Option<Self>;
    /// What an editor may know of it (JSON Schema).
    fn schema() -> Json;
}

impl<T: Read> Read for Located<T> {
    const SECRET: bool = T::SECRET;
    const WORDS: bool = T::WORDS;
    fn read(at: &At<'_>, report: &mut Report<'_>) -> Option<Self> {
        let value = T::read(at, report)?;
        Some(Self { value, spot: if T::SECRET { at.silent() } else { at.spot() } })
    }
    fn schema() -> Json {
        T::schema()
    }
}

/// A list of which every item must be right.
#[derive(Debug, Clone)]
pub(super) struct List<T, const MIN: usize, const MAX: usize>(pub Vec<Located<T>>);

impl<T: Read, const MIN: usize, const MAX: usize> Read for List<T, MIN, MAX> {
    const SECRET: bool = T::SECRET;
    const WORDS: bool = T::WORDS;
    fn read(at: &At<'_>, report: &mut Report<'_>) -> Option<Self> {
        let items = items(at, report)?;
        if !(MIN..=MAX).contains(&items.len()) {
            let range = if MIN == 0 { format!("at most {MAX}") } else { format!("{MIN} to {MAX}") };
            report.complain(&at.silent(), format_args!("has {} items (allowed: {range})", items.len()));
            return None;
        }
        let read: Vec<Option<_>> =
            items.iter().enumerate().map(|(i, node)| Read::read(&at.item(i, node), report)).collect();
        read.into_iter().collect::<Option<_>>().map(Self)
    }
    fn schema() -> Json {
        // What was left blank is an empty list.
        let kind = if MIN == 0 { json!(["array", "null"]) } else { json!("array") };
        json!({"type": kind, "items": T::schema(), "minItems": MIN, "maxItems": MAX})
    }
}

/// A list whose wrong items are left out, without harm to the others.
#[derive(Debug, Clone)]
pub(super) struct Entries<T, const MAX: usize>(pub Vec<Located<T>>);

impl<T, const MAX: usize> Default for Entries<T, MAX> {
    fn default() -> Self {
        Self(vec![])
    }
}

impl<T: Read, const MAX: usize> Read for Entries<T, MAX> {
    fn read(at: &At<'_>, report: &mut Report<'_>) -> Option<Self> {
        let mut items = items(at, report)?;
        if let Some(first) = items.get(MAX) {
            report.complain(
                &at.item(MAX, first).silent(),
                format_args!("too many (allowed: at most {MAX}): this and what follows is left out"),
            );
            items = &items[..MAX];
        }
        let read = |(i, node)| Read::read(&at.item(i, node), report);
        Some(Self(items.iter().enumerate().filter_map(read).collect()))
    }
    fn schema() -> Json {
        json!({"type": ["array", "null"], "items": T::schema(), "maxItems": MAX})
    }
}

/// A value of which it matters whether it is absent or wrong.
#[derive(Debug, Clone)]
pub(super) struct Attempt<T>(pub Option<T>);

impl<T: Read> Read for Attempt<T> {
    const SECRET: bool = T::SECRET;
    const WORDS: bool = T::WORDS;
    fn read(at: &At<'_>, report: &mut Report<'_>) -> Option<Self> {
        Some(Self(T::read(at, report)))
    }
    fn schema() -> Json {
        T::schema()
    }
}

/// The nodes of a list; what was left blank is an empty one.
fn items<'a>(at: &At<'a>, report: &mut Report<'_>) -> Option<&'a [Node]> {
    match &at.node.kind {
        Kind::List(list) => Some(list),
        Kind::Null => Some(&[]),
        _ => {
            report.complain(&at.silent(), "not a list");
            None
        }
    }
}

/// Reads one word by the rules of its type.
pub(super) fn scalar<T: Value>(at: &At<'_>, report: &mut Report<'_>) -> Option<T> {
    may_be_shown::<T>(at, report);
    let text = word(at, report, T::SECRET, &T::allowed)?;
    match T::parse(text) {
        Ok(value) => Some(value),
        Err(reason) => {
            let spot = if T::SECRET { at.silent() } else { at.spot() };
            report.wrong(&spot, reason, &T::allowed());
            None
        }
    }
}

fn is_one_word(text: &str) -> bool {
    !text.trim().contains(char::is_whitespace)
}

/// A word in its place may be shown, unless it is a secret there.
fn may_be_shown<T: Value>(at: &At<'_>, report: &mut Report<'_>) {
    let is_one_word = match &at.node.kind {
        Kind::Scalar(text) => is_one_word(text),
        Kind::List(_) | Kind::Map(_) => false,
        _ => true,
    };
    if !T::SECRET && is_one_word {
        report.may_be_shown(at.file, at.node.place, at.node.end);
    }
}

/// The same for a number, which is none in quotes.
pub(super) fn number<T: Value>(at: &At<'_>, report: &mut Report<'_>) -> Option<T> {
    may_be_shown::<T>(at, report);
    let parsed = match &at.node.kind {
        Kind::Number(text) => T::parse(plain_integer(text).as_deref().unwrap_or(text)),
        Kind::Scalar(text) if is_number(text) => {
            report.wrong(&at.spot(), "text, not a number: leave out the quotes", &T::allowed());
            return None;
        }
        _ => T::parse(word(at, report, T::SECRET, &T::allowed)?),
    };
    parsed.map_err(|reason| report.wrong(&at.spot(), reason, &T::allowed())).ok()
}

fn word<'a>(
    at: &At<'a>,
    report: &mut Report<'_>,
    secret: bool,
    allowed: &dyn Fn() -> String,
) -> Option<&'a str> {
    let reason = match &at.node.kind {
        Kind::Scalar(text) if text.trim().is_empty() => "is empty",
        Kind::Scalar(text) if text.trim() != &**text => "has blanks around it",
        Kind::Scalar(text) => return Some(text),
        Kind::Bool(_) => "a boolean, not text: put it in quotes if it is text",
        Kind::Number(_) => "a number, not text: put it in quotes if it is text",
        Kind::Null => "is empty",
        Kind::List(_) => "a list, not a single value",
        Kind::Map(_) => "a map, not a single value",
    };
    report.wrong(&if secret { at.silent() } else { at.spot() }, reason, &allowed());
    None
}

/// Makes types that read one word by the rules of [`Value`] readable.
macro_rules! words_of {
    ($($how:ident $type:ty: $schema:expr;)*) => {$(
        impl $crate::config::file::read::Read for $type {
            const SECRET: bool = <$type as $crate::model::Value>::SECRET;
            const WORDS: bool = true;
            fn read(
                at: &$crate::config::file::read::At<'_>,
                report: &mut $crate::config::file::report::Report<'_>,
            ) -> Option<Self> {
                $crate::config::file::read::$how(at, report)
            }
            fn schema() -> serde_json::Value {
                $schema
            }
        }
    )*};
}
pub(super) use words_of;

/// Declares a value that is one of a few words; and, behind a semicolon, those that upstream knows and we do not serve.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),* $(; $($other:literal: $why:literal),*)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum $name { $($variant),* }

        impl $crate::model::Value for $name {
            fn allowed() -> String {
                format!("one of {}", [$($word),*].join(", "))
            }
            fn parse(text: &str) -> Result<Self, $crate::model::Invalid> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    $($($other => Err($crate::model::Invalid(concat!("not supported: ", $why).into())),)*)?
                    _ => Err($crate::model::Invalid("not one of the words".into())),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),* })
            }
        }

        $crate::config::file::read::words_of! {
            scalar $name: serde_json::json!({"enum": [$($word),*]});
        }
    };
}
pub(super) use choice;

/// In the place of a key that is not served.
#[derive(Debug, Clone)]
pub(super) struct Refused;

/// A map that is being read.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    at: &'a At<'a>,
    map: &'a [(Key, Node)],
    /// Whether a wrong value spoils the whole map.
    strict: bool,
    sound: bool,
}

impl<'a> Fields<'a> {
    /// Begins with the keys that no one knows.
    pub fn new(
        at: &'a At<'a>,
        strict: bool,
        known: &[(&[&'static str], &str)],
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let served: Vec<_> =
            known.iter().filter(|(_, mode)| *mode != "refused").map(|(names, _)| *names).collect();
        let Kind::Map(map) = &at.node.kind else {
            let reason = match at.node.kind {
                Kind::Null => "is empty: write {} or leave it out",
                Kind::List(_) => "a list, not a map",
                _ => "not a map",
            };
            let keys: Vec<&str> = served.iter().map(|names| names[0]).collect();
            report.wrong(&at.silent(), reason, &format!("the keys {}", keys.join(", ")));
            return None;
        };
        let mut fields = Self { at, map, strict, sound: true };
        for (key, _) in map.iter() {
            let is_known = known.iter().any(|(names, _)| names.contains(&&*key.name));
            if is_known || key_name(&key.name) == &*key.name {
                report.may_be_shown(at.file, key.place, key.end);
            }
            if is_known {
                continue;
            }
            fields.sound = false;
            // To look for what was meant takes time, and there is no end to what may be wrong.
            if report.is_full() {
                report.count();
                continue;
            }
            let spot = Spot { place: key.place, ..at.silent() };
            let owner = if at.path.is_empty() { "" } else { ": " };
            let spot = Spot { path: format!("{}{owner}{}", spot.path, quoted(key_name(&key.name))), ..spot };
            match nearest(&key.name, &served) {
                // An object of Kubernetes in the place of its spec.
                _ if ["apiVersion", "kind", "metadata", "spec", "status"].contains(&&*key.name) => {
                    report.complain(
                        &spot,
                        "not supported: this is no Kubernetes object, write what its spec has",
                    );
                }
                Some(name) => report.complain(&spot, format_args!("unknown key, did you mean {name}?")),
                None => {
                    let keys: Vec<&str> = served.iter().map(|names| names[0]).collect();
                    report.wrong(&spot, "unknown key", &keys.join(", "));
                }
            }
        }
        Some(fields)
    }

    fn find(&mut self, names: &[&'static str], report: &mut Report<'_>) -> Option<At<'a>> {
        let mut found = self.map.iter().filter(|(key, _)| names.contains(&&*key.name));
        let (key, node) = found.next()?;
        if let Some((other, _)) = found.next() {
            let spot = Spot { place: other.place, ..self.at.key(&other.name, node).silent() };
            report.complain(&spot, format_args!("another name for {}, which is given as well", key.name));
            self.sound = false;
        }
        Some(self.at.key(&key.name, node))
    }

    /// A value that may be absent.
    pub fn optional<T: Read>(&mut self, names: &[&'static str], report: &mut Report<'_>) -> Option<T> {
        let at = self.find(names, report)?;
        let value = T::read(&at, report);
        self.sound &= value.is_some();
        value
    }

    /// A value that must be there.
    pub fn required<T: Read>(&mut self, names: &[&'static str], report: &mut Report<'_>) -> Option<T> {
        let Some(at) = self.find(names, report) else {
            let spot = Spot { shown: None, ..self.at.spot() };
            let dot = if spot.path.is_empty() { "" } else { "." };
            let spot = Spot { path: format!("{}{dot}{}", spot.path, names[0]), ..spot };
            report.complain(&spot, "must be set");
            self.sound = false;
            return None;
        };
        let value = T::read(&at, report);
        self.sound &= value.is_some();
        value
    }

    /// A key that upstream knows and we do not serve.
    pub fn refused(&mut self, names: &[&'static str], why: &str, report: &mut Report<'_>) -> Refused {
        if let Some((key, node)) = self.map.iter().find(|(key, _)| names.contains(&&*key.name)) {
            let spot = Spot { place: key.place, ..self.at.key(&key.name, node).silent() };
            report.complain(&spot, format_args!("not supported: {why}"));
            self.sound = false;
        }
        Refused
    }

    /// Whether what was read may be used.
    pub fn usable(&self) -> bool {
        self.sound || !self.strict
    }
}

/// The key that was probably meant.
fn nearest(name: &str, known: &[&[&'static str]]) -> Option<&'static str> {
    // The longest that there is has some twenty letters.
    if name.len() > 40 {
        return None;
    }
    let name = name.to_lowercase();
    let distance = |other: &&str| strsim::damerau_levenshtein(&name, &other.to_lowercase());
    let nearest = known.iter().flat_map(|names| names.iter().copied()).min_by_key(distance)?;
    (distance(&nearest) <= (nearest.len() / 3).max(1)).then_some(nearest)
}

/// A key as a problem shows it, its first word: `password:x`, with the blank forgotten, is a key and holds a password.
fn key_name(name: &str) -> &str {
    name.split(|c: char| !c.is_alphanumeric() && !"_-.".contains(c)).next().unwrap_or_default()
}

/// Declares a map once: its keys with their types and meanings. Yields the struct, its reader and its schema.
///
/// A key is `required`, `optional`, `entries` (a list whose wrong items alone are left out) or `refused`. In a `strict`
/// map one wrong value spoils all of it, in a `lenient` one that value alone is left out.
macro_rules! keys {
    ($(
        $(#[$doc:meta])*
        $how:ident $name:ident {
            $($key:literal $(| $alias:literal)* $field:ident: $mode:ident $type:tt $(<$($arg:tt),*>)?, $meaning:literal;)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        #[allow(dead_code)] // Keys that are not served are declared all the same.
        pub(super) struct $name {
            $(pub $field: $crate::config::file::read::slot!($mode $type $(<$($arg),*>)?),)*
        }

        impl $crate::config::file::read::Read for $name {
            fn read(
                at: &$crate::config::file::read::At<'_>,
                report: &mut $crate::config::file::report::Report<'_>,
            ) -> Option<Self> {
                const KNOWN: &[(&[&str], &str)] = &[$((&[$key $(, $alias)*], stringify!($mode))),*];
                let strict = stringify!($how) == "strict";
                let mut fields = $crate::config::file::read::Fields::new(at, strict, KNOWN, report)?;
                $(let $field = $crate::config::file::read::take!(
                    fields, report, &[$key $(, $alias)*], $mode $type $(<$($arg),*>)?
                );)*
                if !fields.usable() {
                    return None;
                }
                Some(Self {
                    $($field: $crate::config::file::read::unwrap_slot!($mode $field),)*
                })
            }
            fn schema() -> serde_json::Value {
                $crate::config::file::read::object(stringify!($name), vec![$((
                    &[$key $(, $alias)*],
                    $crate::config::file::read::slot_schema!($mode $type $(<$($arg),*>)?),
                    $meaning,
                    stringify!($mode),
                ),)*])
            }
        }
    )*

        /// Every key, and whether its values are words that may be shown.
        const KEYS: &[(&[&str], bool)] = &[$($(
            (&[$key $(, $alias)*], $crate::config::file::read::shows!($mode $type $(<$($arg),*>)?)),
        )*)*];
    };
}
pub(super) use keys;

macro_rules! shows {
    (refused $why:literal) => {
        false
    };
    ($mode:ident $($type:tt)*) => {
        !<$($type)* as $crate::config::file::read::Read>::SECRET
            && <$($type)* as $crate::config::file::read::Read>::WORDS
    };
}
pub(super) use shows;

macro_rules! slot {
    (required $($type:tt)*) => { $crate::config::file::report::Located<$($type)*> };
    (optional $($type:tt)*) => { Option<$crate::config::file::report::Located<$($type)*>> };
    (entries $($type:tt)*) => { $($type)* };
    (refused $why:literal) => { $crate::config::file::read::Refused };
}
pub(super) use slot;

macro_rules! take {
    ($fields:ident, $report:ident, $names:expr, required $($type:tt)*) => {
        $fields.required::<$crate::config::file::report::Located<$($type)*>>($names, $report)
    };
    ($fields:ident, $report:ident, $names:expr, optional $($type:tt)*) => {
        $fields.optional::<$crate::config::file::report::Located<$($type)*>>($names, $report)
    };
    ($fields:ident, $report:ident, $names:expr, entries $($type:tt)*) => {
        $fields.optional::<$($type)*>($names, $report)
    };
    ($fields:ident, $report:ident, $names:expr, refused $why:literal) => {
        $fields.refused($names, $why, $report)
    };
}
pub(super) use take;

macro_rules! unwrap_slot {
    (required $field:ident) => {
        $field?
    };
    (optional $field:ident) => {
        $field
    };
    (entries $field:ident) => {
        $field.unwrap_or_default()
    };
    (refused $field:ident) => {
        $field
    };
}
pub(super) use unwrap_slot;

macro_rules! slot_schema {
    (refused $why:literal) => { serde_json::json!({"not": {}, "description": concat!("Not supported: ", $why, ".")}) };
    ($mode:ident $($type:tt)*) => { <$($type)* as $crate::config::file::read::Read>::schema() };
}
pub(super) use slot_schema;

/// The schema of a map: names, schema, meaning and mode of each key.
pub(super) fn object(map: &str, keys: Vec<(&[&str], Json, &str, &str)>) -> Json {
    let required: Vec<&str> = keys.iter().filter(|key| key.3 == "required").map(|key| key.0[0]).collect();
    let (mut properties, mut rules) = (Map::new(), rules(map));
    for (names, mut schema, meaning, mode) in keys {
        for (i, name) in names.iter().enumerate() {
            if mode != "refused" {
                let meaning =
                    if i == 0 { meaning.into() } else { format!("Another name for `{}`.", names[0]) };
                schema["description"] = meaning.into();
            }
            properties.insert((*name).into(), schema.clone());
        }
        if names.len() > 1 {
            rules.push(json!({"not": {"type": "object", "required": names}}));
        }
    }
    let mut object = json!({"type": "object", "additionalProperties": false, "properties": properties});
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    if !rules.is_empty() {
        object["allOf"] = json!(rules);
    }
    object
}
