//! Xen's guest interface: numbers and layouts, and nothing that acts on them.
//!
//! Source: Xen's public headers (`xen/include/public`, MIT). Guests are built against these, so none of the values here
//! is ours to choose.

#[cfg(test)]
mod documented;
pub mod errno;
pub mod grant;
pub mod hypercall;
pub mod hypercall_page;
pub mod layout;
pub mod vcpu;

pub use errno::Errno;
