use super::*;
use crate::frr::retained::Unannounced;
use crate::kernel::SharedTable;
use crate::status::diagnostics::{Diagnostics, LinkLocal};
use crate::status::{
    BfdSession, BgpNotification, DaemonState, DaemonStatus, InterfaceStatus, Rejection, ServiceStatus,
};

const START: u64 = 1_000_000;

fn at(s: u64) -> Time {
    Time::from_secs(START + s)
}

fn session(peer: &str, role: SessionRole, state: &str) -> BgpSession {
    let vrf = if role == SessionRole::Metallb { "metallb" } else { "default" };
    BgpSession {
        peer: peer.into(),
        vrf: vrf.into(),
        role,
        state: state.into(),
        local_as: 65001,
        ..BgpSession::default()
    }
}

/// A healthy node with two leaves and a speaker.
fn healthy_node() -> (NodeFacts, FrrState) {
    let daemon = |name: &str| DaemonStatus {
        name: name.into(),
        state: DaemonState::Running,
        since: at(0),
        ..DaemonStatus::default()
    };
    let nic = |selector: &str, name: &str| InterfaceStatus {
        selector: selector.into(),
        name: name.into(),
        present: true,
        carrier: true,
    };
    let facts = NodeFacts {
        phase: NodePhase::Running,
        daemons: ["zebra", "bfdd", "bgpd"].map(daemon).into(),
        interfaces: vec![nic("02::1", "eth1"), nic("02::2", "eth2")],
        bfd: true,
        metallb: ("metallb".into(), vec!["fda1::".into()]),
        speaker: "fda1::1".into(),
        metallb_v4: true,
        ..NodeFacts::default()
    };
    let state = FrrState {
        bgp: vec![
            session("eth1", SessionRole::Fabric, "Established"),
            session("eth2", SessionRole::Fabric, "Established"),
            session("fda1::1", SessionRole::Metallb, "Established"),
        ],
        ..FrrState::default()
    };
    (facts, state)
}

/// The codes and subjects of the problems after a minute in this state.
fn after_a_minute(facts: &NodeFacts, state: &FrrState) -> Vec<(String, String)> {
    let mut problems = ProblemTracker::default();
    problems.step(facts, state, at(100));
    problems.step(facts, state, at(160));
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
fn a_healthy_node_has_no_problem() {
    let (facts, state) = healthy_node();
    assert_eq!(after_a_minute(&facts, &state), []);
    assert_eq!(health(&facts, &state, &[]), Health::Healthy);
}

#[test]
fn one_fault_is_one_problem() {
    let (facts, state) = healthy_node();
    let down = |i: usize| {
        let mut state = state.clone();
        state.bgp[i].state = "Active".into();
        state
    };
    assert_eq!(after_a_minute(&facts, &down(0)), one("session-down", "eth1"));
    assert_eq!(after_a_minute(&facts, &down(2)), one("metallb-down", "fda1::1"));

    let mut unplugged = facts.clone();
    unplugged.interfaces[1].carrier = false;
    assert_eq!(after_a_minute(&unplugged, &down(1)), one("link-down", "eth2"));
    let mut host = down(1);
    (host.bgp[1].role, host.bgp[1].vrf) = (SessionRole::Host, "red".into());
    assert_eq!(after_a_minute(&unplugged, &host), one("link-down", "eth2"));

    let mut refused = facts.clone();
    let notification = BgpNotification {
        at: at(90),
        received: true,
        code: (2, 2),
        reason: "OPEN Message Error/Bad Peer AS".into(),
    };
    refused.notifications.insert("eth1".into(), notification.clone());
    assert_eq!(after_a_minute(&refused, &down(0)), one("wrong-as", "eth1"));
    // The notification is older than the end of this session.
    let mut later = down(0);
    later.bgp[0].since = at(95);
    assert_eq!(after_a_minute(&refused, &later), one("session-down", "eth1"));
    refused.notifications.insert("fda1::1".into(), notification);
    assert_eq!(after_a_minute(&refused, &down(2)), one("metallb-down", "fda1::1"));
    // An old notification is no problem while the session is up.
    assert_eq!(after_a_minute(&refused, &state), []);

    let mut missing = facts.clone();
    missing.interfaces[0] = InterfaceStatus { selector: "02::1".into(), ..InterfaceStatus::default() };
    assert_eq!(after_a_minute(&missing, &state), one("interface-missing", "02::1"));

    let mut second = facts.clone();
    second.findings.zebras = 2;
    second.namespace.name = "perouter".into();
    assert_eq!(after_a_minute(&second, &state)[0].0, "second-zebra");

    let mut failing = facts.clone();
    failing.daemons[0].consecutive_failures = 3;
    assert_eq!(after_a_minute(&failing, &state), one("daemon-crash-loop", "zebra"));
    failing.daemons[0] = DaemonStatus {
        state: DaemonState::Unresponsive,
        consecutive_failures: 0,
        ..failing.daemons[0].clone()
    };
    assert_eq!(after_a_minute(&failing, &state), one("daemon-hung", "zebra"));
    failing.daemons[0].state = DaemonState::Starting;
    assert_eq!(after_a_minute(&failing, &state), one("daemon-down", "zebra"));

    let mut unreached = state.clone();
    unreached.services.push(ServiceStatus {
        prefix: "198.51.100.1/32".into(),
        next_hop: "10.0.0.11".into(),
        valid: false,
    });
    assert_eq!(after_a_minute(&facts, &unreached), one("next-hop-inaccessible", "10.0.0.11"));

    let mut without_bfd = state.clone();
    let bfd = BfdSession {
        peer: "fe80::1".into(),
        interface: "eth1".into(),
        state: "down".into(),
        ..BfdSession::default()
    };
    without_bfd.bfd.push(bfd);
    assert_eq!(after_a_minute(&facts, &without_bfd), one("bfd-down", "eth1"));

    let mut rejected = facts.clone();
    rejected.configuration.rejected = Some(Rejection { at: at(1), reasons: vec!["x".into()] });
    assert_eq!(after_a_minute(&rejected, &state), one("configuration-rejected", "file"));

    let mut other = facts.clone();
    other.drift.insert("bgpd".into(), vec!["+ router bgp 1".into()]);
    assert_eq!(after_a_minute(&other, &state), one("configuration-drift", "bgpd"));
    other = facts.clone();
    (other.broken, other.conflicting_writer, other.reconciler_stuck) =
        (vec!["host: create bridge x: no".into()], Some("host: set x up".into()), Some(at(1)));
    let codes: Vec<_> = after_a_minute(&other, &state).into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes, ["device-broken", "device-broken", "repairs-undone"]);
    other = NodeFacts { phase: NodePhase::Failed, setup_errors: vec!["no VRF".into()], ..facts };
    assert_eq!(after_a_minute(&other, &FrrState::default()), one("setup-failed", "no VRF"));
}

