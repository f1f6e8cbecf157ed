//! Planned changes, what became of them, and the errors.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;

use libc::{EINVAL, EOPNOTSUPP};
use log::Level;

use super::netlink::NetlinkError;
use super::op::LinkSetting;
use super::{Op, Plan, plan};
use crate::model::{Component, Desired, Namespaces, Side, SpecKind};

/// Maximum number of observe, plan and apply rounds of one [`reconcile`](super::Kernel::reconcile).
pub(super) const ROUNDS: usize = 3;

/// Result of a reconciliation.
#[derive(Debug, Default)]
pub struct ReconcileOutcome {
    /// The applied changes, in order.
    pub done: Vec<Op>,
    /// Messages about conflicts and about changes that the kernel refused. The rest of the configuration works without
    /// them.
    pub refused: Vec<String>,
    /// The links of the refused changes, each with the message.
    pub links: Vec<(Side, String, String)>,
}

/// Planned changes, some of which may already be applied.
#[derive(Debug)]
pub struct Changes {
    pub(super) ops: VecDeque<Op>,
    level: Level,
    /// Whether this is the initial reconciliation. It fails if a part of the base fails; later ones apply everything
    /// else.
    is_initial: bool,
    components: HashMap<(Side, String), Component>,
    pub(super) refused: RefusedOps,
    outcome: ReconcileOutcome,
}

impl Changes {
    pub(super) fn new(level: Level, is_initial: bool) -> Self {
        let (ops, components) = (VecDeque::new(), HashMap::new());
        Self {
            ops,
            level,
            is_initial,
            components,
            refused: RefusedOps::default(),
            outcome: ReconcileOutcome::default(),
        }
    }

    /// Plans the changes. Leaves out those that the kernel refused before.
    pub(super) fn plan(&mut self, desired: &Desired, now: Namespaces) -> Result<(), Error> {
        let Plan { mut ops, conflicts } = plan(desired, now);
        let of_base = |(component, _): &(Component, String)| *component == Component::Base;
        if self.is_initial && conflicts.iter().any(of_base) {
            let of_base = conflicts.into_iter().filter(of_base);
            return Err(Error::Conflicts(of_base.map(|(_, message)| message).collect()));
        }
        let messages = conflicts.into_iter().map(|(component, message)| match component {
            Component::Base => message,
            component => format!("{component}: {message}"),
        });
        for message in messages {
            if !self.outcome.refused.contains(&message) {
                self.outcome.refused.push(message);
            }
        }
        ops.retain(|op| !self.refused.is_blocked(op));
        self.ops = ops.into();
        if !self.ops.is_empty() {
            let links = desired.links.iter();
            self.components =
                links.map(|link| ((link.side, link.name.to_string()), link.component)).collect();
        }
        Ok(())
    }

    /// Records the result of one change.
    pub(super) fn record_result(&mut self, op: Op, result: Result<(), NetlinkError>) -> Result<(), Error> {
        let error = match result {
            Ok(()) => {
                match op.link() {
                    Some((_, name)) => log::log!(self.level, interface = name; "{op}"),
                    None => log::log!(self.level, "{op}"),
                }
                self.outcome.done.push(op);
                return Ok(());
            }
            Err(error) => error,
        };
        let component = op.link().and_then(|(side, name)| self.components.get(&(side, name.to_owned())));
        let component = component.copied().unwrap_or_default();
        if self.is_initial && is_essential(&op) && component == Component::Base {
            return Err(Error::Refused { op: Box::new(op), error });
        }
        let of = if component == Component::Base { String::new() } else { format!("{component}: ") };
        let message = format!("{of}{op}: {error}{}; continuing without it", remedy(&op, &error));
        if let Some((side, name)) = op.link() {
            self.outcome.links.push((side, name.to_owned(), message.clone()));
        }
        self.outcome.refused.push(message);
        self.refused.add(&op);
        Ok(())
    }

    /// The number of changes that are not applied yet.
    pub fn remaining(&self) -> usize {
        self.ops.len()
    }

    /// The result of all changes.
    pub fn outcome(self) -> ReconcileOutcome {
        self.outcome
    }
}

/// Why the kernel is not in the desired state.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a change.
    #[error("{op}: {error}{}", remedy(.op, .error))]
    Refused {
        /// The change.
        op: Box<Op>,
        /// The kernel's error.
        error: NetlinkError,
    },
    /// The state could not be read.
    #[error("cannot read the kernel state: {0}")]
    Unreadable(#[from] NetlinkError),
    /// Objects that frr-supervisor does not manage prevent changes.
    #[error("{}", .0.join("; "))]
    Conflicts(Vec<String>),
    /// The kernel state did not converge.
    #[error(
        "the kernel is not in the desired state after {ROUNDS} attempts: another program probably reverts the changes; find the \
         program that undoes this: {0}"
    )]
    Unstable(Box<Op>),
    /// A namespace can't be opened, examined or entered.
    #[error("{0}")]
    Namespace(#[from] io::Error),
}

/// Whether the router cannot work without this change. Without one of the others, a return path or a sysctl is missing,
/// or something obsolete remains.
fn is_essential(op: &Op) -> bool {
    matches!(
        op,
        Op::Create { .. }
            | Op::Move { .. }
            | Op::AddAddress { .. }
            | Op::Set { what: LinkSetting::Master(_) | LinkSetting::Up, .. }
    )
}

/// What the operator can do about an error, if that is known.
fn remedy(op: &Op, error: &NetlinkError) -> &'static str {
    let unsupported = matches!(error.source.raw_os_error(), Some(EOPNOTSUPP));
    match op {
        Op::Create { kind: SpecKind::Vrf(_), .. } if unsupported => {
            ". The kernel has no VRF support: load the module vrf. On Talos 1.14 and later add the machine config document \
             \"apiVersion: v1alpha1, kind: KernelModuleConfig, name: vrf\", on any version \
             \"machine: {kernel: {modules: [{name: vrf}]}}\""
        }
        Op::Move { .. } if error.source.raw_os_error() == Some(EINVAL) => {
            ". The kernel does not allow this interface in another namespace: name its ports instead, or set NETNS=host"
        }
        Op::SetSysctl(_) if error.source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            ". /proc/sys is read-only: the service's security.readonlyPaths must contain neither /proc/sys nor /proc/sys/net"
        }
        Op::SetMarks(_) if unsupported => {
            ". RETURN_PATH=connmark needs nf_tables; RETURN_PATH=default-route and RETURN_PATH=none do not"
        }
        _ => "",
    }
}

/// Changes that the kernel refused, and the links that are missing as a result.
#[derive(Debug, Default)]
pub(super) struct RefusedOps {
    ops: Vec<Op>,
    links: HashSet<(Side, String)>,
}

impl RefusedOps {
    fn add(&mut self, op: &Op) {
        self.ops.push(op.clone());
        if let Op::Create { side, name, kind, .. } = op {
            self.links.insert((*side, name.to_string()));
            if let SpecKind::Veth(side, peer) = kind {
                self.links.insert((*side, peer.to_string()));
            }
        }
    }

    /// Whether the change cannot succeed: the kernel refused it before, or its link could not be created.
    pub(super) fn is_blocked(&self, op: &Op) -> bool {
        self.ops.contains(op)
            || op.link().is_some_and(|(side, name)| self.links.contains(&(side, name.to_owned())))
    }
}
