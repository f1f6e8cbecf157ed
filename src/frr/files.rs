//! The files and directories that the daemons need, all below [`RUN_DIR`] but for what FRR has compiled in.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{Config, OnStop};
use crate::model::{FilePath, Value as _};

use super::daemons::{BIN_DIR, Daemon, RUN_DIR, Version};
use super::redact::redact_said;
use super::split;

/// Directories that FRR writes to: sockets, mgmtd's commit history, crash logs.
const OTHER_DIRECTORIES: [&str; 2] = ["/var/lib/frr", "/var/tmp/frr"];

/// How long a daemon that was killed may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The file that `vtysh -b` reads: the configuration that was accepted last.
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
    let owner = owner()?;
    directory(RUN_DIR, owner)?;
    for dir in OTHER_DIRECTORIES {
        // The daemons live without these.
        if let Err(e) = directory(dir, owner) {
            log::warn!("{e}: FRR has no place for its commit history and crash logs");
        }
    }
    // vtysh takes one configuration for all daemons only if it is told so.
    replace(&Path::new(RUN_DIR).join("vtysh.conf"), "service integrated-vtysh-config\n")
}

fn directory(dir: &str, (uid, gid): (u32, u32)) -> io::Result<()> {
    // An image that is read-only has a link there; only root can have made one of its own.
    let is_link = |meta: &fs::Metadata| meta.is_symlink() && meta.uid() == 0;
    let dir = match fs::symlink_metadata(dir).ok().filter(is_link).and(fs::read_link(dir).ok()) {
        Some(target) => Path::new(dir).parent().unwrap_or(Path::new("/")).join(target),
        None => dir.into(),
    };
    let prepare = || {
        fs::create_dir_all(&dir)?;
        let now = fs::symlink_metadata(&dir)?;
        if !now.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if (now.uid(), now.gid(), now.mode() & 0o777) == (uid, gid, 0o755) {
            return Ok(());
        }
        lchown(&dir, Some(uid), Some(gid))?;
        fs::set_permissions(&dir, Permissions::from_mode(0o755))
    };
    prepare()
        .map_err(|e: io::Error| io::Error::new(e.kind(), format!("cannot prepare {}: {e}", dir.display())))
}

