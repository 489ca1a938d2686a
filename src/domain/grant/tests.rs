use super::*;
use crate::mm::physmem::sparse::SparseMem;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const A: DomId = DomId::new(1);
const B: DomId = DomId::new(2);
const C: DomId = DomId::new(3);
const TABLE: Mfn = Mfn::new(0x100);
const TABLE_2: Mfn = Mfn::new(0x101);
const STATUS: Mfn = Mfn::new(0x180);
const PERMIT: u64 = 1;
const RO: u64 = 4;
const READING: u64 = 8;
const WRITING: u64 = 16;
const SUB_PAGE: u64 = 0x100;

/// Two domains and more, the first with a table of two frames.
fn tables(version: Version) -> (GrantTables, SparseMem) {
    let mem = SparseMem::new();
    let mut tables = GrantTables::new();
    for id in [A, B, C] {
        tables.add_domain(id, Limits::DEFAULT);
    }
    tables.grow(A, &[TABLE, TABLE_2], &[]).unwrap();
    if version == Version::V2 {
        assert_eq!(tables.prepare_version(A, version), Ok(1));
        assert_eq!(tables.set_version(&mem, A, version, &[STATUS]), Ok(vec![]));
    }
    (tables, mem)
}

/// Writes an entry as the guest does, from the layouts of the public header.
fn write(mem: &SparseMem, version: Version, reference: u64, flags: u64, to: DomId, frame: u64) {
    let word = flags | u64::from(to.get()) << 16;
    match version {
        Version::V1 => mem.write_u64(TABLE.maddr().offset(reference * 8), word | frame << 32),
        Version::V2 => {
            mem.write_u64(TABLE.maddr().offset(reference * 16 + 8), frame);
            mem.write_u64(TABLE.maddr().offset(reference * 16), word);
        }
    }
}

/// The marks of an entry.
fn marks(mem: &SparseMem, version: Version, reference: u64) -> u64 {
    match version {
        Version::V1 => mem.read_u64(TABLE.maddr().offset(reference * 8)) & (READING | WRITING),
        Version::V2 => {
            let mut bytes = [0; 2];
            mem.read(STATUS.maddr().offset(reference * 2), &mut bytes);
            u16::from_le_bytes(bytes).into()
        }
    }
}

fn acquire(t: &mut GrantTables, mem: &SparseMem, reference: u32, to: DomId, access: Access) -> Result<Mfn, GrantError> {
    t.acquire(mem, A, reference, to, access, Use::Map).map(|acquired| acquired.frame)
}

#[test]
fn an_entry_gives_what_it_says_and_no_more() {
    use Access::{Read, Write};
    use GrantError::*;
    for version in [Version::V1, Version::V2] {
        let (mut t, mem) = tables(version);
        let last = 2 * version.entries_per_frame();
        write(&mem, version, 9, PERMIT, B, 0x77);
        write(&mem, version, 10, PERMIT | RO, B, 0x78);
        write(&mem, version, 11, 0, B, 0x79);
        write(&mem, version, 12, 2, B, 0x79);
        write(&mem, version, 13, 3, B, 0x79);
        write(&mem, version, 14, PERMIT | SUB_PAGE, B, 0x79);
        let cases = [
            (9, B, Write, Ok(Mfn::new(0x77))),
            (9, C, Read, Err(General)),
            (10, B, Read, Ok(Mfn::new(0x78))),
            (10, B, Write, Err(General)),
            (11, B, Read, Err(General)),
            (12, B, Read, Err(General)),
            (13, B, Read, Err(General)),
            (14, B, Read, Err(General)),
            (last - 1, B, Read, Err(General)),
            (last, B, Read, Err(BadRef)),
            (u32::MAX, B, Read, Err(BadRef)),
        ];
        for (reference, to, access, expected) in cases {
            assert_eq!(acquire(&mut t, &mem, reference, to, access), expected, "{version:?} {reference} {access:?}");
            if expected.is_ok() {
                t.release(&mem, A, reference, access);
            }
            assert!(!t.is_in_use(A));
            if reference < 16 {
                assert_eq!(marks(&mem, version, reference.into()), 0);
            }
        }
        assert_eq!(t.acquire(&mem, DomId::new(9), 9, B, Read, Use::Map), Err(BadDomain));
    }
}

