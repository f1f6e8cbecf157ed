//! Two texts of frr.conf → the commands that change the running daemons from the first to the second. Pure.
//!
//! Additions come before removals. Within a BGP instance removals come first, since an addition may need their place. A
//! line with the key of an existing line overwrites it, so that no session ends and no filter is missing for a moment.

mod script;
mod tree;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};

use super::grammar::{self, LineOwner, context_key, line_owners};
use super::redact::redact;
use super::{Block, DaemonKind, Document, Version};

use script::{EMPTY, Script};

pub use tree::{Context, lines_with_path};

/// Commands for one daemon, the first in its configuration node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The name of the daemon.
    pub daemon: DaemonKind,
    /// The commands, in order.
    pub commands: Vec<VtyCommand>,
}

/// `bgpd: router bgp 65001; neighbor …`, without passwords.
impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.daemon)?;
        for (i, command) in self.commands.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { "; " }, redact(&command.text))?;
        }
        Ok(())
    }
}

/// A configuration command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VtyCommand {
    /// The text of the command.
    pub text: String,
    /// The daemon may refuse the command without harm: it is part of a route map that bgpd has, too, and only bgpd may
    /// know it.
    pub optional: bool,
}

/// How to change one configuration to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// Steps to run now, in order, empty if the configurations are equal; and steps to run one by one after the
    /// kernel's devices have changed. The latter remove VRFs: FRR refuses to remove a VRF that the kernel has, and
    /// mgmtd does not recover from this in the session of the other commands.
    Commands(Vec<Step>, Vec<Step>),
    /// The new configuration is invalid, for this reason.
    Invalid(String),
    /// Commands are not possible, for this reason. The named daemons must restart; all daemons, if none is named.
    Restart(&'static [DaemonKind], String),
}

/// The daemons of [`Delta::Restart`] in a sentence.
pub fn restarted(daemons: &[DaemonKind]) -> String {
    match daemons {
        [] => "all daemons".into(),
        daemons => daemons.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "),
    }
}

/// The reason why commands are not possible for a daemon.
#[derive(Debug)]
struct NeedsRestart(String);

/// Computes the delta from `old` to `new`.
pub fn delta(old: &Document, new: &Document, version: Version) -> Delta {
    if old == new {
        return Delta::Commands(vec![], vec![]);
    }
    if let Some((one, other)) = conflicting_instances(new) {
        let (one, other) = (redact(one), redact(other));
        return Delta::Invalid(format!(
            "{one:?} and {other:?} open the same BGP instance: remove one of them"
        ));
    }
    let (old, new) = without_equal_contexts(old, new);
    let trees = Context::parse(&old).and_then(|old| Ok((old, Context::parse(&new)?)));
    let (old, new) = match trees {
        Ok((old, new)) => (effective(old), effective(new)),
        Err(line) => {
            let line = redact(&line);
            return Delta::Restart(&[], format!("the indented line {line:?} is in no context"));
        }
    };
    let (old, new) = match (DaemonParts::split(old, version), DaemonParts::split(new, version)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(line), _) | (_, Err(line)) => {
            return Delta::Restart(&[], format!("no daemon is known to read the line {:?}", redact(&line)));
        }
    };
    if let Some(line) = first_difference(&old.common, &new.common) {
        return Delta::Restart(&[], format!("every daemon reads the line {:?}", redact(line)));
    }
    // bgpd refuses to remove the instance of a VRF with a VNI, so the VNIs are removed first. bgpd refers to BFD
    // profiles, so they are added before and removed after its commands.
    let (mut steps, mut deferred, mut bgpd_restart_reason) = (vec![], vec![], None);
    for (daemon, pass) in [
        (DaemonKind::Mgmtd, Pass::All),
        (DaemonKind::Zebra, Pass::All),
        (DaemonKind::Staticd, Pass::All),
        (DaemonKind::Bfdd, Pass::Add),
        (DaemonKind::Bgpd, Pass::All),
        (DaemonKind::Bfdd, Pass::Remove),
    ] {
        let (old, new) = (old.of.get(&daemon).unwrap_or(&EMPTY), new.of.get(&daemon).unwrap_or(&EMPTY));
        let vrfs = remove_vrf_commands(old, new).filter(|_| pass == Pass::All);
        deferred
            .extend(vrfs.map(|text| Step { daemon, commands: vec![VtyCommand { text, optional: true }] }));
        match commands(daemon, old, new, pass, version) {
            Ok(commands) if commands.is_empty() => {}
            Ok(commands) => steps.push(Step { daemon, commands }),
            Err(NeedsRestart(reason)) if daemon == DaemonKind::Bgpd => bgpd_restart_reason = Some(reason),
            Err(NeedsRestart(reason)) => return Delta::Restart(&[], reason),
        }
    }
    if let Some(reason) = bgpd_restart_reason {
        // With a restart of bgpd alone, the other daemons would not get their changes.
        let is_bgpd_only = steps.is_empty() && deferred.is_empty();
        return Delta::Restart(if is_bgpd_only { &[DaemonKind::Bgpd] } else { &[] }, reason);
    }
    Delta::Commands(steps, deferred)
}

