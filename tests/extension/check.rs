//! The rules for the tree: what Talos checks, what it does not check although a node then fails, and the extension's
//! own rules.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::{ROOT, SERVICE, elf, service};

/// The limit for the image, which is in the node's memory.
const LARGEST: u64 = 41_000_000;

const PROGRAMS: [&str; 5] =
    ["usr/lib/frr/zebra", "usr/lib/frr/bgpd", "usr/lib/frr/staticd", "usr/lib/frr/bfdd", "usr/bin/vtysh"];

/// The newest Talos that the recipe's validator supports (it is built from v1.13.0-alpha.2).
const NEWEST: (u32, u32) = (1, 13);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: String,
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
    version: String,
    author: String,
    description: String,
    compatibility: Compatibility,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Compatibility {
    talos: Talos,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Talos {
    version: String,
}

/// All problems of a tree.
pub fn check(tree: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    let names: BTreeSet<_> = fs::read_dir(tree).unwrap().map(|e| e.unwrap().file_name()).collect();
    for name in names.iter().filter(|name| *name != "manifest.yaml" && *name != "rootfs") {
        problems.push(format!("{} stands beside manifest.yaml and rootfs", name.to_string_lossy()));
    }
    problems.extend(manifest(&tree.join("manifest.yaml")));

    let (rootfs, root) = (tree.join("rootfs"), tree.join(ROOT));
    let mut paths = Vec::new();
    walk(&rootfs, &mut paths);
    problems.extend(paths.iter().flat_map(|path| file(&rootfs, &root, path)));
    let mut lower = BTreeSet::new();
    for path in &paths {
        let text = path.to_string_lossy();
        if !text.is_ascii() || !lower.insert(text.to_lowercase()) {
            problems.push(format!("{text} has no name that every system takes"));
        }
    }
    let size: u64 =
        paths.iter().map(|p| fs::symlink_metadata(p).unwrap()).filter(|m| m.is_file()).map(|m| m.len()).sum();
    if size > LARGEST {
        problems.push(format!("{size} bytes are larger than {LARGEST}"));
    }

    let services = paths.iter().filter(|p| p.parent() == tree.join(SERVICE).parent());
    let services: Vec<_> = services.filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect();
    match services[..] {
        [one] => match service::read(one) {
            Ok(service) => problems.extend(service.problems(&root)),
            Err(e) => problems.push(format!("{}: {e}", one.display())),
        },
        _ => problems.push(format!("{} service files, not one", services.len())),
    }
    problems.extend(container(&root));
    problems.extend(sbom(&rootfs.join("usr/local/share/spdx/frr.spdx.json")));
    problems
}

fn walk(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        paths.push(path.clone());
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            walk(&path, paths);
        }
    }
}

fn manifest(path: &Path) -> Vec<String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) => return vec![format!("manifest.yaml: {e}")],
    };
    let manifest: Manifest = match serde_saphyr::from_str(&text) {
        Ok(manifest) => manifest,
        Err(e) => return vec![format!("manifest.yaml: {e}")],
    };
    let mut problems = Vec::new();
    let mut want =
        |well: bool, problem: &str| problems.extend((!well).then(|| format!("manifest.yaml: {problem}")));
    let Metadata { name, version, author, description, compatibility } = &manifest.metadata;
    want(manifest.version == "v1alpha1", "version: is not v1alpha1");
    want(name == "frr", "metadata.name: is not that of the service");
    want(is_version(version), "metadata.version: is none that the validator takes");
    want(!author.is_empty(), "metadata.author: is empty");
    want(description.starts_with("[contrib] "), "metadata.description: does not begin with the tier");
    let least = compatibility.talos.version.strip_prefix(">= v").map(|v| v.split('.').map(str::parse::<u32>));
    let least: Option<Vec<u32>> = least.and_then(|numbers| numbers.collect::<Result<_, _>>().ok());
    let known = least.is_some_and(|v| v.len() == 3 && (v[0], v[1]) <= NEWEST);
    want(known, "metadata.compatibility: is not >= a version that the validator knows");
    want(!text.contains("<no value>") && !text.contains("{{"), "has <no value> or {{ in it");
    problems
}

/// X.Y.Z-vA.B.C: FRR's version and that of frr-supervisor.
fn is_version(text: &str) -> bool {
    let number = |text: &str| {
        let parts: Vec<_> = text.split('.').collect();
        parts.len() == 3 && parts.iter().all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
    };
    text.split_once("-v").is_some_and(|(frr, own)| number(frr) && number(own))
}

