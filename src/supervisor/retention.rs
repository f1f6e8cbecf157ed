//! Stale service retention: the state machine that learns the services, retains them when bgpd exits, and releases
//! them. See `frr::retained` for the reason.
//!
//! A service is released when the speaker's own path to it is usable in the default instance, each service separately.
//! A service that the speaker no longer announces is released after the speaker's End-of-RIB. All services are released
//! when the time limit expires. Each query to bgpd covers a limited number of prefixes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::frr::Document;
use crate::frr::retained::{self, RetainedRouters, Services, SpeakerPath, Unannounced};
use crate::frr::vty::{CONFIGURE, Query, Reply};

mod announcements;
mod learner;

use announcements::AnnouncementCheck;
use learner::{CHUNK, Learner, PAUSE};

/// Interval between two queries for the speaker's session.
const QUERY_INTERVAL: Duration = Duration::from_millis(500);

/// Time from the speaker's End-of-RIB until a service that it has not announced counts as withdrawn.
const END_OF_RIB_DELAY: Duration = Duration::from_secs(1);

/// Most prefixes in one release.
const RELEASE_CHUNK: usize = 256;

/// The known services and the retained ones.
#[derive(Debug)]
pub struct Retention {
    routers: RetainedRouters,
    socket: PathBuf,
    time_limit: Duration,
    known: Services,
    learner: Learner,
    announcements: AnnouncementCheck,
    retained: Services,
    /// Prefixes that are no longer retained, but that bgpd may still announce.
    to_release: BTreeSet<IpNet>,
    /// Number of the supervisor's route maps that bgpd may have; zero if it has none.
    route_maps: usize,
    until: Instant,
    query: Option<(Query, RetentionQuery)>,
    /// When to query the speaker's session.
    session_query_at: Instant,
    /// Earliest start of the next query.
    not_before: Instant,
    /// Whether a speaker's session is established.
    is_session_established: bool,
    /// Prefixes that are not queried yet in this pass.
    unqueried: VecDeque<IpNet>,
    /// When the speaker's End-of-RIB was first seen.
    end_of_rib_at: Option<Instant>,
    release: Option<(Query, Vec<IpNet>)>,
    /// The prefixes of this pass that were released because the speaker no longer announces them; `None` if nothing was
    /// released.
    released: Option<Vec<IpNet>>,
    /// The number of services that the speaker announces again, and those that it no longer announces.
    taken_over: usize,
    withdrawn: Vec<IpNet>,
}

#[derive(Debug)]
enum RetentionQuery {
    SpeakerSession,
    /// The paths to these prefixes in the default instance; if the flag is set, each after its path in the VRF, to find
    /// withdrawn services.
    Paths(Vec<IpNet>, bool),
}

/// Result of a step.
#[derive(Debug, PartialEq, Eq)]
pub enum RetentionEvent {
    /// The known services have changed and must be stored.
    KnownChanged,
    /// Services were released. The prefixes are those that are no longer announced.
    Released(Vec<IpNet>),
    /// No service is retained any more.
    Finished(RetentionOutcome),
    /// The set of services that are announced to no leaf has changed.
    UnannouncedChanged,
}

/// How the retention ended.
#[derive(Debug, PartialEq, Eq)]
pub enum RetentionOutcome {
    /// The speaker announces this many services again, and these no longer.
    SpeakerBack(usize, Vec<IpNet>),
    /// The time limit has expired: these services are no longer announced. Whether a speaker's session is established.
    TimedOut(Vec<IpNet>, bool),
}

impl Retention {
    /// Starts with the services that an earlier instance has stored.
    pub fn new(
        routers: RetainedRouters,
        socket: PathBuf,
        time_limit: Duration,
        mut known: Services,
        now: Instant,
    ) -> Self {
        // Another program may have written the file.
        known.retain(|_, attributes| attributes.is_safe_for_route_map());
        Self {
            learner: Learner::new(routers.clone(), now),
            announcements: AnnouncementCheck::new(now),
            routers,
            socket,
            time_limit,
            known,
            retained: Services::default(),
            to_release: BTreeSet::new(),
            route_maps: 0,
            until: now,
            query: None,
            session_query_at: now,
            not_before: now,
            is_session_established: false,
            unqueried: VecDeque::new(),
            end_of_rib_at: None,
            release: None,
            released: None,
            taken_over: 0,
            withdrawn: vec![],
        }
    }

