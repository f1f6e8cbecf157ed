//! One change to the kernel, as data.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{
    Address, BridgePort, IfName, KernelRoute, KernelRouteKind, KernelRule, KernelTable, Link, LinkKind,
    LinkSpec, MacAddr, Marks, Namespaces, NsState, OWNER_GROUP, ReturnPath, Role, Route, Rule, Side,
    SpecKind, Sysctl, Tunnel, Vxlan,
};

/// One change. `Display` is the line that the log shows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are those of the iproute2 command that each variant stands for.
pub enum Op {
    /// Makes a link, marked, with its MAC address if that matters, and a port of its master. A veth pair is made by one
    /// of its ends; both are marked.
    Create { side: Side, name: IfName, kind: SpecKind, mac: Option<MacAddr>, master: Option<IfName> },
    /// Removes a link of ours.
    Delete { side: Side, name: String },
    /// Moves a NIC and, in the same message, sets the link group that marks it (or takes it away at home).
    Move { from: Side, to: Side, name: String },
    /// Sets something of a link.
    Set { side: Side, name: String, what: Setting },
    /// Takes our mark off a link, alias and group.
    Unmark { side: Side, name: String },
    /// Adds an address.
    AddAddress { side: Side, name: String, net: IpNet },
    /// Removes an address from a link of ours.
    DelAddress { side: Side, name: IfName, net: IpNet },
    /// Writes a kernel parameter.
    SetSysctl(Sysctl),
    /// Adds a route of ours.
    AddRoute { side: Side, route: Route },
    /// Removes a route of ours.
    DelRoute { side: Side, route: Route },
    /// Adds a route that the kernel had made.
    AddKernelRoute { side: Side, route: KernelRoute },
    /// Adds a rule that the kernel had made.
    AddKernelRule { side: Side, rule: KernelRule },
    /// Adds a rule of ours.
    AddRule { side: Side, rule: Rule },
    /// Removes a rule of ours.
    DelRule { side: Side, rule: Rule },
    /// Builds our nftables table anew in the host namespace.
    SetMarks(ReturnPath),
    /// Removes it.
    DropMarks,
}

/// What can be set of a link. Several go in one message (see `message::joined`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // As above.
pub enum Setting {
    /// The alias that says what the link is to us, and our group unless it is about to be moved.
    Mark { role: Role, group: bool },
    /// The MTU in bytes.
    Mtu(u32),
    /// The link that it is a port of, if of any.
    Master(Option<IfName>),
    /// The MAC address.
    Mac(MacAddr),
    /// IPv6 gives it no address by itself.
    AddrGenNone,
    /// A port of a bridge that FRR fills: nothing is learnt there, and known neighbours are not asked for.
    Port,
    /// A VXLAN's local address, where that is not as it should be; it learns nothing and stands on `lo`.
    Vxlan { local: Option<IpAddr> },
    /// Up.
    Up,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Router => "router",
        })
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { side, name, kind, mac, master } => {
                write!(f, "{side}: create {}", kind.words(name))?;
                if let Some(mac) = mac {
                    write!(f, ", address {mac}")?;
                }
                master.iter().try_for_each(|master| write!(f, ", port of {master}"))
            }
            Self::Delete { side, name } => write!(f, "{side}: delete {name}"),
            Self::Move { from, to, name } => write!(f, "{from}: move {name} to {to}"),
            Self::Set { side, name, what } => write!(f, "{side}: {}", what.words(name)),
            Self::Unmark { side, name } => write!(f, "{side}: take our mark off {name}"),
            Self::AddAddress { side, name, net } => write!(f, "{side}: add address {net} to {name}"),
            Self::DelAddress { side, name, net } => write!(f, "{side}: remove address {net} from {name}"),
            Self::SetSysctl(s) => write!(f, "{}: set sysctl {} = {}", s.side, s.path, s.value),
            Self::AddRoute { side, route } => write!(f, "{side}: add route {route}"),
            Self::DelRoute { side, route } => write!(f, "{side}: remove route {route}"),
            Self::AddKernelRoute { side, route } => write!(f, "{side}: add the kernel's route {route}"),
            Self::AddKernelRule { side, rule } => write!(f, "{side}: add the kernel's rule {rule}"),
            Self::AddRule { side, rule } => write!(f, "{side}: add rule {rule}"),
            Self::DelRule { side, rule } => write!(f, "{side}: remove rule {rule}"),
            Self::SetMarks(path) => {
                write!(f, "host: mark connections that come in over {} with {:#x}", path.dev, path.mark)
            }
            Self::DropMarks => f.write_str("host: remove connection marks"),
        }
    }
}

