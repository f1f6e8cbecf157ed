//! `frr-supervisor plan`: what a configuration would change on this node. Nothing is touched.

use std::fmt::Write as _;

use crate::config::Config;
use crate::frr::delta::{self, Delta, delta};
use crate::frr::{Document, check, host, stored_configuration};
use crate::kernel::{self, Kernel, Op};
use crate::node::{render, resolve, single_problem};
use crate::resolve::{NicSelector, describe_missing, find_nics, rejection_reason};

/// What a configuration would change.
#[derive(Debug, Default)]
pub struct Preview {
    /// The changes of the kernel, in order.
    pub kernel: Vec<Op>,
    /// What FRR's daemons would get, in order: `bgpd: router bgp 65001; neighbor …`. Without passwords.
    pub frr: Vec<String>,
    /// What prevents a part of the configuration.
    pub problems: Vec<String>,
}

impl Preview {
    /// Whether anything would change.
    pub fn has_changes(&self) -> bool {
        !self.kernel.is_empty() || !self.frr.is_empty()
    }

    /// The changes as text.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let kernel: Vec<String> = self.kernel.iter().map(ToString::to_string).collect();
        for (what, lines) in [("kernel", &kernel), ("FRR", &self.frr)] {
            let _ = match lines.len() {
                0 => writeln!(text, "{what}: no change"),
                1 => writeln!(text, "{what}: 1 change"),
                n => writeln!(text, "{what}: {n} changes"),
            };
            for line in lines {
                let _ = writeln!(text, "  {line}");
            }
        }
        text
    }
}

/// Compares the configuration with the kernel, and with the configuration that an instance has stored.
///
/// # Errors
/// Something can't be read, or the configuration cannot be used at all.
pub fn preview(config: &Config) -> Result<Preview, Vec<String>> {
    let version = host::version().map_err(single_problem)?;
    let mut kernel = Kernel::open_existing(&config.settings.netns).map_err(single_problem)?;
    let now = kernel.observe(None).map_err(single_problem)?;
    let selectors = NicSelector::from_config(config);
    let mut search = find_nics(&selectors, &now, &[]);
    let mut problems: Vec<String> = search.rejected.into_iter().map(|(_, sentence)| sentence).collect();
    if !search.missing.is_empty() {
        problems.push(describe_missing(&search.missing, &now));
    }
    search.found.retain(|nic| {
        let reason = rejection_reason(config, &now, nic);
        let is_usable = reason.is_none();
        problems.extend(reason);
        is_usable
    });
    let mut resolved = resolve(config, &now, &search.found);
    resolved.desired.keep_unlisted |= search.found.len() < selectors.len();
    problems.append(&mut resolved.warnings);
    let now = kernel.observe(Some(&resolved.desired)).map_err(single_problem)?;
    let plan = kernel::plan(&resolved.desired, now);
    problems.extend(plan.conflicts.into_iter().map(|(_, sentence)| sentence));
    let text = render(config, &resolved, version).map_err(single_problem)?;
    problems.extend(check::check(&text).err().map(|e| e.to_string()));
    let frr = match stored_configuration() {
        None => vec![format!("start with a configuration of {} lines", text.lines().count())],
        Some(active) => match delta(&Document::parse(&active), &Document::parse(&text), version) {
            Delta::Commands(steps, late) => steps.iter().chain(&late).map(ToString::to_string).collect(),
            Delta::Restart(daemons, reason) => {
                vec![format!("restart {}: {reason}", delta::restarted(daemons))]
            }
            Delta::Invalid(reason) => {
                problems.push(reason);
                vec![]
            }
        },
    };
    Ok(Preview { kernel: plan.ops, frr, problems })
}
