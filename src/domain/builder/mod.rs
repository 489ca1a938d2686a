//! Builds the initial memory of a 64-bit PV domain as Xen's toolstack does (public/xen.h, "start-of-day memory
//! layout").
//!
//! ```text
//!  virt_base                                                                              4 MiB boundary
//!  |        | kernel | ramdisk | p2m | start_info | store | console | tables | stack | 512 KiB or more |
//!  pfn 0                                                                                   then, not mapped:
//!                                                                     | ramdisk by pfn | p2m, its tables |
//! ```
//!
//! Pseudo-physical address 0 is mapped at the kernel's VIRT_BASE, and everything up to the boundary one to one behind
//! it, writable but for the page tables. A kernel with the note INIT_P2M gets its p2m list at that address instead, and
//! one with MOD_START_PFN its ramdisk by pfn; both then lie behind what is mapped. Where the memory is too small for that,
//! the p2m list stays in the boot mapping, as on a Xen that does not know the note, and a ramdisk by pfn lies
//! in the memory below the kernel, from 1 MiB on.
//!
//! Two phases: [`Layout::plan`] says where everything goes and refuses what does not fit; [`Layout::write`] cannot
//! fail. The caller has assigned the memory to the domain and scrubbed it: what is not listed here is not written. The
//! M2P, the types of the pages and the vCPU's registers (but for those in [`Start`]) are the caller's as well.
//!
//! One difference to Xen: where Xen refuses a domain with less memory than the boundary asks for, here the mapping ends
//! with the memory, as long as the 512 KiB are there. Domains of a megabyte or two are worth having.

mod memory;
mod tables;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::fmt;

use memory::Memory;
use tables::{NR_HYPERVISOR_SLOTS, Span, Tables};

use super::kernel::Kernel;
use super::spec::COMMAND_LINE_MAX_BYTES;
use crate::frame::{Maddr, Mfn, PAGE_SIZE, Pfn};
use crate::mm::physmem::PhysMem;
use crate::xen::hypercall::{pv::LEGACY_MAX_VCPUS, sif};
use crate::xen::hypercall_page;
use crate::xen::layout::{shared_info, start_info, vcpu_info};

/// What `start_info` begins with.
const MAGIC: &[u8] = b"xen-3.0-x86_64";
/// Pages mapped behind everything, for the kernel to use before it knows its memory: 512 KiB.
const SLACK_PAGES: u64 = (512 << 10) / PAGE_SIZE;
/// The boot mapping ends at a multiple of this.
const MAPPING_ALIGN: u64 = 4 << 20;
/// First page that a ramdisk below the kernel may have: Linux keeps the first megabyte for what PCs have there.
const LOW_RAMDISK_PFN: u64 = (1 << 20) / PAGE_SIZE;
/// Entries of the p2m list in a page.
const P2M_PER_PAGE: u64 = PAGE_SIZE / 8;

const _: () = {
    assert!(COMMAND_LINE_MAX_BYTES < start_info::FIRST_P2M_PFN - start_info::CMD_LINE);
    assert!(start_info::SIZE <= PAGE_SIZE as usize);
    assert!(shared_info::SIZE <= PAGE_SIZE as usize);
};

/// What a domain is built from.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    /// Its kernel.
    pub kernel: &'a Kernel<'a>,
    /// Its ramdisk, as pieces of machine memory (address, bytes) that are copied one after the other. Empty for none.
    pub ramdisk: &'a [(Maddr, u64)],
    /// The command line.
    pub command_line: &'a str,
    /// Its memory as extents (first page, first frame, pages) that follow each other from page 0 without a gap.
    pub memory: &'a [(Pfn, Mfn, u64)],
    /// Its shared_info page, which is not part of the memory.
    pub shared_info: Mfn,
    /// Event channel of the console ring, 0 for none.
    pub console_port: u32,
    /// Event channel of the store ring, 0 for none.
    pub store_port: u32,
    /// SIF_* flags ([`crate::xen::hypercall::sif`]); SIF_MOD_START_PFN is added where it is due.
    pub start_flags: u32,
    /// The hypervisor's slots, 256 to 271, of the L4.
    pub hypervisor_slots: [u64; NR_HYPERVISOR_SLOTS],
}

