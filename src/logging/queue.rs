//! Log lines on their way to standard error: whoever logs never waits for the reader of it.
//!
//! Standard error may be a pipe or a terminal whose reader stops, and a write to it then blocks. `O_NONBLOCK` is no way out: it would
//! belong to the open file description, which others share. So the lines wait in a queue with a bound, a thread writes them, and that
//! thread may be blocked for ever.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Bytes of lines that wait at most: some 8,000 lines, as many as a node with a thousand VNIs logs at its start.
const LONGEST: usize = 1 << 20;

/// Bytes on top of that which are kept for errors.
const FOR_ERRORS: usize = 1 << 18;

/// A pipe takes so much at once or not at all (`PIPE_BUF`, pipe(7)).
const AT_ONCE: usize = 4096;

/// A line, with its newline.
type Line = Vec<u8>;

#[derive(Debug)]
struct Waiting {
    lines: VecDeque<Line>,
    /// Their bytes.
    length: usize,
    /// Lines that found no room since this was reported last, and when the first of them did.
    dropped: Option<(u64, Instant)>,
    /// The thread has a line that is not written to its end.
    writing: bool,
    /// There is no thread to write: who adds a line writes as much as is taken at once.
    alone: bool,
}

/// What is to be said of lines that were dropped.
#[derive(Debug, PartialEq, Eq)]
pub struct Dropped {
    /// How many.
    pub lines: u64,
    /// Since the first of them.
    pub since: Instant,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    /// A line has come, or one has gone.
    changed: Condvar,
}

