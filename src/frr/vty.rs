//! The vty sockets of the daemons: a command ends with a NUL, a reply with three NULs and a status byte.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::daemons::{DaemonKind, SOCKET_DIR};

/// The liveness check, the command that watchfrr also uses: a daemon whose event loop runs replies at once.
pub const PING: &str = "echo PING";

/// The commands that enter the configuration node of a vty.
pub const CONFIGURE: [&str; 2] = ["enable", "configure terminal"];

/// The maximum size of the buffer for replies, in bytes; no valid reply is longer.
const MAX_REPLY: usize = 64 << 20;

/// Bytes of the first read(2) of a reply; each further one reads as much as has arrived before.
const CHUNK: usize = 4 << 10;

/// Status byte of a command that succeeded (`CMD_SUCCESS`, `lib/command.h`).
const SUCCESS: u8 = 0;

/// The path of a daemon's vty socket.
pub fn socket(daemon: DaemonKind) -> PathBuf {
    Path::new(SOCKET_DIR).join(daemon.name()).with_extension("vty")
}

/// A handle of a socket in the directory of FRR's user. We check and connect to the same inode, so that a link to the
/// socket of another program can't replace it in between.
struct SocketHandle(OwnedFd);

impl SocketHandle {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::Socket => Ok(Self(file)),
            _ => Err(io::Error::other(format!("{} is not a socket", path.display()))),
        }
    }

    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

/// Commands to one daemon, and its replies. Never blocks.
#[derive(Debug)]
pub struct Query {
    stream: UnixStream,
    /// The commands that are not sent yet.
    unsent: VecDeque<String>,
    /// The number of replies that have not arrived yet.
    outstanding: usize,
    buffer: ReplyBuffer,
    replies: Vec<Reply>,
}

/// The received bytes of replies that are not complete yet.
#[derive(Debug, Default)]
struct ReplyBuffer {
    bytes: Vec<u8>,
    /// There is no NUL before this index.
    searched: usize,
}

/// The reply of a daemon to a command.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// Whether the command succeeded.
    pub success: bool,
    /// The output of the command.
    pub text: String,
}

impl AsRef<str> for Reply {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl Query {
    /// Connects to the socket at `path` and sends the first command. Each further command is sent after the reply to
    /// the previous one.
    ///
    /// # Errors
    /// The daemon does not listen (yet).
    pub fn commands(path: &Path, commands: impl IntoIterator<Item = impl Into<String>>) -> io::Result<Self> {
        // The backlog of a hung daemon may be full; a blocking connect would then hang.
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let handle = SocketHandle::open(path)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(handle.path())?)?;
        let unsent: VecDeque<String> = commands.into_iter().map(Into::into).collect();
        let (stream, outstanding) = (UnixStream::from(socket), unsent.len());
        let mut query = Self { stream, unsent, outstanding, buffer: ReplyBuffer::default(), replies: vec![] };
        query.send_next()?;
        Ok(query)
    }

    /// Connects to the socket at `path` and sends all commands at once. They must only show something: FRR may drop
    /// other commands that arrive before it has replied to the previous one (`vtysh_read`, `lib/vty.c`).
    ///
    /// # Errors
    /// The daemon does not listen (yet).
    pub fn show(path: &Path, commands: impl IntoIterator<Item = impl Into<String>>) -> io::Result<Self> {
        let mut query = Self::commands(path, commands)?;
        while !query.unsent.is_empty() {
            query.send_next()?;
        }
        Ok(query)
    }

    fn send_next(&mut self) -> io::Result<()> {
        let Some(mut command) = self.unsent.pop_front() else { return Ok(()) };
        command.push('\0');
        self.stream.write_all(command.as_bytes())
    }

    /// Takes a query that has ended out of its place: all replies have arrived, or it has failed.
    ///
    /// # Errors
    /// The inner result is that of [`Self::poll_replies`].
    pub fn take_ended(open: &mut Option<Self>) -> Option<io::Result<Vec<Reply>>> {
        let result = open.as_mut()?.poll_replies().transpose()?;
        *open = None;
        Some(result)
    }

    /// The same as [`Self::take_ended`] for a query with what it is about.
    ///
    /// # Errors
    /// The inner result is that of [`Self::poll_replies`].
    pub fn take_ended_with<T>(open: &mut Option<(Self, T)>) -> Option<(io::Result<Vec<Reply>>, T)> {
        let result = open.as_mut()?.0.poll_replies().transpose()?;
        open.take().map(|(_, about)| (result, about))
    }

