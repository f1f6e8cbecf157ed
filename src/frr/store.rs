//! The active frr.conf and the last-known-good one. Both are kept in memory, so that a lost or changed file affects no
//! daemon. The files are for the operator and for the next instance.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::check;
use super::daemons::{DaemonKind, RUN_DIR, Version};
use super::document::Document;
use crate::files::{self, Access, LARGEST, Owner};

/// The active configuration.
const ACTIVE: &str = "frr.conf";
/// The last-known-good configuration: the last one with which all daemons ran long enough.
const LAST_GOOD: &str = "frr.conf.good";
/// The configuration that the last rollback replaced.
const BAD: &str = "frr.conf.bad";

fn path(name: &str) -> PathBuf {
    Path::new(RUN_DIR).join(name)
}

/// Where the active configuration comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Origin {
    /// It was rendered from the settings of this node.
    #[default]
    Settings,
    /// It is a stored one, because the rendered one was rejected.
    Stored,
    /// It is the last-known-good one, because the rendered one was rolled back.
    RolledBack,
}

/// The active configuration and the last-known-good one. A clone shares the texts.
#[derive(Debug, Clone)]
pub struct ConfigStore {
    version: Version,
    active: Document,
    /// The part of `active` in the file of each daemon that reads one.
    parts: Arc<[(DaemonKind, String)]>,
    last_good: Option<Arc<str>>,
    origin: Origin,
}

impl ConfigStore {
    /// Loads the last-known-good configuration of an earlier instance. No configuration is active.
    pub fn load(version: Version) -> Self {
        Self { last_good: stored(LAST_GOOD).map(Into::into), ..Self::empty(version) }
    }

    fn empty(version: Version) -> Self {
        Self { version, active: "".into(), parts: Arc::new([]), last_good: None, origin: Origin::default() }
    }

    /// The active configuration; empty if there is none.
    pub fn document(&self) -> &Document {
        &self.active
    }

    /// Its text.
    pub fn active(&self) -> &Arc<str> {
        self.active.text()
    }

    /// The parts of the active configuration that daemons read from a file.
    pub fn parts(&self) -> &[(DaemonKind, String)] {
        &self.parts
    }

    /// The part of the active configuration that a daemon reads from its file, without what is added at its start.
    pub fn part(&self, daemon: DaemonKind) -> Option<&str> {
        self.parts.iter().find(|(kind, _)| *kind == daemon).map(|(_, text)| text.as_str())
    }

    /// Checks `text` with FRR's parser and activates it.
    ///
    /// # Errors
    /// The output of vtysh; the previous configuration stays active.
    pub fn check_and_activate(&mut self, text: &str) -> io::Result<()> {
        check(text)?;
        *self = self.with_active(text);
        self.save();
        Ok(())
    }

    /// The state after the activation of `text`, which was rendered from the settings of this node. Nothing is saved.
    #[must_use]
    pub fn with_active(&self, text: &str) -> Self {
        let (active, parts) = if **self.active() == *text {
            (self.active.clone(), Arc::clone(&self.parts))
        } else {
            let active = Document::parse(text);
            let parts = parts(&active, self.version).into();
            (active, parts)
        };
        Self { active, parts, origin: Origin::Settings, last_good: self.last_good.clone(), ..*self }
    }

    /// Makes the active configuration of `other` the active one. The last-known-good one stays.
    pub fn adopt(&mut self, other: Self) {
        *self = Self { last_good: self.last_good.take(), ..other };
    }

    /// Saves the active configuration.
    pub fn save(&self) {
        if self.parts.is_empty() {
            log::warn!(
                "frr.conf has unknown top-level lines: every daemon gets its configuration from vtysh, and no service is \
                 retained over a restart of bgpd; correct FRR_TEMPLATE or rawFRRConfigs"
            );
        }
        files::save(&path(ACTIVE), self.active(), Access::Root);
    }

    /// Whether the active configuration is a stored one, because the one rendered for this node was rejected or rolled
    /// back.
    pub fn is_substitute(&self) -> bool {
        self.origin != Origin::Settings
    }

    /// Records that the active configuration is the one rendered for this node.
    pub fn clear_substitute(&mut self) {
        self.origin = Origin::Settings;
    }

    /// Whether the active configuration replaces one that was rolled back.
    pub fn replaces_rolled_back(&self) -> bool {
        self.origin == Origin::RolledBack
    }