impl Setting {
    /// What is done to a link of that name, as the log calls it.
    fn words(&self, name: &str) -> String {
        match self {
            Self::Mark { role, .. } => format!("mark {name} \"{}\"", role.alias()),
            Self::Mtu(mtu) => format!("set {name} mtu {mtu}"),
            Self::Master(Some(master)) => format!("set {name} master {master}"),
            Self::Master(None) => format!("set {name} nomaster"),
            Self::Mac(mac) => format!("set {name} address {mac}"),
            Self::AddrGenNone => format!("set {name} addrgenmode none"),
            Self::Port => format!("set port {name} neigh_suppress on learning off"),
            Self::Vxlan { local: Some(local) } => format!("set VXLAN {name} local {local} nolearning dev lo"),
            Self::Vxlan { local: None } => format!("set VXLAN {name} nolearning dev lo"),
            Self::Up => format!("set {name} up"),
        }
    }

    /// What the link will be then.
    fn foresee(&self, link: &mut Link) {
        match self {
            Self::Mark { role, group } => {
                link.alias = Some(role.alias());
                if *group {
                    link.group = OWNER_GROUP;
                }
                link.lost = None;
            }
            Self::Mtu(mtu) => link.mtu = *mtu,
            Self::Master(master) => {
                link.master = master.as_ref().map(ToString::to_string);
                link.port = None;
            }
            Self::Mac(mac) => link.mac = Some(*mac),
            Self::AddrGenNone => link.addr_gen_none = true,
            Self::Port => link.port = Some(FABRIC_PORT),
            Self::Vxlan { local } => {
                if let LinkKind::Vxlan(vxlan) = &mut link.kind {
                    vxlan.local = local.or(vxlan.local);
                    vxlan.learning = false;
                    vxlan.dev = LOOPBACK;
                }
            }
            Self::Up => link.up = true,
        }
    }
}

impl SpecKind {
    /// A link of that name, as the log calls it.
    fn words(&self, name: &IfName) -> String {
        match self {
            Self::Foreign => format!("{name}"),
            Self::Nic(_) => format!("NIC {name}"),
            Self::Vrf(table) => format!("VRF {name}, table {table}"),
            Self::Veth(side, peer) => format!("veth {name}, peer {peer} ({side})"),
            Self::Dummy => format!("dummy {name}"),
            Self::Bridge => format!("bridge {name}"),
            Self::Vxlan(t) => format!("VXLAN {name}, id {} local {} port {}", t.vni, t.local, t.port),
            Self::Macvlan(parent) => format!("macvlan {name} on {parent} (host)"),
        }
    }
}

impl fmt::Display for LinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind.words(&self.name))?;
        if let Some(master) = &self.master {
            write!(f, ", port of {master}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, ", mtu {mtu}")?;
        }
        if let Some(mac) = self.mac {
            write!(f, ", address {mac}")?;
        }
        self.addresses.iter().try_for_each(|net| write!(f, ", {net}"))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dst)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        match &self.dev[..] {
            "" => f.write_str(" unreachable")?,
            dev => write!(f, " dev {dev}")?,
        }
        write!(f, " table {} metric {}", self.table, self.metric)?;
        if let Some(src) = self.src {
            write!(f, " src {src}")?;
        }
        Ok(())
    }
}

impl fmt::Display for KernelRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            KernelRouteKind::Local => "local ",
            KernelRouteKind::Connected => "",
            KernelRouteKind::Multicast => "multicast ",
        };
        write!(f, "{kind}{} dev {} table {}", self.dst, self.dev, self.table)
    }
}

