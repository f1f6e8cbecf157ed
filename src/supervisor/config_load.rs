//! Runs of vtysh that load the configuration into daemons.

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::process::{Command, ExitStatus, Stdio};

use super::Supervisor;
use super::policy::Event;
use super::process::Child;
use crate::frr::DaemonKind;
use crate::frr::daemons::{RUN_DIR, SOCKET_DIR};
use crate::frr::memfd::Memfd;

/// Runs of vtysh.
#[derive(Debug)]
pub(super) struct ConfigLoad {
    /// The running vtysh that loads the configuration.
    pub(super) running: Option<Child>,
    /// The daemons of the next runs of vtysh; `None` for all daemons.
    pub(super) queue: VecDeque<Option<DaemonKind>>,
    pub(super) succeeded: bool,
}

impl Default for ConfigLoad {
    fn default() -> Self {
        Self { running: None, queue: VecDeque::new(), succeeded: true }
    }
}

impl Supervisor<'_> {
    pub(super) fn end_load(&mut self) {
        self.config.load.queue.clear();
        self.config.load.succeeded = false;
        if let Some(child) = &mut self.config.load.running {
            child.kill();
        }
    }

    /// Starts the next vtysh, or reports the result after the last one.
    pub(super) fn start_next_load(&mut self) {
        while let Some(daemon) = self.config.load.queue.pop_front() {
            let start = || {
                let text =
                    Memfd::sealed("frr.conf", &self.config.active.store.document().with_log_settings())?;
                let mut command = Command::new("/usr/bin/vtysh");
                command.args(["--vty_socket", SOCKET_DIR, "--config_dir", RUN_DIR, "-f", &text.path()]);
                command.args(daemon.iter().flat_map(|name| ["-d", name.name()]));
                Child::spawn("vtysh", command, Stdio::null(), &[text.as_fd()])
            };
            match start() {
                Ok(child) => {
                    self.config.load.running = Some(child);
                    return;
                }
                Err(e) => {
                    log::error!(
                        "vtysh cannot be started to load frr.conf: {e}; the daemons lack parts of it; retrying"
                    );
                    self.config.load.succeeded = false;
                }
            }
        }
        self.events.push_back(Event::Loaded(self.config.load.succeeded));
    }

    pub(super) fn load_exited(&mut self, mut child: Child, status: ExitStatus) {
        child.read_rest();
        if child.was_killed() {
            log::debug!("vtysh was killed");
            self.config.load.succeeded = false;
        } else if !status.success() {
            log::error!(
                "vtysh cannot load frr.conf into the daemons: {status}{}; retrying",
                child.last_log_line_suffix()
            );
            self.config.load.succeeded = false;
        } else if child.is_refused() {
            log::error!("daemons refused lines of frr.conf, which vtysh's log lines name; retrying");
            self.config.load.succeeded = false;
        } else if child.has_lost_changes() {
            log::warn!("another program changed the configuration while vtysh loaded it: loading it again");
            self.config.load.succeeded = false;
        }
    }
}
