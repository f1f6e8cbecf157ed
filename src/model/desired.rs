//! What the kernel shall have.

use ipnet::IpNet;

use super::{IfName, Route, Rule, Side};

/// Everything that we keep in the kernel. What carries our mark and is not in here goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Links in the order in which they can be built.
    pub links: Vec<LinkSpec>,
    /// Sysctls, global ones first.
    pub sysctls: Vec<Sysctl>,
    /// Routes of ours.
    pub routes: Vec<(Side, Route)>,
    /// Rules of ours.
    pub rules: Vec<(Side, Rule)>,
    /// Connection marks in the host namespace.
    pub marks: Option<ReturnPath>,
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

/// Connection marks for replies that must leave by the interface that the request came in by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnPath {
    /// That interface.
    pub dev: IfName,
    /// The bit to mark with.
    pub mark: u32,
}