/// Why a domain cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// An extent is empty, or does not start where the one before it ends.
    ExtentOrder {
        /// Its first page.
        found: Pfn,
        /// Its pages.
        count: u64,
        /// Where it should start.
        expected: u64,
    },
    /// An extent reaches beyond the last frame or page that there can be.
    ExtentTooLong {
        /// Its first page.
        pfn: Pfn,
        /// Its first frame.
        mfn: Mfn,
        /// Its pages.
        count: u64,
    },
    /// There is too little memory.
    MemoryTooSmall {
        /// Pages that there must be at least.
        needed_pages: u64,
        /// Pages that there are.
        found_pages: u64,
    },
    /// The command line does not fit start_info.
    CommandLineTooLong {
        /// Its bytes.
        len_bytes: usize,
    },
    /// The command line has a zero in it, where the kernel would take it to end.
    CommandLineZero {
        /// Bytes before the zero.
        offset: usize,
    },
    /// The ramdisk's pieces have more bytes than any memory, or one reaches beyond it.
    Ramdisk {
        /// The first piece that is too much.
        start: Maddr,
        /// Its bytes.
        len_bytes: u64,
    },
    /// The boot mapping would touch addresses that are not the guest's.
    Mapping {
        /// Its first address.
        start: u64,
        /// Pages that it is to have.
        nr_pages: u64,
    },
    /// The p2m list would be mapped over the boot mapping, or over addresses that are not the guest's.
    P2mPlace {
        /// Its first address.
        start: u64,
        /// Its pages.
        nr_pages: u64,
    },
    /// The hypervisor has no memory for a page to work in.
    NoMemory,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ExtentOrder { found, count, expected } => {
                write!(f, "an extent of {count} pages starts at pfn {found}, {expected:#x} was expected")
            }
            Self::ExtentTooLong { pfn, mfn, count } => {
                write!(f, "an extent of {count} pages at pfn {pfn}, mfn {mfn} ends beyond all memory")
            }
            Self::MemoryTooSmall { needed_pages, found_pages } => write!(
                f,
                "{} KiB of memory are too little, the kernel needs {} KiB to start",
                found_pages.saturating_mul(PAGE_SIZE) >> 10,
                needed_pages.saturating_mul(PAGE_SIZE) >> 10
            ),
            Self::CommandLineTooLong { len_bytes } => {
                write!(f, "the command line has {len_bytes} bytes, at most {COMMAND_LINE_MAX_BYTES} are accepted")
            }
            Self::CommandLineZero { offset } => write!(f, "the command line has a zero byte at {offset}"),
            Self::Ramdisk { start, len_bytes } => {
                write!(f, "the ramdisk's piece of {len_bytes:#x} bytes at {start} reaches beyond all memory")
            }
            Self::Mapping { start, nr_pages } => {
                write!(f, "{nr_pages} pages mapped at {start:#x} would touch addresses that are not the guest's")
            }
            Self::P2mPlace { start, nr_pages } => {
                write!(f, "the p2m list cannot have {nr_pages} pages at {start:#x}, where the kernel wants it")
            }
            Self::NoMemory => f.write_str("the hypervisor is out of memory"),
        }
    }
}

/// The state in which the first vCPU starts, and where things are.
///
/// The rest is the same for every domain: rflags IF, cs 0xe033, ss 0xe02b, other selectors and registers 0, events
/// masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Entry point.
    pub rip: u64,
    /// Top of the boot stack.
    pub rsp: u64,
    /// Virtual address of start_info.
    pub rsi: u64,
    /// The L4 table, cr3.
    pub l4: Mfn,
    /// The page tables of the boot mapping, from [`Self::pt_base`] on.
    pub nr_pt_frames: u64,
    /// Virtual address of the L4.
    pub pt_base: u64,
    /// The start_info page.
    pub start_info: Mfn,
    /// The console ring's page.
    pub console: Mfn,
    /// Its pfn.
    pub console_pfn: Pfn,
    /// The store ring's page.
    pub store: Mfn,
    /// Its pfn.
    pub store_pfn: Pfn,
    /// Virtual address of the p2m list.
    pub p2m: u64,
    /// First page of the p2m list.
    pub p2m_pfn: Pfn,
    /// The boot mapping's first address.
    pub virt_start: u64,
    /// The first address behind what is mapped.
    pub virt_end: u64,
}

/// Where everything of a domain goes.
#[derive(Debug)]
pub struct Layout<'a> {
    config: Config<'a>,
    memory: Memory<'a>,
    tables: Tables,
    ramdisk: Ramdisk,
    p2m: P2m,
    start_info_pfn: u64,
    store_pfn: u64,
    console_pfn: u64,
    tables_pfn: u64,
    stack_pfn: u64,
    nr_mapped: u64,
    /// A page to put things together in, so that writing needs no memory.
    scratch: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Ramdisk {
    pfn: u64,
    len_bytes: u64,
    is_mapped: bool,
}

