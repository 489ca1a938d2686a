//! The memory stages of boot: map, region, boot allocator, page tables, frametable, small objects.
//!
//! ```text
//!   Firmware ──▶ Placed ──▶ Mapped ──▶ Framed
//!   map, slot    region     page        frametable; then the stream is read,
//!                           tables      owners claim, the rest is plugged in
//! ```
//!
//! Each stage takes the former's token, so none can be left out or run twice. Until the last one everything comes out of the region (I2).

use crate::build;
use crate::cmdline::{BadPages, Options};
use crate::frame::{CHUNK_FRAMES, CHUNK_SIZE, DomId, Maddr, Mfn, MfnRange, Order, PAGE_SIZE};
use crate::log;
use crate::lu::needs::RegionNeeds;
use crate::memmap::{MAX_FAULTY, MemMap};
use crate::mm::bootmem::{BootAlloc, BootBlock, OutOfBootMemory};
use crate::mm::frametable::{
    BlockState, ChunkEntry, ClaimError, Frames, InitError, NR_SLABS, Split, SplitSlab, blocks_for, boot_slab_splits,
};
use crate::mm::physmem::PhysMem;
use crate::ranges::RangeSet;
use crate::region::LuRegion;
use crate::run::plug_in;
use crate::start::Fatal;
use crate::start::bootinfo::BootInfo;
use crate::x86::cpu::Features;
use crate::x86::directmap::{self, DirectMap};
use crate::x86::{heap, paging, percpu};
use alloc::vec::Vec;
use spin::Once;

/// Region at the first boot if the command line says nothing.
const DEFAULT_REGION_BYTES: u64 = 32 << 20;
static SLABS: [SplitSlab; NR_SLABS] = [const { SplitSlab::new() }; NR_SLABS];
static FRAMES: Once<Frames> = Once::new();

/// What the firmware says, and where the image is.
pub struct Firmware {
    /// The map.
    pub map: MemMap,
    /// The image's slot.
    pub slot: MfnRange,
}

impl Firmware {
    /// Normalises the map and finds the slot in it.
    pub fn read(info: &BootInfo, image: Maddr, bad: &BadPages) -> Result<Self, Fatal> {
        let mut map = MemMap::from_firmware(info.entries().iter().copied()).map_err(Fatal::MemMap)?;
        let slot = MfnRange::new(image.mfn_containing(), build::SLOT_BYTES / PAGE_SIZE);
        // After an update somebody may have such a frame, and it is taken out of use when all is claimed.
        if !info.is_update && !bad.ranges().is_empty() {
            map = map.without(&faulty(bad, slot, info));
        }
        if !map.is_ram(slot) || !slot.start().is_multiple_of(CHUNK_FRAMES) {
            return Err(Fatal::Slot { slot });
        }
        log!(
            "memmap",
            "{} frames of RAM, the last below {:#x}; image slot {slot}",
            map.ram_frames(),
            map.end() * PAGE_SIZE
        );
        Ok(Self { map, slot })
    }

    /// Places the region and moves modules out of its way.
    pub fn place_region(self, options: &Options, info: &mut BootInfo) -> Result<Placed, Fatal> {
        let mut busy = RangeSet::<8>::new();
        let mut movable = RangeSet::<128>::new();
        let full = |_| Fatal::TooManyRanges;
        busy.insert(self.slot).map_err(full)?;
        for m in info.modules() {
            movable.insert(MfnRange::frames_touched(m.start, m.len_bytes)).map_err(full)?;
        }
        let place = |spec| LuRegion::place(spec, &self.map, &busy, &movable, DEFAULT_REGION_BYTES);
        let wanted = options.liveupdate.map_err(Fatal::RegionSpec).and_then(|spec| place(spec).map_err(Fatal::Region));
        let region = match wanted {
            Ok(region) => region,
            // An update is told the exact range; anywhere else there is no breadcrumb, and the guests would be lost.
            Err(e) if info.is_update => return Err(e),
            Err(e) => {
                log!("region", "{e}; a region is chosen instead, the guests run");
                place(None).map_err(Fatal::Region)?
            }
        };
        busy.insert(region.range()).map_err(full)?;
        for i in 0..info.modules().len() {
            let m = info.modules()[i];
            let frames = MfnRange::frames_touched(m.start, m.len_bytes);
            if !region.range().overlaps(frames) {
                continue;
            }
            let to = self.room_for(frames.nr_frames(), &busy, &movable).ok_or(Fatal::NoRoomForModule { frames })?;
            move_bytes(m.start, to.maddr().get(), m.len_bytes);
            movable.insert(MfnRange::new(to, frames.nr_frames())).map_err(full)?;
            info.modules_mut()[i].start = to.maddr().get();
            log!("region", "module {i} moved from {frames} to {to:#x}000");
        }
        log!("region", "{} of {} MiB", region.range(), region.len_bytes() >> 20);
        let boot = BootAlloc::new(&region, &[]).map_err(full)?;
        Ok(Placed { firmware: self, region, boot })
    }

