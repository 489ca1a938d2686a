//! Memory for small objects: `linked_list_allocator` over the pieces of memory that it was given, behind lists of free objects by size.
//!
//! A domain that is restored has some thirty small objects, and first fit looks longer the more there are: for them it is asked for a slab at a time.
//! Whose heap this is, and where more memory comes from, is for the caller to say.

mod small;

use core::alloc::Layout;
use core::ptr::NonNull;
use linked_list_allocator::Heap;
use small::{Class, Small};

/// Pieces of memory that the heap may consist of.
const MAX_ARENAS: usize = 16;

/// A heap.
pub struct Objects {
    arenas: [Heap; MAX_ARENAS],
    used: usize,
    small: Small,
}

impl Objects {
    /// Without memory.
    pub const fn new() -> Self {
        Self { arenas: [const { Heap::empty() }; MAX_ARENAS], used: 0, small: Small::new() }
    }

    /// Adds memory; false if there are too many pieces already.
    #[expect(unsafe_code, reason = "gives memory to the allocator")]
    pub fn add(&mut self, memory: &'static mut [u8]) -> bool {
        let used = self.used;
        if used == MAX_ARENAS || memory.len() < 4096 {
            return false;
        }
        // SAFETY: the slice is ours for ever, and this heap is empty.
        unsafe { self.arenas[used].init(memory.as_mut_ptr(), memory.len()) };
        self.used += 1;
        true
    }

    /// An object, if there is room.
    #[inline]
    pub fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let Some(class) = Class::of(layout) else { return self.first_fit(layout) };
        self.small.take(class).or_else(|| self.refill(class))
    }

    /// Takes an object back.
    ///
    /// # Safety
    /// It came from [`Self::alloc`] for this layout, and is nobody's any more.
    #[inline]
    #[expect(unsafe_code, reason = "an allocator is told so by its caller")]
    pub unsafe fn dealloc(&mut self, object: NonNull<u8>, layout: Layout) {
        if let Some(class) = Class::of(layout) {
            // SAFETY: it was given for this layout, so it has room for the class, and is aligned as all of them.
            return unsafe { self.small.give(class, object) };
        }
        let at = object.as_ptr();
        let owner = self.arenas[..self.used].iter_mut().find(|heap| heap.bottom() <= at && at < heap.top());
        if let Some(heap) = owner {
            // SAFETY: this heap handed it out, with the same layout.
            unsafe { heap.deallocate(object, layout) }
        }
    }

    /// An object of a size whose list is empty: the first of a slab, or one by itself if there is no room for more.
    #[cold]
    #[expect(unsafe_code, reason = "memory becomes objects")]
    fn refill(&mut self, class: Class) -> Option<NonNull<u8>> {
        let Some(slab) = self.first_fit(class.slab()) else { return self.first_fit(class.layout()) };
        // SAFETY: it was handed out for this layout just now, and is never given back.
        unsafe { self.small.feed(class, slab) };
        self.small.take(class)
    }

    fn first_fit(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.arenas[..self.used].iter_mut().find_map(|heap| heap.allocate_first_fit(layout).ok())
    }

    /// Bytes in use and bytes free.
    pub fn usage(&self) -> (usize, usize) {
        let arenas = &self.arenas[..self.used];
        let listed = self.small.free_bytes();
        (arenas.iter().map(Heap::used).sum::<usize>() - listed, arenas.iter().map(Heap::free).sum::<usize>() + listed)
    }
}

impl Default for Objects {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
