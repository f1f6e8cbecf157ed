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
mod tests;
