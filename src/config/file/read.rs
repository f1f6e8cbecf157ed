//! YAML tree → typed values, with every problem reported. Contains the reading trait and the declaration of maps.

use serde_json::{Map, Value as Json, json};

use crate::model::Value;

use super::report::{Located, Location, Report, limited, quoted};
use super::rules::rules;
use super::tree::{YamlKey, YamlKind, YamlNode, is_number, plain_integer};

/// A node with its file and path.
#[derive(Debug)]
pub(super) struct YamlRef<'a> {
    pub node: &'a YamlNode,
    pub file: usize,
    pub path: String,
}

impl<'a> YamlRef<'a> {
    /// The location of the node, with its value if that is one word.
    pub fn location(&self) -> Location {
        let value_text = match &self.node.kind {
            YamlKind::Bool(text) | YamlKind::Number(text) | YamlKind::Scalar(text) => {
                // Only secrets have several words. Otherwise a key was forgotten, and the meaning of the other words is
                // unknown.
                let first = text.split_whitespace().next().unwrap_or_default();
                Some(if is_one_word(text) { limited(text) } else { format!("{} …", limited(first)) })
            }
            _ => None,
        };
        Location { file: self.file, position: self.node.position, path: self.path.clone(), value_text }
    }

    /// The location without the value.
    pub fn location_without_value(&self) -> Location {
        Location { value_text: None, ..self.location() }
    }

    fn key(&self, name: &str, node: &'a YamlNode) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self { node, file: self.file, path: format!("{}{dot}{name}", self.path) }
    }

    fn item(&self, index: usize, node: &'a YamlNode) -> Self {
        Self { node, file: self.file, path: format!("{}[{index}]", self.path) }
    }
}

/// A type that can be read from a YAML node.
pub(super) trait FromYaml: Sized {
    /// Whether the value must not be shown.
    const SECRET: bool = false;
    /// Whether the value is one word, or a list of words.
    const IS_WORD: bool = false;
    /// The value. `None`: the reason has been reported.
    fn from_yaml(at: &YamlRef<'_>, report: &mut Report<'_>) -> Option<Self>;
    /// The JSON Schema of the type.
    fn schema() -> Json;
}

impl<T: FromYaml> FromYaml for Located<T> {
    const SECRET: bool = T::SECRET;
    const IS_WORD: bool = T::IS_WORD;
    fn from_yaml(at: &YamlRef<'_>, report: &mut Report<'_>) -> Option<Self> {
        let value = T::from_yaml(at, report)?;
        Some(Self { value, location: if T::SECRET { at.location_without_value() } else { at.location() } })
    }
    fn schema() -> Json {
        T::schema()
    }
}

/// A list in which every item must be valid.
#[derive(Debug, Clone)]
pub(super) struct List<T, const MIN: usize, const MAX: usize>(pub Vec<Located<T>>);

impl<T: FromYaml, const MIN: usize, const MAX: usize> FromYaml for List<T, MIN, MAX> {
    const SECRET: bool = T::SECRET;
    const IS_WORD: bool = T::IS_WORD;
    fn from_yaml(at: &YamlRef<'_>, report: &mut Report<'_>) -> Option<Self> {
        let items = items(at, report)?;
        if !(MIN..=MAX).contains(&items.len()) {
            let range = if MIN == 0 { format!("at most {MAX}") } else { format!("{MIN} to {MAX}") };
            report.add(
                &at.location_without_value(),
                format_args!("has {} items (allowed: {range})", items.len()),
            );
            return None;
        }
        let read: Vec<Option<_>> = items
            .iter()
            .enumerate()
            .map(|(i, node)| FromYaml::from_yaml(&at.item(i, node), report))
            .collect();
        read.into_iter().collect::<Option<_>>().map(Self)
    }
    fn schema() -> Json {
        // A blank value is an empty list.
        let kind = if MIN == 0 { json!(["array", "null"]) } else { json!("array") };
        json!({"type": kind, "items": T::schema(), "minItems": MIN, "maxItems": MAX})
    }
}