#[test]
fn dropped_packets_show_a_wrong_password() {
    let (mut facts, mut state) = healthy_node();
    (state.bgp[0].state, state.bgp[0].since) = ("Connect".into(), at(100));
    let mut problems = ProblemTracker::default();
    problems.step(&facts, &state, at(100));
    facts.findings.md5 = [None, Some(at(101)), None];
    problems.step(&facts, &state, at(101));
    problems.step(&facts, &state, at(104));
    assert_eq!(problems.list()[0].code, "wrong-password");
    assert!(problems.list()[0].what.contains("FABRIC_PASSWORD is not set"), "{:?}", problems.list());
    // A session that goes down later has another cause.
    (state.bgp[1].state, state.bgp[1].since) = ("Connect".into(), at(110));
    problems.step(&facts, &state, at(110));
    problems.step(&facts, &state, at(113));
    let codes: Vec<_> = problems.list().into_iter().map(|p| (p.code, p.subject)).collect();
    assert_eq!(codes, [one("wrong-password", "eth1"), one("session-down", "eth2")].concat());
    state.bgp[1].state = "Established".into();
    // No packets were dropped for a long time: the cause is another one now.
    problems.step(&facts, &state, at(101 + 151));
    problems.step(&facts, &state, at(101 + 170));
    assert_eq!(problems.list()[0].code, "session-down");
}

