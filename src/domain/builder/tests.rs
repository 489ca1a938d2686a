//! Built domains are read back as a processor and a kernel would: by walking the page tables from cr3, and by the
//! numbers of public/xen.h, none of which come from the code under test.

use super::super::kernel::sample::{BASE, Load, Sample, u64_note};
use super::*;
use crate::mm::physmem::sparse::SparseMem;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::format;
use std::string::String;
use std::vec;

const SHARED: Mfn = Mfn::new(0x9_0000);
const RAMDISK_AT: u64 = 0x7000_0000;

/// Memory in extents of `len` pages, at descending machine addresses so that no two are neighbours.
fn fragments(nr_pages: u64, len: u64) -> Vec<(Pfn, Mfn, u64)> {
    let mut extents = vec![];
    let mut pfn = 0;
    while pfn < nr_pages {
        let count = len.min(nr_pages - pfn);
        extents.push((Pfn::new(pfn), Mfn::new(0x1000_0000 - (pfn + count) * 2), count));
        pfn += count;
    }
    extents
}

struct Inputs {
    file: Vec<u8>,
    ramdisk: Vec<(Maddr, u64)>,
    memory: Vec<(Pfn, Mfn, u64)>,
    command_line: String,
}

impl Inputs {
    fn new(sample: &Sample, ramdisk: &[u64], memory: Vec<(Pfn, Mfn, u64)>) -> Self {
        let mut at = RAMDISK_AT;
        let ramdisk = ramdisk
            .iter()
            .map(|&len| {
                let piece = (Maddr::new(at), len);
                at += len + 0x5000;
                piece
            })
            .collect();
        Self { file: sample.write(), ramdisk, memory, command_line: "console=hvc0 \u{e9}".into() }
    }

    fn config<'a>(&'a self, kernel: &'a Kernel<'a>) -> Config<'a> {
        Config {
            kernel,
            ramdisk: &self.ramdisk,
            command_line: &self.command_line,
            memory: &self.memory,
            shared_info: SHARED,
            console_port: 2,
            store_port: 1,
            start_flags: 1 | 8 | 16,
            hypervisor_slots: core::array::from_fn(|i| 0x1234_5000_0000 + i as u64 * 0x1000 + 0x63),
        }
    }

    fn mfn(&self, pfn: u64) -> u64 {
        let (start, mfn, _) = self.memory.iter().rfind(|(start, _, _)| start.get() <= pfn).unwrap();
        mfn.get() + pfn - start.get()
    }

    fn nr_pages(&self) -> u64 {
        self.memory.iter().map(|(_, _, count)| count).sum()
    }
}

/// Fills the ramdisk's bytes in the machine; what they are, one after the other.
fn put_ramdisk(mem: &SparseMem, pieces: &[(Maddr, u64)]) -> Vec<u8> {
    let mut all = vec![];
    for (at, len) in pieces {
        let bytes: Vec<u8> = (0..*len).map(|i| ((i + all.len() as u64) * 37 / 5) as u8 | 1).collect();
        mem.write(*at, &bytes);
        all.extend(bytes);
    }
    all
}

/// The processor's walk: machine address and leaf flags. Counts the tables it passes.
fn walk(mem: &SparseMem, l4: u64, va: u64, tables: &mut BTreeSet<u64>) -> Option<(u64, u64)> {
    let mut table = l4;
    for level in (1..=4).rev() {
        tables.insert(table);
        let entry = mem.read_u64(Maddr::new(table * 4096 + (va >> (12 + 9 * (level - 1)) & 511) * 8));
        if entry & 1 == 0 {
            return None;
        }
        if level == 1 {
            return Some(((entry & 0xf_ffff_ffff_f000) + va % 4096, entry & 0xfff));
        }
        assert_eq!(entry & 0xfff, 0x67, "flags of a table");
        table = entry >> 12 & 0xff_ffff_ffff;
    }
    None
}

fn read_va(mem: &SparseMem, l4: u64, va: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        let n = (4096 - (va as usize + done) % 4096).min(len - done);
        let (at, _) = walk(mem, l4, va + done as u64, &mut BTreeSet::new()).expect("mapped");
        mem.read(Maddr::new(at), &mut bytes[done..done + n]);
        done += n;
    }
    bytes
}

