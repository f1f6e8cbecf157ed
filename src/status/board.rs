//! What the main loop tells of itself, for the thread that shows it.

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
use super::{Configuration, Counts, Daemon, Device, Interface, Namespace, Peers, Phase, Time};
use crate::frr::held::Unannounced;
use crate::kernel::SharedTable;

/// The main loop turns at least every 3 s to ask the daemons; one that has not for so long does not work.
const ALIVE: Duration = Duration::from_secs(15);

/// How long the end is waited for until it is written, and how often that is looked at.
const LAST_WORDS: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A configuration that was not taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Rejected {
    /// When.
    pub at: Time,
    /// Why, a sentence each.
    pub reasons: Vec<String>,
}

/// A BGP notification, as bgpd's log tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// When.
    pub at: Time,
    /// Whether the neighbor sent it.
    pub received: bool,
    /// Error code and subcode (RFC 4271 §4.5).
    pub code: (u8, u8),
    /// What FRR calls it.
    pub words: String,
}

impl Notification {
    /// Whether a later one may be of the same attempt.
    fn is_fresh(&self, later: &Self) -> bool {
        self.at.ago(later.at) < SAME_ATTEMPT
    }

    /// The neighbor and what it or we said, of `%NOTIFICATION: received from neighbor eth1 2/2 (OPEN Message Error/Bad Peer
    /// AS) 2 bytes fd e9` or `%NOTIFICATION(Hard Reset): …` (`bgp_notify_print`, `bgpd/bgp_debug.c`), which is all of the
    /// message: what a peer may have put into another one is none.
    pub fn parse(message: &str) -> Option<(String, Self)> {
        let rest = message.strip_prefix(NOTIFICATION)?;
        let rest = rest.strip_prefix("(Hard Reset)").unwrap_or(rest).strip_prefix(": ")?;
        let (received, rest) = match rest.strip_prefix("received from neighbor ") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix("sent to neighbor ")?),
        };
        let mut words = rest.splitn(3, ' ');
        let (peer, code, rest) = (words.next()?, words.next()?, words.next()?);
        let (code, subcode) = code.split_once('/')?;
        let code = (code.parse().ok()?, subcode.parse().ok()?);
        let words = rest.strip_prefix('(')?.split_once(')')?.0.to_owned();
        // FRR 10 says which of two connections it was.
        let peer = peer.split('(').next().unwrap_or(peer).to_owned();
        Some((peer, Self { at: Time::now(), received, code, words }))
    }
}

/// How the message begins that bgpd prints when it gets or sends one.
pub const NOTIFICATION: &str = "%NOTIFICATION";

/// Both ends dial every few seconds.
const SAME_ATTEMPT: Duration = Duration::from_secs(10);

/// Notifications that are kept: those of peers that dial from a subnet have no other bound.
const MOST_NOTIFICATIONS: usize = 1024;

