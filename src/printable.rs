//! Escapes text from outside (daemons, peers, files, the kernel): it stays in one line and can't control a terminal.

use std::borrow::Cow;
use std::fmt::Display;

use serde::Serialize;

/// Whether a character is invisible: control characters, line separators (U+2028, U+2029), and characters that change the direction
/// of text (Unicode Standard Annex 9 §2).
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The text with invisible characters escaped as in Rust: `\n`, `\u{1b}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// The first `shown` elements of a list, and the number of the others.
pub fn first(shown: usize, list: &[impl Display]) -> String {
    let texts: Vec<String> = list.iter().take(shown).map(ToString::to_string).collect();
    let text = texts.join(", ");
    match list.len().saturating_sub(shown) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// Writes a value as JSON whose strings, once decoded, are [`printable`].
///
/// # Errors
/// The value can't be serialized.
pub fn to_json(value: &impl Serialize) -> serde_json::Result<String> {
    let json = serde_json::to_string(value)?;
    // Compact JSON has invisible characters only in strings: those below U+0020 as escapes, the others as they are.
    let is_plain = |json: &str| !json.contains(is_hidden) && !json.contains('\\');
    Ok(if is_plain(&json) { json } else { shown(&json) })
}

/// Replaces JSON's escapes of control characters by those of [`printable`].
fn shown(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + 64);
    let mut rest = json.chars();
    let hidden = |out: &mut String, c: char| {
        for c in c.escape_default() {
            out.push_str(if c == '\\' { "\\\\" } else { "" });
            out.extend((c != '\\').then_some(c));
        }
    };
    while let Some(c) = rest.next() {
        if is_hidden(c) {
            hidden(&mut out, c);
            continue;
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some('n') => hidden(&mut out, '\n'),
            Some('r') => hidden(&mut out, '\r'),
            Some('t') => hidden(&mut out, '\t'),
            Some('b') => hidden(&mut out, '\u{8}'),
            Some('f') => hidden(&mut out, '\u{c}'),
            Some('u') => {
                let digits: String = rest.by_ref().take(4).collect();
                let c = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                hidden(&mut out, c.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            // A quotation mark, or a backslash.
            Some(c) => out.extend(['\\', c]),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_seen_stays_as_it_is() {
        for text in ["", "eth1", "a \\n b", "Größe \"x\" 日本"] {
            assert!(matches!(printable(text), Cow::Borrowed(t) if t == text));
        }
        assert_eq!(
            printable("a\r\nb\x1b[2J\t\0\x7f\u{9b}\u{202e}"),
            "a\\r\\nb\\u{1b}[2J\\t\\u{0}\\u{7f}\\u{9b}\\u{202e}"
        );
    }

    proptest! {
        #[test]
        fn json_says_the_same(text in any::<String>(), key in ".*") {
            let map = std::collections::BTreeMap::from([(key.as_str(), vec![text.as_str()])]);
            let json = to_json(&map).unwrap();
            prop_assert!(!json.contains(is_hidden));
            let read: std::collections::BTreeMap<String, Vec<String>> = serde_json::from_str(&json).unwrap();
            let wanted = (printable(&key).into_owned(), vec![printable(&text).into_owned()]);
            prop_assert_eq!(read.into_iter().next(), Some(wanted));
        }
    }
}
