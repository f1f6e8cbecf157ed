//! Whether the ports of the fabric have had a carrier all the time, and what is next door on them.

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};

use super::Kernel;
use super::object::Object;
use crate::model::IfName;

/// A port's link at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carrier {
    /// The kernel's number for it; 0: there is no such link.
    pub index: u32,
    /// It is up and has a carrier.
    pub up: bool,
    /// How often it has lost its carrier (`IFLA_CARRIER_DOWN_COUNT`): it may be back before anyone looks.
    pub losses: u32,
}

impl Carrier {
    /// Whether the carrier was away at some time since `before`.
    pub fn was_lost_since(self, before: Self) -> bool {
        (before.up && !self.up) || (self.index, self.losses) != (before.index, before.losses)
    }
}

impl Kernel {
    /// The port of that name in FRR's namespace.
    pub fn carrier(&mut self, port: &IfName) -> Carrier {
        let Ok(link) = self.router_link(port.as_str()) else { return Carrier::default() };
        Carrier { index: link.link.index, up: link.link.up && link.link.carrier, losses: link.losses }
    }

    /// The subnets of the port's own addresses; none if they can't be read.
    pub fn subnets(&mut self, index: u32) -> Vec<IpNet> {
        let mut filter = AddressMessage::default();
        filter.header.index = index;
        let found = self.router_netlink().dump(Object::GetAddress(filter), |answer| {
            let Object::NewAddress(message) = answer else { return None };
            let length = message.header.prefix_len;
            let mut nets = message.attributes.iter().filter_map(|attribute| match attribute {
                AddressAttribute::Address(ip) => IpNet::new(*ip, length).ok(),
                _ => None,
            });
            nets.next().filter(|_| message.header.index == index)
        });
        found.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_seen_although_the_carrier_is_back() {
        let up = Carrier { index: 3, up: true, losses: 1 };
        let down = Carrier { up: false, losses: 2, ..up };
        let again = Carrier { losses: 2, ..up };
        assert!(down.was_lost_since(up) && again.was_lost_since(up));
        assert!(Carrier::default().was_lost_since(up), "the link is gone");
        assert!(Carrier { index: 4, ..up }.was_lost_since(up), "it is another one");
        assert!(!up.was_lost_since(up) && !again.was_lost_since(down), "it comes back");
    }
}
