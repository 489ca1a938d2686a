//! The privileged guest that loads the next build of the hypervisor and asks for the update.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("updater is a guest kernel: `cargo xtask run` builds it and starts it under luxen");
}
