//! The newtypes of all external values. A value that cannot be constructed cannot reach netlink or `frr.conf`.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

use super::{RouteTarget, Vni};

mod address;

pub use address::{MARTIANS, MacAddr, PeerAddr, RouterId, address_with_length};

/// Why a text is not a valid value, as the middle of a sentence: "not an IPv4 address".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl Invalid {
    fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// A type that can be parsed from one text.
pub trait Value: Sized {
    /// The allowed values, for `--help`, the docs and errors.
    fn allowed() -> String;
    /// Parses the text, which is neither empty nor surrounded by blanks.
    ///
    /// # Errors
    /// The reason, without the name and the value.
    fn parse(text: &str) -> Result<Self, Invalid>;
    /// Whether the text must not be shown.
    const SECRET: bool = false;
}

/// Parses a decimal number in its only spelling: digits without a sign and without leading zeros, which other programs
/// read as octal.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !plain || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    text.parse().ok()
}

/// An autonomous system number that is valid for peering (RFC 6793). RFC 7607, RFC 7300 and RFC 4893 §9 reserve some
/// numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asn(u32);

impl Value for Asn {
    fn allowed() -> String {
        "an AS number 1-4294967294 except 23456 and 65535".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        match decimal(text) {
            Some(0 | 23456 | 65535 | u32::MAX) => Err(Invalid::new("reserved, not for peering")),
            Some(n) => Ok(Self(n)),
            None => Err(Invalid::new("not an AS number")),
        }
    }
}

