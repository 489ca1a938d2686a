//! Machine addresses, frame numbers, orders and frame ranges: the words that everything else is said in.
//!
//! Every number that names memory has a type of its own, so that a guest's frame cannot be taken for the machine's. A
//! value that exists is in range: [`Maddr`] below 2^52 (the architectural limit, SDM vol. 3A §4.1.4), frame numbers below 2^40.
//! Ranges are half-open, print as `[0x100000, 0x200000)`, and may be empty.

use core::fmt;

/// log2 of the frame size.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a frame.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Frames in a 2 MiB chunk, the unit of the frametable's upper level.
pub const CHUNK_FRAMES: u64 = 512;
/// Bytes in a 2 MiB chunk.
pub const CHUNK_SIZE: u64 = CHUNK_FRAMES * PAGE_SIZE;
/// Bits of a machine address.
pub const MADDR_BITS: u32 = 52;
/// Bits of a frame number.
pub const FRAME_BITS: u32 = MADDR_BITS - PAGE_SHIFT;

/// A number does not fit the type that it was meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange {
    /// The number found.
    pub found: u64,
    /// The first number that is too large.
    pub limit: u64,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} is out of range, the limit is {:#x}", self.found, self.limit)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $bits:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The first value that is too large.
            pub const LIMIT: u64 = 1 << $bits;
            /// Zero.
            pub const ZERO: Self = Self(0);

            /// Takes a number that comes from outside.
            pub const fn try_new(value: u64) -> Result<Self, OutOfRange> {
                if value < Self::LIMIT {
                    Ok(Self(value))
                } else {
                    Err(OutOfRange { found: value, limit: Self::LIMIT })
                }
            }

            /// Takes a number known to be in range: constants and tests.
            ///
            /// # Panics
            /// If it is not.
            #[track_caller]
            pub const fn new(value: u64) -> Self {
                assert!(value < Self::LIMIT, "number out of range");
                Self(value)
            }

            /// The number itself.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The value `n` further on, if there is one.
            pub const fn checked_add(self, n: u64) -> Option<Self> {
                match self.0.checked_add(n) {
                    Some(v) if v < Self::LIMIT => Some(Self(v)),
                    _ => None,
                }
            }

            /// The value `n` further on.
            ///
            /// # Panics
            /// If it is out of range: for sums that an earlier check has bounded.
            #[track_caller]
            pub const fn offset(self, n: u64) -> Self {
                match self.checked_add(n) {
                    Some(v) => v,
                    None => panic!("frame arithmetic out of range"),
                }
            }

            /// True if the value is a multiple of `1 << order`.
            pub const fn is_aligned(self, order: Order) -> bool {
                self.0 & (order.nr_frames() - 1) == 0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// A machine (host-physical) byte address.
    Maddr,
    MADDR_BITS
);
number!(
    /// A machine frame number: a machine address shifted right by 12.
    Mfn,
    FRAME_BITS
);
number!(
    /// A PV guest's pseudo-physical frame number.
    Pfn,
    FRAME_BITS
);

impl Maddr {
    /// The frame that holds this byte.
    pub const fn mfn_containing(self) -> Mfn {
        Mfn(self.0 >> PAGE_SHIFT)
    }

    /// Byte offset inside the frame, 0 to 4095.
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl Mfn {
    /// The address of the frame's first byte.
    pub const fn maddr(self) -> Maddr {
        Maddr(self.0 << PAGE_SHIFT)
    }

    /// Index of the 2 MiB chunk that holds the frame.
    pub const fn chunk(self) -> u64 {
        self.0 / CHUNK_FRAMES
    }

    /// Index of the frame inside its 2 MiB chunk, 0 to 511.
    pub const fn index_in_chunk(self) -> usize {
        (self.0 % CHUNK_FRAMES) as usize
    }
}

/// log2 of the frames in a block, 0 (4 KiB) to 18 (1 GiB), as Xen's MAX_ORDER on x86.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order(u8);

impl Order {
    /// One frame.
    pub const PAGE: Self = Self(0);
    /// 2 MiB.
    pub const CHUNK: Self = Self(9);
    /// 1 GiB, the largest block.
    pub const MAX: Self = Self(18);

    /// Takes an order that comes from outside.
    pub const fn try_new(value: u64) -> Result<Self, OutOfRange> {
        if value <= Self::MAX.0 as u64 {
            Ok(Self(value as u8))
        } else {
            Err(OutOfRange { found: value, limit: Self::MAX.0 as u64 + 1 })
        }
    }

    /// Takes an order known to be in range: constants and tests.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub const fn new(value: u8) -> Self {
        assert!(value <= Self::MAX.0, "order out of range");
        Self(value)
    }

    /// The smallest order that holds `nr_frames`, if a block can be that large; one frame for 0.
    pub const fn holding(nr_frames: u64) -> Option<Self> {
        let mut order = 0u8;
        while order <= Self::MAX.0 {
            if (1u64 << order) >= nr_frames {
                return Some(Self(order));
            }
            order += 1;
        }
        None
    }

    /// The number itself.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Frames in a block of this order.
    pub const fn nr_frames(self) -> u64 {
        1 << self.0
    }

    /// Bytes in a block of this order.
    pub const fn len_bytes(self) -> u64 {
        PAGE_SIZE << self.0
    }

    /// The next larger order, if there is one.
    pub const fn larger(self) -> Option<Self> {
        if self.0 < Self::MAX.0 { Some(Self(self.0 + 1)) } else { None }
    }

    /// The next smaller order, if there is one.
    pub const fn smaller(self) -> Option<Self> {
        if self.0 > 0 { Some(Self(self.0 - 1)) } else { None }
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Order({})", self.0)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A half-open range of machine frames.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MfnRange {
    start: u64,
    end: u64,
}

impl MfnRange {
    /// The range that holds nothing.
    pub const EMPTY: Self = Self { start: 0, end: 0 };

    /// `[start, start + nr_frames)`, if it ends at or below the limit of frame numbers.
    pub const fn try_new(start: Mfn, nr_frames: u64) -> Result<Self, OutOfRange> {
        match start.0.checked_add(nr_frames) {
            Some(end) if end <= Mfn::LIMIT => Ok(Self { start: start.0, end }),
            Some(end) => Err(OutOfRange { found: end, limit: Mfn::LIMIT + 1 }),
            None => Err(OutOfRange { found: u64::MAX, limit: Mfn::LIMIT + 1 }),
        }
    }

    /// `[start, start + nr_frames)` for constants, tests and sums that an earlier check has bounded.
    ///
    /// # Panics
    /// If it does not fit.
    #[track_caller]
    pub const fn new(start: Mfn, nr_frames: u64) -> Self {
        match Self::try_new(start, nr_frames) {
            Ok(range) => range,
            Err(_) => panic!("frame range out of range"),
        }
    }

    /// The range between two raw frame numbers, if they are in order and in range.
    pub const fn between(start: u64, end: u64) -> Option<Self> {
        if start <= end && end <= Mfn::LIMIT { Some(Self { start, end }) } else { None }
    }

    /// The whole frames inside the byte range `[start, start + len_bytes)`: the start rounded up, the end down.
    pub const fn frames_inside(start: u64, len_bytes: u64) -> Self {
        let end = start.saturating_add(len_bytes) >> PAGE_SHIFT;
        let first = start.saturating_add(PAGE_SIZE - 1) >> PAGE_SHIFT;
        let end = if end > Mfn::LIMIT { Mfn::LIMIT } else { end };
        if first < end { Self { start: first, end } } else { Self { start: end, end } }
    }

    /// All frames touched by the byte range `[start, start + len_bytes)`: the start rounded down, the end up.
    pub const fn frames_touched(start: u64, len_bytes: u64) -> Self {
        let end = start.saturating_add(len_bytes).saturating_add(PAGE_SIZE - 1) >> PAGE_SHIFT;
        let end = if end > Mfn::LIMIT { Mfn::LIMIT } else { end };
        let first = start >> PAGE_SHIFT;
        if len_bytes != 0 && first < end { Self { start: first, end } } else { Self { start: end, end } }
    }

    /// First frame number, as a plain number: an empty range may start at the limit.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// First frame number behind the range.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// The first frame, unless the range is empty.
    pub const fn first(self) -> Option<Mfn> {
        if self.start < self.end { Some(Mfn(self.start)) } else { None }
    }

    /// Frames in the range.
    pub const fn nr_frames(self) -> u64 {
        self.end - self.start
    }

    /// Bytes in the range.
    pub const fn len_bytes(self) -> u64 {
        self.nr_frames() << PAGE_SHIFT
    }

    /// True if it holds nothing.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// True if the frame lies in it.
    pub const fn contains(self, mfn: Mfn) -> bool {
        self.start <= mfn.0 && mfn.0 < self.end
    }

    /// True if all of `other` lies in it; an empty range lies in every range.
    pub const fn contains_range(self, other: Self) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// What both have; empty if nothing.
    pub const fn intersection(self, other: Self) -> Self {
        let start = if self.start > other.start { self.start } else { other.start };
        let end = if self.end < other.end { self.end } else { other.end };
        if start < end { Self { start, end } } else { Self::EMPTY }
    }

    /// True if they share a frame.
    pub const fn overlaps(self, other: Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// The frames, in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Mfn> {
        (self.start..self.end).map(Mfn)
    }

    /// Splits the range into naturally aligned blocks of at most `largest`, in ascending order, as few as possible.
    pub fn blocks(self, largest: Order) -> impl Iterator<Item = (Mfn, Order)> {
        let mut at = self.start;
        core::iter::from_fn(move || {
            if at == self.end {
                return None;
            }
            let by_align = if at == 0 { Order::MAX.0 as u32 } else { at.trailing_zeros() };
            let by_len = (self.end - at).ilog2();
            let order = Order(by_align.min(by_len).min(largest.0 as u32) as u8);
            let block = Mfn(at);
            at += order.nr_frames();
            Some((block, order))
        })
    }
}

impl fmt::Debug for MfnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mfn [{:#x}, {:#x})", self.start, self.end)
    }
}

/// Prints the byte addresses, as every message about memory does.
impl fmt::Display for MfnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x})", self.start << PAGE_SHIFT, self.end << PAGE_SHIFT)
    }
}