#[test]
fn marks_follow_the_uses() {
    use Access::{Read, Write};
    for version in [Version::V1, Version::V2] {
        let (mut t, mem) = tables(version);
        write(&mem, version, 9, PERMIT, B, 0x77);
        let steps = [
            (true, Read, READING),
            (true, Write, READING | WRITING),
            (true, Write, READING | WRITING),
            (false, Read, READING | WRITING),
            (true, Read, READING | WRITING),
            (false, Write, READING | WRITING),
            (false, Write, READING),
            (false, Read, 0),
        ];
        for (i, (takes, access, expected)) in steps.into_iter().enumerate() {
            match takes {
                true => assert_eq!(acquire(&mut t, &mem, 9, B, access), Ok(Mfn::new(0x77))),
                false => t.release(&mem, A, 9, access),
            }
            assert_eq!(marks(&mem, version, 9), expected, "{version:?} step {i}");
            assert_eq!(t.is_in_use(A), expected != 0);
        }
    }
}

#[test]
fn an_entry_in_use_stays_what_it_was() {
    use Access::{Read, Write};
    for version in [Version::V1, Version::V2] {
        let (mut t, mem) = tables(version);
        write(&mem, version, 9, PERMIT, B, 0x77);
        acquire(&mut t, &mem, 9, B, Read).unwrap();
        // The guest takes it back, and grants another frame to somebody else.
        write(&mem, version, 9, PERMIT, C, 0x99);
        assert_eq!(acquire(&mut t, &mem, 9, B, Read), Ok(Mfn::new(0x77)), "what is active is not looked at again");
        assert_eq!(acquire(&mut t, &mem, 9, B, Write), Err(GrantError::General), "the first writer is");
        assert_eq!(acquire(&mut t, &mem, 9, C, Read), Err(GrantError::General), "one domain at a time");
        t.release(&mem, A, 9, Read);
        t.release(&mem, A, 9, Read);
        assert_eq!(acquire(&mut t, &mem, 9, C, Write), Ok(Mfn::new(0x99)));
    }
}

#[test]
fn uses_are_counted_up_to_the_limit() {
    let (mut t, mem) = tables(Version::V1);
    write(&mem, Version::V1, 9, PERMIT, B, 0x77);
    for _ in 0..MAX_USES {
        acquire(&mut t, &mem, 9, B, Access::Read).unwrap();
    }
    assert_eq!(acquire(&mut t, &mem, 9, B, Access::Read), Err(GrantError::General));
    assert_eq!(acquire(&mut t, &mem, 9, B, Access::Write), Err(GrantError::General));
    t.release(&mem, A, 9, Access::Read);
    acquire(&mut t, &mem, 9, B, Access::Write).unwrap();
}

#[test]
fn a_part_of_a_frame_is_copied_and_not_mapped() {
    let (mut t, mem) = tables(Version::V2);
    write(&mem, Version::V2, 9, PERMIT | SUB_PAGE | 100 << 32 | 50 << 48, B, 0x77);
    assert_eq!(acquire(&mut t, &mem, 9, B, Access::Read), Err(GrantError::General));
    let part = t.acquire(&mem, A, 9, B, Access::Read, Use::Copy);
    assert_eq!(part, Ok(Acquired { frame: Mfn::new(0x77), start: 100, len: 50 }));
    t.release(&mem, A, 9, Access::Read);
    write(&mem, Version::V2, 9, PERMIT, B, 1 << 40);
    assert_eq!(acquire(&mut t, &mem, 9, B, Access::Read), Err(GrantError::BadPage), "no frame has that number");
    assert_eq!((marks(&mem, Version::V2, 9), t.is_in_use(A)), (0, false));
}

/// A guest that changes the entry whenever it is looked at.
struct Restless(SparseMem);

impl PhysMem for Restless {
    fn read_u64(&self, at: crate::frame::Maddr) -> u64 {
        self.0.read_u64(at)
    }
    fn write_u64(&self, at: crate::frame::Maddr, value: u64) {
        self.0.write_u64(at, value);
    }
    fn compare_exchange_u64(&self, at: crate::frame::Maddr, old: u64, new: u64) -> Result<(), u64> {
        self.0.write_u64(at, old.wrapping_add(1 << 32));
        self.0.compare_exchange_u64(at, old, new)
    }
    fn read(&self, at: crate::frame::Maddr, into: &mut [u8]) {
        self.0.read(at, into);
    }
    fn write(&self, at: crate::frame::Maddr, from: &[u8]) {
        self.0.write(at, from);
    }
    fn zero(&self, at: crate::frame::Maddr, len_bytes: u64) {
        self.0.zero(at, len_bytes);
    }
}

