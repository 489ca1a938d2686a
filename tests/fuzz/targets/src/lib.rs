//! What is fuzzed: everything that reads bytes which this hypervisor has not made itself, each as a function of bytes.
//!
//! A target panics if it finds something, and says nothing otherwise. libFuzzer calls it through `tests/fuzz/fuzz_targets/`; the tests of this crate call it
//! with every file of `tests/fuzz/corpus/`, so a finding stays found. Where a checksum would keep the fuzzer out, the target computes it.

pub mod command_line;
pub mod emulate;
pub mod guest_kernel;
pub mod hypercall_arguments;
pub mod memory_map;
pub mod mfn_list;
pub mod module_string;
pub mod next_image;
pub mod page_types;
pub mod stream;

use core::fmt::{self, Write};

/// A target: a name, which is that of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 10] = [
    ("command_line", command_line::run),
    ("emulate", emulate::run),
    ("guest_kernel", guest_kernel::run),
    ("hypercall_arguments", hypercall_arguments::run),
    ("memory_map", memory_map::run),
    ("mfn_list", mfn_list::run),
    ("module_string", module_string::run),
    ("next_image", next_image::run),
    ("page_types", page_types::run),
    ("stream", stream::run),
];

/// Counts what is written to it.
#[derive(Default)]
struct Count(usize);

impl Write for Count {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

/// Writes a message out. It has to say something, and that within reason, as it goes to a serial line.
pub(crate) fn check_message(message: &impl fmt::Display) {
    let mut count = Count::default();
    write!(count, "{message}").expect("the sink takes everything");
    assert!((1..100_000).contains(&count.0), "a message of {} bytes", count.0);
}

#[cfg(test)]
mod tests {
    use super::TARGETS;
    use std::fs;
    use std::path::Path;

    /// Every file of the corpus goes through its target, and so does every beginning of the small ones.
    #[test]
    fn the_corpus_finds_nothing() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
        for (name, run) in TARGETS {
            let dir = corpus.join(name);
            let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
            let mut nr_files = 0;
            for file in files {
                let path = file.expect("the corpus can be listed").path();
                let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                assert!(bytes.len() <= 64 << 10, "{} is no small seed", path.display());
                println!("{}", path.display());
                run(&bytes);
                (0..bytes.len().min(64)).for_each(|len| run(&bytes[..len]));
                nr_files += 1;
            }
            assert!(nr_files >= 3, "{name} has {nr_files} seeds");
        }
    }
}
