//! Every other number for every frame that nothing uses, so that none of them continues the one before: as many pieces as frames, which the hypervisor has to keep
//! and to hand over, or to refuse.

use luxen_guests::abi::{Errno, MmuUpdate, PAGE_SIZE, op};
use luxen_guests::clock::MS;
use luxen_guests::machine::guest::Guest;
use luxen_guests::machine::{hypercall, memory, time};
use luxen_guests::say;

/// Requests of one call.
const BATCH: usize = 256;

/// Scatters the numbers, and lives on until `finish`; then the frames have the numbers that they were given.
pub fn live(guest: &mut Guest) {
    let pfns = memory::free_pfns();
    let mut requests = [MmuUpdate::default(); BATCH];
    let mut scattered = 0u64;
    'all: for first in pfns.clone().step_by(BATCH) {
        let mut nr = 0;
        for pfn in (first..pfns.end).take(BATCH) {
            requests[nr] = MmuUpdate { ptr: memory::mfn(pfn) * PAGE_SIZE + 1, val: number(pfn) };
            nr += 1;
        }
        match hypercall::mmu_update(&requests[..nr], op::DOMID_SELF) {
            Ok(_) => scattered += nr as u64,
            // The hypervisor has no memory for more pieces; some of the batch may be done.
            Err(Errno::ENOMEM) => break 'all,
            Err(errno) => panic!("a number was refused with {errno}"),
        }
    }
    let whole = scattered == pfns.end - pfns.start;
    say!("{scattered} frames scattered, {}", if whole { "all that there are" } else { "and no more" });
    while !super::wait_until(guest, time::now() + 100 * MS) {}
    for pfn in pfns.clone().take(scattered as usize) {
        let (found, given) = (memory::m2p(memory::mfn(pfn)), number(pfn));
        assert!(found == given, "the frame of page {pfn:#x} has number {found:#x}, not {given:#x}");
    }
    say!("all {scattered} numbers are as they were given");
}

fn number(pfn: u64) -> u64 {
    pfn * 2
}
