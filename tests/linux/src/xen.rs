//! Granted pages, by Linux's devices for them.
//!
//! 1. A [`Page`] holds its mapping for as long as it lives; the mapping is one page, readable and writable.
//! 2. The other guest writes to the page at any time, so it is read and written word by word, atomically, and nothing keeps a reference
//!    to its bytes.
//!
//! Sources: include/uapi/xen/gntalloc.h and gntdev.h of Linux, numbers only.
#![expect(unsafe_code, reason = "device requests and memory mappings have no safe form")]

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::{File, OpenOptions};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

const PAGE_BYTES: usize = 4096;

/// What IOCTL_GNTALLOC_ALLOC_GREF takes and gives.
#[repr(C)]
struct AllocGref {
    domid: u16,
    flags: u16,
    count: u32,
    /// Out: the offset to map.
    index: u64,
    /// Out: the reference.
    gref: u32,
}

/// What IOCTL_GNTDEV_MAP_GRANT_REF takes and gives.
#[repr(C)]
struct MapGrantRef {
    count: u32,
    pad: u32,
    /// Out: the offset to map.
    index: u64,
    domid: u32,
    gref: u32,
}

const _: () = assert!(size_of::<AllocGref>() == 24 && size_of::<MapGrantRef>() == 24);

/// Both headers call their requests `_IOC(_IOC_NONE, ...)`, whatever they transfer.
const ALLOC_GREF: Opcode = opcode::from_components(rustix::ioctl::Direction::None, b'G', 5, size_of::<AllocGref>());
const MAP_GRANT_REF: Opcode =
    opcode::from_components(rustix::ioctl::Direction::None, b'G', 0, size_of::<MapGrantRef>());
const FLAG_WRITABLE: u16 = 1;

/// A page that is shared with another domain.
pub struct Page {
    at: NonNull<AtomicU64>,
    _device: File,
}

impl Page {
    /// 64-bit words of a page.
    pub const WORDS: usize = PAGE_BYTES / 8;

    /// A page of this guest that `peer` may map.
    pub fn granted_to(peer: u16) -> Result<Self, String> {
        let device = open("/dev/xen/gntalloc")?;
        let mut request = AllocGref { domid: peer, flags: FLAG_WRITABLE, count: 1, index: 0, gref: 0 };
        // SAFETY: the request has the layout that the header gives for this number.
        let update = unsafe { Updater::<ALLOC_GREF, AllocGref>::new(&mut request) };
        // SAFETY: the device writes to nothing but the request.
        unsafe { ioctl(&device, update) }.map_err(|error| format!("a grant for domain {peer}: {error}"))?;
        Self::map(device, request.index)
    }

    /// The page that `peer` grants by that reference.
    pub fn mapped_from(peer: u16, reference: u32) -> Result<Self, String> {
        let device = open("/dev/xen/gntdev")?;
        let mut request = MapGrantRef { count: 1, pad: 0, index: 0, domid: peer.into(), gref: reference };
        // SAFETY: the request has the layout that the header gives for this number.
        let update = unsafe { Updater::<MAP_GRANT_REF, MapGrantRef>::new(&mut request) };
        // SAFETY: the device writes to nothing but the request.
        unsafe { ioctl(&device, update) }.map_err(|error| format!("grant {reference} of domain {peer}: {error}"))?;
        Self::map(device, request.index)
    }

    fn map(device: File, index: u64) -> Result<Self, String> {
        // SAFETY: a new mapping at a place that the kernel chooses touches no memory of this process.
        let at = unsafe {
            mmap(std::ptr::null_mut(), PAGE_BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &device, index)
        };
        let at = at.map_err(|error| format!("cannot map the page: {error}"))?;
        let at = NonNull::new(at.cast()).ok_or("the page was mapped at address 0")?;
        Ok(Self { at, _device: device })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < Self::WORDS, "word {index} is outside the page");
        // SAFETY: the index is inside the page, which stays mapped while `self` lives (1).
        let at = unsafe { self.at.add(index) };
        // SAFETY: a word of the page is aligned, and is accessed in no other way than atomically (2).
        unsafe { at.as_ref() }
    }

    /// Reads a word; what the other guest wrote before it is there, too.
    pub fn read(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Writes a word; what was written before is there when it is.
    pub fn write(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping is this page's own (1), and nothing refers to it any more.
        let unmapped = unsafe { munmap(self.at.as_ptr().cast(), PAGE_BYTES) };
        assert!(unmapped.is_ok(), "a mapping of this process cannot be taken away");
    }
}

fn open(device: &str) -> Result<File, String> {
    OpenOptions::new().read(true).write(true).open(device).map_err(|error| format!("{device}: {error}"))
}
