//! `vcpu_op` and the timers.

use super::tables::{is_guest_address, put_debugreg};
use super::{Caller, mmuext};
use crate::frame::{Maddr, Mfn};
use crate::mm::page_info::PageType;
use crate::run::domain::Domain;
use crate::run::guest_mem::field_u64;
use crate::run::host::host;
use crate::run::vcpu::{Callback, GDT_FRAMES, Vcpu, VcpuState};
use crate::run::work;
use crate::x86::{cpu, tsc};
use crate::xen::Errno;
use crate::xen::hypercall::{pv, runstate, vcpu_op as op, vgcf};
use crate::xen::layout::{vcpu_info, vcpu_runstate_info};
use crate::xen::vcpu::{TrapTable, VcpuGuestContext};
use alloc::boxed::Box;
use alloc::sync::Arc;
use x86_64::VirtAddr;

/// Shortest period of a periodic timer, as in Xen.
const MIN_PERIOD_NS: u64 = 1_000_000;
/// Longest, as in Xen.
const MAX_PERIOD_NS: u64 = u64::MAX >> 2;
/// `set_timer_op` further ahead than this (13 days) is a time that wrapped around, as Xen has it from Linux guests.
const FAR_AHEAD_NS: u64 = 1 << 50;
/// When such a timer fires instead: soon, but not so soon that a guest which means "never" is busy with it.
const INSTEAD_NS: u64 = 100_000_000;

/// `set_timer_op(at)`: VIRQ_TIMER at that system time; 0 stops the timer.
pub fn set_timer_op(c: &mut Caller<'_>, at: u64) -> Result<u64, Errno> {
    let now = tsc::now_ns();
    let is_far = i64::try_from(at).is_err() || at.saturating_sub(now) >= FAR_AHEAD_NS;
    set_singleshot(c.vcpu, (at != 0).then_some(if is_far { now + INSTEAD_NS } else { at }));
    Ok(0)
}

fn set_singleshot(vcpu: &Vcpu, at: Option<u64>) {
    let next = {
        let mut v = vcpu.state.lock();
        v.singleshot = at;
        v.next_timer()
    };
    host().sched.lock().set_timer(vcpu.key(), next);
}

