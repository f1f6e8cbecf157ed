//! Held announcements, step by step: what is known of the services, what is announced in the speaker's place, and until
//! when. See `frr::held` for why.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::frr::held::{self, Place, Services};
use crate::frr::vty::{Answer, CONFIGURE, Talk};

/// How often bgpd is asked whether the speaker is back.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// From the speaker's last word until bgpd has put its routes in the place of ours.
const SETTLE: Duration = Duration::from_secs(1);

/// What is known and what is held.
#[derive(Debug)]
pub struct Hold {
    place: Place,
    socket: PathBuf,
    limit: Duration,
    known: Services,
    /// The tables' versions that `known` is of.
    versions: Option<Vec<u64>>,
    /// The same, whether or not anything was learnt of it.
    seen: Option<Vec<u64>>,
    learning: Option<Talk>,
    held: Services,
    /// Held no more, while a bgpd may still have it.
    leaving: Services,
    until: Instant,
    asking: Option<Talk>,
    ask_at: Instant,
    release_at: Option<Instant>,
    releasing: Option<Talk>,
}

/// What came of a step.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Other services are known; to be written down.
    Learnt,
    /// These are not held any more; whether the speaker is back.
    Released(Vec<IpNet>, bool),
}

impl Hold {
    /// Begins with what an earlier instance had written down.
    pub fn new(place: Place, socket: PathBuf, limit: Duration, mut known: Services, now: Instant) -> Self {
        // A file can be written by others.
        known.retain(|_, attributes| attributes.is_plain());
        Self {
            place,
            socket,
            limit,
            known,
            versions: None,
            seen: None,
            learning: None,
            held: Services::new(),
            leaving: Services::new(),
            until: now,
            asking: None,
            ask_at: now,
            release_at: None,
            releasing: None,
        }
    }

    /// What is known of the services.
    pub fn known(&self) -> &Services {
        &self.known
    }

    /// What is held.
    pub fn held(&self) -> impl Iterator<Item = &IpNet> {
        self.held.keys()
    }

    /// Whether bgpd may have lines that are not in its file.
    pub fn is_under_way(&self) -> bool {
        !self.held.is_empty() || !self.leaving.is_empty()
    }

    /// What to ask bgpd in each round; any answer shows that it lives.
    pub fn question(&self) -> String {
        self.place.version_question()
    }

    /// Takes the answer to that in.
    pub fn heard(&mut self, answer: &Answer) -> bool {
        let versions = held::versions(&answer.text);
        let new = versions.is_some() && versions != self.seen;
        if new {
            self.seen.clone_from(&versions);
        }
        if versions.is_some() && versions != self.versions && self.held.is_empty() {
            self.versions = versions;
            self.learning = Talk::begin(&self.socket, self.place.questions()).ok();
        }
        new
    }

    /// bgpd is gone while the kernel has routes to `prefixes` in the VRF: the services among them are to be held.
    /// Returns how many these are.
    pub fn bgpd_is_gone(&mut self, prefixes: &BTreeSet<IpNet>, now: Instant) -> usize {
        (self.learning, self.asking, self.releasing, self.release_at) = (None, None, None, None);
        self.versions = None;
        self.held.clear();
        self.leaving.clear();
        if !self.limit.is_zero() {
            let there = self.known.iter().filter(|(prefix, _)| prefixes.contains(prefix));
            self.held.extend(there.map(|(prefix, attributes)| (*prefix, attributes.clone())));
        }
        (self.until, self.ask_at) = (now + self.limit, now + ASK_EVERY);
        self.held.len()
    }

    /// What a new bgpd's configuration needs on top.
    pub fn configuration(&self) -> String {
        self.place.configuration(&self.held)
    }

