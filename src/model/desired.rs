//! The desired state of the kernel.

use std::fmt;

use ipnet::IpNet;

use super::{IfName, IpRule, MacAddr, Route, Side, Tunnel, Vni};

/// All managed kernel objects. A managed object that is not listed here is removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Links in an order in which they can be created.
    pub links: Vec<LinkSpec>,
    /// Sysctls, global ones first.
    pub sysctls: Vec<Sysctl>,
    /// Managed routes.
    pub routes: Vec<(Side, Route)>,
    /// Links of FRR's namespace on which default routes from router advertisements are removed.
    pub no_ra_default: Vec<IfName>,
    /// Managed rules.
    pub rules: Vec<(Side, IpRule)>,
    /// Connection marks in the host namespace.
    pub marks: Option<ReturnPath>,
    /// Whether to keep managed links that are not listed here, because unreadable configuration may name them.
    pub keep_unlisted: bool,
}

/// Only in builds for measurements, see `tests/bench.rs`.
#[cfg(feature = "lab")]
impl Desired {
    /// The state for a kernel without VRFs and dummies: empty bridges replace both.
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

/// The unit of failure of a link. A component that cannot be created does not affect the other components.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// The objects that all other components need.
    #[default]
    Base,
    /// One VNI.
    Vni(Vni),
    /// The pass-through pair.
    Passthrough,
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.write_str("base"),
            Self::Vni(vni) => write!(f, "VNI {vni}"),
            Self::Passthrough => f.write_str("l3passthrough"),
        }
    }
}

/// The desired state of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSpec {
    /// Its namespace.
    pub side: Side,
    /// Its name.
    pub name: IfName,
    /// Its kind.
    pub kind: SpecKind,
    /// MTU in bytes. `None`: any.
    pub mtu: Option<u32>,
    /// The VRF or bridge that it is a port of.
    pub master: Option<IfName>,
    /// Its MAC address. `None`: any.
    pub mac: Option<MacAddr>,
    /// Whether IPv6 generates no link-local address for it.
    pub addr_gen_none: bool,
    /// The component that it belongs to.
    pub component: Component,
    /// Its addresses. A created link has no others.
    pub addresses: Vec<IpNet>,
}

/// The kind of a desired link, and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpecKind {
    /// A link of another owner. It is only set up.
    Foreign,
    /// A NIC and the namespace in which it was found. It is moved from there with its addresses.
    Nic(Side),
    /// A VRF with this routing table.
    Vrf(u32),
    /// One end of a veth pair, with the other end.
    Veth(Side, IfName),
    /// A dummy.
    Dummy,
    /// A bridge.
    Bridge,
    /// A VXLAN device: a bridge port whose remote VTEPs come from FRR.
    Vxlan(Tunnel),
    /// A macvlan on this NIC of the host.
    Macvlan(IfName),
}

impl LinkSpec {
    /// A link without further requirements.
    pub fn new(side: Side, name: IfName, kind: SpecKind) -> Self {
        Self {
            side,
            name,
            kind,
            mtu: None,
            master: None,
            mac: None,
            addr_gen_none: false,
            component: Component::Base,
            addresses: vec![],
        }
    }

    /// Whether the program creates the link. Otherwise it exists already.
    pub fn is_created(&self) -> bool {
        !matches!(self.kind, SpecKind::Foreign | SpecKind::Nic(_))
    }
}

/// A kernel parameter below `/proc/sys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Its namespace.
    pub side: Side,
    /// Path below `/proc/sys`, with slashes (an interface name may have dots).
    pub path: String,
    /// The desired value.
    pub value: &'static str,
}

impl Sysctl {
    /// The link of the parameter, if it is a per-link one: `net/ipv4/conf/<link>/…`.
    pub fn link(&self) -> Option<&str> {
        let mut parts = self.path.splitn(5, '/').skip(2);
        let of_links = matches!(parts.next(), Some("conf" | "neigh"));
        parts.next().filter(|link| of_links && !matches!(*link, "all" | "default"))
    }
}

/// Connection marks for replies that must leave by the interface on which the request arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnPath {
    /// That interface.
    pub dev: IfName,
    /// The mark bit.
    pub mark: u32,
}
