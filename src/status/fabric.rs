//! What the daemons say of their sessions, VNIs and routes: questions, and answers read into what is shown. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::links::Links;
use super::{BfdSession, BgpSession, Local, Prefixes, Service, Time, Vni};
use crate::frr::vty::PING;

/// What is asked of a daemon together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// bgpd: sessions, and what MetalLB's speaker announces.
    Bgp,
    /// bfdd: sessions and their counters.
    Bfd,
    /// zebra: VNIs.
    Evpn,
}

impl Topic {
    /// Which daemon knows of it.
    pub fn daemon(self) -> &'static str {
        match self {
            Self::Bgp => "bgpd",
            Self::Bfd => "bfdd",
            Self::Evpn => "zebra",
        }
    }

    /// What to ask it, after what is known already.
    pub fn questions(self, local: &Local, fabric: &Fabric) -> Vec<String> {
        match self {
            Self::Bgp => {
                let (vrf, speaker) = (&local.metallb.0, &local.speaker);
                let services = ["ipv4", "ipv6"].map(|af| format!("show bgp vrf {vrf} {af} unicast json"));
                // Where there are too many, nothing is asked in their place.
                let none = || [PING; 2].map(str::to_owned);
                let services = if local.services > MOST_LISTED { none() } else { services };
                let refused = ["ipv4", "ipv6"].map(|af| {
                    format!("show bgp vrf {vrf} {af} unicast neighbors {speaker} filtered-routes json")
                });
                let mut all = [vec!["show bgp vrf all neighbors json".into()], services.into()].concat();
                all.extend(refused.into_iter().filter(|_| fabric.refuses()));
                all
            }
            Self::Bfd => ["show bfd peers json", "show bfd peers counters json"].map(Into::into).into(),
            Self::Evpn => vec!["show evpn vni json".into()],
        }
    }
}

/// Where there are more services, bgpd is not asked for all of them: that takes it some 50 µs for each, during which it does
/// nothing else, and both of us half a kilobyte.
pub const MOST_LISTED: usize = 1000;

/// What the daemons have said last.
#[derive(Debug, Clone, Default)]
pub struct Fabric {
    /// BGP sessions.
    pub bgp: Vec<BgpSession>,
    /// What they have sent and received, in the same order.
    pub messages: Vec<Messages>,
    /// BFD sessions.
    pub bfd: Vec<BfdSession>,
    /// Their counters, by peer, VRF and interface.
    pub packets: Vec<Packets>,
    /// VNIs.
    pub vnis: Vec<Vni>,
    /// Services, unless there are too many to be asked for.
    pub services: Vec<Service>,
    /// How many more there are.
    pub unlisted: usize,
    /// Prefixes of MetalLB's speaker that are refused.
    pub refused: Vec<String>,
    /// What the kernel knows of sessions that are down.
    pub links: Option<Links>,
}

impl Fabric {
    /// Takes in what a daemon said; what is no answer leaves things as they are.
    pub fn take_in(&mut self, topic: Topic, answers: &[impl AsRef<str>], local: &Local, now: Time) {
        let answer = |i: usize| answers.get(i).map_or("", |answer| answer.as_ref());
        match topic {
            Topic::Bgp => {
                if let Some((sessions, messages)) = sessions(answer(0), local, now) {
                    (self.bgp, self.messages) = (settled(sessions, &self.bgp), messages);
                }
                self.services = [answer(1), answer(2)].into_iter().flat_map(services).collect();
                // It may have been asked before there were so many.
                self.services.truncate(MOST_LISTED);
                let many = local.services > MOST_LISTED;
                self.unlisted = if many { local.services.saturating_sub(self.services.len()) } else { 0 };
                self.refused = [answer(3), answer(4)].into_iter().flat_map(refused).collect();
            }
            Topic::Bfd => {
                if let Ok(peers) = serde_json::from_str::<Vec<BfdPeer>>(answer(0)) {
                    let mut bfd: Vec<_> = peers.into_iter().map(|peer| peer.shown(now)).collect();
                    bfd.sort_by(|a, b| (&a.vrf, &a.interface, &a.peer).cmp(&(&b.vrf, &b.interface, &b.peer)));
                    for session in &mut bfd {
                        let before = self.bfd.iter().find(|s| {
                            (&s.peer, &s.vrf, &s.interface)
                                == (&session.peer, &session.vrf, &session.interface)
                        });
                        session.since = steady(
                            session.since,
                            before.filter(|s| s.state == session.state).map(|s| s.since),
                        );
                    }
                    self.bfd = bfd;
                }
                if let Ok(packets) = serde_json::from_str(answer(1)) {
                    self.packets = packets;
                }
            }
            Topic::Evpn => {
                if let Ok(vnis) = serde_json::from_str::<BTreeMap<String, RawVni>>(answer(0)) {
                    let mut vnis: Vec<Vni> = vnis.into_values().map(RawVni::shown).collect();
                    vnis.sort_by_key(|vni| vni.vni);
                    self.vnis = vnis;
                }
            }
        }
    }

