//! What the kernel has and what it shall have → the changes between the two, in an order that works. Pure.
//!
//! Every change is foreseen on a copy of the state before the next one is decided, so a plan carried
//! out leaves nothing to plan. Only links that carry our mark are changed or removed.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{
    ADVERTISED_PROTOCOL, Address, Desired, IfName, KernelRoute, KernelRouteKind, Link, LinkKind, LinkSpec,
    Marks, Namespaces, OWNER_PROTOCOL, Part, Role, Route, Rule, Side, SpecKind, Sysctl, Tunnel, Vxlan,
};

use super::Op;
use super::op::{FABRIC_PORT, LOOPBACK, Setting};

/// The changes, and what stands in the way of others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which to do them.
    pub ops: Vec<Op>,
    /// Sentences about what can't be built because something foreign has its place, and of what that is part.
    pub conflicts: Vec<(Part, String)>,
}

/// Works out the changes that lead from `now` to `desired`.
pub fn plan(desired: &Desired, now: Namespaces) -> Plan {
    let mut planner = Planner::new(now);
    let links: HashMap<_, _> =
        desired.links.iter().map(|l| ((planner.place(l.side), l.name.as_str()), l.is_made())).collect();
    let mut of_links: HashMap<_, Vec<&Sysctl>> = HashMap::new();
    for sysctl in &desired.sysctls {
        match sysctl.link().map(|link| (planner.place(sysctl.side), link)).filter(|at| links.contains_key(at))
        {
            Some(at) => of_links.entry(at).or_default().push(sysctl),
            // Global ones first: a link takes the defaults over when it comes into the namespace.
            None => planner.sysctl(sysctl),
        }
    }
    planner.remove_unwanted(desired, &links);
    for spec in &desired.links {
        planner.part = spec.part;
        if planner.link(spec) {
            // Before the link goes up: some take effect then.
            let at = (planner.place(spec.side), spec.name.as_str());
            of_links.get(&at).into_iter().flatten().for_each(|s| planner.sysctl(s));
            planner.settings(spec);
        }
    }
    planner.bring_up();
    planner.lost(desired);
    planner.routing(desired);
    planner.plan
}

/// What the kernel allows once in a namespace, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Unique {
    /// A VRF over this table (`net/vrf/strict_mode`).
    Table(u32),
    /// A VXLAN with this identifier on this port.
    Vxlan(u32, u16),
}

struct Planner {
    now: Namespaces,
    /// Who held what may be held once when the plan began.
    holders: HashMap<(Side, Unique), Vec<String>>,
    part: Part,
    /// VNIs' links that are to go up when all of them are made: each that is up makes the kernel look at its IPv6 routes
    /// again when another is made or becomes a port.
    down: Vec<(Side, IfName)>,
    plan: Plan,
}

impl Planner {
    fn new(now: Namespaces) -> Self {
        let mut holders: HashMap<_, Vec<String>> = HashMap::new();
        for &side in now.sides() {
            for link in now.get(side).links.iter() {
                if let Some(what) = unique(&link.kind) {
                    holders.entry((side, what)).or_default().push(link.name.clone());
                }
            }
        }
        Self { now, holders, part: Part::Base, down: vec![], plan: Plan::default() }
    }

    fn push(&mut self, op: Op) {
        op.foresee(&mut self.now);
        self.plan.ops.push(op);
    }

    /// The side, where both are one: the host's.
    fn place(&self, side: Side) -> Side {
        if self.now.router.is_some() { side } else { Side::Host }
    }

    fn sysctl(&mut self, wanted: &Sysctl) {
        // With one namespace for both sides a setting may be listed for each; `get` makes them one.
        let now = self.now.get(wanted.side).sysctls.get(&wanted.path);
        if now.and_then(Option::as_deref) != Some(wanted.value) {
            self.push(Op::SetSysctl(wanted.clone()));
        }
    }

