//! Carrying changes out: each [`Op`] is one netlink message (or one file below `/proc/sys`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::panic::resume_unwind;
use std::thread;
use std::time::Instant;

use libc::{EEXIST, EINVAL, EOPNOTSUPP};
use log::Level;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask};
use netlink_packet_route::route::RouteMessage;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use crate::model::{
    Desired, KernelRoute, KernelRouteKind, Link, NamespaceName, Namespaces, NsState, OWNER_GROUP, Part, Role,
    Route, Side, SpecKind, Sysctl,
};

use super::link::{self, Said};
use super::lost::LOCAL_TABLE;
use super::message::{self, Relations};
use super::netlink::{Netlink, Refusal, unless};
use super::netns::{Held, Netns, Origin};
use super::object::Object;
use super::op::Setting;
use super::record::Record;
use super::{Op, Plan, nft, observe, plan};

/// From so many links of ours on, both namespaces are read at once: few are read before a thread is there, and its memory stays.
const MANY: usize = 200;

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
    /// The name of the router's namespace.
    name: Option<String>,
    /// What we made and moved.
    record: Record,
    /// Connection marks live in the host namespace.
    nft: Result<netlink_sys::Socket, nft::Error>,
}

#[derive(Debug)]
struct Place {
    ns: Netns,
    nl: Netlink,
    /// The kernel's number for the namespace; 0 if it has none.
    cookie: u64,
    /// Numbers of links, as far as they were asked for since the last look.
    indexes: HashMap<String, u32>,
}

/// What came of bringing the kernel to what is desired.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The changes, in order.
    pub done: Vec<Op>,
    /// Sentences about changes that the kernel refused and that leave the rest working.
    pub refused: Vec<String>,
    /// The links that they are about, each with its sentence.
    pub links: Vec<(Side, String, String)>,
}

/// Changes that are planned and not all made.
#[derive(Debug)]
pub struct Changes {
    ops: VecDeque<Op>,
    level: Level,
    /// A node without its base is none; of one that runs, all else is put right.
    begins: bool,
    parts: HashMap<(Side, String), Part>,
    refused: Refused,
    outcome: Outcome,
}

impl Changes {
    fn new(level: Level, begins: bool) -> Self {
        let (ops, parts) = (VecDeque::new(), HashMap::new());
        Self { ops, level, begins, parts, refused: Refused::default(), outcome: Outcome::default() }
    }

    /// Plans them, but for those that were refused before.
    fn plan(&mut self, desired: &Desired, now: Namespaces) -> Result<(), Error> {
        let Plan { mut ops, conflicts } = plan(desired, now);
        let of_base = |(part, _): &(Part, String)| *part == Part::Base;
        if self.begins && conflicts.iter().any(of_base) {
            let of_base = conflicts.into_iter().filter(of_base);
            return Err(Error::Conflicts(of_base.map(|(_, sentence)| sentence).collect()));
        }
        let sentences = conflicts.into_iter().map(|(part, sentence)| match part {
            Part::Base => sentence,
            part => format!("{part}: {sentence}"),
        });
        for sentence in sentences {
            if !self.outcome.refused.contains(&sentence) {
                self.outcome.refused.push(sentence);
            }
        }
        ops.retain(|op| !self.refused.hold(op));
        self.ops = ops.into();
        if !self.ops.is_empty() {
            let links = desired.links.iter();
            self.parts = links.map(|link| ((link.side, link.name.to_string()), link.part)).collect();
        }
        Ok(())
    }

