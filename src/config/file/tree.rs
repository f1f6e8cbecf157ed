//! Parses text into a tree that records the position of each node and key. The tree has no semantics yet.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::entries::is_known_key;

/// A position in the text. Line and column count from 1; a column is a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct YamlPosition {
    pub line: usize,
    pub column: usize,
}

#[derive(Debug, Clone)]
pub(super) struct YamlNode {
    pub kind: YamlKind,
    /// The position of the use. For an alias it differs from the position of the definition.
    pub position: YamlPosition,
    /// The end of the use.
    pub end: YamlPosition,
}

/// The contents are shared: an alias needs no memory for what it repeats.
#[derive(Debug, Clone)]
pub(super) enum YamlKind {
    Null,
    /// A plain `true` or `false`.
    Bool(Rc<str>),
    /// A plain number in its original spelling.
    Number(Rc<str>),
    /// Text.
    Scalar(Rc<str>),
    List(Rc<[YamlNode]>),
    Map(Rc<[(YamlKey, YamlNode)]>),
}

#[derive(Debug, Clone)]
pub(super) struct YamlKey {
    pub name: Rc<str>,
    pub position: YamlPosition,
    pub end: YamlPosition,
}

/// Why a text cannot be parsed.
#[derive(Debug)]
pub(super) struct YamlError {
    pub position: YamlPosition,
    pub reason: String,
}

/// The maximum nesting depth, including aliases. The known keys are ten levels deep. Each level uses several stack
/// frames.
const MAX_DEPTH: usize = 16;

/// The most nodes of all files together, including those that aliases repeat: about fifty for each of 4096 VNIs.
const MAX_NODES: usize = 250_000;

/// The most bytes of text in these nodes, including those that aliases repeat: the size limit of the files.
const MAX_BYTES: usize = 4 << 20;

/// The most keys of a map. The largest known map has about fifteen.
const MAX_KEYS: usize = 256;

/// The remaining limits of all files together.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    nodes: usize,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { nodes: MAX_NODES, bytes: MAX_BYTES }
    }
}

impl Budget {
    /// Enough for the entries of two files, of which one was kept because of errors in the other.
    pub fn of_stored() -> Self {
        Self { nodes: 2 * MAX_NODES, bytes: 4 * MAX_BYTES }
    }

    /// Subtracts `cost`, if as much is left.
    fn consume(&mut self, span: Span, cost: Cost) -> Result<(), YamlError> {
        let left = (self.nodes.checked_sub(cost.nodes), self.bytes.checked_sub(cost.bytes));
        let limit = match left {
            (Some(nodes), Some(bytes)) => {
                (self.nodes, self.bytes) = (nodes, bytes);
                return Ok(());
            }
            (None, _) => format!("{MAX_NODES} nodes"),
            (_, None) => format!("{} MiB of text", MAX_BYTES >> 20),
        };
        Err(yaml_error(
            span,
            format!(
                "the text has more than {limit} (including repeated aliases and the files before it): this file is left out"
            ),
        ))
    }
}

/// A count of nodes and bytes of text.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    nodes: usize,
    bytes: usize,
}

/// Parses one document. An empty document is null.
pub(super) fn parse(text: &str, budget: &mut Budget) -> Result<YamlNode, YamlError> {
    let mut builder = TreeBuilder { parser: Parser::new_from_str(text), anchors: HashMap::new(), budget };
    let start = YamlPosition { line: 1, column: 1 };
    let mut tree = None;
    while let Some((event, span)) = builder.next()? {
        match event {
            Event::DocumentStart(..) if tree.is_some() => {
                return Err(yaml_error(
                    span,
                    "only one YAML document per file is read, and another begins here",
                ));
            }
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd => {}
            event => tree = Some(builder.node(event, span, 0)?.node),
        }
    }
    Ok(tree.unwrap_or(YamlNode { kind: YamlKind::Null, position: start, end: start }))
}

fn too_deep() -> String {
    format!("nested more than {MAX_DEPTH} levels deep")
}

fn position(marker: &Marker) -> YamlPosition {
    YamlPosition { line: marker.line().max(1), column: marker.col() + 1 }
}

fn yaml_error(span: Span, reason: impl Into<String>) -> YamlError {
    YamlError { position: position(&span.start), reason: reason.into() }
}

struct TreeBuilder<'a, 'b> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, MeasuredNode>,
    budget: &'b mut Budget,
}

