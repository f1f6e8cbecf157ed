//! Sets a node up: opens the namespaces, waits for the fabric NICs, and builds the devices. An attempt that fails is
//! repeated: a missing kernel module, for example, may be loaded meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use rustix::event::PollFd;

use super::{ActiveConfig, Node, resolve, single_problem};
use crate::config::Config;
use crate::frr::{Version, kill_leftovers};
use crate::kernel::netns::NetnsOrigin;
use crate::kernel::{Kernel, Monitor, Netns};
use crate::model::{Desired, Namespaces, Side, Sysctl};
use crate::resolve::{FabricNic, NicSelector, describe_missing, find_nics, rejection_reason};
use crate::status::{self, NodePhase, Publisher};

/// Delay between two attempts.
const RETRY: Duration = Duration::from_secs(5);

/// Longest wait without a heartbeat.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);

/// The set-up of a node, as far as it has come.
#[derive(Debug)]
pub struct SetUp<'a> {
    /// The configuration from the environment alone.
    base: &'a Config,
    config: Config,
    version: Version,
    publisher: Arc<Publisher>,
    phase: Phase,
    /// When to give up.
    until: Instant,
    /// The problems that were logged last.
    logged: Vec<String>,
}

#[derive(Debug)]
enum Phase {
    /// An attempt begins at this time.
    Begin(Instant),
    WaitForNics(Box<NicWait>),
}

/// The wait for the fabric NICs, by kernel events rather than by polling. Once one NIC is there, the wait for the others
/// is a quarter of `FE_TIMEOUT`.
#[derive(Debug)]
struct NicWait {
    kernel: Kernel,
    origin: Option<NetnsOrigin>,
    monitor: Monitor,
    begin: Instant,
    /// When to look at the NICs again without an event.
    next_at: Instant,
    logged: String,
}

impl<'a> SetUp<'a> {
    /// The first attempt begins at the first step.
    pub fn new(base: &'a Config, config: Config, version: Version, publisher: &Arc<Publisher>) -> Self {
        let now = Instant::now();
        let until = now + Duration::from_secs(config.settings.setup_timeout.get().into());
        let publisher = Arc::clone(publisher);
        Self { base, config, version, publisher, phase: Phase::Begin(now), until, logged: vec![] }
    }

