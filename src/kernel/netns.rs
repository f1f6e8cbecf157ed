//! Network namespaces: hold one by a bind mount below `/run/netns`, as iproute2 does, and work in it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

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
    /// The step that failed, as a sentence.
    pub fn ensure(name: &str) -> io::Result<(Self, Origin)> {
        let path = Self::path(name);
        let origin = match is_nsfs(&path) {
            Ok(true) => Origin::Found,
            Ok(false) => Origin::Repaired,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make_mount_point(&path).map_err(|e| because(e, "create", &path))?;
                Origin::Created
            }
            Err(e) => return Err(because(e, "examine", &path)),
        };
        if origin != Origin::Found {
            hold_new(&path).map_err(|e| because(e, "hold a new network namespace at", &path))?;
        }
        Ok((Self::open(&path).map_err(|e| because(e, "open", &path))?, origin))
    }

    /// The namespace that is held under `name`, if one is.
    pub fn held_there(name: &str) -> Option<Self> {
        let path = Self::path(name);
        matches!(is_nsfs(&path), Ok(true)).then(|| Self::open(&path).ok())?
    }

    /// What is held under `name`.
    ///
    /// # Errors
    /// The open file or the one of that name can't be examined.
    pub fn held_as(&self, name: &str) -> io::Result<Held> {
        let path = Self::path(name);
        match is_nsfs(&path) {
            Ok(true) => {}
            Ok(false) => return Ok(Held::Nothing),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Held::Nothing),
            Err(e) => return Err(because(e, "examine", &path)),
        }
        let (own, held) = (self.file.metadata()?, fs::metadata(&path)?);
        let same = (held.dev(), held.ino()) == (own.dev(), own.ino());
        Ok(if same { Held::Itself } else { Held::Another })
    }

    /// Holds this namespace under `name`, where nothing is held.
    ///
    /// # Errors
    /// The step that failed, as a sentence.
    pub fn hold_as(&self, name: &str) -> io::Result<()> {
        let path = Self::path(name);
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
        umount2(&path, MntFlags::MNT_DETACH).map_err(|e| because(e.into(), "unmount", &path))?;
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
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o444).open(path).map(|_| ())
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

fn is_nsfs(path: &Path) -> io::Result<bool> {
    let stat = rustix::fs::statfs(path)?;
    // The type's width and sign differ between architectures; the magic number fits all of them.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
    Ok(stat.f_type as u64 == NSFS_MAGIC)
}

fn because(e: io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(e.kind(), format!("cannot {what} {}: {e}", path.display()))
}
