//! The service file: the keys that Talos knows (`pkg/machinery/extensions/services/services.go`), no others.

use std::path::Path;

use serde::Deserialize;

use crate::elf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Service {
    pub name: String,
    pub container: Container,
    #[serde(default)]
    depends: Vec<Dependency>,
    restart: String,
    #[serde(default)]
    log_to_console: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Container {
    pub entrypoint: String,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub environment: Vec<String>,
    environment_file: Option<String>,
    #[serde(default)]
    pub mounts: Vec<Mount>,
    pub security: Security,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mount {
    pub source: String,
    pub destination: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub options: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Security {
    #[serde(default)]
    pub writeable_rootfs: bool,
    #[serde(default)]
    pub writeable_sysfs: bool,
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    pub rootfs_propagation: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Dependency {
    service: Option<String>,
    path: Option<String>,
    network: Option<Vec<String>>,
    time: Option<bool>,
    configuration: Option<bool>,
}

const OPTIONS: [&str; 17] = [
    "bind", "rbind", "rw", "ro", "nosuid", "nodev", "noexec", "shared", "rshared", "slave", "rslave",
    "private", "rprivate", "relatime", "noatime", "suid", "exec",
];

/// What is read-only in a container by default (containerd's `populateDefaultUnixSpec`), except /proc/sys.
const READ_ONLY: [&str; 4] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger"];
/// The directories below /proc/sys except net (sysctl(8)).
const SYSCTLS: [&str; 7] = ["abi", "debug", "dev", "fs", "kernel", "user", "vm"];

/// Reads a service file.
pub fn read(path: &Path) -> Result<Service, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    serde_saphyr::from_str(&text).map_err(|e| e.to_string())
}

impl Service {
    /// Its problems as the service of `root`.
    pub fn problems(&self, root: &Path) -> Vec<String> {
        let mut problems = Vec::new();
        let mut want = |well: bool, problem: &str| problems.extend((!well).then(|| problem.to_owned()));
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        want(self.name.bytes().all(plain) && !self.name.is_empty(), "name: is not of a-z 0-9 _ -");
        let directory = root.file_name().and_then(|name| name.to_str());
        want(directory == Some(&self.name), "name: is not the directory of the container");
        want(["always", "never", "untilSuccess"].contains(&self.restart.as_str()), "restart: not known");
        want(!self.log_to_console, "logToConsole: floods the console");
        want(self.container.environment_file.is_none(), "environmentFile: the service would wait for it");

        want(self.container.args == ["run"], "args: not run");
        let entrypoint = &self.container.entrypoint;
        let program = root.join(entrypoint.trim_start_matches('/'));
        let there = entrypoint.starts_with('/') && program.is_file();
        want(there, "entrypoint: is no file of the image, named from the root");
        match elf::read(&program) {
            _ if !there => {}
            None => want(false, "entrypoint: is no program"),
            Some(elf) => want(elf.interpreter.is_none(), "entrypoint: is linked dynamically"),
        }
        let path = |variable: &String| variable.starts_with("PATH=/");
        want(self.container.environment.iter().any(path), "environment: no PATH, and Talos has none to give");

        let configured = self.depends.iter().any(|d| d.configuration == Some(true));
        want(configured, "depends: not on configuration: true, so a first configuration would never arrive");
        for d in &self.depends {
            let network = d.network.iter().flatten();
            let conditions = [
                d.service.is_some(),
                d.path.is_some(),
                d.network.is_some(),
                d.time.is_some(),
                d.configuration.is_some(),
            ];
            want(conditions.iter().filter(|is_set| **is_set).count() == 1, "depends: one thing each");
            want(
                d.service.as_deref() != Some("cri"),
                "depends: service cri needs the network that the service makes",
            );
            for state in network {
                let known = ["addresses", "connectivity", "hostname", "etcfiles"].contains(&state.as_str());
                want(known, "depends: network: not known");
                let own = ["connectivity", "addresses"].contains(&state.as_str());
                want(!own, &format!("depends: network {state} may be what the service makes"));
            }
            want(d.path.as_ref().is_none_or(|path| path.starts_with('/')), "depends: path is not absolute");
        }

        let security = &self.container.security;
        for mount in &self.container.mounts {
            let name = &mount.destination;
            want(
                mount.kind == "bind",
                &format!("mounts: {name}: only type bind needs no directory of its source's name"),
            );
            want(
                mount.source.starts_with("/run/"),
                &format!("mounts: {name}: {} is not below /run", mount.source),
            );
            for option in &mount.options {
                want(
                    OPTIONS.contains(&option.as_str()),
                    &format!("mounts: {name}: no mount option {option}"),
                );
            }
            let has = |option: &str| mount.options.iter().any(|o| o == option);
            if name == "/run" || name.starts_with("/run/netns") {
                let shared = matches!(security.rootfs_propagation.as_deref(), Some("shared" | "rshared"));
                want(
                    shared && has("rshared") && has("rbind") && has("rw"),
                    "mounts: /run/netns: without rootfsPropagation and options rshared a namespace ends with the container",
                );
            }
        }
        let mounted =
            self.container.mounts.iter().any(|m| m.destination == "/run/netns" || m.destination == "/run");
        want(mounted, "mounts: no /run/netns, where a namespace outlives the container");
        want(!security.writeable_rootfs, "security: writeableRootfs keeps stale files over restarts");
        want(!security.writeable_sysfs, "security: writeableSysfs is not needed");
        want(security.masked_paths.is_none(), "security: maskedPaths: nothing has to be unmasked");
        let read_only = security.readonly_paths.clone().unwrap_or_else(|| vec!["/proc/sys".into()]);
        let covers = |path: &str| read_only.iter().any(|r| path == r || path.starts_with(&format!("{r}/")));
        want(!covers("/proc/sys/net"), "security: readonlyPaths: /proc/sys/net must be writable");
        let others = SYSCTLS.map(|name| format!("/proc/sys/{name}"));
        for path in READ_ONLY.map(str::to_owned).iter().chain(&others) {
            want(covers(path), &format!("security: readonlyPaths: {path} need not be writable"));
        }
        problems
    }
}
