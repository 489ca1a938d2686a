//! The balloon guest: grows, gives pages up that it still uses, and sees when they are gone.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("balloon is a guest kernel: `cargo xtask run` builds it and luxen starts it");
}
