//! What the supervisor has of the node.

use std::io;

use crate::frr::Version;
use crate::kernel::{Monitor, RouterNetns};
use crate::node::{Node, RollbackHistory};
use crate::reconciler::{NodeView, Reconciler};

/// The node as the supervisor sees it: the reconciler has it.
#[derive(Debug)]
pub(super) struct NodeHandle {
    pub(super) reconciler: Reconciler,
    /// FRR's namespace.
    pub(super) router: RouterNetns,
    pub(super) monitor: Monitor,
    pub(super) version: Version,
    /// The node after the last job.
    pub(super) view: NodeView,
}

impl NodeHandle {
    /// Gives the node to a reconciler.
    ///
    /// # Errors
    /// No thread or descriptor is available.
    pub(super) fn start(node: Node, monitor: Monitor, history: Box<RollbackHistory>) -> io::Result<Self> {
        let (router, version, view) = (node.kernel.open_router()?, node.version, NodeView::new(&node));
        Ok(Self { reconciler: Reconciler::start(node, history)?, router, monitor, version, view })
    }
}
