//! What the kernel allows us and, by inheritance, the daemons.

use std::{fs, io};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// Open files. FRR needs one or two for each peer; Talos starts services with 1024.
const FILES: u64 = 4096;

/// The kernel shall end anything else first when memory runs out, but for what keeps the node itself going: the kubelet
/// has −999 (`oom_score_adj`, proc(5)).
const OOM_SCORE: &str = "-998";

/// Before what else wants the CPU, as FRR's own unit has it (`Nice=` in `tools/frr.service.in`).
const NICE: i32 = -5;

/// What we or the daemons make use of; in order: owners, modes and files of FRR's user; signals to and /proc of daemons
/// that run as it; that user; limits; the bounding set itself; namespaces, mounts and VRF sockets; the network.
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

/// Gives up every capability that is not needed, for good and for the daemons, too. It is done by the only thread there is.
pub fn drop_capabilities() {
    if let Err(e) = try_drop_capabilities() {
        log::warn!("capabilities that are not needed can't be given up: {e}");
    }
}

fn try_drop_capabilities() -> io::Result<()> {
    let before = capabilities(None)?;
    for capability in CapabilitySet::all().difference(CAPABILITIES).iter() {
        // Numbers that the kernel does not know are in no set.
        if capability_is_in_bounding_set(capability).unwrap_or(false) {
            remove_capability_from_bounding_set(capability)?;
        }
    }
    let permitted = before.permitted & CAPABILITIES;
    let inheritable = before.inheritable & CAPABILITIES;
    set_capabilities(None, CapabilitySets { effective: permitted, permitted, inheritable })?;
    log::debug!("capabilities kept: {permitted:?}");
    log::debug!("capabilities given up: {:?}", before.permitted.difference(permitted));
    Ok(())
}

/// What helps where [`is_ours`].
pub const REMEDY: &str = "this program or the node is at a limit (open files, memory, processes): see RLIMIT_NOFILE, fs.file-max, \
                          pids.max, and what else runs here";

/// Whether something failed for want of a resource of ours or of the node, which says nothing about the other end: descriptors,
/// memory or buffers. A connection that has to wait (`EAGAIN`) is not among it: that is the other end's full backlog.
pub fn is_ours(e: &io::Error) -> bool {
    let errno = e.raw_os_error().map(Errno::from_raw_os_error);
    errno.is_some_and(|e| matches!(e, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS))
}

/// Raises what can be raised; a node works without.
pub fn raise() {
    let now = getrlimit(Resource::Nofile);
    if let Some(files) = now.current.filter(|files| *files < FILES) {
        let maximum = now.maximum.map(|maximum| maximum.max(FILES));
        if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: Some(FILES), maximum }) {
            log::warn!("the limit of open files stays at {files}: {e}");
        }
    }
    if let Err(e) = setpriority_process(None, NICE) {
        log::warn!("on a busy node a dead daemon may be away for longer: the priority can't be raised: {e}");
    }
    if let Err(e) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        log::warn!("the kernel may end us first when memory runs out: oom_score_adj can't be set: {e}");
    }
}
