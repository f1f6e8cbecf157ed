//! The daemons' own vty sockets: a command ends with a NUL, an answer with three NULs and a status byte.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::daemons::SOCKET_DIR;

/// The question that watchfrr asks, too: a daemon whose event loop runs answers at once.
pub const PING: &str = "echo PING";

/// The commands that lead to where a daemon is configured.
pub const CONFIGURE: [&str; 2] = ["enable", "configure terminal"];

/// Answers longer than this are none that we asked for.
const LONGEST_ANSWER: usize = 64 << 20;

/// Read at once: a configuration with many VNIs takes more time to read than to compare.
const CHUNK: usize = 32 << 10;

/// Status byte of a command that was carried out (`CMD_SUCCESS`, `lib/command.h`).
const SUCCESS: u8 = 0;

/// Where a daemon of ours listens.
pub fn socket(daemon: &str) -> PathBuf {
    Path::new(SOCKET_DIR).join(daemon).with_extension("vty")
}

/// A socket in the directory of FRR's user. What is connected to is what was looked at: no link to another program's.
struct Listener(OwnedFd);

impl Listener {
    fn find(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::Socket => Ok(Self(file)),
            _ => Err(io::Error::other(format!("{} is no socket", path.display()))),
        }
    }

    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

/// Commands to one daemon, and what it says. Never blocks.
#[derive(Debug)]
pub struct Talk {
    stream: UnixStream,
    /// Those that are not sent yet.
    questions: VecDeque<String>,
    /// Answers that are still to come.
    open: usize,
    heard: Heard,
    answers: Vec<Answer>,
}

/// What has come of answers that are not whole yet.
#[derive(Debug, Default)]
struct Heard {
    buffer: Vec<u8>,
    /// There is no NUL before here.
    searched: usize,
}

/// What a daemon said to a command.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it carried the command out.
    pub well: bool,
    /// Its words.
    pub text: String,
}

impl AsRef<str> for Answer {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl Talk {
    /// Connects to the socket at `path` and sends the first command; each of the others when the one before is answered.
    ///
    /// # Errors
    /// The daemon does not listen (yet).
    pub fn begin(path: &Path, questions: impl IntoIterator<Item = impl Into<String>>) -> io::Result<Self> {
        // A hung daemon's backlog may be full, and then an ordinary connect would wait for it.
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let there = Listener::find(path)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(there.path())?)?;
        let questions: VecDeque<String> = questions.into_iter().map(Into::into).collect();
        let (stream, open) = (UnixStream::from(socket), questions.len());
        let mut talk = Self { stream, questions, open, heard: Heard::default(), answers: vec![] };
        talk.ask()?;
        Ok(talk)
    }

    /// The same with commands that show something, which are sent at once. Of others FRR may drop those that it gets before it
    /// has answered the last one (`vtysh_read`, `lib/vty.c`).
    ///
    /// # Errors
    /// The daemon does not listen (yet).
    pub fn show(path: &Path, questions: impl IntoIterator<Item = impl Into<String>>) -> io::Result<Self> {
        let mut talk = Self::begin(path, questions)?;
        while !talk.questions.is_empty() {
            talk.ask()?;
        }
        Ok(talk)
    }

    fn ask(&mut self) -> io::Result<()> {
        let Some(mut question) = self.questions.pop_front() else { return Ok(()) };
        question.push('\0');
        self.stream.write_all(question.as_bytes())
    }

    /// Whether any command has been answered yet.
    pub fn is_heard(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Takes in what has come. The answers, once all of them are there.
    ///
    /// # Errors
    /// The connection was closed, or the answer is not one.
    pub fn receive(&mut self) -> io::Result<Option<Vec<Answer>>> {
        let mut chunk = [0; CHUNK];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.heard.buffer.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            while let Some(answer) = self.heard.take()? {
                self.answers.push(answer);
                self.open = self.open.saturating_sub(1);
                if self.open == 0 {
                    return Ok(Some(std::mem::take(&mut self.answers)));
                }
                self.ask()?;
            }
        }
    }
}

/// A conversation on a thread that may wait.
#[derive(Debug)]
pub struct Session(UnixStream);

