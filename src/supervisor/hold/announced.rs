//! Whether the leaves are told of the services: a few of them are looked for in each round, and all of them when one is
//! missing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::learn::{CHUNK, PAUSE};
use crate::frr::held::{self, Place, Services, Unannounced};
use crate::frr::vty::Talk;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(3);

/// Looked for in each round; all of a usual node's are.
const FEW: usize = 8;

/// So many are named at most.
const MOST: usize = 1000;

/// The looks, and what they have found.
#[derive(Debug)]
pub(super) struct Announced {
    missing: BTreeMap<IpNet, Unannounced>,
    /// Where the last look ended.
    last: Option<IpNet>,
    /// How many are left of a look at all of them.
    rest: usize,
    talk: Option<(Talk, Vec<IpNet>)>,
    next_at: Instant,
}

impl Announced {
    pub(super) fn new(now: Instant) -> Self {
        Self { missing: BTreeMap::new(), last: None, rest: 0, talk: None, next_at: now + EVERY }
    }

    /// Those that no leaf is told of, and why.
    pub(super) fn missing(&self) -> &BTreeMap<IpNet, Unannounced> {
        &self.missing
    }

    pub(super) fn talk(&self) -> Option<&Talk> {
        self.talk.as_ref().map(|(talk, _)| talk)
    }

    /// When to go on; a look begins when a round of questions wakes us anyway.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.talk.is_none() && self.rest > 0).then_some(self.next_at)
    }

    /// The services have changed: looks at them at once.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next_at = now;
        self.rest = self.rest.max(1);
    }

    /// Nothing can be told at the moment. Whether something was missing.
    pub(super) fn forget(&mut self, now: Instant) -> bool {
        (self.talk, self.last, self.rest, self.next_at) = (None, None, 0, now + EVERY);
        !std::mem::take(&mut self.missing).is_empty()
    }

    /// Goes on with it. Whether something else is missing now, and which the default instance does not have.
    pub(super) fn step(&mut self, socket: &Path, known: &Services, now: Instant) -> (bool, Vec<IpNet>) {
        let (mut changed, mut absent) = (false, vec![]);
        match self.talk.as_mut().map(|(talk, _)| talk.receive()) {
            Some(Ok(Some(answers))) => {
                let asked = self.talk.take().map(|(_, asked)| asked).unwrap_or_default();
                let before = self.missing.clone();
                self.missing.retain(|prefix, _| known.get(prefix).is_some());
                for (prefix, answer) in asked.into_iter().zip(answers) {
                    let missing = known.get(&prefix).and_then(|a| held::unannounced(&answer.text, a));
                    absent.extend((missing == Some(Unannounced::NotImported)).then_some(prefix));
                    match missing {
                        Some(why) if self.missing.len() < MOST => self.missing.extend([(prefix, why)]),
                        Some(_) => {}
                        None => self.missing.retain(|other, _| *other != prefix),
                    }
                }
                changed = self.missing != before;
                // What has come or gone of one may have of all.
                if changed && self.rest == 0 {
                    self.rest = known.len();
                }
                self.next_at = now + if self.rest > 0 { PAUSE } else { EVERY };
            }
            Some(Err(_)) => self.talk = None,
            Some(Ok(None)) | None => {}
        }
        if self.talk.is_none() && self.next_at <= now && !known.is_empty() {
            self.next_at = now + EVERY;
            let count = if self.rest > 0 { CHUNK } else { FEW };
            let mut asked = known.after(self.last, count);
            self.last = asked.last().copied().filter(|_| asked.len() == count);
            self.rest = self.rest.saturating_sub(asked.len().max(1));
            // What was missing is looked for each time.
            let again: Vec<IpNet> =
                self.missing.keys().take(FEW).filter(|p| !asked.contains(p)).copied().collect();
            asked.extend(again);
            let questions = asked.iter().map(Place::announced_question);
            self.talk = Talk::show(socket, questions).ok().map(|talk| (talk, asked));
        }
        (changed, absent)
    }
}
