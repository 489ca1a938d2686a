//! A domain at run time.

use crate::domain::console::Console;
use crate::domain::watchdog::Watchdogs;
use crate::frame::{DomId, Mfn, MfnRange};
use crate::mm::buddy::Block;
use crate::mm::extents::ExtentMap;
use crate::mm::frametable::Frames;
use crate::mm::lingering::Lingering;
use crate::mm::physmem::PhysMem;
use crate::run::vcpu::Vcpu;
use crate::x86::directmap::DirectMap;
use crate::x86::paging::{self, VCPU_AREA_PAGES};
use crate::xen::hypercall::vm_assist;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use spin::{Mutex, Once};

/// Why a domain has stopped: Xen's SHUTDOWN_* numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown(pub u32);

impl Shutdown {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "poweroff",
            1 => "reboot",
            2 => "suspend",
            3 => "crash",
            4 => "watchdog",
            5 => "soft reset",
            _ => "unknown reason",
        }
    }
}

const RUNS: u32 = u32::MAX;

/// A domain's memory and what the hypervisor knows about it.
pub struct DomainMemory {
    /// The frames that the domain owns, with its numbers for them.
    pub extents: ExtentMap,
    /// Frames that it has given up while something still referred to them.
    pub lingering: Lingering,
    /// The most frames that it may own.
    pub max_frames: u64,
    /// Frame of its shared_info: a hypervisor page shared with it.
    pub shared_info: Mfn,
}

impl DomainMemory {
    /// Frames that count as the domain's, as Xen counts them: also those that it has given up, until the last reference on them goes.
    pub fn nr_frames(&mut self, frames: &Frames, owner: DomId) -> u64 {
        self.settle(frames, owner);
        self.extents.nr_frames().saturating_add(self.lingering.nr_frames())
    }

    /// False if no more frames may linger.
    pub fn has_room_for_lingering(&mut self, frames: &Frames, owner: DomId) -> bool {
        if self.lingering.is_full() {
            self.settle(frames, owner);
        }
        !self.lingering.is_full()
    }

    /// All ranges of frames that the domain owns.
    pub fn ranges(&self) -> impl Iterator<Item = MfnRange> + '_ {
        self.extents.iter().map(|e| e.range()).chain(self.lingering.ranges())
    }

    /// Forgets frames that have been freed since they were given up.
    pub fn settle(&mut self, frames: &Frames, owner: DomId) {
        self.lingering.settle(|mfn| frames.is_lingering(mfn, owner));
    }
}

/// vCPUs whose area one table of level 1 maps.
const VCPUS_PER_TABLE: u64 = 512 / VCPU_AREA_PAGES;

/// The tables of slot 260 of one domain: private frames, made anew by every build.
pub struct PerDomain {
    /// Level 3, level 2, then tables of level 1 for 16 vCPUs each.
    tables: Mutex<Vec<Block>>,
    slot: u64,
}

impl PerDomain {
    /// Builds the tables for `nr_vcpus`, with the hypervisor's own descriptors in page 14 of each GDT. `None` without memory; `take` gives zeroed pages.
    pub fn try_new(nr_vcpus: u32, gdt_page: Mfn, mut take: impl FnMut() -> Option<Block>) -> Option<Self> {
        let nr_l1 = u64::from(nr_vcpus).div_ceil(VCPUS_PER_TABLE);
        let mut tables = Vec::new();
        for _ in 0..nr_l1 + 2 {
            tables.push(take()?);
        }
        let flags = paging::P | paging::RW | 1 << 5;
        let link = |to: &Block| to.mfn().maddr().get() | flags;
        DirectMap.write_u64(paging::entry_at(tables[0].mfn(), 0), link(&tables[1]));
        for (i, l1) in tables[2..].iter().enumerate() {
            DirectMap.write_u64(paging::entry_at(tables[1].mfn(), i as u64), link(l1));
        }
        let this = Self { slot: link(&tables[0]), tables: Mutex::new(tables) };
        for vcpu in 0..nr_vcpus {
            this.set_page(vcpu, 14, gdt_page.maddr().get() | paging::P | paging::RW | paging::NX | paging::AD);
        }
        Some(this)
    }

    /// The entry for slot 260.
    pub const fn slot(&self) -> u64 {
        self.slot
    }

    /// Sets the entry of a page of a vCPU's area.
    pub fn set_page(&self, vcpu: u32, page: u64, entry: u64) {
        let at = u64::from(vcpu) * VCPU_AREA_PAGES + page;
        if let Some(l1) = self.tables.lock().get(2 + (at / 512) as usize) {
            DirectMap.write_u64(paging::entry_at(l1.mfn(), at % 512), entry);
        }
    }

    /// The frames, to be freed: nothing is mapped through them any more.
    pub fn take_blocks(&self) -> Vec<Block> {
        core::mem::take(&mut *self.tables.lock())
    }
}

/// A domain that came out of the stream and does not run: why, and what of it is handed on.
pub struct Refusal {
    /// Why.
    pub why: String,
    /// What is handed on at the next update.
    pub carried: Carried,
}

/// What of a refused domain is handed on.
pub enum Carried {
    /// All of its records, as they came, and an END behind them.
    Whole {
        /// Their bytes.
        records: Vec<u8>,
        /// This build knows what of its grants is in use.
        has_grants: bool,
    },
    /// The memory that it has. It had so many vCPUs once.
    Memory {
        /// vCPUs that it was made with.
        nr_vcpus: u32,
    },
}

