//! The variables of a template for the overlay.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Serialize;

use crate::config::Config;
use crate::model::{Asn, BgpFamily, FabricNeighbor, HostSession, L3Vni, NeighborBfd, NeighborId, Password};

/// The variables in addition to those of the environment.
#[derive(Serialize)]
pub(super) struct OverlayVars<'a> {
    router_id: String,
    cluster_id: Option<String>,
    /// The node is a VTEP.
    vtep: bool,
    /// Some neighbor exchanges EVPN routes.
    evpn: bool,
    /// Some neighbor is known only by its subnet, and connects to bgpd.
    listens: bool,
    vrfs: Vec<VrfVars<'a>>,
    /// Fabric peers in addition to those on the ports, and the host's end of the pass-through.
    neighbors: Vec<SessionVars<'a>>,
    /// The tag of routes that the host announces over the pass-through, if there is a pass-through.
    passthrough: Option<u32>,
    /// The host's ends of the pass-through, by "ipv4" and "ipv6".
    passthrough_ends: BTreeMap<&'static str, Vec<String>>,
    /// BFD profiles.
    profiles: Vec<ProfileVars>,
    /// The lines of each entry of raw lines, framed (`RawLines::framed`).
    raw: Vec<Vec<String>>,
}

/// A VRF with a VNI.
#[derive(Serialize)]
struct VrfVars<'a> {
    name: &'a str,
    vni: u32,
    asn: String,
    /// The host's ends.
    hosts: Vec<SessionVars<'a>>,
    /// The announced networks, by "ipv4" and "ipv6".
    networks: BTreeMap<&'static str, Vec<String>>,
    import: Vec<String>,
    export: Vec<String>,
}

/// A BGP session.
#[derive(Serialize)]
struct SessionVars<'a> {
    /// The peer's address, its interface, or a group's name.
    name: String,
    remote: String,
    external: bool,
    /// The peer is the host, not the fabric.
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
    /// The next hops of IPv4 routes are IPv6 addresses (RFC 8950), since the session has no IPv4 address.
    extended_nexthop: bool,
    /// Families in which the peer is a client of this route reflector.
    clients: Vec<&'static str>,
}

#[derive(Serialize)]
struct ProfileVars {
    name: String,
    receive_ms: u32,
    transmit_ms: u32,
    multiplier: u32,
    passive: bool,
    minimum_ttl: Option<u8>,
}

/// FRR's default interval (`bfdd/bfd.h`: `BFD_DEFREQUIREDMINRX` and `BFD_DEFDESIREDMINTX`), in milliseconds.
const INTERVAL_MS: u32 = 300;

/// FRR's default detection multiplier (`bfdd/bfd.h`: `BFD_DEFDETECTMULT`).
const MULTIPLIER: u32 = 3;

/// The tag of routes from the pass-through. Only this bgpd uses it, so any number that nothing else sets will do.
const PASSTHROUGH_TAG: u32 = 4242;

pub(super) fn vars(config: &Config) -> OverlayVars<'_> {
    let overlay = &config.overlay;
    let mut profiles = Vec::new();
    let mut gateways: BTreeMap<&str, Vec<IpNet>> = BTreeMap::new();
    for vni in &overlay.l2vnis {
        let Some(vrf) = &vni.vrf else { continue };
        let vrf = gateways.entry(vrf.as_ifname().as_str()).or_default();
        vrf.extend(vni.gateways.iter().map(IpNet::trunc));
    }
    let vrf = |vni| vrf_vars(config, vni, &gateways, &mut profiles);
    let vrfs = overlay.l3vnis.iter().map(vrf).collect();
    let fabric = overlay.underlay.neighbors.iter().map(|n| fabric_session(config, n, &mut profiles));
    let mut neighbors: Vec<SessionVars<'_>> = fabric.collect();
    if let Some(session) = &overlay.passthrough {
        neighbors.extend(host_sessions(config, session, config.settings.asn_local, &mut profiles));
    }
    OverlayVars {
        router_id: overlay.underlay.router_id.unwrap_or(config.settings.node_ip).to_string(),
        cluster_id: overlay.underlay.cluster_id.map(|id| id.to_string()),
        vtep: overlay.underlay.is_vtep(),
        evpn: neighbors.iter().any(|n| n.families.contains(&family_name(BgpFamily::Evpn))),
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

fn family_name(family: BgpFamily) -> &'static str {
    match family {
        BgpFamily::Ipv4Unicast => "ipv4",
        BgpFamily::Ipv6Unicast => "ipv6",
        BgpFamily::Evpn => "evpn",
    }
}

/// Adds a BFD profile for the peer `name` if it uses BFD, and returns the name of the profile.
fn add_bfd_profile(name: &str, bfd: Option<NeighborBfd>, profiles: &mut Vec<ProfileVars>) -> Option<String> {
    let bfd = bfd?;
    let name = format!("neighbor-{name}");
    profiles.push(ProfileVars {
        name: name.clone(),
        receive_ms: bfd.receive_ms.unwrap_or(INTERVAL_MS),
        transmit_ms: bfd.transmit_ms.unwrap_or(INTERVAL_MS),
        multiplier: bfd.multiplier.unwrap_or(MULTIPLIER),
        passive: bfd.passive,
        minimum_ttl: bfd.minimum_ttl,
    });
    Some(name)
}

