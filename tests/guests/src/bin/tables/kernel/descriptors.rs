//! A descriptor table of the guest's own: installed once, and its selector stays loaded in ds and es for ever.

use core::arch::asm;

use luxen_guests::abi::PAGE_SIZE;
use luxen_guests::machine::hypercall;
use luxen_guests::machine::memory::{Window, fill};

use super::granted;

/// Flat data segment, DPL 3, present, accessed already.
const DATA: u64 = 0x00cf_f300_0000_ffff;
/// 64-bit code segment, likewise.
const CODE: u64 = 0x00af_fb00_0000_ffff;
/// Index of the data segment; its selector with RPL 3 is 0x0b.
const DATA_INDEX: usize = 1;
const SELECTOR: u16 = (DATA_INDEX as u16) << 3 | 3;
/// An entry that is rewritten in every round.
const CHANGING_INDEX: usize = 3;

/// The installed table.
pub struct Descriptors {
    mfn: u64,
}

impl Descriptors {
    /// Fills a frame with descriptors, makes it the GDT and loads ds and es.
    pub fn install(mfn: u64) -> Descriptors {
        fill(mfn, |index| match index {
            DATA_INDEX => DATA,
            2 => CODE,
            _ => 0,
        });
        granted(hypercall::set_gdt(&[mfn], 512), "set_gdt");
        // SAFETY: a flat segment; in 64-bit mode base and limit of ds do not count anyway.
        unsafe { asm!("mov ds, {0:x}", in(reg) SELECTOR, options(nostack, preserves_flags)) };
        // SAFETY: likewise es.
        unsafe { asm!("mov es, {0:x}", in(reg) SELECTOR, options(nostack, preserves_flags)) };
        Descriptors { mfn }
    }

    /// The frame of the table.
    pub fn mfn(&self) -> u64 {
        self.mfn
    }

    /// The selectors are still loaded, the table is as it was, and can be changed.
    pub fn check(&self) {
        let (ds, es): (u16, u16);
        // SAFETY: reads a segment register.
        unsafe { asm!("mov {0:x}, ds", out(reg) ds, options(nostack, preserves_flags, nomem)) };
        // SAFETY: likewise.
        unsafe { asm!("mov {0:x}, es", out(reg) es, options(nostack, preserves_flags, nomem)) };
        assert!(ds == SELECTOR && es == SELECTOR, "ds is {ds:#x}, es is {es:#x}, not {SELECTOR:#x}");

        for value in [CODE, DATA] {
            let maddr = self.mfn * PAGE_SIZE + CHANGING_INDEX as u64 * 8;
            granted(hypercall::update_descriptor(maddr, value), "update_descriptor");
            let window = Window::open(self.mfn);
            for (index, expected) in [0, DATA, CODE, value, 0].into_iter().enumerate() {
                let found = window.read(index);
                assert!(found == expected, "descriptor {index} is {found:#x}, not {expected:#x}");
            }
        }
    }
}
