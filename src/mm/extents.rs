//! A domain's memory as extents.