impl fmt::Display for KernelRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (priority, to) = match self.to {
            KernelTable::Local => (0, "local"),
            KernelTable::Vrf => (1000, "[l3mdev-table]"),
            KernelTable::Main => (32766, "main"),
            KernelTable::Default => (32767, "default"),
        };
        write!(f, "{priority}: {} lookup {to}", if self.v6 { "IPv6" } else { "IPv4" })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.priority, if self.v6 { "IPv6" } else { "IPv4" })?;
        write!(f, " fwmark {:#x}/{:#x} lookup {}", self.mark.0, self.mark.1, self.table)
    }
}

impl Op {
    /// The link that is made or changed, where it is before.
    pub fn link(&self) -> Option<(Side, &str)> {
        Some(match self {
            Self::Create { side, name, .. } | Self::DelAddress { side, name, .. } => (*side, name.as_str()),
            Self::Delete { side, name }
            | Self::Set { side, name, .. }
            | Self::AddAddress { side, name, .. }
            | Self::Unmark { side, name } => (*side, name),
            Self::Move { from, name, .. } => (*from, name),
            Self::SetSysctl(sysctl) => (sysctl.side, sysctl.link()?),
            Self::AddKernelRoute { side, route } => (*side, &route.dev),
            Self::AddRoute { side, route } | Self::DelRoute { side, route } if !route.dev.is_empty() => {
                (*side, &route.dev)
            }
            _ => return None,
        })
    }

    /// What the kernel will have once this is done: the planner's picture of its own progress.
    pub(super) fn foresee(&self, ns: &mut Namespaces) {
        match self {
            Self::Create { side, name, kind, mac, master } => {
                let index = new_index(ns);
                let lower = |parent: &IfName| ns.host.link(parent.as_str()).map_or(0, |l| l.index);
                let lower = if let SpecKind::Macvlan(parent) = kind { lower(parent) } else { 0 };
                let mut made = |side, name: &IfName, index, kind| {
                    let link =
                        Link { mtu: 1500, group: OWNER_GROUP, ..Link::new(index, name.as_str(), kind) };
                    let state = ns.get_mut(side);
                    state.links.push(link);
                    inherit_sysctls(state, name.as_str());
                };
                match kind {
                    SpecKind::Foreign | SpecKind::Nic(_) => {}
                    SpecKind::Vrf(table) => made(*side, name, index, LinkKind::Vrf(*table)),
                    SpecKind::Veth(peer_side, peer) => {
                        made(*side, name, index, LinkKind::Veth(index + 1));
                        made(*peer_side, peer, index + 1, LinkKind::Veth(index));
                    }
                    SpecKind::Dummy => made(*side, name, index, LinkKind::Dummy),
                    SpecKind::Bridge => made(*side, name, index, LinkKind::Bridge),
                    SpecKind::Vxlan(tunnel) => made(*side, name, index, LinkKind::Vxlan(vxlan(tunnel))),
                    SpecKind::Macvlan(_) => made(*side, name, index, LinkKind::Macvlan(lower)),
                }
                on(ns, *side, name.as_str(), |link| {
                    link.mac = mac.or(link.mac);
                    link.master = master.as_ref().map(ToString::to_string);
                });
            }
            Self::Delete { side, name } => deleted(ns, *side, name),
            Self::Move { from, to, name } => {
                let source = ns.get_mut(*from);
                if let Some(mut link) = source.links.remove(name) {
                    source.routes.retain(|r| &r.dev != name);
                    forget_sysctls(source, name);
                    link.up = false;
                    link.master = None;
                    link.addresses.clear();
                    link.group = if *to == Side::Router { OWNER_GROUP } else { 0 };
                    let state = ns.get_mut(*to);
                    state.links.push(link);
                    inherit_sysctls(state, name);
                }
            }
            Self::Set { side, name, what } => on(ns, *side, name, |link| what.foresee(link)),
            Self::Unmark { side, name } => on(ns, *side, name, |link| {
                link.alias = None;
                link.group = 0;
                link.lost = None;
            }),
            Self::AddAddress { side, name, net } => on(ns, *side, name, |link| {
                link.link_local |= is_link_local(*net);
                link.addresses.push(Address { net: *net, permanent: true });
            }),
            Self::DelAddress { side, name, net } => on(ns, *side, name.as_str(), |link| {
                link.addresses.retain(|a| a.net != *net);
            }),
            Self::SetSysctl(Sysctl { side, path, value }) => {
                ns.get_mut(*side).sysctls.insert(path.clone(), Some((*value).into()));
            }
            Self::AddRoute { side, route } => ns.get_mut(*side).routes.push(route.clone()),
            Self::DelRoute { side, route } => ns.get_mut(*side).routes.retain(|r| r != route),
            Self::AddKernelRoute { side, route } => ns.get_mut(*side).lost_routes.retain(|r| r != route),
            Self::AddKernelRule { side, rule } => ns.get_mut(*side).lost_rules.retain(|r| r != rule),
            Self::AddRule { side, rule } => ns.get_mut(*side).rules.push(rule.clone()),
            Self::DelRule { side, rule } => ns.get_mut(*side).rules.retain(|r| r != rule),
            Self::SetMarks(path) => ns.host.marks = Marks::Exactly(path.clone()),
            Self::DropMarks => ns.host.marks = Marks::Absent,
        }
    }
}

