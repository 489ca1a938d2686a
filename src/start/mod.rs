//! The stages of a boot, in order. A cold boot is an update with an empty stream (I9).
//!
//! ```text
//! boot/head.S ─ luxen_start ─ log, console, descriptor tables
//!   Firmware ─ Placed ─ Mapped ─ Framed ─┬─ breadcrumb, MFN list, stream: checked as a whole
//!                                        ├─ claims: modules, M2P, log, domains (or: modules alone)
//!                              Plugged ──┴─ free memory = RAM − claims − region − image − stream
//!   M2P, log, Host ─ domains restored (or built) ─ stream freed ─ guests run
//! ```

pub mod failure;
mod loader;
pub mod memory;
pub mod selftest;

pub use crate::bootinfo;
use crate::bootinfo::{BootInfo, BootInfoError};
use crate::cmdline::{self, BadRegionSpec};
use crate::domain::sched::Scheduler;
use crate::frame::{DomId, Maddr, Mfn, MfnRange, Order};
use crate::log;
use crate::lu::breadcrumb;
use crate::lu::damage::Damage;
use crate::lu::restore::{HostParts, Incoming, RestoreError};
use crate::memmap::{MemMap, MemMapError};
use crate::mm::frametable::{Frames, InitError};
use crate::mm::m2p::M2p;
use crate::mm::physmem::PhysMem;
use crate::region::RegionError;
use crate::run::console::ConsoleState;
use crate::run::host::{self, Host, Module};
use crate::run::{bad, create};
use crate::time::Clock;
use crate::verdict::Verdict;
use crate::x86::directmap::DirectMap;
use crate::x86::{apic, cmos, cpu, desc, directmap, paging, percpu, pit, serial, traps, tsc};
use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use memory::{ClaimOrFatal, Firmware, Framed, PlugIn, Plugged};
use spin::{Mutex, Once};

/// Order of the block that holds the log: 256 KiB.
const LOG_ORDER: Order = Order::new(6);

/// Boot cannot go on: the reason is printed and the machine stops.
#[derive(Debug)]
#[expect(missing_docs, reason = "said by Display")]
pub enum Fatal {
    BootInfo(BootInfoError),
    MemMap(MemMapError),
    Slot { slot: MfnRange },
    RegionSpec(BadRegionSpec),
    Region(RegionError),
    TooManyRanges,
    NoRoomForModule { frames: MfnRange },
    NoBootMemory { what: &'static str, left: u64 },
    Frametable(InitError),
    Claim(crate::mm::frametable::ClaimError),
    Restore(RestoreError),
    NoMemory { what: &'static str },
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BootInfo(e) => write!(f, "{e}"),
            Self::MemMap(e) => write!(f, "{e}"),
            Self::Slot { slot } => write!(f, "the image's slot {slot} is not RAM at a multiple of 2 MiB"),
            Self::RegionSpec(e) => write!(f, "{e}"),
            Self::Region(e) => write!(f, "{e}"),
            Self::TooManyRanges => f.write_str("more separate ranges than boot can keep: give fewer modules"),
            Self::NoRoomForModule { frames } => {
                write!(f, "no room below 4 GiB to move the module at {frames} out of the region: give more memory")
            }
            Self::NoBootMemory { what, left } => write!(
                f,
                "the region is too small for {what}: {left} frames are left of it; give a larger liveupdate=<size>"
            ),
            Self::Frametable(e) => write!(f, "{e}"),
            Self::Claim(e) => write!(f, "{e}"),
            Self::Restore(e) => write!(f, "{e}"),
            Self::NoMemory { what } => write!(f, "no memory for {what}"),
        }
    }
}

impl From<RestoreError> for Fatal {
    fn from(e: RestoreError) -> Self {
        Self::Restore(e)
    }
}

impl From<crate::lu::claims::NoRoom> for Fatal {
    fn from(e: crate::lu::claims::NoRoom) -> Self {
        Self::Restore(e.into())
    }
}

