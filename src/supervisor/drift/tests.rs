use super::*;

const EXPECTED: &str = "frr version 10.7\n!\nrouter bgp 1\n neighbor 10.0.0.1 remote-as 2\n neighbor 10.0.0.1 password x\nexit\n";

fn with_line(line: &str) -> String {
    EXPECTED.replace("remote-as 2\n", &format!("remote-as 2\n {line}\n"))
}

fn monitor(now: Instant) -> DriftMonitor {
    let mut drift = DriftMonitor::new(Version(10, 7), now);
    assert_eq!(drift.compare(DaemonKind::Bgpd, EXPECTED.into(), true, now), []);
    drift
}

fn kinds(events: &[DriftEvent]) -> Vec<&str> {
    events
        .iter()
        .map(|event| match event {
            DriftEvent::Detected(_, _, _, true) => "detected",
            DriftEvent::Detected(_, _, _, false) => "detected, not logged",
            DriftEvent::Repair(DriftRepair::Commands(_)) => "commands",
            DriftEvent::Repair(DriftRepair::Restart(_)) => "restart",
            DriftEvent::RepairFailed(..) => "failed",
            DriftEvent::Resolved(_, true) => "resolved",
            DriftEvent::Resolved(_, false) => "resolved, not logged",
        })
        .collect()
}

fn finish_repair(
    drift: &mut DriftMonitor,
    result: Result<&str, (&str, bool)>,
    now: Instant,
) -> Vec<DriftEvent> {
    let result = result.map(str::to_owned).map_err(|(reason, passes)| (reason.to_owned(), passes));
    drift.repair_finished(RepairReport { daemon: DaemonKind::Bgpd, result }, now).into_iter().collect()
}

