//! The firmware memory map, made trustworthy.
//!
//! Firmware gives byte ranges in any order; they overlap, are unaligned, empty, or run over the end of the address
//! space. [`MemMap`] turns them once into sorted, disjoint frame ranges, so that nobody behind it checks again:
//!
//! 1. each entry is rounded by itself, RAM inwards, everything else outwards; what lies behind the last machine frame
//!    is cut off;
//! 2. where entries overlap, the less usable kind wins ([`Kind`] is ordered for that);
//! 3. neighbours of one kind are one range; what no entry names is a *hole*;
//! 4. frame 0 is never RAM, whatever firmware says: 0 is how many interfaces say "none" (XEN.md §4.7).
//!
//! The entries as given are kept beside the ranges: the incoming build gets exactly these, and so computes the same map. Frames that the operator calls
//! faulty ([`MemMap::without`]) are not among them.
//!
//! ```text
//! given   RAM ├──────────────────────────────┤        reserved ├───┤
//!         reserved       ├──┤   ACPI ├────────────┤
//! made    RAM ├──────┤res├──┤RAM├┤ACPI ──────────┤ hole ├ reserved ┤
//! ```
//!
//! Made by the first boot stage that reads the boot information; used by every later one. Kinds are the type numbers of
//! E820 (ACPI specification, "Address Range Types"), which Multiboot2 §3.6.8 shares for 1 to 5.

use crate::cmdline::MAX_BAD_RANGES;
use crate::frame::{Mfn, MfnRange};
use crate::ranges::RangeSet;
use core::fmt;

/// Entries that firmware may give.
pub const MAX_ENTRIES: usize = 128;
/// Ranges of faulty frames that may be taken out of the map.
pub const MAX_FAULTY: usize = MAX_BAD_RANGES;
/// Ranges that the entries can come to. `n` intervals cut the line into at most `2n - 1` covered pieces, and frame 0,
/// which only ever cuts off a first piece, adds one: 2 * (128 + 16) - 1 + 1. So only entries can be too many, never ranges.
pub const MAX_RANGES: usize = 2 * (MAX_ENTRIES + MAX_FAULTY);

/// What a range of memory is for, the more usable first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Ordinary memory.
    Ram,
    /// ACPI tables; memory once they are read, which nothing here does.
    AcpiReclaim,
    /// Memory that firmware wants back after a suspend.
    AcpiNvs,
    /// Persistent memory: its contents belong to somebody.
    Persistent,
    /// Devices and firmware, and every type number that is not known.
    Reserved,
    /// Memory found to be faulty.
    Unusable,
}

impl Kind {
    /// The kind of an E820 type number.
    pub const fn from_firmware(number: u32) -> Self {
        match number {
            1 => Self::Ram,
            3 => Self::AcpiReclaim,
            4 => Self::AcpiNvs,
            5 => Self::Unusable,
            // 7 is ACPI's number; 12 is what firmware before ACPI 6 used.
            7 | 12 => Self::Persistent,
            _ => Self::Reserved,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ram => "RAM",
            Self::AcpiReclaim => "ACPI tables",
            Self::AcpiNvs => "ACPI NVS memory",
            Self::Persistent => "persistent memory",
            Self::Reserved => "reserved memory",
            Self::Unusable => "faulty memory",
        })
    }
}

/// An entry as firmware gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareEntry {
    /// First byte.
    pub start: u64,
    /// Length; may run over the end of the address space.
    pub len_bytes: u64,
    /// E820 type number, see [`Kind::from_firmware`].
    pub number: u32,
}

impl FirmwareEntry {
    const NONE: Self = Self { start: 0, len_bytes: 0, number: 0 };

    /// What the type number means.
    pub const fn kind(&self) -> Kind {
        Kind::from_firmware(self.number)
    }

