use super::*;

const OLD: &str = "log stdout\nip prefix-list a seq 5 permit 10.0.0.0/8\nroute-map m permit 10\n match ip address prefix-list a\nexit\n\
    vrf red\n vni 5\nexit-vrf\nrouter bgp 1 vrf red\n neighbor 10.0.0.1 remote-as 2\nexit\n\
    router bgp 1\n neighbor g peer-group\n neighbor g remote-as external\n neighbor eth1 interface peer-group g\n neighbor 10.9.0.1 remote-as 7\n \
    neighbor 10.9.0.1 timers 3 9\n address-family ipv4 unicast\n  neighbor g activate\n  neighbor 10.9.0.1 activate\n  neighbor 10.9.0.1 route-map m out\n \
    exit-address-family\nexit\nbfd\n profile p\n  transmit-interval 300\n exit\nexit\n";

fn steps(old: &str, new: &str) -> Vec<String> {
    match delta(&old.into(), &new.into(), Version(10, 7)) {
        Delta::Commands(steps, deferred) => steps
            .into_iter()
            .chain(deferred)
            .flat_map(|step| {
                let texts: Vec<String> = step.commands.into_iter().map(|command| command.text).collect();
                [format!("{}: {}", step.daemon, texts.join("; "))]
            })
            .collect(),
        Delta::Invalid(reason) => vec![format!("invalid: {reason}")],
        Delta::Restart(which, reason) => {
            let names: Vec<_> = which.iter().map(|daemon| daemon.name()).collect();
            vec![format!("restart {names:?}: {reason}")]
        }
    }
}

#[test]
fn equal_configurations_need_no_commands() {
    assert_eq!(steps(OLD, OLD), Vec::<String>::new());
    assert_eq!(steps(OLD, &OLD.replace("exit\n", "exit\n!\n")), Vec::<String>::new());
}

#[test]
fn a_line_with_the_same_key_is_overwritten() {
    let new = OLD
        .replace("timers 3 9", "timers 5 15")
        .replace("route-map m out", "route-map n out")
        .replace("interval 300", "interval 500");
    assert_eq!(
        steps(OLD, &new),
        [
            "bfdd: bfd; profile p; transmit-interval 500; exit; exit",
            "bgpd: router bgp 1; neighbor 10.9.0.1 timers 5 15; address-family ipv4 unicast; neighbor 10.9.0.1 route-map n out; exit; exit",
        ]
    );
}

#[test]
fn a_vni_is_removed_before_its_instance_and_a_neighbor_with_all_its_lines() {
    let start = OLD.find("vrf red").unwrap();
    let new = OLD[..start].to_owned() + &OLD[OLD.find("router bgp 1\n").unwrap()..];
    assert_eq!(
        steps(OLD, &new),
        ["mgmtd: vrf red; no vni 5; exit", "bgpd: no router bgp 1 vrf red", "mgmtd: no vrf red"]
    );
    let new: String =
        OLD.lines().filter(|line| !line.contains("10.9.0.1")).map(|line| format!("{line}\n")).collect();
    assert_eq!(steps(OLD, &new), ["bgpd: router bgp 1; no neighbor 10.9.0.1; exit"]);
    assert_eq!(
        steps(&new, OLD),
        [
            "bgpd: router bgp 1; neighbor 10.9.0.1 remote-as 7; neighbor 10.9.0.1 timers 3 9; address-family ipv4 unicast; \
          neighbor 10.9.0.1 activate; neighbor 10.9.0.1 route-map m out; exit; exit"
        ]
    );
}

#[test]
fn a_neighbor_of_another_kind_is_removed_and_added() {
    let new = OLD.replace("eth1 interface peer-group g", "eth1 interface remote-as external");
    assert_eq!(
        steps(OLD, &new),
        ["bgpd: router bgp 1; no neighbor eth1; neighbor eth1 interface remote-as external; exit"]
    );
}

#[test]
fn unsafe_changes_need_a_restart() {
    let restart = |new: &str| steps(OLD, new).remove(0);
    assert!(restart(&OLD.replace("bgp 1 vrf", "bgp 2 vrf")).starts_with("restart [\"bgpd\"]"));
    // A restart of bgpd alone does not apply the changes of other daemons.
    for (one, other) in
        [("vni 5", "vni 6"), ("permit 10.0.0.0/8", "permit 11.0.0.0/8"), ("interval 300", "interval 500")]
    {
        let new = OLD.replace("bgp 1 vrf", "bgp 2 vrf").replace(one, other);
        assert!(restart(&new).starts_with("restart []"), "{other}");
    }
    let without_profile = &OLD[..OLD.find("bfd\n").unwrap()];
    assert!(restart(&without_profile.replace("bgp 1 vrf", "bgp 2 vrf")).starts_with("restart []"));
    assert!(restart(&OLD.replace("log stdout", "log syslog")).starts_with("restart []"));
    let invalid = restart(&format!("{OLD}router bgp 9\n bgp router-id 1.1.1.1\n"));
    assert_eq!(
        invalid,
        "invalid: \"router bgp 1\" and \"router bgp 9\" open the same BGP instance: remove one of them"
    );
    assert!(restart(&format!("{OLD}router ospf\n")).contains("router ospf"));
    assert!(restart(&format!(" neighbor x\n{OLD}")).contains("in no context"));
}

#[test]
fn the_last_line_with_a_key_counts() {
    let twice = OLD.replace(
        "neighbor 10.9.0.1 timers 3 9",
        "neighbor 10.9.0.1 timers 3 9\n neighbor 10.9.0.1 timers 1 3",
    );
    assert_eq!(steps(&twice, OLD), ["bgpd: router bgp 1; neighbor 10.9.0.1 timers 3 9; exit"]);
}