impl From<ClaimOrFatal> for Fatal {
    fn from(e: ClaimOrFatal) -> Self {
        match e {
            ClaimOrFatal::Claim(e) => Self::Claim(e),
            ClaimOrFatal::Fatal(e) => e,
        }
    }
}

struct EarlyLog(UnsafeCell<[u8; log::early_len()]>);
#[expect(unsafe_code, reason = "handed out once")]
// SAFETY: `luxen_start` takes the only reference, once.
unsafe impl Sync for EarlyLog {}
static EARLY_LOG: EarlyLog = EarlyLog(UnsafeCell::new([0; log::early_len()]));
/// Region and slot, once they are known.
static PLACES: Once<(MfnRange, MfnRange)> = Once::new();
static BOOT_INFO: Mutex<BootInfo> = Mutex::new(BootInfo::EMPTY);

#[expect(unsafe_code, reason = "symbols of boot/head.S")]
mod symbols {
    core::arch::global_asm!(include_str!("../../boot/head.S"));

    unsafe extern "C" {
        pub static boot_stack_top: u8;
    }
}

/// Entry from boot/head.S.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "called by boot/head.S")]
extern "C" fn luxen_start(magic: u32, mbi: u32, image: u32) -> ! {
    let entry_tsc = tsc::rdtsc();
    // SAFETY: the first and only use of the buffer.
    log::start(unsafe { &mut *EARLY_LOG.0.get() });
    let stack_top = (&raw const symbols::boot_stack_top) as u64;
    percpu::init_boot_cpu(stack_top);
    desc::init(stack_top);
    log::hold();
    serial::init();
    log::connect(log::Backend { now_ns: tsc::now_ns, print: serial::print, offer: serial::offer });
    if let Err(fatal) = boot(magic, mbi, Maddr::new(image.into()), entry_tsc) {
        stop(&fatal);
    }
    log::pace();
    traps::enter_guests(stack_top)
}

/// Ends a boot that cannot go on.
fn stop(fatal: &Fatal) -> ! {
    // `boot` has left it, but for a bug.
    let Some(info) = BOOT_INFO.try_lock() else { failure::of_boot(fatal) };
    if !info.is_update {
        failure::of_boot(fatal);
    }
    let (options, _) = cmdline::parse(info.command_line.as_str());
    let sum = || {
        let map = MemMap::from_firmware(info.entries().iter().copied()).ok()?;
        let (region, slot) = PLACES.get()?;
        Some(failure::sum_of_memory(&map, *region, *slot))
    };
    failure::of_update(fatal, &options, sum)
}

fn boot(magic: u32, mbi: u32, image: Maddr, entry_tsc: u64) -> Result<(), Fatal> {
    let mut info = BOOT_INFO.lock();
    loader::read(&mut info, magic, mbi).map_err(Fatal::BootInfo)?;
    let command_line = info.command_line;
    let (options, complaints) = cmdline::parse(command_line.as_str());
    for complaint in complaints.iter() {
        log!("cmdline", "{complaint}");
    }
    let features = cpu::init(cpu::features());
    pit::quiet_legacy();
    let placed = Firmware::read(&info, image, &options.badpage)?.place_region(&options, &mut info)?;
    let given = Given { command_line: command_line.as_str(), options, features };
    let mut framed = placed.map_memory(&features, image)?.make_frames()?;
    apic::init();

    let slot = framed.firmware.slot;
    let map = framed.firmware.map.clone();
    PLACES.call_once(|| (framed.region.range(), slot));
    let incoming = match info.is_update {
        true => Incoming::open(framed.region.range(), slot, |r| map.is_ram(r)).map_err(Fatal::Restore)?,
        // A reset in the middle of an update may have left one: nobody is to follow it (I4).
        false => {
            breadcrumb::clear(&DirectMap, framed.region.range());
            None
        }
    };
    match incoming {
        None => {
            start_clock_cold();
            serial::discard_input();
            log::release();
            log!("start", "{}, cold boot", crate::build::VERSION);
            let plugged = claim_modules(framed, &info)?;
            let modules = modules_of(&info);
            drop(info);
            cold(plugged, modules, given)
        }
        Some(mut incoming) => {
            incoming.start_clock();
            incoming.note_boot(entry_tsc);
            incoming.claim_all(framed.frames, options.badpage.ranges(), |needed| framed.feed(needed))?;
            let plugged = framed.plug_in(PlugIn::Later);
            incoming.note_plugged();
            drop(info);
            warm(plugged, incoming, given)
        }
    }
}

