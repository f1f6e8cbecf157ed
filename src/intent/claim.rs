//! What an object uses that others may use, too, and what it needs of them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::offer::{Content, Origin, Reason};
use crate::model::{IfName, Vni, VrfName};

/// Something that objects use.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// A VXLAN network identifier.
    Vni(Vni),
    /// A VRF.
    Vrf(VrfName),
    /// The name of a device in FRR's namespace.
    Device(IfName),
    /// What has this name: a VRF or an interface.
    Kind(IfName),
    /// The namespace of the device with this name.
    Namespace(IfName),
    /// A BGP neighbor, by its name in FRR.
    Neighbor(String),
    /// A name among the objects of a kind.
    Name(&'static str, String),
    /// A VTEP.
    Vtep,
    /// A VTEP with an address of a family. `true`: IPv6.
    VtepOf(bool),
}

impl Key {
    /// Why a claim with this key is refused: `origin` claims it with `value`, or alone.
    fn conflict(&self, value: Option<&str>, origin: &str) -> String {
        let value = value.unwrap_or("something else");
        match self {
            Self::Vni(_) => format!("already the VNI of {origin}"),
            Self::Vrf(_) => format!("already the VRF of {origin}"),
            Self::Device(name) => format!("{name} is already the name of a device: {origin}"),
            Self::Kind(_) => format!("the name of {value}: {origin}"),
            Self::Namespace(name) => format!("{name} is {value} for {origin}"),
            Self::Neighbor(_) => format!("already a neighbor: {origin}"),
            Self::Name(_, name) => format!("{name:?} is already the name of {origin}"),
            Self::Vtep | Self::VtepOf(_) => format!("differs from {value} of {origin}"),
        }
    }

    /// Why an object that needs this key has to wait.
    pub(super) fn missing(&self) -> String {
        match self {
            Self::Name(kind, name) => {
                format!("needs the {kind} {name:?}, which does not exist or is left out")
            }
            Self::VtepOf(v6) => {
                let family = if *v6 { "IPv6" } else { "IPv4" };
                format!("needs an {family} address in underlay.tunnelEndpoint")
            }
            _ => "needs underlay.tunnelEndpoint, which is missing or left out".into(),
        }
    }
}

/// The use of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What is used.
    pub key: Key,
    /// `None`: nobody else may use it. A value: others may use it with the same value.
    pub value: Option<String>,
    /// The value that claims it.
    pub origin: Origin,
}

/// What an object needs of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// What another object must provide.
    pub key: Key,
    /// The value that needs it.
    pub origin: Origin,
}

/// Where subnets must not overlap.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Space {
    /// The host namespace.
    Host,
    /// The default VRF of FRR's namespace.
    Default,
    /// The routing domain of an L3VNI, by its name.
    Domain(String),
    /// The ranges from which neighbors connect.
    Listen,
    /// BGP identifiers.
    RouterIds,
}

/// What objects use. Each use has an owner, by number.
#[derive(Debug, Default)]
pub(super) struct Uses<'a> {
    keys: HashMap<&'a Key, Vec<(usize, &'a Claim)>>,
    /// By space and first address. Two subnets of a space overlap only if they have one owner.
    subnets: HashMap<&'a Space, BTreeMap<IpAddr, (usize, IpNet, &'a Origin)>>,
}

impl<'a> Uses<'a> {
    /// The owner of a use that conflicts with `content` of `owner`. `ignores`: whether another owner does not count.
    pub fn rival<F>(
        &self,
        owner: usize,
        content: &Content<F>,
        ignores: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let counts = |other: usize| other != owner && !ignores(other);
        let claim = content.claims.iter().find_map(|claim| self.conflicting(claim, &counts));
        claim.map(|(other, _)| other).or_else(|| {
            let nets = content.subnets.iter();
            nets.filter_map(|(space, net, _)| self.overlapping(space, *net, &counts))
                .map(|(other, ..)| *other)
                .next()
        })
    }