#[test]
fn a_guest_that_never_holds_still_is_refused() {
    let (mut t, mem) = tables(Version::V1);
    write(&mem, Version::V1, 9, PERMIT, B, 0x77);
    let mem = Restless(mem);
    let result = t.acquire(&mem, A, 9, B, Access::Write, Use::Map);
    assert_eq!((result, t.is_in_use(A)), (Err(GrantError::General), false));
    assert_eq!(mem.0.read_u64(TABLE.maddr().offset(72)) >> 32, 0x77 + 5, "five attempts");
}

fn mapping(reference: u32, flags: u32) -> Mapping {
    Mapping { granter: A, reference, flags: flags | gntmap::HOST_MAP }
}

#[test]
fn handles_are_given_again_and_bounded() {
    let (mut t, mem) = tables(Version::V1);
    t.add_domain(B, Limits { max_maps: 3, ..Limits::DEFAULT });
    write(&mem, Version::V1, 9, PERMIT, B, 0x77);
    let map = |t: &mut GrantTables| {
        t.reserve_map(B)?;
        acquire(t, &mem, 9, B, Access::Write)?;
        t.add_map(B, mapping(9, 0))
    };
    assert_eq!([map(&mut t), map(&mut t), map(&mut t)], [Ok(0), Ok(1), Ok(2)]);
    assert_eq!(map(&mut t), Err(GrantError::NoSpace));
    assert_eq!(t.map(B, 1), Ok((mapping(9, 0), Mfn::new(0x77))));
    for bad in [3, u32::MAX] {
        assert_eq!(t.map(B, bad), Err(GrantError::BadHandle));
    }
    t.end_map(&mem, B, 1);
    assert_eq!(t.map(B, 1), Err(GrantError::BadHandle));
    t.end_map(&mem, B, 1);
    assert_eq!(t.active(A).next().unwrap().1.writers, 2, "a handle ends once");
    t.end_map(&mem, B, 0);
    assert_eq!([map(&mut t), map(&mut t)], [Ok(0), Ok(1)]);
    assert_eq!(marks(&mem, Version::V1, 9), READING | WRITING);
    assert!(t.end_some_maps(&mem, B, 2));
    assert!(!t.end_some_maps(&mem, B, 2));
    assert_eq!((marks(&mem, Version::V1, 9), t.is_in_use(A)), (0, false));
}

#[test]
fn a_version_changes_while_nothing_is_in_use_and_keeps_the_reserved_entries() {
    let (mut t, mem) = tables(Version::V1);
    t.seed(&mem, A, 0, DomId::new(0), Mfn::new(0x1234));
    assert_eq!(mem.read_u64(TABLE.maddr()), 1 | 0x1234 << 32);
    write(&mem, Version::V1, 1, PERMIT, B, 0x55);
    write(&mem, Version::V1, 8, PERMIT, B, 0x66);
    acquire(&mut t, &mem, 1, B, Access::Write).unwrap();
    acquire(&mut t, &mem, 8, B, Access::Read).unwrap();
    assert_eq!(t.prepare_version(A, Version::V2), Err(GrantError::Again));
    t.release(&mem, A, 8, Access::Read);
    assert_eq!(t.prepare_version(A, Version::V2), Ok(1));
    mem.write_u64(STATUS.maddr().offset(0x80), 1);
    assert_eq!(t.set_version(&mem, A, Version::V2, &[STATUS]), Ok(vec![]));
    assert_eq!(t.version(A), Ok(Version::V2));
    assert_eq!(mem.read_u64(TABLE.maddr()), 1);
    assert_eq!(mem.read_u64(TABLE.maddr().offset(8)), 0x1234);
    assert_eq!(mem.read_u64(TABLE.maddr().offset(16)), 1 | 2 << 16);
    assert_eq!(mem.read_u64(STATUS.maddr()), (READING | WRITING) << 16, "the marks have moved");
    assert_eq!(mem.read_u64(TABLE.maddr().offset(8 * 16)), 0, "what is not reserved is gone");
    assert_eq!(mem.read_u64(STATUS.maddr().offset(0x80)), 0);
    t.release(&mem, A, 1, Access::Write);
    assert_eq!(mem.read_u64(STATUS.maddr()), 0);
    assert_eq!(t.set_version(&mem, A, Version::V1, &[]), Ok(vec![STATUS]));
    assert_eq!(mem.read_u64(TABLE.maddr()), 1 | 0x1234 << 32);
    assert_eq!(mem.read_u64(TABLE.maddr().offset(8)), 1 | 2 << 16 | 0x55 << 32);
    assert_eq!((t.shared_frames(A), t.status_frames(A).len()), (&[TABLE, TABLE_2][..], 0));
}