impl Queue {
    /// An empty one. Nothing is written before [`Queue::begin`].
    pub fn new() -> Arc<Self> {
        let waiting =
            Waiting { lines: VecDeque::new(), length: 0, dropped: None, writing: false, alone: false };
        Arc::new(Self { waiting: Mutex::new(waiting), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line, or counts it where there is no room. Never waits for `out`, which is written to by the thread.
    pub fn push(&self, line: &[u8], is_error: bool, out: impl AsFd) {
        let limit = LONGEST + if is_error { FOR_ERRORS } else { 0 };
        let mut waiting = self.lock();
        if waiting.length + line.len() > limit {
            let (lines, since) = waiting.dropped.unwrap_or((0, Instant::now()));
            waiting.dropped = Some((lines + 1, since));
        } else {
            waiting.length += line.len();
            waiting.lines.push_back(line.to_vec());
        }
        if waiting.alone {
            write_what_is_taken(&mut waiting, out.as_fd());
        }
        drop(waiting);
        self.changed.notify_all();
    }

    /// Writes what is pushed to `out`, on a thread of its own. `tell` logs what is to be said of dropped lines.
    ///
    /// # Errors
    /// No thread can be had. Lines are then written by who pushes them, as far as that does not block.
    pub fn begin(
        self: &Arc<Self>,
        out: impl AsFd + Send + 'static,
        tell: impl Fn(Dropped) + Send + 'static,
    ) -> io::Result<()> {
        let queue = Arc::clone(self);
        let work = move || {
            loop {
                let line = queue.next();
                write_all(out.as_fd(), &line);
                if let Some(dropped) = queue.written() {
                    tell(dropped);
                }
            }
        };
        thread::Builder::new().name("log".into()).spawn(work).map(drop).inspect_err(|_| {
            self.lock().alone = true;
        })
    }

    /// Waits for a line.
    fn next(&self) -> Line {
        let mut waiting = self.lock();
        loop {
            if let Some(line) = waiting.lines.pop_front() {
                waiting.length -= line.len();
                waiting.writing = true;
                return line;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The line is written. What was dropped, once there is room again for more than a report of it.
    fn written(&self) -> Option<Dropped> {
        let mut waiting = self.lock();
        waiting.writing = false;
        let flows = waiting.length < LONGEST / 2;
        let dropped = waiting.dropped.take_if(|_| flows);
        drop(waiting);
        self.changed.notify_all();
        dropped.map(|(lines, since)| Dropped { lines, since })
    }

    /// Waits until everything is written, for so long at most. Whether it is.
    pub fn drain(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        // Whoever panics while it has the lock must not wait for itself.
        let mut waiting = loop {
            match self.waiting.try_lock() {
                Ok(waiting) => break waiting,
                Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => return false,
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
            }
        };
        loop {
            if waiting.lines.is_empty() && !waiting.writing {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.changed.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Writes all of it, whatever that takes. What can't be written is given up: there is no one to tell.
fn write_all(out: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(out, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            // Someone who shares the file description has made it non-blocking.
            Err(Errno::AGAIN) if poll(&mut [PollFd::new(&out, PollFlags::OUT)], None).is_ok() => {}
            Err(_) => return,
        }
    }
}

/// Writes lines as long as they are taken at once.
fn write_what_is_taken(waiting: &mut Waiting, out: BorrowedFd<'_>) {
    while let Some(line) = waiting.lines.front_mut() {
        let mut fds = [PollFd::new(&out, PollFlags::OUT)];
        let ready = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        if ready != Ok(1) {
            return;
        }
        let part = line.len().min(AT_ONCE);
        let n = match rustix::io::write(out, &line[..part]) {
            Ok(n) => n,
            Err(Errno::INTR | Errno::AGAIN) => return,
            Err(_) => line.len(),
        };
        waiting.length -= n;
        if n == line.len() {
            waiting.lines.pop_front();
        } else {
            line.drain(..n);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::OwnedFd;
    use std::sync::mpsc;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn pipe() -> (std::fs::File, OwnedFd) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        (read.into(), write)
    }

    fn line(n: usize) -> Vec<u8> {
        format!("line {n:>90}\n").into_bytes()
    }

    #[test]
    fn who_logs_never_waits_and_what_is_dropped_is_counted() {
        let ((mut read, write), queue) = (pipe(), Queue::new());
        let stderr = write.try_clone().unwrap();
        let (sender, told) = mpsc::channel();
        queue.begin(write, move |dropped| sender.send(dropped.lines).unwrap()).unwrap();
        let begin = Instant::now();
        for n in 0..50_000 {
            queue.push(&line(n), false, &stderr);
        }
        let last = b"panicked\n";
        queue.push(last, true, &stderr);
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        assert!(!queue.drain(Duration::from_millis(50)), "no one reads");
        let waiting = queue.lock().length;
        assert!((LONGEST - 200..=LONGEST + FOR_ERRORS).contains(&waiting), "{waiting}");
        let reader = thread::spawn(move || {
            let (mut all, mut chunk) = (vec![], [0; 65536]);
            while !all.ends_with(last) {
                let n = read.read(&mut chunk).unwrap();
                all.extend_from_slice(&chunk[..n]);
            }
            String::from_utf8(all).unwrap()
        });
        let dropped = told.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(queue.drain(Duration::from_secs(10)));
        let all = reader.join().unwrap();
        let shown = all.lines().count() - 1;
        assert_eq!(shown as u64 + dropped, 50_000);
        // Whole and in order; which ones, depends on when the first of them were taken.
        let numbers: Vec<usize> = all.lines().take(shown).map(|l| l[5..].trim().parse().unwrap()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b));
        assert!(all.lines().take(shown).zip(&numbers).all(|(l, n)| line(*n) == format!("{l}\n").as_bytes()));
        assert!(told.try_recv().is_err(), "it is said once");
    }

    #[test]
    fn without_a_thread_as_much_is_written_as_is_taken() {
        let ((mut read, write), queue) = (pipe(), Queue::new());
        queue.lock().alone = true;
        for n in 0..5_000 {
            queue.push(&line(n), false, &write);
        }
        queue.push(&[b'x'; 3 * AT_ONCE], true, &write);
        assert!(!queue.drain(Duration::ZERO));
        let reader = thread::spawn(move || {
            let mut all = String::new();
            read.read_to_string(&mut all).unwrap();
            all
        });
        while !queue.drain(Duration::ZERO) {
            queue.push(b"", false, &write);
            thread::sleep(Duration::from_millis(1));
        }
        drop(write);
        let all = reader.join().unwrap();
        assert_eq!(all.lines().count(), 5_001);
        assert!(all.ends_with(&"x".repeat(3 * AT_ONCE)));
    }

    #[test]
    fn a_description_that_is_not_to_block_and_a_reader_that_has_gone() {
        let ((mut read, write), queue) = (pipe(), Queue::new());
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        let stderr = write.try_clone().unwrap();
        queue.begin(write, |_| {}).unwrap();
        for n in 0..2_000 {
            queue.push(&line(n), false, &stderr);
        }
        assert!(!queue.drain(Duration::from_millis(50)));
        let mut some = [0; 100_000];
        read.read_exact(&mut some).unwrap();
        drop(read);
        assert!(queue.drain(Duration::from_secs(10)));
    }
}
