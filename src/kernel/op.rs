//! One change to the kernel, as data.

use std::fmt;

use ipnet::IpNet;

use crate::model::{
    Address, IfName, Link, LinkKind, Marks, Namespaces, OWNER_GROUP, ReturnPath, Role, Route, Rule, Side,
    Sysctl,
};

/// One change. `Display` is the line that the log shows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are those of the iproute2 command that each variant stands for.
pub enum Op {
    /// Makes a VRF, marked.
    CreateVrf { side: Side, name: IfName, table: u32 },
    /// Makes a veth pair, both ends marked; each end is a namespace and a name.
    CreateVeth { end: (Side, IfName), peer: (Side, IfName) },
    /// Removes a link of ours.
    Delete { side: Side, name: String },
    /// Moves a NIC and, in the same message, sets the link group that marks it (or takes it away at home).
    Move { from: Side, to: Side, name: String },
    /// Puts the alias on a link that says what it is to us, and our group unless it is about to be moved.
    Mark { side: Side, name: String, role: Role, group: bool },
    /// Takes both away.
    Unmark { side: Side, name: String },
    /// Sets the MTU in bytes.
    SetMtu { side: Side, name: IfName, mtu: u32 },
    /// Makes a link a port of another.
    SetMaster { side: Side, name: IfName, master: IfName },
    /// Adds an address.
    AddAddress { side: Side, name: String, net: IpNet },
    /// Removes an address from a link of ours.
    DelAddress { side: Side, name: IfName, net: IpNet },
    /// Brings a link up.
    SetUp { side: Side, name: String },
    /// Writes a kernel parameter.
    SetSysctl(Sysctl),
    /// Adds a route of ours.
    AddRoute { side: Side, route: Route },
    /// Removes a route of ours.
    DelRoute { side: Side, route: Route },
    /// Adds a rule of ours.
    AddRule { side: Side, rule: Rule },
    /// Removes a rule of ours.
    DelRule { side: Side, rule: Rule },
    /// Builds our nftables table anew in the host namespace.
    SetMarks(ReturnPath),
    /// Removes it.
    DropMarks,
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
            Self::CreateVrf { side, name, table } => write!(f, "{side}: create VRF {name}, table {table}"),
            Self::CreateVeth { end, peer } => {
                write!(f, "{}: create veth {}, peer {} ({})", end.0, end.1, peer.1, peer.0)
            }
            Self::Delete { side, name } => write!(f, "{side}: delete {name}"),
            Self::Move { from, to, name } => write!(f, "{from}: move {name} to {to}"),
            Self::Mark { side, name, role, .. } => write!(f, "{side}: mark {name} \"{}\"", role.alias()),
            Self::Unmark { side, name } => write!(f, "{side}: take our mark off {name}"),
            Self::SetMtu { side, name, mtu } => write!(f, "{side}: set {name} mtu {mtu}"),
            Self::SetMaster { side, name, master } => write!(f, "{side}: set {name} master {master}"),
            Self::AddAddress { side, name, net } => write!(f, "{side}: add address {net} to {name}"),
            Self::DelAddress { side, name, net } => write!(f, "{side}: remove address {net} from {name}"),
            Self::SetUp { side, name } => write!(f, "{side}: set {name} up"),
            Self::SetSysctl(s) => write!(f, "{}: set sysctl {} = {}", s.side, s.path, s.value),
            Self::AddRoute { side, route } => write!(f, "{side}: add route {route}"),
            Self::DelRoute { side, route } => write!(f, "{side}: remove route {route}"),
            Self::AddRule { side, rule } => write!(f, "{side}: add rule {rule}"),
            Self::DelRule { side, rule } => write!(f, "{side}: remove rule {rule}"),
            Self::SetMarks(path) => {
                write!(f, "host: mark connections that come in over {} with {:#x}", path.dev, path.mark)
            }
            Self::DropMarks => f.write_str("host: remove connection marks"),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dst)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        write!(f, " dev {} table {} metric {}", self.dev, self.table, self.metric)?;
        if let Some(src) = self.src {
            write!(f, " src {src}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.priority, if self.v6 { "IPv6" } else { "IPv4" })?;
        write!(f, " fwmark {:#x}/{:#x} lookup {}", self.mark.0, self.mark.1, self.table)
    }
}

