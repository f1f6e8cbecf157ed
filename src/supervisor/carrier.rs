//! Ports that lose their carrier. By graceful restart bgpd keeps the paths of a leaf whose daemons end, since the leaf itself
//! goes on forwarding. It keeps them, too, when the port goes down afterwards, and uses them again as soon as the link is
//! back (`bgp_nht_ifp_up`, `bgpd/bgp_nht.c`): a leaf that was rebooted gets traffic minutes before it can forward any.
//! So what bgpd keeps of a peer goes with the carrier of its port. bgpd has no command for that alone; `shutdown` removes the
//! paths of a peer that restarts (`peer_flag_modify_action`, `bgpd/bgpd.c`), and its session is down anyway.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde_json::Value;

use super::Supervisor;
use super::reserve::Job;
use crate::frr::Version;
use crate::frr::delta::opens_default;
use crate::frr::neighbors::{QUESTION, is_established};
use crate::frr::vty::{Answer, CONFIGURE, Talk, socket};
use crate::kernel::Carrier;
use crate::model::IfName;

/// When bgpd is asked, after a carrier has gone and when it comes back: it may not have noticed the end of the session yet.
const LOOKS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// So often is looked again, every [`LOOKS`]' last, for a session that has outlived a loss: longer than FRR's default hold time.
const MORE_LOOKS: u32 = 100;

/// From a carrier's loss or return until bgpd knows of it at the latest: a session that is up later is a new one.
const NOTICED: Duration = Duration::from_millis(400);

/// What bgpd tells of times may be so much later.
const SECOND: Duration = Duration::from_secs(1);

/// The timer of a peer that restarts, in the answers of FRR 8.4 to 10.6, and from 10.7 on (`bgp_show_peer`,
/// `bgpd/bgp_vty.c`).
const RESTARTS: [&str; 2] = ["gracefulRestartTimerMsecs", "gracefulRestartTimerSec"];

/// The first FRR in which weights keep zebra from taking the next hops that are left for those before (see `fabric-in` in
/// frr.conf): in an older one only weights that a leaf itself sends count (`bgp_zebra_use_nhop_weighted`, `bgpd/bgp_zebra.c`).
const KNOWS_WEIGHTS: Version = Version(10, 7);

/// The setting that bgpd hands its whole table to zebra again for when it is set, to what it is or to something else.
const BANDWIDTH: &str = "bgp bestpath bandwidth";

/// The ports, and what is under way because of them.
#[derive(Debug, Default)]
pub struct Ports {
    seen: BTreeMap<IfName, Carrier>,
    /// The subnets that each had when it was last seen to change.
    subnets: BTreeMap<IfName, Vec<IpNet>>,
    lost: BTreeMap<IfName, Lost>,
    /// The first of [`LOOKS`] that is still to come.
    look: usize,
    since: Option<Instant>,
    asking: Option<Talk>,
    clearing: Option<(Talk, Vec<String>)>,
    /// A session has outlived the loss, and nothing was received over it since.
    unproven: bool,
    /// How often was looked again because of that.
    more: u32,
}

/// A port that has lost its carrier, and whose peers have had no new session since.
#[derive(Debug)]
struct Lost {
    subnets: Vec<IpNet>,
    since: Instant,
    is_back: bool,
}

impl Supervisor<'_> {
    /// Looks at the carriers of the fabric's ports.
    pub(super) fn look_at_ports(&mut self, now: Instant) {
        for port in self.node.fabric_ports() {
            let is = self.node.kernel.carrier(&port);
            let kernel = &mut self.node.kernel;
            if self.carriers.saw(&port, is, || kernel.subnets(is.index), now) && self.reserve.until.is_some()
            {
                self.reserve_job(Job::RemoveLink(is.index));
            }
        }
    }

    /// Has bgpd drop what it keeps of peers whose port has lost its carrier.
    pub(super) fn follow_ports(&mut self, now: Instant) {
        let text = self.ready("bgpd").map(|_| self.text.as_str());
        for peer in self.carriers.step(&socket("bgpd"), text, self.node.version, now) {
            log::warn!(
                "neighbor {peer}: its port has lost its carrier while it restarted: its routes are dropped until its \
                 session is up again"
            );
        }
    }
}

