//! Plans the changes from the observed state to the desired state, in an order that works. Pure.
//!
//! The planner applies each change to a copy of the state before it plans the next one. So after a plan is applied, the
//! next plan is empty. The planner changes or removes only managed links.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{
    Address, Component, Desired, IfName, IpRule, KernelRoute, KernelRouteKind, Link, LinkKind, LinkSpec,
    Marks, Namespaces, OWNER_PROTOCOL, Ownership, RA_PROTOCOL, Route, Side, SpecKind, Sysctl, Tunnel, Vxlan,
};

use super::Op;
use super::op::{FABRIC_PORT, LOOPBACK, LinkSetting};

/// Planned changes and conflicts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes in the order in which to apply them.
    pub ops: Vec<Op>,
    /// Messages about objects that can't be created because an unmanaged object conflicts, each with the component that
    /// is affected.
    pub conflicts: Vec<(Component, String)>,
}

/// Plans the changes from the state `now` to `desired`.
pub fn plan(desired: &Desired, now: Namespaces) -> Plan {
    let mut planner = Planner::new(now);
    let links: HashMap<_, _> = desired
        .links
        .iter()
        .map(|l| ((planner.effective_side(l.side), l.name.as_str()), l.is_created()))
        .collect();
    let mut of_links: HashMap<_, Vec<&Sysctl>> = HashMap::new();
    for sysctl in &desired.sysctls {
        match sysctl
            .link()
            .map(|link| (planner.effective_side(sysctl.side), link))
            .filter(|at| links.contains_key(at))
        {
            Some(at) => of_links.entry(at).or_default().push(sysctl),
            // Global ones first: a link takes over the defaults when it enters the namespace.
            None => planner.sysctl(sysctl),
        }
    }
    planner.remove_unwanted(desired, &links);
    for spec in &desired.links {
        planner.component = spec.component;
        if planner.link(spec) {
            // Before the link is set up: some take effect at that moment.
            let at = (planner.effective_side(spec.side), spec.name.as_str());
            of_links.get(&at).into_iter().flatten().for_each(|s| planner.sysctl(s));
            planner.settings(spec);
        }
    }
    planner.bring_up();
    planner.kernel_made(desired);
    planner.routing(desired);
    planner.plan
}

/// A resource that only one link in a namespace can use, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Unique {
    /// The table of a VRF (`net/vrf/strict_mode`).
    Table(u32),
    /// The identifier and the UDP port of a VXLAN.
    Vxlan(u32, u16),
}

struct Planner {
    now: Namespaces,
    /// The links that used such resources in the observed state.
    taken: HashMap<(Side, Unique), Vec<String>>,
    component: Component,
    /// Links of VNIs that are set up after all of them are created. For each link that is up, the kernel checks its
    /// IPv6 routes again whenever another link is created or becomes a port.
    to_bring_up: Vec<(Side, IfName)>,
    plan: Plan,
}

impl Planner {
    fn new(now: Namespaces) -> Self {
        let mut taken: HashMap<_, Vec<String>> = HashMap::new();
        for &side in now.sides() {
            for link in now.get(side).links.iter() {
                if let Some(what) = unique(&link.kind) {
                    taken.entry((side, what)).or_default().push(link.name.clone());
                }
            }
        }
        Self { now, taken, component: Component::Base, to_bring_up: vec![], plan: Plan::default() }
    }

    fn push(&mut self, op: Op) {
        op.simulate(&mut self.now);
        self.plan.ops.push(op);
    }

    /// The side that stands for the namespace. With `NETNS=host` that is the host side for both.
    fn effective_side(&self, side: Side) -> Side {
        if self.now.router.is_some() { side } else { Side::Host }
    }

    fn sysctl(&mut self, wanted: &Sysctl) {
        // With one namespace for both sides, `desired` may contain a parameter twice. `get` returns the same state for
        // both.
        let now = self.now.get(wanted.side).sysctls.get(&wanted.path);
        if now.and_then(Option::as_deref) != Some(wanted.value) {
            self.push(Op::SetSysctl(wanted.clone()));
        }
    }