/// A list whose invalid items are left out. The other items stay.
#[derive(Debug, Clone)]
pub(super) struct EntryList<T, const MAX: usize>(pub Vec<Located<T>>);

impl<T, const MAX: usize> Default for EntryList<T, MAX> {
    fn default() -> Self {
        Self(vec![])
    }
}

impl<T: FromYaml, const MAX: usize> FromYaml for EntryList<T, MAX> {
    fn from_yaml(at: &YamlRef<'_>, report: &mut Report<'_>) -> Option<Self> {
        let mut items = items(at, report)?;
        if let Some(first) = items.get(MAX) {
            report.add(
                &at.item(MAX, first).location_without_value(),
                format_args!("too many (allowed: at most {MAX}): this and the following are left out"),
            );
            items = &items[..MAX];
        }
        let read = |(i, node)| FromYaml::from_yaml(&at.item(i, node), report);
        Some(Self(items.iter().enumerate().filter_map(read).collect()))
    }
    fn schema() -> Json {
        json!({"type": ["array", "null"], "items": T::schema(), "maxItems": MAX})
    }
}

/// An optional value for which absent and invalid must be distinguished.
#[derive(Debug, Clone)]
pub(super) struct MaybeInvalid<T>(pub Option<T>);

impl<T: FromYaml> FromYaml for MaybeInvalid<T> {
    const SECRET: bool = T::SECRET;
    const IS_WORD: bool = T::IS_WORD;
    fn from_yaml(at: &YamlRef<'_>, report: &mut Report<'_>) -> Option<Self> {
        Some(Self(T::from_yaml(at, report)))
    }
    fn schema() -> Json {
        T::schema()
    }
}

/// The nodes of a list. A blank value is an empty list.
fn items<'a>(at: &YamlRef<'a>, report: &mut Report<'_>) -> Option<&'a [YamlNode]> {
    match &at.node.kind {
        YamlKind::List(list) => Some(list),
        YamlKind::Null => Some(&[]),
        _ => {
            report.add(&at.location_without_value(), "not a list");
            None
        }
    }
}

/// Reads one word with the parser of its type.
pub(super) fn scalar<T: Value>(at: &YamlRef<'_>, report: &mut Report<'_>) -> Option<T> {
    mark_public::<T>(at, report);
    let text = scalar_text(at, report, T::SECRET, &T::allowed)?;
    match T::parse(text) {
        Ok(value) => Some(value),
        Err(reason) => {
            let location = if T::SECRET { at.location_without_value() } else { at.location() };
            report.invalid(&location, reason, &T::allowed());
            None
        }
    }
}

fn is_one_word(text: &str) -> bool {
    !text.trim().contains(char::is_whitespace)
}

/// Marks a single word as public, unless its type is secret.
fn mark_public<T: Value>(at: &YamlRef<'_>, report: &mut Report<'_>) {
    let is_one_word = match &at.node.kind {
        YamlKind::Scalar(text) => is_one_word(text),
        YamlKind::List(_) | YamlKind::Map(_) => false,
        _ => true,
    };
    if !T::SECRET && is_one_word {
        report.mark_public(at.file, at.node.position, at.node.end);
    }
}

/// Reads a number. A quoted number is text.
pub(super) fn number<T: Value>(at: &YamlRef<'_>, report: &mut Report<'_>) -> Option<T> {
    mark_public::<T>(at, report);
    let parsed = match &at.node.kind {
        YamlKind::Number(text) => T::parse(plain_integer(text).as_deref().unwrap_or(text)),
        YamlKind::Scalar(text) if is_number(text) => {
            report.invalid(&at.location(), "text, not a number: remove the quotes", &T::allowed());
            return None;
        }
        _ => T::parse(scalar_text(at, report, T::SECRET, &T::allowed)?),
    };
    parsed.map_err(|reason| report.invalid(&at.location(), reason, &T::allowed())).ok()
}

