//! Module strings: what is accepted keeps the limits that the domain builder relies on.

use crate::check_message;
use luxen::domain::spec::{
    COMMAND_LINE_MAX_BYTES, COUNT_MAX, MEMORY_LIMIT_BYTES, MEMORY_MIN_BYTES, ModuleSpec, NAME_MAX_BYTES, VCPUS_MAX,
};
use luxen::frame::PAGE_SIZE;

/// The fuzzer's entry.
pub fn run(bytes: &[u8]) {
    let Ok(string) = core::str::from_utf8(bytes) else { return };
    let spec = match ModuleSpec::parse(string) {
        Ok(spec) => spec,
        Err(error) => return check_message(&error),
    };
    let check_name = |name: &str| assert!((1..=NAME_MAX_BYTES).contains(&name.len()), "{name:?}");
    check_name(spec.name());
    let ModuleSpec::Guest(guest) = spec else { return };
    assert!((MEMORY_MIN_BYTES..MEMORY_LIMIT_BYTES).contains(&guest.memory_bytes));
    assert!((guest.memory_bytes..MEMORY_LIMIT_BYTES).contains(&guest.maxmem_bytes));
    assert!(guest.memory_bytes.is_multiple_of(PAGE_SIZE) && guest.maxmem_bytes.is_multiple_of(PAGE_SIZE));
    assert!((1..=VCPUS_MAX).contains(&guest.vcpus) && (1..=COUNT_MAX).contains(&guest.count));
    assert!((1..=guest.nr_pages()).contains(&guest.extents));
    assert!(guest.command_line.len() <= COMMAND_LINE_MAX_BYTES);
    [guest.ramdisk, guest.peer].into_iter().flatten().for_each(check_name);
}