    /// The descriptors that become readable when there is something to do.
    pub fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let monitor = match &self.phase {
            Phase::WaitForNics(wait) => Some(&wait.monitor),
            Phase::Begin(_) => None,
        };
        monitor.into_iter().flat_map(Monitor::fds)
    }

    /// When there is something to do if nothing happens.
    pub fn deadline(&self) -> Instant {
        let at = match &self.phase {
            Phase::WaitForNics(wait) => wait.next_at,
            Phase::Begin(at) => *at,
        };
        at.min(Instant::now() + HEARTBEAT_INTERVAL)
    }

    /// Does what can be done now. Returns the node when it is set up, without the daemons, and the kernel events since
    /// its devices were read.
    ///
    /// # Errors
    /// All problems, one line each, when `SETUP_TIMEOUT` has expired.
    pub fn step(&mut self) -> Result<Option<(Node, Monitor)>, Vec<String>> {
        self.publisher.heartbeat();
        match self.advance() {
            Ok(node) => Ok(node),
            Err(problems) => self.failed(problems).map(|()| None),
        }
    }

    /// Whether it waits for a NIC or for the next attempt: a stop need not wait for that.
    pub fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::WaitForNics(_)) || !self.logged.is_empty()
    }

    fn advance(&mut self) -> Result<Option<(Node, Monitor)>, Vec<String>> {
        let now = Instant::now();
        let mut wait = match std::mem::replace(&mut self.phase, Phase::Begin(now)) {
            Phase::WaitForNics(wait) => wait,
            Phase::Begin(at) if now < at => {
                self.phase = Phase::Begin(at);
                return Ok(None);
            }
            Phase::Begin(_) => {
                if !self.logged.is_empty()
                    && let Some(config) = self.base.with_valid_file(&self.config.objects)
                {
                    // The file was corrected.
                    self.config = config;
                }
                Box::new(self.open()?)
            }
        };
        wait.monitor.drain();
        match wait.find_nics(&self.config, &self.publisher)? {
            Some((observed, found)) => self.build(wait.kernel, wait.origin, &observed, found).map(Some),
            None => {
                self.phase = Phase::WaitForNics(wait);
                Ok(None)
            }
        }
    }

    /// Schedules the next attempt.
    fn failed(&mut self, problems: Vec<String>) -> Result<(), Vec<String>> {
        self.publisher.update(|facts| {
            facts.set_phase(NodePhase::Failed);
            facts.setup_errors.clone_from(&problems);
        });
        let retry_at = Instant::now() + RETRY;
        if retry_at > self.until {
            return Err(problems);
        }
        if problems != self.logged {
            problems.iter().for_each(|problem| log::error!("{problem}"));
            log::warn!(
                "the node is not set up; retrying every {} s until {} s after the start (SETUP_TIMEOUT), then exiting",
                RETRY.as_secs(),
                self.config.settings.setup_timeout
            );
            self.logged = problems;
        }
        self.phase = Phase::Begin(retry_at);
        Ok(())
    }

    /// Opens the namespaces, and starts the wait for the NICs.
    fn open(&self) -> Result<NicWait, Vec<String>> {
        let config = &self.config;
        let (mut kernel, mut origin) = Kernel::open(&config.settings.netns).map_err(single_problem)?;
        let name = config.settings.netns.to_string();
        if let (Some(NetnsOrigin::Found), Some(token)) = (origin, token(config))
            && kernel.token().map_err(single_problem)?.as_deref() != Some(token)
        {
            log::warn!("REBUILD_TOKEN={token} is new: deleting and rebuilding namespace {name}");
            kill_leftovers().map_err(single_problem)?;
            kernel.dismantle().map_err(single_problem)?;
            Netns::unmount(&name).map_err(single_problem)?;
            (kernel, origin) = Kernel::open(&config.settings.netns).map_err(single_problem)?;
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
        let selectors = NicSelector::from_config(config);
        kernel
            .return_nics(&config.settings.netns, |link| {
                selectors.iter().any(|selector| selector.is_match(link))
            })
            .map_err(single_problem)?;
        let monitor = Monitor::links(&kernel).map_err(single_problem)?;
        let now = Instant::now();
        Ok(NicWait { kernel, origin, monitor, begin: now, next_at: now, logged: String::new() })
    }

    /// Builds the devices, and activates FRR's configuration.
    fn build(
        &self,
        kernel: Kernel,
        origin: Option<NetnsOrigin>,
        now: &Namespaces,
        found: Vec<FabricNic>,
    ) -> Result<(Node, Monitor), Vec<String>> {
        let config = self.config.clone();
        let rejections: Vec<String> =
            found.iter().filter_map(|nic| rejection_reason(&config, now, nic)).collect();
        if !rejections.is_empty() {
            return Err(rejections);
        }
        let mut resolved = resolve(&config, now, &found);
        // A missing NIC may be present but not recognized.
        resolved.desired.keep_unlisted |= found.len() < NicSelector::from_config(&config).len();
        for warning in &resolved.warnings {
            log::warn!("{warning}");
        }
        // The kernel uses the maximum of this value and the link's own.
        let all = Sysctl { side: Side::Host, path: "net/ipv4/conf/all/rp_filter".into(), value: "0" };
        if config.settings.netns.as_deref().is_none() && kernel.has_sysctl_drift(&[all]).unwrap_or(false) {
            log::warn!(
                "net.ipv4.conf.all.rp_filter is not 0: the kernel drops IPv4 packets whose reply leaves by another fabric NIC \
                 without an IPv4 address; set it to 0 (machine.sysctls)"
            );
        }
        // The monitor reports every change from here on.
        let monitor = Monitor::everything(&kernel).map_err(single_problem)?;
        let mut node = Node {
            active: ActiveConfig::new(config, self.version),
            version: self.version,
            kernel,
            desired: Desired::default(),
            ports: vec![],
            nics: found,
            nic_names: BTreeMap::new(),
            nics_renamed: vec![],
            rejection_reasons: vec![],
            shared_tables: vec![],
            unmounted_since: None,
            sysctls_compared: 0,
            logged_failures: BTreeSet::new(),
            repair_counts: status::repair_counts(&self.publisher.read().devices),
            publisher: Arc::clone(&self.publisher),
        };
        node.check_shared_tables(now);
        node.activate_config(&resolved)?;
        let begin = Instant::now();
        let outcome = node.kernel.reconcile(&resolved.desired, Level::Info).map_err(single_problem)?;
        if outcome.done.is_empty() {
            log::info!("devices: nothing to change");
        }
        node.publish_plan(outcome.done.len(), begin);
        // A namespace that was found has this token already.
        if let (Some(NetnsOrigin::Created | NetnsOrigin::Repaired), Some(token)) =
            (origin, token(&self.config))
        {
            node.kernel.set_token(token).map_err(single_problem)?;
        }
        node.desired = resolved.desired;
        node.report_outcome(outcome);
        if node.active.config.settings.netns.as_deref().is_some()
            && let Err(e) = node.kernel.clear_host()
        {
            log::warn!(
                "rules of priority 8799 and routes of protocol 201 of an earlier instance may remain in the host namespace: {e}"
            );
        }
        let inode = node.kernel.router_ns().inode().unwrap_or(0);
        self.publisher.update(|facts| facts.namespace.inode = inode);
        kill_leftovers().map_err(single_problem)?;
        super::accepted::save(&node.active.config.objects);
        Ok((node, monitor))
    }
}

