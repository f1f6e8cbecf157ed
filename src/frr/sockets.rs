//! Hard links to the daemons' sockets. A daemon does not create its socket file again when another process removes it,
//! and would be unreachable until its next restart. A hard link in a directory of root makes it possible to restore the
//! file.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::daemons::{DaemonKind, RUN_DIR, SOCKET_DIR};

/// The directory of the hard links in [`RUN_DIR`]. The sockets are on the same file system.
const HARD_LINK_DIR: &str = "kept-sockets";

/// The file names of a daemon's sockets (`lib/libfrr.h`, `lib/mgmt_defines.h`).
fn socket_names(daemon: DaemonKind) -> Vec<String> {
    let others: &[&str] = match daemon {
        DaemonKind::Zebra => &["zserv.api"],
        DaemonKind::Mgmtd => &["mgmtd_fe.sock", "mgmtd_be.sock"],
        _ => &[],
    };
    std::iter::once(format!("{daemon}.vty")).chain(others.iter().map(ToString::to_string)).collect()
}

/// The directories of the sockets and of the hard links.
#[derive(Debug, Clone)]
struct SocketDirs {
    sockets: PathBuf,
    links: PathBuf,
}

impl SocketDirs {
    fn of_node() -> Self {
        Self { sockets: SOCKET_DIR.into(), links: Path::new(RUN_DIR).join(HARD_LINK_DIR) }
    }

    fn add(&self, daemon: DaemonKind) -> io::Result<()> {
        for name in socket_names(daemon) {
            let (socket, link) = (self.sockets.join(&name), self.links.join(&name));
            remove_file(&link)?;
            match fs::hard_link(&socket, &link) {
                // hard_link follows no symbolic link. The type is checked here, because FRR's user can replace the file
                // in the directory of the sockets.
                Ok(()) if !is_socket(&link) => remove_file(&link)?,
                Ok(()) => {}
                // Some versions of FRR lack some sockets.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn remove(&self, daemon: DaemonKind) {
        for name in socket_names(daemon) {
            let _ = remove_file(&self.links.join(name));
        }
    }

    /// Restores missing socket files. Returns their names.
    fn restore(&self, daemon: DaemonKind) -> io::Result<Vec<String>> {
        let mut restored = vec![];
        for name in socket_names(daemon) {
            let (socket, link) = (self.sockets.join(&name), self.links.join(&name));
            if fs::symlink_metadata(&socket).is_err() && is_socket(&link) {
                fs::hard_link(&link, &socket)?;
                restored.push(name);
            }
        }
        Ok(restored)
    }
}

/// Removes a file, if it exists.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

/// Creates the directory of the hard links, or empties it.
///
/// # Errors
/// The directory can't be created or emptied.
pub fn prepare() -> io::Result<()> {
    let links = SocketDirs::of_node().links;
    let meta = fs::symlink_metadata(&links).ok();
    if meta.as_ref().is_some_and(|meta| !meta.is_dir()) {
        fs::remove_file(&links)?;
    }
    crate::files::directory(&links, (0, 0), 0o700)?;
    for entry in fs::read_dir(&links)?.flatten() {
        remove_file(&entry.path())?;
    }
    Ok(())
}

/// Adds the hard links to the sockets of a daemon that listens.
pub fn add_hard_links(daemon: DaemonKind) {
    let dirs = SocketDirs::of_node();
    // A hard link takes an inode, too, and the next daemon needs one for its socket.
    if crate::files::is_short_of_inodes(Path::new(RUN_DIR)) {
        return;
    }
    let ready = if dirs.links.is_dir() { Ok(()) } else { prepare() };
    if let Err(e) = ready.and_then(|()| dirs.add(daemon)) {
        log::debug!(daemon = daemon; "cannot create the hard links to the sockets of {daemon}: {e}");
    }
}

/// Removes the hard links to the sockets of a daemon that has exited.
pub fn remove_hard_links(daemon: DaemonKind) {
    SocketDirs::of_node().remove(daemon);
}

/// Restores the removed socket files of a daemon that listens.
pub fn restore(daemon: DaemonKind) {
    let dirs = SocketDirs::of_node();
    if !dirs.sockets.is_dir()
        && let Err(e) = super::host::create_socket_directory()
    {
        log::debug!("cannot create {SOCKET_DIR}: {e}");
    }
    match dirs.restore(daemon) {
        Ok(restored) if restored.is_empty() => {}
        Ok(restored) => log::warn!(
            daemon = daemon;
            "repaired: another process removed {} from {SOCKET_DIR}, without which {daemon} is unreachable",
            restored.join(", ")
        ),
        Err(e) => log::debug!(daemon = daemon; "cannot restore the sockets of {daemon}: {e}"),
    }
}

/// Whether the file of a daemon's vty socket is missing.
pub fn is_missing(daemon: DaemonKind) -> bool {
    fs::symlink_metadata(super::vty::socket(daemon)).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_removed_socket_is_restored() {
        let dir = std::env::temp_dir().join(format!("frr-supervisor-sockets-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let dirs = SocketDirs { sockets: dir.join("sockets"), links: dir.join("links") };
        fs::create_dir_all(&dirs.links).unwrap();
        fs::create_dir_all(&dirs.sockets).unwrap();
        let (vty, api) = (dirs.sockets.join("zebra.vty"), dirs.sockets.join("zserv.api"));
        let _daemon = [UnixListener::bind(&vty).unwrap(), UnixListener::bind(&api).unwrap()];
        dirs.add(DaemonKind::Zebra).unwrap();
        assert_eq!(dirs.restore(DaemonKind::Zebra).unwrap(), [""; 0]);
        fs::remove_dir_all(&dirs.sockets).unwrap();
        fs::create_dir_all(&dirs.sockets).unwrap();
        assert!(UnixStream::connect(&vty).is_err());
        assert_eq!(dirs.restore(DaemonKind::Zebra).unwrap(), ["zebra.vty", "zserv.api"]);
        assert!(UnixStream::connect(&vty).is_ok() && UnixStream::connect(&api).is_ok());
        // Without the hard links nothing is restored: the next daemon creates its own sockets.
        dirs.remove(DaemonKind::Zebra);
        fs::remove_file(&vty).unwrap();
        assert_eq!(dirs.restore(DaemonKind::Zebra).unwrap(), [""; 0]);
        // A file that is no socket gets no hard link.
        std::os::unix::fs::symlink("/etc/passwd", &vty).unwrap();
        dirs.add(DaemonKind::Zebra).unwrap();
        assert!(fs::symlink_metadata(dirs.links.join("zebra.vty")).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
