//! Grants: the guest's own table, others' grants mapped and copied, and pages of the image whose addresses serve for it.

use core::cell::UnsafeCell;

use super::{hypercall, memory};
use crate::abi::{Errno, PAGE_SIZE, op as xen};
use crate::grant::{self, CopySide, Status, Version, op};
use crate::pte;

/// Pages of the image that are used for their addresses.
#[repr(C, align(4096))]
struct Pages(UnsafeCell<[[u64; 512]; NR_PAGES]>);

// SAFETY: never reached as themselves, only by address, one word at a time.
unsafe impl Sync for Pages {}

const NR_PAGES: usize = 24;
static PAGES: Pages = Pages(UnsafeCell::new([[0; 512]; NR_PAGES]));

/// One of the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page(usize);

impl Page {
    /// The page with this number.
    pub const fn new(index: usize) -> Page {
        assert!(index < NR_PAGES);
        Page(index)
    }

    /// Its address.
    pub fn va(self) -> u64 {
        PAGES.0.get() as u64 + self.0 as u64 * PAGE_SIZE
    }

    /// The frame that the domain builder put there.
    pub fn own_frame(self) -> u64 {
        memory::mfn_of(self.va())
    }

    fn word_va(self, index: usize) -> u64 {
        assert!(index < 512);
        self.va() + index as u64 * 8
    }

    /// Reads a word.
    pub fn read(self, index: usize) -> u64 {
        // SAFETY: inside a page that is only used so; what is not mapped faults, and the guest says so.
        unsafe { (self.word_va(index) as *const u64).read_volatile() }
    }

    /// Writes a word.
    pub fn write(self, index: usize, value: u64) {
        // SAFETY: as for `read`.
        unsafe { (self.word_va(index) as *mut u64).write_volatile(value) }
    }

    /// Clears bits of a word at once.
    pub fn clear_bits(self, index: usize, bits: u64) {
        // SAFETY: as for `read`; an aligned word.
        let word = unsafe { core::sync::atomic::AtomicU64::from_ptr(self.word_va(index) as *mut u64) };
        word.fetch_and(!bits, core::sync::atomic::Ordering::SeqCst);
    }

    /// Tries to write a word, which may fault; it must not be in use.
    pub fn probe_write(self, index: usize, value: u64) -> bool {
        // SAFETY: the words of these pages are raw memory.
        unsafe { super::traps::probe_write(self.word_va(index), value) }.is_ok()
    }

    /// Maps a frame here.
    pub fn show(self, mfn: u64) {
        hypercall::update_va_mapping(self.va(), pte::entry(mfn, pte::DATA))
            .unwrap_or_else(|e| panic!("mapping of frame {mfn:#x}: {e}"));
    }

    /// Fills it.
    pub fn fill(self, word: impl Fn(usize) -> u64) {
        for index in 0..512 {
            self.write(index, word(index));
        }
    }

    /// The first word that is not as expected: where, what is there, what should be.
    pub fn differs(self, word: impl Fn(usize) -> u64) -> Option<(usize, u64, u64)> {
        (0..512).map(|i| (i, self.read(i), word(i))).find(|(_, found, expected)| found != expected)
    }
}

/// The guest's own table: its frames, mapped.
pub struct Table {
    version: Version,
    first: usize,
    status: Page,
}

impl Table {
    /// Sets a table of a version up, of `nr_frames`, in the pages from `first` on; behind them the marks of version 2.
    pub fn set_up(version: Version, first: usize, nr_frames: usize) -> Table {
        if version == Version::V2 {
            assert!(set_version(2) == (Ok(0), 2), "set_version 2");
        }
        let mut frames = [0u64; NR_PAGES];
        let status = setup_table(nr_frames as u32, &mut frames);
        assert!(status == Status::OKAY, "setup_table: {status}");
        for (i, mfn) in frames[..nr_frames].iter().enumerate() {
            Page::new(first + i).show(*mfn);
        }
        let table = Table { version, first, status: Page::new(first + nr_frames) };
        if version == Version::V2 {
            let mut marks = [0u64; NR_PAGES];
            let status = get_status_frames(1, &mut marks);
            assert!(status == Status::OKAY, "get_status_frames: {status}");
            table.status.show(marks[0]);
        }
        table
    }

