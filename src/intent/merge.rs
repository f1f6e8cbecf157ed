//! Offers of all sources → the ones that make up the intent, and a verdict for each. Pure.
//!
//! Sources are merged one after the other, in the order of their precedence: what a source gets depends on no source
//! after it. Within a source, what was accepted before keeps its place, except for its own change. New and changed
//! objects are accepted together, as far as what they need is there and they conflict neither with what stays nor, in
//! their order, with each other. So two objects may exchange a resource. An object is accepted whole or not at all; a
//! changed one that is not accepted keeps its last accepted version.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::claim::{Key, Need, Uses};
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

/// Merges the offers of all sources. `accepted` is the result of the last merge. An object without an offer is gone; for
/// a source that is lost, the caller offers what it had.
pub fn merge<F>(offers: &[Offer<F>], accepted: &Accepted<F>) -> Merged<F> {
    let mut order: Vec<usize> = (0..offers.len()).collect();
    order.sort_by_key(|&i| (offers[i].id.source, offers[i].position(), &offers[i].id));
    let mut merge = Merge {
        offers,
        taken: offers.iter().map(|_| None).collect(),
        uses: Uses::default(),
        counts: Counts::default(),
    };
    let mut refused = vec![];
    for source in order.chunk_by(|&a, &b| offers[a].id.source == offers[b].id.source) {
        merge.take_earlier(source, accepted);
        let mut open = source.to_vec();
        loop {
            let selected = merge.select(&open);
            if selected.is_empty() {
                break;
            }
            // First all of them give up what they had.
            selected.iter().for_each(|&i| merge.release(i));
            for &i in &selected {
                if let Ok(content) = &offers[i].content {
                    merge.take(i, content);
                }
            }
            open.retain(|i| !merge.is_taken(*i));
        }
        refused.extend(open);
    }
    let mut verdicts = vec![Verdict::Accepted; offers.len()];
    for i in refused {
        verdicts[i] = merge.refusal(i);
    }
    let taken = offers.iter().zip(&merge.taken);
    let accepted = taken.filter_map(|(offer, content)| Some((offer.id.clone(), Arc::clone((*content)?))));
    Merged { verdicts, accepted: accepted.collect() }
}

struct Merge<'a, F> {
    offers: &'a [Offer<F>],
    /// What is accepted of each offer.
    taken: Vec<Option<&'a Arc<Content<F>>>>,
    uses: Uses<'a>,
    /// What the accepted objects provide and need.
    counts: Counts<'a>,
}

/// How many objects provide and need a key.
#[derive(Clone, Default)]
struct Counts<'a> {
    provided: HashMap<&'a Key, usize>,
    needed: HashMap<&'a Key, usize>,
}

impl<'a> Counts<'a> {
    fn add<F>(&mut self, content: &'a Content<F>) {
        content.provides.iter().for_each(|key| *self.provided.entry(key).or_default() += 1);
        content.needs.iter().for_each(|need| *self.needed.entry(&need.key).or_default() += 1);
    }

    fn remove<F>(&mut self, content: &'a Content<F>) {
        content.provides.iter().for_each(|key| *self.provided.entry(key).or_default() -= 1);
        content.needs.iter().for_each(|need| *self.needed.entry(&need.key).or_default() -= 1);
    }

    fn is_provided(&self, key: &Key) -> bool {
        self.provided.get(key).is_some_and(|count| *count > 0)
    }

    /// Whether an object needs the key and none provides it.
    fn is_missing(&self, key: &Key) -> bool {
        self.needed.get(key).is_some_and(|count| *count > 0) && !self.is_provided(key)
    }

    /// What `content` needs and nobody provides.
    fn missing<'c, F>(&self, content: &'c Content<F>) -> impl Iterator<Item = &'c Need> {
        content.needs.iter().filter(|need| !self.is_provided(&need.key))
    }
}

impl<'a, F> Merge<'a, F> {
    /// Takes the accepted versions that still fit: what they conflict with is another source's, and what they need may be
    /// gone.
    fn take_earlier(&mut self, source: &[usize], accepted: &'a Accepted<F>) {
        let earlier = source.iter().filter_map(|&i| Some((i, accepted.get(&self.offers[i].id)?)));
        let mut open: Vec<_> = earlier.collect();
        loop {
            let before = open.len();
            open.retain(|(i, content)| {
                let fits = self.counts.missing(content).next().is_none()
                    && self.uses.rival(*i, content, &|_| false).is_none();
                if fits {
                    self.take(*i, content);
                }
                !fits
            });
            if open.len() == before {
                return;
            }
        }
    }

