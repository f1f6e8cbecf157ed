//! The reader and the writer for all files. They follow no link where only root's files belong, open no FIFO or device,
//! never wait for another process and read at most a given number of bytes.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};

/// The default limit for a file to read, in bytes.
pub const LARGEST: u64 = 32 << 20;

/// Free inodes that are reserved for the daemons, which have eight sockets in all. A daemon removes the socket of its
/// predecessor and then binds its own (`vty_serv_un`, `lib/vty.c`). A file that is created in between may take the last
/// inode: the daemon would run without a socket, and would appear to hang.
const RESERVED_INODES: u64 = 32;

/// Who may own the file to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Only root: no link is followed, and no other user's file is read.
    Root,
    /// Any user: links are followed, since Kubernetes mounts files as links.
    Operator,
}

/// Opens a regular file for reading.
///
/// # Errors
/// The file does not exist or can't be opened; or it is a link, has another owner or is no regular file: then the error
/// says which.
pub fn open(path: &Path, owner: Owner) -> io::Result<File> {
    let follow = if owner == Owner::Root { OFlags::NOFOLLOW } else { OFlags::empty() };
    // An `O_PATH` handle has no side effect: opening a device may trigger an action, and opening a FIFO may block.
    let handle = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC | follow, Mode::empty())?;
    let metadata = File::from(handle.try_clone()?).metadata()?;
    if !metadata.is_file() {
        let kind = metadata.file_type();
        let what = match () {
            () if kind.is_symlink() => "a link, which is not followed here",
            () if kind.is_dir() => "a directory",
            () if kind.is_fifo() => "a FIFO",
            () if kind.is_socket() => "a socket",
            () => "a device",
        };
        return Err(invalid(format!("not a regular file but {what}")));
    }
    let uid = metadata.uid();
    if owner == Owner::Root && uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(invalid(format!("it belongs to user {uid}, not to root")));
    }
    if owner == Owner::Root && metadata.nlink() > 1 {
        return Err(invalid("it has another name, too (a hard link)".into()));
    }
    // This opens the checked file even if its path was replaced. Some files of /proc and tracefs would block without
    // O_NONBLOCK.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// Those of [`open`]; or the file is too large or not UTF-8.
pub fn read(path: &Path, owner: Owner, limit: u64) -> io::Result<String> {
    let mut bytes = vec![];
    open(path, owner)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(invalid(format!("larger than {}", size(limit))));
    }
    String::from_utf8(bytes).map_err(|_| invalid("not UTF-8".into()))
}

/// An error of this module. No system call returns its kind.
fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// A number of bytes for humans.
fn size(bytes: u64) -> String {
    match bytes {
        n if n >= 1 << 20 => format!("{} MiB", n >> 20),
        n if n >= 1 << 10 => format!("{} KiB", n >> 10),
        n => format!("{n} bytes"),
    }
}

/// Who may read a file that this program writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Root only: the file has passwords, or nobody else needs it.
    Root,
    /// Root and the group with this GID.
    Group(u32),
    /// Everyone.
    All,
}

/// Writes a temporary file with an unguessable name beside `path` and renames it to `path`.
///
/// # Errors
/// A sentence that names the file; also if so few inodes are free that a daemon may need them. The old file is
/// unchanged.
pub fn write(path: &Path, text: &str, access: Access) -> io::Result<()> {
    replace(path, text, access)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display())))
}

fn replace(path: &Path, text: &str, access: Access) -> io::Result<()> {
    let mode = match access {
        Access::Root => 0o600,
        Access::Group(_) => 0o640,
        Access::All => 0o644,
    };
    let temporary = temporary(path)?;
    if temporary.parent().is_some_and(is_short_of_inodes) {
        return Err(rustix::io::Errno::NOSPC.into());
    }
    let fill = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        if let Access::Group(gid) = access {
            fchown(&file, None, Some(gid))?;
        }
        fs::rename(&temporary, path)
    };
    fill().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// Whether the free inodes of the directory's file system are reserved for the daemons' sockets.
pub fn is_short_of_inodes(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|stat| is_inode_shortage(stat.f_files, stat.f_ffree))
}

/// Whether too few of `total` inodes are free. Some file systems do not count them (`total` is 0).
fn is_inode_shortage(total: u64, free: u64) -> bool {
    total > 0 && free < RESERVED_INODES
}

