//! Text for a program that takes it from a file, without a file on any disk: a full one must not keep a daemon from its
//! configuration, and no one can put another file in its place.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

/// A file in memory that a program inherits when it is started by [`spawn`]. FRR's daemons open it as their own user, which
/// the kernel lets them: it is their own descriptor (`proc_fd_permission`, `fs/proc/fd.c`), and a memfd has mode 0777 or 0666.
#[derive(Debug)]
pub struct Handover(OwnedFd);

impl Handover {
    /// One with that text, which no one changes.
    ///
    /// # Errors
    /// There is no memory, or no more files can be had.
    pub fn text(name: &str, text: &str) -> io::Result<Self> {
        let mut file = File::from(memfd(name)?);
        file.write_all(text.as_bytes())?;
        fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
        Ok(Self(file.into()))
    }

    /// An empty one, which the program may write to.
    ///
    /// # Errors
    /// As of [`Self::text`].
    pub fn empty(name: &str) -> io::Result<Self> {
        Ok(Self(memfd(name)?))
    }

    /// By what name the program opens it.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

fn memfd(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3 does not know the flag, which others may insist on (vm.memfd_noexec).
        Err(Errno::INVAL) => Ok(memfd_create(name, flags)?),
        made => Ok(made?),
    }
}

/// While a program is started that inherits something, no other one is: it would inherit the same.
static STARTING: Mutex<()> = Mutex::new(());

/// Starts a program that inherits these files.
///
/// # Errors
/// It can't be started.
pub fn spawn(command: &mut Command, inherited: &[&Handover]) -> io::Result<Child> {
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let inherit = |flags| inherited.iter().try_for_each(|file| fcntl_setfd(&file.0, flags));
    inherit(FdFlags::empty())?;
    let child = command.spawn();
    // It can't fail where the same has just gone well.
    let _ = inherit(FdFlags::CLOEXEC);
    child
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    #[test]
    fn a_program_reads_what_it_inherits_and_can_not_change_it() {
        let text = Handover::text("text", "some text").unwrap();
        let pid = Handover::empty("pid").unwrap();
        let script = "cat \"$0\"; { echo x >\"$0\"; } 2>/dev/null; echo $$ >\"$1\"; cat \"$1\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, &text.path(), &pid.path()]).stdout(Stdio::piped());
        let child = spawn(&mut command, &[&text, &pid]).unwrap();
        let id = child.id();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("some text{id}\n"));
        let other = Command::new("cat").arg(text.path()).stderr(Stdio::null()).status().unwrap();
        assert!(!other.success(), "only who is given it has it");
    }
}
