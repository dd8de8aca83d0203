//! The texts of the repository's `docs/` folder: how it works, what it relies on, how it is tested,
//! what it costs.
//!
//! Each begins with rustdoc's definitions of its links. They count before those at the end of the
//! file, which are for people who read the file itself.

#[doc = "[`docs/soundness.md`]: soundness\n[`docs/benchmarks.md`]: benchmarks\n"]
#[doc = include_str!("../docs/design.md")]
pub mod design {}

#[doc = "[`docs/design.md`]: design\n"]
#[doc = include_str!("../docs/soundness.md")]
pub mod soundness {}

#[doc = "[`docs/design.md`]: design\n[`docs/testing.md`]: testing\n"]
#[doc = include_str!("../docs/CONTRIBUTING.md")]
pub mod contributing {}

#[doc = "[`docs/soundness.md`]: soundness\n"]
#[doc = include_str!("../docs/testing.md")]
pub mod testing {}

#[doc = "[`docs/design.md`]: design\n[`docs/engines.md`]: engines\n"]
#[doc = include_str!("../docs/benchmarks.md")]
pub mod benchmarks {}

#[doc = "[`docs/design.md`]: design\n[`docs/benchmarks.md`]: benchmarks\n"]
#[doc = include_str!("../docs/engines.md")]
pub mod engines {}

#[doc = "[`docs/image-format.md`]: image_format\n"]
#[doc = include_str!("../docs/images.md")]
pub mod images {}

#[doc = "[`docs/images.md`]: images\n"]
#[doc = include_str!("../docs/image-format.md")]
pub mod image_format {}
