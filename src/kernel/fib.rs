//! Routes that zebra installed in the kernel (the FIB), and a way to make zebra install one again.
//!
//! The kernel sends no event for the IPv4 routes that it removes together with a link, and none for the routes of
//! either family that it removes together with a next-hop object. zebra still considers them installed. But zebra
//! installs a route again when the kernel announces that it was deleted (`rib_delete` and
//! `process_subq_early_route_delete`, `zebra/zebra_rib.c`). [`Fib::trigger_reinstall`] causes such an event with a
//! temporary route.

use std::collections::BTreeSet;
use std::io;

use ipnet::IpNet;
use libc::{EEXIST, ESRCH};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{RouteMessage, RouteProtocol};

use super::backup_routes::destinations;
use super::netlink::{Batch, Netlink, NetlinkError};
use super::rtnl::RtnlMessage;
use super::{Netns, message};
use crate::model::{FibRoute, Route, RouteOwner};

/// Protocol number of staticd's routes (`zebra/rt_netlink.h`).
const RTPROT_ZSTATIC: RouteProtocol = RouteProtocol::Other(196);

/// Metric of temporary routes, worse than that of every other route: the kernel uses a temporary route only for packets
/// that have no other route.
const METRIC: u32 = 0xfe00_0001;

/// Access to zebra's routes in FRR's namespace. It has a socket of its own, so any thread can use it.
#[derive(Debug)]
pub struct Fib(Netlink);

impl Fib {
    /// Opens a socket in a namespace.
    ///
    /// # Errors
    /// The socket can't be opened.
    pub(super) fn open(ns: &Netns) -> io::Result<Self> {
        ns.within(Netlink::open).map(Self)
    }

    /// Routing table and destination of every route of bgpd and staticd.
    ///
    /// # Errors
    /// The routes can't be read.
    pub fn routes(&mut self) -> io::Result<BTreeSet<(u32, IpNet)>> {
        let mut all = destinations(&mut self.0, RouteProtocol::Bgp, None)?;
        all.append(&mut destinations(&mut self.0, RTPROT_ZSTATIC, None)?);
        Ok(all)
    }

    /// Makes zebra install these routes again: adds a temporary route to each destination and deletes it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn trigger_reinstall(&mut self, missing: &[FibRoute]) -> io::Result<()> {
        let mut batch = Batch::default();
        for route in missing {
            let message = temporary_route(route)?;
            batch.push(RtnlMessage::NewRoute(message.clone()), NLM_F_CREATE | NLM_F_EXCL);
            batch.push(RtnlMessage::DelRoute(message), 0);
        }
        match self.0.change_all(batch, &[EEXIST, ESRCH])? {
            (_, Some(first)) => Err(first.into()),
            _ => Ok(()),
        }
    }
}

/// An unreachable route with the destination and protocol of `route`.
fn temporary_route(route: &FibRoute) -> Result<RouteMessage, NetlinkError> {
    let protocol = match route.owner {
        RouteOwner::Bgpd => RouteProtocol::Bgp,
        RouteOwner::Staticd => RTPROT_ZSTATIC,
    };
    let unreachable = Route {
        dst: route.prefix,
        table: route.table,
        via: None,
        dev: String::new(),
        metric: METRIC,
        src: None,
        protocol: protocol.into(),
    };
    message::route(None, &unreachable)
}

impl super::RouterNetns {
    /// Opens a socket for zebra's routes in FRR's namespace.
    ///
    /// # Errors
    /// The socket can't be opened.
    pub fn fib(&self) -> io::Result<Fib> {
        Fib::open(self.ns())
    }
}
