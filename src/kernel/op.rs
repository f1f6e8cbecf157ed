//! A change to the kernel, as data.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{
    Address, BridgePort, IfName, IpRule, KernelRoute, KernelRouteKind, KernelRule, KernelTable, Link,
    LinkKind, LinkSpec, MacAddr, Marks, Namespaces, NsState, OWNER_GROUP, Ownership, ReturnPath, Route, Side,
    SpecKind, Sysctl, Tunnel, Vxlan,
};

use super::kernel_made::kernel_rule_priority;

/// A change. `Display` gives the text of its log line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are those of the corresponding iproute2 command.
pub enum Op {
    /// Creates a link with the ownership group, optionally with a MAC address and a master. For a veth pair one end is
    /// named; both ends get the group.
    Create { side: Side, name: IfName, kind: SpecKind, mac: Option<MacAddr>, master: Option<IfName> },
    /// Removes a managed link.
    Delete { side: Side, name: String },
    /// Moves a NIC into another namespace. The same message sets the ownership group in FRR's namespace, or removes it
    /// in the host namespace.
    Move { from: Side, to: Side, name: String },
    /// Changes one setting of a link.
    Set { side: Side, name: String, what: LinkSetting },
    /// Removes the ownership mark (alias and group) of a link.
    Unmark { side: Side, name: String },
    /// Adds an address.
    AddAddress { side: Side, name: String, net: IpNet },
    /// Removes an address from a managed link.
    DelAddress { side: Side, name: IfName, net: IpNet },
    /// Writes a kernel parameter.
    SetSysctl(Sysctl),
    /// Adds a managed route.
    AddRoute { side: Side, route: Route },
    /// Removes a managed route, or a default route that was learned from a router advertisement.
    DelRoute { side: Side, route: Route },
    /// Adds a missing route that the kernel creates by itself.
    AddKernelRoute { side: Side, route: KernelRoute },
    /// Adds a missing rule that the kernel creates by itself.
    AddKernelRule { side: Side, rule: KernelRule },
    /// Adds a managed rule.
    AddRule { side: Side, rule: IpRule },
    /// Removes a managed rule.
    DelRule { side: Side, rule: IpRule },
    /// Replaces the managed nftables table in the host namespace.
    SetMarks(ReturnPath),
    /// Removes the managed nftables table.
    DropMarks,
}

/// A setting of a link. One message can contain several (see `message::ops_in_one_message`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // As above.
pub enum LinkSetting {
    /// The ownership mark: the alias, and the group unless the link is about to be moved.
    Mark { ownership: Ownership, group: bool },
    /// The MTU in bytes.
    Mtu(u32),
    /// The bridge or VRF that the link is a port of; `None` for no master.
    Master(Option<IfName>),
    /// The MAC address.
    Mac(MacAddr),
    /// IPv6 assigns no link-local address by itself.
    AddrGenNone,
    /// Settings of the bridge port of a VXLAN whose entries FRR installs: no MAC learning, and neighbour suppression.
    Port,
    /// Settings of a VXLAN: the local address if it differs, no MAC learning, and `lo` as its device.
    Vxlan { local: Option<IpAddr> },
    /// Administratively up.
    Up,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Router => "FRR's namespace",
        })
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { side, name, kind, mac, master } => {
                write!(f, "{side}: create {}", kind.describe(name))?;
                if let Some(mac) = mac {
                    write!(f, ", address {mac}")?;
                }
                master.iter().try_for_each(|master| write!(f, ", port of {master}"))
            }
            Self::Delete { side, name } => write!(f, "{side}: delete {name}"),
            Self::Move { from, to, name } => write!(f, "{from}: move {name} to {to}"),
            Self::Set { side, name, what } => write!(f, "{side}: {}", what.describe(name)),
            Self::Unmark { side, name } => write!(f, "{side}: remove the ownership mark of {name}"),
            Self::AddAddress { side, name, net } => write!(f, "{side}: add address {net} to {name}"),
            Self::DelAddress { side, name, net } => write!(f, "{side}: remove address {net} from {name}"),
            Self::SetSysctl(s) => write!(f, "{}: set sysctl {} = {}", s.side, s.path, s.value),
            Self::AddRoute { side, route } => write!(f, "{side}: add route {route}"),
            Self::DelRoute { side, route } => write!(f, "{side}: remove route {route}"),
            Self::AddKernelRoute { side, route } => write!(f, "{side}: add kernel route {route}"),
            Self::AddKernelRule { side, rule } => write!(f, "{side}: add kernel rule {rule}"),
            Self::AddRule { side, rule } => write!(f, "{side}: add rule {rule}"),
            Self::DelRule { side, rule } => write!(f, "{side}: remove rule {rule}"),
            Self::SetMarks(path) => {
                write!(f, "host: mark connections that come in over {} with {:#x}", path.dev, path.mark)
            }
            Self::DropMarks => f.write_str("host: remove connection marks"),
        }
    }
}

