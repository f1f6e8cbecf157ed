use super::*;
use crate::frr::Version;

const MGMTD: usize = 0;
const ZEBRA: usize = 1;
const BFDD: usize = 3;
const BGPD: usize = 4;

/// Without liveness checks.
fn policy(daemons: &[&'static Daemon], with_file: &[&'static Daemon], now: Instant) -> Policy {
    let settings = PolicySettings {
        daemons,
        with_file,
        liveness_timeout: 2 * PING_INTERVAL,
        can_roll_back: false,
        has_stale_bfd_sessions: false,
        seed: 7,
    };
    let mut policy = Policy::new(settings, now);
    policy.next_ping = now + Duration::from_secs(86400);
    policy
}

fn up(now: Instant) -> Policy {
    let mut policy = policy(&Version(10, 3).daemons(true, false), &[], now);
    assert_eq!(policy.step(Event::Tick, now), [Action::Start(MGMTD)]);
    assert_eq!(policy.step(Event::Responded(MGMTD), now), [Action::Start(ZEBRA)]);
    let rest = [Action::Start(2), Action::Start(BFDD), Action::Start(BGPD)];
    assert_eq!(policy.step(Event::Responded(ZEBRA), now), rest);
    assert_eq!(policy.step(Event::Responded(BGPD), now), []);
    assert_eq!(policy.step(Event::Responded(2), now), []);
    assert_eq!(policy.step(Event::Responded(BFDD), now), [Action::Load(vec![0, 1, 2, 3, 4])]);
    assert_eq!(policy.step(Event::Loaded(true), now), [Action::Complete]);
    assert_eq!(policy.next_deadline(), Some(now + STABLE_AFTER));
    policy
}

#[test]
fn bgpd_restarts_at_once_and_is_loaded_alone() {
    let now = Instant::now();
    let mut policy = up(now);
    assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::Start(BGPD)]);
    assert_eq!(policy.step(Event::Responded(BGPD), now), [Action::Load(vec![BGPD])]);
    assert_eq!(policy.step(Event::Loaded(true), now), [Action::Complete]);
}

/// Commands that are loaded into a new mgmtd before zebra and staticd reconnect may be lost.
#[test]
fn a_new_mgmtd_is_loaded_after_its_backends_have_connected() {
    let now = Instant::now();
    let mut policy = up(now);
    assert_eq!(policy.step(Event::Exited(MGMTD), now), [Action::Start(MGMTD)]);
    assert_eq!(policy.step(Event::Responded(MGMTD), now), []);
    assert_eq!(policy.next_deadline(), Some(now + BACKEND_CONNECT_TIME));
    assert_eq!(policy.step(Event::Tick, now + BACKEND_CONNECT_TIME), [Action::Load(vec![MGMTD])]);
}

#[test]
fn a_daemon_that_reads_a_file_needs_no_load() {
    let now = Instant::now();
    let all = Version(8, 4).daemons(true, false);
    let mut policy = policy(&all, &all, now);
    policy.step(Event::Tick, now);
    policy.step(Event::Responded(0), now);
    assert_eq!(policy.step(Event::Responded(1), now), []);
    assert_eq!(policy.step(Event::Responded(2), now), []);
    assert_eq!(policy.step(Event::Responded(3), now), [Action::Complete]);
}

/// On a VTEP, each exit restarts both daemons, and zebra is configured before bgpd starts.
#[test]
fn zebra_and_the_bgpd_of_a_vtep_restart_together() {
    let now = Instant::now();
    let daemons = Version(10, 7).daemons(false, true);
    let (zebra, bgpd) = (ZEBRA, BGPD - 1);
    let mut policy = policy(&daemons, &[daemons[bgpd]], now);
    policy.step(Event::Tick, now);
    policy.step(Event::Responded(MGMTD), now);
    assert_eq!(policy.step(Event::Responded(zebra), now), [Action::Start(2)]);
    assert_eq!(policy.step(Event::Responded(2), now), [Action::Load(vec![MGMTD, zebra, 2])]);
    assert_eq!(policy.step(Event::Loaded(true), now), [Action::Start(bgpd)]);
    assert_eq!(policy.step(Event::Responded(bgpd), now), [Action::Complete]);
    for (first, second) in [(zebra, bgpd), (bgpd, zebra)] {
        assert_eq!(policy.step(Event::Exited(first), now), [Action::Kill(second)]);
        assert_eq!(policy.step(Event::Exited(second), now), [Action::Start(zebra)]);
        assert_eq!(policy.step(Event::Responded(zebra), now), [Action::Load(vec![zebra])]);
        assert_eq!(policy.step(Event::Loaded(true), now), [Action::Start(bgpd)]);
        policy.step(Event::Responded(bgpd), now);
    }
}

