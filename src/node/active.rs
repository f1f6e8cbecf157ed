//! The active configuration. A clone shares its contents, so that two threads can have it.

use std::sync::Arc;

use crate::config::Config;
use crate::frr::{ConfigStore, Version};
use crate::model::RawLines;

/// The settings of the node, and the configuration of FRR that was made from them.
#[derive(Debug, Clone)]
pub struct ActiveConfig {
    /// The settings, without the raw lines that were left out.
    pub config: Arc<Config>,
    /// Raw lines that FRR rejected.
    left_out_raw: Arc<Vec<RawLines>>,
    /// FRR's configuration.
    pub store: ConfigStore,
}

impl ActiveConfig {
    /// No configuration of FRR is active yet.
    pub(super) fn new(config: Config, version: Version) -> Self {
        Self { config: Arc::new(config), left_out_raw: Arc::default(), store: ConfigStore::load(version) }
    }

    /// Whether `config`, without the raw lines that FRR rejected, is the active configuration.
    pub fn is_current(&self, config: &Config) -> bool {
        let mut config = config.clone();
        config.overlay.raw.retain(|raw| !self.left_out_raw.contains(raw));
        config == *self.config
    }

    /// Whether everything of it is active: FRR has rejected no raw lines, and no rendered configuration.
    pub fn is_complete(&self) -> bool {
        self.left_out_raw.is_empty() && !self.store.is_substitute()
    }

    /// Leaves out the raw lines with these indices, which are in ascending order.
    pub(super) fn leave_out_raw(&mut self, indices: &[usize]) {
        let config = Arc::make_mut(&mut self.config);
        let left_out = indices.iter().rev().map(|i| config.overlay.raw.remove(*i));
        Arc::make_mut(&mut self.left_out_raw).extend(left_out);
    }

    /// The state after the activation of `text`, which was rendered from `config`.
    #[must_use]
    pub fn with(&self, config: Arc<Config>, text: &str) -> Self {
        Self { config, left_out_raw: Arc::clone(&self.left_out_raw), store: self.store.with_active(text) }
    }

    /// Makes `other` the active configuration. The last-known-good one stays.
    pub fn adopt(&mut self, other: Self) {
        let Self { config, left_out_raw, store } = other;
        (self.config, self.left_out_raw) = (config, left_out_raw);
        self.store.adopt(store);
    }
}
