//! Trap table, descriptor tables, callbacks, stacks, segment bases, debug registers: what a PV guest's CPU is made of.

use super::{Caller, Outcome};
use crate::frame::Mfn;
use crate::mm::page_info::PageType;
use crate::mm::physmem::PhysMem;
use crate::run::bounce;
use crate::run::context;
use crate::run::guest_mem::{field_u16, field_u64};
use crate::run::host::host;
use crate::run::vcpu::{Callback, GDT_FRAMES, Vcpu, VcpuState};
use crate::x86::desc;
use crate::x86::directmap::DirectMap;
use crate::x86::fpu;
use crate::x86::traps::load_gs;
use crate::xen::errno::Errno;
use crate::xen::hypercall::{callback, nmi_op, segment_base, vgcf, vm_assist as assist};
use crate::xen::layout::{iret_context, shared_info, trap_info, vcpu_info};
use crate::xen::vcpu::TrapInfo;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::{FsBase, KernelGsBase};

/// `set_trap_table(table)`: entries up to one whose address is 0; a null pointer clears the table.
pub fn set_trap_table(c: &mut Caller<'_>, list: u64) -> Result<u64, Errno> {
    if list == 0 {
        c.vcpu.state.lock().traps.clear();
        return Ok(0);
    }
    let memory = c.memory()?;
    // The table has 256 vectors; a list without an end is as long as that at the most, as it would only say things again.
    for i in 0..257u64 {
        let entry = memory.read_array::<{ trap_info::SIZE }>(list.wrapping_add(i * trap_info::SIZE as u64))?;
        let trap = TrapInfo::decode(&entry);
        if trap.address == 0 {
            return Ok(0);
        }
        canonical(trap.address)?;
        c.vcpu.state.lock().traps.set(trap.vector, &trap);
    }
    Err(Errno::EINVAL)
}

/// `set_gdt(frames, entries)`.
pub fn set_gdt(c: &mut Caller<'_>, list: u64, entries: u64) -> Result<u64, Errno> {
    if entries > desc::FIRST_RESERVED_ENTRY {
        return Err(Errno::EINVAL);
    }
    let nr = entries.div_ceil(512) as usize;
    let memory = c.memory()?;
    let mut mfns = [None; GDT_FRAMES];
    for (i, slot) in mfns[..nr].iter_mut().enumerate() {
        let raw = memory.read_u64(list.wrapping_add(i as u64 * 8))?;
        *slot = Some(Mfn::try_new(raw).map_err(|_| Errno::EINVAL)?);
    }
    take_gdt(c.vcpu, mfns, entries as u32)
}

/// Makes frames a vCPU's GDT: each is taken as a page of segment descriptors, those of the GDT before are given back.
pub fn take_gdt(vcpu: &Vcpu, mfns: [Option<Mfn>; GDT_FRAMES], entries: u32) -> Result<u64, Errno> {
    let host = host();
    let types = host.types(&vcpu.domain);
    for (i, mfn) in mfns.iter().flatten().enumerate() {
        if types.get_page_and_type(*mfn, PageType::SegDesc).is_err() {
            for mfn in mfns[..i].iter().flatten() {
                types.put_page_and_type(*mfn);
            }
            host.settle(&types, &vcpu.domain);
            return Err(Errno::EINVAL);
        }
    }
    let old = {
        let mut v = vcpu.state.lock();
        v.gdt_entries = entries;
        core::mem::replace(&mut v.gdt_frames, mfns)
    };
    host.map_descriptor_frames(&vcpu.domain, vcpu.id, 0, &mfns);
    for mfn in old.iter().flatten() {
        types.put_page_and_type(*mfn);
    }
    host.settle(&types, &vcpu.domain);
    Ok(0)
}

/// `stack_switch(ss, sp)`.
pub fn stack_switch(c: &mut Caller<'_>, ss: u64, sp: u64) -> Result<u64, Errno> {
    let mut v = c.vcpu.state.lock();
    // As Xen's fixup_guest_stack_selector: never ring 0.
    v.kernel_ss = if ss & 3 == 0 { ss | 3 } else { ss };
    v.kernel_sp = sp;
    Ok(0)
}

fn canonical(address: u64) -> Result<u64, Errno> {
    if VirtAddr::try_new(address).is_ok() { Ok(address) } else { Err(Errno::EINVAL) }
}

/// `set_callbacks(event, failsafe, syscall)`.
pub fn set_callbacks(c: &mut Caller<'_>, event: u64, failsafe: u64, syscall: u64) -> Result<u64, Errno> {
    for address in [event, failsafe, syscall] {
        canonical(address)?;
    }
    let mut v = c.vcpu.state.lock();
    v.callbacks.event = Callback { rip: event, masks_events: true };
    v.callbacks.failsafe.rip = failsafe;
    v.callbacks.syscall.rip = syscall;
    Ok(0)
}

