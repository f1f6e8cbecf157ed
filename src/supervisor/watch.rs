//! Word that the configuration file may have changed: by inotify, so that no one has to ask.

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

/// What comes together is one change: an editor writes and renames, Kubernetes exchanges a link to a whole directory.
const SETTLE: Duration = Duration::from_millis(100);

/// No change waits for longer, however many there are.
const LONGEST: Duration = Duration::from_secs(1);

/// What may lead a path elsewhere: an entry of a directory that it passes through, or the directory itself, is another now.
const PASSED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// What makes another file of one.
const WRITTEN: WatchFlags = WatchFlags::CLOSE_WRITE.union(WatchFlags::ATTRIB);

/// The same, of what is told.
const ONLY_WRITTEN: ReadFlags = ReadFlags::CLOSE_WRITE.union(ReadFlags::ATTRIB).union(ReadFlags::ISDIR);

/// The most links that are followed in one path, as in the kernel (`MAXSYMLINKS`, `include/linux/namei.h`).
const LINKS: usize = 40;

/// The most links of a directory that are followed: more files are not read there.
const ENTRIES: usize = 256;

/// How often the path is followed anew, at most, while others change it under our eyes.
const ATTEMPTS: usize = 8;

/// The most events that are taken in at once.
const EVENTS: usize = 1024;

/// The file or directory, and everything that its path passes through.
#[derive(Debug)]
pub struct Watch {
    inotify: OwnedFd,
    path: PathBuf,
    /// By their number in the kernel: a directory may be there under two paths.
    watched: BTreeMap<i32, Vec<(PathBuf, Place)>>,
    /// What can't be watched, and was said to be so.
    said: BTreeSet<PathBuf>,
    /// When the first and the last word came that has not been acted upon.
    pending: Option<(Instant, Instant)>,
}

/// What is watched at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    flags: WatchFlags,
    /// The names in it by which the path goes on; what becomes of others does not matter.
    names: BTreeSet<OsString>,
    /// Every name matters: it is the directory whose files are read.
    all: bool,
}

impl Default for Place {
    fn default() -> Self {
        Self { flags: WatchFlags::empty(), names: BTreeSet::new(), all: false }
    }
}

type Places = BTreeMap<PathBuf, Place>;

