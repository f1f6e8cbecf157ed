use super::*;
use crate::config::from_vars;
use crate::status::ConfiguredPeers;

/// Output of FRR 10.7, shortened.
const NEIGHBORS: &str = r#"{
"metallb":{ "vrfId":2, "vrfName":"metallb",
  "fda1::1":{ "neighborAddr":"fda1::1", "remoteAs":4000099999, "localAs":4000099998, "bgpState":"Established",
    "bgpTimerUpMsec":2000, "neighborCapabilities":{"4byteAs":"advertisedAndReceived","gracefulRestart":"advertisedAndReceived"},
    "messageStats":{"opensSent":1,"opensRecv":1,"updatesRecv":4,"totalSent":2,"totalRecv":8},
    "addressFamilyInfo":{"ipv4Unicast":{"acceptedPrefixCounter":1,"sentPrefixCounter":0},
      "ipv6Unicast":{"acceptedPrefixCounter":2,"sentPrefixCounter":3}},
    "connectionsEstablished":1,"connectionsDropped":0,"lastResetTimerMsecs":5000,"lastResetDueTo":"No path to specified Neighbor"}},
"default":{ "vrfId":0, "vrfName":"default",
  "eth2":{"bgpNeighborAddr":"none","bgpState":"Connect","localAs":65001},
  "eth1":{"bgpNeighborAddr":"fe80::1","neighborAddr":"fe80::1","remoteAs":65101,"localAs":65001,"bgpState":"Idle",
    "connectionsEstablished":1,"connectionsDropped":1,"lastResetTimerMsecs":12000,
    "lastNotificationReason":"OPEN Message Error\/Bad Peer AS","lastResetDueTo":"BGP Notification received"}}}"#;

fn facts() -> NodeFacts {
    let vars = [
        ("NODE_IP", "10.0.0.1"),
        ("ASN_LOCAL", "65001"),
        ("FE_MACS", "02:00:00:00:00:01"),
        ("PEER_IP_FRR", "fda1::"),
        ("PEER_IP_METALLB", "fda1::1"),
    ];
    let config = from_vars(vars.map(|(k, v)| (k.into(), v.into()))).unwrap();
    let peers = ConfiguredPeers::new(
        &config,
        &"neighbor eth1 interface peer-group fabric\nneighbor eth2 interface peer-group fabric\n".into(),
    );
    NodeFacts { metallb: ("metallb".into(), vec![]), peers: peers.into(), ..NodeFacts::default() }
}

#[test]
fn sessions_are_parsed_with_their_last_reset() {
    let now = Time::from_secs(1_000_000);
    let mut state = FrrState::default();
    state.apply(Topic::Bgp, &[NEIGHBORS, "", ""], &facts(), now);
    let [eth1, eth2, speaker] = &state.bgp[..] else { panic!("{:?}", state.bgp) };
    assert_eq!(
        (eth1.peer.as_str(), eth1.role, eth1.address.as_str()),
        ("eth1", SessionRole::Fabric, "fe80::1")
    );
    assert_eq!(eth1.last_reset, "BGP Notification received: OPEN Message Error/Bad Peer AS");
    assert_eq!(eth1.since, Time::from_secs(999_988));
    assert_eq!((eth2.address.as_str(), eth2.since, eth2.is_up()), ("", now, false));
    assert_eq!(
        (speaker.role, speaker.is_up(), speaker.remote_as),
        (SessionRole::Metallb, true, 4_000_099_999)
    );
    assert_eq!(speaker.families["ipv6Unicast"], Prefixes { received: 2, sent: 3 });
    assert_eq!(speaker.graceful_restart, "advertisedAndReceived");
    assert_eq!(state.messages[2].updates_recv, 4);
}

#[test]
fn since_does_not_change_while_the_state_stays() {
    let mut state = FrrState::default();
    state.apply(Topic::Bgp, &[NEIGHBORS, "", ""], &facts(), Time::from_secs(1_000_000));
    let before = state.bgp.clone();
    // The same state a second later: FRR's times differ by two seconds.
    let later =
        NEIGHBORS.replace("\"bgpTimerUpMsec\":2000", "\"bgpTimerUpMsec\":4000").replace("Idle", "Active");
    state.apply(Topic::Bgp, &[&later, "", ""], &facts(), Time::from_secs(1_000_001));
    let since: Vec<_> = state.bgp.iter().map(|s| s.since).collect();
    assert_eq!(since, before.iter().map(|s| s.since).collect::<Vec<_>>());
    // The session came up.
    let up =
        NEIGHBORS.replace("\"bgpState\":\"Connect\"", "\"bgpState\":\"Established\",\"bgpTimerUpMsec\":1000");
    state.apply(Topic::Bgp, &[&up, "", ""], &facts(), Time::from_secs(1_000_100));
    assert_eq!(state.bgp[1].since, Time::from_secs(1_000_099));
    // bgpd does not reply.
    state.set_unknown(Topic::Bgp, Time::from_secs(1_000_200));
    assert!(state.bgp.iter().all(|s| s.state == UNKNOWN && s.since == Time::from_secs(1_000_200)));
}

