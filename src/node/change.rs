//! Another configuration for a node that is set up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;

use super::{ActiveConfig, Node, resolve, single_problem};
use crate::config::Config;
use crate::kernel::{Changes, plan};
use crate::resolve::{
    FabricNic, NicSearch, NicSelector, Resolved, describe_missing, find_nics, rejection_reason,
};

/// The time slice for kernel changes of a new configuration. Between two slices zebra processes the new VNIs.
const BUILD_SLICE: Duration = Duration::from_millis(50);

/// A new configuration, and what it resolves to.
#[derive(Debug)]
pub struct Candidate {
    /// The configuration, and the text of frr.conf.
    pub active: ActiveConfig,
    resolved: Resolved,
}

impl Node {
    /// Resolves and renders another configuration. Changes nothing.
    ///
    /// # Errors
    /// All reasons why the configuration is rejected, one sentence each.
    pub fn prepare(&mut self, config: Arc<Config>) -> Result<Candidate, Vec<String>> {
        let now = self.kernel.observe(Some(&self.desired)).map_err(single_problem)?;
        let NicSearch { mut found, mut missing, mut rejected } =
            find_nics(&NicSelector::from_config(&config), &now, &self.nics);
        // A NIC of the current configuration that has become missing or unusable is a problem of its own. It does not
        // reject the new configuration.
        let current = NicSelector::from_config(&self.active.config);
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
        Ok(Candidate { active: self.active.with(config, &text), resolved })
    }

    /// Keeps the settings that depend on a missing NIC: FRR's ports, and the MTUs, which the fabric NICs determine.
    pub(super) fn keep_port_settings(&self, resolved: &mut Resolved) {
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
        let Candidate { active, resolved } = candidate;
        let is_other_text = active.store.active() != self.active.store.active();
        self.active.adopt(active);
        if is_other_text {
            self.active.store.save();
        }
        super::accepted::save(&self.active.config.objects);
        self.ports = resolved.ports;
        self.desired = resolved.desired;
        for warning in &resolved.warnings {
            log::warn!("{warning}");
        }
        self.kernel.plan_changes(&self.desired, Level::Info).map_err(|e| e.to_string())
    }

    /// The sources have changed, and what they make up has not.
    pub fn set_sources(&mut self, config: Arc<Config>) {
        self.active.config = config;
        super::accepted::save(&self.active.config.objects);
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
}
