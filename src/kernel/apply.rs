//! Applies changes to the kernel: each [`Op`] is one netlink message (or one file below `/proc/sys`).

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::panic::resume_unwind;
use std::thread;
use std::time::Instant;

use libc::EEXIST;
use log::Level;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use crate::model::{
    Desired, KernelRoute, KernelRouteKind, Link, NamespaceName, Namespaces, NsState, OWNER_GROUP, Ownership,
    Side, SpecKind, Sysctl,
};

use super::changes::{Changes, Error, ROUNDS, ReconcileOutcome};
use super::handle::NsHandle;
use super::message::{self, LinkRefs};
use super::missing_routes::MissingRoutes;
use super::netlink::{Netlink, NetlinkError, ignore_errno};
use super::netns::{Netns, NetnsMount, NetnsOrigin};
use super::op::LinkSetting;
use super::record::OwnershipRecord;
use super::rtnl::RtnlMessage;
use super::{Op, RouterNetns, nft, observe, plan};

/// With this many desired links or more, both namespaces are read in parallel. Fewer links are read faster than a
/// thread starts, and the memory of a thread is not returned.
const PARALLEL_LINKS: usize = 200;

/// The link whose alias stores the rebuild token of a namespace. It exists as long as the namespace.
const TOKEN_LINK: &str = "lo";
const TOKEN_PREFIX: &str = "frr-supervisor token ";

/// Both network namespaces, each with a netlink socket.
#[derive(Debug)]
pub struct Kernel {
    host: NsHandle,
    router: Option<NsHandle>,
    /// The name of the router's namespace.
    name: Option<String>,
    /// Links that frr-supervisor created and NICs that it moved.
    record: OwnershipRecord,
    /// Socket for the connection marks in the host namespace.
    nft: Result<netlink_sys::Socket, nft::NftError>,
    missing_routes: MissingRoutes,
}

impl Kernel {
    /// Opens the namespace of the calling thread as the host namespace, and the named namespace. Creates the latter if
    /// it is missing.
    ///
    /// # Errors
    /// A namespace can't be created or entered, or another program uses it.
    pub fn open(namespace: &NamespaceName) -> io::Result<(Self, Option<NetnsOrigin>)> {
        let Some(name) = namespace.as_deref() else { return Ok((Self::of(namespace, None)?, None)) };
        let (ns, origin) = Netns::ensure(name)?;
        let mut router = NsHandle::open(ns)?;
        if origin == NetnsOrigin::Found {
            router.check_unclaimed(name)?;
        }
        Ok((Self::of(namespace, Some(router))?, Some(origin)))
    }

    /// Opens the namespaces to read them. Creates nothing: a namespace that is missing is empty.
    ///
    /// # Errors
    /// A namespace can't be entered.
    pub fn open_existing(namespace: &NamespaceName) -> io::Result<Self> {
        let router = namespace.as_deref().and_then(Netns::open_mounted).map(NsHandle::open).transpose()?;
        Self::of(namespace, router)
    }

    fn of(namespace: &NamespaceName, router: Option<NsHandle>) -> io::Result<Self> {
        Ok(Self {
            host: NsHandle::open(Netns::current()?)?,
            router,
            name: namespace.as_deref().map(str::to_owned),
            record: OwnershipRecord::load(),
            nft: nft::open(),
            missing_routes: MissingRoutes::default(),
        })
    }

    /// Moves NICs back to the host namespace that an earlier configuration moved into another one. Only NICs and
    /// namespaces of the [`OwnershipRecord`] count: other namespaces below `/run/netns`, such as those of pods, are not
    /// read.
    ///
    /// # Errors
    /// A NIC can't be moved, or a namespace can't be entered or read.
    pub fn return_nics(
        &mut self,
        namespace: &NamespaceName,
        wanted: impl Fn(&Link) -> bool,
    ) -> Result<(), Error> {
        for (name, cookie) in self.record.other_namespaces(namespace.as_deref()) {
            let Some(ns) = Netns::open_mounted(&name) else { continue };
            let mut handle = NsHandle::open(ns)?;
            if handle.cookie != cookie {
                continue;
            }
            let links = observe::observe(&mut handle.nl, std::iter::empty())?.links;
            for link in links.iter().filter(|link| wanted(link)) {
                let Some(mark) = self.record.moved_nic_mark(&name, link) else { continue };
                log::info!(
                    interface = link.name.as_str();
                    "moving {} back from namespace {name}, where an earlier configuration put it",
                    link.name
                );
                let fd = self.host.ns.file().as_raw_fd();
                let mark = mark.to_owned();
                handle.set(&link.name, |link| link.alias(mark).setns_by_fd(fd).link_group(0))?;
            }
        }
        Ok(())
    }

