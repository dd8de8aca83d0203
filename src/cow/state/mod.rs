//! What is known of each page, and of the mappings that they make.

pub(crate) mod dirty;
pub(crate) mod mappings;
pub(crate) mod table;
