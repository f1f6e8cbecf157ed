use super::*;
use crate::status::{BfdSession, Interface, Rejected, Service};

const START: u64 = 1_000_000;

fn at(s: u64) -> Time {
    Time::from_secs(START + s)
}

fn session(peer: &str, role: Role, state: &str) -> BgpSession {
    let vrf = if role == Role::Metallb { "metallb" } else { "default" };
    BgpSession {
        peer: peer.into(),
        vrf: vrf.into(),
        role,
        state: state.into(),
        local_as: 65001,
        ..BgpSession::default()
    }
}

/// A node with two leaves and a speaker, all well.
fn well() -> (Local, Fabric) {
    let daemon =
        |name: &str| Daemon { name: name.into(), state: Life::Running, since: at(0), ..Daemon::default() };
    let nic =
        |by: &str, name: &str| Interface { by: by.into(), name: name.into(), present: true, carrier: true };
    let local = Local {
        phase: Phase::Running,
        daemons: ["zebra", "bfdd", "bgpd"].map(daemon).into(),
        interfaces: vec![nic("02::1", "eth1"), nic("02::2", "eth2")],
        bfd: true,
        metallb: ("metallb".into(), vec!["fda1::".into()]),
        metallb_v4: true,
        ..Local::default()
    };
    let fabric = Fabric {
        bgp: vec![
            session("eth1", Role::Fabric, "Established"),
            session("eth2", Role::Fabric, "Established"),
            session("fda1::1", Role::Metallb, "Established"),
        ],
        ..Fabric::default()
    };
    (local, fabric)
}

/// The codes and subjects of what is wrong after a minute of it.
fn after_a_minute(local: &Local, fabric: &Fabric) -> Vec<(String, String)> {
    let mut problems = Problems::default();
    problems.step(local, fabric, at(100));
    problems.step(local, fabric, at(160));
    for problem in problems.list() {
        assert!(CODES.contains(&problem.code.as_str()));
        for sentence in [&problem.what, &problem.traffic, &problem.remedy] {
            assert!(
                !sentence.is_empty() && !sentence.contains('\n') && !sentence.contains("  "),
                "{sentence:?}"
            );
        }
    }
    problems.list().into_iter().map(|problem| (problem.code, problem.subject)).collect()
}

fn one(code: &str, subject: &str) -> Vec<(String, String)> {
    vec![(code.into(), subject.into())]
}

#[test]
fn a_node_that_is_well_has_none() {
    let (local, fabric) = well();
    assert_eq!(after_a_minute(&local, &fabric), []);
    assert_eq!(health(&local, &fabric, &[]), Health::Healthy);
}

#[test]
fn one_fault_is_one_problem() {
    let (local, fabric) = well();
    let down = |i: usize| {
        let mut fabric = fabric.clone();
        fabric.bgp[i].state = "Active".into();
        fabric
    };
    assert_eq!(after_a_minute(&local, &down(0)), one("session-down", "eth1"));
    assert_eq!(after_a_minute(&local, &down(2)), one("metallb-down", "fda1::1"));

    let mut unplugged = local.clone();
    unplugged.interfaces[1].carrier = false;
    assert_eq!(after_a_minute(&unplugged, &down(1)), one("link-down", "eth2"));

    let mut refused = local.clone();
    let notification = Notification {
        at: at(90),
        received: true,
        code: (2, 2),
        words: "OPEN Message Error/Bad Peer AS".into(),
    };
    refused.notifications.insert("eth1".into(), notification.clone());
    assert_eq!(after_a_minute(&refused, &down(0)), one("wrong-as", "eth1"));
    // It was before this session went down.
    let mut later = down(0);
    later.bgp[0].since = at(95);
    assert_eq!(after_a_minute(&refused, &later), one("session-down", "eth1"));
    refused.notifications.insert("fda1::1".into(), notification);
    assert_eq!(after_a_minute(&refused, &down(2)), one("metallb-down", "fda1::1"));
    // What was said once does not matter when all is well.
    assert_eq!(after_a_minute(&refused, &fabric), []);

    let mut gone = local.clone();
    gone.interfaces[0] = Interface { by: "02::1".into(), ..Interface::default() };
    assert_eq!(after_a_minute(&gone, &fabric), one("interface-missing", "02::1"));

    let mut second = local.clone();
    second.findings.zebras = 2;
    assert_eq!(after_a_minute(&second, &fabric)[0].0, "second-zebra");

    let mut dies = local.clone();
    dies.daemons[0].deaths = 3;
    assert_eq!(after_a_minute(&dies, &fabric), one("daemon-crash-loop", "zebra"));
    dies.daemons[0] = Daemon { state: Life::Silent, deaths: 0, ..dies.daemons[0].clone() };
    assert_eq!(after_a_minute(&dies, &fabric), one("daemon-hung", "zebra"));
    dies.daemons[0].state = Life::Starting;
    assert_eq!(after_a_minute(&dies, &fabric), one("daemon-down", "zebra"));

    let mut unreached = fabric.clone();
    unreached.services.push(Service {
        prefix: "198.51.100.1/32".into(),
        next_hop: "10.0.0.11".into(),
        valid: false,
    });
    assert_eq!(after_a_minute(&local, &unreached), one("next-hop-inaccessible", "10.0.0.11"));

    let mut half = fabric.clone();
    let bfd = BfdSession {
        peer: "fe80::1".into(),
        interface: "eth1".into(),
        state: "down".into(),
        ..BfdSession::default()
    };
    half.bfd.push(bfd);
    assert_eq!(after_a_minute(&local, &half), one("bfd-down", "eth1"));

    let mut rejected = local.clone();
    rejected.configuration.rejected = Some(Rejected { at: at(1), reasons: vec!["x".into()] });
    assert_eq!(after_a_minute(&rejected, &fabric), one("configuration-rejected", "file"));

    let mut other = local.clone();
    other.drift.insert("bgpd".into(), vec!["+ router bgp 1".into()]);
    assert_eq!(after_a_minute(&other, &fabric), one("configuration-drift", "bgpd"));
    other = local.clone();
    (other.broken, other.fight) = (vec!["host: create bridge x: no".into()], true);
    let codes: Vec<_> = after_a_minute(&other, &fabric).into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes, ["device-broken", "repairs-undone"]);
    other = Local { phase: Phase::Failed, failure: vec!["no VRF".into()], ..local };
    assert_eq!(after_a_minute(&other, &Fabric::default()), one("setup-failed", "no VRF"));
}

