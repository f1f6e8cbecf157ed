//! The observed state of FRR: sessions, VNIs and services. It holds the show commands and parses their output. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::diagnostics::Diagnostics;
use super::{BfdSession, BgpSession, NodeFacts, Prefixes, ServiceStatus, SessionRole, VniStatus};
use crate::frr::DaemonKind;
use crate::frr::vty::PING;
use crate::time::Time;

/// A group of show commands for one daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// bgpd: sessions, and the services of MetalLB's speaker.
    Bgp,
    /// bfdd: sessions and their counters.
    Bfd,
    /// zebra: VNIs.
    Evpn,
}

impl Topic {
    /// The daemon that is queried.
    pub fn daemon(self) -> DaemonKind {
        match self {
            Self::Bgp => DaemonKind::Bgpd,
            Self::Bfd => DaemonKind::Bfdd,
            Self::Evpn => DaemonKind::Zebra,
        }
    }

    /// The show commands. They depend on the state observed before.
    pub fn commands(self, facts: &NodeFacts, state: &FrrState) -> Vec<String> {
        match self {
            Self::Bgp => {
                let (vrf, speaker) = (&facts.metallb.0, &facts.speaker);
                let services = ["ipv4", "ipv6"].map(|af| format!("show bgp vrf {vrf} {af} unicast json"));
                // Above the limit, a trivial command takes the place of each query: the replies keep their order.
                let none = || [PING; 2].map(str::to_owned);
                let is_listed = facts.services <= MAX_LISTED_SERVICES && !vrf.is_empty();
                let services = if is_listed { services } else { none() };
                let refused = ["ipv4", "ipv6"].map(|af| {
                    format!("show bgp vrf {vrf} {af} unicast neighbors {speaker} filtered-routes json")
                });
                let mut all = [vec!["show bgp vrf all neighbors json".into()], services.into()].concat();
                all.extend(refused.into_iter().filter(|_| state.has_refused_prefixes()));
                all
            }
            Self::Bfd => ["show bfd peers json", "show bfd peers counters json"].map(Into::into).into(),
            Self::Evpn => vec!["show evpn vni json".into()],
        }
    }
}

/// With more services than this, bgpd is not queried for all of them. A query costs bgpd about 50 µs a service, in
/// which it does nothing else, and half a kilobyte of memory a service in bgpd and in this program.
pub const MAX_LISTED_SERVICES: usize = 1000;

/// The observed state of FRR: the last replies of the daemons.
#[derive(Debug, Clone, Default)]
pub struct FrrState {
    /// BGP sessions.
    pub bgp: Vec<BgpSession>,
    /// Message counters of the BGP sessions, in the same order.
    pub messages: Vec<BgpMessageCounters>,
    /// BFD sessions.
    pub bfd: Vec<BfdSession>,
    /// Packet counters of the BFD sessions, by peer, VRF and interface.
    pub packets: Vec<BfdPacketCounters>,
    /// VNIs.
    pub vnis: Vec<VniStatus>,
    /// Services, up to [`MAX_LISTED_SERVICES`].
    pub services: Vec<ServiceStatus>,
    /// Number of services that `services` leaves out.
    pub unlisted: usize,
    /// Prefixes of MetalLB's speaker that the import filter refuses.
    pub refused: Vec<String>,
    /// Diagnostics from the kernel, while a session with the fabric is down.
    pub diagnostics: Option<Diagnostics>,
}