#[test]
fn a_table_grows_to_its_limit() {
    let (mut t, mem) = tables(Version::V1);
    assert_eq!(t.wanting(A, 1), Ok(Wanting::default()));
    assert_eq!(t.wanting(A, 64), Ok(Wanting { shared: 62, status: 0 }));
    assert_eq!(t.wanting(A, 65), Err(GrantError::General));
    t.set_version(&mem, A, Version::V2, &[STATUS]).unwrap();
    // 256 entries a frame, 2048 marks a status frame.
    for (nr, expected) in [(2, (0, 0)), (8, (6, 0)), (9, (7, 1)), (64, (62, 7))] {
        assert_eq!(t.wanting(A, nr), Ok(Wanting { shared: expected.0, status: expected.1 }), "{nr}");
    }
    let mut all = t.remove_domain(A);
    all.sort();
    assert_eq!(all, [TABLE, TABLE_2, STATUS]);
    assert_eq!(t.wanting(A, 1), Err(GrantError::BadDomain));
}

#[test]
fn entries_are_swapped_unless_in_use() {
    for version in [Version::V1, Version::V2] {
        let (mut t, mem) = tables(version);
        write(&mem, version, 9, PERMIT, B, 0x77);
        write(&mem, version, 10, PERMIT | RO, C, 0x78);
        assert_eq!(t.swap(&mem, A, 9, 10), Ok(()));
        assert_eq!(acquire(&mut t, &mem, 10, B, Access::Write), Ok(Mfn::new(0x77)));
        assert_eq!(t.swap(&mem, A, 9, 10), Err(GrantError::Again));
        assert_eq!(t.swap(&mem, A, 10, 9), Err(GrantError::Again));
        assert_eq!(t.swap(&mem, A, 10, 10), Ok(()));
        assert_eq!(acquire(&mut t, &mem, 9, C, Access::Read), Ok(Mfn::new(0x78)));
        assert_eq!(t.swap(&mem, A, 9, 2 * version.entries_per_frame()), Err(GrantError::BadRef));
    }
}

#[test]
fn a_leaf_has_xens_flags() {
    let frame = Mfn::new(0x1234);
    assert_eq!(leaf(frame, gntmap::HOST_MAP), 0x123_4063);
    assert_eq!(leaf(frame, gntmap::HOST_MAP | gntmap::READONLY), 0x123_4061);
    assert_eq!(leaf(frame, gntmap::APPLICATION_MAP | gntmap::READONLY | 5 << 16), 0x123_4065 | 0xa00);
    assert_eq!(leaf(frame, 0xfff8_0002), 0x123_4063, "three bits are the guest's own");
}

/// A machine in which B maps four grants of A, one of them twice, with a hole in its handles.
fn busy(version: Version) -> (GrantTables, SparseMem) {
    let (mut t, mem) = tables(version);
    for (reference, frame) in [(9, 0x77), (10, 0x78), (300, 0x79)] {
        write(&mem, version, reference, PERMIT, B, frame);
    }
    for (reference, flags) in [(9, 0), (9, 4), (10, 4), (300, 0)] {
        let map = mapping(reference, flags);
        acquire(&mut t, &mem, reference, B, map.access()).unwrap();
        t.add_map(B, map).unwrap();
    }
    t.end_map(&mem, B, 2);
    (t, mem)
}

fn saved(t: &GrantTables) -> Vec<(DomId, SavedTable)> {
    let of = |table: TableToSave<'_>| SavedTable {
        version: table.version(),
        limits: table.limits(),
        shared: table.shared().to_vec(),
        status: table.status().to_vec(),
        active: table.active().collect(),
        maps: table.maps().collect(),
    };
    [A, B, C].into_iter().map(|id| (id, of(t.to_save(id).unwrap()))).collect()
}

fn restored(saved: &[(DomId, SavedTable)]) -> Result<GrantTables, Inconsistent> {
    let mut t = GrantTables::new();
    for (id, table) in saved {
        t.restore(*id, table.clone())?;
    }
    Ok(t)
}

