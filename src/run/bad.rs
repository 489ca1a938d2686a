//! Frames found to be faulty (XEN.md §1.10): by `badpage=`, by a report while the machine runs, or by the build before.

use crate::frame::{Mfn, MfnRange};
use crate::log;
use crate::mm::buddy::Retired;
use crate::ranges;
use crate::run::host::Host;

/// Takes note of frames that are faulty: nobody is given one from now on. Who has one keeps it, and when it is given up it is gone.
pub fn retire(host: &Host, faulty: &[MfnRange]) {
    let (mut nr_gone, mut nr_used) = (0u64, 0u64);
    let ram = || host.memmap.ram_as_given();
    for range in faulty.iter().flat_map(|&range| ram().map(move |ram| ram.intersection(range))) {
        for mfn in range.iter() {
            match host.frames.retire(mfn) {
                Retired::Gone => nr_gone += 1,
                Retired::WhenFreed { owner } => {
                    nr_used += 1;
                    log!("memory", "faulty frame {mfn} is in use by {owner}: it stays, and nobody else gets it");
                }
                Retired::Stays { found } => {
                    nr_used += 1;
                    log!("memory", "faulty frame {mfn} {found}: it stays in use");
                }
                Retired::NoMemory => {
                    nr_used += 1;
                    log!("memory", "faulty frame {mfn}: no memory to take it out of use; it is at the next update");
                }
            }
        }
        if let Some(kept) = Some(range).filter(|range| !range.is_empty()) {
            host.bad_frames.lock().push(kept);
        }
    }
    ranges::merge(&mut host.bad_frames.lock());
    if nr_gone + nr_used != 0 {
        log!("memory", "{nr_gone} faulty frames are out of use, {nr_used} still in use");
    }
}

/// For tests: a free frame and one of the first domain are reported.
pub fn report_two(host: &Host) {
    let free = host.alloc_private(crate::frame::Order::PAGE).map(|block| {
        let mfn = block.mfn();
        host.frames.free(block);
        mfn
    });
    let domain = host.domains.lock().values().next().cloned();
    let used: Option<Mfn> = domain.and_then(|domain| {
        let last = domain.memory.lock().extents.iter().next_back()?;
        Some(Mfn::new(last.range().end() - 1))
    });
    for mfn in [free, used].into_iter().flatten() {
        log!("memory", "test: frame {mfn} is reported faulty");
        retire(host, &[MfnRange::new(mfn, 1)]);
    }
}
