//! The one object that holds the machine's state, made once a boot by `start`.

use crate::cmdline::Options;
use crate::domain::evtchn::{Effect, Event, EventChannels};
use crate::domain::grant::GrantTables;
use crate::domain::sched::Scheduler;
use crate::frame::{DomId, Maddr, Mfn, MfnRange, Order};
use crate::memmap::MemMap;
use crate::mm::buddy::{Block, Scrubbed};
use crate::mm::frametable::Frames;
use crate::mm::m2p::M2p;
use crate::mm::page_info::PageType;
use crate::mm::types::{Access, DomainView, Effects, PageTypes, TypeError};
use crate::region::LuRegion;
use crate::run::console::ConsoleState;
use crate::run::domain::Domain;
use crate::run::teardown::Dying;
use crate::run::vcpu::Vcpu;
use crate::run::work;
use crate::x86::cpu::Features;
use crate::x86::directmap::DirectMap;
use crate::x86::paging;
use crate::xen::hypercall::runstate;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use spin::{Mutex, Once};

/// A boot module: it stays where it is, across updates too.
#[derive(Clone, Debug)]
pub struct Module {
    /// First byte; page aligned.
    pub start: Maddr,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Its string.
    pub string: String,
}

impl Module {
    /// The frames that it touches: owned by [`DomId::XEN`].
    pub const fn frames(&self) -> MfnRange {
        MfnRange::frames_touched(self.start.get(), self.len_bytes)
    }

    /// Its contents.
    #[expect(unsafe_code, reason = "module memory")]
    pub fn bytes(&self) -> &'static [u8] {
        // SAFETY: modules are claimed for `DomId::XEN` at every boot, never written and never freed.
        unsafe { crate::x86::directmap::bytes(self.start, self.len_bytes) }
    }
}

/// The machine's state.
pub struct Host {
    /// All frames.
    pub frames: &'static Frames,
    /// The live-update region.
    pub region: LuRegion,
    /// The slot that the image fills.
    pub slot: MfnRange,
    /// The memory map.
    pub memmap: MemMap,
    /// The command line's options.
    pub options: Options,
    /// The command line.
    pub command_line: String,
    /// What the CPU can do.
    pub features: Features,
    /// The machine-to-physical table.
    pub m2p: M2p,
    /// The hypervisor's own page tables.
    pub own_l4: Mfn,
    /// Wall-clock seconds and nanoseconds since 1970 at system time 0.
    pub wallclock: (u64, u32),
    /// Boot modules.
    pub modules: Mutex<Vec<Module>>,
    /// All domains that have not been taken apart completely.
    pub domains: Mutex<BTreeMap<DomId, Arc<Domain>>>,
    /// Number for the next domain.
    pub next_domid: Mutex<u16>,
    /// Event channels.
    pub evtchn: Mutex<EventChannels>,
    /// Grant tables.
    pub grants: Mutex<GrantTables>,
    /// Domains that are no more, but for frames that others map.
    pub zombies: Mutex<Vec<Arc<Domain>>>,
    /// Scheduler.
    pub sched: Mutex<Scheduler<Arc<Vcpu>>>,
    /// Console.
    pub console: Mutex<ConsoleState>,
    /// Domains being taken apart.
    pub dying: Mutex<Vec<Dying>>,
    /// Frames that nobody may have: two domains claimed them, or the outgoing side said so. They go on so from build to build.
    pub withheld: Mutex<Vec<MfnRange>>,
    /// Frames found to be faulty, in order; whoever has one keeps it, and nobody gets it then.
    pub bad_frames: Mutex<Vec<MfnRange>>,
    /// Live update: the staged image, the automatic updates, the history.
    pub update: Mutex<crate::lu::update::UpdateState>,
}

static HOST: Once<Host> = Once::new();

/// Makes the state known, once a boot.
pub fn install(host: Host) -> &'static Host {
    HOST.call_once(|| host)
}

/// The machine's state.
///
/// # Panics
/// Before `start` has installed it: nothing that calls this runs earlier.
pub fn host() -> &'static Host {
    HOST.get().expect("the host's state is installed before guests run")
}

/// True once the state is there.
pub fn is_installed() -> bool {
    HOST.is_completed()
}

/// A PV guest maps its own frames and nothing else by itself: the M2P it sees through the hypervisor's slots, and others' frames are mapped for
/// it by grants.
fn may_map(_: Mfn, _: DomId, _: Access) -> bool {
    false
}

impl Host {
    /// The page-type engine for a domain. Whoever uses it calls [`Host::settle`] before the guest runs again.
    pub fn types<'a>(&'a self, domain: &'a Domain) -> PageTypes<'a, Frames, DirectMap> {
        self.types_with(domain, &may_map)
    }

