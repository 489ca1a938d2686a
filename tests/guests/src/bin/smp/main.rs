//! The guest with several vCPUs: they lock, notify, interrupt, take down and watch each other.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("smp is a guest kernel: `cargo xtask run` builds it and starts it under luxen");
}
