//! The file's entries as offers.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::entries::{MAX_INTERFACES, MAX_NEIGHBORS, MAX_RAW, MAX_VNIS};
use super::report::{Location, Report};
use super::stored::{node_at, to_line};
use super::tree::YamlNode;
use crate::config::{ObjectState, ObjectVerdict};
use crate::intent::{
    Accepted, Claim, Content, Key, Merged, Need, Offer, OfferId, Origin, Part, Reason, SourceKind, Space,
    Verdict,
};

/// The list of raw lines, whose entries have no names.
pub(super) const RAW: &str = "rawFRRConfigs";

/// The offers of the file, in the order of its kinds and entries.
#[derive(Debug)]
pub(super) struct FileOffers<'a> {
    pub offers: Vec<Offer<Part>>,
    /// The trees of the files, each with the file's index.
    trees: &'a [(usize, YamlNode)],
    /// The kind, the location and the text of each offer.
    kinds: Vec<&'static str>,
    entries: Vec<Location>,
    sources: Vec<Arc<str>>,
    places: RefCell<Vec<Location>>,
}

impl<'a> FileOffers<'a> {
    /// No offer yet.
    pub fn new(trees: &'a [(usize, YamlNode)]) -> Self {
        Self {
            offers: vec![],
            trees,
            kinds: vec![],
            entries: vec![],
            sources: vec![],
            places: RefCell::default(),
        }
    }

    /// Begins an entry that others call `object`.
    pub fn entry(&self, object: String) -> EntryDraft<'_> {
        let content = Content::new(Part::Settings);
        EntryDraft { object: object.into(), places: &self.places, content }
    }

    /// Adds the entry at `at`. `name`: what identifies it, if no other entry has the same. `content`: `None` if it is invalid,
    /// which has been reported.
    pub fn add(&mut self, name: String, kind: &'static str, at: &Location, content: Option<Content<Part>>) {
        let tree = self.trees.iter().find(|(file, _)| *file == at.file);
        let node = tree.and_then(|(_, tree)| node_at(tree, &at.path));
        let source: Arc<str> = node.map(to_line).unwrap_or_default().into();
        let position = self.offers.len();
        let content = content.map(|content| Content { position, source: Arc::clone(&source), ..content });
        let id = OfferId { source: SourceKind::File, name: name.into() };
        let invalid = || vec![Reason { origin: None, text: "invalid".into() }];
        self.offers.push(Offer { id, content: content.map(Arc::new).ok_or_else(invalid) });
        self.sources.push(source);
        self.entries.push(at.clone());
        self.kinds.push(kind);
    }

    /// Gives each offer an identity of its own. Of several with one name, and of raw lines, which have none, an unchanged one
    /// keeps the identity that it had.
    pub fn identify(&mut self, accepted: &Accepted<Part>) {
        let mut by_name: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
        for (i, offer) in self.offers.iter().enumerate() {
            by_name.entry(Arc::clone(&offer.id.name)).or_default().push(i);
        }
        for (name, mut open) in by_name {
            let is_list = &*name == RAW;
            if open.len() == 1 && !is_list {
                continue;
            }
            let id = |number: usize| OfferId {
                source: SourceKind::File,
                name: match number {
                    _ if is_list => format!("{name}/{number}").into(),
                    0 => Arc::clone(&name),
                    _ => format!("{name}#{}", number + 1).into(),
                },
            };
            let mut taken = BTreeSet::new();
            let known = (0..).map(id).enumerate().take_while(|(_, id)| accepted.contains_key(id));
            for (number, id) in known {
                let is_same =
                    |i: &usize| accepted.get(&id).is_some_and(|known| known.source == self.sources[*i]);
                if let Some(at) = open.iter().position(is_same) {
                    self.offers[open.remove(at)].id = id;
                    taken.insert(number);
                }
            }
            let free = (0..).filter(|number| !taken.contains(number));
            for (i, number) in open.into_iter().zip(free) {
                self.offers[i].id = id(number);
            }
        }
    }

    /// Refuses new entries beyond a limit that together with the `missing` ones, which stay, are too many.
    pub fn limit(&mut self, missing: &[Offer<Part>], accepted: &Accepted<Part>) {
        let kind = |id: &OfferId| match id.name.split('/').next() {
            Some("l3vnis" | "l2vnis") => Some(("VNIs", MAX_VNIS)),
            Some("underlay.neighbors") => Some(("neighbors", MAX_NEIGHBORS)),
            Some("underlay.interfaces") => Some(("interfaces", MAX_INTERFACES)),
            Some(RAW) => Some((RAW, MAX_RAW)),
            _ => None,
        };
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let known = self.offers.iter().filter(|offer| accepted.contains_key(&offer.id));
        for (name, _) in known.chain(missing).filter_map(|offer| kind(&offer.id)) {
            *counts.entry(name).or_default() += 1;
        }
        for (offer, entry) in self.offers.iter_mut().zip(&self.entries) {
            let Some((name, limit)) = kind(&offer.id).filter(|_| !accepted.contains_key(&offer.id)) else {
                continue;
            };
            let count = counts.entry(name).or_default();
            *count += 1;
            if *count > limit {
                let mut places = self.places.borrow_mut();
                places.push(entry.clone());
                let origin = Origin { object: "".into(), location: Some(places.len() - 1) };
                let text =
                    format!("too many {name} together with those that stay (allowed: at most {limit})");
                offer.content = Err(vec![Reason { origin: Some(origin), text }]);
            }
        }
    }

    /// Reports why offers were not accepted. `merged`: the result of a merge of these offers after `skipped` others. Returns
    /// what became of each.
    pub fn report(
        &self,
        merged: &Merged<Part>,
        skipped: usize,
        report: &mut Report<'_>,
    ) -> Vec<ObjectVerdict> {
        let places = self.places.borrow();
        let location = |reason: &Reason| places.get(reason.origin.as_ref()?.location?).cloned();
        let refused = || self.kinds.iter().zip(&merged.verdicts[skipped..]);
        let waiting_for = |text: &str| {
            let waiting = refused().filter(|(_, verdict)| matches!(verdict, Verdict::Waiting(_)));
            waiting.filter(|(_, verdict)| verdict.reasons().iter().any(|reason| reason.text == text)).count()
        };
        let mut reported: BTreeSet<&str> = BTreeSet::new();
        for ((kind, verdict), entry) in refused().zip(&self.entries) {
            if let Verdict::Kept(_) = verdict {
                // Its own errors were reported before that was known.
                report.replace_end(entry, &left_out(kind), &kept(kind));
            }
            let mut positions = vec![];
            for reason in verdict.reasons() {
                let Some(location) = location(reason) else { continue };
                // An l3vni's name is that of its VRF if the entry has none: one reason is enough.
                if positions.contains(&location.position) {
                    continue;
                }
                positions.push(location.position);
                let text = &reason.text;
                let end = match verdict {
                    Verdict::Kept(_) => kept(kind),
                    _ => left_out(kind),
                };
                match verdict {
                    // Many entries may need one that is missing.
                    Verdict::Waiting(_) if !reported.insert(text) => {}
                    Verdict::Waiting(_) => match waiting_for(text) - 1 {
                        0 => report.add(&location, format_args!("{text}: {end}")),
                        more => report.add(
                            &location,
                            format_args!(
                                "{text}: this {kind} and {more} more entries that need it are left out"
                            ),
                        ),
                    },
                    _ => report.add(&location, format_args!("{text}: {end}")),
                }
            }
        }
        let all = self.offers.iter().zip(&merged.verdicts[skipped..]).zip(&self.entries);
        all.map(|((offer, verdict), entry)| ObjectVerdict {
            source: offer.id.source,
            name: Arc::clone(&offer.id.name),
            state: match verdict {
                Verdict::Accepted => ObjectState::Accepted,
                Verdict::Kept(_) => ObjectState::Kept,
                Verdict::Waiting(_) => ObjectState::Waiting,
                Verdict::Rejected(_) => ObjectState::Rejected,
            },
            reasons: match verdict {
                Verdict::Accepted => vec![],
                _ => report.sentences(entry),
            },
        })
        .collect()
    }
}

