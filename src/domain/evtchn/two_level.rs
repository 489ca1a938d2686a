//! The two-level ABI: the bits in guest memory by which a domain learns of events (public/xen.h, `shared_info`).
//!
//! ```text
//!   shared_info.evtchn_pending   64 words, one bit a port        set here, cleared by the guest
//!   shared_info.evtchn_mask      64 words, one bit a port        the guest's; only `unmask` clears it here
//!   vcpu_info.evtchn_pending_sel one word, one bit a word above  set here when an unmasked port becomes pending
//!   vcpu_info.upcall_pending     one byte                        set here when the selector got a bit
//!   vcpu_info.upcall_mask        one byte                        the vCPU's own "interrupts off"
//! ```
//!
//! A guest may run on another CPU and change the same words, so every change is an atomic one of a single word, and
//! what is found in them is never more than a bit.

use crate::frame::Maddr;
use crate::mm::physmem::PhysMem;
use crate::xen::layout::{shared_info, vcpu_info};

/// Ports of a domain: 64 words of 64 bits. Port 0 is never used.
pub const NR_PORTS: u32 = 64 * 64;

const UPCALL_PENDING: u64 = 0xff << (vcpu_info::EVTCHN_UPCALL_PENDING * 8);
const UPCALL_MASK: u64 = 0xff << (vcpu_info::EVTCHN_UPCALL_MASK * 8);
const UPCALL_PENDING_ONE: u64 = 1 << (vcpu_info::EVTCHN_UPCALL_PENDING * 8);
const UPCALL_MASK_ONE: u64 = 1 << (vcpu_info::EVTCHN_UPCALL_MASK * 8);

const _: () = {
    assert!(vcpu_info::EVTCHN_UPCALL_PENDING < 8 && vcpu_info::EVTCHN_UPCALL_MASK < 8);
    assert!(shared_info::EVTCHN_MASK - shared_info::EVTCHN_PENDING == NR_PORTS as usize / 8);
    assert!(vcpu_info::SIZE == 64);
};

/// What an event's arrival changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The port was pending already; nothing is to be done.
    AlreadyPending,
    /// The port became pending, but no upcall follows: it is masked, or the vCPU has one coming. A vCPU that polls the
    /// port must be woken.
    Pending,
    /// As `Pending`, and the vCPU must be woken or interrupted to take its upcall.
    Upcall,
}

/// Makes `port` pending in the domain whose shared page is at `shared`, for the vCPU whose vcpu_info is at `info`.
pub fn set_pending(mem: &impl PhysMem, shared: Maddr, info: Maddr, port: u32) -> Effect {
    if set_bit(mem, pending_word(shared, port), port % 64) {
        return Effect::AlreadyPending;
    }
    if is_set(mem, mask_word(shared, port), port % 64) || !select(mem, info, port) {
        return Effect::Pending;
    }
    Effect::Upcall
}

/// Clears the mask of `port`; true if what arrived under it now asks for an upcall.
pub fn unmask(mem: &impl PhysMem, shared: Maddr, info: Maddr, port: u32) -> bool {
    let was_masked = update(mem, mask_word(shared, port), |word| word & !(1 << (port % 64))) >> (port % 64) & 1 == 1;
    was_masked && is_pending(mem, shared, port) && select(mem, info, port)
}

/// Forgets that `port` was pending.
pub fn clear_pending(mem: &impl PhysMem, shared: Maddr, port: u32) {
    update(mem, pending_word(shared, port), |word| word & !(1 << (port % 64)));
}

/// True if `port` is pending, masked or not.
pub fn is_pending(mem: &impl PhysMem, shared: Maddr, port: u32) -> bool {
    is_set(mem, pending_word(shared, port), port % 64)
}

/// Asks for an upcall; true if none was asked for before.
pub fn raise_upcall(mem: &impl PhysMem, info: Maddr) -> bool {
    update(mem, info, |word| if word & UPCALL_PENDING == 0 { word | UPCALL_PENDING_ONE } else { word }) & UPCALL_PENDING
        == 0
}

/// True if the vCPU must be given an upcall before it runs on: one is asked for and they are not masked.
pub fn is_upcall_due(mem: &impl PhysMem, info: Maddr) -> bool {
    let word = mem.read_u64(info);
    word & UPCALL_PENDING != 0 && word & UPCALL_MASK == 0
}

/// True if an upcall is asked for, masked or not.
pub fn is_upcall_pending(mem: &impl PhysMem, info: Maddr) -> bool {
    mem.read_u64(info) & UPCALL_PENDING != 0
}

/// True if the vCPU takes no upcalls.
pub fn is_masked(mem: &impl PhysMem, info: Maddr) -> bool {
    mem.read_u64(info) & UPCALL_MASK != 0
}

/// Masks upcalls, as on entry to the guest's handler.
pub fn mask_upcalls(mem: &impl PhysMem, info: Maddr) {
    update(mem, info, |word| word & !UPCALL_MASK | UPCALL_MASK_ONE);
}

/// Lets upcalls through, as `sched_op` block and the iret hypercall do.
pub fn unmask_upcalls(mem: &impl PhysMem, info: Maddr) {
    update(mem, info, |word| word & !UPCALL_MASK);
}

