//! The lock that allows one instance on a node. The kernel releases it when the process exits.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, major, minor};
use rustix::io::Errno;

use crate::files::{self, Owner};
use crate::frr::daemons::RUN_DIR;

/// The lock file of the running instance. Only root can open it, since any process that can open a file can lock it.
pub const PATH: &str = "/run/frr/status.lock";

/// The number of attempts to take the lock, and the pause between them.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Takes the lock. `None`: `/run` has no space for the file.
///
/// # Errors
/// Another instance holds the lock (the sentence names it), or the file can't be locked.
pub fn take() -> Result<Option<File>, String> {
    match try_to_take() {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::StorageFull => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            let who = match holder() {
                Some(pid) => format!("pid {pid}"),
                None => "in another container".into(),
            };
            Err(format!(
                "another frr-supervisor ({who}) runs on this node: this one exits and changes nothing; stop the other one first"
            ))
        }
        Err(e) => Err(format!("cannot lock {PATH}, which keeps a second instance from starting: {e}")),
    }
}

fn try_to_take() -> io::Result<File> {
    fs::create_dir_all(RUN_DIR)?;
    let path = Path::new(PATH);
    // Another program put a link or another user's file there. A lock on it would protect nothing.
    match files::open(path, Owner::Root) {
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            log::warn!("{PATH}: {e}: replacing it");
            fs::remove_file(path)?;
        }
        _ => {}
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    // `is_taken` of another process holds a shared lock for a moment.
    let mut attempts = 0;
    while let Err(e) = flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        attempts += 1;
        if e != Errno::WOULDBLOCK || attempts == ATTEMPTS {
            return Err(e.into());
        }
        thread::sleep(PAUSE);
    }
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    Ok(file)
}

/// Whether an instance runs on this node. Returns true if the file must not be opened.
pub fn is_taken() -> bool {
    match files::open(Path::new(PATH), Owner::Root) {
        Ok(file) => flock(file.as_fd(), FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK),
        Err(e) => e.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// The process that holds the lock, if this PID namespace shows it.
fn holder() -> Option<u32> {
    let file = fs::metadata(PATH).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    holder_in(&locks, (major(file.dev()), minor(file.dev()), file.ino()))
}

/// Finds the holder in `/proc/locks` (proc_locks(5)): `1: FLOCK  ADVISORY  WRITE 123 00:2b:456 0 EOF`. The PID is 0 if
/// the process is not in this PID namespace.
fn holder_in(locks: &str, (major, minor, inode): (u32, u32, u64)) -> Option<u32> {
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, its, ..] = words[..] else { return None };
        (its == file).then(|| pid.parse().ok()).flatten().filter(|pid| *pid != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_locks_names_the_holder() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:2b:456 0 EOF\n2: FLOCK  ADVISORY  WRITE 12 00:2b:456 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 13 00:2b:456 0 EOF\n3: FLOCK  ADVISORY  WRITE 0 00:2b:9 0 EOF\n";
        assert_eq!(holder_in(locks, (0, 0x2b, 456)), Some(12));
        assert_eq!(holder_in(locks, (0, 0x2b, 9)), None);
        assert_eq!(holder_in(locks, (0, 0x2c, 456)), None);
        assert_eq!(holder_in("", (0, 0, 0)), None);
    }
}