/// What becomes of an entry that is not accepted.
pub(super) fn left_out(kind: &str) -> String {
    format!("this {kind} is left out")
}

/// What becomes of a changed entry that is not accepted.
fn kept(kind: &str) -> String {
    format!("this {kind} keeps its last accepted version")
}

/// An entry that is being read.
#[derive(Debug)]
pub(super) struct EntryDraft<'a> {
    object: Arc<str>,
    places: &'a RefCell<Vec<Location>>,
    content: Content<Part>,
}

impl EntryDraft<'_> {
    fn origin(&self, at: &Location) -> Origin {
        let mut places = self.places.borrow_mut();
        places.push(at.clone());
        Origin { object: Arc::clone(&self.object), location: Some(places.len() - 1) }
    }

    /// Nobody else may use the key.
    pub fn claim(&mut self, key: Key, at: &Location) {
        let origin = self.origin(at);
        self.content.claims.push(Claim { key, value: None, origin });
    }

    /// Others may use the key with the same value.
    pub fn share(&mut self, key: Key, value: &str, at: &Location) {
        let origin = self.origin(at);
        self.content.claims.push(Claim { key, value: Some(value.into()), origin });
    }

    /// Nobody else may use the subnet.
    pub fn subnet(&mut self, space: Space, net: IpNet, at: &Location) {
        let origin = self.origin(at);
        self.content.subnets.push((space, net, origin));
    }

    /// Another entry must provide the key.
    pub fn need(&mut self, key: Key, at: &Location) {
        let origin = self.origin(at);
        self.content.needs.push(Need { key, origin });
    }

    /// Other entries may need the key.
    pub fn provide(&mut self, key: Key) {
        self.content.provides.push(key);
    }

    /// Ends the entry.
    pub fn finish(self, part: Part) -> Content<Part> {
        Content { fragment: part, ..self.content }
    }
}