/// `vcpu_op(cmd, vcpu, arg)`.
pub fn vcpu_op(c: &mut Caller<'_>, cmd: u64, id: u64, arg: u64) -> Result<u64, Errno> {
    // The interface has an unsigned int here.
    let id = id as u32;
    let vcpu = c.vcpu.domain.vcpu(id).ok_or(Errno::ENOENT)?;
    let myself = id == c.vcpu.id;
    let memory = c.memory()?;
    match cmd {
        op::INITIALISE => initialise(c, &vcpu, arg),
        op::UP => {
            if !vcpu.state.lock().initialised {
                return Err(Errno::EINVAL);
            }
            bring_up(vcpu);
            Ok(0)
        }
        op::DOWN => {
            let vcpus = c.vcpu.domain.vcpus.lock().clone();
            let others = vcpus.iter().any(|o| o.id != id && o.state.lock().online);
            if !others {
                // The last vCPU that goes takes the domain with it, as in Xen.
                crate::run::teardown::shut_down(
                    &c.vcpu.domain,
                    crate::run::domain::Shutdown(crate::xen::hypercall::shutdown::POWEROFF),
                );
                return Ok(0);
            }
            let mut v = vcpu.state.lock();
            if core::mem::replace(&mut v.online, false) && !myself {
                work::enter_runstate(&mut v, &vcpu, runstate::OFFLINE, tsc::now_ns());
            }
            Ok(0)
        }
        op::IS_UP => Ok(u64::from(vcpu.state.lock().online)),
        op::GET_RUNSTATE_INFO => {
            let found = vcpu.state.lock().runstate;
            let mut now = found;
            now.enter(found.state, tsc::now_ns());
            // The times are of now, the state's beginning stays what it is.
            now.entry_ns = found.entry_ns;
            let mut bytes = [0; vcpu_runstate_info::SIZE];
            bytes[..4].copy_from_slice(&now.state.to_le_bytes());
            bytes[8..16].copy_from_slice(&now.entry_ns.to_le_bytes());
            for (i, t) in now.times.iter().enumerate() {
                bytes[16 + i * 8..24 + i * 8].copy_from_slice(&t.to_le_bytes());
            }
            memory.write(arg, &bytes)?;
            Ok(0)
        }
        op::REGISTER_RUNSTATE_MEMORY_AREA => {
            let area = area_address(memory.read_u64(arg)?)?;
            let l4 = c.kernel_l4()?;
            let mut v = vcpu.state.lock();
            v.runstate.area_va = area;
            work::publish_runstate_by(l4, &v, &vcpu);
            Ok(0)
        }
        op::REGISTER_VCPU_TIME_MEMORY_AREA => {
            let area = area_address(memory.read_u64(arg)?)?;
            let l4 = c.kernel_l4()?;
            let mut v = vcpu.state.lock();
            v.time_area_va = area;
            work::publish_time(&v);
            work::publish_time_copy(l4, &v);
            Ok(0)
        }
        // Of others only while they are down: they would miss what is written to the old place.
        op::REGISTER_VCPU_INFO if !myself && vcpu.state.lock().online => Err(Errno::EINVAL),
        op::REGISTER_VCPU_INFO => {
            // {u64 mfn, u32 offset, u32 reserved}
            let b = memory.read_array::<16>(arg)?;
            let mfn = Mfn::try_new(field_u64(&b, 0)).map_err(|_| Errno::EINVAL)?;
            let offset = u32::from_le_bytes([b[8], b[9], b[10], b[11]]);
            register_info(&c.vcpu.domain, &vcpu, mfn, offset)
        }
        op::SET_SINGLESHOT_TIMER | op::STOP_SINGLESHOT_TIMER if !myself => Err(Errno::EINVAL),
        op::SEND_NMI if arg != 0 => Err(Errno::EINVAL),
        op::SEND_NMI => {
            vcpu.state.lock().nmi_pending = true;
            host().wake(&vcpu);
            Ok(0)
        }
        op::SET_PERIODIC_TIMER => {
            let period = memory.read_u64(arg)?;
            if !(MIN_PERIOD_NS..=MAX_PERIOD_NS).contains(&period) {
                return Err(Errno::EINVAL);
            }
            set_periodic(&vcpu, period);
            Ok(0)
        }
        op::STOP_PERIODIC_TIMER => {
            set_periodic(&vcpu, 0);
            Ok(0)
        }
        op::SET_SINGLESHOT_TIMER => {
            // {u64 timeout_abs_ns, u32 flags}
            let b = memory.read_array::<16>(arg)?;
            let at = field_u64(&b, 0);
            let flags = u64::from(u32::from_le_bytes([b[8], b[9], b[10], b[11]]));
            if flags & op::SSHOTTMR_FUTURE != 0 && at < tsc::now_ns() {
                return Err(Errno::ETIME);
            }
            set_singleshot(&vcpu, Some(at));
            Ok(0)
        }
        op::STOP_SINGLESHOT_TIMER => {
            set_singleshot(&vcpu, None);
            Ok(0)
        }
        // Physical numbers are for the hardware domain alone.
        op::GET_PHYSID => Err(Errno::EINVAL),
        // Areas named by frame came with Xen 4.18, and a feature bit says that they are there.
        _ => Err(Errno::ENOSYS),
    }
}

/// The address of an area that the hypervisor is to write to, 0 for none.
fn area_address(va: u64) -> Result<u64, Errno> {
    if is_guest_address(va) { Ok(va) } else { Err(Errno::EFAULT) }
}

