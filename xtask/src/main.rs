//! Builds, runs and tests luxen.
fn main() {}