    /// When there is something to do although nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        if self.held.is_empty() {
            return (!self.leaving.is_empty() && self.releasing.is_none()).then_some(self.ask_at);
        }
        let ask = self.asking.is_none().then_some(self.ask_at);
        [self.release_at.or(ask), Some(self.until)].into_iter().flatten().min()
    }

    /// What to poll.
    pub fn talks(&self) -> impl Iterator<Item = &Talk> {
        [&self.learning, &self.asking, &self.releasing].into_iter().flatten()
    }

    /// Goes on with it; `text` is bgpd's configuration, if bgpd runs with it.
    pub fn step(&mut self, text: Option<&str>, now: Instant) -> Option<News> {
        match self.releasing.as_mut().map(Talk::receive) {
            None | Some(Ok(None)) => {}
            // Someone else may just be configuring it; what it never had is nothing to it.
            Some(Ok(Some(answers))) if answers.iter().take(CONFIGURE.len()).all(|answer| answer.well) => {
                self.releasing = None;
                self.leaving.clear();
            }
            Some(_) => self.releasing = None,
        }
        match self.learning.as_mut().map(Talk::receive) {
            Some(Ok(Some(answers))) => {
                self.learning = None;
                let services = held::services(&answers);
                if self.held.is_empty() && services != self.known {
                    self.known = services;
                    return Some(News::Learnt);
                }
            }
            // The versions are asked for again.
            Some(Err(_)) => (self.learning, self.versions) = (None, None),
            Some(Ok(None)) | None => {}
        }
        if self.held.is_empty() && self.leaving.is_empty() {
            return None;
        }
        let Some(text) = text else {
            // No bgpd to ask. The next one begins with what is still held then, or has begun with it.
            self.ask_at = self.ask_at.max(now + ASK_EVERY);
            self.release_at = None;
            return (!self.held.is_empty() && now >= self.until).then(|| self.let_go(false));
        };
        if self.held.is_empty() {
            if self.releasing.is_none() && self.ask_at <= now {
                self.release(text, now);
            }
            return None;
        }
        match self.asking.as_mut().map(Talk::receive) {
            Some(Ok(None)) => {}
            Some(Ok(Some(answers))) => {
                self.asking = None;
                let back = answers.last().is_some_and(|answer| held::speaker_is_back(&answer.text));
                if back && self.release_at.is_none() {
                    self.release_at = Some(now + SETTLE);
                }
            }
            Some(Err(_)) => self.asking = None,
            None if self.ask_at <= now && self.release_at.is_none() => {
                self.asking = Talk::begin(&self.socket, self.place.speaker_questions()).ok();
                self.ask_at = now + ASK_EVERY;
            }
            None => {}
        }
        let back = self.release_at.is_some_and(|at| at <= now);
        if !back && now < self.until {
            return None;
        }
        let news = self.let_go(back);
        self.release(text, now);
        Some(news)
    }

    fn let_go(&mut self, back: bool) -> News {
        self.release_at = None;
        self.leaving = std::mem::take(&mut self.held);
        News::Released(self.leaving.keys().copied().collect(), back)
    }

    fn release(&mut self, text: &str, now: Instant) {
        self.releasing = Talk::begin(&self.socket, self.place.removal(&self.leaving, text)).ok();
        self.ask_at = now + ASK_EVERY;
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
        Hold::new(place, "/nonexistent".into(), limit, held::services(&[answer]), now)
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
            assert_eq!(hold.step(None, at), None);
            assert!(hold.deadline().unwrap() > at, "a past deadline would make the loop spin");
        }
        assert_eq!(hold.step(None, now + limit), Some(News::Released(vec![prefix], false)));
        assert_eq!(hold.configuration(), "");
        assert!(hold.deadline().unwrap() > now + limit, "a bgpd that was started before may have it");
        // One that does not answer at all is given up in time, too.
        hold.bgpd_is_gone(&[prefix].into(), at);
        assert_eq!(hold.step(Some(""), at + limit / 2), None);
        assert!(hold.deadline().unwrap() > at + limit / 2);
        assert_eq!(hold.step(Some(""), at + limit), Some(News::Released(vec![prefix], false)));
    }

    #[test]
    fn what_a_late_bgpd_has_of_it_is_taken_out() {
        let now = Instant::now();
        let limit = Duration::from_secs(10);
        let mut hold = hold(limit, now);
        hold.socket = std::env::temp_dir().join(format!("hold-{}", std::process::id()));
        hold.bgpd_is_gone(&["198.51.100.2/32".parse().unwrap()].into(), now);
        let mut at = now + limit;
        assert!(matches!(hold.step(None, at), Some(News::Released(..))));
        // It does not listen; another one configures it; it hears.
        at += ASK_EVERY;
        assert_eq!(hold.step(Some(""), at), None);
        let listener = UnixListener::bind(&hold.socket).unwrap();
        for configured in [b"\0\0\0\x01", b"\0\0\0\0"] {
            assert!(hold.deadline().is_some());
            at += ASK_EVERY;
            assert_eq!(hold.step(Some(""), at), None);
            let (bgpd, _) = listener.accept().unwrap();
            let mut commands = BufReader::new(&bgpd).split(0).map_while(Result::ok);
            let mut said = vec![];
            assert!(hold.is_under_way() && hold.deadline().is_none(), "its answers come first");
            while hold.releasing.is_some() {
                said.push(String::from_utf8(commands.next().unwrap()).unwrap());
                (&bgpd).write_all(configured).unwrap();
                assert_eq!(hold.step(Some(""), at), None);
            }
            assert!(said.iter().any(|command| command == "no network 198.51.100.2/32"), "{said:?}");
        }
        std::fs::remove_file(&hold.socket).unwrap();
        assert_eq!((hold.deadline(), hold.is_under_way()), (None, false));
    }
}
