//! What we keep in the kernel, and the fabric NICs, as they are shown. Pure.

use std::collections::BTreeMap;

use super::{Device, Interface};
use crate::model::{Desired, LinkSpec, Namespaces, Part, Side};
use crate::resolve::{By, Found};

/// The fabric NICs that were found, and those that were not.
pub fn interfaces(found: &[Found], missing: &[By], now: &Namespaces) -> Vec<Interface> {
    let present = found.iter().map(|nic| Interface {
        by: nic.by.to_string(),
        name: nic.name.to_string(),
        present: true,
        carrier: now.get(nic.side).link(nic.name.as_str()).is_some_and(|link| link.carrier),
    });
    present.chain(missing.iter().map(|by| Interface { by: by.to_string(), ..Interface::default() })).collect()
}

/// How often something of a link was put right.
pub type Repaired = BTreeMap<(Side, String), u64>;

/// What is shown of an earlier namespace's devices goes on.
pub fn repaired(shown: &[Device]) -> Repaired {
    let side =
        |device: &Device| [Side::Host, Side::Router].into_iter().find(|s| s.to_string() == device.side);
    shown.iter().filter_map(|device| Some(((side(device)?, device.name.clone()), device.repaired))).collect()
}

/// The devices: what they shall be, and what the kernel refused of them.
pub fn devices(
    desired: &Desired,
    refused: &[String],
    links: &[(Side, String, String)],
    repaired: &Repaired,
) -> Vec<Device> {
    let of_part = |spec: &LinkSpec| {
        let words = format!("{}: ", spec.part);
        refused.iter().find(|sentence| spec.part != Part::Base && sentence.starts_with(&words))
    };
    let device = |spec: &LinkSpec| {
        let own =
            links.iter().find(|(side, name, _)| (*side, name.as_str()) == (spec.side, spec.name.as_str()));
        let wrong = own.map(|(_, _, sentence)| sentence).or_else(|| of_part(spec));
        let wanted = spec.to_string();
        Device {
            name: spec.name.to_string(),
            side: spec.side.to_string(),
            part: spec.part.to_string(),
            actual: wrong.unwrap_or(&wanted).clone(),
            ok: wrong.is_none(),
            wanted,
            repaired: repaired.get(&(spec.side, spec.name.to_string())).copied().unwrap_or(0),
        }
    };
    desired.links.iter().map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_of_an_earlier_namespace_are_counted_on() {
        let device = |side: Side, name: &str, repaired| Device {
            side: side.to_string(),
            name: name.into(),
            repaired,
            ..Device::default()
        };
        let counts =
            repaired(&[device(Side::Host, "metallb-frr", 2), device(Side::Router, "frr-metallb", 0)]);
        assert_eq!(counts[&(Side::Host, "metallb-frr".into())], 2);
        assert_eq!(counts[&(Side::Router, "frr-metallb".into())], 0);
    }
}
