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

#[cfg(test)]
mod tests {
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