    /// Removes managed links that are not desired. Moves NICs back to the host namespace with their addresses.
    fn remove_unwanted(&mut self, desired: &Desired, wanted: &HashMap<(Side, &str), bool>) {
        for &side in self.now.sides() {
            let unwanted = |link: &Link| {
                let ownership = link.ownership()?;
                let wanted = match (wanted.get(&(side, link.name.as_str())), &ownership) {
                    (None, _) => false,
                    (Some(_), Ownership::Created) => true,
                    // With NETNS=host a NIC that came back stays and only loses the mark. So does a NIC that has the
                    // name of a link to create.
                    (Some(is_created), Ownership::MovedNic(_)) => !is_created && self.now.router.is_some(),
                };
                (!wanted).then(|| (matches!(link.kind, LinkKind::Vrf(_)), link.name.clone(), ownership))
            };
            let mut here: Vec<_> = self.now.get(side).links.iter().filter_map(unwanted).collect();
            // VRFs last, when they have no ports any more.
            here.sort_by_key(|(is_vrf, ..)| *is_vrf);
            for (_, name, ownership) in here {
                // The kernel may have removed the link together with its veth peer.
                if desired.keep_unlisted || self.now.get(side).link(&name).is_none() {
                    continue;
                }
                match ownership {
                    Ownership::Created => self.push(Op::Delete { side, name }),
                    Ownership::MovedNic(addresses) => self.return_nic(side, name, addresses),
                }
            }
        }
    }