    /// Removes what carries our mark and is not wanted; a NIC goes home with its addresses.
    fn remove_unwanted(&mut self, desired: &Desired, wanted: &HashMap<(Side, &str), bool>) {
        for &side in self.now.sides() {
            let unwanted = |link: &Link| {
                let role = link.role()?;
                let wanted = match (wanted.get(&(side, link.name.as_str())), &role) {
                    (None, _) => false,
                    (Some(_), Role::Made) => true,
                    // One that came home from a namespace stays as it was, without our mark; and so does one that only
                    // has the name of what we are to make.
                    (Some(made), Role::Nic(_)) => !made && self.now.router.is_some(),
                };
                (!wanted).then(|| (matches!(link.kind, LinkKind::Vrf(_)), link.name.clone(), role))
            };
            let mut here: Vec<_> = self.now.get(side).links.iter().filter_map(unwanted).collect();
            // A VRF goes when there is nothing in it any more.
            here.sort_by_key(|(is_vrf, ..)| *is_vrf);
            for (_, name, role) in here {
                // The other end of a pair may have gone with it already.
                if desired.keep_others || self.now.get(side).link(&name).is_none() {
                    continue;
                }
                match role {
                    Role::Made => self.push(Op::Delete { side, name }),
                    Role::Nic(addresses) => self.send_home(side, name, addresses),
                }
            }
        }
    }

    fn send_home(&mut self, from: Side, name: String, addresses: Vec<IpNet>) {
        let side = Side::Host;
        if self.place(from) != side {
            if self.now.get(side).link(&name).is_some() {
                return self.conflict(format!(
                    "{side}: {name} can't come home, its name is taken: rename the other"
                ));
            }
            self.push(Op::Move { from, to: side, name: name.clone() });
        }
        self.add_addresses(side, &name, &addresses);
        if self.now.get(side).link(&name).is_some_and(|link| !link.up) {
            self.set(side, &name, Setting::Up);
        }
        self.push(Op::Unmark { side, name });
    }

    fn add_addresses(&mut self, side: Side, name: &str, addresses: &[IpNet]) {
        for &net in addresses {
            let link = self.now.get(side).link(name);
            if !link.is_some_and(|link| link.addresses.iter().any(|a| a.net == net)) {
                self.push(Op::AddAddress { side, name: name.into(), net });
            }
        }
    }

    /// Makes or fetches the link. Returns whether it is there, or will be.
    fn link(&mut self, spec: &LinkSpec) -> bool {
        match &spec.kind {
            SpecKind::Foreign => self.now.get(spec.side).link(spec.name.as_str()).is_some(),
            SpecKind::Nic(from) => self.nic(spec, *from),
            SpecKind::Veth(peer_side, peer) => self.veth(spec, (*peer_side, peer.clone())),
            SpecKind::Vrf(table) => {
                let (kind, table) = (LinkKind::Vrf(*table), *table);
                self.unique(spec, Unique::Table(table)) && self.made(spec, |link| link.kind == kind)
            }
            SpecKind::Vxlan(tunnel) => {
                let tunnel = *tunnel;
                self.unique(spec, Unique::Vxlan(tunnel.vni.get(), tunnel.port))
                    && self
                        .made(spec, |link| matches!(&link.kind, LinkKind::Vxlan(is) if becomes(is, &tunnel)))
            }
            SpecKind::Dummy => self.made(spec, |link| link.kind == LinkKind::Dummy),
            SpecKind::Bridge => self.made(spec, |link| link.kind == LinkKind::Bridge),
            SpecKind::Macvlan(parent) => {
                let Some(parent) = self.now.get(Side::Host).link(parent.as_str()) else {
                    self.conflict(format!("host: there is no interface {parent} for macvlan {}", spec.name));
                    return false;
                };
                let kind = LinkKind::Macvlan(parent.index);
                self.made(spec, |link| link.kind == kind)
            }
        }
    }

    /// Fetches a NIC. Its home addresses are written on it before it moves, since it loses them on the way.
    fn nic(&mut self, spec: &LinkSpec, from: Side) -> bool {
        let name = spec.name.to_string();
        let role = Role::Nic(spec.addresses.clone());
        let to = spec.side;
        if let Some(link) = self.now.get(to).link(&name) {
            if from != to && self.now.get(from).link(&name).is_some() {
                self.conflict(format!(
                    "{to}: {name} can't come in from {from}, its name is taken: rename the other"
                ));
                return false;
            }
            if !link.has_mark(&role) {
                self.set(to, &name, Setting::Mark { role, group: true });
            }
            return true;
        }
        let Some(link) = self.now.get(from).link(&name) else {
            self.conflict(format!("{from}: {name} was there a moment ago and is gone"));
            return false;
        };
        if link.alias.as_deref() != Some(&role.alias()) {
            self.set(from, &name, Setting::Mark { role, group: false });
        }
        self.push(Op::Move { from, to, name });
        true
    }