    /// The frames that the entry speaks for: RAM rounded inwards, everything else outwards.
    pub const fn frames(&self) -> MfnRange {
        match self.kind() {
            Kind::Ram => MfnRange::frames_inside(self.start, self.len_bytes),
            _ => MfnRange::frames_touched(self.start, self.len_bytes),
        }
    }
}

/// Why there is no map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemMapError {
    /// Firmware gave more entries than can be kept, and to leave some out could turn reserved memory into RAM.
    TooMany {
        /// Entries given.
        found: usize,
        /// Entries that can be kept.
        limit: usize,
    },
}

impl fmt::Display for MemMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { found, limit } => {
                write!(f, "the firmware memory map has {found} entries, at most {limit} can be used")
            }
        }
    }
}

/// A part of a range that is not RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRam {
    /// The frames.
    pub range: MfnRange,
    /// What firmware says that they are; nothing for a hole.
    pub kind: Option<Kind>,
}

impl fmt::Display for NotRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Some(kind) => write!(f, "{kind} at {}", self.range),
            None => write!(f, "a hole without memory at {}", self.range),
        }
    }
}

/// The normalised map. It is large (10 KiB): keep it in one place and lend it.
#[derive(Clone)]
pub struct MemMap {
    entries: [FirmwareEntry; MAX_ENTRIES],
    nr_entries: usize,
    ranges: [(MfnRange, Kind); MAX_RANGES],
    nr_ranges: usize,
}

impl MemMap {
    /// Makes the map from firmware's entries.
    pub fn from_firmware(given: impl IntoIterator<Item = FirmwareEntry>) -> Result<Self, MemMapError> {
        let mut map = Self {
            entries: [FirmwareEntry::NONE; MAX_ENTRIES],
            nr_entries: 0,
            ranges: [(MfnRange::EMPTY, Kind::Ram); MAX_RANGES],
            nr_ranges: 0,
        };
        let mut found = 0usize;
        for entry in given {
            if let Some(slot) = map.entries.get_mut(found) {
                *slot = entry;
            }
            found = found.saturating_add(1);
        }
        if found > MAX_ENTRIES {
            return Err(MemMapError::TooMany { found, limit: MAX_ENTRIES });
        }
        map.nr_entries = found;
        map.normalise(&RangeSet::new());
        Ok(map)
    }

    /// The map in which these frames are faulty, whatever firmware says.
    pub fn without(mut self, faulty: &RangeSet<MAX_FAULTY>) -> Self {
        self.nr_ranges = 0;
        self.normalise(faulty);
        self
    }

    /// Fills `ranges` from `entries` and what is faulty beside.
    fn normalise(&mut self, faulty: &RangeSet<MAX_FAULTY>) {
        // Every place where the answer may change: both ends of each entry, and both of frame 0.
        let mut cuts = [0u64; 2 * (MAX_ENTRIES + MAX_FAULTY) + 2];
        let mut nr_cuts = 2;
        cuts[1] = 1;
        let named = self.entries[..self.nr_entries].iter().map(FirmwareEntry::frames);
        for range in named.chain(faulty.iter()).filter(|r| !r.is_empty()) {
            cuts[nr_cuts] = range.start();
            cuts[nr_cuts + 1] = range.end();
            nr_cuts += 2;
        }
        let cuts = &mut cuts[..nr_cuts];
        cuts.sort_unstable();
        for pair in cuts.windows(2).filter(|pair| pair[0] < pair[1]) {
            let piece = MfnRange::between(pair[0], pair[1]).expect("cuts are sorted and end at the limit of frames");
            let kind = if faulty.overlaps(piece) { Some(Kind::Unusable) } else { self.least_usable(piece) };
            if let Some(kind) = kind {
                self.push(piece, kind);
            }
        }
    }

    /// What firmware says about a piece that no entry covers in part, if any entry names it.
    fn least_usable(&self, piece: MfnRange) -> Option<Kind> {
        let covering = self.entries[..self.nr_entries].iter().filter(|entry| entry.frames().overlaps(piece));
        let kind = covering.map(FirmwareEntry::kind).max()?;
        if kind == Kind::Ram && piece.start() == 0 { Some(Kind::Reserved) } else { Some(kind) }
    }

