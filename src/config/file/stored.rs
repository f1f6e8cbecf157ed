//! The accepted entries as a file, so that a restart without the configuration file, or with an invalid entry in it,
//! keeps them. Each entry is stored as its source wrote it, not as this version of the program understands it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::tree::{YamlKind, YamlNode};
use crate::intent::{Accepted, Part, SourceKind};

/// The node at `path`, such as `underlay.neighbors[2]`.
pub(super) fn node_at<'a>(mut node: &'a YamlNode, path: &str) -> Option<&'a YamlNode> {
    for part in path.split('.') {
        let mut words = part.split('[');
        let key = words.next()?;
        node = match &node.kind {
            YamlKind::Map(map) => &map.iter().find(|(name, _)| *name.name == *key)?.1,
            _ => return None,
        };
        for word in words {
            let index: usize = word.strip_suffix(']')?.parse().ok()?;
            node = match &node.kind {
                YamlKind::List(list) => list.get(index)?,
                _ => return None,
            };
        }
    }
    Some(node)
}

/// The node in one line: JSON, but for numbers in YAML's other notations.
pub(super) fn to_line(node: &YamlNode) -> String {
    let mut line = String::new();
    write_node(node, &mut line);
    line
}

fn write_node(node: &YamlNode, line: &mut String) {
    match &node.kind {
        YamlKind::Null => line.push_str("null"),
        YamlKind::Bool(text) | YamlKind::Number(text) => line.push_str(text),
        YamlKind::Scalar(text) => write_text(text, line),
        YamlKind::List(list) => {
            line.push('[');
            for (i, item) in list.iter().enumerate() {
                line.push_str(if i == 0 { "" } else { "," });
                write_node(item, line);
            }
            line.push(']');
        }
        YamlKind::Map(map) => {
            line.push('{');
            for (i, (key, value)) in map.iter().enumerate() {
                line.push_str(if i == 0 { "" } else { "," });
                write_text(&key.name, line);
                // YAML requires the blank.
                line.push_str(": ");
                write_node(value, line);
            }
            line.push('}');
        }
    }
}

fn write_text(text: &str, line: &mut String) {
    // A string is always valid JSON. YAML forbids some characters that JSON allows.
    for c in serde_json::to_string(text).unwrap_or_default().chars() {
        let _ = match u32::from(c) {
            0..0x80 => write!(line, "{c}"),
            number @ 0x80..0x1_0000 => write!(line, "\\u{number:04x}"),
            number => write!(line, "\\U{number:08x}"),
        };
    }
}

/// A configuration file with the accepted entries of the file.
pub fn stored_text(accepted: &Accepted<Part>) -> String {
    let of_file = accepted.iter().filter(|(id, _)| id.source == SourceKind::File);
    let mut entries: Vec<_> = of_file.collect();
    entries.sort_by_key(|(_, content)| content.position);
    // The lists, and the values that exist once.
    let mut lists: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut values: Vec<(&str, &str)> = vec![];
    for (id, content) in entries {
        match id.name.split_once('/') {
            Some((list, _)) => lists.entry(list).or_default().push(&content.source),
            None => values.push((&id.name, &content.source)),
        }
    }
    let is_underlay = |name: &str| name.starts_with("underlay.");
    let mut text = String::from("# The accepted entries of CONFIG_FILE.\n");
    let mut write = |indent: &str, name: &str, value: &str| {
        let _ = writeln!(text, "{indent}{name}: {value}");
    };
    for (name, value) in values.iter().filter(|(name, _)| !is_underlay(name)) {
        write("", name, value);
    }
    let list = |items: &[&str]| format!("[{}]", items.join(", "));
    for (name, items) in lists.iter().filter(|(name, _)| !is_underlay(name)) {
        write("", name, &list(items));
    }
    if values.iter().any(|(name, _)| is_underlay(name)) || lists.keys().any(|name| is_underlay(name)) {
        write("", "underlay", "");
    }
    for (name, value) in &values {
        name.strip_prefix("underlay.").into_iter().for_each(|name| write("  ", name, value));
    }
    for (name, items) in &lists {
        let Some(name) = name.strip_prefix("underlay.") else { continue };
        let items = list(items);
        match name {
            "tunnelEndpoint" => write("  ", name, &format!("{{cidrs: {items}}}")),
            _ => write("  ", name, &items),
        }
    }
    text
}
