//! Page-table entries of PV guests: whatever a guest asks of its page tables, in whatever order, every count stays what the tables in memory say,
//! and when the domain ends every page is free.
//!
//! An action is 12 bytes: what, frame, slot, command, and the entry. Those before the first 0xff byte in the place of "what" are written into memory
//! before any frame has a type.

use luxen::frame::Mfn;
use luxen::mm::page_info::PageType;
use luxen::mm::types::model::{Guest, NO_RAM, NR_OWN};
use luxen::mm::types::walk;

/// Actions of one run: the oracle walks all tables after each.
const MAX_ACTIONS: usize = 64;
/// Slots that matter: those of the tree, the borders of the hypervisor's own, the last.
const SLOTS: [u64; 12] = [0, 1, 2, 3, 4, 255, 256, 257, 271, 272, 510, 511];

/// The fuzzer's entry.
pub fn run(bytes: &[u8]) {
    let mut guest = Guest::with_tree();
    let (actions, _) = bytes.as_chunks::<12>();
    let is_preface = |action: &&[u8; 12]| action[0] != 0xff;
    let nr_preface = actions.iter().position(|action| !is_preface(&action)).unwrap_or(0);
    let (preface, actions) = actions.split_at(nr_preface);
    for action in preface.iter().take(MAX_ACTIONS) {
        let Action { frame, slot, entry, .. } = Action::of(action);
        if frame < NR_OWN {
            guest.poke(frame, slot, entry);
        }
    }
    for action in actions.iter().take(MAX_ACTIONS) {
        apply(&mut guest, &Action::of(action));
        guest.check();
    }
    let order: Vec<u64> = (0..NR_OWN).map(|n| (n * 7 + bytes.len() as u64) % NR_OWN).collect();
    guest.relinquish(&order);
}

struct Action {
    what: u8,
    frame: u64,
    slot: u64,
    command: u64,
    entry: u64,
}

impl Action {
    fn of(bytes: &[u8; 12]) -> Self {
        let [what, frame, slot, command, e0, e1, e2, e3, e4, e5, e6, e7] = *bytes;
        let entry = u64::from_le_bytes([e0, e1, e2, e3, e4, e5, e6, e7]);
        // One frame is far away from all RAM.
        let frame = if frame == 0xfe { Mfn::LIMIT - 1 } else { u64::from(frame) % (NO_RAM + 2) };
        Self { what, frame, slot: SLOTS[usize::from(slot) % SLOTS.len()], command: command.into(), entry }
    }
}

fn apply(guest: &mut Guest, action: &Action) {
    let &Action { what, frame, slot, command, entry } = action;
    let mfn = Mfn::new(frame);
    let nth = |len: usize| (command as usize).checked_rem(len);
    match what % 12 {
        0 => drop(guest.pin(frame, command as u8)),
        1 => drop(guest.unpin(frame)),
        2 => drop(guest.base(frame)),
        3 => {
            if let Some(nth) = nth(guest.bases.len()) {
                let l4 = guest.bases.swap_remove(nth);
                guest.types().put_base(Mfn::new(l4));
            }
        }
        4..=6 => {
            let before = guest.peek(frame, slot);
            if guest.types().mmu_update((frame << 12) + slot * 8 + command % 8, entry).is_err() {
                assert_eq!(guest.peek(frame, slot), before, "a refused update changed the entry");
            }
        }
        7 => {
            if let Some(nth) = nth(guest.bases.len()) {
                let va = (frame % 3) << 39 | slot << 12;
                let _ = guest.types().update_va_mapping(Mfn::new(guest.bases[nth]), va, entry);
                let _ = walk(&guest.mem, Mfn::new(guest.bases[nth]), entry);
            }
        }
        8 => {
            if guest.types().get_page_and_type(mfn, PageType::SegDesc).is_ok() {
                guest.descriptors.push(frame);
            }
        }
        9 => {
            if let Some(nth) = nth(guest.descriptors.len()) {
                let page = guest.descriptors.swap_remove(nth);
                guest.types().put_page_and_type(Mfn::new(page));
            }
        }
        10 => {
            if frame < NR_OWN && !guest.released.contains(&frame) && guest.types().release_page(mfn).is_ok() {
                guest.released.insert(frame);
            }
        }
        _ => drop(guest.types().update_descriptor((frame << 12) + slot * 8 + command % 8, entry)),
    }
}
