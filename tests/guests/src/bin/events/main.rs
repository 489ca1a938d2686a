//! The event channel guest: two domains of it pass tokens to each other.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("events is a guest kernel: `cargo xtask run` builds it and starts it under luxen");
}