/// The difference between the running and the expected configuration of `daemon`: lines with `+` (unexpected) or `-`
/// (missing), without passwords, and the commands that repair it. The latter are `None` if one of the texts cannot be
/// parsed, or if only a restart can repair the difference.
pub fn drift(
    daemon: DaemonKind,
    running: &str,
    expected: &str,
    version: Version,
) -> (Vec<String>, Option<Vec<VtyCommand>>) {
    let (running, expected) = without_equal_contexts(&Document::parse(running), &Document::parse(expected));
    let parse = |text: &str| {
        let mut tree = effective(Context::parse(text).ok()?);
        // bfdd's peers are configured at run time, not in frr.conf.
        let bfd = tree.inner.iter_mut().filter(|context| context.head == "bfd");
        bfd.for_each(|bfd| bfd.inner.retain(|context| !context.head.starts_with("peer ")));
        Some(tree)
    };
    let show = |sign: &str, path: &Vec<&str>| {
        let shown: Vec<_> = path.iter().map(|line| redact(line)).collect();
        format!("{sign} {}", shown.join(": "))
    };
    let differences = |present: &BTreeSet<Vec<&str>>, wanted: &BTreeSet<Vec<&str>>| {
        let unexpected = present.difference(wanted).map(|line| show("+", line));
        unexpected.chain(wanted.difference(present).map(|line| show("-", line))).collect()
    };
    let (Some(present), Some(wanted)) = (parse(&running), parse(&expected)) else {
        // A context is unknown: only the lines can be compared. For bfdd they include the peers that are configured at
        // run time, so nothing is reported.
        if daemon == DaemonKind::Bfdd {
            return (vec![], None);
        }
        let (present, wanted) = (lines_without_path(&running), lines_without_path(&expected));
        return (differences(&present, &wanted), None);
    };
    let commands = commands(daemon, &present, &wanted, Pass::All, version).ok();
    (differences(&present.flat_with_empty(), &wanted.flat_with_empty()), commands)
}

/// The lines of a text, without the contexts that they are in.
fn lines_without_path(text: &str) -> BTreeSet<Vec<&str>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('!'));
    lines.map(|line| vec![line]).collect()
}

/// The configuration that is in effect after a daemon has read all lines: of the lines with one key only the last.
fn effective(mut context: Context) -> Context {
    let mut indices: HashMap<String, usize> = HashMap::new();
    let mut lines: Vec<String> = Vec::with_capacity(context.lines.len());
    for line in context.lines {
        match indices.entry(grammar::key(&context.head, &line)) {
            Entry::Occupied(entry) => lines[*entry.get()] = line,
            Entry::Vacant(entry) => {
                entry.insert(lines.len());
                lines.push(line);
            }
        }
    }
    context.lines = lines;
    context.inner = context.inner.into_iter().map(effective).collect();
    context
}