#[test]
fn what_was_saved_comes_back_and_goes_on() {
    for version in [Version::V1, Version::V2] {
        let (t, mem) = busy(version);
        let before = saved(&t);
        let mut t = restored(&before).unwrap();
        assert_eq!(saved(&t), before);
        assert!(t.inconsistent(|_| false).is_empty());
        assert_eq!(t.map(B, 2), Err(GrantError::BadHandle));
        acquire(&mut t, &mem, 9, B, Access::Read).unwrap();
        assert_eq!(t.add_map(B, mapping(9, 4)), Ok(2), "the free handle is found again");
        for handle in 0..4 {
            t.end_map(&mem, B, handle);
        }
        assert!(!t.is_in_use(A));
        assert_eq!(marks(&mem, version, 9) | marks(&mem, version, 300), 0);
    }
}

#[test]
fn each_mapping_is_good_for_one_leaf_of_its_kind() {
    let (t, _) = busy(Version::V1);
    let mapped = t.mapped(B);
    let frame = Mfn::new(0x77);
    assert!(!mapped.take(frame, C, Access::Read), "the owner is part of it");
    assert!(mapped.take(frame, A, Access::Write));
    assert!(!mapped.take(frame, A, Access::Write));
    assert!(mapped.take(frame, A, Access::Read));
    assert!(!mapped.take(frame, A, Access::Read));
    assert!(!mapped.take(Mfn::new(0x78), A, Access::Read), "its mapping has ended");
    assert!(mapped.take(Mfn::new(0x79), A, Access::Write));
    assert!(!t.mapped(A).take(frame, A, Access::Read));
}

type Change<'a> = &'a dyn Fn(&mut [(DomId, SavedTable)]);

#[test]
fn tables_that_do_not_fit_each_other_are_named() {
    let (t, _) = busy(Version::V1);
    let good = saved(&t);
    let change = |change: Change<'_>| {
        let mut all = good.clone();
        change(&mut all);
        restored(&all).map(|t| t.inconsistent(|_| false).into_iter().collect::<Vec<_>>())
    };
    let not_granted = |handle, reference| Inconsistent::NotGranted { handle, granter: A, reference };
    let uses = |reference, counted, found| Inconsistent::Uses { reference, counted, found };
    // What is in use, changed.
    assert_eq!(change(&|all| all[0].1.active.truncate(1)), Ok(vec![(B, not_granted(3, 300))]));
    assert_eq!(
        change(&|all| all[0].1.active[1].1.to = C),
        Ok(vec![(A, uses(300, (0, 1), (0, 0))), (B, not_granted(3, 300))])
    );
    assert_eq!(change(&|all| all[0].1.active[0].1.readers = 2), Ok(vec![(A, uses(9, (2, 1), (1, 1)))]));
    // Mappings, changed.
    assert_eq!(change(&|all| all[1].1.maps.truncate(2)), Ok(vec![(A, uses(300, (0, 1), (0, 0)))]));
    assert_eq!(change(&|all| all[1].1.maps[0].1.flags |= 4), Ok(vec![(A, uses(9, (1, 1), (2, 0)))]));
    assert_eq!(
        change(&|all| all[1].1.maps[0].1.granter = DomId::new(9)).unwrap()[1],
        (B, Inconsistent::NotGranted { handle: 0, granter: DomId::new(9), reference: 9 })
    );
    // One table alone.
    assert_eq!(change(&|all| all[0].1.active[1].0 = 9), Err(Inconsistent::Entry { reference: 9 }));
    assert_eq!(change(&|all| all[0].1.active[1].0 = 1024), Err(Inconsistent::Entry { reference: 1024 }));
    assert_eq!(change(&|all| all[1].1.maps[2].0 = 1 << 14), Err(Inconsistent::Handle { handle: 1 << 14 }));
    assert_eq!(change(&|all| all[1].1.maps[1].0 = 0), Err(Inconsistent::Handle { handle: 0 }));
    let frames = |shared, status| Err(Inconsistent::Frames { shared, status });
    assert_eq!(change(&|all| all[0].1.status.push(STATUS)), frames(2, 1));
    assert_eq!(change(&|all| all[0].1.version = Version::V2), frames(2, 0));
    assert_eq!(change(&|all| all[0].1.limits.max_frames = 1), frames(2, 0));
}

