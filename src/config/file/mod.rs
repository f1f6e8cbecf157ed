//! The configuration file: text → YAML tree → typed entries → [`Overlay`]. Each step reports every problem and
//! continues with the rest.

mod address;
mod disk;
mod entries;
mod names;
mod neighbor;
mod offers;
mod patterns;
mod read;
mod report;
mod rules;
mod schema;
mod session;
mod stored;
mod tree;
mod underlay;
#[cfg(test)]
mod validator;
mod values;
mod vnis;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use crate::intent::{Accepted, Offer, OfferId, Part, SourceKind, Verdict, assemble, merge};
use crate::model::{FilePath, Overlay, Ranged, RawLines, Value as _};

use super::{Config, ConfigProblem, ObjectState, ObjectVerdict};
use crate::printable::first;

use entries::{ConfigFile, L2VniEntry, L3VniEntry, MAX_VNIS, PassthroughEntry};
use offers::{FileOffers, RAW};
use read::{FromYaml as _, YamlRef};
use report::{Located, Location, Report, SourceFile};
use tree::{Budget, YamlKind, YamlNode};

pub use disk::read_files;
pub use names::peer_interface_error;
pub(super) use names::{is_managed_device, managed_device_names};
pub(crate) use report::is_password_keyword;
pub use schema::schema;
pub use stored::stored_text;

/// The most names of entries in a problem.
const MAX_NAMES: usize = 20;

/// The result of reading the file: what it makes up together with the environment.
#[derive(Debug)]
pub struct FileContents {
    /// The accepted entries.
    pub overlay: Overlay,
    /// The accepted objects, for the next read.
    pub accepted: Accepted<Part>,
    /// What became of each entry.
    pub verdicts: Vec<ObjectVerdict>,
    /// Every problem: why something is left out, or keeps its last accepted version.
    pub problems: Vec<ConfigProblem>,
    /// A file cannot be read, or is not valid YAML. Nothing of it is known: what was accepted stays.
    pub is_lost: bool,
}

/// The text of the configuration file, or of each file of the directory.
#[derive(Debug)]
pub struct SourceFiles {
    /// Pairs of name and text.
    files: Vec<(String, String)>,
    /// Problems with files that cannot be read.
    unread: Vec<ConfigProblem>,
}

impl SourceFiles {
    /// Reads the file that `config` names. Without a name, nothing.
    pub fn read(config: &Config) -> Self {
        let (files, unread) = config.settings.config_file.as_ref().map(read_files).unwrap_or_default();
        Self { files, unread }
    }

    /// A number that identifies the names and the texts in this process; `None` if a file cannot be read.
    pub fn identity(&self) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        self.files.hash(&mut hasher);
        self.unread.is_empty().then(|| hasher.finish())
    }

    /// Merges the files with what was `accepted` before.
    pub fn merge(&self, config: &Config, accepted: &Accepted<Part>) -> FileContents {
        merge_files(&self.files, self.unread.clone(), config, accepted, Budget::default())
    }
}

/// A warning if the path is a directory without any `*.yaml` or `*.yml` file.
pub fn empty_directory_warning(path: &FilePath) -> Option<String> {
    let nothing = matches!(read_files(path), (files, problems) if files.is_empty() && problems.is_empty());
    nothing.then(|| {
        let path = path.as_str();
        format!("CONFIG_FILE={path}: the directory contains no *.yaml and no *.yml file, so nothing is added")
    })
}

/// The problems of the file alone, for the case that the environment is invalid.
pub fn check_without_config(path: &FilePath) -> Vec<ConfigProblem> {
    let (files, unread) = read_files(path);
    let (mut report, trees) = parse_trees(&files, Budget::default());
    read_documents(&trees, &mut report);
    [unread, report.into_problems()].concat()
}

/// Parses `files`, pairs of name and text. Returns the valid part and every problem. A problem begins with
/// `file:line:column` and is followed by the source line.
pub fn parse_files(files: &[(String, String)], config: &Config) -> (Overlay, Vec<ConfigProblem>) {
    let contents = merge_files(files, vec![], config, &Accepted::new(), Budget::default());
    (contents.overlay, contents.problems)
}