/// However often zebra crashes, the bgpd of a VTEP does not start before it: zebra would wait for the end of that
/// bgpd.
#[test]
fn the_bgpd_of_a_vtep_waits_for_a_zebra_in_a_crash_loop() {
    let mut now = Instant::now();
    let daemons = Version(10, 7).daemons(false, true);
    let (zebra, bgpd) = (ZEBRA, BGPD - 1);
    let mut policy = policy(&daemons, &[daemons[bgpd]], now);
    policy.step(Event::Tick, now);
    policy.step(Event::Responded(MGMTD), now);
    policy.step(Event::Responded(zebra), now);
    policy.step(Event::Responded(2), now);
    policy.step(Event::Loaded(true), now);
    policy.step(Event::Responded(bgpd), now);
    for _ in 0..3 {
        policy.step(Event::Exited(zebra), now);
        let actions = policy.step(Event::Exited(bgpd), now);
        assert!(!actions.contains(&Action::Start(bgpd)), "{actions:?}");
        if !actions.contains(&Action::Start(zebra)) {
            now = policy.next_deadline().unwrap();
            assert_eq!(policy.step(Event::Tick, now), [Action::Start(zebra)]);
        }
        policy.step(Event::Responded(zebra), now);
        assert_eq!(policy.step(Event::Loaded(true), now), [Action::Start(bgpd)]);
        policy.step(Event::Responded(bgpd), now);
    }
}

#[test]
fn a_crash_of_zebra_restarts_bgpd() {
    let now = Instant::now();
    let mut policy = up(now);
    assert_eq!(policy.step(Event::Exited(ZEBRA), now), [Action::Kill(BGPD), Action::Start(ZEBRA)]);
    assert_eq!(policy.step(Event::Exited(BGPD), now), []);
    assert_eq!(policy.step(Event::Responded(ZEBRA), now), [Action::Start(BGPD)]);
    assert_eq!(policy.step(Event::Responded(BGPD), now), [Action::Load(vec![ZEBRA, BGPD])]);
    // The supervisor killed it, so its next crash counts as the first.
    policy.step(Event::Loaded(true), now);
    assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::Start(BGPD)]);
}

#[test]
fn a_crash_loop_backs_off_and_never_stops() {
    let mut now = Instant::now();
    let mut policy = up(now);
    assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::Start(BGPD)]);
    let mut delay = FIRST_BACKOFF;
    for _ in 0..20 {
        assert_eq!(policy.step(Event::Exited(BGPD), now), []);
        let at = policy.next_deadline().unwrap();
        assert!(at - now >= delay * 3 / 4 && at - now <= delay, "{:?}", at - now);
        delay = (2 * delay).min(MAX_BACKOFF);
        now = at;
        assert_eq!(policy.step(Event::Tick, now), [Action::Start(BGPD)]);
    }
    policy.step(Event::Responded(BGPD), now);
    policy.step(Event::Loaded(true), now);
    now += STABLE_AFTER;
    assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::Start(BGPD)]);
}

