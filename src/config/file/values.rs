//! Values that only the file has.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr as _;

use ipnet::{IpNet, Ipv4Net};
use serde_json::{Value as Json, json};

use crate::model::{
    Asn, IfName, Invalid, Password, PeerAddr, Ranged, RouteTarget, RouterId, Value, Vni, VrfName,
};

use super::read::{At, Read, number, words_of};
use super::report::Report;
use super::tree::Kind;

/// The largest raw text: frr.conf as a whole is a few hundred lines.
const RAW_BYTES: usize = 64 << 10;

fn text(pattern: &str, max: usize) -> Json {
    json!({"type": "string", "pattern": pattern, "minLength": 1, "maxLength": max})
}

words_of! {
    number Asn: json!({"type": "integer", "minimum": 1, "maximum": 4_294_967_294_u32});
    number Vni: json!({"type": "integer", "minimum": 1, "maximum": (1 << 24) - 1});
    scalar IfName: text("^[A-Za-z0-9_][A-Za-z0-9._-]*$", 15);
    scalar RouterId: json!({"type": "string", "format": "ipv4"});
    scalar Password: text("^[!-~]+$", 80);
    scalar RouteTarget: text("^[0-9.]+:[0-9]+$", 21);
    scalar IpNet: text("^[0-9A-Fa-f.:]+/[0-9]{1,3}$", 43);
    scalar Net4: text("^[0-9.]+/[0-9]{1,2}$", 18);
    scalar HostNet: text("^[0-9A-Fa-f.:]+/[0-9]{1,3}$", 43);
    scalar Unicast: text("^[0-9A-Fa-f.:]+$", 39);
    scalar Name: text("^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", 253);
    scalar Reference: text("^[A-Za-z0-9][A-Za-z0-9._-]*$", 253);
    scalar Vrf: text("^[A-Za-z][A-Za-z0-9_-]*$", 15);
    scalar Bridge: text("^[A-Za-z][A-Za-z0-9_-]*$", 15);
}

