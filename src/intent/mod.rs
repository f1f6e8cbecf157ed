//! What the node shall be, merged from the objects of all sources. Pure. Knows only the model.

mod claim;
mod merge;
mod offer;
mod part;

pub use claim::{Claim, Key, Need, Space};
pub use merge::{Accepted, Merged, merge};
pub use offer::{Content, Offer, OfferId, Origin, Reason, SourceKind, Verdict};
pub use part::{L2VniPart, L3VniPart, Part, TunnelPart, assemble};

#[cfg(test)]
mod tests;