impl Session {
    /// Connects to the socket at `path` and leads to where a daemon is configured. No answer may take longer than
    /// `patience`.
    ///
    /// # Errors
    /// The daemon does not listen, or refuses.
    pub fn begin(path: &Path, patience: Duration) -> io::Result<Self> {
        let mut session = Self::show(path, patience)?;
        for command in CONFIGURE {
            let answer = session.ask(command)?;
            if !answer.well {
                return Err(io::Error::other(answer.text));
            }
        }
        Ok(session)
    }

    /// Connects for commands that show something alone.
    ///
    /// # Errors
    /// The daemon does not listen.
    pub fn show(path: &Path, patience: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(Listener::find(path)?.path())?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self(stream))
    }

    /// Sends a command, and waits for the answer.
    ///
    /// # Errors
    /// The connection was closed, or there was no answer in time.
    pub fn ask(&mut self, command: &str) -> io::Result<Answer> {
        self.0.write_all(&[command.as_bytes(), &[0]].concat())?;
        let (mut heard, mut chunk) = (Heard::default(), [0; CHUNK]);
        loop {
            match self.0.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => heard.buffer.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                Err(e) => return Err(e),
            }
            if let Some(answer) = heard.take()? {
                return Ok(answer);
            }
        }
    }
}

impl Heard {
    /// The first answer, if all of it is there.
    fn take(&mut self) -> io::Result<Option<Answer>> {
        if self.buffer.len() > LONGEST_ANSWER {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let nul = self.buffer[self.searched..].iter().position(|byte| *byte == 0);
        self.searched += nul.unwrap_or(self.buffer.len() - self.searched);
        let Some([0, 0, 0, status]) = self.buffer.get(self.searched..self.searched + 4) else {
            return Ok(None);
        };
        let well = *status == SUCCESS;
        let text = String::from_utf8_lossy(&self.buffer[..self.searched]).into_owned();
        self.buffer.drain(..self.searched + 4);
        self.searched = 0;
        Ok(Some(Answer { well, text }))
    }
}

impl AsFd for Talk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn answers_may_come_in_pieces() {
        let path = std::env::temp_dir().join(format!("vty-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let mut talk = Talk::begin(&path, [PING, "enable"]).unwrap();
        let (mut daemon, _) = listener.accept().unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut question = [0; 10];
        daemon.read_exact(&mut question).unwrap();
        assert_eq!(&question, b"echo PING\0");
        assert_eq!(talk.receive().unwrap(), None);
        daemon.write_all(b"PING\n\0\0").unwrap();
        assert_eq!(talk.receive().unwrap(), None);
        daemon.write_all(b"\0\0").unwrap();
        assert_eq!(talk.receive().unwrap(), None);
        daemon.read_exact(&mut question[..7]).unwrap();
        assert_eq!(&question[..7], b"enable\0");
        daemon.write_all(b"\0\0\0\x02").unwrap();
        let answer = |well, text: &str| Answer { well, text: text.into() };
        assert_eq!(talk.receive().unwrap(), Some(vec![answer(true, "PING\n"), answer(false, "")]));
        drop(daemon);
        assert!(talk.receive().is_err());
    }

    #[test]
    fn answers_may_come_together() {
        let path = std::env::temp_dir().join(format!("vty-show-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let mut talk = Talk::show(&path, ["enable", "show version", PING]).unwrap();
        let (mut daemon, _) = listener.accept().unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut questions = [0; 30];
        daemon.read_exact(&mut questions).unwrap();
        assert_eq!(&questions, b"enable\0show version\0echo PING\0");
        daemon.write_all(b"\0\0\0\0FRR\n\0\0").unwrap();
        assert_eq!(talk.receive().unwrap(), None);
        assert!(talk.is_heard());
        daemon.write_all(b"\0\0PING\n\0\0\0\x01").unwrap();
        let answer = |well, text: &str| Answer { well, text: text.into() };
        let all = vec![answer(true, ""), answer(true, "FRR\n"), answer(false, "PING\n")];
        assert_eq!(talk.receive().unwrap(), Some(all));
    }
}
