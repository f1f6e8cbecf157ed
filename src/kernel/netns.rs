//! Network namespaces: hold one by a bind mount below `/run/netns`, as iproute2 does, and work in it.

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

/// Where named namespaces are held (`NETNS_RUN_DIR` of iproute2).
pub const RUN_DIR: &str = "/run/netns";

/// Magic number of the file system that namespaces live in (`NSFS_MAGIC`, `linux/magic.h`).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// A network namespace, kept alive by the open file.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

/// How a named namespace came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was there.
    Found,
    /// It is new.
    Created,
    /// Its file was there, but nothing was mounted on it.
    Repaired,
}

/// What is held under the name of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The namespace itself.
    Itself,
    /// Nothing: what still runs in it, or has it open, keeps it alive.
    Nothing,
    /// Another one.
    Another,
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

    /// The namespace called `name`, made and held by a bind mount if it is not there.
    ///
    /// # Errors
    /// The step that failed, as a sentence; or what is there is nothing that FRR is to run in.
    pub fn ensure(name: &str) -> io::Result<(Self, Origin)> {
        let path = Self::path(name);
        let origin = match look(&path) {
            Ok(There::Namespace) => Origin::Found,
            Ok(There::File) => Origin::Repaired,
            Ok(There::Other(what)) => {
                return Err(io::Error::other(format!(
                    "{} is {what}, where a mount is to hold FRR's network namespace: remove it, or choose another name with NETNS",
                    path.display()
                )));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make_mount_point(&path).map_err(|e| because(e, "create", &path))?;
                Origin::Created
            }
            Err(e) => return Err(because(e, "examine", &path)),
        };
        if origin != Origin::Found {
            hold_new(&path).map_err(|e| because(e, "hold a new network namespace at", &path))?;
        }
        let found = Self::open(&path).map_err(|e| because(e, "open", &path))?;
        if origin == Origin::Found {
            found.may_be_ours(&path)?;
        }
        Ok((found, origin))
    }

    /// Refuses what is mounted at `path` if it can't be a namespace of ours.
    fn may_be_ours(&self, path: &Path) -> io::Result<()> {
        let refuse = |what: &str, otherwise: &str| {
            let path = path.display();
            Err(io::Error::other(format!(
                "{path} holds {what}: unmount it (umount {path}; rm {path}), or {otherwise}"
            )))
        };
        // Without the right to enter it, a later step says so.
        if on_a_thread(|| Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)))? == Err(Errno::EINVAL) {
            return refuse(
                "a namespace of another kind, not a network namespace",
                "choose another name with NETNS",
            );
        }
        // In a container with processes of its own, the first one of them is as good as we.
        let host = [Self::current(), Self::open(Path::new("/proc/1/ns/net"))];
        let own = self.identity()?;
        if host.into_iter().flatten().any(|host| host.identity().is_ok_and(|host| host == own)) {
            return refuse("the host's own network namespace", "set NETNS=host for FRR to run there");
        }
        Ok(())
    }

    /// Who else has this namespace, if it was not made for FRR: under which other name it is held, or what runs in it; in words.
    ///
    /// # Errors
    /// The open file can't be examined.
    pub fn others_claim(&self, name: &str) -> io::Result<Option<String>> {
        let own = self.identity()?;
        let same = |path: &Path| fs::metadata(path).is_ok_and(|held| (held.dev(), held.ino()) == own);
        let names = fs::read_dir(RUN_DIR).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let held = names.filter(|other| other != name).find(|other| same(&Path::new(RUN_DIR).join(other)));
        if let Some(other) = held {
            return Ok(Some(format!("it is held as {:?}, too", other.to_string_lossy())));
        }
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        let pids = pids.filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u32>().is_ok())
        });
        for process in pids.filter(|process| same(&process.join("ns/net"))) {
            let program = fs::read_link(process.join("exe")).unwrap_or_default();
            // FRR's may have been left by an instance of ours.
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

    /// The namespace that is held under `name`, if one is.
    pub fn held_there(name: &str) -> Option<Self> {
        let path = Self::path(name);
        matches!(look(&path), Ok(There::Namespace)).then(|| Self::open(&path).ok())?
    }

    /// What is held under `name`.
    ///
    /// # Errors
    /// The open file or the one of that name can't be examined.
    pub fn held_as(&self, name: &str) -> io::Result<Held> {
        let path = Self::path(name);
        match look(&path) {
            Ok(There::Namespace) => {}
            Ok(There::File | There::Other(_)) => return Ok(Held::Nothing),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Held::Nothing),
            Err(e) => return Err(because(e, "examine", &path)),
        }
        let held = fs::metadata(&path)?;
        let same = (held.dev(), held.ino()) == self.identity()?;
        Ok(if same { Held::Itself } else { Held::Another })
    }

    /// Holds this namespace under `name`, where nothing is held.
    ///
    /// # Errors
    /// The step that failed, as a sentence.
    pub fn hold_as(&self, name: &str) -> io::Result<()> {
        let path = Self::path(name);
        // A link in its place would have something mounted elsewhere.
        if fs::symlink_metadata(&path).is_ok_and(|there| there.is_symlink()) {
            fs::remove_file(&path).map_err(|e| because(e, "remove the link", &path))?;
        }
        make_mount_point(&path).map_err(|e| because(e, "create", &path))?;
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        bind(&own, &path).map_err(|e| because(e, "hold the network namespace at", &path))
    }

    /// Ends the hold on the namespace called `name`. What still runs in it keeps it alive.
    ///
    /// # Errors
    /// The mount or the file can't be removed.
    pub fn release(name: &str) -> io::Result<()> {
        let path = Self::path(name);
        umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|e| because(e.into(), "unmount", &path))?;
        fs::remove_file(&path).map_err(|e| because(e, "remove", &path))
    }

    /// Where a namespace of that name is held.
    pub fn path(name: &str) -> PathBuf {
        Path::new(RUN_DIR).join(name)
    }

    /// The file that stands for the namespace, for `IFLA_NET_NS_FD`.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The number that tells it from others, as `stat -L` shows it.
    ///
    /// # Errors
    /// The open file can't be examined.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// Runs `work` in this namespace, on a thread of its own, so that no error leaves the caller in the wrong one.
    /// What `work` opens or starts there stays there.
    ///
    /// # Errors
    /// The namespace can't be entered, or what `work` returns.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_a_thread(|| {
            self.enter()?;
            work()
        })
    }

    /// Runs `work`, which opens nothing that stays, in this namespace on the calling thread: for what is read or set so often
    /// that threads would cost more than the work.
    ///
    /// # Errors
    /// The namespace can't be entered.
    ///
    /// # Panics
    /// The caller's own can't be entered again, and so nothing that it does would be right.
    pub fn visit<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let own = Self::current()?;
        self.enter()?;
        let result = work();
        own.enter().expect("a namespace that is open can be entered by who has entered another");
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

