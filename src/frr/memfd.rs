//! Anonymous files in memory (memfd_create(2)) for programs that read text from a file. A full disk does not keep a
//! daemon from its configuration, and no other process can replace the file.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

/// An anonymous file that a program inherits when [`spawn`] starts it. FRR's daemons open it by its path as FRR's user.
/// The kernel allows that: the descriptor is their own (`proc_fd_permission`, `fs/proc/fd.c`), and the mode of a memfd
/// is 0777 or 0666.
#[derive(Debug)]
pub struct Memfd(OwnedFd);

impl Memfd {
    /// A file with this text, sealed against changes.
    ///
    /// # Errors
    /// There is no memory, or too many files are open.
    pub fn sealed(name: &str, text: &str) -> io::Result<Self> {
        let mut file = File::from(create(name)?);
        file.write_all(text.as_bytes())?;
        fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
        Ok(Self(file.into()))
    }

    /// An empty file that the program can write to.
    ///
    /// # Errors
    /// See [`Self::sealed`].
    pub fn empty(name: &str) -> io::Result<Self> {
        Ok(Self(create(name)?))
    }

    /// The file as the standard output of a program.
    ///
    /// # Errors
    /// Too many files are open.
    pub fn writer(&self) -> io::Result<Stdio> {
        Ok(self.0.try_clone()?.into())
    }

    /// What was written.
    ///
    /// # Errors
    /// It can't be read.
    pub fn contents(&self) -> io::Result<String> {
        let (mut file, mut bytes) = (File::from(self.0.try_clone()?), vec![]);
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The path by which the program opens it.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn create(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3 does not have the flag NOEXEC_SEAL. Later ones may require it (vm.memfd_noexec).
        Err(Errno::INVAL) => Ok(memfd_create(name, flags)?),
        created => Ok(created?),
    }
}

/// Locked while [`spawn`] starts a program: a program that is started at the same time would inherit the same files.
static SPAWN_LOCK: Mutex<()> = Mutex::new(());

/// Starts a program that inherits these files.
///
/// # Errors
/// The program can't be started.
pub fn spawn(command: &mut Command, inherited: &[BorrowedFd<'_>]) -> io::Result<Child> {
    let _lock = SPAWN_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let set_flags = |flags| inherited.iter().try_for_each(|file| fcntl_setfd(file, flags));
    set_flags(FdFlags::empty())?;
    let child = command.spawn();
    // This can't fail: the first call has just succeeded.
    let _ = set_flags(FdFlags::CLOEXEC);
    child
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_reads_what_it_inherits_and_can_not_change_it() {
        let text = Memfd::sealed("text", "some text").unwrap();
        let pid = Memfd::empty("pid").unwrap();
        let script = "cat \"$0\"; { echo x >\"$0\"; } 2>/dev/null; echo $$ >\"$1\"; cat \"$1\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, &text.path(), &pid.path()]).stdout(Stdio::piped());
        let child = spawn(&mut command, &[text.as_fd(), pid.as_fd()]).unwrap();
        let id = child.id();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("some text{id}\n"));
        let other = Command::new("cat").arg(text.path()).stderr(Stdio::null()).status().unwrap();
        assert!(!other.success(), "only the program that inherits the file can open it");
    }
}
