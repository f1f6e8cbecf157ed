//! What the kernel has and what it shall have → the changes between the two, in an order that works. Pure.
//!
//! Every change is foreseen on a copy of the state before the next one is decided, so a plan carried
//! out leaves nothing to plan. Only links that carry our mark are changed or removed.

use ipnet::IpNet;

use crate::model::{
    Desired, IfName, Link, LinkKind, LinkSpec, Marks, Namespaces, OWNER_PROTOCOL, Role, Route, Rule, Side,
    SpecKind, Sysctl,
};

use super::Op;

/// The changes, and what stands in the way of others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which to do them.
    pub ops: Vec<Op>,
    /// Sentences about what can't be built because something foreign has its place.
    pub conflicts: Vec<String>,
}

/// Works out the changes that lead from `now` to `desired`.
pub fn plan(desired: &Desired, now: &Namespaces) -> Plan {
    let mut planner = Planner { now: now.clone(), plan: Plan::default() };
    let (global, of_links): (Vec<_>, Vec<_>) =
        desired.sysctls.iter().partition(|s| !desired.links.iter().any(|l| is_of(s, l)));
    // Global ones first: a link takes the defaults over when it comes into the namespace.
    global.into_iter().for_each(|s| planner.sysctl(s));
    planner.remove_unwanted(desired);
    for spec in &desired.links {
        if planner.link(spec) {
            // Before the link goes up: some take effect then.
            of_links.iter().filter(|s| is_of(s, spec)).for_each(|s| planner.sysctl(s));
            planner.settings(spec);
        }
    }
    planner.routing(desired);
    planner.plan
}

fn is_of(sysctl: &Sysctl, link: &LinkSpec) -> bool {
    sysctl.side == link.side && sysctl.path.split('/').any(|part| part == link.name.as_str())
}

struct Planner {
    now: Namespaces,
    plan: Plan,
}

impl Planner {
    fn push(&mut self, op: Op) {
        op.foresee(&mut self.now);
        self.plan.ops.push(op);
    }

    fn sysctl(&mut self, wanted: &Sysctl) {
        // With one namespace for both sides a setting may be listed for each; `get` makes them one.
        let now = self.now.get(wanted.side).sysctls.get(&wanted.path);
        if now.and_then(Option::as_deref) != Some(wanted.value) {
            self.push(Op::SetSysctl(wanted.clone()));
        }
    }

    /// Removes what carries our mark and is not wanted; a NIC goes home with its addresses.
    fn remove_unwanted(&mut self, desired: &Desired) {
        for &side in self.now.sides() {
            for link in self.now.get(side).links.clone() {
                // A NIC that came home from a namespace stays as it was, without our mark.
                let home = matches!(link.role(), Some(Role::Nic(_))) && self.now.router.is_none();
                let wanted = |spec: &&LinkSpec| {
                    !home && self.same_place(spec.side, side) && spec.name.as_str() == link.name
                };
                if desired.links.iter().any(|spec| wanted(&spec)) {
                    continue;
                }
                // The other end of a pair may have gone with it already.
                if self.now.get(side).link(&link.name).is_none() {
                    continue;
                }
                match link.role() {
                    None => {}
                    Some(Role::Made) => self.push(Op::Delete { side, name: link.name }),
                    Some(Role::Nic(addresses)) => self.send_home(side, link.name, addresses),
                }
            }
        }
    }

    fn same_place(&self, a: Side, b: Side) -> bool {
        a == b || self.now.router.is_none()
    }

    fn send_home(&mut self, from: Side, name: String, addresses: Vec<IpNet>) {
        let side = Side::Host;
        if !self.same_place(from, side) {
            if self.now.get(side).link(&name).is_some() {
                return self.conflict(format!(
                    "{side}: {name} can't come home, its name is taken: rename the other"
                ));
            }
            self.push(Op::Move { from, to: side, name: name.clone() });
        }
        self.add_addresses(side, &name, &addresses);
        if self.now.get(side).link(&name).is_some_and(|link| !link.up) {
            self.push(Op::SetUp { side, name: name.clone() });
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
            SpecKind::Vrf(table) => self.vrf(spec, *table),
            SpecKind::Veth(peer_side, peer) => self.veth(spec, (*peer_side, peer.clone())),
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
            if link.role() != Some(role.clone()) {
                self.push(Op::Mark { side: to, name, role, group: true });
            }
            return true;
        }
        let Some(link) = self.now.get(from).link(&name) else {
            self.conflict(format!("{from}: {name} was there a moment ago and is gone"));
            return false;
        };
        if link.alias.as_deref() != Some(&role.alias()) {
            self.push(Op::Mark { side: from, name: name.clone(), role, group: false });
        }
        self.push(Op::Move { from, to, name });
        true
    }

