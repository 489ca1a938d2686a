//! What the test guests share: a small runtime for 64-bit PV kernels, and the pure parts of the tests.
//!
//! The guests are the oracle for the hypervisor's guest interface. So nothing here comes from the hypervisor's own
//! crate: numbers and layouts are taken from Xen's public headers a second time ([`abi`]), and what a guest expects of
//! the world it states itself.
//!
//! - pure parts, tested on the host: [`abi`], [`bits`], [`clock`], [`grant`], [`lines`], [`options`], [`pattern`], [`pte`], [`tokens`];
//! - the machine (`machine`, bare metal only): entry, traps, hypercalls, events, console, time, memory, verdict.
//!
//! Every guest understands `run=<ms>` on its command line and the console lines listed at `machine::guest`.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod bits;
pub mod clock;
pub mod grant;
pub mod lines;
#[cfg(target_os = "none")]
pub mod machine;
pub mod options;
pub mod pattern;
pub mod pte;
pub mod tokens;
