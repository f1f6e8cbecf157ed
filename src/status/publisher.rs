//! The status publisher: it passes the facts that the main loop knows to the status thread.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::probe::Findings;
use super::{
    ConfigurationStatus, ConfiguredPeers, Counts, DaemonStatus, DeviceStatus, InterfaceStatus,
    NamespaceStatus, NodePhase, Time,
};
use crate::frr::retained::Unannounced;
use crate::kernel::SharedTable;

/// Age of the last heartbeat from which on the main loop counts as hung. It sends one at least every 3 s, with its
/// liveness query to the daemons.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long [`Publisher::finish`] waits for the last status to be written, and how often it polls for that.
const FINISH_TIMEOUT: Duration = Duration::from_millis(500);
const FINISH_POLL: Duration = Duration::from_millis(5);

/// A configuration that was rejected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Rejection {
    /// When it was rejected.
    pub at: Time,
    /// The reasons, one sentence each.
    pub reasons: Vec<String>,
}

/// A BGP NOTIFICATION message, parsed from bgpd's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BgpNotification {
    /// When it was logged.
    pub at: Time,
    /// Whether the neighbor sent it.
    pub received: bool,
    /// Error code and subcode (RFC 4271 §4.5).
    pub code: (u8, u8),
    /// FRR's text for the code and the subcode.
    pub reason: String,
}

impl BgpNotification {
    /// Whether `later` can belong to the same connection attempt.
    fn is_same_attempt(&self, later: &Self) -> bool {
        self.at.ago(later.at) < SAME_ATTEMPT
    }

    /// Parses `%NOTIFICATION: received from neighbor eth1 2/2 (OPEN Message Error/Bad Peer AS) 2 bytes fd e9` or
    /// `%NOTIFICATION(Hard Reset): …` (`bgp_notify_print`, `bgpd/bgp_debug.c`) into the neighbor and the notification.
    /// The log message must start with it: a peer can put the same text into other messages.
    pub fn parse(message: &str) -> Option<(String, Self)> {
        let rest = message.strip_prefix(NOTIFICATION_PREFIX)?;
        let rest = rest.strip_prefix("(Hard Reset)").unwrap_or(rest).strip_prefix(": ")?;
        let (received, rest) = match rest.strip_prefix("received from neighbor ") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix("sent to neighbor ")?),
        };
        let mut parts = rest.splitn(3, ' ');
        let (peer, code, rest) = (parts.next()?, parts.next()?, parts.next()?);
        let (code, subcode) = code.split_once('/')?;
        let code = (code.parse().ok()?, subcode.parse().ok()?);
        let reason = rest.strip_prefix('(')?.split_once(')')?.0.to_owned();
        // FRR 10 appends the direction of the connection, `(Outgoing)` or `(Incoming)`.
        let peer = peer.split('(').next().unwrap_or(peer).to_owned();
        Some((peer, Self { at: Time::now(), received, code, reason }))
    }
}

/// Prefix of the message that bgpd logs when it sends or receives a notification.
pub const NOTIFICATION_PREFIX: &str = "%NOTIFICATION";

/// Notifications closer together than this can belong to one connection attempt: both ends retry every few seconds.
const SAME_ATTEMPT: Duration = Duration::from_secs(10);

/// Limit of stored notifications. Peers that connect from a listen range have no other bound.
const MAX_NOTIFICATIONS: usize = 1024;

