//! The live-update region.
