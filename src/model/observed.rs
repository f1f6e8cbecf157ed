//! The observed state of the kernel.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{MacAddr, OWNER, OWNER_GROUP, ReturnPath};

/// One of the two namespaces of the program. With `NETNS=host` both are the same namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The node's own namespace, with the speaker and the host ends of the veth pairs.
    Host,
    /// The namespace that FRR runs in.
    Router,
}

impl Side {
    /// Its name in the status and in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Router => "router",
        }
    }
}

/// The state of both namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// The host namespace.
    pub host: NsState,
    /// FRR's namespace, if it is a separate one.
    pub router: Option<NsState>,
}

impl Namespaces {
    /// The state of the namespace `side`.
    pub fn get(&self, side: Side) -> &NsState {
        match (side, &self.router) {
            (Side::Router, Some(router)) => router,
            _ => &self.host,
        }
    }

    /// The state of the namespace `side`, mutable.
    pub fn get_mut(&mut self, side: Side) -> &mut NsState {
        match (side, &mut self.router) {
            (Side::Router, Some(router)) => router,
            _ => &mut self.host,
        }
    }

    /// Each namespace once.
    pub fn sides(&self) -> &'static [Side] {
        if self.router.is_some() { &[Side::Host, Side::Router] } else { &[Side::Host] }
    }
}

/// The observed part of a namespace's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NsState {
    /// Every link.
    pub links: LinkMap,
    /// The default routes of the main table, and all routes with `OWNER_PROTOCOL`.
    pub routes: Vec<Route>,
    /// The rules with `OWNER_PROTOCOL`.
    pub rules: Vec<IpRule>,
    /// The queried sysctls. `None`: the kernel has no such file.
    pub sysctls: BTreeMap<String, Option<String>>,
    /// The program's nftables table.
    pub marks: Marks,
    /// Missing routes that the kernel creates with an address or a link.
    pub missing_kernel_routes: Vec<KernelRoute>,
    /// Missing rules that the kernel creates with a namespace or its first VRF.
    pub missing_kernel_rules: Vec<KernelRule>,
}

impl NsState {
    /// The link with that name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.get(name)
    }

    /// The link with that name, mutable.
    pub fn link_mut(&mut self, name: &str) -> Option<&mut Link> {
        self.links.by_name.get_mut(name)
    }
}

/// The links of a namespace by name.
#[derive(Debug, Clone, Default)]
pub struct LinkMap {
    by_name: BTreeMap<String, Link>,
    by_index: BTreeMap<u32, String>,
    /// The highest index that the map has ever contained.
    highest_index: u32,
}

impl LinkMap {
    /// The link with that name.
    pub fn get(&self, name: &str) -> Option<&Link> {
        self.by_name.get(name)
    }

    /// All links, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.by_name.values()
    }

    /// All links, mutable. Their names must not change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.by_name.values_mut()
    }

    /// Inserts a link. Replaces a link with the same name.
    pub fn insert(&mut self, link: Link) {
        self.highest_index = self.highest_index.max(link.index);
        self.by_index.insert(link.index, link.name.clone());
        self.by_name.insert(link.name.clone(), link);
    }

    /// Removes a link.
    pub fn remove(&mut self, name: &str) -> Option<Link> {
        let link = self.by_name.remove(name)?;
        self.by_index.remove(&link.index);
        Some(link)
    }

    /// The link with that index.
    pub fn by_index(&self, index: u32) -> Option<&Link> {
        self.by_name.get(self.by_index.get(&index)?)
    }

    /// The highest index that the map has ever contained.
    pub fn highest_index(&self) -> u32 {
        self.highest_index
    }
}

impl FromIterator<Link> for LinkMap {
    fn from_iter<I: IntoIterator<Item = Link>>(links: I) -> Self {
        let mut all = Self::default();
        links.into_iter().for_each(|link| all.insert(link));
        all
    }
}

impl PartialEq for LinkMap {
    /// Removed links do not matter.
    fn eq(&self, other: &Self) -> bool {
        self.by_name == other.by_name
    }
}

impl Eq for LinkMap {}

