//! A virtual CPU: the state of a PV guest's processor.
//!
//! While a vCPU runs, its registers are in the frame at the top of the CPU's stack and its segment bases and FPU state in the CPU; at all other
//! times everything is here. A vCPU leaves the CPU only on the way back to a guest, so what is here is always a restartable boundary.

use crate::frame::{DomId, Maddr, Mfn};
use crate::run::domain::Domain;
use crate::x86::fpu::FpuArea;
use crate::x86::traps::Frame;
use crate::xen::hypercall::{pv, runstate};
use crate::xen::vcpu::{TrapInfo, TrapTable};
use alloc::boxed::Box;
use alloc::sync::Arc;
use spin::Mutex;

/// Frames of a guest's GDT: entries below 7168.
pub const GDT_FRAMES: usize = 14;

/// Vector of NMIs, in the trap table too.
pub const NMI_VECTOR: u8 = 2;

/// An entry into the guest other than a trap.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Callback {
    /// Address; 0 for none.
    pub rip: u64,
    /// Entering masks events.
    pub masks_events: bool,
}

/// The entries that a guest registers with `callback_op`, but for that of NMIs, which is vector 2 of the trap table.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names of the public interface")]
pub struct Callbacks {
    pub event: Callback,
    pub failsafe: Callback,
    pub syscall: Callback,
    pub syscall32: Callback,
    pub sysenter: Callback,
}

/// Time spent in each state, as `vcpu_runstate_info` counts it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct RunState {
    /// `runstate::RUNNING` and so on.
    pub state: u32,
    /// System time at which the state began, in nanoseconds.
    pub entry_ns: u64,
    /// Nanoseconds in each state, up to `entry_ns`.
    pub times: [u64; 4],
    /// Guest address of the registered area; 0 for none.
    pub area_va: u64,
}

impl RunState {
    /// Enters a state at `now`.
    pub fn enter(&mut self, state: u32, now: u64) {
        let spent = now.saturating_sub(self.entry_ns);
        if let Some(time) = self.times.get_mut(self.state as usize) {
            *time += spent;
        }
        self.state = state;
        self.entry_ns = now;
    }
}

/// Everything of a vCPU that is not in its registers' frame while it runs.
pub struct VcpuState {
    /// General registers; stale while the vCPU runs.
    pub regs: Frame,
    /// Data segment selectors; stale while the vCPU runs.
    pub ds: u16,
    /// As `ds`.
    pub es: u16,
    /// As `ds`.
    pub fs: u16,
    /// As `ds`: the selector in the mode that the vCPU is in.
    pub gs: u16,
    /// FS base; stale while the vCPU runs.
    pub fs_base: u64,
    /// GS base of guest kernel mode; stale while the vCPU runs in that mode.
    pub gs_base_kernel: u64,
    /// GS base of guest user mode; stale while the vCPU runs in that mode.
    pub gs_base_user: u64,
    /// The guest is in its kernel.
    pub kernel_mode: bool,
    /// L4 of guest kernel mode: one general and one type reference are held.
    pub kernel_l4: Option<Mfn>,
    /// L4 of guest user mode, held likewise.
    pub user_l4: Option<Mfn>,
    /// Trap table.
    pub traps: Box<TrapTable>,
    /// Stack selector for entries from guest user mode.
    pub kernel_ss: u64,
    /// Stack pointer for entries from guest user mode.
    pub kernel_sp: u64,
    /// Entries other than traps.
    pub callbacks: Callbacks,
    /// GDT frames: each held as a segment-descriptor page.
    pub gdt_frames: [Option<Mfn>; GDT_FRAMES],
    /// Entries of the GDT.
    pub gdt_entries: u32,
    /// LDT address in the guest.
    pub ldt_base: u64,
    /// LDT entries.
    pub ldt_entries: u32,
    /// LDT frames, held as the GDT's.
    pub ldt_frames: [Option<Mfn>; 16],
    /// The guest's CR0.TS.
    pub task_switched: bool,
    /// Debug registers 0 to 7; 4 and 5 unused.
    pub debugreg: [u64; 8],
    /// The guest's CR4, as it reads it.
    pub cr4: u64,
    /// The guest's XCR0: in the CPU while the vCPU runs.
    pub xcr0: u64,
    /// The guest's I/O privilege level.
    pub iopl: u8,
    /// Guest kernel address of its I/O bitmap; 0 for none.
    pub iobmp: u64,
    /// Ports that the I/O bitmap covers.
    pub iobmp_nr_ports: u32,
    /// FPU state; stale while the vCPU runs.
    pub fpu: FpuArea,
    /// Brought up with `VCPUOP_up` or built as vCPU 0.
    pub online: bool,
    /// Given its first context.
    pub initialised: bool,
    /// Waiting in `SCHEDOP_block`.
    pub blocked: bool,
    /// Waiting in `SCHEDOP_poll` until this many nanoseconds of system time (`u64::MAX`: no limit).
    pub polling_until: Option<u64>,
    /// The one port that it polls; 0 if there are several, or none.
    pub poll_port: u32,
    /// It gave its turn away with `SCHEDOP_yield`, and has not run since.
    pub yielded: bool,
    /// An NMI waits to be delivered.
    pub nmi_pending: bool,
    /// An NMI was delivered, and no iret has ended its handler: the next one waits.
    pub nmi_masked: bool,
    /// Machine address of its `vcpu_info`.
    pub info: Maddr,
    /// It was moved there by `VCPUOP_register_vcpu_info`.
    pub info_registered: bool,
    /// Run state.
    pub runstate: RunState,
    /// Guest address of the registered copy of the time area; 0 for none.
    pub time_area_va: u64,
    /// Expiry of the one-shot timer in nanoseconds of system time.
    pub singleshot: Option<u64>,
    /// Period of the periodic timer in nanoseconds; 0 if stopped.
    pub periodic_ns: u64,
    /// Next expiry of the periodic timer.
    pub periodic_next: u64,
}

