//! What the kernel shall have.

use std::fmt;

use ipnet::IpNet;

use super::{IfName, MacAddr, Route, Rule, Side, Tunnel, Vni};

/// Everything that we keep in the kernel. What carries our mark and is not in here goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Links in the order in which they can be built.
    pub links: Vec<LinkSpec>,
    /// Sysctls, global ones first.
    pub sysctls: Vec<Sysctl>,
    /// Routes of ours.
    pub routes: Vec<(Side, Route)>,
    /// Links of FRR's namespace by which no default route leads that was learnt from a router advertisement.
    pub no_advertised_default: Vec<IfName>,
    /// Rules of ours.
    pub rules: Vec<(Side, Rule)>,
    /// Connection marks in the host namespace.
    pub marks: Option<ReturnPath>,
    /// Links of ours that are not in here stay: something could not be read that may name them.
    pub keep_others: bool,
}

/// Only in the builds that measure: see `tests/bench.rs`.
#[cfg(feature = "lab")]
impl Desired {
    /// The same as far as a kernel goes that has neither VRFs nor dummies: bridges stand for both, with nothing in them.
    #[must_use]
    pub fn for_plain_kernel(mut self) -> Self {
        let is_vrf = |l: &&LinkSpec| matches!(l.kind, SpecKind::Vrf(_));
        let vrfs: Vec<_> = self.links.iter().filter(is_vrf).map(|l| l.name.clone()).collect();
        for link in &mut self.links {
            if matches!(link.kind, SpecKind::Vrf(_) | SpecKind::Dummy) {
                link.kind = SpecKind::Bridge;
                link.addresses.clear();
            }
            link.master.take_if(|master| vrfs.contains(master));
        }
        self.sysctls.retain(|sysctl| !sysctl.path.starts_with("net/vrf/"));
        self
    }
}

/// What a link is part of: what can't be built of one part leaves the others alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// What everything else stands on.
    #[default]
    Base,
    /// One VNI.
    Vni(Vni),
    /// The pass-through pair.
    Passthrough,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.write_str("base"),
            Self::Vni(vni) => write!(f, "VNI {vni}"),
            Self::Passthrough => f.write_str("l3passthrough"),
        }
    }
}

/// A link that shall be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSpec {
    /// Where.
    pub side: Side,
    /// Its name.
    pub name: IfName,
    /// What it is.
    pub kind: SpecKind,
    /// MTU in bytes, if it matters.
    pub mtu: Option<u32>,
    /// The VRF or bridge that it is a port of.
    pub master: Option<IfName>,
    /// Its MAC address, if it matters.
    pub mac: Option<MacAddr>,
    /// Without a link-local address of its own.
    pub addr_gen_none: bool,
    /// What it is part of.
    pub part: Part,
    /// Addresses. On a link that we made there are no others.
    pub addresses: Vec<IpNet>,
}

/// What a wanted link is, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpecKind {
    /// Someone else's, only to be up.
    Foreign,
    /// A NIC, and where it was found: it is fetched from there, with its addresses.
    Nic(Side),
    /// A VRF over this table.
    Vrf(u32),
    /// One end of a veth pair, whose other end is this one.
    Veth(Side, IfName),
    /// A dummy.
    Dummy,
    /// A bridge.
    Bridge,
    /// A VXLAN: a port of a bridge, which FRR tells who is behind it.
    Vxlan(Tunnel),
    /// A macvlan on this NIC of the host.
    Macvlan(IfName),
}

impl LinkSpec {
    /// A link of which nothing more matters.
    pub fn new(side: Side, name: IfName, kind: SpecKind) -> Self {
        Self {
            side,
            name,
            kind,
            mtu: None,
            master: None,
            mac: None,
            addr_gen_none: false,
            part: Part::Base,
            addresses: vec![],
        }
    }

    /// Whether we make it, rather than find it.
    pub fn is_made(&self) -> bool {
        !matches!(self.kind, SpecKind::Foreign | SpecKind::Nic(_))
    }
}

/// A kernel parameter below `/proc/sys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// In which namespace.
    pub side: Side,
    /// Path below `/proc/sys`, with slashes (an interface name may have dots).
    pub path: String,
    /// What it shall say.
    pub value: &'static str,
}

impl Sysctl {
    /// The link that it is about, if it is about one: `net/ipv4/conf/<link>/…`.
    pub fn link(&self) -> Option<&str> {
        let mut parts = self.path.splitn(5, '/').skip(2);
        let of_links = matches!(parts.next(), Some("conf" | "neigh"));
        parts.next().filter(|link| of_links && !matches!(*link, "all" | "default"))
    }
}

/// Connection marks for replies that must leave by the interface that the request came in by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnPath {
    /// That interface.
    pub dev: IfName,
    /// The bit to mark with.
    pub mark: u32,
}
