//! One daemon's death at the moment of another's, before it can do anything about that.
//!
//! Where the other end of a pipe has a signal and a process set for its events, the kernel sends that signal as it closes the
//! pipe (`pipe_release`, `fs/pipe.c`; `send_sigio`, `fs/fcntl.c`): no one has to wake up for it. A dying process's files are closed
//! before anyone is told of its death, the last one first (`exit_files` puts them on a list that `exit_task_work` takes from its end:
//! `kernel/exit.c`, `kernel/task_work.c`). So it has such a pipe as its last file, and one as its first, should a kernel do it the
//! other way round: none of its connections has ended then.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Stdio;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};

/// The command that chooses the signal (`asm-generic/fcntl.h`; libc leaves it out).
const F_SETSIG: i32 = 10;

/// Above the first files that a daemon opens, among which are its connections with others of FRR; a table of this size is small.
const LAST: i32 = 1024;

/// Our ends: while they are held and armed, it works.
#[derive(Debug)]
pub struct Fuse([OwnedFd; 2]);

/// What a daemon is to have, so that another is killed when it dies.
#[derive(Debug)]
pub struct Ends {
    /// As its standard input.
    pub input: Stdio,
    /// As a file that it inherits: to be closed here once it is started.
    pub last: OwnedFd,
}

/// Makes both ends. Nothing comes of them until [`Fuse::arm`]: a process that can't be started takes no other along.
///
/// # Errors
/// No more files can be had.
pub fn lay() -> io::Result<(Fuse, Ends)> {
    let (first, input) = pipe_with(PipeFlags::CLOEXEC)?;
    let (second, last) = pipe_with(PipeFlags::CLOEXEC)?;
    let highest =
        getrlimit(Resource::Nofile).current.map_or(i32::MAX, |n| i32::try_from(n).unwrap_or(i32::MAX));
    let last = fcntl_dupfd_cloexec(last, highest.min(LAST) - 8)?;
    fcntl_setfd(&last, FdFlags::empty())?;
    Ok((Fuse([first, second]), Ends { input: input.into(), last }))
}

impl Fuse {
    /// Makes `victim` die with the process that has got the other ends, and at once if that is dead already.
    ///
    /// # Errors
    /// There is no such process.
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
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    #[test]
    fn the_victim_dies_with_the_other_and_not_before() {
        let mut victim = Command::new("sleep").arg("60").spawn().unwrap();
        let (fuse, ends) = lay().unwrap();
        let mut other = Command::new("sleep").arg("60").stdin(ends.input).spawn().unwrap();
        fuse.arm(Pid::from_child(&victim)).unwrap();
        let files = std::fs::read_dir(format!("/proc/{}/fd", other.id())).unwrap().count();
        assert!(files >= 4, "{files}");
        drop(ends.last);
        assert!(victim.try_wait().unwrap().is_none());
        other.kill().unwrap();
        assert_eq!(victim.wait().unwrap().signal(), Some(9));
        other.wait().unwrap();
    }

    #[test]
    fn who_can_not_be_started_takes_no_one_along_and_who_is_dead_already_does() {
        let mut victim = Command::new("sleep").arg("60").spawn().unwrap();
        let (fuse, ends) = lay().unwrap();
        assert!(Command::new("/nonexistent").stdin(ends.input).spawn().is_err());
        drop((ends.last, fuse));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(victim.try_wait().unwrap().is_none());
        let (fuse, ends) = lay().unwrap();
        Command::new("true").stdin(ends.input).spawn().unwrap().wait().unwrap();
        drop(ends.last);
        fuse.arm(Pid::from_child(&victim)).unwrap();
        assert_eq!(victim.wait().unwrap().signal(), Some(9));
    }
}
