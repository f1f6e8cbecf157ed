//! The extension as Talos runs it: `runc`, with a configuration made from the extension's frr.yaml by the rules of
//! Talos's `internal/app/machined/pkg/system/services/extension.go` and of containerd's default specification.
//! EXTENSION: the directory that `make extension` made.
#![allow(clippy::unwrap_used)]

#[path = "extension/elf.rs"]
#[allow(dead_code)]
mod elf;
mod lab;
#[path = "extension/service.rs"]
#[allow(dead_code)]
mod service;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lab::*;
use serde_json::{Value, json};
use service::Service;

const NAME: &str = "ext-frr";
const BUNDLE: &str = "/run/bundle";

/// All of Linux 6.12 (`linux/capability.h`) but SYS_BOOT and SYS_MODULE (`pkg/machinery/constants` of Talos).
const CAPABILITIES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE \
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN \
    SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN \
    SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";

/// What containerd's profile denies to these capabilities; the rest of it is a list of nearly everything.
const DENIED: [&str; 13] = [
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "add_key",
    "keyctl",
    "request_key",
    "userfaultfd",
];

/// The configuration for `runc`.
fn specification(service: &Service, variables: &[(&str, &str)]) -> Value {
    let container = &service.container;
    let capabilities: Vec<String> =
        CAPABILITIES.split_whitespace().map(|name| format!("CAP_{name}")).collect();
    let variables = variables.iter().map(|(name, value)| format!("{name}={value}"));
    let environment: Vec<String> = container.environment.iter().cloned().chain(variables).collect();
    let args: Vec<&String> = std::iter::once(&container.entrypoint).chain(&container.args).collect();
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/run", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        json!({"destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["rbind", "ro"]}),
    ];
    for mount in &container.mounts {
        // As Talos does for every source that is missing.
        if !Path::new(&mount.source).exists() {
            let mut dir = fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(&mut dir, 0o700)
                .recursive(true)
                .create(&mount.source)
                .unwrap();
        }
        mounts.push(json!({"destination": mount.destination, "type": mount.kind, "source": mount.source, "options": mount.options}));
    }
    let masked = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ];
    let read_only = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
    let or = |paths: &Option<Vec<String>>, usual: &[&str]| match paths {
        Some(paths) => paths.clone(),
        None => usual.iter().map(ToString::to_string).collect(),
    };
    let security = &container.security;
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": args, "env": environment, "cwd": "/", "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}], "oomScoreAdj": -600
        },
        "root": {"path": "rootfs", "readonly": !security.writeable_rootfs},
        "mounts": mounts,
        "linux": {
            // No network namespace of its own: the network is the node's.
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "cgroupsPath": "/system/extensions/frr",
            "resources": {"devices": [{"allow": true, "access": "rwm"}]},
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": DENIED, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]},
            "maskedPaths": or(&security.masked_paths, &masked),
            "readonlyPaths": or(&security.readonly_paths, &read_only),
            "rootfsPropagation": security.rootfs_propagation.as_deref().unwrap_or("rslave")
        }
    })
}

/// The image's root, below an overlay in which runc makes mount points, as on Talos.
fn image() -> PathBuf {
    let path =
        PathBuf::from(format!("/host{}", std::env::var("EXTENSION").unwrap())).join("tree/rootfs/usr/local");
    let bundle = Path::new(BUNDLE);
    if !bundle.join("rootfs").exists() {
        exec("", &["mount", "--make-rshared", "/"]);
        exec(
            "",
            &[
                "mkdir",
                "-p",
                &format!("{BUNDLE}/rootfs"),
                &format!("{BUNDLE}/diff"),
                &format!("{BUNDLE}/work"),
            ],
        );
        let lower = path.join("lib/containers/frr");
        let options = format!("lowerdir={},upperdir={BUNDLE}/diff,workdir={BUNDLE}/work", lower.display());
        exec("", &["mount", "-t", "overlay", "-o", &options, "overlay", &format!("{BUNDLE}/rootfs")]);
    }
    path
}

fn runc(args: &[&str]) -> Command {
    let mut command = Command::new("runc");
    command.args(["--root", "/run/runc"]).args(args);
    command
}

fn start(variables: &[(&str, &str)]) -> Supervisor {
    let service = service::read(&image().join("etc/containers/frr.yaml")).unwrap();
    let text = serde_json::to_string_pretty(&specification(&service, variables)).unwrap();
    fs::write(format!("{BUNDLE}/config.json"), text).unwrap();
    Supervisor::of("host", runc(&["run", "--bundle", BUNDLE, NAME]))
}

/// SIGTERM to its first process alone, then what `talosctl service ext-frr stop` waits for.
fn stop(mut container: Supervisor) -> Duration {
    let begin = Instant::now();
    assert!(runc(&["kill", NAME, "TERM"]).status().unwrap().success());
    let status = container.wait_end(Duration::from_secs(30));
    assert!(status.success(), "{status}: {}", container.log_text());
    begin.elapsed()
}

fn a_restart_of_the_container(netns: &str) {
    let lab = Lab::new(Options::default());
    let mut variables = Lab::node_env();
    variables.extend([
        ("NETNS", netns),
        ("RETURN_PATH", "default-route"),
        ("GR_RESTART_TIME", "60"),
        ("LOG_LEVEL", "debug"),
    ]);
    let comes_up = || await_up(start(&variables));
    let container = comes_up();
    let log = container.log_text();
    for word in ["capabilities kept: ", "capabilities dropped: ", "NET_ADMIN", "SYS_TIME"] {
        assert!(log.contains(word), "{word}: {log}");
    }
    // Errors that daemons log during their start, and problems until they have started, do not count.
    let mut own = log.lines().take_while(|line| !line.contains(" started (pid "));
    assert!(!own.any(|line| line.contains(" ERROR ")), "{log}");
    for word in ["ead-only", "cannot prepare", "cannot drop capabilities", "cannot raise the limit"] {
        assert!(!log.contains(word), "{word}: {log}");
    }
    let (_, zebra) = daemons(&lab, netns).into_iter().find(|(name, _)| name == "zebra").unwrap();
    let files = fs::read_to_string(format!("/proc/{zebra}/limits")).unwrap();
    assert!(files.lines().any(|l| l.starts_with("Max open files") && l.contains("4096")), "{files}");
    let before = settled(netns);
    let flows = flows();
    thread::sleep(Duration::from_secs(1));

    let took = stop(container);
    println!("{netns}: stopped in {took:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    thread::sleep(Duration::from_secs(5)); // as Talos waits before it starts a service again
    if netns != "host" {
        assert_eq!(difference(&before, &snapshot(netns)), "", "the devices outlive the container");
    }
    let container = comes_up();
    assert!(container.log_text().contains("devices: nothing to change"), "{}", container.log_text());
    // Past the time at which the leaves' BFD would end the old sessions.
    thread::sleep(Duration::from_secs(20));
    let cost = Cost::of(flows);
    println!("{netns}, the container restarted: {cost}");
    assert_eq!(cost.lost, 0, "{cost}");
    stop(container);
    drop(lab);
}

#[test]
fn in_a_namespace_of_its_own() {
    a_restart_of_the_container("perouter");
}

#[test]
fn in_the_hosts_namespace() {
    a_restart_of_the_container("host");
}