impl FrrState {
    /// Stores the output of the commands of a topic. Output that can't be parsed changes nothing.
    pub fn apply(&mut self, topic: Topic, replies: &[impl AsRef<str>], facts: &NodeFacts, now: Time) {
        let reply = |i: usize| replies.get(i).map_or("", |reply| reply.as_ref());
        match topic {
            Topic::Bgp => {
                if let Some((sessions, messages)) = parse_sessions(reply(0), facts, now) {
                    (self.bgp, self.messages) = (keep_since(sessions, &self.bgp), messages);
                }
                self.services = [reply(1), reply(2)].into_iter().flat_map(parse_services).collect();
                // The number of services can have passed the limit after the query was sent.
                self.services.truncate(MAX_LISTED_SERVICES);
                let many = facts.services > MAX_LISTED_SERVICES;
                self.unlisted = if many { facts.services.saturating_sub(self.services.len()) } else { 0 };
                self.refused = [reply(3), reply(4)].into_iter().flat_map(parse_refused_prefixes).collect();
            }
            Topic::Bfd => {
                if let Ok(peers) = serde_json::from_str::<Vec<BfdPeerJson>>(reply(0)) {
                    let mut bfd: Vec<_> = peers.into_iter().map(|peer| peer.into_session(now)).collect();
                    bfd.sort_by(|a, b| (&a.vrf, &a.interface, &a.peer).cmp(&(&b.vrf, &b.interface, &b.peer)));
                    for session in &mut bfd {
                        let before = self.bfd.iter().find(|s| {
                            (&s.peer, &s.vrf, &s.interface)
                                == (&session.peer, &session.vrf, &session.interface)
                        });
                        session.since = without_jitter(
                            session.since,
                            before.filter(|s| s.state == session.state).map(|s| s.since),
                        );
                    }
                    self.bfd = bfd;
                }
                if let Ok(packets) = serde_json::from_str(reply(1)) {
                    self.packets = packets;
                }
            }
            Topic::Evpn => {
                if let Ok(vnis) = serde_json::from_str::<BTreeMap<String, VniJson>>(reply(0)) {
                    let mut vnis: Vec<VniStatus> = vnis.into_values().map(VniJson::into_status).collect();
                    vnis.sort_by_key(|vni| vni.vni);
                    self.vnis = vnis;
                }
            }
        }
    }

    /// Whether bgpd has refused prefixes of MetalLB's speaker since the session was established.
    fn has_refused_prefixes(&self) -> bool {
        let mut sessions = self.bgp.iter().zip(&self.messages);
        sessions.any(|(session, messages)| session.role == SessionRole::Metallb && messages.filtered > 0)
    }

    /// Sets the sessions of a topic to [`UNKNOWN`]: the daemon does not reply.
    pub fn set_unknown(&mut self, topic: Topic, now: Time) {
        let unknown = |state: &mut String, since: &mut Time| {
            if state != UNKNOWN {
                (*state, *since) = (UNKNOWN.into(), now);
            }
        };
        match topic {
            Topic::Bgp => self.bgp.iter_mut().for_each(|s| unknown(&mut s.state, &mut s.since)),
            Topic::Bfd => self.bfd.iter_mut().for_each(|s| unknown(&mut s.state, &mut s.since)),
            Topic::Evpn => {}
        }
    }
}

/// The state of a session whose daemon does not reply.
pub const UNKNOWN: &str = "Unknown";

/// FRR reports times in whole seconds: the time of one event can differ by one or two seconds between two replies.
const JITTER: Duration = Duration::from_secs(3);

/// The time reported before, if it differs by less than [`JITTER`], or else the new one.
fn without_jitter(now: Time, before: Option<Time>) -> Time {
    let is_same = |before: &Time| before.ago(now) < JITTER && now.ago(*before) < JITTER;
    before.filter(is_same).unwrap_or(now)
}

/// Keeps `since` of sessions that stayed up or stayed down. A session that is down alternates between Idle, Connect and
/// Active: its `since` is the time when it went down.
fn keep_since(mut sessions: Vec<BgpSession>, before: &[BgpSession]) -> Vec<BgpSession> {
    for session in &mut sessions {
        let Some(before) = before.iter().find(|s| (&s.vrf, &s.peer) == (&session.vrf, &session.peer)) else {
            continue;
        };
        if before.is_up() == session.is_up() && before.state != UNKNOWN {
            session.since = if session.is_up() {
                without_jitter(session.since, Some(before.since))
            } else {
                before.since
            };
        }
    }
    sessions
}

