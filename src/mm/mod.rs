//! Memory: who owns which frame, what type it has, and what is free.

pub mod bootmem;
pub mod buddy;
pub mod extents;
pub mod frametable;
pub mod guest_mem;
pub mod ledger;
pub mod lingering;
pub mod m2p;
pub mod marks;
pub mod objects;
pub mod page_info;
pub mod physmem;
pub mod types;