#[test]
fn transient_faults_are_no_problem_and_resolved_ones_are_reported_once() {
    let (facts, mut state) = healthy_node();
    let mut problems = ProblemTracker::default();
    state.bgp[0].state = "Active".into();
    let (changes, again) = problems.step(&facts, &state, at(100));
    assert_eq!((changes, again), (vec![], Some(TRANSIENT)));
    assert_eq!(health(&facts, &state, &problems.list()), Health::Healthy);
    let (changes, again) = problems.step(&facts, &state, at(102));
    assert!(matches!(&changes[..], [ProblemChange::Raised(p)] if p.since == at(100)), "{changes:?}");
    assert_eq!(again, None);
    assert_eq!(health(&facts, &state, &problems.list()), Health::Degraded);
    assert_eq!(problems.step(&facts, &state, at(103)).0, []);
    state.bgp[0].state = "Established".into();
    let (changes, _) = problems.step(&facts, &state, at(110));
    assert!(
        matches!(&changes[..], [ProblemChange::Resolved(_, after)] if *after == Duration::from_secs(10)),
        "{changes:?}"
    );
    assert_eq!((problems.step(&facts, &state, at(111)).0, problems.list()), (vec![], vec![]));
    // All leaves are down.
    state.bgp.iter_mut().for_each(|s| s.state = "Idle".into());
    problems.step(&facts, &state, at(120));
    assert_eq!(health(&facts, &state, &problems.list()), Health::Healthy, "it may be transient");
    problems.step(&facts, &state, at(123));
    assert_eq!(health(&facts, &state, &problems.list()), Health::Down);
}

#[test]
fn a_new_bgpd_has_time_to_establish_its_sessions() {
    let (mut facts, mut state) = healthy_node();
    facts.daemons[2].since = at(100);
    state.bgp.iter_mut().for_each(|s| s.state = "Active".into());
    let mut problems = ProblemTracker::default();
    problems.step(&facts, &state, at(101));
    problems.step(&facts, &state, at(109));
    assert_eq!(problems.list(), []);
    problems.step(&facts, &state, at(110));
    assert_eq!(problems.list().len(), 3);
}

/// The only problem after a minute.
fn only(facts: &NodeFacts, state: &FrrState) -> Problem {
    let mut problems = ProblemTracker::default();
    problems.step(facts, state, at(100));
    problems.step(facts, state, at(160));
    let [problem] = &problems.list()[..] else { panic!("{:?}", problems.list()) };
    problem.clone()
}

#[test]
fn with_all_leaves_down_the_node_is_down_whatever_other_sessions_are_up() {
    let (facts, mut state) = healthy_node();
    state.bgp.push(session("192.168.9.2", SessionRole::Host, "Established"));
    state.bgp.push(session("203.0.113.9", SessionRole::Other, "Established"));
    for leaf in 0..2 {
        state.bgp[leaf].state = "Active".into();
    }
    let mut problems = ProblemTracker::default();
    problems.step(&facts, &state, at(100));
    problems.step(&facts, &state, at(103));
    assert_eq!(health(&facts, &state, &problems.list()), Health::Down);
    for problem in problems.list() {
        assert_eq!(
            problem.traffic,
            "the fabric does not reach the services of this node, and they do not reach the fabric"
        );
    }
}

#[test]
fn a_problem_persists_while_bgpd_is_down() {
    let (mut facts, mut state) = healthy_node();
    facts.interfaces[1].carrier = false;
    state.bgp[1].state = "Active".into();
    (state.bgp[0].state, state.bgp[0].since) = ("Active".into(), at(80));
    let notification = BgpNotification { at: at(90), received: true, code: (2, 2), reason: "x".into() };
    facts.notifications.insert("eth1".into(), notification);
    let mut problems = ProblemTracker::default();
    problems.step(&facts, &state, at(100));
    problems.step(&facts, &state, at(110));
    let codes = |problems: &ProblemTracker| problems.list().into_iter().map(|p| p.code).collect::<Vec<_>>();
    assert_eq!(codes(&problems), ["link-down", "wrong-as"]);
    // bgpd crashes, can't be queried, and restarts without sessions.
    facts.daemons[2].state = DaemonState::Down;
    state.bgp.iter_mut().for_each(|s| s.state = "Unknown".into());
    let (changes, _) = problems.step(&facts, &state, at(111));
    assert_eq!((changes, codes(&problems)), (vec![], vec!["link-down".into(), "wrong-as".into()]));
    (facts.daemons[2].state, facts.daemons[2].since) = (DaemonState::Running, at(112));
    facts.notifications.clear();
    state.bgp.iter_mut().for_each(|s| (s.state, s.since) = ("Idle".into(), at(112)));
    let (changes, _) = problems.step(&facts, &state, at(113));
    assert_eq!((changes, codes(&problems)), (vec![], vec!["link-down".into(), "wrong-as".into()]));
    // The session is up: its problem is resolved. The link is still down.
    state.bgp[0].state = "Established".into();
    state.bgp[2].state = "Established".into();
    let (changes, _) = problems.step(&facts, &state, at(114));
    assert!(matches!(&changes[..], [ProblemChange::Resolved(p, _)] if p.code == "wrong-as"), "{changes:?}");
    assert_eq!(codes(&problems), ["link-down"]);
    // No problem is resolved while the daemons are being stopped.
    facts.phase = NodePhase::Stopping;
    assert_eq!(
        (problems.step(&facts, &state, at(115)).0, codes(&problems)),
        (vec![], vec!["link-down".into()])
    );
}