    /// Appends a piece that lies behind all others, joined with the last if it continues it.
    fn push(&mut self, piece: MfnRange, kind: Kind) {
        if let Some((last, last_kind)) = self.ranges[..self.nr_ranges].last_mut()
            && *last_kind == kind
            && last.end() == piece.start()
        {
            *last = MfnRange::between(last.start(), piece.end()).expect("pieces come in ascending order");
            return;
        }
        assert!(self.nr_ranges < MAX_RANGES, "MAX_RANGES: 2n - 1 pieces and one for frame 0");
        self.ranges[self.nr_ranges] = (piece, kind);
        self.nr_ranges += 1;
    }

    /// The entries as firmware gave them, in that order: what the incoming build is told.
    pub fn firmware_entries(&self) -> &[FirmwareEntry] {
        &self.entries[..self.nr_entries]
    }

    fn ranges(&self) -> &[(MfnRange, Kind)] {
        &self.ranges[..self.nr_ranges]
    }

    /// All ranges that firmware names, ascending; neighbours differ in kind or have a hole between them.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (MfnRange, Kind)> + Clone + '_ {
        self.ranges().iter().copied()
    }

    /// The ranges of RAM, ascending, never with frame 0.
    pub fn ram(&self) -> impl DoubleEndedIterator<Item = MfnRange> + Clone + '_ {
        self.iter().filter(|&(_, kind)| kind == Kind::Ram).map(|(range, _)| range)
    }

    /// Ranges that firmware calls RAM, in its order, with frames that others call something else or that are faulty.
    pub fn ram_as_given(&self) -> impl Iterator<Item = MfnRange> + '_ {
        self.firmware_entries().iter().filter(|entry| entry.kind() == Kind::Ram).map(FirmwareEntry::frames)
    }

    /// The parts of the ranges of RAM that lie below frame number `limit`, ascending.
    pub fn ram_below(&self, limit: u64) -> impl DoubleEndedIterator<Item = MfnRange> + Clone + '_ {
        let below = MfnRange::between(0, limit.min(Mfn::LIMIT)).unwrap_or(MfnRange::EMPTY);
        self.ram().map(move |range| range.intersection(below)).filter(|range| !range.is_empty())
    }

    /// Frames of RAM.
    pub fn ram_frames(&self) -> u64 {
        self.ram().map(MfnRange::nr_frames).sum()
    }

    /// The first frame number behind the last RAM; 0 if there is none.
    pub fn end(&self) -> u64 {
        self.ram().next_back().map_or(0, MfnRange::end)
    }

    /// What firmware says that a frame is; nothing for a hole.
    pub fn kind_at(&self, mfn: Mfn) -> Option<Kind> {
        let at = self.ranges().partition_point(|(r, _)| r.end() <= mfn.get());
        self.ranges().get(at).filter(|(r, _)| r.contains(mfn)).map(|&(_, kind)| kind)
    }

    /// True if all of `range` is RAM; an empty range is.
    pub fn is_ram(&self, range: MfnRange) -> bool {
        self.first_not_ram(range).is_none()
    }

    /// The lowest part of `range` that is not RAM, as far as it is of one kind.
    pub fn first_not_ram(&self, range: MfnRange) -> Option<NotRam> {
        let mut at = range.start();
        for (named, kind) in self.iter().filter(|(named, _)| named.overlaps(range)) {
            if named.start() > at {
                return MfnRange::between(at, named.start()).map(|range| NotRam { range, kind: None });
            }
            if kind != Kind::Ram {
                return Some(NotRam { range: named.intersection(range), kind: Some(kind) });
            }
            at = named.end();
        }
        MfnRange::between(at, range.end()).filter(|r| !r.is_empty()).map(|range| NotRam { range, kind: None })
    }
}

