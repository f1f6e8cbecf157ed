//! FRR's namespace with a netlink socket of its own. It serves the supervisor's thread, which needs the kernel while
//! another thread changes it.

use std::io;

use super::Netns;
use super::handle::NsHandle;
use super::link::ParsedLink;
use super::netlink::{Netlink, NetlinkError};

/// FRR's namespace, as the supervisor of the daemons uses it.
#[derive(Debug)]
pub struct RouterNetns(NsHandle);

impl RouterNetns {
    /// Opens another socket in the namespace.
    ///
    /// # Errors
    /// No descriptor is available, or the namespace can't be entered.
    pub(super) fn open(ns: &Netns) -> io::Result<Self> {
        NsHandle::open(ns.try_clone()?).map(Self)
    }

    /// The namespace.
    pub fn ns(&self) -> &Netns {
        &self.0.ns
    }

    pub(super) fn netlink(&mut self) -> &mut Netlink {
        &mut self.0.nl
    }

    pub(super) fn link(&mut self, name: &str) -> Result<ParsedLink, NetlinkError> {
        self.0.link(name)
    }
}