#[test]
fn a_password_is_told_by_what_is_dropped() {
    let (mut local, mut fabric) = well();
    (fabric.bgp[0].state, fabric.bgp[0].since) = ("Connect".into(), at(100));
    let mut problems = Problems::default();
    problems.step(&local, &fabric, at(100));
    local.findings.md5 = [None, Some(at(101)), None];
    problems.step(&local, &fabric, at(101));
    problems.step(&local, &fabric, at(104));
    assert_eq!(problems.list()[0].code, "wrong-password");
    assert!(problems.list()[0].what.contains("FABRIC_PASSWORD is not set"), "{:?}", problems.list());
    // One that goes down later does so for another reason.
    (fabric.bgp[1].state, fabric.bgp[1].since) = ("Connect".into(), at(110));
    problems.step(&local, &fabric, at(110));
    problems.step(&local, &fabric, at(113));
    let codes: Vec<_> = problems.list().into_iter().map(|p| (p.code, p.subject)).collect();
    assert_eq!(codes, [one("wrong-password", "eth1"), one("session-down", "eth2")].concat());
    fabric.bgp[1].state = "Established".into();
    // Nothing has been dropped for long: it is something else by now.
    problems.step(&local, &fabric, at(101 + 151));
    problems.step(&local, &fabric, at(101 + 170));
    assert_eq!(problems.list()[0].code, "session-down");
}

#[test]
fn what_passes_is_no_problem_and_what_is_over_is_told_once() {
    let (local, mut fabric) = well();
    let mut problems = Problems::default();
    fabric.bgp[0].state = "Active".into();
    let (news, again) = problems.step(&local, &fabric, at(100));
    assert_eq!((news, again), (vec![], Some(PASSING)));
    assert_eq!(health(&local, &fabric, &problems.list()), Health::Healthy);
    let (news, again) = problems.step(&local, &fabric, at(102));
    assert!(matches!(&news[..], [News::Raised(p)] if p.since == at(100)), "{news:?}");
    assert_eq!(again, None);
    assert_eq!(health(&local, &fabric, &problems.list()), Health::Degraded);
    assert_eq!(problems.step(&local, &fabric, at(103)).0, []);
    fabric.bgp[0].state = "Established".into();
    let (news, _) = problems.step(&local, &fabric, at(110));
    assert!(matches!(&news[..], [News::Over(_, after)] if *after == Duration::from_secs(10)), "{news:?}");
    assert_eq!((problems.step(&local, &fabric, at(111)).0, problems.list()), (vec![], vec![]));
    // No leaf at all.
    fabric.bgp.iter_mut().for_each(|s| s.state = "Idle".into());
    problems.step(&local, &fabric, at(120));
    assert_eq!(health(&local, &fabric, &problems.list()), Health::Healthy, "it may pass");
    problems.step(&local, &fabric, at(123));
    assert_eq!(health(&local, &fabric, &problems.list()), Health::Down);
}

#[test]
fn a_new_bgpd_has_time_to_find_its_peers() {
    let (mut local, mut fabric) = well();
    local.daemons[2].since = at(100);
    fabric.bgp.iter_mut().for_each(|s| s.state = "Active".into());
    let mut problems = Problems::default();
    problems.step(&local, &fabric, at(101));
    problems.step(&local, &fabric, at(109));
    assert_eq!(problems.list(), []);
    problems.step(&local, &fabric, at(110));
    assert_eq!(problems.list().len(), 3);
}