/// Makes a namespace on a thread that ends at once, and leaves it mounted at `path`.
fn hold_new(path: &Path) -> io::Result<()> {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        bind("/proc/thread-self/ns/net", path)
    })
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().spawn_scoped(scope, work)?;
        worker.join().unwrap_or_else(|_| Err(io::Error::other("the worker thread panicked")))
    })
}

/// What is at a path.
enum There {
    /// A namespace is mounted on it.
    Namespace,
    /// A file, on which one can be mounted.
    File,
    /// Something else, in words.
    Other(&'static str),
}

fn look(path: &Path) -> io::Result<There> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    // The type's width and sign differ between architectures; the magic number fits all of them.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
    let is_namespace = rustix::fs::fstatfs(&file)?.f_type as u64 == NSFS_MAGIC;
    Ok(match kind {
        _ if is_namespace => There::Namespace,
        FileType::RegularFile => There::File,
        FileType::Symlink => There::Other("a link"),
        FileType::Directory => There::Other("a directory"),
        _ => There::Other("no regular file"),
    })
}

/// The error with what could not be done. One of our own limits stays what it is: see [`limits::is_ours`].
fn because(e: io::Error, what: &str, path: &Path) -> io::Error {
    if limits::is_ours(&e) {
        return e;
    }
    io::Error::new(e.kind(), format!("cannot {what} {}: {e}", path.display()))
}
