//! The records.
