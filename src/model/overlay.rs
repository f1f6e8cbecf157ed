//! The contents of the configuration file: the underlay, which may be a VTEP, and its VNIs. Every value is computed for
//! this node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Asn, IfName, MacAddr, Password, RawLines, RouterId, Value as _, VrfName};

/// The dummy with the VTEP's addresses.
pub const VTEP_DEVICE: &str = "lound";

/// The host end of the pass-through pair.
pub const PASSTHROUGH_HOST: &str = "pt-host";

/// FRR's end of the pass-through pair, in the default VRF.
pub const PASSTHROUGH_ROUTER: &str = "pt-ns";

/// A device of a VNI. The device determines the name's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VniDevice {
    /// The bridge in FRR's namespace.
    Bridge,
    /// The VXLAN device.
    Vxlan,
    /// FRR's end of the veth pair.
    RouterEnd,
    /// The host end of the veth pair.
    HostEnd,
    /// The managed bridge in the host namespace.
    HostBridge,
}

impl VniDevice {
    /// All devices.
    pub const ALL: [Self; 5] = [Self::Bridge, Self::Vxlan, Self::RouterEnd, Self::HostEnd, Self::HostBridge];

    /// The part of the name before the VNI.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Bridge => "br-pe-",
            Self::Vxlan => "vni",
            Self::RouterEnd => "pe-e-",
            Self::HostEnd => "host-e-",
            Self::HostBridge => "br-hs-",
        }
    }
}

/// The first table of the VNIs' VRFs, outside the ranges that administrators, CNIs and systemd-networkd use.
const FIRST_TABLE: u32 = 10_000_000;

/// The contents of the configuration file. Each part is valid alone and together with the others.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    /// The underlay of the VNIs.
    pub underlay: Underlay,
    /// Routing domains.
    pub l3vnis: Vec<L3Vni>,
    /// Broadcast domains.
    pub l2vnis: Vec<L2Vni>,
    /// The host's session in the default VRF of FRR's namespace.
    pub passthrough: Option<HostSession>,
    /// Raw lines for frr.conf, sorted by priority.
    pub raw: Vec<RawLines>,
    /// Whether invalid parts were left out. Their kernel objects are kept.
    pub incomplete: bool,
}

/// The links and sessions towards the fabric, and the VTEP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Underlay {
    /// The VTEP's IPv4 address.
    pub vtep4: Option<Ipv4Addr>,
    /// The VTEP's IPv6 address.
    pub vtep6: Option<Ipv6Addr>,
    /// The BGP identifier. `None`: `NODE_IP`.
    pub router_id: Option<RouterId>,
    /// Peers in addition to those on the ports of `FE_MACS`.
    pub neighbors: Vec<FabricNeighbor>,
    /// Links in addition to the ports of `FE_MACS`.
    pub interfaces: Vec<UnderlayInterface>,
    /// The cluster-id of the route reflector (RFC 4456). `None`: the node is not a route reflector.
    pub cluster_id: Option<Ipv4Addr>,
    /// Graceful restart: restart time and stale-path time in seconds. `None`: the environment's.
    pub graceful_restart: Option<(Option<u32>, Option<u32>)>,
}

/// Compares what the node shall be, not whether the file has errors.
impl PartialEq for Overlay {
    fn eq(&self, other: &Self) -> bool {
        let Self { underlay, l3vnis, l2vnis, passthrough, raw, incomplete: _ } = self;
        (underlay, l3vnis, l2vnis, passthrough, raw)
            == (&other.underlay, &other.l3vnis, &other.l2vnis, &other.passthrough, &other.raw)
    }
}

impl Eq for Overlay {}

impl Overlay {
    /// Whether this node has gateway addresses for workloads.
    pub fn has_gateways(&self) -> bool {
        self.l2vnis.iter().any(|vni| !vni.gateways.is_empty())
    }
}

impl Underlay {
    /// The VTEP's addresses.
    pub fn vteps(&self) -> impl Iterator<Item = IpAddr> {
        self.vtep4.map(IpAddr::from).into_iter().chain(self.vtep6.map(IpAddr::from))
    }

    /// Whether the node is a VTEP, so that it can have VNIs.
    pub fn is_vtep(&self) -> bool {
        self.vteps().next().is_some()
    }
}

/// A link to the fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnderlayInterface {
    /// A NIC, or a VLAN on a NIC, that is moved into FRR's namespace.
    Device(IfName),
    /// A managed macvlan on a NIC that stays in the host namespace.
    Macvlan {
        /// Its name in FRR's namespace.
        name: IfName,
        /// The NIC.
        parent: IfName,
        /// Its addresses.
        addresses: Vec<IpNet>,
    },
}

impl UnderlayInterface {
    /// Its name in FRR's namespace.
    pub fn name(&self) -> &IfName {
        match self {
            Self::Device(name) | Self::Macvlan { name, .. } => name,
        }
    }
}

/// Identifies the peer of a BGP session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NeighborId {
    /// One address.
    Address(IpAddr),
    /// The peer on this interface (unnumbered).
    Interface(IfName),
    /// Every peer that connects from this subnet.
    Range(IpNet),
}

/// The neighbor's name in FRR.
impl std::fmt::Display for NeighborId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(ip) => ip.fmt(f),
            Self::Interface(name) => name.fmt(f),
            // The subnet is also the name of the peer group.
            Self::Range(net) => net.fmt(f),
        }
    }
}

