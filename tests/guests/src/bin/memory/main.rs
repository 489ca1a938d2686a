//! The memory guest: owns most of its memory, keeps writing and verifying it.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("memory is a guest kernel: `cargo xtask run` builds it and starts it under luxen");
}
