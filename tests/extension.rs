//! `make extension-check`: the requirements of Talos, its imager and its validator for the extension, on the tree that
//! `make extension` made (EXTENSION: its directory), on the tree as a node unpacks it, and on broken trees.
#![allow(clippy::unwrap_used)]

#[path = "extension/check.rs"]
mod check;
#[path = "extension/elf.rs"]
mod elf;
#[path = "extension/recipe.rs"]
mod recipe;
#[path = "extension/service.rs"]
mod service;

use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use check::check;

const ROOT: &str = "rootfs/usr/local/lib/containers/frr";
const SERVICE: &str = "rootfs/usr/local/etc/containers/frr.yaml";

fn extension() -> PathBuf {
    PathBuf::from(std::env::var_os("EXTENSION").expect("EXTENSION names what `make extension` made"))
}

/// A copy to break, which is removed on drop.
struct Copy(PathBuf);

impl Copy {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("frr-extension-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn of_the_tree(name: &str) -> Self {
        let copy = Self::new(name);
        run(Command::new("cp").arg("-a").arg(extension().join("tree/.")).arg(&copy.0));
        copy
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    fn in_root(&self, path: &str) -> PathBuf {
        self.0.join(ROOT).join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.at(path), text).unwrap();
    }

    /// Replaces text that must be there.
    fn replace(&self, path: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.at(path)).unwrap();
        assert!(text.contains(from), "{path} has no {from:?}");
        self.write(path, &text.replacen(from, to, 1));
    }

    fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.at(path), Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_tree_follows_the_rules_of_talos() {
    assert_eq!(check(&extension().join("tree")), Vec::<String>::new());
}

#[test]
fn the_recipe_follows_the_rules_of_bldr() {
    assert_eq!(recipe::check(Path::new(env!("CARGO_MANIFEST_DIR"))), Vec::<String>::new());
}