/// The facts that the main loop knows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeFacts {
    /// Phase of the node.
    pub phase: NodePhase,
    /// Start of the phase.
    pub phase_since: Time,
    /// Why the node can't be set up, one sentence each.
    pub setup_errors: Vec<String>,
    /// FRR's version.
    pub frr: String,
    /// `NODE_IP`.
    pub node_ip: String,
    /// `ASN_LOCAL`.
    pub asn: u32,
    /// The VRF of the session with MetalLB's speaker, and the router's addresses in it.
    pub metallb: (String, Vec<String>),
    /// The address that MetalLB's speaker peers from.
    pub speaker: String,
    /// Whether the veth pair of MetalLB has IPv4 addresses.
    pub metallb_v4: bool,
    /// How long the services of a speaker that is down are retained, in seconds (`METALLB_HOLD_TIME`).
    pub retention_s: u32,
    /// Whether there are VNIs.
    pub is_vtep: bool,
    /// Whether BFD runs.
    pub bfd: bool,
    /// After how many seconds without a reply a daemon is restarted (`LIVENESS_TIMEOUT`).
    pub liveness_s: u32,
    /// See [`super::Status::configuration`].
    pub configuration: ConfigurationStatus,
    /// See [`super::Status::namespace`].
    pub namespace: NamespaceStatus,
    /// See [`super::Status::interfaces`].
    pub interfaces: Vec<InterfaceStatus>,
    /// See [`super::Status::devices`].
    pub devices: Arc<Vec<DeviceStatus>>,
    /// See [`super::Status::daemons`].
    pub daemons: Vec<DaemonStatus>,
    /// See [`super::Status::counts`].
    pub counts: Counts,
    /// Drift that can't be repaired, one sentence each.
    pub broken: Vec<String>,
    /// Routing tables that several VRFs have; zebra can't run with them.
    pub shared_tables: Vec<SharedTable>,
    /// Another program reverts the repairs, and they are delayed: the last repair.
    pub conflicting_writer: Option<String>,
    /// Since when the reconciler's job has made no progress, if that is long ago.
    pub reconciler_stuck: Option<Time>,
    /// Routes that zebra has selected and that the kernel lacks, although zebra was notified several times.
    pub missing_routes: Option<String>,
    /// Configuration lines that differ from the active configuration, by daemon.
    pub drift: BTreeMap<String, Vec<String>>,
    /// Not all of the configuration could be loaded.
    pub incomplete: bool,
    /// Files that can't be written, one sentence each.
    pub unsaved: Vec<String>,
    /// Retained services.
    pub retained: Vec<String>,
    /// Number of retained services that `retained` leaves out.
    pub retained_unlisted: usize,
    /// Number of prefixes that MetalLB's speaker announces to bgpd.
    pub services: usize,
    /// Services that are announced to no leaf, by reason.
    pub unannounced: BTreeMap<Unannounced, Vec<String>>,
    /// The neighbors of the active configuration.
    pub peers: Arc<ConfiguredPeers>,
    /// The last notification of each neighbor: only neighbors of `peers`, and at most [`MAX_NOTIFICATIONS`].
    pub notifications: BTreeMap<String, BgpNotification>,
    /// Counters of the network namespace.
    pub findings: Findings,
    /// Number of times that sessions or their routes may have changed.
    pub session_changes: u64,
}

impl NodeFacts {
    /// Stores notifications of configured neighbors.
    pub fn add_notifications(&mut self, all: impl IntoIterator<Item = (String, BgpNotification)>) {
        for (peer, notification) in all.into_iter().filter(|(peer, _)| self.peers.is_known(peer)) {
            // Two ends with the same AS number refuse each other. The notification that this node sends is the more
            // precise.
            let before = self.notifications.get(&peer).filter(|before| before.code == notification.code);
            if before.is_some_and(|before| {
                !before.received && notification.received && before.is_same_attempt(&notification)
            }) {
                continue;
            }
            if self.notifications.len() >= MAX_NOTIFICATIONS
                && !self.notifications.contains_key(&peer)
                && let Some(oldest) =
                    self.notifications.iter().min_by_key(|(_, n)| n.at).map(|(p, _)| p.clone())
            {
                self.notifications.remove(&oldest);
            }
            self.notifications.insert(peer, notification);
        }
    }

    /// Replaces the configured neighbors.
    pub fn set_peers(&mut self, peers: ConfiguredPeers) {
        self.notifications.retain(|peer, _| peers.is_known(peer));
        self.peers = Arc::new(peers);
    }

    /// Sets the phase.
    pub fn set_phase(&mut self, phase: NodePhase) {
        if self.phase != phase || self.phase_since == Time::default() {
            (self.phase, self.phase_since) = (phase, Time::now());
        }
        if phase != NodePhase::Failed {
            self.setup_errors.clear();
        }
    }
}

/// Shared state of the main loop, which updates it, and the status thread, which reads it.
#[derive(Debug)]
pub struct Publisher {
    facts: Mutex<NodeFacts>,
    notify: UnixStream,
    notified: AtomicBool,
    /// The status thread has written the last status.
    finished: AtomicBool,
    last_heartbeat: Mutex<Instant>,
    /// Start of this program.
    pub since: Time,
}

/// Wakes the status thread after an update: readable when there is one.
#[derive(Debug)]
pub struct Waker(UnixStream);

impl Publisher {
    /// An empty publisher, and the waker for the status thread.
    ///
    /// # Errors
    /// The sockets can't be created.
    pub fn new() -> io::Result<(Arc<Self>, Waker)> {
        let (notify, waker) = UnixStream::pair()?;
        notify.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let since = Time::now();
        let facts = NodeFacts { phase_since: since, ..NodeFacts::default() };
        let (facts, last_heartbeat) = (Mutex::new(facts), Mutex::new(Instant::now()));
        Ok((
            Arc::new(Self {
                facts,
                notify,
                notified: AtomicBool::new(false),
                finished: AtomicBool::new(false),
                last_heartbeat,
                since,
            }),
            Waker(waker),
        ))
    }

    fn lock(&self) -> MutexGuard<'_, NodeFacts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the facts and wakes the status thread.
    pub fn update(&self, change: impl FnOnce(&mut NodeFacts)) {
        change(&mut self.lock());
        self.wake();
    }