    fn place(&self, reference: u32) -> (Page, usize) {
        let (frame, word) = self.version.place(reference);
        (Page::new(self.first + frame), word)
    }

    /// Grants a frame. `part` is the first byte and the number of bytes of a part, in version 2.
    pub fn grant(&self, reference: u32, to: u16, mfn: u64, flags: u16, part: Option<(u16, u16)>) {
        let (page, word) = self.place(reference);
        let head = u64::from(op::GTF_PERMIT_ACCESS | flags) | u64::from(to) << 16;
        match self.version {
            Version::V1 => page.write(word, head | mfn << 32),
            Version::V2 => {
                let (start, len) = part.unwrap_or((0, 0));
                page.write(word + 1, mfn);
                page.write(word, head | u64::from(start) << 32 | u64::from(len) << 48);
            }
        }
    }

    /// Takes a grant back, whether or not it is in use.
    pub fn revoke(&self, reference: u32) {
        let (page, word) = self.place(reference);
        page.clear_bits(word, u64::from(op::GTF_PERMIT_ACCESS));
    }

    /// The frame in an entry.
    pub fn frame(&self, reference: u32) -> u64 {
        let (page, word) = self.place(reference);
        match self.version {
            Version::V1 => page.read(word) >> 32,
            Version::V2 => page.read(word + 1),
        }
    }

    /// The marks that the hypervisor has set.
    pub fn marks(&self, reference: u32) -> u16 {
        let found = match self.version {
            Version::V1 => {
                let (page, word) = self.place(reference);
                page.read(word) as u16
            }
            Version::V2 => (self.status.read(reference as usize / 4) >> (reference % 4 * 16)) as u16,
        };
        found & (op::GTF_READING | op::GTF_WRITING)
    }

    /// Unmaps the marks, so that the hypervisor can take their frame away.
    pub fn hide_marks(&self) {
        self.status.show(self.status.own_frame());
    }
}

fn call<T>(cmd: u64, list: &mut [T]) -> Result<u64, Errno> {
    hypercall::grant_table_op(cmd, list)
}

fn must(cmd: u64, result: Result<u64, Errno>) {
    result.unwrap_or_else(|e| panic!("grant_table_op {cmd}: {e}"));
}

/// Frames for the guest's own table.
pub fn setup_table(nr_frames: u32, frames: &mut [u64]) -> Status {
    let mut list = [grant::SetupTable {
        dom: xen::DOMID_SELF,
        nr_frames,
        status: Status::UNSET.0,
        frame_list: frames.as_mut_ptr() as u64,
    }];
    assert!(nr_frames as usize <= frames.len() || nr_frames > 64, "the list is too short");
    must(op::SETUP_TABLE, call(op::SETUP_TABLE, &mut list));
    Status(list[0].status)
}

/// Frames for its marks.
pub fn get_status_frames(nr_frames: u32, frames: &mut [u64]) -> Status {
    let frame_list = frames.as_mut_ptr() as u64;
    let mut list = [grant::GetStatusFrames { nr_frames, dom: xen::DOMID_SELF, status: Status::UNSET.0, frame_list }];
    assert!(nr_frames as usize <= frames.len(), "the list is too short");
    must(op::GET_STATUS_FRAMES, call(op::GET_STATUS_FRAMES, &mut list));
    Status(list[0].status)
}

/// Size and limit of a table.
pub fn query_size(dom: u16) -> (Status, u32, u32) {
    let mut list = [grant::QuerySize { dom, nr_frames: 0, max_nr_frames: 0, status: Status::UNSET.0 }];
    must(op::QUERY_SIZE, call(op::QUERY_SIZE, &mut list));
    (Status(list[0].status), list[0].nr_frames, list[0].max_nr_frames)
}

/// Changes the version; what it is afterwards.
pub fn set_version(version: u32) -> (Result<u64, Errno>, u32) {
    let mut list = [version];
    let result = call(op::SET_VERSION, &mut list);
    (result, list[0])
}

