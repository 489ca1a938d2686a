//! Grant tables as a guest sees them (public/grant_table.h), and what the grants guests write into their pages.

use crate::pattern::PagePattern;
use core::fmt;
use core::mem::{offset_of, size_of};

/// Sub-operations, flags and numbers.
pub mod op {
    #![allow(missing_docs, reason = "the names are the header's names")]
    pub const MAP_GRANT_REF: u64 = 0;
    pub const UNMAP_GRANT_REF: u64 = 1;
    pub const SETUP_TABLE: u64 = 2;
    pub const DUMP_TABLE: u64 = 3;
    pub const TRANSFER: u64 = 4;
    pub const COPY: u64 = 5;
    pub const QUERY_SIZE: u64 = 6;
    pub const UNMAP_AND_REPLACE: u64 = 7;
    pub const SET_VERSION: u64 = 8;
    pub const GET_STATUS_FRAMES: u64 = 9;
    pub const GET_VERSION: u64 = 10;
    pub const SWAP_GRANT_REF: u64 = 11;
    pub const CACHE_FLUSH: u64 = 12;

    pub const GTF_PERMIT_ACCESS: u16 = 1;
    pub const GTF_READONLY: u16 = 1 << 2;
    pub const GTF_READING: u16 = 1 << 3;
    pub const GTF_WRITING: u16 = 1 << 4;
    pub const GTF_SUB_PAGE: u16 = 1 << 8;

    pub const GNTMAP_DEVICE_MAP: u32 = 1;
    pub const GNTMAP_HOST_MAP: u32 = 1 << 1;
    pub const GNTMAP_READONLY: u32 = 1 << 2;
    pub const GNTMAP_CONTAINS_PTE: u32 = 1 << 4;

    pub const GNTCOPY_SOURCE_GREF: u16 = 1;
    pub const GNTCOPY_DEST_GREF: u16 = 1 << 1;

    pub const CACHE_CLEAN: u32 = 1;
    pub const CACHE_INVAL: u32 = 1 << 1;

    pub const NR_RESERVED_ENTRIES: u32 = 8;
}

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub i16);

impl Status {
    #![allow(missing_docs, reason = "the names are the header's names")]
    pub const OKAY: Status = Status(0);
    pub const GENERAL_ERROR: Status = Status(-1);
    pub const BAD_DOMAIN: Status = Status(-2);
    pub const BAD_GNTREF: Status = Status(-3);
    pub const BAD_HANDLE: Status = Status(-4);
    pub const BAD_DEV_ADDR: Status = Status(-6);
    pub const PERMISSION_DENIED: Status = Status(-8);
    pub const BAD_PAGE: Status = Status(-9);
    pub const BAD_COPY_ARG: Status = Status(-10);
    pub const EAGAIN: Status = Status(-12);
    /// What stands there before the hypervisor writes.
    pub const UNSET: Status = Status(0x5555);
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "okay",
            -1 => "general_error",
            -2 => "bad_domain",
            -3 => "bad_gntref",
            -4 => "bad_handle",
            -5 => "bad_virt_addr",
            -6 => "bad_dev_addr",
            -8 => "permission_denied",
            -9 => "bad_page",
            -10 => "bad_copy_arg",
            -12 => "eagain",
            -13 => "no_space",
            n => return write!(f, "GNTST {n}"),
        };
        f.write_str(name)
    }
}

/// To map a grant.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Map {
    /// Address, or machine address of the entry.
    pub host_addr: u64,
    /// GNTMAP_*.
    pub flags: u32,
    /// Which grant.
    pub reference: u32,
    /// Whose.
    pub dom: u16,
    /// Out.
    pub status: i16,
    /// Out.
    pub handle: u32,
    /// Out: machine address of the frame.
    pub dev_bus_addr: u64,
}

const _: () = assert!(size_of::<Map>() == 32 && offset_of!(Map, status) == 18 && offset_of!(Map, dev_bus_addr) == 24);

/// To take a mapping down.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Unmap {
    /// As it was mapped.
    pub host_addr: u64,
    /// 0, or what mapping gave. For UNMAP_AND_REPLACE the address whose mapping takes the place.
    pub dev_bus_addr: u64,
    /// Which mapping.
    pub handle: u32,
    /// Out.
    pub status: i16,
}

const _: () = assert!(size_of::<Unmap>() == 24 && offset_of!(Unmap, status) == 20);

