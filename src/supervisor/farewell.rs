//! A stop for good: the peers send traffic elsewhere before the sessions end.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde_json::{Map, Value};

use crate::frr::delta::opens_default;
use crate::frr::neighbors::{QUESTION, is_established};
use crate::frr::vty::{Answer, CONFIGURE, Talk};

/// bgpd's messages may take so long to reach the peers.
const LIMIT: Duration = Duration::from_secs(1);

/// bgpd may take so long to shut all sessions down: some milliseconds for each, and there may be hundreds.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);

/// A bgpd that is new has no sessions yet, and without them nothing can be withdrawn: they are waited for. Talos ends us 10 s after
/// its SIGTERM.
const SESSIONS_LIMIT: Duration = Duration::from_secs(4);

/// All of it ends within so long, since Talos' patience is for the daemons' end, too.
const WHOLE_LIMIT: Duration = Duration::from_secs(8);

/// How often it is asked about them.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A graceful shutdown under way: first every route gets the community `GRACEFUL_SHUTDOWN` (RFC 8326), which makes a peer prefer
/// any other path; then every session is shut down, which ends it with a notification after which the peer keeps nothing,
/// graceful restart or not (RFC 8538 §4; `bgp hard-administrative-reset`, on by default). Should bgpd end meanwhile, its peers
/// keep everything: it begins again with the next one, as far as there is time.
#[derive(Debug)]
pub struct Farewell {
    socket: PathBuf,
    stage: Stage,
    drain: Duration,
    prefer_others: Vec<String>,
    shutdown: Vec<String>,
    talk: Option<Talk>,
    next: Instant,
    /// When the drain is over at the latest.
    drained: Instant,
    /// The process that this is said to, if one answers.
    bgpd: Option<Pid>,
    /// Those without a session when it was last looked, of a bgpd that has any; `None`: it was not.
    absent: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The sessions come up, until then.
    Sessions(Instant),
    Drain,
    /// The sessions end, or are given up then.
    Shutdown(Instant),
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every session was ended; these peers of a new bgpd had none.
    Told(Vec<String>),
    /// bgpd was away, or did not answer in time.
    NotTold,
}

impl Farewell {
    /// Begins it with the bgpd that listens at `socket` and runs `text`, in process `bgpd` if it answers; one that is not `settled`
    /// has no sessions yet.
    pub fn begin(
        socket: PathBuf,
        text: &str,
        drain: Duration,
        bgpd: Option<Pid>,
        settled: bool,
        now: Instant,
    ) -> Self {
        let (prefer_others, shutdown) = commands(text);
        let stage = Stage::Sessions(if settled { now } else { now + SESSIONS_LIMIT });
        let drained = now + (WHOLE_LIMIT - LIMIT);
        let (talk, next, absent) = (None, now, settled.then(Vec::new));
        let mut begun =
            Self { socket, stage, drain, prefer_others, shutdown, talk, next, drained, bgpd, absent };
        if settled {
            begun.drain(now);
        }
        begun
    }

    /// When to look again.
    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// What to poll.
    pub fn talk(&self) -> Option<&Talk> {
        self.talk.as_ref()
    }

