//! Text → a tree that knows where each of its nodes and keys was written. No meaning yet.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

/// What a line and a column are: both count from 1, a column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub line: usize,
    pub column: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub kind: Kind,
    /// Where it is used.
    pub place: Place,
    /// Where it is written: another place behind an alias.
    pub written: Place,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Null,
    /// A plain `true` or `false`.
    Bool(String),
    /// Text, or a plain number as it is written.
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub name: String,
    pub place: Place,
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

/// How many nodes a text may have, what aliases repeat included: some fifty for each of 4096 VNIs.
const NODES: usize = 250_000;

/// Parses one document; an empty one is null.
pub(super) fn parse(text: &str) -> Result<Node, Broken> {
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
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
    Ok(tree.unwrap_or(Node { kind: Kind::Null, place: start, written: start }))
}

fn place(marker: &Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1 }
}

fn broken(span: Span, reason: impl Into<String>) -> Broken {
    Broken { place: place(&span.start), reason: reason.into() }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Measured>,
    nodes: usize,
}

/// A node, how many levels of others it has inside, and how many there are in all.
#[derive(Clone)]
struct Measured {
    node: Node,
    levels: usize,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Broken> {
        let of = |e: ScanError| Broken { place: place(e.marker()), reason: e.info() };
        self.parser.next_event().transpose().map_err(of)
    }

    /// The next event, inside something that is not over.
    fn inside(&mut self, outer: Span) -> Result<(Event<'a>, Span), Broken> {
        self.next()?.ok_or_else(|| broken(outer, "the text ends in the middle of this"))
    }

    /// The node that begins with `event`, at that depth.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Measured, Broken> {
        let at = place(&span.start);
        self.count(span, 1, depth)?;
        let (kind, anchor, levels, before) = match event {
            Event::Alias(id) => {
                let Some(mut found) = self.anchors.get(&id).cloned() else {
                    return Err(broken(span, "a recursive alias: it stands inside what it stands for"));
                };
                self.count(span, found.nodes, depth + found.levels)?;
                found.node.place = at;
                return Ok(found);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let kind = scalar(text.into_owned(), style, tag, span)?;
                (kind, anchor, 0, self.nodes)
            }
            Event::SequenceStart(_, anchor, tag) => {
                known(tag, &["seq"], span)?;
                let (before, mut list, mut levels) = (self.nodes, vec![], 0);
                loop {
                    let (event, at) = self.inside(span)?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    let item = self.node(event, at, depth + 1)?;
                    levels = levels.max(item.levels);
                    list.push(item.node);
                }
                (Kind::List(list), anchor, levels + 1, before)
            }
            Event::MappingStart(_, anchor, tag) => {
                known(tag, &["map"], span)?;
                let before = self.nodes;
                let (map, levels) = self.map(span, depth)?;
                (Kind::Map(map), anchor, levels + 1, before)
            }
            _ => return Err(broken(span, "not a YAML node")),
        };
        self.count(span, 1, depth)?;
        let node =
            Measured { node: Node { kind, place: at, written: at }, levels, nodes: self.nodes - before + 1 };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn map(&mut self, span: Span, depth: usize) -> Result<(Vec<(Key, Node)>, usize), Broken> {
        let (mut map, mut merged, mut levels) = (Vec::<(Key, Node)>::new(), vec![], 0);
        loop {
            let (event, at) = self.inside(span)?;
            if event == Event::MappingEnd {
                break;
            }
            let merges = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = key(self.node(event, at, depth + 1)?.node);
            let (event, value_at) = self.inside(span)?;
            let value = self.node(event, value_at, depth + 1)?;
            levels = levels.max(value.levels);
            if merges {
                merged.extend(entries(value.node, value_at)?);
            } else if map.iter().any(|(other, _)| other.name == key.name) {
                return Err(broken(at, format!("duplicate mapping key: {}", key.name)));
            } else {
                map.push((key, value.node));
            }
        }
        // What is written here goes before what is merged in, and of that the first.
        for (key, node) in merged {
            if !map.iter().any(|(other, _)| other.name == key.name) {
                map.push((key, node));
            }
        }
        Ok((map, levels))
    }

    fn count(&mut self, span: Span, nodes: usize, depth: usize) -> Result<(), Broken> {
        self.nodes += nodes;
        if depth > DEPTH {
            return Err(broken(span, format!("nested more than {DEPTH} levels deep")));
        }
        if self.nodes > NODES {
            return Err(broken(
                span,
                format!("the text has more than {NODES} nodes, what aliases repeat included"),
            ));
        }
        Ok(())
    }
}

/// What `<<` merges: a map, or a list of them.
fn entries(node: Node, at: Span) -> Result<Vec<(Key, Node)>, Broken> {
    match node.kind {
        Kind::Map(map) => Ok(map),
        Kind::List(list) => {
            let maps: Result<Vec<_>, _> = list.into_iter().map(|item| entries(item, at)).collect();
            Ok(maps?.concat())
        }
        _ => Err(broken(at, "only a map can be merged in by <<")),
    }
}

fn scalar(text: String, style: ScalarStyle, tag: Option<Cow<'_, Tag>>, span: Span) -> Result<Kind, Broken> {
    let plain = style == ScalarStyle::Plain && tag.is_none();
    known(tag, &["str", "int", "float", "bool", "null"], span)?;
    Ok(match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" if plain => Kind::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" if plain => Kind::Bool(text),
        _ => Kind::Scalar(text),
    })
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
        Kind::Bool(name) | Kind::Scalar(name) => name,
        Kind::Null => "null".into(),
        Kind::List(_) | Kind::Map(_) => "(no text)".into(),
    };
    Key { name, place: node.place }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalars(node: &Node, out: &mut Vec<(String, usize, usize)>) {
        let mut push = |s: &str| out.push((s.into(), node.place.line, node.place.column));
        match &node.kind {
            Kind::Null => push("~"),
            Kind::Bool(s) => push(&format!("b{s}")),
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
            "007",
            "0x10",
            "1e3",
            "1.10",
            "18446744073709551616",
            "-0",
            "1_0",
            "1_0",
            ".nan",
            "65000:100",
            "yes",
            "5",
            "btrue",
            "~",
            "1.0.0",
        ];
        assert_eq!(words, wanted);
        assert_eq!((out[0].1, out[0].2, out[1].2), (1, 4, 5));
        assert_eq!((out[7].1, out[7].2), (4, 4));
    }

    #[test]
    fn keys_and_aliases_have_places() {
        let tree = parse("a: &x\n  b: 1\nc: *x\n? [k]\n: {null: 2}\n").unwrap();
        let Kind::Map(map) = &tree.kind else { panic!() };
        let keys: Vec<_> = map.iter().map(|(key, _)| (key.name.as_str(), key.place.line)).collect();
        assert_eq!(keys, [("a", 1), ("c", 3), ("(no text)", 4)]);
        assert_eq!((map[1].1.place.line, map[1].1.written.line), (3, 2));
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