/// Lets a vCPU run that has its context.
fn bring_up(vcpu: Arc<Vcpu>) {
    {
        let mut v = vcpu.state.lock();
        if v.online {
            return;
        }
        v.online = true;
        // One that waited when it was taken down waits on.
        let (waits, state) = if v.is_waiting() { (true, runstate::BLOCKED) } else { (false, runstate::RUNNABLE) };
        work::enter_runstate(&mut v, &vcpu, state, tsc::now_ns());
        if waits {
            return;
        }
    }
    host().sched.lock().enqueue(vcpu.key(), vcpu);
}

fn set_periodic(vcpu: &Vcpu, period: u64) {
    let next = {
        let mut v = vcpu.state.lock();
        v.periodic_ns = period;
        v.periodic_next = tsc::now_ns() + period;
        v.next_timer()
    };
    host().sched.lock().set_timer(vcpu.key(), next);
}

/// Moves a vCPU's vcpu_info into a frame of its domain, which is held as a writable page.
pub fn register_info(domain: &Domain, vcpu: &Vcpu, mfn: Mfn, offset: u32) -> Result<u64, Errno> {
    if offset as usize > 4096 - vcpu_info::SIZE || !offset.is_multiple_of(8) {
        return Err(Errno::ENXIO);
    }
    if vcpu.state.lock().info_registered {
        return Err(Errno::EINVAL);
    }
    hold_info(domain, mfn)?;
    let host = host();
    let moved = host.evtchn.lock().move_vcpu_info(&crate::x86::directmap::DirectMap, domain.id, vcpu.id, mfn, offset);
    match moved {
        Ok(_) => {
            let mut v = vcpu.state.lock();
            v.info = mfn.maddr().offset(u64::from(offset));
            v.info_registered = true;
            work::publish_time(&v);
            Ok(0)
        }
        Err(e) => {
            let types = host.types(domain);
            types.put_page_and_type(mfn);
            host.settle(&types, domain);
            Err(e)
        }
    }
}

/// Takes the references that a registered vcpu_info has.
pub fn hold_info(domain: &Domain, mfn: Mfn) -> Result<(), Errno> {
    let host = host();
    let types = host.types(domain);
    let held = types.get_page_and_type(mfn, PageType::Writable);
    host.settle(&types, domain);
    held.map_err(|_| Errno::EINVAL)
}

/// Where the I/O privilege level is in flags.
pub const IOPL_SHIFT: u32 = 12;

fn initialise(c: &mut Caller<'_>, vcpu: &Arc<Vcpu>, arg: u64) -> Result<u64, Errno> {
    let mut bytes = Box::new([0; 5168]);
    c.memory()?.read(arg, &mut bytes[..])?;
    if vcpu.state.lock().initialised {
        return Err(Errno::EEXIST);
    }
    let context = VcpuGuestContext::decode(&bytes);
    let traps = VcpuGuestContext::decode_traps(&bytes);
    check_context(&context, &traps)?;
    let host = host();
    let types = host.types(&c.vcpu.domain);
    let l4 = frame_of_cr3(context.ctrlreg[3])?;
    let user = if context.ctrlreg[1] == 0 { None } else { Some(frame_of_cr3(context.ctrlreg[1])?) };
    let taken = types.get_base(l4).and_then(|()| match user {
        Some(user) => types.get_base(user).inspect_err(|_| types.put_base(l4)),
        None => Ok(()),
    });
    host.settle(&types, &c.vcpu.domain);
    taken.map_err(|_| Errno::EINVAL)?;
    {
        let mut v = vcpu.state.lock();
        v.kernel_l4 = Some(l4);
        v.user_l4 = user;
        load_context(&mut v, &context);
        v.traps = traps;
    }
    let nr = (context.gdt_ents as usize).div_ceil(512);
    let mut frames = [None; GDT_FRAMES];
    let known = nr <= GDT_FRAMES
        && frames.iter_mut().zip(context.gdt_frames).take(nr).all(|(to, raw)| {
            *to = Mfn::try_new(raw).ok();
            to.is_some()
        });
    let result =
        if known { super::tables::take_gdt(vcpu, frames, context.gdt_ents as u32) } else { Err(Errno::EINVAL) };
    if let Err(e) = result {
        let (l4, user) = {
            let mut v = vcpu.state.lock();
            (v.kernel_l4.take(), v.user_l4.take())
        };
        for l4 in [l4, user].into_iter().flatten() {
            types.put_base(l4);
        }
        host.settle(&types, &c.vcpu.domain);
        return Err(e);
    }
    vcpu.state.lock().initialised = true;
    mmuext::map_ldt(vcpu);
    if context.flags & vgcf::ONLINE != 0 {
        bring_up(vcpu.clone());
    }
    Ok(0)
}

