//! The same bytes are executed by this machine's CPU and by [`MemoryWrite`]: memory, rax, rcx and the defined flags must agree.

use super::super::{RAX, RCX, RSI};
use super::*;
use proptest::prelude::*;
use std::vec::Vec;

const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;

type Execute = fn(&mut u64, &mut u64, &mut u64, u64) -> u64;

/// An instruction whose memory operand is at rsi; it may use rax and rcx.
struct Case {
    bytes: &'static [u8],
    /// Flags that the manual defines after it.
    defined: u64,
    execute: Execute,
}

macro_rules! case {
    ($defined:expr; $first:literal $(, $byte:literal)*) => {{
        #[expect(unsafe_code, reason = "runs one instruction on one word")]
        fn execute(memory: &mut u64, rax: &mut u64, rcx: &mut u64, flags: u64) -> u64 {
            let mut flags = flags;
            // SAFETY: the instruction writes to the word at rsi, rax, rcx and the arithmetic flags only.
            unsafe {
                core::arch::asm!(
                    "push {f}", "popfq",
                    concat!(".byte ", stringify!($first) $(, ",", stringify!($byte))*),
                    "pushfq", "pop {f}",
                    f = inout(reg) flags, inout("rax") *rax, inout("rcx") *rcx, in("rsi") memory,
                )
            }
            flags
        }
        Case { bytes: &[$first $(, $byte)*], defined: $defined, execute }
    }};
}

fn cases() -> Vec<Case> {
    const ALL: u64 = ARITHMETIC;
    const LOGIC: u64 = ALL & !AF;
    let mut all = Vec::new();
    all.extend([
        case!(ALL; 0x48, 0x89, 0x0e),                         // mov [rsi], rcx
        case!(ALL; 0x89, 0x0e),                               // mov [rsi], ecx
        case!(ALL; 0x66, 0x89, 0x0e),                         // mov [rsi], cx
        case!(ALL; 0x88, 0x0e),                               // mov [rsi], cl
        case!(ALL; 0x88, 0x2e),                               // mov [rsi], ch
        case!(ALL; 0x48, 0xc7, 0x06, 0xf0, 0xff, 0xff, 0xff), // mov qword [rsi], -16
        case!(ALL; 0xc6, 0x06, 0x5a),                         // mov byte [rsi], 0x5a
        case!(ALL; 0x48, 0x87, 0x0e),                         // xchg [rsi], rcx
        case!(ALL; 0x87, 0x0e),                               // xchg [rsi], ecx
        case!(ALL; 0x86, 0x26),                               // xchg [rsi], ah
        case!(ALL; 0xf0, 0x48, 0x0f, 0xc1, 0x0e),             // lock xadd [rsi], rcx
        case!(ALL; 0x0f, 0xc0, 0x0e),                         // xadd [rsi], cl
        case!(ALL; 0xf0, 0x48, 0x0f, 0xb1, 0x0e),             // lock cmpxchg [rsi], rcx
        case!(ALL; 0xf0, 0x0f, 0xb1, 0x0e),                   // lock cmpxchg [rsi], ecx
        case!(ALL; 0x0f, 0xb0, 0x0e),                         // cmpxchg [rsi], cl
        case!(LOGIC; 0xf0, 0x48, 0x21, 0x0e),                 // lock and [rsi], rcx
        case!(LOGIC; 0xf0, 0x80, 0x26, 0xfd),                 // lock and byte [rsi], 0xfd
        case!(LOGIC; 0x48, 0x83, 0x26, 0xbf),                 // and qword [rsi], -65
        case!(LOGIC; 0x48, 0x09, 0x0e),                       // or [rsi], rcx
        case!(LOGIC; 0x66, 0x81, 0x0e, 0x00, 0x80),           // or word [rsi], 0x8000
        case!(LOGIC; 0x31, 0x0e),                             // xor [rsi], ecx
        case!(ALL; 0x48, 0x01, 0x0e),                         // add [rsi], rcx
        case!(ALL; 0x00, 0x0e),                               // add [rsi], cl
        case!(ALL; 0x11, 0x0e),                               // adc [rsi], ecx
        case!(ALL; 0x48, 0x29, 0x0e),                         // sub [rsi], rcx
        case!(ALL; 0x66, 0x29, 0x0e),                         // sub [rsi], cx
        case!(ALL; 0x48, 0x19, 0x0e),                         // sbb [rsi], rcx
        case!(ALL; 0x48, 0xff, 0x06),                         // inc qword [rsi]
        case!(ALL; 0xfe, 0x0e),                               // dec byte [rsi]
        case!(ALL; 0x48, 0xf7, 0x16),                         // not qword [rsi]
        case!(ALL; 0xf7, 0x1e),                               // neg dword [rsi]
        case!(CF; 0xf0, 0x48, 0x0f, 0xba, 0x36, 0x01),        // lock btr qword [rsi], 1
        case!(CF; 0x48, 0x0f, 0xba, 0x2e, 0x3f),              // bts qword [rsi], 63
        case!(CF; 0x0f, 0xba, 0x3e, 0x25),                    // btc dword [rsi], 0x25
    ]);
    all
}

