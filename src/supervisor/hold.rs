//! Retained services, step by step: what is known of the services, what is announced in the speaker's place, and until
//! when. See `frr::held` for why.
//!
//! A service is released when the speaker's own path to it is usable in the default instance, each by itself. What the
//! speaker no longer announces is released when it has announced all it has (End-of-RIB), and everything when the time is
//! over. bgpd is only ever asked about some prefixes at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::frr::held::{self, Place, Services, Turn, Unannounced};
use crate::frr::vty::{Answer, CONFIGURE, Talk};

mod announced;
mod learn;

use announced::Announced;
use learn::{CHUNK, Learner, PAUSE};

/// How often bgpd is asked whether the speaker is back.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// From the speaker's End-of-RIB until what it has not announced is taken for gone.
const SETTLE: Duration = Duration::from_secs(1);

/// Prefixes that are released at once.
const RELEASE: usize = 256;

/// What is known and what is retained.
#[derive(Debug)]
pub struct Hold {
    place: Place,
    socket: PathBuf,
    limit: Duration,
    known: Services,
    learner: Learner,
    announced: Announced,
    retained: Services,
    /// Retained no more, while a bgpd may still have it.
    leaving: BTreeSet<IpNet>,
    /// Route maps that a bgpd may have of us; none, if it has nothing.
    route_maps: usize,
    until: Instant,
    asking: Option<(Talk, Asked)>,
    /// When to ask for the speaker.
    ask_at: Instant,
    /// Nothing is begun before.
    not_before: Instant,
    /// Whether a speaker's session is up.
    is_up: bool,
    /// Prefixes that are still to be asked for in this turn.
    turn: VecDeque<IpNet>,
    /// Since when the speaker has announced all it has.
    told_all: Option<Instant>,
    releasing: Option<(Talk, Vec<IpNet>)>,
    /// Some were released in this turn, and of these nothing announces those.
    released: Option<Vec<IpNet>>,
    /// How many are announced by the speaker again, and which are not announced any more.
    back: usize,
    gone: Vec<IpNet>,
}

#[derive(Debug)]
enum Asked {
    Speaker,
    /// About each in the default instance, and, where what is not there is gone, in the VRF before that.
    Turn(Vec<IpNet>, bool),
}

/// What came of a step.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Other services are known; to be written down.
    Learnt,
    /// Some are not retained any more; of these nothing announces them now.
    Released(Vec<IpNet>),
    /// None is retained any more.
    Over(Outcome),
    /// Other services are announced to no leaf.
    Announced,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The speaker announces so many again, and these no more.
    Back(usize, Vec<IpNet>),
    /// The time is over: these are not announced any more. Whether a speaker's session is up.
    Late(Vec<IpNet>, bool),
}

impl Hold {
    /// Begins with what an earlier instance had written down.
    pub fn new(place: Place, socket: PathBuf, limit: Duration, mut known: Services, now: Instant) -> Self {
        // A file can be written by others.
        known.retain(|_, attributes| attributes.is_plain());
        Self {
            learner: Learner::new(place.clone(), now),
            announced: Announced::new(now),
            place,
            socket,
            limit,
            known,
            retained: Services::default(),
            leaving: BTreeSet::new(),
            route_maps: 0,
            until: now,
            asking: None,
            ask_at: now,
            not_before: now,
            is_up: false,
            turn: VecDeque::new(),
            told_all: None,
            releasing: None,
            released: None,
            back: 0,
            gone: vec![],
        }
    }

    /// What is known of the services.
    pub fn known(&self) -> &Services {
        &self.known
    }

    /// What is retained.
    pub fn held(&self) -> impl Iterator<Item = &IpNet> {
        self.retained.prefixes()
    }

    /// Services that no leaf is told of, and why.
    pub fn unannounced(&self) -> &BTreeMap<IpNet, Unannounced> {
        self.announced.missing()
    }

    /// When all that is retained is released, if any is.
    pub fn until(&self) -> Option<Instant> {
        (!self.retained.is_empty()).then_some(self.until)
    }