#[test]
fn causes_at_a_leaf_are_named_with_a_remedy() {
    let (facts, mut state) = healthy_node();
    (state.bgp[0].state, state.bgp[0].since, state.bgp[0].address) =
        ("Active".into(), at(50), "fe80::1".into());
    let link_local = |state| [("eth1".to_owned(), state), ("eth2".to_owned(), LinkLocal::Assigned)].into();
    state.diagnostics =
        Some(Diagnostics { link_local: link_local(LinkLocal::Assigned), ..Diagnostics::default() });
    let problem_with = |code, received| {
        let mut facts = facts.clone();
        let notification = BgpNotification { at: at(50), received, code, reason: "words".into() };
        facts.notifications.insert("eth1".into(), notification);
        only(&facts, &state)
    };
    let problem = problem_with((6, 2), true);
    assert!(
        problem.what.contains("has shut the session down")
            && problem.remedy.contains("no neighbor … shutdown")
    );
    assert!(problem_with((6, 1), true).what.contains("more prefixes than it allows (maximum-prefix)"));
    assert!(problem_with((6, 1), false).remedy.contains("of this node"));
    assert!(problem_with((2, 3), true).what.contains("the same BGP identifier"));
    // With this node's own AS number at the leaf, the setting of this node is wrong.
    let problem = problem_with((2, 2), false);
    assert_eq!(problem.code, "wrong-as");
    assert!(
        problem.what.contains("the same AS number 65001") && problem.remedy.starts_with("set ASN_LOCAL"),
        "{problem:?}"
    );
    // bgpd's last reset shows a notification from before the start of this program.
    let mut reset = state.clone();
    reset.bgp[0].last_reset = "BGP Notification received: Cease/Administrative Shutdown".into();
    assert!(only(&facts, &reset).what.contains("has shut the session down"));

    let mut ignoring = state.clone();
    let peers = ["fe80::1".parse().unwrap()].into();
    ignoring.diagnostics = Some(Diagnostics {
        link_local: link_local(LinkLocal::Assigned),
        ignoring_peers: peers,
        ..Diagnostics::default()
    });
    assert!(only(&facts, &ignoring).remedy.contains("GTSM"), "{:?}", only(&facts, &ignoring));
}

#[test]
fn causes_on_this_node_are_named_as_such() {
    let (facts, mut state) = healthy_node();
    (state.bgp[0].state, state.bgp[0].address) = ("Active".into(), "fe80::1".into());
    let with = |link_local: Option<LinkLocal>, address: &str| {
        let mut state = state.clone();
        state.bgp[0].address = address.into();
        let link_local = link_local.map(|link_local| ("eth1".to_owned(), link_local)).into_iter().collect();
        let own_addresses = [("eth1".to_owned(), "fe80::2".parse().unwrap())].into();
        state.diagnostics = Some(Diagnostics { link_local, own_addresses, ..Diagnostics::default() });
        only(&facts, &state)
    };
    let missing = with(None, "");
    assert!(missing.what.contains("no IPv6 link-local address on this node"), "{missing:?}");
    assert!(missing.remedy.contains("on this node, not at the neighbor"), "{missing:?}");
    assert!(with(Some(LinkLocal::Duplicate), "fe80::1").what.contains("duplicate address"));
    // The neighbor's address can be known before duplicate address detection fails on this node.
    assert!(with(Some(LinkLocal::Assigned), "fe80::2").what.contains("duplicate address"));
    let numbered = with(Some(LinkLocal::Assigned), "192.0.2.1");
    assert!(numbered.what.contains("/31") && numbered.remedy.contains("on this node"), "{numbered:?}");
    // Without diagnostics the cause can be at either end.
    state.diagnostics = None;
    assert!(only(&facts, &state).remedy.contains("check that BGP runs at the neighbor"));
}