    /// The highest place below 4 GiB for frames that nothing occupies.
    fn room_for(&self, nr_frames: u64, busy: &RangeSet<8>, taken: &RangeSet<128>) -> Option<Mfn> {
        let limit = (1u64 << 32) / PAGE_SIZE;
        for ram in self.map.ram_below(limit).rev() {
            let mut end = ram.end();
            while end >= ram.start() + nr_frames {
                let range = MfnRange::between(end - nr_frames, end)?;
                match busy.first_overlap(range).or(taken.first_overlap(range)) {
                    Some(hit) => end = hit.start(),
                    None => return range.first(),
                }
            }
        }
        None
    }
}

/// The frames that are faulty and not in use yet: what the loader has put on some of them stays there.
fn faulty(bad: &BadPages, slot: MfnRange, info: &BootInfo) -> RangeSet<MAX_FAULTY> {
    let mut faulty = RangeSet::new();
    let modules = info.modules().iter().map(|m| MfnRange::frames_touched(m.start, m.len_bytes));
    let used = modules.chain([slot]);
    for &range in bad.ranges() {
        let taken = faulty.insert(range);
        let freed = used.clone().filter(|used| used.overlaps(range)).try_for_each(|used| faulty.remove(used));
        if taken.and(freed).is_err() {
            log!(
                "memmap",
                "badpage={range}: too many pieces between the image and the modules, some of it stays in use"
            );
        }
    }
    faulty
}

#[expect(unsafe_code, reason = "moves a module")]
fn move_bytes(from: u64, to: u64, len: u64) {
    let (from, to) = (directmap::ptr::<u8>(Maddr::new(from)), directmap::ptr::<u8>(Maddr::new(to)));
    // SAFETY: both ranges are RAM below 4 GiB, mapped by boot/head.S; the target is nobody's; `copy` allows any overlap.
    unsafe { core::ptr::copy(from, to, len as usize) }
}

/// The region is placed.
pub struct Placed {
    /// Map and slot.
    pub firmware: Firmware,
    /// The region.
    pub region: LuRegion,
    boot: BootAlloc,
}

fn zeroed_page(boot: &mut BootAlloc) -> Option<Mfn> {
    let mfn = boot.alloc_page().ok()?.range().first()?;
    DirectMap.zero(mfn.maddr(), PAGE_SIZE);
    Some(mfn)
}

impl Placed {
    /// Builds and loads the hypervisor's page tables.
    pub fn map_memory(mut self, features: &Features, image: Maddr) -> Result<Mapped, Fatal> {
        let ram_end = (self.firmware.map.end() * PAGE_SIZE).next_multiple_of(CHUNK_SIZE);
        let own_l4 = paging::build(|| zeroed_page(&mut self.boot), ram_end, image, features.gib_pages)
            .ok_or(Fatal::NoBootMemory { what: "page tables", left: self.boot.stats().left })?;
        paging::load(own_l4);
        percpu::this_cpu().loaded_l4.set(Some(own_l4));
        let page_tables = self.boot.stats().given * PAGE_SIZE;
        Ok(Mapped { placed: self, own_l4, page_tables })
    }
}

/// All RAM is mapped.
pub struct Mapped {
    placed: Placed,
    own_l4: Mfn,
    page_tables: u64,
}

/// Boot memory as a slice for ever.
#[expect(unsafe_code, reason = "boot memory becomes objects")]
fn into_slice<T>(block: BootBlock, len: usize) -> &'static mut [T] {
    let range = block.range();
    let at = range.first().unwrap_or(Mfn::ZERO).maddr();
    assert!(len * size_of::<T>() <= range.len_bytes() as usize, "a slice fits its block");
    DirectMap.zero(at, range.len_bytes());
    // SAFETY: the block is consumed, so nobody else has it; callers use types for which zeros are valid (page records, bytes).
    unsafe { directmap::slice_mut(at, len) }
}

