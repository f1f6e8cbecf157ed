//! What daemons run with, held against what they ran with when it was ours: someone may have typed into a vtysh.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::Supervisor;
use super::change::{Enforced, begin_to_enforce};
use super::policy::Event;
use crate::frr::delta::{self, Command, Step};
use crate::frr::vty::{Talk, socket};
use crate::frr::{Daemon, Version};
use crate::printable::first;

/// Between two looks, and more for what takes a daemon long to print: some 5 ms for 100 kB.
const EVERY: Duration = Duration::from_secs(10);
const MORE_PER_BYTE: Duration = Duration::from_micros(50);

/// Answers are looked for when something else wakes us, such as those of a round, and else so often.
const COLLECT: Duration = Duration::from_millis(150);

/// From a change of ours until what a daemon runs with is taken for ours.
const SETTLE: Duration = Duration::from_secs(2);

/// From a repair that failed to the next one; it doubles from there.
const RETRY: Duration = EVERY;
/// It is never longer: who holds the lock of mgmtd leaves some time.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// After so many repairs that changed nothing, or were refused, only a restart can help.
const REFUSALS: u32 = 3;

/// So many changes in a row are each told of; later ones when their number has doubled.
const TOLD: u32 = 5;
/// A daemon that was ours for so long has its next change told of as a first one.
const PEACE: Duration = Duration::from_secs(600);

/// How many lines the log names.
const SHOWN: usize = 20;

/// Those that are configured by vty; what zebra and staticd have, mgmtd shows.
const ASKED: [&str; 3] = ["bgpd", "bfdd", "mgmtd"];