#[test]
fn many_problems_of_one_kind_are_grouped() {
    let (facts, mut state) = healthy_node();
    let host = |n: usize| {
        let mut host = session("192.168.9.2", SessionRole::Host, "Established");
        host.vrf = format!("red{n:03}");
        host
    };
    state.bgp.extend((0..148).map(host));
    let mut problems = ProblemTracker::default();
    let mut lines = vec![];
    let mut step = |state: &FrrState, ms: u64, problems: &mut ProblemTracker| {
        let (changes, again) = problems.step(&facts, state, Time::from_secs(START + ms / 1000));
        lines.extend(changes);
        (lines.len(), again)
    };
    step(&state, 99_000, &mut problems);
    // First two sessions go down, then all of them.
    for n in 3..5 {
        state.bgp[n].state = "Active".into();
    }
    step(&state, 100_000, &mut problems);
    assert_eq!(step(&state, 103_000, &mut problems).0, 2);
    for n in 5..151 {
        state.bgp[n].state = "Active".into();
    }
    step(&state, 104_000, &mut problems);
    assert_eq!(step(&state, 107_000, &mut problems), (3, None));
    let [problem] = &problems.list()[..] else { panic!("{:?}", problems.list()) };
    assert_eq!(
        problem.what,
        "148 host sessions are down: VRFs red000, red001, red002, red003, red004 and 143 more"
    );
    assert_eq!((problem.subject.as_str(), problem.since), ("host sessions", at(100)));
    // Some come up again, one by one: the log shows the remaining number at intervals.
    for n in 3..141 {
        state.bgp[n].state = "Established".into();
        let (_, again) = step(&state, 108_000, &mut problems);
        assert_eq!(again, Some(Duration::from_secs(9)));
    }
    assert_eq!(step(&state, 108_000, &mut problems).0, 3);
    assert!(problems.list()[0].what.starts_with("10 host sessions are down"));
    assert_eq!(step(&state, 118_000, &mut problems).0, 4);
    // All of them come up.
    for n in 141..151 {
        state.bgp[n].state = "Established".into();
    }
    assert_eq!(step(&state, 119_000, &mut problems).0, 5);
    assert!(
        matches!(lines.last(), Some(ProblemChange::Resolved(p, _)) if p.subject == "host sessions"),
        "{lines:?}"
    );
    assert_eq!(problems.list(), []);
}

#[test]
fn a_vrf_that_is_being_added_is_no_problem() {
    let (mut facts, mut state) = healthy_node();
    let mut host = session("192.168.9.2", SessionRole::Host, "Idle");
    (host.vrf, host.last_reset) = ("red".into(), "Waiting for VRF to be initialized".into());
    state.bgp.push(host);
    facts.counts.changing = true;
    assert_eq!(after_a_minute(&facts, &state), []);
    facts.counts.changing = false;
    let problem = only(&facts, &state);
    assert!(problem.what.contains("the kernel has no VRF red") && problem.remedy.contains("on this node"));
}

#[test]
fn unannounced_services_are_named_while_a_leaf_is_up() {
    let (mut facts, mut state) = healthy_node();
    facts.unannounced = [
        (Unannounced::NotImported, vec!["198.51.100.1/32".to_owned()]),
        (Unannounced::Community("no-export"), (2..20).map(|n| format!("198.51.100.{n}/32")).collect()),
    ]
    .into();
    let named = [one("service-not-announced", "import"), one("service-not-announced", "no-export")].concat();
    assert_eq!(after_a_minute(&facts, &state), named);
    state.bgp.iter_mut().for_each(|session| session.state = "Active".into());
    let codes = after_a_minute(&facts, &state);
    assert!(codes.iter().all(|(code, _)| code != "service-not-announced"), "{codes:?}");
}

#[test]
fn a_shared_routing_table_is_reported_without_the_faults_that_it_causes() {
    let (mut facts, mut state) = healthy_node();
    let shared = SharedTable { table: 88, managed: Some("metallb".into()), unmanaged: vec!["foo".into()] };
    facts.shared_tables = vec![shared];
    facts.namespace.name = "perouter".into();
    facts.daemons[0] =
        DaemonStatus { consecutive_failures: 7, state: DaemonState::Down, ..facts.daemons[0].clone() };
    for session in &mut state.bgp {
        session.state = "Idle".into();
    }
    assert_eq!(after_a_minute(&facts, &state), one("device-broken", "routing table 88"));
    let mut problems = ProblemTracker::default();
    problems.step(&facts, &state, at(100));
    let problem = problems.list().remove(0);
    let what = "VRF foo, which frr-supervisor does not manage, uses routing table 88 of VRF metallb; ";
    assert!(problem.what.starts_with(what), "{problem:?}");
    for text in ["remove VRF foo from namespace perouter", "METALLB_VRF_ROUTE_TABLE_ID"] {
        assert!(problem.remedy.contains(text), "{problem:?}");
    }
    assert_eq!(health(&facts, &state, &problems.list()), Health::Down);
}
