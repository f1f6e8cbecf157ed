//! Shadow routes: copies of the BGP routes, in reserve, for the time in which zebra may take its own away.
//!
//! A copy has the same destination, table and next hops, our own protocol number and a metric behind every
//! other, so the kernel turns to it only while zebra's own route is missing: when a new zebra sweeps what its
//! predecessor left, when bgpd's "update complete" overtakes the routes themselves, when a next-hop group is
//! exchanged. The kernel drops a copy with its interface, and passes over it while that has no carrier
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

use super::netlink::{Batch, Netlink, Refusal};
use super::netns::Netns;
use super::object::Object;

/// The protocol number of what is there for a while, as the copies are; 200 is that of what we keep for good.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(201);

/// Their metric. zebra takes the first byte of a kernel route's metric for its distance: 254, so that it
/// never prefers a copy to a route of its own.
const METRIC: u32 = 0xfe00_0000;

/// Memory for copies that are under way, in bytes: some 500,000 routes.
const MOST: usize = 64 << 20;

/// How often routes are read again because others came and went meanwhile.
const DUMPS: usize = 3;

/// Which routes leave only their copies when a zebra is about to start: those that it would spoil, and what it does not find
/// it can't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoils {
    /// None: no zebra is about to start.
    Nothing,
    /// IPv4 routes over an IPv6 next hop that name no next-hop object: zebra takes them over without the next hop.
    WithoutObject,
    /// All IPv4 routes over an IPv6 next hop: seen with 10.3, `192.0.2.0/25 nhid 14 via inet6 fe80::… dev eth1` becomes
    /// `192.0.2.0/25 nhid 40 dev eth1`.
    OtherFamily,
}

impl Spoils {
    fn includes(self, route: &RouteMessage) -> bool {
        let has_object = || route.attributes.iter().any(|a| matches!(a, RouteAttribute::NhId(_)));
        match self {
            Self::Nothing => false,
            Self::WithoutObject => is_via_other_family(&route.attributes) && !has_object(),
            Self::OtherFamily => is_via_other_family(&route.attributes),
        }
    }
}

/// The backup routes of FRR's namespace, by a socket of their own: to be used on any thread.
#[derive(Debug)]
pub struct BackupRoutes(Netlink);

/// What is to be done about the routes of one family.
#[derive(Debug, Default)]
struct Work {
    add: Batch,
    remove: Batch,
    count: usize,
    /// Routes that are too many.
    beyond: usize,
}

impl BackupRoutes {
    /// Those of a namespace.
    ///
    /// # Errors
    /// There is no socket for it.
    pub(super) fn open(ns: &Netns) -> io::Result<Self> {
        ns.within(Netlink::open).map(Self)
    }

    /// Copies every BGP route of the namespace, in all tables. Returns how many there are. Copies that the kernel refuses are
    /// left out with a warning, and so are those beyond [`MOST`].
    ///
    /// # Errors
    /// The routes can't be read.
    pub fn install(&mut self, spoils: Spoils) -> io::Result<usize> {
        let mut count = 0;
        for family in FAMILIES {
            let work: Work =
                each(&mut self.0, (family, RouteProtocol::Bgp, None), |route, work: &mut Work| {
                    let Some(copy) = copy(route.clone()) else { return };
                    if work.add.len() >= MOST {
                        work.beyond += 1;
                        return;
                    }
                    work.count += 1;
                    work.add.push(Object::NewRoute(copy), NLM_F_CREATE | NLM_F_REPLACE);
                    if spoils.includes(&route) {
                        work.remove.push(Object::DelRoute(key(route)), 0);
                    }
                })?;
            let (refused, first) = self.0.change_all(work.add, &[])?;
            if let Some(first) = first {
                log::warn!("{refused} routes have no backup route; the first was refused so: {first}");
            }
            if work.beyond > 0 {
                log::warn!("{} routes more have no backup route, which takes too much memory", work.beyond);
            }
            if refused == 0 {
                self.delete(work.remove)?;
            } else {
                log::warn!(
                    "routes that a new zebra spoils are left to it, since not all of them have a backup"
                );
            }
            count += work.count - refused.min(work.count);
        }
        Ok(count)
    }