#[test]
fn a_daemon_that_never_answers_is_killed() {
    let now = Instant::now();
    let mut policy = policy(&Version(8, 4).daemons(true, false), &[], now);
    assert_eq!(policy.step(Event::Tick, now), [Action::Start(0)]);
    let late = policy.next_deadline().unwrap();
    assert_eq!(policy.step(Event::Tick, late), [Action::CheckBusy(0)]);
    assert_eq!(policy.step(Event::Idle(0), late), [Action::Kill(0)]);
    assert_eq!(policy.step(Event::Exited(0), late), [Action::Start(0)]);
}

/// Its file may have thousands of lines, so it may be busy for long.
#[test]
fn a_daemon_that_is_busy_at_its_start_is_killed_after_the_busy_timeout() {
    let begin = Instant::now();
    let mut policy = policy(&Version(8, 4).daemons(true, false), &[], begin);
    assert_eq!(policy.step(Event::Tick, begin), [Action::Start(0)]);
    let last = loop {
        let at = policy.next_deadline().unwrap();
        let actions = policy.step(Event::Tick, at);
        assert_eq!(actions, [Action::CheckBusy(0)]);
        if policy.step(Event::Busy(0), at) == [Action::Kill(0)] {
            break at;
        }
        assert!(policy.next_deadline().unwrap() > at);
    };
    assert_eq!(last - begin, START_TIMEOUT + BUSY_TIMEOUT);
}

/// A resource that the supervisor lacks is not a crash of the daemon.
#[test]
fn a_failed_start_or_ping_is_not_a_crash() {
    let mut now = Instant::now();
    let mut policy = policy(&Version(8, 4).daemons(true, false), &[], now);
    policy.can_roll_back = true;
    assert_eq!(policy.step(Event::Tick, now), [Action::Start(0)]);
    for _ in 0..50 {
        // The daemons after it do not wait for it, as with a crash loop.
        assert!(!policy.step(Event::StartFailed(0), now).contains(&Action::Start(0)));
        let DaemonPhase::Down { not_before } = policy.states[0].phase else { panic!() };
        assert!(not_before > now && not_before - now <= MAX_START_RETRY);
        now = not_before;
        assert!(policy.step(Event::Tick, now).contains(&Action::Start(0)));
    }
    assert_eq!(policy.daemon_state(0, now), (ProcessState::Starting, 0));
    // The ping fails at its start, and later.
    let ends = [Action::CheckBusy(0), Action::Abort(0), Action::Kill(0)];
    for is_ready in [false, true] {
        for _ in 0..50 {
            let mut actions = policy.step(Event::Tick, now);
            actions.extend(policy.step(Event::PingFailed(0), now));
            assert!(!actions.iter().any(|action| ends.contains(action)), "{actions:?}");
            assert!(!is_ready || actions.contains(&Action::Ping(0)));
            now += PING_INTERVAL;
        }
        policy.step(Event::Responded(0), now);
        policy.next_ping = now;
    }
}

#[test]
fn a_failed_load_is_repeated_and_then_given_up() {
    let mut now = Instant::now();
    let mut policy = up(now);
    policy.step(Event::Exited(BGPD), now);
    policy.step(Event::Responded(BGPD), now);
    for _ in 1..LOAD_ATTEMPTS {
        assert_eq!(policy.step(Event::Loaded(false), now), []);
        now = policy.next_deadline().unwrap();
        assert_eq!(policy.step(Event::Tick, now), [Action::Load(vec![BGPD])]);
    }
    assert_eq!(policy.step(Event::Loaded(false), now), [Action::Incomplete]);
    // The next restart tries the load again.
    policy.step(Event::Exited(BGPD), now);
    now = policy.next_deadline().unwrap_or(now);
    policy.step(Event::Tick, now);
    assert_eq!(policy.step(Event::Responded(BGPD), now), [Action::Load(vec![BGPD])]);
    assert_eq!(policy.step(Event::Loaded(true), now), [Action::Complete]);
}

