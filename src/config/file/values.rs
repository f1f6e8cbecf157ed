//! Values that only the file has.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr as _;

use ipnet::IpNet;
use serde_json::{Value as Json, json};

use crate::model::{
    Asn, IfName, Invalid, Password, PeerAddr, Ranged, RouteTarget, RouterId, Value, Vni, VrfName,
    address_with_length, raw_objection,
};

use super::names::{ADDRESS, GROUPS, no_peer, our_names};
use super::patterns::ours;
use super::read::{At, Read, number, words_of};
use super::report::Report;
use super::tree::Kind;

/// The largest raw text, in characters: frr.conf as a whole is a few hundred lines.
const RAW_LENGTH: usize = 64 << 10;

/// Where the schema has the patterns that are long, by these names.
fn defined(name: &str) -> Json {
    json!({"$ref": format!("#/$defs/{name}")})
}

/// Either of them.
fn either(names: [&str; 2]) -> Json {
    json!({"type": "string", "anyOf": names.map(defined)})
}

fn text(pattern: &str, max: usize) -> Json {
    json!({"type": "string", "pattern": pattern, "minLength": 1, "maxLength": max})
}

/// The same, but for the names of our own devices and these.
fn device(pattern: &str, reserved: &[&str]) -> Json {
    let mut schema = text(pattern, 15);
    schema["not"] = json!({"anyOf": [{"pattern": ours()}, {"enum": reserved}]});
    schema
}

words_of! {
    number Asn: json!({
        "type": "integer", "minimum": 1, "maximum": 4_294_967_294_u32, "not": {"enum": [23456, 65535]}
    });
    number Vni: json!({"type": "integer", "minimum": 1, "maximum": (1 << 24) - 1});
    number HoldTime: json!({"type": "integer", "minimum": 0, "maximum": 65535, "not": {"enum": [1, 2]}});
    scalar IfName: text("^[A-Za-z0-9_][A-Za-z0-9._-]*$", 15);
    scalar OtherDevice: device("^[A-Za-z0-9_][A-Za-z0-9._-]*$", &[]);
    scalar PeerDevice: {
        let mut schema = device("^[A-Za-z0-9_][A-Za-z0-9._-]*$", &GROUPS);
        if let Some(not) = schema["not"]["anyOf"].as_array_mut() {
            not.push(json!({"pattern": ADDRESS}));
        }
        schema
    };
    scalar RouterId: defined("ipv4Host");
    // Neither `"` and `|` nor, at the beginning, `!` and `#`.
    scalar Password: text("^[$-{}~][!#-{}~]*$", 80);
    scalar RouteTarget: defined("routeTarget");
    scalar IpNet: either(["ipv4Prefix", "ipv6Prefix"]);
    scalar ListenRange: either(["ipv4PeerPrefix", "ipv6PeerPrefix"]);
    scalar NetOf<false>: defined("ipv4Prefix");
    scalar NetOf<true>: defined("ipv6Prefix");
    scalar HostNet: either(["ipv4HostPrefix", "ipv6HostPrefix"]);
    scalar Unicast: either(["ipv4Host", "ipv6Host"]);
    scalar UnicastOf<false>: defined("ipv4Host");
    scalar UnicastOf<true>: defined("ipv6Host");
    scalar Name: text("^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", 253);
    scalar Reference: text("^[A-Za-z0-9][A-Za-z0-9._-]*$", 253);
    scalar Vrf: device("^[A-Za-z][A-Za-z0-9_-]*$", &VrfName::RESERVED);
    scalar Bridge: device("^[A-Za-z][A-Za-z0-9_-]*$", &[]);
}