/// Merges the environment, the `files` and what was `accepted` before. `unread`: problems with files that cannot be read.
fn merge_files(
    files: &[(String, String)],
    unread: Vec<ConfigProblem>,
    config: &Config,
    accepted: &Accepted<Part>,
    budget: Budget,
) -> FileContents {
    let given = budget.clone();
    let (mut report, trees) = parse_trees(files, budget);
    let is_lost = !unread.is_empty() || !report.is_empty();
    let documents = read_documents(&trees, &mut report);
    let mut file = translate(documents, &trees, config, &mut report);
    file.identify(accepted);
    let is_of_file = |id: &OfferId| id.source == SourceKind::File;
    let mut offers = vec![config.offer()];
    let had = accepted
        .iter()
        .filter(|(id, _)| is_of_file(id))
        .map(|(id, content)| Offer { id: id.clone(), content: Ok(Arc::clone(content)) });
    if is_lost && accepted.keys().any(is_of_file) {
        // There is no partial update.
        offers.extend(had);
        let merged = merge(&offers, accepted);
        let mut overlay = assemble(&merged.accepted);
        overlay.incomplete = true;
        let problems = [unread, report.into_problems()].concat();
        let stays =
            |offer: &Offer<Part>| kept_verdict(&offer.id, "the file is not valid YAML, or cannot be read");
        let verdicts = offers[1..].iter().map(stays).collect();
        return FileContents { overlay, accepted: merged.accepted, verdicts, problems, is_lost };
    }
    offers.extend(file.offers.iter().cloned());
    let known: BTreeSet<OfferId> = file.offers.iter().map(|offer| offer.id.clone()).collect();
    let missing: Vec<Offer<Part>> = had.filter(|offer| !known.contains(&offer.id)).collect();
    let mut merged = merge(&offers, accepted);
    let has_errors = is_lost
        || !report.is_empty()
        || merged.verdicts.iter().any(|verdict| !matches!(verdict, Verdict::Accepted));
    let before = missing.iter().find_map(|offer| match offer.content.as_ref().ok()?.fragment {
        Part::NodeIndex(index) => Some(index),
        _ => None,
    });
    if let Some(index) = before.filter(|index| has_errors && *index != config.settings.node_index.get()) {
        // The number stays, as everything else that is no longer there.
        let mut config = config.clone();
        config.settings.node_index = Ranged::parse(&index.to_string()).unwrap_or(config.settings.node_index);
        return merge_files(files, unread, &config, accepted, given);
    }
    if has_errors && !missing.is_empty() {
        // An entry that is not there may be one that is invalid: with a misspelt name, it is another one.
        file.limit(&missing, accepted);
        offers.truncate(1);
        offers.extend(file.offers.iter().chain(&missing).cloned());
        let without = std::mem::replace(&mut merged, merge(&offers, accepted));
        // What only an entry that stays makes possible is an error nevertheless.
        for (verdict, error) in merged.verdicts.iter_mut().zip(without.verdicts) {
            *verdict = match (&verdict, error) {
                (_, Verdict::Accepted) => continue,
                (Verdict::Accepted, error) => Verdict::Kept(error.reasons().to_vec()),
                (_, error) => error,
            };
        }
    }
    let mut verdicts = file.report(&merged, 1, &mut report);
    let kept = missing.iter().map(|offer| &offer.id).filter(|id| merged.accepted.contains_key(*id));
    let kept: Vec<&OfferId> = kept.collect();
    verdicts.extend(kept.iter().map(|id| kept_verdict(id, "it is no longer in the file, which has errors")));
    let kept: Vec<&str> = kept.iter().map(|id| &*id.name).collect();
    let mut overlay = assemble(&merged.accepted);
    overlay.incomplete = has_errors;
    let mut problems = [unread, report.into_problems()].concat();
    if !kept.is_empty() {
        problems.push(ConfigProblem(format!(
            "CONFIG_FILE: these entries are no longer there; they stay until the errors above are corrected: {}",
            first(MAX_NAMES, &kept)
        )));
    }
    FileContents { overlay, accepted: merged.accepted, verdicts, problems, is_lost }
}