    /// Removes every copy, also those that an earlier run left. Returns how many there were.
    ///
    /// # Errors
    /// The routes can't be read.
    pub fn remove(&mut self) -> io::Result<usize> {
        self.remove_if(|_| true)
    }

    /// Removes the copies of routes to `prefixes` that have no original any more.
    ///
    /// # Errors
    /// The routes can't be read.
    pub fn remove_gone(&mut self, prefixes: &BTreeSet<IpNet>) -> io::Result<usize> {
        let originals = destinations(&mut self.0, RouteProtocol::Bgp, None)?;
        self.remove_if(|copy| {
            destination(copy).is_some_and(|at| prefixes.contains(&at.1) && !originals.contains(&at))
        })
    }

    /// Removes next hops over the link with that index from the copies, which go with their last one. Returns from how many.
    ///
    /// # Errors
    /// The routes can't be read.
    pub fn remove_link(&mut self, index: u32) -> io::Result<usize> {
        let mut count = 0;
        for family in FAMILIES {
            let work: Work = each(&mut self.0, (family, PROTOCOL, None), |copy, work: &mut Work| {
                let rest = match without(copy.clone(), index) {
                    Remains::All => return,
                    Remains::Nothing => None,
                    Remains::Some(rest) => Some(rest),
                };
                work.count += 1;
                // What is to be replaced is replaced as a whole by IPv4 alone.
                work.remove.push(Object::DelRoute(key(copy)), 0);
                if let Some(rest) = rest {
                    work.add.push(Object::NewRoute(rest), NLM_F_CREATE | NLM_F_REPLACE);
                }
            })?;
            self.delete(work.remove)?;
            self.0.change_all(work.add, &[EEXIST])?;
            count += work.count;
        }
        Ok(count)
    }

    fn remove_if(&mut self, which: impl Fn(&RouteMessage) -> bool) -> io::Result<usize> {
        let mut count = 0;
        for family in FAMILIES {
            let work: Work = each(&mut self.0, (family, PROTOCOL, None), |copy, work: &mut Work| {
                if which(&copy) {
                    work.count += 1;
                    work.remove.push(Object::DelRoute(key(copy)), 0);
                }
            })?;
            self.delete(work.remove)?;
            count += work.count;
        }
        Ok(count)
    }

    /// The kernel may have dropped some with their interface meanwhile.
    fn delete(&mut self, routes: Batch) -> Result<(), Refusal> {
        let (refused, first) = self.0.change_all(routes, &[ESRCH])?;
        if let Some(first) = first {
            log::warn!("{refused} routes can't be removed; the first was refused so: {first}");
        }
        Ok(())
    }
}

fn is_via_other_family(attributes: &[RouteAttribute]) -> bool {
    attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Via(_) => true,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| is_via_other_family(&hop.attributes)),
        _ => false,
    })
}