/// What is done to four entries of A by the guest, by B and by C.
#[derive(Clone, Copy, Debug)]
enum Action {
    Write { entry: u8, flags: u16, to: u16 },
    Map { entry: u8, by: u16, reads_only: bool },
    Unmap { by: u16, nth: u8 },
    Update,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let flags = prop_oneof![Just(1u16), Just(1), Just(5), Just(0), Just(0x101), Just(3)];
    let one = prop_oneof![
        3 => (0..4u8, flags, 2..4u16).prop_map(|(entry, flags, to)| Action::Write { entry, flags, to }),
        6 => (0..4u8, 2..4u16, any::<bool>()).prop_map(|(entry, by, reads_only)| Action::Map { entry, by, reads_only }),
        3 => (2..4u16, any::<u8>()).prop_map(|(by, nth)| Action::Unmap { by, nth }),
        1 => Just(Action::Update),
    ];
    prop::collection::vec(one, 1..120)
}

/// A use as the naive model has it: who, by which handle, of which entry, only to read.
type Held = (DomId, u32, u32, bool);

proptest! {
    #[test]
    fn whatever_happens_marks_counts_and_handles_are_those_of_a_list_of_uses(
        actions in actions(),
        is_v2 in any::<bool>(),
    ) {
        let version = if is_v2 { Version::V2 } else { Version::V1 };
        let (mut t, mem) = tables(version);
        let mut entries = [(0u16, 0u16); 4];
        let mut held: Vec<Held> = Vec::new();
        for action in actions {
            match action {
                Action::Write { entry, flags, to } => {
                    entries[usize::from(entry)] = (flags, to);
                    let kept = marks(&mem, version, (8 + entry).into());
                    let kept = if version == Version::V1 { kept } else { 0 };
                    write(&mem, version, (8 + entry).into(), u64::from(flags) | kept, DomId::new(to), 0x70);
                }
                Action::Map { entry, by, reads_only } => {
                    let (flags, to) = entries[usize::from(entry)];
                    let (reference, by) = (8 + u32::from(entry), DomId::new(by));
                    let others: Vec<&Held> = held.iter().filter(|h| h.2 == reference).collect();
                    let says_so = flags & 0x103 == 1 && to == by.get() && (reads_only || flags & 4 == 0);
                    let has_writer = others.iter().any(|h| !h.3);
                    let expected = match others.first() {
                        None => says_so,
                        Some(other) => other.0 == by && (reads_only || has_writer || says_so),
                    };
                    let access = if reads_only { Access::Read } else { Access::Write };
                    let found = t.acquire(&mem, A, reference, by, access, Use::Map);
                    prop_assert_eq!(found.is_ok(), expected, "{:?} of {:?}", action, (flags, to));
                    if found.is_ok() {
                        let flags = if reads_only { gntmap::READONLY } else { 0 };
                        t.reserve_map(by).unwrap();
                        let handle = t.add_map(by, mapping(reference, flags)).unwrap();
                        prop_assert!(held.iter().all(|h| (h.0, h.1) != (by, handle)), "a handle twice");
                        held.push((by, handle, reference, reads_only));
                    }
                }
                Action::Unmap { by, nth } => {
                    let mine: Vec<usize> = (0..held.len()).filter(|&i| held[i].0.get() == by).collect();
                    if !mine.is_empty() {
                        let gone = held.remove(mine[usize::from(nth) % mine.len()]);
                        t.end_map(&mem, gone.0, gone.1);
                        prop_assert_eq!(t.map(gone.0, gone.1), Err(GrantError::BadHandle));
                    }
                }
                Action::Update => {
                    let before = saved(&t);
                    t = restored(&before).unwrap();
                    prop_assert!(t.inconsistent(|_| false).is_empty());
                    prop_assert_eq!(saved(&t), before);
                }
            }
            for reference in 8..12u32 {
                let (readers, writers): (Vec<&Held>, Vec<&Held>) =
                    held.iter().filter(|h| h.2 == reference).partition(|h| h.3);
                let expected = match (readers.len(), writers.len()) {
                    (0, 0) => 0,
                    (_, 0) => READING,
                    _ => READING | WRITING,
                };
                prop_assert_eq!(marks(&mem, version, reference.into()), expected);
                let active = t.active(A).find(|a| a.0 == reference).map(|a| (a.1.readers, a.1.writers));
                let counts = (readers.len() as u8, writers.len() as u8);
                prop_assert_eq!(active, (counts != (0, 0)).then_some(counts));
            }
        }
    }
}
