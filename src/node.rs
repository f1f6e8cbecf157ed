//! The node: its namespaces and devices in the kernel, and the configuration of FRR. The supervisor sets the node up
//! once and then repairs drift.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::config::Config;
use crate::frr::{self, ConfigStore, Daemon, Inputs, Version, check, kill_leftovers, state};
use crate::kernel::netns::{NetnsMount, NetnsOrigin};
use crate::kernel::{
    Changes, Kernel, KernelEvents, Monitor, Netns, Op, ReconcileOutcome, SharedTable, plan, shared_tables,
};
use crate::limits;
use crate::model::{Desired, IfName, Namespaces, RawLines, Side, Sysctl};
use crate::resolve::{
    self, FabricNic, NicSearch, NicSelector, Resolved, describe_missing, find_nics, rejection_reason,
};
use crate::signals::Signals;
use crate::status::{self, NodePhase, Publisher, RepairCounts};
use crate::time::Time;

/// The node's kernel objects, and FRR's configuration.
#[derive(Debug)]
pub struct Node {
    /// The configuration, without the raw lines that were left out.
    pub config: Config,
    /// Raw lines that FRR rejected at the start.
    left_out_raw: Vec<RawLines>,
    /// The version of FRR.
    pub version: Version,
    /// FRR's configuration.
    pub config_store: ConfigStore,
    /// Both namespaces.
    pub kernel: Kernel,
    monitor: Monitor,
    desired: Desired,
    ports: Vec<IfName>,
    /// The fabric NICs of the last check.
    nics: Vec<FabricNic>,
    /// By index, the names of the fabric NICs that have been in FRR's namespace and still exist. zebra knows these
    /// names.
    nic_names: BTreeMap<u32, String>,
    /// A NIC of `nic_names` was renamed, and [`Self::check`] has not reported it yet.
    nic_renamed: bool,
    /// Why frr.conf for other ports was rejected.
    rejection_reasons: Vec<String>,
    /// Routing tables that keep zebra from running.
    shared_tables: Vec<SharedTable>,
    /// Since when FRR's namespace is not mounted under its name.
    unmounted_since: Option<Instant>,
    /// How many of the desired kernel parameters this cycle of [`Self::has_sysctl_drift`] has compared.
    sysctls_compared: usize,
    /// The logged sentences about what can't be repaired. Each is logged once.
    logged_failures: BTreeSet<String>,
    /// Number of repairs of each link.
    repair_counts: RepairCounts,
    publisher: Arc<Publisher>,
}

/// How long a deleted namespace may stay unmounted before it is mounted again. Its processes keep it alive.
pub const UNMOUNTED_GRACE: Duration = Duration::from_millis(500);

/// The problem of a renamed port after a rollback to a configuration whose settings only an earlier instance knew.
const SETTINGS_UNKNOWN: &str = "a fabric interface was renamed, but the settings that the active configuration was \
     made from are unknown: its session stays down until the configuration changes or the service is restarted";

/// Longest wait without a heartbeat.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);

/// How many kernel parameters [`Node::has_sysctl_drift`] compares per call: all parameters of a node without many VNIs,
/// at a small part of a core's time.
const SYSCTLS_PER_CALL: usize = 30;

/// The time slice for kernel changes of a new configuration. Between two slices the supervisor restarts daemons that
/// have exited, and zebra processes the new VNIs.
pub const BUILD_SLICE: Duration = Duration::from_millis(50);

/// A new configuration, and what it resolves to.
#[derive(Debug)]
pub struct Candidate {
    /// The configuration.
    pub config: Config,
    /// The text of frr.conf.
    pub text: String,
    resolved: Resolved,
}