    /// The known services.
    pub fn known(&self) -> &Services {
        &self.known
    }

    /// The retained prefixes.
    pub fn retained_prefixes(&self) -> impl Iterator<Item = &IpNet> {
        self.retained.prefixes()
    }

    /// The services that are announced to no leaf, with the reasons.
    pub fn unannounced(&self) -> &BTreeMap<IpNet, Unannounced> {
        self.announcements.unannounced()
    }

    /// When all retained services are released, if there are any.
    pub fn until(&self) -> Option<Instant> {
        (!self.retained.is_empty()).then_some(self.until)
    }

    /// Whether bgpd may have lines of the retention that are not in its configuration file.
    pub fn is_active(&self) -> bool {
        !self.retained.is_empty() || self.route_maps > 0
    }

    /// The command to send to bgpd with each ping; any reply shows that bgpd is responsive.
    pub fn summary_command(&self) -> String {
        self.routers.summary_command()
    }

    /// Processes the reply to [`Self::summary_command`]. Returns whether the summary has changed.
    pub fn take_summary(&mut self, reply: &Reply, now: Instant) -> bool {
        let summary = retained::summary(&reply.text);
        let is_retaining = self.is_active();
        summary.is_some_and(|summary| {
            self.learner.take_summary(summary, &self.socket, &self.known, is_retaining, now)
        })
    }

    /// The number of prefixes that the speaker has announced, used or not.
    pub fn received(&self) -> usize {
        self.learner.received()
    }

    /// Whether [`Self::take_prefixes`] must be called with the prefixes of the kernel's routes in the VRF.
    pub fn is_waiting_for_prefixes(&self) -> bool {
        self.learner.is_waiting_for_prefixes()
    }

    /// Processes the prefixes of the kernel's routes in the VRF.
    pub fn take_prefixes(&mut self, prefixes: BTreeSet<IpNet>, now: Instant) {
        let is_retaining = self.is_active();
        self.learner.take_prefixes(prefixes, &mut self.known, is_retaining, now);
    }

    /// bgpd has exited while the kernel has routes to `prefixes` in the VRF: retains the services among them. Returns
    /// their number.
    pub fn bgpd_exited(&mut self, prefixes: &BTreeSet<IpNet>, now: Instant) -> usize {
        (self.query, self.release, self.end_of_rib_at) = (None, None, None);
        self.unqueried.clear();
        self.to_release.clear();
        self.learner.bgpd_exited(now);
        self.announcements.reset(now);
        (self.taken_over, self.withdrawn, self.is_session_established, self.released) =
            (0, vec![], false, None);
        self.retained =
            if self.time_limit.is_zero() { Services::default() } else { self.known.subset(prefixes) };
        self.route_maps = RetainedRouters::route_map_count(&self.retained);
        (self.until, self.session_query_at, self.not_before) =
            (now + self.time_limit, now + QUERY_INTERVAL, now);
        self.retained.len()
    }

    /// The lines to add to the configuration of a new bgpd.
    pub fn configuration(&self) -> String {
        self.routers.configuration(&self.retained)
    }

