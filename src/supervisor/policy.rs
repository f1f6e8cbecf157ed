//! Restart policy: decides when each daemon is started, killed and configured. Input: events and the clock. Output:
//! actions. Pure.

mod event;

use std::time::{Duration, Instant};

use super::back_off::back_off;
use crate::frr::Daemon;

pub use event::{Action, Event, ProcessState};

/// Back-off before the second restart in a row; it doubles with each further restart. The first restart has no delay.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// Longest delay between two attempts to start a process that fails for lack of memory or processes, which is not the
/// daemon's fault.
const MAX_START_RETRY: Duration = Duration::from_secs(1);
/// Longest back-off. The supervisor never stops restarting a daemon.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// A daemon that has run this long is stable: its crash counter starts again from zero.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// A daemon that has not answered this long after its start is unresponsive. Idle machines need 0.05 s, loaded ones
/// 1 s.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Delay between a failed load of the configuration and the next attempt.
const LOAD_RETRY: Duration = Duration::from_secs(1);
/// Time from the first answer of a new mgmtd until zebra and staticd have connected to it. They retry every 250 ms and
/// have their configuration 50 ms later (`MSG_CONN_DEFAULT_CONN_RETRY_MSEC`, `lib/mgmt_msg.c`). Commands that are
/// loaded earlier may be lost, and their transaction may never end (seen with 10.3).
const BACKEND_CONNECT_TIME: Duration = Duration::from_millis(700);
/// A load that takes longer hangs. FRR 8.4 needs half a minute for a thousand VRFs.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// A load also hangs if it is idle in this many checks in a row while every daemon answers: mgmtd then waits for a
/// reply that never comes (10.3 does this after about one crash in 50 on a busy machine).
const LOAD_IDLE_CHECKS: u32 = 2;
/// Attempts to load the configuration before the daemon runs without it.
const LOAD_ATTEMPTS: u32 = 5;
/// Interval between two liveness checks of all daemons.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// A daemon that has not answered a ping for this long is reported as unresponsive.
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(1);
/// Time between the SIGABRT for an unresponsive daemon, which writes a backtrace, and its SIGKILL.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);
/// An unresponsive daemon that uses processor time is busy, not hung, for at most this long: bgpd of FRR 10.7 needs 6 s
/// and more for 20,000 services, zebra as much for 150 VRFs. bgpd sends its keepalives from a separate thread meanwhile
/// (`bgp_keepalives_start`, `bgpd/bgp_keepalives.c`).
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(120);
/// Crashes in a row under an unproven configuration that trigger a rollback to the last-known-good one.
const ROLLBACK_CRASHES: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DaemonPhase {
    Down {
        not_before: Instant,
    },
    Starting {
        since: Instant,
        /// When to check whether an unresponsive daemon is busy.
        check_at: Instant,
    },
    Ready,
    /// Has got SIGABRT.
    Aborting {
        since: Instant,
    },
}

#[derive(Debug)]
struct RestartState {
    daemon: &'static Daemon,
    phase: DaemonPhase,
    /// Time of the last start.
    started: Instant,
    /// Crashes in a row: exits that the supervisor did not cause.
    crashes: u32,
    /// Those of them with the active configuration.
    crashes_with_active: u32,
    /// Failed attempts in a row to start the process.
    start_failures: u32,
    /// The supervisor has killed it, so its exit is not a crash.
    exit_expected: bool,
    /// It starts after [`Event::BfdPeersNotified`].
    waits_for_bfd_peers: bool,
    /// Reads its configuration from a file when it starts.
    reads_file: bool,
    configured: bool,
    /// The configuration could not be loaded, and no further attempt is made.
    load_failed: bool,
    /// When the ping was sent that has no answer yet.
    ping_sent: Option<Instant>,
}

impl RestartState {
    fn is_unresponsive(&self, now: Instant) -> bool {
        self.ping_sent.is_some_and(|at| at + UNRESPONSIVE_AFTER <= now)
    }
}

/// The restart policy and the state of all daemons.
#[derive(Debug)]
pub struct Policy {
    states: Vec<RestartState>,
    /// Daemons that are being loaded, and the start time of each: a load is lost if its daemon exits.
    loading: Vec<(usize, Instant)>,
    load_started: Instant,
    /// Checks in a row in which the load was idle.
    load_idle_checks: u32,
    load_attempts: u32,
    load_not_before: Instant,
    /// Since when every daemon has run with its configuration.
    complete_since: Option<Instant>,
    stopping: bool,
    /// Time of the next ping of all daemons.
    next_ping: Instant,
    /// See [`PolicySettings::liveness_timeout`].
    liveness_timeout: Duration,
    /// The active configuration has not run for [`STABLE_AFTER`] yet.
    unproven: bool,
    /// There is an older, last-known-good configuration.
    can_roll_back: bool,
    random: u32,
}

