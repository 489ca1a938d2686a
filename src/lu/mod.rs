//! The handover: what the outgoing hypervisor leaves behind and how the incoming one takes it up. [`format`] specifies it.

pub mod breadcrumb;
pub mod claims;
pub mod damage;
pub mod history;
pub mod mfn_list;
pub mod needs;
pub mod records;
pub mod stream;

#[cfg(target_os = "none")]
pub mod report;
#[cfg(target_os = "none")]
pub mod restore;
#[cfg(target_os = "none")]
pub mod save;
#[cfg(target_os = "none")]
pub mod update;

#[doc = include_str!("../../docs/handover.md")]
pub mod format {}

#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod golden;
