//! The kernel's binary on the machine; on the host a pointer to the tool that builds it.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
use luxen as _;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("luxen runs on bare metal: build and start it with `cargo xtask run`");
}