#[test]
fn a_load_into_an_exited_daemon_does_not_count_for_the_next_process() {
    let mut now = Instant::now();
    let mut policy = up(now);
    policy.step(Event::Exited(BGPD), now);
    policy.step(Event::Responded(BGPD), now);
    // It exits while vtysh loads it, and the new process answers before vtysh has finished.
    policy.step(Event::Exited(BGPD), now);
    now = policy.next_deadline().unwrap();
    assert_eq!(policy.step(Event::Tick, now), [Action::Start(BGPD)]);
    assert_eq!(policy.step(Event::Responded(BGPD), now), []);
    assert_eq!(policy.step(Event::Loaded(true), now), [Action::Load(vec![BGPD])]);
}

#[test]
fn a_hung_load_is_aborted_without_a_busy_loop() {
    let now = Instant::now();
    let mut policy = up(now);
    policy.step(Event::Exited(BGPD), now);
    policy.step(Event::Responded(BGPD), now);
    policy.step(Event::Loaded(false), now);
    let retry_at = policy.next_deadline().unwrap();
    assert_eq!(policy.step(Event::Tick, retry_at), [Action::Load(vec![BGPD])]);
    // While the load runs, the next deadline must lie in the future: a past one would make the loop spin.
    let late = policy.next_deadline().unwrap();
    assert_eq!(late, retry_at + LOAD_TIMEOUT);
    assert_eq!(policy.step(Event::Tick, late), [Action::AbortLoad]);
    policy.step(Event::Stop, late);
    assert_eq!(policy.next_deadline(), None);
}

/// mgmtd of 10.3 answers, but its transaction does not end.
#[test]
fn an_idle_load_while_all_daemons_answer_is_aborted_with_mgmtd() {
    let now = Instant::now();
    let mut policy = up(now);
    policy.step(Event::Exited(MGMTD), now);
    policy.step(Event::Responded(MGMTD), now);
    let now = policy.next_deadline().unwrap();
    assert_eq!(policy.step(Event::Tick, now), [Action::Load(vec![MGMTD])]);
    let idle = Event::Loading { idle: true };
    assert_eq!(policy.step(idle, now), []);
    assert_eq!(policy.step(Event::Loading { idle: false }, now), []);
    assert_eq!(policy.step(idle, now), []);
    // zebra is unresponsive.
    policy.states[ZEBRA].ping_sent = Some(now - UNRESPONSIVE_AFTER);
    assert_eq!(policy.step(idle, now), []);
    policy.step(Event::Responded(ZEBRA), now);
    assert_eq!(policy.step(idle, now), []);
    assert_eq!(policy.step(idle, now), [Action::AbortLoad, Action::Kill(MGMTD)]);
}

#[test]
fn a_stop_kills_all_daemons_and_starts_none() {
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
fn bgpd_waits_for_the_admin_down_packets_of_bfdd() {
    let now = Instant::now();
    let mut policy = up(now);
    assert_eq!(policy.step(Event::Exited(BFDD), now), [Action::Kill(BGPD), Action::Start(BFDD)]);
    assert_eq!(policy.step(Event::Exited(BGPD), now), []);
    let later = now + Duration::from_millis(300);
    assert_eq!(policy.step(Event::Responded(BFDD), later), [Action::Load(vec![BFDD])]);
    assert_eq!(policy.step(Event::Tick, later), []);
    assert_eq!(policy.step(Event::BfdPeersNotified, later), [Action::Start(BGPD)]);
    // bgpd exits first and was already started: it is killed again.
    let mut policy = up(now);
    assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::Start(BGPD)]);
    assert_eq!(policy.step(Event::Exited(BFDD), now), [Action::Kill(BGPD), Action::Start(BFDD)]);
}

