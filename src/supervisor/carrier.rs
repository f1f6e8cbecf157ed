//! Stale paths of peers whose port has lost its carrier. With graceful restart, bgpd keeps the paths of a leaf whose
//! daemons exit, since the leaf itself goes on forwarding. bgpd also keeps them when the port goes down afterwards, and
//! uses them again as soon as the link is back (`bgp_nht_ifp_up`, `bgpd/bgp_nht.c`): a rebooted leaf gets traffic
//! minutes before it can forward any. So the supervisor makes bgpd drop the paths of a peer whose port has lost its
//! carrier. bgpd has no command for that alone; `shutdown` removes the paths of a peer that restarts
//! (`peer_flag_modify_action`, `bgpd/bgpd.c`), and the session of such a peer is down anyway.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags};

use super::Supervisor;
use super::backup::BackupJob;
use super::part::Part;
use crate::frr::neighbors::{self, Neighbor, Neighbors, SHOW_NEIGHBORS};
use crate::frr::vty::{CONFIGURE, Query, Reply, socket};
use crate::frr::{Block, DaemonKind, Document, Version};
use crate::kernel::Carrier;
use crate::model::IfName;

/// Delays of the queries to bgpd after a carrier was lost or is back: bgpd may not have noticed the end of the session
/// yet.
const CHECK_DELAYS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// Further checks of a session that has outlived a carrier loss, one after each last delay of [`CHECK_DELAYS`].
/// Together they last longer than FRR's default hold time.
const EXTRA_CHECKS: u32 = 100;

/// Longest time until bgpd notices a lost or returned carrier: a session that is established later is a new one.
const NOTICE_TIME: Duration = Duration::from_millis(400);

/// Resolution of the timer that bgpd reports in whole seconds.
const TIMER_RESOLUTION: Duration = Duration::from_secs(1);

/// The first FRR version in which weights keep zebra from using the remaining next hops in place of the previous ones
/// (see `fabric-in` in frr.conf). In an older one only weights that a leaf itself sends have an effect
/// (`bgp_zebra_use_nhop_weighted`, `bgpd/bgp_zebra.c`).
const HONOURS_WEIGHTS: Version = Version(10, 7);

/// The setting that makes bgpd send its whole table to zebra again when it is set, even to the same value.
const BESTPATH_BANDWIDTH: &str = "bgp bestpath bandwidth";

/// The carriers of the fabric ports, and the removal of stale paths.
#[derive(Debug, Default)]
pub struct FabricPorts {
    seen: BTreeMap<IfName, Carrier>,
    /// The subnets of each port at its last change.
    subnets: BTreeMap<IfName, Vec<IpNet>>,
    lost: BTreeMap<IfName, CarrierLoss>,
    /// Index of the next delay in [`CHECK_DELAYS`].
    next_check: usize,
    since: Option<Instant>,
    query: Option<Query>,
    drop_query: Option<(Query, Vec<String>)>,
    /// Whether a session has outlived the carrier loss and has received nothing since.
    has_unproven_session: bool,
    /// Further checks done because of that.
    extra_checks: u32,
}

/// A port that has lost its carrier and whose peers have established no new session since.
#[derive(Debug)]
struct CarrierLoss {
    subnets: Vec<IpNet>,
    since: Instant,
    is_back: bool,
}

/// The carriers of the fabric ports.
pub(super) struct PortPart;

impl Part for PortPart {
    fn runs_while_stopping(&self) -> bool {
        false
    }

    fn add_fds<'a>(&self, supervisor: &'a Supervisor<'_>, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(supervisor.kernel.carriers.queries().map(|query| PollFd::new(query, PollFlags::IN)));
    }

    fn deadline(&self, supervisor: &Supervisor<'_>) -> Option<Instant> {
        supervisor.kernel.carriers.deadline()
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        supervisor.drop_stale_paths(now);
        Ok(())
    }
}