/// Refuses what no vCPU can run with, as Xen's `arch_set_info_guest`.
fn check_context(c: &VcpuGuestContext, traps: &TrapTable) -> Result<(), Errno> {
    let u = &c.user_regs;
    let registers = [u.rip, u.rsp, c.kernel_sp, c.fs_base, c.gs_base_kernel, c.gs_base_user];
    let entries = [c.event_callback, c.failsafe_callback, c.syscall_callback];
    let handlers = traps.iter().map(|trap| trap.address);
    if registers.into_iter().chain(entries).chain(handlers).any(|va| VirtAddr::try_new(va).is_err()) {
        return Err(Errno::EINVAL);
    }
    // In user mode it would run on tables that it does not have.
    if c.flags & vgcf::IN_KERNEL == 0 && c.ctrlreg[1] == 0 {
        return Err(Errno::EINVAL);
    }
    if c.gdt_ents > pv::FIRST_RESERVED_GDT_ENTRY {
        return Err(Errno::EINVAL);
    }
    if c.ldt_ents != 0 { mmuext::check_ldt(c.ldt_base, c.ldt_ents) } else { Ok(()) }
}

/// The frame in a CR3 as 64-bit guests have it.
pub fn frame_of_cr3(cr3: u64) -> Result<Mfn, Errno> {
    Maddr::try_new(cr3).map(Maddr::mfn_containing).map_err(|_| Errno::EINVAL)
}

/// Takes a vCPU's registers and tables, but for page tables, GDT and trap table, from the public structure.
pub fn load_context(v: &mut VcpuState, c: &VcpuGuestContext) {
    let u = &c.user_regs;
    let r = &mut v.regs;
    (r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx) = (u.r15, u.r14, u.r13, u.r12, u.rbp, u.rbx);
    (r.r11, r.r10, r.r9, r.r8) = (u.r11, u.r10, u.r9, u.r8);
    (r.rax, r.rcx, r.rdx, r.rsi, r.rdi) = (u.rax, u.rcx, u.rdx, u.rsi, u.rdi);
    r.rip = u.rip;
    // Rings 0 to 2 do not exist for a guest; interrupts stay on. IOPL is the guest's only in software.
    r.cs = u64::from(u.cs) | 3;
    r.ss = u64::from(u.ss) | 3;
    r.rflags = u.rflags & !(3 << 12 | 1 << 17 | 1 << 19 | 1 << 20) & 0x3f_ffff | 1 << 9 | 2;
    v.iopl = iopl_of(u.rflags);
    r.rsp = u.rsp;
    (v.ds, v.es, v.fs, v.gs) = (u.ds, u.es, u.fs, u.gs);
    let has_ldt = c.ldt_ents != 0 && mmuext::check_ldt(c.ldt_base, c.ldt_ents).is_ok();
    (v.ldt_base, v.ldt_entries) = if has_ldt { (c.ldt_base, c.ldt_ents as u32) } else { (0, 0) };
    (v.kernel_ss, v.kernel_sp) = (c.kernel_ss, c.kernel_sp);
    v.task_switched = c.ctrlreg[0] & 8 != 0;
    v.cr4 = cpu::guest_cr4(&host().features, c.ctrlreg[4]);
    for (reg, &value) in (0..).zip(&c.debugreg) {
        // One that is not allowed is left out, as in Xen.
        let _ = put_debugreg(v, reg, value);
    }
    v.callbacks.event = Callback { rip: c.event_callback, masks_events: true };
    v.callbacks.failsafe =
        Callback { rip: c.failsafe_callback, masks_events: c.flags & vgcf::FAILSAFE_DISABLES_EVENTS != 0 };
    v.callbacks.syscall =
        Callback { rip: c.syscall_callback, masks_events: c.flags & vgcf::SYSCALL_DISABLES_EVENTS != 0 };
    (v.fs_base, v.gs_base_kernel, v.gs_base_user) = (c.fs_base, c.gs_base_kernel, c.gs_base_user);
    v.kernel_mode = c.flags & vgcf::IN_KERNEL != 0;
    if c.flags & vgcf::I387_VALID != 0 {
        v.fpu.bytes_mut()[..512].copy_from_slice(&c.fpu);
    }
}

