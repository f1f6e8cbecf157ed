//! The route netlink messages that frr-supervisor sends and parses. The crate's own enum, `RouteNetlinkMessage`, also
//! contains the parsers of all other messages, such as traffic control and every kind of link: a twentieth of the
//! program.

use libc::{
    RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_DELRULE, RTM_GETADDR, RTM_GETLINK, RTM_GETNEIGH,
    RTM_GETROUTE, RTM_GETRULE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE, RTM_NEWRULE,
};
use netlink_packet_core::{
    DecodeError, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable,
    Parseable as _,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident($message:ty) = $kind:ident;)*) => {
        /// A request, or an object in a reply.
        #[derive(Debug)]
        pub enum RtnlMessage {
            $($(#[$doc])* $name($message),)*
        }

        impl RtnlMessage {
            /// Message type (`linux/rtnetlink.h`) and content.
            fn parts(&self) -> (u16, &dyn Emitable) {
                match self {
                    $(Self::$name(message) => ($kind, message),)*
                }
            }
        }
    };
}

messages! {
    /// Creates or changes a link. Links in replies are parsed by `super::link`.
    NewLink(LinkMessage) = RTM_NEWLINK;
    /// Removes a link.
    DelLink(LinkMessage) = RTM_DELLINK;
    /// Requests one link or all.
    GetLink(LinkMessage) = RTM_GETLINK;
    /// Adds an address, or describes one.
    NewAddress(AddressMessage) = RTM_NEWADDR;
    /// Removes an address.
    DelAddress(AddressMessage) = RTM_DELADDR;
    /// Requests the addresses.
    GetAddress(AddressMessage) = RTM_GETADDR;
    /// Adds or replaces a route, or describes one.
    NewRoute(RouteMessage) = RTM_NEWROUTE;
    /// Removes a route.
    DelRoute(RouteMessage) = RTM_DELROUTE;
    /// Requests the routes.
    GetRoute(RouteMessage) = RTM_GETROUTE;
    /// Changes a neighbour entry, or describes one.
    NewNeighbour(NeighbourMessage) = RTM_NEWNEIGH;
    /// Requests the neighbour entries.
    GetNeighbour(NeighbourMessage) = RTM_GETNEIGH;
    /// Adds a rule, or describes one.
    NewRule(RuleMessage) = RTM_NEWRULE;
    /// Removes a rule.
    DelRule(RuleMessage) = RTM_DELRULE;
    /// Requests the rules.
    GetRule(RuleMessage) = RTM_GETRULE;
}

impl NetlinkSerializable for RtnlMessage {
    fn message_type(&self) -> u16 {
        self.parts().0
    }

    fn buffer_len(&self) -> usize {
        self.parts().1.buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        self.parts().1.emit(buffer);
    }
}

impl NetlinkDeserializable for RtnlMessage {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match header.message_type {
            RTM_NEWADDR => Self::NewAddress(AddressMessage::parse(bytes)?),
            RTM_NEWROUTE => Self::NewRoute(RouteMessage::parse(bytes)?),
            RTM_NEWNEIGH => Self::NewNeighbour(NeighbourMessage::parse(bytes)?),
            RTM_NEWRULE => Self::NewRule(RuleMessage::parse(bytes)?),
            other => return Err(format!("unexpected message type {other}").into()),
        })
    }
}

impl From<RtnlMessage> for NetlinkPayload<RtnlMessage> {
    fn from(message: RtnlMessage) -> Self {
        Self::InnerMessage(message)
    }
}
