//! Value types of the configuration file.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr as _;

use ipnet::IpNet;
use serde_json::{Value as Json, json};

use crate::model::{
    Asn, IfName, Invalid, Password, PeerAddr, Ranged, RouteTarget, RouterId, Value, Vni, VrfName,
    address_with_length, raw_lines_error,
};

use super::names::{IPV4_LIKE, PEER_GROUPS, managed_device_names, peer_interface_error};
use super::patterns::managed_device_pattern;
use super::read::{FromYaml, YamlRef, impl_from_yaml, number};
use super::report::Report;
use super::tree::YamlKind;

/// The longest raw text, in characters. A complete frr.conf has a few hundred lines.
const RAW_LENGTH: usize = 64 << 10;

/// A reference to a definition of the schema. Long patterns are defined there.
fn defined(name: &str) -> Json {
    json!({"$ref": format!("#/$defs/{name}")})
}

/// A value that matches one of two definitions.
fn either(names: [&str; 2]) -> Json {
    json!({"type": "string", "anyOf": names.map(defined)})
}

fn text(pattern: &str, max: usize) -> Json {
    json!({"type": "string", "pattern": pattern, "minLength": 1, "maxLength": max})
}

/// A device name other than those of the managed devices and `reserved`.
fn device(pattern: &str, reserved: &[&str]) -> Json {
    let mut schema = text(pattern, 15);
    schema["not"] = json!({"anyOf": [{"pattern": managed_device_pattern()}, {"enum": reserved}]});
    schema
}

impl_from_yaml! {
    number Asn: json!({
        "type": "integer", "minimum": 1, "maximum": 4_294_967_294_u32, "not": {"enum": [23456, 65535]}
    });
    number Vni: json!({"type": "integer", "minimum": 1, "maximum": (1 << 24) - 1});
    number HoldTime: json!({"type": "integer", "minimum": 0, "maximum": 65535, "not": {"enum": [1, 2]}});
    scalar IfName: text("^[A-Za-z0-9_][A-Za-z0-9._-]*$", 15);
    scalar UnmanagedDevice: device("^[A-Za-z0-9_][A-Za-z0-9._-]*$", &[]);
    scalar PeerInterface: {
        let mut schema = device("^[A-Za-z0-9_][A-Za-z0-9._-]*$", &PEER_GROUPS);
        if let Some(not) = schema["not"]["anyOf"].as_array_mut() {
            not.push(json!({"pattern": IPV4_LIKE}));
        }
        schema
    };
    scalar RouterId: defined("ipv4Host");
    // Without `"` and `|`, and without `!` and `#` at the start.
    scalar Password: text("^[$-{}~][!#-{}~]*$", 80);
    scalar RouteTarget: defined("routeTarget");
    scalar IpNet: either(["ipv4Prefix", "ipv6Prefix"]);
    scalar ListenRange: either(["ipv4PeerPrefix", "ipv6PeerPrefix"]);
    scalar NetOf<false>: defined("ipv4Prefix");
    scalar NetOf<true>: defined("ipv6Prefix");
    scalar InterfaceAddress: either(["ipv4HostPrefix", "ipv6HostPrefix"]);
    scalar UnicastAddress: either(["ipv4Host", "ipv6Host"]);
    scalar UnicastAddressOf<false>: defined("ipv4Host");
    scalar UnicastAddressOf<true>: defined("ipv6Host");
    scalar EntryName: text("^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", 253);
    scalar ReferenceName: text("^[A-Za-z0-9][A-Za-z0-9._-]*$", 253);
    scalar VniVrfName: device("^[A-Za-z][A-Za-z0-9_-]*$", &VrfName::RESERVED);
    scalar BridgeName: device("^[A-Za-z][A-Za-z0-9_-]*$", &[]);
}