fn check(case: &Case, memory: u64, rax: u64, rcx: u64, flags: u64) {
    let bytes = case.bytes;
    let (mut real, mut real_rax, mut real_rcx) = (memory, rax, rcx);
    let real_flags = (case.execute)(&mut real, &mut real_rax, &mut real_rcx, flags);

    let mut r = Registers { rip: 0x40_0000, rflags: flags, ..Registers::default() };
    (r.gprs[RAX], r.gprs[RCX], r.gprs[RSI]) = (rax, rcx, 0x1000);
    let write = MemoryWrite::decode(bytes, &r).unwrap_or_else(|| panic!("{bytes:02x?}"));
    assert_eq!(write.address, 0x1000);
    let done = write.apply(memory, &r).unwrap_or_else(|| panic!("{bytes:02x?}"));
    let m = mask(write.size);
    let now = done.value.map_or(memory, |value| memory & !m | value);
    assert_eq!(now, real, "{bytes:02x?} memory");
    assert_eq!((done.registers.gprs[RAX], done.registers.gprs[RCX]), (real_rax, real_rcx), "{bytes:02x?}");
    assert_eq!(done.registers.rflags & case.defined, real_flags & case.defined, "{bytes:02x?} flags");
    assert_eq!(done.registers.rip, 0x40_0000 + bytes.len() as u64);
}

#[test]
fn edges_agree_with_the_cpu() {
    let words = [0, 1, 0xf, 0x10, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0x7fff_ffff, 0x8000_0000, 1 << 63, u64::MAX];
    for case in cases() {
        for memory in words {
            for rcx in words {
                for flags in [0x202, 0x202 | ARITHMETIC] {
                    check(&case, memory, rcx.rotate_left(8), rcx, flags);
                    // A comparison that holds.
                    check(&case, memory, memory, rcx, flags);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn anything_agrees_with_the_cpu(memory: u64, rax: u64, rcx: u64, carry: bool) {
        for case in cases() {
            check(&case, memory, rax, rcx, 0x202 | u64::from(carry));
        }
    }
}

#[test]
fn a_bit_number_in_a_register_moves_the_address() {
    let mut r = Registers::default();
    (r.gprs[RCX], r.gprs[RSI]) = (130, 0x1000);
    let btr = [0x48, 0x0f, 0xb3, 0x0e]; // btr [rsi], rcx
    let write = MemoryWrite::decode(&btr, &r).unwrap();
    assert_eq!(write.address, 0x1010);
    assert_eq!(write.apply(0b111, &r).unwrap().value, Some(0b011));
    r.gprs[RCX] = (-1i64).cast_unsigned();
    assert_eq!(MemoryWrite::decode(&btr, &r).unwrap().address, 0xff8);
}

#[test]
fn addresses_are_made_of_all_their_parts() {
    let mut r = Registers { rip: 0x10_0000, gs_base: 0x5000, ..Registers::default() };
    (r.gprs[RAX], r.gprs[RCX]) = (0x100, 3);
    // mov gs:[rax + rcx*8 + 0x20], rcx
    let write = MemoryWrite::decode(&[0x65, 0x48, 0x89, 0x4c, 0xc8, 0x20], &r).unwrap();
    assert_eq!(write.address, 0x5000 + 0x100 + 24 + 0x20);
    // mov [rip + 0x10], ecx
    let write = MemoryWrite::decode(&[0x89, 0x0d, 0x10, 0, 0, 0], &r).unwrap();
    assert_eq!((write.address, write.size), (0x10_0000 + 6 + 0x10, 4));
}

#[test]
fn what_is_not_a_plain_write_is_refused() {
    let r = Registers::default();
    // mov rcx, [rsi]; rep movsq; movaps [rsi], xmm0; cmpxchg16b [rsi]; call [rsi]; push [rsi]; a cut-off mov
    for bytes in [
        &[0x48, 0x8b, 0x0e][..],
        &[0xf3, 0x48, 0xa5],
        &[0x0f, 0x29, 0x06],
        &[0x48, 0x0f, 0xc7, 0x0e],
        &[0xff, 0x16],
        &[0xff, 0x36],
        &[0x48, 0x89],
    ] {
        let done = MemoryWrite::decode(bytes, &r).and_then(|write| write.apply(0, &r));
        assert_eq!(done, None, "{bytes:02x?}");
    }
}
