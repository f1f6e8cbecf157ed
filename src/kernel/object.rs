//! What route netlink is told and what it answers, of the kinds that we have to do with. The crate's own enum would bring the parsers
//! of all others along, traffic control and every kind of link: a twentieth of the program.

use netlink_packet_core::{
    DecodeError, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable,
    Parseable as _,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;

macro_rules! objects {
    ($($(#[$doc:meta])* $name:ident($message:ty) = $kind:literal;)*) => {
        /// A request, or an object that is described.
        #[derive(Debug)]
        pub enum Object {
            $($(#[$doc])* $name($message),)*
        }

        impl Object {
            /// Its type (`linux/rtnetlink.h`) and what is in it.
            fn parts(&self) -> (u16, &dyn Emitable) {
                match self {
                    $(Self::$name(message) => ($kind, message),)*
                }
            }
        }
    };
}

objects! {
    /// `RTM_NEWLINK`; links are read by `super::link`.
    NewLink(LinkMessage) = 16;
    /// `RTM_DELLINK`
    DelLink(LinkMessage) = 17;
    /// `RTM_GETLINK`
    GetLink(LinkMessage) = 18;
    /// `RTM_NEWADDR`
    NewAddress(AddressMessage) = 20;
    /// `RTM_DELADDR`
    DelAddress(AddressMessage) = 21;
    /// `RTM_GETADDR`
    GetAddress(AddressMessage) = 22;
    /// `RTM_NEWROUTE`
    NewRoute(RouteMessage) = 24;
    /// `RTM_DELROUTE`
    DelRoute(RouteMessage) = 25;
    /// `RTM_GETROUTE`
    GetRoute(RouteMessage) = 26;
    /// `RTM_NEWNEIGH`
    NewNeighbour(NeighbourMessage) = 28;
    /// `RTM_GETNEIGH`
    GetNeighbour(NeighbourMessage) = 30;
    /// `RTM_NEWRULE`
    NewRule(RuleMessage) = 32;
    /// `RTM_DELRULE`
    DelRule(RuleMessage) = 33;
    /// `RTM_GETRULE`
    GetRule(RuleMessage) = 34;
}

impl NetlinkSerializable for Object {
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

impl NetlinkDeserializable for Object {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match header.message_type {
            20 => Self::NewAddress(AddressMessage::parse(bytes)?),
            24 => Self::NewRoute(RouteMessage::parse(bytes)?),
            28 => Self::NewNeighbour(NeighbourMessage::parse(bytes)?),
            32 => Self::NewRule(RuleMessage::parse(bytes)?),
            other => return Err(format!("nobody asks for type {other}").into()),
        })
    }
}

impl From<Object> for NetlinkPayload<Object> {
    fn from(object: Object) -> Self {
        Self::InnerMessage(object)
    }
}
