//! Gives the addresses of a hypervisor's backtrace their names.

use crate::paths;
use crate::transcript::Transcript;
use std::process::Command;

/// Addresses looked up at most: a dump that prints more says nothing more.
const MOST: usize = 64;

/// Function and line of every address in the hypervisor's text that the console mentioned, by the build that ran last;
/// nothing if there are none, or nothing to look them up with.
pub fn name_addresses(transcript: &Transcript) -> Vec<String> {
    let mut addresses = transcript.text_addresses();
    addresses.truncate(MOST);
    let debug = paths::out(&format!("{}.debug", transcript.running.unwrap_or("luxen")));
    if addresses.is_empty() || !debug.exists() {
        return Vec::new();
    }
    let output = Command::new("addr2line")
        .args(["-C", "-f", "-p", "-a", "-i", "-e"])
        .arg(&debug)
        .args(addresses.iter().map(|address| format!("{address:#x}")))
        .output();
    match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect(),
        Err(_) => Vec::new(),
    }
}
