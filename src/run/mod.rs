//! Running guests: who runs, what they ask for, what is delivered to them.
//!
//! | module | what |
//! |---|---|
//! | [`host`] | the one object that holds the machine's state |
//! | [`entry`] | entries from guests and the way back |
//! | [`emulate`], [`msr`] | instructions that only ring 0 may execute, writes to live page tables |
//! | [`bounce`] | exceptions, events and system calls put onto a guest's stack |
//! | [`context`] | which vCPU's registers are in the CPU |
//! | [`work`] | what is due between guests: timers, console, updates, teardown |
//! | [`create`], [`teardown`] | a domain's beginning and end |
//!
//! Lock order, outermost first: domains, a domain's memory, a vCPU, event channels, scheduler, frames, log.

pub mod bad;
pub mod bounce;
pub mod console;
pub mod context;
pub mod create;
pub mod domain;
pub mod emulate;
pub mod entry;
pub mod grants;
pub mod host;
pub mod keys;
pub mod msr;
pub mod plug_in;
pub mod store;
pub mod teardown;
pub mod vcpu;
pub mod work;

pub use crate::mm::guest_mem;