fn file(rootfs: &Path, root: &Path, path: &Path) -> Vec<String> {
    let meta = fs::symlink_metadata(path).unwrap();
    let name = path.strip_prefix(rootfs).unwrap().to_string_lossy().into_owned();
    let mut problems = Vec::new();
    let mut want = |well: bool, problem: &str| problems.extend((!well).then(|| format!("{name} {problem}")));
    let kind = meta.file_type();
    want(meta.is_dir() || name.starts_with("usr/local/"), "is outside /usr/local/");
    let special = kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device();
    want(!special, "is neither file, directory nor link");
    let last = path.file_name().unwrap().to_string_lossy();
    let stray = last.ends_with(".tmpl") || ["pkg.yaml", "vars.yaml", "Pkgfile"].contains(&&*last);
    want(!stray, "is a stray recipe");
    let words = ["python", "perl", "watchfrr", "frr-reload", "frrinit", "busybox", "bash", "dash"];
    let shell = ["sh", "ash"].contains(&&*last) || words.iter().any(|word| last.starts_with(word));
    let docs = ["doc", "man", "info", "apk"].contains(&&*last) && meta.is_dir();
    want(!shell && !docs && !last.ends_with(".py") && !last.ends_with(".sh"), "has no place here");
    if kind.is_symlink() {
        want(stays_inside(root, path), "leads out of the image or nowhere");
        return problems;
    }
    want(meta.mode() & 0o002 == 0, "is world-writable");
    want(meta.mode() & 0o6000 == 0, "is setuid or setgid");
    if kind.is_file() {
        want(meta.nlink() == 1, "is a hard link, which is an empty file on a node");
        want(meta.len() > 0, "is empty");
        // cp and tar do not keep them, and a node's squashfs does not have them.
        let mut value = [0u8; 64];
        let capability = rustix::fs::lgetxattr(path, "security.capability", &mut value);
        want(capability.is_err(), "has file capabilities, which are lost");
        if let Some(elf) = elf::read(path) {
            want(meta.mode() & 0o111 == 0o111, "is not executable");
            if let Some(loader) = &elf.interpreter {
                want(root.join(loader.trim_start_matches('/')).is_file(), "does not find its loader");
            }
            for library in &elf.needed {
                let loader = library.starts_with("ld-") || library.starts_with("libc.musl-");
                want(
                    loader || elf.library(root, library).is_some(),
                    &format!("needs {library}, which is not there"),
                );
            }
        }
    }
    problems
}

/// A link may lead to a file of the image, or below /run, which is made on the node.
fn stays_inside(root: &Path, path: &Path) -> bool {
    let target = fs::read_link(path).unwrap();
    if target.is_absolute() {
        return root.join(target.strip_prefix("/").unwrap()).exists();
    }
    let Ok(inside) = path.parent().unwrap().strip_prefix(root) else { return false };
    let mut at: Vec<_> = inside.components().collect();
    for part in target.components() {
        match part {
            Component::ParentDir => {
                if at.pop().is_none() {
                    return false;
                }
            }
            Component::CurDir => {}
            part => at.push(part),
        }
    }
    let at: PathBuf = at.into_iter().collect();
    at.starts_with("run") || root.join(at).exists()
}

fn container(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    let mut want = |well: bool, problem: String| problems.extend((!well).then_some(problem));
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_default();
    for user in ["root", "frr"] {
        want(
            read("etc/passwd").lines().any(|l| l.starts_with(&format!("{user}:"))),
            format!("there is no user {user}"),
        );
    }
    for group in ["root", "frr", "frrvty"] {
        want(
            read("etc/group").lines().any(|l| l.starts_with(&format!("{group}:"))),
            format!("there is no group {group}"),
        );
    }
    let supervisor = elf::read(&root.join("usr/bin/frr-supervisor")).map(|elf| elf.machine);
    for program in PROGRAMS {
        let machine = elf::read(&root.join(program)).map(|elf| elf.machine);
        want(
            machine.is_some() && machine == supervisor,
            format!("{program} is no program for the machine of frr-supervisor"),
        );
    }
    want(
        fs::read_link(root.join("var/run")).is_ok_and(|to| to == Path::new("../run")),
        "var/run does not lead to ../run".into(),
    );
    for file in ["frr/GPL-2.0", "frr-supervisor/LICENSE"] {
        want(
            root.join("usr/share/licenses").join(file).is_file(),
            format!("the licence {file} is not there"),
        );
    }
    problems
}

fn sbom(path: &Path) -> Option<String> {
    let text = fs::read(path).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let name =
        |name: &str| json["packages"].as_array().is_some_and(|all| all.iter().any(|p| p["name"] == name));
    let well = json["spdxVersion"].as_str().is_some_and(|v| v.starts_with("SPDX-2.")) && name("frr");
    (!well).then(|| "the SBOM is missing, or does not name frr".into())
}
