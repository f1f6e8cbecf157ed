//! When to start, kill and configure which daemon: events and the clock in, actions out. Pure.

use std::time::{Duration, Instant};

use crate::frr::Daemon;
use crate::status::Life;

/// Delay before the second restart in a row; it doubles from there. The first one is not delayed.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// Nor is it longer where nothing can be started, for lack of memory or of processes: that is no fault of the daemon's.
const NOT_STARTED_DELAY: Duration = Duration::from_secs(1);
/// No delay is longer: a router never gives up.
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// A daemon that has run for so long has recovered, and its next death is a first one again.
const RECOVERED: Duration = Duration::from_secs(60);
/// A daemon that does not answer for so long after its start hangs. Idle machines need 0.05 s, loaded ones 1 s.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Delay before a configuration that could not be loaded is loaded again.
const RELOAD_DELAY: Duration = Duration::from_secs(1);
/// From the first answer of a new mgmtd until zebra and staticd have found it (they try every 250 ms, and have their
/// configuration 50 ms later: `MSG_CONN_DEFAULT_CONN_RETRY_MSEC`, `lib/mgmt_msg.c`). What is loaded before may get lost, and its
/// transaction never end (seen with 10.3).
const BACKENDS: Duration = Duration::from_millis(700);
/// A load that takes longer hangs: a thousand VRFs take FRR 8.4 half a minute.
const LOAD_LIMIT: Duration = Duration::from_secs(120);
/// And so does one that is seen at rest so many times in a row while every daemon answers: mgmtd waits for an answer that it
/// will not get (10.3 does so after one death of 50 or so, where the processors are busy).
const LOAD_RESTS: u32 = 2;
/// Attempts to load the configuration before it is left as it is.
const LOAD_ATTEMPTS: u32 = 5;
/// How often all daemons are asked whether they still answer.
const ROUND: Duration = Duration::from_secs(3);
/// One that owes an answer for so long is called silent.
const SILENT: Duration = Duration::from_secs(1);
/// A daemon that hangs has so long to write down where, before it is killed.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// From the death of a daemon that held sessions with peers until those that it took along are started: by then the
/// peers have noticed that bgpd is gone, and have been told of the other.
pub const PEERS_NOTICE: Duration = Duration::from_millis(300);
/// A daemon that uses processor time is at work, not hung, for so long: bgpd of FRR 10.7 takes 6 s and more for 20,000 services,
/// zebra for 150 VRFs. Its keepalives come from a thread of their own meanwhile (`bgp_keepalives_start`, `bgpd/bgp_keepalives.c`).
pub const WORK_LIMIT: Duration = Duration::from_secs(120);
/// Deaths in a row under a configuration that has never held before the last one that did is taken back.
const CRASHES: u32 = 3;

/// What happened. Daemons go by their index in the list that the policy was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing but time.
    Tick,
    /// The daemon answers on its vty.
    Answered(usize),
    /// The daemon's process is gone.
    Exited(usize),
    /// There is no process for the daemon, which is no fault of its own.
    NotStarted(usize),
    /// The daemon could not be asked, for want of something on our side: its silence says nothing.
    NotAsked(usize),
    /// A daemon that was to be examined uses processor time, or waits for the kernel.
    Works(usize),
    /// A daemon that was to be examined does nothing.
    Idles(usize),
    /// The load that was asked for is over; whether it went well.
    Loaded(bool),
    /// The load that was asked for goes on; whether nothing of it was done since the last look.
    Loading {
        /// So it is.
        rests: bool,
    },
    /// Another configuration is in force, and no daemon runs with it yet; whether there is an older one that held.
    Reconfigured {
        /// There is one.
        may_fall_back: bool,
    },
    /// The same, and every daemon runs with it already.
    Changed {
        /// There is one.
        may_fall_back: bool,
    },
    /// This daemon, which runs with something else than its configuration, has to start anew.
    Renew(usize),
    /// End everything.
    Stop,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the daemon and watch for its first answer.
    Start(usize),
    /// Look at what nobody announces.
    Look,
    /// Ask a daemon that runs whether it still answers.
    Ask(usize),
    /// Find out whether a daemon that owes an answer is at work: [`Event::Works`] or [`Event::Idles`].
    Examine(usize),
    /// End the daemon, which hangs, so that it says where.
    Abort(usize),
    /// End the daemon at once. Its sockets close without a goodbye, so the peers keep our routes, and
    /// the kernel keeps its own.
    Kill(usize),
    /// Load the configuration into these daemons.
    Load(Vec<usize>),
    /// End the load that is under way.
    AbortLoad,
    /// Every daemon runs with its configuration.
    Complete,
    /// Every daemon runs, some with less than their configuration.
    Incomplete,
    /// The configuration in force has held for a while: keep a copy of it.
    Keep,
    /// Put the kept configuration in the place of the one in force: this daemon dies of it. [`Event::Reconfigured`] when it is there.
    FallBack(usize),
    /// Every daemon is gone after a stop.
    Finished,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Down {
        not_before: Instant,
    },
    Starting {
        since: Instant,
        /// Not examined before.
        until: Instant,
    },
    Ready,
    /// Was told to abort.
    Aborting {
        since: Instant,
    },
}

#[derive(Debug)]
struct State {
    daemon: &'static Daemon,
    phase: Phase,
    /// When it was started last.
    started: Instant,
    /// Deaths in a row that no one ordered.
    failures: u32,
    /// Those of them under the configuration in force.
    crashes: u32,
    /// Attempts in a row to start it that led to no process.
    attempts: u32,
    /// Killed by us; its death is no failure.
    expected: bool,
    /// Not started before.
    held_until: Instant,
    /// Comes up with its configuration.
    reads_file: bool,
    configured: bool,
    /// The configuration could not be loaded, and that is how it stays.
    given_up: bool,
    /// When it was asked whether it still answers, if it has not answered yet.
    asked: Option<Instant>,
}

