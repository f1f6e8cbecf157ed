//! Signals as a file descriptor for `poll`.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};

/// The signals that the supervisor handles; readable when one has arrived.
#[derive(Debug)]
pub struct Signals {
    pipe: UnixStream,
    stop: Arc<AtomicBool>,
    withdraw: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers. For PID 1, the kernel discards a signal without a handler.
    ///
    /// # Errors
    /// The process has no file descriptors left.
    pub fn catch() -> io::Result<Self> {
        let (pipe, write) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGQUIT] {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        let withdraw = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGUSR1, Arc::clone(&withdraw))?;
        let reload = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGHUP, Arc::clone(&reload))?;
        signal_hook::low_level::pipe::register(SIGHUP, write.try_clone()?)?;
        signal_hook::low_level::pipe::register(SIGCHLD, write)?;
        Ok(Self { pipe, stop, withdraw, reload })
    }

    /// Empties the pipe. Whether a stop was ever requested: a stop cannot be cancelled.
    pub fn stop_requested(&self) -> bool {
        let mut buffer = [0; 256];
        while matches!((&self.pipe).read(&mut buffer), Ok(n) if n > 0) {}
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether `SIGHUP` has arrived since the last call.
    pub fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }

    /// Whether `SIGUSR1` has requested that the next stop withdraws the node's routes.
    pub fn withdraw_requested(&self) -> bool {
        self.withdraw.load(Ordering::Relaxed)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