/// What the main loop knows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Local {
    /// What we are doing.
    pub phase: Phase,
    /// Since when.
    pub phase_since: Time,
    /// Why the node can't be set up, a sentence each.
    pub failure: Vec<String>,
    /// FRR's version.
    pub frr: String,
    /// What the operator asked for, as far as it is shown.
    pub node_ip: String,
    /// `ASN_LOCAL`.
    pub asn: u32,
    /// The VRF of MetalLB's speaker, and its addresses.
    pub metallb: (String, Vec<String>),
    /// The address that MetalLB's speaker peers from.
    pub speaker: String,
    /// Whether IPv4 services have a next hop.
    pub metallb_v4: bool,
    /// How long services stay announced for a speaker that is away, in seconds.
    pub hold_s: u32,
    /// Whether there are VNIs.
    pub is_vtep: bool,
    /// Whether BFD runs.
    pub bfd: bool,
    /// Seconds for which a daemon may be silent.
    pub liveness_s: u32,
    /// As of [`super::Status`].
    pub configuration: Configuration,
    /// Likewise.
    pub namespace: Namespace,
    /// Likewise.
    pub interfaces: Vec<Interface>,
    /// Likewise.
    pub devices: Arc<Vec<Device>>,
    /// Likewise.
    pub daemons: Vec<Daemon>,
    /// Likewise.
    pub counts: Counts,
    /// What can't be put right, a sentence each.
    pub broken: Vec<String>,
    /// Routing tables for which zebra can't run.
    pub shared_tables: Vec<SharedTable>,
    /// Repairs wait until then, since something undoes them.
    pub fight: bool,
    /// Routes that zebra has chosen and the kernel lacks, however often zebra is told.
    pub lost_routes: Option<String>,
    /// Lines that someone else has changed, by daemon.
    pub drift: BTreeMap<String, Vec<String>>,
    /// Not all of the configuration could be loaded.
    pub incomplete: bool,
    /// Files that can't be written, a sentence each.
    pub unsaved: Vec<String>,
    /// Services that are held.
    pub held: Vec<String>,
    /// How many more there are, too many to be listed.
    pub held_unlisted: usize,
    /// How many prefixes MetalLB's speaker has announced to bgpd.
    pub services: usize,
    /// Services that no leaf is told of, by the reason.
    pub unannounced: BTreeMap<Unannounced, Vec<String>>,
    /// Who the sessions are with.
    pub peers: Arc<Peers>,
    /// The last notification of each neighbor: a map of [`Peers`], and of [`MOST_NOTIFICATIONS`] at most.
    pub notifications: BTreeMap<String, Notification>,
    /// What the namespace's own counters say.
    pub findings: Findings,
    /// How often the sessions or what they bring may have changed.
    pub news: u64,
}

impl Local {
    /// Takes in notifications of neighbors that there can be.
    pub fn notified(&mut self, all: impl IntoIterator<Item = (String, Notification)>) {
        for (peer, notification) in all.into_iter().filter(|(peer, _)| self.peers.is_known(peer)) {
            // Two ends with one AS number refuse each other; what we say of it is the more telling.
            let before = self.notifications.get(&peer).filter(|before| before.code == notification.code);
            if before.is_some_and(|before| {
                !before.received && notification.received && before.is_fresh(&notification)
            }) {
                continue;
            }
            if self.notifications.len() >= MOST_NOTIFICATIONS
                && !self.notifications.contains_key(&peer)
                && let Some(oldest) =
                    self.notifications.iter().min_by_key(|(_, n)| n.at).map(|(p, _)| p.clone())
            {
                self.notifications.remove(&oldest);
            }
            self.notifications.insert(peer, notification);
        }
    }

    /// Has other peers from now on.
    pub fn know(&mut self, peers: Peers) {
        self.notifications.retain(|peer, _| peers.is_known(peer));
        self.peers = Arc::new(peers);
    }

    /// Goes over into another phase.
    pub fn enter(&mut self, phase: Phase) {
        if self.phase != phase || self.phase_since == Time::default() {
            (self.phase, self.phase_since) = (phase, Time::now());
        }
        if phase != Phase::Failed {
            self.failure.clear();
        }
    }
}

/// Where both threads meet.
#[derive(Debug)]
pub struct Board {
    local: Mutex<Local>,
    wake: UnixStream,
    woken: AtomicBool,
    /// What there is at the end has been written.
    last: AtomicBool,
    turned: Mutex<Instant>,
    /// When this program was started.
    pub since: Time,
}

/// The other end of the board's bell.
#[derive(Debug)]
pub struct Bell(UnixStream);

impl Board {
    /// An empty one, and what rings when it has changed.
    ///
    /// # Errors
    /// There are no sockets left.
    pub fn new() -> io::Result<(Arc<Self>, Bell)> {
        let (wake, bell) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        bell.set_nonblocking(true)?;
        let since = Time::now();
        let local = Local { phase_since: since, ..Local::default() };
        let (local, turned) = (Mutex::new(local), Mutex::new(Instant::now()));
        Ok((
            Arc::new(Self {
                local,
                wake,
                woken: AtomicBool::new(false),
                last: AtomicBool::new(false),
                turned,
                since,
            }),
            Bell(bell),
        ))
    }

