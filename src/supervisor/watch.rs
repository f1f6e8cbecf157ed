//! Word that the configuration file may have changed: by inotify, so that no one has to ask.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

/// What comes together is one change: an editor writes and renames, Kubernetes exchanges a link to a whole directory.
const SETTLE: Duration = Duration::from_millis(100);

/// No change waits for longer, however many there are.
const LONGEST: Duration = Duration::from_secs(1);

/// What may make another file of it. What is being written is not read before it is closed, so only links count that are made.
const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE);

/// The directories that the file's name leads through last.
#[derive(Debug)]
pub struct Watch {
    inotify: OwnedFd,
    path: PathBuf,
    /// When the first and the last word came that has not been acted upon.
    pending: Option<(Instant, Instant)>,
}

impl Watch {
    /// Watches the file, or the files of the directory.
    ///
    /// # Errors
    /// The kernel has no inotify for us.
    pub fn on(path: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let watch = Self { inotify, path: path.into(), pending: None };
        watch.watch();
        Ok(watch)
    }

    /// The directory that the name is in, the one that it means, and the one that what it means is in. They may be others
    /// than a moment ago; one that is watched already is not watched twice.
    fn watch(&self) {
        for place in &self.places() {
            if let Err(e) = inotify::add_watch(&self.inotify, place, EVENTS) {
                log::warn!("{} can't be watched for changes: {e}; SIGHUP has it read again", place.display());
            }
        }
    }

    fn places(&self) -> Vec<PathBuf> {
        let real = fs::canonicalize(&self.path).ok();
        let places = [self.path.parent(), Some(&*self.path), real.as_deref().and_then(Path::parent)];
        places.into_iter().flatten().filter(|place| place.is_dir()).map(Path::to_owned).collect()
    }

    /// Takes in what has come.
    pub fn drain(&mut self, now: Instant) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut any = false;
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
            let is_link = |place: PathBuf| name.as_ref().is_some_and(|name| place.join(name).is_symlink());
            any |= event.events() != ReadFlags::CREATE || self.places().into_iter().any(is_link);
        }
        if any {
            self.watch();
            self.changed(now);
        }
    }

    /// It may be another now.
    pub fn changed(&mut self, now: Instant) {
        let first = self.pending.map_or(now, |(first, _)| first);
        self.pending = Some((first, now));
    }

    /// When to read it.
    pub fn due(&self) -> Option<Instant> {
        self.pending.map(|(first, last)| (last + SETTLE).min(first + LONGEST))
    }

    /// Whether it is to be read now.
    pub fn take_due(&mut self, now: Instant) -> bool {
        let due = self.due().is_some_and(|due| due <= now);
        if due {
            self.pending = None;
        }
        due
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_way_of_changing_a_file_is_seen() {
        let dir = std::env::temp_dir().join(format!("frr-supervisor-watch-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("..1")).unwrap();
        fs::write(dir.join("..1/vnis.yaml"), "").unwrap();
        symlink("..1", dir.join("..data")).unwrap();
        symlink("..data/vnis.yaml", dir.join("vnis.yaml")).unwrap();
        let mut watch = Watch::on(&dir.join("vnis.yaml")).unwrap();
        let seen = |watch: &mut Watch| {
            let now = Instant::now();
            watch.drain(now);
            watch.due().is_some() && watch.take_due(now + SETTLE)
        };
        assert!(!seen(&mut watch));
        fs::write(dir.join("..1/vnis.yaml"), "a").unwrap();
        assert!(seen(&mut watch), "written in place");
        fs::create_dir(dir.join("..2")).unwrap();
        fs::write(dir.join("..2/vnis.yaml"), "b").unwrap();
        symlink("..2", dir.join("..new")).unwrap();
        seen(&mut watch);
        fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
        assert!(seen(&mut watch), "a link exchanged");
        fs::write(dir.join("..2/vnis.yaml"), "c").unwrap();
        assert!(seen(&mut watch), "written in place behind the new link");
        let mut all = Watch::on(&dir).unwrap();
        let other = fs::File::create(dir.join("other.yaml")).unwrap();
        assert!(!seen(&mut all), "another file of the directory, still open");
        drop(other);
        assert!(seen(&mut all), "another file of the directory");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_burst_is_one_change_and_none_waits_for_ever() {
        let mut watch = Watch::on(Path::new("/nowhere/at/all")).unwrap();
        let begin = Instant::now();
        for n in 0..50 {
            watch.changed(begin + n * Duration::from_millis(50));
        }
        assert_eq!(watch.due(), Some(begin + LONGEST));
        let mut watch = Watch::on(Path::new("/nowhere/at/all")).unwrap();
        watch.changed(begin);
        assert!(!watch.take_due(begin) && watch.take_due(begin + SETTLE) && !watch.take_due(begin + LONGEST));
    }
}
