//! The outcomes of the reconciler's jobs.

use std::io;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};

use super::Supervisor;
use super::part::Part;
use crate::reconciler::Outcome;

/// The outcomes of the reconciler's jobs.
pub(super) struct ReconcilerPart;

impl Part for ReconcilerPart {
    fn runs_while_stopping(&self) -> bool {
        false
    }

    fn add_fds<'a>(&self, supervisor: &'a Supervisor<'_>, fds: &mut Vec<PollFd<'a>>) {
        fds.push(PollFd::new(&supervisor.node.reconciler, PollFlags::IN));
    }

    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()> {
        for outcome in supervisor.node.reconciler.take_outcomes() {
            match outcome {
                // An earlier outcome has ended this namespace or this configuration.
                _ if supervisor.ending.end.is_some() => {}
                Outcome::Checked(checked) => supervisor.kernel_checked(checked),
                Outcome::SysctlDrift => supervisor.kernel.state_changed(now),
                Outcome::Prepared(prepared) => supervisor.change_prepared(*prepared, now),
                Outcome::Built(result, view) => supervisor.kernel_built(result, view, now),
                Outcome::RolledBack(result) => supervisor.rolled_back(*result, now),
            }
            // The next outcome may depend on what the policy makes of this one.
            supervisor.process_events();
        }
        Ok(())
    }
}
