//! The kernel's routes that are zebra's, and how zebra is made to install one again that the kernel has lost without a word.
//!
//! The kernel tells no one which IPv4 routes go with a link, and which ones of either family with a next-hop object; zebra
//! believes them installed. What it does put back is a route that somebody has deleted: it hears of that
//! (`rib_delete` and `process_subq_early_route_delete`, `zebra/zebra_rib.c`). So it gets to hear of it, by a route of no use that
//! comes and goes.

use std::collections::BTreeSet;
use std::io;

use ipnet::IpNet;
use libc::{EEXIST, ESRCH};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{RouteMessage, RouteProtocol};

use super::netlink::{Batch, Netlink, Refusal};
use super::object::Object;
use super::shadow::destinations;
use super::{Netns, message};
use crate::model::{FibRoute, Route, RouteOwner};

/// How staticd's routes are marked (`RTPROT_ZSTATIC`, `zebra/rt_netlink.h`).
const STATIC: RouteProtocol = RouteProtocol::Other(196);

/// Behind every other route: nothing is looked up by it but what has no route.
const METRIC: u32 = 0xfe00_0001;

/// zebra's routes in FRR's namespace, by a socket of their own: to be used on any thread.
#[derive(Debug)]
pub struct Fib(Netlink);

impl Fib {
    /// Those of a namespace.
    ///
    /// # Errors
    /// There is no socket for it.
    pub(super) fn open(ns: &Netns) -> io::Result<Self> {
        ns.within(Netlink::open).map(Self)
    }

    /// Table and destination of every route of bgpd's and staticd's.
    ///
    /// # Errors
    /// The routes can't be read.
    pub fn routes(&mut self) -> io::Result<BTreeSet<(u32, IpNet)>> {
        let mut all = destinations(&mut self.0, RouteProtocol::Bgp, None)?;
        all.append(&mut destinations(&mut self.0, STATIC, None)?);
        Ok(all)
    }

    /// Lets zebra hear that these are gone.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn announce_loss(&mut self, lost: &[FibRoute]) -> io::Result<()> {
        let mut batch = Batch::default();
        for route in lost {
            let message = unreachable(route)?;
            batch.push(Object::NewRoute(message.clone()), NLM_F_CREATE | NLM_F_EXCL);
            batch.push(Object::DelRoute(message), 0);
        }
        match self.0.change_all(batch, &[EEXIST, ESRCH])? {
            (_, Some(first)) => Err(first.into()),
            _ => Ok(()),
        }
    }
}

fn unreachable(route: &FibRoute) -> Result<RouteMessage, Refusal> {
    let protocol = match route.owner {
        RouteOwner::Bgpd => RouteProtocol::Bgp,
        RouteOwner::Staticd => STATIC,
    };
    let of_no_use = Route {
        dst: route.prefix,
        table: route.table,
        via: None,
        dev: String::new(),
        metric: METRIC,
        src: None,
        protocol: protocol.into(),
    };
    message::route(None, &of_no_use)
}

impl super::Kernel {
    /// zebra's routes in FRR's namespace.
    ///
    /// # Errors
    /// There is no socket for it.
    pub fn fib(&self) -> io::Result<Fib> {
        Fib::open(self.router_ns())
    }
}
