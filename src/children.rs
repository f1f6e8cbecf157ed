//! Child processes that another thread than the supervisor's waits for. The supervisor reaps every child, orphans of
//! other processes included, so it may be the one that gets the exit status of such a child: it passes the status on.

use std::collections::BTreeMap;
use std::io;
use std::process::{Child, ExitStatus};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// The children, by process ID, each with its exit status if the supervisor has got that.
static CHILDREN: Mutex<BTreeMap<u32, Option<ExitStatus>>> = Mutex::new(BTreeMap::new());

/// Signals that the supervisor has got an exit status.
static REAPED: Condvar = Condvar::new();

/// Longest wait for the supervisor to pass a status on, which it does right after it has got it.
const PASS_TIMEOUT: Duration = Duration::from_secs(5);

fn lock() -> MutexGuard<'static, BTreeMap<u32, Option<ExitStatus>>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a child for [`wait`].
///
/// # Errors
/// That of `spawn`.
pub fn start(spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<Child> {
    // Locked until the child is known: it may exit at once.
    let mut children = lock();
    let child = spawn()?;
    children.insert(child.id(), None);
    Ok(child)
}

/// Waits until a child of [`start`] has exited.
///
/// # Errors
/// The status is lost.
pub fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    let status = child.wait();
    let mut children = lock();
    if status.as_ref().is_err_and(|e| e.raw_os_error() == Some(Errno::CHILD.raw_os_error())) {
        let is_unknown = |children: &mut BTreeMap<u32, Option<ExitStatus>>| {
            children.get(&child.id()).is_some_and(Option::is_none)
        };
        children = REAPED
            .wait_timeout_while(children, PASS_TIMEOUT, is_unknown)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
    children.remove(&child.id()).flatten().map_or(status, Ok)
}

/// Kills the children that another thread waits for: nobody needs their results any more.
pub fn kill_all() {
    for pid in lock().iter().filter(|(_, status)| status.is_none()).map(|(pid, _)| pid.cast_signed()) {
        let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
    }
}

/// Passes on the exit status of a child that this thread has reaped. Returns whether another thread waits for it.
pub fn pass_on(pid: u32, status: ExitStatus) -> bool {
    let mut children = lock();
    let Some(place) = children.get_mut(&pid) else { return false };
    *place = Some(status);
    REAPED.notify_all();
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_status_is_passed_on_by_whoever_has_reaped_the_child() {
        let exit = |code: &str| start(|| Command::new("sh").args(["-c", code]).spawn()).unwrap();
        assert_eq!(wait(&mut exit("exit 3")).unwrap().code(), Some(3));
        let mut child = exit("exit 4");
        let pid = rustix::process::Pid::from_child(&child);
        let (_, status) =
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap().unwrap();
        let status = std::os::unix::process::ExitStatusExt::from_raw(status.as_raw());
        assert!(pass_on(child.id(), status) && !pass_on(1, status));
        assert_eq!(wait(&mut child).unwrap().code(), Some(4));
        assert!(!pass_on(child.id(), status), "nothing is kept");
    }
}
