//! When to start, kill and configure which daemon: events and the clock in, actions out. Pure.

use std::time::{Duration, Instant};

use crate::frr::Daemon;

/// Delay before the second restart in a row; it doubles from there. The first one is not delayed.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// No delay is longer: a router never gives up.
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// A daemon that has run for so long has recovered, and its next death is a first one again.
const RECOVERED: Duration = Duration::from_secs(60);
/// A daemon that does not answer for so long after its start hangs. Idle machines need 0.05 s, loaded ones 1 s.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Delay before a configuration that could not be loaded is loaded again.
const RELOAD_DELAY: Duration = Duration::from_secs(1);
/// A load that takes longer hangs: a thousand VRFs take FRR 8.4 half a minute.
const LOAD_LIMIT: Duration = Duration::from_secs(120);
/// Attempts to load the configuration before it is left as it is.
const LOAD_ATTEMPTS: u32 = 5;

/// What happened. Daemons go by their index in the list that the policy was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing but time.
    Tick,
    /// The daemon answers on its vty.
    Answered(usize),
    /// The daemon's process is gone, or could not be started.
    Exited(usize),
    /// The load that was asked for is over; whether it went well.
    Loaded(bool),
    /// End everything.
    Stop,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the daemon and watch for its first answer.
    Start(usize),
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
    /// Every daemon is gone after a stop.
    Finished,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Down { not_before: Instant },
    Starting { since: Instant },
    Ready,
}

#[derive(Debug)]
struct State {
    daemon: &'static Daemon,
    phase: Phase,
    /// When it was started last.
    started: Instant,
    /// Deaths in a row that no one ordered.
    failures: u32,
    /// Killed by us; its death is no failure.
    expected: bool,
    /// Comes up with its configuration.
    reads_file: bool,
    configured: bool,
    /// The configuration could not be loaded, and that is how it stays.
    given_up: bool,
}

/// The state of all daemons.
#[derive(Debug)]
pub struct Policy {
    states: Vec<State>,
    /// Daemons that are being loaded, and when each was started: what is loaded into one is lost with it.
    loading: Vec<(usize, Instant)>,
    load_began: Instant,
    load_attempts: u32,
    load_not_before: Instant,
    complete: bool,
    stopping: bool,
}

impl Policy {
    /// Nothing runs yet. The first [`Event::Tick`] starts what needs nothing else.
    /// Daemons `with_file` configure themselves.
    pub fn new(daemons: &[&'static Daemon], with_file: &[&'static Daemon], now: Instant) -> Self {
        let state = |&daemon| State {
            daemon,
            phase: Phase::Down { not_before: now },
            started: now,
            failures: 0,
            expected: false,
            reads_file: with_file.contains(&daemon),
            configured: false,
            given_up: false,
        };
        Self {
            states: daemons.iter().map(state).collect(),
            loading: vec![],
            load_began: now,
            load_attempts: 0,
            load_not_before: now,
            complete: false,
            stopping: false,
        }
    }

