//! Capabilities, resource limits and priority of this process. The daemons inherit them.

use std::{fs, io};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// The number of open files to allow. FRR needs one or two for each peer; Talos starts services with 1024.
const OPEN_FILES: u64 = 4096;

/// The kernel's OOM killer takes any other process first, except those that keep the node running: the kubelet has −999
/// (`oom_score_adj`, proc(5)).
const OOM_SCORE: &str = "-998";

/// The nice value of FRR's own systemd unit (`Nice=` in `tools/frr.service.in`).
const NICE: i32 = -5;

/// The capabilities that this program or a daemon uses. In order: owners, modes and files of FRR's user; signals to
/// that user's daemons and their /proc; switching to that user; limits; the bounding set; namespaces, mounts and VRF
/// sockets; the network.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_BROADCAST);

/// Drops every capability that is not needed, permanently and for the daemons as well. Call it while only one thread
/// exists.
pub fn drop_capabilities() {
    if let Err(e) = try_drop_capabilities() {
        log::warn!("cannot drop capabilities that are not needed: {e}");
    }
}

fn try_drop_capabilities() -> io::Result<()> {
    let before = capabilities(None)?;
    for capability in CapabilitySet::all().difference(CAPABILITIES).iter() {
        // Capabilities that the kernel does not know are in no set.
        if capability_is_in_bounding_set(capability).unwrap_or(false) {
            remove_capability_from_bounding_set(capability)?;
        }
    }
    let permitted = before.permitted & CAPABILITIES;
    let inheritable = before.inheritable & CAPABILITIES;
    set_capabilities(None, CapabilitySets { effective: permitted, permitted, inheritable })?;
    log::debug!("capabilities kept: {permitted:?}");
    log::debug!("capabilities dropped: {:?}", before.permitted.difference(permitted));
    Ok(())
}

/// What to do about an error for which [`is_own_shortage`] is true.
pub const REMEDY: &str = "this program or the node has reached a limit (open files, memory, processes): check RLIMIT_NOFILE, \
                          fs.file-max, pids.max and what else runs on the node";

/// Whether a call failed because this program or the node lacks descriptors, memory or buffers. Such an error says
/// nothing about a daemon. `EAGAIN` of a connect is not one: the daemon's backlog is full.
pub fn is_own_shortage(e: &io::Error) -> bool {
    let errno = e.raw_os_error().map(Errno::from_raw_os_error);
    errno.is_some_and(|e| matches!(e, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS))
}

/// Raises the limit of open files and the priority. A node works without either.
pub fn raise() {
    let now = getrlimit(Resource::Nofile);
    if let Some(files) = now.current.filter(|files| *files < OPEN_FILES) {
        let maximum = now.maximum.map(|maximum| maximum.max(OPEN_FILES));
        if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: Some(OPEN_FILES), maximum }) {
            log::warn!("cannot raise the limit of open files ({files}): {e}");
        }
    }
    if let Err(e) = setpriority_process(None, NICE) {
        log::warn!("cannot raise the priority: {e}; on a busy node a restart may take longer");
    }
    if let Err(e) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        log::warn!(
            "cannot set oom_score_adj: {e}; the kernel may kill this program first when memory runs out"
        );
    }
}
