//! What the policy is told, and what it decides.

/// Input of the policy. A daemon is identified by its index in [`PolicySettings::daemons`](super::PolicySettings::daemons).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Only time has passed.
    Tick,
    /// The daemon has answered on its vty socket.
    Responded(usize),
    /// The daemon's process has exited.
    Exited(usize),
    /// The daemon's process could not be started. This is not a crash.
    StartFailed(usize),
    /// The supervisor lacked a resource to ping the daemon, so the missing answer is no sign of a hang.
    PingFailed(usize),
    /// Result of [`Action::CheckBusy`]: the daemon uses processor time or waits for the kernel.
    Busy(usize),
    /// Result of [`Action::CheckBusy`]: the daemon does nothing.
    Idle(usize),
    /// The load has finished; whether it succeeded.
    Loaded(bool),
    /// The load is still running.
    Loading {
        /// Whether it has done nothing since the last check.
        idle: bool,
    },
    /// Another configuration is active, and no daemon runs with it yet.
    Reconfigured {
        /// Whether there is an older, last-known-good configuration.
        can_roll_back: bool,
    },
    /// Another configuration is active, and every daemon runs with it already.
    Changed {
        /// Whether there is an older, last-known-good configuration.
        can_roll_back: bool,
    },
    /// This daemon does not run with its configuration and must be restarted.
    Restart(usize),
    /// The peers of an exited bfdd have got the AdminDown packets.
    BfdPeersNotified,
    /// Stop all daemons.
    Stop,
}

/// State of a daemon's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessState {
    /// There is no process.
    Down,
    /// It has not replied yet.
    Starting,
    /// It replies, and its configuration is not loaded yet.
    Loading,
    /// It replies and has its configuration.
    Running,
    /// It has not replied to the last liveness query.
    Unresponsive,
    /// It is being stopped.
    Stopping,
}

/// Output of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the daemon and wait for its first answer.
    Start(usize),
    /// Check everything that sends no events.
    PeriodicCheck,
    /// Send a ping to a running daemon.
    Ping(usize),
    /// Find out whether an unresponsive daemon is busy: the result is [`Event::Busy`] or [`Event::Idle`].
    CheckBusy(usize),
    /// Send SIGABRT to the unresponsive daemon, which then writes a backtrace.
    Abort(usize),
    /// Send SIGKILL to the daemon. Its sockets close without a BGP notification, so the peers keep the node's routes,
    /// and the kernel keeps its own.
    Kill(usize),
    /// Load the configuration into these daemons.
    Load(Vec<usize>),
    /// Kill the running load.
    AbortLoad,
    /// Every daemon runs with its configuration.
    Complete,
    /// Every daemon runs, but some without their whole configuration.
    Incomplete,
    /// The active configuration is proven: store it as last-known-good.
    MarkGood,
    /// Activate the last-known-good configuration, because this daemon crashes with the active one. The reply is
    /// [`Event::Reconfigured`].
    RollBack(usize),
    /// All daemons have exited after a stop.
    Finished,
}