/// The commands to generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    All,
    /// Additions and changes.
    Add,
    /// Removals.
    Remove,
}

/// A configuration, split by daemon.
#[derive(Debug, Default)]
struct DaemonParts {
    /// The part of each daemon.
    of: HashMap<DaemonKind, Context>,
    /// Lines that every daemon reads.
    common: Vec<String>,
}

impl DaemonParts {
    /// Splits the top-level lines and contexts by daemon. The error is a line that no daemon is known to read.
    fn split(tree: Context, version: Version) -> Result<Self, String> {
        let mut parts = Self::default();
        for line in tree.lines {
            match line_owners(&line, &[], version) {
                LineOwner::Unknown => return Err(line),
                LineOwner::All => parts.common.push(line),
                LineOwner::Daemons(daemons) => {
                    for daemon in daemons {
                        parts.of.entry(daemon).or_default().lines.push(line.clone());
                    }
                }
            }
        }
        for context in tree.inner {
            let LineOwner::Daemons(daemons) = line_owners(&context.head, &context.lines, version) else {
                return Err(context.head);
            };
            for daemon in daemons {
                parts.of.entry(daemon).or_default().inner.push(context.clone());
            }
        }
        Ok(parts)
    }
}

/// The first line that only one of the two has.
fn first_difference<'a>(old: &'a [String], new: &'a [String]) -> Option<&'a String> {
    old.iter().find(|line| !new.contains(line)).or_else(|| new.iter().find(|line| !old.contains(line)))
}

/// The commands that change one daemon from `old` to `new`.
fn commands(
    daemon: DaemonKind,
    old: &Context,
    new: &Context,
    pass: Pass,
    version: Version,
) -> Result<Vec<VtyCommand>, NeedsRestart> {
    let mut script = Script { shares_route_maps: daemon != DaemonKind::Bgpd, ..Script::default() };
    // FRR 8.4 ignores a new list entry if the list has an equal entry with another number.
    let removes_entries_first = version < Version(10, 0);
    let (adds, removes) = (pass != Pass::Remove, pass != Pass::Add);
    let before: HashMap<String, &Context> = old.inner.iter().map(|c| (context_key(&c.head), c)).collect();
    let after: HashMap<String, &Context> = new.inner.iter().map(|c| (context_key(&c.head), c)).collect();
    let none = |_: &str| false;
    let (routers, others): (Vec<_>, Vec<_>) =
        new.inner.iter().partition(|context| context.head.starts_with("router bgp "));
    if removes && removes_entries_first {
        // This includes entries whose content gets another number while their number gets another content.
        for line in renumbered_entries(&old.lines, &new.lines) {
            script.emit(&[], &grammar::negate(&new.head, line));
        }
        script.change_lines(&[], old, new, &none, Pass::Remove);
    }
    if adds {
        script.change_lines(&[], old, new, &none, Pass::Add);
        for context in others {
            let old = before.get(&context_key(&context.head)).copied().unwrap_or(&EMPTY);
            script.change_context(&[], old, context, &none, pass);
        }
    }
    for router in routers.into_iter().filter(|_| adds) {
        match before.get(&context_key(&router.head)) {
            Some(old) if old.head != router.head => {
                let (old, new) = (redact(&old.head), redact(&router.head));
                return Err(NeedsRestart(format!("bgpd cannot change {old:?} to {new:?} while it runs")));
            }
            old => script.change_router(old.copied().unwrap_or(&EMPTY), router),
        }
    }
    if !removes {
        return Ok(script.finish());
    }
    // bgpd refuses to remove the default instance before those of VRFs.
    let removed = old.inner.iter().filter(|context| !after.contains_key(&context_key(&context.head)));
    let (routers, others): (Vec<_>, Vec<_>) =
        removed.partition(|context| context.head.starts_with("router bgp "));
    let (vrfs, default): (Vec<_>, Vec<_>) =
        routers.into_iter().partition(|context| context.head.contains(" vrf "));
    for router in vrfs.into_iter().chain(default) {
        script.emit(&[], &format!("no {}", router.head));
    }
    for context in others.into_iter().rev() {
        // FRR cannot remove a VRF that the kernel has, an interface, or `bfd`: only their content is removed.
        let stays = ["vrf ", "interface ", "bfd"].iter().any(|first| context.head.starts_with(first));
        if stays {
            script.change_context(&[], context, &context.emptied(), &none, Pass::Remove);
        } else {
            script.emit(&[], &format!("no {}", context.head));
        }
    }
    if pass == Pass::Remove {
        // Removals from contexts that stay.
        for context in &new.inner {
            if let Some(old) = before.get(&context_key(&context.head)) {
                script.change_context(&[], old, context, &none, pass);
            }
        }
    }
    if !removes_entries_first {
        script.change_lines(&[], old, new, &none, Pass::Remove);
    }
    Ok(script.finish())
}

