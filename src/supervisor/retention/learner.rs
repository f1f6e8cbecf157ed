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
        match self.query.as_mut().map(|(query, _)| query.poll_replies()) {
            Some(Ok(Some(replies))) => {
                if let Some((_, queried)) = self.query.take() {
                    self.process_replies(queried, &replies, known, is_retaining);
                    self.next_query_at = now + PAUSE;
                }
            }
            // The next summary starts the learning again.
            Some(Err(_)) => {
                self.query = None;
                self.queue.clear();
                self.known_versions = TableVersions::default();
            }
            Some(Ok(None)) | None => {}
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
mod tests {
    use super::*;
    use crate::model::{Asn, Value as _, VrfName};

    fn summary(version: u64, received: usize) -> Summary {
        let text = format!(
            r#"{{"ipv4Unicast":{{"tableVersion":{version},"peers":{{"x":{{"pfxRcd":{received}}}}}}}}}"#
        );
        retained::summary(&text).unwrap()
    }

    fn prefixes(count: u8) -> BTreeSet<IpNet> {
        (0..count).map(|n| format!("198.51.100.{n}/32").parse().unwrap()).collect()
    }

    fn reply(text: String) -> Reply {
        Reply { success: true, text }
    }

    fn path(prefix: &IpNet, community: &str) -> String {
        format!(
            r#"{{"prefix":"{prefix}","paths":[{{"aspath":{{"string":"1"}},"community":{{"string":"{community}"}},"bestpath":{{"overall":true}}}}]}}"#
        )
    }

    #[test]
    fn no_reply_covers_all_services() {
        let now = Instant::now();
        let asn = Asn::parse("65001").unwrap();
        let routers = RetainedRouters { asn, vrf_asn: asn, vrf: VrfName::parse("metallb").unwrap() };
        let (nowhere, mut known) = (Path::new("/nonexistent"), Services::default());
        let mut learner = Learner::new(routers, now);
        // A few changes are queried together, many one service at a time.
        assert!(learner.take_summary(summary(MAX_CHANGES, 3), nowhere, &known, false, now));
        assert!(!learner.is_waiting_for_prefixes());
        assert!(learner.take_summary(summary(MAX_CHANGES + 1, 200), nowhere, &known, false, now));
        assert!(learner.is_waiting_for_prefixes());
        learner.take_prefixes(prefixes(200), &mut known, false, now);
        let mut rounds = 0;
        while let Some(at) = learner.deadline() {
            // Nothing listens: the test supplies the replies to the queries.
            let queried: Vec<IpNet> = learner.queue.iter().take(CHUNK).copied().collect();
            assert!(!learner.step(nowhere, &mut known, false, at) || learner.is_idle());
            let replies: Vec<Reply> = queried.iter().map(|prefix| reply(path(prefix, "1:1"))).collect();
            learner.process_replies(LearnQuery::Prefixes(queried), &replies, &mut known, false);
            rounds += 1;
        }
        assert_eq!((rounds, known.len()), (200_usize.div_ceil(CHUNK), 200));
        assert!(learner.step(nowhere, &mut known, false, now), "it must be stored");
        // Nothing has changed since; a new bgpd is queried for everything.
        learner.take_summary(summary(MAX_CHANGES + 1, 200), nowhere, &known, false, now);
        assert!(learner.is_idle());
        learner.bgpd_exited(now);
        learner.take_summary(summary(2000, 200), nowhere, &known, false, now);
        assert!(learner.is_waiting_for_prefixes());
        // A service without a route in the kernel is forgotten, unless services are retained.
        learner.take_prefixes(prefixes(150), &mut known, true, now);
        assert_eq!(known.len(), 200);
        learner.queue.clear();
        learner.take_summary(summary(2000, 150), nowhere, &known, true, now + MAX_READ_INTERVAL);
        assert!(!learner.is_waiting_for_prefixes());
        learner.take_summary(summary(2000, 150), nowhere, &known, false, now + MAX_READ_INTERVAL);
        learner.take_prefixes(prefixes(150), &mut known, false, now);
        assert_eq!(known.len(), 150);
    }

    #[test]
    fn withdrawn_and_unparsable_services_are_forgotten() {
        let now = Instant::now();
        let asn = Asn::parse("65001").unwrap();
        let mut learner =
            Learner::new(RetainedRouters { asn, vrf_asn: asn, vrf: VrfName::parse("metallb").unwrap() }, now);
        let mut known = Services::default();
        let queried: Vec<IpNet> = prefixes(3).into_iter().collect();
        let all_known: Vec<Reply> = queried.iter().map(|prefix| reply(path(prefix, "1:1"))).collect();
        let mut take = |replies: &[Reply], known: &mut Services, is_retaining| {
            learner.process_replies(LearnQuery::Prefixes(queried.clone()), replies, known, is_retaining);
        };
        take(&all_known, &mut known, false);
        let withdrawn = [reply("{}".into()), reply(path(&queried[1], "1\\n2")), reply("% no".into())];
        take(&withdrawn, &mut known, true);
        assert_eq!(known.prefixes().collect::<Vec<_>>(), [&queried[0], &queried[2]]);
        take(&withdrawn, &mut known, false);
        assert_eq!(known.prefixes().collect::<Vec<_>>(), [&queried[2]]);
    }
}
