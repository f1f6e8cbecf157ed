//! Learns from bgpd what the speaker announces, in replies of a bounded size.
//!
//! bgpd numbers the changes of its tables and can report the changes since a number. If there are many changes (a
//! speaker with thousands of services has just connected), the services are queried one by one, by the prefixes of the
//! kernel's routes: no other prefix is ever retained.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::frr::retained::{self, RetainedRouters, Services, Summary, TableVersions};
use crate::frr::vty::{Query, Reply};

/// Prefixes per query; a reply takes bgpd some 50 µs and has 1 to 4 kB.
pub(super) const CHUNK: usize = 32;

/// Pause between two queries: they use at most a tenth of bgpd's time.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// Most changes that are queried together.
const MAX_CHANGES: u64 = 256;

/// Interval between two reads of the kernel's prefixes; it doubles with each read that finds nothing new.
const FIRST_READ_INTERVAL: Duration = Duration::from_secs(6);
const MAX_READ_INTERVAL: Duration = Duration::from_secs(600);

/// The state of learning the services.
#[derive(Debug)]
pub(super) struct Learner {
    routers: RetainedRouters,
    /// The last summary of bgpd.
    summary: Option<Summary>,
    /// The table versions up to which all changes are known.
    known_versions: TableVersions,
    /// Prefixes to query.
    queue: VecDeque<IpNet>,
    query: Option<(Query, LearnQuery)>,
    next_query_at: Instant,
    /// The kernel's prefixes that are needed.
    needed: Option<NeededPrefixes>,
    next_read_at: Instant,
    read_interval: Duration,
    /// The known services have changed since they were stored.
    changed: bool,
}