/// Message counters of a BGP session.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // FRR's own names.
pub struct BgpMessageCounters {
    pub opens_sent: u64,
    pub opens_recv: u64,
    pub notifications_sent: u64,
    pub notifications_recv: u64,
    pub updates_sent: u64,
    pub updates_recv: u64,
    pub keepalives_sent: u64,
    pub keepalives_recv: u64,
    pub route_refresh_sent: u64,
    pub route_refresh_recv: u64,
    pub total_sent: u64,
    pub total_recv: u64,
    #[serde(skip)]
    pub filtered: u64,
}

/// Packet counters of a BFD session.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[allow(missing_docs)] // FRR's own names.
pub struct BfdPacketCounters {
    pub peer: String,
    pub vrf: String,
    pub interface: String,
    pub control_packet_input: u64,
    pub control_packet_output: u64,
    pub echo_packet_input: u64,
    pub echo_packet_output: u64,
    pub session_up: u64,
    pub session_down: u64,
    pub zebra_notifications: u64,
}

/// Parses `show bgp vrf all neighbors json`: objects by VRF, in each the neighbors and other members.
fn parse_sessions(
    text: &str,
    facts: &NodeFacts,
    now: Time,
) -> Option<(Vec<BgpSession>, Vec<BgpMessageCounters>)> {
    let vrfs: BTreeMap<String, NeighborsJson> = serde_json::from_str(text).ok()?;
    let all = vrfs.into_iter().flat_map(|(vrf, neighbors)| {
        neighbors.0.into_iter().map(move |(peer, neighbor)| (vrf.clone(), peer, neighbor))
    });
    let mut all: Vec<_> =
        all.map(|(vrf, peer, neighbor)| neighbor.into_session(vrf, peer, facts, now)).collect();
    all.sort_by(|(a, _), (b, _)| (a.role, &a.vrf, &a.peer).cmp(&(b.role, &b.vrf, &b.peer)));
    Some(all.into_iter().unzip())
}

/// The neighbors of a VRF: all members except the VRF's number and name.
#[derive(Debug, Default)]
struct NeighborsJson(Vec<(String, NeighborJson)>);

