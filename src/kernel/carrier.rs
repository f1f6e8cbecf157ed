//! Carrier losses and subnets of the fabric ports.

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};

use super::RouterNetns;
use super::rtnl::RtnlMessage;
use crate::model::IfName;

/// Carrier state of a port at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carrier {
    /// Index of the link; 0 if it does not exist.
    pub index: u32,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// Number of carrier losses (`IFLA_CARRIER_DOWN_COUNT`). It also shows losses that ended before the link is read.
    pub losses: u32,
}

impl Carrier {
    /// Whether the link lost its carrier, or was removed or replaced, since `before`.
    pub fn has_lost_carrier_since(self, before: Self) -> bool {
        (before.up && !self.up) || (self.index, self.losses) != (before.index, before.losses)
    }
}

impl RouterNetns {
    /// The carrier state of the port of that name in FRR's namespace.
    pub fn carrier(&mut self, port: &IfName) -> Carrier {
        let Ok(link) = self.link(port.as_str()) else { return Carrier::default() };
        Carrier { index: link.link.index, up: link.link.up && link.link.carrier, losses: link.carrier_losses }
    }

    /// The subnets of the port's addresses; empty if they can't be read.
    pub fn subnets(&mut self, index: u32) -> Vec<IpNet> {
        let mut filter = AddressMessage::default();
        filter.header.index = index;
        let found = self.netlink().dump(RtnlMessage::GetAddress(filter), |reply| {
            let RtnlMessage::NewAddress(message) = reply else { return None };
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
    fn a_loss_is_detected_after_the_carrier_returned() {
        let up = Carrier { index: 3, up: true, losses: 1 };
        let down = Carrier { up: false, losses: 2, ..up };
        let back = Carrier { losses: 2, ..up };
        assert!(down.has_lost_carrier_since(up) && back.has_lost_carrier_since(up));
        assert!(Carrier::default().has_lost_carrier_since(up), "the link was removed");
        assert!(Carrier { index: 4, ..up }.has_lost_carrier_since(up), "the link was replaced");
        assert!(!up.has_lost_carrier_since(up) && !back.has_lost_carrier_since(down), "the carrier returns");
    }
}
