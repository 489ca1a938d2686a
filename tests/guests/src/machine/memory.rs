//! The domain's memory: start_info, the p2m list, the M2P, frames that nothing uses yet, and a window onto any frame.
//!
//! At start pfn 0 is mapped at [`VIRT_BASE`] and all that follows behind it, up to some slack behind the boot stack. Boot
//! page tables are mapped read-only there. Frames behind that are mapped nowhere: they are the guests' to play with.

use core::cell::UnsafeCell;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use super::{hypercall, traps};
use crate::abi::{INVALID_FRAME, M2P, PAGE_SIZE, SharedInfo, StartInfo, VIRT_BASE, op};
use crate::pte;

static START_INFO: AtomicPtr<StartInfo> = AtomicPtr::new(ptr::null_mut());
static BOOT_END: AtomicU64 = AtomicU64::new(0);

/// A page of the image whose address is used, but with other frames behind it.
#[repr(C, align(4096))]
struct Hole(UnsafeCell<[u64; 512]>);

// SAFETY: never reached as itself, only by address.
unsafe impl Sync for Hole {}

static SHARED_INFO_HOLE: Hole = Hole(UnsafeCell::new([0; 512]));
static WINDOW_HOLE: Hole = Hole(UnsafeCell::new([0; 512]));
static WINDOW_IS_OPEN: AtomicBool = AtomicBool::new(false);

/// Takes note of what the domain builder handed over. `boot_stack_end` is the end of the last thing it placed.
pub fn init(start_info_va: usize, boot_stack_end: usize) {
    START_INFO.store(start_info_va as *mut StartInfo, Ordering::Relaxed);
    BOOT_END.store((boot_stack_end as u64).next_multiple_of(PAGE_SIZE), Ordering::Relaxed);
}

/// What the domain builder handed over.
pub fn start_info() -> &'static StartInfo {
    // SAFETY: set at start; the page is mapped for ever and nobody writes to it.
    unsafe { &*START_INFO.load(Ordering::Relaxed) }
}

/// The p2m list: the mfn of each pfn.
pub fn p2m() -> &'static [AtomicU64] {
    let info = start_info();
    // SAFETY: the domain builder placed `nr_pages` entries there, in memory of the guest's own.
    unsafe { core::slice::from_raw_parts(info.mfn_list as *const AtomicU64, info.nr_pages as usize) }
}

/// The frame behind a pfn.
pub fn mfn(pfn: u64) -> u64 {
    p2m()[pfn as usize].load(Ordering::Relaxed)
}

/// The frame behind an address of the boot mapping.
pub fn mfn_of(va: u64) -> u64 {
    mfn((va - VIRT_BASE) / PAGE_SIZE)
}

/// What the M2P says of a frame; `INVALID_FRAME` also where there is no M2P.
pub fn m2p(mfn: u64) -> u64 {
    match mfn.checked_mul(8).filter(|&offset| offset < 1 << 39) {
        Some(offset) => traps::probe_read(M2P + offset).unwrap_or(INVALID_FRAME),
        None => INVALID_FRAME,
    }
}

/// The address in the boot mapping of a frame that the domain builder placed there.
pub fn boot_va(mfn: u64) -> u64 {
    VIRT_BASE + m2p(mfn) * PAGE_SIZE
}

/// Machine address of an L4 slot of the tables that the guest was started on.
pub fn boot_l4_entry(slot: usize) -> u64 {
    mfn_of(start_info().pt_base) * PAGE_SIZE + slot as u64 * 8
}

/// Machine address of the level-1 entry that translates an address of the boot mapping.
pub fn boot_l1_entry(va: u64) -> u64 {
    let mut table = mfn_of(start_info().pt_base);
    for level in [4, 3, 2] {
        // SAFETY: boot page tables are mapped read-only for ever, and an aligned word of one is read.
        let entry = unsafe { ((boot_va(table) + pte::index(va, level) as u64 * 8) as *const u64).read_volatile() };
        assert!(entry & pte::PRESENT != 0, "{va:#x} is not in the boot mapping");
        table = pte::frame(entry);
    }
    table * PAGE_SIZE + pte::index(va, 1) as u64 * 8
}

