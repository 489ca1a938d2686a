//! Module strings.
