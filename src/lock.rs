//! One instance on a node: who has the lock. It is a lock of the kernel's, which goes with the process that has it.

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

/// Locked by the instance that runs, for as long as it does. Root alone can open it: whoever can may lock it.
pub const PATH: &str = "/run/frr/status.lock";

/// How often, and after which pause, it is tried to take it.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Takes the lock, before anything else is touched. `None`: there is no space for the file; it can be tried again.
///
/// # Errors
/// Another instance has it, in a sentence that names it; or it can't be taken.
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
                "another frr-supervisor ({who}) runs on this node: it is left alone, and this one ends; stop that one first if this \
                 one is to run"
            ))
        }
        Err(e) => Err(format!("cannot lock {PATH}, which keeps a second instance from starting: {e}")),
    }
}

fn try_to_take() -> io::Result<File> {
    fs::create_dir_all(RUN_DIR)?;
    let path = Path::new(PATH);
    // What is no file of root's was put there by someone else, and locks nothing of ours.
    match files::open(path, Owner::Root) {
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            log::warn!("{PATH}: {e}: it is made anew");
            fs::remove_file(path)?;
        }
        _ => {}
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    // Someone who only asks whether it is taken has it for a moment: see `is_taken`.
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

/// Whether an instance runs here. Without the right to know, one is assumed.
pub fn is_taken() -> bool {
    match files::open(Path::new(PATH), Owner::Root) {
        Ok(file) => flock(file.as_fd(), FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK),
        Err(e) => e.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// The process that has the lock, as far as the kernel tells.
fn holder() -> Option<u32> {
    let file = fs::metadata(PATH).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    holder_in(&locks, (major(file.dev()), minor(file.dev()), file.ino()))
}

/// The same, in what `/proc/locks` says (proc_locks(5)): `1: FLOCK  ADVISORY  WRITE 123 00:2b:456 0 EOF`. In a container it has 0
/// for a process that is in none of its own.
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
    fn the_kernel_names_the_holder() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:2b:456 0 EOF\n2: FLOCK  ADVISORY  WRITE 12 00:2b:456 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 13 00:2b:456 0 EOF\n3: FLOCK  ADVISORY  WRITE 0 00:2b:9 0 EOF\n";
        assert_eq!(holder_in(locks, (0, 0x2b, 456)), Some(12));
        assert_eq!(holder_in(locks, (0, 0x2b, 9)), None);
        assert_eq!(holder_in(locks, (0, 0x2c, 456)), None);
        assert_eq!(holder_in("", (0, 0, 0)), None);
    }
}