#[test]
fn invalid_output_changes_nothing() {
    let (mut state, now) = (FrrState::default(), Time::from_secs(1_000_000));
    state.apply(Topic::Bgp, &[NEIGHBORS, "", ""], &facts(), now);
    for text in ["", "{", "% Unknown command", "[]", "{\"default\":3}"] {
        state.apply(Topic::Bgp, &[text, text, text], &facts(), now);
        state.apply(Topic::Bfd, &[text, text], &facts(), now);
        state.apply(Topic::Evpn, &[text], &facts(), now);
    }
    state.apply(Topic::Evpn, &[""; 0], &facts(), now);
    assert_eq!(state.bgp.len(), 3);
}

#[test]
fn services_with_and_without_a_reachable_next_hop_are_parsed() {
    let v4 = r#"{"vrfName":"metallb","routes":{"198.51.100.100/32":[{"pathFrom":"external","network":"198.51.100.100/32",
        "nexthops":[{"ip":"10.0.0.11","afi":"ipv4","used":true}]}],
        "192.0.2.0/25":[{"valid":true,"bestpath":true,"nexthops":[]}]},"totalRoutes":2}"#;
    let v6 = r#"{"routes":{"2001:db8::1/128":[{"pathFrom":"external","nexthops":[{"ip":"fe80::9"}]},
        {"valid":true,"bestpath":true,"pathFrom":"external","nexthops":[{"ip":"fda1::1"},{"ip":"fe80::1"}]}]}}"#;
    let mut state = FrrState::default();
    state.apply(Topic::Bgp, &[NEIGHBORS, v4, v6], &facts(), Time::from_secs(1));
    let service = |prefix: &str, next_hop: &str, valid| ServiceStatus {
        prefix: prefix.into(),
        next_hop: next_hop.into(),
        valid,
    };
    assert_eq!(
        state.services,
        [service("198.51.100.100/32", "10.0.0.11", false), service("2001:db8::1/128", "fda1::1", true)]
    );
}

#[test]
fn vnis_of_both_types_and_all_versions_are_parsed() {
    let text = r#"{"200":{"vni":200,"type":"L2","vxlanIf":"vni200","numMacs":3,"numArpNd":4,"numRemoteVteps":1,"tenantVrf":"red"},
        "100":{"vni":100,"vxlanIf":"vni100","numMacs":1,"numArpNd":1,"numRemoteVteps":"n\/a","type":"L3","tenantVrf":"red","state":"Down"}}"#;
    let mut state = FrrState::default();
    state.apply(Topic::Evpn, &[text], &facts(), Time::from_secs(1));
    let [l3, l2] = &state.vnis[..] else { panic!() };
    assert_eq!((l3.vni, l3.up, l3.remote_vteps, l3.kind.as_str()), (100, false, 0, "L3"));
    assert_eq!((l2.vni, l2.up, l2.remote_vteps, l2.macs, l2.neighbours), (200, true, 1, 3, 4));
}

#[test]
fn bfd_sessions_and_their_counters_are_parsed() {
    let peers = r#"[{"multihop":false,"peer":"fe80::1","vrf":"default","interface":"eth1","status":"up","uptime":2},
        {"peer":"fe80::2","vrf":"default","interface":"eth2","status":"down","downtime":9}]"#;
    let counters = r#"[{"peer":"fe80::1","vrf":"default","interface":"eth1","control-packet-input":3,"session-down":1}]"#;
    let mut state = FrrState::default();
    state.apply(Topic::Bfd, &[peers, counters], &facts(), Time::from_secs(100));
    assert_eq!(state.bfd[0].since, Time::from_secs(98));
    assert_eq!((state.bfd[1].state.as_str(), state.bfd[1].since), ("down", Time::from_secs(91)));
    assert_eq!((state.packets[0].control_packet_input, state.packets[0].session_down), (3, 1));
}