/// Follows a path as the kernel does, link by link, and notes each directory with the name that is looked up in it; of what is not
/// there the nearest directory that is. Where it leads to, as a path without links.
fn follow(path: &Path, places: &mut Places) -> Option<PathBuf> {
    let owned = |path: &Path| path.components().rev().map(|c| c.as_os_str().to_owned()).collect::<Vec<_>>();
    let (mut at, mut rest, mut links) = (PathBuf::from("/"), owned(path), 0);
    while let Some(part) = rest.pop() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => at = PathBuf::from("/"),
            Some(Component::ParentDir) => drop(at.pop()),
            Some(Component::Normal(name)) => {
                let place = places.entry(at.clone()).or_default();
                place.flags |= if rest.is_empty() { PASSED | WRITTEN } else { PASSED };
                place.names.insert(name.to_owned());
                let next = at.join(name);
                let found = fs::symlink_metadata(&next).ok()?;
                if found.is_symlink() {
                    links += 1;
                    rest.extend(owned(&fs::read_link(&next).ok().filter(|_| links <= LINKS)?));
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

/// All that is to be watched for the file, or the files of the directory, at `path`.
fn places(path: &Path) -> Places {
    let mut places = Places::new();
    let Some(end) = follow(path, &mut places) else { return places };
    let end_place = places.entry(end.clone()).or_default();
    // The file itself as well: it may have other names, and be mounted here alone.
    end_place.flags |= WRITTEN;
    if end.is_dir() {
        end_place.flags |= PASSED;
        end_place.all = true;
        let entries = fs::read_dir(&end).into_iter().flatten().flatten();
        let links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
        for link in links.take(ENTRIES) {
            if let Some(file) = follow(&link.path(), &mut places) {
                places.entry(file).or_default().flags |= WRITTEN;
            }
        }
    }
    places
}

impl Watch {
    /// Watches the file, or the files of the directory.
    ///
    /// # Errors
    /// The kernel has no inotify for us.
    pub fn on(path: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let (watched, said) = (BTreeMap::new(), BTreeSet::new());
        let mut watch = Self { inotify, path: path.into(), watched, said, pending: None };
        watch.renew();
        Ok(watch)
    }

    /// Watches what the path passes through now, and nothing else any more. What is watched already is not watched twice.
    fn renew(&mut self) {
        // What came to be before it was watched is found when the path is followed once more.
        for _ in 0..ATTEMPTS {
            let mut watched: BTreeMap<i32, Vec<_>> = BTreeMap::new();
            for (path, place) in places(&self.path) {
                let flags = place.flags | WatchFlags::DONT_FOLLOW | WatchFlags::MASK_ADD;
                match inotify::add_watch(&self.inotify, &path, flags) {
                    Ok(number) => watched.entry(number).or_default().push((path, place)),
                    // It is gone meanwhile.
                    Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(e) if self.said.contains(&path) => log::debug!("{}: {e}", path.display()),
                    Err(e) => {
                        let shown = path.display();
                        log::warn!("{shown} can't be watched for changes: {e}; SIGHUP has it read again");
                        self.said.insert(path);
                    }
                }
            }
            let is_same = watched == self.watched;
            let before = std::mem::replace(&mut self.watched, watched);
            for number in before.into_keys().filter(|number| !self.watched.contains_key(number)) {
                // The kernel does so itself with what is gone.
                let _ = inotify::remove_watch(&self.inotify, number);
            }
            if is_same {
                return;
            }
        }
    }

    /// Something may be mounted in its way now, of which inotify says nothing.
    pub fn mounts_changed(&mut self, now: Instant) {
        let before = self.watched.clone();
        self.renew();
        if before != self.watched {
            self.changed(now);
        }
    }

    /// Takes in what has come.
    pub fn drain(&mut self, now: Instant) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut all = Meaning::default();
        for turn in 0.. {
            // What was read with it and is left would be lost.
            if turn >= EVENTS && reader.is_buffer_empty() {
                break;
            }
            let Ok(event) = reader.next() else { break };
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            all = all.and(match self.watched.get(&event.wd()) {
                _ if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    Meaning { changed: true, elsewhere: true }
                }
                // It is not watched any more.
                None => Meaning::default(),
                Some(places) => places
                    .iter()
                    .map(|(path, place)| place.meaning(path, name, event.events()))
                    .fold(Meaning::default(), Meaning::and),
            });
        }
        if all.elsewhere {
            self.renew();
        }
        if all.changed {
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

/// What an event means.
#[derive(Debug, Default, Clone, Copy)]
struct Meaning {
    /// The configuration may be another.
    changed: bool,
    /// The path may lead elsewhere.
    elsewhere: bool,
}

impl Meaning {
    fn and(self, other: Self) -> Self {
        Self { changed: self.changed || other.changed, elsewhere: self.elsewhere || other.elsewhere }
    }
}

impl Place {
    /// What an event means that has come to `name` in it, or to itself.
    fn meaning(&self, path: &Path, name: Option<&OsStr>, events: ReadFlags) -> Meaning {
        let elsewhere = !ONLY_WRITTEN.contains(events);
        let Some(name) = name else { return Meaning { changed: true, elsewhere } };
        let is_passed = self.names.contains(name);
        if !is_passed && !self.all {
            return Meaning::default();
        }
        let found = fs::symlink_metadata(path.join(name)).ok();
        let is_link = found.as_ref().is_some_and(fs::Metadata::is_symlink);
        // What is being written is not read before it is closed. What is none of that has come with its content.
        let has_content = is_link || found.is_none_or(|found| found.is_dir() || found.nlink() > 1);
        Meaning {
            changed: !events.contains(ReadFlags::CREATE) || has_content,
            elsewhere: elsewhere && (is_passed || is_link),
        }
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

    /// A directory of its own, and none of an earlier run.
    fn directory(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("frr-supervisor-watch-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        fs::canonicalize(dir).unwrap()
    }

    fn put(path: impl AsRef<Path>, text: &str) {
        fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Puts another link in the place of one.
    fn exchange(link: &Path, target: &str) {
        let new = link.with_file_name("link.new");
        symlink(target, &new).unwrap();
        fs::rename(new, link).unwrap();
    }

    /// Whether anything was seen since this was asked last.
    fn seen(watch: &mut Watch) -> bool {
        let now = Instant::now();
        watch.drain(now);
        watch.take_due(now + LONGEST)
    }

    /// Whether it is seen that the file is written, in place and by another in its place; and the former says so each time.
    fn follows(watch: &mut Watch, file: &Path, when: &str) {
        for turn in 0..2 {
            seen(watch);
            assert!(!seen(watch), "nothing happened {when}");
            fs::write(file, format!("{turn}")).unwrap();
            assert!(seen(watch), "written in place {when}, {turn}");
            fs::write(file.with_extension("new"), "c").unwrap();
            fs::rename(file.with_extension("new"), file).unwrap();
            assert!(seen(watch), "replaced {when}, {turn}");
        }
    }

    #[test]
    fn a_directory_that_is_made_anew_is_watched() {
        for form in ["file", "directory"] {
            let top = directory(&format!("anew-{form}"));
            let (dir, file) = (top.join("a/b"), top.join("a/b/vnis.yaml"));
            put(&file, "");
            let mut watch = Watch::on(if form == "file" { &file } else { &dir }).unwrap();
            follows(&mut watch, &file, "at first");
            for place in [&dir, &top.join("a")] {
                fs::remove_dir_all(place).unwrap();
                assert!(seen(&mut watch), "{form}: removed");
                fs::create_dir_all(&dir).unwrap();
                put(&file, "");
                assert!(seen(&mut watch), "{form}: made anew after a while");
                follows(&mut watch, &file, "in the new directory");
                fs::remove_dir_all(place).unwrap();
                put(&file, "");
                assert!(seen(&mut watch), "{form}: made anew at once");
                follows(&mut watch, &file, "in the newer directory");
                fs::rename(place, place.with_extension("old")).unwrap();
                assert!(seen(&mut watch), "{form}: moved away");
                put(&file, "");
                follows(&mut watch, &file, "in another directory");
                put(place.with_extension("old").join("b/vnis.yaml"), "");
                assert!(!seen(&mut watch), "{form}: what was moved away does not matter");
                fs::remove_dir_all(place.with_extension("old")).unwrap();
            }
            let before = watch.watched.len();
            for _ in 0..20 {
                fs::remove_dir_all(&dir).unwrap();
                put(&file, "");
                seen(&mut watch);
            }
            assert_eq!(watch.watched.len(), before, "{form}");
            fs::remove_dir_all(&top).unwrap();
        }
    }

    #[test]
    fn every_link_on_the_way_is_watched() {
        let top = directory("links");
        for n in 1..=3 {
            put(top.join(format!("mnt/..{n}/vnis.yaml")), "");
        }
        symlink("..1", top.join("mnt/..data")).unwrap();
        symlink("..data/vnis.yaml", top.join("mnt/vnis.yaml")).unwrap();
        fs::create_dir_all(top.join("etc/d")).unwrap();
        symlink("../../mnt/vnis.yaml", top.join("etc/d/vnis.yaml")).unwrap();
        symlink(top.join("etc/d/vnis.yaml"), top.join("etc/vnis.yaml")).unwrap();
        symlink("etc", top.join("conf")).unwrap();
        for path in ["conf/vnis.yaml", "conf/d"] {
            let mut watch = Watch::on(&top.join(path)).unwrap();
            assert!(!seen(&mut watch));
            for n in [2, 3, 1] {
                exchange(&top.join("mnt/..data"), &format!("..{n}"));
                assert!(seen(&mut watch), "{path}: ..data exchanged for {n}");
                follows(&mut watch, &top.join(format!("mnt/..{n}/vnis.yaml")), path);
            }
            exchange(&top.join("etc/d/vnis.yaml"), "../../mnt/..2/vnis.yaml");
            assert!(seen(&mut watch), "{path}: a link in the middle exchanged");
            follows(&mut watch, &top.join("mnt/..2/vnis.yaml"), path);
            // A loop is no end.
            exchange(&top.join("etc/d/vnis.yaml"), "vnis.yaml");
            assert!(seen(&mut watch), "{path}: a loop");
            exchange(&top.join("etc/d/vnis.yaml"), "../../mnt/vnis.yaml");
            assert!(seen(&mut watch), "{path}: no loop any more");
            follows(&mut watch, &top.join("mnt/..1/vnis.yaml"), path);
        }
        let mut watch = Watch::on(&top.join("conf/vnis.yaml")).unwrap();
        put(top.join("new/d/vnis.yaml"), "");
        exchange(&top.join("conf"), "new/d");
        assert!(seen(&mut watch), "the first link exchanged");
        follows(&mut watch, &top.join("new/d/vnis.yaml"), "behind the first link");
        fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn what_is_not_there_yet_is_seen_when_it_comes() {
        let top = directory("missing");
        let file = top.join("a/b/c/vnis.yaml");
        let mut watch = Watch::on(&file).unwrap();
        put(top.join("other/x.yaml"), "");
        assert!(!seen(&mut watch), "what does not lead there");
        fs::create_dir_all(top.join("a/b")).unwrap();
        seen(&mut watch);
        symlink(top.join("real"), top.join("a/b/c")).unwrap();
        seen(&mut watch);
        put(top.join("real/vnis.yaml"), "a");
        assert!(seen(&mut watch), "it has come");
        follows(&mut watch, &top.join("real/vnis.yaml"), "behind a link that led nowhere");
        // One that is there at once, and has no name that it is written by.
        fs::remove_file(top.join("real/vnis.yaml")).unwrap();
        assert!(seen(&mut watch), "it has gone");
        put(top.join("elsewhere/file"), "b");
        fs::hard_link(top.join("elsewhere/file"), top.join("real/vnis.yaml")).unwrap();
        assert!(seen(&mut watch), "linked");
        fs::write(top.join("elsewhere/file"), "c").unwrap();
        assert!(seen(&mut watch), "written under its other name");
        fs::remove_dir_all(&top).unwrap();
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
