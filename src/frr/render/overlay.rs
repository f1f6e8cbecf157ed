//! What a template can name of the overlay.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Serialize;

use crate::config::Config;
use crate::model::{Asn, Family, HostSession, L3Vni, Neighbor, NeighborBfd, Password, Peer};

/// Names beside those of the environment.
#[derive(Serialize)]
pub(super) struct Names<'a> {
    router_id: String,
    cluster_id: Option<String>,
    /// The node is a VTEP.
    vtep: bool,
    /// Some neighbor exchanges EVPN routes.
    evpn: bool,
    /// Somebody may dial whom we know only by subnet.
    listens: bool,
    vrfs: Vec<Vrf<'a>>,
    /// Fabric peers beside those on the ports, and the host's end of the pass-through.
    neighbors: Vec<Session<'a>>,
    /// The tag of routes that the host announces by the pass-through, if there is one.
    passthrough: Option<u32>,
    /// The host's ends of the pass-through, by "ipv4" and "ipv6".
    passthrough_ends: BTreeMap<&'static str, Vec<String>>,
    /// BFD profiles.
    profiles: Vec<Profile>,
    /// Each entry's lines, with what keeps them apart from others.
    raw: Vec<Vec<String>>,
}

/// A VRF with a VNI.
#[derive(Serialize)]
struct Vrf<'a> {
    name: &'a str,
    vni: u32,
    asn: String,
    /// The host's ends.
    hosts: Vec<Session<'a>>,
    /// What is announced, by "ipv4" and "ipv6".
    networks: BTreeMap<&'static str, Vec<String>>,
    import: Vec<String>,
    export: Vec<String>,
}

/// A BGP session.
#[derive(Serialize)]
struct Session<'a> {
    /// The peer's address, its interface, or a group's name.
    name: String,
    remote: String,
    external: bool,
    /// It is with the host rather than the fabric.
    host: bool,
    interface: bool,
    range: Option<String>,
    port: Option<u16>,
    password: Option<&'a str>,
    keepalive_s: u32,
    hold_s: u32,
    connect_s: u32,
    multihop: Option<u8>,
    bfd_profile: Option<String>,
    families: Vec<&'static str>,
    /// Next hops of IPv4 routes are IPv6 addresses (RFC 8950), since the session has no IPv4 of its own.
    extended_nexthop: bool,
    /// Families for which it is a client of the route reflector.
    clients: Vec<&'static str>,
}

#[derive(Serialize)]
struct Profile {
    name: String,
    receive_ms: u32,
    transmit_ms: u32,
    multiplier: u32,
    passive: bool,
    minimum_ttl: Option<u8>,
}

/// FRR's defaults (`bfdd/bfd.h`: `BFD_DEFREQUIREDMINRX` and the like), in milliseconds.
const INTERVAL_MS: u32 = 300;
const MULTIPLIER: u32 = 3;

/// Any number that no one else sets, in our own bgpd alone.
const PASSTHROUGH_TAG: u32 = 4242;

pub(super) fn names(config: &Config) -> Names<'_> {
    let overlay = &config.overlay;
    let mut profiles = Vec::new();
    let vrfs = overlay.l3vnis.iter().map(|vni| vrf(config, vni, &mut profiles)).collect();
    let fabric = overlay.underlay.neighbors.iter().map(|n| fabric(config, n, &mut profiles));
    let mut neighbors: Vec<Session<'_>> = fabric.collect();
    if let Some(session) = &overlay.passthrough {
        neighbors.extend(hosts(config, session, config.asn, &mut profiles));
    }
    Names {
        router_id: overlay.underlay.router_id.unwrap_or(config.node_ip).to_string(),
        cluster_id: overlay.underlay.cluster_id.map(|id| id.to_string()),
        vtep: overlay.underlay.is_vtep(),
        evpn: neighbors.iter().any(|n| n.families.contains(&word(Family::Evpn))),
        listens: neighbors.iter().any(|n| n.range.is_some()),
        vrfs,
        neighbors,
        passthrough: overlay.passthrough.as_ref().map(|_| PASSTHROUGH_TAG),
        passthrough_ends: by_family(
            overlay
                .passthrough
                .iter()
                .flat_map(|session| &session.ends)
                .map(|(_, host)| IpNet::from(host.addr())),
        ),
        profiles,
        raw: overlay.raw.iter().zip(1..).map(|(raw, number)| raw.framed(number)).collect(),
    }
}

fn word(family: Family) -> &'static str {
    match family {
        Family::Ipv4Unicast => "ipv4",
        Family::Ipv6Unicast => "ipv6",
        Family::Evpn => "evpn",
    }
}

fn profile(name: &str, bfd: Option<NeighborBfd>, profiles: &mut Vec<Profile>) -> Option<String> {
    let bfd = bfd?;
    let name = format!("neighbor-{name}");
    profiles.push(Profile {
        name: name.clone(),
        receive_ms: bfd.receive_ms.unwrap_or(INTERVAL_MS),
        transmit_ms: bfd.transmit_ms.unwrap_or(INTERVAL_MS),
        multiplier: bfd.multiplier.unwrap_or(MULTIPLIER),
        passive: bfd.passive,
        minimum_ttl: bfd.minimum_ttl,
    });
    Some(name)
}