/// What a look or a repair has shown.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Someone else has changed what the daemon runs with: lines, each with `+` or `-`; how many times in a row, and whether the log
    /// is to tell of it.
    Drift(&'static str, Vec<String>, u32, bool),
    /// What puts it right.
    Repair(Repair),
    /// These lines are not put right, for this reason; tried again after this.
    Failed(&'static str, Vec<String>, String, Duration),
    /// It runs with ours again; whether the log is to tell of it.
    Right(&'static str, bool),
}

/// What puts a daemon right.
#[derive(Debug, PartialEq, Eq)]
pub enum Repair {
    /// These commands.
    Commands(Step),
    /// Nothing but a new process.
    Restart(&'static str),
}

/// A daemon that runs with something else.
#[derive(Debug)]
struct Open {
    lines: Vec<String>,
    told: bool,
    /// Repairs that failed, in a row.
    failures: u32,
    /// Those of them that the daemon had a fair chance at.
    refusals: u32,
    /// Nothing is done before.
    not_before: Instant,
    /// Why the last one failed.
    reason: Option<String>,
}

/// The looks.
#[derive(Debug)]
pub struct Drift {
    version: Version,
    ours: BTreeMap<&'static str, String>,
    asking: Vec<(&'static str, Talk)>,
    /// Questions without a purpose. They end when no one configures anything: see `Supervisor::over`.
    over: Vec<(&'static str, Talk)>,
    open: BTreeMap<&'static str, Open>,
    /// When each daemon was restarted for a change last, and how often in a row.
    restarts: BTreeMap<&'static str, (Instant, u32)>,
    /// How many changes each daemon has had in a row, and when the last of them was seen.
    times: BTreeMap<&'static str, (u32, Instant)>,
    at: Instant,
    collect_at: Instant,
}

impl Drift {
    /// Nothing is known yet.
    pub fn new(version: Version, now: Instant) -> Self {
        Self {
            version,
            ours: BTreeMap::new(),
            asking: vec![],
            over: vec![],
            open: BTreeMap::new(),
            times: BTreeMap::new(),
            restarts: BTreeMap::new(),
            at: now + SETTLE,
            collect_at: now,
        }
    }

    /// The daemon has another configuration of ours now, or is another process.
    pub fn forget(&mut self, daemon: &str, now: Instant) {
        self.ours.remove(daemon);
        self.open.remove(daemon);
        self.over.extend(self.asking.extract_if(.., |(asked, _)| *asked == daemon));
        self.at = self.at.min(now + SETTLE);
    }

    /// The same for all of them.
    pub fn forget_all(&mut self, now: Instant) {
        ASKED.into_iter().for_each(|daemon| self.forget(daemon, now));
    }

    /// When to go on. A look begins when a round of questions wakes us anyway.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.asking.is_empty()).then_some(self.collect_at)
    }

    /// Goes on with it. While all is not `quiet`, what daemons run with is not ours alone. `enforce`: what differs is to be put right.
    pub fn step(
        &mut self,
        quiet: bool,
        enforce: bool,
        daemons: &[&'static Daemon],
        now: Instant,
    ) -> Vec<News> {
        if !quiet {
            self.over.append(&mut self.asking);
            self.at = self.at.max(now + SETTLE);
            return vec![];
        }
        self.over.clear();
        self.collect_at = now + COLLECT;
        if self.at <= now {
            self.at = now + EVERY;
            let asked = daemons.iter().map(|daemon| daemon.name).filter(|name| ASKED.contains(name));
            let begin = |name: &'static str| {
                Some((name, Talk::show(&socket(name), ["enable", "show running-config"]).ok()?))
            };
            self.asking = asked.filter_map(begin).collect();
        }
        let mut news = vec![];
        for (daemon, mut talk) in std::mem::take(&mut self.asking) {
            match talk.receive() {
                Ok(None) => self.asking.push((daemon, talk)),
                Ok(Some(answers)) => {
                    if let Some(running) = answers.into_iter().nth(1).filter(|answer| answer.well) {
                        let length = u32::try_from(running.text.len()).unwrap_or(u32::MAX);
                        self.at += MORE_PER_BYTE.saturating_mul(length);
                        news.extend(self.seen(daemon, running.text, enforce, now));
                    }
                    self.over.push((daemon, talk));
                }
                Err(_) => {}
            }
        }
        news
    }

    fn seen(&mut self, daemon: &'static str, running: String, enforce: bool, now: Instant) -> Vec<News> {
        if !self.ours.contains_key(daemon) {
            self.ours.insert(daemon, running);
            return vec![];
        }
        let Some((lines, commands)) = self.differs(daemon, &running) else {
            return self.right(daemon).into_iter().collect();
        };
        let mut news = vec![];
        if self.open.get(daemon).is_none_or(|open| open.lines != lines) {
            let (times, last) = self.times.get(daemon).copied().unwrap_or((0, now));
            let times = if now - last < PEACE { times.saturating_add(1) } else { 1 };
            self.times.insert(daemon, (times, now));
            let told = times <= TOLD || times.is_power_of_two();
            news.push(News::Drift(daemon, lines.clone(), times, told));
            let open = Open { lines, told, failures: 0, refusals: 0, not_before: now, reason: None };
            self.open.insert(daemon, open);
        }
        if let Some(open) = self.open.get(daemon).filter(|open| enforce && open.not_before <= now) {
            match commands {
                Some(commands) if open.refusals < REFUSALS => {
                    news.push(News::Repair(Repair::Commands(Step { daemon, commands })));
                }
                _ => news.push(self.restart(daemon, now)),
            }
        }
        news
    }

    /// Someone who goes on is no reason to restart it for ever: it is done ever less often.
    fn restart(&mut self, daemon: &'static str, now: Instant) -> News {
        let (last, times) = self.restarts.get(daemon).copied().unwrap_or((now, 0));
        let wait = doubled(times).min(PEACE);
        let since = now - last;
        if times > 0
            && since < wait
            && let Some(open) = self.open.get_mut(daemon)
        {
            open.not_before = last + wait;
            let reason = format!("{daemon} was restarted for such a change {} s ago", since.as_secs());
            return News::Failed(daemon, open.lines.clone(), reason, wait - since);
        }
        self.restarts.insert(daemon, (now, if since < 2 * PEACE { times + 1 } else { 1 }));
        News::Repair(Repair::Restart(daemon))
    }

    /// Lines that tell what the daemon runs with from ours, and what leads back; `None` if it is the same.
    fn differs(&self, daemon: &str, running: &str) -> Option<(Vec<String>, Option<Vec<Command>>)> {
        let ours = self.ours.get(daemon).filter(|ours| *ours != running)?;
        let (lines, commands) = delta::drift(daemon, running, ours, self.version);
        (!lines.is_empty()).then_some((lines, commands))
    }

    fn right(&mut self, daemon: &'static str) -> Option<News> {
        self.open.remove(daemon).map(|open| News::Right(daemon, open.told))
    }

    /// A repair by commands is over: what the daemon runs with now, or why it failed.
    pub fn enforced(&mut self, enforced: Enforced, now: Instant) -> Option<News> {
        let Enforced { daemon, result } = enforced;
        let (reason, passes) = match result {
            Ok(running) if self.differs(daemon, &running).is_none() => return self.right(daemon),
            Ok(_) => ("it took all commands and runs with something else all the same".into(), false),
            Err(failure) => failure,
        };
        let open = self.open.get_mut(daemon)?;
        let wait = doubled(open.failures).min(LONGEST_RETRY);
        open.failures = open.failures.saturating_add(1);
        open.refusals += u32::from(!passes);
        open.not_before = now + wait;
        self.at = self.at.min(open.not_before);
        let told = open.reason.replace(reason.clone());
        (told.as_ref() != Some(&reason)).then(|| News::Failed(daemon, open.lines.clone(), reason, wait))
    }
}

/// [`RETRY`], doubled so often.
fn doubled(times: u32) -> Duration {
    RETRY.saturating_mul(1 << times.min(8))
}

impl Supervisor<'_> {
    /// Looks whether daemons still run with what is ours.
    pub(super) fn watch_for_drift(&mut self, events: &mut VecDeque<Event>, now: Instant) {
        let mut news = vec![];
        if let Some(task) = self.enforcing.take_if(|task| task.is_over()) {
            // Without an answer the next look sees what came of it.
            news.extend(task.join().and_then(|enforced| self.drift.enforced(enforced, now)));
        }
        let holds = self.hold.is_under_way() || self.released.is_some() || self.farewell.is_some();
        let configuring = self.is_configuring() || !self.to_enforce.is_empty();
        let quiet = self.policy.is_complete() && !configuring && !holds;
        let enforce = self.node.config.enforce;
        news.extend(self.drift.step(quiet, enforce, &self.daemons, now));
        for news in news {
            self.take_drift(news, enforce, events);
        }
        if !self.is_configuring()
            && let Some(step) = self.to_enforce.pop_front()
        {
            self.enforcing = begin_to_enforce(step).inspect_err(|e| log::error!("{e}")).ok();
        }
    }

    fn take_drift(&mut self, news: News, enforce: bool, events: &mut VecDeque<Event>) {
        match news {
            News::Right(daemon, told) => {
                let level = if told { log::Level::Info } else { log::Level::Debug };
                log::log!(level, "{daemon} runs with our configuration again");
                self.board.tell(|local| drop(local.drift.remove(daemon)));
            }
            News::Drift(daemon, lines, times, told) => {
                let level = if told { log::Level::Warn } else { log::Level::Debug };
                let again =
                    if times > 1 { format!(" again ({times} times in a row)") } else { String::new() };
                let then = if enforce { "putting it right" } else { "left so, see ENFORCE_CONFIG" };
                log::log!(
                    level,
                    "{daemon}'s configuration was changed by someone else{again}: {}; {then}",
                    first(SHOWN, &lines)
                );
                // What is put right at once is no problem.
                if !enforce {
                    self.board.tell(|local| drop(local.drift.insert(daemon.into(), lines)));
                }
            }
            News::Repair(Repair::Commands(step)) => self.to_enforce.push_back(step),
            News::Repair(Repair::Restart(daemon)) => {
                log::warn!("{daemon} can't be put right by commands: it starts anew");
                events.extend(self.renewed_with(daemon));
            }
            News::Failed(daemon, lines, reason, wait) => {
                log::error!(
                    "what someone else changed of {daemon}'s configuration can't be put right: {reason}; it is tried again in \
                     {} s, and after {REFUSALS} refusals by a restart",
                    wait.as_secs()
                );
                self.board.tell(|local| drop(local.drift.insert(daemon.into(), lines)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "frr version 10.7\n!\nrouter bgp 1\n neighbor 10.0.0.1 remote-as 2\n neighbor 10.0.0.1 password x\nexit\n";

    fn typed(line: &str) -> String {
        OURS.replace("remote-as 2\n", &format!("remote-as 2\n {line}\n"))
    }

    fn known(now: Instant) -> Drift {
        let mut drift = Drift::new(Version(10, 7), now);
        assert_eq!(drift.seen("bgpd", OURS.into(), true, now), []);
        drift
    }

    fn words(news: &[News]) -> Vec<&str> {
        news.iter()
            .map(|news| match news {
                News::Drift(_, _, _, true) => "drift",
                News::Drift(_, _, _, false) => "drift, not told",
                News::Repair(Repair::Commands(_)) => "commands",
                News::Repair(Repair::Restart(_)) => "restart",
                News::Failed(..) => "failed",
                News::Right(_, true) => "right",
                News::Right(_, false) => "right, not told",
            })
            .collect()
    }

    fn enforced(drift: &mut Drift, result: Result<&str, (&str, bool)>, now: Instant) -> Vec<News> {
        let result = result.map(str::to_owned).map_err(|(reason, passes)| (reason.to_owned(), passes));
        drift.enforced(Enforced { daemon: "bgpd", result }, now).into_iter().collect()
    }

    #[test]
    fn a_line_is_reported_once_with_what_undoes_it() {
        let now = Instant::now();
        let mut drift = known(now);
        let other = typed("neighbor 10.0.0.1 shutdown").replace("password x", "password y");
        let news = drift.seen("bgpd", other.clone(), true, now);
        let [News::Drift("bgpd", lines, 1, true), News::Repair(Repair::Commands(step))] = &news[..] else {
            panic!("{news:?}")
        };
        assert_eq!(
            *lines,
            [
                "+ router bgp 1: neighbor 10.0.0.1 password …",
                "+ router bgp 1: neighbor 10.0.0.1 shutdown",
                "- router bgp 1: neighbor 10.0.0.1 password …"
            ]
        );
        let commands: Vec<&str> = step.commands.iter().map(|command| command.text.as_str()).collect();
        assert_eq!(
            commands,
            ["router bgp 1", "no neighbor 10.0.0.1 shutdown", "neighbor 10.0.0.1 password x", "exit"]
        );
        // No one puts it right: it is told of once, until it is gone.
        let mut drift = known(now);
        assert_eq!(words(&drift.seen("bgpd", other.clone(), false, now)), ["drift"]);
        assert_eq!(drift.seen("bgpd", other.clone(), false, now), []);
        assert_eq!(words(&drift.seen("bgpd", OURS.into(), false, now)), ["right"]);
        assert_eq!(words(&drift.seen("bgpd", other.clone(), false, now)), ["drift"]);
        // After a change of ours it is ours.
        drift.forget("bgpd", now);
        assert_eq!(drift.seen("bgpd", other, false, now), []);
    }

    #[test]
    fn what_is_typed_again_is_put_right_again() {
        let mut now = Instant::now();
        let mut drift = known(now);
        let other = typed("neighbor 10.0.0.1 shutdown");
        for times in 1..=TOLD {
            assert_eq!(
                words(&drift.seen("bgpd", other.clone(), true, now)),
                ["drift", "commands"],
                "{times}"
            );
            assert_eq!(words(&enforced(&mut drift, Ok(OURS), now)), ["right"]);
            now += EVERY;
        }
        // However often; but the log is not filled with it.
        let mut told = 0;
        for _ in 0..1000 {
            let news = drift.seen("bgpd", other.clone(), true, now);
            assert_eq!(words(&news)[1..], ["commands"]);
            told += usize::from(words(&news)[0] == "drift");
            enforced(&mut drift, Ok(OURS), now);
            now += EVERY;
        }
        assert_eq!(told, 7, "at 8, 16, … 512");
        now += PEACE;
        let news = drift.seen("bgpd", other, true, now);
        assert!(matches!(news[0], News::Drift("bgpd", _, 1, true)), "{news:?}");
    }

    #[test]
    fn what_fails_is_tried_again_less_and_less_often() {
        let mut now = Instant::now();
        let mut drift = known(now);
        let other = typed("neighbor 10.0.0.1 shutdown");
        let mut waits = vec![];
        assert_eq!(words(&drift.seen("bgpd", other.clone(), true, now)), ["drift", "commands"]);
        for attempt in 0..10 {
            let news = enforced(&mut drift, Err(("bgpd: could not lock", true)), now);
            assert_eq!(words(&news), if attempt == 0 { vec!["failed"] } else { vec![] });
            assert!(drift.at <= now + LONGEST_RETRY);
            let begin = now;
            loop {
                now += Duration::from_secs(1);
                let news = drift.seen("bgpd", other.clone(), true, now);
                if words(&news) == ["commands"] {
                    break;
                }
                assert_eq!(news, []);
            }
            waits.push(now - begin);
        }
        assert_eq!(waits[..3], [RETRY, 2 * RETRY, LONGEST_RETRY]);
        assert_eq!(waits[9], LONGEST_RETRY);
        assert_eq!(words(&enforced(&mut drift, Ok(OURS), now)), ["right"]);
        // What is another change is put right at once.
        drift.seen("bgpd", other.clone(), true, now);
        enforced(&mut drift, Err(("bgpd: could not lock", true)), now);
        let more = typed("neighbor 10.0.0.1 passive");
        assert_eq!(words(&drift.seen("bgpd", more, true, now)), ["drift", "commands"]);
    }

    #[test]
    fn what_no_command_puts_right_takes_a_new_process() {
        let mut now = Instant::now();
        let mut drift = known(now);
        let other = typed("neighbor 10.0.0.1 shutdown");
        for _ in 0..REFUSALS {
            assert!(words(&drift.seen("bgpd", other.clone(), true, now)).contains(&"commands"));
            enforced(&mut drift, Ok(&other), now);
            now += LONGEST_RETRY;
        }
        assert_eq!(words(&drift.seen("bgpd", other, true, now)), ["restart"]);
        drift.forget("bgpd", now);
        // Another AS number; what is in a context that is not known.
        for other in [OURS.replace("bgp 1", "bgp 2"), format!("{OURS}key chain a\n key 1\n exit\nexit\n")] {
            let mut drift = known(now);
            assert_eq!(words(&drift.seen("bgpd", other.clone(), false, now)), ["drift"]);
            assert_eq!(words(&drift.seen("bgpd", other.clone(), true, now)), ["restart"]);
            // It is typed again as soon as the next one runs, for an hour.
            let mut restarts = 1;
            for _ in 0..360 {
                now += EVERY;
                drift.forget("bgpd", now);
                drift.seen("bgpd", OURS.into(), true, now);
                restarts +=
                    u32::from(words(&drift.seen("bgpd", other.clone(), true, now)).contains(&"restart"));
            }
            assert!((10..=14).contains(&restarts), "{restarts}");
        }
    }

    #[test]
    fn a_context_that_is_not_known_and_stays_keeps_nothing_from_being_put_right() {
        let now = Instant::now();
        let with = |text: &str| {
            format!("{text}rpki\n rpki polling_period 60\nexit\n!\nkey chain a\n key 1\n exit\nexit\n")
        };
        let mut drift = Drift::new(Version(10, 7), now);
        assert_eq!(drift.seen("bgpd", with(OURS), true, now), []);
        let news = drift.seen("bgpd", with(&typed("neighbor 10.0.0.1 shutdown")), true, now);
        let [News::Drift(_, lines, ..), News::Repair(Repair::Commands(_))] = &news[..] else {
            panic!("{news:?}")
        };
        assert_eq!(*lines, ["+ router bgp 1: neighbor 10.0.0.1 shutdown"]);
    }

    #[test]
    fn an_empty_context_may_be_a_change() {
        let now = Instant::now();
        let mut drift = known(now);
        for more in ["route-map a permit 5\nexit\n", "router bgp 1 vrf x\nexit\n"] {
            let news = drift.seen("bgpd", format!("{OURS}{more}"), true, now);
            let head = more.lines().next().unwrap();
            let [News::Drift(_, lines, ..), News::Repair(Repair::Commands(step))] = &news[..] else {
                panic!("{news:?}")
            };
            assert_eq!(*lines, [format!("+ {head}")]);
            assert_eq!(step.commands[0].text, format!("no {head}"));
        }
        for more in ["interface eth9\nexit\n", "vrf x\nexit-vrf\n", "bfd\nexit\n"] {
            assert!(
                !words(&drift.seen("bgpd", format!("{OURS}{more}"), true, now)).contains(&"drift"),
                "{more}"
            );
        }
    }

    #[test]
    fn peers_that_bfdd_is_given_are_no_drift() {
        let now = Instant::now();
        let mut drift = Drift::new(Version(10, 7), now);
        let ours = "bfd\n profile p\n exit\n !\n peer fe80::1 interface eth1\n  profile p\n exit\nexit\n";
        drift.seen("bfdd", ours.into(), true, now);
        assert_eq!(drift.seen("bfdd", ours.replace("fe80::1", "fe80::2"), true, now), []);
    }
}
