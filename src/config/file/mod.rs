//! The configuration file, which adds to the environment: text → tree → typed entries → [`Overlay`]. Each step reports
//! all that is wrong and goes on with the rest.

mod address;
mod disk;
mod entries;
mod names;
mod neighbor;
mod own;
mod patterns;
mod read;
mod report;
mod rules;
mod schema;
mod session;
mod tree;
mod underlay;
#[cfg(test)]
mod validator;
mod values;
mod vnis;

use crate::model::{FilePath, Overlay, RawLines, Underlay};

use super::{Config, Problem};

use entries::{Document, L2, L3, MAX_VNIS, Passthrough};
use read::{At, Read as _};
use report::{Located, Report, Source, Spot};
use tree::{Budget, Kind, Node};
use vnis::Vnis;

pub use disk::read;
pub use names::no_peer;
pub(super) use names::{is_ours, our_names};
pub(crate) use report::sounds_secret;
pub use schema::schema;

/// What the file that `config` names adds to it; without one nothing.
pub fn overlay(config: &Config) -> (Overlay, Vec<Problem>) {
    let Some(path) = &config.file else { return (Overlay::default(), vec![]) };
    let (files, unread) = read(path);
    let (mut overlay, problems) = load(&files, config);
    overlay.incomplete |= !unread.is_empty();
    (overlay, [unread, problems].concat())
}

/// Whether the file, or each of the directory, can be read, whatever it says.
pub fn is_readable(path: &FilePath) -> bool {
    read(path).1.is_empty()
}

/// What is no mistake by itself, but most likely one: a directory without a file of a name that is read.
pub fn remark(path: &FilePath) -> Option<String> {
    let nothing = matches!(read(path), (files, problems) if files.is_empty() && problems.is_empty());
    nothing.then(|| {
        let path = path.as_str();
        format!(
            "CONFIG_FILE={path}: this directory has no *.yaml and no *.yml in it, so the file adds nothing"
        )
    })
}

/// What is wrong with the file by itself, where there is no configuration to hold it against.
pub fn inspect(path: &FilePath) -> Vec<Problem> {
    let (files, unread) = read(path);
    let (mut report, trees) = parse(&files);
    documents(&trees, &mut report);
    [unread, report.into_problems()].concat()
}

/// What `files`, each a name and a text, add to `config`: all of it that is valid, and every problem. A problem is a
/// sentence that begins with `file:line:column`, then the line that it is about.
pub fn load(files: &[(String, String)], config: &Config) -> (Overlay, Vec<Problem>) {
    let (mut report, trees) = parse(files);
    let documents = documents(&trees, &mut report);
    let mut overlay = assemble(documents, config, &mut report);
    overlay.incomplete = !report.is_empty();
    (overlay, report.into_problems())
}

/// The trees of those that are YAML, each with the index of its file. One that goes beyond what is left of the budget is
/// left out, and takes nothing of it.
fn parse(files: &[(String, String)]) -> (Report<'_>, Vec<(usize, Node)>) {
    let mut report = Report::new(files.iter().map(|(name, text)| Source::new(name, text)).collect());
    let (mut trees, mut budget) = (vec![], Budget::default());
    for (file, (_, text)) in files.iter().enumerate() {
        let mut left = budget.clone();
        match tree::parse(text, &mut left) {
            Ok(node) => {
                budget = left;
                trees.extend((!matches!(node.kind, Kind::Null)).then_some((file, node)));
            }
            Err(broken) => report.broken(file, broken.place, &broken.reason),
        }
    }
    (report, trees)
}

fn documents(trees: &[(usize, Node)], report: &mut Report<'_>) -> Vec<Document> {
    let read =
        |(file, node): &(usize, Node)| Document::read(&At { node, file: *file, path: String::new() }, report);
    trees.iter().filter_map(read).collect()
}