/// Boot memory as entries of the frametable, not cleared: it does not matter what is in them.
#[expect(unsafe_code, reason = "boot memory becomes entries")]
fn into_entries(block: BootBlock, len: usize) -> &'static [ChunkEntry] {
    let range = block.range();
    let at = range.first().unwrap_or(Mfn::ZERO).maddr();
    assert!(len * size_of::<ChunkEntry>() <= range.len_bytes() as usize, "the entries fit their block");
    // SAFETY: the block is consumed, so nobody else has it; an entry is two integers, and any bytes are.
    unsafe { directmap::slice_mut(at, len) }
}

/// Boot memory as bytes for ever. They are not cleared: the heap does not care, and an update waits for it.
#[expect(unsafe_code, reason = "boot memory becomes bytes")]
fn into_bytes(block: BootBlock) -> &'static mut [u8] {
    let range = block.range();
    let at = range.first().unwrap_or(Mfn::ZERO).maddr();
    // SAFETY: the block is consumed, so nobody else has it; any byte is valid.
    unsafe { directmap::slice_mut(at, range.len_bytes() as usize) }
}

/// Adds at least `needed` splits to the pool, a slab of them if there is room for one.
fn feed(frames: &Frames, boot: &mut BootAlloc, needed: u64) -> Result<(), Fatal> {
    let mut splits = boot_slab_splits(frames.lock().pool().nr_slabs()).max(needed);
    let block = loop {
        match boot.alloc((splits * size_of::<Split>() as u64).div_ceil(PAGE_SIZE), Order::PAGE) {
            Ok(block) => break block,
            Err(_) if splits > needed => splits = (splits / 2).max(needed),
            Err(e) => return Err(Fatal::NoBootMemory { what: "page records", left: e.left }),
        }
    };
    let slab: &'static [Split] = into_slice(block, splits as usize);
    frames.lock().pool().feed(slab).map_err(|_| Fatal::TooManyRanges)
}

impl Mapped {
    /// Makes the frametable, and memory for small objects.
    pub fn make_frames(self) -> Result<Framed, Fatal> {
        let Self { placed: Placed { firmware, region, mut boot }, own_l4, page_tables } = self;
        let out = |what| move |e: OutOfBootMemory| Fatal::NoBootMemory { what, left: e.left };
        let heap_frames = build::EARLY_HEAP_BYTES / PAGE_SIZE;
        let early = boot.alloc(heap_frames, Order::PAGE).map_err(out("small objects"))?;
        let fixed = (boot.stats().given + boot.stats().reserved) * PAGE_SIZE - page_tables;
        heap::add(into_bytes(early));
        let nr_entries = firmware.map.end().div_ceil(CHUNK_FRAMES);
        let bytes = nr_entries * size_of::<ChunkEntry>() as u64;
        let block = boot.alloc(bytes.div_ceil(PAGE_SIZE), Order::PAGE).map_err(out("the frametable"))?;
        let frametable = block.range().len_bytes();
        let entries = into_entries(block, nr_entries as usize);
        let blocks = (0..blocks_for(entries.len())).map(|_| BlockState::new()).collect::<Vec<_>>().leak();
        let frames = FRAMES.call_once(|| Frames::new(entries, blocks, &SLABS));
        for ram in firmware.map.ram() {
            loop {
                let result = frames.lock().init_ram(ram);
                match result {
                    Ok(()) => break,
                    Err(InitError::NoRecords { needed, .. }) => {
                        feed(frames, &mut boot, needed)?;
                    }
                    Err(e) => return Err(Fatal::Frametable(e)),
                }
            }
        }
        frames.lock().init_region(region.range()).map_err(Fatal::Frametable)?;
        frames.lock().init_image(firmware.slot).map_err(Fatal::Frametable)?;
        let used = RegionNeeds { fixed, frametable, page_tables, page_records: 0 };
        Ok(Framed { firmware, region, boot, own_l4, frames, used })
    }
}

