//! Notices by inotify that the configuration file may have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

/// Events that follow each other within this time are one change: an editor writes and renames, Kubernetes exchanges a
/// link to a whole directory.
const QUIET_TIME: Duration = Duration::from_millis(100);

/// Longest delay of a change while events keep coming.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// Events of a directory in the path that can change where the path leads: an entry of the directory, or the directory
/// itself, was replaced.
const PATH_EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// Events that can change the content of a file.
const CONTENT_EVENTS: WatchFlags = WatchFlags::CLOSE_WRITE.union(WatchFlags::ATTRIB);

/// [`CONTENT_EVENTS`] as flags of a received event.
const CONTENT_FLAGS: ReadFlags = ReadFlags::CLOSE_WRITE.union(ReadFlags::ATTRIB).union(ReadFlags::ISDIR);

/// Limit of symbolic links that are followed in one path, as in the kernel (`MAXSYMLINKS`, `include/linux/namei.h`).
const MAX_SYMLINKS: usize = 40;

/// Limit of symbolic links in a directory that are followed: more files are not read there.
const MAX_DIRECTORY_LINKS: usize = 256;

/// Limit of attempts to follow the path while it keeps changing.
const MAX_ATTEMPTS: usize = 8;

/// Limit of events that are read at once.
const MAX_EVENTS: usize = 1024;

/// Watches on the file or directory, and on everything in its path.
#[derive(Debug)]
pub struct FileWatch {
    inotify: OwnedFd,
    path: PathBuf,
    /// The watched paths by watch descriptor: one directory may have two paths.
    watched: BTreeMap<i32, Vec<(PathBuf, WatchEntry)>>,
    /// Paths that cannot be watched and were reported.
    reported: BTreeSet<PathBuf>,
    /// Times of the first and the last event that the supervisor has not acted on.
    pending: Option<(Instant, Instant)>,
}

/// What is watched at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct WatchEntry {
    flags: WatchFlags,
    /// The names in this directory through which the path continues. Other names have no effect.
    names: BTreeSet<OsString>,
    /// Every name has an effect: the files of this directory are the configuration.
    all_names: bool,
}

impl Default for WatchEntry {
    fn default() -> Self {
        Self { flags: WatchFlags::empty(), names: BTreeSet::new(), all_names: false }
    }
}

type WatchEntries = BTreeMap<PathBuf, WatchEntry>;

/// Follows a path link by link, as the kernel does. Adds each directory to `entries` with the name that is looked up in
/// it; for a missing directory, the nearest existing one. Returns where the path leads, as a path without links.
fn follow(path: &Path, entries: &mut WatchEntries) -> Option<PathBuf> {
    let owned = |path: &Path| path.components().rev().map(|c| c.as_os_str().to_owned()).collect::<Vec<_>>();
    let (mut at, mut rest, mut links) = (PathBuf::from("/"), owned(path), 0);
    while let Some(part) = rest.pop() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => at = PathBuf::from("/"),
            Some(Component::ParentDir) => drop(at.pop()),
            Some(Component::Normal(name)) => {
                let entry = entries.entry(at.clone()).or_default();
                entry.flags |= if rest.is_empty() { PATH_EVENTS | CONTENT_EVENTS } else { PATH_EVENTS };
                entry.names.insert(name.to_owned());
                let next = at.join(name);
                let found = fs::symlink_metadata(&next).ok()?;
                if found.is_symlink() {
                    links += 1;
                    rest.extend(owned(&fs::read_link(&next).ok().filter(|_| links <= MAX_SYMLINKS)?));
                } else if found.is_dir() || rest.is_empty() {
                    at = next;
                } else {
                    return None;
                }
            }
            _ => {}
        }
    }
    Some(at)
}

/// Everything to watch for the file, or for the files of the directory, at `path`.
fn watch_entries(path: &Path) -> WatchEntries {
    let mut entries = WatchEntries::new();
    let Some(end) = follow(path, &mut entries) else { return entries };
    let end_entry = entries.entry(end.clone()).or_default();
    // The file itself, too: it may have other names, and may be a mount point of its own.
    end_entry.flags |= CONTENT_EVENTS;
    if end.is_dir() {
        end_entry.flags |= PATH_EVENTS;
        end_entry.all_names = true;
        let files = fs::read_dir(&end).into_iter().flatten().flatten();
        let links = files.filter(|file| file.file_type().is_ok_and(|kind| kind.is_symlink()));
        for link in links.take(MAX_DIRECTORY_LINKS) {
            if let Some(file) = follow(&link.path(), &mut entries) {
                entries.entry(file).or_default().flags |= CONTENT_EVENTS;
            }
        }
    }
    entries
}

