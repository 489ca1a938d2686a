//! Free small objects by size, in front of a heap that looks for a place among all of its holes.
//!
//! 1. A list has objects of one size only, a multiple of [`STEP`]; each is aligned to [`ALIGN`].
//! 2. Memory that came to a list stays with its size: objects go back to their list, never to the heap.
//! 3. Which list an object belongs to follows from its layout alone, so who gives it back need not know where it came from.

use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// Sizes are multiples of this.
const STEP: usize = 32;
/// The largest object that has a list.
const SIZE_MAX: usize = 1024;
const NR_LISTS: usize = SIZE_MAX / STEP;
/// What objects are aligned to.
const ALIGN: usize = 16;
/// The most bytes that a list is given at a time: 128 objects of the smallest size, four of the largest.
const SLAB_BYTES: usize = 4096;

const _: () = assert!(STEP.is_multiple_of(ALIGN) && STEP >= size_of::<Free>() && SLAB_BYTES >= SIZE_MAX);

/// So many bytes, aligned as all objects are.
const fn aligned(size: usize) -> Layout {
    match Layout::from_size_align(size, ALIGN) {
        Ok(layout) => layout,
        Err(_) => panic!("sizes are small, and the alignment is a power of two"),
    }
}

/// Which list has objects for a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class(usize);

impl Class {
    /// The list for a layout; none if it is too large, or aligned to more.
    #[inline]
    pub(super) fn of(layout: Layout) -> Option<Self> {
        let index = layout.size().saturating_sub(1) / STEP;
        (index < NR_LISTS && layout.align() <= ALIGN).then_some(Self(index))
    }

    /// What its objects are.
    pub(super) fn layout(self) -> Layout {
        aligned(self.size())
    }

    /// What is cut up into its objects: as many as fit.
    pub(super) fn slab(self) -> Layout {
        aligned(SLAB_BYTES - SLAB_BYTES % self.size())
    }

    fn size(self) -> usize {
        (self.0 + 1) * STEP
    }
}

/// A free object: it holds the way to the next one.
struct Free {
    next: Option<NonNull<Free>>,
}

/// The free objects of one size.
struct List {
    /// Those that were given back.
    first: Option<NonNull<Free>>,
    nr_given_back: usize,
    /// What was not handed out yet of the last slab.
    fresh: Option<&'static mut [MaybeUninit<u8>]>,
}

/// The lists of all sizes.
pub(super) struct Small {
    lists: [List; NR_LISTS],
}

#[expect(unsafe_code, reason = "the pointers are the lists' own")]
// SAFETY: a free object belongs to its list alone, whichever CPU has the list.
unsafe impl Send for Small {}

impl Small {
    /// Lists that have nothing.
    pub(super) const fn new() -> Self {
        Self { lists: [const { List { first: None, nr_given_back: 0, fresh: None } }; NR_LISTS] }
    }

    /// Takes an object off its list.
    #[inline]
    #[expect(unsafe_code, reason = "a free object holds the way to the next one")]
    pub(super) fn take(&mut self, class: Class) -> Option<NonNull<u8>> {
        let list = self.lists.get_mut(class.0)?;
        if let Some(first) = list.first {
            // SAFETY: it was put on the list by `give`, which wrote it, and nobody has had it since.
            list.first = unsafe { first.as_ref() }.next;
            list.nr_given_back -= 1;
            return Some(first.cast());
        }
        let object = list.fresh.as_mut()?.split_off_mut(..class.size())?;
        Some(NonNull::from(object).cast())
    }

    /// Gives a list that is empty a slab to take objects from.
    ///
    /// # Safety
    /// `slab` is memory of the layout [`Class::slab`] that is nobody else's, for ever.
    #[expect(unsafe_code, reason = "memory becomes objects")]
    pub(super) unsafe fn feed(&mut self, class: Class, slab: NonNull<u8>) {
        if let Some(list) = self.lists.get_mut(class.0) {
            // SAFETY: by the caller's word; bytes that may be uninitialised need no value.
            list.fresh = Some(unsafe { core::slice::from_raw_parts_mut(slab.as_ptr().cast(), class.slab().size()) });
        }
    }

    /// Puts an object on its list.
    ///
    /// # Safety
    /// `object` has room for the class, is aligned to [`ALIGN`], and is nobody's any more.
    #[inline]
    #[expect(unsafe_code, reason = "a free object holds the way to the next one")]
    pub(super) unsafe fn give(&mut self, class: Class, object: NonNull<u8>) {
        let Some(list) = self.lists.get_mut(class.0) else { return };
        let free: NonNull<Free> = object.cast();
        // SAFETY: by the caller's word; a size is never less than what is written.
        unsafe { free.write(Free { next: list.first }) };
        list.first = Some(free);
        list.nr_given_back += 1;
    }

    /// Bytes that are in the lists.
    pub(super) fn free_bytes(&self) -> usize {
        let sizes = (1..).map(|n| n * STEP);
        self.lists
            .iter()
            .zip(sizes)
            .map(|(list, size)| list.nr_given_back * size + list.fresh.as_ref().map_or(0, |fresh| fresh.len()))
            .sum()
    }
}
