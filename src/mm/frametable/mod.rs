//! Who owns which frame, in two levels.
//!
//! ```text
//!  entries, one for each 2 MiB, 16 bytes                     splits, 512 page records each, and bits for those that are nobody's
//!  ┌────────┬───────┬───────┬───────────┬──────┬──────┐
//!  │ region │ image │ owned │ split     │ free │ tail │ …
//!  │        │       │ by d3 │ 12 free,… │ (10) │      │
//!  └────────┴───────┴───────┴─────┬─────┴──────┴──────┘
//!                                 └───────────────▶ ┌────┬────┬──────┬──────┬────┬───┐
//!                                                   │ d1 │ d1 │ free │ tail │ io │ … │
//!                                                   └────┴────┴──────┴──────┴────┴───┘
//! ```
//!
//! A chunk is split when the first page of it needs a life of its own, and whole again when all its pages are free. So
//! what claiming costs follows extents, not RAM, and a machine of 1 TiB needs 8 MiB of entries.
//!
//! # Rules
//!
//! 1. All zero means uninitialised (I3): an entry of zeros is not RAM, a record of zeros is nobody's.
//! 2. A frame has one claimant (I6). [`FrameTable::claim`] checks the whole range first, and its error names both.
//! 3. Region and image frames are never claimed, never free, never a domain's (I1): nothing here leads out of these two states.
//! 4. A page in a split chunk is *not RAM* or reserved if [`DomId::IO`](crate::frame::DomId::IO) owns it, *owned* if another domain does. Otherwise it is
//!    *unclaimed*, *free* or *private*, its record is all zero, and which of the three it is stands in the split's bits alone.
//! 5. All changes are made with `&mut` to the pool or the heap, that is, under the one lock of [`Frames`]. Reading needs no
//!    lock: a chunk's kind and where its records are is one word, and the records are complete before that word is written.
//! 6. Nothing here allocates. Entries and slabs are the caller's, page records come from a [`SplitPool`]. A lack of them is
//!    an error that has changed nothing.
//!
//! Boot makes the table from the memory map (`init_ram`, `init_region`, `init_image`), restore claims what domains own, then the rest goes to
//! the heap at one stroke ([`Frames::plug_in`]).
//!
//! # Limitations
//!
//! Frames above 16 TiB cannot be described ([`MAX_CHUNKS`]). Slabs of page records that came from the heap are not given back to it.
//! A record found by [`PageLookup::page`](crate::mm::page_info::PageLookup::page) belongs to its frame as long as the frame is not freed. Whoever takes the first
//! reference on a frame that others may free at the same time uses [`Frames::get_page`], which looks up and counts under the lock.

mod chunk;
mod claimer;
mod entries;
mod error;
mod frames;
mod split;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod vacant;
mod withhold;

pub use chunk::{Chunk, ChunkEntry, Class, Counts, SplitId};
pub use claimer::Claimer;
pub use entries::{BLOCK_CHUNKS, BlockState, blocks_for};
pub use error::{ClaimError, FrameState, GetPageError, InitError, ReleaseError};
pub use frames::{Frames, LockedFrames};
pub use split::{
    BOOT_SPLITS_MAX, BYTES_PER_PAGE, FeedError, NR_SLABS, SLAB_SPLITS, SLABS_PER_ORDER, Split, SplitPool, SplitSlab,
    boot_slab_splits,
};
pub use table::{FrameTable, MAX_CHUNKS};

pub(in crate::mm) use chunk::packed;
pub(in crate::mm) use table::{Fill, Near, Part, chunks_in, parts};
pub(in crate::mm) use vacant::{Vacancy, Vacant};