impl FileWatch {
    /// Watches the file, or the files in the directory.
    ///
    /// # Errors
    /// The process can create no inotify instance.
    pub fn new(path: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let (watched, reported) = (BTreeMap::new(), BTreeSet::new());
        let mut watch = Self { inotify, path: path.into(), watched, reported, pending: None };
        watch.update_watches();
        Ok(watch)
    }

    /// Watches everything in the current path, and removes the watches on everything else. A path that is watched
    /// already is not watched twice.
    fn update_watches(&mut self) {
        // Following the path once more finds what was created before its directory was watched.
        for _ in 0..MAX_ATTEMPTS {
            let mut watched: BTreeMap<i32, Vec<_>> = BTreeMap::new();
            for (path, entry) in watch_entries(&self.path) {
                let flags = entry.flags | WatchFlags::DONT_FOLLOW | WatchFlags::MASK_ADD;
                match inotify::add_watch(&self.inotify, &path, flags) {
                    Ok(descriptor) => watched.entry(descriptor).or_default().push((path, entry)),
                    // It was removed meanwhile.
                    Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(e) if self.reported.contains(&path) => log::debug!("{}: {e}", path.display()),
                    Err(e) => {
                        log::warn!(
                            "{}: cannot be watched for changes: {e}; send SIGHUP to read it again",
                            path.display()
                        );
                        self.reported.insert(path);
                    }
                }
            }
            let is_unchanged = watched == self.watched;
            let before = std::mem::replace(&mut self.watched, watched);
            for descriptor in before.into_keys().filter(|descriptor| !self.watched.contains_key(descriptor)) {
                // This fails if the kernel has removed the watch together with its directory.
                let _ = inotify::remove_watch(&self.inotify, descriptor);
            }
            if is_unchanged {
                return;
            }
        }
    }

    /// The mounts have changed. The path may lead through other ones now, which inotify does not report.
    pub fn mounts_changed(&mut self, now: Instant) {
        let before = self.watched.clone();
        self.update_watches();
        if before != self.watched {
            self.file_changed(now);
        }
    }

    /// Reads the pending events.
    pub fn read_events(&mut self, now: Instant) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut total = EventEffect::default();
        for count in 0.. {
            // Events that are still in the buffer would be lost.
            if count >= MAX_EVENTS && reader.is_buffer_empty() {
                break;
            }
            let Ok(event) = reader.next() else { break };
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            total = total.or(match self.watched.get(&event.wd()) {
                _ if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    EventEffect { content_changed: true, path_changed: true }
                }
                // The path is no longer watched.
                None => EventEffect::default(),
                Some(entries) => entries
                    .iter()
                    .map(|(path, entry)| entry.effect(path, name, event.events()))
                    .fold(EventEffect::default(), EventEffect::or),
            });
        }
        if total.path_changed {
            self.update_watches();
        }
        if total.content_changed {
            self.file_changed(now);
        }
    }

    /// The file may have changed.
    pub fn file_changed(&mut self, now: Instant) {
        let first = self.pending.map_or(now, |(first, _)| first);
        self.pending = Some((first, now));
    }

    /// When to read the file.
    pub fn due(&self) -> Option<Instant> {
        self.pending.map(|(first, last)| (last + QUIET_TIME).min(first + MAX_DELAY))
    }

    /// Whether the file must be read now; clears the pending events if so.
    pub fn take_due(&mut self, now: Instant) -> bool {
        let due = self.due().is_some_and(|due| due <= now);
        if due {
            self.pending = None;
        }
        due
    }
}

impl AsFd for FileWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Effect of an event.
#[derive(Debug, Default, Clone, Copy)]
struct EventEffect {
    /// The configuration may have changed.
    content_changed: bool,
    /// The path may lead elsewhere.
    path_changed: bool,
}

impl EventEffect {
    fn or(self, other: Self) -> Self {
        Self {
            content_changed: self.content_changed || other.content_changed,
            path_changed: self.path_changed || other.path_changed,
        }
    }
}

impl WatchEntry {
    /// The effect of an event of the entry `name` in the directory `path`, or of `path` itself.
    fn effect(&self, path: &Path, name: Option<&OsStr>, events: ReadFlags) -> EventEffect {
        let path_changed = !CONTENT_FLAGS.contains(events);
        let Some(name) = name else { return EventEffect { content_changed: true, path_changed } };
        let is_in_path = self.names.contains(name);
        if !is_in_path && !self.all_names {
            return EventEffect::default();
        }
        let found = fs::symlink_metadata(path.join(name)).ok();
        let is_link = found.as_ref().is_some_and(fs::Metadata::is_symlink);
        // A file that is being written is read after it is closed. A link, a directory or a hard link is created with
        // its content.
        let has_content = is_link || found.is_none_or(|found| found.is_dir() || found.nlink() > 1);
        EventEffect {
            content_changed: !events.contains(ReadFlags::CREATE) || has_content,
            path_changed: path_changed && (is_in_path || is_link),
        }
    }
}

#[cfg(test)]
mod tests;