/// The content of the program's nftables table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Marks {
    /// The table does not exist.
    #[default]
    Absent,
    /// The content differs from the queried one.
    Other,
    /// Exactly the rules for this return path.
    Exactly(ReturnPath),
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index, unique in its namespace.
    pub index: u32,
    /// Its name. The kernel allows more characters than `IfName`.
    pub name: String,
    /// Its kind.
    pub kind: LinkKind,
    /// Its current MAC address.
    pub mac: Option<MacAddr>,
    /// Its permanent MAC address, which bonding does not change.
    pub permanent_mac: Option<MacAddr>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// Whether the kernel has processed that the link is up with a carrier (`IFF_RUNNING`).
    pub running: bool,
    /// Name of the bridge, bond or VRF that it is a port of.
    pub master: Option<String>,
    /// Name of its lower link, for example of a VLAN.
    pub parent: Option<String>,
    /// Whether IPv6 generates no link-local address for it (`IN6_ADDR_GEN_MODE_NONE`).
    pub addr_gen_none: bool,
    /// Its bridge port settings, if it is a bridge port.
    pub port: Option<BridgePort>,
    /// Whether the kernel reports that it cannot change its namespace (`IFLA_NETNS_IMMUTABLE`). See
    /// [`Link::is_immovable`].
    pub netns_immutable: bool,
    /// Its alias.
    pub alias: Option<String>,
    /// Its link group.
    pub group: u32,
    /// Its ownership before another program removed the mark.
    pub previous_ownership: Option<Ownership>,
    /// Its addresses, without the link-local address that the kernel generates.
    pub addresses: Vec<Address>,
    /// Whether it has an IPv6 link-local address.
    pub link_local: bool,
}

/// Bridge port settings that matter for VXLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgePort {
    /// Whether ARP and neighbor solicitations that can be answered locally are not forwarded to this port.
    pub neigh_suppress: bool,
    /// Whether the bridge learns MAC addresses from this port.
    pub learning: bool,
}

/// Settings of a VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// Its VNI.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// The local VTEP address.
    pub local: Option<IpAddr>,
    /// The index of its lower link. 0: none.
    pub dev: u32,
    /// Whether it learns remote MAC addresses from received packets.
    pub learning: bool,
}

/// The kind of a link, as far as the program distinguishes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// A NIC or `lo`: not a software device.
    Device,
    /// A VRF and its table.
    Vrf(u32),
    /// One end of a veth pair, and the index of the other end in that end's namespace.
    Veth(u32),
    /// A dummy.
    Dummy,
    /// A bridge.
    Bridge,
    /// A VXLAN device.
    Vxlan(Vxlan),
    /// A macvlan, and the index of its lower link in that link's namespace.
    Macvlan(u32),
    /// Another software device, with the kernel's name of the kind.
    Other(String),
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address with its prefix length.
    pub net: IpNet,
    /// Whether it is permanent: not from a router advertisement or a DHCP lease.
    pub permanent: bool,
}

/// The ownership of a managed link, as recorded in its alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ownership {
    /// The program created the link.
    Created,
    /// The program moved this NIC. Contains the addresses that it had in its original namespace.
    MovedNic(Vec<IpNet>),
}

const NIC_ALIAS: &str = "nic";

impl Ownership {
    /// The ownership that an alias records.
    pub fn from_alias(alias: &str) -> Option<Self> {
        let mut words = alias.split(' ');
        if words.next() != Some(OWNER) {
            return None;
        }
        Some(match words.next() {
            Some(NIC_ALIAS) => Self::MovedNic(words.filter_map(|w| w.parse().ok()).collect()),
            _ => Self::Created,
        })
    }

    /// The alias that records this ownership.
    pub fn alias(&self) -> String {
        let mut alias = OWNER.to_owned();
        if let Self::MovedNic(addresses) = self {
            alias.push(' ');
            alias.push_str(NIC_ALIAS);
            for net in addresses {
                alias.push_str(&format!(" {net}"));
            }
        }
        alias
    }
}

impl fmt::Display for LinkKind {
    /// The kernel's name of the kind. Empty for a NIC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "",
            Self::Vrf(_) => "vrf",
            Self::Veth(_) => "veth",
            Self::Dummy => "dummy",
            Self::Bridge => "bridge",
            Self::Vxlan(_) => "vxlan",
            Self::Macvlan(_) => "macvlan",
            Self::Other(kind) => kind,
        })
    }
}

impl Link {
    /// A link with default attributes: down, without MTU, addresses or marks.
    pub fn new(index: u32, name: &str, kind: LinkKind) -> Self {
        Self {
            index,
            name: name.into(),
            kind,
            mac: None,
            permanent_mac: None,
            mtu: 0,
            up: false,
            carrier: false,
            running: false,
            master: None,
            parent: None,
            addr_gen_none: false,
            port: None,
            netns_immutable: false,
            alias: None,
            group: 0,
            previous_ownership: None,
            addresses: vec![],
            link_local: false,
        }
    }

