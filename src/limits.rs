//! What the kernel allows us and, by inheritance, the daemons.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files. FRR needs one or two for each peer; Talos starts services with 1024.
const FILES: u64 = 4096;

/// The kernel shall end anything else first when memory runs out, but for what keeps the node itself going: the kubelet
/// has −999 (`oom_score_adj`, proc(5)).
const OOM_SCORE: &str = "-998";

/// Raises what can be raised; a node works without.
pub fn raise() {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_some_and(|files| files < FILES) {
        let current = now.maximum.map_or(FILES, |maximum| maximum.min(FILES));
        if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: now.maximum }) {
            log::warn!("the limit of open files stays at {:?}: {e}", now.current);
        }
    }
    if let Err(e) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        log::warn!("the kernel may end us first when memory runs out: oom_score_adj can't be set: {e}");
    }
}
