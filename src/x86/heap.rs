//! The hypervisor's own small objects: `linked_list_allocator` over what the boot left of the region.
//!
//! Nothing in here survives an update (I1). When the region's rest is used up the heap grows by blocks of ordinary memory, which are as disposable.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use linked_list_allocator::Heap;
use spin::Mutex;

/// Pieces of memory that the heap may consist of.
const MAX_ARENAS: usize = 16;

/// Gives at least so many bytes of fresh memory.
pub type Grow = fn(usize) -> Option<&'static mut [u8]>;

struct Arenas {
    heaps: [Heap; MAX_ARENAS],
    used: usize,
    grow: Option<Grow>,
}

struct Global(Mutex<Arenas>);

#[cfg_attr(target_os = "none", global_allocator)]
static HEAP: Global = Global(Mutex::new(Arenas { heaps: [const { Heap::empty() }; MAX_ARENAS], used: 0, grow: None }));

/// Adds memory to the heap; false if it has too many pieces already.
#[expect(unsafe_code, reason = "gives memory to the allocator")]
pub fn add(memory: &'static mut [u8]) -> bool {
    let mut arenas = HEAP.0.lock();
    let used = arenas.used;
    if used == MAX_ARENAS || memory.len() < 4096 {
        return false;
    }
    // SAFETY: the slice is ours for ever, and this heap is empty.
    unsafe { arenas.heaps[used].init(memory.as_mut_ptr(), memory.len()) };
    arenas.used += 1;
    true
}

/// Where more comes from: asked with the bytes wanted.
pub fn set_grow(grow: Grow) {
    HEAP.0.lock().grow = Some(grow);
}

/// Bytes in use and bytes free.
pub fn usage() -> (usize, usize) {
    let arenas = HEAP.0.lock();
    let used = &arenas.heaps[..arenas.used];
    (used.iter().map(Heap::used).sum(), used.iter().map(Heap::free).sum())
}

impl Global {
    fn try_alloc(&self, layout: Layout) -> Option<NonNull<u8>> {
        let mut arenas = self.0.lock();
        let used = arenas.used;
        arenas.heaps[..used].iter_mut().find_map(|h| h.allocate_first_fit(layout).ok())
    }
}

#[expect(unsafe_code, reason = "the global allocator")]
// SAFETY: memory comes from heaps that own it, and goes back to the heap whose range it lies in.
unsafe impl GlobalAlloc for Global {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(p) = self.try_alloc(layout) {
            return p.as_ptr();
        }
        // The hook is called without the lock: it may itself log or take other locks.
        let grow = self.0.lock().grow;
        let grown = grow.and_then(|grow| grow(layout.size() + layout.align() + 4096)).is_some_and(add);
        let p = if grown { self.try_alloc(layout) } else { None };
        p.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        let Some(p) = NonNull::new(p) else { return };
        let mut arenas = self.0.lock();
        let used = arenas.used;
        let owner = arenas.heaps[..used].iter_mut().find(|h| h.bottom() <= p.as_ptr() && p.as_ptr() < h.top());
        if let Some(heap) = owner {
            // SAFETY: the caller gives back what this heap handed out, with the same layout.
            unsafe { heap.deallocate(p, layout) }
        }
    }
}