    /// Takes in what the kernel said to one of them.
    fn note(&mut self, op: Op, result: Result<(), Refusal>) -> Result<(), Error> {
        let refusal = match result {
            Ok(()) => {
                log::log!(self.level, "{op}");
                self.outcome.done.push(op);
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        let part = op.link().and_then(|(side, name)| self.parts.get(&(side, name.to_owned())));
        let part = part.copied().unwrap_or_default();
        if self.begins && is_essential(&op) && part == Part::Base {
            return Err(Error::Refused { op: Box::new(op), refusal });
        }
        let of = if part == Part::Base { String::new() } else { format!("{part}: ") };
        let sentence = format!("{of}{op}: {refusal}{}; going on without it", remedy(&op, &refusal));
        if let Some((side, name)) = op.link() {
            self.outcome.links.push((side, name.to_owned(), sentence.clone()));
        }
        self.outcome.refused.push(sentence);
        self.refused.add(&op);
        Ok(())
    }

    /// How many there are yet.
    pub fn left(&self) -> usize {
        self.ops.len()
    }

    /// What came of them.
    pub fn outcome(self) -> Outcome {
        self.outcome
    }
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
        Op::Create { .. }
            | Op::Move { .. }
            | Op::AddAddress { .. }
            | Op::Set { what: Setting::Master(_) | Setting::Up, .. }
    )
}

/// What the operator must do about a refusal, where we know it.
fn remedy(op: &Op, refusal: &Refusal) -> &'static str {
    let unsupported = matches!(refusal.error.raw_os_error(), Some(EOPNOTSUPP));
    match op {
        Op::Create { kind: SpecKind::Vrf(_), .. } if unsupported => {
            ". The kernel has no VRF: load its module. On Talos 1.14 and later add the machine config document \
             \"apiVersion: v1alpha1, kind: KernelModuleConfig, name: vrf\", on any version \
             \"machine: {kernel: {modules: [{name: vrf}]}}\""
        }
        Op::Move { .. } if refusal.error.raw_os_error() == Some(EINVAL) => {
            ". The kernel lets this interface into no other namespace: name its ports instead, or leave it where it is by NETNS=host"
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

impl Place {
    /// Refuses a namespace that others work in, unless links of ours are in it: then it was made for FRR, whoever looks at it.
    fn is_free(&mut self, name: &str) -> io::Result<()> {
        let observed = observe::observe(&mut self.nl, std::iter::empty());
        if observed.is_ok_and(|state| state.links.iter().any(|link| link.role().is_some())) {
            return Ok(());
        }
        let Some(why) = self.ns.others_claim(name)? else { return Ok(()) };
        let path = Netns::path(name);
        let path = path.display();
        Err(io::Error::other(format!(
            "{path} holds another's network namespace: {why}; unmount it (umount {path}; rm {path}), or choose another name with NETNS"
        )))
    }

    fn open(ns: Netns) -> io::Result<Self> {
        let nl = ns.within(Netlink::open)?;
        let cookie = nl.namespace().unwrap_or(0);
        Ok(Self { ns, nl, cookie, indexes: HashMap::new() })
    }

    fn link(&mut self, name: &str) -> Result<Said, Refusal> {
        let mut link = message::named(name).build();
        link.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let found = self.nl.get(Object::GetLink(link), link::read)?;
        found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound).into())
    }

    fn index(&mut self, name: &str) -> Result<u32, Refusal> {
        if let Some(index) = self.indexes.get(name) {
            return Ok(*index);
        }
        let index = self.link(name)?.link.index;
        self.indexes.insert(name.to_owned(), index);
        Ok(index)
    }

    /// The table that has the routes to a link's own addresses.
    fn local_table(&mut self, name: &str) -> u32 {
        self.link(name).ok().and_then(|said| said.table).unwrap_or(LOCAL_TABLE)
    }

    fn route(&mut self, route: &Route) -> Result<RouteMessage, Refusal> {
        let index = if route.dev.is_empty() { None } else { Some(self.index(&route.dev)?) };
        message::route(index, route)
    }

    /// Reads its state, and those of the kernel parameters that are of this side, or all if it is `alone`.
    fn observe(&mut self, side: Side, alone: bool, wanted: &[Sysctl]) -> Result<NsState, Error> {
        let here = || wanted.iter().filter(|s| alone || s.side == side).map(|s| s.path.as_str());
        let mut state = observe::observe(&mut self.nl, here())?;
        self.indexes.clear();
        let rest = here().filter(|path| !state.sysctls.contains_key(*path));
        let rest = self.ns.visit(|| observe::sysctls(rest))?;
        state.sysctls.extend(rest);
        Ok(state)
    }

    /// Changes an existing link. `RTM_NEWLINK` without create, because `RTM_SETLINK` ignores part of what it is given.
    fn set(
        &mut self,
        name: &str,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), Refusal> {
        let message = change(message::named(name)).build();
        self.nl.change(Object::NewLink(message), 0)
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
        let record = Record::load();
        let Some(name) = namespace.as_deref() else {
            return Ok((Self { host, router: None, name: None, record, nft }, None));
        };
        let (ns, origin) = Netns::ensure(name)?;
        let mut router = Place::open(ns)?;
        if origin == Origin::Found {
            router.is_free(name)?;
        }
        let name = Some(name.to_owned());
        Ok((Self { host, router: Some(router), name, record, nft }, Some(origin)))
    }

    /// Fetches NICs that an earlier configuration moved into another namespace back to the host's: those that we moved there, out of
    /// namespaces that FRR ran in. What else there is below `/run/netns`, such as pods' namespaces, is not looked into.
    ///
    /// # Errors
    /// The NIC is there and can't be moved.
    pub fn fetch_home(
        &mut self,
        namespace: &NamespaceName,
        wanted: impl Fn(&Link) -> bool,
    ) -> Result<(), Error> {
        for (name, cookie) in self.record.others(namespace.as_deref()) {
            let Some(ns) = Netns::held_there(&name) else { continue };
            let mut place = Place::open(ns)?;
            if place.cookie != cookie {
                continue;
            }
            let links = observe::observe(&mut place.nl, std::iter::empty())?.links;
            for link in links.iter().filter(|link| wanted(link)) {
                let Some(mark) = self.record.moved(&name, link) else { continue };
                log::info!(
                    "fetching {} out of namespace {name}, where an earlier configuration put it",
                    link.name
                );
                let fd = self.host.ns.file().as_raw_fd();
                let mark = mark.to_owned();
                place.set(&link.name, |link| link.alias(mark).setns_by_fd(fd).link_group(0))?;
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
        let alias = router.link(TOKEN_KEEPER)?.link.alias;
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

    /// Whether any of these kernel parameters is not as it should be. Not all of them are announced when they change.
    ///
    /// # Errors
    /// A namespace can't be entered.
    pub fn sysctls_have_changed(&self, wanted: &[Sysctl]) -> io::Result<bool> {
        for (side, place) in [(Side::Host, Some(&self.host)), (Side::Router, self.router.as_ref())] {
            let Some(place) = place else { continue };
            let here = || wanted.iter().filter(|s| self.router.is_none() || s.side == side);
            let now = place.ns.visit(|| observe::sysctls(here().map(|s| s.path.as_str())))?;
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

    /// The socket in FRR's namespace.
    pub(super) fn router_netlink(&mut self) -> &mut Netlink {
        &mut self.place(Side::Router).nl
    }

    /// The socket in the host's namespace.
    pub(super) fn host_netlink(&mut self) -> &mut Netlink {
        &mut self.host.nl
    }

    /// A link in FRR's namespace, as the kernel describes it.
    pub(super) fn router_link(&mut self, name: &str) -> Result<Said, Refusal> {
        self.place(Side::Router).link(name)
    }

    /// The number of a link in FRR's namespace.
    pub(super) fn router_index(&mut self, name: &str) -> Result<u32, Refusal> {
        self.place(Side::Router).index(name)
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
        let wanted = desired.map_or(&[][..], |d| &d.sysctls);
        let cookies = self.cookies();
        let Self { host, router, nft, record, name } = self;
        let alone = router.is_none();
        let mut look = || router.as_mut().map(|place| place.observe(Side::Router, false, wanted)).transpose();
        let many = !alone && desired.is_some_and(|d| d.links.len() >= MANY);
        let (host, router) = thread::scope(|scope| {
            // Where no thread can be had, it takes longer.
            let spawn = |look| thread::Builder::new().spawn_scoped(scope, look).ok();
            let beside = many.then_some(&mut look).and_then(spawn);
            let host = host.observe(Side::Host, alone, wanted);
            (host, beside.map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))))
        });
        let mut router = router.unwrap_or_else(look)?;
        let mut host = host?;
        // In the host's namespace there is also what others have had: the mark alone makes nothing a NIC of ours.
        for link in host.links.iter_mut().filter(|link| matches!(link.role(), Some(Role::Nic(_)))) {
            if !record.is_nic(link) {
                (link.alias, link.group) = (None, 0);
            }
        }
        for (cookie, name, state) in
            [(cookies.0, None, Some(&mut host)), (cookies.1, name.as_deref(), router.as_mut())]
        {
            let links = state.into_iter().flat_map(|state| state.links.iter_mut());
            for link in links.filter(|link| link.role().is_none() && link.name != "lo") {
                link.lost = record.lost(cookie, name, link);
            }
        }
        if let Ok(socket) = nft {
            host.marks = observe::marks(socket, desired.and_then(|d| d.marks.as_ref()))?;
        }
        Ok(Namespaces { host, router })
    }

    /// Brings the kernel to `desired` and checks that it stays. Every change is logged at `level`.
    ///
    /// # Errors
    /// The first change that was refused and without which nothing works, or what is in the way of all.
    pub fn reconcile(&mut self, desired: &Desired, level: Level) -> Result<Outcome, Error> {
        self.bring(desired, None, level, ROUNDS)
    }

    /// The same without the check, for who looks again when the kernel has told of the changes. `seen` is its state, if that
    /// has been read just now with what `desired` names. What is refused or in the way stops nothing else.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn amend(
        &mut self,
        desired: &Desired,
        seen: Option<Namespaces>,
        level: Level,
    ) -> Result<Outcome, Error> {
        self.bring(desired, seen, level, 1)
    }

    fn bring(
        &mut self,
        desired: &Desired,
        mut seen: Option<Namespaces>,
        level: Level,
        rounds: usize,
    ) -> Result<Outcome, Error> {
        let begins = rounds > 1;
        let mut changes = Changes::new(level, begins);
        for _ in 0..rounds {
            let now = seen.take().map_or_else(|| self.observe(Some(desired)), Ok)?;
            self.note(desired, &now);
            changes.plan(desired, now)?;
            if changes.ops.is_empty() {
                return Ok(changes.outcome);
            }
            self.go_on(&mut changes, None)?;
        }
        if !begins {
            return Ok(changes.outcome);
        }
        let left = plan(desired, self.observe(Some(desired))?).ops;
        match left.into_iter().find(|op| !changes.refused.hold(op)) {
            None => Ok(changes.outcome),
            Some(op) => Err(Error::Unstable(Box::new(op))),
        }
    }

    /// Works out what [`Self::go_on`] is to change, for who changes a little at a time.
    ///
    /// # Errors
    /// As of [`Self::reconcile`].
    pub fn begin(&mut self, desired: &Desired, level: Level) -> Result<Changes, Error> {
        let mut changes = Changes::new(level, false);
        let now = self.observe(Some(desired))?;
        self.note(desired, &now);
        changes.plan(desired, now)?;
        Ok(changes)
    }

    /// Makes changes until there are none left, or, if that is earlier, until then. Whether there are none left.
    ///
    /// # Errors
    /// The first change that was refused and without which nothing works.
    pub fn go_on(&mut self, changes: &mut Changes, until: Option<Instant>) -> Result<bool, Error> {
        while let Some(first) = changes.ops.front() {
            if changes.refused.hold(first) {
                changes.ops.pop_front();
                continue;
            }
            let joined = message::joined(changes.ops.make_contiguous());
            let now: Vec<Op> = changes.ops.drain(..joined).collect();
            // One by one where together does not go, to see which it is.
            let together = now.len() > 1 && self.settings(&now).is_ok();
            for op in now {
                let done = if together { Ok(()) } else { self.apply(&op) };
                changes.note(op, done)?;
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
        }
        Ok(changes.ops.is_empty())
    }

    /// Writes down which links are ours, and which NICs before they are moved and where they are then.
    fn note(&mut self, desired: &Desired, now: &Namespaces) {
        let (host, router) = self.cookies();
        let mut is_new = self.name.as_ref().is_some_and(|name| self.record.namespace(name, router));
        let made = |side| {
            let made = now.get(side).links.iter().filter(|link| link.role() == Some(Role::Made));
            made.map(|link| (link.index, link.name.clone())).collect()
        };
        let cookie = |side| if side == Side::Host { host } else { router };
        is_new |= self.record.made(now.sides().iter().map(|&side| (cookie(side), made(side))).collect());
        let nics: Vec<_> = desired
            .links
            .iter()
            .filter_map(|spec| {
                let SpecKind::Nic(from) = spec.kind else { return None };
                let at = |side| Some((side, now.get(side).link(spec.name.as_str())?));
                let (side, link) = at(spec.side).or_else(|| at(from))?;
                Some((link, side == spec.side, Role::Nic(spec.addresses.clone())))
            })
            .collect();
        let ours = nics.iter().map(|(link, is_there, role)| (*link, *is_there, role));
        is_new |= self.record.nics(self.name.as_deref(), ours, now);
        self.record.save(is_new);
    }

    /// The numbers of the host's namespace and of the router's.
    fn cookies(&self) -> (u64, u64) {
        (self.host.cookie, self.router.as_ref().map_or(0, |router| router.cookie))
    }

    /// Sets what is to be set of one link, in one message.
    fn settings(&mut self, ops: &[Op]) -> Result<(), Refusal> {
        let Some((side, name)) = ops.first().and_then(Op::link) else { return Ok(()) };
        let settings = ops.iter().filter_map(|op| match op {
            Op::Set { what, .. } => Some(what),
            _ => None,
        });
        let place = self.place(side);
        let master = settings.clone().find_map(|what| match what {
            Setting::Master(Some(master)) => Some(master),
            _ => None,
        });
        let master = master.map_or(Ok(0), |master| place.index(master.as_str()))?;
        let mut message = message::named(name).build();
        message::settings(&mut message, settings, master);
        place.nl.change(Object::NewLink(message), 0)
    }

    fn apply(&mut self, op: &Op) -> Result<(), Refusal> {
        match op {
            Op::Create { side, name, kind, mac, master } => {
                let mut to = Relations::default();
                if let Some(master) = master {
                    to.master = Some(self.place(*side).index(master.as_str())?);
                }
                let mut from = *side;
                match kind {
                    SpecKind::Veth(peer, _) => to.netns = Some(self.place(*peer).ns.file().as_raw_fd()),
                    // Made where its lower link is, for the other namespace.
                    SpecKind::Macvlan(parent) => {
                        to.netns = Some(self.place(*side).ns.file().as_raw_fd());
                        to.lower = Some(self.place(Side::Host).index(parent.as_str())?);
                        from = Side::Host;
                    }
                    _ => {}
                }
                let message = message::create(name, kind, *mac, to);
                self.place(from).nl.change(Object::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            }
            Op::Delete { side, name } => {
                self.forget_indexes();
                let message = message::named(name).build();
                self.place(*side).nl.change(Object::DelLink(message), 0)
            }
            Op::Move { from, to, name } => {
                self.forget_indexes();
                let fd = self.place(*to).ns.file().as_raw_fd();
                let group = if *to == Side::Router { OWNER_GROUP } else { 0 };
                self.place(*from).set(name, |link| link.setns_by_fd(fd).link_group(group))
            }
            Op::Unmark { side, name } => self.place(*side).set(name, |link| link.alias("").link_group(0)),
            Op::Set { .. } => self.settings(std::slice::from_ref(op)),
            Op::AddAddress { side, name, net } => {
                let place = self.place(*side);
                let message = message::address(place.index(name)?, *net);
                let message = Object::NewAddress(message);
                unless_there(place.nl.change(message, NLM_F_CREATE | NLM_F_EXCL))
            }
            Op::DelAddress { side, name, net } => {
                let place = self.place(*side);
                let index = place.index(name.as_str())?;
                let message = message::address(index, *net);
                place.nl.change(Object::DelAddress(message), 0)?;
                // With an IPv6 address goes only the route that the kernel has made for it, none that we have made anew.
                let table = place.local_table(name.as_str());
                let route = KernelRoute {
                    kind: KernelRouteKind::Local,
                    dst: net.addr().into(),
                    table,
                    dev: name.to_string(),
                    src: None,
                };
                let message = message::kernel_route(index, &route);
                drop(place.nl.change(Object::DelRoute(message), 0));
                Ok(())
            }
            Op::SetSysctl(Sysctl { side, path, value }) => {
                let write = || fs::write(format!("/proc/sys/{path}"), value);
                Ok(self.place(*side).ns.visit(write)??)
            }
            Op::AddRoute { side, route } => {
                let message = self.place(*side).route(route)?;
                let message = Object::NewRoute(message);
                self.place(*side).nl.change(message, NLM_F_CREATE | NLM_F_EXCL)
            }
            Op::DelRoute { side, route } => {
                let message = self.place(*side).route(route)?;
                self.place(*side).nl.change(Object::DelRoute(message), 0)
            }
            Op::AddKernelRoute { side, route } => {
                let place = self.place(*side);
                let message = message::kernel_route(place.index(&route.dev)?, route);
                unless_there(place.nl.change(Object::NewRoute(message), NLM_F_CREATE))
            }
            Op::AddKernelRule { side, rule } => {
                let message = Object::NewRule(message::kernel_rule(*rule));
                unless_there(self.place(*side).nl.change(message, NLM_F_CREATE | NLM_F_EXCL))
            }
            Op::AddRule { side, rule } => {
                let message = Object::NewRule(message::rule(rule));
                self.place(*side).nl.change(message, NLM_F_CREATE | NLM_F_EXCL)
            }
            Op::DelRule { side, rule } => {
                self.place(*side).nl.change(Object::DelRule(message::rule(rule)), 0)
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

    /// Numbers that names had may be those of other links now.
    fn forget_indexes(&mut self) {
        for place in std::iter::once(&mut self.host).chain(&mut self.router) {
            place.indexes.clear();
        }
    }
}

/// The kernel has made it meanwhile, with what was put right before.
fn unless_there(result: Result<(), Refusal>) -> Result<(), Refusal> {
    unless(EEXIST, result)
}

/// What was refused, with the links that are not there because of it.
#[derive(Debug, Default)]
struct Refused {
    ops: Vec<Op>,
    links: HashSet<(Side, String)>,
}

impl Refused {
    fn add(&mut self, op: &Op) {
        self.ops.push(op.clone());
        if let Op::Create { side, name, kind, .. } = op {
            self.links.insert((*side, name.to_string()));
            if let SpecKind::Veth(side, peer) = kind {
                self.links.insert((*side, peer.to_string()));
            }
        }
    }

    /// Whether there is no use in trying: it was refused, or it is about a link that could not be made.
    fn hold(&self, op: &Op) -> bool {
        self.ops.contains(op)
            || op.link().is_some_and(|(side, name)| self.links.contains(&(side, name.to_owned())))
    }
}

fn refusal(e: &nft::Error) -> Refusal {
    let error = e.errno().map_or_else(|| io::Error::other(""), io::Error::from_raw_os_error);
    Refusal { error, words: Some(e.to_string()) }
}
