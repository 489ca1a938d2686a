//! Byte offsets of the structures that lie in guest memory, as Xen's public headers lay them out for 64-bit x86.
//!
//! They are tables of numbers and not Rust structs, because the bytes belong to a guest: it may change them at any
//! time, so every access is a single read or write through [`PhysMem`](crate::mm::physmem::PhysMem), or goes to a
//! private copy. Each module is one structure: a constant a field, in ascending order, and `SIZE`. The assertions
//! beside them say that fields neither overlap nor stick out. All numbers are little-endian; what the fields are is
//! said beside them.

mod arguments;
mod shared;
mod state;

pub use arguments::*;
pub use shared::*;
pub use state::*;

/// Stops the build unless fields, as (offset, bytes), are aligned to their size, in order, and inside the structure.
pub(super) const fn fields_follow_each_other(fields: &[(usize, usize)], size: usize) {
    let mut i = 0;
    let mut at = 0;
    while i < fields.len() {
        let (offset, len) = fields[i];
        assert!(offset >= at, "fields overlap");
        assert!(len > 8 || offset % len == 0, "field not aligned");
        at = offset + len;
        i += 1;
    }
    assert!(at <= size && size - at < 32, "fields do not fill the structure");
}
