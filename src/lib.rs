//! luxen: a bare-metal x86_64 hypervisor kernel that replaces itself under its running guests.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bootinfo;
pub mod build;
pub mod cmdline;
pub mod crc32c;
pub mod domain;
pub mod emulate;
pub mod frame;
#[cfg(target_os = "none")]
pub mod hypercall;
pub mod kexec;
pub mod log;
pub mod lu;
pub mod memmap;
pub mod mm;
pub mod ranges;
pub mod region;
#[cfg(target_os = "none")]
pub mod run;
#[cfg(target_os = "none")]
pub mod start;
pub mod time;
pub mod trust;
pub mod verdict;
#[cfg(target_os = "none")]
pub mod x86;
pub mod xen;
