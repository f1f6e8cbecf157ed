//! Names of the managed devices. They are reserved.

use crate::model::{PASSTHROUGH_HOST, PASSTHROUGH_ROUTER, VETH_FRR, VETH_HOST, VTEP_DEVICE, VniDevice};

/// The managed devices that do not belong to a VNI.
pub(super) const FIXED_NAMES: [&str; 6] =
    ["lo", VTEP_DEVICE, VETH_HOST, VETH_FRR, PASSTHROUGH_HOST, PASSTHROUGH_ROUTER];

/// Whether a managed device has, or could have, this name.
pub(in crate::config) fn is_managed_device(name: &str) -> bool {
    let numbered = |prefix: &str| {
        let number = name.strip_prefix(prefix).unwrap_or_default();
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    };
    FIXED_NAMES.contains(&name) || VniDevice::ALL.iter().any(|device| numbered(device.prefix()))
}

/// The names of the managed devices, as text.
pub(in crate::config) fn managed_device_names() -> String {
    let numbered = VniDevice::ALL.map(VniDevice::prefix).join(", ");
    format!("{}, and {numbered} with a number", FIXED_NAMES.join(", "))
}

/// The peer groups of the built-in template. FRR uses one namespace for the names of peer groups and of peers by
/// interface.
pub(super) const PEER_GROUPS: [&str; 1] = ["fabric"];

/// Names that FRR parses as an IPv4 address.
pub(super) const IPV4_LIKE: &str = "^[0-9]+(?:\\.[0-9]+){3}$";

/// Why a device of that name cannot be the interface of a peer.
pub fn peer_interface_error(name: &str) -> Option<&'static str> {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match name {
        _ if is_managed_device(name) => Some("reserved for a managed device, which has no peers"),
        _ if PEER_GROUPS.contains(&name) => Some("the name of a peer group"),
        _ if name.split('.').count() == 4 && name.split('.').all(is_number) => {
            Some("FRR parses it as an address")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    /// The peer groups of the built-in template, and names that collide with them.
    #[test]
    fn peer_groups_match_the_template() {
        let template = include_str!("../../../templates/frr.conf.j2");
        let named = template
            .lines()
            .filter_map(|line| line.trim().strip_suffix(" peer-group")?.strip_prefix("neighbor "));
        let named: Vec<&str> = named.filter(|name| !name.contains('{')).collect();
        assert_eq!(named, super::PEER_GROUPS);
        for name in ["fabric", "lo", "frr-metallb", "vni7", "1.2.3.4", "0.0.0.300"] {
            assert!(super::peer_interface_error(name).is_some(), "{name}");
        }
        for name in ["eth1", "fabric0", "eth1.2.3.4", "1.2.3", "1.2.3.4.5", "a.2.3.4"] {
            assert_eq!(super::peer_interface_error(name), None, "{name}");
        }
    }

    #[test]
    fn managed_device_names_are_recognized() {
        for name in
            ["lo", "lound", "metallb-frr", "frr-metallb", "pt-host", "pt-ns", "vni7", "br-hs-16777215"]
        {
            assert!(super::is_managed_device(name), "{name}");
        }
        for name in ["lo0", "vni", "vniX", "br-hs", "br-hs-", "br-pe-1a", "host", "eth0"] {
            assert!(!super::is_managed_device(name), "{name}");
        }
    }
}