fn scalar_text<'a>(
    at: &YamlRef<'a>,
    report: &mut Report<'_>,
    secret: bool,
    allowed: &dyn Fn() -> String,
) -> Option<&'a str> {
    let reason = match &at.node.kind {
        YamlKind::Scalar(text) if text.trim().is_empty() => "is empty",
        YamlKind::Scalar(text) if text.trim() != &**text => "has leading or trailing blanks",
        YamlKind::Scalar(text) => return Some(text),
        YamlKind::Bool(_) => "a boolean, not text: put it in quotes if it is text",
        YamlKind::Number(_) => "a number, not text: put it in quotes if it is text",
        YamlKind::Null => "is empty",
        YamlKind::List(_) => "a list, not a single value",
        YamlKind::Map(_) => "a map, not a single value",
    };
    report.invalid(&if secret { at.location_without_value() } else { at.location() }, reason, &allowed());
    None
}

/// Implements [`FromYaml`] for types that parse one word ([`Value`]).
macro_rules! impl_from_yaml {
    ($($how:ident $type:ty: $schema:expr;)*) => {$(
        impl $crate::config::file::read::FromYaml for $type {
            const SECRET: bool = <$type as $crate::model::Value>::SECRET;
            const IS_WORD: bool = true;
            fn from_yaml(
                at: &$crate::config::file::read::YamlRef<'_>,
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
pub(super) use impl_from_yaml;

/// Declares an enum of fixed words. After a semicolon: words of upstream that are not supported, with the reason.
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
                    _ => Err($crate::model::Invalid("not an allowed word".into())),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),* })
            }
        }

        $crate::config::file::read::impl_from_yaml! {
            scalar $name: serde_json::json!({"enum": [$($word),*]});
        }
    };
}
pub(super) use choice;

/// The field of an unsupported key.
#[derive(Debug, Clone)]
pub(super) struct UnsupportedKey;

/// A map that is being read.
#[derive(Debug)]
pub(super) struct MapReader<'a> {
    at: &'a YamlRef<'a>,
    map: &'a [(YamlKey, YamlNode)],
    /// Whether one invalid value invalidates the whole map.
    strict: bool,
    valid: bool,
}