    /// Goes on with it, with the bgpd in process `bgpd` if one answers. How it has ended, if it has.
    pub fn step(&mut self, bgpd: Option<Pid>, now: Instant) -> Option<Outcome> {
        if bgpd != self.bgpd {
            if self.bgpd.is_some() {
                log::warn!(
                    "bgpd has ended while its peers were being told of the stop: its successor tells them"
                );
            }
            self.bgpd = bgpd;
            self.stage = Stage::Sessions((now + SESSIONS_LIMIT).min(self.drained));
            (self.talk, self.next, self.absent) = (None, now, None);
        }
        let answers = match self.talk.as_mut().map(Talk::receive) {
            None | Some(Ok(None)) => None,
            Some(result) => {
                self.talk = None;
                result.ok().flatten()
            }
        };
        match self.stage {
            Stage::Sessions(until) => {
                let neighbors = answers.as_deref().and_then(neighbors).filter(|all| !all.is_empty());
                if let Some(neighbors) = neighbors {
                    let absent = self.absent.insert(absent(&neighbors));
                    if absent.is_empty() {
                        self.drain(now);
                        return None;
                    }
                }
                if now >= until {
                    self.drain(now);
                } else if now >= self.next {
                    if self.talk.is_none() {
                        self.talk = Talk::show(&self.socket, [QUESTION]).ok();
                    }
                    self.next = (now + ASK_EVERY).min(until);
                }
                None
            }
            Stage::Shutdown(_) if answers.is_some() => {
                let well = answers.is_some_and(|answers| answers.iter().all(|answer| answer.well));
                Some(self.absent.take().filter(|_| well).map_or(Outcome::NotTold, Outcome::Told))
            }
            _ if now < self.next => None,
            Stage::Drain => {
                self.stage = Stage::Shutdown((now + SHUTDOWN_LIMIT).min(self.drained.max(now) + LIMIT));
                self.talk = Talk::begin(&self.socket, &self.shutdown).ok();
                self.next = now + LIMIT;
                self.talk.is_none().then_some(Outcome::NotTold)
            }
            Stage::Shutdown(until) if self.talk.is_some() && now < until => {
                self.next = (now + ASK_EVERY).min(until);
                None
            }
            Stage::Shutdown(_) => Some(Outcome::NotTold),
        }
    }

    fn drain(&mut self, now: Instant) {
        self.stage = Stage::Drain;
        self.talk = Talk::begin(&self.socket, &self.prefer_others).ok();
        self.next = if self.talk.is_some() { (now + self.drain).min(self.drained.max(now)) } else { now };
    }
}

/// The neighbors of the default VRF, as bgpd has answered.
fn neighbors(answers: &[Answer]) -> Option<Map<String, Value>> {
    serde_json::from_str(&answers.first()?.text).ok()
}

/// Those whose session is not up.
fn absent(neighbors: &Map<String, Value>) -> Vec<String> {
    let down = neighbors.iter().filter(|(_, neighbor)| !is_established(neighbor));
    down.map(|(name, _)| name.clone()).collect()
}

/// Lines at the margin that may be in a BGP instance all the same: FRR does not look at the indentation.
const OF_INSTANCE: [&str; 9] =
    ["!", "address-family ", "bgp ", "bmp ", "exit-", "neighbor ", "network ", "no ", "segment-routing "];

/// The BGP instances of frr.conf, with their neighbors. The text may have anything in it, and nothing there keeps a neighbor from being
/// found.
fn instances(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut instances: Vec<(&str, Vec<&str>)> = vec![];
    let mut open = None;
    for line in text.lines() {
        if line.starts_with("router bgp ") {
            let head = line.trim_end();
            // One that is opened once more goes on.
            open = instances.iter().position(|(other, _)| *other == head).or_else(|| {
                instances.push((head, vec![]));
                Some(instances.len() - 1)
            });
        } else if !line.starts_with([' ', '\t'])
            && !line.is_empty()
            && !OF_INSTANCE.iter().any(|words| line.starts_with(words))
        {
            open = None;
        } else if let Some(rest) = line.trim_start().strip_prefix("neighbor ")
            && let Some(name) = rest.split(' ').next()
            && let Some((_, neighbors)) = open.map(|at| &mut instances[at])
            && !neighbors.contains(&name)
        {
            neighbors.push(name);
        }
    }
    instances
}

