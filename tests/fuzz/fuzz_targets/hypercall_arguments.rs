#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| luxen_fuzz_targets::hypercall_arguments::run(bytes));