/// A node, the number of levels inside it, and its cost including its contents.
#[derive(Clone)]
struct MeasuredNode {
    node: YamlNode,
    levels: usize,
    cost: Cost,
}

impl<'a> TreeBuilder<'a, '_> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, YamlError> {
        let of = |e: ScanError| {
            // The parser's own limit is higher than `MAX_DEPTH`.
            let is_deep = e.info().contains("recursion limit");
            YamlError { position: position(e.marker()), reason: if is_deep { too_deep() } else { e.info() } }
        };
        self.parser.next_event().transpose().map_err(of)
    }

    /// The next event inside an unfinished node.
    fn next_inside(&mut self, outer: Span) -> Result<(Event<'a>, Span), YamlError> {
        self.next()?.ok_or_else(|| yaml_error(outer, "the text ends inside this node"))
    }

    /// The node that begins with `event`, at that depth.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<MeasuredNode, YamlError> {
        let (at, end) = (position(&span.start), position(&span.end));
        let mut cost = match &event {
            Event::Alias(_) => Cost::default(),
            Event::Scalar(text, ..) => Cost { nodes: 1, bytes: text.len() },
            _ => Cost { nodes: 1, bytes: 0 },
        };
        self.check_limits(span, cost, depth)?;
        let mut levels = 0;
        let (kind, anchor) = match event {
            Event::Alias(id) => {
                let Some(mut found) = self.anchors.get(&id).cloned() else {
                    return Err(yaml_error(
                        span,
                        "a recursive alias: it is inside the node that it refers to",
                    ));
                };
                self.check_limits(span, found.cost, depth + found.levels)?;
                (found.node.position, found.node.end) = (at, end);
                return Ok(found);
            }
            Event::Scalar(text, style, anchor, tag) => (scalar(&text, style, tag, span)?, anchor),
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(tag, &["seq"], span)?;
                let mut list = vec![];
                loop {
                    let (event, at) = self.next_inside(span)?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    let item = self.node(event, at, depth + 1)?;
                    levels = levels.max(item.levels + 1);
                    cost.add(item.cost);
                    list.push(item.node);
                }
                (YamlKind::List(list.into()), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag, &["map"], span)?;
                let (map, inside) = self.map(span, depth, &mut cost)?;
                levels = inside;
                (YamlKind::Map(map.into()), anchor)
            }
            _ => return Err(yaml_error(span, "not a YAML node")),
        };
        let node = MeasuredNode { node: YamlNode { kind, position: at, end }, levels, cost };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// The entries of a map, and the number of levels inside it.
    fn map(
        &mut self,
        span: Span,
        depth: usize,
        cost: &mut Cost,
    ) -> Result<(Vec<(YamlKey, YamlNode)>, usize), YamlError> {
        let (mut map, mut merged, mut levels) = (Vec::<(YamlKey, YamlNode)>::new(), vec![], 0);
        let mut names = HashSet::new();
        let check_key_count = |names: &HashSet<_>, at: Span| match names.len() > MAX_KEYS {
            true => Err(yaml_error(at, format!("a map with more than {MAX_KEYS} keys"))),
            false => Ok(()),
        };
        loop {
            let (event, at) = self.next_inside(span)?;
            if event == Event::MappingEnd {
                break;
            }
            let merges = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let read = self.node(event, at, depth + 1)?;
            cost.add(read.cost);
            let key = key(read.node);
            let (event, value_at) = self.next_inside(span)?;
            let value = self.node(event, value_at, depth + 1)?;
            levels = levels.max(read.levels + 1).max(value.levels + 1);
            cost.add(value.cost);
            if merges {
                merge_entries(value.node, value_at, &mut merged)?;
            } else if names.insert(Rc::clone(&key.name)) {
                map.push((key, value.node));
            } else {
                // An unknown key may be a misplaced password.
                let name = if is_known_key(&key.name) { &*key.name } else { "(not shown, an unknown key)" };
                return Err(yaml_error(at, format!("duplicate mapping key: {name}")));
            }
            check_key_count(&names, at)?;
        }
        // Explicit keys take precedence over merged ones, and earlier merged keys over later ones.
        for (key, node) in merged {
            if names.insert(Rc::clone(&key.name)) {
                map.push((key, node));
            }
        }
        check_key_count(&names, span)?;
        Ok((map, levels))
    }

    fn check_limits(&mut self, span: Span, cost: Cost, depth: usize) -> Result<(), YamlError> {
        if depth > MAX_DEPTH {
            return Err(yaml_error(span, too_deep()));
        }
        self.budget.consume(span, cost)
    }
}