#[derive(Clone, Copy, Debug)]
struct P2m {
    pfn: u64,
    va: u64,
    nr_pages: u64,
    /// Pages of the tables that map it, behind it, if it is not in the boot mapping.
    nr_tables: Option<u64>,
}

/// Where the p2m list and a ramdisk go that need not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unmapped {
    /// Behind the boot mapping.
    Behind,
    /// Wherever there is room.
    Anywhere,
}

/// Hands out pages, one behind the other.
struct Pages(u64);

impl Pages {
    fn take(&mut self, nr_pages: u64) -> u64 {
        let pfn = self.0;
        // Sums of a few things that are each below 2^40 pages.
        self.0 += nr_pages;
        pfn
    }
}

impl<'a> Layout<'a> {
    /// Finds a place for everything.
    pub fn plan(config: Config<'a>) -> Result<Self, BuildError> {
        match Self::plan_with(config, Unmapped::Behind) {
            Err(BuildError::MemoryTooSmall { .. }) => Self::plan_with(config, Unmapped::Anywhere),
            result => result,
        }
    }

    fn plan_with(config: Config<'a>, unmapped: Unmapped) -> Result<Self, BuildError> {
        check_command_line(config.command_line)?;
        let memory = Memory::try_new(config.memory)?;
        let nr_pages = memory.nr_pages();
        let ramdisk_bytes = count_ramdisk(config.ramdisk)?;
        let ramdisk_pages = ramdisk_bytes.div_ceil(PAGE_SIZE);
        let p2m_pages = nr_pages.div_ceil(P2M_PER_PAGE);
        let (notes, virt_base) = (config.kernel.notes(), config.kernel.virt_base());
        // As in Xen, a list that cannot be mapped by itself stays in the boot mapping.
        let p2m_va =
            notes.init_p2m.filter(|&va| unmapped == Unmapped::Behind && va < virt_base && va.is_multiple_of(PAGE_SIZE));
        let is_ramdisk_mapped = !notes.takes_ramdisk_by_pfn;
        let kernel_pfn = config.kernel.start() / PAGE_SIZE;
        let is_ramdisk_low = unmapped == Unmapped::Anywhere && LOW_RAMDISK_PFN + ramdisk_pages <= kernel_pfn;
        let has = |needed_pages| {
            let too_small = BuildError::MemoryTooSmall { needed_pages, found_pages: nr_pages };
            if needed_pages <= nr_pages { Ok(()) } else { Err(too_small) }
        };

        let mut next = Pages(config.kernel.end().div_ceil(PAGE_SIZE));
        let mut ramdisk_pfn = if is_ramdisk_mapped { next.take(ramdisk_pages) } else { 0 };
        let mut p2m_pfn = if p2m_va.is_none() { next.take(p2m_pages) } else { 0 };
        let (start_info_pfn, store_pfn, console_pfn) = (next.take(1), next.take(1), next.take(1));
        has(next.0)?;

        // The tables lie inside what they map, so their number is found by trying: it only grows.
        let tables_pfn = next.0;
        let mut nr_tables = 0;
        let (tables, boot_pages) = loop {
            let used = tables_pfn + nr_tables + 1 + SLACK_PAGES;
            let refused = BuildError::Mapping { start: virt_base, nr_pages: used };
            let end =
                virt_base.checked_add(used * PAGE_SIZE).and_then(|end| end.checked_next_multiple_of(MAPPING_ALIGN));
            let end = end.ok_or(refused)?;
            let boot_pages = (end - virt_base) / PAGE_SIZE;
            let span = Span::try_new(virt_base, end, 0, boot_pages.min(nr_pages)).ok_or(refused)?;
            let tables = Tables::new(span, tables_pfn);
            if tables.nr_boot() == nr_tables {
                break (tables, boot_pages);
            }
            nr_tables = tables.nr_boot();
        };
        let mut tables = tables;
        next.take(nr_tables);
        let stack_pfn = next.take(1);
        has(next.0 + SLACK_PAGES)?;

        // What is not mapped lies behind everything that could be.
        let mut next = Pages(boot_pages);
        if !is_ramdisk_mapped && is_ramdisk_low {
            ramdisk_pfn = LOW_RAMDISK_PFN;
        } else if !is_ramdisk_mapped && ramdisk_pages != 0 {
            ramdisk_pfn = next.take(ramdisk_pages);
            has(next.0)?;
        }
        let mut nr_p2m_tables = None;
        if let Some(va) = p2m_va {
            p2m_pfn = next.take(p2m_pages);
            let refused = BuildError::P2mPlace { start: va, nr_pages: p2m_pages };
            let end = va.checked_add(p2m_pages * PAGE_SIZE).filter(|&end| end <= virt_base).ok_or(refused)?;
            let span = Span::try_new(va, end, p2m_pfn, p2m_pages).ok_or(refused)?;
            let nr_tables = tables.add_p2m(span, next.0);
            next.take(nr_tables);
            has(next.0)?;
            nr_p2m_tables = Some(nr_tables);
        }

        let mut scratch = Vec::new();
        scratch.try_reserve_exact(PAGE_SIZE as usize).map_err(|_| BuildError::NoMemory)?;
        scratch.resize(PAGE_SIZE as usize, 0);
        let va = p2m_va.unwrap_or_else(|| virt_base + p2m_pfn * PAGE_SIZE);
        Ok(Self {
            config,
            memory,
            tables,
            ramdisk: Ramdisk { pfn: ramdisk_pfn, len_bytes: ramdisk_bytes, is_mapped: is_ramdisk_mapped },
            p2m: P2m { pfn: p2m_pfn, va, nr_pages: p2m_pages, nr_tables: nr_p2m_tables },
            start_info_pfn,
            store_pfn,
            console_pfn,
            tables_pfn,
            stack_pfn,
            nr_mapped: boot_pages.min(nr_pages),
            scratch,
        })
    }