/// Result of [`Node::check`].
#[derive(Debug)]
pub enum CheckOutcome {
    /// The observed state is the desired state.
    Clean,
    /// Drift was repaired. The last change.
    Repaired(Op),
    /// Drift was repaired, and FRR needs another configuration because ports were renamed.
    Reconfigured,
    /// Drift was repaired, and zebra has to restart because it knows a port under its old name.
    PortRenamed {
        /// FRR needs another configuration as well.
        reconfigured: bool,
    },
    /// Some drift can't be repaired. Everything else is in the desired state.
    Partial,
    /// Nothing can be repaired.
    Failed,
    /// FRR's namespace is not mounted under its name, only its processes keep it alive. Check again in
    /// [`UNMOUNTED_GRACE`].
    Unmounted,
    /// FRR's namespace is lost, for this reason.
    NamespaceLost(&'static str),
}

impl Node {
    /// Sets the node up, without the daemons. `None`: a signal asked for the end.
    ///
    /// # Errors
    /// All problems, one line each.
    pub fn set_up(
        config: Config,
        version: Version,
        signals: &mut Signals,
        publisher: &Arc<Publisher>,
    ) -> Result<Option<Self>, Vec<String>> {
        let (mut kernel, mut origin) = Kernel::open(&config.namespace).map_err(single_problem)?;
        let name = config.namespace.to_string();
        let token = config.rebuild_token.clone();
        let token = token.as_ref().map(|token| token.as_str());
        if let (Some(NetnsOrigin::Found), Some(token)) = (origin, token)
            && kernel.token().map_err(single_problem)?.as_deref() != Some(token)
        {
            log::warn!("REBUILD_TOKEN={token} is new: deleting and rebuilding namespace {name}");
            kill_leftovers().map_err(single_problem)?;
            kernel.dismantle().map_err(single_problem)?;
            Netns::unmount(&name).map_err(single_problem)?;
            (kernel, origin) = Kernel::open(&config.namespace).map_err(single_problem)?;
        }
        match origin {
            Some(NetnsOrigin::Created) => log::info!("namespace {name} created"),
            Some(NetnsOrigin::Found) => log::info!("namespace {name} found: reusing what is in it"),
            Some(NetnsOrigin::Repaired) => {
                log::warn!("namespace {name}: nothing was mounted at its file, mounted a new namespace there")
            }
            None => {}
        }
        if matches!(origin, Some(NetnsOrigin::Created | NetnsOrigin::Repaired)) {
            // Daemons in a namespace that is not mounted any more keep the NICs in it from returning to the host
            // namespace.
            kill_leftovers().map_err(single_problem)?;
        }
        let selectors = NicSelector::from_config(&config);
        kernel
            .return_nics(&config.namespace, |link| selectors.iter().any(|selector| selector.is_match(link)))
            .map_err(single_problem)?;
        let Some((now, found)) = wait_for_fabric(&config, &mut kernel, signals, publisher)? else {
            log::info!("stopped while waiting for the fabric interfaces");
            return Ok(None);
        };
        let rejections: Vec<String> =
            found.iter().filter_map(|nic| rejection_reason(&config, &now, nic)).collect();
        if !rejections.is_empty() {
            return Err(rejections);
        }
        let mut resolved = resolve(&config, &now, &found);
        // A missing NIC may be present but not recognized.
        resolved.desired.keep_unlisted |= found.len() < selectors.len();
        for warning in &resolved.warnings {
            log::warn!("{warning}");
        }
        // The kernel uses the maximum of this value and the link's own.
        let all = Sysctl { side: Side::Host, path: "net/ipv4/conf/all/rp_filter".into(), value: "0" };
        if config.namespace.as_deref().is_none() && kernel.has_sysctl_drift(&[all]).unwrap_or(false) {
            log::warn!(
                "net.ipv4.conf.all.rp_filter is not 0: interfaces without an IPv4 address drop IPv4 packets that arrive at one \
                 fabric interface and are answered by another; set it to 0 (machine.sysctls)"
            );
        }
        // The monitor reports every change from here on.
        let monitor = Monitor::everything(&kernel).map_err(single_problem)?;
        let mut node = Self {
            config,
            left_out_raw: vec![],
            version,
            config_store: ConfigStore::load(),
            kernel,
            monitor,
            desired: Desired::default(),
            ports: vec![],
            nics: found,
            nic_names: BTreeMap::new(),
            nic_renamed: false,
            rejection_reasons: vec![],
            shared_tables: vec![],
            unmounted_since: None,
            sysctls_compared: 0,
            logged_failures: BTreeSet::new(),
            repair_counts: status::repair_counts(&publisher.read().devices),
            publisher: Arc::clone(publisher),
        };
        node.check_shared_tables(&now);
        node.activate_config(&resolved)?;
        let begin = Instant::now();
        let outcome = node.kernel.reconcile(&resolved.desired, Level::Info).map_err(single_problem)?;
        if outcome.done.is_empty() {
            log::info!("devices: nothing to change");
        }
        node.publish_plan(outcome.done.len(), begin);
        // A namespace that was found has this token already.
        if let (Some(NetnsOrigin::Created | NetnsOrigin::Repaired), Some(token)) = (origin, token) {
            node.kernel.set_token(token).map_err(single_problem)?;
        }
        node.desired = resolved.desired;
        node.report_outcome(outcome);
        if node.config.namespace.as_deref().is_some()
            && let Err(e) = node.kernel.clear_host()
        {
            log::warn!("rules and routes of an earlier instance may remain in the host namespace: {e}");
        }
        let inode = node.kernel.router_ns().inode().unwrap_or(0);
        publisher.update(|facts| facts.namespace.inode = inode);
        kill_leftovers().map_err(single_problem)?;
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
        state::template(config).and_then(|template| frr::render(&inputs, template.as_deref()))
    }

