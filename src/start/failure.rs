//! A boot that cannot go on.
//!
//! After a cold boot nothing is lost: the reason is printed, and the machine stops. An update that cannot be taken up leaves guests in memory with nobody to
//! run them. `lu-fail=` says what then: `stop`, for a debugger, or `reset`, for a cold boot. Whether something of the guests has been touched by
//! then is said: the check of a stream ends when free memory is plugged in, and up to there nothing has been ([`note_plugged`]).

use super::Fatal;
use crate::cmdline::{Exit, OnFailure, Options};
use crate::frame::{Maddr, Mfn, MfnRange};
use crate::log;
use crate::lu::damage::Damage;
use crate::memmap::MemMap;
use crate::mm::physmem::PhysMem;
use crate::ranges::RangeSet;
use crate::verdict::Verdict;
use crate::x86::directmap::DirectMap;
use crate::x86::{debug_exit, directmap, reset, serial, traps};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

/// Free memory was plugged in: from here on the heap writes to frames that nobody has claimed, and guests' memory may be written to.
static IS_PLUGGED: AtomicBool = AtomicBool::new(false);

/// Notes that the check is over.
pub fn note_plugged() {
    IS_PLUGGED.store(true, Ordering::Relaxed);
}

/// Ends a cold boot.
pub fn of_boot(fatal: &Fatal) -> ! {
    log::release();
    log!("start", "cannot boot: {fatal}");
    traps::finish(Verdict::Error)
}

/// Ends an update that cannot be taken up. `sum` adds up memory for a test that asks for it.
pub fn of_update(fatal: &Fatal, options: &Options, sum: impl FnOnce() -> Option<u64>) -> ! {
    log::release();
    log!("lu", "the update cannot be taken up: {fatal}");
    if IS_PLUGGED.load(Ordering::Relaxed) {
        log!("lu", "the restore had begun: guests' memory is not as it was");
    } else {
        log!("lu", "nothing was restored: guests' memory is as it was, none of it is free");
        if Damage::asked(options).is_some()
            && let Some(sum) = sum()
        {
            log!("test", "memory sums to {sum:#018x}");
        }
    }
    if options.lu_fail == OnFailure::Reset {
        log!("lu", "lu-fail=reset: the machine is reset, the guests are lost");
        log::drain();
        reset::machine();
    }
    if options.exit == Exit::Qemu {
        // A test run is to end.
        traps::finish(Verdict::Failure);
    }
    log!("lu", "lu-fail=stop: the machine stands still, for a debugger; the guests do not run");
    log::drain();
    debug_exit::stop()
}

/// Adds up all RAM but what a hypervisor may write to up to here, for tests: the region, the image's slot, and the frame of the relocation code, which
/// keeps its data beside it and is noted in the breadcrumb's page.
pub fn sum_of_memory(map: &MemMap, region: MfnRange, slot: MfnRange) -> u64 {
    let mut own = RangeSet::<3>::new();
    let note = note_of(region).map_or(0, |at| DirectMap.read_u64(at));
    let code = MfnRange::between(note, note.saturating_add(1)).unwrap_or(MfnRange::EMPTY);
    let kept = [region, slot, code].into_iter().try_for_each(|range| own.insert(range));
    assert!(kept.is_ok(), "three ranges have room for three");
    let mut sum = 0u64;
    for range in map.ram().flat_map(|ram| own.complement_in(ram)) {
        let Some(first) = range.first() else { continue };
        for word in words(first.maddr(), range.len_bytes()) {
            sum = sum.rotate_left(1).wrapping_add(*word);
        }
    }
    sum
}

#[expect(unsafe_code, reason = "memory as words")]
fn words(at: Maddr, len_bytes: u64) -> &'static [u64] {
    // SAFETY: the direct map has all RAM, one CPU runs, and nothing is written while the words are added up.
    unsafe { directmap::slice_mut(at, (len_bytes / 8) as usize) }
}

/// Where a test notes the frame of the relocation code: in the breadcrumb's page, behind what is written there at the jump.
fn note_of(region: MfnRange) -> Option<Maddr> {
    Some(region.first()?.maddr().offset(2048))
}

/// Says what memory adds up to, right before the jump by the code in the frame `code`, without a change to it: the log lies there too.
pub fn print_sum(map: &MemMap, region: MfnRange, slot: MfnRange, code: Mfn) {
    if let Some(at) = note_of(region) {
        DirectMap.write_u64(at, code.get());
    }
    let mut line = Line { bytes: [0; 64], len: 0 };
    let sum = sum_of_memory(map, region, slot);
    if writeln!(line, "test: memory sums to {sum:#018x}\r").is_ok() {
        serial::print(&line.bytes[..line.len]);
    }
}

/// A line on the stack.
struct Line {
    bytes: [u8; 64],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let place = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}