    /// Whether bgpd may have lines that are not in its file.
    pub fn is_under_way(&self) -> bool {
        !self.retained.is_empty() || self.route_maps > 0
    }

    /// What to ask bgpd in each round; any answer shows that it lives.
    pub fn question(&self) -> String {
        self.place.version_question()
    }

    /// Takes the answer to that in. Whether it says anything new.
    pub fn heard(&mut self, answer: &Answer, now: Instant) -> bool {
        let summary = held::summary(&answer.text);
        let retained = self.is_under_way();
        summary.is_some_and(|summary| self.learner.heard(summary, &self.socket, &self.known, retained, now))
    }

    /// How many prefixes the speaker has announced, used or not.
    pub fn received(&self) -> usize {
        self.learner.received()
    }

    /// Whether the prefixes are wanted that the kernel has routes to in the VRF.
    pub fn wants_prefixes(&self) -> bool {
        self.learner.wants_prefixes()
    }

    /// Takes them in.
    pub fn take_prefixes(&mut self, prefixes: BTreeSet<IpNet>, now: Instant) {
        let retained = self.is_under_way();
        self.learner.take_prefixes(prefixes, &mut self.known, retained, now);
    }

    /// bgpd is gone while the kernel has routes to `prefixes` in the VRF: the services among them are to be retained.
    /// Returns how many these are.
    pub fn bgpd_is_gone(&mut self, prefixes: &BTreeSet<IpNet>, now: Instant) -> usize {
        (self.asking, self.releasing, self.told_all) = (None, None, None);
        self.turn.clear();
        self.leaving.clear();
        self.learner.bgpd_is_gone(now);
        self.announced.forget(now);
        (self.back, self.gone, self.is_up, self.released) = (0, vec![], false, None);
        self.retained = if self.limit.is_zero() { Services::default() } else { self.known.among(prefixes) };
        self.route_maps = Place::route_maps(&self.retained);
        (self.until, self.ask_at, self.not_before) = (now + self.limit, now + ASK_EVERY, now);
        self.retained.len()
    }

    /// What a new bgpd's configuration needs on top.
    pub fn configuration(&self) -> String {
        self.place.configuration(&self.retained)
    }