impl<'a> MapReader<'a> {
    /// Starts reading, and reports the unknown keys.
    pub fn new(
        at: &'a YamlRef<'a>,
        strict: bool,
        known: &[(&[&'static str], &str)],
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let supported: Vec<_> =
            known.iter().filter(|(_, mode)| *mode != "unsupported").map(|(names, _)| *names).collect();
        let YamlKind::Map(map) = &at.node.kind else {
            let reason = match at.node.kind {
                YamlKind::Null => "is empty: write {} or leave it out",
                YamlKind::List(_) => "a list, not a map",
                _ => "not a map",
            };
            let keys: Vec<&str> = supported.iter().map(|names| names[0]).collect();
            report.invalid(&at.location_without_value(), reason, &format!("the keys {}", keys.join(", ")));
            return None;
        };
        let mut fields = Self { at, map, strict, valid: true };
        for (key, _) in map.iter() {
            let is_known = known.iter().any(|(names, _)| names.contains(&&*key.name));
            if is_known || key_name(&key.name) == &*key.name {
                report.mark_public(at.file, key.position, key.end);
            }
            if is_known {
                continue;
            }
            fields.valid = false;
            // The search for the nearest key takes time, and the count of unknown keys has no bound.
            if report.is_full() {
                report.count_omitted();
                continue;
            }
            let location = Location { position: key.position, ..at.location_without_value() };
            let owner = if at.path.is_empty() { "" } else { ": " };
            let location = Location {
                path: format!("{}{owner}{}", location.path, quoted(key_name(&key.name))),
                ..location
            };
            match nearest(&key.name, &supported) {
                // A Kubernetes object instead of its spec.
                _ if ["apiVersion", "kind", "metadata", "spec", "status"].contains(&&*key.name) => {
                    report.add(
                        &location,
                        "not supported: Kubernetes objects are not read here, write the contents of spec",
                    );
                }
                Some(name) => report.add(&location, format_args!("unknown key, did you mean {name}?")),
                None => {
                    let keys: Vec<&str> = supported.iter().map(|names| names[0]).collect();
                    report.invalid(&location, "unknown key", &keys.join(", "));
                }
            }
        }
        Some(fields)
    }

    fn find(&mut self, names: &[&'static str], report: &mut Report<'_>) -> Option<YamlRef<'a>> {
        let mut found = self.map.iter().filter(|(key, _)| names.contains(&&*key.name));
        let (key, node) = found.next()?;
        if let Some((other, _)) = found.next() {
            let location = Location {
                position: other.position,
                ..self.at.key(&other.name, node).location_without_value()
            };
            report.add(&location, format_args!("another name for {}, which is also set", key.name));
            self.valid = false;
        }
        Some(self.at.key(&key.name, node))
    }

    /// A value that may be absent.
    pub fn optional<T: FromYaml>(&mut self, names: &[&'static str], report: &mut Report<'_>) -> Option<T> {
        let at = self.find(names, report)?;
        let value = T::from_yaml(&at, report);
        self.valid &= value.is_some();
        value
    }

    /// A value that must be set.
    pub fn required<T: FromYaml>(&mut self, names: &[&'static str], report: &mut Report<'_>) -> Option<T> {
        let Some(at) = self.find(names, report) else {
            let location = Location { value_text: None, ..self.at.location() };
            let dot = if location.path.is_empty() { "" } else { "." };
            let location = Location { path: format!("{}{dot}{}", location.path, names[0]), ..location };
            report.add(&location, "must be set");
            self.valid = false;
            return None;
        };
        let value = T::from_yaml(&at, report);
        self.valid &= value.is_some();
        value
    }

    /// A key of upstream that is not supported.
    pub fn unsupported(
        &mut self,
        names: &[&'static str],
        why: &str,
        report: &mut Report<'_>,
    ) -> UnsupportedKey {
        if let Some((key, node)) = self.map.iter().find(|(key, _)| names.contains(&&*key.name)) {
            let location =
                Location { position: key.position, ..self.at.key(&key.name, node).location_without_value() };
            report.add(&location, format_args!("not supported: {why}"));
            self.valid = false;
        }
        UnsupportedKey
    }

    /// Whether the values may be used.
    pub fn is_usable(&self) -> bool {
        self.valid || !self.strict
    }
}

/// The key that was probably meant.
fn nearest(name: &str, known: &[&[&'static str]]) -> Option<&'static str> {
    // The longest known key has about twenty letters.
    if name.len() > 40 {
        return None;
    }
    let name = name.to_lowercase();
    let distance = |other: &&str| strsim::damerau_levenshtein(&name, &other.to_lowercase());
    let nearest = known.iter().flat_map(|names| names.iter().copied()).min_by_key(distance)?;
    (distance(&nearest) <= (nearest.len() / 3).max(1)).then_some(nearest)
}

/// The first word of a key, for a problem text: `password:x` without a blank is one key and contains the password.
fn key_name(name: &str) -> &str {
    name.split(|c: char| !c.is_alphanumeric() && !"_-.".contains(c)).next().unwrap_or_default()
}

/// Declares a map once: its keys with their types and meanings. Generates the struct, its reader and its schema.
///
/// A key is `required`, `optional`, `entries` (a list whose invalid items alone are left out) or `unsupported`. In a
/// `strict` map one invalid value invalidates the map; in a `lenient` map it is left out alone.
macro_rules! keys {
    ($(
        $(#[$doc:meta])*
        $how:ident $name:ident {
            $($key:literal $(| $alias:literal)* $field:ident: $mode:ident $type:tt $(<$($arg:tt),*>)?, $meaning:literal;)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        #[allow(dead_code)] // Unsupported keys are declared, too.
        pub(super) struct $name {
            $(pub $field: $crate::config::file::read::field_type!($mode $type $(<$($arg),*>)?),)*
        }

        impl $crate::config::file::read::FromYaml for $name {
            fn from_yaml(
                at: &$crate::config::file::read::YamlRef<'_>,
                report: &mut $crate::config::file::report::Report<'_>,
            ) -> Option<Self> {
                const KNOWN: &[(&[&str], &str)] = &[$((&[$key $(, $alias)*], stringify!($mode))),*];
                let strict = stringify!($how) == "strict";
                let mut fields = $crate::config::file::read::MapReader::new(at, strict, KNOWN, report)?;
                $(let $field = $crate::config::file::read::read_field!(
                    fields, report, &[$key $(, $alias)*], $mode $type $(<$($arg),*>)?
                );)*
                if !fields.is_usable() {
                    return None;
                }
                Some(Self {
                    $($field: $crate::config::file::read::unwrap_field!($mode $field),)*
                })
            }
            fn schema() -> serde_json::Value {
                $crate::config::file::read::object_schema(stringify!($name), vec![$((
                    &[$key $(, $alias)*],
                    $crate::config::file::read::field_schema!($mode $type $(<$($arg),*>)?),
                    $meaning,
                    stringify!($mode),
                ),)*])
            }
        }
    )*

        /// Every key, and whether its values are words that may be shown.
        const KEYS: &[(&[&str], bool)] = &[$($(
            (&[$key $(, $alias)*], $crate::config::file::read::is_public!($mode $type $(<$($arg),*>)?)),
        )*)*];
    };
}
pub(super) use keys;

macro_rules! is_public {
    (unsupported $why:literal) => {
        false
    };
    ($mode:ident $($type:tt)*) => {
        !<$($type)* as $crate::config::file::read::FromYaml>::SECRET
            && <$($type)* as $crate::config::file::read::FromYaml>::IS_WORD
    };
}
pub(super) use is_public;

macro_rules! field_type {
    (required $($type:tt)*) => { $crate::config::file::report::Located<$($type)*> };
    (optional $($type:tt)*) => { Option<$crate::config::file::report::Located<$($type)*>> };
    (entries $($type:tt)*) => { $($type)* };
    (unsupported $why:literal) => { $crate::config::file::read::UnsupportedKey };
}
pub(super) use field_type;

macro_rules! read_field {
    ($fields:ident, $report:ident, $names:expr, required $($type:tt)*) => {
        $fields.required::<$crate::config::file::report::Located<$($type)*>>($names, $report)
    };
    ($fields:ident, $report:ident, $names:expr, optional $($type:tt)*) => {
        $fields.optional::<$crate::config::file::report::Located<$($type)*>>($names, $report)
    };
    ($fields:ident, $report:ident, $names:expr, entries $($type:tt)*) => {
        $fields.optional::<$($type)*>($names, $report)
    };
    ($fields:ident, $report:ident, $names:expr, unsupported $why:literal) => {
        $fields.unsupported($names, $why, $report)
    };
}
pub(super) use read_field;

macro_rules! unwrap_field {
    (required $field:ident) => {
        $field?
    };
    (optional $field:ident) => {
        $field
    };
    (entries $field:ident) => {
        $field.unwrap_or_default()
    };
    (unsupported $field:ident) => {
        $field
    };
}
pub(super) use unwrap_field;

macro_rules! field_schema {
    (unsupported $why:literal) => { serde_json::json!({"not": {}, "description": concat!("Not supported: ", $why, ".")}) };
    ($mode:ident $($type:tt)*) => { <$($type)* as $crate::config::file::read::FromYaml>::schema() };
}
pub(super) use field_schema;

/// The schema of a map: names, schema, meaning and mode of each key.
pub(super) fn object_schema(map: &str, keys: Vec<(&[&str], Json, &str, &str)>) -> Json {
    let required: Vec<&str> = keys.iter().filter(|key| key.3 == "required").map(|key| key.0[0]).collect();
    let (mut properties, mut rules) = (Map::new(), rules(map));
    for (names, mut schema, meaning, mode) in keys {
        for (i, name) in names.iter().enumerate() {
            if mode != "unsupported" {
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
