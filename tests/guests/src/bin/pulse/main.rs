//! The clock and timer guest: ten ticks a second, each at its absolute time.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("pulse is a guest kernel: `cargo xtask run` builds it and starts it under luxen");
}
