//! The accepted objects, stored for a restart without their source.

use std::path::Path;

use crate::config::{Config, Objects};
use crate::files::{self, Access, Owner};
use crate::frr::daemons::RUN_DIR;

/// The file, in FRR's run directory. It may contain passwords.
const FILE: &str = "accepted.yaml";

/// The largest file that is read: that of the configuration file, written in one notation.
const LIMIT: u64 = 16 << 20;

/// What an earlier instance accepted, and why some of it is lost. Without the file, nothing.
pub fn load_accepted(base: &Config) -> (Objects, Vec<String>) {
    let path = Path::new(RUN_DIR).join(FILE);
    match files::read(&path, Owner::Root, LIMIT) {
        Ok(text) => {
            let (objects, problems) = Objects::from_text(text, base);
            (
                objects,
                problems
                    .into_iter()
                    .map(|problem| format!("an entry that was accepted before is lost: {problem}"))
                    .collect(),
            )
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => (Objects::default(), vec![]),
        Err(e) => (
            Objects::default(),
            vec![format!(
                "{} cannot be read: {e}; nothing of an earlier configuration file is kept",
                path.display()
            )],
        ),
    }
}

pub(super) fn save(accepted: &Objects) {
    files::save(&Path::new(RUN_DIR).join(FILE), &accepted.to_text(), Access::Root);
}