/// What tells a route from its copy; with next hop and group number both, the kernel finds no such route.
fn key(mut route: RouteMessage) -> RouteMessage {
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

/// What `take` makes of all routes of that family, protocol and table (of all tables without one).
fn each<T: Default>(
    nl: &mut Netlink,
    (family, protocol, table): (AddressFamily, RouteProtocol, Option<u32>),
    mut take: impl FnMut(RouteMessage, &mut T),
) -> Result<T, Refusal> {
    let mut filter = RouteMessage::default();
    filter.header.address_family = family;
    filter.header.protocol = protocol;
    filter.attributes.extend(table.map(RouteAttribute::Table));
    let mut dumps = 0;
    loop {
        let mut taken = T::default();
        let disturbed = nl.stream(Object::GetRoute(filter.clone()), &mut |answer| match answer {
            Object::NewRoute(route) if route.header.protocol == protocol => {
                take(route, &mut taken);
            }
            _ => {}
        });
        dumps += 1;
        match disturbed {
            // There is no such table before its first route.
            Err(e) if table.is_some() && e.error.kind() == io::ErrorKind::NotFound => return Ok(taken),
            Err(e) => return Err(e),
            Ok(disturbed) if !disturbed || dumps == DUMPS => return Ok(taken),
            Ok(_) => {}
        }
    }
}

/// Tables and prefixes.
type Destinations = BTreeSet<(u32, IpNet)>;

/// Where the routes of that protocol lead.
pub(super) fn destinations(
    nl: &mut Netlink,
    protocol: RouteProtocol,
    table: Option<u32>,
) -> Result<Destinations, Refusal> {
    let mut all = BTreeSet::new();
    for family in FAMILIES {
        all.append(&mut each(nl, (family, protocol, table), |route, all: &mut Destinations| {
            all.extend(destination(&route));
        })?);
    }
    Ok(all)
}

/// The copy of a unicast route: next hops written out instead of named by number, since a new zebra may
/// remove the group, and with it every route that names it.
fn copy(mut route: RouteMessage) -> Option<RouteMessage> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    route.header.protocol = PROTOCOL;
    // Where zebra may not use next-hop objects, an IPv4 route leads to 169.254.0.1, which is in no subnet.
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
    let mut hops = false;
    for attribute in &mut route.attributes {
        match attribute {
            RouteAttribute::MultiPath(list) => {
                list.iter_mut().for_each(|hop| hop.flags &= RouteNextHopFlags::Onlink);
                hops = !list.is_empty();
            }
            RouteAttribute::Oif(_) => hops = true,
            _ => {}
        }
    }
    route.attributes.push(RouteAttribute::Priority(METRIC));
    hops.then_some(route)
}

fn destination(route: &RouteMessage) -> Option<(u32, IpNet)> {
    let mut table = u32::from(route.header.table);
    // A default route has none.
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

/// What is left of a copy without a link.
enum Remains {
    All,
    Some(RouteMessage),
    Nothing,
}

fn without(mut copy: RouteMessage, index: u32) -> Remains {
    let mut remains = Remains::All;
    for attribute in &mut copy.attributes {
        match attribute {
            RouteAttribute::Oif(oif) if *oif == index => return Remains::Nothing,
            RouteAttribute::MultiPath(hops) => {
                let before = hops.len();
                hops.retain(|hop| hop.interface_index != index);
                if hops.is_empty() {
                    return Remains::Nothing;
                }
                if hops.len() < before {
                    hops.iter_mut().for_each(|hop| hop.flags &= RouteNextHopFlags::Onlink);
                    remains = Remains::Some(RouteMessage::default());
                }
            }
            _ => {}
        }
    }
    match remains {
        Remains::Some(_) => {
            copy.header.flags &= RouteFlags::Onlink;
            Remains::Some(copy)
        }
        other => other,
    }
}

impl super::Kernel {
    /// Where BGP routes of `table` in FRR's namespace, or their copies, lead.
    ///
    /// # Errors
    /// The routes can't be read.
    pub fn bgp_prefixes(&mut self, table: u32) -> io::Result<BTreeSet<IpNet>> {
        let nl = self.router_netlink();
        let mut prefixes = BTreeSet::new();
        for protocol in [RouteProtocol::Bgp, PROTOCOL] {
            let here = destinations(nl, protocol, Some(table))?;
            // A default route is no service.
            let are = |(number, prefix): &(u32, IpNet)| *number == table && prefix.prefix_len() > 0;
            prefixes.extend(here.into_iter().filter(are).map(|(_, prefix)| prefix));
        }
        Ok(prefixes)
    }

    /// What looks after the backup routes of FRR's namespace.
    ///
    /// # Errors
    /// There is no socket for it.
    pub fn backup_routes(&self) -> io::Result<BackupRoutes> {
        BackupRoutes::open(self.router_ns())
    }
}
