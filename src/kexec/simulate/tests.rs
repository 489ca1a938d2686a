use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::mm::physmem::sparse::SparseMem;

fn list(words: &[u64]) -> SparseMem {
    let mem = SparseMem::new();
    for (i, word) in words.iter().enumerate() {
        mem.write_u64(Maddr::new(0x1000 + 8 * i as u64), *word);
    }
    mem
}

fn simulate(words: &[u64]) -> Result<Outcome, SimulateError> {
    run(&list(words), Mfn::new(1), 10_000)
}

fn at(index: u64) -> Maddr {
    Maddr::new(0x1000 + 8 * index)
}

#[test]
fn every_kind_of_entry_does_what_the_table_says() {
    // Destination 0x100, copy 0x200, clear, two words; then on in page 2 with another destination.
    let mem = list(&[0x100_001, 0x200_008, 0x10, 0xffff_ffff_ffff_f020, 0x20, 0x2002]);
    mem.write(Maddr::new(0x2000), &0x300_001u64.to_le_bytes());
    mem.write(Maddr::new(0x2008), &0x200_008u64.to_le_bytes());
    mem.write(Maddr::new(0x2010), &4u64.to_le_bytes());
    mem.write(Maddr::new(0x200_ffc), &[1, 2, 3, 4]);
    mem.write(Maddr::new(0x101_000), &[0xcc; 4096]);
    mem.write(Maddr::new(0x102_000), &[0xcc; 24]);
    let out = run(&mem, Mfn::new(1), 100);
    assert_eq!(out, Ok(Outcome { entries: 9, copied_pages: 2, zeroed_pages: 1, words: 2 }));
    assert_eq!(mem.read_u64(Maddr::new(0x100_ff8)), 0x0403_0201_0000_0000);
    assert_eq!(mem.read_u64(Maddr::new(0x101_000)), 0);
    assert_eq!(mem.read_u64(Maddr::new(0x101_ff8)), 0);
    assert_eq!(mem.read_u64(Maddr::new(0x102_000)), 0xffff_ffff_ffff_f000);
    assert_eq!(mem.read_u64(Maddr::new(0x102_008)), 0);
    assert_eq!(mem.read_u64(Maddr::new(0x102_010)), 0xcccc_cccc_cccc_cccc);
    assert_eq!(mem.read_u64(Maddr::new(0x300_ff8)), 0x0403_0201_0000_0000);
}

#[test]
fn what_cannot_be_obeyed_is_told() {
    for raw in [0, 0x40, 0x800, 0x3, 0x1000_000c, 1 << 52 | 1, 1 << 63 | 8, u64::MAX] {
        assert_eq!(simulate(&[raw]), Err(SimulateError::BadEntry { at: at(0), raw }));
    }
    for raw in [0x2008, 0x10, 0x20] {
        assert_eq!(simulate(&[raw]), Err(SimulateError::NoDestination { at: at(0) }));
    }
    let destination = Maddr::new(0x5008);
    assert_eq!(simulate(&[0x5001, 0x20, 0x10]), Err(SimulateError::Unaligned { at: at(2), destination }));
    assert_eq!(simulate(&[0x5001, 0x20, 0x7008]), Err(SimulateError::Unaligned { at: at(2), destination }));
    assert_eq!(simulate(&[0x1002]), Err(SimulateError::Endless { entries: 10_000 }));
    assert_eq!(simulate(&[(1 << 52) - 0x1000 + 1, 0x10]), Err(SimulateError::OutOfRange { at: at(1) }));
}

#[test]
fn a_list_runs_on_into_the_page_behind() {
    let mem = SparseMem::new();
    mem.write_u64(Maddr::new(0x1000), 0x5001);
    (1..512).for_each(|i| mem.write_u64(at(i), 0x20));
    mem.write_u64(Maddr::new(0x2000), 4);
    assert_eq!(run(&mem, Mfn::new(1), 1000).map(|out| (out.entries, out.words)), Ok((513, 511)));
    let end = SparseMem::new();
    (0..512).for_each(|i| end.write_u64(Maddr::new((1 << 52) - 4096 + 8 * i), 0x5001));
    let last = Maddr::new((1 << 52) - 8);
    assert_eq!(run(&end, Mfn::new((1 << 40) - 1), 1000), Err(SimulateError::OutOfRange { at: last }));
}

/// Entries that mean something more often than random words do; few pages, so that lists overwrite themselves.
fn entry() -> impl Strategy<Value = u64> {
    let page = 0u64..12;
    let flag = prop::sample::select(std::vec![1u64, 1, 2, 4, 8, 8, 0x10, 0x20, 0x20]);
    prop_oneof![
        12 => (page, flag).prop_map(|(page, flag)| page << 12 | flag),
        1 => any::<u64>(),
    ]
}

proptest! {
    #[test]
    fn no_list_makes_it_panic_or_run_for_ever(words in prop::collection::vec(entry(), 0..700)) {
        let mem = list(&words);
        match run(&mem, Mfn::new(1), 2000) {
            Ok(out) => prop_assert!(out.entries <= 2000 && out.copied_pages + out.zeroed_pages + out.words < out.entries),
            Err(SimulateError::Endless { entries }) => prop_assert_eq!(entries, 2000),
            Err(_) => {}
        }
    }

    /// An interpreter of a few lines over one flat array, written from the table of flags.
    #[test]
    fn a_list_does_what_a_naive_interpreter_does(words in prop::collection::vec(entry(), 0..700)) {
        let mem = list(&words);
        let mut flat = std::vec![0u8; 64 << 12];
        mem.read(Maddr::new(0), &mut flat);
        if run(&mem, Mfn::new(1), 300).is_ok() {
            let (mut read, mut write) = (0x1000, 0);
            loop {
                let word = u64::from_le_bytes(flat[read..read + 8].try_into().unwrap());
                let page = (word & !0xfff) as usize;
                read += 8;
                match word & 0xfff {
                    0x1 => write = page,
                    0x2 => read = page,
                    0x4 => break,
                    0x8 => {
                        flat.copy_within(page..page + 4096, write);
                        write += 4096;
                    }
                    0x10 => {
                        flat[write..write + 4096].fill(0);
                        write += 4096;
                    }
                    _ => {
                        flat[write..write + 8].copy_from_slice(&(word & !0xfff).to_le_bytes());
                        write += 8;
                    }
                }
            }
            let mut after: Vec<u8> = std::vec![0; flat.len()];
            mem.read(Maddr::new(0), &mut after);
            prop_assert!(after == flat);
        }
    }
}