    fn vrf(&mut self, spec: &LinkSpec, table: u32) -> bool {
        let side = spec.side;
        let kind = LinkKind::Vrf(table);
        let mut rivals =
            self.now.get(side).links.iter().filter(|l| l.kind == kind && l.name != spec.name.as_str());
        if let Some(rival) = rivals.next().cloned() {
            if rival.role() != Some(Role::Made) {
                self.conflict(format!(
                    "{side}: table {table} of VRF {} is taken by VRF {}, which is not ours: \
                     choose another METALLB_VRF_ROUTE_TABLE_ID",
                    spec.name, rival.name
                ));
                return false;
            }
            self.push(Op::Delete { side, name: rival.name });
        }
        if self.clear_the_way(spec, |link| link.kind == kind) {
            self.push(Op::CreateVrf { side, name: spec.name.clone(), table });
        }
        self.is_ours(spec)
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
            self.push(Op::CreateVeth { end: (spec.side, spec.name.clone()), peer });
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
        if !self.plan.conflicts.contains(&sentence) {
            self.plan.conflicts.push(sentence);
        }
    }

    /// Alias, MTU, master, addresses, up: whatever is not as wanted.
    fn settings(&mut self, spec: &LinkSpec) {
        let (side, name) = (spec.side, spec.name.clone());
        let Some(link) = self.now.get(side).link(name.as_str()).cloned() else { return };
        let made = matches!(spec.kind, SpecKind::Vrf(_) | SpecKind::Veth(..));
        if made && link.alias.is_none() {
            self.push(Op::Mark { side, name: name.to_string(), role: Role::Made, group: true });
        }
        if let Some(mtu) = spec.mtu
            && mtu != link.mtu
        {
            self.push(Op::SetMtu { side, name: name.clone(), mtu });
        }
        if let Some(master) = &spec.master
            && link.master.as_deref() != Some(master.as_str())
            && self.now.get(side).link(master.as_str()).is_some()
        {
            self.push(Op::SetMaster { side, name: name.clone(), master: master.clone() });
        }
        if made {
            for address in link.addresses.iter().filter(|a| !spec.addresses.contains(&a.net)) {
                self.push(Op::DelAddress { side, name: name.clone(), net: address.net });
            }
        }
        self.add_addresses(side, name.as_str(), &spec.addresses);
        if !link.up {
            self.push(Op::SetUp { side, name: name.to_string() });
        }
    }

    fn routing(&mut self, desired: &Desired) {
        for &side in self.now.sides() {
            let state = self.now.get(side);
            let stale = |r: &&Route| {
                let wanted = desired.routes.iter().any(|(s, w)| self.same_place(*s, side) && w == *r);
                r.protocol == OWNER_PROTOCOL && !wanted
            };
            let stale_rule =
                |r: &&Rule| !desired.rules.iter().any(|(s, w)| self.same_place(*s, side) && w == *r);
            let stale: Vec<_> = state.routes.iter().filter(stale).cloned().collect();
            let stale_rules: Vec<_> = state.rules.iter().filter(stale_rule).cloned().collect();
            stale.into_iter().for_each(|route| self.push(Op::DelRoute { side, route }));
            stale_rules.into_iter().for_each(|rule| self.push(Op::DelRule { side, rule }));
        }
        for (side, route) in &desired.routes {
            // Nothing goes through a link that could not be made.
            let dev = self.now.get(*side).link(&route.dev).is_some_and(|l| l.role().is_some());
            if dev && !self.now.get(*side).routes.contains(route) {
                self.push(Op::AddRoute { side: *side, route: route.clone() });
            }
        }
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

#[cfg(test)]
mod tests;
