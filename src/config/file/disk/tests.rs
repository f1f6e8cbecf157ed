use super::*;
use crate::model::Value as _;
use std::os::unix::fs::symlink;

fn read(path: &Path) -> (Vec<(String, String)>, String) {
    let (files, problems) = super::read_files(&FilePath::parse(path.to_str().unwrap()).unwrap());
    (files, problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn directory(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("frr-supervisor-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn a_directory_is_read_in_the_order_of_names() {
    let dir = directory("file");
    let data = dir.join("..data");
    fs::create_dir_all(&data).unwrap();
    for (name, content) in [("b.yaml", "b"), ("a.yml", "a"), ("c.txt", "c"), (".d.yaml", "d")] {
        fs::write(data.join(name), content).unwrap();
        symlink(format!("..data/{name}"), dir.join(name)).unwrap();
    }
    let (files, problems) = read(&dir);
    assert_eq!((files[0].1.as_str(), files[1].1.as_str(), files.len()), ("a", "b", 2));
    assert_eq!(problems, "");
    assert_eq!(read(&dir.join("c.txt")).0[0].1, "c");
    assert!(read(&dir.join("none.yaml")).1.contains("none.yaml: No such file"));
    assert!(read(Path::new("/dev/null")).1.contains("not a regular file"));
    fs::remove_dir_all(&dir).unwrap();
}

/// Each kind of unreadable file leaves the others readable.
#[test]
fn an_unreadable_file_does_not_affect_the_others() {
    type Make = fn(&Path);
    let kinds: [(&str, Make); 6] = [
        ("not UTF-8", |path| fs::write(path, b"\xff").unwrap()),
        ("larger than 4 MiB", |path| fs::write(path, vec![b' '; (4 << 20) + 1]).unwrap()),
        ("larger than 4 MiB with the files before it", |path| {
            fs::write(path, vec![b' '; 4 << 20]).unwrap();
        }),
        ("not a regular file but a directory", |path| fs::create_dir(path).unwrap()),
        ("No such file", |path| symlink("nowhere", path).unwrap()),
        ("not a regular file but a FIFO", |path| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
        }),
    ];
    let dir = directory("others");
    for (reason, make) in kinds {
        fs::write(dir.join("a.yaml"), "a").unwrap();
        fs::write(dir.join("c.yaml"), "c").unwrap();
        make(&dir.join("b\u{1b}.yaml"));
        let (files, problems) = read(&dir);
        let texts: Vec<&str> = files.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["a", "c"], "{reason}");
        assert!(problems.contains(reason) && problems.contains("b\\u{1b}.yaml: "), "{problems}");
        assert!(problems.ends_with(": this file is left out") && problems.lines().count() == 1, "{problems}");
        fs::remove_dir_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
    }
    (0..260).for_each(|i| fs::write(dir.join(format!("{i:03}.yaml")), "").unwrap());
    let (files, problems) = read(&dir);
    assert_eq!(files.len(), 256);
    assert!(problems.contains("256.yaml: the directory has more than 256 files"), "{problems}");
    fs::remove_dir_all(&dir).unwrap();
}