impl LinkSetting {
    /// Text of the log line for a link of that name.
    fn describe(&self, name: &str) -> String {
        match self {
            Self::Mark { ownership, .. } => format!("mark {name} \"{}\"", ownership.alias()),
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

    /// Applies the setting to the model of a link.
    fn simulate(&self, link: &mut Link) {
        match self {
            Self::Mark { ownership, group } => {
                link.alias = Some(ownership.alias());
                if *group {
                    link.group = OWNER_GROUP;
                }
                link.previous_ownership = None;
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
    /// Text of log lines for a link of that name.
    fn describe(&self, name: &IfName) -> String {
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
        write!(f, "{}", self.kind.describe(&self.name))?;
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
        let to = match self.to {
            KernelTable::Local => "local",
            KernelTable::Vrf => "[l3mdev-table]",
            KernelTable::Main => "main",
            KernelTable::Default => "default",
        };
        let priority = kernel_rule_priority(self.to);
        write!(f, "{priority}: {} lookup {to}", if self.v6 { "IPv6" } else { "IPv4" })
    }
}

impl fmt::Display for IpRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.priority, if self.v6 { "IPv6" } else { "IPv4" })?;
        write!(f, " fwmark {:#x}/{:#x} lookup {}", self.mark.0, self.mark.1, self.table)
    }
}

impl Op {
    /// The link that the change concerns, on the side where it is before the change.
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

    /// Applies the change to the model, so that the planner can continue from the expected state.
    pub(super) fn simulate(&self, ns: &mut Namespaces) {
        match self {
            Self::Create { side, name, kind, mac, master } => {
                let index = new_index(ns);
                let lower = |parent: &IfName| ns.host.link(parent.as_str()).map_or(0, |l| l.index);
                let lower = if let SpecKind::Macvlan(parent) = kind { lower(parent) } else { 0 };
                let mut insert = |side, name: &IfName, index, kind| {
                    let link =
                        Link { mtu: 1500, group: OWNER_GROUP, ..Link::new(index, name.as_str(), kind) };
                    let state = ns.get_mut(side);
                    state.links.insert(link);
                    inherit_sysctls(state, name.as_str());
                };
                match kind {
                    SpecKind::Foreign | SpecKind::Nic(_) => {}
                    SpecKind::Vrf(table) => insert(*side, name, index, LinkKind::Vrf(*table)),
                    SpecKind::Veth(peer_side, peer) => {
                        insert(*side, name, index, LinkKind::Veth(index + 1));
                        insert(*peer_side, peer, index + 1, LinkKind::Veth(index));
                    }
                    SpecKind::Dummy => insert(*side, name, index, LinkKind::Dummy),
                    SpecKind::Bridge => insert(*side, name, index, LinkKind::Bridge),
                    SpecKind::Vxlan(tunnel) => insert(*side, name, index, LinkKind::Vxlan(vxlan(tunnel))),
                    SpecKind::Macvlan(_) => insert(*side, name, index, LinkKind::Macvlan(lower)),
                }
                with_link(ns, *side, name.as_str(), |link| {
                    link.mac = mac.or(link.mac);
                    link.master = master.as_ref().map(ToString::to_string);
                });
            }
            Self::Delete { side, name } => simulate_delete(ns, *side, name),
            Self::Move { from, to, name } => {
                let source = ns.get_mut(*from);
                if let Some(mut link) = source.links.remove(name) {
                    source.routes.retain(|r| &r.dev != name);
                    remove_sysctls(source, name);
                    link.up = false;
                    link.master = None;
                    link.addresses.clear();
                    link.group = if *to == Side::Router { OWNER_GROUP } else { 0 };
                    let state = ns.get_mut(*to);
                    state.links.insert(link);
                    inherit_sysctls(state, name);
                }
            }
            Self::Set { side, name, what } => with_link(ns, *side, name, |link| what.simulate(link)),
            Self::Unmark { side, name } => with_link(ns, *side, name, |link| {
                link.alias = None;
                link.group = 0;
                link.previous_ownership = None;
            }),
            Self::AddAddress { side, name, net } => with_link(ns, *side, name, |link| {
                link.link_local |= is_link_local(*net);
                link.addresses.push(Address { net: *net, permanent: true });
            }),
            Self::DelAddress { side, name, net } => with_link(ns, *side, name.as_str(), |link| {
                link.addresses.retain(|a| a.net != *net);
            }),
            Self::SetSysctl(Sysctl { side, path, value }) => {
                ns.get_mut(*side).sysctls.insert(path.clone(), Some((*value).into()));
            }
            Self::AddRoute { side, route } => ns.get_mut(*side).routes.push(route.clone()),
            Self::DelRoute { side, route } => ns.get_mut(*side).routes.retain(|r| r != route),
            Self::AddKernelRoute { side, route } => {
                ns.get_mut(*side).missing_kernel_routes.retain(|r| r != route)
            }
            Self::AddKernelRule { side, rule } => {
                ns.get_mut(*side).missing_kernel_rules.retain(|r| r != rule)
            }
            Self::AddRule { side, rule } => ns.get_mut(*side).rules.push(rule.clone()),
            Self::DelRule { side, rule } => ns.get_mut(*side).rules.retain(|r| r != rule),
            Self::SetMarks(path) => ns.host.marks = Marks::Exactly(path.clone()),
            Self::DropMarks => ns.host.marks = Marks::Absent,
        }
    }
}

/// Bridge port settings of a VXLAN whose entries FRR installs.
pub(super) const FABRIC_PORT: BridgePort = BridgePort { neigh_suppress: true, learning: false };

/// The index of `lo` in every namespace (`LOOPBACK_IFINDEX`, `net/flow.h`).
pub(super) const LOOPBACK: u32 = 1;

/// The model of a VXLAN device for a tunnel.
fn vxlan(tunnel: &Tunnel) -> Vxlan {
    let Tunnel { vni, port, local } = *tunnel;
    Vxlan { vni: vni.get(), port, local: Some(local), dev: LOOPBACK, learning: false }
}

fn is_link_local(net: IpNet) -> bool {
    matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn with_link(ns: &mut Namespaces, side: Side, name: &str, change: impl FnOnce(&mut Link)) {
    if let Some(link) = ns.get_mut(side).link_mut(name) {
        change(link);
    }
}

/// An index that no link has, so that the simulated ends of a veth pair can refer to each other.
fn new_index(ns: &Namespaces) -> u32 {
    ns.sides().iter().map(|&side| ns.get(side).links.highest_index()).max().unwrap_or(0) + 1
}

/// A link that is new in a namespace takes over the namespace's default of `disable_ipv6`.
fn inherit_sysctls(state: &mut NsState, name: &str) {
    if let Some(default @ Some(_)) = state.sysctls.get("net/ipv6/conf/default/disable_ipv6").cloned() {
        state.sysctls.insert(format!("net/ipv6/conf/{name}/disable_ipv6"), default);
    }
}

/// Removes the kernel parameters of a link that left the namespace.
fn remove_sysctls(state: &mut NsState, name: &str) {
    for family in ["ipv4", "ipv6"] {
        let prefix = format!("net/{family}/conf/{name}/");
        let of_link = |(path, _): &(&String, _)| path.starts_with(&prefix);
        let removed = state.sysctls.range(prefix.clone()..).take_while(of_link);
        let removed: Vec<String> = removed.map(|(path, _)| path.clone()).collect();
        removed.iter().for_each(|path| drop(state.sysctls.remove(path)));
    }
}

/// Removes a link from the model, with everything that the kernel removes with it.
fn simulate_delete(ns: &mut Namespaces, side: Side, name: &str) {
    let Some(link) = ns.get(side).link(name).cloned() else { return };
    let remove = |ns: &mut Namespaces, side: Side, link: &Link| {
        let (state, name) = (ns.get_mut(side), &link.name);
        state.links.remove(name);
        state.routes.retain(|r| &r.dev != name);
        remove_sysctls(state, name);
        if !matches!(link.kind, LinkKind::Veth(_) | LinkKind::Vxlan(_)) {
            for port in state.links.iter_mut().filter(|l| l.master.as_ref() == Some(name)) {
                port.master = None;
                port.port = None;
            }
        }
    };
    remove(ns, side, &link);
    // The kernel removes both ends of a veth pair.
    if let LinkKind::Veth(peer_index) = link.kind {
        let peer = ns.sides().iter().find_map(|&s| {
            let peer = ns.get(s).links.by_index(peer_index).filter(|l| l.kind == LinkKind::Veth(link.index));
            peer.map(|l| (s, l.clone()))
        });
        if let Some((s, peer)) = peer {
            remove(ns, s, &peer);
        }
    }
}