/// The verdict for an accepted entry that stays although the file does not say so.
fn kept_verdict(id: &OfferId, reason: &str) -> ObjectVerdict {
    ObjectVerdict {
        source: id.source,
        name: Arc::clone(&id.name),
        state: ObjectState::Kept,
        reasons: vec![reason.into()],
    }
}

/// The accepted entries of an earlier instance, from the text that [`stored_text`] made, and why some are lost.
pub fn accepted_from(text: String, config: &Config) -> (Accepted<Part>, Vec<ConfigProblem>) {
    let files = [("accepted.yaml".into(), text)];
    let contents = merge_files(&files, vec![], config, &Accepted::new(), Budget::of_stored());
    (contents.accepted, contents.problems)
}

/// The trees of the files that are valid YAML, each with the index of its file. A file that exceeds the remaining
/// budget is left out and uses none of it.
fn parse_trees(files: &[(String, String)], mut budget: Budget) -> (Report<'_>, Vec<(usize, YamlNode)>) {
    let mut report = Report::new(files.iter().map(|(name, text)| SourceFile::new(name, text)).collect());
    let mut trees = vec![];
    for (file, (_, text)) in files.iter().enumerate() {
        let mut left = budget.clone();
        match tree::parse(text, &mut left) {
            Ok(node) => {
                budget = left;
                trees.extend((!matches!(node.kind, YamlKind::Null)).then_some((file, node)));
            }
            Err(e) => report.yaml_error(file, e.position, &e.reason),
        }
    }
    (report, trees)
}

fn read_documents(trees: &[(usize, YamlNode)], report: &mut Report<'_>) -> Vec<ConfigFile> {
    let read = |(file, node): &(usize, YamlNode)| {
        ConfigFile::from_yaml(&YamlRef { node, file: *file, path: String::new() }, report)
    };
    trees.iter().filter_map(read).collect()
}

/// The entries of all files as offers.
fn translate<'a>(
    documents: Vec<ConfigFile>,
    trees: &'a [(usize, YamlNode)],
    config: &Config,
    report: &mut Report<'_>,
) -> FileOffers<'a> {
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
        // Entries for other nodes are ignored.
        underlays.retain(|underlay: &Located<entries::UnderlayEntry>| {
            underlay.selector.as_ref().is_none_or(|selector| selector.value.0.is_some())
        });
        l3vnis.extend(document.l3vnis.0);
        l2vnis.extend(document.l2vnis.0);
        passthroughs.extend(document.passthrough);
        raw.extend(document.raw.0);
    }
    let mut offers = FileOffers::new(trees);
    let given = indices.first().map(|given| given.location.clone());
    let index = resolve_node_index(indices, config, report);
    if let Some(location) = given {
        let content =
            index.map(|index| offers.entry(report.describe(&location)).finish(Part::NodeIndex(index)));
        offers.add("nodeIndex".into(), "setting", &location, content);
    }
    if let Some(given) = at_most_one(underlays, report) {
        underlay::underlay(&given, index, config, &mut offers, report);
    }
    let passthrough = at_most_one(passthroughs, report);
    raw.sort_by_key(|entry| entry.priority.as_ref().map_or(0, |priority| priority.get()));
    limit_raw(&mut raw, report);
    for entry in raw {
        let source = report.describe(&entry.location);
        let content = offers
            .entry(source.clone())
            .finish(Part::Raw(RawLines { source, text: entry.value.text.value.0 }));
        offers.add(RAW.into(), "rawFRRConfig", &entry.location, Some(content));
    }
    limit_vnis(&mut l3vnis, &mut l2vnis, report);
    let Some(index) = index else {
        reject_all(&l3vnis, &l2vnis, passthrough.as_ref(), "needs nodeIndex, which is invalid", report);
        return offers;
    };
    if config.settings.netns.as_deref().is_none() {
        let reason = "needs a separate namespace, which NETNS=host does not provide";
        reject_all(&l3vnis, &l2vnis, passthrough.as_ref(), reason, report);
        return offers;
    }
    l3vnis.iter().for_each(|entry| vnis::l3(entry, index, config, &mut offers, report));
    l2vnis.iter().for_each(|entry| vnis::l2(entry, &mut offers, report));
    passthrough.iter().for_each(|entry| vnis::passthrough(entry, index, config, &mut offers, report));
    offers
}

