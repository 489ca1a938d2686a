//! Grant tables as guests see them: entries, flags, and the structures of `grant_table_op` (public/grant_table.h).
//!
//! As in [`layout`](super::layout), a structure is a module with a constant for each field, in bytes.

use super::layout::fields_follow_each_other;

/// Bits of an entry's flags.
pub mod gtf {
    /// The type, in two bits.
    pub const TYPE_MASK: u16 = 3;
    /// Nothing is granted.
    pub const INVALID: u16 = 0;
    /// The other domain may map and copy.
    pub const PERMIT_ACCESS: u16 = 1;
    /// The other domain may give a frame for this entry.
    pub const ACCEPT_TRANSFER: u16 = 2;
    /// The other domain may use the grant of a third one.
    pub const TRANSITIVE: u16 = 3;
    /// Only reads are allowed.
    pub const READONLY: u16 = 1 << 2;
    /// The hypervisor says: in use for reads.
    pub const READING: u16 = 1 << 3;
    /// The hypervisor says: in use for writes.
    pub const WRITING: u16 = 1 << 4;
    /// Only a part of the frame, and only to be copied; of meaning in version 2.
    pub const SUB_PAGE: u16 = 1 << 8;
}

/// Flags of a mapping.
pub mod gntmap {
    /// For devices.
    pub const DEVICE_MAP: u32 = 1 << 0;
    /// For processors.
    pub const HOST_MAP: u32 = 1 << 1;
    /// Not to be written.
    pub const READONLY: u32 = 1 << 2;
    /// Also for the guest's user programs.
    pub const APPLICATION_MAP: u32 = 1 << 3;
    /// The address is the machine address of the page-table entry.
    pub const CONTAINS_PTE: u32 = 1 << 4;
    /// From this bit on: the guest's own bits 9 to 11 of the entry.
    pub const GUEST_AVAIL_SHIFT: u32 = 16;
}

/// Flags of a copy.
pub mod gntcopy {
    /// The source is a grant, not a frame of the caller's.
    pub const SOURCE_GREF: u16 = 1 << 0;
    /// The destination is one.
    pub const DEST_GREF: u16 = 1 << 1;
}

/// Operations of `cache_flush`.
pub mod cache {
    /// Write back.
    pub const CLEAN: u32 = 1 << 0;
    /// Forget.
    pub const INVAL: u32 = 1 << 1;
    /// The frame is named by a grant.
    pub const SOURCE_GREF: u32 = 1 << 31;
}

/// Entries that the toolstack makes before the guest runs, and that outlive a change of version.
pub const NR_RESERVED_ENTRIES: u32 = 8;
/// The reserved entry of the console ring.
pub const RESERVED_CONSOLE: u32 = 0;
/// The reserved entry of the store ring.
pub const RESERVED_XENSTORE: u32 = 1;

/// An entry of version 1: one 64-bit word.
pub mod entry_v1 {
    /// u16: [`gtf`](super::gtf).
    pub const FLAGS: usize = 0;
    /// u16: to whom.
    pub const DOMID: usize = 2;
    /// u32: the frame.
    pub const FRAME: usize = 4;
    /// Bytes in the entry.
    pub const SIZE: usize = 8;

    const _: () = super::fields_follow_each_other(&[(FLAGS, 2), (DOMID, 2), (FRAME, 4)], SIZE);
}

/// An entry of version 2: two 64-bit words.
pub mod entry_v2 {
    /// u16: [`gtf`](super::gtf).
    pub const FLAGS: usize = 0;
    /// u16: to whom.
    pub const DOMID: usize = 2;
    /// u16: with `SUB_PAGE`, the first byte.
    pub const PAGE_OFF: usize = 4;
    /// u16: with `SUB_PAGE`, the number of bytes.
    pub const LENGTH: usize = 6;
    /// u64: the frame.
    pub const FRAME: usize = 8;
    /// Bytes in the entry.
    pub const SIZE: usize = 16;

    const _: () =
        super::fields_follow_each_other(&[(FLAGS, 2), (DOMID, 2), (PAGE_OFF, 2), (LENGTH, 2), (FRAME, 8)], SIZE);
}

/// `map_grant_ref`.
pub mod map {
    /// u64, in: where to.
    pub const HOST_ADDR: usize = 0;
    /// u32, in: [`gntmap`](super::gntmap).
    pub const FLAGS: usize = 8;
    /// u32, in.
    pub const REF: usize = 12;
    /// u16, in: whose grant.
    pub const DOM: usize = 16;
    /// i16, out.
    pub const STATUS: usize = 18;
    /// u32, out.
    pub const HANDLE: usize = 20;
    /// u64, out.
    pub const DEV_BUS_ADDR: usize = 24;
    /// Bytes in the structure.
    pub const SIZE: usize = 32;

    const _: () = super::fields_follow_each_other(
        &[(HOST_ADDR, 8), (FLAGS, 4), (REF, 4), (DOM, 2), (STATUS, 2), (HANDLE, 4), (DEV_BUS_ADDR, 8)],
        SIZE,
    );
}