    /// When to call [`Self::step`] if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        let is_idle = self.query.is_none() && self.release.is_none();
        let at = if self.is_waiting_for_speaker() {
            self.session_query_at.max(self.not_before)
        } else {
            self.not_before
        };
        let query_at = (self.is_active() && is_idle).then_some(at);
        let until = self.until();
        let announcements = self.announcements.deadline().filter(|_| self.can_check_announcements());
        [query_at, until, self.learner.deadline(), announcements].into_iter().flatten().min()
    }

    fn is_waiting_for_speaker(&self) -> bool {
        self.unqueried.is_empty() && self.to_release.is_empty() && !self.retained.is_empty()
    }

    /// The queries to poll.
    pub fn queries(&self) -> impl Iterator<Item = &Query> {
        let query = self.query.as_ref().map(|(query, _)| query);
        let release = self.release.as_ref().map(|(query, _)| query);
        [query, release, self.learner.query(), self.announcements.query()].into_iter().flatten()
    }

    /// Does the next step; `document` is frr.conf, if bgpd runs with it.
    pub fn step(&mut self, document: Option<&Document>, now: Instant) -> Vec<RetentionEvent> {
        let mut events = vec![];
        let is_active = self.is_active();
        if self.learner.step(&self.socket, &mut self.known, is_active, now) {
            events.push(RetentionEvent::KnownChanged);
            if !is_active {
                self.announcements.check_now(now);
            }
        }
        if !is_active {
            self.check_announcements(now, &mut events);
            return events;
        }
        self.finish_release(now);
        if !self.is_active() {
            return events;
        }
        let Some(document) = document else {
            // No bgpd runs. The next one starts, or has started, with the services that are still retained at its
            // start.
            self.not_before = now + QUERY_INTERVAL;
            (self.query, self.end_of_rib_at, self.is_session_established) = (None, None, false);
            self.unqueried.clear();
            self.release_late(now, &mut events);
            return events;
        };
        self.take_replies(now, &mut events);
        self.release_late(now, &mut events);
        if self.release.is_none() && self.query.is_none() {
            self.start_next(document, now);
        }
        events
    }

    /// Whether [`Self::check_announcements`] may start a query.
    fn can_check_announcements(&self) -> bool {
        !self.is_active() && self.learner.is_idle() && self.learner.received() > 0 && !self.known.is_empty()
    }

    fn check_announcements(&mut self, now: Instant, events: &mut Vec<RetentionEvent>) {
        // Without a speaker there is nothing to announce, and a change is known only when the learner is idle.
        let changed = if self.learner.received() == 0 {
            self.announcements.reset(now)
        } else if self.learner.is_idle() || self.announcements.is_querying() {
            let (changed, absent) = self.announcements.step(&self.socket, &self.known, now);
            absent.into_iter().for_each(|prefix| self.learner.recheck(prefix));
            changed
        } else {
            false
        };
        if changed {
            events.push(RetentionEvent::UnannouncedChanged);
        }
    }

    /// Processes the replies to a release.
    fn finish_release(&mut self, now: Instant) {
        match Query::take_ended_with(&mut self.release) {
            None => {}
            // Another session may hold the configuration lock, so the first replies count. The others may fail for a
            // line that bgpd never had.
            Some((Ok(replies), released))
                if replies.iter().take(CONFIGURE.len()).all(|reply| reply.success) =>
            {
                if released.is_empty() {
                    self.route_maps = 0;
                }
                for prefix in released {
                    self.to_release.remove(&prefix);
                }
            }
            Some(_) => self.not_before = now + QUERY_INTERVAL,
        }
    }

    fn take_replies(&mut self, now: Instant, events: &mut Vec<RetentionEvent>) {
        let (replies, query) = match Query::take_ended_with(&mut self.query) {
            Some((Ok(replies), query)) => (replies, query),
            Some((Err(_), _)) => {
                self.unqueried.clear();
                self.not_before = now + QUERY_INTERVAL;
                return;
            }
            None => return,
        };
        match query {
            RetentionQuery::SpeakerSession => {
                let (is_established, has_end_of_rib) =
                    replies.last().map_or((false, false), |a| retained::speaker_state(&a.text));
                self.end_of_rib_at = has_end_of_rib.then(|| self.end_of_rib_at.unwrap_or(now));
                self.is_session_established = is_established;
                self.unqueried = if is_established {
                    self.retained.prefixes().copied().collect()
                } else {
                    VecDeque::new()
                };
            }
            RetentionQuery::Paths(prefixes, is_settled) => {
                let (mut done, mut withdrawn) = (BTreeSet::new(), vec![]);
                for (prefix, replies) in prefixes.into_iter().zip(replies.chunks(1 + usize::from(is_settled)))
                {
                    let [in_vrf @ .., advertised] = replies else { continue };
                    match retained::speaker_path(
                        in_vrf.first().map_or("", |reply| &reply.text),
                        &advertised.text,
                    ) {
                        SpeakerPath::Imported => done.extend([prefix]),
                        SpeakerPath::Absent => withdrawn.push(prefix),
                        SpeakerPath::Pending => {}
                    }
                }
                self.taken_over += done.len();
                // bgpd needs time for thousands of services, and the pending ones are about to be imported, too.
                if !done.is_empty() {
                    self.until = now + self.time_limit;
                }
                self.withdrawn.extend(&withdrawn);
                done.extend(&withdrawn);
                if done.is_empty() {
                    // Pending services mostly wait for the same next hop, and bgpd has other work.
                    self.not_before = now + PAUSE;
                } else {
                    self.retained.retain(|prefix, _| !done.contains(prefix));
                    self.to_release.append(&mut done);
                    self.released.get_or_insert_default().append(&mut withdrawn);
                }
                if self.unqueried.is_empty() {
                    events.extend(self.released.take().map(RetentionEvent::Released));
                }
                if self.retained.is_empty() {
                    events.push(RetentionEvent::Finished(RetentionOutcome::SpeakerBack(
                        self.taken_over,
                        std::mem::take(&mut self.withdrawn),
                    )));
                }
            }
        }
    }

    /// Releases the remaining services when the time limit has expired.
    fn release_late(&mut self, now: Instant, events: &mut Vec<RetentionEvent>) {
        if self.retained.is_empty() || now < self.until {
            return;
        }
        let all_late: Vec<IpNet> = self.retained.prefixes().copied().collect();
        self.retained = Services::default();
        // The running query is about these prefixes.
        self.query = None;
        self.unqueried.clear();
        self.to_release.extend(&all_late);
        let before = self.released.take().unwrap_or_default();
        events.push(RetentionEvent::Released([before, all_late.clone()].concat()));
        events.push(RetentionEvent::Finished(RetentionOutcome::TimedOut(
            all_late,
            self.is_session_established,
        )));
    }

    /// Starts the next query: a release, then the rest of the pass, then the next pass.
    fn start_next(&mut self, document: &Document, now: Instant) {
        if now < self.not_before {
            return;
        }
        let is_started =
            if self.to_release.len() >= CHUNK || (self.unqueried.is_empty() && !self.to_release.is_empty()) {
                let prefixes: Vec<IpNet> = self.to_release.iter().take(RELEASE_CHUNK).copied().collect();
                self.start_release(self.routers.release_commands(&prefixes), prefixes)
            } else if !self.unqueried.is_empty() {
                let prefixes: Vec<IpNet> = self.unqueried.drain(..CHUNK.min(self.unqueried.len())).collect();
                let is_settled = self.end_of_rib_at.is_some_and(|at| now >= at + END_OF_RIB_DELAY);
                let commands = prefixes.iter().flat_map(|prefix| {
                    let in_vrf = is_settled.then(|| self.routers.path_command(prefix));
                    in_vrf.into_iter().chain([RetainedRouters::advertised_command(prefix)])
                });
                let query = Query::show(&self.socket, commands).ok();
                self.query = query.map(|query| (query, RetentionQuery::Paths(prefixes, is_settled)));
                self.query.is_some()
            } else if self.retained.is_empty() {
                self.start_release(self.routers.cleanup_commands(self.route_maps, document), vec![])
            } else if self.session_query_at <= now {
                self.session_query_at = now + QUERY_INTERVAL;
                let query = Query::commands(&self.socket, self.routers.speaker_commands()).ok();
                self.query = query.map(|query| (query, RetentionQuery::SpeakerSession));
                self.query.is_some()
            } else {
                return;
            };
        if !is_started {
            // bgpd does not listen yet.
            self.unqueried.clear();
            self.not_before = now + QUERY_INTERVAL;
        }
    }

    fn start_release(&mut self, commands: Vec<String>, prefixes: Vec<IpNet>) -> bool {
        self.release = Query::commands(&self.socket, commands).ok().map(|query| (query, prefixes));
        self.release.is_some()
    }
}

#[cfg(test)]
mod tests;
