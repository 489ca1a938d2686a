//! A domain's beginning: a module string and a kernel become memory, page tables and a first vCPU.

use crate::domain::builder::{BuildError, Config, Layout};
use crate::domain::console::Console;
use crate::domain::evtchn::{DomainConfig, Service};
use crate::domain::kernel::Kernel;
use crate::domain::spec::{Create, GuestSpec, ModuleSpec, Store};
use crate::frame::{DomId, Mfn, MfnRange, Order, Pfn};
use crate::log;
use crate::mm::extents::ExtentMap;
use crate::mm::lingering::Lingering;
use crate::mm::page_info::CountFlags;
use crate::mm::physmem::PhysMem;
use crate::mm::types::TypeError;
use crate::run::domain::{Domain, DomainMemory, DomainParts, PerDomain, Rings};
use crate::run::host::{Host, Module};
use crate::run::vcpu::{Vcpu, VcpuState};
use crate::run::{grants, work};
use crate::verdict::{self, Verdict};
use crate::x86::directmap::DirectMap;
use crate::x86::fpu::FpuArea;
use crate::x86::{cpu, desc, paging, traps};
use crate::xen::Errno;
use crate::xen::hypercall::{pv, runstate, sif};
use crate::xen::layout::shared_info;
use crate::xen::vcpu::empty_traps;
use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// A domain cannot be created; everything it had taken is given back.
#[derive(Debug)]
#[expect(missing_docs, reason = "said by Display")]
pub enum CreateError {
    Spec(String),
    Kernel(String),
    NoRamdisk { name: String },
    Build(BuildError),
    Types(TypeError),
    Events(Errno),
    NoMemory { frames: u64 },
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spec(e) => write!(f, "module string: {e}"),
            Self::Kernel(e) => write!(f, "kernel: {e}"),
            Self::NoRamdisk { name } => write!(f, "there is no module `ramdisk name={name}`"),
            Self::Build(e) => write!(f, "{e}"),
            Self::Types(e) => write!(f, "its page tables are refused: {e}"),
            Self::Events(e) => write!(f, "event channels: {e}"),
            Self::NoMemory { frames } => write!(f, "no memory for {frames} frames"),
        }
    }
}

/// The guests that modules describe, with their names.
fn guests(host: &Host) -> Vec<(Module, Vec<String>, Create)> {
    let mut out = Vec::new();
    for module in host.modules.lock().iter() {
        match ModuleSpec::parse(&module.string) {
            Ok(ModuleSpec::Guest(spec)) => {
                let names = match spec.count {
                    1 => [spec.name.to_owned()].to_vec(),
                    n => (1..=n).map(|i| alloc::format!("{}-{i}", spec.name)).collect(),
                };
                out.push((module.clone(), names, spec.create));
            }
            Ok(_) => {}
            Err(e) => {
                log!("domain", "module \"{}\": {e}", module.string);
            }
        }
    }
    out
}

/// Creates the domains that are to be there from the start.
pub fn create_boot_domains(host: &Host) {
    create_all(host, Create::AtBoot);
}

/// Creates the domains that wait for the operator, or for the first update.
pub fn create_later_domains(host: &Host) {
    create_all(host, Create::Later);
}

fn create_all(host: &Host, when: Create) {
    for (module, names, create) in guests(host) {
        if create != when {
            continue;
        }
        for name in names {
            let there = host.domains.lock().values().find(|d| d.name == name).map(|d| d.id);
            match there {
                None => create_named(host, &module, &name),
                Some(id) => log!("domain", "{name} is not created: {id} is called that"),
            }
        }
    }
}

/// Creates a domain anew after it asked for a reboot.
pub fn recreate(host: &Host, module_string: &str, name: &str) {
    let module = host.modules.lock().iter().find(|m| m.string == module_string).cloned();
    match module {
        Some(module) => create_named(host, &module, name),
        None => {
            log!("domain", "{name} cannot be created again: its module is gone");
            verdict::note(Verdict::Failure);
        }
    }
}

