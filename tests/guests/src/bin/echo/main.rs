//! The guest at the other end of a terminal: it says what it hears.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("echo is a guest kernel: `cargo xtask qemu-test console` builds it and starts it under luxen");
}
