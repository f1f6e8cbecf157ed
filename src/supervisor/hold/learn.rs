//! What the speaker announces, learnt from bgpd in answers of a bounded size.
//!
//! bgpd numbers the changes of its tables, and tells what has changed since a number. Where that is much (a speaker with
//! thousands of services has just connected), the services are asked for one by one, by the prefixes that the kernel has
//! routes to: no others are ever retained.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::frr::held::{self, Place, Services, Summary, Tables};
use crate::frr::vty::{Answer, Talk};

/// Prefixes that are asked for at once; an answer takes bgpd some 50 µs, and has 1 to 4 kB.
pub(super) const CHUNK: usize = 32;

/// From one chunk to the next: a tenth of bgpd's time at most is ours.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// More changes than these are not asked for at once.
const MOST_CHANGES: u64 = 256;

/// From one look at the kernel's prefixes to the next; twice that each time that nothing new comes of it.
const LOOK_EVERY: Duration = Duration::from_secs(6);
const LOOK_RARELY: Duration = Duration::from_secs(600);

/// What is known, and how far.
#[derive(Debug)]
pub(super) struct Learner {
    place: Place,
    /// What bgpd has said of itself last.
    seen: Option<Summary>,
    /// All changes up to these versions are known.
    learnt: Tables,
    /// Prefixes to be asked for.
    queue: VecDeque<IpNet>,
    talk: Option<(Talk, Asked)>,
    next_at: Instant,
    /// Prefixes of the kernel are wanted, all of them or those that are not known.
    wanted: Option<Wanted>,
    look_at: Instant,
    look_every: Duration,
    /// There is something to write down.
    changed: bool,
}

#[derive(Debug)]
enum Asked {
    Changes(Tables),
    Prefixes(Vec<IpNet>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    Unknown,
}

impl Learner {
    pub(super) fn new(place: Place, now: Instant) -> Self {
        Self {
            place,
            seen: None,
            learnt: Tables::default(),
            queue: VecDeque::new(),
            talk: None,
            next_at: now,
            wanted: None,
            look_at: now,
            look_every: LOOK_EVERY,
            changed: false,
        }
    }

    /// The next bgpd counts from the beginning.
    pub(super) fn bgpd_is_gone(&mut self, now: Instant) {
        (self.seen, self.talk, self.wanted) = (None, None, None);
        self.learnt = Tables::default();
        self.queue.clear();
        (self.look_at, self.look_every) = (now, LOOK_EVERY);
    }

    /// How many prefixes the speaker has announced, used or not.
    pub(super) fn received(&self) -> usize {
        self.seen.map_or(0, |seen| seen.received)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.talk.is_none() && self.queue.is_empty() && self.wanted.is_none()
    }

    /// Takes the summary in. Whether it says anything new.
    pub(super) fn heard(
        &mut self,
        summary: Summary,
        socket: &Path,
        known: &Services,
        retained: bool,
        now: Instant,
    ) -> bool {
        let new = self.seen != Some(summary);
        self.seen = Some(summary);
        if !self.is_idle() {
            return new;
        }
        let changes = summary.tables.changes_since(self.learnt);
        match changes {
            Some(0) if known.len() == summary.received => {}
            // What is retained is not back yet, and not forgotten.
            Some(0) if retained && known.len() > summary.received => {}
            Some(0) if self.look_at <= now => self.wanted = Some(Wanted::Unknown),
            Some(0) => {}
            Some(n) if n <= MOST_CHANGES => {
                let talk = Talk::show(socket, self.place.changes_questions(self.learnt)).ok();
                self.talk = talk.map(|talk| (talk, Asked::Changes(summary.tables)));
            }
            _ => self.wanted = Some(Wanted::All),
        }
        new
    }

    /// Whether the kernel's prefixes are wanted.
    pub(super) fn wants_prefixes(&self) -> bool {
        self.wanted.is_some()
    }

    /// Takes them in; what the kernel has no route to is forgotten, unless it is retained.
    pub(super) fn take_prefixes(
        &mut self,
        prefixes: BTreeSet<IpNet>,
        known: &mut Services,
        retained: bool,
        now: Instant,
    ) {
        let Some((wanted, seen)) = self.wanted.take().zip(self.seen) else { return };
        let mut new = !retained && known.retain(|prefix, _| prefixes.contains(prefix));
        self.changed |= new;
        let unknown = |prefix: &IpNet| wanted == Wanted::All || known.get(prefix).is_none();
        self.queue = prefixes.into_iter().filter(unknown).collect();
        if wanted == Wanted::All {
            self.learnt = seen.tables;
        }
        new |= !self.queue.is_empty();
        self.look_every = if new { LOOK_EVERY } else { (2 * self.look_every).min(LOOK_RARELY) };
        self.look_at = now + self.look_every;
    }

    /// Asks for this one, too: it may have changed.
    pub(super) fn doubt(&mut self, prefix: IpNet) {
        if !self.queue.contains(&prefix) {
            self.queue.push_back(prefix);
        }
    }

    pub(super) fn talk(&self) -> Option<&Talk> {
        self.talk.as_ref().map(|(talk, _)| talk)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.talk.is_none() && !self.queue.is_empty()).then_some(self.next_at)
    }

