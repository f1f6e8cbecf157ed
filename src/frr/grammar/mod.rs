//! FRR's configuration grammar: which lines open a context, which daemons a line belongs to, the key of each line, and the
//! command that negates it. Pure.

mod contexts;
mod lines;
mod owners;

pub use contexts::{EFFECTIVE_WHEN_EMPTY, context_key, is_default_bgp_instance, is_opener_in};
pub use lines::{key, make_before_break_group, negate, negate_before};
pub use owners::{FileReader, LineOwner, file_reader, line_owners};
