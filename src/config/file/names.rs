//! Device names: which are ours, so that no one else's may be.

use crate::model::{PASSTHROUGH_HOST, PASSTHROUGH_ROUTER, VETH_FRR, VETH_HOST, VTEP_DEVICE, VniDevice};

/// The names of those that have none for each VNI.
pub(super) const FIXED: [&str; 6] =
    ["lo", VTEP_DEVICE, VETH_HOST, VETH_FRR, PASSTHROUGH_HOST, PASSTHROUGH_ROUTER];

/// Whether a device of ours has this name, or may have it one day.
pub(in crate::config) fn is_ours(name: &str) -> bool {
    let numbered = |prefix: &str| {
        let number = name.strip_prefix(prefix).unwrap_or_default();
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    };
    FIXED.contains(&name) || VniDevice::ALL.iter().any(|device| numbered(device.prefix()))
}

/// The same in words.
pub(in crate::config) fn our_names() -> String {
    let numbered = VniDevice::ALL.map(VniDevice::prefix).join(", ");
    format!("{}, and {numbered} with a number", FIXED.join(", "))
}

/// The peer groups of the built-in template: to FRR a peer by interface has a name of the same kind.
pub(super) const GROUPS: [&str; 1] = ["fabric"];

/// Names that FRR takes for an IPv4 address.
pub(super) const ADDRESS: &str = "^[0-9]+(?:\\.[0-9]+){3}$";

/// Why a device of that name can be no peer's interface.
pub fn no_peer(name: &str) -> Option<&'static str> {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match name {
        _ if is_ours(name) => Some("a name of our own devices, on which no peer is"),
        _ if GROUPS.contains(&name) => Some("the name of a peer group, which it would change"),
        _ if name.split('.').count() == 4 && name.split('.').all(is_number) => {
            Some("an address to FRR, not a name")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    /// The names that the built-in template gives to groups, and those that would be taken for one of them.
    #[test]
    fn groups() {
        let template = include_str!("../../../templates/frr.conf.j2");
        let named = template
            .lines()
            .filter_map(|line| line.trim().strip_suffix(" peer-group")?.strip_prefix("neighbor "));
        let named: Vec<&str> = named.filter(|name| !name.contains('{')).collect();
        assert_eq!(named, super::GROUPS);
        for name in ["fabric", "lo", "frr-metallb", "vni7", "1.2.3.4", "0.0.0.300"] {
            assert!(super::no_peer(name).is_some(), "{name}");
        }
        for name in ["eth1", "fabric0", "eth1.2.3.4", "1.2.3", "1.2.3.4.5", "a.2.3.4"] {
            assert_eq!(super::no_peer(name), None, "{name}");
        }
    }

    #[test]
    fn ours() {
        for name in
            ["lo", "lound", "metallb-frr", "frr-metallb", "pt-host", "pt-ns", "vni7", "br-hs-16777215"]
        {
            assert!(super::is_ours(name), "{name}");
        }
        for name in ["lo0", "vni", "vniX", "br-hs", "br-hs-", "br-pe-1a", "host", "eth0"] {
            assert!(!super::is_ours(name), "{name}");
        }
    }
}