/// Entries of prefix lists that `new` has with another number, while another entry of `new` has their number.
fn renumbered_entries<'a>(old: &'a [String], new: &'a [String]) -> impl Iterator<Item = &'a String> {
    fn entry(line: &str) -> Option<(&str, &str, &str)> {
        let (list, rest) = line.split_once(" seq ")?;
        let (number, content) = rest.split_once(' ')?;
        list.contains("prefix-list ").then_some((list, number, content))
    }
    let new = || new.iter().filter_map(|line| entry(line));
    let numbers: HashMap<_, _> = new().map(|(list, number, content)| ((list, content), number)).collect();
    let taken: HashSet<_> = new().map(|(list, number, _)| (list, number)).collect();
    old.iter().filter(move |line| {
        entry(line).is_some_and(|(list, number, content)| {
            let is_renumbered = numbers.get(&(list, content)).is_some_and(|other| *other != number);
            is_renumbered && taken.contains(&(list, number))
        })
    })
}

/// Two different heads, with different AS numbers, that open the BGP instance of one VRF.
fn conflicting_instances(document: &Document) -> Option<(&str, &str)> {
    let mut heads: HashMap<String, &str> = HashMap::new();
    let mut routers = document.blocks().map(Block::head).filter(|head| head.starts_with("router bgp "));
    routers.find_map(|head| {
        let other = heads.insert(context_key(head), head)?;
        (other != head).then_some((other, head))
    })
}

/// The texts without the contexts that occur once in each and are equal: most of the text, after most changes.
fn without_equal_contexts(old: &Document, new: &Document) -> (String, String) {
    let contexts = |document| -> HashSet<&str> {
        Document::blocks(document).filter(|b| b.is_context).map(|b| b.text).collect()
    };
    let (in_old, in_new) = (contexts(old), contexts(new));
    let is_equal = |block: &Block<'_>| {
        let is_in_both = block.is_context && in_old.contains(block.text) && in_new.contains(block.text);
        is_in_both && !old.is_repeated(block.head()) && !new.is_repeated(block.head())
    };
    let rest = |document: &Document| document.blocks().filter(|b| !is_equal(b)).map(|b| b.text).collect();
    (rest(old), rest(new))
}

/// The commands that remove the VRFs of `old` that are not in `new`.
fn remove_vrf_commands<'a>(old: &'a Context, new: &'a Context) -> impl Iterator<Item = String> + 'a {
    let vrfs = old.inner.iter().filter(|context| context.head.starts_with("vrf "));
    let removed = vrfs.filter(|vrf| !new.inner.iter().any(|context| context.head == vrf.head));
    removed.map(|vrf| format!("no {}", vrf.head))
}

#[cfg(test)]
mod tests;
