//! Carrying changes out: each [`Op`] is one netlink message (or one file below `/proc/sys`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;

use ipnet::IpNet;
use log::Level;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteMessage, RouteProtocol};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, LinkVrf, RouteMessageBuilder};

use crate::model::{
    Desired, MacAddr, NamespaceName, Namespaces, NsState, OWNER_GROUP, OWNER_PROTOCOL, Role, Route, Rule,
    Side, Sysctl,
};

use super::netlink::{Netlink, Refusal};
use super::netns::{Held, Netns, Origin};
use super::{Op, nft, observe, plan};

/// How often a plan is made anew when what was done did not give what was wanted.
const ROUNDS: usize = 3;

/// The link whose alias records the token that a namespace was built with: it lives and dies with the namespace.
const TOKEN_KEEPER: &str = "lo";
const TOKEN_PREFIX: &str = "frr-supervisor token ";

/// Both namespaces, each with a socket in it.
#[derive(Debug)]
pub struct Kernel {
    host: Place,
    router: Option<Place>,
    /// Connection marks live in the host namespace.
    nft: Result<netlink_sys::Socket, nft::Error>,
}

#[derive(Debug)]
struct Place {
    ns: Netns,
    nl: Netlink,
}

/// What came of bringing the kernel to what is desired.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The changes, in order.
    pub done: Vec<Op>,
    /// Sentences about changes that the kernel refused and that leave the rest working.
    pub refused: Vec<String>,
}

/// Why the kernel is not as it should be, in a sentence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A change was refused.
    #[error("{op}: {refusal}{}", remedy(.op, .refusal))]
    Refused {
        /// What was to be done.
        op: Box<Op>,
        /// What the kernel said.
        refusal: Refusal,
    },
    /// The state could not be read.
    #[error("cannot read the kernel's state: {0}")]
    Unreadable(#[from] Refusal),
    /// Something foreign is in the way.
    #[error("{}", .0.join("; "))]
    Conflicts(Vec<String>),
    /// What was done did not stay.
    #[error("still to do after {ROUNDS} rounds, is another program changing the same things? {0}")]
    Unstable(Box<Op>),
    /// Namespaces.
    #[error("{0}")]
    Namespace(#[from] io::Error),
}

/// Whether the router is none without it. The others cost a way back, a sysctl, or leave something behind.
fn is_essential(op: &Op) -> bool {
    matches!(
        op,
        Op::CreateVrf { .. }
            | Op::CreateVeth { .. }
            | Op::Move { .. }
            | Op::SetMaster { .. }
            | Op::AddAddress { .. }
            | Op::SetUp { .. }
    )
}

/// What the operator must do about a refusal, where we know it.
fn remedy(op: &Op, refusal: &Refusal) -> &'static str {
    let unsupported = matches!(refusal.error.raw_os_error(), Some(EOPNOTSUPP));
    match op {
        Op::CreateVrf { .. } if unsupported => {
            ". The kernel has no VRF: load its module. On Talos 1.14 and later add the machine config document \
             \"apiVersion: v1alpha1, kind: KernelModuleConfig, name: vrf\", on any version \
             \"machine: {kernel: {modules: [{name: vrf}]}}\""
        }
        Op::SetSysctl(_) if refusal.error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            ". /proc/sys is read-only: the service's security.readonlyPaths must have neither /proc/sys nor /proc/sys/net"
        }
        Op::SetMarks(_) if unsupported => {
            ". RETURN_PATH=connmark needs nf_tables; RETURN_PATH=default-route and none do without"
        }
        _ => "",
    }
}

/// The kernel does not know this (`asm-generic/errno.h`).
const EOPNOTSUPP: i32 = 95;

impl Place {
    fn open(ns: Netns) -> io::Result<Self> {
        let nl = ns.within(Netlink::open)?;
        Ok(Self { ns, nl })
    }

    fn link(&mut self, name: &str) -> Result<LinkMessage, Refusal> {
        let link = LinkUnspec::new_with_name(name).build();
        let answers = self.nl.get(RouteNetlinkMessage::GetLink(link))?;
        let link = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        link.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound).into())
    }

    fn index(&mut self, name: &str) -> Result<u32, Refusal> {
        Ok(self.link(name)?.header.index)
    }

    /// Reads those of the kernel parameters that are of this side, or all if it is `alone`.
    fn sysctls(
        &self,
        side: Side,
        alone: bool,
        wanted: &[Sysctl],
    ) -> io::Result<BTreeMap<String, Option<String>>> {
        let here = wanted.iter().filter(|s| alone || s.side == side).map(|s| s.path.as_str());
        self.ns.within(|| Ok(observe::sysctls(here)))
    }

    /// Changes an existing link. `RTM_NEWLINK` without create, because `RTM_SETLINK` ignores part of what it is given.
    fn set(
        &mut self,
        name: &str,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), Refusal> {
        let index = self.index(name)?;
        let message = change(LinkUnspec::new_with_index(index)).build();
        self.nl.change(RouteNetlinkMessage::NewLink(message), 0)
    }
}