    /// Moves a NIC back to the host namespace, with its addresses and without its mark.
    fn return_nic(&mut self, from: Side, name: String, addresses: Vec<IpNet>) {
        let side = Side::Host;
        if self.effective_side(from) != side {
            if self.now.get(side).link(&name).is_some() {
                return self.conflict(format!(
                    "{from}: {name} cannot be moved back to {side}: an interface of this name exists in {side}; rename the one in {side}"
                ));
            }
            self.push(Op::Move { from, to: side, name: name.clone() });
        }
        self.add_addresses(side, &name, &addresses);
        if self.now.get(side).link(&name).is_some_and(|link| !link.up) {
            self.set(side, &name, LinkSetting::Up);
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

    /// Creates the link or moves it in. Returns whether it exists or will exist.
    fn link(&mut self, spec: &LinkSpec) -> bool {
        match &spec.kind {
            SpecKind::Foreign => self.now.get(spec.side).link(spec.name.as_str()).is_some(),
            SpecKind::Nic(from) => self.nic(spec, *from),
            SpecKind::Veth(peer_side, peer) => self.veth(spec, (*peer_side, peer.clone())),
            SpecKind::Vrf(table) => {
                let (kind, table) = (LinkKind::Vrf(*table), *table);
                self.unique(spec, Unique::Table(table)) && self.ensure_created(spec, |link| link.kind == kind)
            }
            SpecKind::Vxlan(tunnel) => {
                let tunnel = *tunnel;
                self.unique(spec, Unique::Vxlan(tunnel.vni.get(), tunnel.port))
                    && self.ensure_created(
                        spec,
                        |link| matches!(&link.kind, LinkKind::Vxlan(is) if can_become(is, &tunnel)),
                    )
            }
            SpecKind::Dummy => self.ensure_created(spec, |link| link.kind == LinkKind::Dummy),
            SpecKind::Bridge => self.ensure_created(spec, |link| link.kind == LinkKind::Bridge),
            SpecKind::Macvlan(parent) => {
                let Some(parent) = self.now.get(Side::Host).link(parent.as_str()) else {
                    self.conflict(format!(
                        "host: macvlan {} needs interface {parent}, which does not exist",
                        spec.name
                    ));
                    return false;
                };
                let kind = LinkKind::Macvlan(parent.index);
                self.ensure_created(spec, |link| link.kind == kind)
            }
        }
    }

    /// Moves a NIC in. First stores its addresses in its alias, because the kernel removes them with the move.
    fn nic(&mut self, spec: &LinkSpec, from: Side) -> bool {
        let name = spec.name.to_string();
        let ownership = Ownership::MovedNic(spec.addresses.clone());
        let to = spec.side;
        if let Some(link) = self.now.get(to).link(&name) {
            if from != to && self.now.get(from).link(&name).is_some() {
                self.conflict(format!(
                    "{from}: {name} cannot be moved to {to}: an interface of this name exists in {to}; rename the one in {to}"
                ));
                return false;
            }
            if !link.has_mark(&ownership) {
                self.set(to, &name, LinkSetting::Mark { ownership, group: true });
            }
            return true;
        }
        let Some(link) = self.now.get(from).link(&name) else {
            self.conflict(format!("{from}: {name} disappeared during planning"));
            return false;
        };
        if link.alias.as_deref() != Some(&ownership.alias()) {
            self.set(from, &name, LinkSetting::Mark { ownership, group: false });
        }
        self.push(Op::Move { from, to, name });
        true
    }

    /// Removes managed links that use a resource which `spec` needs. Returns whether `spec` can use the resource or
    /// already uses it. In the latter case an unmanaged link with this resource is no conflict: `shared_tables` finds
    /// the VRFs that prevent zebra from running.
    fn unique(&mut self, spec: &LinkSpec, what: Unique) -> bool {
        let side = self.effective_side(spec.side);
        let others = self.taken.get(&(side, what)).into_iter().flatten();
        let others: Vec<_> = others.filter(|other| *other != spec.name.as_str()).cloned().collect();
        for holder in others {
            // An earlier change may have removed or replaced it.
            let link = self.now.get(side).link(&holder).filter(|link| unique(&link.kind) == Some(what));
            match link.map(Link::ownership) {
                None => {}
                Some(Some(Ownership::Created)) => self.push(Op::Delete { side, name: holder }),
                Some(_) if self.has_resource(spec, what) => {}
                Some(_) => {
                    let (resource, remedy) = match what {
                        Unique::Table(table) if spec.component == Component::Base => {
                            (format!("table {table} of VRF"), "choose another METALLB_VRF_ROUTE_TABLE_ID")
                        }
                        Unique::Table(table) => (format!("table {table} of VRF"), "remove it"),
                        Unique::Vxlan(vni, port) => (format!("VNI {vni} on port {port} of"), "remove it"),
                    };
                    let of = &spec.name;
                    self.conflict(format!(
                        "{side}: {resource} {of} is already used by {holder}, which frr-supervisor does not manage: {remedy}"
                    ));
                    return false;
                }
            }
        }
        true
    }

    /// Whether the link exists, is managed, and uses that resource.
    fn has_resource(&self, spec: &LinkSpec, what: Unique) -> bool {
        let link = self.now.get(spec.side).link(spec.name.as_str());
        link.is_some_and(|link| {
            unique(&link.kind) == Some(what) && link.ownership() == Some(Ownership::Created)
        })
    }

    /// Creates the link unless one exists for which `is_match` is true. Returns whether it exists or will exist.
    fn ensure_created(&mut self, spec: &LinkSpec, is_match: impl Fn(&Link) -> bool) -> bool {
        if self.delete_mismatch(spec, is_match) {
            self.create(spec);
        }
        self.is_created(spec)
    }

    fn create(&mut self, spec: &LinkSpec) {
        let master = spec.master.clone().filter(|m| self.now.get(spec.side).link(m.as_str()).is_some());
        let LinkSpec { side, name, kind, mac, .. } = spec.clone();
        self.push(Op::Create { side, name, kind, mac, master });
    }

    fn veth(&mut self, spec: &LinkSpec, peer: (Side, IfName)) -> bool {
        let observed_peer =
            self.now.get(peer.0).link(peer.1.as_str()).map(|l| (l.index, l.kind.clone(), l.ownership()));
        // An end matches if it and its peer refer to each other.
        let is_free = self.delete_mismatch(spec, |link| {
            matches!(&observed_peer, Some((index, LinkKind::Veth(back), Some(Ownership::Created)))
                if link.kind == LinkKind::Veth(*index) && *back == link.index)
        });
        if is_free {
            // The kernel removes the peer together with an end. A peer that still exists is unmanaged, or belongs to a
            // broken pair.
            match self.now.get(peer.0).link(peer.1.as_str()).map(|l| l.ownership()) {
                None => {}
                Some(Some(Ownership::Created)) => {
                    self.push(Op::Delete { side: peer.0, name: peer.1.to_string() })
                }
                Some(_) => {
                    self.foreign_conflict(peer.0, peer.1.as_str());
                    return false;
                }
            }
            self.create(spec);
        }
        self.is_created(spec)
    }

    /// Removes a managed link for which `is_match` is false. Returns whether the name is free now.
    fn delete_mismatch(&mut self, spec: &LinkSpec, is_match: impl Fn(&Link) -> bool) -> bool {
        let name = spec.name.as_str();
        let Some(link) = self.now.get(spec.side).link(name) else { return true };
        if link.ownership() != Some(Ownership::Created) {
            self.foreign_conflict(spec.side, name);
            return false;
        }
        if is_match(link) {
            return false;
        }
        self.push(Op::Delete { side: spec.side, name: name.into() });
        true
    }

    fn is_created(&self, spec: &LinkSpec) -> bool {
        let link = self.now.get(spec.side).link(spec.name.as_str());
        link.is_some_and(|link| link.ownership() == Some(Ownership::Created))
    }

    /// Adds a conflict with an unmanaged interface of that name.
    fn foreign_conflict(&mut self, side: Side, name: &str) {
        self.conflict(format!(
            "{side}: interface {name} exists and was not created by frr-supervisor: remove or rename it"
        ));
    }

    fn conflict(&mut self, message: String) {
        let conflict = (self.component, message);
        if !self.plan.conflicts.contains(&conflict) {
            self.plan.conflicts.push(conflict);
        }
    }

    fn set(&mut self, side: Side, name: &str, what: LinkSetting) {
        self.push(Op::Set { side, name: name.into(), what });
    }

    /// Plans the settings that differ: alias, MTU, master, addresses, up.
    fn settings(&mut self, spec: &LinkSpec) {
        let (side, name, is_created) = (spec.side, spec.name.as_str(), spec.is_created());
        let Some(link) = self.now.get(side).link(name) else { return };
        let mut settings = vec![];
        if is_created && !link.has_mark(&Ownership::Created) {
            settings.push(LinkSetting::Mark { ownership: Ownership::Created, group: true });
        }
        settings.extend(spec.mtu.filter(|mtu| *mtu != link.mtu).map(LinkSetting::Mtu));
        settings.extend(spec.mac.filter(|mac| link.mac != Some(*mac)).map(LinkSetting::Mac));
        if spec.addr_gen_none && !link.addr_gen_none {
            settings.push(LinkSetting::AddrGenNone);
        }
        let (master, conflict) = self.master(spec, link);
        // A new master resets the settings of the bridge port.
        let is_port = master.is_none() && link.port == Some(FABRIC_PORT);
        settings.extend(master);
        if let (SpecKind::Vxlan(tunnel), LinkKind::Vxlan(is)) = (&spec.kind, &link.kind) {
            if is.local != Some(tunnel.local) || is.learning || is.dev != LOOPBACK {
                let local = Some(tunnel.local).filter(|local| is.local != Some(*local));
                settings.push(LinkSetting::Vxlan { local });
            }
            if !is_port {
                settings.push(LinkSetting::Port);
            }
        }
        let is_link_local =
            |a: &Address| matches!(a.net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        let is_other = |a: &&Address| is_created && !spec.addresses.contains(&a.net) && !is_link_local(a);
        let others: Vec<_> = link.addresses.iter().filter(is_other).map(|a| a.net).collect();
        let is_up = link.up;
        settings.into_iter().for_each(|what| self.set(side, name, what));
        conflict.into_iter().for_each(|message| self.conflict(message));
        others.into_iter().for_each(|net| self.push(Op::DelAddress { side, name: spec.name.clone(), net }));
        self.add_addresses(side, name, &spec.addresses);
        self.add_link_local(spec);
        if !is_up && spec.component == Component::Base {
            self.set(side, name, LinkSetting::Up);
        } else if !is_up {
            self.to_bring_up.push((side, spec.name.clone()));
        }
    }

    /// Adds a missing link-local address, derived from the MAC address as the kernel does (RFC 4291, appendix A). The
    /// kernel itself adds it only when a link is set up or gets a carrier.
    fn add_link_local(&mut self, spec: &LinkSpec) {
        let (side, name) = (spec.side, spec.name.as_str());
        let needs_one = !spec.addr_gen_none && name != "lo" && !matches!(spec.kind, SpecKind::Vrf(_));
        let is_in_scope = side == Side::Router || !spec.addresses.is_empty();
        let Some(link) = self.now.get(side).link(name).filter(|_| needs_one && is_in_scope) else { return };
        if let Some(mac) = link.mac.filter(|_| link.running && !link.link_local) {
            let net = mac.link_local();
            self.push(Op::AddAddress { side, name: name.into(), net });
        }
    }

    fn bring_up(&mut self) {
        // Host ends last: a veth end has no carrier, and therefore no IPv6 routes, until its peer is up, too.
        self.to_bring_up.sort_by_key(|(side, _)| *side == Side::Host);
        for (side, name) in std::mem::take(&mut self.to_bring_up) {
            if self.now.get(side).link(name.as_str()).is_some_and(|link| !link.up) {
                self.set(side, name.as_str(), LinkSetting::Up);
            }
        }
    }

    /// The change of the master, if it differs, or the conflict that prevents the change.
    fn master(&self, spec: &LinkSpec, link: &Link) -> (Option<LinkSetting>, Option<String>) {
        let (side, name) = (spec.side, &spec.name);
        match &spec.master {
            Some(master) if link.master.as_deref() != Some(master.as_str()) => {
                if self.now.get(side).link(master.as_str()).is_some() {
                    (Some(LinkSetting::Master(Some(master.clone()))), None)
                } else {
                    let conflict = || format!("{side}: {name} needs bridge {master}, which does not exist");
                    (None, (side == Side::Host).then(conflict))
                }
            }
            // In the host namespace, the master of a veth end is not managed.
            None if spec.kind != SpecKind::Foreign && side == Side::Router && link.master.is_some() => {
                (Some(LinkSetting::Master(None)), None)
            }
            _ => (None, None),
        }
    }

    /// Adds routes and rules that the kernel created by itself and that someone removed: all routes of managed links,
    /// and the local routes of all links, because an address does not work without its local route.
    fn kernel_made(&mut self, desired: &Desired) {
        if desired.links.is_empty() {
            return;
        }
        let managed: HashSet<_> =
            desired.links.iter().map(|l| (self.effective_side(l.side), l.name.as_str())).collect();
        for &side in self.now.sides() {
            let is_needed = |route: &&KernelRoute| {
                route.kind == KernelRouteKind::Local || managed.contains(&(side, route.dev.as_str()))
            };
            let state = self.now.get(side);
            let routes: Vec<_> = state.missing_kernel_routes.iter().filter(is_needed).cloned().collect();
            let rules = state.missing_kernel_rules.clone();
            rules.into_iter().for_each(|rule| self.push(Op::AddKernelRule { side, rule }));
            routes.into_iter().for_each(|route| self.push(Op::AddKernelRoute { side, route }));
        }
    }

    /// Plans managed routes and rules, and the connection marks.
    fn routing(&mut self, desired: &Desired) {
        let routes: HashSet<_> =
            desired.routes.iter().map(|(side, r)| (self.effective_side(*side), r)).collect();
        let rules: HashSet<_> =
            desired.rules.iter().map(|(side, r)| (self.effective_side(*side), r)).collect();
        for &side in self.now.sides() {
            let state = self.now.get(side);
            let stale = |r: &&Route| r.protocol == OWNER_PROTOCOL && !routes.contains(&(side, *r));
            let stale_rule = |r: &&IpRule| !rules.contains(&(side, *r));
            let stale: Vec<_> = state.routes.iter().filter(stale).cloned().collect();
            let stale_rules: Vec<_> = state.rules.iter().filter(stale_rule).cloned().collect();
            let is_unwanted_default = |r: &&Route| {
                let by = |name: &IfName| name.as_str() == r.dev && side == self.effective_side(Side::Router);
                r.protocol == RA_PROTOCOL && r.dst.prefix_len() == 0 && desired.no_ra_default.iter().any(by)
            };
            let unwanted_defaults: Vec<_> =
                state.routes.iter().filter(is_unwanted_default).cloned().collect();
            unwanted_defaults.into_iter().for_each(|route| self.push(Op::DelRoute { side, route }));
            if !desired.keep_unlisted {
                stale.into_iter().for_each(|route| self.push(Op::DelRoute { side, route }));
            }
            stale_rules.into_iter().for_each(|rule| self.push(Op::DelRule { side, rule }));
        }
        let sides = self.now.sides().iter();
        let present: HashSet<_> =
            sides.flat_map(|&side| self.now.get(side).routes.iter().map(move |r| (side, r))).collect();
        let is_missing = |(side, route): &&(Side, Route)| {
            // No route over a link that could not be created.
            let link = self.now.get(*side).link(&route.dev);
            let has_dev = route.dev.is_empty() || link.is_some_and(|l| l.ownership().is_some());
            has_dev && !present.contains(&(self.effective_side(*side), route))
        };
        let missing: Vec<_> = desired.routes.iter().filter(is_missing).cloned().collect();
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

/// The resource that a link of this kind uses exclusively.
fn unique(kind: &LinkKind) -> Option<Unique> {
    match kind {
        LinkKind::Vrf(table) => Some(Unique::Table(*table)),
        LinkKind::Vxlan(vxlan) => Some(Unique::Vxlan(vxlan.vni, vxlan.port)),
        _ => None,
    }
}

/// Whether the settings of the device can be changed to those of the tunnel. Its identifier, port and address family
/// can't be changed.
fn can_become(is: &Vxlan, tunnel: &Tunnel) -> bool {
    let same_family = is.local.is_none_or(|local| local.is_ipv6() == tunnel.local.is_ipv6());
    is.vni == tunnel.vni.get() && is.port == tunnel.port && same_family
}

#[cfg(test)]
mod growth;
#[cfg(test)]
mod tests;