/// Maps the page shared with the hypervisor.
pub fn map_shared_info() -> *mut SharedInfo {
    let va = SHARED_INFO_HOLE.0.get() as u64;
    let entry = pte::entry(start_info().shared_info / PAGE_SIZE, pte::DATA);
    hypercall::update_va_mapping(va, entry).unwrap_or_else(|e| panic!("mapping of shared_info: {e}"));
    va as *mut SharedInfo
}

/// The pfns that were not even mapped at start. Needs traps, as it looks where the boot mapping ends.
pub fn free_pfns() -> Range<u64> {
    let mut end = BOOT_END.load(Ordering::Relaxed);
    while traps::probe_read(end).is_ok() {
        end += PAGE_SIZE;
    }
    BOOT_END.store(end, Ordering::Relaxed);
    let nr_pages = start_info().nr_pages;
    ((end - VIRT_BASE) / PAGE_SIZE).min(nr_pages)..nr_pages
}

/// Hands out free pfns, one after the other.
pub struct FramePool {
    pfns: Range<u64>,
}

impl FramePool {
    /// All pfns that [`free_pfns`] knows.
    pub fn new() -> Self {
        FramePool { pfns: free_pfns() }
    }

    /// The mfn of a frame that nothing else uses.
    pub fn take(&mut self) -> u64 {
        let pfn = self.pfns.next().unwrap_or_else(|| panic!("the domain is too small: no frame left"));
        mfn(pfn)
    }
}

impl Default for FramePool {
    fn default() -> Self {
        Self::new()
    }
}

/// A mapping of one frame, at a fixed address. One at a time; it is gone when the window is dropped, so that the frame
/// may become a page table.
pub struct Window {
    _private: (),
}

impl Window {
    /// Maps a frame to be read only.
    pub fn open(mfn: u64) -> Window {
        Self::with(pte::entry(mfn, pte::READ_ONLY))
    }

    /// Maps a frame to be written too.
    pub fn open_writable(mfn: u64) -> Window {
        Self::with(pte::entry(mfn, pte::DATA))
    }

    fn with(entry: u64) -> Window {
        assert!(!WINDOW_IS_OPEN.swap(true, Ordering::Relaxed), "two windows at a time");
        hypercall::update_va_mapping(Self::va(), entry).unwrap_or_else(|e| panic!("window onto {entry:#x}: {e}"));
        Window { _private: () }
    }

    /// The window's address, also when it is closed.
    pub fn va() -> u64 {
        WINDOW_HOLE.0.get() as u64
    }

    fn word(index: usize) -> u64 {
        assert!(index < 512);
        Self::va() + index as u64 * 8
    }

    /// One word of the frame.
    pub fn read(&self, index: usize) -> u64 {
        // SAFETY: mapped as long as `self` lives, index checked; no Rust object is there.
        unsafe { (Self::word(index) as *const u64).read_volatile() }
    }

    /// Writes one word of a frame that is mapped to be written.
    pub fn write(&mut self, index: usize, value: u64) {
        // SAFETY: as for `read`. Of a read-only frame this faults, and the guest says so.
        unsafe { (Self::word(index) as *mut u64).write_volatile(value) }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        hypercall::update_va_mapping(Self::va(), 0).unwrap_or_else(|e| panic!("closing the window: {e}"));
        WINDOW_IS_OPEN.store(false, Ordering::Relaxed);
    }
}

/// Fills a frame with the given words.
pub fn fill(mfn: u64, word: impl Fn(usize) -> u64) {
    let mut window = Window::open_writable(mfn);
    for index in 0..512 {
        window.write(index, word(index));
    }
}

/// The highest frame that has RAM.
pub fn maximum_ram_page() -> u64 {
    hypercall::memory_op(op::XENMEM_MAXIMUM_RAM_PAGE, &mut 0u64).unwrap_or_else(|e| panic!("maximum_ram_page: {e}"))
}

/// How many pages the domain may have.
pub fn maximum_reservation() -> u64 {
    let mut argument = op::DOMID_SELF;
    hypercall::memory_op(op::XENMEM_MAXIMUM_RESERVATION, &mut argument)
        .unwrap_or_else(|e| panic!("maximum_reservation: {e}"))
}

/// How many pages the hypervisor thinks the domain has.
pub fn current_reservation() -> u64 {
    let mut argument = op::DOMID_SELF;
    hypercall::memory_op(op::XENMEM_CURRENT_RESERVATION, &mut argument)
        .unwrap_or_else(|e| panic!("current_reservation: {e}"))
}