#[test]
fn an_unresponsive_daemon_is_aborted_and_then_killed() {
    let begin = Instant::now();
    let mut policy = up(begin);
    policy.next_ping = begin + PING_INTERVAL;
    let all: Vec<_> = [Action::PeriodicCheck].into_iter().chain((0..5).map(Action::Ping)).collect();
    assert_eq!(policy.next_deadline(), Some(begin + PING_INTERVAL));
    assert_eq!(policy.step(Event::Tick, begin + PING_INTERVAL), all);
    for i in [MGMTD, ZEBRA, 2, BFDD] {
        assert_eq!(policy.step(Event::Responded(i), begin + PING_INTERVAL), []);
    }
    // A daemon with an open ping gets no second one.
    assert_eq!(policy.step(Event::Tick, begin + 2 * PING_INTERVAL), all[..5]);
    for i in [MGMTD, ZEBRA, 2, BFDD] {
        policy.step(Event::Responded(i), begin + 2 * PING_INTERVAL);
    }
    let late = begin + 3 * PING_INTERVAL;
    assert_eq!(policy.step(Event::Tick, late), [&all[..5], &[Action::CheckBusy(BGPD)]].concat());
    assert_eq!(policy.step(Event::Idle(BGPD), late), [Action::Abort(BGPD)]);
    assert_eq!(policy.next_deadline(), Some(late + ABORT_TIMEOUT));
    assert_eq!(policy.step(Event::Tick, late + ABORT_TIMEOUT), [Action::Kill(BGPD)]);
    assert_eq!(policy.step(Event::Exited(BGPD), late + ABORT_TIMEOUT), [Action::Start(BGPD)]);
}

#[test]
fn a_busy_daemon_is_aborted_after_the_busy_timeout() {
    let begin = Instant::now();
    let mut policy = up(begin);
    policy.next_ping = begin;
    let (mut now, mut checks) = (begin, 0);
    let aborted = loop {
        let actions = policy.step(Event::Tick, now);
        (0..5).filter(|i| *i != BGPD).for_each(|i| drop(policy.step(Event::Responded(i), now)));
        if actions.contains(&Action::CheckBusy(BGPD)) {
            checks += 1;
            if policy.step(Event::Busy(BGPD), now) == [Action::Abort(BGPD)] {
                break now;
            }
        }
        now += PING_INTERVAL;
    };
    assert_eq!(aborted - begin, BUSY_TIMEOUT);
    assert!(checks > 30, "{checks}");
    // A daemon that has answered meanwhile is not ended because of an earlier check.
    let mut policy = up(begin);
    policy.next_ping = begin;
    policy.step(Event::Tick, begin);
    policy.step(Event::Tick, begin + 2 * PING_INTERVAL);
    policy.step(Event::Responded(BGPD), begin + 2 * PING_INTERVAL);
    assert_eq!(policy.step(Event::Idle(BGPD), begin + 2 * PING_INTERVAL), []);
}

/// A policy with an unproven configuration and a last-known-good one, after one crash of bgpd less than a rollback
/// needs.
fn crashing(now: &mut Instant) -> Policy {
    let all = Version(10, 3).daemons(true, false);
    let mut policy = policy(&all, &all[3..], *now);
    policy.can_roll_back = true;
    policy.step(Event::Tick, *now);
    for i in [MGMTD, ZEBRA, 2, BFDD, BGPD] {
        policy.step(Event::Responded(i), *now);
    }
    assert_eq!(policy.step(Event::Loaded(true), *now), [Action::Complete]);
    for _ in 1..ROLLBACK_CRASHES {
        crash_and_restart(&mut policy, now);
    }
    policy
}

/// bgpd crashes and is restarted, without a rollback.
fn crash_and_restart(policy: &mut Policy, now: &mut Instant) {
    let actions = policy.step(Event::Exited(BGPD), *now);
    assert!(!actions.contains(&Action::RollBack(BGPD)), "{actions:?}");
    if actions != [Action::Start(BGPD)] {
        *now = policy.next_deadline().unwrap();
        assert_eq!(policy.step(Event::Tick, *now), [Action::Start(BGPD)]);
    }
    policy.step(Event::Responded(BGPD), *now);
}

