//! Network namespaces: create one, keep it by a bind mount below `/run/netns` as iproute2 does, and run code in it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{FileType, Mode, OFlags};

use crate::frr::daemons::BIN_DIR;
use crate::limits;

/// Directory in which named namespaces are mounted (`NETNS_RUN_DIR` of iproute2).
pub const RUN_DIR: &str = "/run/netns";

/// Magic number of the file system of namespaces (`NSFS_MAGIC`, `linux/magic.h`).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// A network namespace. The open file keeps it alive.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

/// What [`Netns::ensure`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetnsOrigin {
    /// The namespace existed.
    Found,
    /// The namespace is new.
    Created,
    /// The namespace is new, and is mounted on a file that existed without a mount.
    Repaired,
}

/// What is mounted under the name of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetnsMount {
    /// This namespace.
    Present,
    /// No namespace. Processes in the old one and open files keep that alive.
    Absent,
    /// Another namespace.
    Replaced,
}

impl Netns {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// `/proc` can't be read.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)? })
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()? })
    }

    /// The namespace called `name`. Creates and mounts it if it does not exist.
    ///
    /// # Errors
    /// A step failed, or FRR must not run in what exists under that name. The message names the path and the reason.
    pub fn ensure(name: &str) -> io::Result<(Self, NetnsOrigin)> {
        let path = Self::path(name);
        let origin = match path_kind(&path) {
            Ok(PathKind::Namespace) => NetnsOrigin::Found,
            Ok(PathKind::File) => NetnsOrigin::Repaired,
            Ok(PathKind::Other(what)) => {
                return Err(io::Error::other(format!(
                    "{} is {what}, not a mount point for FRR's network namespace: remove it, or choose another name with NETNS",
                    path.display()
                )));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make_mount_point(&path).map_err(|e| with_context(e, "create", &path))?;
                NetnsOrigin::Created
            }
            Err(e) => return Err(with_context(e, "examine", &path)),
        };
        if origin != NetnsOrigin::Found {
            mount_new(&path).map_err(|e| with_context(e, "mount a new network namespace at", &path))?;
        }
        let found = Self::open(&path).map_err(|e| with_context(e, "open", &path))?;
        if origin == NetnsOrigin::Found {
            found.check_usable(&path)?;
        }
        Ok((found, origin))
    }

    /// Fails if what is mounted at `path` is not a network namespace, or is the host's own one.
    fn check_usable(&self, path: &Path) -> io::Result<()> {
        let refuse = |what: &str, otherwise: &str| {
            let path = path.display();
            Err(io::Error::other(format!(
                "{path} is {what}: unmount it (umount {path}; rm {path}), or {otherwise}"
            )))
        };
        // A missing privilege to enter it is reported by a later step.
        if on_new_thread(|| Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)))? == Err(Errno::EINVAL) {
            return refuse(
                "a namespace of another type, not a network namespace",
                "choose another name with NETNS",
            );
        }
        // In a container with its own PID namespace, its first process is in the same network namespace as this one.
        let host = [Self::current(), Self::open(Path::new("/proc/1/ns/net"))];
        let own = self.identity()?;
        if host.into_iter().flatten().any(|host| host.identity().is_ok_and(|host| host == own)) {
            return refuse("the host's own network namespace", "set NETNS=host for FRR to run there");
        }
        Ok(())
    }

    /// Text about another use of this namespace: another name under which it is mounted, or a process other than FRR's
    /// daemons in it.
    ///
    /// # Errors
    /// The open file can't be examined.
    pub fn other_use(&self, name: &str) -> io::Result<Option<String>> {
        let own = self.identity()?;
        let same = |path: &Path| fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == own);
        let names = fs::read_dir(RUN_DIR).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let other_name =
            names.filter(|other| other != name).find(|other| same(&Path::new(RUN_DIR).join(other)));
        if let Some(other) = other_name {
            return Ok(Some(format!("it is also mounted as {:?}", other.to_string_lossy())));
        }
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        let pids = pids.filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u32>().is_ok())
        });
        for process in pids.filter(|process| same(&process.join("ns/net"))) {
            let program = fs::read_link(process.join("exe")).unwrap_or_default();
            // An earlier instance may have left FRR daemons.
            if !program.starts_with(BIN_DIR) {
                let pid = process.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Ok(Some(format!("{:?} (pid {pid}) runs in it", program.to_string_lossy())));
            }
        }
        Ok(None)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = self.file.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// The namespace that is mounted under `name`, if there is one.
    pub fn open_mounted(name: &str) -> Option<Self> {
        let path = Self::path(name);
        matches!(path_kind(&path), Ok(PathKind::Namespace)).then(|| Self::open(&path).ok())?
    }

    /// What is mounted under `name`.
    ///
    /// # Errors
    /// The open file or the file of that name can't be examined.
    pub fn mount_state(&self, name: &str) -> io::Result<NetnsMount> {
        let path = Self::path(name);
        match path_kind(&path) {
            Ok(PathKind::Namespace) => {}
            Ok(PathKind::File | PathKind::Other(_)) => return Ok(NetnsMount::Absent),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(NetnsMount::Absent),
            Err(e) => return Err(with_context(e, "examine", &path)),
        }
        let mounted = fs::metadata(&path)?;
        let same = (mounted.dev(), mounted.ino()) == self.identity()?;
        Ok(if same { NetnsMount::Present } else { NetnsMount::Replaced })
    }

    /// Mounts this namespace under `name`, where no namespace is mounted.
    ///
    /// # Errors
    /// A step failed. The message names the step and the path.
    pub fn mount_as(&self, name: &str) -> io::Result<()> {
        let path = Self::path(name);
        // A mount on a symbolic link would end up at the target of the link.
        if fs::symlink_metadata(&path).is_ok_and(|there| there.is_symlink()) {
            fs::remove_file(&path).map_err(|e| with_context(e, "remove the symbolic link", &path))?;
        }
        make_mount_point(&path).map_err(|e| with_context(e, "create", &path))?;
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        bind(&own, &path).map_err(|e| with_context(e, "mount the network namespace at", &path))
    }

    /// Unmounts the namespace called `name` and removes its file. Processes in the namespace keep it alive.
    ///
    /// # Errors
    /// The mount or the file can't be removed.
    pub fn unmount(name: &str) -> io::Result<()> {
        let path = Self::path(name);
        umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|e| with_context(e.into(), "unmount", &path))?;
        fs::remove_file(&path).map_err(|e| with_context(e, "remove", &path))
    }

    /// Path at which a namespace of that name is mounted.
    pub fn path(name: &str) -> PathBuf {
        Path::new(RUN_DIR).join(name)
    }

    /// The namespace file, for `IFLA_NET_NS_FD`.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The inode number of the namespace, as `stat -L` shows it.
    ///
    /// # Errors
    /// The open file can't be examined.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// Runs `work` in this namespace on a new thread, so that no error leaves the caller in the wrong namespace.
    /// Sockets that `work` opens and processes that it starts stay in this namespace.
    ///
    /// # Errors
    /// The namespace can't be entered, or `work` fails.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_new_thread(|| {
            self.enter()?;
            work()
        })
    }

    /// Runs `work` in this namespace on the calling thread. This is for short and frequent reads and writes, for which
    /// a thread would cost more than the work. `work` must not open anything that it keeps.
    ///
    /// # Errors
    /// The namespace can't be entered.
    ///
    /// # Panics
    /// The caller's namespace can't be entered again. Everything that the thread does later would happen in the wrong
    /// namespace.
    pub fn within_on_this_thread<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let own = Self::current()?;
        self.enter()?;
        let result = work();
        own.enter().expect("a thread that entered another namespace can return to its own, which is open");
        Ok(result)
    }

    fn enter(&self) -> io::Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|e| {
            let e = io::Error::from(e);
            let hint = if e.kind() == io::ErrorKind::PermissionDenied { " (root is needed)" } else { "" };
            io::Error::new(e.kind(), format!("cannot enter the network namespace: {e}{hint}"))
        })
    }
}