impl NicWait {
    /// Returns the observed state and the NICs when the wait is over.
    fn find_nics(
        &mut self,
        config: &Config,
        publisher: &Publisher,
    ) -> Result<Option<(Namespaces, Vec<FabricNic>)>, Vec<String>> {
        let now = self.kernel.observe(None).map_err(single_problem)?;
        let search = find_nics(&NicSelector::from_config(config), &now, &[]);
        if !search.rejected.is_empty() {
            return Err(search.rejected.into_iter().map(|(_, sentence)| sentence).collect());
        }
        let interfaces = status::interfaces(&search.found, &search.missing, &now);
        let timeout = Duration::from_secs(config.settings.fe_timeout.get().into());
        let limit = if search.found.is_empty() { timeout } else { timeout / 4 };
        self.next_at = self.begin + limit;
        let left = self.next_at.saturating_duration_since(Instant::now());
        let is_done = search.is_complete() || (left.is_zero() && !search.found.is_empty());
        publisher.update(|facts| {
            facts.set_phase(if is_done { NodePhase::Starting } else { NodePhase::Waiting });
            facts.interfaces = interfaces;
        });
        if is_done {
            if !search.is_complete() {
                log::error!(
                    "{}; starting without the missing NICs; each is added when it appears",
                    describe_missing(&search.missing, &now)
                );
            }
            for nic in &search.found {
                log::info!(
                    interface = nic.name.as_str();
                    "fabric NIC {} is {} ({})", nic.selector, nic.name, nic.side
                );
            }
            return Ok(Some((now, search.found)));
        }
        let sentence = describe_missing(&search.missing, &now);
        if left.is_zero() {
            return Err(vec![format!("{sentence}; gave up after {} s (FE_TIMEOUT)", timeout.as_secs())]);
        }
        if sentence != self.logged {
            log::warn!("{sentence}; waiting for up to {} s", left.as_secs() + 1);
            self.logged = sentence;
        }
        Ok(None)
    }
}

fn token(config: &Config) -> Option<&str> {
    config.settings.rebuild_token.as_ref().map(|token| token.as_str())
}
