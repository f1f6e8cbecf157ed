//! How to change the running configuration to another one.

use std::io;
use std::sync::Arc;

use super::Worker;
use crate::config::Config;
use crate::frr::delta::{Delta, Step, delta, lines_with_path};
use crate::frr::{DaemonKind, Version, check, raw_entries_of};
use crate::node::{Candidate, daemons};

/// The first FRR version that can remove a VRF with a VNI.
const CAN_REMOVE_VRFS: Version = Version(10, 6);

/// A configuration to change to.
#[derive(Debug)]
pub struct Request {
    /// The configuration.
    pub config: Arc<Config>,
    /// Every daemon runs with the active configuration, so commands can change it.
    pub allow_commands: bool,
}

/// How to change to a configuration. What it needs was checked by FRR's parser.
#[derive(Debug)]
pub enum Prepared {
    /// It is the active configuration, apart from its sources.
    Unchanged(Arc<Config>),
    /// The text of frr.conf stays the same.
    SameText(Candidate),
    /// By commands.
    Commands {
        /// The configuration.
        candidate: Candidate,
        /// The steps to run now.
        steps: Vec<Step>,
        /// Steps that follow after the change of the kernel.
        late: Vec<Step>,
    },
    /// By a restart of daemons.
    Restart {
        /// The configuration.
        candidate: Candidate,
        /// The daemons; all, if none is named.
        daemons: &'static [DaemonKind],
        /// Why commands are not possible.
        reason: String,
    },
    /// By a start with other daemons, or in another order.
    OtherDaemons(Candidate),
}

/// Why there is no change. Each text is one sentence.
#[derive(Debug)]
pub enum Rejected {
    /// The configuration is invalid.
    Invalid(Vec<String>),
    /// The cause may pass.
    Transient(Vec<String>),
}

impl Rejected {
    /// The error of a check by FRR's parser: `reason` is the result of the check, or why there was none.
    fn from_check(e: &io::Error, reason: String) -> Self {
        if e.kind() == io::ErrorKind::InvalidData {
            Self::Invalid(vec![reason])
        } else {
            Self::Transient(vec![reason])
        }
    }
}

impl Worker {
    pub(super) fn prepare(&mut self, request: Request) -> Result<Prepared, Rejected> {
        let Request { config, allow_commands } = request;
        let candidate = self.node.prepare(config).map_err(Rejected::Transient)?;
        let active = &self.node.active;
        let (config, text) = (&*candidate.active.config, &**candidate.active.store.active());
        if let Some(reason) = self.history.rejection_reason(config, text) {
            return Err(Rejected::Invalid(vec![reason]));
        }
        if *text == **active.store.active() {
            let is_corrected = active.config.overlay.incomplete && !config.overlay.incomplete;
            let is_unchanged = *config == *active.config && !is_corrected && !active.store.is_substitute();
            return Ok(match is_unchanged {
                true => Prepared::Unchanged(candidate.active.config),
                false => Prepared::SameText(candidate),
            });
        }
        let version = self.node.version;
        let method = delta(active.store.document(), candidate.active.store.document(), version);
        if let Delta::Invalid(reason) = method {
            return Err(Rejected::Invalid(vec![reason]));
        }
        if daemons(config, version) != daemons(&active.config, version) {
            check::check(text).map_err(|e| check_error(&e, &candidate, text, true))?;
            // The supervisor starts again with it.
            candidate.active.store.save();
            self.history.other_activated();
            return Ok(Prepared::OtherDaemons(candidate));
        }
        let (which, reason): (&'static [DaemonKind], String) = match method {
            _ if !allow_commands => (&[], "not all daemons run with the active configuration".into()),
            // zebra crashes, or bgpd does not remove the VRF's instance: seen with 10.3, not with 10.7.
            Delta::Commands(_, late) if !late.is_empty() && version < CAN_REMOVE_VRFS => {
                (&[], format!("zebra of FRR {version} may crash when a VRF is removed"))
            }
            Delta::Commands(steps, late) => {
                // The commands do not show that FRR accepts the whole of an operator's template at the next start.
                if config.settings.frr_template.is_some() {
                    check::check(text).map_err(|e| check_error(&e, &candidate, text, true))?;
                }
                steps.iter().chain(&late).for_each(|step| log::debug!("planned: {step}"));
                let commands = commands_text(&steps);
                check::check(&commands).map_err(|e| check_error(&e, &candidate, &commands, false))?;
                return Ok(Prepared::Commands { candidate, steps, late });
            }
            Delta::Restart(which, reason) => (which, reason),
            Delta::Invalid(reason) => return Err(Rejected::Invalid(vec![reason])),
        };
        check::check(text).map_err(|e| check_error(&e, &candidate, text, true))?;
        Ok(Prepared::Restart { candidate, daemons: which, reason })
    }
}

/// The error of a check of `checked` by FRR's parser, with the source of the refused line. `indented`: the lines of
/// `checked` are indented.
fn check_error(e: &io::Error, candidate: &Candidate, checked: &str, indented: bool) -> Rejected {
    let refused =
        check::refused_line(e).and_then(|line| lines_with_path(checked, indented).nth(line.checked_sub(1)?));
    let (path, line) = refused.unwrap_or_default();
    Rejected::from_check(e, format!("{e}{}", origin(candidate, line, Some(&path))))
}

/// The source of a refused command, as the end of a sentence. `path`: the contexts of the command, if known.
pub fn origin(candidate: &Candidate, command: &str, path: Option<&[&str]>) -> String {
    let raw = &candidate.active.config.overlay.raw;
    let sources = raw_entries_of(raw, candidate.active.store.active(), command, path);
    let sources: Vec<&str> = sources.into_iter().map(|i| raw[i].source.as_str()).collect();
    if sources.is_empty() { String::new() } else { format!(", from {}", sources.join(" or ")) }
}

/// The commands as a file for vtysh.
fn commands_text(steps: &[Step]) -> String {
    let commands = steps.iter().flat_map(|step| &step.commands);
    commands.map(|command| format!("{}\n", command.text)).collect()
}