/// To have frames for the table, or for its marks.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SetupTable {
    /// Whose table.
    pub dom: u16,
    /// Frames wanted.
    pub nr_frames: u32,
    /// Out.
    pub status: i16,
    /// Where their numbers go.
    pub frame_list: u64,
}

const _: () = assert!(size_of::<SetupTable>() == 24 && offset_of!(SetupTable, frame_list) == 16);

/// To have the frames of the marks.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GetStatusFrames {
    /// Frames wanted.
    pub nr_frames: u32,
    /// Whose table.
    pub dom: u16,
    /// Out.
    pub status: i16,
    /// Where their numbers go.
    pub frame_list: u64,
}

const _: () = assert!(size_of::<GetStatusFrames>() == 16 && offset_of!(GetStatusFrames, status) == 6);

/// To learn a table's size.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct QuerySize {
    /// Whose table.
    pub dom: u16,
    /// Out.
    pub nr_frames: u32,
    /// Out.
    pub max_nr_frames: u32,
    /// Out.
    pub status: i16,
}

const _: () = assert!(size_of::<QuerySize>() == 16 && offset_of!(QuerySize, status) == 12);

/// One side of a copy.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CopySide {
    /// Grant, or frame.
    pub name: u64,
    /// Whose.
    pub domid: u16,
    /// First byte.
    pub offset: u16,
}

/// To copy.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CopyPart {
    /// From here.
    pub source: CopySide,
    /// To here.
    pub dest: CopySide,
    /// Bytes.
    pub len: u16,
    /// GNTCOPY_*.
    pub flags: u16,
    /// Out.
    pub status: i16,
}

const _: () =
    assert!(size_of::<CopyPart>() == 40 && offset_of!(CopyPart, dest) == 16 && offset_of!(CopyPart, status) == 36);

/// To swap two entries.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Swap {
    /// One.
    pub ref_a: u32,
    /// The other.
    pub ref_b: u32,
    /// Out.
    pub status: i16,
}

const _: () = assert!(size_of::<Swap>() == 12);

/// To write caches back.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CacheFlush {
    /// Machine address of the frame.
    pub dev_bus_addr: u64,
    /// First byte.
    pub offset: u16,
    /// Bytes.
    pub length: u16,
    /// CACHE_*.
    pub op: u32,
}

const _: () = assert!(size_of::<CacheFlush>() == 16);

/// Which version a table has, and so where its entries lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 8 bytes an entry, marks inside.
    V1,
    /// 16 bytes an entry, marks in other frames.
    V2,
}

impl Version {
    /// Entries in a frame.
    pub const fn per_frame(self) -> u32 {
        match self {
            Version::V1 => 512,
            Version::V2 => 256,
        }
    }

    /// Frame and word in it where an entry begins.
    pub const fn place(self, reference: u32) -> (usize, usize) {
        let (frame, nth) = (reference / self.per_frame(), reference % self.per_frame());
        match self {
            Version::V1 => (frame as usize, nth as usize),
            Version::V2 => (frame as usize, nth as usize * 2),
        }
    }
}

/// What a page is used for; together with the round it gives every word its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Content {
    /// Written by the mapper into a page that it maps writable.
    Written = 1,
    /// As above, far up in the table.
    WrittenFar = 2,
    /// Copied by the mapper into the granter's page.
    CopiedTo = 3,
    /// Written by the granter, for the mapper to read.
    Read = 4,
    /// Written by the granter, for the mapper to copy.
    CopiedFrom = 5,
}

/// A word of a page in a round.
pub fn word(content: Content, round: u64, index: usize) -> u64 {
    PagePattern { pfn: content as u64, mfn: 0, generation: round }.word(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_lie_where_the_header_says() {
        assert_eq!(Version::V1.place(511), (0, 511));
        assert_eq!(Version::V1.place(512), (1, 0));
        assert_eq!(Version::V2.place(255), (0, 510));
        assert_eq!(Version::V2.place(600), (2, 88 * 2));
    }

    #[test]
    fn rounds_and_pages_differ() {
        let all = [Content::Written, Content::WrittenFar, Content::CopiedTo, Content::Read, Content::CopiedFrom];
        for (i, a) in all.into_iter().enumerate() {
            assert_ne!(word(a, 1, 0), word(a, 2, 0));
            assert!(all[..i].iter().all(|b| word(a, 1, 0) != word(*b, 1, 0)));
        }
    }
}