impl Kernel {
    /// Opens the calling thread's namespace as the host's, and the named one, made if need be.
    ///
    /// # Errors
    /// A namespace can't be made or entered.
    pub fn open(namespace: &NamespaceName) -> io::Result<(Self, Option<Origin>)> {
        let host = Place::open(Netns::current()?)?;
        let nft = nft::open();
        let Some(name) = namespace.as_deref() else {
            return Ok((Self { host, router: None, nft }, None));
        };
        let (ns, origin) = Netns::ensure(name)?;
        Ok((Self { host, router: Some(Place::open(ns)?), nft }, Some(origin)))
    }

    /// Fetches NICs that an earlier configuration moved into another namespace back to the host's.
    ///
    /// # Errors
    /// The NIC is there and can't be moved.
    pub fn fetch_home(&mut self, namespace: &NamespaceName, macs: &[MacAddr]) -> Result<(), Error> {
        for (name, ns) in Netns::others(namespace.as_deref()) {
            let mut place = Place::open(ns)?;
            let links = observe::observe(&mut place.nl)?.links;
            let ours = links.iter().filter(|link| matches!(link.role(), Some(Role::Nic(_))));
            for link in ours.filter(|l| [l.permanent_mac, l.mac].iter().flatten().any(|m| macs.contains(m))) {
                log::info!(
                    "fetching {} out of namespace {name}, where an earlier configuration put it",
                    link.name
                );
                let fd = self.host.ns.file().as_raw_fd();
                place.set(&link.name, |link| link.setns_by_fd(fd).link_group(0))?;
            }
        }
        Ok(())
    }

    /// What is held under the name of the namespace that FRR runs in.
    ///
    /// # Errors
    /// The namespace can't be examined.
    pub fn held(&self, namespace: &NamespaceName) -> io::Result<Held> {
        match (namespace.as_deref(), &self.router) {
            (Some(name), Some(router)) => router.ns.held_as(name),
            _ => Ok(Held::Itself),
        }
    }

