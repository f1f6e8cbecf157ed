//! The texts of frr.conf: the one in force, and the last one that held. They are in memory, so that what becomes of files
//! becomes of no daemon; the files are for the operator, and for the instance that comes after us.

use std::io;
use std::path::{Path, PathBuf};

use super::daemons::{RUN_DIR, Version};
use super::files::check;
use super::split::{split, with_log};
use crate::files::{self, Access, LARGEST, Owner};

/// The configuration in force.
const ACTIVE: &str = "frr.conf";
/// The last one under which all daemons lived for a while.
const KEPT: &str = "frr.conf.good";
/// One that was taken back.
const BAD: &str = "frr.conf.bad";

fn path(name: &str) -> PathBuf {
    Path::new(RUN_DIR).join(name)
}

/// The texts.
#[derive(Debug, Default)]
pub struct Texts {
    active: String,
    kept: Option<String>,
    /// The one in force is not what the node's configuration leads to.
    of_another: bool,
    /// What that leads to was taken back.
    taken_back: bool,
}

impl Texts {
    /// Nothing is in force; what an earlier instance kept is kept.
    pub fn recall() -> Self {
        Self { kept: stored(KEPT), ..Self::default() }
    }

    /// The text in force.
    pub fn active(&self) -> &str {
        &self.active
    }

    /// Checks `text` with FRR's own parser, then puts it in force.
    ///
    /// # Errors
    /// What vtysh says about it; the one in force stays.
    pub fn install(&mut self, text: &str) -> io::Result<()> {
        check(text)?;
        self.accept(text.to_owned());
        Ok(())
    }

    /// Puts a text that was checked in force.
    pub fn accept(&mut self, text: String) {
        files::save(&path(ACTIVE), &text, Access::Root);
        self.active = text;
        self.have_theirs();
    }

    /// Whether the text in force is an older one that has taken the place of what the node's configuration leads to.
    pub fn are_of_another(&self) -> bool {
        self.of_another
    }

    /// The node has the configuration that leads to the text in force.
    pub fn have_theirs(&mut self) {
        (self.of_another, self.taken_back) = (false, false);
    }

    /// Whether that was taken back.
    pub fn were_taken_back(&self) -> bool {
        self.taken_back
    }

    /// Where the one that was rendered is refused: the last one that was accepted or kept, whichever FRR takes. Whether there is
    /// one.
    pub fn fall_back_to_stored(&mut self) -> bool {
        if !self.active.is_empty() {
            self.of_another = true;
            return true;
        }
        let stored = stored(ACTIVE).into_iter().chain(self.kept.clone());
        let Some(text) = stored.into_iter().find(|text| is_usable(text)) else { return false };
        self.accept(text);
        self.of_another = true;
        true
    }

    /// The text in force, and the parts of it that daemons read by themselves: before FRR 10 only zebra's, since that bgpd forgets
    /// a password of a VRF that zebra has not told it about yet.
    pub fn parts(&self, version: Version) -> (String, Vec<(&'static str, String)>) {
        let mut parts = split(&with_log(&self.active));
        if parts.is_empty() {
            log::warn!(
                "frr.conf has lines at the margin that are not understood: every daemon gets it from vtysh"
            );
        }
        if version < Version(10, 0) {
            parts.retain(|(name, _)| *name == "zebra");
        }
        (self.active.clone(), parts)
    }

    /// Whether a text is kept that is another than the one in force.
    pub fn may_fall_back(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| *kept != self.active)
    }

    /// Whether the one in force is kept.
    pub fn are_kept(&self) -> bool {
        self.kept.as_ref() == Some(&self.active)
    }

    /// Keeps a copy of the one in force.
    pub fn keep(&mut self) {
        files::save(&path(KEPT), &self.active, Access::Root);
        self.kept = Some(self.active.clone());
    }

    /// Puts the kept text in the place of the one in force, which stays beside it as `frr.conf.bad`.
    ///
    /// # Errors
    /// There is none, or FRR does not take it: then the one in force stays.
    pub fn fall_back(&mut self) -> io::Result<()> {
        let kept = self.kept.clone().ok_or_else(|| io::Error::other("there is none"))?;
        check(&kept)?;
        files::save(&path(BAD), &self.active, Access::Root);
        self.accept(kept);
        (self.of_another, self.taken_back) = (true, true);
        Ok(())
    }
}

/// A text that an earlier instance wrote, if it can be read and is not empty.
fn stored(name: &str) -> Option<String> {
    let path = path(name);
    let text = match files::read(&path, Owner::Root, LARGEST) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => {
            log::warn!("{} is not used: {e}", path.display());
            return None;
        }
    };
    (!text.trim().is_empty()).then_some(text)
}

fn is_usable(text: &str) -> bool {
    check(text).inspect_err(|e| log::warn!("an earlier configuration is not used: {e}")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_stays_in_the_place_of_another_is_not_the_configurations() {
        let mut texts = Texts { active: "hostname a\n".into(), ..Texts::default() };
        assert!(!texts.are_of_another());
        // The one that was to come is refused.
        assert!(texts.fall_back_to_stored());
        assert!(texts.are_of_another());
        texts.have_theirs();
        assert!(!texts.are_of_another());
    }

    #[test]
    fn what_is_kept_is_what_was_in_force() {
        let mut texts = Texts { active: "hostname a\n".into(), ..Texts::default() };
        assert!(!texts.may_fall_back());
        assert!(texts.fall_back().is_err());
        assert_eq!(texts.active(), "hostname a\n");
        texts.kept = Some("hostname a\n".into());
        assert!(!texts.may_fall_back() && texts.are_kept());
        texts.active = "hostname b\n".into();
        assert!(texts.may_fall_back());
    }
}