#[test]
fn a_changed_line_is_reported_once_with_the_repair_commands() {
    let now = Instant::now();
    let mut drift = monitor(now);
    let changed = with_line("neighbor 10.0.0.1 shutdown").replace("password x", "password y");
    let events = drift.compare(DaemonKind::Bgpd, changed.clone(), true, now);
    let [
        DriftEvent::Detected(DaemonKind::Bgpd, lines, 1, true),
        DriftEvent::Repair(DriftRepair::Commands(step)),
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(
        *lines,
        [
            "+ router bgp 1: neighbor 10.0.0.1 password …",
            "+ router bgp 1: neighbor 10.0.0.1 shutdown",
            "- router bgp 1: neighbor 10.0.0.1 password …"
        ]
    );
    let commands: Vec<&str> = step.commands.iter().map(|command| command.text.as_str()).collect();
    assert_eq!(
        commands,
        ["router bgp 1", "no neighbor 10.0.0.1 shutdown", "neighbor 10.0.0.1 password x", "exit"]
    );
    // Without `enforce` it is not repaired, and it is reported once while it lasts.
    let mut drift = monitor(now);
    assert_eq!(kinds(&drift.compare(DaemonKind::Bgpd, changed.clone(), false, now)), ["detected"]);
    assert_eq!(drift.compare(DaemonKind::Bgpd, changed.clone(), false, now), []);
    assert_eq!(kinds(&drift.compare(DaemonKind::Bgpd, EXPECTED.into(), false, now)), ["resolved"]);
    assert_eq!(kinds(&drift.compare(DaemonKind::Bgpd, changed.clone(), false, now)), ["detected"]);
    // After a change by the supervisor, the running configuration is the expected one.
    drift.reset(DaemonKind::Bgpd, now);
    assert_eq!(drift.compare(DaemonKind::Bgpd, changed, false, now), []);
}

#[test]
fn a_repeated_change_is_repaired_each_time() {
    let mut now = Instant::now();
    let mut drift = monitor(now);
    let changed = with_line("neighbor 10.0.0.1 shutdown");
    for count in 1..=LOGGED_CHANGES {
        assert_eq!(
            kinds(&drift.compare(DaemonKind::Bgpd, changed.clone(), true, now)),
            ["detected", "commands"],
            "{count}"
        );
        assert_eq!(kinds(&finish_repair(&mut drift, Ok(EXPECTED), now)), ["resolved"]);
        now += CHECK_INTERVAL;
    }
    // The number of repairs has no limit, but the number of log lines has one.
    let mut logged = 0;
    for _ in 0..1000 {
        let events = drift.compare(DaemonKind::Bgpd, changed.clone(), true, now);
        assert_eq!(kinds(&events)[1..], ["commands"]);
        logged += usize::from(kinds(&events)[0] == "detected");
        finish_repair(&mut drift, Ok(EXPECTED), now);
        now += CHECK_INTERVAL;
    }
    assert_eq!(logged, 7, "at 8, 16, … 512");
    now += RESET_AFTER;
    let events = drift.compare(DaemonKind::Bgpd, changed, true, now);
    assert!(matches!(events[0], DriftEvent::Detected(DaemonKind::Bgpd, _, 1, true)), "{events:?}");
}

#[test]
fn failed_repairs_back_off() {
    let mut now = Instant::now();
    let mut drift = monitor(now);
    let changed = with_line("neighbor 10.0.0.1 shutdown");
    let mut delays = vec![];
    assert_eq!(kinds(&drift.compare(DaemonKind::Bgpd, changed.clone(), true, now)), ["detected", "commands"]);
    for attempt in 0..10 {
        let events = finish_repair(&mut drift, Err(("bgpd: could not lock", true)), now);
        assert_eq!(kinds(&events), if attempt == 0 { vec!["failed"] } else { vec![] });
        assert!(drift.next_check_at <= now + MAX_REPAIR_RETRY);
        let begin = now;
        loop {
            now += Duration::from_secs(1);
            let events = drift.compare(DaemonKind::Bgpd, changed.clone(), true, now);
            if kinds(&events) == ["commands"] {
                break;
            }
            assert_eq!(events, []);
        }
        delays.push(now - begin);
    }
    assert_eq!(delays[..3], [REPAIR_RETRY, 2 * REPAIR_RETRY, MAX_REPAIR_RETRY]);
    assert_eq!(delays[9], MAX_REPAIR_RETRY);
    assert_eq!(kinds(&finish_repair(&mut drift, Ok(EXPECTED), now)), ["resolved"]);
    // Another change is repaired at once.
    drift.compare(DaemonKind::Bgpd, changed.clone(), true, now);
    finish_repair(&mut drift, Err(("bgpd: could not lock", true)), now);
    let other = with_line("neighbor 10.0.0.1 passive");
    assert_eq!(kinds(&drift.compare(DaemonKind::Bgpd, other, true, now)), ["detected", "commands"]);
}

#[test]
fn drift_that_commands_cannot_repair_is_repaired_by_a_restart() {
    let mut now = Instant::now();
    let mut drift = monitor(now);
    let changed = with_line("neighbor 10.0.0.1 shutdown");
    for _ in 0..MAX_REFUSALS {
        assert!(kinds(&drift.compare(DaemonKind::Bgpd, changed.clone(), true, now)).contains(&"commands"));
        finish_repair(&mut drift, Ok(&changed), now);
        now += MAX_REPAIR_RETRY;
    }
    assert_eq!(kinds(&drift.compare(DaemonKind::Bgpd, changed, true, now)), ["restart"]);
    drift.reset(DaemonKind::Bgpd, now);
    // Another AS number; a line in an unknown context.
    for changed in
        [EXPECTED.replace("bgp 1", "bgp 2"), format!("{EXPECTED}key chain a\n key 1\n exit\nexit\n")]
    {
        let mut drift = monitor(now);
        assert_eq!(kinds(&drift.compare(DaemonKind::Bgpd, changed.clone(), false, now)), ["detected"]);
        assert_eq!(kinds(&drift.compare(DaemonKind::Bgpd, changed.clone(), true, now)), ["restart"]);
        // For an hour, every new process gets the same change at once.
        let mut restarts = 1;
        for _ in 0..360 {
            now += CHECK_INTERVAL;
            drift.reset(DaemonKind::Bgpd, now);
            drift.compare(DaemonKind::Bgpd, EXPECTED.into(), true, now);
            restarts += u32::from(
                kinds(&drift.compare(DaemonKind::Bgpd, changed.clone(), true, now)).contains(&"restart"),
            );
        }
        assert!((10..=14).contains(&restarts), "{restarts}");
    }
}

#[test]
fn an_unchanged_unknown_context_does_not_prevent_a_repair() {
    let now = Instant::now();
    let with = |text: &str| {
        format!("{text}rpki\n rpki polling_period 60\nexit\n!\nkey chain a\n key 1\n exit\nexit\n")
    };
    let mut drift = DriftMonitor::new(Version(10, 7), now);
    assert_eq!(drift.compare(DaemonKind::Bgpd, with(EXPECTED), true, now), []);
    let events = drift.compare(DaemonKind::Bgpd, with(&with_line("neighbor 10.0.0.1 shutdown")), true, now);
    let [DriftEvent::Detected(_, lines, ..), DriftEvent::Repair(DriftRepair::Commands(_))] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(*lines, ["+ router bgp 1: neighbor 10.0.0.1 shutdown"]);
}

#[test]
fn an_empty_context_can_be_drift() {
    let now = Instant::now();
    let mut drift = monitor(now);
    for more in ["route-map a permit 5\nexit\n", "router bgp 1 vrf x\nexit\n"] {
        let events = drift.compare(DaemonKind::Bgpd, format!("{EXPECTED}{more}"), true, now);
        let head = more.lines().next().unwrap();
        let [DriftEvent::Detected(_, lines, ..), DriftEvent::Repair(DriftRepair::Commands(step))] =
            &events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!(*lines, [format!("+ {head}")]);
        assert_eq!(step.commands[0].text, format!("no {head}"));
    }
    for more in ["interface eth9\nexit\n", "vrf x\nexit-vrf\n", "bfd\nexit\n"] {
        assert!(
            !kinds(&drift.compare(DaemonKind::Bgpd, format!("{EXPECTED}{more}"), true, now))
                .contains(&"detected"),
            "{more}"
        );
    }
}

#[test]
fn dynamic_bfd_peers_are_no_drift() {
    let now = Instant::now();
    let mut drift = DriftMonitor::new(Version(10, 7), now);
    let expected = "bfd\n profile p\n exit\n !\n peer fe80::1 interface eth1\n  profile p\n exit\nexit\n";
    drift.compare(DaemonKind::Bfdd, expected.into(), true, now);
    assert_eq!(drift.compare(DaemonKind::Bfdd, expected.replace("fe80::1", "fe80::2"), true, now), []);
}
