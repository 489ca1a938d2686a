//! The machine: everything that needs assembly, ports, model-specific registers or pointers into machine memory.
//!
//! Nothing here decides anything; what is done, and when, is decided by the pure modules and by `start` and `run`.

pub mod apic;
pub mod cmos;
pub mod cpu;
pub mod debug;
pub mod debug_exit;
pub mod desc;
pub mod directmap;
pub mod fpu;
pub mod heap;
pub mod paging;
pub mod percpu;
pub mod pit;
pub mod port;
pub mod reset;
pub mod serial;
pub mod traps;
pub mod tsc;
