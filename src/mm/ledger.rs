//! The ledger of all frames.
