//! The daemons' own vty sockets: a command ends with a NUL, an answer with three NULs and a status byte.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The question that watchfrr asks, too: a daemon whose event loop runs answers at once.
const PING: &[u8] = b"echo PING\0";

/// Answers longer than this are none that we asked for.
const LONGEST_ANSWER: usize = 4096;

/// A ping that was sent and not yet answered. Never blocks.
#[derive(Debug)]
pub struct Ping {
    stream: UnixStream,
    answer: Vec<u8>,
}

impl Ping {
    /// Connects to the socket at `path` and asks.
    ///
    /// # Errors
    /// The daemon does not listen (yet).
    pub fn send(path: &Path) -> io::Result<Self> {
        // A hung daemon's backlog may be full, and then an ordinary connect would wait for it.
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        let mut stream = UnixStream::from(socket);
        stream.write_all(PING)?;
        Ok(Self { stream, answer: Vec::new() })
    }

    /// Takes in what has come. `true`: the daemon answered.
    ///
    /// # Errors
    /// The connection was closed, or the answer is not one.
    pub fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 256];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.answer.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(complete(&self.answer)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if self.answer.len() > LONGEST_ANSWER {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
}

impl AsFd for Ping {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn complete(answer: &[u8]) -> bool {
    matches!(answer, [.., 0, 0, 0, _status])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn an_answer_may_come_in_pieces() {
        let dir = std::env::temp_dir().join(format!("vty-{}", std::process::id()));
        let listener = UnixListener::bind(&dir).unwrap();
        let mut ping = Ping::send(&dir).unwrap();
        let (mut daemon, _) = listener.accept().unwrap();
        std::fs::remove_file(&dir).unwrap();
        let mut question = [0; 10];
        daemon.read_exact(&mut question).unwrap();
        assert_eq!(&question, PING);
        assert!(!ping.receive().unwrap());
        daemon.write_all(b"PING\n\0\0").unwrap();
        assert!(!ping.receive().unwrap());
        daemon.write_all(b"\0\0").unwrap();
        assert!(ping.receive().unwrap());
        drop(daemon);
        assert!(ping.receive().is_err());
    }
}