impl Ports {
    /// Takes in how a port is. Whether it has lost its carrier.
    pub fn saw(
        &mut self,
        port: &IfName,
        is: Carrier,
        subnets: impl FnOnce() -> Vec<IpNet>,
        now: Instant,
    ) -> bool {
        let before = self.seen.insert(port.clone(), is);
        if before == Some(is) {
            return false;
        }
        // One that is not there any more has none.
        let subnets =
            if is.index == 0 { self.subnets.get(port).cloned().unwrap_or_default() } else { subnets() };
        self.subnets.insert(port.clone(), subnets.clone());
        let Some(before) = before else { return false };
        let loss = is.was_lost_since(before);
        match self.lost.get_mut(port) {
            Some(lost) => (lost.since, lost.is_back) = (now, is.up),
            None if loss => {
                let lost = Lost { subnets, since: now, is_back: is.up };
                self.lost.insert(port.clone(), lost);
            }
            None => return false,
        }
        (self.look, self.since, self.more) = (0, Some(now), 0);
        loss
    }

    /// bgpd is gone, and what it kept with it.
    pub fn bgpd_is_gone(&mut self) {
        self.lost.clear();
        (self.since, self.asking, self.clearing) = (None, None, None);
    }

    /// When there is something to do although nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        let look = LOOKS.get(self.look).filter(|_| self.asking.is_none() && self.clearing.is_none())?;
        Some(self.since? + *look)
    }

    /// What to poll.
    pub fn talks(&self) -> impl Iterator<Item = &Talk> {
        self.asking.iter().chain(self.clearing.iter().map(|(talk, _)| talk))
    }

    /// Whether bgpd may run with something else than its configuration.
    pub fn is_configuring(&self) -> bool {
        self.clearing.is_some()
    }

    /// Goes on with it. `text` is frr.conf, if the bgpd that listens at `socket` runs with it. Returns the peers whose paths
    /// bgpd has dropped.
    pub fn step(&mut self, socket: &Path, text: Option<&str>, version: Version, now: Instant) -> Vec<String> {
        let Some(text) = text else {
            self.bgpd_is_gone();
            return vec![];
        };
        let mut dropped = vec![];
        match self.clearing.as_mut().map(|(talk, _)| talk.receive()) {
            None | Some(Ok(None)) => {}
            Some(answers) => {
                let peers = self.clearing.take().map(|(_, peers)| peers);
                // Someone else may just be configuring it: the next look sees whether it was done.
                if let (Ok(Some(answers)), Some(peers)) = (answers, peers) {
                    match answers.iter().find(|answer| !answer.well) {
                        None => dropped = peers,
                        // bgpd shuts no neighbor of a listen range down.
                        Some(refusal) if self.look >= LOOKS.len() => log::warn!(
                            "neighbor {}: its port has lost its carrier while it restarted, and bgpd keeps its routes: {}",
                            peers.join(", "),
                            refusal.text.trim()
                        ),
                        Some(_) => {}
                    }
                }
            }
        }
        match self.asking.as_mut().map(Talk::receive) {
            None | Some(Ok(None)) => {}
            Some(answers) => {
                self.asking = None;
                if let Ok(Some(answers)) = answers {
                    self.answered(socket, text, version, answers.first(), now);
                }
            }
        }
        if self.deadline().is_some_and(|at| at <= now) {
            self.look += 1;
            self.asking = Talk::show(socket, [QUESTION]).ok();
        } else if self.look >= LOOKS.len() && self.asking.is_none() && self.clearing.is_none() {
            if self.unproven && self.more < MORE_LOOKS {
                // The same again, until its peer or its hold time tells what has become of it.
                (self.look, self.since, self.more) = (LOOKS.len() - 1, Some(now), self.more + 1);
            } else {
                self.since = None;
                // One without a carrier is looked at again when it is back.
                self.lost.retain(|_, lost| !lost.is_back);
            }
        }
        dropped
    }

    fn answered(
        &mut self,
        socket: &Path,
        text: &str,
        version: Version,
        answer: Option<&Answer>,
        now: Instant,
    ) {
        let neighbors = answer.and_then(|answer| serde_json::from_str(&answer.text).ok()).unwrap_or_default();
        let peers = stale(&neighbors, |peer| self.lost.iter().any(|(port, lost)| is_over(peer, port, lost)));
        self.unproven = false;
        let unproven = &mut self.unproven;
        self.lost.retain(|port, lost| {
            let over =
                neighbors.as_object().into_iter().flatten().filter(|(peer, _)| is_over(peer, port, lost));
            let mut up =
                over.map(|(_, neighbor)| neighbor).filter(|neighbor| is_established(neighbor)).peekable();
            if !lost.is_back || up.peek().is_none() || now < lost.since + NOTICED {
                return true;
            }
            let alive = up.any(|neighbor| is_heard(neighbor, now.duration_since(lost.since)));
            *unproven |= !alive;
            !alive
        });
        // zebra uses next hops over a link that is back before it hears of anything from bgpd.
        let again = version < KNOWS_WEIGHTS && self.more == 0 && self.lost.values().any(|lost| lost.is_back);
        let commands = commands(text, &shut_with(&neighbors, text, &peers), again);
        if !commands.is_empty() {
            self.clearing = Talk::begin(socket, commands).ok().map(|talk| (talk, peers));
        }
    }
}

