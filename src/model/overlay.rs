//! What the configuration file adds to the environment: an underlay that is a VTEP, and the VNIs on it. Every value is
//! the node's own, computed already.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Asn, IfName, MacAddr, Password, RawLines, RouterId, Value as _, VrfName};

/// The dummy that carries the VTEP's addresses.
pub const VTEP_DEVICE: &str = "lound";

/// The host namespace's end of the pass-through pair.
pub const PASSTHROUGH_HOST: &str = "pt-host";

/// FRR's end of it, in the default VRF.
pub const PASSTHROUGH_ROUTER: &str = "pt-ns";

/// A device of a VNI: what stands before its number in the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VniDevice {
    /// The bridge in FRR's namespace.
    Bridge,
    /// The VXLAN.
    Vxlan,
    /// FRR's end of the pair with the host.
    RouterEnd,
    /// The host's end.
    HostEnd,
    /// The bridge in the host namespace, where it is ours.
    HostBridge,
}

impl VniDevice {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Bridge, Self::Vxlan, Self::RouterEnd, Self::HostEnd, Self::HostBridge];

    /// What stands before the number.
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

/// Where the tables of VNIs' VRFs begin: far from what people, CNIs and systemd-networkd number by hand.
const FIRST_TABLE: u32 = 10_000_000;

/// The file's contents, each part valid by itself and together with the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlay {
    /// What the VNIs stand on.
    pub underlay: Underlay,
    /// Routing domains.
    pub l3vnis: Vec<L3Vni>,
    /// Broadcast domains.
    pub l2vnis: Vec<L2Vni>,
    /// The host's session with the fabric's own VRF.
    pub passthrough: Option<HostSession>,
    /// Raw lines for frr.conf, by priority.
    pub raw: Vec<RawLines>,
    /// Parts that were left out because something is wrong with them: what the kernel has of them stays.
    pub incomplete: bool,
}

/// The fabric's side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Underlay {
    /// The VTEP's IPv4 address.
    pub vtep4: Option<Ipv4Addr>,
    /// The VTEP's IPv6 address.
    pub vtep6: Option<Ipv6Addr>,
    /// The BGP identifier, if it is not `NODE_IP`.
    pub router_id: Option<RouterId>,
    /// Peers beside those on the ports of `FE_MACS`.
    pub neighbors: Vec<Neighbor>,
    /// Links beside the ports of `FE_MACS`.
    pub interfaces: Vec<UnderlayInterface>,
    /// The node reflects routes, under this cluster-id (RFC 4456).
    pub cluster_id: Option<Ipv4Addr>,
    /// Graceful restart: restart time and stale-path time in seconds, if not those of the environment.
    pub graceful_restart: Option<(Option<u32>, Option<u32>)>,
}

impl Overlay {
    /// Whether this node is the gateway of some workloads.
    pub fn has_gateways(&self) -> bool {
        self.l2vnis.iter().any(|vni| !vni.gateways.is_empty())
    }
}

impl Underlay {
    /// The VTEP's addresses.
    pub fn vteps(&self) -> impl Iterator<Item = IpAddr> {
        self.vtep4.map(IpAddr::from).into_iter().chain(self.vtep6.map(IpAddr::from))
    }

    /// Whether VNIs may end here.
    pub fn is_vtep(&self) -> bool {
        self.vteps().next().is_some()
    }
}

/// A link to the fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnderlayInterface {
    /// A NIC, or a VLAN on one, that is moved into the namespace.
    Device(IfName),
    /// A macvlan of ours on a NIC that stays with the host.
    Macvlan {
        /// Its name in the namespace.
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

/// Who a BGP session is with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// One address.
    Address(IpAddr),
    /// Whoever is on this interface (unnumbered).
    Interface(IfName),
    /// Whoever dials from this subnet.
    Range(IpNet),
}

/// The peer's AS number, or what it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// This one.
    Asn(Asn),
    /// Any but ours.
    External,
    /// Ours.
    Internal,
}

impl Remote {
    /// Whether it is another than ours.
    pub fn is_external(self, ours: Asn) -> bool {
        match self {
            Self::Asn(asn) => asn != ours,
            Self::External => true,
            Self::Internal => false,
        }
    }
}

