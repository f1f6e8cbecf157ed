//! Whether a process that owes an answer is at work: by what the kernel says of its main thread, which is the one that answers.

use std::fs;
use std::time::Duration;

use rustix::process::Pid;

/// A main thread that runs, or waits to, for less than this share of the time does nothing of note: a daemon that waits for a
/// lock or for another process still handles a timer now and then.
const SHARE: u32 = 20;

/// The clock tick in which the kernel counts processor time for user space, `USER_HZ` (proc_pid_stat(5)), is 10 ms everywhere.
const TICK: Duration = Duration::from_millis(10);

/// A look at a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// How long its main thread has run, or waited for a processor.
    time: Duration,
    /// It runs, is about to, or waits in the kernel for what can't be interrupted.
    active: bool,
}

impl Work {
    /// Looks at the main thread of a process; `None` if it is gone.
    pub fn of(pid: Pid) -> Option<Self> {
        let task = format!("/proc/{0}/task/{0}", pid.as_raw_nonzero());
        let (time, active) = stat(&fs::read_to_string(format!("{task}/stat")).ok()?)?;
        // Finer, and with the time that it waited for a processor; not every kernel has it.
        let scheduled =
            fs::read_to_string(format!("{task}/schedstat")).ok().and_then(|text| schedstat(&text));
        Some(Self { time: scheduled.unwrap_or_default().max(time), active })
    }

    /// Whether it has been at work since `before`, which is `window` ago.
    pub fn since(self, before: Self, window: Duration) -> bool {
        self.active || self.time.saturating_sub(before.time) * SHARE >= window
    }
}

/// Processor time and state (proc_pid_stat(5): fields 3, 14 and 15).
pub fn stat(text: &str) -> Option<(Duration, bool)> {
    // The name, which ends with a bracket, is the second field.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let active = matches!(fields.next()?, "R" | "D");
    let mut times = fields.skip(10).map(|field| field.parse::<u32>().ok());
    let (user, system) = (times.next()??, times.next()??);
    Some((TICK.saturating_mul(user.saturating_add(system)), active))
}

/// The time that it has run and the time that it has waited for a processor, in nanoseconds each
/// (`Documentation/scheduler/sched-stats.rst`). All zeros where the kernel does not count.
fn schedstat(text: &str) -> Option<Duration> {
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
    fn the_kernels_lines() {
        let line = "12 (a) R 1 b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        assert_eq!(stat(line), Some((Duration::from_secs(3), false)));
        assert_eq!(stat("12 (bgpd) D 1 2 3 4 5 6 7 8 9 10 0 1"), Some((TICK, true)));
        for bad in ["", "12 (bgpd", "12 (bgpd) R", "12 (bgpd) R 1 2 3 4 5 6 7 8 9 10 x y"] {
            assert_eq!(stat(bad), None, "{bad:?}");
        }
        assert_eq!(schedstat("5 7 9\n"), Some(Duration::from_nanos(12)));
        assert_eq!(schedstat(""), None);
    }

    fn pid(child: &Child) -> Pid {
        Pid::from_child(child)
    }

    #[test]
    fn who_works_is_told_from_who_waits_or_is_stopped() {
        let window = Duration::from_millis(400);
        let run = |script| Command::new("sh").args(["-c", script]).spawn().unwrap();
        let mut children = ["exec sleep 600", "while :; do :; done", "while :; do :; done"].map(run);
        kill_process(pid(&children[2]), Signal::STOP).unwrap();
        let stopped = || Work::of(pid(&children[2])).unwrap();
        let begin = Instant::now();
        while stopped().active {
            assert!(begin.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(1));
        }
        let before = children.each_ref().map(|child| Work::of(pid(child)).unwrap());
        thread::sleep(window);
        let now = children.each_ref().map(|child| Work::of(pid(child)).unwrap());
        let work = [0, 1, 2].map(|i| now[i].since(before[i], window));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(work, [false, true, false]);
        assert_eq!(Work::of(pid(&children[0])), None);
    }
}
