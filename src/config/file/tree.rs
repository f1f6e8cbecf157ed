//! Text → a tree that knows where each of its nodes and keys was written. No meaning yet.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::entries::is_key;

/// What a line and a column are: both count from 1, a column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub line: usize,
    pub column: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub kind: Kind,
    /// Where it is used: behind an alias another place than where it is written.
    pub place: Place,
    /// Where that ends.
    pub end: Place,
}

/// What is inside is shared, so that an alias takes no memory for what it repeats.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Null,
    /// A plain `true` or `false`.
    Bool(Rc<str>),
    /// A plain number, as it is written.
    Number(Rc<str>),
    /// Text.
    Scalar(Rc<str>),
    List(Rc<[Node]>),
    Map(Rc<[(Key, Node)]>),
}

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub name: Rc<str>,
    pub place: Place,
    pub end: Place,
}

/// Why a text is no tree.
#[derive(Debug)]
pub(super) struct Broken {
    pub place: Place,
    pub reason: String,
}

/// How deep a text may be nested, aliases included: the keys that we know are ten deep. Each level is several frames of
/// the stack.
const DEPTH: usize = 16;

/// How many nodes the files may have together, what aliases repeat included: some fifty for each of 4096 VNIs.
const NODES: usize = 250_000;

/// How many bytes of text these may have, what aliases repeat included: as many as the files themselves may have.
const BYTES: usize = 4 << 20;

/// How many keys a map may have: the largest that we know has some fifteen.
const KEYS: usize = 256;

/// What is left of the limits that hold for all files together.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    nodes: usize,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { nodes: NODES, bytes: BYTES }
    }
}

impl Budget {
    /// Takes some away, if there is as much left.
    fn take(&mut self, span: Span, weight: Weight) -> Result<(), Broken> {
        let left = (self.nodes.checked_sub(weight.nodes), self.bytes.checked_sub(weight.bytes));
        let limit = match left {
            (Some(nodes), Some(bytes)) => {
                (self.nodes, self.bytes) = (nodes, bytes);
                return Ok(());
            }
            (None, _) => format!("{NODES} nodes"),
            (_, None) => format!("{} MiB of text", BYTES >> 20),
        };
        Err(broken(
            span,
            format!(
                "the text has more than {limit}, what aliases repeat and the files before it included: this file is left out"
            ),
        ))
    }
}

/// How many nodes and bytes of text.
#[derive(Debug, Clone, Copy, Default)]
struct Weight {
    nodes: usize,
    bytes: usize,
}

/// Parses one document; an empty one is null.
pub(super) fn parse(text: &str, budget: &mut Budget) -> Result<Node, Broken> {
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), budget };
    let start = Place { line: 1, column: 1 };
    let mut tree = None;
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::DocumentStart(..) if tree.is_some() => {
                return Err(broken(span, "only single YAML documents are read, and here begins another"));
            }
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd => {}
            event => tree = Some(reader.node(event, span, 0)?.node),
        }
    }
    Ok(tree.unwrap_or(Node { kind: Kind::Null, place: start, end: start }))
}

fn too_deep() -> String {
    format!("nested more than {DEPTH} levels deep")
}

fn place(marker: &Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1 }
}

fn broken(span: Span, reason: impl Into<String>) -> Broken {
    Broken { place: place(&span.start), reason: reason.into() }
}

struct Reader<'a, 'b> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Measured>,
    budget: &'b mut Budget,
}

/// A node, how many levels of others it has inside, and what it weighs with them.
#[derive(Clone)]
struct Measured {
    node: Node,
    levels: usize,
    weight: Weight,
}

