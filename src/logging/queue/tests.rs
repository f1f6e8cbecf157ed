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
fn logging_never_blocks_and_dropped_lines_are_counted() {
    let ((mut read, write), queue) = (pipe(), Queue::new());
    let stderr = write.try_clone().unwrap();
    let (sender, reports) = mpsc::channel();
    queue.start_writer(write, move |dropped| sender.send(dropped.lines).unwrap()).unwrap();
    let begin = Instant::now();
    for n in 0..50_000 {
        queue.push(&line(n), false, &stderr);
    }
    let last = b"panicked\n";
    queue.push(last, true, &stderr);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(!queue.drain(Duration::from_millis(50)), "nothing reads the pipe");
    let queued = queue.lock().length;
    assert!((CAPACITY - 200..=CAPACITY + ERROR_RESERVE).contains(&queued), "{queued}");
    let reader = thread::spawn(move || {
        let (mut all, mut chunk) = (vec![], [0; 65536]);
        while !all.ends_with(last) {
            let n = read.read(&mut chunk).unwrap();
            all.extend_from_slice(&chunk[..n]);
        }
        String::from_utf8(all).unwrap()
    });
    let dropped = reports.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(queue.drain(Duration::from_secs(10)));
    let all = reader.join().unwrap();
    let shown = all.lines().count() - 1;
    assert_eq!(shown as u64 + dropped, 50_000);
    // The lines are whole and in order. Which ones were dropped depends on when the reader started.
    let numbers: Vec<usize> = all.lines().take(shown).map(|l| l[5..].trim().parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b));
    assert!(all.lines().take(shown).zip(&numbers).all(|(l, n)| line(*n) == format!("{l}\n").as_bytes()));
    assert!(reports.try_recv().is_err(), "one report only");
}

#[test]
fn without_a_writer_thread_push_writes_what_the_pipe_takes() {
    let ((mut read, write), queue) = (pipe(), Queue::new());
    queue.lock().no_writer = true;
    for n in 0..5_000 {
        queue.push(&line(n), false, &write);
    }
    queue.push(&[b'x'; 3 * ATOMIC_WRITE], true, &write);
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
    assert!(all.ends_with(&"x".repeat(3 * ATOMIC_WRITE)));
}

#[test]
fn a_non_blocking_pipe_and_a_closed_reader() {
    let ((mut read, write), queue) = (pipe(), Queue::new());
    rustix::io::ioctl_fionbio(&write, true).unwrap();
    let stderr = write.try_clone().unwrap();
    queue.start_writer(write, |_| {}).unwrap();
    for n in 0..2_000 {
        queue.push(&line(n), false, &stderr);
    }
    assert!(!queue.drain(Duration::from_millis(50)));
    let mut some = [0; 100_000];
    read.read_exact(&mut some).unwrap();
    drop(read);
    assert!(queue.drain(Duration::from_secs(10)));
}