/// `.NAME.RANDOM.tmp`; see [`is_temporary`].
fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidFilename)?;
    // `RandomState` takes its keys from the kernel's random number generator.
    let random = RandomState::new().hash_one(name);
    Ok(path.with_file_name(format!(".{name}.{random:016x}.tmp")))
}

/// Whether a file name is that of a temporary file, left by a writer that was killed.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

/// Creates a symbolic link, or replaces anything but a directory by it.
///
/// # Errors
/// The link can't be created.
pub fn link(path: &Path, target: &Path) -> io::Result<()> {
    if fs::read_link(path).is_ok_and(|now| now == target) {
        return Ok(());
    }
    let temporary = temporary(path)?;
    std::os::unix::fs::symlink(target, &temporary)?;
    fs::rename(&temporary, path).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// Creates a directory if it is missing, and sets its owner and mode. A link is not followed.
///
/// # Errors
/// The directory can't be created or changed, or something else is at its path.
pub fn directory(path: &Path, (uid, gid): (u32, u32), mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let dir: OwnedFd = rustix::fs::open(path, flags, Mode::empty())?;
    let dir = File::from(dir);
    let now = dir.metadata()?;
    if (now.uid(), now.gid()) != (uid, gid) {
        fchown(&dir, Some(uid), Some(gid))?;
    }
    if now.mode() & 0o7777 != mode {
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

/// A file that could not be written.
#[derive(Debug)]
struct Unsaved {
    /// The text to write. `None`: the caller writes it again anyway.
    text: Option<String>,
    access: Access,
    reason: String,
}

/// Locked while [`save`] or [`retry`] writes: of two threads, the later one's text stays.
static SAVING: Mutex<()> = Mutex::new(());

/// The files that could not be written, by path.
static UNSAVED: Mutex<BTreeMap<PathBuf, Unsaved>> = Mutex::new(BTreeMap::new());

fn lock() -> MutexGuard<'static, BTreeMap<PathBuf, Unsaved>> {
    UNSAVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a file that no daemon depends on. A failure is logged once, and [`retry`] writes the file later.
pub fn save(path: &Path, text: &str, access: Access) {
    let _saving = SAVING.lock().unwrap_or_else(PoisonError::into_inner);
    attempt(path, text, access, true);
}

/// Writes a file that the caller writes again soon. A failure is logged once. Returns whether it was written.
pub fn publish(path: &Path, text: &str, access: Access) -> bool {
    attempt(path, text, access, false)
}

fn attempt(path: &Path, text: &str, access: Access, keep: bool) -> bool {
    let result = write(path, text, access);
    let mut all = lock();
    let before = all.remove(path);
    match result {
        Ok(()) => {
            drop(all);
            if before.is_some() {
                log::info!("{} can be written again", path.display());
            }
            true
        }
        Err(e) => {
            let reason = e.to_string();
            let is_logged = before.is_some_and(|unsaved| unsaved.reason == reason);
            let text = keep.then(|| text.to_owned());
            all.insert(path.into(), Unsaved { text, access, reason: reason.clone() });
            drop(all);
            if !is_logged {
                log::warn!("{reason}; FRR does not need this file; retrying");
            }
            false
        }
    }
}

/// Removes a file, and forgets that it could not be written.
pub fn remove(path: &Path) {
    lock().remove(path);
    let _ = fs::remove_file(path);
}

/// Writes the files that [`save`] could not write. Returns whether it wrote any.
pub fn retry() -> bool {
    let _saving = SAVING.lock().unwrap_or_else(PoisonError::into_inner);
    let kept =
        |(path, unsaved): (&PathBuf, &Unsaved)| Some((path.clone(), unsaved.text.clone()?, unsaved.access));
    let all: Vec<_> = lock().iter().filter_map(kept).collect();
    let mut written = false;
    for (path, text, access) in all {
        written |= attempt(&path, &text, access, true);
    }
    written
}

/// The files that can't be written, a sentence each.
pub fn unsaved() -> Vec<String> {
    lock().values().map(|unsaved| unsaved.reason.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::time::{Duration, Instant};

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("frr-supervisor-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn nothing_but_a_regular_file_is_read_and_nothing_is_waited_for() {
        let dir = dir("reader");
        fs::write(dir.join("file"), "text").unwrap();
        symlink(dir.join("file"), dir.join("link")).unwrap();
        symlink(dir.join("nowhere"), dir.join("dangling")).unwrap();
        fs::create_dir(dir.join("directory")).unwrap();
        let _socket = UnixListener::bind(dir.join("socket")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, dir.join("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        fs::write(dir.join("binary"), b"\xff").unwrap();
        let begin = Instant::now();
        let say = |path: &Path, owner| read(path, owner, 4).unwrap_or_else(|e| e.to_string());
        for (name, root, operator) in [
            ("file", "text", "text"),
            ("link", "not a regular file but a link, which is not followed here", "text"),
            ("dangling", "not a regular file but a link, which is not followed here", "No such file"),
            ("directory", "not a regular file but a directory", "not a regular file but a directory"),
            ("socket", "not a regular file but a socket", "not a regular file but a socket"),
            ("fifo", "not a regular file but a FIFO", "not a regular file but a FIFO"),
            ("binary", "not UTF-8", "not UTF-8"),
            ("none", "No such file", "No such file"),
        ] {
            let path = dir.join(name);
            assert!(say(&path, Owner::Root).starts_with(root), "{name}: {}", say(&path, Owner::Root));
            assert!(say(&path, Owner::Operator).starts_with(operator), "{name}");
        }
        assert!(say(Path::new("/dev/zero"), Owner::Operator).ends_with("a device"));
        fs::write(dir.join("file"), "texts").unwrap();
        assert_eq!(say(&dir.join("file"), Owner::Root), "larger than 4 bytes");
        // A file without an end, of which nothing is there.
        File::create(dir.join("endless")).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(
            read(&dir.join("endless"), Owner::Root, 1 << 20).unwrap_err().to_string(),
            "larger than 1 MiB"
        );
        fs::remove_file(dir.join("link")).unwrap();
        fs::hard_link(dir.join("file"), dir.join("link")).unwrap();
        assert!(say(&dir.join("link"), Owner::Root).contains("hard link"));
        assert!(begin.elapsed() < Duration::from_secs(5));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let dir = dir("writer");
        let target = dir.join("target");
        fs::write(&target, "theirs").unwrap();
        symlink(&target, dir.join("file")).unwrap();
        write(&dir.join("file"), "ours", Access::Root).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
        assert_eq!(read(&dir.join("file"), Owner::Root, 10).unwrap(), "ours");
        assert_eq!(fs::metadata(dir.join("file")).unwrap().mode() & 0o777, 0o600);
        fs::create_dir(dir.join("directory")).unwrap();
        let refused = write(&dir.join("directory"), "ours", Access::All).unwrap_err().to_string();
        assert!(
            refused.starts_with(&format!("cannot write {}", dir.join("directory").display())),
            "{refused}"
        );
        link(&dir.join("file"), Path::new("elsewhere")).unwrap();
        link(&dir.join("file"), Path::new("elsewhere")).unwrap();
        assert_eq!(fs::read_link(dir.join("file")).unwrap(), Path::new("elsewhere"));
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["directory", "file", "target"], "nothing is left beside them");
        assert!(is_temporary(temporary(&target).unwrap().file_name().unwrap().to_str().unwrap()));
        assert_ne!(temporary(&target).unwrap(), temporary(&target).unwrap());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_last_inodes_are_reserved_for_sockets() {
        assert!(is_inode_shortage(1000, 0) && is_inode_shortage(1000, RESERVED_INODES - 1));
        assert!(!is_inode_shortage(1000, RESERVED_INODES) && !is_inode_shortage(0, 0));
    }

    #[test]
    fn what_can_not_be_written_is_written_later() {
        let dir = dir("unsaved");
        let path = dir.join("none").join("file");
        let mine = || unsaved().into_iter().filter(|s| s.contains("unsaved")).collect::<Vec<_>>();
        save(&path, "first", Access::Root);
        save(&path, "second", Access::Root);
        retry();
        assert_eq!(
            mine(),
            [format!("cannot write {}: No such file or directory (os error 2)", path.display())]
        );
        fs::create_dir(dir.join("none")).unwrap();
        assert!(retry());
        assert_eq!(mine(), [""; 0]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_directory_is_not_made_where_a_link_stands() {
        let dir = dir("directories");
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let path = dir.join("sub");
        directory(&path, own, 0o700).unwrap();
        directory(&path, own, 0o755).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o755);
        symlink(&path, dir.join("link")).unwrap();
        assert!(directory(&dir.join("link"), own, 0o755).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