impl Supervisor<'_> {
    /// Reads the carriers of the fabric ports.
    pub(super) fn check_ports(&mut self, now: Instant) {
        for port in self.node.view.fabric_ports.clone() {
            let router = &mut self.node.router;
            let is = router.carrier(&port);
            if self.kernel.carriers.record_carrier(&port, is, || router.subnets(is.index), now)
                && self.kernel.backup.until.is_some()
            {
                self.queue_backup_job(BackupJob::RemoveLink(is.index));
            }
        }
    }

    /// Makes bgpd drop the paths of peers whose port has lost its carrier.
    fn drop_stale_paths(&mut self, now: Instant) {
        let document = self.ready(DaemonKind::Bgpd).map(|_| self.config.active.store.document());
        for peer in self.kernel.carriers.step(&socket(DaemonKind::Bgpd), document, self.node.version, now) {
            log::warn!(
                peer = peer.as_str();
                "the link to neighbor {peer} has lost its carrier: bgpd kept the routes of {peer} (graceful restart) and now \
                 removes them; the next session announces them again"
            );
        }
    }
}

impl FabricPorts {
    /// Records the carrier of a port. Returns whether the port has lost its carrier.
    pub fn record_carrier(
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
        // A removed port has no subnets.
        let subnets =
            if is.index == 0 { self.subnets.get(port).cloned().unwrap_or_default() } else { subnets() };
        self.subnets.insert(port.clone(), subnets.clone());
        let Some(before) = before else { return false };
        let loss = is.has_lost_carrier_since(before);
        match self.lost.get_mut(port) {
            Some(lost) => (lost.since, lost.is_back) = (now, is.up),
            None if loss => {
                let lost = CarrierLoss { subnets, since: now, is_back: is.up };
                self.lost.insert(port.clone(), lost);
            }
            None => return false,
        }
        (self.next_check, self.since, self.extra_checks) = (0, Some(now), 0);
        loss
    }

    /// bgpd has exited, and its paths with it.
    pub fn bgpd_exited(&mut self) {
        self.lost.clear();
        (self.since, self.query, self.drop_query) = (None, None, None);
    }

