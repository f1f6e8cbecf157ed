//! The parts of the supervisor's loop.

use std::io;
use std::time::Instant;

use rustix::event::PollFd;

use super::{
    Supervisor, backup, bfd_peers, carrier, config_file, connects, daemons, drift, fib, kernel_check,
    queries, reconcile, reload, services, stop,
};

/// A part of the loop: what it waits for and what it does then. The loop asks every part for both, so that nothing can be
/// waited for that no one handles.
pub(super) trait Part: Sync {
    /// Whether it goes on while the daemons stop. The loop does not wait for a part that does not.
    fn runs_while_stopping(&self) -> bool {
        true
    }

    /// Adds the descriptors that become readable when the part has something to do.
    fn add_fds<'a>(&self, _supervisor: &'a Supervisor<'_>, _fds: &mut Vec<PollFd<'a>>) {}

    /// When the part has something to do if nothing happens.
    fn deadline(&self, _supervisor: &Supervisor<'_>) -> Option<Instant> {
        None
    }

    /// Does what is due now. The policy processes the supervisor's events afterwards.
    ///
    /// # Errors
    /// The loop cannot continue.
    fn step(&self, supervisor: &mut Supervisor<'_>, now: Instant) -> io::Result<()>;
}

/// All parts, in the order of their steps: a part may use what an earlier one has found.
pub(super) const PARTS: [&dyn Part; 18] = [
    &daemons::OutputPart,
    &stop::SignalPart,
    &daemons::ProcessPart,
    &queries::QueryPart,
    &stop::GracefulShutdownPart,
    &bfd_peers::BfdPart,
    &services::ServicePart,
    &kernel_check::KernelEventPart,
    &carrier::PortPart,
    &config_file::FilePart,
    &reconcile::ReconcilerPart,
    &reload::ChangePart,
    &drift::DriftPart,
    &fib::FibPart,
    &kernel_check::KernelCheckPart,
    &kernel_check::WorkloadPart,
    &backup::BackupPart,
    &connects::ConnectPart,
];
