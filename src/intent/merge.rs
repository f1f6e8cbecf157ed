//! Offers of all sources → the ones that make up the intent, and a verdict for each. Pure.
//!
//! Sources are merged one after the other, in the order of their precedence: what a source gets depends on no source
//! after it. Within a source, what was accepted before keeps its place. Then each new or changed object is accepted if
//! what it needs is there, and if it conflicts with nothing that was accepted. This is repeated until nothing changes.
//! An object is accepted whole or not at all; a changed one that is not accepted keeps its last accepted version.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::claim::{Key, Uses};
use super::offer::{Content, Offer, OfferId, Reason, Verdict};

/// The accepted version of each object.
pub type Accepted<F> = BTreeMap<OfferId, Arc<Content<F>>>;

/// The result of a merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged<F> {
    /// The verdict for each offer, in the order of the offers.
    pub verdicts: Vec<Verdict>,
    /// What makes up the intent.
    pub accepted: Accepted<F>,
}

struct Merge<'a, F> {
    /// What is accepted of each offer.
    taken: Vec<Option<&'a Arc<Content<F>>>>,
    uses: Uses<'a>,
    /// How many of the accepted objects provide and need a key.
    provided: HashMap<&'a Key, usize>,
    needed: HashMap<&'a Key, usize>,
}

/// Merges the offers of all sources. `accepted` is the result of the last merge. An object without an offer is gone; for
/// a source that is lost, the caller offers what it had.
pub fn merge<F>(offers: &[Offer<F>], accepted: &Accepted<F>) -> Merged<F> {
    let mut order: Vec<usize> = (0..offers.len()).collect();
    order.sort_by_key(|&i| (offers[i].id.source, offers[i].position(), &offers[i].id));
    let mut merge = Merge {
        taken: offers.iter().map(|_| None).collect(),
        uses: Uses::default(),
        provided: HashMap::new(),
        needed: HashMap::new(),
    };
    let mut reasons: Vec<(bool, Vec<Reason>)> = offers.iter().map(|_| (false, vec![])).collect();
    for source in order.chunk_by(|&a, &b| offers[a].id.source == offers[b].id.source) {
        let earlier = source.iter().filter_map(|&i| Some((i, accepted.get(&offers[i].id)?)));
        let mut open: Vec<_> = earlier.collect();
        // What one needs may come later in the order, or be gone.
        loop {
            let before = open.len();
            open.retain(|(i, content)| !merge.try_take(*i, content));
            if open.len() == before {
                break;
            }
        }
        let mut open = source.to_vec();
        loop {
            let before = open.len();
            open.retain(|&i| match &offers[i].content {
                Ok(content) => {
                    let (is_waiting, why) = merge.obstacles(i, content);
                    let fits = why.is_empty();
                    if fits {
                        merge.take(i, content);
                    }
                    reasons[i] = (is_waiting, why);
                    !fits
                }
                Err(why) => {
                    reasons[i] = (false, why.clone());
                    true
                }
            });
            if open.len() == before {
                break;
            }
        }
    }
    let verdict = |i: usize, (is_waiting, reasons): (bool, Vec<Reason>)| match merge.taken[i] {
        Some(_) if reasons.is_empty() => Verdict::Accepted,
        Some(_) => Verdict::Kept(reasons),
        None if is_waiting => Verdict::Waiting(reasons),
        None => Verdict::Rejected(reasons),
    };
    let verdicts = reasons.into_iter().enumerate().map(|(i, why)| verdict(i, why)).collect();
    let taken = offers.iter().zip(&merge.taken);
    let accepted = taken.filter_map(|(offer, content)| Some((offer.id.clone(), Arc::clone((*content)?))));
    Merged { verdicts, accepted: accepted.collect() }
}

impl<'a, F> Merge<'a, F> {
    fn try_take(&mut self, i: usize, content: &'a Arc<Content<F>>) -> bool {
        let fits = self.obstacles(i, content).1.is_empty();
        if fits {
            self.take(i, content);
        }
        fits
    }

    /// Why this version cannot be accepted, and whether only what it needs is missing.
    fn obstacles(&self, i: usize, content: &Content<F>) -> (bool, Vec<Reason>) {
        let count = |counts: &HashMap<&Key, usize>, key: &Key| counts.get(key).copied().unwrap_or(0);
        let missing = content.needs.iter().filter(|need| count(&self.provided, &need.key) == 0);
        let missing: Vec<Reason> = missing
            .map(|need| Reason { origin: Some(need.origin.clone()), text: need.key.missing() })
            .collect();
        if !missing.is_empty() {
            return (true, missing);
        }
        let mut conflicts = self.uses.conflicts(i, &content.claims, &content.subnets);
        if let Some(before) = self.taken[i] {
            let lost = before.provides.iter().filter(|key| {
                !content.provides.contains(key)
                    && count(&self.provided, key) == 1
                    && count(&self.needed, key) > 0
            });
            conflicts.extend(
                lost.map(|key| Reason { origin: None, text: format!("another object {}", key.missing()) }),
            );
        }
        (false, conflicts)
    }

    /// Accepts this version in place of the one before.
    fn take(&mut self, i: usize, content: &'a Arc<Content<F>>) {
        if let Some(before) = self.taken[i].replace(content) {
            self.uses.remove(i, &before.claims, &before.subnets);
            before.provides.iter().for_each(|key| *self.provided.entry(key).or_default() -= 1);
            before.needs.iter().for_each(|need| *self.needed.entry(&need.key).or_default() -= 1);
        }
        self.uses.add(i, &content.claims, &content.subnets);
        content.provides.iter().for_each(|key| *self.provided.entry(key).or_default() += 1);
        content.needs.iter().for_each(|need| *self.needed.entry(&need.key).or_default() += 1);
    }
}
