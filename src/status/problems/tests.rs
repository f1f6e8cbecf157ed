use super::*;
use crate::status::links::{LinkLocal, Links};
use crate::status::{BfdSession, Interface, Notification, Rejected, Service};

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
    let mut host = down(1);
    (host.bgp[1].role, host.bgp[1].vrf) = (Role::Host, "red".into());
    assert_eq!(after_a_minute(&unplugged, &host), one("link-down", "eth2"));

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

/// The only problem after a minute.
fn only(local: &Local, fabric: &Fabric) -> Problem {
    let mut problems = Problems::default();
    problems.step(local, fabric, at(100));
    problems.step(local, fabric, at(160));
    let [problem] = &problems.list()[..] else { panic!("{:?}", problems.list()) };
    problem.clone()
}

#[test]
fn with_the_leaves_down_the_node_is_down_whatever_the_host_has() {
    let (local, mut fabric) = well();
    fabric.bgp.push(session("192.168.9.2", Role::Host, "Established"));
    fabric.bgp.push(session("203.0.113.9", Role::Other, "Established"));
    for leaf in 0..2 {
        fabric.bgp[leaf].state = "Active".into();
    }
    let mut problems = Problems::default();
    problems.step(&local, &fabric, at(100));
    problems.step(&local, &fabric, at(103));
    assert_eq!(health(&local, &fabric, &problems.list()), Health::Down);
    for problem in problems.list() {
        assert_eq!(
            problem.traffic,
            "nothing outside the node reaches its services, and they nothing outside"
        );
    }
}

#[test]
fn a_problem_stays_while_its_cause_does_and_bgpd_is_away() {
    let (mut local, mut fabric) = well();
    local.interfaces[1].carrier = false;
    fabric.bgp[1].state = "Active".into();
    (fabric.bgp[0].state, fabric.bgp[0].since) = ("Active".into(), at(80));
    let said = Notification { at: at(90), received: true, code: (2, 2), words: "x".into() };
    local.notifications.insert("eth1".into(), said);
    let mut problems = Problems::default();
    problems.step(&local, &fabric, at(100));
    problems.step(&local, &fabric, at(110));
    let codes = |problems: &Problems| problems.list().into_iter().map(|p| p.code).collect::<Vec<_>>();
    assert_eq!(codes(&problems), ["link-down", "wrong-as"]);
    // It dies, is not there to ask, and comes back without sessions.
    local.daemons[2].state = Life::Down;
    fabric.bgp.iter_mut().for_each(|s| s.state = "Unknown".into());
    let (news, _) = problems.step(&local, &fabric, at(111));
    assert_eq!((news, codes(&problems)), (vec![], vec!["link-down".into(), "wrong-as".into()]));
    (local.daemons[2].state, local.daemons[2].since) = (Life::Running, at(112));
    local.notifications.clear();
    fabric.bgp.iter_mut().for_each(|s| (s.state, s.since) = ("Idle".into(), at(112)));
    let (news, _) = problems.step(&local, &fabric, at(113));
    assert_eq!((news, codes(&problems)), (vec![], vec!["link-down".into(), "wrong-as".into()]));
    // The session is up: it is over, and the link is as it was.
    fabric.bgp[0].state = "Established".into();
    fabric.bgp[2].state = "Established".into();
    let (news, _) = problems.step(&local, &fabric, at(114));
    assert!(matches!(&news[..], [News::Over(p, _)] if p.code == "wrong-as"), "{news:?}");
    assert_eq!(codes(&problems), ["link-down"]);
    // While the daemons are ended nothing is over.
    local.phase = Phase::Stopping;
    assert_eq!(
        (problems.step(&local, &fabric, at(115)).0, codes(&problems)),
        (vec![], vec!["link-down".into()])
    );
}