    /// Every conflict of `content` of `owner` with the uses of others. `name`: what another owner is called instead of its
    /// origin.
    pub fn conflicts<F>(
        &self,
        owner: usize,
        content: &Content<F>,
        name: &dyn Fn(usize) -> Option<String>,
    ) -> Vec<Reason> {
        let counts = |other: usize| other != owner;
        let of = |other: usize, origin: &Origin| name(other).unwrap_or_else(|| origin.to_string());
        let claims = content.claims.iter().filter_map(|claim| {
            let (other, rival) = self.conflicting(claim, &counts)?;
            let text = claim.key.conflict(rival.value.as_deref(), &of(other, &rival.origin));
            Some(Reason { origin: Some(claim.origin.clone()), text })
        });
        let subnets = content.subnets.iter().filter_map(|(space, net, origin)| {
            let (other, used, rival) = self.overlapping(space, *net, &counts)?;
            let rival = of(*other, rival);
            let text = match used.prefix_len() == used.max_prefix_len() {
                true => format!("overlaps with {}, which is {rival}", used.addr()),
                false => format!("overlaps with {used} of {rival}"),
            };
            Some(Reason { origin: Some(origin.clone()), text })
        });
        claims.chain(subnets).collect()
    }

    /// A use of the same key that `counts`, unless both have the same value.
    fn conflicting(&self, claim: &Claim, counts: &dyn Fn(usize) -> bool) -> Option<(usize, &'a Claim)> {
        let uses = self.keys.get(&claim.key).into_iter().flatten();
        let is_rival =
            |other: &Claim| claim.value.is_none() || other.value.is_none() || other.value != claim.value;
        uses.copied().find(|(owner, other)| counts(*owner) && is_rival(other))
    }

    /// A subnet that `counts` and overlaps `net`. Those that overlap `net` are the last ones that begin at or before its
    /// end.
    fn overlapping(
        &self,
        space: &Space,
        net: IpNet,
        counts: &dyn Fn(usize) -> bool,
    ) -> Option<&(usize, IpNet, &'a Origin)> {
        let last = self.subnets.get(space)?.range(..=net.broadcast()).rev().map(|(_, used)| used);
        let mut overlapping =
            last.take_while(|(_, used, _)| used.contains(&net.network()) || net.contains(&used.network()));
        overlapping.find(|(owner, ..)| counts(*owner))
    }

    /// Adds uses that conflict with none.
    pub fn add<F>(&mut self, owner: usize, content: &'a Content<F>) {
        for claim in &content.claims {
            self.keys.entry(&claim.key).or_default().push((owner, claim));
        }
        for (space, net, origin) in &content.subnets {
            self.subnets.entry(space).or_default().insert(net.network(), (owner, *net, origin));
        }
    }

    /// Removes the uses of `owner`.
    pub fn remove<F>(&mut self, owner: usize, content: &Content<F>) {
        for claim in &content.claims {
            if let Some(uses) = self.keys.get_mut(&claim.key) {
                uses.retain(|(other, _)| *other != owner);
            }
        }
        for (space, net, _) in &content.subnets {
            if let Some(nets) = self.subnets.get_mut(space) {
                nets.remove(&net.network());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_subnets_are_found() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let subnet = |text: &str| (Space::Host, net(text), Origin { object: text.into(), location: None });
        let content = Content {
            subnets: ["10.0.0.0/24", "10.0.2.0/24", "2001:db8::/64"].map(subnet).into(),
            ..Content::new(())
        };
        let mut uses = Uses::default();
        uses.add(0, &content);
        for (text, whose) in [
            ("10.0.0.128/25", Some("10.0.0.0/24")),
            ("10.0.1.0/24", None),
            ("10.0.2.0/32", Some("10.0.2.0/24")),
            ("10.0.2.0/23", Some("10.0.2.0/24")),
            ("9.0.0.0/8", None),
            ("2001:db8::1/128", Some("2001:db8::/64")),
            ("2001:db8:1::/64", None),
        ] {
            let found = uses.overlapping(&Space::Host, net(text), &|_| true);
            assert_eq!(found.map(|(_, _, who)| &*who.object), whose, "{text}");
            assert!(uses.overlapping(&Space::Host, net(text), &|owner| owner != 0).is_none());
            assert!(uses.overlapping(&Space::Default, net(text), &|_| true).is_none());
        }
    }
}
