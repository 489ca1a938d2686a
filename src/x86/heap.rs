//! The hypervisor's own small objects, in what the boot left of the region.
//!
//! Nothing in here survives an update (I1). When the region's rest is used up the heap grows by blocks of ordinary memory, which are as disposable.

use crate::mm::objects::Objects;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use spin::Mutex;

/// Gives at least so many bytes of fresh memory.
pub type Grow = fn(usize) -> Option<&'static mut [u8]>;

struct Arenas {
    objects: Objects,
    grow: Option<Grow>,
}

struct Global(Mutex<Arenas>);

#[cfg_attr(target_os = "none", global_allocator)]
static HEAP: Global = Global(Mutex::new(Arenas { objects: Objects::new(), grow: None }));

/// Adds memory to the heap; false if it has too many pieces already.
pub fn add(memory: &'static mut [u8]) -> bool {
    HEAP.0.lock().objects.add(memory)
}

/// Where more comes from: asked with the bytes wanted.
pub fn set_grow(grow: Grow) {
    HEAP.0.lock().grow = Some(grow);
}

/// Bytes in use and bytes free.
pub fn usage() -> (usize, usize) {
    HEAP.0.lock().objects.usage()
}

impl Global {
    fn try_alloc(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.0.lock().objects.alloc(layout)
    }
}

#[expect(unsafe_code, reason = "the global allocator")]
// SAFETY: memory comes from heaps that own it, and goes back to the heap whose range it lies in, or to the list of its size.
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
        // SAFETY: the caller gives back what it was given for this layout.
        unsafe { self.0.lock().objects.dealloc(p, layout) }
    }
}
