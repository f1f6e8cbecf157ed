//! Rollback to the last-known-good configuration when a daemon keeps crashing with the active one.

use std::io;

use super::policy::Event;
use super::{End, Supervisor};
use crate::config::Config;
use crate::frr::DaemonKind;
use crate::node::Node;
use crate::status::Publisher;

/// Configurations that the program remembers as long as it runs, even if the namespace is lost.
#[derive(Debug, Default)]
pub struct RollbackHistory {
    /// The last-known-good configuration, and the text rendered from it.
    last_good: Option<(Config, String)>,
    /// The configuration that was rolled back.
    rejected: Option<RejectedConfig>,
}

/// A configuration that was rolled back.
#[derive(Debug)]
struct RejectedConfig {
    /// The source of its text, if known.
    config: Option<Config>,
    text: String,
    /// The daemon that kept crashing.
    daemon: DaemonKind,
}

impl RollbackHistory {
    /// The node is set up. A stored configuration, for example of an earlier instance, is proven. A configuration that
    /// was rolled back and is active nevertheless is tried again.
    pub(super) fn node_set_up(&mut self, node: &Node, publisher: &Publisher) {
        if node.config_store.is_marked_good() {
            self.mark_good(node);
        }
        if self.rejected.take_if(|rejected| rejected.text == node.config_store.active()).is_some() {
            publisher.update(|facts| facts.configuration.set_rolled_back(None));
        }
    }

    /// The active configuration is proven.
    pub(super) fn mark_good(&mut self, node: &Node) {
        // The source of a substitute is not known.
        if !node.config_store.is_substitute() {
            self.last_good = Some((node.config.clone(), node.config_store.active().to_owned()));
        }
    }

    /// Another configuration with the same text is active: if the text is proven, the configuration is, too.
    pub(super) fn same_text_activated(&mut self, node: &Node) {
        if self.good_config(node.config_store.active()).is_some() {
            self.mark_good(node);
        }
    }

    /// A configuration other than the rejected one was activated.
    pub(super) fn other_activated(&mut self) {
        self.rejected = None;
    }

    /// Why this configuration may not be activated; `None` if it may.
    pub(super) fn rejection_reason(&self, config: &Config, text: &str) -> Option<String> {
        // A configuration yields another text if ports have other names. A template may have changed.
        let is_same = |rejected: &Config| rejected == config && config.settings.frr_template.is_none();
        let rejected = self
            .rejected
            .as_ref()
            .filter(|rejected| rejected.text == text || rejected.config.as_ref().is_some_and(is_same))?;
        let daemon = rejected.daemon;
        Some(format!(
            "this configuration was rolled back, because {daemon} kept crashing with it: change it (see \
             /run/frr/frr.conf.bad), or restart the service to try it again"
        ))
    }

    /// Whether the node runs with the last-known-good configuration instead of the one in the file.
    pub fn is_rolled_back(&self, node: &Node) -> bool {
        self.rejected.is_some() && !node.config_store.is_substitute()
    }

    /// The proven configuration from which this text was rendered.
    fn good_config(&self, text: &str) -> Option<&Config> {
        self.last_good.as_ref().filter(|(_, good)| good == text).map(|(config, _)| config)
    }
}

/// Daemons that keep the configuration from mgmtd when mgmtd restarts. The next mgmtd does not learn it from them.
const MGMTD_BACKENDS: [DaemonKind; 2] = [DaemonKind::Zebra, DaemonKind::Staticd];

impl Supervisor<'_> {
    /// Restarts every daemon that has the running configuration of `daemon`.
    pub(super) fn restart_with_backends(&mut self, daemon: DaemonKind) {
        let backends = MGMTD_BACKENDS.into_iter().filter(|_| daemon == DaemonKind::Mgmtd);
        for name in [daemon].into_iter().chain(backends) {
            self.events.extend(self.running(name).map(Event::Restart));
        }
    }

    /// Rolls back to the last-known-good configuration and restarts every daemon with it. Daemon `i` keeps crashing
    /// with the active one.
    pub(super) fn roll_back(&mut self, i: usize) {
        let name = self.processes[i].daemon.kind;
        if self.ending.end.is_some() {
            return;
        }
        // A running change may cause the crashes, and is then rolled back itself. A cleanup must finish first.
        if self.config.change.commands.is_some() || self.config.change.cleanup.is_some() {
            self.events.push_back(Event::Changed { can_roll_back: true });
            return;
        }
        let text = self.node.config_store.active().to_owned();
        let config = (!self.node.config_store.is_substitute()).then(|| self.node.config.clone());
        if let Err(e) = self.node.config_store.roll_back() {
            log::error!(
                daemon = name;
                "{name} keeps crashing, and the last-known-good configuration cannot be used: {e}"
            );
            // For any other error, the configuration itself may be valid.
            if e.kind() != io::ErrorKind::InvalidData {
                self.events.push_back(Event::Changed { can_roll_back: true });
            }
            return;
        }
        log::error!(
            daemon = name;
            "{name} keeps crashing with this configuration: rolled back to the last-known-good configuration (the \
             rejected one is /run/frr/frr.conf.bad); restarting all daemons"
        );
        self.config.history.rejected = Some(RejectedConfig { config, text, daemon: name });
        self.publisher.update(|facts| facts.configuration.set_rolled_back(Some(name.name())));
        // A vtysh that loads the rejected configuration would continue with the new processes.
        self.end_load();
        self.config.drift.queued.clear();
        self.read_parts();
        self.roll_back_devices();
        self.events.push_back(Event::Reconfigured { can_roll_back: self.node.config_store.can_roll_back() });
    }

    /// Changes the node's devices to those of the last-known-good configuration.
    fn roll_back_devices(&mut self) {
        const KEPT: &str = "the devices stay those of the rejected configuration";
        let Some(config) = self.config.history.good_config(&self.config.text).cloned() else {
            log::warn!("the source of the last-known-good configuration is unknown after a restart: {KEPT}");
            return;
        };
        if self.node.daemons(&config) != self.daemons() {
            self.ending.end = Some(End::Reconfigured(Box::new(config)));
            self.events.push_back(Event::Stop);
            return;
        }
        match self.node.prepare(config) {
            Ok(candidate) => {
                // The text differs if the template has changed, or a port has another name.
                if candidate.text == self.config.text {
                    self.node.config_store.clear_substitute();
                }
                self.change_kernel(candidate, None, vec![]);
            }
            Err(problems) => log::error!("{}: {KEPT}", problems.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_vars;

    fn config(asn: &str) -> Config {
        let vars = [("NODE_IP", "10.0.0.1"), ("ASN_LOCAL", asn), ("FE_MACS", "02:00:00:00:00:01")];
        from_vars(vars.map(|(name, value)| (name.into(), value.into()))).unwrap()
    }

    #[test]
    fn a_rejected_configuration_stays_rejected_until_another_is_active() {
        let mut history = RollbackHistory::default();
        let [config, other] = ["1", "2"].map(config);
        let (a, b) = ("hostname a\n", "hostname b\n");
        assert_eq!(history.rejection_reason(&config, a), None);
        history.rejected =
            Some(RejectedConfig { config: Some(config.clone()), text: a.into(), daemon: DaemonKind::Bgpd });
        for (config, text) in [(&config, a), (&other, a), (&config, b)] {
            let reason = history.rejection_reason(config, text);
            assert!(reason.is_some_and(|reason| reason.contains("bgpd kept crashing")));
        }
        assert_eq!(history.rejection_reason(&other, b), None);
        history.other_activated();
        assert_eq!(history.rejection_reason(&config, a), None);
    }
}