fn start_clock_cold() {
    let tsc_hz = pit::measure_tsc_hz();
    tsc::set_clock(Clock::new(tsc::rdtsc(), 0, tsc_hz));
    apic::set_hz(apic::measure_hz(tsc_hz));
}

fn modules_of(info: &BootInfo) -> Vec<Module> {
    let module = |m: &bootinfo::BootModule| Module {
        start: Maddr::new(m.start),
        len_bytes: m.len_bytes,
        string: m.string.as_str().to_owned(),
    };
    info.modules().iter().filter(|m| m.len_bytes != 0).map(module).collect()
}

fn claim_modules(mut framed: Framed, info: &BootInfo) -> Result<Plugged, Fatal> {
    for m in info.modules() {
        framed.claim(MfnRange::frames_touched(m.start, m.len_bytes), DomId::XEN)?;
    }
    Ok(framed.plug_in(PlugIn::Now))
}

/// The ledger line (I8). A mismatch is an error of the hypervisor: the verdict of a test run says so.
pub fn print_ledger(frames: &Frames) {
    let ledger = frames.ledger();
    if !ledger.is_balanced() {
        crate::verdict::note(Verdict::Error);
    }
    // The ledger names its module itself.
    log::line_of(format_args!("{ledger}"));
}

/// What the loader and the CPU say.
struct Given<'a> {
    command_line: &'a str,
    options: cmdline::Options,
    features: cpu::Features,
}

fn make_host(plugged: Plugged, given: Given<'_>, m2p: M2p, parts: HostParts) -> Host {
    let Given { command_line, options, features } = given;
    let HostParts { wallclock, modules, update } = parts;
    let Plugged { firmware, region, own_l4, frames } = plugged;
    Host {
        frames,
        region,
        slot: firmware.slot,
        memmap: firmware.map,
        options,
        command_line: command_line.to_owned(),
        features,
        m2p,
        own_l4,
        wallclock,
        modules: Mutex::new(modules),
        domains: Mutex::new(BTreeMap::new()),
        next_domid: Mutex::new(1),
        evtchn: Mutex::new(crate::domain::evtchn::EventChannels::new()),
        grants: Mutex::new(crate::domain::grant::GrantTables::new()),
        zombies: Mutex::new(Vec::new()),
        sched: Mutex::new(Scheduler::default()),
        console: Mutex::new(ConsoleState::default()),
        dying: Mutex::new(Vec::new()),
        withheld: Mutex::new(Vec::new()),
        bad_frames: Mutex::new(Vec::new()),
        update: Mutex::new(update),
    }
}

/// Maps the M2P for guests: slot 256 of the hypervisor's tables, read-only. The tables are private frames.
fn map_m2p(frames: &Frames, own_l4: Mfn, m2p: &M2p) -> Result<(), Fatal> {
    let take = || {
        let block = frames.alloc(Order::PAGE)?;
        DirectMap.zero(block.mfn().maddr(), Order::PAGE.len_bytes());
        Some(block.mfn())
    };
    let mut builder = paging::Builder::new(take);
    for (i, run) in m2p.runs() {
        let va = paging::M2P_VA + i * Order::CHUNK.len_bytes();
        builder
            .map_chunks(own_l4, va, run, paging::US | paging::NX | 1 << 5)
            .ok_or(Fatal::NoMemory { what: "page tables of the M2P" })?;
    }
    Ok(())
}

