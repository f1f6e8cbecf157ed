//! What is remembered for a rollback to the last-known-good configuration, when a daemon keeps crashing with the active
//! one. Pure.

use std::sync::Arc;

use super::ActiveConfig;
use crate::config::Config;
use crate::frr::DaemonKind;
use crate::status::Publisher;

/// Configurations that the program remembers as long as it runs, even if the namespace is lost.
#[derive(Debug, Default)]
pub struct RollbackHistory {
    /// The last-known-good configuration, and the text rendered from it.
    last_good: Option<(Arc<Config>, Arc<str>)>,
    /// The configuration that was rolled back.
    rejected: Option<RejectedConfig>,
}

/// A configuration that was rolled back.
#[derive(Debug)]
struct RejectedConfig {
    /// The source of its text, if known.
    config: Option<Arc<Config>>,
    text: Arc<str>,
    /// The daemon that kept crashing.
    daemon: DaemonKind,
}

impl RollbackHistory {
    /// The node is set up. A stored configuration, for example of an earlier instance, is proven. A configuration that
    /// was rolled back and is active nevertheless is tried again.
    pub fn node_set_up(&mut self, active: &ActiveConfig, publisher: &Publisher) {
        if active.store.is_marked_good() {
            self.mark_good(active);
        }
        if self.rejected.take_if(|rejected| rejected.text == *active.store.active()).is_some() {
            publisher.update(|facts| facts.configuration.set_rolled_back(None));
        }
    }

    /// The active configuration is proven.
    pub fn mark_good(&mut self, active: &ActiveConfig) {
        // The source of a substitute is not known.
        if !active.store.is_substitute() {
            self.last_good = Some((Arc::clone(&active.config), Arc::clone(active.store.active())));
        }
    }

    /// Another configuration with the same text is active: if the text is proven, the configuration is, too.
    pub fn same_text_activated(&mut self, active: &ActiveConfig) {
        if self.good_config(active.store.active()).is_some() {
            self.mark_good(active);
        }
    }

    /// A configuration other than the rejected one was activated.
    pub fn other_activated(&mut self) {
        self.rejected = None;
    }

    /// The active configuration is about to be rolled back, because this daemon keeps crashing with it.
    pub fn rolled_back(&mut self, active: &ActiveConfig, daemon: DaemonKind) {
        let config = (!active.store.is_substitute()).then(|| Arc::clone(&active.config));
        self.rejected = Some(RejectedConfig { config, text: Arc::clone(active.store.active()), daemon });
    }

    /// Why this configuration may not be activated; `None` if it may.
    pub fn rejection_reason(&self, config: &Config, text: &str) -> Option<String> {
        // A configuration yields another text if ports have other names. A template may have changed.
        let is_same =
            |rejected: &Arc<Config>| **rejected == *config && config.settings.frr_template.is_none();
        let rejected = self
            .rejected
            .as_ref()
            .filter(|rejected| *rejected.text == *text || rejected.config.as_ref().is_some_and(is_same))?;
        let daemon = rejected.daemon;
        Some(format!(
            "this configuration was rolled back, because {daemon} kept crashing with it: change it (see \
             /run/frr/frr.conf.bad), or restart the service to try it again"
        ))
    }

    /// Whether the node runs with the last-known-good configuration instead of the one in the file.
    pub fn is_rolled_back(&self, active: &ActiveConfig) -> bool {
        self.rejected.is_some() && !active.store.is_substitute()
    }

    /// The proven configuration from which this text was rendered.
    pub fn good_config(&self, text: &str) -> Option<&Arc<Config>> {
        self.last_good.as_ref().filter(|(_, good)| **good == *text).map(|(config, _)| config)
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
        let [config, other] = ["1", "2"].map(|asn| Arc::new(config(asn)));
        let (a, b) = ("hostname a\n", "hostname b\n");
        assert_eq!(history.rejection_reason(&config, a), None);
        history.rejected = Some(RejectedConfig {
            config: Some(Arc::clone(&config)),
            text: a.into(),
            daemon: DaemonKind::Bgpd,
        });
        for (config, text) in [(&config, a), (&other, a), (&config, b)] {
            let reason = history.rejection_reason(config, text);
            assert!(reason.is_some_and(|reason| reason.contains("bgpd kept crashing")));
        }
        assert_eq!(history.rejection_reason(&other, b), None);
        history.other_activated();
        assert_eq!(history.rejection_reason(&config, a), None);
    }
}