    /// What is mounted under the name of FRR's namespace.
    ///
    /// # Errors
    /// The namespace can't be examined.
    pub fn netns_mount(&self, namespace: &NamespaceName) -> io::Result<NetnsMount> {
        match (namespace.as_deref(), &self.router) {
            (Some(name), Some(router)) => router.ns.mount_state(name),
            _ => Ok(NetnsMount::Present),
        }
    }

    /// The rebuild token that is stored in FRR's namespace.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn token(&mut self) -> Result<Option<String>, Error> {
        let Some(router) = &mut self.router else { return Ok(None) };
        let alias = router.link(TOKEN_LINK)?.link.alias;
        Ok(alias.and_then(|alias| Some(alias.strip_prefix(TOKEN_PREFIX)?.to_owned())))
    }

    /// Stores the rebuild token in FRR's namespace.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn set_token(&mut self, token: &str) -> Result<(), Error> {
        match &mut self.router {
            Some(router) => {
                let alias = format!("{TOKEN_PREFIX}{token}");
                Ok(router.set(TOKEN_LINK, |link| link.alias(alias))?)
            }
            None => Ok(()),
        }
    }

    /// Removes all managed objects, and moves NICs back to the host namespace with their addresses.
    ///
    /// # Errors
    /// See [`Self::reconcile`].
    pub fn dismantle(&mut self) -> Result<(), Error> {
        let outcome = self.reconcile(&Desired::default(), Level::Info)?;
        outcome.refused.iter().for_each(|message| log::error!("{message}"));
        Ok(())
    }

    /// Whether any of these kernel parameters differs from its desired value. The kernel announces changes of some
    /// parameters only.
    ///
    /// # Errors
    /// A namespace can't be entered.
    pub fn has_sysctl_drift(&self, wanted: &[Sysctl]) -> io::Result<bool> {
        for (side, handle) in [(Side::Host, Some(&self.host)), (Side::Router, self.router.as_ref())] {
            let Some(handle) = handle else { continue };
            let here = || wanted.iter().filter(|s| self.router.is_none() || s.side == side);
            let now =
                handle.ns.within_on_this_thread(|| observe::sysctls(here().map(|s| s.path.as_str())))?;
            if here().any(|s| matches!(now.get(&s.path), Some(Some(value)) if value != s.value)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The namespace that FRR runs in.
    pub fn router_ns(&self) -> &Netns {
        &self.router.as_ref().unwrap_or(&self.host).ns
    }

    /// Opens FRR's namespace once more, for another thread.
    ///
    /// # Errors
    /// No descriptor is available, or the namespace can't be entered.
    pub fn open_router(&self) -> io::Result<RouterNetns> {
        RouterNetns::open(self.router_ns())
    }

    /// The netlink socket in FRR's namespace.
    pub(super) fn router_netlink(&mut self) -> &mut Netlink {
        &mut self.handle(Side::Router).nl
    }

    /// The netlink socket in the host namespace.
    pub(super) fn host_netlink(&mut self) -> &mut Netlink {
        &mut self.host.nl
    }

    /// The index of a link in FRR's namespace.
    pub(super) fn router_index(&mut self, name: &str) -> Result<u32, NetlinkError> {
        self.handle(Side::Router).index(name)
    }

    /// The namespaces, each once.
    pub fn namespaces(&self) -> impl Iterator<Item = &Netns> {
        std::iter::once(&self.host).chain(&self.router).map(|handle| &handle.ns)
    }

    fn handle(&mut self, side: Side) -> &mut NsHandle {
        match (side, &mut self.router) {
            (Side::Router, Some(router)) => router,
            _ => &mut self.host,
        }
    }

    /// Reads the state of both namespaces. Of kernel parameters and connection marks it reads only what `desired`
    /// names.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn observe(&mut self, desired: Option<&Desired>) -> Result<Namespaces, Error> {
        let wanted = desired.map_or(&[][..], |d| &d.sysctls);
        let cookies = self.cookies();
        let Self { host, router, nft, record, name, .. } = self;
        let alone = router.is_none();
        let mut observe_router =
            || router.as_mut().map(|handle| handle.observe(Side::Router, false, wanted)).transpose();
        let parallel = !alone && desired.is_some_and(|d| d.links.len() >= PARALLEL_LINKS);
        let (host, router) = thread::scope(|scope| {
            // Without a thread the router's namespace is read afterwards.
            let spawn = |work| thread::Builder::new().spawn_scoped(scope, work).ok();
            let worker = parallel.then_some(&mut observe_router).and_then(spawn);
            let host = host.observe(Side::Host, alone, wanted);
            (host, worker.map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))))
        });
        let mut router = router.unwrap_or_else(observe_router)?;
        let mut host = host?;
        // NICs in the host namespace may have been in namespaces of others: the ownership mark alone proves nothing.
        for link in
            host.links.iter_mut().filter(|link| matches!(link.ownership(), Some(Ownership::MovedNic(_))))
        {
            if !record.is_nic(link) {
                (link.alias, link.group) = (None, 0);
            }
        }
        for (cookie, name, state) in
            [(cookies.0, None, Some(&mut host)), (cookies.1, name.as_deref(), router.as_mut())]
        {
            let links = state.into_iter().flat_map(|state| state.links.iter_mut());
            for link in links.filter(|link| link.ownership().is_none() && link.name != "lo") {
                link.previous_ownership = record.previous_ownership(cookie, name, link);
            }
        }
        if let Ok(socket) = nft {
            host.marks = observe::marks(socket, desired.and_then(|d| d.marks.as_ref()))?;
        }
        // Only a namespace that does not exist yet has a name and no handle.
        let router = router.or_else(|| name.as_ref().map(|_| NsState::default()));
        let mut observed = Namespaces { host, router };
        self.missing_routes.confirm(&mut observed, Instant::now());
        Ok(observed)
    }

    /// Whether the last observation has found a kernel-made route missing that is repaired only if it stays missing:
    /// observe again after [`CONFIRM_DELAY`](super::CONFIRM_DELAY).
    pub fn has_unconfirmed_routes(&self) -> bool {
        self.missing_routes.has_unconfirmed(Instant::now())
    }

    /// Brings the kernel to the `desired` state, and checks that the state converges. Logs every change at `level`.
    ///
    /// # Errors
    /// The first essential change that the kernel refused, or the conflicts that prevent the base configuration.
    pub fn reconcile(&mut self, desired: &Desired, level: Level) -> Result<ReconcileOutcome, Error> {
        self.run_rounds(desired, None, level, ROUNDS)
    }

    /// Brings the kernel to the `desired` state without a check: the caller reconciles again after the netlink events
    /// of the changes. `seen` is a fresh observation for `desired`, if there is one. Refused changes and conflicts do
    /// not stop the other changes.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn reconcile_once(
        &mut self,
        desired: &Desired,
        seen: Option<Namespaces>,
        level: Level,
    ) -> Result<ReconcileOutcome, Error> {
        self.run_rounds(desired, seen, level, 1)
    }

    fn run_rounds(
        &mut self,
        desired: &Desired,
        mut seen: Option<Namespaces>,
        level: Level,
        rounds: usize,
    ) -> Result<ReconcileOutcome, Error> {
        let is_initial = rounds > 1;
        let mut changes = Changes::new(level, is_initial);
        for _ in 0..rounds {
            let now = seen.take().map_or_else(|| self.observe(Some(desired)), Ok)?;
            self.record_ownership(desired, &now);
            changes.plan(desired, now)?;
            if changes.ops.is_empty() {
                return Ok(changes.outcome());
            }
            self.apply_changes(&mut changes, None)?;
        }
        if !is_initial {
            return Ok(changes.outcome());
        }
        let remaining = plan(desired, self.observe(Some(desired))?).ops;
        match remaining.into_iter().find(|op| !changes.refused.is_blocked(op)) {
            None => Ok(changes.outcome()),
            Some(op) => Err(Error::Unstable(Box::new(op))),
        }
    }

    /// Plans the changes for [`Self::apply_changes`], which can apply them in several steps.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn plan_changes(&mut self, desired: &Desired, level: Level) -> Result<Changes, Error> {
        let mut changes = Changes::new(level, false);
        let now = self.observe(Some(desired))?;
        self.record_ownership(desired, &now);
        changes.plan(desired, now)?;
        Ok(changes)
    }

    /// Applies changes until none remain or until the given time. Returns whether none remain.
    ///
    /// # Errors
    /// In an initial reconciliation, the first essential change that the kernel refused.
    pub fn apply_changes(&mut self, changes: &mut Changes, until: Option<Instant>) -> Result<bool, Error> {
        while let Some(first) = changes.ops.front() {
            if changes.refused.is_blocked(first) {
                changes.ops.pop_front();
                continue;
            }
            let count = message::ops_in_one_message(changes.ops.make_contiguous());
            let now: Vec<Op> = changes.ops.drain(..count).collect();
            // If one message for all fails, each change gets its own message: this finds the one that the kernel
            // refuses.
            let together = now.len() > 1 && self.settings(&now).is_ok();
            for op in now {
                let done = if together { Ok(()) } else { self.apply(&op) };
                changes.record_result(op, done)?;
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
        }
        Ok(changes.ops.is_empty())
    }

    /// Saves which links were created, and which NICs are about to be moved or were moved.
    fn record_ownership(&mut self, desired: &Desired, now: &Namespaces) {
        let (host, router) = self.cookies();
        let mut is_changed = self.name.as_ref().is_some_and(|name| self.record.set_namespace(name, router));
        let created = |side| {
            let links =
                now.get(side).links.iter().filter(|link| link.ownership() == Some(Ownership::Created));
            links.map(|link| (link.index, link.name.clone())).collect()
        };
        let cookie = |side| if side == Side::Host { host } else { router };
        is_changed |=
            self.record.set_created(now.sides().iter().map(|&side| (cookie(side), created(side))).collect());
        let nics: Vec<_> = desired
            .links
            .iter()
            .filter_map(|spec| {
                let SpecKind::Nic(from) = spec.kind else { return None };
                let at = |side| Some((side, now.get(side).link(spec.name.as_str())?));
                let (side, link) = at(spec.side).or_else(|| at(from))?;
                Some((link, side == spec.side, Ownership::MovedNic(spec.addresses.clone())))
            })
            .collect();
        let nics = nics.iter().map(|(link, is_moved, ownership)| (*link, *is_moved, ownership));
        is_changed |= self.record.set_nics(self.name.as_deref(), nics, now);
        self.record.save(is_changed);
    }

    /// The cookies of the host namespace and of the router's namespace.
    fn cookies(&self) -> (u64, u64) {
        (self.host.cookie, self.router.as_ref().map_or(0, |router| router.cookie))
    }

    /// Applies the settings of one link in one message.
    fn settings(&mut self, ops: &[Op]) -> Result<(), NetlinkError> {
        let Some((side, name)) = ops.first().and_then(Op::link) else { return Ok(()) };
        let settings = ops.iter().filter_map(|op| match op {
            Op::Set { what, .. } => Some(what),
            _ => None,
        });
        let handle = self.handle(side);
        let master = settings.clone().find_map(|what| match what {
            LinkSetting::Master(Some(master)) => Some(master),
            _ => None,
        });
        let master = master.map_or(Ok(0), |master| handle.index(master.as_str()))?;
        let mut message = message::named(name).build();
        message::settings(&mut message, settings, master);
        handle.nl.change(RtnlMessage::NewLink(message), 0)
    }

    fn apply(&mut self, op: &Op) -> Result<(), NetlinkError> {
        match op {
            Op::Create { side, name, kind, mac, master } => {
                let mut to = LinkRefs::default();
                if let Some(master) = master {
                    to.master = Some(self.handle(*side).index(master.as_str())?);
                }
                let mut from = *side;
                match kind {
                    SpecKind::Veth(peer, _) => to.netns = Some(self.handle(*peer).ns.file().as_raw_fd()),
                    // The message goes to the namespace of the parent link, and the kernel puts the macvlan into the
                    // other one.
                    SpecKind::Macvlan(parent) => {
                        to.netns = Some(self.handle(*side).ns.file().as_raw_fd());
                        to.lower = Some(self.handle(Side::Host).index(parent.as_str())?);
                        from = Side::Host;
                    }
                    _ => {}
                }
                let message = message::create(name, kind, *mac, to);
                self.handle(from).nl.change(RtnlMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            }
            Op::Delete { side, name } => {
                self.clear_indexes();
                let message = message::named(name).build();
                self.handle(*side).nl.change(RtnlMessage::DelLink(message), 0)
            }
            Op::Move { from, to, name } => {
                self.clear_indexes();
                let fd = self.handle(*to).ns.file().as_raw_fd();
                let group = if *to == Side::Router { OWNER_GROUP } else { 0 };
                self.handle(*from).set(name, |link| link.setns_by_fd(fd).link_group(group))
            }
            Op::Unmark { side, name } => self.handle(*side).set(name, |link| link.alias("").link_group(0)),
            Op::Set { .. } => self.settings(std::slice::from_ref(op)),
            Op::AddAddress { side, name, net } => {
                let handle = self.handle(*side);
                let message = message::address(handle.index(name)?, *net);
                let message = RtnlMessage::NewAddress(message);
                ignore_existing(handle.nl.change(message, NLM_F_CREATE | NLM_F_EXCL))
            }
            Op::DelAddress { side, name, net } => {
                let handle = self.handle(*side);
                let index = handle.index(name.as_str())?;
                let message = message::address(index, *net);
                handle.nl.change(RtnlMessage::DelAddress(message), 0)?;
                // With an IPv6 address the kernel removes only its own route, not one that was added by
                // `Op::AddKernelRoute`.
                let table = handle.local_table(name.as_str());
                let route = KernelRoute {
                    kind: KernelRouteKind::Local,
                    dst: net.addr().into(),
                    table,
                    dev: name.to_string(),
                    src: None,
                };
                let message = message::kernel_route(index, &route);
                drop(handle.nl.change(RtnlMessage::DelRoute(message), 0));
                Ok(())
            }
            Op::SetSysctl(Sysctl { side, path, value }) => {
                let write = || fs::write(format!("/proc/sys/{path}"), value);
                Ok(self.handle(*side).ns.within_on_this_thread(write)??)
            }
            Op::AddRoute { side, route } => {
                let message = self.handle(*side).route(route)?;
                let message = RtnlMessage::NewRoute(message);
                self.handle(*side).nl.change(message, NLM_F_CREATE | NLM_F_EXCL)
            }
            Op::DelRoute { side, route } => {
                let message = self.handle(*side).route(route)?;
                self.handle(*side).nl.change(RtnlMessage::DelRoute(message), 0)
            }
            Op::AddKernelRoute { side, route } => {
                let handle = self.handle(*side);
                let message = message::kernel_route(handle.index(&route.dev)?, route);
                ignore_existing(handle.nl.change(RtnlMessage::NewRoute(message), NLM_F_CREATE))
            }
            Op::AddKernelRule { side, rule } => {
                let message = RtnlMessage::NewRule(message::kernel_rule(*rule));
                ignore_existing(self.handle(*side).nl.change(message, NLM_F_CREATE | NLM_F_EXCL))
            }
            Op::AddRule { side, rule } => {
                let message = RtnlMessage::NewRule(message::rule(rule));
                self.handle(*side).nl.change(message, NLM_F_CREATE | NLM_F_EXCL)
            }
            Op::DelRule { side, rule } => {
                self.handle(*side).nl.change(RtnlMessage::DelRule(message::rule(rule)), 0)
            }
            Op::SetMarks(path) => {
                let socket = self.nft.as_ref().map_err(netlink_error)?;
                nft::install(socket, path).map_err(|e| netlink_error(&e))
            }
            Op::DropMarks => match &self.nft {
                Ok(socket) => nft::remove(socket).map_err(|e| netlink_error(&e)),
                Err(_) => Ok(()),
            },
        }
    }

    /// Clears the caches: after a removal or a move, a name may belong to another link.
    fn clear_indexes(&mut self) {
        for handle in std::iter::once(&mut self.host).chain(&mut self.router) {
            handle.indexes.clear();
        }
    }
}

/// Ignores `EEXIST`: the kernel may have created the object as a consequence of an earlier change.
fn ignore_existing(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    ignore_errno(EEXIST, result)
}

fn netlink_error(e: &nft::NftError) -> NetlinkError {
    let source = e.errno().map_or_else(|| io::Error::other(""), io::Error::from_raw_os_error);
    NetlinkError { source, message: Some(e.to_string()) }
}
