//! `grant-page share|map --peer DOMAIN --stop FILE`: a page that two Linux guests share, until FILE exists.
//!
//! One guest grants the page to the other (/dev/xen/gntalloc), the other maps it (/dev/xen/gntdev). The first fills it with a pattern
//! and numbers it, the second checks every word and answers with the number; so every word of every round went from one
//! guest to the other. The last line says how many rounds there were, or, with exit code 1, what is wrong.
//!
//! Nobody tells the second guest the grant's reference: it tries them in order until a mapped page has the magic.

#[path = "../xen.rs"]
mod xen;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use xen::Page;

const MAGIC: u64 = 0x6c75_7865_6e67_6e74;
/// Words of the page: magic, the round that is filled in, the round that was checked, then the pattern.
const AT_MAGIC: usize = 0;
const AT_FILLED: usize = 1;
const AT_CHECKED: usize = 2;
const PATTERN: std::ops::Range<usize> = 3..Page::WORDS;
/// References that are tried: the first few are Linux's own.
const REFERENCES: std::ops::Range<u32> = 1..128;
/// Fewer rounds prove nothing.
const ROUNDS_MIN: u64 = 10;
const PAUSE: Duration = Duration::from_millis(1);

/// What word `index` holds in a round.
fn word(round: u64, index: usize) -> u64 {
    (round << 16 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn share(peer: u16, stop: &Path) -> Result<u64, String> {
    let page = Page::granted_to(peer)?;
    page.write(AT_MAGIC, MAGIC);
    let mut round = 0;
    while !stop.exists() {
        if page.read(AT_CHECKED) != round {
            std::thread::sleep(PAUSE);
            continue;
        }
        round += 1;
        PATTERN.for_each(|index| page.write(index, word(round, index)));
        page.write(AT_FILLED, round);
    }
    Ok(page.read(AT_CHECKED))
}

fn map(peer: u16, stop: &Path) -> Result<u64, String> {
    let page = find(peer, stop)?;
    let mut round = page.read(AT_CHECKED);
    while !stop.exists() {
        let filled = page.read(AT_FILLED);
        if filled == round {
            std::thread::sleep(PAUSE);
            continue;
        }
        if filled != round + 1 {
            return Err(format!("round {filled} came after round {round}"));
        }
        for index in PATTERN {
            let (found, wanted) = (page.read(index), word(filled, index));
            if found != wanted {
                return Err(format!("word {index} of round {filled} is {found:#x}, not {wanted:#x}"));
            }
        }
        round = filled;
        page.write(AT_CHECKED, round);
    }
    Ok(round)
}

/// The page that the peer grants; it may not have come so far yet.
fn find(peer: u16, stop: &Path) -> Result<Page, String> {
    while !stop.exists() {
        for reference in REFERENCES {
            if let Ok(page) = Page::mapped_from(peer, reference)
                && page.read(AT_MAGIC) == MAGIC
            {
                return Ok(page);
            }
        }
        std::thread::sleep(PAUSE * 100);
    }
    Err(format!("domain {peer} grants no page with the magic"))
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (work, peer, stop) = match words.as_slice() {
        ["share", "--peer", peer, "--stop", stop] => (share as fn(u16, &Path) -> _, peer, stop),
        ["map", "--peer", peer, "--stop", stop] => (map as fn(u16, &Path) -> _, peer, stop),
        _ => {
            println!("usage: grant-page share|map --peer DOMAIN --stop FILE");
            return ExitCode::from(2);
        }
    };
    let Ok(peer) = peer.parse() else {
        println!("{peer} is no domain number");
        return ExitCode::from(2);
    };
    let (text, code) = match work(peer, &PathBuf::from(stop)) {
        Ok(rounds) if rounds < ROUNDS_MIN => (format!("only {rounds} rounds"), ExitCode::FAILURE),
        Ok(rounds) => (format!("{rounds} rounds"), ExitCode::SUCCESS),
        Err(text) => (text, ExitCode::FAILURE),
    };
    println!("{text}");
    code
}
