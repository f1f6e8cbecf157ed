//! A stop for good: the peers send traffic elsewhere before the sessions end.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

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
/// graceful restart or not (RFC 8538 §4; `bgp hard-administrative-reset`, on by default).
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The sessions come up, until then.
    Sessions(Instant),
    Drain,
    /// The sessions end, or are given up then.
    Shutdown(Instant),
}

impl Farewell {
    /// Begins it with the bgpd that listens at `socket` and runs `text`; one that is not `settled` has no sessions yet.
    pub fn begin(socket: PathBuf, text: &str, drain: Duration, settled: bool, now: Instant) -> Self {
        let (prefer_others, shutdown) = commands(text);
        let stage = Stage::Sessions(if settled { now } else { now + SESSIONS_LIMIT });
        let drained = now + (WHOLE_LIMIT - LIMIT);
        let mut begun =
            Self { socket, stage, drain, prefer_others, shutdown, talk: None, next: now, drained };
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

    /// Goes on with it. Whether everything was said.
    pub fn is_over(&mut self, now: Instant) -> bool {
        let answers = match self.talk.as_mut().map(Talk::receive) {
            None | Some(Ok(None)) => None,
            Some(result) => {
                self.talk = None;
                result.ok().flatten()
            }
        };
        match self.stage {
            Stage::Sessions(until) => {
                if now >= until || answers.is_some_and(|answers| all_established(&answers)) {
                    self.drain(now);
                } else if now >= self.next {
                    if self.talk.is_none() {
                        self.talk = Talk::show(&self.socket, [QUESTION]).ok();
                    }
                    self.next = (now + ASK_EVERY).min(until);
                }
                false
            }
            _ if now < self.next => false,
            Stage::Drain => {
                self.stage = Stage::Shutdown((now + SHUTDOWN_LIMIT).min(self.drained.max(now) + LIMIT));
                self.talk = Talk::begin(&self.socket, std::mem::take(&mut self.shutdown)).ok();
                self.next = now + LIMIT;
                self.talk.is_none()
            }
            Stage::Shutdown(until) if self.talk.is_some() && now < until => {
                self.next = (now + ASK_EVERY).min(until);
                false
            }
            Stage::Shutdown(_) => true,
        }
    }

    fn drain(&mut self, now: Instant) {
        self.stage = Stage::Drain;
        self.talk = Talk::begin(&self.socket, std::mem::take(&mut self.prefer_others)).ok();
        self.next = if self.talk.is_some() { (now + self.drain).min(self.drained.max(now)) } else { now };
    }
}

/// Whether the default VRF has sessions, and none that is not up.
fn all_established(answers: &[Answer]) -> bool {
    let all = answers.first().and_then(|answer| serde_json::from_str::<Value>(&answer.text).ok());
    let neighbors = all.as_ref().and_then(Value::as_object);
    neighbors.is_some_and(|all| !all.is_empty() && all.values().all(is_established))
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
        let answer = |text: &str| vec![Answer { well: true, text: text.into() }];
        assert!(!all_established(&answer("{}")) && !all_established(&answer("")));
        assert!(!all_established(&answer(
            r#"{"eth1":{"bgpState":"Established"},"eth2":{"bgpState":"Active"}}"#
        )));
        assert!(all_established(&answer(r#"{"eth1":{"bgpState":"Established"}}"#)));

        // One that does not even listen: the loop sleeps in between, and there is an end.
        let now = Instant::now();
        let (text, drain) = ("router bgp 1\n neighbor eth1 interface\nexit\n", Duration::from_secs(3));
        let mut farewell = Farewell::begin("/nonexistent".into(), text, drain, false, now);
        let (mut at, mut turns) = (now, 0);
        while !farewell.is_over(at) {
            assert!(farewell.deadline() > at || farewell.stage == Stage::Drain);
            (at, turns) = (farewell.deadline(), turns + 1);
        }
        assert_eq!(at, now + SESSIONS_LIMIT);
        assert!(turns < 100, "{turns}");
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
