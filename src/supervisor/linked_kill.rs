//! Linked kill: the kernel kills one daemon at the moment when another exits, before it can react to that exit.
//!
//! A pipe whose other end has a signal and a process set for its events makes the kernel send that signal when the pipe
//! closes (`pipe_release`, `fs/pipe.c`; `send_sigio`, `fs/fcntl.c`). No process has to wake up for it. The kernel
//! closes the files of an exiting process before it reports the exit, the highest descriptor first (`exit_files` puts
//! them on a list that `exit_task_work` takes from its end: `kernel/exit.c`, `kernel/task_work.c`). So the daemon has
//! such a pipe as its highest descriptor and a second one as its lowest, in case a kernel closes them in the other
//! order. In both cases the signal is sent before any of the daemon's connections is closed.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Stdio;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};

/// The fcntl command that sets the signal (`asm-generic/fcntl.h`; libc does not define it).
const F_SETSIG: i32 = 10;

/// Descriptor limit for the inherited pipe: above the first files that a daemon opens, which include its connections to
/// other FRR daemons, and low enough to keep the descriptor table small.
const HIGH_FD: i32 = 1024;

/// The supervisor's ends of the pipes. The link is active while this value exists and is armed.
#[derive(Debug)]
pub struct LinkedKill([OwnedFd; 2]);

/// The daemon's ends of the pipes.
#[derive(Debug)]
pub struct DaemonEnds {
    /// Its standard input.
    pub input: Stdio,
    /// A file that it is to inherit (`memfd::spawn`). The supervisor closes its copy after the start.
    pub inherited: OwnedFd,
}

/// Creates both ends. They do nothing until [`LinkedKill::arm`], so a failed start of the daemon kills nothing.
///
/// # Errors
/// The process has no file descriptors left.
pub fn create() -> io::Result<(LinkedKill, DaemonEnds)> {
    let (first, input) = pipe_with(PipeFlags::CLOEXEC)?;
    let (second, inherited) = pipe_with(PipeFlags::CLOEXEC)?;
    let highest =
        getrlimit(Resource::Nofile).current.map_or(i32::MAX, |n| i32::try_from(n).unwrap_or(i32::MAX));
    let inherited = fcntl_dupfd_cloexec(inherited, highest.min(HIGH_FD) - 8)?;
    Ok((LinkedKill([first, second]), DaemonEnds { input: input.into(), inherited }))
}

impl LinkedKill {
    /// Makes the kernel kill `victim` when the process with the other ends exits; kills it at once if that process has
    /// exited already.
    ///
    /// # Errors
    /// `victim` does not exist.
    pub fn arm(&self, victim: Pid) -> io::Result<()> {
        for read in &self.0 {
            for (command, value) in [
                (F_SETSIG, Signal::KILL.as_raw()),
                (libc::F_SETOWN, victim.as_raw_nonzero().get()),
                (libc::F_SETFL, libc::O_ASYNC),
            ] {
                // SAFETY: these commands of fcntl(2) take an int and no pointer, and the descriptor is open.
                if unsafe { libc::fcntl(read.as_raw_fd(), command, value) } != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
        }
        let mut ends = self.0.each_ref().map(|read| PollFd::new(read, PollFlags::empty()));
        poll(&mut ends, Some(&Timespec::default()))?;
        if ends.iter().any(|end| end.revents().contains(PollFlags::HUP)) {
            kill_process(victim, Signal::KILL)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frr::memfd;
    use std::os::fd::AsFd as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    #[test]
    fn the_victim_is_killed_when_the_other_process_exits() {
        let mut victim = Command::new("sleep").arg("60").spawn().unwrap();
        let (link, daemon_ends) = create().unwrap();
        let mut command = Command::new("sleep");
        command.arg("60").stdin(daemon_ends.input);
        let mut other = memfd::spawn(&mut command, &[daemon_ends.inherited.as_fd()]).unwrap();
        drop(command);
        link.arm(Pid::from_child(&victim)).unwrap();
        let files = std::fs::read_dir(format!("/proc/{}/fd", other.id())).unwrap().count();
        assert!(files >= 4, "{files}");
        drop(daemon_ends.inherited);
        assert!(victim.try_wait().unwrap().is_none());
        other.kill().unwrap();
        assert_eq!(victim.wait().unwrap().signal(), Some(9));
        other.wait().unwrap();
    }

    #[test]
    fn a_failed_start_kills_nothing_and_an_early_exit_kills_the_victim() {
        let mut victim = Command::new("sleep").arg("60").spawn().unwrap();
        let (link, daemon_ends) = create().unwrap();
        assert!(Command::new("/nonexistent").stdin(daemon_ends.input).spawn().is_err());
        drop((daemon_ends.inherited, link));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(victim.try_wait().unwrap().is_none());
        let (link, daemon_ends) = create().unwrap();
        Command::new("true").stdin(daemon_ends.input).spawn().unwrap().wait().unwrap();
        drop(daemon_ends.inherited);
        link.arm(Pid::from_child(&victim)).unwrap();
        assert_eq!(victim.wait().unwrap().signal(), Some(9));
    }
}