impl<'a> Reader<'a, '_> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Broken> {
        let of = |e: ScanError| {
            // The parser's own limit is beyond ours.
            let is_deep = e.info().contains("recursion limit");
            Broken { place: place(e.marker()), reason: if is_deep { too_deep() } else { e.info() } }
        };
        self.parser.next_event().transpose().map_err(of)
    }

    /// The next event, inside something that is not over.
    fn inside(&mut self, outer: Span) -> Result<(Event<'a>, Span), Broken> {
        self.next()?.ok_or_else(|| broken(outer, "the text ends in the middle of this"))
    }

    /// The node that begins with `event`, at that depth.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Measured, Broken> {
        let (at, end) = (place(&span.start), place(&span.end));
        let mut weight = match &event {
            Event::Alias(_) => Weight::default(),
            Event::Scalar(text, ..) => Weight { nodes: 1, bytes: text.len() },
            _ => Weight { nodes: 1, bytes: 0 },
        };
        self.count(span, weight, depth)?;
        let mut levels = 0;
        let (kind, anchor) = match event {
            Event::Alias(id) => {
                let Some(mut found) = self.anchors.get(&id).cloned() else {
                    return Err(broken(span, "a recursive alias: it stands inside what it stands for"));
                };
                self.count(span, found.weight, depth + found.levels)?;
                (found.node.place, found.node.end) = (at, end);
                return Ok(found);
            }
            Event::Scalar(text, style, anchor, tag) => (scalar(&text, style, tag, span)?, anchor),
            Event::SequenceStart(_, anchor, tag) => {
                known(tag, &["seq"], span)?;
                let mut list = vec![];
                loop {
                    let (event, at) = self.inside(span)?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    let item = self.node(event, at, depth + 1)?;
                    levels = levels.max(item.levels + 1);
                    weight.add(item.weight);
                    list.push(item.node);
                }
                (Kind::List(list.into()), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                known(tag, &["map"], span)?;
                let (map, inside) = self.map(span, depth, &mut weight)?;
                levels = inside;
                (Kind::Map(map.into()), anchor)
            }
            _ => return Err(broken(span, "not a YAML node")),
        };
        let node = Measured { node: Node { kind, place: at, end }, levels, weight };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// The entries of a map, and how many levels there are in it.
    fn map(
        &mut self,
        span: Span,
        depth: usize,
        weight: &mut Weight,
    ) -> Result<(Vec<(Key, Node)>, usize), Broken> {
        let (mut map, mut merged, mut levels) = (Vec::<(Key, Node)>::new(), vec![], 0);
        let mut names = HashSet::new();
        let few = |names: &HashSet<_>, at: Span| match names.len() > KEYS {
            true => Err(broken(at, format!("a map with more than {KEYS} keys"))),
            false => Ok(()),
        };
        loop {
            let (event, at) = self.inside(span)?;
            if event == Event::MappingEnd {
                break;
            }
            let merges = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let read = self.node(event, at, depth + 1)?;
            weight.add(read.weight);
            let key = key(read.node);
            let (event, value_at) = self.inside(span)?;
            let value = self.node(event, value_at, depth + 1)?;
            levels = levels.max(read.levels + 1).max(value.levels + 1);
            weight.add(value.weight);
            if merges {
                entries(value.node, value_at, &mut merged)?;
            } else if names.insert(Rc::clone(&key.name)) {
                map.push((key, value.node));
            } else {
                // A key that no one knows may be a password in the wrong place.
                let name =
                    if is_key(&key.name) { &*key.name } else { "(not shown, it is none that is known)" };
                return Err(broken(at, format!("duplicate mapping key: {name}")));
            }
            few(&names, at)?;
        }
        // What is written here goes before what is merged in, and of that the first.
        for (key, node) in merged {
            if names.insert(Rc::clone(&key.name)) {
                map.push((key, node));
            }
        }
        few(&names, span)?;
        Ok((map, levels))
    }

    fn count(&mut self, span: Span, weight: Weight, depth: usize) -> Result<(), Broken> {
        if depth > DEPTH {
            return Err(broken(span, too_deep()));
        }
        self.budget.take(span, weight)
    }
}

impl Weight {
    fn add(&mut self, other: Self) {
        self.nodes += other.nodes;
        self.bytes += other.bytes;
    }
}

/// Adds what `<<` merges: a map, or a list of them.
fn entries(node: Node, at: Span, merged: &mut Vec<(Key, Node)>) -> Result<(), Broken> {
    match node.kind {
        Kind::Map(map) => merged.extend_from_slice(&map),
        Kind::List(list) => list.iter().try_for_each(|item| entries(item.clone(), at, merged))?,
        _ => return Err(broken(at, "only a map can be merged in by <<")),
    }
    Ok(())
}

/// What a scalar is by YAML's core schema (YAML 1.2.2 §10.3), which is what an editor takes it for.
fn scalar(text: &str, style: ScalarStyle, tag: Option<Cow<'_, Tag>>, span: Span) -> Result<Kind, Broken> {
    let plain = style == ScalarStyle::Plain;
    let has = |word| tag.as_ref().is_some_and(|tag| tag.is_yaml_core_schema_tag(word));
    let (is_null, is_bool, is_number) = (
        matches!(text, "" | "~" | "null" | "Null" | "NULL"),
        matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE"),
        is_number(text),
    );
    let untagged = plain && tag.is_none();
    let is = |word, it| (untagged && it) || has(word);
    let (kind, fits) = if is("null", is_null) {
        (Kind::Null, is_null)
    } else if is("bool", is_bool) {
        (Kind::Bool(text.into()), is_bool)
    } else if is("int", is_number) || has("float") {
        (Kind::Number(text.into()), is_number)
    } else {
        (Kind::Scalar(text.into()), untagged || tag.is_none() || has("str"))
    };
    if fits { Ok(kind) } else { Err(broken(span, "unsupported tag")) }
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

/// A number as plain decimal digits, if it is an integer: JSON Schema does not care how it is written.
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
        // Beyond that a number of this type has no digit for one.
        return (number.fract() == 0.0 && number.abs() < 1e15).then(|| format!("{}", number + 0.0));
    }
    let digits = digits.trim_start_matches('0');
    Some(if digits.is_empty() { "0".into() } else { format!("{minus}{digits}") })
}