/// Puts the files together.
fn assemble(documents: Vec<Document>, config: &Config, report: &mut Report<'_>) -> Overlay {
    let mut indices = vec![];
    let mut underlays = vec![];
    let mut l3vnis = vec![];
    let mut l2vnis = vec![];
    let mut passthroughs = vec![];
    let mut raw = vec![];
    for document in documents {
        indices.extend(document.node_index);
        underlays.extend(document.underlay);
        underlays.extend(document.underlays.0);
        // One that is for some other node is not this one's.
        underlays.retain(|underlay: &Located<entries::Underlay>| {
            underlay.selector.as_ref().is_none_or(|selector| selector.value.0.is_some())
        });
        l3vnis.extend(document.l3vnis.0);
        l2vnis.extend(document.l2vnis.0);
        passthroughs.extend(document.passthrough);
        raw.extend(document.raw.0);
    }
    let index = node_index(indices, config, report);
    let given = only(underlays, report);
    let has_tunnel = given.as_ref().is_some_and(|given| given.tunnel.is_some());
    let underlay =
        given.map_or_else(Underlay::default, |given| underlay::underlay(&given, index, config, report));
    let passthrough = only(passthroughs, report);
    raw.sort_by_key(|entry| entry.priority.as_ref().map_or(0, |priority| priority.get()));
    limit_raw(&mut raw, report);
    let lines = |entry: Located<entries::Raw>| RawLines {
        source: report.name(&entry.spot),
        text: entry.value.text.value.0,
    };
    let raw = raw.into_iter().map(lines).collect();
    let mut overlay = Overlay { underlay, raw, ..Overlay::default() };

    limit(&mut l3vnis, &mut l2vnis, report);
    let on_host = config.namespace.as_deref().is_none();
    let Some(index) = index else {
        leave_all_out(&l3vnis, &l2vnis, passthrough.as_ref(), "needs nodeIndex, which is wrong", report);
        return overlay;
    };
    if on_host {
        let reason = "needs a namespace of its own, which NETNS=host is not";
        leave_all_out(&l3vnis, &l2vnis, passthrough.as_ref(), reason, report);
        return overlay;
    }
    let underlay = overlay.underlay.clone();
    let mut vnis = Vnis::new(config, &underlay, index);
    if !overlay.underlay.is_vtep() {
        let state = if has_tunnel { ", which is wrong" } else { "" };
        let reason = format!("needs underlay.tunnelEndpoint{state}");
        leave_all_out(&l3vnis, &l2vnis, None, &reason, report);
    } else {
        overlay.l3vnis = l3vnis.iter().filter_map(|entry| vnis.l3(entry, report)).collect();
        overlay.l2vnis = l2vnis.iter().filter_map(|entry| vnis.l2(entry, report)).collect();
    }
    overlay.passthrough = passthrough.and_then(|entry| vnis.passthrough(&entry, report));
    overlay
}

/// The node's number: that of the file, or else of the environment. `None` where it is not certain.
fn node_index(
    given: Vec<Located<read::Attempt<entries::NodeIndex>>>,
    config: &Config,
    report: &mut Report<'_>,
) -> Option<u32> {
    let Some(given) = only(given, report) else { return Some(config.node_index) };
    let index = &given.value.0.as_ref()?.index;
    // 0 is what the environment has if no one gives it.
    if config.node_index != 0 && config.node_index != index.get() {
        report.complain(&index.spot, format_args!("not NODE_INDEX={}", config.node_index));
        return None;
    }
    Some(index.get())
}

/// The one of what may be there once.
fn only<T>(given: Vec<Located<T>>, report: &mut Report<'_>) -> Option<Located<T>> {
    let mut given = given.into_iter();
    let first = given.next()?;
    for other in given {
        let first = report.name(&first.spot);
        let spot = Spot { shown: None, ..other.spot };
        report.complain(
            &spot,
            format_args!("may be there once, and is at {first} already: this one is left out"),
        );
    }
    Some(first)
}

/// Leaves out the VNIs that are too many.
fn limit(l3vnis: &mut Vec<Located<L3>>, l2vnis: &mut Vec<Located<L2>>, report: &mut Report<'_>) {
    let first = l3vnis
        .get(MAX_VNIS)
        .map(|entry| entry.spot.clone())
        .or_else(|| l2vnis.get(MAX_VNIS.saturating_sub(l3vnis.len())).map(|entry| entry.spot.clone()));
    let Some(first) = first else { return };
    report.complain(
        &first,
        format_args!("too many VNIs (allowed: at most {MAX_VNIS}): this and those that follow are left out"),
    );
    l3vnis.truncate(MAX_VNIS);
    l2vnis.truncate(MAX_VNIS - l3vnis.len());
}

/// The most raw lines: frr.conf as a whole has a few hundred, but for VNIs.
const RAW_LINES: usize = 20_000;

/// Leaves out the raw lines that are too many.
fn limit_raw(raw: &mut Vec<Located<entries::Raw>>, report: &mut Report<'_>) {
    let mut lines = 0;
    let too_many = raw.iter().position(|entry| {
        lines += entry.text.0.lines().count();
        lines > RAW_LINES
    });
    let Some(first) = too_many else { return };
    report.complain(
        &raw[first].spot,
        format_args!("too many raw lines (allowed: at most {RAW_LINES} in all): this and those that follow are left out"),
    );
    raw.truncate(first);
}

/// Says once why none of them can be.
fn leave_all_out(
    l3vnis: &[Located<L3>],
    l2vnis: &[Located<L2>],
    passthrough: Option<&Located<Passthrough>>,
    reason: &str,
    report: &mut Report<'_>,
) {
    let spots = l3vnis.iter().map(|entry| &entry.spot).chain(l2vnis.iter().map(|entry| &entry.spot));
    let mut spots = spots.chain(passthrough.map(|entry| &entry.spot));
    let Some(first) = spots.next() else { return };
    let whole = match spots.count() {
        0 => "this is left out".into(),
        n => format!("this and {n} more that need it are left out"),
    };
    report.complain(first, format_args!("{reason}: {whole}"));
}

#[cfg(test)]
mod tests;