impl fmt::Debug for MemMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ranges()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    const RAM: u32 = 1;
    const RESERVED: u32 = 2;
    const NVS: u32 = 4;

    fn entry(start: u64, len_bytes: u64, number: u32) -> FirmwareEntry {
        FirmwareEntry { start, len_bytes, number }
    }

    fn map(entries: &[FirmwareEntry]) -> MemMap {
        MemMap::from_firmware(entries.iter().copied()).unwrap()
    }

    fn shape(map: &MemMap) -> Vec<(u64, u64, Kind)> {
        map.iter().map(|(r, kind)| (r.start(), r.end(), kind)).collect()
    }

    #[test]
    fn a_pc_with_its_hole() {
        // QEMU's q35 with 3 GiB, out of order.
        let map = map(&[
            entry(0x1_0000_0000, 0x4000_0000, RAM),
            entry(0, 0x9_fc00, RAM),
            entry(0x9_fc00, 0x400, RESERVED),
            entry(0xf_0000, 0x1_0000, RESERVED),
            entry(0x10_0000, 0x7fee_0000, RAM),
            entry(0x7ffe_0000, 0x2_0000, RESERVED),
            entry(0xb000_0000, 0x1000_0000, RESERVED),
        ]);
        assert_eq!(
            shape(&map),
            [
                (0, 1, Kind::Reserved),
                (1, 0x9f, Kind::Ram),
                (0x9f, 0xa0, Kind::Reserved),
                (0xf0, 0x100, Kind::Reserved),
                (0x100, 0x7_ffe0, Kind::Ram),
                (0x7_ffe0, 0x8_0000, Kind::Reserved),
                (0xb_0000, 0xc_0000, Kind::Reserved),
                (0x10_0000, 0x14_0000, Kind::Ram),
            ]
        );
        assert_eq!(map.ram_frames(), 0x9e + 0x7_fee0 + 0x4_0000);
        assert_eq!(map.end(), 0x14_0000);
        assert_eq!(map.kind_at(Mfn::new(0xa0)), None);
        assert_eq!(map.kind_at(Mfn::new(0x9f)), Some(Kind::Reserved));
        assert_eq!(map.firmware_entries()[0], entry(0x1_0000_0000, 0x4000_0000, RAM));
        assert_eq!(map.ram_below(0x101).map(|r| (r.start(), r.end())).collect::<Vec<_>>(), [(1, 0x9f), (0x100, 0x101)]);
        assert_eq!(map.ram_below(0).count(), 0);
        assert_eq!(map.ram_below(u64::MAX).count(), 3);
    }

    #[test]
    fn edges() {
        type Case = (&'static str, Vec<FirmwareEntry>, Vec<(u64, u64, Kind)>);
        let cases: Vec<Case> = vec![
            ("nothing", vec![], vec![]),
            ("no length", vec![entry(0x5000, 0, RAM), entry(0x5800, 0, RESERVED)], vec![]),
            ("RAM smaller than a frame", vec![entry(0x5001, 0xfff, RAM)], vec![]),
            ("one reserved byte takes its frame", vec![entry(0x5fff, 1, RESERVED)], vec![(5, 6, Kind::Reserved)]),
            ("RAM is rounded inwards", vec![entry(0x5001, 0x2fff, RAM)], vec![(6, 8, Kind::Ram)]),
            (
                "reserved is rounded outwards over RAM",
                vec![entry(0x5000, 0x3000, RAM), entry(0x6fff, 2, NVS)],
                vec![(5, 6, Kind::Ram), (6, 8, Kind::AcpiNvs)],
            ),
            ("frame 0 alone", vec![entry(0, 0x1000, RAM)], vec![(0, 1, Kind::Reserved)]),
            ("frame 0 stays what it is worse than RAM", vec![entry(0, 0x1000, NVS)], vec![(0, 1, Kind::AcpiNvs)]),
            ("neighbours join", vec![entry(0x2000, 0x1000, RAM), entry(0x1000, 0x1000, RAM)], vec![(1, 3, Kind::Ram)]),
            (
                "RAM over the end of the address space is cut at the last frame",
                vec![entry((1 << 52) - 0x2000, u64::MAX, RAM)],
                vec![((1 << 40) - 2, 1 << 40, Kind::Ram)],
            ),
            ("RAM behind the last frame is none", vec![entry(1 << 60, 1 << 20, RAM)], vec![]),
            ("the last byte of 2^64", vec![entry(u64::MAX, u64::MAX, RESERVED), entry(u64::MAX, 1, RAM)], vec![]),
            (
                "an entry that wraps says nothing about low memory",
                vec![entry(0x1000, 0x1000, RAM), entry(u64::MAX - 0xfff, 0x3000, RESERVED)],
                vec![(1, 2, Kind::Ram)],
            ),
            ("an unknown number is reserved", vec![entry(0x1000, 0x1000, 99)], vec![(1, 2, Kind::Reserved)]),
            (
                "less usable wins in either order",
                vec![
                    entry(0x1000, 0x6000, RESERVED),
                    entry(0x2000, 0x6000, RAM),
                    entry(0x3000, 0x1000, 5),
                    entry(0x4000, 0x1000, 7),
                ],
                vec![(1, 3, Kind::Reserved), (3, 4, Kind::Unusable), (4, 7, Kind::Reserved), (7, 8, Kind::Ram)],
            ),
        ];
        for (what, entries, expected) in cases {
            assert_eq!(shape(&map(&entries)), expected, "{what}");
        }
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let map = map(&[entry(0x1000, 0x4000, RAM), entry(0x3000, 0x1000, NVS), entry(0x8000, 0x1000, RAM)]);
        let first = |start, end| map.first_not_ram(MfnRange::between(start, end).unwrap());
        let named = |start, end, kind| Some(NotRam { range: MfnRange::between(start, end).unwrap(), kind });
        assert_eq!(first(1, 3), None);
        assert_eq!(first(4, 5), None);
        assert_eq!(first(7, 7), None);
        assert_eq!(first(0, 3), named(0, 1, None));
        assert_eq!(first(1, 9), named(3, 4, Some(Kind::AcpiNvs)));
        assert_eq!(first(4, 9), named(5, 8, None));
        assert_eq!(first(8, 20), named(9, 20, None));
        assert_eq!(first(20, 30), named(20, 30, None));
    }

    #[test]
    fn faulty_frames_are_no_ram_and_are_not_handed_on() {
        let given = map(&[entry(0, 0x10_0000, RAM), entry(0x10_0000, 0x1000, NVS)]);
        let mut faulty = RangeSet::new();
        for (start, end) in [(0, 2), (0x10, 0x12), (0xff, 0x101), (0x200, 0x201)] {
            faulty.insert(MfnRange::between(start, end).unwrap()).unwrap();
        }
        let made = given.clone().without(&faulty);
        let bad = |start, end| (start, end, Kind::Unusable);
        let expected = [
            bad(0, 2),
            (2, 0x10, Kind::Ram),
            bad(0x10, 0x12),
            (0x12, 0xff, Kind::Ram),
            bad(0xff, 0x101),
            bad(0x200, 0x201),
        ];
        assert_eq!(shape(&made), expected);
        assert_eq!(made.firmware_entries(), given.firmware_entries());
        assert_eq!(shape(&made.without(&RangeSet::new())), shape(&given), "nothing of it stays");
    }

    #[test]
    fn the_most_ranges_that_entries_can_come_to_do_fit() {
        let mut entries = vec![entry(0, 0x100_0000, RAM)];
        entries.extend((0..MAX_ENTRIES as u64 - 1).map(|i| entry(0x2000 + i * 0x2000, 0x1000, RESERVED)));
        assert_eq!(map(&entries).iter().count(), 2 * MAX_ENTRIES);
        let mut faulty = RangeSet::new();
        (0..MAX_FAULTY as u64).for_each(|i| faulty.insert(MfnRange::new(Mfn::new(0x800 + 2 * i), 1)).unwrap());
        assert_eq!(map(&entries).without(&faulty).iter().count(), MAX_RANGES);
        entries.push(entry(0, 0, RAM));
        let refused = MemMap::from_firmware(entries.iter().copied()).unwrap_err();
        assert_eq!(refused, MemMapError::TooMany { found: MAX_ENTRIES + 1, limit: MAX_ENTRIES });
    }

    const SPACE: u64 = 64;

    fn firmware() -> impl Strategy<Value = Vec<FirmwareEntry>> {
        // Byte addresses in quarters of a frame make unaligned ends common.
        let one = (0..SPACE * 4, 0..80u64, 0..10u32);
        let one = one.prop_map(|(start, len, number)| entry(start * 0x400, len * 0x400, number));
        prop::collection::vec(one, 0..20)
    }

    proptest! {
        #[test]
        fn every_frame_is_what_the_entries_say(entries in firmware(), probe in (0..SPACE, 0..SPACE)) {
            let map = map(&entries);
            // The model asks byte quarters: a frame is RAM if one RAM entry has all of it and no other kind touches it.
            let model = |frame: u64| -> Option<Kind> {
                let (first, behind) = (frame * 0x1000, (frame + 1) * 0x1000);
                let kinds = entries.iter().filter(|e| match e.kind() {
                    Kind::Ram => e.start <= first && behind <= e.start + e.len_bytes,
                    _ => e.len_bytes > 0 && e.start < behind && first < e.start + e.len_bytes,
                });
                let worst = kinds.map(|e| e.kind()).max();
                if frame == 0 && worst == Some(Kind::Ram) { Some(Kind::Reserved) } else { worst }
            };
            let mut nr_ram = 0;
            for frame in 0..SPACE + 32 {
                prop_assert_eq!(map.kind_at(Mfn::new(frame)), model(frame), "frame {}", frame);
                nr_ram += u64::from(model(frame) == Some(Kind::Ram));
            }
            prop_assert_eq!(map.ram_frames(), nr_ram);
            prop_assert_eq!(map.end(), (0..SPACE + 32).rev().find(|&f| model(f) == Some(Kind::Ram)).map_or(0, |f| f + 1));
            for ((a, ka), (b, kb)) in map.iter().zip(map.iter().skip(1)) {
                prop_assert!(a.end() < b.start() || (a.end() == b.start() && ka != kb));
            }
            let (start, end) = (probe.0.min(probe.1), probe.0.max(probe.1));
            let probe = MfnRange::between(start, end).unwrap();
            let wrong = (start..end).find(|&f| model(f) != Some(Kind::Ram));
            prop_assert_eq!(map.is_ram(probe), wrong.is_none());
            prop_assert_eq!(map.first_not_ram(probe).map(|n| (n.range.start(), n.kind)), wrong.map(|f| (f, model(f))));
        }

        #[test]
        fn the_kept_entries_make_the_same_map(entries in prop::collection::vec(
            (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(s, l, n)| entry(s, l, n)), 0..=MAX_ENTRIES)) {
            let first = map(&entries);
            prop_assert_eq!(first.firmware_entries(), &entries[..]);
            let second = map(first.firmware_entries());
            prop_assert_eq!(shape(&first), shape(&second));
        }

        #[test]
        fn order_does_not_matter(mut entries in firmware(), turn in any::<prop::sample::Index>()) {
            let before = shape(&map(&entries));
            if !entries.is_empty() {
                let n = turn.index(entries.len());
                entries.rotate_left(n);
            }
            prop_assert_eq!(shape(&map(&entries)), before);
        }
    }
}
