//! The node as the configuration wants it: set up once, then kept that way.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::config::Config;
use crate::frr::{self, Daemon, Inputs, Texts, Version, end_leftovers, files};
use crate::kernel::netns::{Held, Origin};
use crate::kernel::{
    Changes, Kernel, Monitor, Netns, Notified, Op, Outcome, SharedTable, plan, shared_tables,
};
use crate::limits;
use crate::model::{Desired, IfName, Namespaces, RawLines, Side, Sysctl};
use crate::resolve::{self, By, Found, Resolved, Search, find, missing, objection};
use crate::status::{self, Board, Phase, Repaired};
use crate::supervisor::Signals;

/// The kernel's side of the node, and the configuration that FRR runs with.
#[derive(Debug)]
pub struct Node {
    /// What the operator asked for, without what was left out.
    pub config: Config,
    /// Raw lines that FRR did not accept at the start.
    left_out: Vec<RawLines>,
    /// The FRR that runs.
    pub version: Version,
    /// What FRR runs with.
    pub texts: Texts,
    /// Both namespaces.
    pub kernel: Kernel,
    monitor: Monitor,
    desired: Desired,
    ports: Vec<IfName>,
    /// The fabric NICs of the last look.
    nics: Vec<Found>,
    /// The names of those that have been in FRR's namespace and are there, by index: zebra knows them.
    names: BTreeMap<u32, String>,
    /// One of them has got another name, which nobody was told of yet.
    renamed: bool,
    /// Why the text for other ports was refused.
    refused: Vec<String>,
    /// Routing tables for which zebra can't run.
    shared_tables: Vec<SharedTable>,
    /// Since when nothing holds the namespace under its name.
    nameless_since: Option<Instant>,
    /// How many kernel parameters were looked at in this turn.
    looked_at: usize,
    /// What was said last about what can't be put right, so that it is said once.
    said: BTreeSet<String>,
    /// How often something of each link was put right.
    repaired: Repaired,
    /// Where it is all shown.
    board: Arc<Board>,
}

/// How long a deleted namespace goes without its name, in which it works as ever, before it is held again.
pub const NAMELESS: Duration = Duration::from_millis(500);

/// How the sentence about a NIC begins that was there.
const GONE: &str = "the fabric interface ";

/// Where a configuration was taken back, and the one in force is an earlier instance's.
const TAKEN_BACK: &str = "a fabric interface has another name, and what the configuration in force was made from is not known: its \
     session stays down until there is another configuration, or until the service is restarted";

/// The longest that is waited without a sign of life.
const TURN: Duration = Duration::from_secs(3);

/// Kernel parameters that are looked at together: all of a node without many VNIs, and a small part of a core's time.
const SYSCTLS_AT_ONCE: usize = 30;

/// The kernel is changed for so long at a time by a change of the configuration: a daemon that ends meanwhile is not left waiting, and
/// zebra takes in some VNIs before it gets more.
pub const BUILD: Duration = Duration::from_millis(50);

/// Another configuration, and what it leads to.
#[derive(Debug)]
pub struct Candidate {
    /// What the operator asks for.
    pub config: Config,
    /// The text of frr.conf.
    pub text: String,
    resolved: Resolved,
}

