//! Backup routes: copies of the BGP routes for the time in which zebra may remove its own routes.
//!
//! A backup route has the destination, table and next hops of its original, a protocol number of its own, and the
//! highest metric. So the kernel uses it only while zebra's route is missing: when a new zebra removes routes of the
//! previous one, when bgpd's "update complete" overtakes the routes, when zebra replaces a next-hop group. The kernel
//! removes a backup route together with its interface, and skips it while the interface has no carrier
//! (`ignore_routes_with_linkdown`).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use libc::{EEXIST, ESRCH};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteProtocol, RouteType,
};

use super::netlink::{Batch, Netlink, NetlinkError};
use super::netns::Netns;
use super::rtnl::RtnlMessage;

/// Protocol number of temporary routes and rules, such as backup routes. Permanent managed ones have 200
/// (`OWNER_PROTOCOL`).
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(201);

/// Metric of backup routes. zebra uses the first byte of a kernel route's metric as its distance: 254, so zebra never
/// prefers a backup route to its own route.
const METRIC: u32 = 0xfe00_0000;

/// Maximum size of the netlink messages of one [`BackupRoutes::install`] in bytes, per address family: about 500,000
/// routes.
const MAX_BATCH_BYTES: usize = 64 << 20;

/// Maximum number of dumps if changes interrupt them.
const MAX_DUMPS: usize = 3;

/// Which BGP routes are removed after their backup routes are installed. Before a zebra starts, these are the routes
/// that it would import without their next hop if they existed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoveOriginals {
    /// None, because no zebra is about to start.
    None,
    /// IPv4 routes over an IPv6 next hop without a next-hop object: zebra imports them without the next hop.
    WithoutNexthopObject,
    /// All IPv4 routes over an IPv6 next hop. Observed with FRR 10.3: `192.0.2.0/25 nhid 14 via inet6 fe80::… dev eth1`
    /// becomes `192.0.2.0/25 nhid 40 dev eth1`.
    Ipv4ViaIpv6,
}

impl RemoveOriginals {
    fn includes(self, route: &RouteMessage) -> bool {
        let has_object = || route.attributes.iter().any(|a| matches!(a, RouteAttribute::NhId(_)));
        match self {
            Self::None => false,
            Self::WithoutNexthopObject => is_via_other_family(&route.attributes) && !has_object(),
            Self::Ipv4ViaIpv6 => is_via_other_family(&route.attributes),
        }
    }
}

/// Access to the backup routes of FRR's namespace. It has a socket of its own, so any thread can use it.
#[derive(Debug)]
pub struct BackupRoutes(Netlink);

/// Changes of the routes of one address family.
#[derive(Debug, Default)]
struct RouteBatches {
    add: Batch,
    remove: Batch,
    count: usize,
    /// Number of routes beyond [`MAX_BATCH_BYTES`].
    over_limit: usize,
}

impl BackupRoutes {
    /// Opens a socket in a namespace.
    ///
    /// # Errors
    /// The socket can't be opened.
    pub(super) fn open(ns: &Netns) -> io::Result<Self> {
        ns.within(Netlink::open).map(Self)
    }

    /// Installs a backup route for every BGP route of the namespace, in all tables. Returns the number of backup
    /// routes. Logs a warning about routes that the kernel refuses and about routes beyond [`MAX_BATCH_BYTES`].
    ///
    /// # Errors
    /// The routes can't be read.
    pub fn install(&mut self, originals: RemoveOriginals) -> io::Result<usize> {
        let mut count = 0;
        for family in FAMILIES {
            let batches: RouteBatches = for_each_route(
                &mut self.0,
                (family, RouteProtocol::Bgp, None),
                |route, batches: &mut RouteBatches| {
                    let Some(backup) = backup_of(route.clone()) else { return };
                    if batches.add.len() >= MAX_BATCH_BYTES {
                        batches.over_limit += 1;
                        return;
                    }
                    batches.count += 1;
                    batches.add.push(RtnlMessage::NewRoute(backup), NLM_F_CREATE | NLM_F_REPLACE);
                    if originals.includes(&route) {
                        batches.remove.push(RtnlMessage::DelRoute(delete_key(route)), 0);
                    }
                },
            )?;
            let (failed, first) = self.0.change_all(batches.add, &[])?;
            if let Some(first) = first {
                log::warn!(
                    "{failed} {} routes have no backup route ({first}): packets to them may be lost until zebra has restarted",
                    if family == AddressFamily::Inet { "IPv4" } else { "IPv6" }
                );
            }
            if batches.over_limit > 0 {
                log::warn!(
                    "{} more routes have no backup route (limit of {} MiB of memory): packets to them may be lost until zebra has \
                     restarted",
                    batches.over_limit,
                    MAX_BATCH_BYTES >> 20
                );
            }
            if failed == 0 {
                self.delete(batches.remove)?;
            } else {
                log::warn!(
                    "IPv4 routes over IPv6 next hops stay installed, because not all routes have a backup route; \
                     the new zebra may import them without their next hop, and packets may be lost"
                );
            }
            count += batches.count - failed.min(batches.count);
        }
        Ok(count)
    }