fn known(tag: Option<Cow<'_, Tag>>, words: &[&str], span: Span) -> Result<(), Broken> {
    match tag {
        Some(tag) if !words.iter().any(|word| tag.is_yaml_core_schema_tag(word)) => {
            Err(broken(span, "unsupported tag"))
        }
        _ => Ok(()),
    }
}

fn key(node: Node) -> Key {
    let name = match node.kind {
        Kind::Bool(name) | Kind::Number(name) | Kind::Scalar(name) => name,
        Kind::Null => "null".into(),
        Kind::List(_) | Kind::Map(_) => "(no text)".into(),
    };
    Key { name, place: node.place, end: node.end }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Node, Broken> {
        super::parse(text, &mut Budget::default())
    }

    fn scalars(node: &Node, out: &mut Vec<(String, usize, usize)>) {
        let mut push = |s: &str| out.push((s.into(), node.place.line, node.place.column));
        match &node.kind {
            Kind::Null => push("~"),
            Kind::Bool(s) => push(&format!("b{s}")),
            Kind::Number(s) => push(&format!("n{s}")),
            Kind::Scalar(s) => push(s),
            Kind::List(list) => list.iter().for_each(|n| scalars(n, out)),
            Kind::Map(map) => map.iter().for_each(|(_, n)| scalars(n, out)),
        }
    }

    #[test]
    fn numbers_keep_their_spelling() {
        let text = "a: 007\nb: [0x10, 1e3 , 1.10, 18446744073709551616, -0]\nc: &x 1_0 # no\nd: *x\ne: .nan\nf: 65000:100\ng: yes\nh: !!int '5'\ni: true\nj:\nk: 1.0.0\n";
        let mut out = vec![];
        scalars(&parse(text).unwrap(), &mut out);
        let words: Vec<&str> = out.iter().map(|(s, ..)| s.as_str()).collect();
        let wanted = [
            "n007",
            "n0x10",
            "n1e3",
            "n1.10",
            "n18446744073709551616",
            "n-0",
            "1_0",
            "1_0",
            "n.nan",
            "65000:100",
            "yes",
            "n5",
            "btrue",
            "~",
            "1.0.0",
        ];
        assert_eq!(words, wanted);
        assert_eq!((out[0].1, out[0].2, out[1].2), (1, 4, 5));
        assert_eq!((out[7].1, out[7].2), (4, 4));
    }

    #[test]
    fn an_integer_is_one_however_it_is_written() {
        for text in ["100", "+100", "0100", "0x64", "0o144", "1e2", "100.0", "100.", "1E+2", "1000e-1"] {
            assert!(is_number(text), "{text}");
            assert_eq!(plain_integer(text).as_deref(), Some("100"), "{text}");
        }
        for (text, plain) in [
            ("-0", Some("0")),
            ("-0.0", Some("0")),
            ("-7", Some("-7")),
            ("0x1_0", None),
            ("1.5", None),
            (".inf", None),
            (".nan", None),
            ("1e400", None),
            ("99999999999999999999999", Some("99999999999999999999999")),
        ] {
            assert_eq!(plain_integer(text).as_deref(), plain, "{text}");
        }
        for text in
            ["", "+", ".", "e1", "1e", "0x", "0o8", "1_0", "1.1.1", "-0x1", "12:30", "1 ", "- 1", "inf"]
        {
            assert!(!is_number(text), "{text}");
        }
    }

    #[test]
    fn keys_and_aliases_have_places() {
        let tree = parse("a: &x\n  b: 1\nc: *x\n? [k]\n: {null: 2}\n").unwrap();
        let Kind::Map(map) = &tree.kind else { panic!() };
        let keys: Vec<_> = map.iter().map(|(key, _)| (&*key.name, key.place.line)).collect();
        assert_eq!(keys, [("a", 1), ("c", 3), ("(no text)", 4)]);
        let alias = &map[1].1;
        assert_eq!((alias.place.line, alias.place.column, alias.end.column), (3, 4, 6));
    }

    #[test]
    fn nesting_ends_before_the_stack() {
        let nested = |depth: usize, inner: &str| format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&nested(DEPTH, "1")).is_ok());
        assert!(parse(&nested(DEPTH + 1, "1")).is_err());
        let chain = |links: usize| {
            let links = (1..=links).map(|i| format!("x{i}: &x{i} [*x{}]\n", i - 1));
            format!("x0: &x0 [1]\n{}", links.collect::<String>())
        };
        assert!(parse(&chain(5)).is_ok());
        for links in [DEPTH, 60, 500] {
            assert!(parse(&chain(links)).is_err());
        }
    }
}
