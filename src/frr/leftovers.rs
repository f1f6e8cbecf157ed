//! Leftover FRR processes of an earlier instance.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::daemons::{BIN_DIR, DAEMONS, RUN_DIR, SOCKET_DIR};

/// How long a killed daemon may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Kills the daemons of an earlier instance. They are left over where that instance was killed and nothing ended its
/// children. They would use the sockets of their successors, and a second zebra removes the routes of the first one.
///
/// # Errors
/// A daemon does not end, or watchfrr runs FRR here.
pub fn kill_leftovers() -> io::Result<()> {
    let found = running();
    if let Some((_, pid)) = found.iter().find(|(name, _)| name == "watchfrr") {
        return Err(io::Error::other(format!(
            "watchfrr (pid {}) already runs FRR here: stop it, for example with \"systemctl disable --now frr\"",
            pid.as_raw_nonzero()
        )));
    }
    for (name, pid) in found {
        let number = pid.as_raw_nonzero().get();
        log::warn!(daemon = name.as_str(), pid = number; "killing {name} (pid {number}) of an earlier instance");
        let _ = kill_process(pid, Signal::KILL);
        let begin = Instant::now();
        while program(pid).is_some() {
            if begin.elapsed() > END_LIMIT {
                return Err(io::Error::other(format!(
                    "{name} (pid {number}) of an earlier instance has not ended {} s after SIGKILL: it hangs in the kernel; reboot \
                     the node if this repeats",
                    END_LIMIT.as_secs()
                )));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// The FRR processes whose sockets are in [`RUN_DIR`] or [`SOCKET_DIR`]. We search all processes: a PID file may be
/// missing, stale, or written by another program.
fn running() -> Vec<(String, Pid)> {
    let Ok(own) = fs::metadata(RUN_DIR) else { return vec![] };
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter_map(|pid| {
        let program = program(pid)?;
        let name = program.strip_prefix(BIN_DIR).ok()?.to_str()?.to_owned();
        let is_known = DAEMONS.iter().any(|daemon| daemon.kind.name() == name) || name == "watchfrr";
        let proc_file = |path: &str| format!("/proc/{}/{path}", pid.as_raw_nonzero());
        let arguments = fs::read(proc_file("cmdline")).ok()?;
        let dir = socket_dir(&arguments)?;
        if !is_known || ![RUN_DIR, SOCKET_DIR].contains(&dir.to_str()?) {
            return None;
        }
        // In the process's mount namespace, a container's for example, the path may be another directory.
        let run_dir = fs::metadata(proc_file(&format!("root{RUN_DIR}"))).ok()?;
        ((run_dir.dev(), run_dir.ino()) == (own.dev(), own.ino())).then_some((name, pid))
    })
    .collect()
}

/// The path of the process's program.
fn program(pid: Pid) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).ok()?;
    // The kernel appends this to the path of a file that was replaced, by an update for example.
    let name = path.as_os_str().as_bytes();
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(name)))
}

/// The directory of the vty socket of a daemon with these arguments, each of which ends with a NUL.
fn socket_dir(arguments: &[u8]) -> Option<PathBuf> {
    let arguments: Vec<&str> =
        arguments.split(|b| *b == 0).map(std::str::from_utf8).collect::<Result<_, _>>().ok()?;
    let value = |names: [&str; 2]| {
        let at = arguments.iter().position(|argument| names.contains(argument))?;
        arguments.get(at + 1).copied()
    };
    let named = value(["--vty_socket", "--vty_socket"]).map(PathBuf::from);
    named.or_else(|| {
        Some(value(["-N", "--pathspace"]).map_or(RUN_DIR.into(), |name| Path::new(RUN_DIR).join(name)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_directory_is_read_from_the_arguments() {
        for (arguments, dir) in [
            ("zebra\0--log\0stdout\0--vty_socket\0/run/frr\0-i\0/run/frr/zebra.pid\0", "/run/frr"),
            ("bgpd\0-N\0sockets\0--vty_socket\0/run/frr/sockets\0", "/run/frr/sockets"),
            ("bgpd\0-N\0leaf1\0", "/run/frr/leaf1"),
            ("bgpd\0--pathspace\0leaf1\0--vty_socket\0/tmp\0", "/tmp"),
            ("zebra\0-d\0-F\0datacenter\0-A\0::1\0", "/run/frr"),
            ("", "/run/frr"),
        ] {
            assert_eq!(socket_dir(arguments.as_bytes()), Some(dir.into()), "{arguments:?}");
        }
        assert_eq!(socket_dir(b"\xff\0"), None);
        assert!(running().iter().all(|(_, pid)| *pid != rustix::process::getpid()));
    }
}