/// Whether the peer is next door on that port.
fn is_over(peer: &str, port: &IfName, lost: &Lost) -> bool {
    let address = peer.parse::<IpAddr>();
    peer == port.as_str() || address.is_ok_and(|ip| lost.subnets.iter().any(|net| net.contains(&ip)))
}

/// Whether a session that is up was made, or something was received over it, within this time. Only a neighbor next door that is told
/// apart by its TTL goes down with its port (`bgp_ifp_down`, `bgpd/bgp_zebra.c`): another session may be one that its peer, which was
/// started anew, knows nothing of.
fn is_heard(neighbor: &Value, within: Duration) -> bool {
    // The second one is told in whole seconds.
    [("bgpTimerUpMsec", Duration::ZERO), ("bgpTimerLastRead", SECOND)].into_iter().any(|(timer, more)| {
        let ms = neighbor.get(timer).and_then(Value::as_u64);
        ms.is_some_and(|ms| Duration::from_millis(ms) + more <= within)
    })
}

/// Whether bgpd keeps the routes of a neighbor that is away.
fn restarts(neighbor: &Value) -> bool {
    let info = neighbor.get("gracefulRestartInfo");
    !is_established(neighbor)
        && info.is_some_and(|info| RESTARTS.iter().any(|timer| info.get(timer).is_some()))
}

/// The peers among those that restart, by bgpd's answer.
fn stale(neighbors: &Value, is_meant: impl Fn(&str) -> bool) -> Vec<String> {
    let all = neighbors.as_object().into_iter().flatten();
    all.filter(|(peer, neighbor)| is_meant(peer) && restarts(neighbor))
        .map(|(peer, _)| peer.clone())
        .collect()
}