fn make_mount_point(path: &Path) -> io::Result<()> {
    fs::create_dir_all(RUN_DIR)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o444))?;
    Ok(())
}

fn bind(from: &str, to: &Path) -> io::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(io::Error::from)
}

/// Creates a namespace on a short-lived thread and mounts it at `path`.
fn mount_new(path: &Path) -> io::Result<()> {
    on_new_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        bind("/proc/thread-self/ns/net", path)
    })
}

fn on_new_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().spawn_scoped(scope, work)?;
        worker.join().unwrap_or_else(|_| Err(io::Error::other("the worker thread panicked")))
    })
}

/// What exists at a path.
enum PathKind {
    /// A mounted namespace.
    Namespace,
    /// A regular file, on which a namespace can be mounted.
    File,
    /// Something else, as text for a message.
    Other(&'static str),
}

fn path_kind(path: &Path) -> io::Result<PathKind> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    // Width and sign of `f_type` differ between architectures. The magic number fits all of them.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
    let is_namespace = rustix::fs::fstatfs(&file)?.f_type as u64 == NSFS_MAGIC;
    Ok(match kind {
        _ if is_namespace => PathKind::Namespace,
        FileType::RegularFile => PathKind::File,
        FileType::Symlink => PathKind::Other("a symbolic link"),
        FileType::Directory => PathKind::Other("a directory"),
        _ => PathKind::Other("a special file"),
    })
}

/// Adds the failed step and the path to an error. An error from a limit of this process stays unchanged: see
/// [`limits::is_own_shortage`].
fn with_context(e: io::Error, what: &str, path: &Path) -> io::Error {
    if limits::is_own_shortage(&e) {
        return e;
    }
    io::Error::new(e.kind(), format!("cannot {what} {}: {e}", path.display()))
}
