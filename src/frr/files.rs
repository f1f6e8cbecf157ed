//! The files and directories that the daemons need, all below [`RUN_DIR`] but for what FRR has compiled in.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Group, User};

use crate::config::Config;
use crate::model::TemplatePath;

use super::daemons::{BIN_DIR, Daemon, RUN_DIR, Version};
use super::split;

/// Directories that FRR writes to: sockets, mgmtd's commit history, crash logs.
const DIRECTORIES: [&str; 3] = [RUN_DIR, "/var/lib/frr", "/var/tmp/frr"];

/// The file that `vtysh -b` reads, and the one that worked last.
pub fn config_path() -> PathBuf {
    Path::new(RUN_DIR).join("frr.conf")
}

/// Asks the installed zebra for its version.
///
/// # Errors
/// FRR is not where it should be, in a sentence.
pub fn version() -> io::Result<Version> {
    let zebra = Path::new(BIN_DIR).join("zebra");
    let output = Command::new(&zebra)
        .arg("--version")
        .output()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot run {}: {e}", zebra.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Version::parse(&text)
        .ok_or_else(|| io::Error::other(format!("{} --version does not name a version", zebra.display())))
}

/// Makes the directories, owned by FRR's user, to which the daemons drop their privileges.
///
/// # Errors
/// The user is missing, or a directory can't be made.
pub fn prepare() -> io::Result<()> {
    let (uid, gid) = owner()?;
    for dir in DIRECTORIES {
        let explain = |e: io::Error| io::Error::new(e.kind(), format!("cannot prepare {dir}: {e}"));
        fs::create_dir_all(dir).map_err(explain)?;
        chown(dir, Some(uid), Some(gid)).map_err(explain)?;
        fs::set_permissions(dir, Permissions::from_mode(0o755)).map_err(explain)?;
    }
    // vtysh takes one configuration for all daemons only if it is told so.
    replace(&Path::new(RUN_DIR).join("vtysh.conf"), "service integrated-vtysh-config\n")
}

fn owner() -> io::Result<(u32, u32)> {
    let user = User::from_name("frr")?;
    let group = Group::from_name("frr")?;
    match (user, group) {
        (Some(user), Some(group)) => Ok((user.uid.as_raw(), group.gid.as_raw())),
        _ => Err(io::Error::other("there is no user and group \"frr\", which FRR's daemons run as")),
    }
}

/// The operator's own template, if there is one.
///
/// # Errors
/// It can't be read.
pub fn template(config: &Config) -> Result<Option<String>, Vec<String>> {
    let read = |path: &TemplatePath| {
        fs::read_to_string(path.as_str()).map_err(|e| vec![format!("FRR_TEMPLATE={}: {e}", path.as_str())])
    };
    config.template.as_ref().map(read).transpose()
}

/// Checks `text` with FRR's own parser, then puts it in the place of frr.conf.
///
/// # Errors
/// What vtysh says about it; the file in force is left as it was.
pub fn install_config(text: &str) -> io::Result<()> {
    let candidate = Path::new(RUN_DIR).join("frr.conf.new");
    replace(&candidate, text)?;
    let output = Command::new("/usr/bin/vtysh")
        .args(["--config_dir", RUN_DIR, "-C", "-f"])
        .arg(&candidate)
        .output()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot run vtysh: {e}")))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        return Err(io::Error::other(format!("vtysh refuses the configuration: {}", said.trim())));
    }
    fs::rename(&candidate, config_path())
}

/// Writes the parts of the configuration in force that daemons read by themselves. Returns those daemons: none
/// before FRR 10, whose bgpd forgets a password of a VRF that zebra has not told it about yet.
///
/// # Errors
/// A file can't be read or written.
pub fn write_parts(version: Version) -> io::Result<Vec<&'static Daemon>> {
    if version < Version(10, 0) {
        return Ok(vec![]);
    }
    let parts = split(&fs::read_to_string(config_path())?);
    let mut with_file = Vec::new();
    for daemon in version.daemons() {
        if let Some((_, text)) = parts.iter().find(|(name, _)| *name == daemon.name) {
            replace(&daemon.config_path(), text)?;
            with_file.push(daemon);
        }
    }
    Ok(with_file)
}

/// Writes a file beside its place, readable by FRR alone since it may hold passwords, and renames it there.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let explain = |e: io::Error| io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display()));
    let temporary = path.with_extension("tmp");
    let write = || {
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        let (uid, gid) = owner()?;
        chown(&temporary, Some(uid), Some(gid))?;
        fs::rename(&temporary, path)
    };
    write().map_err(explain)
}