impl<const MIN: u32, const MAX: u32> Read for Ranged<MIN, MAX> {
    fn read(at: &At<'_>, report: &mut Report<'_>) -> Option<Self> {
        number(at, report)
    }
    fn schema() -> Json {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// An IPv4 prefix.
#[derive(Debug, Clone, Copy)]
pub(super) struct Net4(pub Ipv4Net);

impl Value for Net4 {
    fn allowed() -> String {
        "an IPv4 prefix such as 198.51.100.0/24".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        match IpNet::parse(text)? {
            IpNet::V4(net) => Ok(Self(net)),
            IpNet::V6(_) => Err(Invalid("not an IPv4 prefix".into())),
        }
    }
}

/// The address of a host, and the length of its subnet's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HostNet(pub IpNet);

impl Value for HostNet {
    fn allowed() -> String {
        "a host's address with its prefix length, such as 198.51.100.1/24".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let net = IpNet::from_str(text).map_err(|_| Invalid("not an address with a prefix length".into()))?;
        unicast(net.addr())?;
        host_of(net)?;
        Ok(Self(net))
    }
}

/// Refuses the address of the subnet itself and the broadcast address (RFC 4291 §2.6.1, RFC 3021, RFC 6164).
pub(super) fn host_of(net: IpNet) -> Result<(), Invalid> {
    let host_bits = net.max_prefix_len() - net.prefix_len();
    if host_bits > 1 && net.addr() == net.network() {
        return Err(Invalid("the address of the subnet, not of a host".into()));
    }
    if host_bits > 1 && net.addr().is_ipv4() && net.addr() == net.broadcast() {
        return Err(Invalid("the broadcast address of the subnet, not of a host".into()));
    }
    Ok(())
}

/// Refuses what is no host's address, or none beyond its link.
pub(super) fn unicast(ip: IpAddr) -> Result<(), Invalid> {
    let text = ip.to_string();
    match ip {
        IpAddr::V4(_) => PeerAddr::<false>::parse(&text).map(drop),
        IpAddr::V6(_) => PeerAddr::<true>::parse(&text).map(drop),
    }
}

/// The address of a host of either family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unicast(pub IpAddr);

impl Value for Unicast {
    fn allowed() -> String {
        "a unicast IPv4 address, or a global or unique-local IPv6 address".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let ip = IpAddr::from_str(text).map_err(|_| Invalid("not an IP address".into()))?;
        unicast(ip)?;
        Ok(Self(ip))
    }
}

/// What a VNI is called in the file, as Kubernetes names its objects.
#[derive(Debug, Clone)]
pub(super) struct Name(pub String);

impl Value for Name {
    fn allowed() -> String {
        "1-253 of a-z 0-9 . -, not . or - at the ends".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        if text.len() > 253 || !text.bytes().all(plain) {
            return Err(Invalid("longer than 253 characters, or has others than a-z 0-9 . -".into()));
        }
        if text.starts_with(['-', '.']) || text.ends_with(['-', '.']) {
            return Err(Invalid("begins or ends with . or -".into()));
        }
        Ok(Self(text.into()))
    }
}

/// The name of another object: given, or that of its VRF.
#[derive(Debug, Clone)]
pub(super) struct Reference(pub String);

impl Value for Reference {
    fn allowed() -> String {
        "the name of an l3vni".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if text.len() > 253 || !text.bytes().all(plain) || text.starts_with(['-', '.', '_']) {
            return Err(Invalid("not a name".into()));
        }
        Ok(Self(text.into()))
    }
}

/// A device of the operator's naming: a letter first, and no dot, which sysctl paths have a meaning for.
fn device_name(text: &str) -> Result<(), Invalid> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    if text.is_empty() || text.len() > 15 {
        return Err(Invalid("must have 1 to 15 characters".into()));
    }
    if !text.starts_with(|c: char| c.is_ascii_alphabetic()) || !text.bytes().all(plain) {
        return Err(Invalid("does not begin with a letter, or has others than A-Z a-z 0-9 _ -".into()));
    }
    Ok(())
}

/// The name of a VNI's VRF.
#[derive(Debug, Clone)]
pub(super) struct Vrf(pub VrfName);

impl Value for Vrf {
    fn allowed() -> String {
        "a letter, then up to 14 of A-Z a-z 0-9 _ -; not default, all or lo".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        device_name(text)?;
        VrfName::parse(text).map(Self)
    }
}

/// The name of a bridge of the host.
#[derive(Debug, Clone)]
pub(super) struct Bridge(pub IfName);

impl Value for Bridge {
    fn allowed() -> String {
        "a letter, then up to 14 of A-Z a-z 0-9 _ -".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        device_name(text)?;
        IfName::parse(text).map(Self)
    }
}

/// Lines for frr.conf as they are, but for tabs: what is indented by one begins with a blank for FRR and for us. They may
/// hold passwords.
#[derive(Debug, Clone)]
pub(super) struct RawText(pub String);

impl Read for RawText {
    const SECRET: bool = true;
    fn read(at: &At<'_>, report: &mut Report<'_>) -> Option<Self> {
        let control = |c: char| c.is_control() && c != '\n' && c != '\t';
        let reason = match &at.node.kind {
            Kind::Scalar(text) if text.trim().is_empty() => "is empty",
            Kind::Scalar(text) if text.len() > RAW_BYTES => "is too long",
            Kind::Scalar(text) if text.contains(control) => "has a control character",
            Kind::Scalar(text) => return Some(Self(text.replace('\t', " "))),
            Kind::Null => "is empty",
            _ => "not text",
        };
        report.wrong(&at.silent(), reason, "up to 64 KiB of text without control characters");
        None
    }
    fn schema() -> Json {
        json!({"type": "string", "minLength": 1, "maxLength": RAW_BYTES})
    }
}

/// The number of a node.
pub(super) type Index = Ranged<0, 16_777_215>;

/// A UDP or TCP port.
pub(super) type Port = Ranged<1, 65535>;

/// The cluster-id of a route reflector that is not given one: upstream's, of TEST-NET-1 (RFC 5737).
pub(super) const CLUSTER_ID: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// VXLAN's UDP port (RFC 7348 §5).
pub(super) const VXLAN_PORT: u16 = 4789;