/// A domain.
pub struct Domain {
    /// Number.
    pub id: DomId,
    /// Name.
    pub name: String,
    /// May use `kexec_op`.
    pub privileged: bool,
    /// The module string it was built from, for a reboot.
    pub module_string: String,
    /// Memory. Lock order: before every vCPU.
    pub memory: Mutex<DomainMemory>,
    /// vCPUs. Empty once the domain is gone.
    pub vcpus: Mutex<Vec<Arc<Vcpu>>>,
    /// Console.
    pub console: Mutex<Console>,
    /// Watchdogs.
    pub watchdogs: Mutex<Watchdogs>,
    /// Slots 256 to 271 for its L4s.
    pub l4_slots: [u64; 16],
    /// The tables of its own area (GDTs and LDTs).
    pub perdomain: PerDomain,
    /// Handle, as the toolstack names domains.
    pub handle: [u8; 16],
    /// Console and store rings and their ports, as start_info told the guest.
    pub rings: Rings,
    refusal: Once<Refusal>,
    shutdown: AtomicU32,
    paused: AtomicBool,
    vm_assist: AtomicU64,
    holds_shared: AtomicBool,
}

/// The rings that the builder made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings {
    /// Frame of the console ring.
    pub console: Mfn,
    /// Port of the console in the domain.
    pub console_port: u32,
    /// Frame of the store ring.
    pub store: Mfn,
    /// Port of the store in the domain; 0 for none.
    pub store_port: u32,
}

/// What a domain is made of, before it has vCPUs.
#[expect(missing_docs, reason = "the fields of `Domain`")]
pub struct DomainParts {
    pub id: DomId,
    pub name: String,
    pub privileged: bool,
    pub module_string: String,
    pub memory: DomainMemory,
    pub console: Console,
    pub l4_slots: [u64; 16],
    pub perdomain: PerDomain,
    pub handle: [u8; 16],
    pub rings: Rings,
}

impl Domain {
    /// A domain without vCPUs.
    pub fn new(parts: DomainParts) -> Self {
        let DomainParts { id, name, privileged, module_string, memory, console, l4_slots, perdomain, handle, rings } =
            parts;
        Self {
            id,
            name,
            privileged,
            module_string,
            memory: Mutex::new(memory),
            vcpus: Mutex::new(Vec::new()),
            console: Mutex::new(console),
            watchdogs: Mutex::new(Watchdogs::default()),
            l4_slots,
            perdomain,
            handle,
            rings,
            refusal: Once::new(),
            shutdown: AtomicU32::new(RUNS),
            paused: AtomicBool::new(false),
            vm_assist: AtomicU64::new(0),
            holds_shared: AtomicBool::new(false),
        }
    }

    /// The frames that the guest shares from the beginning to the end, with the hypervisor or through it: shared_info, the console ring, and the store
    /// ring if there is one. Those of its grant table are not among them.
    pub fn shared_frames(&self) -> impl Iterator<Item = Mfn> {
        let store = Some(self.rings.store).filter(|&mfn| mfn != Mfn::ZERO);
        [self.memory.lock().shared_info, self.rings.console].into_iter().chain(store)
    }

    /// Notes that references on [`Domain::shared_frames`] are held, or are not any more; what was noted before.
    pub fn set_holds_shared(&self, holds: bool) -> bool {
        self.holds_shared.swap(holds, Ordering::AcqRel)
    }

    /// Why it has stopped, if it has.
    pub fn shutdown(&self) -> Option<Shutdown> {
        match self.shutdown.load(Ordering::Acquire) {
            RUNS => None,
            n => Some(Shutdown(n)),
        }
    }

    /// Stops it; false if it had stopped before.
    pub fn set_shutdown(&self, reason: Shutdown) -> bool {
        self.shutdown.compare_exchange(RUNS, reason.0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Keeps it as one that was refused when it came out of the stream: it does not run in this build.
    pub fn refuse(&self, refusal: Refusal) {
        self.refusal.call_once(|| refusal);
    }

    /// Why it was refused, if it was.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.get()
    }

    /// It lives: it has not stopped and was not refused. The rings of a domain that does not may be somebody else's memory.
    pub fn is_alive(&self) -> bool {
        self.shutdown().is_none() && self.refusal().is_none()
    }

    /// Its vCPUs may run.
    pub fn may_run(&self) -> bool {
        self.shutdown().is_none() && !self.paused.load(Ordering::Acquire)
    }

    /// Holds its vCPUs back, or lets them go.
    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
    }

    /// vm_assist bits.
    pub fn vm_assist(&self) -> u64 {
        self.vm_assist.load(Ordering::Relaxed)
    }

    /// The guest wants its user programs not to see the M2P (`VMASST_TYPE_m2p_strict`): a table that is used for them loses it.
    pub fn hides_m2p(&self) -> bool {
        self.has_assist(vm_assist::TYPE_M2P_STRICT)
    }

    /// True if a vm_assist is on: its VMASST_TYPE_* number.
    pub fn has_assist(&self, kind: u64) -> bool {
        self.vm_assist() >> kind & 1 != 0
    }

    /// Sets the vm_assist bits.
    pub fn set_vm_assist(&self, bits: u64) {
        self.vm_assist.store(bits, Ordering::Relaxed);
    }

    /// One of its vCPUs.
    pub fn vcpu(&self, id: u32) -> Option<Arc<Vcpu>> {
        self.vcpus.lock().get(id as usize).cloned()
    }
}