/// `callback_op(cmd, arg)`.
pub fn callback_op(c: &mut Caller<'_>, cmd: u64, arg: u64) -> Result<u64, Errno> {
    let memory = c.memory()?;
    match cmd {
        callback::REGISTER => {
            let b = memory.read_array::<16>(arg)?;
            let (kind, flags, rip) = (field_u16(&b, 0), field_u16(&b, 2), canonical(field_u64(&b, 8))?);
            let masks_events = u64::from(flags) & callback::FLAG_MASK_EVENTS != 0;
            if u64::from(kind) == callback::TYPE_NMI {
                return nmi_callback(c, rip);
            }
            let mut v = c.vcpu.state.lock();
            *slot(&mut v, kind)? = Callback { rip, masks_events };
            if u64::from(kind) == callback::TYPE_EVENT {
                v.callbacks.event.masks_events = true;
            }
            Ok(0)
        }
        callback::UNREGISTER => {
            let kind = u16::from_le_bytes(memory.read_array(arg)?);
            let mut v = c.vcpu.state.lock();
            match u64::from(kind) {
                // Xen does not let these go.
                callback::TYPE_EVENT | callback::TYPE_FAILSAFE | callback::TYPE_SYSCALL => Err(Errno::EINVAL),
                callback::TYPE_NMI => {
                    v.set_nmi_handler(0);
                    Ok(0)
                }
                _ => {
                    *slot(&mut v, kind)? = Callback::default();
                    Ok(0)
                }
            }
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// `nmi_op(cmd, arg)`: the older way to register the handler of NMIs.
pub fn nmi_op(c: &mut Caller<'_>, cmd: u64, arg: u64) -> Result<u64, Errno> {
    match cmd {
        nmi_op::REGISTER_CALLBACK => {
            // {u64 handler, u64 padding}
            let b = c.memory()?.read_array::<16>(arg)?;
            nmi_callback(c, canonical(field_u64(&b, 0))?)
        }
        nmi_op::UNREGISTER_CALLBACK => {
            c.vcpu.state.lock().set_nmi_handler(0);
            Ok(0)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// Registers the handler of NMIs. A reason for one that nobody was told of yet is told now.
fn nmi_callback(c: &Caller<'_>, rip: u64) -> Result<u64, Errno> {
    let shared = c.vcpu.domain.memory.lock().shared_info;
    let reason = DirectMap.read_u64(shared.maddr().offset(shared_info::ARCH_NMI_REASON as u64));
    let mut v = c.vcpu.state.lock();
    v.set_nmi_handler(rip);
    v.nmi_pending |= c.vcpu.id == 0 && reason != 0;
    Ok(0)
}

fn slot(v: &mut VcpuState, kind: u16) -> Result<&mut Callback, Errno> {
    Ok(match u64::from(kind) {
        callback::TYPE_EVENT => &mut v.callbacks.event,
        callback::TYPE_FAILSAFE => &mut v.callbacks.failsafe,
        callback::TYPE_SYSCALL => &mut v.callbacks.syscall,
        callback::TYPE_SYSCALL32 => &mut v.callbacks.syscall32,
        callback::TYPE_SYSENTER | callback::TYPE_SYSENTER_DEPRECATED => &mut v.callbacks.sysenter,
        _ => return Err(Errno::ENOSYS),
    })
}

/// `fpu_taskswitch(set)`.
pub fn fpu_taskswitch(c: &mut Caller<'_>, set: u64) -> Result<u64, Errno> {
    c.vcpu.state.lock().task_switched = set != 0;
    fpu::set_ts(set != 0);
    Ok(0)
}

/// True for an address that a guest can have memory at.
pub fn is_guest_address(address: u64) -> bool {
    use crate::xen::hypercall::pv;
    VirtAddr::try_new(address).is_ok() && !(pv::HYPERVISOR_VIRT_START..pv::HYPERVISOR_VIRT_END).contains(&address)
}

/// `set_debugreg(reg, value)`.
pub fn set_debugreg(c: &mut Caller<'_>, reg: u64, value: u64) -> Result<u64, Errno> {
    write_debugreg(c.vcpu, reg, value).map(|()| 0)
}

/// Sets a debug register of the running vCPU.
pub fn write_debugreg(vcpu: &Vcpu, reg: u64, value: u64) -> Result<(), Errno> {
    let mut v = vcpu.state.lock();
    put_debugreg(&mut v, reg, value)?;
    context::load_debug_registers(&v);
    Ok(())
}

/// Sets a debug register of a vCPU to a value that a guest may have there.
pub fn put_debugreg(v: &mut VcpuState, reg: u64, value: u64) -> Result<(), Errno> {
    match reg {
        0..=3 if is_guest_address(value) => v.debugreg[reg as usize] = value,
        0..=3 => return Err(Errno::EPERM),
        4 | 6 => v.debugreg[6] = value & 0xe00f | 0xffff_0ff0,
        5 | 7 => {
            // No general detect, no I/O breakpoints, no length of 8 bytes for execution; upper half zero.
            let value = value & 0xffff_dfff | 0x400;
            for i in 0..4 {
                let enabled = value >> (i * 2) & 3 != 0;
                let kind = value >> (16 + i * 4) & 3;
                let len = value >> (18 + i * 4) & 3;
                if enabled && (kind == 2 || (kind == 0 && len != 0)) {
                    return Err(Errno::EPERM);
                }
            }
            v.debugreg[7] = value;
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// `get_debugreg(reg)`.
pub fn get_debugreg(c: &mut Caller<'_>, reg: u64) -> Result<u64, Errno> {
    debugreg(&c.vcpu.state.lock(), reg)
}

/// A debug register of a vCPU.
pub fn debugreg(v: &VcpuState, reg: u64) -> Result<u64, Errno> {
    match reg {
        0..=3 => Ok(v.debugreg[reg as usize]),
        4 | 6 => Ok(v.debugreg[6]),
        5 | 7 => Ok(v.debugreg[7]),
        _ => Err(Errno::EINVAL),
    }
}

/// `vm_assist(cmd, type)`.
pub fn vm_assist(c: &mut Caller<'_>, cmd: u64, kind: u64) -> Result<u64, Errno> {
    const KNOWN: u64 = 1 << assist::TYPE_WRITABLE_PAGETABLES
        | 1 << assist::TYPE_PAE_EXTENDED_CR3
        | 1 << assist::TYPE_ARCHITECTURAL_IOPL
        | 1 << assist::TYPE_RUNSTATE_UPDATE_FLAG
        | 1 << assist::TYPE_M2P_STRICT;
    if kind >= 64 || KNOWN >> kind & 1 == 0 {
        return Err(Errno::EINVAL);
    }
    let domain = &c.vcpu.domain;
    match cmd {
        assist::ENABLE => domain.set_vm_assist(domain.vm_assist() | 1 << kind),
        assist::DISABLE => domain.set_vm_assist(domain.vm_assist() & !(1 << kind)),
        _ => return Err(Errno::ENOSYS),
    }
    Ok(0)
}

/// `set_segment_base(which, base)`.
pub fn set_segment_base(c: &mut Caller<'_>, which: u64, base: u64) -> Result<u64, Errno> {
    match which {
        segment_base::FS => FsBase::write(VirtAddr::new(canonical(base)?)),
        segment_base::GS_USER => c.vcpu.state.lock().gs_base_user = canonical(base)?,
        // The caller is in its kernel, whose base is in KERNEL_GS_BASE while the hypervisor runs.
        segment_base::GS_KERNEL => KernelGsBase::write(VirtAddr::new(canonical(base)?)),
        // The user's base is the one that the descriptor has. As in Xen, a selector that cannot be loaded becomes 0, and that is no error.
        segment_base::GS_USER_SEL => {
            let selector = base as u16;
            let selector = if selector > 3 { selector | 3 } else { selector };
            c.vcpu.state.lock().gs_base_user = load_gs(selector);
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `iret`: goes on where the frame on the guest's kernel stack says. Whatever it ends, NMIs may come again, as with the CPU's own.
pub fn iret(c: &mut Caller<'_>) -> Outcome {
    use iret_context as f;
    let sp = c.frame.rsp;
    let read = c.memory().ok().and_then(|m| m.read_array::<{ f::SIZE }>(sp).ok());
    let Some(b) = read else {
        let vcpu = c.vcpu;
        crate::run::entry::crash(vcpu, c.frame, format_args!("iret without a frame at {sp:#x}"));
        return Outcome::RegistersSet;
    };
    let cs = field_u64(&b, f::CS) & 0xffff;
    let to_user = cs & 3 == 3;
    if to_user {
        let mut v = c.vcpu.state.lock();
        if v.user_l4.is_none() {
            drop(v);
            crate::run::entry::crash(c.vcpu, c.frame, format_args!("iret to user mode without page tables for it"));
            return Outcome::RegistersSet;
        }
        context::toggle_mode(&mut v);
    }
    let rflags = field_u64(&b, f::RFLAGS);
    let frame = &mut *c.frame;
    frame.rip = field_u64(&b, f::RIP);
    // Rings 0 to 2 do not exist for a guest.
    frame.cs = cs | 3;
    frame.ss = (field_u64(&b, f::SS) & 0xffff) | 3;
    frame.rsp = field_u64(&b, f::RSP);
    // IOPL stays 0, interrupts stay on; VM, VIF and VIP are not a guest's.
    frame.rflags = rflags & !(3 << 12 | 1 << 17 | 1 << 19 | 1 << 20) & 0x3f_ffff | 1 << 9 | 2;
    if field_u64(&b, f::FLAGS) & vgcf::IN_SYSCALL == 0 {
        frame.r11 = field_u64(&b, f::R11);
        frame.rcx = field_u64(&b, f::RCX);
    }
    frame.rax = field_u64(&b, f::RAX);
    let has_iopl = c.vcpu.domain.has_assist(assist::TYPE_ARCHITECTURAL_IOPL);
    let mut v = c.vcpu.state.lock();
    if has_iopl {
        v.iopl = super::vcpu::iopl_of(rflags);
    }
    v.nmi_masked = false;
    let masked = u8::from(rflags & 1 << 9 == 0);
    bounce::set_info_byte(&v, vcpu_info::EVTCHN_UPCALL_MASK, masked);
    drop(v);
    Outcome::RegistersSet
}