/// Ends daemons that an instance of ours left which was killed where nothing else ends its children: they hold
/// the pid files, and would answer in the place of their successors.
///
/// # Errors
/// One does not go.
pub fn end_leftovers(daemons: &[&'static Daemon]) -> io::Result<()> {
    if let Some(pid) = running("watchfrr") {
        return Err(io::Error::other(format!(
            "watchfrr (pid {}) runs FRR here already: stop it, for instance by \"systemctl disable --now frr\"",
            pid.as_raw_nonzero()
        )));
    }
    for daemon in daemons {
        let Some(pid) = running(daemon.name) else { continue };
        log::warn!("ending {} (pid {}), which an earlier instance left", daemon.name, pid.as_raw_nonzero());
        let _ = kill_process(pid, Signal::KILL);
        let begin = Instant::now();
        while running(daemon.name).is_some() {
            if begin.elapsed() > END_LIMIT {
                return Err(io::Error::other(format!("{} of an earlier instance does not end", daemon.name)));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// The process that the program's pid file names, if it is that program.
fn running(name: &str) -> Option<Pid> {
    let text = fs::read_to_string(Path::new(RUN_DIR).join(name).with_extension("pid")).ok()?;
    let pid: i32 = text.trim().parse().ok()?;
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    (program == Path::new(BIN_DIR).join(name)).then(|| Pid::from_raw(pid))?
}

fn owner() -> io::Result<(u32, u32)> {
    let [passwd, group] = ["/etc/passwd", "/etc/group"].map(fs::read_to_string);
    match (number_of("frr", &passwd?), number_of("frr", &group?)) {
        (Some(user), Some(group)) => Ok((user, group)),
        _ => Err(io::Error::other("there is no user and group \"frr\", which FRR's daemons run as")),
    }
}

/// The number of a user or group in `/etc/passwd` or `/etc/group` (passwd(5), group(5)): the image has no other source of
/// them, and the C library's would bring a linker along.
fn number_of(name: &str, file: &str) -> Option<u32> {
    let mut lines = file.lines().filter_map(|line| line.split_once(':'));
    let (_, rest) = lines.find(|(first, _)| *first == name)?;
    rest.split(':').nth(1)?.parse().ok()
}

/// The operator's own template, if there is one.
///
/// # Errors
/// It can't be read.
pub fn template(config: &Config) -> Result<Option<String>, String> {
    let read = |path: &FilePath| {
        fs::read_to_string(path.as_str()).map_err(|e| format!("FRR_TEMPLATE={}: {e}", path.as_str()))
    };
    config.template.as_ref().map(read).transpose()
}

/// Checks `text` with FRR's own parser, then puts it in the place of frr.conf.
///
/// # Errors
/// What vtysh says about it; the file in force is left as it was.
pub fn install_config(text: &str) -> io::Result<()> {
    propose(text)?;
    check_candidate()?;
    accept()
}

/// Checks what was proposed with FRR's own parser.
///
/// # Errors
/// What vtysh says about it, as [`io::ErrorKind::InvalidData`]; or that it can't be run.
pub fn check_candidate() -> io::Result<()> {
    check(&candidate_path())
}

fn candidate_path() -> PathBuf {
    Path::new(RUN_DIR).join("frr.conf.new")
}

/// Writes a configuration beside the one in force: what it needs of the disk it has then.
///
/// # Errors
/// It can't be written.
pub fn propose(text: &str) -> io::Result<()> {
    replace(&candidate_path(), text)
}

/// Puts what was proposed in force.
///
/// # Errors
/// It can't be renamed.
pub fn accept() -> io::Result<()> {
    fs::rename(candidate_path(), config_path())
}

/// Checks commands with FRR's own parser.
///
/// # Errors
/// As of [`check_candidate`].
pub fn check_commands(text: &str) -> io::Result<()> {
    let path = Path::new(RUN_DIR).join("frr.delta");
    replace(&path, text)?;
    check(&path)
}

fn check(path: &Path) -> io::Result<()> {
    let output = Command::new("/usr/bin/vtysh")
        .args(["--config_dir", RUN_DIR, "-C", "-f"])
        .arg(path)
        .output()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot run vtysh: {e}")))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        // That there is a fault in the file is said already.
        let said = said.lines().filter(|line| !line.contains("processing failure"));
        let said: Vec<_> = said.map(redact_said).collect();
        let sentence = format!("vtysh refuses the configuration: {}", said.join("; "));
        return Err(io::Error::new(io::ErrorKind::InvalidData, sentence));
    }
    Ok(())
}

/// The configuration in force, and the parts of it that daemons read by themselves: before FRR 10 only zebra's, since
/// that bgpd forgets a password of a VRF that zebra has not told it about yet.
///
/// # Errors
/// The file can't be read.
pub fn parts(version: Version) -> io::Result<(String, Vec<(&'static str, String)>)> {
    let text = fs::read_to_string(config_path())?;
    let mut parts = split(&text);
    if parts.is_empty() {
        log::warn!(
            "frr.conf has lines at the margin that are not understood: every daemon gets it from vtysh"
        );
    }
    if version < Version(10, 0) {
        parts.retain(|(name, _)| *name == "zebra");
    }
    Ok((text, parts))
}

/// Writes the file that the daemon reads when it starts.
///
/// # Errors
/// It can't be written.
pub fn write_part(daemon: &Daemon, text: &str) -> io::Result<()> {
    replace(&daemon.config_path(), text)
}

/// The copy of the last configuration under which all daemons lived for a while.
fn kept_path() -> PathBuf {
    Path::new(RUN_DIR).join("frr.conf.good")
}

/// Whether a configuration is kept that is another than the one in force.
pub fn may_fall_back() -> bool {
    matches!((fs::read(kept_path()), fs::read(config_path())), (Ok(kept), Ok(now)) if kept != now)
}

/// Keeps a copy of the configuration in force.
///
/// # Errors
/// It can't be read or written.
pub fn keep() -> io::Result<()> {
    replace(&kept_path(), &fs::read_to_string(config_path())?)
}

/// Puts the kept configuration in the place of the one in force, which stays beside it as `frr.conf.bad`.
///
/// # Errors
/// There is none, or it can't be written.
pub fn fall_back() -> io::Result<()> {
    let kept = fs::read_to_string(kept_path())?;
    fs::rename(config_path(), Path::new(RUN_DIR).join("frr.conf.bad"))?;
    replace(&config_path(), &kept)
}

/// The file for what MetalLB's speaker announced.
pub const SERVICES: &str = "services.json";

/// The file for bfdd's sessions.
pub const BFD_SESSIONS: &str = "bfd.json";

/// What an earlier instance wrote down in that file; nothing if there is none or it can't be read.
pub fn recall<T: DeserializeOwned + Default>(file: &str) -> T {
    let text = fs::read_to_string(Path::new(RUN_DIR).join(file)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Writes something down for an instance that comes after us.
///
/// # Errors
/// The file can't be written.
pub fn write_down(file: &str, what: &impl Serialize) -> io::Result<()> {
    replace(&Path::new(RUN_DIR).join(file), &serde_json::to_string(what)?)
}

/// The word in the file that overrides `ON_STOP` for the next stop, if there is one.
pub fn on_stop() -> Option<OnStop> {
    let path = Path::new(RUN_DIR).join("on-stop");
    let text = fs::read_to_string(&path).ok()?;
    OnStop::parse(text.trim())
        .inspect_err(|_| {
            log::error!("{}: {:?} is not {}", path.display(), text.trim(), OnStop::allowed());
        })
        .ok()
}

/// Removes the directory that a daemon makes for each of its lives; of those with a crash log the last one stays.
pub fn sweep(name: &str, pid: Pid) {
    let dir = Path::new(OTHER_DIRECTORIES[1]);
    let own = dir.join(format!("{name}.{}", pid.as_raw_nonzero()));
    let _ = if own.join("crashlog").exists() {
        let last = dir.join(format!("{name}.crashed"));
        let _ = fs::remove_dir_all(&last);
        fs::rename(&own, &last)
    } else {
        fs::remove_dir_all(&own)
    };
}

/// Writes a file beside its place, readable by FRR alone since it may hold passwords, and renames it there.
///
/// # Errors
/// It can't be written.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let explain = |e: io::Error| io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display()));
    let temporary = path.with_extension("tmp");
    let write = || {
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        let (uid, gid) = owner()?;
        fchown(&file, Some(uid), Some(gid))?;
        fs::rename(&temporary, path)
    };
    write().map_err(explain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_have_numbers() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nfrrvty:x:92:\nfrr:x:101:102:FRR,,,:/nonexistent:/sbin/nologin\n";
        assert_eq!(number_of("frr", passwd), Some(101));
        assert_eq!(number_of("frrvty", passwd), Some(92));
        for none in ["", "frr", "frr:x", "frr:x:", "frr:x:a:1", "nofrr:x:1:1"] {
            assert_eq!(number_of("frr", none), None, "{none:?}");
        }
    }
}