    /// Where things will be.
    pub fn start(&self) -> Start {
        let virt_base = self.config.kernel.virt_base();
        Start {
            rip: self.config.kernel.entry(),
            rsp: self.va(self.stack_pfn + 1),
            rsi: self.va(self.start_info_pfn),
            l4: self.memory.mfn(self.tables_pfn),
            nr_pt_frames: self.tables.nr_boot(),
            pt_base: self.va(self.tables_pfn),
            start_info: self.memory.mfn(self.start_info_pfn),
            console: self.memory.mfn(self.console_pfn),
            console_pfn: Pfn::new(self.console_pfn),
            store: self.memory.mfn(self.store_pfn),
            store_pfn: Pfn::new(self.store_pfn),
            p2m: self.p2m.va,
            p2m_pfn: Pfn::new(self.p2m.pfn),
            virt_start: virt_base,
            virt_end: self.va(self.nr_mapped),
        }
    }

    /// The boot mapping's address of a page that is in it.
    fn va(&self, pfn: u64) -> u64 {
        self.config.kernel.virt_base() + pfn * PAGE_SIZE
    }

    /// Writes everything.
    pub fn write(mut self, mem: &impl PhysMem) -> Start {
        let mut scratch = core::mem::take(&mut self.scratch);
        self.write_kernel(mem, &mut scratch);
        self.write_ramdisk(mem, &mut scratch);
        self.write_p2m(mem, &mut scratch);
        for pfn in [self.store_pfn, self.console_pfn, self.stack_pfn] {
            self.memory.zero(mem, pfn * PAGE_SIZE, PAGE_SIZE);
        }
        self.write_start_info(mem, &mut scratch);
        self.write_shared_info(mem);
        let start = self.start();
        let l4 = self.tables.write(mem, &self.memory, &self.config.hypervisor_slots, &mut scratch);
        debug_assert_eq!(l4, start.l4);
        start
    }

    fn write_kernel(&self, mem: &impl PhysMem, scratch: &mut [u8]) {
        for segment in self.config.kernel.segments() {
            let in_file = segment.bytes.len() as u64;
            self.memory.write(mem, segment.start, segment.bytes);
            self.memory.zero(mem, segment.start + in_file, segment.len_bytes - in_file);
        }
        if let Some(pfn) = self.config.kernel.hypercall_pfn()
            && let Some(page) = scratch.first_chunk_mut()
        {
            hypercall_page::fill(page);
            mem.write(self.memory.mfn(pfn.get()).maddr(), page);
        }
    }

    fn write_ramdisk(&self, mem: &impl PhysMem, scratch: &mut [u8]) {
        let mut at = self.ramdisk.pfn * PAGE_SIZE;
        for &(from, len_bytes) in self.config.ramdisk {
            self.memory.copy(mem, at, from, len_bytes, scratch);
            at += len_bytes;
        }
        self.memory.zero(mem, at, at.next_multiple_of(PAGE_SIZE) - at);
    }