impl<const MIN: u32, const MAX: u32> Read for Ranged<MIN, MAX> {
    const WORDS: bool = true;
    fn read(at: &At<'_>, report: &mut Report<'_>) -> Option<Self> {
        number(at, report)
    }
    fn schema() -> Json {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A prefix of this family.
#[derive(Debug, Clone, Copy)]
pub(super) struct NetOf<const V6: bool>(pub IpNet);

impl<const V6: bool> Value for NetOf<V6> {
    fn allowed() -> String {
        if V6 { "an IPv6 prefix such as 2001:db8::/64" } else { "an IPv4 prefix such as 198.51.100.0/24" }
            .into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        match IpNet::parse(text)? {
            net if net.addr().is_ipv6() == V6 => Ok(Self(net)),
            _ => Err(Invalid("a prefix of the other family".into())),
        }
    }
}

/// A subnet in which peers may have addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListenRange(pub IpNet);

/// Subnets of which [`unicast`] takes no address.
const NO_PEERS: [&str; 7] =
    ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"];

impl Value for ListenRange {
    fn allowed() -> String {
        "a prefix with addresses that a peer can have, such as 198.51.100.0/24".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let net = IpNet::parse(text)?;
        let has_no_peers = |other: &&&str| other.parse().is_ok_and(|other: IpNet| other.contains(&net));
        match NO_PEERS.iter().find(has_no_peers) {
            Some(other) => Err(Invalid(format!("lies in {other}, from which no peer dials"))),
            None => Ok(Self(net)),
        }
    }
}

/// A hold time in seconds, 0 or at least 3 (RFC 4271 §4.2).
#[derive(Debug, Clone, Copy)]
pub(super) struct HoldTime(pub u32);

impl Value for HoldTime {
    fn allowed() -> String {
        "0, or an integer 3-65535".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        match Ranged::<0, 65535>::parse(text)?.get() {
            1 | 2 => Err(Invalid("out of range".into())),
            seconds => Ok(Self(seconds)),
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
        let net = address_with_length(text)?;
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

/// The same of this family.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnicastOf<const V6: bool>(pub IpAddr);

impl<const V6: bool> Value for UnicastOf<V6> {
    fn allowed() -> String {
        PeerAddr::<V6>::allowed()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        match Unicast::parse(text)?.0 {
            ip if ip.is_ipv6() == V6 => Ok(Self(ip)),
            _ => Err(Invalid("an address of the other family".into())),
        }
    }
}

/// The name of a device that is not one of ours.
#[derive(Debug, Clone)]
pub(super) struct OtherDevice(pub IfName);

impl Value for OtherDevice {
    fn allowed() -> String {
        format!("{}; no device of ours: {}", IfName::allowed(), our_names())
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        IfName::parse(text).map(Self)
    }
}

/// The name of a device that a peer is on.
#[derive(Debug, Clone)]
pub(super) struct PeerDevice(pub IfName);

impl Value for PeerDevice {
    fn allowed() -> String {
        let groups = GROUPS.join(", ");
        format!("{}; not {groups}, an address, or a device of ours: {}", IfName::allowed(), our_names())
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let name = IfName::parse(text)?;
        no_peer(text).map_or(Ok(Self(name)), |reason| Err(Invalid(reason.into())))
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
        let reserved = VrfName::RESERVED.join(", ");
        format!(
            "a letter, then up to 14 of A-Z a-z 0-9 _ -; not {reserved}, nor a device of ours: {}",
            our_names()
        )
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
        format!("a letter, then up to 14 of A-Z a-z 0-9 _ -; no device of ours: {}", our_names())
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
        let blank = |c: char| " \n\t".contains(c);
        let reason = match &at.node.kind {
            Kind::Scalar(text) if text.chars().all(blank) => "is empty",
            Kind::Scalar(text) if text.chars().count() > RAW_LENGTH => "is too long",
            Kind::Scalar(text) if text.contains(control) => "has a control character",
            Kind::Scalar(text) => match raw_objection(text) {
                None => return Some(Self(text.replace('\t', " "))),
                Some(reason) => {
                    report.complain(&at.silent(), reason);
                    return None;
                }
            },
            Kind::Null => "is empty",
            _ => "not text",
        };
        report.wrong(&at.silent(), reason, "up to 65536 characters without control characters");
        None
    }
    fn schema() -> Json {
        json!({
            "type": "string",
            "maxLength": RAW_LENGTH,
            "pattern": "[^ \\n\\t]",
            "not": {"pattern": "[\\u0000-\\u0008\\u000B-\\u001F\\u007F-\\u009F]"}
        })
    }
}

/// In the place of a selector of nodes: one that selects all of them.
#[derive(Debug, Clone)]
pub(super) struct EveryNode;

impl Read for EveryNode {
    fn read(at: &At<'_>, report: &mut Report<'_>) -> Option<Self> {
        match &at.node.kind {
            Kind::Null => return Some(Self),
            Kind::Map(map) if map.is_empty() => return Some(Self),
            _ => report.complain(
                &at.silent(),
                "not supported: there is no Kubernetes API here that knows the node's labels, give each node a file of its own",
            ),
        }
        None
    }
    fn schema() -> Json {
        json!({"type": ["object", "null"], "maxProperties": 0})
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
