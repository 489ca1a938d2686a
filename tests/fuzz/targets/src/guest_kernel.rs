//! A guest's kernel: whoever has a [`Kernel`] may rely on the four rules of its module, and they are checked here from the outside.

use crate::check_message;
use luxen::domain::kernel::Kernel;
use luxen::frame::{Maddr, PAGE_SIZE};

/// The fuzzer's entry.
pub fn run(bytes: &[u8]) {
    let kernel = match Kernel::parse(bytes) {
        Ok(kernel) => kernel,
        Err(error) => return check_message(&error),
    };
    let (start, end) = (kernel.start(), kernel.end());
    assert!(start < end && end < Maddr::LIMIT);
    assert!(!kernel.segments().is_empty());
    for segment in kernel.segments() {
        assert!(segment.bytes.len() as u64 <= segment.len_bytes);
        assert!(segment.start >= start && segment.start.checked_add(segment.len_bytes).is_some_and(|at| at <= end));
        let inside = bytes.as_ptr_range();
        let part = segment.bytes.as_ptr_range();
        assert!(segment.bytes.is_empty() || (inside.start <= part.start && part.end <= inside.end));
    }
    let base = kernel.virt_base();
    assert!(base.is_multiple_of(PAGE_SIZE) && ((base << 16) as i64 >> 16) as u64 == base);
    assert!(base.checked_add(end).is_some());
    assert_eq!((kernel.virt_start(), kernel.virt_end()), (base + start, base + end));
    assert!((kernel.virt_start()..kernel.virt_end()).contains(&kernel.entry()));
    if let Some(pfn) = kernel.hypercall_pfn() {
        let at = pfn.get() * PAGE_SIZE;
        assert!(at + PAGE_SIZE > start && at < end, "the hypercall page is outside the image");
    }
}