/// Builds into memory that is full of rubbish, and checks everything that a kernel may rely on.
fn check(inputs: &Inputs) -> Result<(), BuildError> {
    let kernel = Kernel::parse(&inputs.file).unwrap();
    let mem = SparseMem::new();
    let layout = Layout::plan(inputs.config(&kernel))?;
    let ramdisk = put_ramdisk(&mem, &inputs.ramdisk);
    let sources: BTreeSet<u64> = mem.written().into_iter().collect();
    let planned = layout.start();
    for mfn in [planned.start_info, planned.console, planned.store, planned.l4, SHARED] {
        mem.write(mfn.maddr(), &[0xee; 4096]);
    }
    let start = layout.write(&mem);
    assert_eq!(start, planned);
    let (l4, base, notes) = (start.l4.get(), kernel.virt_base(), kernel.notes());
    let nr_pages = inputs.nr_pages();
    let u64_at = |va| u64::from_le_bytes(read_va(&mem, l4, va, 8).try_into().unwrap());
    let u32_at = |va| u32::from_le_bytes(read_va(&mem, l4, va, 4).try_into().unwrap());

    // start_info, as the kernel finds it from rsi.
    let si = start.rsi;
    assert_eq!(walk(&mem, l4, si, &mut BTreeSet::new()).unwrap().0, start.start_info.maddr().get());
    assert_eq!(&read_va(&mem, l4, si, 32)[..15], b"xen-3.0-x86_64\0");
    assert_eq!((u64_at(si + 32), u64_at(si + 40)), (nr_pages, SHARED.maddr().get()));
    assert_eq!((u64_at(si + 56), u32_at(si + 64)), (start.store.get(), 1));
    assert_eq!((u64_at(si + 72), u32_at(si + 80)), (start.console.get(), 2));
    assert_eq!(
        (start.store.get(), start.console.get()),
        (inputs.mfn(start.store_pfn.get()), inputs.mfn(start.console_pfn.get()))
    );
    let line = inputs.command_line.as_bytes();
    assert_eq!(read_va(&mem, l4, si + 128, 1024), [line, &vec![0; 1024 - line.len()]].concat());

    // The boot mapping: one to one, writable but for its tables, and nothing else in the guest's part.
    let (pt_base, nr_pt) = (u64_at(si + 88), u64_at(si + 96));
    assert_eq!((pt_base, nr_pt), (start.pt_base, start.nr_pt_frames));
    assert_eq!(walk(&mem, l4, pt_base, &mut BTreeSet::new()).unwrap().0, l4 * 4096);
    let full_end = start.virt_end.next_multiple_of(4 << 20);
    assert!(start.virt_end == full_end || start.virt_end - base == nr_pages * 4096);
    let mut tables = BTreeSet::new();
    for va in (base..full_end).step_by(4096) {
        let found = walk(&mem, l4, va, &mut tables);
        if va >= start.virt_end {
            assert_eq!(found, None, "{va:#x}");
            continue;
        }
        let (at, flags) = found.unwrap();
        assert_eq!(at, inputs.mfn((va - base) / 4096) * 4096, "{va:#x}");
        let is_table = (pt_base..pt_base + nr_pt * 4096).contains(&va);
        assert_eq!(flags, if is_table { 0x21 } else { 0x23 }, "{va:#x}");
    }
    assert_eq!(tables.len() as u64, nr_pt);
    let in_l4 = |i: u64| mem.read_u64(Maddr::new(l4 * 4096 + i * 8));
    assert!((256..272).all(|i| in_l4(i) == 0x1234_5000_0063 + (i - 256) * 0x1000));

    // The kernel's bytes and zeros, later segments over earlier ones.
    let mut image = vec![0u8; (kernel.end() - kernel.start()) as usize];
    for s in kernel.segments() {
        let at = (s.start - kernel.start()) as usize;
        image[at..at + s.len_bytes as usize].fill(0);
        image[at..at + s.bytes.len()].copy_from_slice(s.bytes);
    }
    if let Some(va) = notes.hypercall_page {
        let page = read_va(&mem, l4, va, 4096);
        assert_eq!(page[32 * 29..][..10], [0x51, 0x41, 0x53, 0xb8, 29, 0, 0, 0, 0x0f, 0x05]);
        let at = (va - kernel.virt_start()) as usize;
        let end = (at + 4096).min(image.len());
        image[at..end].copy_from_slice(&page[..end - at]);
    }
    assert!(read_va(&mem, l4, kernel.virt_start(), image.len()) == image);
    assert_eq!(start.rip, kernel.entry());

    // The ramdisk.
    let (mod_start, mod_len, flags) = (u64_at(si + 112), u64_at(si + 120), u32_at(si + 48));
    assert_eq!(mod_len, ramdisk.len() as u64);
    if ramdisk.is_empty() {
        assert_eq!((mod_start, flags), (0, 1 | 16));
    } else if notes.takes_ramdisk_by_pfn {
        assert_eq!(flags, 1 | 8 | 16);
        let end = mod_start * 4096 + mod_len;
        assert!(mod_start * 4096 >= start.virt_end - base || (mod_start >= 256 && end <= kernel.start()));
        for (i, page) in ramdisk.chunks(4096).enumerate() {
            let mut found = vec![0; page.len()];
            mem.read(Maddr::new(inputs.mfn(mod_start + i as u64) * 4096), &mut found);
            assert_eq!(found, page);
        }
    } else {
        assert_eq!(flags, 1 | 16);
        assert_eq!(mod_start, base + kernel.end().next_multiple_of(4096));
        assert!(read_va(&mem, l4, mod_start, ramdisk.len()) == ramdisk);
    }

    // The p2m list, by its virtual address, and where start_info says that it is.
    let (p2m, first_p2m, nr_p2m) = (u64_at(si + 104), u64_at(si + 1152), u64_at(si + 1160));
    assert_eq!(p2m, start.p2m);
    let expected: Vec<u8> = (0..nr_pages).flat_map(|pfn| inputs.mfn(pfn).to_le_bytes()).collect();
    assert!(read_va(&mem, l4, p2m, expected.len()) == expected);
    let is_in_boot_mapping = (base..start.virt_end).contains(&p2m);
    match notes.init_p2m.filter(|&va| va < base && !is_in_boot_mapping) {
        Some(va) => {
            assert_eq!((p2m, first_p2m), (va, start.p2m_pfn.get()));
            assert!(first_p2m * 4096 >= start.virt_end - base && first_p2m + nr_p2m <= nr_pages);
            let mut tables = BTreeSet::new();
            let pages = (nr_pages * 8).div_ceil(4096);
            for page in 0..pages {
                let (at, flags) = walk(&mem, l4, va + page * 4096, &mut tables).unwrap();
                assert_eq!((at, flags), (inputs.mfn(first_p2m + page) * 4096, 0x23));
            }
            assert_eq!(walk(&mem, l4, va + pages * 4096, &mut BTreeSet::new()), None);
            // Its tables are behind it, all but those that the boot mapping has too.
            let own: BTreeSet<u64> = (first_p2m + pages..first_p2m + nr_p2m).map(|pfn| inputs.mfn(pfn)).collect();
            let boot: BTreeSet<u64> = (0..nr_pt).map(|i| inputs.mfn((pt_base - base) / 4096 + i)).collect();
            assert!(own.is_subset(&tables) && tables.difference(&own).all(|t| boot.contains(t)));
        }
        None => assert_eq!((first_p2m, nr_p2m), (0, 0)),
    }

    // Rings, stack and 512 KiB behind it.
    for mfn in [start.store, start.console] {
        let mut page = vec![1; 4096];
        mem.read(mfn.maddr(), &mut page);
        assert!(page.iter().all(|&b| b == 0));
    }
    assert!(read_va(&mem, l4, start.rsp - 4096, 4096).iter().all(|&b| b == 0));
    assert!(start.rsp + (512 << 10) <= start.virt_end);
    assert_eq!(start.rsp, pt_base + nr_pt * 4096 + 4096);

    // All vCPUs masked.
    for at in 0..4096 {
        let mut byte = [9];
        mem.read(SHARED.maddr().offset(at), &mut byte);
        assert_eq!(byte[0], u8::from(at < 2048 && at % 64 == 1), "{at}");
    }

    // Nothing was written but the domain's memory and its shared page.
    let own: BTreeSet<u64> = (0..nr_pages).map(|pfn| inputs.mfn(pfn)).chain([SHARED.get()]).collect();
    assert!(mem.written().iter().all(|mfn| own.contains(mfn) || sources.contains(mfn)));
    Ok(())
}