/// Unpacks a tar as `pkg/archiver/untar.go` of Talos does: modes masked, no owners, a hard link becomes an empty file.
fn untar(tar: &Path, to: &Path) {
    let mut archive = tar::Archive::new(fs::File::open(tar).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = to.join(entry.path().unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mode = entry.header().mode().unwrap() & 0o777;
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                fs::create_dir_all(&path).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(mode | 0o700)).unwrap();
            }
            tar::EntryType::Symlink => symlink(entry.link_name().unwrap().unwrap(), &path).unwrap(),
            _ => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                let mut file = fs::File::options();
                let mut file = file.write(true).create_new(true).open(&path).unwrap();
                std::io::Write::write_all(&mut file, &content).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

#[test]
fn the_tar_becomes_the_same_tree_on_a_node() {
    let copy = Copy::new("tar");
    untar(&extension().join("frr.tar"), &copy.0);
    assert_eq!(check(&copy.0), Vec::<String>::new());
    run(Command::new("diff").args(["-r", "--no-dereference"]).arg(extension().join("tree")).arg(&copy.0));
}

#[test]
fn a_hard_link_is_empty_on_a_node_and_that_is_detected() {
    let (copy, node) = (Copy::of_the_tree("hard"), Copy::new("hard-node"));
    fs::remove_file(copy.in_root("usr/lib/frr/bgpd")).unwrap();
    fs::hard_link(copy.in_root("usr/lib/frr/zebra"), copy.in_root("usr/lib/frr/bgpd")).unwrap();
    assert!(check(&copy.0).iter().any(|problem| problem.contains("hard link")));
    let tar = node.at("x.tar");
    run(Command::new("tar").arg("-C").arg(&copy.0).arg("-cf").arg(&tar).args(["manifest.yaml", "rootfs"]));
    untar(&tar, &node.0);
    fs::remove_file(tar).unwrap();
    let problems = check(&node.0);
    assert!(problems.iter().any(|problem| problem.contains("is empty")), "{problems:?}");
}

#[test]
fn the_oci_layout_holds_the_same_tar() {
    let oci = extension().join("oci");
    let json = |path: &Path| serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap();
    let blob = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
        let path = oci.join("blobs/sha256").join(&digest);
        assert_eq!(fs::metadata(&path).unwrap().len(), descriptor["size"].as_u64().unwrap());
        let sum = Command::new("sha256sum").arg(&path).output().unwrap();
        assert!(String::from_utf8(sum.stdout).unwrap().starts_with(&digest));
        path
    };
    assert_eq!(json(&oci.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let index = json(&oci.join("index.json"));
    let entry = &index["manifests"][0];
    assert_eq!(entry["platform"]["os"], "linux");
    let manifest = json(&blob(entry));
    let config = json(&blob(&manifest["config"]));
    assert_eq!(config["architecture"], entry["platform"]["architecture"]);
    let layer = blob(&manifest["layers"][0]);
    let copy = Copy::new("oci");
    let tar = copy.at("layer.tar");
    let status = Command::new("gzip").arg("-dc").arg(layer).stdout(fs::File::create(&tar).unwrap()).status();
    assert!(status.unwrap().success());
    assert_eq!(fs::read(&tar).unwrap(), fs::read(extension().join("frr.tar")).unwrap());
    let sum = Command::new("sha256sum").arg(&tar).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", &sum[..64]));
}

type Break = fn(&Copy);

/// A part of the reason for which a tree must be refused, and how it is broken.
const BROKEN: &[(&str, Break)] = &[
    ("beside manifest.yaml and rootfs", |t| t.write("README", "x")),
    ("manifest.yaml", |t| fs::remove_file(t.at("manifest.yaml")).unwrap()),
    ("version: is not v1alpha1", |t| t.replace("manifest.yaml", "version: v1alpha1", "version: v1alpha2")),
    ("metadata.name", |t| t.replace("manifest.yaml", "name: frr", "name: bird2")),
    ("metadata.version", |t| t.replace("manifest.yaml", "-v0.1.0", "_1")),
    ("metadata.author", |t| t.replace("manifest.yaml", "author: frr-supervisor", "author: ''")),
    ("metadata.description", |t| t.replace("manifest.yaml", "[contrib] ", "")),
    ("compatibility", |t| t.replace("manifest.yaml", ">= v1.12.0", ">= v1.14.0")),
    ("<no value>", |t| t.replace("manifest.yaml", "[contrib]", "[<no value>]")),
    ("outside /usr/local/", |t| {
        fs::create_dir_all(t.at("rootfs/etc/frr")).unwrap();
        t.write("rootfs/etc/frr/frr.conf", "x");
    }),
    ("outside /usr/local/", |t| {
        fs::create_dir_all(t.at("rootfs/usr/localhost")).unwrap();
        t.write("rootfs/usr/localhost/x", "x");
    }),
    ("neither file, directory nor link", |t| run(Command::new("mkfifo").arg(t.in_root("run/pipe")))),
    ("world-writable", |t| t.mode(&format!("{ROOT}/etc/passwd"), 0o666)),
    ("world-writable", |t| t.mode(&format!("{ROOT}/var/tmp"), 0o1777)),
    ("setuid", |t| t.mode(&format!("{ROOT}/usr/bin/vtysh"), 0o4755)),
    ("hard link", |t| fs::hard_link(t.in_root("etc/passwd"), t.in_root("etc/passwd-")).unwrap()),
    ("is empty", |t| fs::write(t.in_root("usr/lib/frr/bfdd"), "").unwrap()),
    ("leads out of the image or nowhere", |t| symlink("/usr/bin/no", t.in_root("usr/bin/x")).unwrap()),
    ("leads out of the image or nowhere", |t| {
        symlink("../../../../../../../../../../etc/passwd", t.in_root("usr/bin/x")).unwrap();
    }),
    ("stray recipe", |t| fs::write(t.in_root("vars.yaml"), "A: b").unwrap()),
    ("stray recipe", |t| fs::write(t.in_root("etc/frr.conf.tmpl"), "x").unwrap()),
    ("no name that every system takes", |t| fs::write(t.in_root("etc/ümlaut"), "x").unwrap()),
    ("no name that every system takes", |t| fs::write(t.in_root("etc/PASSWD"), "x").unwrap()),
    ("service files", |t| fs::remove_file(t.at(SERVICE)).unwrap()),
    ("service files", |t| t.write("rootfs/usr/local/etc/containers/two.yaml", "name: two")),
    ("unknown field", |t| t.replace(SERVICE, "restart: always", "restart: always\nlogToConsol: true")),
    ("restart", |t| t.replace(SERVICE, "restart: always", "restart: on-failure")),
    ("is not the directory", |t| t.replace(SERVICE, "name: frr", "name: frr2")),
    ("name:", |t| t.replace(SERVICE, "name: frr", "name: FRR")),
    ("entrypoint", |t| t.replace(SERVICE, "/usr/bin/frr-supervisor", "frr-supervisor")),
    ("entrypoint", |t| t.replace(SERVICE, "/usr/bin/frr-supervisor", "/usr/bin/frr")),
    ("not executable", |t| t.mode(&format!("{ROOT}/usr/bin/frr-supervisor"), 0o644)),
    ("is linked dynamically", |t| {
        fs::copy(t.in_root("usr/bin/vtysh"), t.in_root("usr/bin/frr-supervisor")).unwrap();
    }),
    ("is no program", |t| fs::write(t.in_root("usr/bin/frr-supervisor"), "#!/bin/sh\n").unwrap()),
    ("its loader", |t| {
        let _ = fs::remove_dir_all(t.in_root("lib64"));
        let _ = fs::remove_dir_all(t.in_root("lib"));
    }),
    ("needs libyang", |t| {
        let find =
            Command::new("find").arg(t.in_root("usr")).args(["-name", "libyang*.so*", "-delete"]).status();
        assert!(find.unwrap().success());
    }),
    ("configuration: true", |t| t.replace(SERVICE, "  - configuration: true", "  - path: /run")),
    ("depends: service cri", |t| {
        t.replace(SERVICE, "  - configuration: true", "  - configuration: true\n  - service: cri");
    }),
    ("depends: network connectivity", |t| {
        t.replace(SERVICE, "  - configuration: true", "  - configuration: true\n  - network: [connectivity]");
    }),
    ("depends: one thing each", |t| {
        t.replace(SERVICE, "  - configuration: true", "  - configuration: true\n    path: /run");
    }),
    ("is not below /run", |t| t.replace(SERVICE, "source: /run/frr", "source: /var/run/frr")),
    ("type bind", |t| t.replace(SERVICE, "type: bind", "type: tmpfs")),
    ("rshared", |t| t.replace(SERVICE, "rootfsPropagation: rshared", "rootfsPropagation: rslave")),
    ("rshared", |t| {
        let text = fs::read_to_string(t.at(SERVICE)).unwrap();
        t.write(SERVICE, &text.replace("[rbind, rshared, rw]", "[rbind, rw]"));
    }),
    ("mount option", |t| t.replace(SERVICE, "[rbind, rshared, rw]", "[rbind, rshared, rv]")),
    ("writeableRootfs", |t| t.replace(SERVICE, "writeableRootfs: false", "writeableRootfs: true")),
    ("/proc/sys/net", |t| t.replace(SERVICE, "      - /proc/bus\n", "      - /proc/sys\n")),
    ("/proc/sys/kernel", |t| t.replace(SERVICE, "      - /proc/sys/kernel\n", "")),
    ("PATH", |t| t.replace(SERVICE, "PATH=", "PATHS=")),
    ("user frr", |t| t.replace(&format!("{ROOT}/etc/passwd"), "frr:", "frx:")),
    ("group frrvty", |t| t.replace(&format!("{ROOT}/etc/group"), "frrvty:", "vty:")),
    ("usr/lib/frr/zebra", |t| fs::remove_file(t.in_root("usr/lib/frr/zebra")).unwrap()),
    ("has no place here", |t| fs::write(t.in_root("usr/lib/frr/watchfrr"), "x").unwrap()),
    ("has no place here", |t| fs::write(t.in_root("usr/bin/sh"), "x").unwrap()),
    ("has no place here", |t| fs::write(t.in_root("usr/bin/python3"), "x").unwrap()),
    ("has no place here", |t| fs::create_dir_all(t.in_root("usr/share/doc/frr")).unwrap()),
    ("larger than", |t| {
        fs::File::create(t.in_root("usr/bin/big")).unwrap().set_len(41_000_000).unwrap();
    }),
    ("var/run", |t| fs::remove_file(t.in_root("var/run")).unwrap()),
    ("SBOM", |t| fs::remove_file(t.at("rootfs/usr/local/share/spdx/frr.spdx.json")).unwrap()),
    ("SBOM", |t| t.write("rootfs/usr/local/share/spdx/frr.spdx.json", "{}")),
    ("licence", |t| fs::remove_file(t.in_root("usr/share/licenses/frr/GPL-2.0")).unwrap()),
];

#[test]
fn every_broken_tree_is_refused() {
    for (i, (reason, break_tree)) in BROKEN.iter().enumerate() {
        let copy = Copy::of_the_tree(&i.to_string());
        break_tree(&copy);
        let problems = check(&copy.0);
        assert!(problems.iter().any(|problem| problem.contains(reason)), "{i} {reason}: {problems:?}");
    }
}