impl State {
    fn is_silent(&self, now: Instant) -> bool {
        self.asked.is_some_and(|at| at + SILENT <= now)
    }
}

/// The state of all daemons.
#[derive(Debug)]
pub struct Policy {
    states: Vec<State>,
    /// Daemons that are being loaded, and when each was started: what is loaded into one is lost with it.
    loading: Vec<(usize, Instant)>,
    load_began: Instant,
    /// How many times in a row it was seen at rest.
    load_rests: u32,
    load_attempts: u32,
    load_not_before: Instant,
    /// Since when every daemon runs with its configuration.
    complete: Option<Instant>,
    stopping: bool,
    /// The next round of questions.
    round: Instant,
    /// How long an answer may take.
    patience: Duration,
    /// The configuration in force has not held for long enough yet.
    unproven: bool,
    /// There is an older configuration that held.
    may_fall_back: bool,
    random: u32,
}

/// What a [`Policy`] starts from.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// All daemons to run.
    pub daemons: &'a [&'static Daemon],
    /// Those that configure themselves from a file.
    pub with_file: &'a [&'static Daemon],
    /// A daemon that leaves a question unanswered for so long hangs.
    pub patience: Duration,
    /// There is a configuration that held, other than the one in force.
    pub may_fall_back: bool,
    /// Peers have to be told that such a daemon of an earlier instance is gone.
    pub peers_to_tell: bool,
    /// Any number, so that nodes don't restart in step.
    pub seed: u32,
}

impl Policy {
    /// Nothing runs yet. The first [`Event::Tick`] starts what needs nothing else.
    pub fn new(terms: Terms<'_>, now: Instant) -> Self {
        let state = |&daemon| State {
            daemon,
            phase: Phase::Down { not_before: now },
            started: now,
            failures: 0,
            crashes: 0,
            attempts: 0,
            expected: false,
            held_until: now,
            reads_file: terms.with_file.contains(&daemon),
            configured: false,
            given_up: false,
            asked: None,
        };
        let mut policy = Self {
            states: terms.daemons.iter().map(state).collect(),
            loading: vec![],
            load_began: now,
            load_rests: 0,
            load_attempts: 0,
            load_not_before: now,
            complete: None,
            stopping: false,
            round: now + ROUND,
            patience: terms.patience,
            unproven: true,
            may_fall_back: terms.may_fall_back,
            // Xorshift never leaves zero.
            random: terms.seed | 1,
        };
        for i in 0..policy.states.len() {
            if terms.peers_to_tell && policy.states[i].daemon.holds_sessions {
                policy.take_along(i, now, &mut vec![]);
            }
        }
        policy
    }

