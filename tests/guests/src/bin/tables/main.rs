//! The page-table guest: builds, pins, switches, unpins address spaces, runs a user mode, tries what is forbidden.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("tables is a guest kernel: `cargo xtask run` builds it and starts it under luxen");
}
