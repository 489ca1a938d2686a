//! Instructions that are carried out for guests: any bytes with any registers decode to something that has to do with them, or to nothing.

use arbitrary::Unstructured;
use luxen::emulate::Registers;
use luxen::emulate::privileged::{Privileged, decode_privileged};
use luxen::emulate::write::MemoryWrite;

/// The longest instruction, by the SDM.
const LONGEST: u64 = 15;

/// The fuzzer's entry.
pub fn run(bytes: &[u8]) {
    let Some((code, rest)) = bytes.split_first_chunk::<16>() else { return };
    let mut input = Unstructured::new(rest);
    let mut word = || input.arbitrary::<u64>().unwrap_or(0);
    let registers = Registers {
        rip: word(),
        rflags: word(),
        fs_base: word(),
        gs_base: word(),
        gprs: core::array::from_fn(|_| word()),
    };
    let old = word();
    if let Some(decoded) = decode_privileged(code, &registers) {
        let len = decoded.next_rip.wrapping_sub(registers.rip);
        assert!((1..=LONGEST).contains(&len), "an instruction of {len} bytes");
        assert_eq!(decode_privileged(&code[..len as usize], &registers), Some(decoded), "what is behind it counts");
        assert_eq!(decode_privileged(&code[..len as usize - 1], &registers), None, "its last byte does not count");
        match decoded.what {
            Privileged::In { size, .. } | Privileged::Out { size, .. } => assert!(matches!(size, 1 | 2 | 4)),
            Privileged::ReadCr { cr: register, to } | Privileged::ReadDr { dr: register, to } => {
                assert!(register < 16 && usize::from(to) < registers.gprs.len());
            }
            Privileged::WriteCr { cr: register, .. } | Privileged::WriteDr { dr: register, .. } => {
                assert!(register < 16);
            }
            Privileged::String(string) => {
                assert!(matches!(string.size, 1 | 2 | 4));
                for done in [0, 1, old, string.count] {
                    let mut after = registers;
                    assert_eq!(string.advance(&mut after, done), done >= string.count);
                }
            }
            _ => {}
        }
    }
    if let Some(write) = MemoryWrite::decode(code, &registers) {
        assert!(matches!(write.size, 1 | 2 | 4 | 8));
        let mask = u64::MAX >> (64 - 8 * write.size);
        if let Some(written) = write.apply(old, &registers) {
            let len = written.registers.rip.wrapping_sub(registers.rip);
            assert!((1..=LONGEST).contains(&len), "an instruction of {len} bytes");
            assert!(written.value.is_none_or(|value| value & !mask == 0), "more is written than the operand has");
            // What lies behind the operand has no part in it.
            assert_eq!(write.apply(old ^ (!mask & registers.rflags), &registers), Some(written));
            assert_eq!((written.registers.fs_base, written.registers.gs_base), (registers.fs_base, registers.gs_base));
        }
    }
}