/// A virtual CPU of a domain.
pub struct Vcpu {
    /// Its domain.
    pub domain: Arc<Domain>,
    /// Its number in the domain.
    pub id: u32,
    /// Its state.
    pub state: Mutex<VcpuState>,
}

impl VcpuState {
    /// A vCPU that has never run.
    pub fn new(info: Maddr, fpu: FpuArea, traps: Box<TrapTable>) -> Self {
        Self {
            regs: Frame::default(),
            ds: 0,
            es: 0,
            fs: 0,
            gs: 0,
            fs_base: 0,
            gs_base_kernel: 0,
            gs_base_user: 0,
            kernel_mode: true,
            kernel_l4: None,
            user_l4: None,
            traps,
            kernel_ss: 0,
            kernel_sp: 0,
            callbacks: Callbacks::default(),
            gdt_frames: [None; GDT_FRAMES],
            gdt_entries: 0,
            ldt_base: 0,
            ldt_entries: 0,
            ldt_frames: [None; 16],
            task_switched: false,
            debugreg: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            cr4: 0,
            xcr0: fpu.xcr0(),
            iopl: 0,
            iobmp: 0,
            iobmp_nr_ports: 0,
            fpu,
            online: false,
            initialised: false,
            blocked: false,
            polling_until: None,
            poll_port: 0,
            yielded: false,
            nmi_pending: false,
            nmi_masked: false,
            info,
            info_registered: false,
            runstate: RunState { state: runstate::OFFLINE, ..RunState::default() },
            time_area_va: 0,
            singleshot: None,
            periodic_ns: 0,
            periodic_next: 0,
        }
    }

    /// The L4 of the mode that the guest is in.
    pub fn active_l4(&self) -> Option<Mfn> {
        if self.kernel_mode { self.kernel_l4 } else { self.user_l4 }
    }

    /// May be scheduled, as far as the vCPU itself is concerned. Without page tables it must not: it would run on those of another.
    pub fn is_runnable(&self) -> bool {
        self.online && !self.is_waiting() && self.active_l4().is_some()
    }

    /// Waits in `SCHEDOP_block` or `SCHEDOP_poll`.
    pub fn is_waiting(&self) -> bool {
        self.blocked || self.polling_until.is_some()
    }

    /// It is to be given an NMI before it goes on.
    pub fn nmi_due(&self) -> bool {
        self.nmi_pending && !self.nmi_masked
    }

    /// Takes the handler of NMIs, 0 for none. Its entry masks events, and `int 2` is for nobody, as Xen has it.
    pub fn set_nmi_handler(&mut self, address: u64) {
        let trap = match address {
            0 => TrapInfo::default(),
            address => {
                TrapInfo { vector: NMI_VECTOR, flags: TrapInfo::MASKS_EVENTS, cs: pv::FLAT_KERNEL_CS as u16, address }
            }
        };
        self.traps.set(NMI_VECTOR, &trap);
    }

    /// The next moment at which a timer of this vCPU is due.
    pub fn next_timer(&self) -> Option<u64> {
        let periodic = (self.periodic_ns != 0).then_some(self.periodic_next);
        [self.singleshot, periodic, self.polling_until.filter(|&t| t != u64::MAX)].into_iter().flatten().min()
    }
}

impl Vcpu {
    /// Domain and number, for ordered sets.
    pub fn key(&self) -> (DomId, u32) {
        (self.domain.id, self.id)
    }
}