    /// Renders frr.conf and activates it if FRR accepts it. Leaves out raw lines that FRR rejects.
    fn activate_config(&mut self, resolved: &Resolved) -> Result<(), Vec<String>> {
        loop {
            let e = match self.render(&self.config, resolved) {
                Ok(text) => match self.config_store.check_and_activate(&text) {
                    Ok(()) => {
                        let reasons = std::mem::take(&mut self.rejection_reasons);
                        if !reasons.is_empty() {
                            self.publisher.update(|facts| {
                                facts.configuration.rejected.take_if(|rejected| rejected.reasons == reasons);
                            });
                        }
                        break;
                    }
                    Err(e) if self.leave_out_raw(&e, &text, resolved) => continue,
                    // The text is not the cause: the caller retries.
                    Err(e)
                        if !self.config_store.active().is_empty() && check::check_failure(&e).is_none() =>
                    {
                        return Err(single_problem(e));
                    }
                    Err(e) => e.to_string(),
                },
                Err(e) => e,
            };
            if !self.config_store.use_stored() {
                return Err(vec![e]);
            }
            log::error!("{e}; the previous configuration stays active");
            self.rejection_reasons = vec![e];
            let rejection = status::Rejection { at: Time::now(), reasons: self.rejection_reasons.clone() };
            self.publisher.update(|facts| facts.configuration.rejected = Some(rejection));
            break;
        }
        self.ports.clone_from(&resolved.ports);
        Ok(())
    }

    /// Leaves out the raw lines for which FRR rejects `text`. `false`: the raw lines are not the cause.
    fn leave_out_raw(&mut self, e: &io::Error, text: &str, resolved: &Resolved) -> bool {
        let Some(failure) = check::check_failure(e) else { return false };
        let raw = &self.config.overlay.raw;
        let check_with = |entries: &[usize]| {
            let mut config = self.config.clone();
            config.overlay.raw = entries.iter().map(|i| raw[*i].clone()).collect();
            let text = self.render(&config, resolved).ok()?;
            check::check_failure(&check::check(&text).err()?).cloned()
        };
        let bad = frr::blame(raw, text, failure, check_with);
        for (i, failure) in &bad {
            let problem = format!("{}: {failure}: this rawFRRConfig is left out", raw[*i].source);
            log::error!("{problem}");
            self.publisher.update(|facts| facts.configuration.left_out.push(problem));
        }
        let left_out = bad.iter().rev().map(|(i, _)| self.config.overlay.raw.remove(*i));
        self.left_out_raw.extend(left_out);
        !bad.is_empty()
    }