    /// Whether it cannot be moved into another namespace: by its kind (`netns_immutable` in the kernel's drivers), or
    /// by its own attribute.
    pub fn is_immovable(&self) -> bool {
        const KINDS: [&str; 6] = ["bond", "team", "openvswitch", "batadv", "hsr", "amt"];
        let of_kind = match &self.kind {
            LinkKind::Bridge | LinkKind::Vrf(_) => true,
            LinkKind::Other(kind) => KINDS.contains(&kind.as_str()),
            _ => false,
        };
        of_kind || self.netns_immutable
    }

    /// Whether the program creates links of this kind.
    pub fn is_creatable(&self) -> bool {
        !matches!(self.kind, LinkKind::Device | LinkKind::Other(_))
    }

    /// The ownership of the link. `None`: not managed, must not be changed. A created link is recognized by its group
    /// alone: the message that creates it sets the group, and the alias can only follow. A NIC gets its alias before
    /// the move, and keeps it until it is back in the host namespace with all its addresses.
    pub fn ownership(&self) -> Option<Ownership> {
        self.recorded_ownership().or_else(|| self.previous_ownership.clone())
    }

    /// Whether it has the complete mark of this ownership.
    pub fn has_mark(&self, role: &Ownership) -> bool {
        self.group == OWNER_GROUP && self.alias.as_ref() == Some(&role.alias())
    }

    /// The ownership that the link's mark records.
    fn recorded_ownership(&self) -> Option<Ownership> {
        // The alias of `lo` is the namespace's token. A loopback cannot be created, moved or removed.
        if self.name == "lo" {
            return None;
        }
        let Some(alias) = &self.alias else {
            return (self.is_creatable() && self.group == OWNER_GROUP).then_some(Ownership::Created);
        };
        Ownership::from_alias(alias).filter(|role| *role != Ownership::Created || self.is_creatable())
    }
}

/// The kernel's main table (`RT_TABLE_MAIN`, `linux/rtnetlink.h`).
pub const MAIN_TABLE: u32 = 254;

/// `0.0.0.0/0` or `::/0`.
pub fn default_net(v6: bool) -> IpNet {
    let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    // A prefix of length 0 exists in both families. The fallback, a host prefix, cannot fail.
    IpNet::new(any, 0).unwrap_or_else(|_| any.into())
}

/// A route with one next hop.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// Destination. `/0` is the default route.
    pub dst: IpNet,
    /// Routing table.
    pub table: u32,
    /// Next hop, of either family.
    pub via: Option<IpAddr>,
    /// Interface. Empty: none, an unreachable route.
    pub dev: String,
    /// Metric ("priority" in netlink).
    pub metric: u32,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// The program that installed it (`rtm_protocol`).
    pub protocol: u8,
}

/// The kind of a route that the kernel creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelRouteKind {
    /// To an address of this node.
    Local,
    /// To the subnet of an address.
    Connected,
    /// To all multicast groups of a link.
    Multicast,
}

/// A route that the kernel creates, with an address or an IPv6 link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelRoute {
    /// Its kind.
    pub kind: KernelRouteKind,
    /// Destination.
    pub dst: IpNet,
    /// Routing table.
    pub table: u32,
    /// Interface.
    pub dev: String,
    /// Preferred source address.
    pub src: Option<IpAddr>,
}

/// A kernel route that zebra installed for another daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FibRoute {
    /// Routing table.
    pub table: u32,
    /// Destination.
    pub prefix: IpNet,
    /// The daemon that owns the route.
    pub owner: RouteOwner,
}

/// The daemon for which zebra installed a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteOwner {
    /// bgpd.
    Bgpd,
    /// staticd.
    Staticd,
}

impl fmt::Display for FibRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (table {})", self.prefix, self.table)
    }
}

/// A rule that the kernel creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelRule {
    /// IPv6, else IPv4.
    pub v6: bool,
    /// The table of the rule.
    pub to: KernelTable,
}

/// The table of a rule that the kernel creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelTable {
    /// The local table, with the node's own addresses.
    Local,
    /// The table of the packet's VRF.
    Vrf,
    /// The main table.
    Main,
    /// The default table. Only IPv4 has it.
    Default,
}

/// A policy routing rule (`ip rule`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IpRule {
    /// IPv6, else IPv4.
    pub v6: bool,
    /// Priority of the rule.
    pub priority: u32,
    /// Mark and mask of the matching packets.
    pub mark: (u32, u32),
    /// The table of the lookup.
    pub table: u32,
}