    /// The token that the namespace was built with.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn token(&mut self) -> Result<Option<String>, Error> {
        let Some(router) = &mut self.router else { return Ok(None) };
        let attributes = router.link(TOKEN_KEEPER)?.attributes;
        let alias = attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfAlias(alias) => Some(alias),
            _ => None,
        });
        Ok(alias.and_then(|alias| Some(alias.strip_prefix(TOKEN_PREFIX)?.to_owned())))
    }

    /// Records the token that the namespace was built with.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn set_token(&mut self, token: &str) -> Result<(), Error> {
        match &mut self.router {
            Some(router) => {
                let alias = format!("{TOKEN_PREFIX}{token}");
                Ok(router.set(TOKEN_KEEPER, |link| link.alias(alias))?)
            }
            None => Ok(()),
        }
    }

    /// Takes down everything of ours; NICs go home with their addresses.
    ///
    /// # Errors
    /// See [`Self::reconcile`].
    pub fn dismantle(&mut self) -> Result<(), Error> {
        let outcome = self.reconcile(&Desired::default(), Level::Info)?;
        outcome.refused.iter().for_each(|sentence| log::error!("{sentence}"));
        Ok(())
    }

    /// Kernel parameters of `desired` that are not as they should be. Not all of them are announced when they change.
    ///
    /// # Errors
    /// A namespace can't be entered.
    pub fn sysctls_have_changed(&self, desired: &Desired) -> io::Result<bool> {
        for (side, place) in [(Side::Host, Some(&self.host)), (Side::Router, self.router.as_ref())] {
            let Some(place) = place else { continue };
            let alone = self.router.is_none();
            let now = place.sysctls(side, alone, &desired.sysctls)?;
            let mut here = desired.sysctls.iter().filter(|s| alone || s.side == side);
            if here.any(|s| matches!(now.get(&s.path), Some(Some(value)) if value != s.value)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The namespace that FRR runs in.
    pub fn router_ns(&self) -> &Netns {
        &self.router.as_ref().unwrap_or(&self.host).ns
    }

    /// The socket in FRR's namespace.
    pub(super) fn router_netlink(&mut self) -> &mut Netlink {
        &mut self.place(Side::Router).nl
    }

    /// Each namespace once.
    pub fn namespaces(&self) -> impl Iterator<Item = &Netns> {
        std::iter::once(&self.host).chain(&self.router).map(|place| &place.ns)
    }

    fn place(&mut self, side: Side) -> &mut Place {
        match (side, &mut self.router) {
            (Side::Router, Some(router)) => router,
            _ => &mut self.host,
        }
    }

    /// Reads the state of both namespaces, of kernel parameters and marks only what `desired` names.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn observe(&mut self, desired: Option<&Desired>) -> Result<Namespaces, Error> {
        let read = |place: &mut Place, side: Side, alone: bool| -> Result<NsState, Error> {
            let mut state = observe::observe(&mut place.nl)?;
            state.sysctls = place.sysctls(side, alone, desired.map_or(&[][..], |d| &d.sysctls))?;
            Ok(state)
        };
        let mut host = read(&mut self.host, Side::Host, self.router.is_none())?;
        if let Ok(socket) = &self.nft {
            host.marks = observe::marks(socket, desired.and_then(|d| d.marks.as_ref()))?;
        }
        let router = self.router.as_mut().map(|place| read(place, Side::Router, false)).transpose()?;
        Ok(Namespaces { host, router })
    }

    /// Brings the kernel to `desired` and checks that it stays. Every change is logged at `level`.
    ///
    /// # Errors
    /// The first change that was refused and without which nothing works, or what is in the way.
    pub fn reconcile(&mut self, desired: &Desired, level: Level) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        let mut refused: Vec<Op> = Vec::new();
        for _ in 0..ROUNDS {
            let mut plan = plan(desired, &self.observe(Some(desired))?);
            plan.ops.retain(|op| !refused.contains(op));
            if !plan.conflicts.is_empty() {
                return Err(Error::Conflicts(plan.conflicts));
            }
            if plan.ops.is_empty() {
                return Ok(outcome);
            }
            for op in plan.ops {
                match self.apply(&op) {
                    Ok(()) => {
                        log::log!(level, "{op}");
                        outcome.done.push(op);
                    }
                    Err(refusal) if is_essential(&op) => {
                        return Err(Error::Refused { op: Box::new(op), refusal });
                    }
                    Err(refusal) => {
                        let remedy = remedy(&op, &refusal);
                        outcome.refused.push(format!("{op}: {refusal}{remedy}; going on without it"));
                        refused.push(op);
                    }
                }
            }
        }
        let left = plan(desired, &self.observe(Some(desired))?).ops;
        match left.into_iter().find(|op| !refused.contains(op)) {
            None => Ok(outcome),
            Some(op) => Err(Error::Unstable(Box::new(op))),
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), Refusal> {
        match op {
            Op::CreateVrf { side, name, table } => {
                let message = LinkVrf::new(name.as_str(), *table).link_group(OWNER_GROUP).build();
                self.place(*side).nl.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            }
            Op::CreateVeth { end, peer } => {
                let fd = self.place(peer.0).ns.file().as_raw_fd();
                let message = veth(end.1.as_str(), peer.1.as_str(), fd);
                self.place(end.0).nl.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            }
            Op::Delete { side, name } => {
                let place = self.place(*side);
                let index = place.index(name)?;
                let message = LinkUnspec::new_with_index(index).build();
                place.nl.change(RouteNetlinkMessage::DelLink(message), 0)
            }
            Op::Move { from, to, name } => {
                let fd = self.place(*to).ns.file().as_raw_fd();
                let group = if *to == Side::Router { OWNER_GROUP } else { 0 };
                self.place(*from).set(name, |link| link.setns_by_fd(fd).link_group(group))
            }
            Op::Mark { side, name, role, group } => self.place(*side).set(name, |link| {
                let link = link.alias(role.alias());
                if *group { link.link_group(OWNER_GROUP) } else { link }
            }),
            Op::Unmark { side, name } => self.place(*side).set(name, |link| link.alias("").link_group(0)),
            Op::SetMtu { side, name, mtu } => self.place(*side).set(name.as_str(), |link| link.mtu(*mtu)),
            Op::SetMaster { side, name, master } => {
                let index = self.place(*side).index(master.as_str())?;
                self.place(*side).set(name.as_str(), |link| link.controller(index))
            }
            Op::AddAddress { side, name, net } => {
                let place = self.place(*side);
                let message = address(place.index(name)?, *net);
                place.nl.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
            }
            Op::DelAddress { side, name, net } => {
                let place = self.place(*side);
                let message = address(place.index(name.as_str())?, *net);
                place.nl.change(RouteNetlinkMessage::DelAddress(message), 0)
            }
            Op::SetUp { side, name } => self.place(*side).set(name, LinkMessageBuilder::up),
            Op::SetSysctl(Sysctl { side, path, value }) => {
                let write = || fs::write(format!("/proc/sys/{path}"), value);
                Ok(self.place(*side).ns.within(write)?)
            }
            Op::AddRoute { side, route } => {
                let place = self.place(*side);
                let message = route_message(place.index(&route.dev)?, route)?;
                place.nl.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
            }
            Op::DelRoute { side, route } => {
                let place = self.place(*side);
                let message = route_message(place.index(&route.dev)?, route)?;
                place.nl.change(RouteNetlinkMessage::DelRoute(message), 0)
            }
            Op::AddRule { side, rule } => {
                let message = RouteNetlinkMessage::NewRule(rule_message(rule));
                self.place(*side).nl.change(message, NLM_F_CREATE | NLM_F_EXCL)
            }
            Op::DelRule { side, rule } => {
                self.place(*side).nl.change(RouteNetlinkMessage::DelRule(rule_message(rule)), 0)
            }
            Op::SetMarks(path) => {
                let socket = self.nft.as_ref().map_err(refusal)?;
                nft::install(socket, path).map_err(|e| refusal(&e))
            }
            Op::DropMarks => match &self.nft {
                Ok(socket) => nft::remove(socket).map_err(|e| refusal(&e)),
                Err(_) => Ok(()),
            },
        }
    }
}

fn refusal(e: &nft::Error) -> Refusal {
    let error = e.errno().map_or_else(|| io::Error::other(""), io::Error::from_raw_os_error);
    Refusal { error, words: Some(e.to_string()) }
}

/// Both ends in one message, the peer born in its namespace. The peer must not be asked to be up (`ENOTCONN`).
fn veth(name: &str, peer: &str, peer_ns: i32) -> LinkMessage {
    let peer = LinkUnspec::new_with_name(peer).link_group(OWNER_GROUP).setns_by_fd(peer_ns).build();
    let mut message = LinkUnspec::new_with_name(name).link_group(OWNER_GROUP).build();
    let data = InfoData::Veth(InfoVeth::Peer(peer));
    let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(data)];
    message.attributes.push(LinkAttribute::LinkInfo(info));
    message
}