/// What a look at the kernel's state led to.
#[derive(Debug)]
pub enum Check {
    /// All is as it should be.
    Sound,
    /// Something was put right, and this was the last change.
    Repaired(Op),
    /// Put right, and FRR needs another configuration: the ports have other names now.
    Reconfigured,
    /// Put right, and zebra has to start anew: it knows a port under another name. Whether FRR needs another configuration as well.
    Renamed(bool),
    /// Something can't be put right; all else is as it should be.
    Partly,
    /// Nothing can be put right.
    Failed,
    /// FRR's namespace is held by nothing but what runs in it; to be looked at again in [`NAMELESS`].
    Nameless,
    /// FRR's namespace is not the one that is held any more, for this reason.
    Gone(&'static str),
}

impl Node {
    /// Sets the node up, but for the daemons. `None`: a signal asked for the end.
    ///
    /// # Errors
    /// Every problem, each a line of its own.
    pub fn set_up(
        config: Config,
        version: Version,
        signals: &mut Signals,
        board: &Arc<Board>,
    ) -> Result<Option<Self>, Vec<String>> {
        let (mut kernel, mut origin) = Kernel::open(&config.namespace).map_err(line)?;
        let name = config.namespace.to_string();
        let token = config.rebuild_token.clone();
        let token = token.as_ref().map(|token| token.as_str());
        if let (Some(Origin::Found), Some(token)) = (origin, token)
            && kernel.token().map_err(line)?.as_deref() != Some(token)
        {
            log::warn!("REBUILD_TOKEN={token} is new: tearing namespace {name} down to build it anew");
            end_leftovers().map_err(line)?;
            kernel.dismantle().map_err(line)?;
            Netns::release(&name).map_err(line)?;
            (kernel, origin) = Kernel::open(&config.namespace).map_err(line)?;
        }
        match origin {
            Some(Origin::Created) => log::info!("namespace {name} created"),
            Some(Origin::Found) => log::info!("namespace {name} found, with what was left in it"),
            Some(Origin::Repaired) => {
                log::warn!("namespace {name}: its file held nothing, a new one is mounted there")
            }
            None => {}
        }
        if matches!(origin, Some(Origin::Created | Origin::Repaired)) {
            // Daemons in a namespace that has no name any more keep the NICs in it from coming home.
            end_leftovers().map_err(line)?;
        }
        kernel
            .fetch_home(&config.namespace, |link| By::all(&config).iter().any(|by| by.fits(link)))
            .map_err(line)?;
        let Some((now, found)) = wait_for_fabric(&config, &mut kernel, signals, board)? else {
            log::info!("stopped while waiting for the fabric interfaces");
            return Ok(None);
        };
        let objections: Vec<String> = found.iter().filter_map(|nic| objection(&config, &now, nic)).collect();
        if !objections.is_empty() {
            return Err(objections);
        }
        let mut resolved = resolve(&config, &now, &found);
        // One that is not there yet may be one that is not recognised.
        resolved.desired.keep_others |= found.len() < By::all(&config).len();
        for note in &resolved.notes {
            log::warn!("{note}");
        }
        // Whatever each link says for itself, this is the least.
        let all = Sysctl { side: Side::Host, path: "net/ipv4/conf/all/rp_filter".into(), value: "0" };
        if config.namespace.as_deref().is_none() && kernel.sysctls_have_changed(&[all]).unwrap_or(false) {
            log::warn!(
                "net.ipv4.conf.all.rp_filter is not 0: IPv4 that comes in by one fabric interface and is answered by another is dropped on \
                 interfaces without an IPv4 address; set it to 0 (machine.sysctls)"
            );
        }
        // From here on nothing that changes goes unnoticed.
        let monitor = Monitor::everything(&kernel).map_err(line)?;
        let mut node = Self {
            config,
            left_out: vec![],
            version,
            texts: Texts::recall(),
            kernel,
            monitor,
            desired: Desired::default(),
            ports: vec![],
            nics: found,
            names: BTreeMap::new(),
            renamed: false,
            refused: vec![],
            shared_tables: vec![],
            nameless_since: None,
            looked_at: 0,
            said: BTreeSet::new(),
            repaired: status::repaired(&board.read().devices),
            board: Arc::clone(board),
        };
        node.look_at_tables(&now);
        node.configure(&resolved)?;
        let begin = Instant::now();
        let outcome = node.kernel.reconcile(&resolved.desired, Level::Info).map_err(line)?;
        if outcome.done.is_empty() {
            log::info!("devices: nothing to change");
        }
        node.planned(outcome.done.len(), begin);
        // One that was found has this token already.
        if let (Some(Origin::Created | Origin::Repaired), Some(token)) = (origin, token) {
            node.kernel.set_token(token).map_err(line)?;
        }
        node.desired = resolved.desired;
        node.tell(outcome);
        if node.config.namespace.as_deref().is_some()
            && let Err(e) = node.kernel.clear_host()
        {
            log::warn!("the host's namespace may keep rules and routes of an earlier instance: {e}");
        }
        let inode = node.kernel.router_ns().inode().unwrap_or(0);
        board.tell(|local| local.namespace.inode = inode);
        end_leftovers().map_err(line)?;
        Ok(Some(node))
    }

