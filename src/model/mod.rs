//! What is wanted and what is there, as plain data: no I/O, no clock, no other room.

mod desired;
mod observed;
mod overlay;
mod raw;
mod values;

pub use desired::{Desired, LinkSpec, Part, ReturnPath, SpecKind, Sysctl};
pub use observed::{
    Address, BridgePort, FibRoute, KernelRoute, KernelRouteKind, KernelRule, KernelTable, Link, LinkKind,
    Links, Marks, Namespaces, NsState, Role, Route, RouteOwner, Rule, Side, Vxlan,
};
pub use overlay::{
    Family, HostBridge, HostSession, L2Vni, L3Vni, Neighbor, NeighborBfd, Overlay, PASSTHROUGH_HOST,
    PASSTHROUGH_ROUTER, Peer, Remote, RouteTarget, Tunnel, Underlay, UnderlayInterface, VTEP_DEVICE, Vni,
    VniDevice,
};
pub use raw::{LONGEST_LINE, RawLines, objection as raw_objection, places as raw_places};
pub use values::{
    Asn, FilePath, IfName, Invalid, MARTIANS, MacAddr, Mtu, NamespaceName, Password, PeerAddr, Ranged,
    RebuildToken, RouterId, TableId, Value, VrfName, address_with_length,
};

/// The address of the namespace that ICMPv6 errors come from, in the unique-local /48 of the default veth addresses: its last 32
/// bits are `NODE_IP`.
pub fn node_source(node_ip: RouterId) -> std::net::Ipv6Addr {
    let [a, b, c, d] = node_ip.get().octets();
    let [high, low] = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
    std::net::Ipv6Addr::new(0xfda1, 0xb2c3, 0xd4e5, 0, 0, 0, high, low)
}

/// The name under which everything of ours in the kernel is marked: link alias and nftables table.
pub const OWNER: &str = "frr-supervisor";

/// The link group that marks a link as ours, set in the same message that creates or moves it.
pub const OWNER_GROUP: u32 = 4242;

/// The routing protocol number of the routes and rules that we install ourselves.
/// 186–198 are FRR's (`linux/rtnetlink.h`), numbers above are free for administrators (`/etc/iproute2/rt_protos`).
pub const OWNER_PROTOCOL: u8 = 200;

/// Protocol number of routes that were learnt from a router advertisement (`RTPROT_RA`, `linux/rtnetlink.h`).
pub const ADVERTISED_PROTOCOL: u8 = 9;

/// The host namespace's end of the veth pair to MetalLB, where the speaker lives.
pub const VETH_HOST: &str = "metallb-frr";

/// FRR's end of the veth pair, in the VRF.
pub const VETH_FRR: &str = "frr-metallb";