    /// Takes an event in and says what to do now.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Answered(i) => {
                let state = &mut self.states[i];
                state.asked = None;
                if matches!(state.phase, Phase::Starting { .. }) {
                    state.phase = Phase::Ready;
                    state.attempts = 0;
                    state.configured = state.reads_file;
                    let waits = state.daemon.has_backends;
                    if waits && self.states.iter().enumerate().any(|(j, s)| j != i && s.phase == Phase::Ready)
                    {
                        self.load_not_before = self.load_not_before.max(now + BACKENDS);
                    }
                }
            }
            Event::Exited(i) => self.exited(i, now, &mut actions),
            Event::NotStarted(i) => self.not_started(i, now),
            Event::NotAsked(i) => {
                let state = &mut self.states[i];
                state.asked = None;
                if let Phase::Starting { until, .. } = &mut state.phase {
                    *until = (*until).max(now + START_LIMIT);
                }
            }
            Event::Works(i) => {
                let state = &self.states[i];
                let limit = match state.phase {
                    Phase::Starting { since, .. } => Some(since + START_LIMIT + WORK_LIMIT),
                    _ => state.asked.map(|at| at + self.patience.max(WORK_LIMIT)),
                };
                if limit.is_some_and(|limit| limit <= now) {
                    self.hangs(i, now, &mut actions);
                }
            }
            Event::Idles(i) => self.hangs(i, now, &mut actions),
            Event::Loaded(well) => self.loaded(well, now),
            Event::Loading { rests } => {
                let rests = rests && !self.states.iter().any(|s| s.is_silent(now));
                self.load_rests = if rests { self.load_rests + 1 } else { 0 };
            }
            Event::Reconfigured { may_fall_back } => {
                self.under_another(may_fall_back);
                self.renew(&mut actions);
            }
            Event::Changed { may_fall_back } => {
                self.under_another(may_fall_back);
                self.complete = self.complete.map(|_| now);
            }
            Event::Renew(i) => self.end(i, &mut actions),
            Event::Stop => self.stopping = true,
        }
        if self.stopping {
            self.stop(event, &mut actions);
        } else {
            self.drive(now, &mut actions);
        }
        actions
    }

    /// What a daemon is doing, and how often it has died in a row.
    pub fn life(&self, i: usize, now: Instant) -> (Life, u32) {
        let state = &self.states[i];
        let life = match state.phase {
            Phase::Down { .. } => Life::Down,
            Phase::Starting { .. } => Life::Starting,
            Phase::Aborting { .. } => Life::Silent,
            Phase::Ready if state.expected => Life::Ending,
            Phase::Ready if state.is_silent(now) => Life::Silent,
            Phase::Ready if state.configured => Life::Running,
            Phase::Ready => Life::Loading,
        };
        let recovered = life == Life::Running && now >= state.started + RECOVERED;
        (life, if recovered { 0 } else { state.failures })
    }

    /// When a daemon that owes an answer since `now` or before is to be called silent.
    pub fn silent_at(&self, now: Instant) -> Option<Instant> {
        self.states.iter().filter_map(|s| s.asked).map(|at| at + SILENT).filter(|at| *at > now).min()
    }

    /// When to step with [`Event::Tick`] although nothing else happened.
    pub fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.states.iter().enumerate().filter_map(|(i, state)| match state.phase {
            // One that waits for another is woken by that one's answer or death.
            Phase::Down { not_before } => (!self.stopping && self.may_start(i)).then_some(not_before),
            Phase::Starting { until, .. } => (!self.stopping && !state.expected).then_some(until),
            Phase::Ready => (!self.stopping).then_some(self.round),
            Phase::Aborting { since } => (!self.stopping && !state.expected).then_some(since + LAST_WORDS),
        });
        let load = match (self.stopping, self.loading.is_empty()) {
            (true, _) => None,
            (false, false) => Some(self.load_began + LOAD_LIMIT),
            (false, true) => self.may_load().then_some(self.load_not_before),
        };
        let proven = self.complete.filter(|_| self.unproven && !self.stopping).map(|at| at + RECOVERED);
        waiting.chain(load).chain(proven).min()
    }

    /// A number from 0 to 255 (xorshift32, Marsaglia 2003).
    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random >> 24
    }

    fn exited(&mut self, i: usize, now: Instant, actions: &mut Vec<Action>) {
        let random = self.random();
        let state = &mut self.states[i];
        let expected = std::mem::take(&mut state.expected);
        if now - state.started >= RECOVERED {
            (state.failures, state.crashes) = (0, 0);
        }
        let delay = match state.failures {
            _ if expected => Duration::ZERO,
            0 => Duration::ZERO,
            n => {
                let delay = FIRST_DELAY.saturating_mul(1 << (n - 1).min(16)).min(LONGEST_DELAY);
                // Up to a quarter less, so that nodes that died together don't come back together.
                delay - delay * random / 1024
            }
        };
        state.failures += u32::from(!expected);
        state.crashes += u32::from(!expected);
        state.attempts = 0;
        state.phase = Phase::Down { not_before: (now + delay).max(state.held_until) };
        state.configured = false;
        state.given_up = false;
        state.asked = None;
        let crashes = state.crashes;
        self.complete = None;
        self.load_attempts = 0;
        self.load_not_before = now;
        if self.stopping {
            return;
        }
        if crashes >= CRASHES && !expected && self.unproven && self.may_fall_back {
            self.may_fall_back = false;
            actions.push(Action::FallBack(i));
        }
        self.take_along(i, now, actions);
    }

    /// That is no death of the daemon's, and says nothing of its configuration.
    fn not_started(&mut self, i: usize, now: Instant) {
        let state = &mut self.states[i];
        let delay = FIRST_DELAY.saturating_mul(1 << state.attempts.min(8)).min(NOT_STARTED_DELAY);
        state.attempts = state.attempts.saturating_add(1);
        state.expected = false;
        state.phase = Phase::Down { not_before: (now + delay).max(state.held_until) };
    }

    /// Ends the daemons that can't go on without this one.
    fn take_along(&mut self, i: usize, now: Instant, actions: &mut Vec<Action>) {
        let daemon = self.states[i].daemon;
        let pause = if daemon.holds_sessions { PEERS_NOTICE } else { Duration::ZERO };
        for j in 0..self.states.len() {
            let state = &mut self.states[j];
            if !daemon.takes_along.contains(&state.daemon.name) {
                continue;
            }
            state.held_until = now + pause;
            if let Phase::Down { not_before } = &mut state.phase {
                *not_before = (*not_before).max(state.held_until);
            }
            self.end(j, actions);
        }
    }

    /// Ends a daemon that runs and is not being ended, which will be no failure of it.
    fn end(&mut self, i: usize, actions: &mut Vec<Action>) {
        let state = &mut self.states[i];
        if !matches!(state.phase, Phase::Down { .. }) && !state.expected {
            state.expected = true;
            actions.push(Action::Kill(i));
        }
    }

    /// Whether every daemon runs with its configuration.
    pub fn is_complete(&self) -> bool {
        self.complete.is_some()
    }

    /// Another configuration is in force, which has not held yet; the deaths before say nothing of it.
    fn under_another(&mut self, may_fall_back: bool) {
        (self.unproven, self.may_fall_back) = (true, may_fall_back);
        self.states.iter_mut().for_each(|state| state.crashes = 0);
    }

    /// Has every daemon start again with another configuration: what is loaded into one that runs is added to what it has, and
    /// zebra and staticd keep what mgmtd has given them.
    fn renew(&mut self, actions: &mut Vec<Action>) {
        self.complete = None;
        self.load_attempts = 0;
        (0..self.states.len()).for_each(|i| self.end(i, actions));
    }

    fn loaded(&mut self, well: bool, now: Instant) {
        for (i, started) in std::mem::take(&mut self.loading) {
            let state = &mut self.states[i];
            if state.phase == Phase::Ready && state.started == started {
                state.given_up = !well && self.load_attempts + 1 >= LOAD_ATTEMPTS;
                state.configured = well || state.given_up;
            }
        }
        self.load_attempts = if well { 0 } else { self.load_attempts + 1 };
        self.load_not_before = if well { now } else { now + RELOAD_DELAY };
    }

    fn stop(&mut self, event: Event, actions: &mut Vec<Action>) {
        if event == Event::Stop {
            for (i, state) in self.states.iter_mut().enumerate() {
                if !matches!(state.phase, Phase::Down { .. }) {
                    state.expected = true;
                    actions.push(Action::Kill(i));
                }
            }
        }
        if self.states.iter().all(|s| matches!(s.phase, Phase::Down { .. })) {
            actions.push(Action::Finished);
        }
    }

    fn drive(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for i in 0..self.states.len() {
            match self.states[i].phase {
                Phase::Down { not_before } if not_before <= now && self.may_start(i) => {
                    let state = &mut self.states[i];
                    state.phase = Phase::Starting { since: now, until: now + START_LIMIT };
                    state.started = now;
                    actions.push(Action::Start(i));
                }
                Phase::Aborting { since } if since + LAST_WORDS <= now && !self.states[i].expected => {
                    self.states[i].phase = Phase::Starting { since: now, until: now + START_LIMIT };
                    actions.push(Action::Kill(i));
                }
                Phase::Starting { since, until } if until <= now && !self.states[i].expected => {
                    self.states[i].phase = Phase::Starting { since, until: now + ROUND };
                    actions.push(Action::Examine(i));
                }
                _ => {}
            }
        }
        if !self.loading.is_empty() {
            if self.load_began + LOAD_LIMIT <= now || self.load_rests >= LOAD_RESTS {
                (self.load_began, self.load_rests) = (now, 0);
                actions.push(Action::AbortLoad);
                // Its transaction may be what does not end.
                let stuck = (0..self.states.len()).find(|&i| {
                    self.states[i].daemon.has_backends
                        && self.loading.iter().any(|(loading, _)| *loading == i)
                });
                if let Some(i) = stuck {
                    self.end(i, actions);
                }
            }
        } else if self.may_load() {
            if self.load_not_before <= now {
                let which = self.unconfigured();
                self.loading = which.iter().map(|&i| (i, self.states[i].started)).collect();
                (self.load_began, self.load_rests) = (now, 0);
                actions.push(Action::Load(which));
            }
        } else if self.complete.is_none() && self.states.iter().all(|s| s.configured) {
            self.complete = Some(now);
            actions.push(if self.is_whole() { Action::Complete } else { Action::Incomplete });
        }
        if self.unproven && self.complete.is_some_and(|at| at + RECOVERED <= now) {
            self.unproven = false;
            if self.is_whole() {
                actions.push(Action::Keep);
            }
        }
        if self.round <= now {
            self.round = now + ROUND;
            actions.push(Action::Look);
            self.ask_all(now, actions);
        }
    }

    /// Whether no daemon was left with a part of its configuration, since the rest can't be loaded.
    pub fn is_whole(&self) -> bool {
        !self.states.iter().any(|s| s.given_up)
    }

    /// Asks every daemon that owes no answer, and ends those that have owed one for too long.
    fn ask_all(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for (i, state) in self.states.iter_mut().enumerate().filter(|(_, s)| s.phase == Phase::Ready) {
            match state.asked {
                None => {
                    state.asked = Some(now);
                    actions.push(Action::Ask(i));
                }
                Some(at) if at + self.patience <= now && !state.expected => actions.push(Action::Examine(i)),
                Some(_) => {}
            }
        }
    }

    /// Ends a daemon that does nothing, or works without end, and has not answered; nothing else.
    fn hangs(&mut self, i: usize, now: Instant, actions: &mut Vec<Action>) {
        let patience = self.patience;
        let state = &mut self.states[i];
        match state.phase {
            _ if state.expected || self.stopping => {}
            Phase::Ready if state.asked.is_some_and(|at| at + patience <= now) => {
                state.phase = Phase::Aborting { since: now };
                actions.push(Action::Abort(i));
            }
            Phase::Starting { .. } => {
                // Not "expected": a daemon that hangs at every start must be restarted ever more slowly.
                state.phase = Phase::Starting { since: now, until: now + START_LIMIT };
                actions.push(Action::Kill(i));
            }
            _ => {}
        }
    }

    /// Whether there is something to load and nothing that is about to want the same.
    fn may_load(&self) -> bool {
        let busy = |s: &State| matches!(s.phase, Phase::Starting { .. } | Phase::Aborting { .. });
        !self.states.iter().any(busy) && !self.unconfigured().is_empty()
    }

    fn unconfigured(&self) -> Vec<usize> {
        let missing = |(i, s): (usize, &State)| (s.phase == Phase::Ready && !s.configured).then_some(i);
        self.states.iter().enumerate().filter_map(missing).collect()
    }

    /// A daemon waits for those before it, but not for one that keeps dying unless it goes with that one.
    fn may_start(&self, i: usize) -> bool {
        let daemon = self.states[i].daemon;
        let lives = |s: &State| !matches!(s.phase, Phase::Down { .. });
        if self.states.iter().any(|s| lives(s) && s.daemon.foundations().any(|name| name == daemon.name)) {
            return false;
        }
        daemon.after.iter().all(|name| {
            let before = self.states.iter().find(|s| s.daemon.name == *name);
            before.is_none_or(|s| match s.phase {
                // One that is being ended is as good as gone.
                Phase::Ready => !s.expected && (s.configured || !daemon.after_configuration),
                Phase::Starting { .. } | Phase::Aborting { .. } => false,
                Phase::Down { .. } => {
                    s.failures.max(s.attempts) > 1 && !daemon.foundations().any(|f| f == *name)
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frr::Version;

    const MGMTD: usize = 0;
    const ZEBRA: usize = 1;
    const BFDD: usize = 3;
    const BGPD: usize = 4;

    /// Without a round of questions in its way.
    fn policy(daemons: &[&'static Daemon], with_file: &[&'static Daemon], now: Instant) -> Policy {
        let terms = Terms {
            daemons,
            with_file,
            patience: 2 * ROUND,
            may_fall_back: false,
            peers_to_tell: false,
            seed: 7,
        };
        let mut policy = Policy::new(terms, now);
        policy.round = now + Duration::from_secs(86400);
        policy
    }

    fn up(now: Instant) -> Policy {
        let mut policy = policy(&Version(10, 3).daemons(true, false), &[], now);
        assert_eq!(policy.step(Event::Tick, now), [Action::Start(MGMTD)]);
        assert_eq!(policy.step(Event::Answered(MGMTD), now), [Action::Start(ZEBRA)]);
        let rest = [Action::Start(2), Action::Start(BFDD), Action::Start(BGPD)];
        assert_eq!(policy.step(Event::Answered(ZEBRA), now), rest);
        assert_eq!(policy.step(Event::Answered(BGPD), now), []);
        assert_eq!(policy.step(Event::Answered(2), now), []);
        assert_eq!(policy.step(Event::Answered(BFDD), now), [Action::Load(vec![0, 1, 2, 3, 4])]);
        assert_eq!(policy.step(Event::Loaded(true), now), [Action::Complete]);
        assert_eq!(policy.next_deadline(), Some(now + RECOVERED));
        policy
    }

    #[test]
    fn a_dead_bgpd_is_started_at_once_and_loaded_alone() {
        let now = Instant::now();
        let mut policy = up(now);
        assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::Start(BGPD)]);
        assert_eq!(policy.step(Event::Answered(BGPD), now), [Action::Load(vec![BGPD])]);
        assert_eq!(policy.step(Event::Loaded(true), now), [Action::Complete]);
    }

    /// What is loaded into a new mgmtd while zebra and staticd come back to it may get lost.
    #[test]
    fn a_new_mgmtd_is_loaded_when_the_others_have_found_it() {
        let now = Instant::now();
        let mut policy = up(now);
        assert_eq!(policy.step(Event::Exited(MGMTD), now), [Action::Start(MGMTD)]);
        assert_eq!(policy.step(Event::Answered(MGMTD), now), []);
        assert_eq!(policy.next_deadline(), Some(now + BACKENDS));
        assert_eq!(policy.step(Event::Tick, now + BACKENDS), [Action::Load(vec![MGMTD])]);
    }

    #[test]
    fn a_daemon_that_reads_a_file_needs_no_load() {
        let now = Instant::now();
        let all = Version(8, 4).daemons(true, false);
        let mut policy = policy(&all, &all, now);
        policy.step(Event::Tick, now);
        policy.step(Event::Answered(0), now);
        assert_eq!(policy.step(Event::Answered(1), now), []);
        assert_eq!(policy.step(Event::Answered(2), now), []);
        assert_eq!(policy.step(Event::Answered(3), now), [Action::Complete]);
    }

    /// Of a VTEP, each takes the other, and both come back together, with zebra configured before.
    #[test]
    fn zebra_and_the_bgpd_of_a_vtep_go_together() {
        let now = Instant::now();
        let daemons = Version(10, 7).daemons(false, true);
        let (zebra, bgpd) = (ZEBRA, BGPD - 1);
        let mut policy = policy(&daemons, &[daemons[bgpd]], now);
        policy.step(Event::Tick, now);
        policy.step(Event::Answered(MGMTD), now);
        assert_eq!(policy.step(Event::Answered(zebra), now), [Action::Start(2)]);
        assert_eq!(policy.step(Event::Answered(2), now), [Action::Load(vec![MGMTD, zebra, 2])]);
        assert_eq!(policy.step(Event::Loaded(true), now), [Action::Start(bgpd)]);
        assert_eq!(policy.step(Event::Answered(bgpd), now), [Action::Complete]);
        for (first, second) in [(zebra, bgpd), (bgpd, zebra)] {
            assert_eq!(policy.step(Event::Exited(first), now), [Action::Kill(second)]);
            assert_eq!(policy.step(Event::Exited(second), now), [Action::Start(zebra)]);
            assert_eq!(policy.step(Event::Answered(zebra), now), [Action::Load(vec![zebra])]);
            assert_eq!(policy.step(Event::Loaded(true), now), [Action::Start(bgpd)]);
            policy.step(Event::Answered(bgpd), now);
        }
    }

    /// However often zebra dies, the bgpd of a VTEP does not start before it: zebra would wait for that bgpd's end.
    #[test]
    fn the_bgpd_of_a_vtep_waits_for_a_zebra_that_keeps_dying() {
        let mut now = Instant::now();
        let daemons = Version(10, 7).daemons(false, true);
        let (zebra, bgpd) = (ZEBRA, BGPD - 1);
        let mut policy = policy(&daemons, &[daemons[bgpd]], now);
        policy.step(Event::Tick, now);
        policy.step(Event::Answered(MGMTD), now);
        policy.step(Event::Answered(zebra), now);
        policy.step(Event::Answered(2), now);
        policy.step(Event::Loaded(true), now);
        policy.step(Event::Answered(bgpd), now);
        for _ in 0..3 {
            policy.step(Event::Exited(zebra), now);
            let actions = policy.step(Event::Exited(bgpd), now);
            assert!(!actions.contains(&Action::Start(bgpd)), "{actions:?}");
            if !actions.contains(&Action::Start(zebra)) {
                now = policy.next_deadline().unwrap();
                assert_eq!(policy.step(Event::Tick, now), [Action::Start(zebra)]);
            }
            policy.step(Event::Answered(zebra), now);
            assert_eq!(policy.step(Event::Loaded(true), now), [Action::Start(bgpd)]);
            policy.step(Event::Answered(bgpd), now);
        }
    }

    #[test]
    fn a_dead_zebra_takes_bgpd_along() {
        let now = Instant::now();
        let mut policy = up(now);
        assert_eq!(policy.step(Event::Exited(ZEBRA), now), [Action::Kill(BGPD), Action::Start(ZEBRA)]);
        assert_eq!(policy.step(Event::Exited(BGPD), now), []);
        assert_eq!(policy.step(Event::Answered(ZEBRA), now), [Action::Start(BGPD)]);
        assert_eq!(policy.step(Event::Answered(BGPD), now), [Action::Load(vec![ZEBRA, BGPD])]);
        // It was killed by us, so its next death counts as its first.
        policy.step(Event::Loaded(true), now);
        assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::Start(BGPD)]);
    }

    #[test]
    fn deaths_in_a_row_are_slowed_down_and_never_given_up() {
        let mut now = Instant::now();
        let mut policy = up(now);
        assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::Start(BGPD)]);
        let mut delay = FIRST_DELAY;
        for _ in 0..20 {
            assert_eq!(policy.step(Event::Exited(BGPD), now), []);
            let at = policy.next_deadline().unwrap();
            assert!(at - now >= delay * 3 / 4 && at - now <= delay, "{:?}", at - now);
            delay = (2 * delay).min(LONGEST_DELAY);
            now = at;
            assert_eq!(policy.step(Event::Tick, now), [Action::Start(BGPD)]);
        }
        policy.step(Event::Answered(BGPD), now);
        policy.step(Event::Loaded(true), now);
        now += RECOVERED;
        assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::Start(BGPD)]);
    }

    #[test]
    fn a_daemon_that_never_answers_is_killed() {
        let now = Instant::now();
        let mut policy = policy(&Version(8, 4).daemons(true, false), &[], now);
        assert_eq!(policy.step(Event::Tick, now), [Action::Start(0)]);
        let late = policy.next_deadline().unwrap();
        assert_eq!(policy.step(Event::Tick, late), [Action::Examine(0)]);
        assert_eq!(policy.step(Event::Idles(0), late), [Action::Kill(0)]);
        assert_eq!(policy.step(Event::Exited(0), late), [Action::Start(0)]);
    }

    /// Its file may have thousands of lines.
    #[test]
    fn a_daemon_that_works_at_its_start_has_time_but_not_for_ever() {
        let begin = Instant::now();
        let mut policy = policy(&Version(8, 4).daemons(true, false), &[], begin);
        assert_eq!(policy.step(Event::Tick, begin), [Action::Start(0)]);
        let last = loop {
            let at = policy.next_deadline().unwrap();
            let actions = policy.step(Event::Tick, at);
            assert_eq!(actions, [Action::Examine(0)]);
            if policy.step(Event::Works(0), at) == [Action::Kill(0)] {
                break at;
            }
            assert!(policy.next_deadline().unwrap() > at);
        };
        assert_eq!(last - begin, START_LIMIT + WORK_LIMIT);
    }

    /// What is missing on our side is not a daemon's fault.
    #[test]
    fn a_daemon_that_can_not_be_started_or_asked_has_not_failed() {
        let mut now = Instant::now();
        let mut policy = policy(&Version(8, 4).daemons(true, false), &[], now);
        policy.may_fall_back = true;
        assert_eq!(policy.step(Event::Tick, now), [Action::Start(0)]);
        for _ in 0..50 {
            // Those after it wait as little as for one that keeps dying.
            assert!(!policy.step(Event::NotStarted(0), now).contains(&Action::Start(0)));
            let Phase::Down { not_before } = policy.states[0].phase else { panic!() };
            assert!(not_before > now && not_before - now <= NOT_STARTED_DELAY);
            now = not_before;
            assert!(policy.step(Event::Tick, now).contains(&Action::Start(0)));
        }
        assert_eq!(policy.life(0, now), (Life::Starting, 0));
        // It can't be asked at its start, and later.
        let ends = [Action::Examine(0), Action::Abort(0), Action::Kill(0)];
        for asked in [false, true] {
            for _ in 0..50 {
                let mut actions = policy.step(Event::Tick, now);
                actions.extend(policy.step(Event::NotAsked(0), now));
                assert!(!actions.iter().any(|action| ends.contains(action)), "{actions:?}");
                assert!(!asked || actions.contains(&Action::Ask(0)));
                now += ROUND;
            }
            policy.step(Event::Answered(0), now);
            policy.round = now;
        }
    }

    #[test]
    fn a_load_that_fails_is_repeated_and_then_left() {
        let mut now = Instant::now();
        let mut policy = up(now);
        policy.step(Event::Exited(BGPD), now);
        policy.step(Event::Answered(BGPD), now);
        for _ in 1..LOAD_ATTEMPTS {
            assert_eq!(policy.step(Event::Loaded(false), now), []);
            now = policy.next_deadline().unwrap();
            assert_eq!(policy.step(Event::Tick, now), [Action::Load(vec![BGPD])]);
        }
        assert_eq!(policy.step(Event::Loaded(false), now), [Action::Incomplete]);
        // The next death is a new chance.
        policy.step(Event::Exited(BGPD), now);
        now = policy.next_deadline().unwrap_or(now);
        policy.step(Event::Tick, now);
        assert_eq!(policy.step(Event::Answered(BGPD), now), [Action::Load(vec![BGPD])]);
        assert_eq!(policy.step(Event::Loaded(true), now), [Action::Complete]);
    }

    #[test]
    fn what_was_loaded_into_the_dead_does_not_count_for_the_successor() {
        let mut now = Instant::now();
        let mut policy = up(now);
        policy.step(Event::Exited(BGPD), now);
        policy.step(Event::Answered(BGPD), now);
        // It dies while vtysh is at work, and its successor answers before vtysh is done.
        policy.step(Event::Exited(BGPD), now);
        now = policy.next_deadline().unwrap();
        assert_eq!(policy.step(Event::Tick, now), [Action::Start(BGPD)]);
        assert_eq!(policy.step(Event::Answered(BGPD), now), []);
        assert_eq!(policy.step(Event::Loaded(true), now), [Action::Load(vec![BGPD])]);
    }

    #[test]
    fn a_load_that_hangs_is_ended_and_nothing_is_asked_again_and_again() {
        let now = Instant::now();
        let mut policy = up(now);
        policy.step(Event::Exited(BGPD), now);
        policy.step(Event::Answered(BGPD), now);
        policy.step(Event::Loaded(false), now);
        let again = policy.next_deadline().unwrap();
        assert_eq!(policy.step(Event::Tick, again), [Action::Load(vec![BGPD])]);
        // While it runs the next deadline is far off: a past one would make the loop spin.
        let late = policy.next_deadline().unwrap();
        assert_eq!(late, again + LOAD_LIMIT);
        assert_eq!(policy.step(Event::Tick, late), [Action::AbortLoad]);
        policy.step(Event::Stop, late);
        assert_eq!(policy.next_deadline(), None);
    }

    /// mgmtd of 10.3 answers, and its transaction does not end.
    #[test]
    fn a_load_that_rests_while_all_answer_is_ended_with_mgmtd() {
        let now = Instant::now();
        let mut policy = up(now);
        policy.step(Event::Exited(MGMTD), now);
        policy.step(Event::Answered(MGMTD), now);
        let now = policy.next_deadline().unwrap();
        assert_eq!(policy.step(Event::Tick, now), [Action::Load(vec![MGMTD])]);
        let rests = Event::Loading { rests: true };
        assert_eq!(policy.step(rests, now), []);
        assert_eq!(policy.step(Event::Loading { rests: false }, now), []);
        assert_eq!(policy.step(rests, now), []);
        // zebra is at work.
        policy.states[ZEBRA].asked = Some(now - SILENT);
        assert_eq!(policy.step(rests, now), []);
        policy.step(Event::Answered(ZEBRA), now);
        assert_eq!(policy.step(rests, now), []);
        assert_eq!(policy.step(rests, now), [Action::AbortLoad, Action::Kill(MGMTD)]);
    }

    #[test]
    fn a_stop_ends_everything_and_starts_nothing() {
        let now = Instant::now();
        let mut stopping = up(now);
        let kills: Vec<_> = (0..5).map(Action::Kill).collect();
        assert_eq!(stopping.step(Event::Stop, now), kills);
        for i in 0..4 {
            assert_eq!(stopping.step(Event::Exited(i), now), []);
        }
        assert_eq!(stopping.step(Event::Exited(4), now), [Action::Finished]);
        assert_eq!(policy(&[], &[], now).step(Event::Stop, now), [Action::Finished]);
    }

    #[test]
    fn bgpd_waits_until_the_peers_know_that_bfdd_is_gone() {
        let now = Instant::now();
        let mut policy = up(now);
        assert_eq!(policy.step(Event::Exited(BFDD), now), [Action::Kill(BGPD), Action::Start(BFDD)]);
        assert_eq!(policy.step(Event::Exited(BGPD), now), []);
        assert_eq!(policy.next_deadline(), Some(now + PEERS_NOTICE));
        assert_eq!(policy.step(Event::Tick, now + PEERS_NOTICE), [Action::Start(BGPD)]);
        // The other way round, and once started it is ended again.
        let mut policy = up(now);
        assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::Start(BGPD)]);
        assert_eq!(policy.step(Event::Exited(BFDD), now), [Action::Kill(BGPD), Action::Start(BFDD)]);
    }

    #[test]
    fn a_daemon_that_hangs_says_where_and_is_killed() {
        let begin = Instant::now();
        let mut policy = up(begin);
        policy.round = begin + ROUND;
        let all: Vec<_> = [Action::Look].into_iter().chain((0..5).map(Action::Ask)).collect();
        assert_eq!(policy.next_deadline(), Some(begin + ROUND));
        assert_eq!(policy.step(Event::Tick, begin + ROUND), all);
        for i in [MGMTD, ZEBRA, 2, BFDD] {
            assert_eq!(policy.step(Event::Answered(i), begin + ROUND), []);
        }
        // One that still has time is not asked again.
        assert_eq!(policy.step(Event::Tick, begin + 2 * ROUND), all[..5]);
        for i in [MGMTD, ZEBRA, 2, BFDD] {
            policy.step(Event::Answered(i), begin + 2 * ROUND);
        }
        let late = begin + 3 * ROUND;
        assert_eq!(policy.step(Event::Tick, late), [&all[..5], &[Action::Examine(BGPD)]].concat());
        assert_eq!(policy.step(Event::Idles(BGPD), late), [Action::Abort(BGPD)]);
        assert_eq!(policy.next_deadline(), Some(late + LAST_WORDS));
        assert_eq!(policy.step(Event::Tick, late + LAST_WORDS), [Action::Kill(BGPD)]);
        assert_eq!(policy.step(Event::Exited(BGPD), late + LAST_WORDS), [Action::Start(BGPD)]);
    }

    #[test]
    fn a_daemon_that_works_is_left_alone_but_not_for_ever() {
        let begin = Instant::now();
        let mut policy = up(begin);
        policy.round = begin;
        let (mut now, mut examined) = (begin, 0);
        let aborted = loop {
            let actions = policy.step(Event::Tick, now);
            (0..5).filter(|i| *i != BGPD).for_each(|i| drop(policy.step(Event::Answered(i), now)));
            if actions.contains(&Action::Examine(BGPD)) {
                examined += 1;
                if policy.step(Event::Works(BGPD), now) == [Action::Abort(BGPD)] {
                    break now;
                }
            }
            now += ROUND;
        };
        assert_eq!(aborted - begin, WORK_LIMIT);
        assert!(examined > 30, "{examined}");
        // One that has answered meanwhile is not ended for what was seen of it before.
        let mut policy = up(begin);
        policy.round = begin;
        policy.step(Event::Tick, begin);
        policy.step(Event::Tick, begin + 2 * ROUND);
        policy.step(Event::Answered(BGPD), begin + 2 * ROUND);
        assert_eq!(policy.step(Event::Idles(BGPD), begin + 2 * ROUND), []);
    }

    /// One that runs with an unproven configuration, while there is another one that held, and bgpd has died of it once less than
    /// is enough.
    fn dying(now: &mut Instant) -> Policy {
        let all = Version(10, 3).daemons(true, false);
        let mut policy = policy(&all, &all[3..], *now);
        policy.may_fall_back = true;
        policy.step(Event::Tick, *now);
        for i in [MGMTD, ZEBRA, 2, BFDD, BGPD] {
            policy.step(Event::Answered(i), *now);
        }
        assert_eq!(policy.step(Event::Loaded(true), *now), [Action::Complete]);
        for _ in 1..CRASHES {
            die(&mut policy, now);
        }
        policy
    }

    /// bgpd dies, and another one is started.
    fn die(policy: &mut Policy, now: &mut Instant) {
        let actions = policy.step(Event::Exited(BGPD), *now);
        assert!(!actions.contains(&Action::FallBack(BGPD)), "{actions:?}");
        if actions != [Action::Start(BGPD)] {
            *now = policy.next_deadline().unwrap();
            assert_eq!(policy.step(Event::Tick, *now), [Action::Start(BGPD)]);
        }
        policy.step(Event::Answered(BGPD), *now);
    }

    #[test]
    fn a_configuration_that_kills_is_taken_back() {
        let mut now = Instant::now();
        let mut policy = dying(&mut now);
        assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::FallBack(BGPD)]);
        // Whatever keeps something of it starts anew.
        let kills: Vec<_> = [MGMTD, ZEBRA, 2, BFDD].map(Action::Kill).into();
        assert_eq!(policy.step(Event::Reconfigured { may_fall_back: false }, now), kills);
        for i in [MGMTD, ZEBRA, 2, BFDD] {
            policy.step(Event::Exited(i), now);
        }
        assert!(matches!(policy.states[MGMTD].phase, Phase::Starting { .. }));
        for i in [MGMTD, ZEBRA, 2, BFDD] {
            policy.step(Event::Answered(i), now);
        }
        now = policy.next_deadline().unwrap().max(now + LONGEST_DELAY);
        policy.step(Event::Tick, now);
        policy.step(Event::Answered(BGPD), now);
        // Once is enough: there is no older one.
        for _ in 0..5 {
            die(&mut policy, &mut now);
        }
    }

    #[test]
    fn deaths_under_another_configuration_do_not_count() {
        let mut now = Instant::now();
        let mut policy = dying(&mut now);
        policy.step(Event::Changed { may_fall_back: true }, now);
        // Nor does one that was ordered, so that it takes what is new.
        assert_eq!(policy.step(Event::Renew(BGPD), now), [Action::Kill(BGPD)]);
        die(&mut policy, &mut now);
        for _ in 1..CRASHES {
            die(&mut policy, &mut now);
        }
        assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::FallBack(BGPD)]);
        // It can't be put in force now: nothing is ended for it.
        let again = policy.step(Event::Changed { may_fall_back: true }, now);
        assert!(!again.iter().any(|action| matches!(action, Action::Kill(_))), "{again:?}");
    }

    /// Nor does it slow down later restarts: the first one after it works again is a first one.
    #[test]
    fn what_can_not_be_started_does_not_die() {
        let mut now = Instant::now();
        let mut policy = up(now);
        (policy.may_fall_back, policy.unproven) = (true, true);
        assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::Start(BGPD)]);
        for _ in 0..20 {
            assert_eq!(policy.step(Event::NotStarted(BGPD), now), []);
            let next = policy.next_deadline().unwrap();
            assert!(next <= now + NOT_STARTED_DELAY);
            now = next;
            assert_eq!(policy.step(Event::Tick, now), [Action::Start(BGPD)]);
        }
        assert_eq!(policy.life(BGPD, now).1, 1);
        assert_eq!(policy.step(Event::Answered(BGPD), now), [Action::Load(vec![BGPD])]);
        assert_eq!(policy.step(Event::Loaded(true), now), [Action::Complete]);
        // Those that need one that can't be started go on without it, as without one that keeps dying.
        let mut policy = Policy::new(
            Terms {
                daemons: &Version(10, 3).daemons(true, false),
                with_file: &[],
                patience: 2 * ROUND,
                may_fall_back: false,
                peers_to_tell: false,
                seed: 7,
            },
            now,
        );
        assert_eq!(policy.step(Event::Tick, now), [Action::Start(MGMTD)]);
        assert_eq!(policy.step(Event::NotStarted(MGMTD), now), []);
        now += FIRST_DELAY;
        assert_eq!(policy.step(Event::Tick, now), [Action::Start(MGMTD)]);
        assert_eq!(policy.step(Event::NotStarted(MGMTD), now), [Action::Start(ZEBRA)]);
    }

    #[test]
    fn a_configuration_that_holds_is_kept() {
        let now = Instant::now();
        let mut policy = up(now);
        policy.may_fall_back = true;
        assert_eq!(policy.step(Event::Tick, now + RECOVERED), [Action::Keep]);
        assert_eq!(policy.step(Event::Tick, now + 2 * RECOVERED), []);
        for _ in 0..4 {
            let actions = policy.step(Event::Exited(BGPD), now + 2 * RECOVERED);
            assert!(!actions.contains(&Action::FallBack(BGPD)), "another cause");
        }
    }
}