/// Settings and initial facts of a [`Policy`].
#[derive(Debug, Clone, Copy)]
pub struct PolicySettings<'a> {
    /// All daemons to run.
    pub daemons: &'a [&'static Daemon],
    /// Daemons that read their configuration from a file.
    pub with_file: &'a [&'static Daemon],
    /// Time without an answer after which a daemon is unresponsive (`LIVENESS_TIMEOUT`).
    pub liveness_timeout: Duration,
    /// There is a last-known-good configuration that differs from the active one.
    pub can_roll_back: bool,
    /// An earlier instance left BFD sessions whose peers get AdminDown packets first.
    pub has_stale_bfd_sessions: bool,
    /// Any number; it makes the back-off differ between nodes.
    pub seed: u32,
}

impl Policy {
    /// No daemon runs yet. The first [`Event::Tick`] starts those that depend on no other.
    pub fn new(settings: PolicySettings<'_>, now: Instant) -> Self {
        let state = |&daemon| RestartState {
            daemon,
            phase: DaemonPhase::Down { not_before: now },
            started: now,
            crashes: 0,
            crashes_with_active: 0,
            start_failures: 0,
            exit_expected: false,
            waits_for_bfd_peers: false,
            reads_file: settings.with_file.contains(&daemon),
            configured: false,
            load_failed: false,
            ping_sent: None,
        };
        let mut policy = Self {
            states: settings.daemons.iter().map(state).collect(),
            loading: vec![],
            load_started: now,
            load_idle_checks: 0,
            load_attempts: 0,
            load_not_before: now,
            complete_since: None,
            stopping: false,
            next_ping: now + PING_INTERVAL,
            liveness_timeout: settings.liveness_timeout,
            unproven: true,
            can_roll_back: settings.can_roll_back,
            // Xorshift never leaves zero.
            random: settings.seed | 1,
        };
        for i in 0..policy.states.len() {
            if settings.has_stale_bfd_sessions && policy.states[i].daemon.owns_bfd_sessions {
                policy.restart_dependents(i, &mut vec![]);
            }
        }
        policy
    }