impl<'de> Deserialize<'de> for NeighborsJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = NeighborsJson;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the neighbors of a VRF")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NeighborsJson, A::Error> {
                let mut all = NeighborsJson::default();
                while let Some(key) = map.next_key::<String>()? {
                    if matches!(key.as_str(), "vrfId" | "vrfName") {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        all.0.push((key, map.next_value()?));
                    }
                }
                Ok(all)
            }
        }
        deserializer.deserialize_map(All)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NeighborJson {
    // FRR 8.4 reports the address of an unnumbered neighbor only in this member.
    bgp_neighbor_addr: String,
    neighbor_addr: String,
    remote_as: u32,
    local_as: u32,
    bgp_state: String,
    bgp_timer_up_msec: u64,
    last_reset_timer_msecs: Option<u64>,
    last_reset_due_to: String,
    last_notification_reason: String,
    connections_established: u64,
    connections_dropped: u64,
    neighbor_capabilities: CapabilitiesJson,
    address_family_info: BTreeMap<String, FamilyJson>,
    message_stats: BgpMessageCounters,
    prefix_stats: PrefixStatsJson,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PrefixStatsJson {
    inbound_filtered: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CapabilitiesJson {
    // An object or a string, depending on FRR's version.
    graceful_restart: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct FamilyJson {
    accepted_prefix_counter: u64,
    sent_prefix_counter: u64,
}

impl NeighborJson {
    fn into_session(
        self,
        vrf: String,
        peer: String,
        facts: &NodeFacts,
        now: Time,
    ) -> (BgpSession, BgpMessageCounters) {
        let up = self.bgp_state == "Established";
        let ago = if up { Some(self.bgp_timer_up_msec) } else { self.last_reset_timer_msecs };
        let since = ago.map_or(now, |ms| now.before(Duration::from_millis(ms)));
        let mut last_reset = self.last_reset_due_to;
        if !self.last_notification_reason.is_empty() {
            last_reset = format!("{last_reset}: {}", self.last_notification_reason);
        }
        let address =
            [self.bgp_neighbor_addr, self.neighbor_addr].into_iter().find(|a| !a.is_empty() && a != "none");
        let role = facts.peers.role(&vrf, &peer);
        let families = self.address_family_info.into_iter().map(|(name, family)| {
            (name, Prefixes { received: family.accepted_prefix_counter, sent: family.sent_prefix_counter })
        });
        let session = BgpSession {
            address: address.unwrap_or_default(),
            role,
            state: self.bgp_state,
            since,
            remote_as: self.remote_as,
            local_as: self.local_as,
            families: families.collect(),
            last_reset,
            graceful_restart: match self.neighbor_capabilities.graceful_restart {
                Some(serde_json::Value::String(state)) => state,
                _ => String::new(),
            },
            established: self.connections_established,
            dropped: self.connections_dropped,
            vrf,
            peer,
        };
        (session, BgpMessageCounters { filtered: self.prefix_stats.inbound_filtered, ..self.message_stats })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BfdPeerJson {
    peer: String,
    vrf: String,
    interface: String,
    status: String,
    uptime: Option<u64>,
    downtime: Option<u64>,
}

impl BfdPeerJson {
    fn into_session(self, now: Time) -> BfdSession {
        let ago = self.uptime.or(self.downtime).unwrap_or(0);
        BfdSession {
            since: now.before(Duration::from_secs(ago)),
            peer: self.peer,
            vrf: self.vrf,
            interface: self.interface,
            state: self.status,
        }
    }
}

/// A VNI in `show evpn vni json`. The members depend on FRR's version and the VNI's type.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct VniJson {
    vni: u32,
    #[serde(rename = "type")]
    kind: String,
    vxlan_if: String,
    tenant_vrf: String,
    state: String,
    num_macs: u64,
    num_arp_nd: u64,
    num_remote_vteps: CountJson,
}

/// A number, or `n/a`.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum CountJson {
    Number(u64),
    #[default]
    Missing,
    NotApplicable(IgnoredAny),
}

impl VniJson {
    fn into_status(self) -> VniStatus {
        VniStatus {
            vni: self.vni,
            kind: self.kind,
            device: self.vxlan_if,
            vrf: self.tenant_vrf,
            up: !self.state.eq_ignore_ascii_case("down"),
            remote_vteps: if let CountJson::Number(n) = self.num_remote_vteps { n } else { 0 },
            macs: self.num_macs,
            neighbours: self.num_arp_nd,
        }
    }
}

/// Parses `show bgp vrf … unicast json`: the routes that a neighbor announces.
fn parse_services(text: &str) -> Vec<ServiceStatus> {
    #[derive(Debug, Deserialize)]
    struct RoutesJson {
        #[serde(default)]
        routes: BTreeMap<String, Vec<PathJson>>,
    }
    #[derive(Debug, Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct PathJson {
        valid: bool,
        bestpath: bool,
        path_from: String,
        nexthops: Vec<NextHopJson>,
    }
    #[derive(Debug, Deserialize)]
    struct NextHopJson {
        #[serde(default)]
        ip: String,
    }
    let parsed: Option<RoutesJson> = serde_json::from_str(text).ok();
    let routes = parsed.map(|parsed| parsed.routes).unwrap_or_default();
    let service = |(prefix, paths): (String, Vec<PathJson>)| {
        let path = paths.into_iter().filter(|p| p.path_from == "external" || p.path_from == "internal");
        let path = path.max_by_key(|p| (p.bestpath, p.valid))?;
        let next_hop = path.nexthops.into_iter().next().map(|n| n.ip).unwrap_or_default();
        Some(ServiceStatus { prefix, next_hop, valid: path.valid })
    };
    routes.into_iter().filter_map(service).collect()
}

/// Parses `show bgp … filtered-routes json`: the prefixes.
fn parse_refused_prefixes(text: &str) -> Vec<String> {
    #[derive(Debug, Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct FilteredRoutesJson {
        received_routes: BTreeMap<String, IgnoredAny>,
    }
    let parsed: FilteredRoutesJson = serde_json::from_str(text).unwrap_or_default();
    parsed.received_routes.into_keys().collect()
}

#[cfg(test)]
mod tests;
