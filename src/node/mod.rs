//! The node: its namespaces and devices in the kernel, and the configuration of FRR. It is set up once; then the
//! reconciler repairs drift and applies changes.

mod accepted;
mod active;
mod change;
mod check;
mod publish;
mod rollback;
mod set_up;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Config;
use crate::frr::{self, Daemon, Inputs, Version, check as frr_check, state};
use crate::kernel::netns::NetnsMount;
use crate::kernel::{Kernel, ReconcileOutcome, SharedTable};
use crate::model::{Desired, IfName, Namespaces};
use crate::resolve::{self, FabricNic, Resolved};
use crate::status::{self, Publisher, RepairCounts};
use crate::time::Time;

pub use accepted::load_accepted;
pub use active::ActiveConfig;
pub use change::Candidate;
pub use check::{CheckOutcome, UNMOUNTED_GRACE};
pub use publish::describe;
pub use rollback::RollbackHistory;
pub use set_up::SetUp;

/// The node's kernel objects, and FRR's configuration.
#[derive(Debug)]
pub struct Node {
    /// The active configuration.
    pub active: ActiveConfig,
    /// The version of FRR.
    pub version: Version,
    /// Both namespaces.
    pub kernel: Kernel,
    desired: Desired,
    ports: Vec<IfName>,
    /// The fabric NICs of the last check.
    nics: Vec<FabricNic>,
    /// By index, the names of the fabric NICs that have been in FRR's namespace and still exist. zebra knows these
    /// names.
    nic_names: BTreeMap<u32, String>,
    /// NICs of `nic_names` that were renamed, which [`Self::check`] has not reported yet.
    nics_renamed: Vec<String>,
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

impl Node {
    /// The text of frr.conf for `config`.
    fn render(&self, config: &Config, resolved: &Resolved) -> Result<String, String> {
        render(config, resolved, self.version)
    }

    /// Renders frr.conf and activates it if FRR accepts it. Leaves out raw lines that FRR rejects.
    fn activate_config(&mut self, resolved: &Resolved) -> Result<(), Vec<String>> {
        loop {
            let e = match self.render(&self.active.config, resolved) {
                Ok(text) => match self.active.store.check_and_activate(&text) {
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
                        if !self.active.store.active().is_empty()
                            && frr_check::check_failure(&e).is_none() =>
                    {
                        return Err(single_problem(e));
                    }
                    Err(e) => e.to_string(),
                },
                Err(e) => e,
            };
            if !self.active.store.use_stored() {
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
        let Some(failure) = frr_check::check_failure(e) else { return false };
        let raw = &self.active.config.overlay.raw;
        let check_with = |entries: &[usize]| {
            let mut config = Config::clone(&self.active.config);
            config.overlay.raw = entries.iter().map(|i| raw[*i].clone()).collect();
            let text = self.render(&config, resolved).ok()?;
            frr_check::check_failure(&frr_check::check(&text).err()?).cloned()
        };
        let bad = frr::blame(raw, text, failure, check_with);
        for (i, failure) in &bad {
            let problem = format!("{}: {failure}: this rawFRRConfig is left out", raw[*i].source);
            log::error!("{problem}");
            self.publisher.update(|facts| facts.configuration.left_out.push(problem));
        }
        let bad: Vec<usize> = bad.into_iter().map(|(i, _)| i).collect();
        self.active.leave_out_raw(&bad);
        !bad.is_empty()
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
            Err(e) => log::warn!(
                "cannot send ARP and ND probes in the L2VNIs: {e}; the EVPN routes of workloads that send nothing may be withdrawn"
            ),
        }
    }

    /// The links that lead to the fabric, by their names in FRR's namespace.
    pub fn fabric_ports(&self) -> Vec<IfName> {
        let named = self.active.config.overlay.underlay.interfaces.iter().map(|interface| interface.name());
        self.ports.iter().chain(named).cloned().collect()
    }

    /// Prepares the node for a later instance: the namespace stays mounted under its name. If another namespace has the
    /// name, the NICs return to the host namespace.
    ///
    /// # Errors
    /// Something can't be removed.
    pub fn shut_down(self) -> Result<(), Vec<String>> {
        let netns = &self.active.config.settings.netns;
        match self.kernel.netns_mount(netns) {
            Ok(NetnsMount::Absent) => match self.kernel.router_ns().mount_as(&netns.to_string()) {
                Ok(()) => Ok(()),
                Err(_) => self.dismantle(),
            },
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

/// The daemons that a configuration needs.
pub fn daemons(config: &Config, version: Version) -> Vec<&'static Daemon> {
    version.daemons(config.timers.bfd.is_some(), config.overlay.underlay.is_vtep())
}

/// An error as a list of one problem.
pub fn single_problem(e: impl ToString) -> Vec<String> {
    vec![e.to_string()]
}

/// The text of frr.conf for `config` on a node with this state.
///
/// # Errors
/// The template can't be read, or its error.
pub fn render(config: &Config, resolved: &Resolved, version: Version) -> Result<String, String> {
    let inputs = Inputs {
        config,
        ports: &resolved.ports,
        node_ip_is_local: resolved.node_ip_is_local,
        port_addresses: &resolved.port_addresses,
        version,
    };
    state::template(config).and_then(|template| frr::render(&inputs, template.as_deref()))
}

/// [`resolve::resolve`]; in a build for the lab, limited to what the kernel there supports.
pub fn resolve(config: &Config, now: &Namespaces, found: &[FabricNic]) -> Resolved {
    let resolved = resolve::resolve(config, now, found);
    #[cfg(feature = "lab")]
    if std::env::var_os("LAB_PLAIN").is_some() {
        return Resolved { desired: resolved.desired.for_plain_kernel(), ..resolved };
    }
    resolved
}