    fn lock(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of a change.
    pub fn tell(&self, change: impl FnOnce(&mut Local)) {
        change(&mut self.lock());
        self.ring();
    }

    /// Tells of the daemons, if anything is new about them.
    pub fn tell_daemons(&self, daemons: Vec<Daemon>) {
        self.tell_new(daemons, |local| &mut local.daemons);
    }

    /// Tells of the namespace's counters, if anything is new about them.
    pub fn tell_findings(&self, findings: Findings) {
        self.tell_new(findings, |local| &mut local.findings);
    }

    /// Tells of the routes that the kernel lacks, if anything is new about them.
    pub fn tell_lost_routes(&self, routes: Option<String>) {
        self.tell_new(routes, |local| &mut local.lost_routes);
    }

    /// Wakes no one for what is known.
    fn tell_new<T: PartialEq>(&self, new: T, place: impl FnOnce(&mut Local) -> &mut T) {
        let mut local = self.lock();
        let known = place(&mut local);
        if *known != new {
            *known = new;
            drop(local);
            self.ring();
        }
    }

    fn ring(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            // A full pipe has been rung already.
            let _ = (&self.wake).write(&[0]);
        }
    }

    /// A copy of it all.
    pub fn read(&self) -> Local {
        self.lock().clone()
    }

    /// Has the end written, which is shown from then on; it is not waited for long.
    pub fn finish(&self) {
        self.tell(|local| local.enter(Phase::Stopping));
        for _ in 0..LAST_WORDS.as_millis() / LOOK_EVERY.as_millis() {
            if self.last.load(Ordering::Acquire) {
                return;
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// It is written.
    pub(super) fn finished(&self) {
        self.last.store(true, Ordering::Release);
    }

    /// The main loop has come round.
    pub fn turn(&self) {
        *self.turned.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether the main loop has come round lately.
    pub fn is_alive(&self) -> bool {
        self.turned.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < ALIVE
    }
}

impl Bell {
    /// Makes it ring again at the next change.
    pub(super) fn quiet(&self, board: &Board) {
        let mut rest = [0; 16];
        while matches!((&self.0).read(&mut rest), Ok(1..)) {}
        board.woken.store(false, Ordering::Release);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_of_either_direction_and_any_version() {
        let line =
            "%NOTIFICATION: received from neighbor eth1 2/2 (OPEN Message Error/Bad Peer AS) 2 bytes fd e9";
        let (peer, said) = Notification::parse(line).unwrap();
        assert_eq!((peer.as_str(), said.received, said.code), ("eth1", true, (2, 2)));
        assert_eq!(said.words, "OPEN Message Error/Bad Peer AS");
        let line = "%NOTIFICATION: sent to neighbor fe80::1(Outgoing) 6/7 (Cease/Connection Collision Resolution) 0 bytes";
        let (peer, said) = Notification::parse(line).unwrap();
        assert_eq!((peer.as_str(), said.received, said.code), ("fe80::1", false, (6, 7)));
        let line = "%NOTIFICATION(Hard Reset): received from neighbor eth1 6/2 (Cease/Administrative Shutdown) \"bye\"";
        assert_eq!(Notification::parse(line).unwrap().1.code, (6, 2));
        for line in [
            "",
            "%NOTIFICATION: ",
            "%NOTIFICATION: sent to neighbor x 6 (y)",
            "a neighbor b 1/2 (c)",
            "%ADJCHANGE: neighbor eth1(%NOTIFICATION: sent to neighbor eth2 2/2 (OPEN Message Error) 2 bytes) in vrf default Up",
        ] {
            assert_eq!(Notification::parse(line), None, "{line}");
        }
    }

    #[test]
    fn the_bell_rings_once_for_many_changes() {
        let (board, bell) = Board::new().unwrap();
        for _ in 0..100 {
            board.tell(|local| local.news += 1);
        }
        let mut bytes = [0; 200];
        assert_eq!((&bell.0).read(&mut bytes).unwrap(), 1);
        bell.quiet(&board);
        board.tell_daemons(vec![]);
        assert!((&bell.0).read(&mut bytes).is_err(), "nothing is new");
        board.tell(|_| {});
        assert_eq!((&bell.0).read(&mut bytes).unwrap(), 1);
    }
}