    /// Processes an event and returns what to do now.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Responded(i) => {
                let state = &mut self.states[i];
                state.ping_sent = None;
                if matches!(state.phase, DaemonPhase::Starting { .. }) {
                    state.phase = DaemonPhase::Ready;
                    state.start_failures = 0;
                    state.configured = state.reads_file;
                    let has_backends = state.daemon.has_backends;
                    let is_other_ready =
                        |(j, s): (usize, &RestartState)| j != i && s.phase == DaemonPhase::Ready;
                    if has_backends && self.states.iter().enumerate().any(is_other_ready) {
                        self.load_not_before = self.load_not_before.max(now + BACKEND_CONNECT_TIME);
                    }
                }
            }
            Event::Exited(i) => self.exited(i, now, &mut actions),
            Event::StartFailed(i) => self.start_failed(i, now),
            Event::PingFailed(i) => {
                let state = &mut self.states[i];
                state.ping_sent = None;
                if let DaemonPhase::Starting { check_at, .. } = &mut state.phase {
                    *check_at = (*check_at).max(now + START_TIMEOUT);
                }
            }
            Event::Busy(i) => {
                let state = &self.states[i];
                let limit = match state.phase {
                    DaemonPhase::Starting { since, .. } => Some(since + START_TIMEOUT + BUSY_TIMEOUT),
                    _ => state.ping_sent.map(|at| at + self.liveness_timeout.max(BUSY_TIMEOUT)),
                };
                if limit.is_some_and(|limit| limit <= now) {
                    self.end_unresponsive(i, now, &mut actions);
                }
            }
            Event::Idle(i) => self.end_unresponsive(i, now, &mut actions),
            Event::Loaded(success) => self.load_finished(success, now),
            Event::Loading { idle } => {
                let idle = idle && !self.states.iter().any(|s| s.is_unresponsive(now));
                self.load_idle_checks = if idle { self.load_idle_checks + 1 } else { 0 };
            }
            Event::Reconfigured { can_roll_back } => {
                self.configuration_changed(can_roll_back);
                self.restart_all(&mut actions);
            }
            Event::Changed { can_roll_back } => {
                self.configuration_changed(can_roll_back);
                self.complete_since = self.complete_since.map(|_| now);
            }
            Event::Restart(i) => self.kill(i, &mut actions),
            Event::BfdPeersNotified => {
                self.states.iter_mut().for_each(|state| state.waits_for_bfd_peers = false)
            }
            Event::Stop => self.stopping = true,
        }
        if self.stopping {
            self.stop(event, &mut actions);
        } else {
            self.advance(now, &mut actions);
        }
        actions
    }

    /// The state of a daemon, and its crashes in a row.
    pub fn daemon_state(&self, i: usize, now: Instant) -> (ProcessState, u32) {
        let state = &self.states[i];
        let daemon_state = match state.phase {
            DaemonPhase::Down { .. } => ProcessState::Down,
            DaemonPhase::Starting { .. } => ProcessState::Starting,
            DaemonPhase::Aborting { .. } => ProcessState::Unresponsive,
            DaemonPhase::Ready if state.exit_expected => ProcessState::Stopping,
            DaemonPhase::Ready if state.is_unresponsive(now) => ProcessState::Unresponsive,
            DaemonPhase::Ready if state.configured => ProcessState::Running,
            DaemonPhase::Ready => ProcessState::Loading,
        };
        let is_stable = daemon_state == ProcessState::Running && now >= state.started + STABLE_AFTER;
        (daemon_state, if is_stable { 0 } else { state.crashes })
    }

    /// When the next daemon with an open ping becomes unresponsive, after `now`.
    pub fn next_unresponsive_at(&self, now: Instant) -> Option<Instant> {
        self.states
            .iter()
            .filter_map(|s| s.ping_sent)
            .map(|at| at + UNRESPONSIVE_AFTER)
            .filter(|at| *at > now)
            .min()
    }

    /// When to call [`Self::step`] with [`Event::Tick`] if nothing else happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.states.iter().enumerate().filter_map(|(i, state)| match state.phase {
            // A daemon that waits for another starts on the answer or exit of that daemon.
            DaemonPhase::Down { not_before } => (!self.stopping && self.can_start(i)).then_some(not_before),
            DaemonPhase::Starting { check_at, .. } => {
                (!self.stopping && !state.exit_expected).then_some(check_at)
            }
            DaemonPhase::Ready => (!self.stopping).then_some(self.next_ping),
            DaemonPhase::Aborting { since } => {
                (!self.stopping && !state.exit_expected).then_some(since + ABORT_TIMEOUT)
            }
        });
        let load = match (self.stopping, self.loading.is_empty()) {
            (true, _) => None,
            (false, false) => Some(self.load_started + LOAD_TIMEOUT),
            (false, true) => self.can_load().then_some(self.load_not_before),
        };
        let proven =
            self.complete_since.filter(|_| self.unproven && !self.stopping).map(|at| at + STABLE_AFTER);
        waiting.chain(load).chain(proven).min()
    }

    /// A pseudo-random number from 0 to 255 (xorshift32, Marsaglia 2003).
    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random >> 24
    }

    fn exited(&mut self, i: usize, now: Instant, actions: &mut Vec<Action>) {
        let random = self.random();
        let state = &mut self.states[i];
        let exit_expected = std::mem::take(&mut state.exit_expected);
        if now - state.started >= STABLE_AFTER {
            (state.crashes, state.crashes_with_active) = (0, 0);
        }
        let delay = match state.crashes {
            _ if exit_expected => Duration::ZERO,
            0 => Duration::ZERO,
            n => {
                let delay = back_off(FIRST_BACKOFF, n - 1, MAX_BACKOFF);
                // Subtract up to a quarter, so that nodes that failed together do not restart together.
                delay - delay * random / 1024
            }
        };
        state.crashes += u32::from(!exit_expected);
        state.crashes_with_active += u32::from(!exit_expected);
        state.start_failures = 0;
        state.phase = DaemonPhase::Down { not_before: now + delay };
        state.configured = false;
        state.load_failed = false;
        state.ping_sent = None;
        let crashes = state.crashes_with_active;
        self.complete_since = None;
        self.load_attempts = 0;
        self.load_not_before = now;
        if self.stopping {
            return;
        }
        if crashes >= ROLLBACK_CRASHES && !exit_expected && self.unproven && self.can_roll_back {
            self.can_roll_back = false;
            actions.push(Action::RollBack(i));
        }
        self.restart_dependents(i, actions);
    }

    /// A failed start is not a crash and no reason for a rollback.
    fn start_failed(&mut self, i: usize, now: Instant) {
        let state = &mut self.states[i];
        let delay = back_off(FIRST_BACKOFF, state.start_failures, MAX_START_RETRY);
        state.start_failures = state.start_failures.saturating_add(1);
        state.exit_expected = false;
        state.phase = DaemonPhase::Down { not_before: now + delay };
    }

    /// Restarts the daemons that cannot continue without this one.
    fn restart_dependents(&mut self, i: usize, actions: &mut Vec<Action>) {
        let daemon = self.states[i].daemon;
        for j in 0..self.states.len() {
            let state = &mut self.states[j];
            if daemon.dependents.contains(&state.daemon.kind) {
                state.waits_for_bfd_peers |= daemon.owns_bfd_sessions;
                self.kill(j, actions);
            }
        }
    }

    /// Kills a daemon that runs and was not killed before. Its exit does not count as a crash.
    fn kill(&mut self, i: usize, actions: &mut Vec<Action>) {
        let state = &mut self.states[i];
        if !matches!(state.phase, DaemonPhase::Down { .. }) && !state.exit_expected {
            state.exit_expected = true;
            actions.push(Action::Kill(i));
        }
    }

    /// Whether every daemon runs with its configuration.
    pub fn is_complete(&self) -> bool {
        self.complete_since.is_some()
    }

    /// Another configuration is active and unproven; the earlier crashes do not count for it.
    fn configuration_changed(&mut self, can_roll_back: bool) {
        (self.unproven, self.can_roll_back) = (true, can_roll_back);
        self.states.iter_mut().for_each(|state| state.crashes_with_active = 0);
    }

    /// Restarts every daemon with another configuration: a load into a running daemon only adds lines, and zebra and
    /// staticd keep what mgmtd has given them.
    fn restart_all(&mut self, actions: &mut Vec<Action>) {
        self.complete_since = None;
        self.load_attempts = 0;
        (0..self.states.len()).for_each(|i| self.kill(i, actions));
    }

    fn load_finished(&mut self, success: bool, now: Instant) {
        for (i, started) in std::mem::take(&mut self.loading) {
            let state = &mut self.states[i];
            if state.phase == DaemonPhase::Ready && state.started == started {
                state.load_failed = !success && self.load_attempts + 1 >= LOAD_ATTEMPTS;
                state.configured = success || state.load_failed;
            }
        }
        self.load_attempts = if success { 0 } else { self.load_attempts + 1 };
        self.load_not_before = if success { now } else { now + LOAD_RETRY };
    }

    fn stop(&mut self, event: Event, actions: &mut Vec<Action>) {
        if event == Event::Stop {
            for (i, state) in self.states.iter_mut().enumerate() {
                if !matches!(state.phase, DaemonPhase::Down { .. }) {
                    state.exit_expected = true;
                    actions.push(Action::Kill(i));
                }
            }
        }
        if self.states.iter().all(|s| matches!(s.phase, DaemonPhase::Down { .. })) {
            actions.push(Action::Finished);
        }
    }

    fn advance(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for i in 0..self.states.len() {
            match self.states[i].phase {
                DaemonPhase::Down { not_before } if not_before <= now && self.can_start(i) => {
                    let state = &mut self.states[i];
                    state.phase = DaemonPhase::Starting { since: now, check_at: now + START_TIMEOUT };
                    state.started = now;
                    actions.push(Action::Start(i));
                }
                DaemonPhase::Aborting { since }
                    if since + ABORT_TIMEOUT <= now && !self.states[i].exit_expected =>
                {
                    self.states[i].phase =
                        DaemonPhase::Starting { since: now, check_at: now + START_TIMEOUT };
                    actions.push(Action::Kill(i));
                }
                DaemonPhase::Starting { since, check_at }
                    if check_at <= now && !self.states[i].exit_expected =>
                {
                    self.states[i].phase = DaemonPhase::Starting { since, check_at: now + PING_INTERVAL };
                    actions.push(Action::CheckBusy(i));
                }
                _ => {}
            }
        }
        if !self.loading.is_empty() {
            if self.load_started + LOAD_TIMEOUT <= now || self.load_idle_checks >= LOAD_IDLE_CHECKS {
                (self.load_started, self.load_idle_checks) = (now, 0);
                actions.push(Action::AbortLoad);
                // The transaction in mgmtd may hang.
                let stuck = (0..self.states.len()).find(|&i| {
                    self.states[i].daemon.has_backends
                        && self.loading.iter().any(|(loading, _)| *loading == i)
                });
                if let Some(i) = stuck {
                    self.kill(i, actions);
                }
            }
        } else if self.can_load() {
            if self.load_not_before <= now {
                let which = self.unconfigured();
                self.loading = which.iter().map(|&i| (i, self.states[i].started)).collect();
                (self.load_started, self.load_idle_checks) = (now, 0);
                actions.push(Action::Load(which));
            }
        } else if self.complete_since.is_none() && self.states.iter().all(|s| s.configured) {
            self.complete_since = Some(now);
            actions.push(if self.has_full_configuration() { Action::Complete } else { Action::Incomplete });
        }
        if self.unproven && self.complete_since.is_some_and(|at| at + STABLE_AFTER <= now) {
            self.unproven = false;
            if self.has_full_configuration() {
                actions.push(Action::MarkGood);
            }
        }
        if self.next_ping <= now {
            self.next_ping = now + PING_INTERVAL;
            actions.push(Action::PeriodicCheck);
            self.ping_all(now, actions);
        }
    }

    /// Whether every daemon has its whole configuration: no load was given up.
    pub fn has_full_configuration(&self) -> bool {
        !self.states.iter().any(|s| s.load_failed)
    }

    /// Pings every daemon without an open ping, and checks those whose answer is overdue.
    fn ping_all(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for (i, state) in self.states.iter_mut().enumerate().filter(|(_, s)| s.phase == DaemonPhase::Ready) {
            match state.ping_sent {
                None => {
                    state.ping_sent = Some(now);
                    actions.push(Action::Ping(i));
                }
                Some(at) if at + self.liveness_timeout <= now && !state.exit_expected => {
                    actions.push(Action::CheckBusy(i))
                }
                Some(_) => {}
            }
        }
    }

    /// Ends a daemon whose answer is overdue and that is idle or busy for too long.
    fn end_unresponsive(&mut self, i: usize, now: Instant, actions: &mut Vec<Action>) {
        let liveness_timeout = self.liveness_timeout;
        let state = &mut self.states[i];
        match state.phase {
            _ if state.exit_expected || self.stopping => {}
            DaemonPhase::Ready if state.ping_sent.is_some_and(|at| at + liveness_timeout <= now) => {
                state.phase = DaemonPhase::Aborting { since: now };
                actions.push(Action::Abort(i));
            }
            DaemonPhase::Starting { .. } => {
                // Not `exit_expected`: a daemon that hangs at every start must back off.
                state.phase = DaemonPhase::Starting { since: now, check_at: now + START_TIMEOUT };
                actions.push(Action::Kill(i));
            }
            _ => {}
        }
    }

    /// Whether a daemon needs its configuration and no other daemon is about to need it, too.
    fn can_load(&self) -> bool {
        let busy =
            |s: &RestartState| matches!(s.phase, DaemonPhase::Starting { .. } | DaemonPhase::Aborting { .. });
        !self.states.iter().any(busy) && !self.unconfigured().is_empty()
    }

    fn unconfigured(&self) -> Vec<usize> {
        let missing =
            |(i, s): (usize, &RestartState)| (s.phase == DaemonPhase::Ready && !s.configured).then_some(i);
        self.states.iter().enumerate().filter_map(missing).collect()
    }

    /// Whether a daemon may start: it waits for the daemons in `after`, but not for one in a crash loop, unless it is
    /// restarted with that one.
    fn can_start(&self, i: usize) -> bool {
        let RestartState { daemon, waits_for_bfd_peers, .. } = self.states[i];
        let is_running = |s: &RestartState| !matches!(s.phase, DaemonPhase::Down { .. });
        if waits_for_bfd_peers
            || self
                .states
                .iter()
                .any(|s| is_running(s) && s.daemon.required_dependents().any(|name| name == daemon.kind))
        {
            return false;
        }
        daemon.after.iter().all(|name| {
            let before = self.states.iter().find(|s| s.daemon.kind == *name);
            before.is_none_or(|s| match s.phase {
                // A daemon that was killed counts as exited.
                DaemonPhase::Ready => !s.exit_expected && (s.configured || !daemon.after_configuration),
                DaemonPhase::Starting { .. } | DaemonPhase::Aborting { .. } => false,
                DaemonPhase::Down { .. } => {
                    s.crashes.max(s.start_failures) > 1 && !daemon.required_dependents().any(|f| f == *name)
                }
            })
        })
    }
}

#[cfg(test)]
mod tests;
