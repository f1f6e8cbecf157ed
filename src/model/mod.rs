//! Validated values, and the desired and the observed kernel state as plain data. No I/O, no clock, no other room.

mod desired;
mod observed;
mod overlay;
mod raw;
mod values;

pub use desired::{Component, Desired, LinkSpec, ReturnPath, SpecKind, Sysctl};
pub use observed::{
    Address, BridgePort, FibRoute, IpRule, KernelRoute, KernelRouteKind, KernelRule, KernelTable, Link,
    LinkKind, LinkMap, MAIN_TABLE, Marks, Namespaces, NsState, Ownership, Route, RouteOwner, Side, Vxlan,
    default_net,
};
pub use overlay::{
    BgpFamily, FabricNeighbor, HostBridge, HostSession, L2Vni, L3Vni, NeighborBfd, NeighborId, Overlay,
    PASSTHROUGH_HOST, PASSTHROUGH_ROUTER, RemoteAs, RouteTarget, Tunnel, Underlay, UnderlayInterface,
    VTEP_DEVICE, Vni, VniDevice,
};
pub use raw::{FRR_LINE_MAX, RawLines, raw_line_ranges, raw_lines_error};
pub use values::{
    Asn, FilePath, IfName, Invalid, MARTIANS, MacAddr, Mtu, NamespaceName, Password, PeerAddr, Ranged,
    RebuildToken, RouterId, TableId, Value, VrfName, address_with_length,
};

/// The source address of ICMPv6 errors in FRR's namespace. It is in the unique-local /48 of the default veth addresses,
/// and its last 32 bits are `NODE_IP`.
pub fn icmpv6_source(node_ip: RouterId) -> std::net::Ipv6Addr {
    let [a, b, c, d] = node_ip.get().octets();
    let [high, low] = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
    std::net::Ipv6Addr::new(0xfda1, 0xb2c3, 0xd4e5, 0, 0, 0, high, low)
}

/// The owner name of all managed kernel objects: link alias and nftables table.
pub const OWNER: &str = "frr-supervisor";

/// The link group of managed links. The message that creates or moves a link sets it.
pub const OWNER_GROUP: u32 = 4242;

/// The routing protocol number of managed routes and rules. 186–198 belong to FRR (`linux/rtnetlink.h`); higher numbers
/// are free for administrators (`/etc/iproute2/rt_protos`).
pub const OWNER_PROTOCOL: u8 = 200;

/// Protocol number of routes from router advertisements (`RTPROT_RA`, `linux/rtnetlink.h`).
pub const RA_PROTOCOL: u8 = 9;

/// The host end of the veth pair to MetalLB, in the namespace of the speaker.
pub const VETH_HOST: &str = "metallb-frr";

/// FRR's end of the veth pair, in the VRF.
pub const VETH_FRR: &str = "frr-metallb";