/// Puts a vCPU's vcpu_info from `from` to `to` and makes it look at everything: what arrived during the move may have
/// set bits in the old place.
pub(super) fn move_info(mem: &impl PhysMem, from: Maddr, to: Maddr) {
    let mut bytes = [0; vcpu_info::SIZE];
    mem.read(from, &mut bytes);
    mem.write(to, &bytes);
    mem.write_u64(to.offset(vcpu_info::EVTCHN_PENDING_SEL as u64), u64::MAX);
    raise_upcall(mem, to);
}

/// Sets the port's bit in the selector; true if the vCPU now needs an upcall that it did not need before.
fn select(mem: &impl PhysMem, info: Maddr, port: u32) -> bool {
    !set_bit(mem, info.offset(vcpu_info::EVTCHN_PENDING_SEL as u64), port / 64) && raise_upcall(mem, info)
}

fn pending_word(shared: Maddr, port: u32) -> Maddr {
    shared.offset(shared_info::EVTCHN_PENDING as u64 + u64::from(port / 64) * 8)
}

fn mask_word(shared: Maddr, port: u32) -> Maddr {
    shared.offset(shared_info::EVTCHN_MASK as u64 + u64::from(port / 64) * 8)
}

fn is_set(mem: &impl PhysMem, word: Maddr, bit: u32) -> bool {
    mem.read_u64(word) >> bit & 1 == 1
}

/// Sets a bit; true if it was set.
fn set_bit(mem: &impl PhysMem, word: Maddr, bit: u32) -> bool {
    update(mem, word, |w| w | 1 << bit) >> bit & 1 == 1
}

/// Changes a word atomically; its value before.
fn update(mem: &impl PhysMem, at: Maddr, change: impl Fn(u64) -> u64) -> u64 {
    let mut old = mem.read_u64(at);
    loop {
        let new = change(old);
        if new == old {
            return old;
        }
        match mem.compare_exchange_u64(at, old, new) {
            Ok(()) => return old,
            Err(found) => old = found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Mfn;
    use crate::mm::physmem::sparse::SparseMem;

    const INFO: Maddr = Maddr::new(0x5040);

    fn shared() -> Maddr {
        Mfn::new(3).maddr()
    }

    #[test]
    fn an_event_sets_pending_selector_and_upcall_in_this_order() {
        let mem = SparseMem::new();
        assert_eq!(set_pending(&mem, shared(), INFO, 65), Effect::Upcall);
        assert_eq!(mem.read_u64(shared().offset(2048 + 8)), 2);
        assert_eq!(mem.read_u64(INFO.offset(8)), 2);
        assert_eq!(mem.read_u64(INFO), 1);
        // The same port, the same word, another word.
        assert_eq!(set_pending(&mem, shared(), INFO, 65), Effect::AlreadyPending);
        assert_eq!(set_pending(&mem, shared(), INFO, 64), Effect::Pending);
        assert_eq!(set_pending(&mem, shared(), INFO, 4095), Effect::Pending);
        assert_eq!(mem.read_u64(INFO.offset(8)), 1 << 63 | 2);
        // The guest takes its upcall but leaves the selector: the word's next event raises none.
        mem.write_u64(INFO, 0);
        assert_eq!(set_pending(&mem, shared(), INFO, 66), Effect::Pending);
        assert_eq!(set_pending(&mem, shared(), INFO, 1), Effect::Upcall);
    }

    #[test]
    fn a_masked_port_waits_for_unmask() {
        let mem = SparseMem::new();
        mem.write_u64(shared().offset(2560), 1 << 7);
        assert_eq!(set_pending(&mem, shared(), INFO, 7), Effect::Pending);
        assert_eq!(mem.read_u64(INFO.offset(8)), 0);
        assert!(unmask(&mem, shared(), INFO, 7));
        assert_eq!(mem.read_u64(shared().offset(2560)), 0);
        assert_eq!(mem.read_u64(INFO.offset(8)), 1);
        // Not masked: nothing happens, though it is pending.
        mem.write_u64(INFO, 0);
        assert!(!unmask(&mem, shared(), INFO, 7));
        assert!(!is_upcall_pending(&mem, INFO));
    }

    #[test]
    fn the_mask_and_the_bytes_beside_it_are_kept_apart() {
        let mem = SparseMem::new();
        mem.write_u64(INFO, 0x1122_3344_5566_0000);
        mask_upcalls(&mem, INFO);
        assert!(raise_upcall(&mem, INFO));
        assert!(!raise_upcall(&mem, INFO));
        assert_eq!(mem.read_u64(INFO), 0x1122_3344_5566_0101);
        assert!(!is_upcall_due(&mem, INFO) && is_upcall_pending(&mem, INFO) && is_masked(&mem, INFO));
        unmask_upcalls(&mem, INFO);
        assert!(is_upcall_due(&mem, INFO));
        assert_eq!(mem.read_u64(INFO), 0x1122_3344_5566_0001);
        // A guest may write any byte into its mask.
        mem.write_u64(INFO, 0x8001);
        assert!(!is_upcall_due(&mem, INFO));
    }
}
