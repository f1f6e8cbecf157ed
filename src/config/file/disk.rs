//! The file, or the files of a directory, as text.

use std::fs;
use std::path::{Path, PathBuf};

use crate::files::{self, Owner};
use crate::model::FilePath;

/// The largest file, and the most that the files of a directory may have together, in bytes: 4096 VNIs with all that they
/// can have fit.
const LIMIT: u64 = 4 << 20;

/// The most files in a directory.
const FILES: usize = 256;

/// Reads the file, or the `*.yaml` and `*.yml` of the directory in the order of their names, each with the name that
/// problems call it by. Links are followed, as Kubernetes' mounts are made of them; names with a leading dot, which are
/// what they point to, are passed over.
///
/// # Errors
/// One can't be read, is no regular file or is not UTF-8, or they are too large or too many; in a sentence.
pub fn read(path: &FilePath) -> Result<Vec<(String, String)>, String> {
    let path = Path::new(path.as_str());
    let metadata = fs::metadata(path).map_err(|e| sentence(path, e))?;
    if !metadata.is_dir() {
        return Ok(vec![(path.display().to_string(), text(path)?)]);
    }
    let mut paths: Vec<PathBuf> = vec![];
    for entry in fs::read_dir(path).map_err(|e| sentence(path, e))? {
        let entry = entry.map_err(|e| sentence(path, e))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml")) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    if let Some(first) = paths.get(FILES) {
        return Err(sentence(first, format_args!("the directory has more than {FILES} files")));
    }
    let (mut files, mut bytes) = (vec![], 0);
    for path in &paths {
        let text = text(path)?;
        bytes += text.len() as u64;
        if bytes > LIMIT {
            return Err(sentence(path, "larger than 4 MiB with the files before it"));
        }
        files.push((path.display().to_string(), text));
    }
    Ok(files)
}

fn sentence(path: &Path, reason: impl std::fmt::Display) -> String {
    format!("CONFIG_FILE: {}: {reason}", path.display())
}

fn text(path: &Path) -> Result<String, String> {
    files::read(path, Owner::Operator, LIMIT).map_err(|e| sentence(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Value as _;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_directory_is_read_in_the_order_of_names() {
        let dir = std::env::temp_dir().join(format!("frr-supervisor-file-{}", std::process::id()));
        let data = dir.join("..data");
        fs::create_dir_all(&data).unwrap();
        let read = |path: &Path| super::read(&FilePath::parse(path.to_str().unwrap()).unwrap());
        for (name, content) in [("b.yaml", "b"), ("a.yml", "a"), ("c.txt", "c"), (".d.yaml", "d")] {
            fs::write(data.join(name), content).unwrap();
            symlink(format!("..data/{name}"), dir.join(name)).unwrap();
        }
        let texts: Vec<String> = read(&dir).unwrap().into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["a", "b"]);
        assert_eq!(read(&dir.join("c.txt")).unwrap()[0].1, "c");
        assert!(read(&dir.join("none.yaml")).unwrap_err().contains("none.yaml"));
        fs::write(dir.join("large.yaml"), vec![b' '; (4 << 20) + 1]).unwrap();
        assert!(read(&dir).unwrap_err().contains("4 MiB"));
        fs::write(dir.join("large.yaml"), b"\xff").unwrap();
        assert!(read(&dir).unwrap_err().contains("UTF-8"));
        fs::remove_file(dir.join("large.yaml")).unwrap();
        fs::create_dir(dir.join("sub.yaml")).unwrap();
        assert!(read(&dir).unwrap_err().contains("not a regular file"));
        assert!(read(Path::new("/dev/null")).unwrap_err().contains("not a regular file"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
