//! One child process: its pipe, its words and its end.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use log::Level;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};

use super::output::{self, Lines};

/// Of the line that bgpd prints then (`bgp log-neighbor-changes`, `bgpd/bgp_fsm.c`).
const SESSION_CHANGED: &str = "%ADJCHANGE: neighbor ";

/// A child that was started and not yet reaped.
#[derive(Debug)]
pub struct Child {
    pub name: &'static str,
    pub pid: Pid,
    /// `None` once the program has closed it.
    pub output: Option<File>,
    lines: Lines,
    /// The last thing it said, for the line about its end.
    last: String,
    /// We ended it ourselves.
    killed: bool,
    sessions_changed: bool,
}

impl Child {
    /// Starts a program with its output in our pipe, in a process group of its own so that no terminal signal reaches it.
    pub fn spawn(name: &'static str, command: Command) -> io::Result<Self> {
        Self::with_input(name, command, Stdio::null())
    }

    /// The same with something to hold as its standard input.
    pub fn with_input(name: &'static str, mut command: Command, input: Stdio) -> io::Result<Self> {
        let (read, write): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        command.stdin(input).stdout(write.try_clone()?).stderr(write).process_group(0);
        let child = command.spawn()?;
        Ok(Self {
            name,
            pid: Pid::from_child(&child),
            output: Some(read.into()),
            lines: Lines::default(),
            last: String::new(),
            killed: false,
            sessions_changed: false,
        })
    }

    /// Reads what there is, and no more than a pipe holds, so that a chatterbox can't keep us.
    pub fn read(&mut self) {
        let mut buffer = [0; 16384];
        for _ in 0..4 {
            let Some(output) = &mut self.output else { return };
            match output.read(&mut buffer) {
                Ok(0) => self.output = None,
                Ok(n) => {
                    let (name, last) = (self.name, &mut self.last);
                    self.lines.push(&buffer[..n], |line| {
                        say(name, line, last);
                        self.sessions_changed |= last.contains(SESSION_CHANGED);
                    });
                }
                Err(_) => return,
            }
        }
    }

    /// Whether it has named a session that came up or went down since this was asked last.
    pub fn take_sessions_changed(&mut self) -> bool {
        std::mem::take(&mut self.sessions_changed)
    }

    /// Ends it at once. It can only be gone already, and then its death is about to be seen.
    pub fn kill(&mut self) {
        self.killed = true;
        let _ = kill_process(self.pid, Signal::KILL);
    }

    /// Has it write down where it is and end. It can only be gone already.
    pub fn abort(&self) {
        let _ = kill_process(self.pid, Signal::ABORT);
    }

    /// Takes in what it said last.
    pub fn finish(&mut self) {
        self.read();
        let (name, last) = (self.name, &mut self.last);
        self.lines.flush(|line| say(name, line, last));
    }

    /// How the line about its end goes on.
    pub fn epitaph(&self) -> String {
        if self.last.is_empty() { String::new() } else { format!("; its last words: {}", self.last) }
    }

    /// How much its end is worth to be known.
    pub fn level(&self) -> Level {
        if self.killed { Level::Info } else { Level::Warn }
    }
}

fn say(name: &str, line: &str, last: &mut String) {
    let (level, message) = output::parse(line);
    log::log!(target: name, level, "{message}");
    message.clone_into(last);
}