#[derive(Debug)]
enum LearnQuery {
    Changes(TableVersions),
    Prefixes(Vec<IpNet>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NeededPrefixes {
    All,
    Unknown,
}

impl Learner {
    pub(super) fn new(routers: RetainedRouters, now: Instant) -> Self {
        Self {
            routers,
            summary: None,
            known_versions: TableVersions::default(),
            queue: VecDeque::new(),
            query: None,
            next_query_at: now,
            needed: None,
            next_read_at: now,
            read_interval: FIRST_READ_INTERVAL,
            changed: false,
        }
    }

    /// bgpd has exited; the next one numbers its changes from the beginning.
    pub(super) fn bgpd_exited(&mut self, now: Instant) {
        (self.summary, self.query, self.needed) = (None, None, None);
        self.known_versions = TableVersions::default();
        self.queue.clear();
        (self.next_read_at, self.read_interval) = (now, FIRST_READ_INTERVAL);
    }

    /// The number of prefixes that the speaker has announced, used or not.
    pub(super) fn received(&self) -> usize {
        self.summary.map_or(0, |summary| summary.received)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.query.is_none() && self.queue.is_empty() && self.needed.is_none()
    }

    /// Processes a summary. Returns whether it has changed.
    pub(super) fn take_summary(
        &mut self,
        summary: Summary,
        socket: &Path,
        known: &Services,
        is_retaining: bool,
        now: Instant,
    ) -> bool {
        let new = self.summary != Some(summary);
        self.summary = Some(summary);
        if !self.is_idle() {
            return new;
        }
        let changes = summary.versions.changes_since(self.known_versions);
        match changes {
            Some(0) if known.len() == summary.received => {}
            // A retained service that is not announced again yet stays known.
            Some(0) if is_retaining && known.len() > summary.received => {}
            Some(0) if self.next_read_at <= now => self.needed = Some(NeededPrefixes::Unknown),
            Some(0) => {}
            Some(n) if n <= MAX_CHANGES => {
                let query = Query::show(socket, self.routers.changes_commands(self.known_versions)).ok();
                self.query = query.map(|query| (query, LearnQuery::Changes(summary.versions)));
            }
            _ => self.needed = Some(NeededPrefixes::All),
        }
        new
    }

    /// Whether the kernel's prefixes are needed.
    pub(super) fn is_waiting_for_prefixes(&self) -> bool {
        self.needed.is_some()
    }

    /// Processes the kernel's prefixes; forgets a service without a route in the kernel, unless services are retained.
    pub(super) fn take_prefixes(
        &mut self,
        prefixes: BTreeSet<IpNet>,
        known: &mut Services,
        is_retaining: bool,
        now: Instant,
    ) {
        let Some((needed, summary)) = self.needed.take().zip(self.summary) else { return };
        let mut new = !is_retaining && known.retain(|prefix, _| prefixes.contains(prefix));
        self.changed |= new;
        let unknown = |prefix: &IpNet| needed == NeededPrefixes::All || known.get(prefix).is_none();
        self.queue = prefixes.into_iter().filter(unknown).collect();
        if needed == NeededPrefixes::All {
            self.known_versions = summary.versions;
        }
        new |= !self.queue.is_empty();
        self.read_interval =
            if new { FIRST_READ_INTERVAL } else { (2 * self.read_interval).min(MAX_READ_INTERVAL) };
        self.next_read_at = now + self.read_interval;
    }

    /// Queries this prefix again: it may have changed.
    pub(super) fn recheck(&mut self, prefix: IpNet) {
        if !self.queue.contains(&prefix) {
            self.queue.push_back(prefix);
        }
    }

    pub(super) fn query(&self) -> Option<&Query> {
        self.query.as_ref().map(|(query, _)| query)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.query.is_none() && !self.queue.is_empty()).then_some(self.next_query_at)
    }

    /// Does the next step. Returns whether the known services have changed and must be stored.
    pub(super) fn step(
        &mut self,
        socket: &Path,
        known: &mut Services,
        is_retaining: bool,
        now: Instant,
    ) -> bool {
        match Query::take_ended_with(&mut self.query) {
            Some((Ok(replies), queried)) => {
                self.process_replies(queried, &replies, known, is_retaining);
                self.next_query_at = now + PAUSE;
            }
            // The next summary starts the learning again.
            Some((Err(_), _)) => {
                self.queue.clear();
                self.known_versions = TableVersions::default();
            }
            None => {}
        }
        if self.query.is_none() && !self.queue.is_empty() && self.next_query_at <= now {
            let chunk: Vec<IpNet> = self.queue.drain(..CHUNK.min(self.queue.len())).collect();
            let commands = chunk.iter().map(|prefix| self.routers.path_command(prefix));
            // A bgpd that does not listen is about to be killed.
            self.query = Query::show(socket, commands).ok().map(|query| (query, LearnQuery::Prefixes(chunk)));
        }
        self.is_idle() && std::mem::take(&mut self.changed)
    }

    fn process_replies(
        &mut self,
        queried: LearnQuery,
        replies: &[Reply],
        known: &mut Services,
        is_retaining: bool,
    ) {
        for (prefix, attributes) in replies.iter().flat_map(|reply| retained::services(&reply.text)) {
            self.changed |= match attributes {
                Some(attributes) => known.insert(prefix, attributes),
                None => known.retain(|other, _| *other != prefix),
            };
        }
        match queried {
            LearnQuery::Changes(versions) if replies.iter().all(|reply| reply.success) => {
                self.known_versions = versions
            }
            // This bgpd cannot report the changes.
            LearnQuery::Changes(_) => self.needed = Some(NeededPrefixes::All),
            LearnQuery::Prefixes(prefixes) => {
                let absent =
                    |(_, reply): &(&IpNet, &Reply)| reply.success && retained::is_absent(&reply.text);
                let absent: BTreeSet<&IpNet> =
                    prefixes.iter().zip(replies).filter(absent).map(|(prefix, _)| prefix).collect();
                if !is_retaining && !absent.is_empty() {
                    self.changed |= known.retain(|prefix, _| !absent.contains(prefix));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