fn create_named(host: &Host, module: &Module, name: &str) {
    match create(host, module, name) {
        Ok(domain) => {
            let memory = domain.memory.lock();
            let (frames, extents) = (memory.extents.nr_frames(), memory.extents.nr_extents());
            let last = memory.extents.iter().next_back().map_or(MfnRange::EMPTY, |e| e.range());
            log!("domain", "{} {name} created: {frames} frames in {extents} extents, the last {last}", domain.id);
        }
        Err(e) => {
            log!("domain", "{name} cannot be created: {e}");
        }
    }
}

/// Memory of a domain in the making. Until [`Taken::keep`] everything goes back to the heap when it is dropped.
struct Taken<'h> {
    host: &'h Host,
    id: DomId,
    extents: ExtentMap,
    shared_info: Option<Mfn>,
    kept: bool,
}

impl<'h> Taken<'h> {
    fn new(host: &'h Host, id: DomId) -> Self {
        Self { host, id, extents: ExtentMap::new(), shared_info: None, kept: false }
    }

    /// Takes memory for pages 0 to `nr_pages`, in at least `extents` pieces, zeroed.
    fn take_memory(&mut self, nr_pages: u64, extents: u64) -> Result<(), CreateError> {
        let no_memory = || CreateError::NoMemory { frames: nr_pages };
        let mut largest = Order::MAX;
        while largest.nr_frames() > (nr_pages / extents.max(1)).max(1) {
            largest = largest.smaller().unwrap_or(Order::PAGE);
        }
        // With more extents asked for than one, every other block is held back while memory is taken, so that they cannot join.
        let mut held = Vec::new();
        let mut pfn = 0;
        let mut order = largest;
        let result = loop {
            if pfn == nr_pages {
                break Ok(());
            }
            while order.nr_frames() > nr_pages - pfn {
                order = order.smaller().unwrap_or(Order::PAGE);
            }
            let block = match order.larger().filter(|_| extents > 1) {
                Some(twice) => self.host.frames.alloc(twice).and_then(|block| match self.host.frames.split(block) {
                    Ok((lower, upper)) => {
                        held.push(upper);
                        Some(lower)
                    }
                    Err(whole) => {
                        self.host.frames.free(whole);
                        None
                    }
                }),
                None => self.host.frames.alloc(order),
            };
            let Some(block) = block else {
                let Some(smaller) = order.smaller() else { break Err(no_memory()) };
                order = smaller;
                continue;
            };
            if self.extents.make_room().is_err() {
                self.host.frames.free(block);
                break Err(no_memory());
            }
            let Ok(block) = self.host.frames.into_domain(block.scrub(&DirectMap), self.id) else {
                break Err(no_memory());
            };
            let inserted = self.extents.insert(Some(Pfn::new(pfn)), block.mfn(), order.nr_frames());
            assert!(inserted.is_ok(), "fresh memory is in nobody's extents (I6)");
            self.host.m2p.set_run(&DirectMap, block.range(), Pfn::new(pfn));
            pfn += order.nr_frames();
        };
        for block in held {
            self.host.frames.free(block);
        }
        result
    }

    fn take_shared_info(&mut self) -> Result<Mfn, CreateError> {
        let no_memory = CreateError::NoMemory { frames: 1 };
        let Some(block) = self.host.alloc_scrubbed(Order::PAGE) else { return Err(no_memory) };
        let Ok(block) = self.host.frames.into_domain_with(block, self.id, CountFlags::XEN_HEAP) else {
            return Err(no_memory);
        };
        self.shared_info = Some(block.mfn());
        Ok(block.mfn())
    }

    fn keep(mut self) -> ExtentMap {
        self.kept = true;
        core::mem::take(&mut self.extents)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for extent in self.extents.iter() {
            // Nobody else refers to the memory of a domain that was never there.
            let _ = self.host.frames.relinquish(extent.range(), self.id);
        }
        if let Some(mfn) = self.shared_info {
            let _ = self.host.frames.relinquish(MfnRange::new(mfn, 1), self.id);
        }
    }
}

/// The tables of slot 260 for a domain of `nr_vcpus`, and slots 256 to 271 for its L4s.
pub fn hypervisor_area(host: &Host, nr_vcpus: u32) -> Option<(PerDomain, [u64; 16])> {
    let [image_start, ..] = traps::image_parts();
    let image = host.slot.first()?.maddr();
    let gdt_page = image.offset(desc::gdt_page_va() - image_start).mfn_containing();
    let perdomain = PerDomain::try_new(nr_vcpus, gdt_page, || host.alloc_private(Order::PAGE))?;
    let mut slots = paging::hypervisor_slots(host.own_l4);
    slots[paging::PERDOMAIN_SLOT - paging::FIRST_SLOT] = perdomain.slot();
    Some((perdomain, slots))
}

