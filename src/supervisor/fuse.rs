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

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Signal, getrlimit};

/// The command that chooses the signal (`asm-generic/fcntl.h`; libc leaves it out).
const F_SETSIG: i32 = 10;

/// Above the first files that a daemon opens, among which are its connections with others of FRR; a table of this size is small.
const LAST: i32 = 1024;

/// Our ends: while they are held, it works.
#[derive(Debug)]
pub struct Fuse(#[allow(dead_code)] [OwnedFd; 2]);

/// What a daemon is to have, so that another is killed when it dies.
#[derive(Debug)]
pub struct Ends {
    /// As its standard input.
    pub input: Stdio,
    /// As a file that it inherits: to be closed here once it is started.
    pub last: OwnedFd,
}

/// Makes `victim` die with the process that gets the ends.
///
/// # Errors
/// There is no such process, or no more files can be had.
pub fn lay(victim: Pid) -> io::Result<(Fuse, Ends)> {
    let (first, input) = pipe(victim)?;
    let (second, last) = pipe(victim)?;
    let highest =
        getrlimit(Resource::Nofile).current.map_or(i32::MAX, |n| i32::try_from(n).unwrap_or(i32::MAX));
    let last = fcntl_dupfd_cloexec(last, highest.min(LAST) - 8)?;
    fcntl_setfd(&last, FdFlags::empty())?;
    Ok((Fuse([first, second]), Ends { input: input.into(), last }))
}

fn pipe(victim: Pid) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
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
    Ok((read, write))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    #[test]
    fn the_victim_dies_with_the_other_and_not_before() {
        let mut victim = Command::new("sleep").arg("60").spawn().unwrap();
        let (_fuse, ends) = lay(Pid::from_child(&victim)).unwrap();
        let mut other = Command::new("sleep").arg("60").stdin(ends.input).spawn().unwrap();
        let files = std::fs::read_dir(format!("/proc/{}/fd", other.id())).unwrap().count();
        assert!(files >= 4, "{files}");
        drop(ends.last);
        assert!(victim.try_wait().unwrap().is_none());
        other.kill().unwrap();
        assert_eq!(victim.wait().unwrap().signal(), Some(9));
        other.wait().unwrap();
    }
}