impl Cost {
    fn add(&mut self, other: Self) {
        self.nodes += other.nodes;
        self.bytes += other.bytes;
    }
}

/// Adds the entries that `<<` merges: those of a map, or of a list of maps.
fn merge_entries(node: YamlNode, at: Span, merged: &mut Vec<(YamlKey, YamlNode)>) -> Result<(), YamlError> {
    match node.kind {
        YamlKind::Map(map) => merged.extend_from_slice(&map),
        YamlKind::List(list) => list.iter().try_for_each(|item| merge_entries(item.clone(), at, merged))?,
        _ => return Err(yaml_error(at, "only a map can be merged with <<")),
    }
    Ok(())
}

/// The type of a scalar by YAML's core schema (YAML 1.2.2 §10.3), which editors use, too.
fn scalar(
    text: &str,
    style: ScalarStyle,
    tag: Option<Cow<'_, Tag>>,
    span: Span,
) -> Result<YamlKind, YamlError> {
    let plain = style == ScalarStyle::Plain;
    let has = |word| tag.as_ref().is_some_and(|tag| tag.is_yaml_core_schema_tag(word));
    let (is_null, is_bool, is_number) = (
        matches!(text, "" | "~" | "null" | "Null" | "NULL"),
        matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE"),
        is_number(text),
    );
    let untagged = plain && tag.is_none();
    let is = |word, matches| (untagged && matches) || has(word);
    let (kind, fits) = if is("null", is_null) {
        (YamlKind::Null, is_null)
    } else if is("bool", is_bool) {
        (YamlKind::Bool(text.into()), is_bool)
    } else if is("int", is_number) || has("float") {
        (YamlKind::Number(text.into()), is_number)
    } else {
        (YamlKind::Scalar(text.into()), untagged || tag.is_none() || has("str"))
    };
    if fits { Ok(kind) } else { Err(yaml_error(span, "unsupported tag")) }
}

/// Whether a plain scalar is a number.
pub(super) fn is_number(text: &str) -> bool {
    let all = |text: &str, of: fn(&u8) -> bool| !text.is_empty() && text.bytes().all(|b| of(&b));
    let digits = |text: &str| all(text, u8::is_ascii_digit);
    if let Some(octal) = text.strip_prefix("0o") {
        return all(octal, |b| (b'0'..=b'7').contains(b));
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return all(hex, u8::is_ascii_hexdigit);
    }
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(text, ".inf" | ".Inf" | ".INF") {
        return true;
    }
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(m, e)| (m, Some(e)));
    let exponent = exponent.is_none_or(|e| digits(e.strip_prefix(['-', '+']).unwrap_or(e)));
    let mantissa = match mantissa.split_once('.') {
        Some(("", fraction)) => digits(fraction),
        Some((whole, fraction)) => digits(whole) && (fraction.is_empty() || digits(fraction)),
        None => digits(mantissa),
    };
    mantissa && exponent
}

/// An integer as plain decimal digits. JSON Schema ignores its spelling.
pub(super) fn plain_integer(text: &str) -> Option<String> {
    let radix = |digits: &str, radix| u128::from_str_radix(digits, radix).ok().map(|n| n.to_string());
    if let Some(octal) = text.strip_prefix("0o") {
        return radix(octal, 8);
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return radix(hex, 16);
    }
    let (minus, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        let number: f64 = text.parse().ok()?;
        // Above this value a number of this type is not exact to one.
        return (number.fract() == 0.0 && number.abs() < 1e15).then(|| format!("{}", number + 0.0));
    }
    let digits = digits.trim_start_matches('0');
    Some(if digits.is_empty() { "0".into() } else { format!("{minus}{digits}") })
}

fn check_tag(tag: Option<Cow<'_, Tag>>, words: &[&str], span: Span) -> Result<(), YamlError> {
    match tag {
        Some(tag) if !words.iter().any(|word| tag.is_yaml_core_schema_tag(word)) => {
            Err(yaml_error(span, "unsupported tag"))
        }
        _ => Ok(()),
    }
}

fn key(node: YamlNode) -> YamlKey {
    let name = match node.kind {
        YamlKind::Bool(name) | YamlKind::Number(name) | YamlKind::Scalar(name) => name,
        YamlKind::Null => "null".into(),
        YamlKind::List(_) | YamlKind::Map(_) => "(no text)".into(),
    };
    YamlKey { name, position: node.position, end: node.end }
}

#[cfg(test)]
mod tests;