    /// Whether `config`, without the raw lines that were left out at the start, is the node's configuration.
    pub fn is_current(&self, config: &Config) -> bool {
        let mut config = config.clone();
        config.overlay.raw.retain(|raw| !self.left_out_raw.contains(raw));
        config == self.config
    }

    /// The daemons that this configuration needs.
    pub fn daemons(&self, config: &Config) -> Vec<&'static Daemon> {
        self.version.daemons(config.timers.bfd.is_some(), config.overlay.underlay.is_vtep())
    }

    /// Resolves and renders another configuration. Changes nothing.
    ///
    /// # Errors
    /// All reasons why the configuration is rejected, one sentence each.
    pub fn prepare(&mut self, config: Config) -> Result<Candidate, Vec<String>> {
        let now = self.kernel.observe(Some(&self.desired)).map_err(single_problem)?;
        let NicSearch { mut found, mut missing, mut rejected } =
            find_nics(&NicSelector::from_config(&config), &now, &self.nics);
        // A NIC of the current configuration that has become missing or unusable is a problem of its own. It does not
        // reject the new configuration.
        let current = NicSelector::from_config(&self.config);
        let is_new = |selector: &NicSelector| !current.contains(selector);
        let all = missing.len() + rejected.len();
        missing.retain(is_new);
        rejected.retain(|(selector, _)| is_new(selector));
        let mut complete = missing.len() + rejected.len() == all;
        let mut problems: Vec<String> = rejected.into_iter().map(|(_, sentence)| sentence).collect();
        if !missing.is_empty() {
            problems.push(describe_missing(&missing, &now));
        }
        let in_use = |nic: &FabricNic| self.nics.iter().any(|known| known.selector == nic.selector);
        found.retain(|nic| {
            let reason = if in_use(nic) { None } else { rejection_reason(&config, &now, nic) };
            let is_rejected = reason.is_some();
            complete &= !is_rejected;
            problems.extend(reason.filter(|_| is_new(&nic.selector)));
            !is_rejected
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut resolved = resolve(&config, &now, &found);
        if !complete {
            self.keep_port_settings(&mut resolved);
        }
        let mut conflicts = plan(&resolved.desired, now).conflicts;
        if !conflicts.is_empty() {
            let now = self.kernel.observe(Some(&self.desired)).map_err(single_problem)?;
            let known = plan(&self.desired, now).conflicts;
            conflicts.retain(|conflict| !known.contains(conflict));
        }
        if !conflicts.is_empty() {
            return Err(conflicts.into_iter().map(|(_, sentence)| sentence).collect());
        }
        let text = self.render(&config, &resolved).map_err(single_problem)?;
        Ok(Candidate { config, text, resolved })
    }

    /// Keeps the settings that depend on a missing NIC: FRR's ports, and the MTUs, which the fabric NICs determine.
    fn keep_port_settings(&self, resolved: &mut Resolved) {
        resolved.ports.clone_from(&self.ports);
        for link in &mut resolved.desired.links {
            let before = self.desired.links.iter().find(|l| (l.side, &l.name) == (link.side, &link.name));
            link.mtu = before.map_or(link.mtu, |before| before.mtu);
        }
    }

    /// Makes the candidate the node's configuration, once FRR runs with it. Returns the kernel changes for
    /// [`Self::build`].
    ///
    /// # Errors
    /// The kernel state can't be read.
    pub fn adopt(&mut self, candidate: Candidate) -> Result<Changes, String> {
        let Candidate { config, resolved, .. } = candidate;
        self.config = config;
        self.ports = resolved.ports;
        self.desired = resolved.desired;
        for warning in &resolved.warnings {
            log::warn!("{warning}");
        }
        self.kernel.plan_changes(&self.desired, Level::Info).map_err(|e| e.to_string())
    }

    /// Applies changes for up to [`BUILD_SLICE`]. Returns whether none remain.
    ///
    /// # Errors
    /// The kernel refused an essential change.
    pub fn build(&mut self, changes: &mut Changes) -> Result<bool, String> {
        self.kernel.apply_changes(changes, Some(Instant::now() + BUILD_SLICE)).map_err(|e| e.to_string())
    }

    /// Publishes the result of all changes. Returns how many were made.
    pub fn finish_build(&mut self, changes: Changes, begin: Instant) -> usize {
        let outcome = changes.outcome();
        let made = outcome.done.len();
        self.publish_plan(made, begin);
        self.report_outcome(outcome);
        made
    }

    /// Logs the changes that the kernel refused, and publishes the devices.
    fn report_outcome(&mut self, outcome: ReconcileOutcome) {
        for sentence in &outcome.refused {
            log::error!("{sentence}");
        }
        self.publish_devices(&outcome);
        self.logged_failures.extend(outcome.refused);
        self.publish_failures();
    }

    /// Publishes the devices after a change.
    fn publish_devices(&self, outcome: &ReconcileOutcome) {
        let devices = status::devices(&self.desired, &outcome.refused, &outcome.links, &self.repair_counts);
        self.publisher.update(|facts| facts.devices = Arc::new(devices));
    }

    /// Publishes what can't be repaired. Missing NICs are a problem of their own.
    fn publish_failures(&self) {
        let broken = self.logged_failures.iter().cloned().collect();
        self.publisher.update(|facts| facts.broken = broken);
    }

    /// Publishes the size and the duration of a plan.
    fn publish_plan(&self, operations: usize, begin: Instant) {
        if operations > 0 {
            self.publisher.update(|facts| {
                facts.counts.plan_operations = operations as u64;
                facts.counts.plan_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
            });
        }
    }

    /// Has the kernel probe the neighbours of the VNIs that have sent nothing for a while.
    pub fn refresh_neighbours(&mut self) {
        match self.kernel.refresh_neighbours(&self.desired) {
            Ok(n) => log::debug!("probing {n} silent workloads"),
            Err(e) => log::warn!("cannot probe silent workloads: {e}; their routes may be withdrawn"),
        }
    }

    /// The links that lead to the fabric, by their names in FRR's namespace.
    pub fn fabric_ports(&self) -> Vec<IfName> {
        let named = self.config.overlay.underlay.interfaces.iter().map(|interface| interface.name());
        self.ports.iter().chain(named).cloned().collect()
    }

    /// The file descriptors to poll for kernel events.
    pub fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.monitor.fds()
    }

    /// The kernel events since the last call, except changes of mounts: only poll reports those.
    pub fn drain_events(&self) -> KernelEvents {
        self.monitor.drain()
    }

    /// Whether a kernel parameter has drifted for which the kernel sends no events. Each call compares
    /// [`SYSCTLS_PER_CALL`] parameters.
    pub fn has_sysctl_drift(&mut self) -> bool {
        let all = &self.desired.sysctls;
        let from = if self.sysctls_compared < all.len() { self.sysctls_compared } else { 0 };
        self.sysctls_compared = (from + SYSCTLS_PER_CALL).min(all.len());
        self.kernel.has_sysctl_drift(&all[from..self.sysctls_compared]).unwrap_or(true)
    }

    /// Compares the observed state with the desired state, and repairs drift.
    pub fn check(&mut self) -> CheckOutcome {
        match self.kernel.netns_mount(&self.config.namespace) {
            Ok(NetnsMount::Present) => self.unmounted_since = None,
            Ok(NetnsMount::Replaced) => return CheckOutcome::NamespaceLost("was replaced"),
            // Who deletes it may be about to mount another one under its name.
            Ok(NetnsMount::Absent)
                if self.unmounted_since.get_or_insert_with(Instant::now).elapsed() < UNMOUNTED_GRACE =>
            {
                return CheckOutcome::Unmounted;
            }
            Ok(NetnsMount::Absent) => {
                let name = self.config.namespace.to_string();
                match self.kernel.router_ns().mount_as(&name) {
                    Ok(()) => {}
                    Err(e) if limits::is_own_shortage(&e) => return self.fail_unobservable(&e),
                    // Its processes keep it alive, and a new one could not be mounted either.
                    Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                        return self.fail(format!(
                            "namespace {name} was deleted and cannot be mounted again: {e}; free space in /run"
                        ));
                    }
                    Err(e) => {
                        log::error!("namespace {name} was deleted: {e}");
                        return CheckOutcome::NamespaceLost("was deleted");
                    }
                }
                log::warn!(
                    "namespace {name} was deleted, but its processes kept it alive: mounted it under its name again"
                );
                self.unmounted_since = None;
            }
            Err(e) if limits::is_own_shortage(&e) => return self.fail_unobservable(&e),
            Err(e) => {
                log::error!("{e}");
                return CheckOutcome::NamespaceLost("cannot be examined");
            }
        }
        let mut failures = BTreeSet::new();
        let outcome = self.repair(&mut failures);
        for sentence in failures.difference(&self.logged_failures) {
            log::error!("{sentence}");
        }
        if failures != self.logged_failures {
            self.logged_failures = failures;
            self.publish_failures();
        }
        outcome
    }