/// The I/O privilege level in flags.
pub const fn iopl_of(rflags: u64) -> u8 {
    (rflags >> IOPL_SHIFT & 3) as u8
}

/// The public structure of a vCPU that does not run: what [`load_context`] takes, page tables and GDT.
pub fn context_of(v: &VcpuState, vm_assist: u64) -> VcpuGuestContext {
    let mut c = VcpuGuestContext::ZERO;
    c.fpu.copy_from_slice(&v.fpu.bytes()[..512]);
    c.flags = vgcf::I387_VALID;
    for (on, flag) in [
        (v.kernel_mode, vgcf::IN_KERNEL),
        (v.callbacks.failsafe.masks_events, vgcf::FAILSAFE_DISABLES_EVENTS),
        (v.callbacks.syscall.masks_events, vgcf::SYSCALL_DISABLES_EVENTS),
        (v.online, vgcf::ONLINE),
    ] {
        if on {
            c.flags |= flag;
        }
    }
    let (u, r) = (&mut c.user_regs, &v.regs);
    (u.r15, u.r14, u.r13, u.r12, u.rbp, u.rbx) = (r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx);
    (u.r11, u.r10, u.r9, u.r8) = (r.r11, r.r10, r.r9, r.r8);
    (u.rax, u.rcx, u.rdx, u.rsi, u.rdi) = (r.rax, r.rcx, r.rdx, r.rsi, r.rdi);
    (u.rip, u.rflags, u.rsp) = (r.rip, r.rflags | u64::from(v.iopl) << IOPL_SHIFT, r.rsp);
    (u.cs, u.ss) = (r.cs as u16, r.ss as u16);
    (u.ds, u.es, u.fs, u.gs) = (v.ds, v.es, v.fs, v.gs);
    (c.ldt_base, c.ldt_ents) = (v.ldt_base, v.ldt_entries.into());
    for (to, from) in c.gdt_frames.iter_mut().zip(v.gdt_frames) {
        *to = from.map_or(0, Mfn::get);
    }
    c.gdt_ents = v.gdt_entries.into();
    (c.kernel_ss, c.kernel_sp) = (v.kernel_ss, v.kernel_sp);
    c.ctrlreg[0] = 0x8000_0011 | if v.task_switched { 8 } else { 0 };
    let cr3 = |l4: Option<Mfn>| l4.map_or(0, |mfn| mfn.maddr().get());
    (c.ctrlreg[1], c.ctrlreg[3]) = (cr3(v.user_l4), cr3(v.kernel_l4));
    c.ctrlreg[4] = v.cr4;
    c.debugreg = v.debugreg;
    c.event_callback = v.callbacks.event.rip;
    c.failsafe_callback = v.callbacks.failsafe.rip;
    c.syscall_callback = v.callbacks.syscall.rip;
    c.vm_assist = vm_assist;
    (c.fs_base, c.gs_base_kernel, c.gs_base_user) = (v.fs_base, v.gs_base_kernel, v.gs_base_user);
    c
}
