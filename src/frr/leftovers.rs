//! FRR's processes that were there before us.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::daemons::{BIN_DIR, DAEMONS, RUN_DIR, SOCKET_DIR};

/// How long a daemon that was killed may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Ends daemons that an instance of ours left which was killed where nothing else ends its children: they would answer in
/// the place of their successors, and a second zebra removes the first one's routes.
///
/// # Errors
/// One does not go, or FRR is run here by watchfrr.
pub fn end_leftovers() -> io::Result<()> {
    let found = running();
    if let Some((_, pid)) = found.iter().find(|(name, _)| name == "watchfrr") {
        return Err(io::Error::other(format!(
            "watchfrr (pid {}) runs FRR here already: stop it, for instance by \"systemctl disable --now frr\"",
            pid.as_raw_nonzero()
        )));
    }
    for (name, pid) in found {
        log::warn!("ending {name} (pid {}), which an earlier instance left", pid.as_raw_nonzero());
        let _ = kill_process(pid, Signal::KILL);
        let begin = Instant::now();
        while program(pid).is_some() {
            if begin.elapsed() > END_LIMIT {
                return Err(io::Error::other(format!("{name} of an earlier instance does not end")));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// FRR's processes whose sockets are in our directory. They are found among all processes, since a file with a number in it may
/// be missing, may be old, or may have been written by anyone.
fn running() -> Vec<(String, Pid)> {
    let Ok(own) = fs::metadata(RUN_DIR) else { return vec![] };
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter_map(|pid| {
        let program = program(pid)?;
        let name = program.strip_prefix(BIN_DIR).ok()?.to_str()?.to_owned();
        let known = DAEMONS.iter().any(|daemon| daemon.name == name) || name == "watchfrr";
        let of = |path: &str| format!("/proc/{}/{path}", pid.as_raw_nonzero());
        let arguments = fs::read(of("cmdline")).ok()?;
        let dir = socket_dir(&arguments)?;
        if !known || ![RUN_DIR, SOCKET_DIR].contains(&dir.to_str()?) {
            return None;
        }
        // The directory of that name may be another one there: a container's.
        let its = fs::metadata(of(&format!("root{RUN_DIR}"))).ok()?;
        ((its.dev(), its.ino()) == (own.dev(), own.ino())).then_some((name, pid))
    })
    .collect()
}

/// The file that the process was started from, as it names it.
fn program(pid: Pid) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).ok()?;
    // What was replaced meanwhile, by an update, has this behind its name.
    let name = path.as_os_str().as_bytes();
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(name)))
}

/// Where a daemon with these arguments, each ended by a NUL, has its sockets.
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
    fn where_a_daemon_has_its_sockets() {
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
