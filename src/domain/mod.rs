//! Domains: how they are described, built and kept.

pub mod builder;
pub mod console;
pub mod evtchn;
pub mod exchange;
pub mod grant;
pub mod kernel;
pub mod memflags;
pub mod page_offline;
pub mod reservation;
pub mod sched;
pub mod spec;
pub mod store;
pub mod watchdog;