    /// The text of frr.conf for `config`.
    fn render(&self, config: &Config, resolved: &Resolved) -> Result<String, String> {
        let inputs = Inputs {
            config,
            ports: &resolved.ports,
            node_ip_is_local: resolved.node_ip_is_local,
            port_addresses: &resolved.port_addresses,
            version: self.version,
        };
        files::template(config).and_then(|template| frr::render(&inputs, template.as_deref()))
    }

    /// Renders frr.conf and puts it in force if FRR accepts it. Raw lines that it does not accept are left out.
    fn configure(&mut self, resolved: &Resolved) -> Result<(), Vec<String>> {
        loop {
            let e = match self.render(&self.config, resolved) {
                Ok(text) => match self.texts.install(&text) {
                    Ok(()) => {
                        let refused = std::mem::take(&mut self.refused);
                        if !refused.is_empty() {
                            self.board.tell(|local| {
                                local.configuration.rejected.take_if(|rejected| rejected.reasons == refused);
                            });
                        }
                        break;
                    }
                    Err(e) if self.leave_out_raw(&e, &text, resolved) => continue,
                    // It is not the text that is wrong: it is tried again.
                    Err(e) if !self.texts.active().is_empty() && files::refusal(&e).is_none() => {
                        return Err(line(e));
                    }
                    Err(e) => e.to_string(),
                },
                Err(e) => e,
            };
            if !self.texts.fall_back_to_stored() {
                return Err(vec![e]);
            }
            log::error!("{e}; the last configuration that was accepted stays in force");
            self.refused = vec![e];
            let rejected = status::Rejected { at: status::Time::now(), reasons: self.refused.clone() };
            self.board.tell(|local| local.configuration.rejected = Some(rejected));
            break;
        }
        self.ports.clone_from(&resolved.ports);
        Ok(())
    }

    /// Leaves out the raw lines for which FRR refuses `text`; `false` if it is not for them.
    fn leave_out_raw(&mut self, e: &io::Error, text: &str, resolved: &Resolved) -> bool {
        let Some(refusal) = files::refusal(e) else { return false };
        let raw = &self.config.overlay.raw;
        let with = |which: &[usize]| {
            let mut config = self.config.clone();
            config.overlay.raw = which.iter().map(|i| raw[*i].clone()).collect();
            let text = self.render(&config, resolved).ok()?;
            files::refusal(&files::check(&text).err()?).cloned()
        };
        let bad = frr::blame(raw, text, refusal, with);
        for (i, refusal) in &bad {
            let problem = format!("{}: {refusal}: this rawFRRConfig is left out", raw[*i].source);
            log::error!("{problem}");
            self.board.tell(|local| local.configuration.left_out.push(problem));
        }
        let left_out = bad.iter().rev().map(|(i, _)| self.config.overlay.raw.remove(*i));
        self.left_out.extend(left_out);
        !bad.is_empty()
    }

    /// Whether `config` is the one of the start, with what was left out then.
    pub fn has_taken(&self, config: &Config) -> bool {
        let mut config = config.clone();
        config.overlay.raw.retain(|raw| !self.left_out.contains(raw));
        config == self.config
    }

    /// The daemons that this configuration needs.
    pub fn daemons(&self, config: &Config) -> Vec<&'static Daemon> {
        self.version.daemons(config.timers.bfd.is_some(), config.overlay.underlay.is_vtep())
    }