/// The frametable knows what is RAM; nobody owns anything yet.
pub struct Framed {
    /// Map and slot.
    pub firmware: Firmware,
    /// The region.
    pub region: LuRegion,
    boot: BootAlloc,
    /// The hypervisor's own page tables.
    pub own_l4: Mfn,
    /// All frames.
    pub frames: &'static Frames,
    /// What was used of the region, but for page records.
    used: RegionNeeds,
}

impl Framed {
    /// Claims frames for an owner; page records come out of the region.
    pub fn claim(&mut self, range: MfnRange, owner: DomId) -> Result<(), ClaimOrFatal> {
        loop {
            match self.frames.claim(range, owner) {
                Ok(()) => return Ok(()),
                Err(ClaimError::NoRecords { needed, .. }) => {
                    self.feed(needed).map_err(ClaimOrFatal::Fatal)?;
                }
                Err(e) => return Err(ClaimOrFatal::Claim(e)),
            }
        }
    }

    /// Provides for at least so many page records, out of the region.
    pub fn feed(&mut self, needed: u64) -> Result<(), Fatal> {
        feed(self.frames, &mut self.boot, needed)
    }

    /// All that nobody claimed becomes free memory, now or little by little; what is left of the region serves small objects.
    pub fn plug_in(self, when: PlugIn) -> Plugged {
        let Self { firmware, region, boot, own_l4, frames, mut used } = self;
        super::failure::note_plugged();
        let (nr_used, nr_total) = {
            let mut frames = frames.lock();
            let pool = frames.pool();
            (pool.nr_total() - pool.nr_unused(), pool.nr_total())
        };
        used.page_records = nr_used * size_of::<Split>() as u64;
        match when {
            PlugIn::Now => {
                frames.plug_in(map_splits);
            }
            PlugIn::Later => {
                frames.lock().plug_in_later(map_splits);
                plug_in::expect();
            }
        }
        let stats = boot.stats();
        log!("bootmem", "{stats}");
        // The outgoing build has said what it planned, in the same words.
        log!("bootmem", "used of the region: {used}, {nr_used} of {nr_total} splits");
        for range in boot.finish().left() {
            let Some(first) = range.first() else { continue };
            #[expect(unsafe_code, reason = "the region's rest becomes the heap")]
            // SAFETY: the boot allocator is gone and tells that nobody has this range; bytes need no initial value that matters.
            let bytes = unsafe { directmap::slice_mut::<u8>(first.maddr(), range.len_bytes() as usize) };
            heap::add(bytes);
        }
        heap::set_grow(grow);
        Plugged { firmware, region, own_l4, frames }
    }
}

/// When free memory is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlugIn {
    /// All of it at once.
    Now,
    /// When guests run again, but for what is needed before.
    Later,
}

/// A claim that failed, or boot memory that ran out on the way.
#[derive(Debug)]
pub enum ClaimOrFatal {
    /// Somebody else has a frame.
    Claim(ClaimError),
    /// Boot cannot go on.
    Fatal(Fatal),
}

/// Free memory is plugged in.
pub struct Plugged {
    /// Map and slot.
    pub firmware: Firmware,
    /// The region.
    pub region: LuRegion,
    /// The hypervisor's own page tables.
    pub own_l4: Mfn,
    /// All frames.
    pub frames: &'static Frames,
}

/// Memory of the heap as page records. They are not cleared: the pool is told so, and an update waits for it.
#[expect(unsafe_code, reason = "heap memory becomes objects")]
fn map_splits(first: Mfn, nr_frames: u64) -> &'static [Split] {
    let len = nr_frames * PAGE_SIZE / size_of::<Split>() as u64;
    // SAFETY: the heap gives the block away for ever; a record is integers, of which any bytes are some.
    unsafe { directmap::slice_mut(first.maddr(), len as usize) }
}

/// More memory for small objects: at least a mebibyte at a time.
#[expect(unsafe_code, reason = "heap memory becomes bytes")]
fn grow(wanted: usize) -> Option<&'static mut [u8]> {
    let frames = FRAMES.get()?;
    let nr_frames = (wanted as u64).div_ceil(PAGE_SIZE).max(1024);
    let block = frames.alloc(Order::holding(nr_frames)?)?;
    // SAFETY: the block is ours for ever.
    Some(unsafe { directmap::slice_mut(block.mfn().maddr(), block.order().len_bytes() as usize) })
}