#[test]
fn what_a_leaf_does_is_named_with_its_remedy() {
    let (local, mut fabric) = well();
    (fabric.bgp[0].state, fabric.bgp[0].since, fabric.bgp[0].address) =
        ("Active".into(), at(50), "fe80::1".into());
    let link_local = |state| [("eth1".to_owned(), state), ("eth2".to_owned(), LinkLocal::There)].into();
    fabric.links = Some(Links { link_local: link_local(LinkLocal::There), ..Links::default() });
    let told = |code, received| {
        let mut local = local.clone();
        let said = Notification { at: at(50), received, code, words: "words".into() };
        local.notifications.insert("eth1".into(), said);
        only(&local, &fabric)
    };
    let problem = told((6, 2), true);
    assert!(
        problem.what.contains("has shut the session down")
            && problem.remedy.contains("no neighbor … shutdown")
    );
    assert!(told((6, 1), true).what.contains("more prefixes than it takes (maximum-prefix)"));
    assert!(told((6, 1), false).remedy.contains("here"));
    assert!(told((2, 3), true).what.contains("the same BGP identifier"));
    // Our own AS number is wrong here, not there.
    let problem = told((2, 2), false);
    assert_eq!(problem.code, "wrong-as");
    assert!(
        problem.what.contains("our own AS number 65001") && problem.remedy.starts_with("set ASN_LOCAL"),
        "{problem:?}"
    );
    // bgpd remembers what its log has said before this program was started.
    let mut reset = fabric.clone();
    reset.bgp[0].last_reset = "BGP Notification received: Cease/Administrative Shutdown".into();
    assert!(only(&local, &reset).what.contains("has shut the session down"));

    let mut deaf = fabric.clone();
    let peers = ["fe80::1".parse().unwrap()].into();
    deaf.links = Some(Links { link_local: link_local(LinkLocal::There), deaf: peers, ..Links::default() });
    assert!(only(&local, &deaf).remedy.contains("GTSM"), "{:?}", only(&local, &deaf));
}

#[test]
fn no_one_is_sent_to_the_leaf_for_what_is_wrong_here() {
    let (local, mut fabric) = well();
    (fabric.bgp[0].state, fabric.bgp[0].address) = ("Active".into(), "fe80::1".into());
    let with = |state: Option<LinkLocal>, address: &str| {
        let mut fabric = fabric.clone();
        fabric.bgp[0].address = address.into();
        let link_local = state.map(|state| ("eth1".to_owned(), state)).into_iter().collect();
        let own = [("eth1".to_owned(), "fe80::2".parse().unwrap())].into();
        fabric.links = Some(Links { link_local, own, ..Links::default() });
        only(&local, &fabric)
    };
    let missing = with(None, "");
    assert!(missing.what.contains("no IPv6 link-local address on this node"), "{missing:?}");
    assert!(missing.remedy.contains("here, not at the neighbor"), "{missing:?}");
    assert!(with(Some(LinkLocal::Duplicate), "fe80::1").what.contains("duplicate address"));
    // The other one may be heard of before ours is found to be one too many.
    assert!(with(Some(LinkLocal::There), "fe80::2").what.contains("duplicate address"));
    let numbered = with(Some(LinkLocal::There), "192.0.2.1");
    assert!(numbered.what.contains("/31") && numbered.remedy.contains("on this node"), "{numbered:?}");
    // Nothing is known of the kernel: it may be anywhere.
    fabric.links = None;
    assert!(only(&local, &fabric).remedy.contains("look whether the neighbor runs"));
}

