//! The settings table as text for `--help`, and as Markdown for docs/configuration.md.

use std::fmt::Write as _;

use super::settings::{EnvSetting, IfUnset, SETTINGS};

/// The table for a terminal.
pub fn help_text() -> String {
    let mut out = String::new();
    for setting in SETTINGS {
        let meaning = strip_markdown(setting.meaning);
        // Writing to a String never fails.
        let _ = writeln!(out, "  {} ({})", setting.name, default(setting));
        for line in wrap(&format!("{meaning} Allowed: {}.", allowed(setting)), 88) {
            let _ = writeln!(out, "      {line}");
        }
    }
    out
}

/// The table for docs/configuration.md.
pub fn markdown_table() -> String {
    let mut out = String::from("| Variable | Default | Allowed | Meaning |\n|---|---|---|---|\n");
    for setting in SETTINGS {
        let default = match setting.if_unset {
            IfUnset::Required => "**required**".into(),
            IfUnset::Text(text) => format!("`{text}`"),
            IfUnset::RequiredUnless(words) => format!("**required**, unless {words}"),
            IfUnset::Unset(words) => words.into(),
        };
        let allowed = (setting.allowed)().replace('|', "\\|");
        let _ = writeln!(out, "| `{}` | {default} | {allowed} | {} |", setting.name, setting.meaning);
    }
    out
}

fn default(setting: &EnvSetting) -> String {
    match setting.if_unset {
        IfUnset::Required => "required".into(),
        IfUnset::Text(text) => format!("default {text}"),
        IfUnset::RequiredUnless(words) => format!("required, unless {}", strip_markdown(words)),
        IfUnset::Unset(words) => format!("default: {}", strip_markdown(words)),
    }
}

fn allowed(setting: &EnvSetting) -> String {
    strip_markdown(&(setting.allowed)())
}

/// Removes Markdown markup.
fn strip_markdown(text: &str) -> String {
    text.replace(['`', '*'], "")
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + word.len() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    /// `DOCS_WRITE=1 cargo test docs` rewrites the table.
    #[test]
    fn docs_have_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (head, rest) = page.split_once("<!-- settings -->\n").unwrap();
        let (_, tail) = rest.split_once("<!-- /settings -->").unwrap();
        let wanted = format!("{head}<!-- settings -->\n{}<!-- /settings -->{tail}", super::markdown_table());
        if std::env::var_os("DOCS_WRITE").is_some() {
            return std::fs::write(path, &wanted).unwrap();
        }
        assert!(page == wanted, "run DOCS_WRITE=1 cargo test docs");
    }
}