/// The version of a table.
pub fn get_version(dom: u16) -> Result<u32, Errno> {
    let mut list = [[u32::from(dom), 0]];
    call(op::GET_VERSION, &mut list).map(|_| list[0][1])
}

/// Swaps two entries.
pub fn swap(ref_a: u32, ref_b: u32) -> Status {
    let mut list = [grant::Swap { ref_a, ref_b, status: Status::UNSET.0 }];
    must(op::SWAP_GRANT_REF, call(op::SWAP_GRANT_REF, &mut list));
    Status(list[0].status)
}

/// Writes caches back.
pub fn cache_flush(dev_bus_addr: u64, offset: u16, length: u16, operation: u32) -> Result<u64, Errno> {
    call(op::CACHE_FLUSH, &mut [grant::CacheFlush { dev_bus_addr, offset, length, op: operation }])
}

/// An operation that does not exist, or is not supported.
pub fn unsupported(cmd: u64) -> Result<u64, Errno> {
    call(cmd, &mut [[0u64; 4]])
}

/// A mapping of a grant, and what is needed to take it down.
#[derive(Clone, Copy, Debug)]
pub struct Mapped {
    /// As it was mapped.
    pub host_addr: u64,
    /// Which.
    pub handle: u32,
    /// Machine address of the frame.
    pub bus: u64,
}

/// Maps a grant.
pub fn map(dom: u16, reference: u32, flags: u32, host_addr: u64) -> Result<Mapped, Status> {
    let mut list = [request(dom, reference, flags, host_addr)];
    must(op::MAP_GRANT_REF, call(op::MAP_GRANT_REF, &mut list));
    mapped(&list[0])
}

/// What [`map_all`] takes.
pub fn request(dom: u16, reference: u32, flags: u32, host_addr: u64) -> grant::Map {
    grant::Map { host_addr, flags, reference, dom, status: Status::UNSET.0, handle: u32::MAX, dev_bus_addr: 0 }
}

/// What became of a request.
pub fn mapped(map: &grant::Map) -> Result<Mapped, Status> {
    match Status(map.status) {
        Status::OKAY => Ok(Mapped { host_addr: map.host_addr, handle: map.handle, bus: map.dev_bus_addr }),
        status => Err(status),
    }
}

/// Maps many.
pub fn map_all(list: &mut [grant::Map]) {
    must(op::MAP_GRANT_REF, call(op::MAP_GRANT_REF, list));
}

/// Takes a mapping down.
pub fn unmap(mapped: &Mapped) -> Status {
    let mut list = [taking_down(mapped)];
    unmap_all(&mut list);
    Status(list[0].status)
}

/// What [`unmap_all`] takes.
pub fn taking_down(mapped: &Mapped) -> grant::Unmap {
    grant::Unmap { host_addr: mapped.host_addr, dev_bus_addr: 0, handle: mapped.handle, status: Status::UNSET.0 }
}

/// Takes many down.
pub fn unmap_all(list: &mut [grant::Unmap]) {
    must(op::UNMAP_GRANT_REF, call(op::UNMAP_GRANT_REF, list));
}

/// Takes a mapping down and moves another one to its place.
pub fn unmap_and_replace(mapped: &Mapped, new: u64) -> Status {
    let mut list = [grant::Unmap { dev_bus_addr: new, ..taking_down(mapped) }];
    must(op::UNMAP_AND_REPLACE, call(op::UNMAP_AND_REPLACE, &mut list));
    Status(list[0].status)
}

/// A side that is a grant.
pub fn granted(dom: u16, reference: u32, offset: u16) -> CopySide {
    CopySide { name: reference.into(), domid: dom, offset }
}

/// A side that is a frame of the guest's own.
pub fn own(mfn: u64, offset: u16) -> CopySide {
    CopySide { name: mfn, domid: xen::DOMID_SELF, offset }
}

/// Copies.
pub fn copy(source: CopySide, dest: CopySide, len: u16, flags: u16) -> Status {
    let mut list = [grant::CopyPart { source, dest, len, flags, status: Status::UNSET.0 }];
    must(op::COPY, call(op::COPY, &mut list));
    Status(list[0].status)
}