    /// Whether the reply to any command has arrived.
    pub fn has_reply(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Reads what has arrived. Returns the replies when all of them have arrived.
    ///
    /// # Errors
    /// The connection was closed, or the reply is not valid.
    pub fn poll_replies(&mut self) -> io::Result<Option<Vec<Reply>>> {
        loop {
            match self.buffer.read(&self.stream) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            while let Some(reply) = self.buffer.take()? {
                self.replies.push(reply);
                self.outstanding = self.outstanding.saturating_sub(1);
                if self.outstanding == 0 {
                    return Ok(Some(std::mem::take(&mut self.replies)));
                }
                self.send_next()?;
            }
        }
    }
}

/// A vty for a thread that may block.
#[derive(Debug)]
pub struct Terminal(UnixStream);

impl Terminal {
    /// Connects to the socket at `path` and enters the configuration node. `timeout` is the limit for each read and
    /// write.
    ///
    /// # Errors
    /// The daemon does not listen, or rejects a command.
    pub fn open(path: &Path, timeout: Duration) -> io::Result<Self> {
        let mut terminal = Self::connect(path, timeout)?;
        for command in CONFIGURE {
            let reply = terminal.execute(command)?;
            if !reply.success {
                return Err(io::Error::other(reply.text));
            }
        }
        Ok(terminal)
    }

    /// Connects to the socket at `path` without entering the configuration node, for `show` commands. `timeout` is the
    /// limit for each read and write.
    ///
    /// # Errors
    /// The daemon does not listen.
    pub fn connect(path: &Path, timeout: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(SocketHandle::open(path)?.path())?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self(stream))
    }

    /// Sends a command and waits for the reply.
    ///
    /// # Errors
    /// The connection was closed, or the reply did not arrive in time.
    pub fn execute(&mut self, command: &str) -> io::Result<Reply> {
        self.0.write_all(&[command.as_bytes(), &[0]].concat())?;
        let mut buffer = ReplyBuffer::default();
        loop {
            match buffer.read(&self.0) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                Err(e) => return Err(e),
            }
            if let Some(reply) = buffer.take()? {
                return Ok(reply);
            }
        }
    }
}

impl ReplyBuffer {
    /// Reads once, at the end of what was read before. The end of the stream is an error.
    fn read(&mut self, stream: &UnixStream) -> io::Result<()> {
        self.bytes.reserve(CHUNK);
        match rustix::io::read(stream, spare_capacity(&mut self.bytes))? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Removes and returns the first reply, if it is complete.
    fn take(&mut self) -> io::Result<Option<Reply>> {
        if self.bytes.len() > MAX_REPLY {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let nul = self.bytes[self.searched..].iter().position(|byte| *byte == 0);
        self.searched += nul.unwrap_or(self.bytes.len() - self.searched);
        let Some([0, 0, 0, status]) = self.bytes.get(self.searched..self.searched + 4) else {
            return Ok(None);
        };
        let success = *status == SUCCESS;
        let text = String::from_utf8_lossy(&self.bytes[..self.searched]).into_owned();
        self.bytes.drain(..self.searched + 4);
        self.searched = 0;
        Ok(Some(Reply { success, text }))
    }
}

impl AsFd for Query {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixListener;

    #[test]
    fn replies_may_arrive_in_pieces() {
        let path = std::env::temp_dir().join(format!("vty-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let mut query = Query::commands(&path, [PING, "enable"]).unwrap();
        let (mut daemon, _) = listener.accept().unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut command = [0; 10];
        daemon.read_exact(&mut command).unwrap();
        assert_eq!(&command, b"echo PING\0");
        assert_eq!(query.poll_replies().unwrap(), None);
        daemon.write_all(b"PING\n\0\0").unwrap();
        assert_eq!(query.poll_replies().unwrap(), None);
        daemon.write_all(b"\0\0").unwrap();
        assert_eq!(query.poll_replies().unwrap(), None);
        daemon.read_exact(&mut command[..7]).unwrap();
        assert_eq!(&command[..7], b"enable\0");
        daemon.write_all(b"\0\0\0\x02").unwrap();
        let reply = |success, text: &str| Reply { success, text: text.into() };
        assert_eq!(query.poll_replies().unwrap(), Some(vec![reply(true, "PING\n"), reply(false, "")]));
        drop(daemon);
        assert!(query.poll_replies().is_err());
    }

    #[test]
    fn replies_may_arrive_together() {
        let path = std::env::temp_dir().join(format!("vty-show-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let mut query = Query::show(&path, ["enable", "show version", PING]).unwrap();
        let (mut daemon, _) = listener.accept().unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut commands = [0; 30];
        daemon.read_exact(&mut commands).unwrap();
        assert_eq!(&commands, b"enable\0show version\0echo PING\0");
        daemon.write_all(b"\0\0\0\0FRR\n\0\0").unwrap();
        assert_eq!(query.poll_replies().unwrap(), None);
        assert!(query.has_reply());
        daemon.write_all(b"\0\0PING\n\0\0\0\x01").unwrap();
        let reply = |success, text: &str| Reply { success, text: text.into() };
        let all = vec![reply(true, ""), reply(true, "FRR\n"), reply(false, "PING\n")];
        assert_eq!(query.poll_replies().unwrap(), Some(all));
    }
}