impl<const MIN: u32, const MAX: u32> FromYaml for Ranged<MIN, MAX> {
    const IS_WORD: bool = true;
    fn from_yaml(at: &YamlRef<'_>, report: &mut Report<'_>) -> Option<Self> {
        number(at, report)
    }
    fn schema() -> Json {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A prefix of one address family.
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

/// A subnet that may contain peers.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListenRange(pub IpNet);

/// Subnets that [`require_unicast`] rejects completely.
const NON_PEER_NETS: [&str; 7] =
    ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"];

impl Value for ListenRange {
    fn allowed() -> String {
        "a prefix that contains peer addresses, such as 198.51.100.0/24".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let net = IpNet::parse(text)?;
        let has_no_peers = |other: &&&str| other.parse().is_ok_and(|other: IpNet| other.contains(&net));
        match NON_PEER_NETS.iter().find(has_no_peers) {
            Some(other) => Err(Invalid(format!("is in {other}, which contains no peer addresses"))),
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

/// A host address with the prefix length of its subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InterfaceAddress(pub IpNet);

impl Value for InterfaceAddress {
    fn allowed() -> String {
        "a host address with its prefix length, such as 198.51.100.1/24".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let net = address_with_length(text)?;
        require_unicast(net.addr())?;
        require_host_address(net)?;
        Ok(Self(net))
    }
}

/// Rejects the network address and the broadcast address (RFC 4291 §2.6.1, RFC 3021, RFC 6164).
pub(super) fn require_host_address(net: IpNet) -> Result<(), Invalid> {
    let host_bits = net.max_prefix_len() - net.prefix_len();
    if host_bits > 1 && net.addr() == net.network() {
        return Err(Invalid("the address of the subnet, not of a host".into()));
    }
    if host_bits > 1 && net.addr().is_ipv4() && net.addr() == net.broadcast() {
        return Err(Invalid("the broadcast address of the subnet, not of a host".into()));
    }
    Ok(())
}

/// Rejects addresses that are not a host's, or not valid beyond a link.
pub(super) fn require_unicast(ip: IpAddr) -> Result<(), Invalid> {
    let text = ip.to_string();
    match ip {
        IpAddr::V4(_) => PeerAddr::<false>::parse(&text).map(drop),
        IpAddr::V6(_) => PeerAddr::<true>::parse(&text).map(drop),
    }
}

/// A host address of either family.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnicastAddress(pub IpAddr);

impl Value for UnicastAddress {
    fn allowed() -> String {
        "a unicast IPv4 address, or a global or unique-local IPv6 address".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let ip = IpAddr::from_str(text).map_err(|_| Invalid("not an IP address".into()))?;
        require_unicast(ip)?;
        Ok(Self(ip))
    }
}

/// A host address of one family.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnicastAddressOf<const V6: bool>(pub IpAddr);

impl<const V6: bool> Value for UnicastAddressOf<V6> {
    fn allowed() -> String {
        PeerAddr::<V6>::allowed()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        match UnicastAddress::parse(text)?.0 {
            ip if ip.is_ipv6() == V6 => Ok(Self(ip)),
            _ => Err(Invalid("an address of the other family".into())),
        }
    }
}

/// The name of a device that is not a managed device.
#[derive(Debug, Clone)]
pub(super) struct UnmanagedDevice(pub IfName);

impl Value for UnmanagedDevice {
    fn allowed() -> String {
        format!("{}; not a managed device: {}", IfName::allowed(), managed_device_names())
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        IfName::parse(text).map(Self)
    }
}

/// The name of the interface of a peer.
#[derive(Debug, Clone)]
pub(super) struct PeerInterface(pub IfName);

impl Value for PeerInterface {
    fn allowed() -> String {
        let groups = PEER_GROUPS.join(", ");
        format!(
            "{}; not {groups}, an address, or a managed device: {}",
            IfName::allowed(),
            managed_device_names()
        )
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let name = IfName::parse(text)?;
        peer_interface_error(text).map_or(Ok(Self(name)), |reason| Err(Invalid(reason.into())))
    }
}

/// The name of a VNI in the file, by the naming rules of Kubernetes objects.
#[derive(Debug, Clone)]
pub(super) struct EntryName(pub String);

impl Value for EntryName {
    fn allowed() -> String {
        "1-253 of a-z 0-9 . -, not . or - at the ends".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        if text.len() > 253 || !text.bytes().all(plain) {
            return Err(Invalid(
                "longer than 253 characters, or has characters other than a-z 0-9 . -".into(),
            ));
        }
        if text.starts_with(['-', '.']) || text.ends_with(['-', '.']) {
            return Err(Invalid("begins or ends with . or -".into()));
        }
        Ok(Self(text.into()))
    }
}

/// A reference to another object, by its name or by the name of its VRF.
#[derive(Debug, Clone)]
pub(super) struct ReferenceName(pub String);

impl Value for ReferenceName {
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

/// Checks a device name chosen by the operator: it starts with a letter, and has no dot, because dots separate sysctl
/// paths.
fn device_name(text: &str) -> Result<(), Invalid> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    if text.is_empty() || text.len() > 15 {
        return Err(Invalid("must have 1 to 15 characters".into()));
    }
    if !text.starts_with(|c: char| c.is_ascii_alphabetic()) || !text.bytes().all(plain) {
        return Err(Invalid(
            "does not begin with a letter, or has characters other than A-Z a-z 0-9 _ -".into(),
        ));
    }
    Ok(())
}

/// The name of a VNI's VRF.
#[derive(Debug, Clone)]
pub(super) struct VniVrfName(pub VrfName);

impl Value for VniVrfName {
    fn allowed() -> String {
        let reserved = VrfName::RESERVED.join(", ");
        format!(
            "a letter, then up to 14 of A-Z a-z 0-9 _ -; not {reserved}, nor a managed device: {}",
            managed_device_names()
        )
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        device_name(text)?;
        VrfName::parse(text).map(Self)
    }
}

/// The name of a bridge in the host namespace.
#[derive(Debug, Clone)]
pub(super) struct BridgeName(pub IfName);

impl Value for BridgeName {
    fn allowed() -> String {
        format!(
            "a letter, then up to 14 of A-Z a-z 0-9 _ -; not a managed device: {}",
            managed_device_names()
        )
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        device_name(text)?;
        IfName::parse(text).map(Self)
    }
}

/// Raw lines for frr.conf. Tabs become blanks, so that FRR and this program see the same indentation. The lines may
/// contain passwords.
#[derive(Debug, Clone)]
pub(super) struct RawConfigText(pub String);

impl FromYaml for RawConfigText {
    const SECRET: bool = true;
    fn from_yaml(at: &YamlRef<'_>, report: &mut Report<'_>) -> Option<Self> {
        let control = |c: char| c.is_control() && c != '\n' && c != '\t';
        let blank = |c: char| " \n\t".contains(c);
        let reason = match &at.node.kind {
            YamlKind::Scalar(text) if text.chars().all(blank) => "is empty",
            YamlKind::Scalar(text) if text.chars().count() > RAW_LENGTH => "is too long",
            YamlKind::Scalar(text) if text.contains(control) => "has a control character",
            YamlKind::Scalar(text) => match raw_lines_error(text) {
                None => return Some(Self(text.replace('\t', " "))),
                Some(reason) => {
                    report.add(&at.location_without_value(), reason);
                    return None;
                }
            },
            YamlKind::Null => "is empty",
            _ => "not text",
        };
        report.invalid(
            &at.location_without_value(),
            reason,
            "up to 65536 characters without control characters",
        );
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

/// A node selector that selects every node.
#[derive(Debug, Clone)]
pub(super) struct AllNodesSelector;

impl FromYaml for AllNodesSelector {
    fn from_yaml(at: &YamlRef<'_>, report: &mut Report<'_>) -> Option<Self> {
        match &at.node.kind {
            YamlKind::Null => return Some(Self),
            YamlKind::Map(map) if map.is_empty() => return Some(Self),
            _ => report.add(
                &at.location_without_value(),
                "not supported: node labels are not available here, use a separate file for each node",
            ),
        }
        None
    }
    fn schema() -> Json {
        json!({"type": ["object", "null"], "maxProperties": 0})
    }
}

/// The number of a node.
pub(super) type NodeIndex = Ranged<0, 16_777_215>;

/// A UDP or TCP port.
pub(super) type Port = Ranged<1, 65535>;

/// The default cluster-id of a route reflector: upstream's default, from TEST-NET-1 (RFC 5737).
pub(super) const CLUSTER_ID: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// VXLAN's UDP port (RFC 7348 §5).
pub(super) const VXLAN_PORT: u16 = 4789;
