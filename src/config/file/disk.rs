//! The text of the configuration file, or of the files of a directory.

use std::ffi::OsStr;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::config::ConfigProblem;
use crate::files::{self, Owner};
use crate::model::FilePath;
use crate::printable::printable;

/// The size limit of a file, and of all files of a directory together, in bytes. It is enough for 4096 VNIs with all
/// their options.
const MAX_BYTES: u64 = 4 << 20;

/// Reason for leaving out one of several files.
const TOO_LARGE: &str = "larger than 4 MiB with the files before it";

/// The most files in a directory.
const MAX_FILES: usize = 256;

/// Reads the file, or the `*.yaml` and `*.yml` files of the directory in the order of their names. Returns each text
/// with the file name for problems, and a problem for each file that cannot be read: not a regular file, not UTF-8, too
/// large, or too many files. Symbolic links are followed, because Kubernetes mounts use them. Names with a leading dot,
/// the targets of those links, are ignored.
pub fn read_files(path: &FilePath) -> (Vec<(String, String)>, Vec<ConfigProblem>) {
    let path = Path::new(path.as_str());
    let (mut files, mut problems) = (vec![], vec![]);
    let is_directory = match fs::metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        Err(e) => return (files, vec![problem(path, e)]),
    };
    if !is_directory {
        match text(path) {
            Ok(text) => files.push((name(path), text)),
            Err(e) => problems.push(problem(path, e)),
        }
        return (files, problems);
    }
    let mut paths: Vec<PathBuf> = vec![];
    match fs::read_dir(path) {
        Ok(entries) => {
            for entry in entries {
                match entry {
                    Ok(entry) if has_yaml_extension(&entry.file_name()) => paths.push(entry.path()),
                    Ok(_) => {}
                    Err(e) => problems.push(problem(path, e)),
                }
            }
        }
        Err(e) => problems.push(problem(path, e)),
    }
    paths.sort();
    let mut left = MAX_BYTES;
    for path in paths.iter().take(MAX_FILES) {
        // The size is checked before the file is read: there may be many large files.
        let length =
            fs::metadata(path).ok().filter(fs::Metadata::is_file).map_or(0, |metadata| metadata.len());
        let fits = |length| left.checked_sub(length).ok_or_else(|| io::Error::other(TOO_LARGE));
        let text =
            fits(length).and_then(|_| text(path)).and_then(|text| Ok((fits(text.len() as u64)?, text)));
        let text = text.map(|(rest, text)| {
            left = rest;
            text
        });
        match text {
            Ok(text) => files.push((name(path), text)),
            Err(e) => problems.push(problem(path, format_args!("{e}: this file is left out"))),
        }
    }
    if let Some(first) = paths.get(MAX_FILES) {
        let reason =
            format!("the directory has more than {MAX_FILES} files: this and those after it are left out");
        problems.push(problem(first, reason));
    }
    (files, problems)
}

fn has_yaml_extension(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml"))
}

fn name(path: &Path) -> String {
    printable(&path.to_string_lossy()).into_owned()
}

fn problem(path: &Path, reason: impl Display) -> ConfigProblem {
    ConfigProblem(format!("CONFIG_FILE: {}: {reason}", name(path)))
}

fn text(path: &Path) -> io::Result<String> {
    files::read(path, Owner::Operator, MAX_BYTES)
}

#[cfg(test)]
mod tests {
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
            assert!(
                problems.ends_with(": this file is left out") && problems.lines().count() == 1,
                "{problems}"
            );
            fs::remove_dir_all(&dir).unwrap();
            fs::create_dir(&dir).unwrap();
        }
        (0..260).for_each(|i| fs::write(dir.join(format!("{i:03}.yaml")), "").unwrap());
        let (files, problems) = read(&dir);
        assert_eq!(files.len(), 256);
        assert!(problems.contains("256.yaml: the directory has more than 256 files"), "{problems}");
        fs::remove_dir_all(&dir).unwrap();
    }
}