    /// The state can't be read because this program lacks a resource. That says nothing about the node.
    fn fail_unobservable(&mut self, e: &io::Error) -> CheckOutcome {
        self.fail(format!("the node's devices cannot be read: {e}; {}", limits::REMEDY))
    }

    /// Logs once why nothing can be repaired.
    fn fail(&mut self, sentence: String) -> CheckOutcome {
        if self.logged_failures.insert(sentence.clone()) {
            log::error!("{sentence}");
            self.publish_failures();
        }
        CheckOutcome::Failed
    }

    /// Updates the shared routing tables that keep zebra from running.
    fn check_shared_tables(&mut self, now: &Namespaces) {
        let shared = shared_tables(&now.get(Side::Router).links);
        if shared != self.shared_tables {
            self.shared_tables.clone_from(&shared);
            self.publisher.update(|facts| facts.shared_tables = shared);
        }
    }

    /// Why zebra can't run, if a shared routing table keeps it from running.
    pub fn zebra_conflict(&self) -> Option<String> {
        self.shared_tables.first().map(SharedTable::description)
    }

    fn repair(&mut self, failures: &mut BTreeSet<String>) -> CheckOutcome {
        let now = match self.kernel.observe(Some(&self.desired)) {
            Ok(now) => now,
            Err(e) => {
                failures.insert(e.to_string());
                return CheckOutcome::Failed;
            }
        };
        self.check_shared_tables(&now);
        let NicSearch { mut found, mut missing, rejected } =
            find_nics(&NicSelector::from_config(&self.config), &now, &self.nics);
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
            log::debug!("missing fabric interfaces: {}", names.join(", "));
        }
        // A rejected NIC does not affect the other ones.
        let has_rejected = !rejected.is_empty();
        for (selector, sentence) in rejected {
            failures.insert(sentence);
            missing.push(selector);
        }
        let interfaces = status::interfaces(&found, &missing, &now);
        self.publisher.update(|facts| facts.interfaces = interfaces);
        let mut complete = missing.is_empty();
        found.retain(|nic| {
            let Some(sentence) = rejection_reason(&self.config, &now, nic) else { return true };
            failures.insert(sentence);
            // It stays in the host namespace.
            let stays_out = now.router.is_some() && nic.side == Side::Host;
            complete &= !stays_out;
            !stays_out
        });
        let mut resolved = resolve(&self.config, &now, &found);
        self.nic_renamed |= update_nic_names(&mut self.nic_names, &found, &now);
        self.nics = found;
        if !complete {
            self.keep_port_settings(&mut resolved);
        }
        let mut desired = std::mem::take(&mut resolved.desired);
        // An ambiguous NIC with our ownership mark must not return to the host namespace.
        desired.keep_unlisted |= has_rejected;
        let seen = (desired == self.desired).then_some(now);
        let begin = Instant::now();
        let outcome = match self.kernel.reconcile_once(&desired, seen, Level::Warn) {
            Ok(outcome) => {
                failures.extend(outcome.refused.iter().cloned());
                outcome
            }
            Err(e) => {
                failures.insert(e.to_string());
                return CheckOutcome::Failed;
            }
        };
        let has_changed = self.desired != desired;
        self.desired = desired;
        self.publish_plan(outcome.done.len(), begin);
        let links: BTreeSet<_> = outcome.done.iter().filter_map(Op::link).collect();
        for (side, name) in links {
            *self.repair_counts.entry((side, name.to_owned())).or_default() += 1;
        }
        let refused: BTreeSet<&String> = outcome.refused.iter().collect();
        if has_changed || !outcome.done.is_empty() || refused != self.logged_failures.iter().collect() {
            self.publish_devices(&outcome);
        }
        let done = outcome.done;
        let mut reconfigured = resolved.ports != self.ports;
        if reconfigured && self.config_store.replaces_rolled_back() {
            // The settings of the active configuration are unknown, and the known settings were rolled back.
            failures.insert(SETTINGS_UNKNOWN.into());
            reconfigured = false;
        }
        if reconfigured {
            let before = self.config_store.active().to_owned();
            if let Err(problems) = self.activate_config(&resolved) {
                failures.extend(problems);
                return CheckOutcome::Failed;
            }
            // The previous configuration stays active if the new one is rejected.
            reconfigured = *self.config_store.active() != before;
        }
        if std::mem::take(&mut self.nic_renamed) {
            return CheckOutcome::PortRenamed { reconfigured };
        }
        if reconfigured {
            return CheckOutcome::Reconfigured;
        }
        match done.into_iter().next_back() {
            Some(last) => CheckOutcome::Repaired(last),
            None if failures.is_empty() && complete => CheckOutcome::Clean,
            None => CheckOutcome::Partial,
        }
    }

    /// Prepares the node for a later instance: the namespace stays mounted under its name. If another namespace has the
    /// name, the NICs return to the host namespace.
    ///
    /// # Errors
    /// Something can't be removed.
    pub fn shut_down(self) -> Result<(), Vec<String>> {
        match self.kernel.netns_mount(&self.config.namespace) {
            Ok(NetnsMount::Absent) => {
                match self.kernel.router_ns().mount_as(&self.config.namespace.to_string()) {
                    Ok(()) => Ok(()),
                    Err(_) => self.dismantle(),
                }
            }
            Ok(NetnsMount::Replaced) => self.dismantle(),
            Ok(NetnsMount::Present) | Err(_) => Ok(()),
        }
    }

    /// Removes what is left of a namespace that is not mounted any more, so that the NICs can move into the next one.
    ///
    /// # Errors
    /// Something can't be removed.
    pub fn dismantle(mut self) -> Result<(), Vec<String>> {
        self.kernel.dismantle().map_err(single_problem)
    }
}