    /// When to call [`Self::step`] if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        let next_check = CHECK_DELAYS
            .get(self.next_check)
            .filter(|_| self.query.is_none() && self.drop_query.is_none())?;
        Some(self.since? + *next_check)
    }

    /// The queries to poll.
    pub fn queries(&self) -> impl Iterator<Item = &Query> {
        self.query.iter().chain(self.drop_query.iter().map(|(query, _)| query))
    }

    /// Whether commands are under way that change bgpd's configuration for a moment.
    pub fn is_configuring(&self) -> bool {
        self.drop_query.is_some()
    }

    /// Does the next step. `document` is frr.conf, if the bgpd that listens at `socket` runs with it. Returns the peers
    /// whose paths bgpd has dropped.
    pub fn step(
        &mut self,
        socket: &Path,
        document: Option<&Document>,
        version: Version,
        now: Instant,
    ) -> Vec<String> {
        let Some(document) = document else {
            self.bgpd_exited();
            return vec![];
        };
        let mut dropped = vec![];
        // Another session may hold the configuration lock: the next check shows whether the command took effect.
        if let Some((Ok(replies), peers)) = Query::take_ended_with(&mut self.drop_query) {
            match replies.iter().find(|reply| !reply.success) {
                None => dropped = peers,
                // bgpd refuses `shutdown` for a dynamic neighbor of a listen range.
                Some(error) if self.next_check >= CHECK_DELAYS.len() => log::warn!(
                    peer:% = peers.join(", ");
                    "the link to neighbor {} has lost its carrier, and bgpd cannot remove the routes that it keeps from there: {}; \
                     packets may be lost until they expire (GR_RESTART_TIME)",
                    peers.join(", "),
                    error.text.trim()
                ),
                Some(_) => {}
            }
        }
        if let Some(Ok(replies)) = Query::take_ended(&mut self.query) {
            self.neighbors_received(socket, document, version, replies.first(), now);
        }
        if self.deadline().is_some_and(|at| at <= now) {
            self.next_check += 1;
            self.query = Query::show(socket, [SHOW_NEIGHBORS]).ok();
        } else if self.next_check >= CHECK_DELAYS.len() && self.query.is_none() && self.drop_query.is_none() {
            if self.has_unproven_session && self.extra_checks < EXTRA_CHECKS {
                // Repeat the last check until the session receives something or its hold time expires.
                (self.next_check, self.since, self.extra_checks) =
                    (CHECK_DELAYS.len() - 1, Some(now), self.extra_checks + 1);
            } else {
                self.since = None;
                // A port without a carrier is checked again when the carrier is back.
                self.lost.retain(|_, lost| !lost.is_back);
            }
        }
        dropped
    }

    fn neighbors_received(
        &mut self,
        socket: &Path,
        document: &Document,
        version: Version,
        reply: Option<&Reply>,
        now: Instant,
    ) {
        let neighbors = reply.and_then(neighbors::parse).unwrap_or_default();
        let peers = restarting_peers(&neighbors, |peer| {
            self.lost.iter().any(|(port, lost)| is_connected_to(peer, port, lost))
        });
        self.has_unproven_session = false;
        let has_unproven_session = &mut self.has_unproven_session;
        self.lost.retain(|port, lost| {
            let connected = neighbors.iter().filter(|(peer, _)| is_connected_to(peer, port, lost));
            let mut up = connected
                .map(|(_, neighbor)| neighbor)
                .filter(|neighbor| neighbor.is_established())
                .peekable();
            if !lost.is_back || up.peek().is_none() || now < lost.since + NOTICE_TIME {
                return true;
            }
            let has_traffic =
                up.any(|neighbor| has_received_within(neighbor, now.duration_since(lost.since)));
            *has_unproven_session |= !has_traffic;
            !has_traffic
        });
        // zebra uses next hops over a returned link before it gets anything from bgpd.
        let resend = version < HONOURS_WEIGHTS
            && self.extra_checks == 0
            && self.lost.values().any(|lost| lost.is_back);
        let commands = commands(document, &shutdown_targets(&neighbors, document, &peers), resend);
        if !commands.is_empty() {
            self.drop_query = Query::commands(socket, commands).ok().map(|query| (query, peers));
        }
    }
}

/// Whether the peer is directly connected to that port.
fn is_connected_to(peer: &str, port: &IfName, lost: &CarrierLoss) -> bool {
    let address = peer.parse::<IpAddr>();
    peer == port.as_str() || address.is_ok_and(|ip| lost.subnets.iter().any(|net| net.contains(&ip)))
}

/// Whether an established session came up, or received something, within this time. Only a neighbor that its TTL marks
/// as directly connected goes down with its port (`bgp_ifp_down`, `bgpd/bgp_zebra.c`): the peer of another session may
/// have restarted and not know the session.
fn has_received_within(neighbor: &Neighbor, within: Duration) -> bool {
    // bgpd reports the second timer in whole seconds.
    [(neighbor.bgp_timer_up_msec, Duration::ZERO), (neighbor.bgp_timer_last_read, TIMER_RESOLUTION)]
        .into_iter()
        .any(|(ms, resolution)| ms.is_some_and(|ms| Duration::from_millis(ms) + resolution <= within))
}

/// The restarting peers in bgpd's reply for which `is_included` holds.
fn restarting_peers(neighbors: &Neighbors, is_included: impl Fn(&str) -> bool) -> Vec<String> {
    neighbors
        .iter()
        .filter(|(peer, neighbor)| is_included(peer) && neighbor.is_restarting())
        .map(|(peer, _)| peer.clone())
        .collect()
}

