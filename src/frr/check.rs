//! Checks of a configuration with FRR's own parser, `vtysh -C`.

use std::io;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::check_output::{self, CheckFailure, CheckOutput};
use super::daemons::RUN_DIR;
use super::memfd::{Memfd, spawn};

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
    let text = Memfd::sealed("frr.conf", text).map_err(cannot)?;
    let mut command = Command::new("/usr/bin/vtysh");
    command.args(["--config_dir", RUN_DIR, "-C", "-f", &text.path()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let result =
        spawn(&mut command, &[&text]).and_then(|child| output_within(CHECK_LIMIT, child)).map_err(cannot)?;
    let output = [result.stdout, result.stderr].concat();
    Ok((result.status.success(), String::from_utf8_lossy(&output).into_owned()))
}

/// Waits for a process to end, and returns its output. Kills the process after `limit`.
fn output_within(limit: Duration, child: Child) -> io::Result<Output> {
    let pid = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).map_err(io::Error::from);
    let (ended, end) = mpsc::channel::<()>();
    // Without a pidfd or a thread the limit is not enforced.
    let watch = pid.and_then(|pid| {
        thread::Builder::new().name("check".into()).spawn(move || {
            let is_late = end.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
            is_late && pidfd_send_signal(pid, Signal::KILL).is_ok()
        })
    });
    let output = child.wait_with_output();
    drop(ended);
    match watch.map(thread::JoinHandle::join) {
        Ok(Ok(true)) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("it did not end within {} s", limit.as_secs()),
        )),
        _ => output,
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
        let sleep = |seconds| Command::new("sleep").arg(seconds).stdout(Stdio::piped()).spawn().unwrap();
        assert!(output_within(Duration::from_secs(30), sleep("0")).unwrap().status.success());
        let late = output_within(Duration::from_millis(50), sleep("60")).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }
}