    /// Removes all backup routes, including those of an earlier instance. Returns their number.
    ///
    /// # Errors
    /// The routes can't be read.
    pub fn remove(&mut self) -> io::Result<usize> {
        self.remove_if(|_| true)
    }

    /// Removes the backup routes to `prefixes` whose original does not exist any more. Returns their number.
    ///
    /// # Errors
    /// The routes can't be read.
    pub fn prune(&mut self, prefixes: &BTreeSet<IpNet>) -> io::Result<usize> {
        let originals = destinations(&mut self.0, RouteProtocol::Bgp, None)?;
        self.remove_if(|backup| {
            destination(backup).is_some_and(|at| prefixes.contains(&at.1) && !originals.contains(&at))
        })
    }

    /// Removes next hops over the link with that index from the backup routes. Removes a backup route with its last
    /// next hop. Returns the number of changed and removed backup routes.
    ///
    /// # Errors
    /// The routes can't be read.
    pub fn remove_link(&mut self, index: u32) -> io::Result<usize> {
        self.reduce(|backup| without_link(backup.clone(), index))
    }

    /// Removes the backup routes for which `which` is true. Returns their number.
    fn remove_if(&mut self, which: impl Fn(&RouteMessage) -> bool) -> io::Result<usize> {
        self.reduce(|backup| if which(backup) { Remaining::Nothing } else { Remaining::All })
    }

    /// Reduces every backup route to what `remaining` says. Returns the number of changed and removed backup routes.
    fn reduce(&mut self, remaining: impl Fn(&RouteMessage) -> Remaining) -> io::Result<usize> {
        let mut count = 0;
        for family in FAMILIES {
            let batches: RouteBatches = for_each_route(
                &mut self.0,
                (family, PROTOCOL, None),
                |backup, batches: &mut RouteBatches| {
                    let rest = match remaining(&backup) {
                        Remaining::All => return,
                        Remaining::Nothing => None,
                        Remaining::Some(rest) => Some(rest),
                    };
                    batches.count += 1;
                    // Delete and add: only for IPv4 does the kernel replace a route with all its next hops.
                    batches.remove.push(RtnlMessage::DelRoute(delete_key(backup)), 0);
                    if let Some(rest) = rest {
                        batches.add.push(RtnlMessage::NewRoute(rest), NLM_F_CREATE | NLM_F_REPLACE);
                    }
                },
            )?;
            self.delete(batches.remove)?;
            self.0.change_all(batches.add, &[EEXIST])?;
            count += batches.count;
        }
        Ok(count)
    }

    /// Deletes routes. Ignores missing ones: the kernel may have removed them together with their interface.
    fn delete(&mut self, routes: Batch) -> Result<(), NetlinkError> {
        let (failed, first) = self.0.change_all(routes, &[ESRCH])?;
        if let Some(first) = first {
            log::warn!("{failed} BGP routes or backup routes (protocol 201) cannot be removed: {first}");
        }
        Ok(())
    }
}

/// Whether a next hop has another address family than the destination.
fn is_via_other_family(attributes: &[RouteAttribute]) -> bool {
    attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Via(_) => true,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| is_via_other_family(&hop.attributes)),
        _ => false,
    })
}

/// The attributes that identify a route for a deletion. With both a next hop and a next-hop group, the kernel finds no
/// such route.
fn delete_key(mut route: RouteMessage) -> RouteMessage {
    route.header.flags = RouteFlags::empty();
    route.attributes.retain(|attribute| {
        matches!(
            attribute,
            RouteAttribute::Destination(_) | RouteAttribute::Table(_) | RouteAttribute::Priority(_)
        )
    });
    route
}

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// Passes all routes of that family, protocol and table (or of all tables) to `take`, and returns the accumulated
/// result. Starts over if a change interrupts the dump, at most [`MAX_DUMPS`] times.
fn for_each_route<T: Default>(
    nl: &mut Netlink,
    (family, protocol, table): (AddressFamily, RouteProtocol, Option<u32>),
    mut take: impl FnMut(RouteMessage, &mut T),
) -> Result<T, NetlinkError> {
    let mut filter = RouteMessage::default();
    filter.header.address_family = family;
    filter.header.protocol = protocol;
    filter.attributes.extend(table.map(RouteAttribute::Table));
    let mut dumps = 0;
    loop {
        let mut result = T::default();
        let interrupted = nl.stream(RtnlMessage::GetRoute(filter.clone()), &mut |reply| match reply {
            RtnlMessage::NewRoute(route) if route.header.protocol == protocol => {
                take(route, &mut result);
            }
            _ => {}
        });
        dumps += 1;
        match interrupted {
            // A table does not exist before the first route in it.
            Err(e) if table.is_some() && e.source.kind() == io::ErrorKind::NotFound => return Ok(result),
            Err(e) => return Err(e),
            Ok(interrupted) if !interrupted || dumps == MAX_DUMPS => return Ok(result),
            Ok(_) => {}
        }
    }
}

