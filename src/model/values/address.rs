//! Addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use super::{Invalid, Value, decimal};

/// Parses an address with a prefix length. Host bits may be set.
///
/// # Errors
/// The text is not an address with a prefix length.
pub fn address_with_length(text: &str) -> Result<IpNet, Invalid> {
    let malformed = || Invalid::new("not an address with a prefix length");
    let (ip, length) = text.split_once('/').ok_or_else(malformed)?;
    let ip = IpAddr::from_str(ip).map_err(|_| malformed())?;
    IpNet::new(ip, decimal(length).ok_or_else(malformed)?).map_err(|_| malformed())
}

/// A unicast Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// The address with these octets, if it is a valid interface address.
    pub fn new(octets: [u8; 6]) -> Option<Self> {
        (octets[0] & 1 == 0 && octets != [0; 6]).then_some(Self(octets))
    }

    /// Its octets.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The IPv6 link-local address derived from it (RFC 4291, appendix A).
    pub fn link_local(self) -> IpNet {
        let [a, b, c, d, e, f] = self.0;
        let ip = Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        // 64 is a valid length. The fallback, a host prefix, cannot fail.
        IpNet::new(ip.into(), 64).unwrap_or_else(|_| IpNet::from(std::net::IpAddr::from(ip)))
    }
}

impl Value for MacAddr {
    fn allowed() -> String {
        "six hexadecimal octets such as 00:11:22:33:44:55, not a group address".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let malformed = || Invalid::new("not a MAC address");
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().ok_or_else(malformed)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        if parts.next().is_some() {
            return Err(malformed());
        }
        Self::new(octets).ok_or_else(|| Invalid::new("a group or null address, not a NIC's address"))
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The node's IPv4 address. It is also the BGP identifier (RFC 6286).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterId(Ipv4Addr);

impl RouterId {
    /// The address.
    pub fn get(self) -> Ipv4Addr {
        self.0
    }
}

impl Value for RouterId {
    fn allowed() -> String {
        "a unicast IPv4 address such as 10.0.0.1".into()
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        let ip = Ipv4Addr::from_str(text).map_err(|_| Invalid::new("not an IPv4 address"))?;
        require_unicast_ipv4(ip)?;
        Ok(Self(ip))
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn require_unicast_ipv4(ip: Ipv4Addr) -> Result<(), Invalid> {
    // 0/8 and 127/8 never leave a host, 224/4 is multicast and 240/4 reserved (RFC 6890).
    match ip.octets()[0] {
        0 | 127 | 224..=255 => Err(Invalid::new("not a unicast address")),
        _ => Ok(()),
    }
}

/// Reserved IPv4 and IPv6 ranges, and ranges that are not valid beyond a link or a host (RFC 6890, RFC 4291).
pub const MARTIANS: [&[&str]; 2] = [
    &["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/3"],
    &["::/8", "100::/64", "fe80::/10", "fec0::/10", "ff00::/8"],
];

/// One end of the point-to-point link between FRR and the speaker: a unicast address of IPv6 (`V6`) or IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddr<const V6: bool>(IpAddr);

impl<const V6: bool> PeerAddr<V6> {
    /// The address.
    pub fn get(self) -> IpAddr {
        self.0
    }
}

impl<const V6: bool> Value for PeerAddr<V6> {
    fn allowed() -> String {
        if V6 { "a global or unique-local IPv6 address".into() } else { "a unicast IPv4 address".into() }
    }
    fn parse(text: &str) -> Result<Self, Invalid> {
        if !V6 {
            let ip = Ipv4Addr::from_str(text).map_err(|_| Invalid::new("not an IPv4 address"))?;
            require_unicast_ipv4(ip)?;
            return Ok(Self(ip.into()));
        }
        let ip = Ipv6Addr::from_str(text).map_err(|_| Invalid::new("not an IPv6 address"))?;
        let is_special = ip.is_unspecified()
            || ip.is_loopback()
            || ip.is_multicast()
            || ip.is_unicast_link_local()
            || ip.to_ipv4_mapped().is_some();
        if is_special {
            return Err(Invalid::new("not a global or unique-local address"));
        }
        Ok(Self(ip.into()))
    }
}

impl<const V6: bool> fmt::Display for PeerAddr<V6> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
