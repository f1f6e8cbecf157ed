//! Checks of a configuration with FRR's own parser, `vtysh -C`.

use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::check_output::{self, CheckFailure, CheckOutput};
use super::daemons::RUN_DIR;
use super::memfd::{Memfd, spawn};
use crate::children;

/// Checks a configuration, or commands, with FRR's parser: that it accepts each line and reads to the last one.
///
/// # Errors
/// The output of vtysh, as [`io::ErrorKind::InvalidData`] (see [`check_failure`]); or vtysh can't be run.
pub fn check(text: &str) -> io::Result<()> {
    let failed = |failure: CheckFailure| Err(io::Error::new(io::ErrorKind::InvalidData, failure));
    if let Some(failure) = check_output::overlong_lines(text) {
        return failed(failure);
    }
    let (_, output) = vtysh(&check_output::with_end_marker(text))?;
    let CheckOutput { is_complete, diagnostics } = CheckOutput::parse(&output, text);
    if is_complete && diagnostics.is_empty() {
        return Ok(());
    }
    // Some diagnostics are warnings. The exit status without the end marker distinguishes them from errors.
    let (success, output) = vtysh(text)?;
    let output = CheckOutput::parse(&output, text);
    match (success, is_complete) {
        (true, true) => Ok(()),
        (false, true) => failed(CheckFailure(output.diagnostics)),
        (_, false) => failed(output.into_incomplete()),
    }
}

/// The maximum duration of a check. vtysh needs about 0.1 ms for a line of a configuration.
const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// Checks a text with vtysh. Returns whether vtysh accepts it, and the output.
fn vtysh(text: &str) -> io::Result<(bool, String)> {
    let cannot = |e: io::Error| io::Error::new(e.kind(), format!("cannot run vtysh: {e}"));
    let run = || {
        let text = Memfd::sealed("frr.conf", text)?;
        let outputs = [Memfd::empty("stdout")?, Memfd::empty("stderr")?];
        let mut command = Command::new("/usr/bin/vtysh");
        command.args(["--config_dir", RUN_DIR, "-C", "-f", &text.path()]);
        command.stdin(Stdio::null()).stdout(outputs[0].writer()?).stderr(outputs[1].writer()?);
        let status = wait_for(CHECK_LIMIT, children::start(|| spawn(&mut command, &[text.as_fd()]))?)?;
        let [output, errors] = [outputs[0].contents()?, outputs[1].contents()?];
        Ok((status.success(), output + &errors))
    };
    run().map_err(cannot)
}

/// Waits for a process to end. Kills it after `limit`.
fn wait_for(limit: Duration, mut child: Child) -> io::Result<ExitStatus> {
    // Without a pidfd the limit is not enforced.
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
    let is_late = pidfd.is_ok_and(|pidfd| !is_readable_within(limit, &pidfd));
    if is_late {
        // It may exit at this moment.
        let _ = child.kill();
    }
    match children::wait(&mut child) {
        Ok(_) if is_late => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("it did not end within {} s", limit.as_secs()),
        )),
        status => status,
    }
}

fn is_readable_within(limit: Duration, fd: &impl AsFd) -> bool {
    let until = Instant::now() + limit;
    loop {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], left.as_ref()) {
            Err(Errno::INTR) => {}
            result => return result.is_ok_and(|ready| ready > 0),
        }
    }
}

/// The output of vtysh in an error of [`check`], if vtysh rejected the text.
pub fn check_failure(e: &io::Error) -> Option<&CheckFailure> {
    e.get_ref()?.downcast_ref()
}

/// The first line number in an error of [`check`], counted from 1.
pub fn refused_line(e: &io::Error) -> Option<usize> {
    check_failure(e)?.0.iter().find_map(|diagnostic| diagnostic.line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_hangs_is_killed() {
        let sleep = |seconds| children::start(|| Command::new("sleep").arg(seconds).spawn()).unwrap();
        assert!(wait_for(Duration::from_secs(30), sleep("0")).unwrap().success());
        let late = wait_for(Duration::from_millis(50), sleep("60")).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }
}
