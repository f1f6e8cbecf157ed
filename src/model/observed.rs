//! What the kernel has, as read from it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{MacAddr, OWNER, OWNER_GROUP, ReturnPath};

/// One of the two namespaces that we work in. With `NETNS=host` both are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The node's own namespace, where the speaker and the pods' host ends are.
    Host,
    /// The namespace that FRR runs in.
    Router,
}

/// The state of both namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// The host namespace.
    pub host: NsState,
    /// The router's namespace, if it is another one.
    pub router: Option<NsState>,
}

impl Namespaces {
    /// The state on `side`.
    pub fn get(&self, side: Side) -> &NsState {
        match (side, &self.router) {
            (Side::Router, Some(router)) => router,
            _ => &self.host,
        }
    }

    /// The state on `side`, to be changed.
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

/// The state of one namespace, as far as we look at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NsState {
    /// Every link.
    pub links: Links,
    /// The default routes of the main table, and all routes that carry our protocol number.
    pub routes: Vec<Route>,
    /// The rules that carry our protocol number.
    pub rules: Vec<Rule>,
    /// The sysctls that were asked for; `None` where the kernel has no such file.
    pub sysctls: BTreeMap<String, Option<String>>,
    /// Our nftables table.
    pub marks: Marks,
    /// Routes that the kernel makes with an address or a link and that are not there any more.
    pub lost_routes: Vec<KernelRoute>,
    /// Rules that the kernel makes with a namespace or its first VRF and that are not there any more.
    pub lost_rules: Vec<KernelRule>,
}

impl NsState {
    /// The link of that name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.get(name)
    }

    /// The link of that name, to be changed.
    pub fn link_mut(&mut self, name: &str) -> Option<&mut Link> {
        self.links.by_name.get_mut(name)
    }
}

/// The links of a namespace, each under its name.
#[derive(Debug, Clone, Default)]
pub struct Links {
    by_name: BTreeMap<String, Link>,
    by_index: BTreeMap<u32, String>,
    /// The highest index that was ever in here.
    top: u32,
}

impl Links {
    /// The link of that name.
    pub fn get(&self, name: &str) -> Option<&Link> {
        self.by_name.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.by_name.values()
    }

    /// All of them, to be changed, but for their names.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.by_name.values_mut()
    }

    /// Puts a link in, in the place of one of its name.
    pub fn push(&mut self, link: Link) {
        self.top = self.top.max(link.index);
        self.by_index.insert(link.index, link.name.clone());
        self.by_name.insert(link.name.clone(), link);
    }

    /// Takes a link out.
    pub fn remove(&mut self, name: &str) -> Option<Link> {
        let link = self.by_name.remove(name)?;
        self.by_index.remove(&link.index);
        Some(link)
    }

    /// The link with that index.
    pub fn at(&self, index: u32) -> Option<&Link> {
        self.by_name.get(self.by_index.get(&index)?)
    }

    /// No index in here is higher.
    pub fn top(&self) -> u32 {
        self.top
    }
}

impl FromIterator<Link> for Links {
    fn from_iter<I: IntoIterator<Item = Link>>(links: I) -> Self {
        let mut all = Self::default();
        links.into_iter().for_each(|link| all.push(link));
        all
    }
}

impl PartialEq for Links {
    /// What has been in here does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.by_name == other.by_name
    }
}

impl Eq for Links {}

/// What is in our nftables table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Marks {
    /// There is no such table.
    #[default]
    Absent,
    /// Something else than what was asked about.
    Other,
    /// Exactly the rules for this.
    Exactly(ReturnPath),
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it, unique in its namespace.
    pub index: u32,
    /// Its name; the kernel allows more in it than we do in ours.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// Its present address.
    pub mac: Option<MacAddr>,
    /// The address that it was made with, which bonding does not change.
    pub permanent_mac: Option<MacAddr>,
    /// In bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Whether something is heard at its other end.
    pub carrier: bool,
    /// Whether the kernel has taken in that it is up with a carrier, and done what follows (`IFF_RUNNING`).
    pub running: bool,
    /// Name of the bridge, bond or VRF that it is a port of.
    pub master: Option<String>,
    /// Name of the link that it stands on, as a VLAN does.
    pub parent: Option<String>,
    /// Whether IPv6 gives it no link-local address by itself (`IN6_ADDR_GEN_MODE_NONE`).
    pub addr_gen_none: bool,
    /// How it is a port of a bridge, if it is one.
    pub port: Option<BridgePort>,
    /// Whether the kernel says that it can't be moved into another namespace; see [`Link::is_immovable`].
    pub stays: bool,
    /// Free text on the link.
    pub alias: Option<String>,
    /// Link group.
    pub group: u32,
    /// What it was to us before somebody took our mark off.
    pub lost: Option<Role>,
    /// Its addresses, but for the link-local one that the kernel gives it by itself.
    pub addresses: Vec<Address>,
    /// Whether it has an IPv6 link-local address.
    pub link_local: bool,
}

/// What a bridge does with a port, as far as it matters for a VXLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgePort {
    /// ARP and neighbour solicitations that can be answered here are not sent out by it.
    pub neigh_suppress: bool,
    /// MAC addresses are learnt from what comes in by it.
    pub learning: bool,
}

