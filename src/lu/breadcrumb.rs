//! The breadcrumb: the region's first 64 bits, through which the incoming side finds the MFN list.
//!
//! The outgoing side's relocation code writes it as its very last act (a WRITE64 entry of the kimage), so it stands for
//! "everything is ready". The incoming side takes it before it allocates anything, once: it is cleared before it is
//! looked at, so that neither a crash while restoring nor a reset of the machine can follow it a second time (I4).
//!
//! Zero is absent: a cold boot, and no error. Anything else must be the page-aligned address of a frame in RAM outside the
//! region. Whether a list lies there is for [`mfn_list`](super::mfn_list) to say.
//!
//! Source: DESIGN §3.3, §3.4; docs/handover.md.

use crate::frame::{Maddr, Mfn, MfnRange, PAGE_SIZE};
use crate::mm::physmem::PhysMem;
use core::fmt;

/// The value that means "no update": what a region holds that nobody handed anything to.
pub const ABSENT: u64 = 0;
/// Where in the region it is.
pub const OFFSET: u64 = 0;

const _: () = assert!(ABSENT == 0 && OFFSET == 0);

/// Why a breadcrumb that is there cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreadcrumbError {
    /// It is not a multiple of the page size.
    Unaligned {
        /// The 64 bits found.
        found: u64,
    },
    /// It is above the limit of machine addresses.
    TooLarge {
        /// The 64 bits found.
        found: u64,
    },
    /// It points into the region, where nothing survives.
    InRegion {
        /// The 64 bits found.
        found: u64,
        /// The region.
        region: MfnRange,
    },
    /// It points to something that is not RAM.
    NotRam {
        /// The 64 bits found.
        found: u64,
    },
}

impl fmt::Display for BreadcrumbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unaligned { found } => write!(f, "the breadcrumb {found:#x} is not page aligned"),
            Self::TooLarge { found } => write!(f, "the breadcrumb {found:#x} is not a machine address"),
            Self::InRegion { found, region } => write!(f, "the breadcrumb {found:#x} points into the region {region}"),
            Self::NotRam { found } => write!(f, "the breadcrumb {found:#x} does not point to RAM"),
        }
    }
}

/// What the outgoing side has to leave in the region's first 64 bits for a list whose root is `root`.
///
/// # Panics
/// For frame 0, which would read as absent: [`mfn_list::write`](super::mfn_list::write) refuses it as a root.
pub fn value(root: Mfn) -> u64 {
    assert!(root != Mfn::ZERO, "frame 0 cannot hold the MFN list");
    root.maddr().get()
}

/// Clears the breadcrumb of a region that nothing is expected in.
pub fn clear<M: PhysMem + ?Sized>(mem: &M, region: MfnRange) {
    if let Some(first) = region.first() {
        mem.write_u64(first.maddr().offset(OFFSET), ABSENT);
    }
}

/// Takes the breadcrumb out of the region: copies it, clears it, and then checks it.
///
/// None if there is none, or no region. `is_ram` says whether a whole range is RAM where the outgoing side may have put
/// something.
pub fn take<M: PhysMem + ?Sized>(
    mem: &M,
    region: MfnRange,
    is_ram: impl Fn(MfnRange) -> bool,
) -> Result<Option<Mfn>, BreadcrumbError> {
    let Some(first) = region.first() else {
        return Ok(None);
    };
    let place = first.maddr().offset(OFFSET);
    let found = mem.read_u64(place);
    mem.write_u64(place, ABSENT);
    if found == ABSENT {
        return Ok(None);
    }
    let Ok(maddr) = Maddr::try_new(found) else {
        return Err(BreadcrumbError::TooLarge { found });
    };
    if !found.is_multiple_of(PAGE_SIZE) {
        return Err(BreadcrumbError::Unaligned { found });
    }
    let root = maddr.mfn_containing();
    if region.contains(root) {
        return Err(BreadcrumbError::InRegion { found, region });
    }
    match MfnRange::try_new(root, 1) {
        Ok(frame) if is_ram(frame) => Ok(Some(root)),
        _ => Err(BreadcrumbError::NotRam { found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::physmem::sparse::SparseMem;
    use proptest::prelude::*;

    fn region() -> MfnRange {
        MfnRange::new(Mfn::new(0x10_0000 >> 1), 0x4000)
    }

    fn is_ram(range: MfnRange) -> bool {
        MfnRange::new(Mfn::new(0x100), 0x10_0000).contains_range(range)
    }

    fn take_of(found: u64) -> (Result<Option<Mfn>, BreadcrumbError>, u64) {
        let mem = SparseMem::new();
        let place = region().first().unwrap().maddr();
        mem.write_u64(place, found);
        let taken = take(&mem, region(), is_ram);
        (taken, mem.read_u64(place))
    }

    #[test]
    fn it_is_cleared_whatever_it_is_and_followed_only_if_it_can_be() {
        use BreadcrumbError::*;
        let region = region();
        let start = region.start() << 12;
        let end = region.end() << 12;
        let cases = [
            (0, Ok(None)),
            (0x20_0000, Ok(Some(Mfn::new(0x200)))),
            (start - 0x1000, Ok(Some(Mfn::new(region.start() - 1)))),
            (end, Ok(Some(Mfn::new(region.end())))),
            (start, Err(InRegion { found: start, region })),
            (end - 0x1000, Err(InRegion { found: end - 0x1000, region })),
            (0x20_0001, Err(Unaligned { found: 0x20_0001 })),
            (0x20_0800, Err(Unaligned { found: 0x20_0800 })),
            (1 << 52, Err(TooLarge { found: 1 << 52 })),
            (u64::MAX, Err(TooLarge { found: u64::MAX })),
            (0xf_f000, Err(NotRam { found: 0xf_f000 })),
            ((1 << 52) - 0x1000, Err(NotRam { found: (1 << 52) - 0x1000 })),
        ];
        for (found, expected) in cases {
            assert_eq!(take_of(found), (expected, 0), "{found:#x}");
        }
    }

    #[test]
    fn it_is_found_once() {
        let mem = SparseMem::new();
        mem.write_u64(region().first().unwrap().maddr(), value(Mfn::new(0x123)));
        assert_eq!(take(&mem, region(), is_ram), Ok(Some(Mfn::new(0x123))));
        assert_eq!(take(&mem, region(), is_ram), Ok(None));
    }

    #[test]
    fn without_a_region_there_is_none() {
        let mem = SparseMem::new();
        mem.write_u64(Maddr::ZERO, 0x20_0000);
        assert_eq!(take(&mem, MfnRange::EMPTY, is_ram), Ok(None));
        assert_eq!(mem.read_u64(Maddr::ZERO), 0x20_0000);
    }

    proptest! {
        #[test]
        fn what_is_taken_is_ram_outside_the_region(found: u64) {
            let (taken, left) = take_of(found);
            prop_assert_eq!(left, 0);
            if let Ok(Some(root)) = taken {
                prop_assert_eq!(value(root), found);
                prop_assert!(!region().contains(root) && is_ram(MfnRange::new(root, 1)));
            }
        }
    }
}
