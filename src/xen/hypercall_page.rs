//! The hypercall page of a 64-bit PV guest: 128 entries of 32 bytes that a kernel calls by number.
//!
//! An entry is called like a function with the arguments in the hypercall's registers. `syscall` destroys rcx and r11,
//! so they are kept on the stack. The entry of `iret` is jumped to and does not come back; what it pushes is the top of
//! the frame that the hypercall takes ([`iret_context`](super::layout::iret_context): rax, r11, rcx, then what the
//! kernel pushed).

use super::hypercall::nr;
use crate::frame::PAGE_SIZE;

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 32;

const PUSH_RCX: u8 = 0x51;
const PUSH_RAX: u8 = 0x50;
const PUSH_R11: [u8; 2] = [0x41, 0x53];
const MOV_EAX: u8 = 0xb8;
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const POP_R11: [u8; 2] = [0x41, 0x5b];
const POP_RCX: u8 = 0x59;
const RET: u8 = 0xc3;
/// Fills what is not code, so that a stray jump is noticed.
const INT3: u8 = 0xcc;

const _: () = assert!(nr::SLOTS as usize * ENTRY_BYTES == PAGE_SIZE as usize);

/// Writes the page.
pub fn fill(page: &mut [u8; PAGE_SIZE as usize]) {
    page.fill(INT3);
    for (entry, number) in page.as_chunks_mut::<ENTRY_BYTES>().0.iter_mut().zip(0u32..) {
        let [n0, n1, n2, n3] = number.to_le_bytes();
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            entry[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&[PUSH_RCX]);
        put(&PUSH_R11);
        if u64::from(number) == nr::IRET {
            put(&[PUSH_RAX]);
        }
        put(&[MOV_EAX, n0, n1, n2, n3]);
        put(&SYSCALL);
        if u64::from(number) != nr::IRET {
            put(&POP_R11);
            put(&[POP_RCX, RET]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;

    #[test]
    fn entries_are_the_instructions_written_out() {
        let mut page = Box::new([0; PAGE_SIZE as usize]);
        fill(&mut page);
        let call = |n: u8| [0x51, 0x41, 0x53, 0xb8, n, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3, 0xcc];
        for n in (0..128u8).filter(|&n| n != 23) {
            assert_eq!(page[usize::from(n) * 32..][..15], call(n), "{n}");
        }
        let iret = [0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 0x05, 0xcc];
        assert_eq!(page[23 * 32..][..12], iret);
        assert!(page[23 * 32 + 12..24 * 32].iter().all(|&b| b == 0xcc));
    }
}
