//! The buddy heap.
