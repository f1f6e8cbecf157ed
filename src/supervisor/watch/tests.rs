use super::*;
use std::os::unix::fs::symlink;

#[test]
fn every_way_of_changing_a_file_is_noticed() {
    let dir = std::env::temp_dir().join(format!("frr-supervisor-watch-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("..1")).unwrap();
    fs::write(dir.join("..1/vnis.yaml"), "").unwrap();
    symlink("..1", dir.join("..data")).unwrap();
    symlink("..data/vnis.yaml", dir.join("vnis.yaml")).unwrap();
    let mut watch = FileWatch::new(&dir.join("vnis.yaml")).unwrap();
    assert!(!noticed(&mut watch));
    fs::write(dir.join("..1/vnis.yaml"), "a").unwrap();
    assert!(noticed(&mut watch), "written in place");
    fs::create_dir(dir.join("..2")).unwrap();
    fs::write(dir.join("..2/vnis.yaml"), "b").unwrap();
    symlink("..2", dir.join("..new")).unwrap();
    noticed(&mut watch);
    fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
    assert!(noticed(&mut watch), "a link replaced");
    fs::write(dir.join("..2/vnis.yaml"), "c").unwrap();
    assert!(noticed(&mut watch), "written in place behind the new link");
    let mut all = FileWatch::new(&dir).unwrap();
    let other = fs::File::create(dir.join("other.yaml")).unwrap();
    assert!(!noticed(&mut all), "another file of the directory, still open");
    drop(other);
    assert!(noticed(&mut all), "another file of the directory");
    fs::remove_dir_all(&dir).unwrap();
}

/// An empty directory for one test.
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

/// Replaces a link.
fn replace_link(link: &Path, target: &str) {
    let new = link.with_file_name("link.new");
    symlink(target, &new).unwrap();
    fs::rename(new, link).unwrap();
}

/// Whether a change was noticed since the last call.
fn noticed(watch: &mut FileWatch) -> bool {
    let now = Instant::now();
    watch.read_events(now);
    watch.take_due(now + MAX_DELAY)
}

/// Checks that a write in place and a replacement of the file are noticed each time.
fn assert_followed(watch: &mut FileWatch, file: &Path, when: &str) {
    for turn in 0..2 {
        noticed(watch);
        assert!(!noticed(watch), "nothing happened {when}");
        fs::write(file, format!("{turn}")).unwrap();
        assert!(noticed(watch), "written in place {when}, {turn}");
        fs::write(file.with_extension("new"), "c").unwrap();
        fs::rename(file.with_extension("new"), file).unwrap();
        assert!(noticed(watch), "replaced {when}, {turn}");
    }
}

#[test]
fn a_recreated_directory_is_watched() {
    for form in ["file", "directory"] {
        let top = directory(&format!("recreated-{form}"));
        let (dir, file) = (top.join("a/b"), top.join("a/b/vnis.yaml"));
        put(&file, "");
        let mut watch = FileWatch::new(if form == "file" { &file } else { &dir }).unwrap();
        assert_followed(&mut watch, &file, "at first");
        for place in [&dir, &top.join("a")] {
            fs::remove_dir_all(place).unwrap();
            assert!(noticed(&mut watch), "{form}: removed");
            fs::create_dir_all(&dir).unwrap();
            put(&file, "");
            assert!(noticed(&mut watch), "{form}: recreated after a while");
            assert_followed(&mut watch, &file, "in the new directory");
            fs::remove_dir_all(place).unwrap();
            put(&file, "");
            assert!(noticed(&mut watch), "{form}: recreated at once");
            assert_followed(&mut watch, &file, "in the newer directory");
            fs::rename(place, place.with_extension("old")).unwrap();
            assert!(noticed(&mut watch), "{form}: moved away");
            put(&file, "");
            assert_followed(&mut watch, &file, "in another directory");
            put(place.with_extension("old").join("b/vnis.yaml"), "");
            assert!(!noticed(&mut watch), "{form}: a moved directory has no effect");
            fs::remove_dir_all(place.with_extension("old")).unwrap();
        }
        let before = watch.watched.len();
        for _ in 0..20 {
            fs::remove_dir_all(&dir).unwrap();
            put(&file, "");
            noticed(&mut watch);
        }
        assert_eq!(watch.watched.len(), before, "{form}");
        fs::remove_dir_all(&top).unwrap();
    }
}

#[test]
fn every_link_in_the_path_is_watched() {
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
        let mut watch = FileWatch::new(&top.join(path)).unwrap();
        assert!(!noticed(&mut watch));
        for n in [2, 3, 1] {
            replace_link(&top.join("mnt/..data"), &format!("..{n}"));
            assert!(noticed(&mut watch), "{path}: ..data replaced by {n}");
            assert_followed(&mut watch, &top.join(format!("mnt/..{n}/vnis.yaml")), path);
        }
        replace_link(&top.join("etc/d/vnis.yaml"), "../../mnt/..2/vnis.yaml");
        assert!(noticed(&mut watch), "{path}: a link in the middle replaced");
        assert_followed(&mut watch, &top.join("mnt/..2/vnis.yaml"), path);
        // A loop of links.
        replace_link(&top.join("etc/d/vnis.yaml"), "vnis.yaml");
        assert!(noticed(&mut watch), "{path}: a loop");
        replace_link(&top.join("etc/d/vnis.yaml"), "../../mnt/vnis.yaml");
        assert!(noticed(&mut watch), "{path}: the loop removed");
        assert_followed(&mut watch, &top.join("mnt/..1/vnis.yaml"), path);
    }
    let mut watch = FileWatch::new(&top.join("conf/vnis.yaml")).unwrap();
    put(top.join("new/d/vnis.yaml"), "");
    replace_link(&top.join("conf"), "new/d");
    assert!(noticed(&mut watch), "the first link replaced");
    assert_followed(&mut watch, &top.join("new/d/vnis.yaml"), "behind the first link");
    fs::remove_dir_all(&top).unwrap();
}

#[test]
fn a_missing_file_is_noticed_when_it_appears() {
    let top = directory("missing");
    let file = top.join("a/b/c/vnis.yaml");
    let mut watch = FileWatch::new(&file).unwrap();
    put(top.join("other/x.yaml"), "");
    assert!(!noticed(&mut watch), "a directory outside the path");
    fs::create_dir_all(top.join("a/b")).unwrap();
    noticed(&mut watch);
    symlink(top.join("real"), top.join("a/b/c")).unwrap();
    noticed(&mut watch);
    put(top.join("real/vnis.yaml"), "a");
    assert!(noticed(&mut watch), "created");
    assert_followed(&mut watch, &top.join("real/vnis.yaml"), "behind a link that was dangling");
    // A hard link: it has its content at once, and is written under another name.
    fs::remove_file(top.join("real/vnis.yaml")).unwrap();
    assert!(noticed(&mut watch), "removed");
    put(top.join("elsewhere/file"), "b");
    fs::hard_link(top.join("elsewhere/file"), top.join("real/vnis.yaml")).unwrap();
    assert!(noticed(&mut watch), "linked");
    fs::write(top.join("elsewhere/file"), "c").unwrap();
    assert!(noticed(&mut watch), "written under its other name");
    fs::remove_dir_all(&top).unwrap();
}

#[test]
fn a_burst_is_one_change_with_a_bounded_delay() {
    let mut watch = FileWatch::new(Path::new("/nowhere/at/all")).unwrap();
    let begin = Instant::now();
    for n in 0..50 {
        watch.file_changed(begin + n * Duration::from_millis(50));
    }
    assert_eq!(watch.due(), Some(begin + MAX_DELAY));
    let mut watch = FileWatch::new(Path::new("/nowhere/at/all")).unwrap();
    watch.file_changed(begin);
    assert!(
        !watch.take_due(begin) && watch.take_due(begin + QUIET_TIME) && !watch.take_due(begin + MAX_DELAY)
    );
}
