use super::*;

#[test]
fn a_new_bgpd_has_time_to_establish_its_sessions() {
    let missing = |text: &str| {
        let replies = [Reply { success: true, text: text.into() }];
        parse_neighbors(&replies).map(|all| (all.len(), missing_sessions(&all)))
    };
    assert_eq!((missing("{}"), missing("")), (Some((0, vec![])), None));
    let (up, down) = (r#"{"bgpState":"Established"}"#, r#"{"bgpState":"Active"}"#);
    assert_eq!(missing(&format!(r#"{{"eth1":{up},"eth2":{down}}}"#)), Some((2, vec!["eth2".into()])));

    let pid = Pid::from_raw;
    // A bgpd that does not listen: the loop sleeps between the steps, and the shutdown ends.
    let now = Instant::now();
    let (text, drain) = ("router bgp 1\n neighbor eth1 interface\nexit\n", Duration::from_secs(3));
    let mut shutdown = GracefulShutdown::start("/nonexistent".into(), &text.into(), drain, None, false, now);
    let run = |shutdown: &mut GracefulShutdown, mut at: Instant, bgpd| {
        let mut steps = 0;
        loop {
            if let Some(outcome) = shutdown.step(bgpd, at) {
                assert_eq!(outcome, ShutdownOutcome::Failed);
                assert!(steps < 100, "{steps}");
                return at;
            }
            assert!(shutdown.deadline() > at || shutdown.stage == Stage::Drain);
            (at, steps) = (shutdown.deadline(), steps + 1);
        }
    };
    assert_eq!(run(&mut shutdown, now, None), now + SESSIONS_TIMEOUT);

    // If bgpd exits, the next bgpd has the same time for its sessions, within the total timeout.
    let second = Duration::from_secs(1);
    let mut shutdown =
        GracefulShutdown::start("/nonexistent".into(), &text.into(), drain, pid(1), false, now);
    assert_eq!(shutdown.step(pid(1), now), None);
    assert_eq!(shutdown.step(None, now + second), None);
    assert_eq!(shutdown.step(pid(2), now + 2 * second), None);
    assert_eq!(shutdown.stage, Stage::Sessions(now + 2 * second + SESSIONS_TIMEOUT));
    assert_eq!(shutdown.step(pid(3), now + 5 * second), None);
    assert_eq!(run(&mut shutdown, now + 5 * second, pid(3)), now + (TOTAL_TIMEOUT - DELIVERY_TIME));
}

#[test]
fn every_neighbor_of_every_instance_is_shut_down() {
    let text = "router bgp 1 vrf m\n neighbor fd00::1 remote-as 2\n neighbor fd00::1 timers 3 9\n !\n \
                address-family ipv4 unicast\n  neighbor fd00::1 activate\nexit\n!\nrouter bgp 3\n \
                neighbor fabric peer-group\n neighbor eth1 interface peer-group fabric\nexit\nbfd\n neighbor x y\nexit\n";
    let (first, second) = commands(&text.into());
    let configure = ["enable", "configure terminal"];
    let gshut = "bgp graceful-shutdown";
    assert_eq!(first[2..], ["router bgp 3", gshut, "exit", "router bgp 1 vrf m", gshut, "exit"]);
    assert_eq!(second[..2], configure);
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
    // Any indentation.
    let (_, shutdown_commands) = commands(&"router bgp 3\n   neighbor 192.0.2.1 remote-as 4\nexit\n".into());
    assert_eq!(shutdown_commands[3], "neighbor 192.0.2.1 shutdown");
    // Other blocks before, inside and after the instance.
    let text = "segment-routing\n srv6\n  x\n exit\nexit\nrouter bgp 3\n bmp targets x\n  y\n exit\n neighbor a interface\nexit\n\
                rpki\n rpki cache x\nexit\nrouter bgp 3\nneighbor b interface\nrouter bgp 4 vrf x\n neighbor c interface\n\
                interface eth0\n link-params\n  neighbor d x\n exit-link-params\nexit\n";
    let (_, shutdown_commands) = commands(&text.into());
    let neighbors: Vec<_> = shutdown_commands.iter().filter(|line| line.starts_with("neighbor ")).collect();
    assert_eq!(neighbors, ["neighbor a shutdown", "neighbor b shutdown", "neighbor c shutdown"]);
}
