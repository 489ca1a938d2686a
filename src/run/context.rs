//! Which vCPU's registers are in the CPU.

use crate::frame::Mfn;
use crate::hypercall::mmuext;
use crate::run::host::host;
use crate::run::vcpu::{Vcpu, VcpuState};
use crate::x86::paging;
use crate::x86::paging::{PERDOMAIN_VA, VCPU_AREA_PAGES};
use crate::x86::percpu::{PerCpu, this_cpu};
use crate::x86::traps::{Frame, SegmentRegister, load_selector};
use crate::x86::{cpu, debug, desc, fpu, tsc};
use crate::xen::hypercall::runstate;
use alloc::sync::Arc;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{DS, ES, FS, GS, Segment};
use x86_64::registers::model_specific::{FsBase, KernelGsBase};

/// Address of a vCPU's GDT in its domain's own area.
pub fn gdt_va(vcpu: u32) -> u64 {
    PERDOMAIN_VA + u64::from(vcpu) * VCPU_AREA_PAGES * 4096
}

/// Address of its LDT there, 16 pages further on.
pub fn ldt_va(vcpu: u32) -> u64 {
    gdt_va(vcpu) + 16 * 4096
}

/// Loads an L4 unless it is loaded already.
pub fn load_l4(cpu: &PerCpu, l4: Mfn) {
    if cpu.loaded_l4.get() != Some(l4) {
        paging::load(l4);
        cpu.loaded_l4.set(Some(l4));
    }
}

/// Takes the running vCPU's state out of the CPU: afterwards no vCPU is current.
pub fn save_current(frame: &Frame) -> Option<Arc<Vcpu>> {
    let cpu = this_cpu();
    let vcpu = cpu.current.borrow_mut().take()?;
    let now = tsc::now_ns();
    {
        let mut v = vcpu.state.lock();
        v.regs = *frame;
        (v.ds, v.es, v.fs, v.gs) = (DS::get_reg().0, ES::get_reg().0, FS::get_reg().0, GS::get_reg().0);
        v.fs_base = FsBase::read().as_u64();
        save_gs_base(&mut v);
        fpu::set_ts(false);
        v.fpu.save();
        let ran = now.saturating_sub(v.runstate.entry_ns);
        host().sched.lock().charge(vcpu.key(), ran);
        let state = if !v.online {
            runstate::OFFLINE
        } else if v.is_waiting() {
            runstate::BLOCKED
        } else {
            runstate::RUNNABLE
        };
        super::work::enter_runstate(&mut v, &vcpu, state, now);
    }
    Some(vcpu)
}

/// Puts a vCPU's state into the CPU and the frame.
pub fn load(vcpu: Arc<Vcpu>, frame: &mut Frame) {
    let cpu = this_cpu();
    let now = tsc::now_ns();
    // Its data segments may be descriptors of an LDT whose pages were dropped meanwhile.
    mmuext::map_ldt(&vcpu);
    {
        let mut v = vcpu.state.lock();
        *frame = v.regs;
        v.yielded = false;
        if let Some(l4) = v.active_l4() {
            load_l4(cpu, l4);
        }
        super::work::enter_runstate(&mut v, &vcpu, runstate::RUNNING, now);
        desc::load_gdt(gdt_va(vcpu.id));
        desc::load_ldt(ldt_va(vcpu.id), v.ldt_entries);
        load_selector(SegmentRegister::Ds, v.ds);
        load_selector(SegmentRegister::Es, v.es);
        load_selector(SegmentRegister::Fs, v.fs);
        load_selector(SegmentRegister::Gs, v.gs);
        FsBase::write(VirtAddr::new_truncate(v.fs_base));
        load_gs_base(&v);
        load_debug_registers(&v);
        v.fpu.load();
        fpu::set_xcr0(v.xcr0);
        fpu::set_ts(v.task_switched);
        cpu::load_guest_cr4(v.cr4);
    }
    cpu.slice_end_ns.set(now + crate::domain::sched::SLICE_NS);
    *cpu.current.borrow_mut() = Some(vcpu);
}

/// Nobody runs: the hypervisor's own page tables and descriptors, so that no domain's end can take them away.
pub fn load_idle() {
    load_l4(this_cpu(), host().own_l4);
    desc::load_idle_gdt();
    desc::load_ldt(0, 0);
    load_selector(SegmentRegister::Ds, 0);
    load_selector(SegmentRegister::Es, 0);
    load_selector(SegmentRegister::Fs, 0);
    load_selector(SegmentRegister::Gs, 0);
}

/// Notes the guest's GS base of the mode that it is in (while the hypervisor runs it is in KERNEL_GS_BASE).
pub fn save_gs_base(v: &mut VcpuState) {
    let base = KernelGsBase::read().as_u64();
    if v.kernel_mode {
        v.gs_base_kernel = base;
    } else {
        v.gs_base_user = base;
    }
}

/// Makes the GS base of the guest's mode effective on return.
pub fn load_gs_base(v: &VcpuState) {
    let base = if v.kernel_mode { v.gs_base_kernel } else { v.gs_base_user };
    KernelGsBase::write(VirtAddr::new_truncate(base));
}

/// Between guest kernel and guest user mode: other page tables, other GS base. False if the mode to go to has no page tables.
pub fn toggle_mode(v: &mut VcpuState) -> bool {
    let target = if v.kernel_mode { v.user_l4 } else { v.kernel_l4 };
    let Some(l4) = target else { return false };
    save_gs_base(v);
    v.kernel_mode = !v.kernel_mode;
    load_gs_base(v);
    load_l4(this_cpu(), l4);
    true
}

/// Loads the debug registers if the guest uses any breakpoint.
pub fn load_debug_registers(v: &VcpuState) {
    let armed = v.debugreg[7] & 0xff != 0;
    if armed || debug::is_armed() {
        debug::load(&v.debugreg);
    }
}