/// A VXLAN device's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// Its identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// The address that it sends from.
    pub local: Option<IpAddr>,
    /// The index of the link that it is bound to; 0: none.
    pub dev: u32,
    /// Whether it learns remote MAC addresses from what comes in.
    pub learning: bool,
}

/// What sort of link it is, as far as we tell them apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// A NIC, or `lo`: no software device.
    Device,
    /// A VRF and its table.
    Vrf(u32),
    /// One end of a pair, and the index of the other in its namespace.
    Veth(u32),
    /// A dummy.
    Dummy,
    /// A bridge.
    Bridge,
    /// A VXLAN.
    Vxlan(Vxlan),
    /// A macvlan, and the index of the link that it stands on in that link's namespace.
    Macvlan(u32),
    /// Any other software device, by the kernel's word for it.
    Other(String),
}

/// An address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address with its prefix length.
    pub net: IpNet,
    /// Set by hand, not learnt from a router or a lease.
    pub permanent: bool,
}

/// What a link of ours is to us, as its alias says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// We made it.
    Made,
    /// A NIC that we moved, with the addresses that it had at home.
    Nic(Vec<IpNet>),
}

const NIC_ALIAS: &str = "nic";

impl Role {
    /// What an alias says.
    pub fn of(alias: &str) -> Option<Self> {
        let mut words = alias.split(' ');
        if words.next() != Some(OWNER) {
            return None;
        }
        Some(match words.next() {
            Some(NIC_ALIAS) => Self::Nic(words.filter_map(|w| w.parse().ok()).collect()),
            _ => Self::Made,
        })
    }

    /// The alias that records this role.
    pub fn alias(&self) -> String {
        let mut alias = OWNER.to_owned();
        if let Self::Nic(addresses) = self {
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
    /// The kernel's word for it; nothing for a NIC.
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
    /// A link of which nothing more is known: down, without MTU, addresses or marks.
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
            stays: false,
            alias: None,
            group: 0,
            lost: None,
            addresses: vec![],
            link_local: false,
        }
    }

    /// Whether it can't be moved into another namespace: those kinds that the kernel has so (`netns_immutable` in its drivers), or
    /// what it says of itself.
    pub fn is_immovable(&self) -> bool {
        const KINDS: [&str; 6] = ["bond", "team", "openvswitch", "batadv", "hsr", "amt"];
        let of_kind = match &self.kind {
            LinkKind::Bridge | LinkKind::Vrf(_) => true,
            LinkKind::Other(kind) => KINDS.contains(&kind.as_str()),
            _ => false,
        };
        of_kind || self.stays
    }

    /// Whether it is of a kind that we make.
    pub fn is_makeable(&self) -> bool {
        !matches!(self.kind, LinkKind::Device | LinkKind::Other(_))
    }

    /// What the link is to us; `None`: not ours, hands off. On what we make the group alone says so, because it
    /// is set in the message that creates a link and the alias can only follow. A NIC has its alias first, and
    /// keeps it until it is home again with all its addresses.
    pub fn role(&self) -> Option<Role> {
        self.marked().or_else(|| self.lost.clone())
    }

    /// Whether it carries the whole mark of this role.
    pub fn has_mark(&self, role: &Role) -> bool {
        self.group == OWNER_GROUP && self.alias.as_ref() == Some(&role.alias())
    }

    /// What its mark says.
    fn marked(&self) -> Option<Role> {
        // Its alias is the namespace's token; a loopback can't be made, moved or removed.
        if self.name == "lo" {
            return None;
        }
        let Some(alias) = &self.alias else {
            return (self.is_makeable() && self.group == OWNER_GROUP).then_some(Role::Made);
        };
        Role::of(alias).filter(|role| *role != Role::Made || self.is_makeable())
    }
}

/// A route, one next hop.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// Destination; `/0` is the default route.
    pub dst: IpNet,
    /// Routing table.
    pub table: u32,
    /// Next hop, of either family.
    pub via: Option<IpAddr>,
    /// Interface; empty: none, the destination is unreachable.
    pub dev: String,
    /// Metric ("priority" in netlink).
    pub metric: u32,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// Who installed it (`rtm_protocol`).
    pub protocol: u8,
}

/// What sort of route the kernel makes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelRouteKind {
    /// To an address of this node.
    Local,
    /// To the subnet of an address.
    Connected,
    /// To all multicast groups of a link.
    Multicast,
}

/// A route that the kernel makes by itself, with an address or an IPv6 link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelRoute {
    /// Its sort.
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

/// A route in the kernel that zebra has put there for another daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FibRoute {
    /// Routing table.
    pub table: u32,
    /// Destination.
    pub prefix: IpNet,
    /// For whom.
    pub owner: RouteOwner,
}

/// The daemon that a route of zebra's is of.
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

/// A rule that the kernel makes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelRule {
    /// IPv6, else IPv4.
    pub v6: bool,
    /// Where it leads.
    pub to: KernelTable,
}

/// Where rules of the kernel lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelTable {
    /// To this node's own addresses.
    Local,
    /// To the table of the VRF that a packet is in.
    Vrf,
    /// To the main table.
    Main,
    /// To the default table, which nothing but IPv4 has.
    Default,
}

/// A policy rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// IPv6, else IPv4.
    pub v6: bool,
    /// Position among the rules.
    pub priority: u32,
    /// Packets with this mark under this mask.
    pub mark: (u32, u32),
    /// The table to look in.
    pub table: u32,
}