/// As FRR takes it.
impl std::fmt::Display for Remote {
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
pub enum Family {
    /// IPv4 unicast.
    Ipv4Unicast,
    /// IPv6 unicast.
    Ipv6Unicast,
    /// L2VPN EVPN (RFC 7432).
    Evpn,
}

/// A BGP session with the fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbor {
    /// With whom.
    pub peer: Peer,
    /// Its AS number.
    pub remote: Remote,
    /// Its TCP port, if not 179.
    pub port: Option<u16>,
    /// TCP-MD5 password.
    pub password: Option<Password>,
    /// Keepalive and hold time in seconds, if not those of the environment.
    pub timers: Option<(u32, u32)>,
    /// Connect retry time in seconds, if not that of the environment.
    pub connect_s: Option<u32>,
    /// Hops that packets may take, for an eBGP peer that is not next door.
    pub multihop: Option<u8>,
    /// BFD.
    pub bfd: Option<NeighborBfd>,
    /// What is exchanged, and whether the peer is a client of the reflector for it. Empty: what the node has use for.
    pub families: Vec<(Family, bool)>,
}

/// BFD with one neighbor (RFC 5880); what is `None` is FRR's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NeighborBfd {
    /// Required minimum receive interval in milliseconds.
    pub receive_ms: Option<u32>,
    /// Desired minimum transmit interval in milliseconds.
    pub transmit_ms: Option<u32>,
    /// Detection multiplier.
    pub multiplier: Option<u32>,
    /// Waits for the peer to begin.
    pub passive: bool,
    /// Least TTL of received packets, on multihop sessions.
    pub minimum_ttl: Option<u8>,
}

/// A session between a VRF of the router and the host, over a veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSession {
    /// Our AS number there.
    pub asn: Asn,
    /// The host's.
    pub remote: Remote,
    /// Both ends: the router's and the host's, one pair for each family.
    pub ends: Vec<(IpNet, IpNet)>,
    /// BFD.
    pub bfd: Option<NeighborBfd>,
}

/// A VXLAN network identifier, 1–16777215 (RFC 7348 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// The number as an identifier, if it is one.
    pub fn new(number: u32) -> Option<Self> {
        (1..1 << 24).contains(&number).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The name of one of its devices.
    pub fn device(self, which: VniDevice) -> IfName {
        #[allow(clippy::unwrap_used)] // At most 7 and 8 characters of 15, none of them special.
        IfName::parse(&format!("{}{self}", which.prefix())).unwrap()
    }

    /// The routing table of the VRF that has this VNI.
    pub fn table(self) -> u32 {
        FIRST_TABLE + self.0
    }

    /// The MAC address of its gateway, the same on every node: `00:F3` and the VNI plus one (OpenPERouter's rule).
    pub fn gateway_mac(self) -> MacAddr {
        let [a, b, c, d] = (self.0 + 1).to_be_bytes();
        #[allow(clippy::unwrap_used)] // Neither a group address nor null: the first octets are constants.
        MacAddr::new([0x00, 0xf3, a, b, c, d]).unwrap()
    }
}

impl std::fmt::Display for Vni {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// How a VNI is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// Its number.
    pub vni: Vni,
    /// UDP port.
    pub port: u16,
    /// The VTEP address that it uses.
    pub local: IpAddr,
}

/// A routing domain over EVPN (RFC 9136).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct L3Vni {
    /// What the file calls it.
    pub name: String,
    /// Its VRF.
    pub vrf: VrfName,
    /// How it is carried.
    pub tunnel: Tunnel,
    /// The session with the host.
    pub session: Option<HostSession>,
    /// Route targets to announce with; empty: FRR's own.
    pub export: Vec<RouteTarget>,
    /// Route targets to take in; empty: FRR's own.
    pub import: Vec<RouteTarget>,
}

/// A broadcast domain over EVPN (RFC 7432).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct L2Vni {
    /// What the file calls it.
    pub name: String,
    /// How it is carried.
    pub tunnel: Tunnel,
    /// The VRF that routes for it.
    pub vrf: Option<VrfName>,
    /// The bridge in the host namespace that the workloads are on.
    pub master: Option<HostBridge>,
    /// The gateway's addresses, the same on every node.
    pub gateways: Vec<IpNet>,
}

/// A bridge in the host namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostBridge {
    /// Its name.
    pub name: IfName,
    /// Whether we make it.
    pub managed: bool,
}

/// A route target as text that FRR takes: `ASN:MN` or `A.B.C.D:MN` (RFC 4360, RFC 5668).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTarget(pub(super) String);

impl std::fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