    fn write_p2m(&self, mem: &impl PhysMem, scratch: &mut [u8]) {
        let nr_pages = self.memory.nr_pages();
        let mut pfn = 0;
        for page in 0..self.p2m.nr_pages {
            scratch.fill(0);
            let (entries, _) = scratch.as_chunks_mut::<8>();
            let mut entries = entries.iter_mut();
            while pfn < nr_pages && entries.len() != 0 {
                let (mfn, nr_frames) = self.memory.run(pfn);
                // The frames come first in the pair: the last entry must not be taken when they have run out.
                for (frame, entry) in (mfn.get()..mfn.get() + nr_frames).zip(entries.by_ref()) {
                    *entry = frame.to_le_bytes();
                    pfn += 1;
                }
            }
            mem.write(self.memory.mfn(self.p2m.pfn + page).maddr(), scratch);
        }
    }

    fn write_start_info(&self, mem: &impl PhysMem, scratch: &mut [u8]) {
        use start_info as si;
        let (config, start, ramdisk) = (&self.config, self.start(), &self.ramdisk);
        let (mod_start, flag) = match ramdisk.len_bytes {
            0 => (0, 0),
            _ if ramdisk.is_mapped => (self.va(ramdisk.pfn), 0),
            _ => (ramdisk.pfn, sif::MOD_START_PFN),
        };
        let (first_p2m_pfn, nr_p2m_frames) = match self.p2m.nr_tables {
            None => (0, 0),
            Some(nr_tables) => (self.p2m.pfn, self.p2m.nr_pages + nr_tables),
        };
        scratch.fill(0);
        let mut put = |at: usize, bytes: &[u8]| scratch[at..at + bytes.len()].copy_from_slice(bytes);
        put(si::MAGIC, MAGIC);
        put(si::CMD_LINE, config.command_line.as_bytes());
        for (at, word) in [
            (si::NR_PAGES, self.memory.nr_pages()),
            (si::SHARED_INFO, config.shared_info.maddr().get()),
            (si::STORE_MFN, start.store.get()),
            (si::CONSOLE_MFN, start.console.get()),
            (si::PT_BASE, start.pt_base),
            (si::NR_PT_FRAMES, start.nr_pt_frames),
            (si::MFN_LIST, start.p2m),
            (si::MOD_START, mod_start),
            (si::MOD_LEN, ramdisk.len_bytes),
            (si::FIRST_P2M_PFN, first_p2m_pfn),
            (si::NR_P2M_FRAMES, nr_p2m_frames),
        ] {
            put(at, &word.to_le_bytes());
        }
        for (at, word) in [
            (si::FLAGS, config.start_flags & !sif::MOD_START_PFN | flag),
            (si::STORE_EVTCHN, config.store_port),
            (si::CONSOLE_EVTCHN, config.console_port),
        ] {
            put(at, &word.to_le_bytes());
        }
        mem.write(start.start_info.maddr(), scratch);
    }

    /// Every vCPU starts with events masked, also those that are not there yet.
    fn write_shared_info(&self, mem: &impl PhysMem) {
        let shared = self.config.shared_info.maddr();
        mem.zero(shared, PAGE_SIZE);
        for vcpu in 0..LEGACY_MAX_VCPUS {
            let info = shared_info::VCPU_INFO as u64 + vcpu * vcpu_info::SIZE as u64;
            mem.write(shared.offset(info + vcpu_info::EVTCHN_UPCALL_MASK as u64), &[1]);
        }
    }
}

fn check_command_line(line: &str) -> Result<(), BuildError> {
    if line.len() > COMMAND_LINE_MAX_BYTES {
        return Err(BuildError::CommandLineTooLong { len_bytes: line.len() });
    }
    line.bytes().position(|b| b == 0).map_or(Ok(()), |offset| Err(BuildError::CommandLineZero { offset }))
}

fn count_ramdisk(pieces: &[(Maddr, u64)]) -> Result<u64, BuildError> {
    pieces.iter().try_fold(0u64, |sum, &(start, len_bytes)| {
        let is_memory = start.get().checked_add(len_bytes).is_some_and(|end| end < Maddr::LIMIT);
        let sum = sum.checked_add(len_bytes).filter(|&sum| is_memory && sum < Maddr::LIMIT);
        sum.ok_or(BuildError::Ramdisk { start, len_bytes })
    })
}
