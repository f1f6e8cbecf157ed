//! The check of a node that is set up: compares the observed state with the desired state, and repairs drift.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;

use super::{Node, resolve};
use crate::kernel::netns::NetnsMount;
use crate::kernel::{Op, SharedTable, shared_tables};
use crate::limits;
use crate::model::{IfName, Namespaces, Side};
use crate::printable::{first, printable};
use crate::resolve::{FabricNic, NicSearch, NicSelector, find_nics, rejection_reason};
use crate::status;

/// How long a deleted namespace may stay unmounted before it is mounted again. Its processes keep it alive.
pub const UNMOUNTED_GRACE: Duration = Duration::from_millis(500);

/// The problem of a renamed port after a rollback to a configuration whose settings only an earlier instance knew.
const SETTINGS_UNKNOWN: &str = "a fabric port was renamed, but the settings that the active configuration was \
     made from are unknown: its session stays down until the configuration changes or the service is restarted";

/// How many kernel parameters [`Node::has_sysctl_drift`] compares per call: all parameters of a node without many VNIs,
/// at a small part of a core's time.
const SYSCTLS_PER_CALL: usize = 30;

/// Result of [`Node::check`].
#[derive(Debug)]
pub enum CheckOutcome {
    /// The observed state is the desired state.
    Clean,
    /// Drift was repaired. The last change.
    Repaired(Op),
    /// Drift was repaired, and FRR needs another configuration because it has other fabric NICs.
    Reconfigured {
        /// Their names, and the names before.
        ports: String,
    },
    /// Drift was repaired, and zebra has to restart because it knows a port under its old name.
    PortRenamed {
        /// Each as "old to new".
        renamed: Vec<String>,
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
        match self.kernel.netns_mount(&self.active.config.settings.netns) {
            Ok(NetnsMount::Present) => self.unmounted_since = None,
            Ok(NetnsMount::Replaced) => return CheckOutcome::NamespaceLost("was replaced"),
            // Who deletes it may be about to mount another one under its name.
            Ok(NetnsMount::Absent)
                if self.unmounted_since.get_or_insert_with(Instant::now).elapsed() < UNMOUNTED_GRACE =>
            {
                return CheckOutcome::Unmounted;
            }
            Ok(NetnsMount::Absent) => {
                let name = self.active.config.settings.netns.to_string();
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
    pub(super) fn check_shared_tables(&mut self, now: &Namespaces) {
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
            find_nics(&NicSelector::from_config(&self.active.config), &now, &self.nics);
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
            log::debug!("missing fabric NICs: {}", names.join(", "));
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
            let Some(sentence) = rejection_reason(&self.active.config, &now, nic) else { return true };
            failures.insert(sentence);
            // It stays in the host namespace.
            let stays_out = now.router.is_some() && nic.side == Side::Host;
            complete &= !stays_out;
            !stays_out
        });
        let mut resolved = resolve(&self.active.config, &now, &found);
        self.nics_renamed.extend(update_nic_names(&mut self.nic_names, &found, &now));
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
        let has_other_ports = resolved.ports != self.ports;
        let mut reconfigured = None;
        if has_other_ports && self.active.store.replaces_rolled_back() {
            // The settings of the active configuration are unknown, and the known settings were rolled back.
            failures.insert(SETTINGS_UNKNOWN.into());
        } else if has_other_ports {
            let before = Arc::clone(self.active.store.active());
            let ports = format!("{} (before: {})", names(&resolved.ports), names(&self.ports));
            if let Err(problems) = self.activate_config(&resolved) {
                failures.extend(problems);
                return CheckOutcome::Failed;
            }
            // The previous configuration stays active if the new one is rejected.
            reconfigured = (*self.active.store.active() != before).then_some(ports);
        }
        let renamed = std::mem::take(&mut self.nics_renamed);
        if !renamed.is_empty() {
            return CheckOutcome::PortRenamed { renamed, reconfigured: reconfigured.is_some() };
        }
        if let Some(ports) = reconfigured {
            return CheckOutcome::Reconfigured { ports };
        }
        match done.into_iter().next_back() {
            Some(last) => CheckOutcome::Repaired(last),
            None if failures.is_empty() && complete => CheckOutcome::Clean,
            None => CheckOutcome::Partial,
        }
    }
}

/// The names of interfaces, for a log line.
fn names(ports: &[IfName]) -> String {
    if ports.is_empty() { "none".into() } else { first(ports.len(), ports) }
}

/// Updates `names` to the names of `now`. Returns the NICs of `names` that still exist under another name, as "old to
/// new".
fn update_nic_names(names: &mut BTreeMap<u32, String>, found: &[FabricNic], now: &Namespaces) -> Vec<String> {
    let side = if now.router.is_some() { Side::Router } else { Side::Host };
    let links = &now.get(side).links;
    let mut renamed = vec![];
    names.retain(|index, name| {
        let Some(link) = links.by_index(*index) else { return false };
        if link.name != *name {
            renamed.push(format!("{} to {}", printable(name), printable(&link.name)));
        }
        name.clone_from(&link.name);
        true
    });
    names.extend(found.iter().filter(|nic| nic.side == side).map(|nic| (nic.index, nic.name.to_string())));
    renamed
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
            !update_nic_names(names, found, &Namespaces { router, ..Namespaces::default() }).is_empty()
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