    /// When there is something to do although nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        let idle = self.asking.is_none() && self.releasing.is_none();
        let at = if self.waits_for_speaker() { self.ask_at.max(self.not_before) } else { self.not_before };
        let ask = (self.is_under_way() && idle).then_some(at);
        let until = self.until();
        let announced = self.announced.deadline().filter(|_| self.may_look_at_announced());
        [ask, until, self.learner.deadline(), announced].into_iter().flatten().min()
    }

    fn waits_for_speaker(&self) -> bool {
        self.turn.is_empty() && self.leaving.is_empty() && !self.retained.is_empty()
    }

    /// What to poll.
    pub fn talks(&self) -> impl Iterator<Item = &Talk> {
        let asking = self.asking.as_ref().map(|(talk, _)| talk);
        let releasing = self.releasing.as_ref().map(|(talk, _)| talk);
        [asking, releasing, self.learner.talk(), self.announced.talk()].into_iter().flatten()
    }

    /// Goes on with it; `text` is bgpd's configuration, if bgpd runs with it.
    pub fn step(&mut self, text: Option<&str>, now: Instant) -> Vec<News> {
        let mut news = vec![];
        let under_way = self.is_under_way();
        if self.learner.step(&self.socket, &mut self.known, under_way, now) {
            news.push(News::Learnt);
            if !under_way {
                self.announced.hurry(now);
            }
        }
        if !under_way {
            self.look_at_announced(now, &mut news);
            return news;
        }
        self.take_release(now);
        if !self.is_under_way() {
            return news;
        }
        let Some(text) = text else {
            // No bgpd to ask. The next one begins with what is still retained then, or has begun with it.
            self.not_before = now + ASK_EVERY;
            (self.asking, self.told_all, self.is_up) = (None, None, false);
            self.turn.clear();
            self.give_up(now, &mut news);
            return news;
        };
        self.take_answers(now, &mut news);
        self.give_up(now, &mut news);
        if self.releasing.is_none() && self.asking.is_none() {
            self.go_on(text, now);
        }
        news
    }

    /// Whether [`Self::look_at_announced`] would.
    fn may_look_at_announced(&self) -> bool {
        !self.is_under_way()
            && self.learner.is_idle()
            && self.learner.received() > 0
            && !self.known.is_empty()
    }

    fn look_at_announced(&mut self, now: Instant, news: &mut Vec<News>) {
        // Without a speaker there is nothing to announce, and what has just changed is not known yet.
        let changed = if self.learner.received() == 0 {
            self.announced.forget(now)
        } else if self.learner.is_idle() || self.announced.talk().is_some() {
            let (changed, absent) = self.announced.step(&self.socket, &self.known, now);
            absent.into_iter().for_each(|prefix| self.learner.doubt(prefix));
            changed
        } else {
            false
        };
        if changed {
            news.push(News::Announced);
        }
    }

    /// A release is over.
    fn take_release(&mut self, now: Instant) {
        match self.releasing.as_mut().map(|(talk, _)| talk.receive()) {
            None | Some(Ok(None)) => {}
            // Someone else may just be configuring it; what it never had is nothing to it.
            Some(Ok(Some(answers))) if answers.iter().take(CONFIGURE.len()).all(|answer| answer.well) => {
                let released = self.releasing.take().map(|(_, released)| released).unwrap_or_default();
                if released.is_empty() {
                    self.route_maps = 0;
                }
                for prefix in released {
                    self.leaving.remove(&prefix);
                }
            }
            Some(_) => {
                self.releasing = None;
                self.not_before = now + ASK_EVERY;
            }
        }
    }

    fn take_answers(&mut self, now: Instant, news: &mut Vec<News>) {
        let answers = match self.asking.as_mut().map(|(talk, _)| talk.receive()) {
            Some(Ok(Some(answers))) => answers,
            Some(Err(_)) => {
                self.asking = None;
                self.turn.clear();
                self.not_before = now + ASK_EVERY;
                return;
            }
            Some(Ok(None)) | None => return,
        };
        match self.asking.take() {
            Some((_, Asked::Speaker)) => {
                let (up, all) = answers.last().map_or((false, false), |a| held::speaker_is_back(&a.text));
                self.told_all = all.then(|| self.told_all.unwrap_or(now));
                self.is_up = up;
                self.turn = if up { self.retained.prefixes().copied().collect() } else { VecDeque::new() };
            }
            Some((_, Asked::Turn(prefixes, settled))) => {
                let (mut taken, mut gone) = (BTreeSet::new(), vec![]);
                for (prefix, answers) in prefixes.into_iter().zip(answers.chunks(1 + usize::from(settled))) {
                    let [in_vrf @ .., announced] = answers else { continue };
                    match held::turn(in_vrf.first().map_or("", |answer| &answer.text), &announced.text) {
                        Turn::Taken => taken.extend([prefix]),
                        Turn::Absent => gone.push(prefix),
                        Turn::Waiting => {}
                    }
                }
                self.back += taken.len();
                // bgpd takes its time for thousands of them, and those that wait are about to be taken, too.
                if !taken.is_empty() {
                    self.until = now + self.limit;
                }
                self.gone.extend(&gone);
                taken.extend(&gone);
                if taken.is_empty() {
                    // Those that wait mostly wait for the same, and bgpd has other work.
                    self.not_before = now + PAUSE;
                } else {
                    self.retained.retain(|prefix, _| !taken.contains(prefix));
                    self.leaving.append(&mut taken);
                    self.released.get_or_insert_default().append(&mut gone);
                }
                if self.turn.is_empty() {
                    news.extend(self.released.take().map(News::Released));
                }
                if self.retained.is_empty() {
                    news.push(News::Over(Outcome::Back(self.back, std::mem::take(&mut self.gone))));
                }
            }
            None => {}
        }
    }

    /// Releases what is left when the time is over.
    fn give_up(&mut self, now: Instant, news: &mut Vec<News>) {
        if self.retained.is_empty() || now < self.until {
            return;
        }
        let late: Vec<IpNet> = self.retained.prefixes().copied().collect();
        self.retained = Services::default();
        // What is under way is about those.
        self.asking = None;
        self.turn.clear();
        self.leaving.extend(&late);
        let before = self.released.take().unwrap_or_default();
        news.push(News::Released([before, late.clone()].concat()));
        news.push(News::Over(Outcome::Late(late, self.is_up)));
    }

    /// Begins what comes next: what is to be released, then the rest of the turn, then the next one.
    fn go_on(&mut self, text: &str, now: Instant) {
        if now < self.not_before {
            return;
        }
        let begun = if self.leaving.len() >= CHUNK || (self.turn.is_empty() && !self.leaving.is_empty()) {
            let prefixes: Vec<IpNet> = self.leaving.iter().take(RELEASE).copied().collect();
            self.begin_release(self.place.release(&prefixes), prefixes)
        } else if !self.turn.is_empty() {
            let prefixes: Vec<IpNet> = self.turn.drain(..CHUNK.min(self.turn.len())).collect();
            let settled = self.told_all.is_some_and(|at| now >= at + SETTLE);
            let questions = prefixes.iter().flat_map(|prefix| {
                let in_vrf = settled.then(|| self.place.path_question(prefix));
                in_vrf.into_iter().chain([Place::announced_question(prefix)])
            });
            let talk = Talk::show(&self.socket, questions).ok();
            self.asking = talk.map(|talk| (talk, Asked::Turn(prefixes, settled)));
            self.asking.is_some()
        } else if self.retained.is_empty() {
            self.begin_release(self.place.tidy(self.route_maps, text), vec![])
        } else if self.ask_at <= now {
            self.ask_at = now + ASK_EVERY;
            let talk = Talk::begin(&self.socket, self.place.speaker_questions()).ok();
            self.asking = talk.map(|talk| (talk, Asked::Speaker));
            self.asking.is_some()
        } else {
            return;
        };
        if !begun {
            // It does not listen (yet).
            self.turn.clear();
            self.not_before = now + ASK_EVERY;
        }
    }

    fn begin_release(&mut self, commands: Vec<String>, prefixes: Vec<IpNet>) -> bool {
        self.releasing = Talk::begin(&self.socket, commands).ok().map(|talk| (talk, prefixes));
        self.releasing.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::model::{Asn, Value as _, VrfName};

    fn hold(limit: Duration, now: Instant) -> Hold {
        let asn = Asn::parse("65001").unwrap();
        let place = Place { asn, vrf_asn: asn, vrf: VrfName::parse("metallb").unwrap() };
        let route = r#"[{"aspath":{"string":"65002"},"bestpath":{"overall":true}}]"#;
        let answer = format!(r#"{{"routes":{{"198.51.100.1/32":{route},"198.51.100.2/32":{route}}}}}"#);
        let mut known = Services::default();
        for (prefix, attributes) in held::services(&answer) {
            known.insert(prefix, attributes.unwrap());
        }
        Hold::new(place, "/nonexistent".into(), limit, known, now)
    }

    #[test]
    fn only_what_the_kernel_still_has_is_held() {
        let now = Instant::now();
        let there = BTreeSet::from(["198.51.100.2/32".parse().unwrap(), "198.51.100.3/32".parse().unwrap()]);
        let mut some = hold(Duration::from_secs(10), now);
        assert_eq!(some.deadline(), None);
        assert_eq!(some.bgpd_is_gone(&there, now), 1);
        assert!(some.configuration().contains("network 198.51.100.2/32"));
        assert_eq!(hold(Duration::ZERO, now).bgpd_is_gone(&there, now), 0);
    }

    #[test]
    fn a_file_can_not_bring_lines_into_the_configuration() {
        let now = Instant::now();
        let prefix: IpNet = "198.51.100.2/32".parse().unwrap();
        for (path, community) in [("1\nrouter bgp 2", ""), ("1", "65000:1\n no x"), ("", ""), ("1", "1:1")] {
            let text = serde_json::json!({prefix.to_string(): {"as_path": path, "origin": "igp", "metric": 0,
                "community": community, "large_community": ""}});
            let place = hold(Duration::ZERO, now).place;
            let known = serde_json::from_value(text).unwrap();
            let mut hold = Hold::new(place, "/nonexistent".into(), Duration::from_secs(9), known, now);
            let expected = usize::from(path == "1" && community == "1:1");
            assert_eq!(hold.bgpd_is_gone(&[prefix].into(), now), expected, "{path:?} {community:?}");
        }
    }

    #[test]
    fn while_there_is_no_bgpd_the_loop_may_sleep_and_the_time_runs() {
        let now = Instant::now();
        let limit = Duration::from_secs(10);
        let mut hold = hold(limit, now);
        let prefix: IpNet = "198.51.100.2/32".parse().unwrap();
        hold.bgpd_is_gone(&[prefix].into(), now);
        let mut at = now;
        for _ in 0..5 {
            at = hold.deadline().unwrap();
            assert_eq!(hold.step(None, at), []);
            assert!(hold.deadline().unwrap() > at, "a past deadline would make the loop spin");
        }
        let late = || [News::Released(vec![prefix]), News::Over(Outcome::Late(vec![prefix], false))];
        assert_eq!(hold.step(None, now + limit), late());
        assert_eq!(hold.configuration(), "");
        assert!(hold.deadline().unwrap() > now + limit, "a bgpd that was started before may have it");
        // One that does not answer at all is given up in time, too.
        hold.bgpd_is_gone(&[prefix].into(), at);
        assert_eq!(hold.step(Some(""), at + limit / 2), []);
        assert!(hold.deadline().unwrap() > at + limit / 2);
        assert_eq!(hold.step(Some(""), at + limit), late());
    }

    /// A bgpd that answers as it is told to.
    struct Bgpd(UnixListener);

    impl Bgpd {
        fn of(hold: &mut Hold, name: &str) -> Self {
            hold.socket = std::env::temp_dir().join(format!("hold-{name}-{}", std::process::id()));
            Self(UnixListener::bind(&hold.socket).unwrap())
        }

        /// Answers one connection until it is over; what was said to it, and the news of it.
        fn serve(
            &self,
            hold: &mut Hold,
            at: Instant,
            answer: impl Fn(&str) -> (String, u8),
        ) -> (Vec<String>, Vec<News>) {
            let (mut said, mut news) = (vec![], vec![]);
            let (mut bgpd, _) = self.0.accept().unwrap();
            let reader = bgpd.try_clone().unwrap();
            reader.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut commands = BufReader::new(reader).split(0).map_while(Result::ok);
            let (count, busy) = (hold.talks().count(), |hold: &Hold, count| hold.talks().count() == count);
            while busy(hold, count) {
                let Some(command) = commands.next() else { break };
                let command = String::from_utf8(command).unwrap();
                let (text, status) = answer(&command);
                bgpd.write_all(text.as_bytes()).unwrap();
                bgpd.write_all(&[0, 0, 0, status]).unwrap();
                said.push(command);
                news.extend(hold.step(Some(""), at));
            }
            (said, news)
        }
    }

    impl Drop for Bgpd {
        fn drop(&mut self) {
            let path = self.0.local_addr().unwrap().as_pathname().unwrap().to_owned();
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn what_a_late_bgpd_has_of_it_is_taken_out() {
        let now = Instant::now();
        let limit = Duration::from_secs(10);
        let mut hold = hold(limit, now);
        hold.bgpd_is_gone(&["198.51.100.2/32".parse().unwrap()].into(), now);
        let mut at = now + limit;
        assert_eq!(hold.step(None, at).len(), 2);
        // It does not listen; another one configures it; it takes it.
        at += ASK_EVERY;
        assert_eq!(hold.step(Some(""), at), []);
        let bgpd = Bgpd::of(&mut hold, "late");
        let mut said = vec![];
        for status in [1, 0] {
            at = hold.deadline().unwrap();
            assert_eq!(hold.step(Some(""), at), []);
            let busy = |hold: &Hold| hold.is_under_way() && hold.deadline().is_none();
            assert!(busy(&hold), "its answers come first");
            said = bgpd.serve(&mut hold, at, |_| (String::new(), status)).0;
        }
        assert!(said.iter().any(|command| command == "no network 198.51.100.2/32"), "{said:?}");
        let (said, _) = bgpd.serve(&mut hold, at, |_| (String::new(), 0));
        assert!(said.iter().any(|command| command == "no route-map frr-supervisor-held-0"), "{said:?}");
        assert_eq!((hold.deadline(), hold.is_under_way()), (None, false));
    }

    #[test]
    fn each_service_is_released_when_the_speakers_path_to_it_is_usable() {
        let now = Instant::now();
        let mut hold = hold(Duration::from_secs(100), now);
        let [one, two]: [IpNet; 2] = ["198.51.100.1/32", "198.51.100.2/32"].map(|p| p.parse().unwrap());
        hold.bgpd_is_gone(&[one, two].into(), now);
        let bgpd = Bgpd::of(&mut hold, "turn");
        let up =
            r#"{"fd00::1":{"bgpState":"Established","gracefulRestartInfo":{"endOfRibRecv":{"x":true}}}}"#;
        let taken = r#"{"paths":[{"importedFrom":"x","valid":true,"bestpath":{"overall":true}}]}"#;
        let unresolved = r#"{"paths":[{"importedFrom":"x"},{"valid":true,"bestpath":{"overall":true}}]}"#;
        // The first one's next hop is resolved, the second one's is not; nor is it a moment later; then it is gone.
        let turn = |second: &'static str, in_vrf: &'static str| {
            move |command: &str| {
                let text = match command {
                    _ if command.ends_with("neighbors json") => up,
                    _ if command.contains(" vrf ") && command.contains("100.2/32") => in_vrf,
                    _ if command.contains("100.2/32") => second,
                    _ if command.contains("show") => taken,
                    _ => "",
                };
                (text.to_owned(), 0)
            }
        };
        let mut at = now;
        let mut round = |hold: &mut Hold, second, in_vrf| {
            let (mut said, mut news) = (vec![], vec![]);
            at = at.max(hold.deadline().unwrap());
            news.extend(hold.step(Some(""), at));
            while hold.talks().count() > 0 {
                let (more_said, more_news) = bgpd.serve(hold, at, turn(second, in_vrf));
                said.extend(more_said);
                news.extend(more_news);
            }
            (said, news)
        };
        let path = r#"{"prefix":"198.51.100.2/32","paths":[]}"#;
        let (said, news) = round(&mut hold, unresolved, path);
        assert_eq!(news, [News::Released(vec![])]);
        assert!(said.contains(&"no network 198.51.100.1/32".to_owned()), "{said:?}");
        assert!(!said.iter().any(|command| command.contains("no network 198.51.100.2")), "{said:?}");
        assert_eq!(hold.held().collect::<Vec<_>>(), [&two]);
        assert!(hold.until() > Some(now + Duration::from_secs(100)), "the other one has as long again");
        for _ in 0..5 {
            assert_eq!(round(&mut hold, unresolved, path).1, []);
        }
        // A second after End-of-RIB what has no path is gone.
        let news = round(&mut hold, "{}", "{}").1;
        assert_eq!(news, [News::Released(vec![two]), News::Over(Outcome::Back(1, vec![two]))]);
        assert!(!hold.is_under_way());
    }
}