fn next_domid(host: &Host) -> DomId {
    let mut next = host.next_domid.lock();
    loop {
        let id = DomId::new(*next);
        *next = if *next + 1 < DomId::FIRST_RESERVED { *next + 1 } else { 1 };
        if !host.domains.lock().contains_key(&id) {
            return id;
        }
    }
}

fn ramdisk(host: &Host, spec: &GuestSpec<'_>) -> Result<Option<Module>, CreateError> {
    let Some(name) = spec.ramdisk else { return Ok(None) };
    let modules = host.modules.lock();
    let found = modules
        .iter()
        .find(|m| matches!(ModuleSpec::parse(&m.string), Ok(ModuleSpec::Ramdisk { name: n }) if n == name));
    found.cloned().map(Some).ok_or_else(|| CreateError::NoRamdisk { name: name.to_owned() })
}

fn create(host: &Host, module: &Module, name: &str) -> Result<Arc<Domain>, CreateError> {
    let spec = match ModuleSpec::parse(&module.string) {
        Ok(ModuleSpec::Guest(spec)) => spec,
        Ok(_) => return Err(CreateError::Spec("not a guest".to_owned())),
        Err(e) => return Err(CreateError::Spec(e.to_string())),
    };
    let kernel = Kernel::parse(module.bytes()).map_err(|e| CreateError::Kernel(e.to_string()))?;
    let ramdisk = ramdisk(host, &spec)?;
    let ramdisk: Vec<_> = ramdisk.iter().map(|m| (m.start, m.len_bytes)).collect();
    let id = next_domid(host);
    let mut taken = Taken::new(host, id);
    taken.take_memory(spec.nr_pages(), spec.extents)?;
    let shared = taken.take_shared_info()?;
    let (perdomain, l4_slots) = hypervisor_area(host, spec.vcpus).ok_or(CreateError::NoMemory { frames: 4 })?;

    let config = DomainConfig { shared_info: shared, nr_vcpus: spec.vcpus, is_privileged: spec.is_privileged };
    let mut evtchn = host.evtchn.lock();
    evtchn.add_domain(id, config).map_err(CreateError::Events)?;
    let ports = evtchn.bind_hypervisor(id, Service::Console).and_then(|console| {
        let store = match spec.store {
            Store::None => 0,
            Store::Empty => evtchn.bind_hypervisor(id, Service::Store)?,
        };
        Ok((console, store))
    });
    drop(evtchn);
    let built = ports.map_err(CreateError::Events).and_then(|(console_port, store_port)| {
        // The builder counts pages upwards; the map has them by frame.
        let mut memory: Vec<_> =
            taken.extents.iter().filter_map(|e| e.pfn.map(|pfn| (pfn, e.mfn, e.range().nr_frames()))).collect();
        memory.sort_by_key(|e| e.0);
        let layout = Layout::plan(Config {
            kernel: &kernel,
            ramdisk: &ramdisk,
            command_line: spec.command_line,
            memory: &memory,
            shared_info: shared,
            console_port,
            store_port,
            start_flags: if spec.is_privileged { sif::PRIVILEGED } else { 0 },
            hypervisor_slots: l4_slots,
        })
        .map_err(CreateError::Build)?;
        Ok((layout.write(&DirectMap), console_port, store_port))
    });
    let (start, console_port, store_port) = match built {
        Ok(built) => built,
        Err(e) => {
            let _ = host.evtchn.lock().remove_domain(id);
            for block in perdomain.take_blocks() {
                host.frames.free(block);
            }
            return Err(e);
        }
    };
    write_wallclock(host, shared);
    let extents = taken.keep();
    let domain = Arc::new(Domain::new(DomainParts {
        id,
        name: name.to_owned(),
        privileged: spec.is_privileged,
        module_string: module.string.clone(),
        memory: DomainMemory {
            extents,
            lingering: Lingering::new(),
            max_frames: spec.max_pages(),
            shared_info: shared,
        },
        console: Console::new(start.console),
        l4_slots,
        perdomain,
        handle: handle(id, name),
        rings: Rings { console: start.console, console_port, store: start.store, store_port },
    }));
    host.domains.lock().insert(id, domain.clone());
    let shared = host.hold_shared(&domain).map_err(CreateError::Types);
    let granting = shared.and_then(|()| grants::create(host, &domain).map_err(|_| CreateError::NoMemory { frames: 1 }));
    let first = granting.and_then(|()| first_vcpu(host, &domain, &start));
    if let Err(e) = first.and_then(|vcpu| add_vcpus(host, &domain, vcpu, spec.vcpus)) {
        crate::run::teardown::shut_down(&domain, crate::run::domain::Shutdown(crate::xen::hypercall::shutdown::CRASH));
        return Err(e);
    }
    Ok(domain)
}