    /// Whether MetalLB's speaker has announced something that was refused since its session was made.
    fn refuses(&self) -> bool {
        let mut sessions = self.bgp.iter().zip(&self.messages);
        sessions.any(|(session, messages)| session.role == super::Role::Metallb && messages.filtered > 0)
    }

    /// The daemon is not there to know.
    pub fn forget(&mut self, topic: Topic, now: Time) {
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

/// The state of a session whose daemon does not answer.
pub const UNKNOWN: &str = "Unknown";

/// Both are told to the second, and so may differ by one or two.
const JITTER: Duration = Duration::from_secs(3);

/// The earlier of two that mean the same.
fn steady(now: Time, before: Option<Time>) -> Time {
    let same = |before: &Time| before.ago(now) < JITTER && now.ago(*before) < JITTER;
    before.filter(same).unwrap_or(now)
}

/// A session that is not up goes round in Idle, Connect and Active: since when is told of all of these together.
fn settled(mut sessions: Vec<BgpSession>, before: &[BgpSession]) -> Vec<BgpSession> {
    for session in &mut sessions {
        let Some(before) = before.iter().find(|s| (&s.vrf, &s.peer) == (&session.vrf, &session.peer)) else {
            continue;
        };
        if before.is_up() == session.is_up() && before.state != UNKNOWN {
            session.since =
                if session.is_up() { steady(session.since, Some(before.since)) } else { before.since };
        }
    }
    sessions
}

/// What a neighbor has sent and received.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // FRR's own names.
pub struct Messages {
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

/// A BFD session's counters.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[allow(missing_docs)] // FRR's own names.
pub struct Packets {
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

/// `show bgp vrf all neighbors json`: by VRF, and in each by neighbor, among other things.
fn sessions(text: &str, local: &Local, now: Time) -> Option<(Vec<BgpSession>, Vec<Messages>)> {
    let vrfs: BTreeMap<String, Neighbors> = serde_json::from_str(text).ok()?;
    let all = vrfs.into_iter().flat_map(|(vrf, neighbors)| {
        neighbors.0.into_iter().map(move |(peer, neighbor)| (vrf.clone(), peer, neighbor))
    });
    let mut all: Vec<_> = all.map(|(vrf, peer, neighbor)| neighbor.shown(vrf, peer, local, now)).collect();
    all.sort_by(|(a, _), (b, _)| (a.role, &a.vrf, &a.peer).cmp(&(b.role, &b.vrf, &b.peer)));
    Some(all.into_iter().unzip())
}

/// The neighbors of a VRF: what is an object beside its own number and name.
#[derive(Debug, Default)]
struct Neighbors(Vec<(String, Neighbor)>);

impl<'de> Deserialize<'de> for Neighbors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Neighbors;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the neighbors of a VRF")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Neighbors, A::Error> {
                let mut all = Neighbors::default();
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
struct Neighbor {
    // FRR 8.4 gives an address that is not a name here alone.
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
    neighbor_capabilities: Capabilities,
    address_family_info: BTreeMap<String, Family>,
    message_stats: Messages,
    prefix_stats: PrefixStats,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PrefixStats {
    inbound_filtered: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Capabilities {
    // An object or a word, by version.
    graceful_restart: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Family {
    accepted_prefix_counter: u64,
    sent_prefix_counter: u64,
}

impl Neighbor {
    fn shown(self, vrf: String, peer: String, local: &Local, now: Time) -> (BgpSession, Messages) {
        let up = self.bgp_state == "Established";
        let ago = if up { Some(self.bgp_timer_up_msec) } else { self.last_reset_timer_msecs };
        let since = ago.map_or(now, |ms| now.before(Duration::from_millis(ms)));
        let mut last_reset = self.last_reset_due_to;
        if !self.last_notification_reason.is_empty() {
            last_reset = format!("{last_reset}: {}", self.last_notification_reason);
        }
        let address =
            [self.bgp_neighbor_addr, self.neighbor_addr].into_iter().find(|a| !a.is_empty() && a != "none");
        let role = local.peers.role(&vrf, &peer);
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
                Some(serde_json::Value::String(word)) => word,
                _ => String::new(),
            },
            established: self.connections_established,
            dropped: self.connections_dropped,
            vrf,
            peer,
        };
        (session, Messages { filtered: self.prefix_stats.inbound_filtered, ..self.message_stats })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BfdPeer {
    peer: String,
    vrf: String,
    interface: String,
    status: String,
    uptime: Option<u64>,
    downtime: Option<u64>,
}

impl BfdPeer {
    fn shown(self, now: Time) -> BfdSession {
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

/// `show evpn vni json`, whose members differ by version and kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawVni {
    vni: u32,
    #[serde(rename = "type")]
    kind: String,
    vxlan_if: String,
    tenant_vrf: String,
    state: String,
    num_macs: u64,
    num_arp_nd: u64,
    num_remote_vteps: Count,
}

/// A number, or `n/a`.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Count {
    Number(u64),
    #[default]
    None,
    Word(IgnoredAny),
}

impl RawVni {
    fn shown(self) -> Vni {
        Vni {
            vni: self.vni,
            kind: self.kind,
            device: self.vxlan_if,
            vrf: self.tenant_vrf,
            up: !self.state.eq_ignore_ascii_case("down"),
            remote_vteps: if let Count::Number(n) = self.num_remote_vteps { n } else { 0 },
            macs: self.num_macs,
            neighbours: self.num_arp_nd,
        }
    }
}

/// `show bgp vrf … unicast json`: routes that a neighbor has told of.
fn services(text: &str) -> Vec<Service> {
    #[derive(Debug, Deserialize)]
    struct Table {
        #[serde(default)]
        routes: BTreeMap<String, Vec<Path>>,
    }
    #[derive(Debug, Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Path {
        valid: bool,
        bestpath: bool,
        path_from: String,
        nexthops: Vec<NextHop>,
    }
    #[derive(Debug, Deserialize)]
    struct NextHop {
        #[serde(default)]
        ip: String,
    }
    let table: Option<Table> = serde_json::from_str(text).ok();
    let routes = table.map(|table| table.routes).unwrap_or_default();
    let service = |(prefix, paths): (String, Vec<Path>)| {
        let path = paths.into_iter().filter(|p| p.path_from == "external" || p.path_from == "internal");
        let path = path.max_by_key(|p| (p.bestpath, p.valid))?;
        let next_hop = path.nexthops.into_iter().next().map(|n| n.ip).unwrap_or_default();
        Some(Service { prefix, next_hop, valid: path.valid })
    };
    routes.into_iter().filter_map(service).collect()
}

/// `show bgp … filtered-routes json`: prefixes.
fn refused(text: &str) -> Vec<String> {
    #[derive(Debug, Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Table {
        received_routes: BTreeMap<String, IgnoredAny>,
    }
    let table: Table = serde_json::from_str(text).unwrap_or_default();
    table.received_routes.into_keys().collect()
}

#[cfg(test)]
mod tests;
