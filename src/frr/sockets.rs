//! Second names of the daemons' sockets. A daemon can't make its socket's file again that somebody has removed, and could be reached
//! by nobody any more until it is restarted; with another name of the file in a directory of root's, it can be put back.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::daemons::{RUN_DIR, SOCKET_DIR};

/// Where the second names are, below [`RUN_DIR`], in whose file system the sockets are.
const KEPT_DIR: &str = "kept-sockets";

/// The sockets of a daemon (`lib/libfrr.h`, `lib/mgmt_defines.h`).
fn names(daemon: &str) -> Vec<String> {
    let others: &[&str] = match daemon {
        "zebra" => &["zserv.api"],
        "mgmtd" => &["mgmtd_fe.sock", "mgmtd_be.sock"],
        _ => &[],
    };
    std::iter::once(format!("{daemon}.vty")).chain(others.iter().map(ToString::to_string)).collect()
}

/// The directories.
#[derive(Debug, Clone)]
struct Place {
    sockets: PathBuf,
    kept: PathBuf,
}

impl Place {
    fn own() -> Self {
        Self { sockets: SOCKET_DIR.into(), kept: Path::new(RUN_DIR).join(KEPT_DIR) }
    }

    fn keep(&self, daemon: &str) -> io::Result<()> {
        for name in names(daemon) {
            let (socket, kept) = (self.sockets.join(&name), self.kept.join(&name));
            remove(&kept)?;
            match fs::hard_link(&socket, &kept) {
                // No link is followed: what FRR's user has put there is looked at here, where it can't be exchanged.
                Ok(()) if !is_socket(&kept) => remove(&kept)?,
                Ok(()) => {}
                // Not every version has all of them.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn forget(&self, daemon: &str) {
        for name in names(daemon) {
            let _ = remove(&self.kept.join(name));
        }
    }

    /// The names of those that were put back.
    fn restore(&self, daemon: &str) -> io::Result<Vec<String>> {
        let mut restored = vec![];
        for name in names(daemon) {
            let (socket, kept) = (self.sockets.join(&name), self.kept.join(&name));
            if fs::symlink_metadata(&socket).is_err() && is_socket(&kept) {
                fs::hard_link(&kept, &socket)?;
                restored.push(name);
            }
        }
        Ok(restored)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket())
}

/// Makes an empty directory for the second names.
///
/// # Errors
/// It can't be made.
pub fn prepare() -> io::Result<()> {
    let kept = Place::own().kept;
    let there = fs::symlink_metadata(&kept).ok();
    if there.as_ref().is_some_and(|there| !there.is_dir()) {
        fs::remove_file(&kept)?;
    }
    crate::files::directory(&kept, (0, 0), 0o700)?;
    for entry in fs::read_dir(&kept)?.flatten() {
        remove(&entry.path())?;
    }
    Ok(())
}

/// A daemon listens: its sockets get second names.
pub fn keep(daemon: &str) {
    let place = Place::own();
    // A name takes an inode, too, and the next daemon needs one for its socket.
    if crate::files::is_short_of_inodes(Path::new(RUN_DIR)) {
        return;
    }
    let ready = if place.kept.is_dir() { Ok(()) } else { prepare() };
    if let Err(e) = ready.and_then(|()| place.keep(daemon)) {
        log::debug!("{daemon}'s sockets have no second names: {e}");
    }
}

/// A daemon is gone, and its sockets are of no use any more.
pub fn forget(daemon: &str) {
    Place::own().forget(daemon);
}

/// Puts back what somebody has removed of the sockets of a daemon that listens.
pub fn restore(daemon: &str) {
    let place = Place::own();
    if !place.sockets.is_dir()
        && let Err(e) = super::files::socket_directory()
    {
        log::debug!("{SOCKET_DIR}: {e}");
    }
    match place.restore(daemon) {
        Ok(restored) if restored.is_empty() => {}
        Ok(restored) => log::warn!(
            "somebody has removed {} from {SOCKET_DIR}, without which {daemon} can't be reached: put back",
            restored.join(", ")
        ),
        Err(e) => log::debug!("{daemon}'s sockets can't be put back: {e}"),
    }
}

/// Whether the file by which a daemon is asked is not there.
pub fn is_gone(daemon: &str) -> bool {
    fs::symlink_metadata(super::vty::socket(daemon)).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_socket_that_was_removed_is_put_back() {
        let dir = std::env::temp_dir().join(format!("frr-supervisor-sockets-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let place = Place { sockets: dir.join("sockets"), kept: dir.join("kept") };
        fs::create_dir_all(&place.kept).unwrap();
        fs::create_dir_all(&place.sockets).unwrap();
        let (vty, api) = (place.sockets.join("zebra.vty"), place.sockets.join("zserv.api"));
        let _daemon = [UnixListener::bind(&vty).unwrap(), UnixListener::bind(&api).unwrap()];
        place.keep("zebra").unwrap();
        assert_eq!(place.restore("zebra").unwrap(), [""; 0]);
        fs::remove_dir_all(&place.sockets).unwrap();
        fs::create_dir_all(&place.sockets).unwrap();
        assert!(UnixStream::connect(&vty).is_err());
        assert_eq!(place.restore("zebra").unwrap(), ["zebra.vty", "zserv.api"]);
        assert!(UnixStream::connect(&vty).is_ok() && UnixStream::connect(&api).is_ok());
        // The next one has sockets of its own, and nothing of this one comes back.
        place.forget("zebra");
        fs::remove_file(&vty).unwrap();
        assert_eq!(place.restore("zebra").unwrap(), [""; 0]);
        // What is no socket is not kept.
        std::os::unix::fs::symlink("/etc/passwd", &vty).unwrap();
        place.keep("zebra").unwrap();
        assert!(fs::symlink_metadata(place.kept.join("zebra.vty")).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
