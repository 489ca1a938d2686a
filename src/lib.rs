//! luxen: a bare-metal x86_64 hypervisor kernel that replaces itself under its running guests.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod cmdline;
pub mod domain;
pub mod frame;
pub mod kexec;
pub mod lu;
pub mod memmap;
pub mod mm;
pub mod ranges;
pub mod region;
pub mod xen;