/// Without duplicate address detection: both ends are ours, and a tentative address can't be bound to.
/// An IPv4 link-local address has link scope, so that it is no source for traffic that goes further (RFC 3927 §2.7).
fn address(index: u32, net: IpNet) -> AddressMessage {
    match net {
        IpNet::V4(net) => {
            let builder = AddressMessageBuilder::<Ipv4Addr>::new().address(net.addr(), net.prefix_len());
            let mut message = builder.index(index).build();
            if net.addr().is_link_local() {
                message.header.scope = AddressScope::Link;
            }
            message
        }
        IpNet::V6(net) => {
            let builder = AddressMessageBuilder::<Ipv6Addr>::new().address(net.addr(), net.prefix_len());
            let mut message = builder.index(index).build();
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            message
        }
    }
}

fn route_message(index: u32, route: &Route) -> Result<RouteMessage, Refusal> {
    fn invalid(e: impl std::fmt::Display) -> Refusal {
        io::Error::other(e.to_string()).into()
    }
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.dst.addr(), route.dst.prefix_len())
        .map_err(invalid)?
        .output_interface(index)
        .table_id(route.table)
        .protocol(RouteProtocol::from(route.protocol));
    if route.metric != 0 {
        builder = builder.priority(route.metric);
    }
    if let Some(via) = route.via {
        builder = builder.gateway(via).map_err(invalid)?;
    }
    if let Some(src) = route.src {
        builder = builder.pref_source(src).map_err(invalid)?;
    }
    Ok(builder.build())
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::from(OWNER_PROTOCOL)),
        RuleAttribute::FwMark(rule.mark.0),
        RuleAttribute::FwMask(rule.mark.1),
    ];
    message
}
