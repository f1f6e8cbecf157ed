//! What daemons run with, held against what they ran with when it was ours: someone may have typed into a vtysh.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::frr::delta::{self, Step};
use crate::frr::vty::{Talk, socket};
use crate::frr::{Daemon, Version};

/// Between two looks, and more for what takes a daemon long to print: some 5 ms for 100 kB.
const EVERY: Duration = Duration::from_secs(10);
const MORE_PER_BYTE: Duration = Duration::from_micros(50);

/// Answers are looked for when something else wakes us, such as those of a round, and else so often.
const COLLECT: Duration = Duration::from_millis(150);

/// From a change of ours until what a daemon runs with is taken for ours.
const SETTLE: Duration = Duration::from_secs(2);

/// Those that are configured by vty; what zebra and staticd have, mgmtd shows.
const ASKED: [&str; 3] = ["bgpd", "bfdd", "mgmtd"];

/// What a look has found.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// The daemon runs with something else: lines, each with `+` or `-`, and the commands that put it right.
    Drift(&'static str, Vec<String>, Step),
    /// It runs with ours again.
    Right(&'static str),
}

/// The looks.
#[derive(Debug)]
pub struct Drift {
    version: Version,
    ours: BTreeMap<&'static str, String>,
    asking: Vec<(&'static str, Talk)>,
    /// Questions without a purpose. They end when no one configures anything: see `Supervisor::over`.
    over: Vec<(&'static str, Talk)>,
    said: BTreeMap<&'static str, Vec<String>>,
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
            said: BTreeMap::new(),
            at: now + SETTLE,
            collect_at: now,
        }
    }

    /// The daemon has another configuration of ours now, or is another process.
    pub fn forget(&mut self, daemon: &str, now: Instant) {
        self.ours.remove(daemon);
        self.said.remove(daemon);
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

    /// Goes on with it. While all is not `quiet`, what daemons run with is not ours alone.
    pub fn step(&mut self, quiet: bool, daemons: &[&'static Daemon], now: Instant) -> Vec<News> {
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
                        news.extend(self.seen(daemon, running.text));
                    }
                }
                Err(_) => {}
            }
        }
        news
    }

    fn seen(&mut self, daemon: &'static str, running: String) -> Option<News> {
        let Some(ours) = self.ours.get(daemon) else {
            self.ours.insert(daemon, running);
            return None;
        };
        if *ours == running {
            return self.said.remove(daemon).map(|_| News::Right(daemon));
        }
        let (lines, commands) = delta::drift(daemon, &running, ours, self.version)?;
        if lines.is_empty() {
            return self.said.remove(daemon).map(|_| News::Right(daemon));
        }
        let again = self.said.insert(daemon, lines.clone()).is_some_and(|before| before == lines);
        (!again).then_some(News::Drift(daemon, lines, Step { daemon, commands }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_reported_once_with_what_undoes_it() {
        let now = Instant::now();
        let mut drift = Drift::new(Version(10, 7), now);
        let ours = "frr version 10.7\n!\nrouter bgp 1\n neighbor 10.0.0.1 remote-as 2\n neighbor 10.0.0.1 password x\nexit\n";
        let other = ours
            .replace("remote-as 2\n", "remote-as 2\n neighbor 10.0.0.1 shutdown\n")
            .replace("password x", "password y");
        assert_eq!(drift.seen("bgpd", ours.into()), None);
        let Some(News::Drift("bgpd", lines, step)) = drift.seen("bgpd", other.clone()) else { panic!() };
        assert_eq!(
            lines,
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
        assert_eq!(drift.seen("bgpd", other.clone()), None);
        assert_eq!(drift.seen("bgpd", ours.into()), Some(News::Right("bgpd")));
        // After a change of ours it is ours.
        drift.forget("bgpd", now);
        assert_eq!(drift.seen("bgpd", other), None);
    }

    #[test]
    fn peers_that_bfdd_is_given_are_no_drift() {
        let mut drift = Drift::new(Version(10, 7), Instant::now());
        let ours = "bfd\n profile p\n exit\n !\n peer fe80::1 interface eth1\n  profile p\n exit\nexit\n";
        drift.seen("bfdd", ours.into());
        assert_eq!(drift.seen("bfdd", ours.replace("fe80::1", "fe80::2")), None);
    }
}