/// `unmap_grant_ref`, and `unmap_and_replace` with another second field.
pub mod unmap {
    /// u64, in: where it is mapped; 0 leaves that alone.
    pub const HOST_ADDR: usize = 0;
    /// u64, in: 0, or the machine address of the frame.
    pub const DEV_BUS_ADDR: usize = 8;
    /// u64, in, of `unmap_and_replace`: whose mapping takes the place.
    pub const NEW_ADDR: usize = 8;
    /// u32, in.
    pub const HANDLE: usize = 16;
    /// i16, out.
    pub const STATUS: usize = 20;
    /// Bytes in the structure.
    pub const SIZE: usize = 24;

    const _: () = super::fields_follow_each_other(&[(HOST_ADDR, 8), (DEV_BUS_ADDR, 8), (HANDLE, 4), (STATUS, 2)], SIZE);
}

/// `setup_table`.
pub mod setup_table {
    /// u16, in.
    pub const DOM: usize = 0;
    /// u32, in.
    pub const NR_FRAMES: usize = 4;
    /// i16, out.
    pub const STATUS: usize = 8;
    /// u64, in: where the frames are to be written to.
    pub const FRAME_LIST: usize = 16;
    /// Bytes in the structure.
    pub const SIZE: usize = 24;

    const _: () = super::fields_follow_each_other(&[(DOM, 2), (NR_FRAMES, 4), (STATUS, 2), (FRAME_LIST, 8)], SIZE);
}

/// `copy`.
pub mod copy {
    /// The source.
    pub const SOURCE: usize = 0;
    /// The destination.
    pub const DEST: usize = 16;
    /// In either: u32 grant, or u64 frame.
    pub const U: usize = 0;
    /// In either: u16, whose.
    pub const DOMID: usize = 8;
    /// In either: u16, first byte in the frame.
    pub const OFFSET: usize = 10;
    /// u16, in.
    pub const LEN: usize = 32;
    /// u16, in: [`gntcopy`](super::gntcopy).
    pub const FLAGS: usize = 34;
    /// i16, out.
    pub const STATUS: usize = 36;
    /// Bytes in the structure.
    pub const SIZE: usize = 40;

    const _: () = super::fields_follow_each_other(&[(SOURCE, 16), (DEST, 16), (LEN, 2), (FLAGS, 2), (STATUS, 2)], SIZE);
    const _: () = super::fields_follow_each_other(&[(U, 8), (DOMID, 2), (OFFSET, 2)], DEST);
}

/// `query_size`.
pub mod query_size {
    /// u16, in.
    pub const DOM: usize = 0;
    /// u32, out.
    pub const NR_FRAMES: usize = 4;
    /// u32, out.
    pub const MAX_NR_FRAMES: usize = 8;
    /// i16, out.
    pub const STATUS: usize = 12;
    /// Bytes in the structure.
    pub const SIZE: usize = 16;

    const _: () = super::fields_follow_each_other(&[(DOM, 2), (NR_FRAMES, 4), (MAX_NR_FRAMES, 4), (STATUS, 2)], SIZE);
}

/// `get_status_frames`.
pub mod get_status_frames {
    /// u32, in.
    pub const NR_FRAMES: usize = 0;
    /// u16, in.
    pub const DOM: usize = 4;
    /// i16, out.
    pub const STATUS: usize = 6;
    /// u64, in: where the frames are to be written to.
    pub const FRAME_LIST: usize = 8;
    /// Bytes in the structure.
    pub const SIZE: usize = 16;

    const _: () = super::fields_follow_each_other(&[(NR_FRAMES, 4), (DOM, 2), (STATUS, 2), (FRAME_LIST, 8)], SIZE);
}

/// `get_version`.
pub mod get_version {
    /// u16, in.
    pub const DOM: usize = 0;
    /// u32, out.
    pub const VERSION: usize = 4;
    /// Bytes in the structure.
    pub const SIZE: usize = 8;

    const _: () = super::fields_follow_each_other(&[(DOM, 2), (VERSION, 4)], SIZE);
}

/// `swap_grant_ref`.
pub mod swap {
    /// u32, in.
    pub const REF_A: usize = 0;
    /// u32, in.
    pub const REF_B: usize = 4;
    /// i16, out.
    pub const STATUS: usize = 8;
    /// Bytes in the structure.
    pub const SIZE: usize = 12;

    const _: () = super::fields_follow_each_other(&[(REF_A, 4), (REF_B, 4), (STATUS, 2)], SIZE);
}

/// `cache_flush`.
pub mod cache_flush {
    /// u64, in: the machine address.
    pub const DEV_BUS_ADDR: usize = 0;
    /// u16, in.
    pub const OFFSET: usize = 8;
    /// u16, in.
    pub const LENGTH: usize = 10;
    /// u32, in: [`cache`](super::cache).
    pub const OP: usize = 12;
    /// Bytes in the structure.
    pub const SIZE: usize = 16;

    const _: () = super::fields_follow_each_other(&[(DEV_BUS_ADDR, 8), (OFFSET, 2), (LENGTH, 2), (OP, 4)], SIZE);
}
