#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| luxen_fuzz_targets::page_types::run(bytes));