    /// Removes what is ours and holds what the link needs for itself. Returns whether it can have it, or has it already: with what
    /// another one means for zebra then, others deal (see `shared_tables`).
    fn unique(&mut self, spec: &LinkSpec, what: Unique) -> bool {
        let side = self.place(spec.side);
        let others = self.holders.get(&(side, what)).into_iter().flatten();
        let others: Vec<_> = others.filter(|other| *other != spec.name.as_str()).cloned().collect();
        for rival in others {
            // It may have gone in between, or become another.
            let link = self.now.get(side).link(&rival).filter(|link| unique(&link.kind) == Some(what));
            match link.map(Link::role) {
                None => {}
                Some(Some(Role::Made)) => self.push(Op::Delete { side, name: rival }),
                Some(_) if self.has(spec, what) => {}
                Some(_) => {
                    let (words, remedy) = match what {
                        Unique::Table(table) if spec.part == Part::Base => {
                            (format!("table {table} of VRF"), "choose another METALLB_VRF_ROUTE_TABLE_ID")
                        }
                        Unique::Table(table) => (format!("table {table} of VRF"), "remove it"),
                        Unique::Vxlan(vni, port) => (format!("VNI {vni} on port {port} of"), "remove it"),
                    };
                    let of = &spec.name;
                    self.conflict(format!(
                        "{side}: {words} {of} is taken by {rival}, which is not ours: {remedy}"
                    ));
                    return false;
                }
            }
        }
        true
    }

    /// Whether the link is there and ours, and has that.
    fn has(&self, spec: &LinkSpec, what: Unique) -> bool {
        let link = self.now.get(spec.side).link(spec.name.as_str());
        link.is_some_and(|link| unique(&link.kind) == Some(what) && link.role() == Some(Role::Made))
    }

    /// Makes the link if there is none that is `right`. Returns whether it is there, or will be.
    fn made(&mut self, spec: &LinkSpec, right: impl Fn(&Link) -> bool) -> bool {
        if self.clear_the_way(spec, right) {
            self.create(spec);
        }
        self.is_ours(spec)
    }

    fn create(&mut self, spec: &LinkSpec) {
        let master = spec.master.clone().filter(|m| self.now.get(spec.side).link(m.as_str()).is_some());
        let LinkSpec { side, name, kind, mac, .. } = spec.clone();
        self.push(Op::Create { side, name, kind, mac, master });
    }

    fn veth(&mut self, spec: &LinkSpec, peer: (Side, IfName)) -> bool {
        let twin = self.now.get(peer.0).link(peer.1.as_str()).map(|l| (l.index, l.kind.clone(), l.role()));
        // An end is right if it and its twin point at each other.
        let clear = self.clear_the_way(spec, |link| {
            matches!(&twin, Some((index, LinkKind::Veth(back), Some(Role::Made)))
                if link.kind == LinkKind::Veth(*index) && *back == link.index)
        });
        if clear {
            // The twin goes with the end that was removed; one that is left is someone else's pair, or half of ours.
            match self.now.get(peer.0).link(peer.1.as_str()).map(|l| l.role()) {
                None => {}
                Some(Some(Role::Made)) => self.push(Op::Delete { side: peer.0, name: peer.1.to_string() }),
                Some(_) => {
                    self.foreign(peer.0, peer.1.as_str());
                    return false;
                }
            }
            self.create(spec);
        }
        self.is_ours(spec)
    }

    /// Removes a link of ours that is not `right`. Returns whether the name is free now.
    fn clear_the_way(&mut self, spec: &LinkSpec, right: impl Fn(&Link) -> bool) -> bool {
        let name = spec.name.as_str();
        let Some(link) = self.now.get(spec.side).link(name) else { return true };
        if link.role() != Some(Role::Made) {
            self.foreign(spec.side, name);
            return false;
        }
        if right(link) {
            return false;
        }
        self.push(Op::Delete { side: spec.side, name: name.into() });
        true
    }

    fn is_ours(&self, spec: &LinkSpec) -> bool {
        let link = self.now.get(spec.side).link(spec.name.as_str());
        link.is_some_and(|link| link.role() == Some(Role::Made))
    }

    fn foreign(&mut self, side: Side, name: &str) {
        self.conflict(format!(
            "{side}: an interface {name} is there that we did not make, so ours can't be: remove or rename it"
        ));
    }

    fn conflict(&mut self, sentence: String) {
        let conflict = (self.part, sentence);
        if !self.plan.conflicts.contains(&conflict) {
            self.plan.conflicts.push(conflict);
        }
    }