    /// Goes on with it. Whether something else is known now.
    pub(super) fn step(&mut self, socket: &Path, known: &mut Services, retained: bool, now: Instant) -> bool {
        match self.talk.as_mut().map(|(talk, _)| talk.receive()) {
            Some(Ok(Some(answers))) => {
                if let Some((_, asked)) = self.talk.take() {
                    self.take_in(asked, &answers, known, retained);
                    self.next_at = now + PAUSE;
                }
            }
            // It is asked again with the next round.
            Some(Err(_)) => {
                self.talk = None;
                self.queue.clear();
                self.learnt = Tables::default();
            }
            Some(Ok(None)) | None => {}
        }
        if self.talk.is_none() && !self.queue.is_empty() && self.next_at <= now {
            let chunk: Vec<IpNet> = self.queue.drain(..CHUNK.min(self.queue.len())).collect();
            let questions = chunk.iter().map(|prefix| self.place.path_question(prefix));
            // One that does not listen is about to be ended.
            self.talk = Talk::show(socket, questions).ok().map(|talk| (talk, Asked::Prefixes(chunk)));
        }
        self.is_idle() && std::mem::take(&mut self.changed)
    }

    fn take_in(&mut self, asked: Asked, answers: &[Answer], known: &mut Services, retained: bool) {
        for (prefix, attributes) in answers.iter().flat_map(|answer| held::services(&answer.text)) {
            self.changed |= match attributes {
                Some(attributes) => known.insert(prefix, attributes),
                None => known.retain(|other, _| *other != prefix),
            };
        }
        match asked {
            Asked::Changes(tables) if answers.iter().all(|answer| answer.well) => self.learnt = tables,
            // This bgpd does not tell changes apart.
            Asked::Changes(_) => self.wanted = Some(Wanted::All),
            Asked::Prefixes(prefixes) => {
                let absent = |(_, answer): &(&IpNet, &Answer)| answer.well && held::is_absent(&answer.text);
                let absent: BTreeSet<&IpNet> =
                    prefixes.iter().zip(answers).filter(absent).map(|(prefix, _)| prefix).collect();
                if !retained && !absent.is_empty() {
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
        held::summary(&text).unwrap()
    }

    fn prefixes(count: u8) -> BTreeSet<IpNet> {
        (0..count).map(|n| format!("198.51.100.{n}/32").parse().unwrap()).collect()
    }

    fn answer(text: String) -> Answer {
        Answer { well: true, text }
    }

    fn path(prefix: &IpNet, community: &str) -> String {
        format!(
            r#"{{"prefix":"{prefix}","paths":[{{"aspath":{{"string":"1"}},"community":{{"string":"{community}"}},"bestpath":{{"overall":true}}}}]}}"#
        )
    }

    #[test]
    fn no_question_has_an_answer_of_the_size_of_all_services() {
        let now = Instant::now();
        let asn = Asn::parse("65001").unwrap();
        let place = Place { asn, vrf_asn: asn, vrf: VrfName::parse("metallb").unwrap() };
        let (nowhere, mut known) = (Path::new("/nonexistent"), Services::default());
        let mut learner = Learner::new(place, now);
        // A few changes are asked for together, many service by service.
        assert!(learner.heard(summary(MOST_CHANGES, 3), nowhere, &known, false, now));
        assert!(!learner.wants_prefixes());
        assert!(learner.heard(summary(MOST_CHANGES + 1, 200), nowhere, &known, false, now));
        assert!(learner.wants_prefixes());
        learner.take_prefixes(prefixes(200), &mut known, false, now);
        let mut rounds = 0;
        while let Some(at) = learner.deadline() {
            // Nothing listens: what would have been asked is taken for answered.
            let asked: Vec<IpNet> = learner.queue.iter().take(CHUNK).copied().collect();
            assert!(!learner.step(nowhere, &mut known, false, at) || learner.is_idle());
            let answers: Vec<Answer> = asked.iter().map(|prefix| answer(path(prefix, "1:1"))).collect();
            learner.take_in(Asked::Prefixes(asked), &answers, &mut known, false);
            rounds += 1;
        }
        assert_eq!((rounds, known.len()), (200_usize.div_ceil(CHUNK), 200));
        assert!(learner.step(nowhere, &mut known, false, now), "it is to be written down");
        // Nothing has changed since; a new bgpd is asked for everything.
        learner.heard(summary(MOST_CHANGES + 1, 200), nowhere, &known, false, now);
        assert!(learner.is_idle());
        learner.bgpd_is_gone(now);
        learner.heard(summary(2000, 200), nowhere, &known, false, now);
        assert!(learner.wants_prefixes());
        // What the kernel has no route to any more is forgotten, unless it is retained.
        learner.take_prefixes(prefixes(150), &mut known, true, now);
        assert_eq!(known.len(), 200);
        learner.queue.clear();
        learner.heard(summary(2000, 150), nowhere, &known, true, now + LOOK_RARELY);
        assert!(!learner.wants_prefixes());
        learner.heard(summary(2000, 150), nowhere, &known, false, now + LOOK_RARELY);
        learner.take_prefixes(prefixes(150), &mut known, false, now);
        assert_eq!(known.len(), 150);
    }

    #[test]
    fn what_is_withdrawn_or_can_not_be_told_is_forgotten() {
        let now = Instant::now();
        let asn = Asn::parse("65001").unwrap();
        let mut learner =
            Learner::new(Place { asn, vrf_asn: asn, vrf: VrfName::parse("metallb").unwrap() }, now);
        let mut known = Services::default();
        let asked: Vec<IpNet> = prefixes(3).into_iter().collect();
        let told: Vec<Answer> = asked.iter().map(|prefix| answer(path(prefix, "1:1"))).collect();
        let mut take = |answers: &[Answer], known: &mut Services, retained| {
            learner.take_in(Asked::Prefixes(asked.clone()), answers, known, retained);
        };
        take(&told, &mut known, false);
        let gone = [answer("{}".into()), answer(path(&asked[1], "1\\n2")), answer("% no".into())];
        take(&gone, &mut known, true);
        assert_eq!(known.prefixes().collect::<Vec<_>>(), [&asked[0], &asked[2]]);
        take(&gone, &mut known, false);
        assert_eq!(known.prefixes().collect::<Vec<_>>(), [&asked[2]]);
    }
}
