//! What the daemons need on the host: directories, sockets, PID files, the IDs of FRR's user. All paths are in [`RUN_DIR`],
//! except those that are compiled into FRR. [`RUN_DIR`] belongs to root. FRR's user has its own directories in it; we read
//! no file in those.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::Pid;

use crate::files::{self, Access};

use super::daemons::{BIN_DIR, DAEMONS, Daemon, DaemonKind, RUN_DIR, SOCKET_DIR, Version};

/// The directory of mgmtd's commit history.
const HISTORY_DIR: &str = "/var/lib/frr";

/// The directory of the daemons' crash logs.
const CRASH_DIR: &str = "/var/tmp/frr";

/// The sockets besides the vty sockets (`lib/libfrr.h`, `lib/mgmt_defines.h`).
const OTHER_SOCKETS: [&str; 3] = ["zserv.api", "mgmtd_fe.sock", "mgmtd_be.sock"];

/// The files that we write or read in [`RUN_DIR`]. In earlier versions FRR's user could write to that directory; a file
/// with one of these names that does not belong to root is removed.
const OWN_FILES: [&str; 9] = [
    "bfd.json",
    "frr.conf",
    "frr.conf.bad",
    "frr.conf.good",
    "on-stop",
    "services.json",
    "status.json",
    "status.txt",
    "vtysh.conf",
];

/// Files of earlier versions; some of them contain passwords.
const OUTDATED_FILES: [&str; 3] = ["frr.conf.new", "frr.delta", "bfdd.sock"];

/// The version of the installed zebra.
///
/// # Errors
/// zebra can't be run, or its output contains no version.
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

/// Creates the directories: [`RUN_DIR`] for root, and those for FRR's user, which the daemons run as.
///
/// # Errors
/// The user is missing, or a directory can't be created.
pub fn prepare(daemons: &[&'static Daemon]) -> io::Result<()> {
    let owner = frr_ids()?;
    fs::create_dir_all(RUN_DIR)
        .and_then(|()| directory(Path::new(RUN_DIR), (0, 0)))
        .map_err(|e| cannot_prepare(RUN_DIR, &e))?;
    remove_outdated();
    sockets(daemons, owner).map_err(|e| cannot_prepare(SOCKET_DIR, &e))?;
    if let Err(e) = super::sockets::prepare() {
        log::warn!(
            "cannot prepare the hard links of the sockets: {e}; a daemon whose socket file is removed will be restarted"
        );
    }
    for dir in [HISTORY_DIR, CRASH_DIR] {
        // The daemons run without these.
        if let Err(e) = frr_directory(dir, owner) {
            log::warn!("{}: FRR cannot write its commit history or its crash logs", cannot_prepare(dir, &e));
        }
    }
    // Without this line vtysh does not use one configuration for all daemons.
    files::save(&Path::new(RUN_DIR).join("vtysh.conf"), "service integrated-vtysh-config\n", Access::All);
    Ok(())
}

fn cannot_prepare(path: &str, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("cannot prepare {path}: {e}"))
}

