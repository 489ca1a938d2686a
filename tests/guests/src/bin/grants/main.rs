//! The grants guest: one domain of it lets another one map and copy its pages.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("grants is a guest kernel: `cargo xtask qemu-test grants` builds it and starts it under luxen");
}