    /// Makes sure that a configuration is active when FRR rejects the rendered one: without an active one it activates
    /// the stored active or last-known-good configuration, the first that FRR accepts. Returns whether one is active.
    pub fn use_stored(&mut self) -> bool {
        if !self.active().is_empty() {
            if self.origin == Origin::Settings {
                self.origin = Origin::Stored;
            }
            return true;
        }
        let last_good = self.last_good.as_deref().map(str::to_owned);
        let stored = stored(ACTIVE).into_iter().chain(last_good);
        let Some(text) = stored.into_iter().find(|text| is_valid(text)) else { return false };
        *self = Self { origin: Origin::Stored, ..self.with_active(&text) };
        self.save();
        true
    }

    /// Whether there is a last-known-good configuration that differs from the active one.
    pub fn can_roll_back(&self) -> bool {
        self.last_good.as_ref().is_some_and(|last_good| last_good != self.active())
    }

    /// Whether the active configuration is the last-known-good one.
    pub fn is_marked_good(&self) -> bool {
        self.last_good.as_ref() == Some(self.active())
    }

    /// Makes the active configuration the last-known-good one. Nothing is saved.
    pub fn mark_good(&mut self) {
        self.last_good = Some(Arc::clone(self.active()));
    }

    /// Makes the active configuration of `other` the last-known-good one, and saves it.
    pub fn save_good(&mut self, other: &Self) {
        files::save(&path(LAST_GOOD), other.active(), Access::Root);
        self.last_good = Some(Arc::clone(other.active()));
    }

    /// Activates the last-known-good configuration, and saves the one that was active as `frr.conf.bad`.
    ///
    /// # Errors
    /// There is no last-known-good configuration, it is the active one, or FRR rejects it; the previous configuration
    /// stays active.
    pub fn roll_back(&mut self) -> io::Result<()> {
        let last_good = self.last_good.clone().ok_or_else(|| io::Error::other("none is stored"))?;
        if self.is_marked_good() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is the active one"));
        }
        check(&last_good)?;
        files::save(&path(BAD), self.active(), Access::Root);
        *self = Self { origin: Origin::RolledBack, ..self.with_active(&last_good) };
        self.save();
        Ok(())
    }
}

/// The part of a configuration in the file of each daemon that reads one. Before FRR 10 only zebra reads a file: bgpd
/// forgets a password for a peer in a VRF until zebra has announced that VRF.
fn parts(document: &Document, version: Version) -> Vec<(DaemonKind, String)> {
    let mut parts = document.parts();
    if version < Version(10, 0) {
        parts.retain(|(name, _)| *name == DaemonKind::Zebra);
    }
    parts
}

/// The configuration that is active, or was when the last instance ended. `None`: there is none.
pub fn stored_configuration() -> Option<String> {
    stored(ACTIVE)
}

/// The text of a file that an earlier instance wrote; `None` if it can't be read or is empty.
fn stored(name: &str) -> Option<String> {
    let path = path(name);
    let text = match files::read(&path, Owner::Root, LARGEST) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => {
            log::warn!("the stored configuration {} cannot be read: {e}", path.display());
            return None;
        }
    };
    (!text.trim().is_empty()).then_some(text)
}

fn is_valid(text: &str) -> bool {
    check(text)
        .inspect_err(|e| {
            log::warn!("a stored configuration (/run/frr/frr.conf or frr.conf.good) is not used: {e}")
        })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_active(text: &str) -> ConfigStore {
        ConfigStore::empty(Version::NEWEST).with_active(text)
    }

    #[test]
    fn an_active_configuration_that_replaces_a_rejected_one_is_a_substitute() {
        let mut store = with_active("hostname a\n");
        assert!(!store.is_substitute());
        // The next configuration is rejected.
        assert!(store.use_stored());
        assert!(store.is_substitute());
        assert!(!store.with_active("hostname a\n").is_substitute());
        store.clear_substitute();
        assert!(!store.is_substitute());
    }

    #[test]
    fn a_rollback_needs_another_last_good_configuration() {
        let mut store = with_active("hostname a\n");
        assert!(!store.can_roll_back());
        assert!(store.roll_back().is_err());
        assert_eq!(&**store.active(), "hostname a\n");
        store.mark_good();
        assert!(!store.can_roll_back() && store.is_marked_good());
        store.adopt(with_active("hostname b\n"));
        assert!(store.can_roll_back());
        assert_eq!(store.part(DaemonKind::Zebra), with_active("hostname b\n").part(DaemonKind::Zebra));
    }
}
