//! Tests of the documentation: its configuration is accepted, its links and commands exist.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::{Config, file, from_vars};
use crate::status::CODES;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page with its path below the root.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages =
        docs.chain([root().join("README.md")]).filter(|path| path.extension().is_some_and(|e| e == "md"));
    pages.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// The code blocks of a language, without their indentation.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let (mut all, mut open) = (vec![], None);
    for line in page.lines() {
        let text = line.trim_start();
        match (&mut open, text.strip_prefix("```")) {
            (None, Some(found)) => open = Some((found == language, line.len() - text.len(), String::new())),
            (Some(_), Some(_)) => all.extend(open.take().filter(|(is, ..)| *is).map(|(_, _, block)| block)),
            (Some((_, indent, block)), None) => {
                *block += line.get(*indent..).unwrap_or_default();
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    all
}

fn config(vars: &[(&str, &str)]) -> Config {
    from_vars(vars.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)))).unwrap()
}

#[test]
fn the_yaml_of_the_docs_is_accepted() {
    let (mut services, mut files) = (0, 0);
    for (path, page) in pages() {
        for block in blocks(&page, "yaml") {
            for document in block.split("---\n") {
                let value: Value = serde_saphyr::from_str(document)
                    .unwrap_or_else(|e| panic!("{}: {e}\n{document}", path.display()));
                if let Some(environment) =
                    value["environment"].as_array().filter(|_| value["kind"].is_string())
                {
                    let vars: Vec<_> = environment
                        .iter()
                        .map(|var| var.as_str().unwrap().split_once('=').unwrap())
                        .collect();
                    config(&vars);
                    services += 1;
                }
                if value["underlay"].is_object() {
                    let base = [("NODE_IP", "10.0.0.1"), ("ASN_LOCAL", "65001"), ("NODE_INDEX", "3")];
                    let base = config(&[&base[..], &[("FE_MACS", "00:11:22:33:44:55")]].concat());
                    let name = path.display().to_string();
                    assert_eq!(file::parse_files(&[(name, document.into())], &base).1, []);
                    files += 1;
                }
            }
        }
    }
    assert!(services >= 2 && files >= 1, "{services} {files}");
}

/// What GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn the_links_of_the_docs_lead_somewhere() {
    for (path, page) in pages() {
        for target in page.split("](").skip(1).map(|rest| rest.split(')').next().unwrap_or_default()) {
            if target.contains("://") {
                continue;
            }
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(file.exists(), "{}: {target}", path.display());
            if !fragment.is_empty() {
                let text = std::fs::read_to_string(&file).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(headings.any(|heading| anchor(heading) == fragment), "{}: {target}", path.display());
            }
        }
    }
}

#[test]
fn the_commands_of_the_docs_exist() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .flat_map(|(left, _)| left.split(' '))
        .collect();
    let phony = makefile.lines().filter_map(|line| line.strip_prefix(".PHONY: "));
    let targets: BTreeSet<&str> = phony.flat_map(|all| all.split(' ')).chain(targets).collect();
    let suites = makefile.lines().find_map(|line| line.strip_prefix("SUITES  ?= ")).unwrap();
    let is_suite = |target: &str| suites.split(' ').any(|suite| target.strip_suffix(suite) == Some("lab-"));
    let exists = |target: &str| targets.contains(target) || is_suite(target);
    let main = include_str!("main.rs");
    let mut seen = 0;
    for (path, page) in pages() {
        let inline = page.split('`').skip(1).step_by(2).map(str::to_owned);
        for command in
            blocks(&page, "sh").iter().flat_map(|block| block.lines()).map(str::to_owned).chain(inline)
        {
            let words: Vec<&str> = command.split_whitespace().skip_while(|word| word.contains('=')).collect();
            match words[..] {
                ["make", target, ..] if !target.contains('=') => {
                    assert!(exists(target), "{}: {command}", path.display());
                    seen += 1;
                }
                ["frr-supervisor", verb, ..] if verb.chars().all(|c| c.is_ascii_lowercase()) => {
                    assert!(main.contains(&format!("\"{verb}\"")), "{}: {command}", path.display());
                    seen += 1;
                }
                _ => {}
            }
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn the_docs_name_every_problem() {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    for code in CODES {
        assert!(page.contains(&format!("`{code}`")), "{code}");
    }
}