fn needed(inputs: &Inputs) -> Option<u64> {
    let kernel = Kernel::parse(&inputs.file).unwrap();
    match Layout::plan(inputs.config(&kernel)) {
        Ok(_) => None,
        Err(BuildError::MemoryTooSmall { needed_pages, found_pages }) => {
            assert_eq!(found_pages, inputs.nr_pages());
            assert!(needed_pages > found_pages);
            Some(needed_pages)
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn a_kernel_like_linux_finds_what_it_expects() {
    let linux = Sample::like_linux();
    // In one piece, in chunks, in single pages; with and without a ramdisk, in whole and in odd pieces.
    for (nr_pages, fragment) in [(0x3000, 0x3000), (0x3000, 512), (0x2001, 1)] {
        for ramdisk in [&[][..], &[0x1_0000], &[5, 4091, 1, 0x2345]] {
            let inputs = Inputs::new(&linux, ramdisk, fragments(nr_pages, fragment));
            assert_eq!(check(&inputs), Ok(()));
        }
    }
}

#[test]
fn where_memory_is_short_nothing_lies_behind_the_boot_mapping() {
    // The kernel ends at 0x1049, what belongs to it before 0x1400, where the boot mapping ends.
    let linux = Sample::like_linux();
    for ramdisk in [&[][..], &[0x1_0000], &[0xef_0000]] {
        let inputs = Inputs::new(&linux, ramdisk, fragments(0x1400, 512));
        assert_eq!(check(&inputs), Ok(()));
        let kernel = Kernel::parse(&inputs.file).unwrap();
        let layout = Layout::plan(inputs.config(&kernel)).unwrap();
        assert_eq!(layout.start().p2m, BASE + layout.start().p2m_pfn.get() * 4096);
        assert_eq!(layout.ramdisk.pfn, 256);
    }
    // Below the kernel are 15 MiB: one page more than them has to lie behind.
    let inputs = Inputs::new(&linux, &[0xf0_0001], fragments(0x1400, 512));
    assert_eq!(needed(&inputs), Some(0x1400 + 0xf01));
}

#[test]
fn a_kernel_without_notes_has_everything_mapped() {
    let linux = Sample::like_linux().without(15).without(16);
    for ramdisk in [&[][..], &[4096, 4096], &[12345]] {
        assert_eq!(check(&Inputs::new(&linux, ramdisk, fragments(0x3000, 7))), Ok(()));
    }
}

#[test]
fn a_small_kernel_runs_in_a_megabyte() {
    let small = Sample::small();
    for nr_pages in [256, 300, 512, 1024, 4096] {
        assert_eq!(check(&Inputs::new(&small, &[], fragments(nr_pages, 3))), Ok(()), "{nr_pages}");
    }
}

#[test]
fn the_least_memory_is_told_exactly() {
    for (sample, ramdisk) in [
        (Sample::small(), &[][..]),
        (Sample::small(), &[100_000]),
        (Sample::like_linux(), &[100_000]),
        (Sample::like_linux().without(16), &[100_000]),
    ] {
        // Follow the message up until it is satisfied: the list of pages grows with the memory.
        let mut pages = 1;
        while let Some(more) = needed(&Inputs::new(&sample, ramdisk, fragments(pages, 1 << 20))) {
            pages = more;
        }
        assert_eq!(check(&Inputs::new(&sample, ramdisk, fragments(pages, 1 << 20))), Ok(()));
        assert!(needed(&Inputs::new(&sample, ramdisk, fragments(pages - 1, 1 << 20))).is_some());
    }
}

#[test]
fn a_p2m_list_of_many_pages_has_tables_of_its_own() {
    // 3 GiB of memory: 6 MiB of list, four L1 tables.
    let inputs = Inputs::new(&Sample::like_linux(), &[], fragments(3 << 18, 1 << 18));
    assert_eq!(check(&inputs), Ok(()));
    // Close below the boot mapping they share tables, even an L1.
    let near = BASE - 0x2000;
    let inputs = Inputs::new(&Sample::like_linux().with(u64_note(15, near)), &[], fragments(1024 + 0x1800, 512));
    let kernel = Kernel::parse(&inputs.file).unwrap();
    assert_eq!(
        Layout::plan(inputs.config(&kernel)).map(|_| ()),
        Err(BuildError::P2mPlace { start: near, nr_pages: 14 })
    );
    let mut low = Sample::small();
    low.notes = vec![u64_note(1, 0x8110_0000), u64_note(3, 0x8110_0000), u64_note(15, 0x810f_0000)];
    assert_eq!(check(&Inputs::new(&low, &[], fragments(4096, 5))), Ok(()));
}

#[test]
fn what_is_not_mapped_may_lie_beyond_what_virt_base_could_map() {
    // 2 GiB of ramdisk by pfn: a page behind it has no address in the boot mapping.
    let mut inputs = Inputs::new(&Sample::like_linux(), &[], fragments(3 << 18, 1 << 18));
    inputs.ramdisk = vec![(Maddr::new(RAMDISK_AT), 2 << 30)];
    let kernel = Kernel::parse(&inputs.file).unwrap();
    let start = Layout::plan(inputs.config(&kernel)).unwrap().start();
    assert!(start.p2m_pfn.get() > 2 << 18);
    assert_eq!(start.p2m, 0x80_0000_0000);
}

#[test]
fn a_p2m_list_above_the_kernel_or_unaligned_stays_in_the_boot_mapping() {
    for va in [BASE + (1 << 30), 0x80_0000_0008] {
        let mut sample = Sample::like_linux().with(u64_note(15, va));
        sample.notes.retain(|(kind, _)| *kind != 16);
        let inputs = Inputs::new(&sample, &[], fragments(0x3000, 512));
        let kernel = Kernel::parse(&inputs.file).unwrap();
        let start = Layout::plan(inputs.config(&kernel)).unwrap().start();
        assert_eq!(start.p2m, BASE + start.p2m_pfn.get() * 4096);
    }
}

#[test]
fn each_mistake_is_told() {
    use BuildError as E;
    let good = || Inputs::new(&Sample::like_linux(), &[100], fragments(0x3000, 0x3000));
    let (p, m) = (Pfn::new, Mfn::new);
    let edit = |f: fn(&mut Inputs)| {
        let mut inputs = good();
        f(&mut inputs);
        inputs
    };
    let with_note = |kind, value| Inputs::new(&Sample::like_linux().with(u64_note(kind, value)), &[], good().memory);
    let low_base = |base: u64| {
        let mut sample = Sample::like_linux().with(u64_note(3, base)).with(u64_note(1, base + 0x100_01c0));
        sample.notes.retain(|(kind, _)| *kind != 15);
        Inputs::new(&sample, &[], good().memory)
    };
    for (i, (inputs, error)) in [
        (edit(|i| i.memory = vec![]), E::MemoryTooSmall { needed_pages: 0x1049 + 3, found_pages: 0 }),
        (
            edit(|i| i.memory = vec![(Pfn::new(1), Mfn::new(1), 5)]),
            E::ExtentOrder { found: p(1), count: 5, expected: 0 },
        ),
        (
            edit(|i| i.memory.push((Pfn::new(0x3001), Mfn::new(1), 5))),
            E::ExtentOrder { found: p(0x3001), count: 5, expected: 0x3000 },
        ),
        (
            edit(|i| i.memory.push((Pfn::new(0x3000), Mfn::new(1), 0))),
            E::ExtentOrder { found: p(0x3000), count: 0, expected: 0x3000 },
        ),
        (
            edit(|i| i.memory.push((Pfn::new(0x3000), Mfn::new((1 << 40) - 4), 5))),
            E::ExtentTooLong { pfn: p(0x3000), mfn: m((1 << 40) - 4), count: 5 },
        ),
        (
            edit(|i| i.memory.push((Pfn::new(0x3000), Mfn::new(0), u64::MAX))),
            E::ExtentTooLong { pfn: p(0x3000), mfn: m(0), count: u64::MAX },
        ),
        (edit(|i| i.command_line = "x".repeat(1024)), E::CommandLineTooLong { len_bytes: 1024 }),
        (edit(|i| i.command_line = "ab\0c".into()), E::CommandLineZero { offset: 2 }),
        (
            edit(|i| i.ramdisk = vec![(Maddr::new(4096), u64::MAX)]),
            E::Ramdisk { start: Maddr::new(4096), len_bytes: u64::MAX },
        ),
        (
            edit(|i| i.ramdisk = vec![(Maddr::new(0), (1 << 52) - 1), (Maddr::new(8), 1)]),
            E::Ramdisk { start: Maddr::new(8), len_bytes: 1 },
        ),
        (with_note(15, 0xffff_8000_0000_0000), E::P2mPlace { start: 0xffff_8000_0000_0000, nr_pages: 24 }),
        (with_note(15, 0x7fff_ffff_f000), E::P2mPlace { start: 0x7fff_ffff_f000, nr_pages: 24 }),
        (with_note(15, BASE - 23 * 4096), E::P2mPlace { start: BASE - 23 * 4096, nr_pages: 24 }),
    ]
    .into_iter()
    .enumerate()
    {
        let kernel = Kernel::parse(&inputs.file).unwrap();
        let found = Layout::plan(inputs.config(&kernel)).map(|_| ());
        assert_eq!(found, Err(error), "case {i}");
        assert!(!format!("{error}").is_empty());
    }
    for base in [0xffff_8000_0000_0000, 0x7fff_ff00_0000, 0xffff_87ff_ff00_0000, 0xffff_ffff_fec0_0000] {
        let inputs = low_base(base);
        let kernel = Kernel::parse(&inputs.file).unwrap();
        match Layout::plan(inputs.config(&kernel)).map(|_| ()) {
            Err(E::Mapping { start, .. }) => assert_eq!(start, base),
            other => panic!("{base:#x}: {other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_kernel_memory_and_ramdisk_fit_together(
        base in prop_oneof![Just(BASE), Just(0u64), Just(0x40_0000u64), Just(0xffff_8800_0010_0000u64)],
        paddr in (0u64..0x40_0000).prop_map(|a| a & !0xf),
        len in 1usize..20_000,
        bss in 0u64..30_000,
        second in proptest::option::of((0u64..0x40_0000, 1usize..9000)),
        ramdisk in proptest::collection::vec(1u64..20_000, 0..3),
        nr_pages in 600u64..4000,
        lens in proptest::collection::vec(1u64..700, 1..12),
        p2m in proptest::option::of((0u64..1 << 34).prop_map(|p| p << 12)),
        by_pfn: bool,
    ) {
        let mut loads = vec![Load {
            vaddr: 0, paddr, bytes: (0..len).map(|i| i as u8 | 1).collect(), memory_bytes: len as u64 + bss,
        }];
        loads.extend(second.map(|(paddr, len)| {
            Load { vaddr: 7, paddr, bytes: vec![7; len], memory_bytes: len as u64 }
        }));
        let mut notes = vec![u64_note(3, base), u64_note(1, base + paddr)];
        notes.extend(p2m.map(|va| u64_note(15, va)));
        notes.extend(by_pfn.then(|| u64_note(16, 1)));
        let sample = Sample { loads, notes, where_notes: super::super::kernel::sample::WhereNotes::Segment };
        let file = sample.write();
        prop_assume!(Kernel::parse(&file).is_ok());
        // Extents of the given lengths in turn, shuffled over the machine but never touching each other.
        let (mut memory, mut pfn) = (vec![], 0);
        for (i, &len) in lens.iter().cycle().enumerate() {
            let count = len.min(nr_pages - pfn);
            if count == 0 {
                break;
            }
            memory.push((Pfn::new(pfn), Mfn::new(0x10_0000 + (i as u64 * 7 % 4099) * 1024), count));
            pfn += count;
        }
        match check(&Inputs::new(&sample, &ramdisk, memory)) {
            Ok(()) => {}
            Err(BuildError::MemoryTooSmall { needed_pages, .. }) => prop_assert!(needed_pages > nr_pages),
            Err(BuildError::P2mPlace { start, .. }) => prop_assert!(Some(start) == p2m),
            Err(e) => prop_assert!(false, "{:?}", e),
        }
    }
}
