//! From the kill of a daemon to the start of its successor.
#![allow(clippy::unwrap_used)]

use std::os::fd::AsFd;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::*;

/// The longest wait for a step.
pub const RECOVERY_LIMIT: Duration = Duration::from_secs(120);

/// The process of that name in the node's namespace.
pub fn pid_of(name: &str) -> Option<u32> {
    Lab::processes("perouter").into_iter().find(|(_, n)| n == name).map(|(pid, _)| pid)
}

/// Sends SIGKILL to a daemon. Returns the time of the call, and the times from it until the kernel has ended the daemon
/// and until `first` is exec'd: its successor, or that of a daemon that has to start before it.
pub fn kill_until_exec(name: &str, first: &str) -> (Instant, [Duration; 2]) {
    let victim = wait_until("the daemon", RECOVERY_LIMIT, || pid_of(name));
    let pid = Pid::from_raw(victim.cast_signed()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    // Polling for the successor's process would delay its start on a small machine, and the successor's first work
    // would delay the poll.
    let opened = inotify::init(inotify::CreateFlags::empty()).unwrap();
    inotify::add_watch(&opened, daemon(first), inotify::WatchFlags::OPEN).unwrap();
    let (ready, watches) = channel();
    let watcher = thread::spawn(move || {
        raise_priority();
        ready.send(()).unwrap();
        [await_readable(&pidfd), await_readable(&opened)]
    });
    watches.recv().unwrap();
    // The call may return when much of the exit is over.
    let start = Instant::now();
    kill_process(pid, Signal::KILL).unwrap();
    (start, watcher.join().unwrap().map(|at| at - start))
}

/// The time at which it becomes readable.
fn await_readable(fd: &impl AsFd) -> Instant {
    let limit = Timespec::try_from(RECOVERY_LIMIT).unwrap();
    let ready = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)).unwrap();
    assert_eq!(ready, 1, "nothing within {RECOVERY_LIMIT:?}");
    Instant::now()
}