impl Asn {
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An integer in `MIN..=MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ranged<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Ranged<MIN, MAX> {
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> Value for Ranged<MIN, MAX> {
    fn allowed() -> String {
        format!("an integer {MIN}-{MAX}")
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        match decimal(text) {
            Some(n) if (MIN..=MAX).contains(&n) => Ok(Self(n)),
            Some(_) => Err(Invalid::new("out of range")),
            None if text.len() > 1 && text.starts_with('0') => {
                Err(Invalid::new("not a plain decimal number"))
            }
            None if text.bytes().all(|b| b.is_ascii_digit()) => Err(Invalid::new("out of range")),
            None => Err(Invalid::new("not an integer")),
        }
    }
}

impl<const MIN: u32, const MAX: u32> fmt::Display for Ranged<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A link MTU in bytes: from IPv6's minimum (RFC 8200 §5) to the maximum of veth (`ETH_MAX_MTU`).
pub type Mtu = Ranged<1280, 65535>;

/// A routing table that the program may use: not unspec, default, main or local (`linux/rtnetlink.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableId(u32);

impl TableId {
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Value for TableId {
    fn allowed() -> String {
        "an integer 1-4294967295 except 253, 254 and 255".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        match decimal(text) {
            Some(253..=255) => Err(Invalid::new("reserved by the kernel")),
            Some(0) => Err(Invalid::new("out of range")),
            Some(n) => Ok(Self(n)),
            None => Err(Invalid::new("not a table number")),
        }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A network interface name that the kernel, `frr.conf` and sysctl paths accept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName(String);

impl IfName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for IfName {
    fn allowed() -> String {
        "1-15 of A-Z a-z 0-9 . _ -, not . or - first".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        // IFNAMSIZ is 16 with the closing NUL (linux/if.h).
        if text.is_empty() || text.len() > 15 {
            return Err(Invalid::new("must have 1 to 15 characters"));
        }
        plain_name(text).map(Self)
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn plain_name(text: &str) -> Result<String, Invalid> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if !text.bytes().all(plain) {
        return Err(Invalid::new("has a character other than A-Z a-z 0-9 . _ -"));
    }
    if text.starts_with(['.', '-']) {
        return Err(Invalid::new("must not begin with . or -"));
    }
    Ok(text.into())
}

/// A plain name of up to 64 characters that is not an interface name.
fn plain_word(text: &str) -> Result<String, Invalid> {
    if text.len() > 64 {
        return Err(Invalid::new("longer than 64 characters"));
    }
    plain_name(text)
}

/// The name of a VRF device that is not a keyword of FRR.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VrfName(IfName);

impl VrfName {
    /// Reserved names: keywords of FRR's commands in place of a VRF name (`show bgp vrf all`, also abbreviated as `a`
    /// and `al`, `import vrf route-map …`, `vrf default`), the kernel's loopback, and the devices whose addresses are
    /// announced.
    pub const RESERVED: [&str; 12] =
        ["default", "all", "al", "a", "route-map", "view", "vrf", "none", "any", "lo", "dummy0", "dummy1"];

    /// The name of the VRF's device.
    pub fn as_ifname(&self) -> &IfName {
        &self.0
    }
}

impl Value for VrfName {
    fn allowed() -> String {
        format!("{}; not {}, nor the name of a managed device", IfName::allowed(), Self::RESERVED.join(", "))
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        if Self::RESERVED.contains(&text) {
            return Err(Invalid::new("reserved by FRR or the kernel"));
        }
        IfName::parse(text).map(Self)
    }
}

impl fmt::Display for VrfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a network namespace below `/run/netns`, or the host namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceName(Option<String>);

impl NamespaceName {
    /// The file name below `/run/netns`. `None`: the host namespace.
    pub fn as_deref(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl Value for NamespaceName {
    fn allowed() -> String {
        "`host`, or 1-64 of A-Z a-z 0-9 . _ -, not . or - first".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        if text.eq_ignore_ascii_case("host") && text != "host" {
            return Err(Invalid::new("differs from `host` only in case: use `host` for the host namespace"));
        }
        Ok(Self((text != "host").then_some(plain_word(text)?)))
    }
}

impl fmt::Display for NamespaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_deref().unwrap_or("host").fmt(f)
    }
}

/// A word that identifies a rebuild of the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildToken(String);

impl RebuildToken {
    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for RebuildToken {
    fn allowed() -> String {
        "1-64 of A-Z a-z 0-9 . _ -, not . or - first".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        plain_word(text).map(Self)
    }
}

/// A TCP-MD5 session password (RFC 2385). It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The password as plain text, only for `frr.conf`.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

impl Value for Password {
    const SECRET: bool = true;
    fn allowed() -> String {
        "1-80 printable ASCII characters without blank, | and \", and without a leading ! or #".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        // FRR: PEER_PASSWORD_MAXLEN 80 (bgpd/bgpd.h). `|` starts a vty filter, `!` and `#` start a comment.
        if text.len() > 80 {
            return Err(Invalid::new("longer than 80 characters"));
        }
        let is_allowed = |b: u8| b.is_ascii_graphic() && !b"|\"".contains(&b);
        if !text.bytes().all(is_allowed) || text.starts_with(['!', '#']) {
            return Err(Invalid::new("has a character that is not allowed in frr.conf"));
        }
        Ok(Self(text.into()))
    }
}

/// An absolute path of a mounted file or directory, without `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePath(String);

impl FilePath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for FilePath {
    fn allowed() -> String {
        "an absolute path that has no `..` in it".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        if !text.starts_with('/') || text.split('/').any(|part| part == "..") {
            return Err(Invalid::new("not an absolute path without `..`"));
        }
        if text.len() > 255 || text.chars().any(char::is_control) {
            return Err(Invalid::new("too long or has control characters"));
        }
        Ok(Self(text.into()))
    }
}

impl Value for Vni {
    fn allowed() -> String {
        "an integer 1-16777215".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let number = decimal(text).ok_or_else(|| Invalid::new("not a VNI"))?;
        Self::new(number).ok_or_else(|| Invalid::new("out of range"))
    }
}

impl Value for RouteTarget {
    fn allowed() -> String {
        "ASN:NUMBER or A.B.C.D:NUMBER, six octets in all".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let malformed = || Invalid::new("not a route target");
        let (admin, number) = text.split_once(':').ok_or_else(malformed)?;
        let number: u64 = decimal(number).ok_or_else(malformed)?;
        // Two octets remain next to an address or a 4-octet AS number, four next to a 2-octet one.
        let limit = if let Some(asn) = decimal::<u64>(admin) {
            match u32::try_from(asn) {
                Ok(asn) if asn <= u32::from(u16::MAX) => u64::from(u32::MAX),
                Ok(_) => u64::from(u16::MAX),
                Err(_) => return Err(Invalid::new("has an AS number that is too large")),
            }
        } else {
            Ipv4Addr::from_str(admin).map_err(|_| malformed())?;
            u64::from(u16::MAX)
        };
        if number > limit {
            return Err(Invalid::new(format!("has a number above {limit}")));
        }
        Ok(Self(format!("{admin}:{number}")))
    }
}

impl Value for bool {
    fn allowed() -> String {
        "true or false".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err(Invalid::new("not a boolean")),
        }
    }
}

impl Value for SocketAddr {
    fn allowed() -> String {
        "an address and a port such as 127.0.0.1:9080 or [::]:9080".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        match text.parse::<Self>() {
            Ok(at) if at.port() == 0 => Err(Invalid::new("port 0 is not allowed")),
            Ok(_) if text.rsplit(':').next().is_some_and(|port| port.starts_with('0')) => {
                Err(Invalid::new("has a port with leading zeros"))
            }
            Ok(at) => Ok(at),
            Err(_) => Err(Invalid::new("not an address and a port")),
        }
    }
}

impl Value for IpNet {
    fn allowed() -> String {
        "a prefix such as 198.51.100.0/24".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let net = address_with_length(text).map_err(|_| Invalid::new("not a prefix"))?;
        if net != net.trunc() {
            return Err(Invalid::new(format!("has host bits set, write {}", net.trunc())));
        }
        Ok(net)
    }
}

/// A comma-separated list of 1 to 64 different values.
impl<T: Value + PartialEq + fmt::Display> Value for Vec<T> {
    fn allowed() -> String {
        format!("1-64 different values, comma-separated, each {}", T::allowed())
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let mut list = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let value = T::parse(item).map_err(|e| Invalid::new(format!("{item:?}: {e}")))?;
            if list.contains(&value) {
                return Err(Invalid::new(format!("{value} is listed twice")));
            }
            list.push(value);
        }
        match list.len() {
            1..=64 => Ok(list),
            n => Err(Invalid::new(format!("has {n} values"))),
        }
    }
}

/// `none`, or a value.
impl<T: Value> Value for Option<T> {
    const SECRET: bool = T::SECRET;
    fn allowed() -> String {
        format!("{}, or `none`", T::allowed())
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        if text == "none" {
            return Ok(None);
        }
        T::parse(text).map(Some)
    }
}

#[cfg(test)]
mod tests;