/// A handle that tells domains apart: the number and the name's beginning.
fn handle(id: DomId, name: &str) -> [u8; 16] {
    let mut handle = [0; 16];
    handle[..2].copy_from_slice(&id.get().to_be_bytes());
    for (to, from) in handle[2..].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    handle
}

/// Wall-clock time at system time 0, in the shared_info page.
fn write_wallclock(host: &Host, shared: Mfn) {
    let (sec, nsec) = host.wallclock;
    let at = |offset: usize| shared.maddr().offset(offset as u64);
    DirectMap.write(at(shared_info::WC_SEC), &(sec as u32).to_le_bytes());
    DirectMap.write(at(shared_info::WC_SEC_HI), &((sec >> 32) as u32).to_le_bytes());
    DirectMap.write(at(shared_info::WC_NSEC), &nsec.to_le_bytes());
    DirectMap.write(at(shared_info::WC_VERSION), &2u32.to_le_bytes());
}

/// A fresh FPU area for this CPU.
pub fn fpu_area(host: &Host) -> Option<FpuArea> {
    let f = &host.features;
    FpuArea::try_new(f.xsave_len as usize, if f.xsave { f.xcr0 } else { 0 })
}

fn new_state(host: &Host, domain: &Domain, id: u32) -> Result<VcpuState, CreateError> {
    let fpu = fpu_area(host).ok_or(CreateError::NoMemory { frames: 1 })?;
    let info = host.evtchn.lock().vcpu_info(domain.id, id).ok_or(CreateError::Events(Errno::ENOENT))?;
    let mut state = VcpuState::new(info, fpu, empty_traps());
    state.runstate.entry_ns = crate::x86::tsc::now_ns();
    work::publish_time(&state);
    Ok(state)
}

fn first_vcpu(host: &Host, domain: &Domain, start: &crate::domain::builder::Start) -> Result<VcpuState, CreateError> {
    let mut v = new_state(host, domain, 0)?;
    let types = host.types(domain);
    // The toolstack pins a domain's first L4; the vCPU's base pointer is a reference of its own.
    let pinned = types.pin(start.l4, 4).and_then(|()| types.get_base(start.l4));
    host.settle(&types, domain);
    pinned.map_err(CreateError::Types)?;
    v.kernel_l4 = Some(start.l4);
    v.regs.rip = start.rip;
    v.regs.rsp = start.rsp;
    v.regs.rsi = start.rsi;
    v.regs.cs = pv::FLAT_KERNEL_CS;
    v.regs.ss = pv::FLAT_KERNEL_SS;
    v.regs.rflags = 1 << 9 | 2;
    v.cr4 = cpu::guest_cr4(&host.features, 0);
    v.online = true;
    v.initialised = true;
    v.runstate.state = runstate::RUNNABLE;
    Ok(v)
}

fn add_vcpus(host: &Host, domain: &Arc<Domain>, first: VcpuState, nr: u32) -> Result<(), CreateError> {
    let mut vcpus = Vec::new();
    vcpus.push(Arc::new(Vcpu { domain: domain.clone(), id: 0, state: spin::Mutex::new(first) }));
    for id in 1..nr {
        let state = new_state(host, domain, id)?;
        vcpus.push(Arc::new(Vcpu { domain: domain.clone(), id, state: spin::Mutex::new(state) }));
    }
    let boot = vcpus[0].clone();
    *domain.vcpus.lock() = vcpus;
    host.sched.lock().enqueue(boot.key(), boot);
    Ok(())
}
