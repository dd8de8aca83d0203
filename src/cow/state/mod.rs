//! What is known of each page, of the mappings that they make, and of the snapshots that live.

pub(in crate::cow) mod baseline;
pub(crate) mod dirty;
pub(crate) mod doubt;
pub(super) mod guards;
pub(crate) mod ledger;
pub(crate) mod losses;
pub(crate) mod mappings;
pub(super) mod ready;
pub(crate) mod table;
pub(super) mod upkeep;
