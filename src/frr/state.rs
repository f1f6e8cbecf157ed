//! Files of the operator and of earlier instances: the template, the stop mode, the saved state.

use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{Config, OnStop};
use crate::files::{self, Access, LARGEST, Owner};
use crate::model::{FilePath, Value as _};

use super::daemons::RUN_DIR;

/// The maximum size of a template, in bytes; the built-in one has 12 kB.
const TEMPLATE_LIMIT: u64 = 1 << 20;

/// The maximum size of the file `on-stop`, in bytes.
const ON_STOP_LIMIT: u64 = 4096;

/// The operator's template (`FRR_TEMPLATE`), if one is set.
///
/// # Errors
/// The file can't be read.
pub fn template(config: &Config) -> Result<Option<String>, String> {
    let read = |path: &FilePath| {
        files::read(Path::new(path.as_str()), Owner::Operator, TEMPLATE_LIMIT)
            .map_err(|e| format!("FRR_TEMPLATE={}: {e}", path.as_str()))
    };
    config.settings.frr_template.as_ref().map(read).transpose()
}

/// The file with the services that MetalLB's speaker announced.
pub const SERVICES: &str = "services.json";

/// The file with the sessions of bfdd.
pub const BFD_SESSIONS: &str = "bfd.json";

/// Reads the state that an earlier instance saved in `file`; the default if there is none or it can't be read.
pub fn load_state<T: DeserializeOwned + Default>(file: &str) -> T {
    let path = Path::new(RUN_DIR).join(file);
    let parse = |text: String| serde_json::from_str(&text).map_err(io::Error::from);
    match files::read(&path, Owner::Root, LARGEST).and_then(parse) {
        Ok(value) => value,
        Err(e) if e.kind() == io::ErrorKind::NotFound => T::default(),
        Err(e) => {
            log::warn!(
                "{} cannot be read: {e}; starting without the state of the earlier instance",
                path.display()
            );
            T::default()
        }
    }
}

/// Saves state in `file` for the next instance.
pub fn save_state(file: &str, state: &impl Serialize) {
    match serde_json::to_string(state) {
        Ok(text) => files::save(&Path::new(RUN_DIR).join(file), &text, Access::Root),
        Err(e) => log::warn!("cannot save {RUN_DIR}/{file}: {e}"),
    }
}

/// The value in the file `on-stop`, which overrides `ON_STOP` for the next stop; `None` if there is no valid one.
pub fn on_stop_override() -> Option<OnStop> {
    let path = Path::new(RUN_DIR).join("on-stop");
    let text = match files::read(&path, Owner::Root, ON_STOP_LIMIT) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => {
            log::error!("{}: {e}; ON_STOP applies", path.display());
            return None;
        }
    };
    OnStop::parse(text.trim())
        .inspect_err(|_| {
            log::error!(
                "{}: {:?} is not {}; ON_STOP applies",
                path.display(),
                text.trim(),
                OnStop::allowed()
            );
        })
        .ok()
}
