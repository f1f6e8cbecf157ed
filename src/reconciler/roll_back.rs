//! The rollback to the last-known-good configuration.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{NodeView, Outcome, Worker};
use crate::config::Config;
use crate::frr::DaemonKind;
use crate::node::{ActiveConfig, daemons};

/// Why the devices do not follow a rollback, as the end of a sentence.
const KEPT: &str = "the devices stay those of the rejected configuration";

/// A rollback of FRR's configuration that was made.
#[derive(Debug)]
pub struct RollBack {
    /// The configuration that is active now.
    pub active: ActiveConfig,
    /// What becomes of the devices.
    pub devices: Devices,
}

/// What becomes of the devices in a rollback.
#[derive(Debug)]
pub enum Devices {
    /// They stay, which was logged.
    Kept,
    /// They are being changed; [`Outcome::Built`] follows.
    Built,
    /// This configuration needs other daemons, or another start order.
    OtherDaemons(Arc<Config>),
}

impl Worker {
    pub(super) fn roll_back(&mut self, daemon: DaemonKind) {
        self.shared.is_build_abandoned.store(false, Ordering::Release);
        let before = self.node.active.clone();
        if let Err(e) = self.node.active.store.roll_back() {
            self.report(Outcome::RolledBack(Box::new(Err(e))));
            return;
        }
        self.history.rolled_back(&before, daemon);
        self.node.publish_configuration();
        let done = |active: &ActiveConfig, devices| {
            Outcome::RolledBack(Box::new(Ok(RollBack { active: active.clone(), devices })))
        };
        let Some(config) = self.history.good_config(self.node.active.store.active()).cloned() else {
            log::warn!("the source of the last-known-good configuration is unknown after a restart: {KEPT}");
            return self.report(done(&self.node.active, Devices::Kept));
        };
        let version = self.node.version;
        if daemons(&config, version) != daemons(&before.config, version) {
            return self.report(done(&self.node.active, Devices::OtherDaemons(config)));
        }
        let mut candidate = match self.node.prepare(config) {
            Ok(candidate) => candidate,
            Err(problems) => {
                log::error!("{}: {KEPT}", problems.join("; "));
                return self.report(done(&self.node.active, Devices::Kept));
            }
        };
        // The text differs if the template has changed, or a port has another name.
        if candidate.active.store.active() != self.node.active.store.active() {
            candidate.active.store = self.node.active.store.clone();
        }
        self.report(done(&candidate.active, Devices::Built));
        let result = self.build(candidate);
        self.report(Outcome::Built(result, NodeView::new(&self.node)));
    }
}