/// How a VXLAN that FRR fills is a port of its bridge.
pub(super) const FABRIC_PORT: BridgePort = BridgePort { neigh_suppress: true, learning: false };

/// The index of `lo` in every namespace (`LOOPBACK_IFINDEX`, `net/flow.h`).
pub(super) const LOOPBACK: u32 = 1;

/// The device that carries a tunnel.
fn vxlan(tunnel: &Tunnel) -> Vxlan {
    let Tunnel { vni, port, local } = *tunnel;
    Vxlan { vni: vni.get(), port, local: Some(local), dev: LOOPBACK, learning: false }
}

fn is_link_local(net: IpNet) -> bool {
    matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn on(ns: &mut Namespaces, side: Side, name: &str, change: impl FnOnce(&mut Link)) {
    if let Some(link) = ns.get_mut(side).link_mut(name) {
        change(link);
    }
}

/// An index that no link has, so that foreseen veth ends can point at each other.
fn new_index(ns: &Namespaces) -> u32 {
    ns.sides().iter().map(|&side| ns.get(side).links.top()).max().unwrap_or(0) + 1
}

/// A link that is new in a namespace has IPv6 on or off as is the default there.
fn inherit_sysctls(state: &mut NsState, name: &str) {
    if let Some(default @ Some(_)) = state.sysctls.get("net/ipv6/conf/default/disable_ipv6").cloned() {
        state.sysctls.insert(format!("net/ipv6/conf/{name}/disable_ipv6"), default);
    }
}

fn forget_sysctls(state: &mut NsState, name: &str) {
    for family in ["ipv4", "ipv6"] {
        let prefix = format!("net/{family}/conf/{name}/");
        let of_link = |(path, _): &(&String, _)| path.starts_with(&prefix);
        let gone = state.sysctls.range(prefix.clone()..).take_while(of_link);
        let gone: Vec<String> = gone.map(|(path, _)| path.clone()).collect();
        gone.iter().for_each(|path| drop(state.sysctls.remove(path)));
    }
}

fn deleted(ns: &mut Namespaces, side: Side, name: &str) {
    let Some(link) = ns.get(side).link(name).cloned() else { return };
    let forget = |ns: &mut Namespaces, side: Side, link: &Link| {
        let (state, name) = (ns.get_mut(side), &link.name);
        state.links.remove(name);
        state.routes.retain(|r| &r.dev != name);
        forget_sysctls(state, name);
        if !matches!(link.kind, LinkKind::Veth(_) | LinkKind::Vxlan(_)) {
            for port in state.links.iter_mut().filter(|l| l.master.as_ref() == Some(name)) {
                port.master = None;
                port.port = None;
            }
        }
    };
    forget(ns, side, &link);
    // The other end of a veth goes with it.
    if let LinkKind::Veth(peer_index) = link.kind {
        let twin = ns.sides().iter().find_map(|&s| {
            let twin = ns.get(s).links.at(peer_index).filter(|l| l.kind == LinkKind::Veth(link.index));
            twin.map(|l| (s, l.clone()))
        });
        if let Some((s, twin)) = twin {
            forget(ns, s, &twin);
        }
    }
}