/// The commands for both halves, for every BGP instance and neighbor of frr.conf. The default instance comes first: the leaves are
/// its neighbors, and all else is reached by them.
fn commands(text: &str) -> (Vec<String>, Vec<String>) {
    let begin = || CONFIGURE.map(str::to_owned).to_vec();
    let (mut prefer_others, mut shutdown) = (begin(), begin());
    let (first, others): (Vec<_>, Vec<_>) =
        instances(text).into_iter().partition(|(head, _)| opens_default(head));
    for (head, neighbors) in first.into_iter().chain(others) {
        prefer_others.extend([head, "bgp graceful-shutdown", "exit"].map(str::to_owned));
        shutdown.push(head.to_owned());
        shutdown.extend(neighbors.into_iter().map(|name| format!("neighbor {name} shutdown")));
        shutdown.push("exit".to_owned());
    }
    (prefer_others, shutdown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_bgpd_has_time_for_its_sessions() {
        let answer = |text: &str| {
            let answers = [Answer { well: true, text: text.into() }];
            neighbors(&answers).map(|all| (all.len(), absent(&all)))
        };
        assert_eq!((answer("{}"), answer("")), (Some((0, vec![])), None));
        let (up, down) = (r#"{"bgpState":"Established"}"#, r#"{"bgpState":"Active"}"#);
        assert_eq!(answer(&format!(r#"{{"eth1":{up},"eth2":{down}}}"#)), Some((2, vec!["eth2".into()])));

        let pid = Pid::from_raw;
        // One that does not even listen: the loop sleeps in between, and there is an end.
        let now = Instant::now();
        let (text, drain) = ("router bgp 1\n neighbor eth1 interface\nexit\n", Duration::from_secs(3));
        let mut farewell = Farewell::begin("/nonexistent".into(), text, drain, None, false, now);
        let run = |farewell: &mut Farewell, mut at: Instant, bgpd| {
            let mut turns = 0;
            loop {
                if let Some(outcome) = farewell.step(bgpd, at) {
                    assert_eq!(outcome, Outcome::NotTold);
                    assert!(turns < 100, "{turns}");
                    return at;
                }
                assert!(farewell.deadline() > at || farewell.stage == Stage::Drain);
                (at, turns) = (farewell.deadline(), turns + 1);
            }
        };
        assert_eq!(run(&mut farewell, now, None), now + SESSIONS_LIMIT);

        // One that ends has a successor that has time for the same; all of it has an end.
        let second = Duration::from_secs(1);
        let mut farewell = Farewell::begin("/nonexistent".into(), text, drain, pid(1), false, now);
        assert_eq!(farewell.step(pid(1), now), None);
        assert_eq!(farewell.step(None, now + second), None);
        assert_eq!(farewell.step(pid(2), now + 2 * second), None);
        assert_eq!(farewell.stage, Stage::Sessions(now + 2 * second + SESSIONS_LIMIT));
        assert_eq!(farewell.step(pid(3), now + 5 * second), None);
        assert_eq!(run(&mut farewell, now + 5 * second, pid(3)), now + (WHOLE_LIMIT - LIMIT));
    }

    #[test]
    fn every_neighbor_of_every_instance_hears_of_it() {
        let text = "router bgp 1 vrf m\n neighbor fd00::1 remote-as 2\n neighbor fd00::1 timers 3 9\n !\n \
                    address-family ipv4 unicast\n  neighbor fd00::1 activate\nexit\n!\nrouter bgp 3\n \
                    neighbor fabric peer-group\n neighbor eth1 interface peer-group fabric\nexit\nbfd\n neighbor x y\nexit\n";
        let (first, second) = commands(text);
        let begin = ["enable", "configure terminal"];
        let gshut = "bgp graceful-shutdown";
        assert_eq!(first[2..], ["router bgp 3", gshut, "exit", "router bgp 1 vrf m", gshut, "exit"]);
        assert_eq!(second[..2], begin);
        assert_eq!(
            second[2..],
            [
                "router bgp 3",
                "neighbor fabric shutdown",
                "neighbor eth1 shutdown",
                "exit",
                "router bgp 1 vrf m",
                "neighbor fd00::1 shutdown",
                "exit"
            ]
        );
        // However far it is indented.
        let (_, shutdown) = commands("router bgp 3\n   neighbor 192.0.2.1 remote-as 4\nexit\n");
        assert_eq!(shutdown[3], "neighbor 192.0.2.1 shutdown");
        // Whatever else there is.
        let text = "segment-routing\n srv6\n  x\n exit\nexit\nrouter bgp 3\n bmp targets x\n  y\n exit\n neighbor a interface\nexit\n\
                    rpki\n rpki cache x\nexit\nrouter bgp 3\nneighbor b interface\nrouter bgp 4 vrf x\n neighbor c interface\n\
                    interface eth0\n link-params\n  neighbor d x\n exit-link-params\nexit\n";
        let (_, shutdown) = commands(text);
        let neighbors: Vec<_> = shutdown.iter().filter(|line| line.starts_with("neighbor ")).collect();
        assert_eq!(neighbors, ["neighbor a shutdown", "neighbor b shutdown", "neighbor c shutdown"]);
    }
}
