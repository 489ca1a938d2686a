//! The two-level frametable.
