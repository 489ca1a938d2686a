//! The relocation code itself, `boot/reloc.S`, and the registers that it is called with.
//!
//! The code is one page. The outgoing side copies it to a frame of its own, outside of slot and region and below 4 GiB,
//! and calls the copy at its alias in the direct map, which must be executable:
//!
//! | register | in |
//! |---|---|
//! | rdi | machine address of the copy |
//! | rsi | machine address of the relocation tables' L4 ([`super::idmap`]) |
//! | rdx | machine address of the first list page |
//! | rcx | physical entry of the image |
//! | r8 | machine address of the Multiboot2 information |
//! | r9 | 0 jump into the image, 1 self-test: come back |
//! | r10 | machine address of the breadcrumb page for two time stamps, 0 for none |
//!
//! The incoming image finds eax = 0x36d76289, ebx = the Multiboot2 information, flat 32-bit segments, paging and
//! interrupts off, CR4 and EFER zero (Multiboot2 specification 2.0 §3.3). In the breadcrumb page it finds the time stamp
//! counter at the entry into the relocation code ([`STAMP_START_OFFSET`]) and at the list's end ([`STAMP_END_OFFSET`]).
//!
//! A self-test obeys the list all the same and then gives CR0, CR3, CR4, DR7, IDTR, stack and preserved registers back.
//!
//! Invariants:
//!
//! - **R1** in both sets of tables the copy's alias is mapped, writable and executable, to the copy;
//! - **R2** the relocation tables map the copy, the list pages, all sources and destinations and the breadcrumb page to
//!   their machine addresses;
//! - **R3** neither the copy nor the relocation tables are destinations of the list;
//! - **R4** interrupts are off, and no other CPU runs.

use crate::frame::{Maddr, Mfn, PAGE_SIZE};

/// Where in the breadcrumb page the time stamp of the entry into the relocation code is.
pub const STAMP_START_OFFSET: u64 = 16;
/// Where in the breadcrumb page the time stamp of the list's end is.
pub const STAMP_END_OFFSET: u64 = 24;

#[cfg(target_arch = "x86_64")]
mod code {
    #![expect(unsafe_code, reason = "the assembly, its symbol, and the call to its copy")]

    use super::*;

    core::arch::global_asm!(include_str!("../../boot/reloc.S"));

    // SAFETY: boot/reloc.S defines the symbol as the start of one page of bytes, and nothing writes to the original.
    unsafe extern "C" {
        #[link_name = "reloc_start"]
        safe static RELOC: [u8; PAGE_SIZE as usize];
    }

    /// The code, to be copied.
    pub fn code() -> &'static [u8; PAGE_SIZE as usize] {
        &RELOC
    }

    /// Obeys the list and comes back; the entries read, as [`crate::kexec::simulate::run`] counts them.
    ///
    /// # Safety
    /// R1 to R4, `alias` is the copy's, and the list overwrites nothing that the caller still needs.
    pub unsafe fn self_test(alias: *const u8, args: &RelocArgs) -> u64 {
        let entries;
        // SAFETY: the caller vouches for R1 to R4; what the code changes is named here, see boot/reloc.S.
        unsafe {
            core::arch::asm!(
                "call rax",
                inlateout("rax") alias => entries,
                inlateout("rdi") args.copy.maddr().get() => _,
                inlateout("rsi") args.tables.maddr().get() => _,
                inlateout("rdx") args.list.maddr().get() => _,
                inlateout("rcx") u64::from(args.entry) => _,
                inlateout("r8") u64::from(args.mbi) => _,
                inlateout("r9") 1u64 => _,
                inlateout("r10") args.stamps.map_or(Maddr::ZERO, Mfn::maddr).get() => _,
                lateout("r11") _,
            );
        }
        entries
    }

    /// Obeys the list and jumps into the image: the point of no return.
    ///
    /// # Safety
    /// R1 to R4, `alias` is the copy's, and the list puts an image for `args.entry` into place.
    pub unsafe fn jump(alias: *const u8, args: &RelocArgs) -> ! {
        // SAFETY: the caller vouches for R1 to R4; nothing comes back.
        unsafe {
            core::arch::asm!(
                "jmp rax",
                in("rax") alias,
                in("rdi") args.copy.maddr().get(),
                in("rsi") args.tables.maddr().get(),
                in("rdx") args.list.maddr().get(),
                in("rcx") u64::from(args.entry),
                in("r8") u64::from(args.mbi),
                in("r9") 0u64,
                in("r10") args.stamps.map_or(Maddr::ZERO, Mfn::maddr).get(),
                options(noreturn),
            );
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use code::{code, jump, self_test};

/// What the code is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelocArgs {
    /// The frame of the code's copy.
    pub copy: Mfn,
    /// The L4 of the relocation tables.
    pub tables: Mfn,
    /// The first list page.
    pub list: Mfn,
    /// Physical entry of the image.
    pub entry: u32,
    /// The Multiboot2 information.
    pub mbi: u32,
    /// The breadcrumb page, if time stamps are wanted.
    pub stamps: Option<Mfn>,
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_one_page_with_room_for_a_stack() {
        // The size is the assembler's check (`.org`); here that the end is free for the stack: 16 words are plenty.
        let code = code();
        assert!(code[PAGE_SIZE as usize - 1024..].iter().all(|byte| *byte == 0));
        assert!(code[..64].iter().any(|byte| *byte != 0));
    }

    #[test]
    fn the_gdt_in_it_is_flat() {
        // SDM vol. 3A §3.4.5: 4 GiB, present, ring 0, 32-bit; data writable, code readable; both accessed.
        let mut gdt = [0u64, 0x00cf_9300_0000_ffff, 0x00cf_9b00_0000_ffff].map(u64::to_le_bytes).concat();
        gdt.extend(23u16.to_le_bytes());
        let found = code().windows(gdt.len()).position(|bytes| bytes == gdt);
        assert!(found.is_some_and(|at| at % 8 == 0));
    }
}
