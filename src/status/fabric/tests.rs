use super::*;
use crate::config::from_vars;
use crate::status::{Peers, Role};

/// Of FRR 10.7, shortened.
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

fn local() -> Local {
    let vars = [
        ("NODE_IP", "10.0.0.1"),
        ("ASN_LOCAL", "65001"),
        ("FE_MACS", "02:00:00:00:00:01"),
        ("PEER_IP_FRR", "fda1::"),
        ("PEER_IP_METALLB", "fda1::1"),
    ];
    let config = from_vars(vars.map(|(k, v)| (k.into(), v.into()))).unwrap();
    let peers = Peers::new(
        &config,
        "neighbor eth1 interface peer-group fabric\nneighbor eth2 interface peer-group fabric\n",
    );
    Local { metallb: ("metallb".into(), vec![]), peers: peers.into(), ..Local::default() }
}

#[test]
fn sessions_are_read_with_what_brought_them_down() {
    let now = Time::from_secs(1_000_000);
    let mut fabric = Fabric::default();
    fabric.take_in(Topic::Bgp, &[NEIGHBORS, "", ""], &local(), now);
    let [eth1, eth2, speaker] = &fabric.bgp[..] else { panic!("{:?}", fabric.bgp) };
    assert_eq!((eth1.peer.as_str(), eth1.role, eth1.address.as_str()), ("eth1", Role::Fabric, "fe80::1"));
    assert_eq!(eth1.last_reset, "BGP Notification received: OPEN Message Error/Bad Peer AS");
    assert_eq!(eth1.since, Time::from_secs(999_988));
    assert_eq!((eth2.address.as_str(), eth2.since, eth2.is_up()), ("", now, false));
    assert_eq!((speaker.role, speaker.is_up(), speaker.remote_as), (Role::Metallb, true, 4_000_099_999));
    assert_eq!(speaker.families["ipv6Unicast"], Prefixes { received: 2, sent: 3 });
    assert_eq!(speaker.graceful_restart, "advertisedAndReceived");
    assert_eq!(fabric.messages[2].updates_recv, 4);
}

#[test]
fn since_when_does_not_change_by_itself() {
    let mut fabric = Fabric::default();
    fabric.take_in(Topic::Bgp, &[NEIGHBORS, "", ""], &local(), Time::from_secs(1_000_000));
    let before = fabric.bgp.clone();
    // The same a second later, as far as FRR's own clock is told to the second.
    let later =
        NEIGHBORS.replace("\"bgpTimerUpMsec\":2000", "\"bgpTimerUpMsec\":4000").replace("Idle", "Active");
    fabric.take_in(Topic::Bgp, &[&later, "", ""], &local(), Time::from_secs(1_000_001));
    let since: Vec<_> = fabric.bgp.iter().map(|s| s.since).collect();
    assert_eq!(since, before.iter().map(|s| s.since).collect::<Vec<_>>());
    // Up since then: another moment.
    let up =
        NEIGHBORS.replace("\"bgpState\":\"Connect\"", "\"bgpState\":\"Established\",\"bgpTimerUpMsec\":1000");
    fabric.take_in(Topic::Bgp, &[&up, "", ""], &local(), Time::from_secs(1_000_100));
    assert_eq!(fabric.bgp[1].since, Time::from_secs(1_000_099));
    // Who is not there does not know.
    fabric.forget(Topic::Bgp, Time::from_secs(1_000_200));
    assert!(fabric.bgp.iter().all(|s| s.state == UNKNOWN && s.since == Time::from_secs(1_000_200)));
}

#[test]
fn what_is_no_answer_changes_nothing() {
    let (mut fabric, now) = (Fabric::default(), Time::from_secs(1_000_000));
    fabric.take_in(Topic::Bgp, &[NEIGHBORS, "", ""], &local(), now);
    for words in ["", "{", "% Unknown command", "[]", "{\"default\":3}"] {
        fabric.take_in(Topic::Bgp, &[words, words, words], &local(), now);
        fabric.take_in(Topic::Bfd, &[words, words], &local(), now);
        fabric.take_in(Topic::Evpn, &[words], &local(), now);
    }
    fabric.take_in(Topic::Evpn, &[""; 0], &local(), now);
    assert_eq!(fabric.bgp.len(), 3);
}

#[test]
fn services_with_and_without_a_next_hop_that_is_reached() {
    let v4 = r#"{"vrfName":"metallb","routes":{"198.51.100.100/32":[{"pathFrom":"external","network":"198.51.100.100/32",
        "nexthops":[{"ip":"10.0.0.11","afi":"ipv4","used":true}]}],
        "192.0.2.0/25":[{"valid":true,"bestpath":true,"nexthops":[]}]},"totalRoutes":2}"#;
    let v6 = r#"{"routes":{"2001:db8::1/128":[{"pathFrom":"external","nexthops":[{"ip":"fe80::9"}]},
        {"valid":true,"bestpath":true,"pathFrom":"external","nexthops":[{"ip":"fda1::1"},{"ip":"fe80::1"}]}]}}"#;
    let mut fabric = Fabric::default();
    fabric.take_in(Topic::Bgp, &[NEIGHBORS, v4, v6], &local(), Time::from_secs(1));
    let service = |prefix: &str, next_hop: &str, valid| Service {
        prefix: prefix.into(),
        next_hop: next_hop.into(),
        valid,
    };
    assert_eq!(
        fabric.services,
        [service("198.51.100.100/32", "10.0.0.11", false), service("2001:db8::1/128", "fda1::1", true)]
    );
}

#[test]
fn vnis_of_either_kind_and_any_version() {
    let text = r#"{"200":{"vni":200,"type":"L2","vxlanIf":"vni200","numMacs":3,"numArpNd":4,"numRemoteVteps":1,"tenantVrf":"red"},
        "100":{"vni":100,"vxlanIf":"vni100","numMacs":1,"numArpNd":1,"numRemoteVteps":"n\/a","type":"L3","tenantVrf":"red","state":"Down"}}"#;
    let mut fabric = Fabric::default();
    fabric.take_in(Topic::Evpn, &[text], &local(), Time::from_secs(1));
    let [l3, l2] = &fabric.vnis[..] else { panic!() };
    assert_eq!((l3.vni, l3.up, l3.remote_vteps, l3.kind.as_str()), (100, false, 0, "L3"));
    assert_eq!((l2.vni, l2.up, l2.remote_vteps, l2.macs, l2.neighbours), (200, true, 1, 3, 4));
}

#[test]
fn bfd_sessions_and_their_counters() {
    let peers = r#"[{"multihop":false,"peer":"fe80::1","vrf":"default","interface":"eth1","status":"up","uptime":2},
        {"peer":"fe80::2","vrf":"default","interface":"eth2","status":"down","downtime":9}]"#;
    let counters = r#"[{"peer":"fe80::1","vrf":"default","interface":"eth1","control-packet-input":3,"session-down":1}]"#;
    let mut fabric = Fabric::default();
    fabric.take_in(Topic::Bfd, &[peers, counters], &local(), Time::from_secs(100));
    assert_eq!(fabric.bfd[0].since, Time::from_secs(98));
    assert_eq!((fabric.bfd[1].state.as_str(), fabric.bfd[1].since), ("down", Time::from_secs(91)));
    assert_eq!((fabric.packets[0].control_packet_input, fabric.packets[0].session_down), (3, 1));
}