    /// The objects of `open` that are accepted together, in the same order.
    fn select(&self, open: &[usize]) -> Vec<usize> {
        let mut candidates: Vec<usize> =
            open.iter().copied().filter(|&i| self.offers[i].content.is_ok()).collect();
        loop {
            let mut selected = candidates.clone();
            self.keep_fitting(&mut selected);
            let mut fresh = Uses::default();
            let mut without = selected.clone();
            without.retain(|&i| {
                let Ok(content) = &self.offers[i].content else { return false };
                let fits = fresh.rival(i, content, &|_| false).is_none();
                if fits {
                    fresh.add(i, content);
                }
                fits
            });
            let before = without.clone();
            self.keep_fitting(&mut without);
            if without.len() == before.len() {
                return without;
            }
            // What an object has lost to another one that is not accepted either is not lost.
            candidates.retain(|i| !before.contains(i) || without.contains(i));
        }
    }

    /// Removes from `selected` what does not fit what stays: the accepted versions of all other objects.
    fn keep_fitting(&self, selected: &mut Vec<usize>) {
        loop {
            let mut is_selected = vec![false; self.offers.len()];
            selected.iter().for_each(|&i| is_selected[i] = true);
            let counts = self.counts_with(selected);
            let before = selected.len();
            selected.retain(|&i| {
                let Ok(content) = &self.offers[i].content else { return false };
                counts.missing(content).next().is_none()
                    && self.uses.rival(i, content, &|owner| is_selected[owner]).is_none()
                    && !self.taken[i]
                        .is_some_and(|earlier| earlier.provides.iter().any(|key| counts.is_missing(key)))
            });
            if selected.len() == before {
                return;
            }
        }
    }

    /// What is provided and needed if these objects are accepted.
    fn counts_with(&self, selected: &[usize]) -> Counts<'a> {
        let mut counts = self.counts.clone();
        for &i in selected {
            self.taken[i].iter().for_each(|earlier| counts.remove(earlier));
            self.offers[i].content.iter().for_each(|content| counts.add(content));
        }
        counts
    }

    fn take(&mut self, i: usize, content: &'a Arc<Content<F>>) {
        self.taken[i] = Some(content);
        self.uses.add(i, content);
        self.counts.add(content);
    }

    fn release(&mut self, i: usize) {
        let Some(earlier) = self.taken[i].take() else { return };
        self.uses.remove(i, earlier);
        self.counts.remove(earlier);
    }

    /// Whether the present version of an offer is accepted.
    fn is_taken(&self, i: usize) -> bool {
        matches!((&self.offers[i].content, self.taken[i]), (Ok(content), Some(taken)) if Arc::ptr_eq(content, taken))
    }

    /// The verdict for an offer that was not accepted.
    fn refusal(&self, i: usize) -> Verdict {
        let (is_waiting, reasons) = match &self.offers[i].content {
            Err(reasons) => (false, reasons.clone()),
            Ok(content) => self.obstacles(i, content),
        };
        match self.taken[i] {
            Some(_) => Verdict::Kept(reasons),
            None if is_waiting => Verdict::Waiting(reasons),
            None => Verdict::Rejected(reasons),
        }
    }

    /// Why this version cannot be accepted, and whether only what it needs is missing.
    fn obstacles(&self, i: usize, content: &Content<F>) -> (bool, Vec<Reason>) {
        let reason = |need: &Need| Reason { origin: Some(need.origin.clone()), text: need.key.missing() };
        let missing: Vec<Reason> = self.counts.missing(content).map(reason).collect();
        if !missing.is_empty() {
            return (true, missing);
        }
        let name = |owner: usize| {
            let offer = &self.offers[owner];
            (!self.is_taken(owner)).then(|| format!("{}, as it was accepted before", offer.id.name))
        };
        let mut reasons = self.uses.conflicts(i, content, &name);
        let with = self.counts_with(&[i]);
        let earlier = self.taken[i].into_iter().flat_map(|earlier| &earlier.provides);
        let lost = earlier.filter(|key| with.is_missing(key));
        reasons.extend(
            lost.map(|key| Reason { origin: None, text: format!("another object {}", key.missing()) }),
        );
        if reasons.is_empty() {
            reasons.push(Reason { origin: None, text: "conflicts with other changes".into() });
        }
        (false, reasons)
    }
}