/// The neighbors or peer groups to shut down for these peers. A dynamic neighbor of a listen range cannot be shut down
/// alone; its peer group is shut down instead, unless another member is established or restarting.
fn shutdown_targets(neighbors: &Neighbors, document: &Document, peers: &[String]) -> Vec<String> {
    let has_line = |peer: &str| {
        let line = format!("neighbor {peer} ");
        document.lines().any(|l| l.starts_with(&line))
    };
    // Another member may be established or restarting.
    let is_used = |name: &str| {
        neighbors.iter().filter(|(_, neighbor)| neighbor.peer_group == name).any(|(peer, neighbor)| {
            !peers.contains(peer) && (neighbor.is_established() || neighbor.is_restarting())
        })
    };
    let mut names: Vec<String> = peers
        .iter()
        .map(|peer| {
            let group = neighbors.get(peer).map(|neighbor| &neighbor.peer_group);
            let group = group.filter(|group| !group.is_empty() && !has_line(peer) && !is_used(group));
            group.unwrap_or(peer).clone()
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The commands that make bgpd drop the paths of these peers, and send its whole table to zebra if `resend` is set.
/// They leave its configuration unchanged.
fn commands(document: &Document, peers: &[String], resend: bool) -> Vec<String> {
    let Some(instance) = document.default_instance().next().map(Block::head) else { return vec![] };
    // A neighbor that the configuration shuts down has no paths, and must stay shut down.
    let is_shut_down = |name: &str| {
        let line = format!("neighbor {name} shutdown");
        document
            .lines()
            .any(|l| l.strip_prefix(&line).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')))
    };
    let group = |peer: &str| {
        let lines = document.lines().filter_map(|line| line.strip_prefix("neighbor ")?.strip_prefix(peer));
        lines
            .filter_map(|rest| rest.split_once(" peer-group "))
            .map(|(_, group)| group.trim().to_owned())
            .next()
    };
    let open = peers
        .iter()
        .filter(|peer| !is_shut_down(peer) && !group(peer).is_some_and(|group| is_shut_down(&group)));
    let mut pairs: Vec<String> =
        open.flat_map(|peer| ["", "no "].map(|no| format!("{no}neighbor {peer} shutdown"))).collect();
    if resend {
        let set = document.lines().find(|line| line.starts_with(BESTPATH_BANDWIDTH));
        pairs.push(set.map_or_else(|| format!("no {BESTPATH_BANDWIDTH}"), str::to_owned));
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

    const REPLY: &str = r#"{
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
    fn only_restarting_peers_are_listed() {
        let reply = serde_json::from_str(REPLY).unwrap();
        assert_eq!(restarting_peers(&reply, |_| true), ["192.0.2.1", "eth1", "eth2"]);
        assert_eq!(restarting_peers(&reply, |peer| peer == "eth2"), ["eth2"]);
        assert_eq!(restarting_peers(&Neighbors::new(), |_| true), Vec::<String>::new());
    }

    #[test]
    fn a_peer_belongs_to_a_port_by_interface_or_by_subnet() {
        let lost = CarrierLoss {
            subnets: vec!["192.0.2.0/31".parse().unwrap()],
            since: Instant::now(),
            is_back: false,
        };
        let connected = |peer: &str| is_connected_to(peer, &port("eth1"), &lost);
        assert!(
            connected("eth1")
                && connected("192.0.2.1")
                && !connected("eth2")
                && !connected("192.0.2.2")
                && !connected("2001:db8::1")
        );
    }

    #[test]
    fn a_session_that_outlived_the_loss_counts_after_it_has_received_something() {
        let received = |up: u64, read: u64| {
            let text = format!(r#"{{"bgpTimerUpMsec": {up}, "bgpTimerLastRead": {read}}}"#);
            let neighbor = serde_json::from_str(&text).unwrap();
            has_received_within(&neighbor, Duration::from_secs(5))
        };
        assert!(received(4000, 9000), "the session is new");
        assert!(received(900_000, 4000), "the peer has not restarted");
        assert!(
            !received(900_000, 5000) && !has_received_within(&Neighbor::default(), Duration::from_secs(5))
        );
    }

    #[test]
    fn a_peer_of_a_listen_range_is_shut_down_with_its_group() {
        let text = "router bgp 65001\n neighbor lab peer-group\n neighbor 192.0.2.1 peer-group lab\n \
                    bgp listen range 198.51.100.0/24 peer-group lab\nexit\n";
        let peers = ["192.0.2.1".to_owned(), "198.51.100.7".to_owned()];
        let idle = r#""192.0.2.1": {"bgpState": "Idle", "peerGroup": "lab"}, "198.51.100.7": {"bgpState": "Idle", "peerGroup": "lab"}"#;
        let neighbors = |text: &str| serde_json::from_str::<Neighbors>(text).unwrap();
        assert_eq!(
            shutdown_targets(&neighbors(&format!("{{{idle}}}")), &text.into(), &peers),
            ["192.0.2.1", "lab"]
        );
        // Another member would lose its session.
        let other = r#""198.51.100.8": {"bgpState": "Established", "peerGroup": "lab"}"#;
        assert_eq!(
            shutdown_targets(&neighbors(&format!("{{{idle}, {other}}}")), &text.into(), &peers),
            peers
        );
    }

    #[test]
    fn the_commands_leave_the_configuration_unchanged() {
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
        assert_eq!(commands(&text.into(), &peers, false), wanted);
        assert_eq!(commands(&text.into(), &peers[1..], false), Vec::<String>::new());
        assert_eq!(commands(&text.into(), &[], true)[3..], ["no bgp bestpath bandwidth"]);
        let set = text.replace(
            " neighbor fabric peer-group",
            " bgp bestpath bandwidth ignore\n neighbor fabric peer-group",
        );
        assert_eq!(commands(&Document::parse(&set), &[], true)[3..], ["bgp bestpath bandwidth ignore"]);
        let all_shut =
            text.replace("fabric peer-group\n", "fabric peer-group\n neighbor fabric shutdown message x\n");
        assert_eq!(commands(&Document::parse(&all_shut), &peers, false), Vec::<String>::new());
        assert_eq!(commands(&"".into(), &peers, true), Vec::<String>::new());
    }

    #[test]
    fn each_lost_and_each_returned_carrier_starts_checks() {
        let now = Instant::now();
        let mut ports = FabricPorts::default();
        let up = Carrier { index: 3, up: true, losses: 0 };
        let record_carrier =
            |ports: &mut FabricPorts, is, at| ports.record_carrier(&port("eth1"), is, Vec::new, at);
        assert!(
            !record_carrier(&mut ports, up, now) && ports.deadline().is_none(),
            "seen for the first time"
        );
        assert!(!record_carrier(&mut ports, up, now) && ports.deadline().is_none());
        let down = Carrier { up: false, losses: 1, ..up };
        assert!(record_carrier(&mut ports, down, now));
        // No bgpd listens there: every check fails, and the checks end.
        let mut checks = 0;
        while let Some(at) = ports.deadline() {
            assert_eq!(
                ports.step(Path::new("/nonexistent"), Some(&"".into()), HONOURS_WEIGHTS, at),
                Vec::<String>::new()
            );
            checks += 1;
        }
        assert_eq!(checks, CHECK_DELAYS.len());
        ports.step(Path::new("/nonexistent"), Some(&"".into()), HONOURS_WEIGHTS, now + CHECK_DELAYS[3]);
        let later = now + Duration::from_secs(60);
        assert!(!record_carrier(&mut ports, Carrier { losses: 1, ..up }, later), "the carrier is back");
        assert_eq!(ports.deadline(), Some(later));
        ports.bgpd_exited();
        assert_eq!(ports.deadline(), None);
    }
}
