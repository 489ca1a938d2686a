//! What the hypervisor's code is measured beside: the usual ways to do the same, as good as they can be made.

pub mod flat;
pub mod pages;
pub mod radix;