/// Routing tables and prefixes.
type Destinations = BTreeSet<(u32, IpNet)>;

/// Destinations of the routes of that protocol in one table or in all.
pub(super) fn destinations(
    nl: &mut Netlink,
    protocol: RouteProtocol,
    table: Option<u32>,
) -> Result<Destinations, NetlinkError> {
    let mut all = BTreeSet::new();
    for family in FAMILIES {
        all.append(&mut for_each_route(nl, (family, protocol, table), |route, all: &mut Destinations| {
            all.extend(destination(&route));
        })?);
    }
    Ok(all)
}

/// The backup route of a unicast route; `None` for other types and without next hops. It contains the next hops instead
/// of a group number, because a new zebra may remove the group, and with it all routes that use it.
fn backup_of(mut route: RouteMessage) -> Option<RouteMessage> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    route.header.protocol = PROTOCOL;
    // Without next-hop objects zebra installs IPv4 routes via 169.254.0.1, which is in no subnet and needs the onlink
    // flag.
    route.header.flags &= RouteFlags::Onlink;
    route.attributes.retain(|attribute| {
        matches!(
            attribute,
            RouteAttribute::Destination(_)
                | RouteAttribute::Table(_)
                | RouteAttribute::Oif(_)
                | RouteAttribute::Gateway(_)
                | RouteAttribute::Via(_)
                | RouteAttribute::PrefSource(_)
                | RouteAttribute::MultiPath(_)
        )
    });
    let mut has_hops = false;
    for attribute in &mut route.attributes {
        match attribute {
            RouteAttribute::MultiPath(list) => {
                list.iter_mut().for_each(|hop| hop.flags &= RouteNextHopFlags::Onlink);
                has_hops = !list.is_empty();
            }
            RouteAttribute::Oif(_) => has_hops = true,
            _ => {}
        }
    }
    route.attributes.push(RouteAttribute::Priority(METRIC));
    has_hops.then_some(route)
}

fn destination(route: &RouteMessage) -> Option<(u32, IpNet)> {
    let mut table = u32::from(route.header.table);
    // A default route has no such attribute.
    let mut address: IpAddr = match route.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => address = (*ip).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => address = (*ip).into(),
            _ => {}
        }
    }
    Some((table, IpNet::new(address, route.header.destination_prefix_length).ok()?))
}

/// The rest of a backup route after the next hops over a link are removed.
enum Remaining {
    /// It has no such next hop.
    All,
    /// It has other next hops.
    Some(RouteMessage),
    /// It has no other next hop.
    Nothing,
}

fn without_link(mut backup: RouteMessage, index: u32) -> Remaining {
    let mut is_changed = false;
    for attribute in &mut backup.attributes {
        match attribute {
            RouteAttribute::Oif(oif) if *oif == index => return Remaining::Nothing,
            RouteAttribute::MultiPath(hops) => {
                let before = hops.len();
                hops.retain(|hop| hop.interface_index != index);
                if hops.is_empty() {
                    return Remaining::Nothing;
                }
                if hops.len() < before {
                    hops.iter_mut().for_each(|hop| hop.flags &= RouteNextHopFlags::Onlink);
                    is_changed = true;
                }
            }
            _ => {}
        }
    }
    if !is_changed {
        return Remaining::All;
    }
    backup.header.flags &= RouteFlags::Onlink;
    Remaining::Some(backup)
}

impl super::RouterNetns {
    /// Destinations of the BGP routes and backup routes in `table` of FRR's namespace, without default routes.
    ///
    /// # Errors
    /// The routes can't be read.
    pub fn bgp_prefixes(&mut self, table: u32) -> io::Result<BTreeSet<IpNet>> {
        let nl = self.netlink();
        let mut prefixes = BTreeSet::new();
        for protocol in [RouteProtocol::Bgp, PROTOCOL] {
            let found = destinations(nl, protocol, Some(table))?;
            // A default route is not a service.
            let is_service = |(number, prefix): &(u32, IpNet)| *number == table && prefix.prefix_len() > 0;
            prefixes.extend(found.into_iter().filter(is_service).map(|(_, prefix)| prefix));
        }
        Ok(prefixes)
    }

    /// Opens a socket for the backup routes of FRR's namespace.
    ///
    /// # Errors
    /// The socket can't be opened.
    pub fn backup_routes(&self) -> io::Result<BackupRoutes> {
        BackupRoutes::open(self.ns())
    }
}