fn fabric_session<'a>(
    config: &Config,
    neighbor: &'a FabricNeighbor,
    profiles: &mut Vec<ProfileVars>,
) -> SessionVars<'a> {
    let (name, range) = match &neighbor.peer {
        NeighborId::Address(ip) => (ip.to_string(), None),
        NeighborId::Interface(name) => (name.to_string(), None),
        // The subnet is also the name of the peer group.
        NeighborId::Range(net) => (net.to_string(), Some(net.to_string())),
    };
    let families = if neighbor.families.is_empty() {
        default_families(config, &neighbor.peer)
    } else {
        neighbor.families.clone()
    };
    let (keepalive_s, hold_s) = neighbor.timers.unwrap_or((config.timers.keepalive_s, config.timers.hold_s));
    SessionVars {
        bfd_profile: add_bfd_profile(&name.replace('/', "-"), neighbor.bfd, profiles),
        name,
        remote: neighbor.remote.to_string(),
        external: neighbor.remote.is_external(config.settings.asn_local),
        host: false,
        interface: matches!(neighbor.peer, NeighborId::Interface(_)),
        range,
        port: neighbor.port,
        password: neighbor.password.as_ref().map(Password::reveal),
        keepalive_s,
        hold_s,
        connect_s: neighbor.connect_s.unwrap_or(config.timers.connect_s),
        multihop: neighbor.multihop,
        extended_nexthop: is_v6_peer(&neighbor.peer)
            && families.iter().any(|(family, _)| *family == BgpFamily::Ipv4Unicast),
        families: families.iter().map(|(family, _)| family_name(*family)).collect(),
        clients: families
            .iter()
            .filter(|(_, client)| *client)
            .map(|(family, _)| family_name(*family))
            .collect(),
    }
}

/// Whether the peer has an IPv6 address. `false` for an interface: there FRR enables extended next hops itself.
fn is_v6_peer(peer: &NeighborId) -> bool {
    match peer {
        NeighborId::Address(ip) => ip.is_ipv6(),
        NeighborId::Interface(_) => false,
        NeighborId::Range(net) => net.addr().is_ipv6(),
    }
}

/// The address families of a neighbor that names none: that of the peer's address, those of the VTEP and the
/// pass-through, and EVPN if the node has VNIs.
fn default_families(config: &Config, peer: &NeighborId) -> Vec<(BgpFamily, bool)> {
    let overlay = &config.overlay;
    let v6_peer = is_v6_peer(peer);
    let vnis = !overlay.l3vnis.is_empty() || !overlay.l2vnis.is_empty();
    let through =
        |v6| overlay.passthrough.iter().flat_map(|s| &s.ends).any(|(net, _)| net.addr().is_ipv6() == v6);
    let underlay = &overlay.underlay;
    let wanted = [
        (BgpFamily::Ipv4Unicast, !v6_peer || vnis || underlay.vtep4.is_some() || through(false)),
        (BgpFamily::Ipv6Unicast, v6_peer || underlay.vtep6.is_some() || through(true)),
        (BgpFamily::Evpn, vnis),
    ];
    wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(family, _)| (family, false)).collect()
}

/// The sessions with the host: one over each address family. Each carries both families.
fn host_sessions<'a>(
    config: &Config,
    session: &HostSession,
    local_asn: Asn,
    profiles: &mut Vec<ProfileVars>,
) -> Vec<SessionVars<'a>> {
    let one = |(_, host): &(IpNet, IpNet)| {
        let name = host.addr().to_string();
        SessionVars {
            bfd_profile: add_bfd_profile(&name, session.bfd, profiles),
            name,
            remote: session.remote.to_string(),
            external: session.remote.is_external(local_asn),
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

/// Keepalive and hold time of sessions with the host, in seconds, equal to those with MetalLB's speaker: the
/// replacement of a pod must not remove the routes that graceful restart keeps.
const HOST_TIMERS: (u32, u32) = (30, 90);

fn by_family(nets: impl Iterator<Item = IpNet>) -> BTreeMap<&'static str, Vec<String>> {
    let mut all = BTreeMap::from([("ipv4", vec![]), ("ipv6", vec![])]);
    for net in nets {
        let family = if net.addr().is_ipv6() { "ipv6" } else { "ipv4" };
        all.entry(family).or_default().push(net.to_string());
    }
    all
}

/// `gateways`: the subnets of the gateways of each VRF.
fn vrf_vars<'a>(
    config: &Config,
    vni: &'a L3Vni,
    gateways: &BTreeMap<&str, Vec<IpNet>>,
    profiles: &mut Vec<ProfileVars>,
) -> VrfVars<'a> {
    let session = vni.session.as_ref();
    let asn = session.map_or(config.settings.asn_local, |session| session.asn);
    let hosts_ends =
        session.iter().flat_map(|session| &session.ends).map(|(_, host)| IpNet::from(host.addr()));
    let gateways = gateways.get(vni.vrf.as_ifname().as_str()).into_iter().flatten().copied();
    let networks = by_family(hosts_ends.chain(gateways));
    VrfVars {
        name: vni.vrf.as_ifname().as_str(),
        vni: vni.tunnel.vni.get(),
        hosts: session.map(|s| host_sessions(config, s, asn, profiles)).unwrap_or_default(),
        asn: asn.to_string(),
        networks,
        import: vni.import.iter().map(ToString::to_string).collect(),
        export: vni.export.iter().map(ToString::to_string).collect(),
    }
}