/// Removes stale files: those of earlier versions, the PID files of earlier daemons, and unfinished temporary files.
fn remove_outdated() {
    let entries = fs::read_dir(RUN_DIR).into_iter().flatten().flatten();
    for entry in entries {
        let (name, Ok(meta)) = (entry.file_name(), entry.metadata()) else { continue };
        let Some(name) = name.to_str().filter(|_| !meta.is_dir()) else { continue };
        let is_of_daemon = |ending: &str| {
            name.strip_suffix(ending)
                .is_some_and(|name| DAEMONS.iter().any(|daemon| daemon.kind.name() == name))
        };
        let is_foreign = OWN_FILES.contains(&name) && meta.uid() != 0;
        if is_foreign {
            log::warn!("removing {RUN_DIR}/{name}: it belongs to user {}, not to root", meta.uid());
        }
        if is_foreign
            || files::is_temporary(name)
            || OUTDATED_FILES.contains(&name)
            || [".pid", ".conf"].into_iter().any(is_of_daemon)
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Creates the directory for FRR's sockets, and links to the sockets in [`RUN_DIR`], so that `vtysh --vty_socket
/// /run/frr` works. The sockets of earlier daemons stay until new daemons replace them: on a file system without free
/// inodes a new socket can't be created.
fn sockets(daemons: &[&'static Daemon], owner: (u32, u32)) -> io::Result<()> {
    let dir = Path::new(SOCKET_DIR);
    match fs::symlink_metadata(dir) {
        Ok(meta) if meta.is_dir() => {
            for entry in fs::read_dir(dir)?.flatten() {
                remove_non_socket(&entry.path());
            }
        }
        Ok(_) => fs::remove_file(dir)?,
        Err(_) => {}
    }
    directory(dir, owner)?;
    let relative = Path::new(dir.file_name().unwrap_or_default());
    let own = daemons.iter().map(|daemon| format!("{}.vty", daemon.kind));
    for name in own.chain(OTHER_SOCKETS.map(Into::into)) {
        if let Err(e) = files::link(&Path::new(RUN_DIR).join(&name), &relative.join(&name)) {
            log::warn!("cannot create the link {RUN_DIR}/{name}: {e}; the socket is {SOCKET_DIR}/{name}");
        }
    }
    Ok(())
}

/// Removes what is at the path of a socket and is no socket; FRR's user may have no permission to remove it.
fn remove_non_socket(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.file_type().is_socket()) {
        let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
    }
}

fn directory(dir: &Path, owner: (u32, u32)) -> io::Result<()> {
    files::directory(dir, owner, 0o755)
}

/// Creates the directory of the daemons' sockets again.
///
/// # Errors
/// The directory can't be created.
pub fn create_socket_directory() -> io::Result<()> {
    directory(Path::new(SOCKET_DIR), frr_ids()?)
}

/// Creates a directory for FRR's user, or the directory that the link at `dir` points to.
fn frr_directory(dir: &str, owner: (u32, u32)) -> io::Result<()> {
    // A read-only image has a link at `dir`. A link of root is safe to follow.
    let is_link = |meta: &fs::Metadata| meta.is_symlink() && meta.uid() == 0;
    let dir = match fs::symlink_metadata(dir).ok().filter(is_link).and(fs::read_link(dir).ok()) {
        Some(target) => Path::new(dir).parent().unwrap_or(Path::new("/")).join(target),
        None => dir.into(),
    };
    let mut dir: PathBuf = dir;
    if let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) {
        fs::create_dir_all(parent)?;
        dir = fs::canonicalize(parent)?.join(name);
    }
    // In earlier versions FRR's user could create any file in RUN_DIR.
    if dir.starts_with(RUN_DIR) && fs::symlink_metadata(&dir).is_ok_and(|meta| !meta.is_dir()) {
        fs::remove_file(&dir)?;
    }
    directory(&dir, owner)
}

/// The UID and GID of FRR's user and group.
fn frr_ids() -> io::Result<(u32, u32)> {
    static IDS: OnceLock<(u32, u32)> = OnceLock::new();
    if let Some(ids) = IDS.get() {
        return Ok(*ids);
    }
    let [passwd, group] = ["/etc/passwd", "/etc/group"].map(fs::read_to_string);
    match (id_of("frr", &passwd?), id_of("frr", &group?)) {
        (Some(user), Some(group)) => Ok(*IDS.get_or_init(|| (user, group))),
        _ => {
            Err(io::Error::other("the user or the group \"frr\", which FRR's daemons run as, does not exist"))
        }
    }
}

/// The access to the status files: root and FRR's group.
pub fn status_access() -> Access {
    frr_ids().map_or(Access::Root, |(_, group)| Access::Group(group))
}

/// The ID of a user or group in the text of `/etc/passwd` or `/etc/group` (passwd(5), group(5)). The image has no other
/// user database, and the lookup of the C library would require a dynamic linker.
fn id_of(name: &str, file: &str) -> Option<u32> {
    let mut lines = file.lines().filter_map(|line| line.split_once(':'));
    let (_, rest) = lines.find(|(first, _)| *first == name)?;
    rest.split(':').nth(1)?.parse().ok()
}

fn pid_path(daemon: DaemonKind) -> PathBuf {
    Path::new(RUN_DIR).join(daemon.name()).with_extension("pid")
}

/// Removes whatever blocks the vty socket path of a daemon that is about to start.
pub fn clear_socket_path(daemon: DaemonKind) {
    remove_non_socket(&super::vty::socket(daemon));
}

/// Writes the PID file of a daemon, for operators and other programs. We do not read it.
pub fn write_pid_file(daemon: DaemonKind, pid: Pid) {
    files::save(&pid_path(daemon), &format!("{}\n", pid.as_raw_nonzero()), Access::All);
}

/// Removes the PID file of a daemon that has ended.
pub fn remove_pid_file(daemon: DaemonKind) {
    files::remove(&pid_path(daemon));
}

/// Removes the directory in [`CRASH_DIR`] that belongs to this process of the daemon. If it contains a crash log, it
/// replaces the daemon's last saved one (`<name>.crashed`).
pub fn remove_daemon_directory(daemon: DaemonKind, pid: Pid) {
    let dir = Path::new(CRASH_DIR);
    let own = dir.join(format!("{daemon}.{}", pid.as_raw_nonzero()));
    let _ = if own.join("crashlog").exists() {
        let last = dir.join(format!("{daemon}.crashed"));
        let _ = fs::remove_dir_all(&last);
        fs::rename(&own, &last)
    } else {
        fs::remove_dir_all(&own)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_users_and_groups_are_parsed() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nfrrvty:x:92:\nfrr:x:101:102:FRR,,,:/nonexistent:/sbin/nologin\n";
        assert_eq!(id_of("frr", passwd), Some(101));
        assert_eq!(id_of("frrvty", passwd), Some(92));
        for none in ["", "frr", "frr:x", "frr:x:", "frr:x:a:1", "nofrr:x:1:1"] {
            assert_eq!(id_of("frr", none), None, "{none:?}");
        }
    }
}
