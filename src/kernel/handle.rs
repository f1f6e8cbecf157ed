//! A network namespace with its netlink socket.

use std::collections::HashMap;
use std::io;

use netlink_packet_route::link::{LinkAttribute, LinkExtentMask};
use netlink_packet_route::route::RouteMessage;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::changes::Error;
use super::kernel_made::LOCAL_TABLE;
use super::link::{self, ParsedLink};
use super::netlink::{Netlink, NetlinkError};
use super::netns::Netns;
use super::rtnl::RtnlMessage;
use super::{message, observe};
use crate::model::{NsState, Route, Side, Sysctl};

/// A network namespace with a netlink socket.
#[derive(Debug)]
pub(super) struct NsHandle {
    pub(super) ns: Netns,
    pub(super) nl: Netlink,
    /// The namespace cookie; 0 if the kernel has no cookies.
    pub(super) cookie: u64,
    /// Cache of interface indexes since the last observation.
    pub(super) indexes: HashMap<String, u32>,
}

impl NsHandle {
    /// Fails if other programs use the namespace. A namespace with managed links was created for FRR, whoever else uses
    /// it.
    pub(super) fn check_unclaimed(&mut self, name: &str) -> io::Result<()> {
        let observed = observe::observe(&mut self.nl, std::iter::empty());
        if observed.is_ok_and(|state| state.links.iter().any(|link| link.ownership().is_some())) {
            return Ok(());
        }
        let Some(why) = self.ns.other_use(name)? else { return Ok(()) };
        let path = Netns::path(name);
        let path = path.display();
        Err(io::Error::other(format!(
            "{path} is the network namespace of another program: {why}; unmount it (umount {path}; rm {path}), or choose another name with NETNS"
        )))
    }

    pub(super) fn open(ns: Netns) -> io::Result<Self> {
        let nl = ns.within(Netlink::open)?;
        let cookie = nl.netns_cookie().unwrap_or(0);
        Ok(Self { ns, nl, cookie, indexes: HashMap::new() })
    }

    pub(super) fn link(&mut self, name: &str) -> Result<ParsedLink, NetlinkError> {
        let mut link = message::named(name).build();
        link.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let found = self.nl.get(RtnlMessage::GetLink(link), link::read)?;
        found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound).into())
    }

    pub(super) fn index(&mut self, name: &str) -> Result<u32, NetlinkError> {
        if let Some(index) = self.indexes.get(name) {
            return Ok(*index);
        }
        let index = self.link(name)?.link.index;
        self.indexes.insert(name.to_owned(), index);
        Ok(index)
    }

    /// The routing table with the local routes of a link.
    pub(super) fn local_table(&mut self, name: &str) -> u32 {
        self.link(name).ok().and_then(|parsed| parsed.vrf_table).unwrap_or(LOCAL_TABLE)
    }

    pub(super) fn route(&mut self, route: &Route) -> Result<RouteMessage, NetlinkError> {
        let index = if route.dev.is_empty() { None } else { Some(self.index(&route.dev)?) };
        message::route(index, route)
    }

    /// Reads the state of the namespace and the kernel parameters of this side. With `alone` it reads those of both
    /// sides.
    pub(super) fn observe(&mut self, side: Side, alone: bool, wanted: &[Sysctl]) -> Result<NsState, Error> {
        let here = || wanted.iter().filter(|s| alone || s.side == side).map(|s| s.path.as_str());
        let mut state = observe::observe(&mut self.nl, here())?;
        self.indexes.clear();
        let rest = here().filter(|path| !state.sysctls.contains_key(*path));
        let rest = self.ns.within_on_this_thread(|| observe::sysctls(rest))?;
        state.sysctls.extend(rest);
        Ok(state)
    }

    /// Changes an existing link by `RTM_NEWLINK` without `NLM_F_CREATE`, because `RTM_SETLINK` ignores some attributes.
    pub(super) fn set(
        &mut self,
        name: &str,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), NetlinkError> {
        let message = change(message::named(name)).build();
        self.nl.change(RtnlMessage::NewLink(message), 0)
    }
}