    /// Takes an event in and says what to do now.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Answered(i) => {
                let state = &mut self.states[i];
                state.phase = Phase::Ready;
                state.configured = state.reads_file;
            }
            Event::Exited(i) => self.exited(i, now, &mut actions),
            Event::Loaded(well) => self.loaded(well, now),
            Event::Stop => self.stopping = true,
        }
        if self.stopping {
            self.stop(event, &mut actions);
        } else {
            self.drive(now, &mut actions);
        }
        actions
    }

    /// When to step with [`Event::Tick`] although nothing else happened.
    pub fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.states.iter().enumerate().filter_map(|(i, state)| match state.phase {
            // One that waits for another is woken by that one's answer or death.
            Phase::Down { not_before } => (!self.stopping && self.may_start(i)).then_some(not_before),
            Phase::Starting { since } => (!self.stopping && !state.expected).then_some(since + START_LIMIT),
            Phase::Ready => None,
        });
        let load = match (self.stopping, self.loading.is_empty()) {
            (true, _) => None,
            (false, false) => Some(self.load_began + LOAD_LIMIT),
            (false, true) => self.may_load().then_some(self.load_not_before),
        };
        waiting.chain(load).min()
    }

    fn exited(&mut self, i: usize, now: Instant, actions: &mut Vec<Action>) {
        let state = &mut self.states[i];
        let expected = std::mem::take(&mut state.expected);
        if now - state.started >= RECOVERED {
            state.failures = 0;
        }
        let delay = match state.failures {
            _ if expected => Duration::ZERO,
            0 => Duration::ZERO,
            n => FIRST_DELAY.saturating_mul(1 << (n - 1).min(16)).min(LONGEST_DELAY),
        };
        state.failures += u32::from(!expected);
        state.phase = Phase::Down { not_before: now + delay };
        state.configured = false;
        state.given_up = false;
        self.complete = false;
        self.load_attempts = 0;
        self.load_not_before = now;
        if self.stopping {
            return;
        }
        for name in state.daemon.takes_along {
            let companion = self.states.iter_mut().enumerate().find(|(_, s)| s.daemon.name == *name);
            if let Some((j, companion)) = companion
                && !matches!(companion.phase, Phase::Down { .. })
                && !companion.expected
            {
                companion.expected = true;
                actions.push(Action::Kill(j));
            }
        }
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
                    state.phase = Phase::Starting { since: now };
                    state.started = now;
                    actions.push(Action::Start(i));
                }
                Phase::Starting { since } if since + START_LIMIT <= now && !self.states[i].expected => {
                    // Not "expected": a daemon that hangs at every start must be restarted ever more slowly.
                    self.states[i].phase = Phase::Starting { since: now };
                    actions.push(Action::Kill(i));
                }
                _ => {}
            }
        }
        if !self.loading.is_empty() {
            if self.load_began + LOAD_LIMIT <= now {
                self.load_began = now;
                actions.push(Action::AbortLoad);
            }
        } else if self.may_load() {
            if self.load_not_before <= now {
                let which = self.unconfigured();
                self.loading = which.iter().map(|&i| (i, self.states[i].started)).collect();
                self.load_began = now;
                actions.push(Action::Load(which));
            }
        } else if !self.complete && self.states.iter().all(|s| s.configured) {
            self.complete = true;
            let whole = !self.states.iter().any(|s| s.given_up);
            actions.push(if whole { Action::Complete } else { Action::Incomplete });
        }
    }

    /// Whether there is something to load and nothing that is about to want the same.
    fn may_load(&self) -> bool {
        let starting = self.states.iter().any(|s| matches!(s.phase, Phase::Starting { .. }));
        !starting && !self.unconfigured().is_empty()
    }

    fn unconfigured(&self) -> Vec<usize> {
        let missing = |(i, s): (usize, &State)| (s.phase == Phase::Ready && !s.configured).then_some(i);
        self.states.iter().enumerate().filter_map(missing).collect()
    }

    /// A daemon waits for those before it, but not for one that keeps dying.
    fn may_start(&self, i: usize) -> bool {
        self.states[i].daemon.after.iter().all(|name| {
            let before = self.states.iter().find(|s| s.daemon.name == *name);
            before.is_none_or(|s| match s.phase {
                Phase::Ready => true,
                Phase::Starting { .. } => false,
                Phase::Down { .. } => s.failures > 1,
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

    fn up(now: Instant) -> Policy {
        let mut policy = Policy::new(&Version(10, 3).daemons(true), &[], now);
        assert_eq!(policy.step(Event::Tick, now), [Action::Start(MGMTD)]);
        assert_eq!(policy.step(Event::Answered(MGMTD), now), [Action::Start(ZEBRA)]);
        let rest = [Action::Start(2), Action::Start(BFDD), Action::Start(BGPD)];
        assert_eq!(policy.step(Event::Answered(ZEBRA), now), rest);
        assert_eq!(policy.step(Event::Answered(BGPD), now), []);
        assert_eq!(policy.step(Event::Answered(2), now), []);
        assert_eq!(policy.step(Event::Answered(BFDD), now), [Action::Load(vec![0, 1, 2, 3, 4])]);
        assert_eq!(policy.step(Event::Loaded(true), now), [Action::Complete]);
        assert_eq!(policy.next_deadline(), None);
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

    #[test]
    fn a_daemon_that_reads_a_file_needs_no_load() {
        let now = Instant::now();
        let all = Version(8, 4).daemons(true);
        let mut policy = Policy::new(&all, &all, now);
        policy.step(Event::Tick, now);
        policy.step(Event::Answered(0), now);
        assert_eq!(policy.step(Event::Answered(1), now), []);
        assert_eq!(policy.step(Event::Answered(2), now), []);
        assert_eq!(policy.step(Event::Answered(3), now), [Action::Complete]);
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
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            assert_eq!(policy.step(Event::Exited(BGPD), now), []);
            let at = policy.next_deadline().unwrap();
            assert!(at - now >= last && at - now <= LONGEST_DELAY);
            last = at - now;
            now = at;
            assert_eq!(policy.step(Event::Tick, now), [Action::Start(BGPD)]);
        }
        assert_eq!(last, LONGEST_DELAY);
        policy.step(Event::Answered(BGPD), now);
        policy.step(Event::Loaded(true), now);
        now += RECOVERED;
        assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::Start(BGPD)]);
    }

    #[test]
    fn a_daemon_that_never_answers_is_killed() {
        let now = Instant::now();
        let mut policy = Policy::new(&Version(8, 4).daemons(true), &[], now);
        assert_eq!(policy.step(Event::Tick, now), [Action::Start(0)]);
        let late = policy.next_deadline().unwrap();
        assert_eq!(policy.step(Event::Tick, late), [Action::Kill(0)]);
        assert_eq!(policy.step(Event::Exited(0), late), [Action::Start(0)]);
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

    #[test]
    fn a_stop_ends_everything_and_starts_nothing() {
        let now = Instant::now();
        let mut policy = up(now);
        let kills: Vec<_> = (0..5).map(Action::Kill).collect();
        assert_eq!(policy.step(Event::Stop, now), kills);
        for i in 0..4 {
            assert_eq!(policy.step(Event::Exited(i), now), []);
        }
        assert_eq!(policy.step(Event::Exited(4), now), [Action::Finished]);
        assert_eq!(Policy::new(&[], &[], now).step(Event::Stop, now), [Action::Finished]);
    }
}
