//! Whether an unresponsive process is busy, by the kernel's statistics of its main thread, which is the thread that
//! answers.

use std::fs;
use std::time::Duration;

use rustix::process::Pid;

/// A main thread that runs or waits for a processor for less than one part in this many is idle: a daemon that waits
/// for a lock or for another process still handles a timer now and then.
const BUSY_SHARE: u32 = 20;

/// The clock tick in which the kernel counts processor time for user space, `USER_HZ` (proc_pid_stat(5)): 10 ms
/// everywhere.
const CLOCK_TICK: Duration = Duration::from_millis(10);

/// A sample of a process's main thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadActivity {
    /// Total time in which the thread has run or waited for a processor.
    time: Duration,
    /// Whether it runs, is ready to run or is in an uninterruptible sleep.
    active: bool,
}

impl ThreadActivity {
    /// Samples the main thread of a process; `None` if the process has exited.
    pub fn sample(pid: Pid) -> Option<Self> {
        let task = format!("/proc/{0}/task/{0}", pid.as_raw_nonzero());
        let (time, active) = parse_stat(&fs::read_to_string(format!("{task}/stat")).ok()?)?;
        // Has a finer resolution and includes the time that it waited for a processor; not every kernel has it.
        let scheduled =
            fs::read_to_string(format!("{task}/schedstat")).ok().and_then(|text| parse_schedstat(&text));
        Some(Self { time: scheduled.unwrap_or_default().max(time), active })
    }

    /// Whether the thread was busy since `before`, which was taken `window` ago.
    pub fn is_busy_since(self, before: Self, window: Duration) -> bool {
        self.active || self.time.saturating_sub(before.time) * BUSY_SHARE >= window
    }
}

/// Processor time and whether the state is running or uninterruptible (proc_pid_stat(5): fields 3, 14 and 15).
pub fn parse_stat(text: &str) -> Option<(Duration, bool)> {
    // The second field is the name in brackets, which may contain brackets itself.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let active = matches!(fields.next()?, "R" | "D");
    let mut times = fields.skip(10).map(|field| field.parse::<u32>().ok());
    let (user, system) = (times.next()??, times.next()??);
    Some((CLOCK_TICK.saturating_mul(user.saturating_add(system)), active))
}

/// The sum of the time that it has run and the time that it has waited for a processor, in nanoseconds each
/// (`Documentation/scheduler/sched-stats.rst`). Both are zero if the kernel does not count them.
fn parse_schedstat(text: &str) -> Option<Duration> {
    let mut fields = text.split_whitespace().map(|field| field.parse::<u64>().ok());
    let (run, waited) = (fields.next()??, fields.next()??);
    Some(Duration::from_nanos(run.saturating_add(waited)))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::thread;
    use std::time::Instant;

    use rustix::process::{Signal, kill_process};

    use super::*;

    #[test]
    fn proc_files_are_parsed() {
        let line = "12 (a) R 1 b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        assert_eq!(parse_stat(line), Some((Duration::from_secs(3), false)));
        assert_eq!(parse_stat("12 (bgpd) D 1 2 3 4 5 6 7 8 9 10 0 1"), Some((CLOCK_TICK, true)));
        for bad in ["", "12 (bgpd", "12 (bgpd) R", "12 (bgpd) R 1 2 3 4 5 6 7 8 9 10 x y"] {
            assert_eq!(parse_stat(bad), None, "{bad:?}");
        }
        assert_eq!(parse_schedstat("5 7 9\n"), Some(Duration::from_nanos(12)));
        assert_eq!(parse_schedstat(""), None);
    }

    fn pid(child: &Child) -> Pid {
        Pid::from_child(child)
    }

    #[test]
    fn a_busy_process_is_told_from_a_sleeping_or_stopped_one() {
        let window = Duration::from_millis(400);
        let run = |script| Command::new("sh").args(["-c", script]).spawn().unwrap();
        let mut children = ["exec sleep 600", "while :; do :; done", "while :; do :; done"].map(run);
        kill_process(pid(&children[2]), Signal::STOP).unwrap();
        let stopped = || ThreadActivity::sample(pid(&children[2])).unwrap();
        let begin = Instant::now();
        while stopped().active {
            assert!(begin.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(1));
        }
        let before = children.each_ref().map(|child| ThreadActivity::sample(pid(child)).unwrap());
        thread::sleep(window);
        let now = children.each_ref().map(|child| ThreadActivity::sample(pid(child)).unwrap());
        let busy = [0, 1, 2].map(|i| now[i].is_busy_since(before[i], window));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(busy, [false, true, false]);
        assert_eq!(ThreadActivity::sample(pid(&children[0])), None);
    }
}