#[test]
fn a_configuration_that_crashes_a_daemon_is_rolled_back() {
    let mut now = Instant::now();
    let mut policy = crashing(&mut now);
    assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::RollBack(BGPD)]);
    // Every daemon that may keep a part of the configuration is restarted.
    let kills: Vec<_> = [MGMTD, ZEBRA, 2, BFDD].map(Action::Kill).into();
    assert_eq!(policy.step(Event::Reconfigured { can_roll_back: false }, now), kills);
    for i in [MGMTD, ZEBRA, 2, BFDD] {
        policy.step(Event::Exited(i), now);
    }
    assert!(matches!(policy.states[MGMTD].phase, DaemonPhase::Starting { .. }));
    for i in [MGMTD, ZEBRA, 2, BFDD] {
        policy.step(Event::Responded(i), now);
    }
    policy.step(Event::BfdPeersNotified, now);
    now = policy.next_deadline().unwrap().max(now + MAX_BACKOFF);
    policy.step(Event::Tick, now);
    policy.step(Event::Responded(BGPD), now);
    // There is only one rollback: no older configuration exists.
    for _ in 0..5 {
        crash_and_restart(&mut policy, &mut now);
    }
}

#[test]
fn crashes_with_another_configuration_do_not_count() {
    let mut now = Instant::now();
    let mut policy = crashing(&mut now);
    policy.step(Event::Changed { can_roll_back: true }, now);
    // A restart that applies the new configuration does not count either.
    assert_eq!(policy.step(Event::Restart(BGPD), now), [Action::Kill(BGPD)]);
    crash_and_restart(&mut policy, &mut now);
    for _ in 1..ROLLBACK_CRASHES {
        crash_and_restart(&mut policy, &mut now);
    }
    assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::RollBack(BGPD)]);
    // The rollback is not possible now, and no daemon is killed for it.
    let again = policy.step(Event::Changed { can_roll_back: true }, now);
    assert!(!again.iter().any(|action| matches!(action, Action::Kill(_))), "{again:?}");
}

/// A failed start does not increase the back-off of later restarts.
#[test]
fn a_failed_start_does_not_count_as_a_crash() {
    let mut now = Instant::now();
    let mut policy = up(now);
    (policy.can_roll_back, policy.unproven) = (true, true);
    assert_eq!(policy.step(Event::Exited(BGPD), now), [Action::Start(BGPD)]);
    for _ in 0..20 {
        assert_eq!(policy.step(Event::StartFailed(BGPD), now), []);
        let next = policy.next_deadline().unwrap();
        assert!(next <= now + MAX_START_RETRY);
        now = next;
        assert_eq!(policy.step(Event::Tick, now), [Action::Start(BGPD)]);
    }
    assert_eq!(policy.daemon_state(BGPD, now).1, 1);
    assert_eq!(policy.step(Event::Responded(BGPD), now), [Action::Load(vec![BGPD])]);
    assert_eq!(policy.step(Event::Loaded(true), now), [Action::Complete]);
    // Daemons that need one that cannot be started go on without it, as with a crash loop.
    let mut policy = Policy::new(
        PolicySettings {
            daemons: &Version(10, 3).daemons(true, false),
            with_file: &[],
            liveness_timeout: 2 * PING_INTERVAL,
            can_roll_back: false,
            has_stale_bfd_sessions: false,
            seed: 7,
        },
        now,
    );
    assert_eq!(policy.step(Event::Tick, now), [Action::Start(MGMTD)]);
    assert_eq!(policy.step(Event::StartFailed(MGMTD), now), []);
    now += FIRST_BACKOFF;
    assert_eq!(policy.step(Event::Tick, now), [Action::Start(MGMTD)]);
    assert_eq!(policy.step(Event::StartFailed(MGMTD), now), [Action::Start(ZEBRA)]);
}

#[test]
fn a_proven_configuration_is_marked_good() {
    let now = Instant::now();
    let mut policy = up(now);
    policy.can_roll_back = true;
    assert_eq!(policy.step(Event::Tick, now + STABLE_AFTER), [Action::MarkGood]);
    assert_eq!(policy.step(Event::Tick, now + 2 * STABLE_AFTER), []);
    for _ in 0..4 {
        let actions = policy.step(Event::Exited(BGPD), now + 2 * STABLE_AFTER);
        assert!(
            !actions.contains(&Action::RollBack(BGPD)),
            "the configuration is proven, so the crash has another cause"
        );
    }
}
