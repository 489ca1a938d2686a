//! The hostile guest: tries all that a guest can get wrong or forge, and knows what Xen answers.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("hostile is a guest kernel: `cargo xtask run` builds it and starts it under luxen");
}