/// Updates `names` to the names of `now`. Returns whether a NIC of `names` still exists under another name.
fn update_nic_names(names: &mut BTreeMap<u32, String>, found: &[FabricNic], now: &Namespaces) -> bool {
    let side = if now.router.is_some() { Side::Router } else { Side::Host };
    let links = &now.get(side).links;
    let mut renamed = false;
    names.retain(|index, name| {
        let Some(link) = links.by_index(*index) else { return false };
        renamed |= link.name != *name;
        name.clone_from(&link.name);
        true
    });
    names.extend(found.iter().filter(|nic| nic.side == side).map(|nic| (nic.index, nic.name.to_string())));
    renamed
}

/// An error as a list of one problem.
pub fn single_problem(e: impl ToString) -> Vec<String> {
    vec![e.to_string()]
}

/// [`resolve::resolve`]; in a build for the lab, limited to what the kernel there supports.
fn resolve(config: &Config, now: &Namespaces, found: &[FabricNic]) -> Resolved {
    let resolved = resolve::resolve(config, now, found);
    #[cfg(feature = "lab")]
    if std::env::var_os("LAB_PLAIN").is_some() {
        return Resolved { desired: resolved.desired.for_plain_kernel(), ..resolved };
    }
    resolved
}

/// Waits for the fabric NICs, by kernel events rather than by polling. Once one NIC is there, the wait for the others
/// is a quarter of `FE_TIMEOUT`. Returns the observed state and the NICs. `None`: a signal asked for the end.
fn wait_for_fabric(
    config: &Config,
    kernel: &mut Kernel,
    signals: &mut Signals,
    publisher: &Publisher,
) -> Result<Option<(Namespaces, Vec<FabricNic>)>, Vec<String>> {
    let monitor = Monitor::links(kernel).map_err(single_problem)?;
    let timeout = Duration::from_secs(config.fabric_timeout_s.into());
    let begin = Instant::now();
    let mut logged = String::new();
    loop {
        let now = kernel.observe(None).map_err(single_problem)?;
        let search = find_nics(&NicSelector::from_config(config), &now, &[]);
        if !search.rejected.is_empty() {
            return Err(search.rejected.into_iter().map(|(_, sentence)| sentence).collect());
        }
        let interfaces = status::interfaces(&search.found, &search.missing, &now);
        let limit = if search.found.is_empty() { timeout } else { timeout / 4 };
        let left = (begin + limit).saturating_duration_since(Instant::now());
        let is_done = search.is_complete() || (left.is_zero() && !search.found.is_empty());
        publisher.update(|facts| {
            facts.set_phase(if is_done { NodePhase::Starting } else { NodePhase::Waiting });
            facts.interfaces = interfaces;
        });
        if is_done {
            if !search.is_complete() {
                log::error!("{}; continuing without it", describe_missing(&search.missing, &now));
            }
            for nic in &search.found {
                log::info!(
                    interface = nic.name.as_str();
                    "fabric interface {} is {} ({})", nic.selector, nic.name, nic.side
                );
            }
            return Ok(Some((now, search.found)));
        }
        let sentence = describe_missing(&search.missing, &now);
        publisher.heartbeat();
        if left.is_zero() {
            return Err(vec![format!("{sentence}; gave up after {} s (FE_TIMEOUT)", timeout.as_secs())]);
        }
        if sentence != logged {
            log::warn!("{sentence}; waiting for up to {} s", left.as_secs() + 1);
            logged = sentence;
        }
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        fds.extend(monitor.fds());
        match poll(&mut fds, Timespec::try_from(left.min(HEARTBEAT_INTERVAL)).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(single_problem(io::Error::from(e))),
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
    fn a_renamed_nic_is_distinguished_from_another_nic() {
        let nic = |index, name: &str| FabricNic {
            selector: NicSelector::Name(IfName::parse("eth1").unwrap()),
            side: Side::Router,
            index,
            name: IfName::parse(name).unwrap(),
            mtu: 1500,
        };
        let update = |names: &mut BTreeMap<u32, String>, found: &[FabricNic], links: &[(u32, &str)]| {
            let links = links.iter().map(|(index, name)| Link::new(*index, name, LinkKind::Device)).collect();
            let router = Some(NsState { links, ..NsState::default() });
            update_nic_names(names, found, &Namespaces { router, ..Namespaces::default() })
        };
        let is_renamed = |links: &[(u32, &str)]| {
            let mut names = BTreeMap::from([(4, "eth1".into()), (5, "eth2".into())]);
            update(&mut names, &[], links)
        };
        assert!(!is_renamed(&[(4, "eth1"), (5, "eth2"), (6, "eth3")]));
        assert!(is_renamed(&[(4, "eth2"), (5, "eth1")]), "swapped");
        assert!(is_renamed(&[(4, "other"), (5, "eth2"), (6, "eth1")]), "replaced by another NIC");
        assert!(!is_renamed(&[(5, "eth2"), (6, "eth1")]), "removed, and another NIC has its name");
        // A NIC that is selected by its name is no fabric NIC under another name, and returns with its name.
        let mut names = BTreeMap::new();
        assert!(!update(&mut names, &[nic(4, "eth1")], &[(4, "eth1")]));
        assert!(update(&mut names, &[], &[(4, "other")]) && !update(&mut names, &[], &[(4, "other")]));
        assert!(update(&mut names, &[nic(4, "eth1")], &[(4, "eth1")]));
    }
}