/// What is to be shut down for these peers: a peer of a listen range can't be by itself, and goes with its group where no other one of
/// that is up.
fn shut_with(neighbors: &Value, text: &str, peers: &[String]) -> Vec<String> {
    let group = |neighbor: &Value| neighbor.get("peerGroup").and_then(Value::as_str).map(str::to_owned);
    let has_line = |peer: &str| {
        let line = format!("neighbor {peer} ");
        text.lines().any(|l| l.trim_start().starts_with(&line))
    };
    // Another one may be up, or restart.
    let is_used = |name: &str| {
        let of_group = |(_, neighbor): &(&String, &Value)| group(neighbor).as_deref() == Some(name);
        let mut others = neighbors.as_object().into_iter().flatten().filter(of_group);
        others
            .any(|(peer, neighbor)| !peers.contains(peer) && (is_established(neighbor) || restarts(neighbor)))
    };
    let mut names: Vec<String> = peers
        .iter()
        .map(|peer| {
            let group = if has_line(peer) { None } else { neighbors.get(peer).and_then(group) };
            group.filter(|group| !is_used(group)).unwrap_or_else(|| peer.clone())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The commands that have bgpd drop what it keeps of these peers, and tell zebra of its table `again`, and leave its
/// configuration as it was.
fn commands(text: &str, peers: &[String], again: bool) -> Vec<String> {
    let Some(instance) = text.lines().find(|line| opens_default(line)) else { return vec![] };
    // One that is shut down in the configuration has nothing to be dropped, and stays so.
    let shut = |name: &str| {
        let line = format!("neighbor {name} shutdown");
        text.lines().any(|l| {
            l.trim_start().strip_prefix(&line).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        })
    };
    let group = |peer: &str| {
        let lines =
            text.lines().filter_map(|line| line.trim_start().strip_prefix("neighbor ")?.strip_prefix(peer));
        lines
            .filter_map(|rest| rest.split_once(" peer-group "))
            .map(|(_, group)| group.trim().to_owned())
            .next()
    };
    let open = peers.iter().filter(|peer| !shut(peer) && !group(peer).is_some_and(|group| shut(&group)));
    let mut pairs: Vec<String> =
        open.flat_map(|peer| ["", "no "].map(|no| format!("{no}neighbor {peer} shutdown"))).collect();
    if again {
        let set = text.lines().map(str::trim_start).find(|line| line.starts_with(BANDWIDTH));
        pairs.push(set.map_or_else(|| format!("no {BANDWIDTH}"), str::to_owned));
    }
    if pairs.is_empty() {
        return vec![];
    }
    CONFIGURE.iter().map(|c| (*c).to_owned()).chain([instance.to_owned()]).chain(pairs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Value as _;

    const ANSWER: &str = r#"{
        "eth1": {"bgpState": "Active", "gracefulRestartInfo": {"gracefulRestartTimerMsecs": 118000}},
        "eth2": {"bgpState": "Connect", "gracefulRestartInfo": {"gracefulRestartTimerSec": 118}},
        "eth3": {"bgpState": "Active", "gracefulRestartInfo": {}},
        "eth4": {"bgpState": "Established", "gracefulRestartInfo": {"gracefulRestartTimerSec": 1}},
        "192.0.2.1": {"bgpState": "Idle", "gracefulRestartInfo": {"gracefulRestartTimerSec": 118}}
    }"#;

    fn port(name: &str) -> IfName {
        IfName::parse(name).unwrap()
    }

    #[test]
    fn only_peers_that_restart_are_stale() {
        let answer = serde_json::from_str(ANSWER).unwrap();
        assert_eq!(stale(&answer, |_| true), ["192.0.2.1", "eth1", "eth2"]);
        assert_eq!(stale(&answer, |peer| peer == "eth2"), ["eth2"]);
        assert_eq!(stale(&Value::Null, |_| true), Vec::<String>::new());
    }

    #[test]
    fn a_peer_is_next_door_by_interface_or_by_subnet() {
        let lost =
            Lost { subnets: vec!["192.0.2.0/31".parse().unwrap()], since: Instant::now(), is_back: false };
        let over = |peer: &str| is_over(peer, &port("eth1"), &lost);
        assert!(
            over("eth1") && over("192.0.2.1") && !over("eth2") && !over("192.0.2.2") && !over("2001:db8::1")
        );
    }

    #[test]
    fn a_session_that_has_outlived_the_loss_proves_nothing_until_something_is_received() {
        let heard = |up: u64, read: u64| {
            let neighbor = serde_json::json!({"bgpTimerUpMsec": up, "bgpTimerLastRead": read});
            is_heard(&neighbor, Duration::from_secs(5))
        };
        assert!(heard(4000, 9000), "it is a new one");
        assert!(heard(900_000, 4000), "its peer is the one of before");
        assert!(!heard(900_000, 5000) && !is_heard(&Value::Null, Duration::from_secs(5)));
    }

    #[test]
    fn a_peer_of_a_listen_range_goes_with_its_group() {
        let text = "router bgp 65001\n neighbor lab peer-group\n neighbor 192.0.2.1 peer-group lab\n \
                    bgp listen range 198.51.100.0/24 peer-group lab\nexit\n";
        let peers = ["192.0.2.1".to_owned(), "198.51.100.7".to_owned()];
        let mut neighbors = serde_json::json!({
            "192.0.2.1": {"bgpState": "Idle", "peerGroup": "lab"}, "198.51.100.7": {"bgpState": "Idle", "peerGroup": "lab"}
        });
        assert_eq!(shut_with(&neighbors, text, &peers), ["192.0.2.1", "lab"]);
        // Another one would lose its session.
        neighbors["198.51.100.8"] = serde_json::json!({"bgpState": "Established", "peerGroup": "lab"});
        assert_eq!(shut_with(&neighbors, text, &peers), peers);
    }

    #[test]
    fn the_configuration_stays_as_it_was() {
        let text = "router bgp 4000099998 vrf metallb\nexit\nrouter bgp 65001\n neighbor fabric peer-group\n \
                    neighbor eth1 interface peer-group fabric\n neighbor eth2 interface peer-group fabric\n \
                    neighbor eth2 shutdown\nexit\n";
        let peers = ["eth1".to_owned(), "eth2".to_owned()];
        let wanted = [
            "enable",
            "configure terminal",
            "router bgp 65001",
            "neighbor eth1 shutdown",
            "no neighbor eth1 shutdown",
        ];
        assert_eq!(commands(text, &peers, false), wanted);
        assert_eq!(commands(text, &peers[1..], false), Vec::<String>::new());
        assert_eq!(commands(text, &[], true)[3..], ["no bgp bestpath bandwidth"]);
        let set = text.replace(
            " neighbor fabric peer-group",
            " bgp bestpath bandwidth ignore\n neighbor fabric peer-group",
        );
        assert_eq!(commands(&set, &[], true)[3..], ["bgp bestpath bandwidth ignore"]);
        let all_shut =
            text.replace("fabric peer-group\n", "fabric peer-group\n neighbor fabric shutdown message x\n");
        assert_eq!(commands(&all_shut, &peers, false), Vec::<String>::new());
        assert_eq!(commands("", &peers, true), Vec::<String>::new());
    }

    #[test]
    fn each_loss_and_each_return_is_looked_after_for_a_while() {
        let now = Instant::now();
        let mut ports = Ports::default();
        let up = Carrier { index: 3, up: true, losses: 0 };
        let saw = |ports: &mut Ports, is, at| ports.saw(&port("eth1"), is, Vec::new, at);
        assert!(!saw(&mut ports, up, now) && ports.deadline().is_none(), "seen for the first time");
        assert!(!saw(&mut ports, up, now) && ports.deadline().is_none());
        let down = Carrier { up: false, losses: 1, ..up };
        assert!(saw(&mut ports, down, now));
        // No bgpd listens there: every look fails, and they end.
        let mut looks = 0;
        while let Some(at) = ports.deadline() {
            assert_eq!(
                ports.step(Path::new("/nonexistent"), Some(""), KNOWS_WEIGHTS, at),
                Vec::<String>::new()
            );
            looks += 1;
        }
        assert_eq!(looks, LOOKS.len());
        ports.step(Path::new("/nonexistent"), Some(""), KNOWS_WEIGHTS, now + LOOKS[3]);
        let later = now + Duration::from_secs(60);
        assert!(!saw(&mut ports, Carrier { losses: 1, ..up }, later), "it is back");
        assert_eq!(ports.deadline(), Some(later));
        ports.bgpd_is_gone();
        assert_eq!(ports.deadline(), None);
    }
}
