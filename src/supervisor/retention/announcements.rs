//! Checks whether bgpd announces the services to the leaves: each check covers a few services, and all of them after
//! the result for one has changed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::learner::{CHUNK, PAUSE};
use crate::frr::retained::{self, RetainedRouters, Services, Unannounced};
use crate::frr::vty::Query;

/// Interval between two checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);

/// Services per check; a typical node has fewer.
const PER_CHECK: usize = 8;

/// Most services that are listed as unannounced.
const MAX_LISTED: usize = 1000;

/// The checks and their results.
#[derive(Debug)]
pub(super) struct AnnouncementCheck {
    unannounced: BTreeMap<IpNet, Unannounced>,
    /// Last prefix of the last check.
    last_prefix: Option<IpNet>,
    /// Services left to check in a check of all services.
    remaining: usize,
    query: Option<(Query, Vec<IpNet>)>,
    /// The query is part of a check of all services.
    is_full_check: bool,
    next_at: Instant,
}

impl AnnouncementCheck {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            unannounced: BTreeMap::new(),
            last_prefix: None,
            remaining: 0,
            query: None,
            is_full_check: false,
            next_at: now + CHECK_INTERVAL,
        }
    }

    /// The services that are announced to no leaf, with the reasons.
    pub(super) fn unannounced(&self) -> &BTreeMap<IpNet, Unannounced> {
        &self.unannounced
    }

    pub(super) fn is_querying(&self) -> bool {
        self.query.is_some()
    }

    /// The query to poll: that of a check of all services.
    pub(super) fn query(&self) -> Option<&Query> {
        self.query.as_ref().filter(|_| self.is_full_check || self.remaining > 0).map(|(query, _)| query)
    }

    /// When to continue a check of all services. Other checks start when a liveness check wakes the loop anyway, and
    /// their replies are collected together with those to that check.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.query.is_none() && self.remaining > 0).then_some(self.next_at)
    }

    /// The services have changed: checks them at once.
    pub(super) fn check_now(&mut self, now: Instant) {
        self.next_at = now;
        self.remaining = self.remaining.max(1);
    }

    /// Forgets the results: without bgpd or a speaker there are none. Returns whether a service was listed.
    pub(super) fn reset(&mut self, now: Instant) -> bool {
        (self.query, self.last_prefix, self.remaining, self.next_at) = (None, None, 0, now + CHECK_INTERVAL);
        !std::mem::take(&mut self.unannounced).is_empty()
    }

    /// Does the next step. Returns whether the list has changed, and the services that are not in the default instance.
    pub(super) fn step(&mut self, socket: &Path, known: &Services, now: Instant) -> (bool, Vec<IpNet>) {
        let (mut changed, mut absent) = (false, vec![]);
        if let Some((Ok(replies), queried)) = Query::take_ended_with(&mut self.query) {
            let before = self.unannounced.clone();
            self.unannounced.retain(|prefix, _| known.get(prefix).is_some());
            for (prefix, reply) in queried.into_iter().zip(replies) {
                let unannounced = known.get(&prefix).and_then(|a| retained::unannounced(&reply.text, a));
                absent.extend((unannounced == Some(Unannounced::NotImported)).then_some(prefix));
                match unannounced {
                    Some(why) if self.unannounced.len() < MAX_LISTED => {
                        self.unannounced.extend([(prefix, why)])
                    }
                    Some(_) => {}
                    None => self.unannounced.retain(|other, _| *other != prefix),
                }
            }
            changed = self.unannounced != before;
            // A change of one service may concern all of them.
            if changed && self.remaining == 0 {
                self.remaining = known.len();
            }
            if self.remaining > 0 {
                self.next_at = now + PAUSE;
            }
        }
        if self.query.is_none() && self.next_at <= now && !known.is_empty() {
            self.next_at = now + CHECK_INTERVAL;
            self.is_full_check = self.remaining > 0;
            let count = if self.is_full_check { CHUNK } else { PER_CHECK };
            let mut queried = known.after(self.last_prefix, count);
            self.last_prefix = queried.last().copied().filter(|_| queried.len() == count);
            self.remaining = self.remaining.saturating_sub(queried.len().max(1));
            // Services that are listed already are part of each check.
            let again: Vec<IpNet> =
                self.unannounced.keys().take(PER_CHECK).filter(|p| !queried.contains(p)).copied().collect();
            queried.extend(again);
            let commands = queried.iter().map(RetainedRouters::advertised_command);
            self.query = Query::show(socket, commands).ok().map(|query| (query, queried));
        }
        (changed, absent)
    }
}