/// The peer's AS number, or its relation to the local one (`remote-as`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteAs {
    /// This AS number.
    Asn(Asn),
    /// Any AS number except the local one.
    External,
    /// The local AS number.
    Internal,
}

impl RemoteAs {
    /// Whether the AS number differs from the local one.
    pub fn is_external(self, local: Asn) -> bool {
        match self {
            Self::Asn(asn) => asn != local,
            Self::External => true,
            Self::Internal => false,
        }
    }
}

/// In FRR's syntax.
impl std::fmt::Display for RemoteAs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Asn(asn) => asn.fmt(f),
            Self::External => f.write_str("external"),
            Self::Internal => f.write_str("internal"),
        }
    }
}

/// A BGP address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BgpFamily {
    /// IPv4 unicast.
    Ipv4Unicast,
    /// IPv6 unicast.
    Ipv6Unicast,
    /// L2VPN EVPN (RFC 7432).
    Evpn,
}

/// A BGP session with the fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FabricNeighbor {
    /// The peer.
    pub peer: NeighborId,
    /// The peer's AS number.
    pub remote: RemoteAs,
    /// The peer's TCP port. `None`: 179.
    pub port: Option<u16>,
    /// TCP-MD5 password.
    pub password: Option<Password>,
    /// Keepalive and hold time in seconds. `None`: the environment's.
    pub timers: Option<(u32, u32)>,
    /// Connect retry time in seconds. `None`: the environment's.
    pub connect_s: Option<u32>,
    /// Maximum number of hops to an eBGP peer that is not directly connected.
    pub multihop: Option<u8>,
    /// BFD.
    pub bfd: Option<NeighborBfd>,
    /// The address families, and whether the peer is a route reflector client. Empty: those that the node uses.
    pub families: Vec<(BgpFamily, bool)>,
}

/// BFD with one peer (RFC 5880). `None`: FRR's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NeighborBfd {
    /// Required minimum receive interval in milliseconds.
    pub receive_ms: Option<u32>,
    /// Desired minimum transmit interval in milliseconds.
    pub transmit_ms: Option<u32>,
    /// Detection multiplier.
    pub multiplier: Option<u32>,
    /// Whether the node waits for the peer to start the session.
    pub passive: bool,
    /// Minimum TTL of received packets on multihop sessions.
    pub minimum_ttl: Option<u8>,
}

/// A BGP session between a VRF in FRR's namespace and the host, over a veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSession {
    /// Local AS number of the session.
    pub asn: Asn,
    /// The host's AS number.
    pub remote: RemoteAs,
    /// The addresses of both ends, FRR's and the host's: one pair per address family.
    pub ends: Vec<(IpNet, IpNet)>,
    /// BFD.
    pub bfd: Option<NeighborBfd>,
}

/// A VXLAN network identifier, 1–16777215 (RFC 7348 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// The number as a VNI, if it is in range.
    pub fn new(number: u32) -> Option<Self> {
        (1..1 << 24).contains(&number).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The name of one of its devices.
    pub fn device(self, which: VniDevice) -> IfName {
        #[allow(clippy::unwrap_used)] // At most 7 plus 8 characters of 15, all of them valid.
        IfName::parse(&format!("{}{self}", which.prefix())).unwrap()
    }

    /// The routing table of the VNI's VRF.
    pub fn table(self) -> u32 {
        FIRST_TABLE + self.0
    }

    /// The MAC address of its gateway, equal on every node: `00:F3` and the VNI plus one (OpenPERouter's rule).
    pub fn gateway_mac(self) -> MacAddr {
        let [a, b, c, d] = (self.0 + 1).to_be_bytes();
        #[allow(clippy::unwrap_used)] // The first octets are constant: neither a group address nor null.
        MacAddr::new([0x00, 0xf3, a, b, c, d]).unwrap()
    }
}

impl std::fmt::Display for Vni {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The VXLAN tunnel of a VNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// The VNI.
    pub vni: Vni,
    /// UDP port.
    pub port: u16,
    /// The local VTEP address.
    pub local: IpAddr,
}

/// A routing domain over EVPN (RFC 9136).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct L3Vni {
    /// Its name in the file.
    pub name: String,
    /// Its VRF.
    pub vrf: VrfName,
    /// Its tunnel.
    pub tunnel: Tunnel,
    /// The session with the host.
    pub session: Option<HostSession>,
    /// Export route targets. Empty: those that FRR derives.
    pub export: Vec<RouteTarget>,
    /// Import route targets. Empty: those that FRR derives.
    pub import: Vec<RouteTarget>,
}

/// A broadcast domain over EVPN (RFC 7432).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct L2Vni {
    /// Its name in the file.
    pub name: String,
    /// Its tunnel.
    pub tunnel: Tunnel,
    /// The VRF that routes for it.
    pub vrf: Option<VrfName>,
    /// The bridge of the workloads in the host namespace.
    pub master: Option<HostBridge>,
    /// The gateway's addresses, equal on every node.
    pub gateways: Vec<IpNet>,
}

/// A bridge in the host namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostBridge {
    /// Its name.
    pub name: IfName,
    /// Whether the program creates it.
    pub managed: bool,
}

/// A route target in FRR's syntax: `ASN:MN` or `A.B.C.D:MN` (RFC 4360, RFC 5668).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTarget(pub(super) String);

impl std::fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
