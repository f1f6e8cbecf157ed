//! The status of the managed devices and of the fabric NICs. Pure.

use std::collections::BTreeMap;

use super::{DeviceStatus, InterfaceStatus};
use crate::model::{Component, Desired, LinkSpec, Namespaces, Side};
use crate::resolve::{FabricNic, NicSelector};

/// The fabric NICs: found and missing.
pub fn interfaces(found: &[FabricNic], missing: &[NicSelector], now: &Namespaces) -> Vec<InterfaceStatus> {
    let present = found.iter().map(|nic| InterfaceStatus {
        selector: nic.selector.to_string(),
        name: nic.name.to_string(),
        present: true,
        carrier: now.get(nic.side).link(nic.name.as_str()).is_some_and(|link| link.carrier),
    });
    let missing = missing
        .iter()
        .map(|selector| InterfaceStatus { selector: selector.to_string(), ..InterfaceStatus::default() });
    present.chain(missing).collect()
}

/// Number of repairs, by link.
pub type RepairCounts = BTreeMap<(Side, String), u64>;

/// The repair counts in `devices`. They continue when the namespace is rebuilt.
pub fn repair_counts(devices: &[DeviceStatus]) -> RepairCounts {
    let side =
        |device: &DeviceStatus| [Side::Host, Side::Router].into_iter().find(|s| s.label() == device.side);
    devices
        .iter()
        .filter_map(|device| Some(((side(device)?, device.name.clone()), device.repaired)))
        .collect()
}

/// The devices of the desired state. `refused` and `links` are the errors of the last plan: sentences, and sentences by
/// link.
pub fn devices(
    desired: &Desired,
    refused: &[String],
    links: &[(Side, String, String)],
    repairs: &RepairCounts,
) -> Vec<DeviceStatus> {
    let error_of_component = |spec: &LinkSpec| {
        let prefix = format!("{}: ", spec.component);
        refused.iter().find(|sentence| spec.component != Component::Base && sentence.starts_with(&prefix))
    };
    let device = |spec: &LinkSpec| {
        let own =
            links.iter().find(|(side, name, _)| (*side, name.as_str()) == (spec.side, spec.name.as_str()));
        let error = own.map(|(_, _, sentence)| sentence).or_else(|| error_of_component(spec));
        let wanted = spec.to_string();
        DeviceStatus {
            name: spec.name.to_string(),
            side: spec.side.label().into(),
            part: spec.component.to_string(),
            actual: error.unwrap_or(&wanted).clone(),
            ok: error.is_none(),
            wanted,
            repaired: repairs.get(&(spec.side, spec.name.to_string())).copied().unwrap_or(0),
        }
    };
    desired.links.iter().map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repair_counts_continue_in_a_rebuilt_namespace() {
        let device = |side: Side, name: &str, repaired| DeviceStatus {
            side: side.label().into(),
            name: name.into(),
            repaired,
            ..DeviceStatus::default()
        };
        let counts =
            repair_counts(&[device(Side::Host, "metallb-frr", 2), device(Side::Router, "frr-metallb", 0)]);
        assert_eq!(counts[&(Side::Host, "metallb-frr".into())], 2);
        assert_eq!(counts[&(Side::Router, "frr-metallb".into())], 0);
    }
}