    fn set(&mut self, side: Side, name: &str, what: Setting) {
        self.push(Op::Set { side, name: name.into(), what });
    }

    /// Alias, MTU, master, addresses, up: whatever is not as wanted.
    fn settings(&mut self, spec: &LinkSpec) {
        let (side, name, made) = (spec.side, spec.name.as_str(), spec.is_made());
        let Some(link) = self.now.get(side).link(name) else { return };
        let mut settings = vec![];
        if made && !link.has_mark(&Role::Made) {
            settings.push(Setting::Mark { role: Role::Made, group: true });
        }
        settings.extend(spec.mtu.filter(|mtu| *mtu != link.mtu).map(Setting::Mtu));
        settings.extend(spec.mac.filter(|mac| link.mac != Some(*mac)).map(Setting::Mac));
        if spec.addr_gen_none && !link.addr_gen_none {
            settings.push(Setting::AddrGenNone);
        }
        let (master, problem) = self.master(spec, link);
        // Another master makes it another port.
        let is_port = master.is_none() && link.port == Some(FABRIC_PORT);
        settings.extend(master);
        if let (SpecKind::Vxlan(tunnel), LinkKind::Vxlan(is)) = (&spec.kind, &link.kind) {
            if is.local != Some(tunnel.local) || is.learning || is.dev != LOOPBACK {
                let local = Some(tunnel.local).filter(|local| is.local != Some(*local));
                settings.push(Setting::Vxlan { local });
            }
            if !is_port {
                settings.push(Setting::Port);
            }
        }
        let is_link_local =
            |a: &Address| matches!(a.net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        let is_other = |a: &&Address| made && !spec.addresses.contains(&a.net) && !is_link_local(a);
        let others: Vec<_> = link.addresses.iter().filter(is_other).map(|a| a.net).collect();
        let is_up = link.up;
        settings.into_iter().for_each(|what| self.set(side, name, what));
        problem.into_iter().for_each(|sentence| self.conflict(sentence));
        others.into_iter().for_each(|net| self.push(Op::DelAddress { side, name: spec.name.clone(), net }));
        self.add_addresses(side, name, &spec.addresses);
        self.add_link_local(spec);
        if !is_up && spec.part == Part::Base {
            self.set(side, name, Setting::Up);
        } else if !is_up {
            self.down.push((side, spec.name.clone()));
        }
    }

    /// Gives a link that has lost its link-local address the one that the kernel makes of its MAC address (RFC 4291,
    /// appendix A). It does so itself when a link goes up or gets a carrier, and only then.
    fn add_link_local(&mut self, spec: &LinkSpec) {
        let (side, name) = (spec.side, spec.name.as_str());
        let carries = !spec.addr_gen_none && name != "lo" && !matches!(spec.kind, SpecKind::Vrf(_));
        let of_host = side == Side::Router || !spec.addresses.is_empty();
        let Some(link) = self.now.get(side).link(name).filter(|_| carries && of_host) else { return };
        if let Some(mac) = link.mac.filter(|_| link.running && !link.link_local) {
            let net = mac.link_local();
            self.push(Op::AddAddress { side, name: name.into(), net });
        }
    }

    fn bring_up(&mut self) {
        // A veth end has no carrier, and hence no IPv6 routes, before the host's end is up, too.
        self.down.sort_by_key(|(side, _)| *side == Side::Host);
        for (side, name) in std::mem::take(&mut self.down) {
            if self.now.get(side).link(name.as_str()).is_some_and(|link| !link.up) {
                self.set(side, name.as_str(), Setting::Up);
            }
        }
    }

    /// Another master that the link is to have, and what is in the way of that.
    fn master(&self, spec: &LinkSpec, link: &Link) -> (Option<Setting>, Option<String>) {
        let (side, name) = (spec.side, &spec.name);
        match &spec.master {
            Some(master) if link.master.as_deref() != Some(master.as_str()) => {
                if self.now.get(side).link(master.as_str()).is_some() {
                    (Some(Setting::Master(Some(master.clone()))), None)
                } else {
                    let problem =
                        || format!("{side}: there is no bridge {master} for {name} to be a port of");
                    (None, (side == Side::Host).then(problem))
                }
            }
            // What the host does with its end is its own business.
            None if spec.kind != SpecKind::Foreign && side == Side::Router && link.master.is_some() => {
                (Some(Setting::Master(None)), None)
            }
            _ => (None, None),
        }
    }

    /// What the kernel makes by itself, and no second time when somebody removes it: routes of our links, and, since without
    /// them an address is none, routes to the node's own addresses on any link; the rules.
    fn lost(&mut self, desired: &Desired) {
        if desired.links.is_empty() {
            return;
        }
        let ours: HashSet<_> = desired.links.iter().map(|l| (self.place(l.side), l.name.as_str())).collect();
        for &side in self.now.sides() {
            let is_ours = |route: &&KernelRoute| {
                route.kind == KernelRouteKind::Local || ours.contains(&(side, route.dev.as_str()))
            };
            let state = self.now.get(side);
            let routes: Vec<_> = state.lost_routes.iter().filter(is_ours).cloned().collect();
            let rules = state.lost_rules.clone();
            rules.into_iter().for_each(|rule| self.push(Op::AddKernelRule { side, rule }));
            routes.into_iter().for_each(|route| self.push(Op::AddKernelRoute { side, route }));
        }
    }

    fn routing(&mut self, desired: &Desired) {
        let routes: HashSet<_> = desired.routes.iter().map(|(side, r)| (self.place(*side), r)).collect();
        let rules: HashSet<_> = desired.rules.iter().map(|(side, r)| (self.place(*side), r)).collect();
        for &side in self.now.sides() {
            let state = self.now.get(side);
            let stale = |r: &&Route| r.protocol == OWNER_PROTOCOL && !routes.contains(&(side, *r));
            let stale_rule = |r: &&Rule| !rules.contains(&(side, *r));
            let stale: Vec<_> = state.routes.iter().filter(stale).cloned().collect();
            let stale_rules: Vec<_> = state.rules.iter().filter(stale_rule).cloned().collect();
            let is_advertised = |r: &&Route| {
                let by = |name: &IfName| name.as_str() == r.dev && side == self.place(Side::Router);
                r.protocol == ADVERTISED_PROTOCOL
                    && r.dst.prefix_len() == 0
                    && desired.no_advertised_default.iter().any(by)
            };
            let advertised: Vec<_> = state.routes.iter().filter(is_advertised).cloned().collect();
            advertised.into_iter().for_each(|route| self.push(Op::DelRoute { side, route }));
            if !desired.keep_others {
                stale.into_iter().for_each(|route| self.push(Op::DelRoute { side, route }));
            }
            stale_rules.into_iter().for_each(|rule| self.push(Op::DelRule { side, rule }));
        }
        let sides = self.now.sides().iter();
        let there: HashSet<_> =
            sides.flat_map(|&side| self.now.get(side).routes.iter().map(move |r| (side, r))).collect();
        let lacks = |(side, route): &&(Side, Route)| {
            // Nothing goes through a link that could not be made.
            let link = self.now.get(*side).link(&route.dev);
            let dev = route.dev.is_empty() || link.is_some_and(|l| l.role().is_some());
            dev && !there.contains(&(self.place(*side), route))
        };
        let missing: Vec<_> = desired.routes.iter().filter(lacks).cloned().collect();
        missing.into_iter().for_each(|(side, route)| self.push(Op::AddRoute { side, route }));
        for (side, rule) in &desired.rules {
            if !self.now.get(*side).rules.contains(rule) {
                self.push(Op::AddRule { side: *side, rule: rule.clone() });
            }
        }
        match (&self.now.host.marks, &desired.marks) {
            (Marks::Absent, None) => {}
            (Marks::Exactly(is), Some(wanted)) if is == wanted => {}
            (_, Some(wanted)) => self.push(Op::SetMarks(wanted.clone())),
            (_, None) => self.push(Op::DropMarks),
        }
    }
}

fn unique(kind: &LinkKind) -> Option<Unique> {
    match kind {
        LinkKind::Vrf(table) => Some(Unique::Table(*table)),
        LinkKind::Vxlan(vxlan) => Some(Unique::Vxlan(vxlan.vni, vxlan.port)),
        _ => None,
    }
}

/// Whether the device can be made what the tunnel needs without making it anew: identifier, port and family stay for life.
fn becomes(is: &Vxlan, tunnel: &Tunnel) -> bool {
    let same_family = is.local.is_none_or(|local| local.is_ipv6() == tunnel.local.is_ipv6());
    is.vni == tunnel.vni.get() && is.port == tunnel.port && same_family
}

#[cfg(test)]
mod growth;
#[cfg(test)]
mod tests;