    /// As [`Host::types`], for the replay after an update: the domain's tables may hold mappings of others' frames that `may_map` knows.
    pub fn types_with<'a>(
        &'a self,
        domain: &'a Domain,
        may_map: &'a dyn Fn(Mfn, DomId, Access) -> bool,
    ) -> PageTypes<'a, Frames, DirectMap> {
        let view = DomainView { id: domain.id, hypervisor_slots: &domain.l4_slots, may_map, has_hardware: false };
        PageTypes::new(self.frames, &DirectMap, view)
    }

    /// Does what the engine left to the caller: flushes translations.
    pub fn settle(&self, types: &PageTypes<'_, Frames, DirectMap>, domain: &Domain) {
        let effects = types.take_effects();
        if effects.contains(Effects::FLUSH_TLB) {
            paging::flush_all();
        }
        if effects.contains(Effects::DROP_LDT) {
            crate::hypercall::mmuext::drop_ldt(domain);
        }
    }

    /// As [`Host::settle`], for the code that drops LDTs itself.
    pub fn settle_without_ldt(&self, types: &PageTypes<'_, Frames, DirectMap>) {
        if types.take_effects().contains(Effects::FLUSH_TLB) {
            paging::flush_all();
        }
    }

    /// Takes a reference as a writable page on each frame that the hypervisor shares with a domain. Without it the guest could make such a frame a page
    /// table, and what the hypervisor writes there, half of which the guest chooses, would be entries.
    pub fn hold_shared(&self, domain: &Domain) -> Result<(), TypeError> {
        let types = self.types(domain);
        let frames = self.shared_frames(domain);
        let hold = |mfn| types.get_page_and_type(mfn, PageType::Writable);
        let refused = frames.iter().enumerate().find_map(|(n, &mfn)| hold(mfn).err().map(|e| (n, e)));
        if let Some((held, _)) = refused {
            frames[..held].iter().for_each(|&mfn| types.put_page_and_type(mfn));
        }
        self.settle(&types, domain);
        domain.set_holds_shared(refused.is_none());
        refused.map_or(Ok(()), |(_, e)| Err(e))
    }

    /// Drops what [`Host::hold_shared`] took, and what was taken for frames that came later, if it did.
    pub fn release_shared(&self, domain: &Domain) {
        if !domain.set_holds_shared(false) {
            return;
        }
        let types = self.types(domain);
        for mfn in self.shared_frames(domain) {
            types.put_page_and_type(mfn);
        }
        self.settle(&types, domain);
    }

    fn shared_frames(&self, domain: &Domain) -> Vec<Mfn> {
        let mut frames: Vec<Mfn> = domain.shared_frames().collect();
        frames.extend(crate::run::grants::frames(self, domain.id));
        frames
    }

    /// A zeroed private frame or block, disposable at the next update; `None` without memory.
    pub fn alloc_private(&self, order: Order) -> Option<Block> {
        self.alloc_scrubbed(order).map(Scrubbed::into_block)
    }

    /// A zeroed block that may become a guest's; `None` without memory.
    pub fn alloc_scrubbed(&self, order: Order) -> Option<Scrubbed> {
        self.frames.alloc(order).map(|block| block.scrub(&DirectMap))
    }

    /// A domain.
    pub fn domain(&self, id: DomId) -> Option<Arc<Domain>> {
        self.domains.lock().get(&id).cloned()
    }

    /// Wakes whom an event concerns: the vCPU that the port notifies, and whoever polls.
    pub fn wake_for(&self, event: Event) {
        let Some(domain) = self.domain(event.domain) else { return };
        if event.effect == Effect::Upcall
            && let Some(vcpu) = domain.vcpu(event.vcpu)
        {
            self.wake(&vcpu);
        }
        if matches!(event.effect, Effect::Upcall | Effect::Pending) {
            let vcpus = domain.vcpus.lock().clone();
            for vcpu in vcpus {
                let polls = {
                    let v = vcpu.state.lock();
                    v.polling_until.is_some() && (v.poll_port == 0 || v.poll_port == event.port)
                };
                if polls {
                    self.wake(&vcpu);
                }
            }
        }
    }

    /// Ends a vCPU's wait.
    pub fn wake(&self, vcpu: &Arc<Vcpu>) {
        let now = crate::x86::tsc::now_ns();
        let timer = {
            let mut v = vcpu.state.lock();
            if !v.is_waiting() {
                return;
            }
            v.blocked = false;
            (v.polling_until, v.poll_port) = (None, 0);
            if !v.online {
                return;
            }
            if v.runstate.state == runstate::BLOCKED {
                work::enter_runstate(&mut v, vcpu, runstate::RUNNABLE, now);
            }
            v.next_timer()
        };
        let cpu = crate::x86::percpu::this_cpu();
        let current = cpu.current();
        if current.as_ref().is_some_and(|c| c.key() == vcpu.key()) {
            self.sched.lock().set_timer(vcpu.key(), timer);
            return;
        }
        let running = current.map(|c| (c.key(), now.saturating_sub(c.state.lock().runstate.entry_ns)));
        let mut sched = self.sched.lock();
        sched.set_timer(vcpu.key(), timer);
        sched.enqueue(vcpu.key(), vcpu.clone());
        if running.is_none_or(|(key, ran)| sched.someone_is_behind(key, ran)) {
            cpu.reschedule.set(true);
        }
    }

    /// Maps frames of descriptors into a vCPU's part of its domain's own area: table 0 is the GDT's (pages 0 to 13), table 1 the LDT's.
    pub fn map_descriptor_frames(&self, domain: &Domain, vcpu: u32, table: u64, mfns: &[Option<Mfn>]) {
        for (i, mfn) in mfns.iter().enumerate() {
            let flags = paging::P | paging::RW | paging::NX | 3 << 5;
            let entry = mfn.map_or(0, |m| m.maddr().get() | flags);
            domain.perdomain.set_page(vcpu, table * 16 + i as u64, entry);
        }
        paging::flush_all();
    }

    /// Frames of RAM, all of them.
    pub fn is_ram(&self, range: MfnRange) -> bool {
        self.memmap.is_ram(range)
    }
}
