//! What is published of the active configuration.

use std::sync::Arc;

use super::Node;
use crate::config::Config;
use crate::frr::Version;
use crate::status::{ConfiguredPeers, NodeFacts};
use crate::time::Time;

/// Publishes the parts of the configuration that contain no passwords.
pub fn describe(facts: &mut NodeFacts, config: &Config, version: Version) {
    facts.frr = version.to_string();
    facts.node_ip = config.settings.node_ip.to_string();
    facts.asn = config.settings.asn_local.get();
    if let Some(metallb) = &config.metallb {
        let addresses = metallb.pairs().map(|pair| pair.frr.to_string());
        facts.metallb = (metallb.vrf.to_string(), addresses.collect());
        facts.speaker = metallb.v6.metallb.to_string();
        facts.metallb_v4 = metallb.v4.is_some();
        facts.retention_s = metallb.retention_s;
    }
    facts.is_vtep = config.overlay.underlay.is_vtep();
    facts.bfd = config.timers.bfd.is_some();
    facts.liveness_s = config.settings.liveness_timeout.get();
    facts.namespace.name = config.settings.netns.to_string();
    facts.configuration.objects = Arc::clone(&config.objects.verdicts);
    facts.configuration.sources = std::iter::once("environment".into())
        .chain(config.settings.config_file.as_ref().map(|file| file.as_str().to_owned()))
        .collect();
}

/// The FNV-1a hash (64 bit) of a text: it identifies the text and does not help to guess its content.
fn fingerprint(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

impl Node {
    /// Publishes which configuration is active.
    pub fn publish_configuration(&self) {
        let text = self.active.store.active();
        let hash = fingerprint(text);
        let peers = ConfiguredPeers::new(&self.active.config, self.active.store.document());
        self.publisher.update(|facts| {
            facts.set_peers(peers);
            describe(facts, &self.active.config, self.version);
            if facts.configuration.hash != hash {
                (facts.configuration.hash, facts.configuration.since) = (hash, Time::now());
            }
        });
    }
}