/// A domain's number. Numbers from 0x7FF0 on are Xen's reserved ones (public/xen.h).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DomId(u16);

impl DomId {
    /// The caller itself.
    pub const SELF: Self = Self(0x7ff0);
    /// Owner of low memory and I/O frames.
    pub const IO: Self = Self(0x7ff1);
    /// Owner of what the hypervisor itself preserves: M2P, modules, staged images, the log.
    pub const XEN: Self = Self(0x7ff2);
    /// Owner of the pages of the stream while the incoming side reads it; luxen's own, no Xen number.
    pub const STREAM: Self = Self(0x7ff5);
    /// No domain.
    pub const INVALID: Self = Self(0x7ff4);
    /// Numbers below this are ordinary domains.
    pub const FIRST_RESERVED: u16 = 0x7ff0;

    /// Takes any number.
    pub const fn new(value: u16) -> Self {
        Self(value)
    }

    /// The number itself.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// True for an ordinary domain's number.
    pub const fn is_domain(self) -> bool {
        self.0 < Self::FIRST_RESERVED
    }
}

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::XEN => f.write_str("xen"),
            Self::IO => f.write_str("io"),
            Self::STREAM => f.write_str("stream"),
            Self(n) => write!(f, "d{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn numbers_refuse_what_does_not_fit() {
        assert_eq!(Mfn::try_new((1 << 40) - 1).unwrap().maddr().get(), (1 << 52) - 4096);
        assert_eq!(Mfn::try_new(1 << 40), Err(OutOfRange { found: 1 << 40, limit: 1 << 40 }));
        assert_eq!(Mfn::new((1 << 40) - 1).checked_add(1), None);
        assert!(Order::try_new(19).is_err());
    }

    #[test]
    fn byte_ranges_round_inwards_and_outwards() {
        let inside = MfnRange::frames_inside(0x1001, 0x2fff);
        assert_eq!((inside.start(), inside.end()), (2, 4));
        let touched = MfnRange::frames_touched(0x1fff, 2);
        assert_eq!((touched.start(), touched.end()), (1, 3));
        assert!(MfnRange::frames_inside(0x1001, 0x800).is_empty());
        assert!(MfnRange::frames_touched(0x1000, 0).is_empty());
        assert!(MfnRange::frames_inside(u64::MAX - 10, u64::MAX).is_empty());
    }

    #[test]
    fn blocks_cover_the_range_once_and_are_aligned() {
        for (start, end) in [(0u64, 1u64 << 19), (1, 1024), (511, 513), (3, 3), (0x100, 0x40301)] {
            let range = MfnRange::between(start, end).unwrap();
            let blocks: Vec<_> = range.blocks(Order::MAX).collect();
            let mut at = start;
            for (mfn, order) in blocks {
                assert_eq!(mfn.get(), at);
                assert!(mfn.is_aligned(order));
                at += order.nr_frames();
            }
            assert_eq!(at, end);
        }
    }

    #[test]
    fn order_holding_is_the_least() {
        assert_eq!(Order::holding(0), Some(Order::PAGE));
        assert_eq!(Order::holding(513), Some(Order::new(10)));
        assert_eq!(Order::holding(1 << 18), Some(Order::MAX));
        assert_eq!(Order::holding((1 << 18) + 1), None);
    }
}