    /// Works out what another configuration would change, without changing anything.
    ///
    /// # Errors
    /// Every reason why it can't be, each a sentence.
    pub fn prepare(&mut self, config: Config) -> Result<Candidate, Vec<String>> {
        let now = self.kernel.observe(Some(&self.desired)).map_err(line)?;
        let Search { mut found, missing: mut lacking, mut wrong } = find(&By::all(&config), &now, &self.nics);
        // What has come over one that is asked for already is a problem of its own, and the node goes on without it.
        let before = By::all(&self.config);
        let is_new = |by: &By| !before.contains(by);
        let all = lacking.len() + wrong.len();
        lacking.retain(is_new);
        wrong.retain(|(by, _)| is_new(by));
        let mut complete = lacking.len() + wrong.len() == all;
        let mut problems: Vec<String> = wrong.into_iter().map(|(_, sentence)| sentence).collect();
        if !lacking.is_empty() {
            problems.push(missing(&lacking, &now));
        }
        let in_use = |nic: &Found| self.nics.iter().any(|known| known.by == nic.by);
        found.retain(|nic| {
            let objection = if in_use(nic) { None } else { objection(&config, &now, nic) };
            let stays_out = objection.is_some();
            complete &= !stays_out;
            problems.extend(objection.filter(|_| is_new(&nic.by)));
            !stays_out
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut resolved = resolve(&config, &now, &found);
        if !complete {
            self.keep(&mut resolved);
        }
        let mut conflicts = plan(&resolved.desired, now).conflicts;
        if !conflicts.is_empty() {
            let now = self.kernel.observe(Some(&self.desired)).map_err(line)?;
            let known = plan(&self.desired, now).conflicts;
            conflicts.retain(|conflict| !known.contains(conflict));
        }
        if !conflicts.is_empty() {
            return Err(conflicts.into_iter().map(|(_, sentence)| sentence).collect());
        }
        let text = self.render(&config, &resolved).map_err(line)?;
        Ok(Candidate { config, text, resolved })
    }

    /// Keeps what depends on a NIC that is missing: the ports that FRR has, and the pair's MTU, which the first of them sets.
    fn keep(&self, resolved: &mut Resolved) {
        resolved.ports.clone_from(&self.ports);
        for link in &mut resolved.desired.links {
            let before = self.desired.links.iter().find(|l| (l.side, &l.name) == (link.side, &link.name));
            link.mtu = before.map_or(link.mtu, |before| before.mtu);
        }
    }

    /// Makes it the node's, now that FRR runs with it. The kernel's changes are for [`Self::build`] to make.
    ///
    /// # Errors
    /// The kernel's state can't be read, or something foreign is in the way.
    pub fn adopt(&mut self, candidate: Candidate) -> Result<Changes, String> {
        let Candidate { config, resolved, .. } = candidate;
        self.config = config;
        self.ports = resolved.ports;
        self.desired = resolved.desired;
        for note in &resolved.notes {
            log::warn!("{note}");
        }
        self.kernel.begin(&self.desired, Level::Info).map_err(|e| e.to_string())
    }

    /// Makes some of the changes, for as long as [`BUILD`]. Whether none are left.
    ///
    /// # Errors
    /// The kernel has refused one without which nothing works.
    pub fn build(&mut self, changes: &mut Changes) -> Result<bool, String> {
        self.kernel.go_on(changes, Some(Instant::now() + BUILD)).map_err(|e| e.to_string())
    }

    /// Takes in what came of all of them. Returns how many were made.
    pub fn built(&mut self, changes: Changes, begin: Instant) -> usize {
        let outcome = changes.outcome();
        let made = outcome.done.len();
        self.planned(made, begin);
        self.tell(outcome);
        made
    }

    /// Says what the kernel has refused, once, and shows what there is.
    fn tell(&mut self, outcome: Outcome) {
        for sentence in &outcome.refused {
            log::error!("{sentence}");
        }
        self.show(&outcome);
        self.said.extend(outcome.refused);
        self.show_broken();
    }

    /// Shows the devices as they are after a change.
    fn show(&self, outcome: &Outcome) {
        let devices = status::devices(&self.desired, &outcome.refused, &outcome.links, &self.repaired);
        self.board.tell(|local| local.devices = Arc::new(devices));
    }

    /// Shows what can't be put right. Missing NICs are shown as such.
    fn show_broken(&self) {
        let broken = self.said.iter().filter(|sentence| !sentence.starts_with(GONE)).cloned().collect();
        self.board.tell(|local| local.broken = broken);
    }

    /// Shows what a plan took.
    fn planned(&self, operations: usize, begin: Instant) {
        if operations > 0 {
            self.board.tell(|local| {
                local.counts.plan_operations = operations as u64;
                local.counts.plan_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
            });
        }
    }

    /// Asks for the workloads that have been silent.
    pub fn ask_workloads(&mut self) {
        match self.kernel.refresh_neighbours(&self.desired) {
            Ok(n) => log::debug!("{n} silent workloads asked for"),
            Err(e) => log::warn!("silent workloads can't be asked for: {e}; their routes may be withdrawn"),
        }
    }

    /// The links that lead to the fabric, by their names in FRR's namespace.
    pub fn fabric_ports(&self) -> Vec<IfName> {
        let named = self.config.overlay.underlay.interfaces.iter().map(|interface| interface.name());
        self.ports.iter().chain(named).cloned().collect()
    }

    /// What to poll for changes.
    pub fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.monitor.fds()
    }

    /// What may have changed since the last call. Mounts are not among it: their word is the poll.
    pub fn what_changed(&self) -> Notified {
        self.monitor.drain()
    }

    /// Whether a kernel parameter has changed of those whose changes are not announced. Looks at some of them each time.
    pub fn sysctls_have_changed(&mut self) -> bool {
        let all = &self.desired.sysctls;
        let from = if self.looked_at < all.len() { self.looked_at } else { 0 };
        self.looked_at = (from + SYSCTLS_AT_ONCE).min(all.len());
        self.kernel.sysctls_have_changed(&all[from..self.looked_at]).unwrap_or(true)
    }

    /// Puts right whatever is not as it should be.
    pub fn check(&mut self) -> Check {
        match self.kernel.held(&self.config.namespace) {
            Ok(Held::Itself) => self.nameless_since = None,
            Ok(Held::Another) => return Check::Gone("was replaced"),
            // Who deletes it may be about to put another one in its place.
            Ok(Held::Nothing)
                if self.nameless_since.get_or_insert_with(Instant::now).elapsed() < NAMELESS =>
            {
                return Check::Nameless;
            }
            Ok(Held::Nothing) => {
                let name = self.config.namespace.to_string();
                match self.kernel.router_ns().hold_as(&name) {
                    Ok(()) => {}
                    Err(e) if limits::is_ours(&e) => return self.unexamined(&e),
                    // What runs in it keeps it alive, and another one could not be held either.
                    Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                        return self.fails(format!(
                            "namespace {name} was deleted and can't be held again: {e}; make room in /run"
                        ));
                    }
                    Err(e) => {
                        log::error!("namespace {name} was deleted: {e}");
                        return Check::Gone("was deleted");
                    }
                }
                log::warn!(
                    "namespace {name} was deleted: what runs in it has kept it alive, it is held again"
                );
                self.nameless_since = None;
            }
            Err(e) if limits::is_ours(&e) => return self.unexamined(&e),
            Err(e) => {
                log::error!("{e}");
                return Check::Gone("can't be examined");
            }
        }
        let mut said = BTreeSet::new();
        let check = self.repair(&mut said);
        for sentence in said.difference(&self.said) {
            log::error!("{sentence}");
        }
        if said != self.said {
            self.said = said;
            self.show_broken();
        }
        check
    }