fn fabric<'a>(config: &Config, neighbor: &'a Neighbor, profiles: &mut Vec<Profile>) -> Session<'a> {
    let (name, range) = match &neighbor.peer {
        Peer::Address(ip) => (ip.to_string(), None),
        Peer::Interface(name) => (name.to_string(), None),
        // A group may be called what it listens to.
        Peer::Range(net) => (net.to_string(), Some(net.to_string())),
    };
    let families = if neighbor.families.is_empty() {
        default_families(config, &neighbor.peer)
    } else {
        neighbor.families.clone()
    };
    let (keepalive_s, hold_s) = neighbor.timers.unwrap_or((config.timers.keepalive_s, config.timers.hold_s));
    Session {
        bfd_profile: profile(&name.replace('/', "-"), neighbor.bfd, profiles),
        name,
        remote: neighbor.remote.to_string(),
        external: neighbor.remote.is_external(config.asn),
        host: false,
        interface: matches!(neighbor.peer, Peer::Interface(_)),
        range,
        port: neighbor.port,
        password: neighbor.password.as_ref().map(Password::reveal),
        keepalive_s,
        hold_s,
        connect_s: neighbor.connect_s.unwrap_or(config.timers.connect_s),
        multihop: neighbor.multihop,
        extended_nexthop: v6_peer(&neighbor.peer)
            && families.iter().any(|(family, _)| *family == Family::Ipv4Unicast),
        families: families.iter().map(|(family, _)| word(*family)).collect(),
        clients: families.iter().filter(|(_, client)| *client).map(|(family, _)| word(*family)).collect(),
    }
}

/// Whether the peer is known by an IPv6 address. On an interface FRR itself sees to what that needs.
fn v6_peer(peer: &Peer) -> bool {
    match peer {
        Peer::Address(ip) => ip.is_ipv6(),
        Peer::Interface(_) => false,
        Peer::Range(net) => net.addr().is_ipv6(),
    }
}

/// What a node has use for: the peer's own family, those of the VTEP and the pass-through, and EVPN if it has VNIs.
fn default_families(config: &Config, peer: &Peer) -> Vec<(Family, bool)> {
    let overlay = &config.overlay;
    let v6_peer = v6_peer(peer);
    let vnis = !overlay.l3vnis.is_empty() || !overlay.l2vnis.is_empty();
    let through =
        |v6| overlay.passthrough.iter().flat_map(|s| &s.ends).any(|(net, _)| net.addr().is_ipv6() == v6);
    let underlay = &overlay.underlay;
    let wanted = [
        (Family::Ipv4Unicast, !v6_peer || vnis || underlay.vtep4.is_some() || through(false)),
        (Family::Ipv6Unicast, v6_peer || underlay.vtep6.is_some() || through(true)),
        (Family::Evpn, vnis),
    ];
    wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(family, _)| (family, false)).collect()
}

/// The sessions with the host, one over each family, each for both.
fn hosts<'a>(
    config: &Config,
    session: &HostSession,
    ours: Asn,
    profiles: &mut Vec<Profile>,
) -> Vec<Session<'a>> {
    let one = |(_, host): &(IpNet, IpNet)| {
        let name = host.addr().to_string();
        Session {
            bfd_profile: profile(&name, session.bfd, profiles),
            name,
            remote: session.remote.to_string(),
            external: session.remote.is_external(ours),
            host: true,
            interface: false,
            range: None,
            port: None,
            password: None,
            keepalive_s: HOST_TIMERS.0,
            hold_s: HOST_TIMERS.1,
            connect_s: config.timers.connect_s,
            multihop: None,
            families: vec!["ipv4", "ipv6"],
            extended_nexthop: host.addr().is_ipv6(),
            clients: vec![],
        }
    };
    session.ends.iter().map(one).collect()
}

/// Keepalive and hold time with the host, in seconds, as with MetalLB's speaker: a pod that is replaced shall not cost the
/// routes that graceful restart keeps.
const HOST_TIMERS: (u32, u32) = (30, 90);

fn by_family(nets: impl Iterator<Item = IpNet>) -> BTreeMap<&'static str, Vec<String>> {
    let mut all = BTreeMap::from([("ipv4", vec![]), ("ipv6", vec![])]);
    for net in nets {
        let family = if net.addr().is_ipv6() { "ipv6" } else { "ipv4" };
        all.entry(family).or_default().push(net.to_string());
    }
    all
}

fn vrf<'a>(config: &Config, vni: &'a L3Vni, profiles: &mut Vec<Profile>) -> Vrf<'a> {
    let session = vni.session.as_ref();
    let asn = session.map_or(config.asn, |session| session.asn);
    let hosts_ends =
        session.iter().flat_map(|session| &session.ends).map(|(_, host)| IpNet::from(host.addr()));
    let l2vnis = config.overlay.l2vnis.iter().filter(|l2| l2.vrf.as_ref() == Some(&vni.vrf));
    let gateways = l2vnis.flat_map(|l2| &l2.gateways).map(IpNet::trunc);
    let networks = by_family(hosts_ends.chain(gateways));
    Vrf {
        name: vni.vrf.as_ifname().as_str(),
        vni: vni.tunnel.vni.get(),
        hosts: session.map(|s| self::hosts(config, s, asn, profiles)).unwrap_or_default(),
        asn: asn.to_string(),
        networks,
        import: vni.import.iter().map(ToString::to_string).collect(),
        export: vni.export.iter().map(ToString::to_string).collect(),
    }
}
