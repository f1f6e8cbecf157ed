//! A bounded queue of log lines between the threads that log and the thread that writes to standard error.
//!
//! Standard error may be a pipe or a terminal whose reader has stopped; a write to it then blocks. `O_NONBLOCK` does not help: the flag
//! belongs to the open file description, which other processes share. One thread writes the queued lines. Only that thread can block.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The largest number of queued bytes: some 8,000 lines, as many as a node with a thousand VNIs logs at its start.
const CAPACITY: usize = 1 << 20;

/// Additional bytes that only errors may use.
const ERROR_RESERVE: usize = 1 << 18;

/// A pipe takes this many bytes in one piece or none of them (`PIPE_BUF`, pipe(7)).
const ATOMIC_WRITE: usize = 4096;

/// A line with its line feed.
type Line = Vec<u8>;

#[derive(Debug)]
struct QueuedLines {
    lines: VecDeque<Line>,
    /// The total length of `lines` in bytes.
    length: usize,
    /// The number of lines dropped since the last report, and the time of the first drop.
    dropped: Option<(u64, Instant)>,
    /// The writer thread has taken a line and has not written all of it.
    writing: bool,
    /// No writer thread exists: each `push` writes as much as standard error takes without blocking.
    no_writer: bool,
}

/// A report of dropped lines.
#[derive(Debug, PartialEq, Eq)]
pub struct DroppedLines {
    /// The number of lines.
    pub lines: u64,
    /// The time of the first drop.
    pub since: Instant,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    queued: Mutex<QueuedLines>,
    /// Signals that a line was added or written.
    changed: Condvar,
}

impl Queue {
    /// Creates an empty queue. Nothing is written before [`Queue::start_writer`].
    pub fn new() -> Arc<Self> {
        let queued = QueuedLines {
            lines: VecDeque::new(),
            length: 0,
            dropped: None,
            writing: false,
            no_writer: false,
        };
        Arc::new(Self { queued: Mutex::new(queued), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, QueuedLines> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line, or counts it as dropped if the queue is full. Never blocks on `out`.
    pub fn push(&self, line: &[u8], is_error: bool, out: impl AsFd) {
        let limit = CAPACITY + if is_error { ERROR_RESERVE } else { 0 };
        let mut queued = self.lock();
        if queued.length + line.len() > limit {
            let (lines, since) = queued.dropped.unwrap_or((0, Instant::now()));
            queued.dropped = Some((lines + 1, since));
        } else {
            queued.length += line.len();
            queued.lines.push_back(line.to_vec());
        }
        if queued.no_writer {
            write_without_blocking(&mut queued, out.as_fd());
        }
        drop(queued);
        self.changed.notify_all();
    }

    /// Starts the thread that writes the lines to `out`. It passes each report of dropped lines to `report`.
    ///
    /// # Errors
    /// The thread cannot be created. Then `push` writes what `out` takes without blocking.
    pub fn start_writer(
        self: &Arc<Self>,
        out: impl AsFd + Send + 'static,
        report: impl Fn(DroppedLines) + Send + 'static,
    ) -> io::Result<()> {
        let queue = Arc::clone(self);
        let work = move || {
            loop {
                let line = queue.next();
                write_all(out.as_fd(), &line);
                if let Some(dropped) = queue.written() {
                    report(dropped);
                }
            }
        };
        thread::Builder::new().name("log".into()).spawn(work).map(drop).inspect_err(|_| {
            self.lock().no_writer = true;
        })
    }

    /// Waits for a line and removes it from the queue.
    fn next(&self) -> Line {
        let mut queued = self.lock();
        loop {
            if let Some(line) = queued.lines.pop_front() {
                queued.length -= line.len();
                queued.writing = true;
                return line;
            }
            queued = self.changed.wait(queued).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Records that the line was written. Returns the report of dropped lines once half of the queue is free.
    fn written(&self) -> Option<DroppedLines> {
        let mut queued = self.lock();
        queued.writing = false;
        let has_room = queued.length < CAPACITY / 2;
        let dropped = queued.dropped.take_if(|_| has_room);
        drop(queued);
        self.changed.notify_all();
        dropped.map(|(lines, since)| DroppedLines { lines, since })
    }

    /// Waits until all lines are written or `limit` is over. Returns whether they are.
    pub fn drain(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        // A thread that panics while it holds the lock calls this, too: it must not wait for itself.
        let mut queued = loop {
            match self.queued.try_lock() {
                Ok(queued) => break queued,
                Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => return false,
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
            }
        };
        loop {
            if queued.lines.is_empty() && !queued.writing {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.changed.wait_timeout(queued, left);
            queued = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Writes all bytes, however long that takes. On an error the rest is discarded: nothing is left to report it to.
fn write_all(out: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(out, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            // Another process that shares the file description has made it non-blocking.
            Err(Errno::AGAIN) if poll(&mut [PollFd::new(&out, PollFlags::OUT)], None).is_ok() => {}
            Err(_) => return,
        }
    }
}

/// Writes queued lines as long as `out` takes them without blocking.
fn write_without_blocking(queued: &mut QueuedLines, out: BorrowedFd<'_>) {
    while let Some(line) = queued.lines.front_mut() {
        let mut fds = [PollFd::new(&out, PollFlags::OUT)];
        let ready = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        if ready != Ok(1) {
            return;
        }
        let part = line.len().min(ATOMIC_WRITE);
        let n = match rustix::io::write(out, &line[..part]) {
            Ok(n) => n,
            Err(Errno::INTR | Errno::AGAIN) => return,
            Err(_) => line.len(),
        };
        queued.length -= n;
        if n == line.len() {
            queued.lines.pop_front();
        } else {
            line.drain(..n);
        }
    }
}

#[cfg(test)]
mod tests;