    /// Replaces the daemons. Wakes the status thread only if they differ.
    pub fn update_daemons(&self, daemons: Vec<DaemonStatus>) {
        self.replace(daemons, |facts| &mut facts.daemons);
    }

    /// Replaces the counters of the namespace. Wakes the status thread only if they differ.
    pub fn update_findings(&self, findings: Findings) {
        self.replace(findings, |facts| &mut facts.findings);
    }

    /// Replaces the routes that the kernel lacks. Wakes the status thread only if they differ.
    pub fn update_missing_routes(&self, routes: Option<String>) {
        self.replace(routes, |facts| &mut facts.missing_routes);
    }

    /// Replaces the time since when the reconciler is stuck. Wakes the status thread only if it differs.
    pub fn update_reconciler_stuck(&self, since: Option<Time>) {
        self.replace(since, |facts| &mut facts.reconciler_stuck);
    }

    /// Replaces one field of the facts. Wakes the status thread only if the value differs.
    fn replace<T: PartialEq>(&self, new: T, field: impl FnOnce(&mut NodeFacts) -> &mut T) {
        let mut facts = self.lock();
        let current = field(&mut facts);
        if *current != new {
            *current = new;
            drop(facts);
            self.wake();
        }
    }

    fn wake(&self) {
        if !self.notified.swap(true, Ordering::AcqRel) {
            // A full socket wakes the reader already.
            let _ = (&self.notify).write(&[0]);
        }
    }

    /// A copy of the facts.
    pub fn read(&self) -> NodeFacts {
        self.lock().clone()
    }

    /// Sets the phase to `stopping` and waits until the status thread has written that, for [`FINISH_TIMEOUT`] at most.
    pub fn finish(&self) {
        self.update(|facts| facts.set_phase(NodePhase::Stopping));
        for _ in 0..FINISH_TIMEOUT.as_millis() / FINISH_POLL.as_millis() {
            if self.finished.load(Ordering::Acquire) {
                return;
            }
            thread::sleep(FINISH_POLL);
        }
    }

    /// The status thread has written the last status.
    pub(super) fn set_finished(&self) {
        self.finished.store(true, Ordering::Release);
    }

    /// Records that the main loop works.
    pub fn heartbeat(&self) {
        *self.last_heartbeat.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether the main loop works: its last heartbeat is younger than [`HEARTBEAT_TIMEOUT`].
    pub fn is_alive(&self) -> bool {
        self.last_heartbeat.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < HEARTBEAT_TIMEOUT
    }
}

impl Waker {
    /// Clears the wake-up, so that the next update wakes the status thread again.
    pub(super) fn reset(&self, publisher: &Publisher) {
        let mut rest = [0; 16];
        while matches!((&self.0).read(&mut rest), Ok(1..)) {}
        publisher.notified.store(false, Ordering::Release);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_of_both_directions_and_all_versions_are_parsed() {
        let line =
            "%NOTIFICATION: received from neighbor eth1 2/2 (OPEN Message Error/Bad Peer AS) 2 bytes fd e9";
        let (peer, notification) = BgpNotification::parse(line).unwrap();
        assert_eq!((peer.as_str(), notification.received, notification.code), ("eth1", true, (2, 2)));
        assert_eq!(notification.reason, "OPEN Message Error/Bad Peer AS");
        let line = "%NOTIFICATION: sent to neighbor fe80::1(Outgoing) 6/7 (Cease/Connection Collision Resolution) 0 bytes";
        let (peer, notification) = BgpNotification::parse(line).unwrap();
        assert_eq!((peer.as_str(), notification.received, notification.code), ("fe80::1", false, (6, 7)));
        let line = "%NOTIFICATION(Hard Reset): received from neighbor eth1 6/2 (Cease/Administrative Shutdown) \"bye\"";
        assert_eq!(BgpNotification::parse(line).unwrap().1.code, (6, 2));
        for line in [
            "",
            "%NOTIFICATION: ",
            "%NOTIFICATION: sent to neighbor x 6 (y)",
            "a neighbor b 1/2 (c)",
            "%ADJCHANGE: neighbor eth1(%NOTIFICATION: sent to neighbor eth2 2/2 (OPEN Message Error) 2 bytes) in vrf default Up",
        ] {
            assert_eq!(BgpNotification::parse(line), None, "{line}");
        }
    }

    #[test]
    fn many_updates_wake_the_reader_once() {
        let (publisher, waker) = Publisher::new().unwrap();
        for _ in 0..100 {
            publisher.update(|facts| facts.session_changes += 1);
        }
        let mut bytes = [0; 200];
        assert_eq!((&waker.0).read(&mut bytes).unwrap(), 1);
        waker.reset(&publisher);
        publisher.update_daemons(vec![]);
        assert!((&waker.0).read(&mut bytes).is_err(), "nothing has changed");
        publisher.update(|_| {});
        assert_eq!((&waker.0).read(&mut bytes).unwrap(), 1);
    }
}