    /// Nothing can be looked at for want of something of our own, which says nothing about the node.
    fn unexamined(&mut self, e: &io::Error) -> Check {
        self.fails(format!("the node's devices can't be looked at: {e}; {}", limits::REMEDY))
    }

    /// Says once why nothing can be put right.
    fn fails(&mut self, sentence: String) -> Check {
        if self.said.insert(sentence.clone()) {
            log::error!("{sentence}");
            self.show_broken();
        }
        Check::Failed
    }

    /// Takes in which routing tables are shared, so that zebra can't run.
    fn look_at_tables(&mut self, now: &Namespaces) {
        let shared = shared_tables(&now.get(Side::Router).links);
        if shared != self.shared_tables {
            self.shared_tables.clone_from(&shared);
            self.board.tell(|local| local.shared_tables = shared);
        }
    }

    /// Why zebra can't run, if it can't.
    pub fn keeps_from_zebra(&self) -> Option<String> {
        self.shared_tables.first().map(SharedTable::what)
    }

    fn repair(&mut self, said: &mut BTreeSet<String>) -> Check {
        let now = match self.kernel.observe(Some(&self.desired)) {
            Ok(now) => now,
            Err(e) => {
                said.insert(e.to_string());
                return Check::Failed;
            }
        };
        self.look_at_tables(&now);
        let Search { mut found, missing: mut gone, wrong } = find(&By::all(&self.config), &now, &self.nics);
        if !gone.is_empty() {
            let words: Vec<String> = gone.iter().map(ToString::to_string).collect();
            said.insert(format!(
                "{GONE}{} is gone: traffic has only the other ones until it is back",
                words.join(", ")
            ));
        }
        // What is wrong with one of them stops nothing of the others.
        let unclear = !wrong.is_empty();
        for (by, sentence) in wrong {
            said.insert(sentence);
            gone.push(by);
        }
        let interfaces = status::interfaces(&found, &gone, &now);
        self.board.tell(|local| local.interfaces = interfaces);
        let mut complete = gone.is_empty();
        found.retain(|nic| {
            let Some(sentence) = objection(&self.config, &now, nic) else { return true };
            said.insert(sentence);
            // It stays where it is.
            let stays_out = now.router.is_some() && nic.side == Side::Host;
            complete &= !stays_out;
            !stays_out
        });
        let mut resolved = resolve(&self.config, &now, &found);
        self.renamed |= have_other_names(&mut self.names, &found, &now);
        self.nics = found;
        if !complete {
            self.keep(&mut resolved);
        }
        let mut desired = std::mem::take(&mut resolved.desired);
        // None that carries our mark goes home because it can't be told from another.
        desired.keep_others |= unclear;
        let seen = (desired == self.desired).then_some(now);
        let begin = Instant::now();
        let outcome = match self.kernel.amend(&desired, seen, Level::Warn) {
            Ok(outcome) => {
                said.extend(outcome.refused.iter().cloned());
                outcome
            }
            Err(e) => {
                said.insert(e.to_string());
                return Check::Failed;
            }
        };
        let other = self.desired != desired;
        self.desired = desired;
        self.planned(outcome.done.len(), begin);
        let links: BTreeSet<_> = outcome.done.iter().filter_map(Op::link).collect();
        for (side, name) in links {
            *self.repaired.entry((side, name.to_owned())).or_default() += 1;
        }
        let refused: BTreeSet<&String> = outcome.refused.iter().collect();
        if other || !outcome.done.is_empty() || refused != self.said.iter().collect() {
            self.show(&outcome);
        }
        let done = outcome.done;
        let mut reconfigured = resolved.ports != self.ports;
        if reconfigured && self.texts.were_taken_back() {
            // What led to the text in force is not known, and what is known was taken back.
            said.insert(TAKEN_BACK.into());
            reconfigured = false;
        }
        if reconfigured {
            let before = self.texts.active().to_owned();
            if let Err(problems) = self.configure(&resolved) {
                said.extend(problems);
                return Check::Failed;
            }
            // The one before stays where the next is refused.
            reconfigured = *self.texts.active() != before;
        }
        if std::mem::take(&mut self.renamed) {
            return Check::Renamed(reconfigured);
        }
        if reconfigured {
            return Check::Reconfigured;
        }
        match done.into_iter().next_back() {
            Some(last) => Check::Repaired(last),
            None if said.is_empty() => Check::Sound,
            None => Check::Partly,
        }
    }