/// The node's number: from the file, or else from the environment. `None` if it is invalid or ambiguous.
fn resolve_node_index(
    given: Vec<Located<read::MaybeInvalid<entries::NodeIndexEntry>>>,
    config: &Config,
    report: &mut Report<'_>,
) -> Option<u32> {
    let count = given.len();
    let Some(given) = at_most_one(given, report) else { return Some(config.settings.node_index.get()) };
    let index = &given.value.0.as_ref().filter(|_| count == 1)?.index;
    // 0 is the default of the environment.
    if config.settings.node_index.get() != 0 && config.settings.node_index.get() != index.get() {
        report.add(
            &index.location,
            format_args!("differs from NODE_INDEX={}", config.settings.node_index.get()),
        );
        return None;
    }
    Some(index.get())
}

/// The first of the entries that may be set only once. Reports the others.
fn at_most_one<T>(given: Vec<Located<T>>, report: &mut Report<'_>) -> Option<Located<T>> {
    let mut given = given.into_iter();
    let first = given.next()?;
    for other in given {
        let first = report.describe(&first.location);
        let location = Location { value_text: None, ..other.location };
        report.add(
            &location,
            format_args!("is allowed only once and is already set at {first}: this one is left out"),
        );
    }
    Some(first)
}

/// Leaves out the VNIs above the limit.
fn limit_vnis(
    l3vnis: &mut Vec<Located<L3VniEntry>>,
    l2vnis: &mut Vec<Located<L2VniEntry>>,
    report: &mut Report<'_>,
) {
    let first = l3vnis
        .get(MAX_VNIS)
        .map(|entry| entry.location.clone())
        .or_else(|| l2vnis.get(MAX_VNIS.saturating_sub(l3vnis.len())).map(|entry| entry.location.clone()));
    let Some(first) = first else { return };
    report.add(
        &first,
        format_args!("too many VNIs (allowed: at most {MAX_VNIS}): this and the following are left out"),
    );
    l3vnis.truncate(MAX_VNIS);
    l2vnis.truncate(MAX_VNIS - l3vnis.len());
}

/// The most raw lines. Without VNIs, frr.conf has a few hundred lines.
const MAX_RAW_LINES: usize = 20_000;

/// Leaves out the raw lines above the limit.
fn limit_raw(raw: &mut Vec<Located<entries::RawConfigEntry>>, report: &mut Report<'_>) {
    let mut lines = 0;
    let too_many = raw.iter().position(|entry| {
        lines += entry.text.0.lines().count();
        lines > MAX_RAW_LINES
    });
    let Some(first) = too_many else { return };
    report.add(
        &raw[first].location,
        format_args!("too many raw lines (allowed: at most {MAX_RAW_LINES} in all): this and the following are left out"),
    );
    raw.truncate(first);
}

/// Reports once why all of these entries are left out.
fn reject_all(
    l3vnis: &[Located<L3VniEntry>],
    l2vnis: &[Located<L2VniEntry>],
    passthrough: Option<&Located<PassthroughEntry>>,
    reason: &str,
    report: &mut Report<'_>,
) {
    let locations =
        l3vnis.iter().map(|entry| &entry.location).chain(l2vnis.iter().map(|entry| &entry.location));
    let mut locations = locations.chain(passthrough.map(|entry| &entry.location));
    let Some(first) = locations.next() else { return };
    let whole = match locations.count() {
        0 => "this entry is left out".into(),
        n => format!("this entry and {n} more that need it are left out"),
    };
    report.add(first, format_args!("{reason}: {whole}"));
}

#[cfg(test)]
mod tests;
