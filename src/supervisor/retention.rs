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

    /// Does the next step; `text` is bgpd's configuration, if bgpd runs with it.
    pub fn step(&mut self, text: Option<&str>, now: Instant) -> Vec<RetentionEvent> {
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
        let Some(text) = text else {
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
            self.start_next(text, now);
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
        } else if self.learner.is_idle() || self.announcements.query().is_some() {
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
        match self.release.as_mut().map(|(query, _)| query.poll_replies()) {
            None | Some(Ok(None)) => {}
            // Another session may hold the configuration lock, so the first replies count. The others may fail for a
            // line that bgpd never had.
            Some(Ok(Some(replies))) if replies.iter().take(CONFIGURE.len()).all(|reply| reply.success) => {
                let released = self.release.take().map(|(_, released)| released).unwrap_or_default();
                if released.is_empty() {
                    self.route_maps = 0;
                }
                for prefix in released {
                    self.to_release.remove(&prefix);
                }
            }
            Some(_) => {
                self.release = None;
                self.not_before = now + QUERY_INTERVAL;
            }
        }
    }

    fn take_replies(&mut self, now: Instant, events: &mut Vec<RetentionEvent>) {
        let replies = match self.query.as_mut().map(|(query, _)| query.poll_replies()) {
            Some(Ok(Some(replies))) => replies,
            Some(Err(_)) => {
                self.query = None;
                self.unqueried.clear();
                self.not_before = now + QUERY_INTERVAL;
                return;
            }
            Some(Ok(None)) | None => return,
        };
        match self.query.take() {
            Some((_, RetentionQuery::SpeakerSession)) => {
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
            Some((_, RetentionQuery::Paths(prefixes, is_settled))) => {
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
            None => {}
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
    fn start_next(&mut self, text: &str, now: Instant) {
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
                self.start_release(self.routers.cleanup_commands(self.route_maps, text), vec![])
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
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::model::{Asn, Value as _, VrfName};

    fn retention(time_limit: Duration, now: Instant) -> Retention {
        let asn = Asn::parse("65001").unwrap();
        let routers = RetainedRouters { asn, vrf_asn: asn, vrf: VrfName::parse("metallb").unwrap() };
        let route = r#"[{"aspath":{"string":"65002"},"bestpath":{"overall":true}}]"#;
        let reply = format!(r#"{{"routes":{{"198.51.100.1/32":{route},"198.51.100.2/32":{route}}}}}"#);
        let mut known = Services::default();
        for (prefix, attributes) in retained::services(&reply) {
            known.insert(prefix, attributes.unwrap());
        }
        Retention::new(routers, "/nonexistent".into(), time_limit, known, now)
    }

    #[test]
    fn only_services_with_a_kernel_route_are_retained() {
        let now = Instant::now();
        let there = BTreeSet::from(["198.51.100.2/32".parse().unwrap(), "198.51.100.3/32".parse().unwrap()]);
        let mut some = retention(Duration::from_secs(10), now);
        assert_eq!(some.deadline(), None);
        assert_eq!(some.bgpd_exited(&there, now), 1);
        assert!(some.configuration().contains("network 198.51.100.2/32"));
        assert_eq!(retention(Duration::ZERO, now).bgpd_exited(&there, now), 0);
    }

    #[test]
    fn a_stored_file_cannot_inject_configuration_lines() {
        let now = Instant::now();
        let prefix: IpNet = "198.51.100.2/32".parse().unwrap();
        for (path, community) in [("1\nrouter bgp 2", ""), ("1", "65000:1\n no x"), ("", ""), ("1", "1:1")] {
            let text = serde_json::json!({prefix.to_string(): {"as_path": path, "origin": "igp", "metric": 0,
                "community": community, "large_community": ""}});
            let routers = retention(Duration::ZERO, now).routers;
            let known = serde_json::from_value(text).unwrap();
            let mut retention =
                Retention::new(routers, "/nonexistent".into(), Duration::from_secs(9), known, now);
            let expected = usize::from(path == "1" && community == "1:1");
            assert_eq!(retention.bgpd_exited(&[prefix].into(), now), expected, "{path:?} {community:?}");
        }
    }

    #[test]
    fn without_bgpd_the_loop_sleeps_and_the_time_limit_runs() {
        let now = Instant::now();
        let time_limit = Duration::from_secs(10);
        let mut retention = retention(time_limit, now);
        let prefix: IpNet = "198.51.100.2/32".parse().unwrap();
        retention.bgpd_exited(&[prefix].into(), now);
        let mut at = now;
        for _ in 0..5 {
            at = retention.deadline().unwrap();
            assert_eq!(retention.step(None, at), []);
            assert!(retention.deadline().unwrap() > at, "a past deadline would make the loop spin");
        }
        let all_late = || {
            [
                RetentionEvent::Released(vec![prefix]),
                RetentionEvent::Finished(RetentionOutcome::TimedOut(vec![prefix], false)),
            ]
        };
        assert_eq!(retention.step(None, now + time_limit), all_late());
        assert_eq!(retention.configuration(), "");
        assert!(
            retention.deadline().unwrap() > now + time_limit,
            "a bgpd that was started before may have the lines"
        );
        // The time limit also applies to a bgpd that never answers.
        retention.bgpd_exited(&[prefix].into(), at);
        assert_eq!(retention.step(Some(""), at + time_limit / 2), []);
        assert!(retention.deadline().unwrap() > at + time_limit / 2);
        assert_eq!(retention.step(Some(""), at + time_limit), all_late());
    }

    /// A fake bgpd with prescribed replies.
    struct Bgpd(UnixListener);

    impl Bgpd {
        fn of(retention: &mut Retention, name: &str) -> Self {
            retention.socket = std::env::temp_dir().join(format!("retention-{name}-{}", std::process::id()));
            Self(UnixListener::bind(&retention.socket).unwrap())
        }

        /// Answers one connection until it is complete; returns the commands and the events.
        fn serve(
            &self,
            retention: &mut Retention,
            at: Instant,
            reply: impl Fn(&str) -> (String, u8),
        ) -> (Vec<String>, Vec<RetentionEvent>) {
            let (mut sent, mut events) = (vec![], vec![]);
            let (mut bgpd, _) = self.0.accept().unwrap();
            let reader = bgpd.try_clone().unwrap();
            reader.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut commands = BufReader::new(reader).split(0).map_while(Result::ok);
            let (count, busy) = (retention.queries().count(), |retention: &Retention, count| {
                retention.queries().count() == count
            });
            while busy(retention, count) {
                let Some(command) = commands.next() else { break };
                let command = String::from_utf8(command).unwrap();
                let (text, status) = reply(&command);
                bgpd.write_all(text.as_bytes()).unwrap();
                bgpd.write_all(&[0, 0, 0, status]).unwrap();
                sent.push(command);
                events.extend(retention.step(Some(""), at));
            }
            (sent, events)
        }
    }

    impl Drop for Bgpd {
        fn drop(&mut self) {
            let path = self.0.local_addr().unwrap().as_pathname().unwrap().to_owned();
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_late_bgpd_gets_the_release_commands() {
        let now = Instant::now();
        let time_limit = Duration::from_secs(10);
        let mut retention = retention(time_limit, now);
        retention.bgpd_exited(&["198.51.100.2/32".parse().unwrap()].into(), now);
        let mut at = now + time_limit;
        assert_eq!(retention.step(None, at).len(), 2);
        // First bgpd does not listen, then its configuration is locked, then it accepts the release.
        at += QUERY_INTERVAL;
        assert_eq!(retention.step(Some(""), at), []);
        let bgpd = Bgpd::of(&mut retention, "late");
        let mut sent = vec![];
        for status in [1, 0] {
            at = retention.deadline().unwrap();
            assert_eq!(retention.step(Some(""), at), []);
            let busy = |retention: &Retention| retention.is_active() && retention.deadline().is_none();
            assert!(busy(&retention), "the replies to the release are still to come");
            sent = bgpd.serve(&mut retention, at, |_| (String::new(), status)).0;
        }
        assert!(sent.iter().any(|command| command == "no network 198.51.100.2/32"), "{sent:?}");
        let (sent, _) = bgpd.serve(&mut retention, at, |_| (String::new(), 0));
        assert!(sent.iter().any(|command| command == "no route-map frr-supervisor-held-0"), "{sent:?}");
        assert_eq!((retention.deadline(), retention.is_active()), (None, false));
    }

    #[test]
    fn each_service_is_released_when_the_speakers_path_to_it_is_usable() {
        let now = Instant::now();
        let mut retention = retention(Duration::from_secs(100), now);
        let [one, two]: [IpNet; 2] = ["198.51.100.1/32", "198.51.100.2/32"].map(|p| p.parse().unwrap());
        retention.bgpd_exited(&[one, two].into(), now);
        let bgpd = Bgpd::of(&mut retention, "turn");
        let up =
            r#"{"fd00::1":{"bgpState":"Established","gracefulRestartInfo":{"endOfRibRecv":{"x":true}}}}"#;
        let imported = r#"{"paths":[{"importedFrom":"x","valid":true,"bestpath":{"overall":true}}]}"#;
        let unresolved = r#"{"paths":[{"importedFrom":"x"},{"valid":true,"bestpath":{"overall":true}}]}"#;
        // The next hop of the first service is resolved, that of the second is not, and stays so; then the second is
        // withdrawn.
        let reply = |second: &'static str, in_vrf: &'static str| {
            move |command: &str| {
                let text = match command {
                    _ if command.ends_with("neighbors json") => up,
                    _ if command.contains(" vrf ") && command.contains("100.2/32") => in_vrf,
                    _ if command.contains("100.2/32") => second,
                    _ if command.contains("show") => imported,
                    _ => "",
                };
                (text.to_owned(), 0)
            }
        };
        let mut at = now;
        let mut round = |retention: &mut Retention, second, in_vrf| {
            let (mut sent, mut events) = (vec![], vec![]);
            at = at.max(retention.deadline().unwrap());
            events.extend(retention.step(Some(""), at));
            while retention.queries().count() > 0 {
                let (more_sent, more_events) = bgpd.serve(retention, at, reply(second, in_vrf));
                sent.extend(more_sent);
                events.extend(more_events);
            }
            (sent, events)
        };
        let path = r#"{"prefix":"198.51.100.2/32","paths":[]}"#;
        let (sent, events) = round(&mut retention, unresolved, path);
        assert_eq!(events, [RetentionEvent::Released(vec![])]);
        assert!(sent.contains(&"no network 198.51.100.1/32".to_owned()), "{sent:?}");
        assert!(!sent.iter().any(|command| command.contains("no network 198.51.100.2")), "{sent:?}");
        assert_eq!(retention.retained_prefixes().collect::<Vec<_>>(), [&two]);
        assert!(
            retention.until() > Some(now + Duration::from_secs(100)),
            "the time limit starts again for the other one"
        );
        for _ in 0..5 {
            assert_eq!(round(&mut retention, unresolved, path).1, []);
        }
        // One second after End-of-RIB a service without a path counts as withdrawn.
        let events = round(&mut retention, "{}", "{}").1;
        assert_eq!(
            events,
            [
                RetentionEvent::Released(vec![two]),
                RetentionEvent::Finished(RetentionOutcome::SpeakerBack(1, vec![two]))
            ]
        );
        assert!(!retention.is_active());
    }
}