fn cold(plugged: Plugged, modules: Vec<Module>, given: Given<'_>) -> Result<(), Fatal> {
    let frames = plugged.frames;
    print_ledger(frames);
    let map = &plugged.firmware.map;
    let mut blocks = Vec::new();
    let no_m2p = || Fatal::NoMemory { what: "the M2P" };
    for i in 0..M2p::blocks_for(map.end()) {
        let span = MfnRange::new(Mfn::new(i * crate::mm::m2p::FRAMES_PER_BLOCK), crate::mm::m2p::FRAMES_PER_BLOCK);
        if !map.ram().any(|ram| ram.overlaps(span)) {
            blocks.push(None);
            continue;
        }
        let block = frames.alloc(Order::CHUNK).ok_or_else(no_m2p)?;
        let block = frames.preserve(block).map_err(|_| no_m2p())?;
        M2p::clear_block(&DirectMap, block.mfn());
        blocks.push(Some(block.mfn()));
    }
    let m2p = M2p::new(blocks);
    map_m2p(frames, plugged.own_l4, &m2p)?;
    let no_log = || Fatal::NoMemory { what: "the log" };
    let block = frames.alloc(LOG_ORDER).ok_or_else(no_log)?;
    let block = frames.preserve(block).map_err(|_| no_log())?;
    let who = format_args!("{} writes from here on, since the cold boot", crate::build::VERSION);
    log::move_to(log::Ring::new(log_memory(block.range())), block.range(), who);
    let wallclock = (cmos::unix_seconds(), 0);
    let update = crate::lu::update::UpdateState::cold();
    let host = host::install(make_host(plugged, given, m2p, HostParts { wallclock, modules, update }));
    crate::lu::update::print_trust(host);
    bad::retire(host, host.options.badpage.ranges());
    // Some tests are for the updates.
    let test = host.options.test.as_ref().map(|test| test.as_str());
    match test.filter(|test| Damage::asked(&host.options).is_none() && !crate::lu::update::is_test(test)) {
        Some("bad-frames") => {
            create::create_boot_domains(host);
            bad::report_two(host);
            return Ok(());
        }
        Some(test) => selftest::run(host, test),
        None => create::create_boot_domains(host),
    }
    Ok(())
}

/// The log's memory as bytes.
#[expect(unsafe_code, reason = "claimed memory becomes bytes")]
fn log_memory(range: MfnRange) -> &'static mut [u8] {
    let at = range.first().unwrap_or(Mfn::ZERO).maddr();
    // SAFETY: the range is owned by `DomId::XEN` for the log alone, now and after every update.
    unsafe { directmap::slice_mut(at, range.len_bytes() as usize) }
}

fn warm(plugged: Plugged, mut incoming: Incoming, given: Given<'_>) -> Result<(), Fatal> {
    let frames = plugged.frames;
    let m2p = incoming.take_m2p();
    map_m2p(frames, plugged.own_l4, &m2p)?;
    if let Some(saved) = incoming.log() {
        let (from, number) = (incoming.from(), incoming.sequence());
        let who =
            format_args!("{} writes from here on, since update {number}; before it {from}", crate::build::VERSION);
        log::move_to(log::Ring::resume(log_memory(saved.range), saved.head, saved.printed), saved.range, who);
    }
    log!("start", "{} took over from {}, update {}", crate::build::VERSION, incoming.from(), incoming.sequence());
    let parts = incoming.host_parts();
    let host = host::install(make_host(plugged, given, m2p, parts));
    incoming.restore_domains(host).map_err(Fatal::Restore)?;
    incoming.free_stream(host).map_err(Fatal::Restore)?;
    // The report follows when the guests run again.
    incoming.finish(host);
    Ok(())
}

#[cfg(not(test))]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    static PANICS: AtomicU32 = AtomicU32::new(0);
    if PANICS.fetch_add(1, Ordering::Relaxed) != 0 {
        // A panic while one is reported: what was said has to do.
        crate::x86::debug_exit::exit(Verdict::Error);
    }
    log::break_lock();
    serial::break_lock();
    log!("panic", "{info}");
    traps::backtrace(0, traps::frame_pointer());
    traps::finish(Verdict::Error)
}
