//! What one object of a source wants, and what became of it.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::claim::{Claim, Key, Need, Space};

/// Where objects come from, in the order of their precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// Environment variables.
    Environment,
    /// `CONFIG_FILE`.
    File,
    /// Objects of a cluster.
    Cluster,
}

/// Identifies an object over time: a changed object has the same identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OfferId {
    /// Its source.
    pub source: SourceKind,
    /// Its name in the source, for example `l3vnis/red`.
    pub name: Arc<str>,
}

/// The place of a value in its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The object, as another one refers to it: `NODE_IP`, or `l3vnis[0] (vnis.yaml:3)`.
    pub object: Arc<str>,
    /// The index of the value's location in its source, for a message with the text around it.
    pub location: Option<usize>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.object)
    }
}

/// What an object wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content<F> {
    /// What it uses: alone, or with the same value as everyone else.
    pub claims: Vec<Claim>,
    /// Subnets that nobody else may use.
    pub subnets: Vec<(Space, IpNet, Origin)>,
    /// What other objects must provide.
    pub needs: Vec<Need>,
    /// What it provides for others.
    pub provides: Vec<Key>,
    /// Its part of the intent.
    pub fragment: F,
    /// Its place in the order of its source.
    pub position: usize,
    /// The object as its source wrote it, to be stored.
    pub source: Arc<str>,
}

impl<F> Content<F> {
    /// Content without claims and needs.
    pub fn new(fragment: F) -> Self {
        Self {
            claims: vec![],
            subnets: vec![],
            needs: vec![],
            provides: vec![],
            fragment,
            position: 0,
            source: "".into(),
        }
    }
}

/// An object of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer<F> {
    /// Its identity. No two offers of a merge have the same one.
    pub id: OfferId,
    /// What it wants, or why that is unknown: its own errors.
    pub content: Result<Arc<Content<F>>, Vec<Reason>>,
}

/// Why an object is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The value concerned. `None`: the text says it.
    pub origin: Option<Origin>,
    /// The reason, as the end of a sentence about the value.
    pub text: String,
}

impl<F> Offer<F> {
    /// Its place in the order of its source. An invalid one has no influence on others: it comes last.
    pub(super) fn position(&self) -> usize {
        self.content.as_ref().map_or(usize::MAX, |content| content.position)
    }
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is part of the intent.
    Accepted,
    /// Its last accepted version is part of the intent, because the present one cannot be.
    Kept(Vec<Reason>),
    /// It needs something that no accepted object provides.
    Waiting(Vec<Reason>),
    /// It is invalid, or conflicts with an object that takes precedence.
    Rejected(Vec<Reason>),
}

impl Verdict {
    /// Why the present version is not part of the intent.
    pub fn reasons(&self) -> &[Reason] {
        match self {
            Self::Accepted => &[],
            Self::Kept(reasons) | Self::Waiting(reasons) | Self::Rejected(reasons) => reasons,
        }
    }
}