#[test]
fn many_of_a_kind_are_told_together() {
    let (local, mut fabric) = well();
    let host = |n: usize| {
        let mut host = session("192.168.9.2", Role::Host, "Established");
        host.vrf = format!("red{n:03}");
        host
    };
    fabric.bgp.extend((0..148).map(host));
    let mut problems = Problems::default();
    let mut lines = vec![];
    let mut step = |fabric: &Fabric, ms: u64, problems: &mut Problems| {
        let (news, again) = problems.step(&local, fabric, Time::from_secs(START + ms / 1000));
        lines.extend(news);
        (lines.len(), again)
    };
    step(&fabric, 99_000, &mut problems);
    // Two at first, then all.
    for n in 3..5 {
        fabric.bgp[n].state = "Active".into();
    }
    step(&fabric, 100_000, &mut problems);
    assert_eq!(step(&fabric, 103_000, &mut problems).0, 2);
    for n in 5..151 {
        fabric.bgp[n].state = "Active".into();
    }
    step(&fabric, 104_000, &mut problems);
    assert_eq!(step(&fabric, 107_000, &mut problems), (3, None));
    let [problem] = &problems.list()[..] else { panic!("{:?}", problems.list()) };
    assert_eq!(
        problem.what,
        "148 host sessions are down: VRFs red000, red001, red002, red003, red004 and 143 more"
    );
    assert_eq!((problem.subject.as_str(), problem.since), ("host sessions", at(100)));
    // Some come back, one by one: the log says how many are left now and then.
    for n in 3..141 {
        fabric.bgp[n].state = "Established".into();
        let (_, again) = step(&fabric, 108_000, &mut problems);
        assert_eq!(again, Some(Duration::from_secs(9)));
    }
    assert_eq!(step(&fabric, 108_000, &mut problems).0, 3);
    assert!(problems.list()[0].what.starts_with("10 host sessions are down"));
    assert_eq!(step(&fabric, 118_000, &mut problems).0, 4);
    // All of them.
    for n in 141..151 {
        fabric.bgp[n].state = "Established".into();
    }
    assert_eq!(step(&fabric, 119_000, &mut problems).0, 5);
    assert!(matches!(lines.last(), Some(News::Over(p, _)) if p.subject == "host sessions"), "{lines:?}");
    assert_eq!(problems.list(), []);
}

#[test]
fn a_vrf_that_is_being_added_is_no_error() {
    let (mut local, mut fabric) = well();
    let mut host = session("192.168.9.2", Role::Host, "Idle");
    (host.vrf, host.last_reset) = ("red".into(), "Waiting for VRF to be initialized".into());
    fabric.bgp.push(host);
    local.counts.changing = true;
    assert_eq!(after_a_minute(&local, &fabric), []);
    local.counts.changing = false;
    let problem = only(&local, &fabric);
    assert!(problem.what.contains("the kernel has no VRF red") && problem.remedy.contains("on this node"));
}

#[test]
fn services_that_no_leaf_is_told_of_are_named_while_a_leaf_is_there() {
    let (mut local, mut fabric) = well();
    local.unannounced = [
        (Unannounced::NotImported, vec!["198.51.100.1/32".to_owned()]),
        (Unannounced::Community("no-export"), (2..20).map(|n| format!("198.51.100.{n}/32")).collect()),
    ]
    .into();
    let named = [one("service-not-announced", "import"), one("service-not-announced", "no-export")].concat();
    assert_eq!(after_a_minute(&local, &fabric), named);
    fabric.bgp.iter_mut().for_each(|session| session.state = "Active".into());
    let codes = after_a_minute(&local, &fabric);
    assert!(codes.iter().all(|(code, _)| code != "service-not-announced"), "{codes:?}");
}

#[test]
fn a_table_that_two_vrfs_have_is_named_and_nothing_that_follows_from_it() {
    let (mut local, mut fabric) = well();
    let shared = SharedTable { table: 88, ours: Some("metallb".into()), others: vec!["foo".into()] };
    local.shared_tables = vec![shared];
    local.namespace.name = "perouter".into();
    local.daemons[0] = Daemon { deaths: 7, state: Life::Down, ..local.daemons[0].clone() };
    for session in &mut fabric.bgp {
        session.state = "Idle".into();
    }
    assert_eq!(after_a_minute(&local, &fabric), [("device-broken".into(), "routing table 88".into())]);
    let mut problems = Problems::default();
    problems.step(&local, &fabric, at(100));
    let problem = problems.list().remove(0);
    assert!(problem.what.starts_with("VRF foo, which is not ours, has routing table 88 of VRF metallb"));
    for word in ["remove VRF foo from namespace perouter", "METALLB_VRF_ROUTE_TABLE_ID"] {
        assert!(problem.remedy.contains(word), "{problem:?}");
    }
    assert_eq!(health(&local, &fabric, &problems.list()), Health::Down);
}