    /// Leaves the node to a later instance: the namespace under its name, or, where another has that, the NICs in the host's.
    ///
    /// # Errors
    /// Something can't be taken down.
    pub fn leave(self) -> Result<(), Vec<String>> {
        match self.kernel.held(&self.config.namespace) {
            Ok(Held::Nothing) => match self.kernel.router_ns().hold_as(&self.config.namespace.to_string()) {
                Ok(()) => Ok(()),
                Err(_) => self.dismantle(),
            },
            Ok(Held::Another) => self.dismantle(),
            Ok(Held::Itself) | Err(_) => Ok(()),
        }
    }

    /// Takes down what is left of a namespace that is not held any more, so that the NICs can go into the next one.
    ///
    /// # Errors
    /// Something can't be taken down.
    pub fn dismantle(mut self) -> Result<(), Vec<String>> {
        self.kernel.dismantle().map_err(line)
    }
}

/// Whether one of the NICs that have been in FRR's namespace is still there, under another name than in `names`, which are
/// those of `now` afterwards.
fn have_other_names(names: &mut BTreeMap<u32, String>, found: &[Found], now: &Namespaces) -> bool {
    let side = if now.router.is_some() { Side::Router } else { Side::Host };
    let links = &now.get(side).links;
    let mut renamed = false;
    names.retain(|index, name| {
        let Some(link) = links.at(*index) else { return false };
        renamed |= link.name != *name;
        name.clone_from(&link.name);
        true
    });
    names.extend(found.iter().filter(|nic| nic.side == side).map(|nic| (nic.index, nic.name.to_string())));
    renamed
}

/// An error that is the only problem.
pub fn line(e: impl ToString) -> Vec<String> {
    vec![e.to_string()]
}