impl Op {
    /// What the kernel will have once this is done: the planner's picture of its own progress.
    pub(super) fn foresee(&self, ns: &mut Namespaces) {
        match self {
            Self::CreateVrf { side, name, table } => made(ns, *side, name, LinkKind::Vrf(*table)),
            Self::CreateVeth { end, peer } => {
                let (a, b) = (new_index(ns), new_index(ns) + 1);
                made(ns, end.0, &end.1, LinkKind::Veth(b));
                made(ns, peer.0, &peer.1, LinkKind::Veth(a));
            }
            Self::Delete { side, name } => deleted(ns, *side, name),
            Self::Move { from, to, name } => {
                let source = ns.get_mut(*from);
                if let Some(at) = source.links.iter().position(|l| &l.name == name) {
                    let mut link = source.links.remove(at);
                    source.routes.retain(|r| &r.dev != name);
                    source.sysctls.retain(|path, _| !path.contains(&format!("/{name}/")));
                    link.up = false;
                    link.master = None;
                    link.addresses.clear();
                    link.group = if *to == Side::Router { OWNER_GROUP } else { 0 };
                    ns.get_mut(*to).links.push(link);
                }
            }
            Self::Mark { side, name, role, group } => on(ns, *side, name, |link| {
                link.alias = Some(role.alias());
                if *group {
                    link.group = OWNER_GROUP;
                }
            }),
            Self::Unmark { side, name } => on(ns, *side, name, |link| {
                link.alias = None;
                link.group = 0;
            }),
            Self::SetMtu { side, name, mtu } => on(ns, *side, name.as_str(), |link| link.mtu = *mtu),
            Self::SetMaster { side, name, master } => {
                on(ns, *side, name.as_str(), |link| link.master = Some(master.to_string()));
            }
            Self::AddAddress { side, name, net } => on(ns, *side, name, |link| {
                link.addresses.push(Address { net: *net, permanent: true });
            }),
            Self::DelAddress { side, name, net } => on(ns, *side, name.as_str(), |link| {
                link.addresses.retain(|a| a.net != *net);
            }),
            Self::SetUp { side, name } => on(ns, *side, name, |link| link.up = true),
            Self::SetSysctl(Sysctl { side, path, value }) => {
                ns.get_mut(*side).sysctls.insert(path.clone(), Some((*value).into()));
            }
            Self::AddRoute { side, route } => ns.get_mut(*side).routes.push(route.clone()),
            Self::DelRoute { side, route } => ns.get_mut(*side).routes.retain(|r| r != route),
            Self::AddRule { side, rule } => ns.get_mut(*side).rules.push(rule.clone()),
            Self::DelRule { side, rule } => ns.get_mut(*side).rules.retain(|r| r != rule),
            Self::SetMarks(path) => ns.host.marks = Marks::Exactly(path.clone()),
            Self::DropMarks => ns.host.marks = Marks::Absent,
        }
    }
}

fn on(ns: &mut Namespaces, side: Side, name: &str, change: impl FnOnce(&mut Link)) {
    if let Some(link) = ns.get_mut(side).link_mut(name) {
        change(link);
    }
}

/// An index that no link has, so that foreseen veth ends can point at each other.
fn new_index(ns: &Namespaces) -> u32 {
    let links = ns.sides().iter().flat_map(|&side| &ns.get(side).links);
    links.map(|link| link.index).max().unwrap_or(0) + 1
}

fn made(ns: &mut Namespaces, side: Side, name: &IfName, kind: LinkKind) {
    let index = new_index(ns);
    let link = Link { mtu: 1500, group: OWNER_GROUP, ..Link::new(index, name.as_str(), kind) };
    ns.get_mut(side).links.push(link);
}

fn deleted(ns: &mut Namespaces, side: Side, name: &str) {
    let Some(link) = ns.get(side).link(name).cloned() else { return };
    let forget = |ns: &mut Namespaces, side: Side, name: &str| {
        let state = ns.get_mut(side);
        state.links.retain(|l| l.name != name);
        state.routes.retain(|r| r.dev != name);
        state.sysctls.retain(|path, _| !path.contains(&format!("/{name}/")));
        for port in state.links.iter_mut().filter(|l| l.master.as_deref() == Some(name)) {
            port.master = None;
        }
    };
    forget(ns, side, name);
    // The other end of a veth goes with it.
    if let LinkKind::Veth(peer_index) = link.kind {
        let twin = ns.sides().iter().find_map(|&s| {
            let twin = ns
                .get(s)
                .links
                .iter()
                .find(|l| l.index == peer_index && l.kind == LinkKind::Veth(link.index));
            twin.map(|l| (s, l.name.clone()))
        });
        if let Some((s, twin)) = twin {
            forget(ns, s, &twin);
        }
    }
}