/// [`resolve::resolve`], and in a build for the lab what the kernel there can do.
fn resolve(config: &Config, now: &Namespaces, found: &[Found]) -> Resolved {
    let resolved = resolve::resolve(config, now, found);
    #[cfg(feature = "lab")]
    if std::env::var_os("LAB_PLAIN").is_some() {
        return Resolved { desired: resolved.desired.for_plain_kernel(), ..resolved };
    }
    resolved
}

/// Waits until every fabric NIC is there, told by the kernel rather than by asking again and again; for the others a quarter of the
/// time once there is one. `None`: a signal asked for the end; else the state in which they were found.
fn wait_for_fabric(
    config: &Config,
    kernel: &mut Kernel,
    signals: &mut Signals,
    board: &Board,
) -> Result<Option<(Namespaces, Vec<Found>)>, Vec<String>> {
    let monitor = Monitor::links(kernel).map_err(line)?;
    let timeout = Duration::from_secs(config.fabric_timeout_s.into());
    let begin = Instant::now();
    let mut said = String::new();
    loop {
        let now = kernel.observe(None).map_err(line)?;
        let search = find(&By::all(config), &now, &[]);
        if !search.wrong.is_empty() {
            return Err(search.wrong.into_iter().map(|(_, sentence)| sentence).collect());
        }
        let interfaces = status::interfaces(&search.found, &search.missing, &now);
        let limit = if search.found.is_empty() { timeout } else { timeout / 4 };
        let left = (begin + limit).saturating_duration_since(Instant::now());
        let goes_on = search.is_complete() || (left.is_zero() && !search.found.is_empty());
        board.tell(|local| {
            local.enter(if goes_on { Phase::Starting } else { Phase::Waiting });
            local.interfaces = interfaces;
        });
        if goes_on {
            if !search.is_complete() {
                log::error!("{}; going on without", missing(&search.missing, &now));
            }
            for nic in &search.found {
                log::info!("fabric interface {} is {} ({})", nic.by, nic.name, nic.side);
            }
            return Ok(Some((now, search.found)));
        }
        let sentence = missing(&search.missing, &now);
        board.turn();
        if left.is_zero() {
            return Err(vec![format!("{sentence}; gave up after {} s (FE_TIMEOUT)", timeout.as_secs())]);
        }
        if sentence != said {
            log::warn!("{sentence}; waiting for {} s at most", left.as_secs() + 1);
            said = sentence;
        }
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        fds.extend(monitor.fds());
        match poll(&mut fds, Timespec::try_from(left.min(TURN)).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(line(io::Error::from(e))),
        }
        monitor.drain();
        if signals.stop_requested() {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Link, LinkKind, NsState, Value as _};

    #[test]
    fn a_nic_that_has_another_name_is_told_from_another_nic() {
        let nic = |index, name: &str| Found {
            by: By::Name(IfName::parse("eth1").unwrap()),
            side: Side::Router,
            index,
            name: IfName::parse(name).unwrap(),
            mtu: 1500,
        };
        let look = |names: &mut BTreeMap<u32, String>, found: &[Found], links: &[(u32, &str)]| {
            let links = links.iter().map(|(index, name)| Link::new(*index, name, LinkKind::Device)).collect();
            let router = Some(NsState { links, ..NsState::default() });
            have_other_names(names, found, &Namespaces { router, ..Namespaces::default() })
        };
        let has = |links: &[(u32, &str)]| {
            let mut names = BTreeMap::from([(4, "eth1".into()), (5, "eth2".into())]);
            look(&mut names, &[], links)
        };
        assert!(!has(&[(4, "eth1"), (5, "eth2"), (6, "eth3")]));
        assert!(has(&[(4, "eth2"), (5, "eth1")]), "exchanged");
        assert!(has(&[(4, "other"), (5, "eth2"), (6, "eth1")]), "replaced by another one");
        assert!(!has(&[(5, "eth2"), (6, "eth1")]), "gone, and another one has come");
        // One that is known by its name is none of ours under another, and comes back.
        let mut names = BTreeMap::new();
        assert!(!look(&mut names, &[nic(4, "eth1")], &[(4, "eth1")]));
        assert!(look(&mut names, &[], &[(4, "other")]) && !look(&mut names, &[], &[(4, "other")]));
        assert!(look(&mut names, &[nic(4, "eth1")], &[(4, "eth1")]));
    }
}
