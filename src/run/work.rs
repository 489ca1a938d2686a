//! What is due between guests: timers, console, automatic updates, domains being taken apart.

use crate::cmdline::{Exit, Expect};
use crate::domain::sched::WATCHDOGS;
use crate::frame::{DomId, Mfn};
use crate::log;
use crate::lu::update;
use crate::mm::physmem::PhysMem;
use crate::run::domain::Shutdown;
use crate::run::guest_mem::GuestMem;
use crate::run::host::{Host, host};
use crate::run::vcpu::{Vcpu, VcpuState};
use crate::run::{console, context, plug_in, teardown};
use crate::verdict::{self, Verdict};
use crate::x86::directmap::DirectMap;
use crate::x86::percpu::this_cpu;
use crate::x86::traps::{self, Frame};
use crate::x86::{apic, tsc};
use crate::xen::hypercall::{RUNSTATE_UPDATE, runstate, shutdown, virq, vm_assist};
use crate::xen::layout::{vcpu_info, vcpu_runstate_info, vcpu_time_info};
use alloc::sync::Arc;
use x86_64::instructions::interrupts;

/// Everything that is due now.
pub fn run(frame: &mut Frame) {
    let host = host();
    let now = tsc::now_ns();
    loop {
        let due = host.sched.lock().take_due(now);
        let Some((domain, vcpu)) = due else { break };
        if vcpu == WATCHDOGS {
            watchdog_due(host, domain, now);
        } else if let Some(vcpu) = host.domain(domain).and_then(|d| d.vcpu(vcpu)) {
            timer_due(host, &vcpu, now);
        }
    }
    console::poll(host, now);
    teardown::step(host);
    update::tick(host, now);
    plug_in::step(host);
    if update::is_requested(host) {
        update::run_pending(host, frame);
    }
    finish_if_all_are_down(host);
    let cpu = this_cpu();
    if now >= cpu.slice_end_ns.get() && host.sched.lock().is_contended() {
        cpu.reschedule.set(true);
    }
}

/// True if a long hypercall should give way: somebody's time has come.
pub fn is_due() -> bool {
    let host = host();
    let now = tsc::now_ns();
    now >= next_deadline(host, now) || update::is_requested(host)
}

/// The next moment at which something has to be done, in nanoseconds of system time.
fn next_deadline(host: &Host, now: u64) -> u64 {
    let sched = host.sched.lock();
    let slice = if sched.is_contended() { this_cpu().slice_end_ns.get() } else { u64::MAX };
    let timer = sched.next_timer().unwrap_or(u64::MAX);
    drop(sched);
    let teardown = if teardown::is_busy(host) || plug_in::is_busy() { now } else { u64::MAX };
    slice.min(timer).min(console::next_poll(host)).min(update::next_tick(host)).min(teardown)
}

/// A watchdog of a domain has run out.
fn watchdog_due(host: &Host, id: DomId, now: u64) {
    let Some(domain) = host.domain(id) else { return };
    let next = domain.watchdogs.lock().next();
    if next.is_some_and(|end| end <= now) {
        log!("domain", "{id} {}: a watchdog ran out", domain.name);
        teardown::shut_down(&domain, Shutdown(shutdown::WATCHDOG));
    } else {
        host.sched.lock().set_timer((id, WATCHDOGS), next);
    }
}

fn timer_due(host: &Host, vcpu: &Arc<Vcpu>, now: u64) {
    let (raise, wake, next) = {
        let mut v = vcpu.state.lock();
        let mut raise = false;
        if v.singleshot.is_some_and(|t| t <= now) {
            v.singleshot = None;
            raise = true;
        }
        if v.periodic_ns != 0 && v.periodic_next <= now {
            // Ticks that passed while the vCPU could not be told count as one, as Xen's periodic timer has it.
            let behind = (now - v.periodic_next) / v.periodic_ns + 1;
            v.periodic_next += behind * v.periodic_ns;
            raise = true;
        }
        let wake = v.polling_until.is_some_and(|t| t <= now);
        (raise, wake, v.next_timer())
    };
    host.sched.lock().set_timer(vcpu.key(), next);
    if raise {
        let event = host.evtchn.lock().raise_virq(&DirectMap, vcpu.domain.id, vcpu.id, virq::TIMER);
        if let Some(event) = event {
            host.wake_for(event);
        }
    }
    if wake {
        host.wake(vcpu);
    }
}

/// Chooses who runs next and puts its registers into the CPU.
pub fn switch(frame: &mut Frame, goes_on: bool) {
    let host = host();
    if goes_on && !host.sched.lock().is_contended() {
        this_cpu().slice_end_ns.set(tsc::now_ns() + crate::domain::sched::SLICE_NS);
        return;
    }
    let previous = context::save_current(frame);
    if let Some(previous) = previous
        && goes_on
    {
        requeue(host, previous);
    }
    loop {
        let next = host.sched.lock().pick();
        match next {
            None => {
                context::load_idle();
                return;
            }
            // Who was shut down or went to sleep while it waited is dropped here.
            Some(next) if next.domain.may_run() && next.state.lock().is_runnable() => {
                context::load(next, frame);
                return;
            }
            Some(_) => {}
        }
    }
}

/// Queues a vCPU that was taken out of the CPU and wants to run on.
pub fn requeue(host: &Host, vcpu: Arc<Vcpu>) {
    let yielded = vcpu.state.lock().yielded;
    let mut sched = host.sched.lock();
    if yielded {
        sched.enqueue_yielded(vcpu.key(), vcpu);
    } else {
        sched.enqueue(vcpu.key(), vcpu);
    }
}

/// Waits for something to happen.
pub fn idle() {
    let now = tsc::now_ns();
    arm_timer(now);
    if next_deadline(host(), now) > now {
        interrupts::enable_and_hlt();
        interrupts::disable();
    }
}

/// Sets the one-shot timer to the next deadline.
pub fn arm_timer(now: u64) {
    let deadline = next_deadline(host(), now);
    let cpu = this_cpu();
    let armed = cpu.timer_armed_ns.get();
    if armed == deadline && armed > now {
        return;
    }
    cpu.timer_armed_ns.set(deadline);
    apic::one_shot(deadline.saturating_sub(now).max(1));
}

/// Ends a test run when no domain is left.
fn finish_if_all_are_down(host: &Host) {
    // A domain that was refused stays for ever, and the verdict knows of it.
    let is_down = || host.domains.lock().values().all(|domain| domain.refusal().is_some());
    if host.options.exit != Exit::Qemu || !is_down() || update::is_busy(host) {
        return;
    }
    let missing = update::missing(host);
    if missing != 0 {
        log!("verdict", "{missing} of the updates asked for did not happen");
        verdict::note(Verdict::Failure);
    }
    if host.options.expect == Expect::Refuse && update::refusals(host) == 0 {
        log!("verdict", "an update was expected to be refused, and none was");
        verdict::note(Verdict::Failure);
    }
    if let Err(e) = host.frames.validate() {
        log!("verdict", "the frametable is not consistent: {e:?}");
        verdict::note(Verdict::Error);
    }
    crate::start::print_ledger(host.frames);
    traps::finish(verdict::worst());
}

/// A vCPU's run state changes; the guest sees it at once, where it wants it.
pub fn enter_runstate(v: &mut VcpuState, vcpu: &Vcpu, state: u32, now: u64) {
    v.runstate.enter(state, now);
    publish_runstate(v, vcpu);
}

/// Writes the vCPU's run state to where the guest wants it.
fn publish_runstate(v: &VcpuState, vcpu: &Vcpu) {
    if let Some(l4) = v.kernel_l4 {
        publish_runstate_by(l4, v, vcpu);
    }
}

/// The same by given page tables: a vCPU whose area is registered by another may have none of its own yet.
pub fn publish_runstate_by(l4: Mfn, v: &VcpuState, vcpu: &Vcpu) {
    use vcpu_runstate_info as f;
    if v.runstate.area_va == 0 {
        return;
    }
    let flag = vcpu.domain.has_assist(vm_assist::TYPE_RUNSTATE_UPDATE_FLAG);
    let r = v.runstate;
    let mut bytes = [0u8; f::SIZE];
    bytes[f::STATE..f::STATE + 4].copy_from_slice(&r.state.to_le_bytes());
    bytes[f::STATE_ENTRY_TIME..f::STATE_ENTRY_TIME + 8].copy_from_slice(&r.entry_ns.to_le_bytes());
    for (i, t) in r.times.iter().enumerate() {
        bytes[f::TIME + i * 8..f::TIME + i * 8 + 8].copy_from_slice(&t.to_le_bytes());
    }
    let memory = GuestMem::new(&DirectMap, l4);
    let entry_at = r.area_va.wrapping_add(f::STATE_ENTRY_TIME as u64);
    // A guest that has unmapped its area gets nothing, as with Xen.
    if flag {
        let _ = memory.write_u64(entry_at, r.entry_ns | RUNSTATE_UPDATE);
        let mut marked = bytes;
        marked[f::STATE_ENTRY_TIME..f::STATE_ENTRY_TIME + 8]
            .copy_from_slice(&(r.entry_ns | RUNSTATE_UPDATE).to_le_bytes());
        let _ = memory.write(r.area_va, &marked);
        let _ = memory.write_u64(entry_at, r.entry_ns);
    } else {
        let _ = memory.write(r.area_va, &bytes);
    }
    debug_assert!(r.state <= runstate::OFFLINE);
}

/// Writes the clock into the vCPU's vcpu_info, and into its own copy of it if it has one. Both hold an anchor and a scale that
/// stay the same from the cold boot on, so this is needed only when a place is new.
pub fn publish_time(v: &VcpuState) {
    use vcpu_time_info as f;
    let clock = tsc::clock();
    let mut bytes = [0u8; f::SIZE];
    bytes[f::TSC_TIMESTAMP..f::TSC_TIMESTAMP + 8].copy_from_slice(&clock.anchor_tsc.to_le_bytes());
    bytes[f::SYSTEM_TIME..f::SYSTEM_TIME + 8].copy_from_slice(&clock.anchor_ns.to_le_bytes());
    bytes[f::TSC_TO_SYSTEM_MUL..f::TSC_TO_SYSTEM_MUL + 4].copy_from_slice(&clock.scale.mul.to_le_bytes());
    bytes[f::TSC_SHIFT] = clock.scale.shift as u8;
    // One anchor and one scale for all vCPUs and for ever, on one TSC: whoever reads it later never computes an earlier time.
    bytes[f::FLAGS] = f::TSC_STABLE;
    let at = v.info.offset(vcpu_info::TIME as u64);
    let mut found = [0u8; f::SIZE];
    DirectMap.read(at, &mut found);
    let version = u32::from_le_bytes([found[0], found[1], found[2], found[3]]);
    if found[8..] == bytes[8..] && version & 1 == 0 && version != 0 {
        return;
    }
    // Odd while it changes, even when it is whole.
    let version = version | 1;
    bytes[..4].copy_from_slice(&version.to_le_bytes());
    DirectMap.write(at, &bytes);
    DirectMap.write(at, &version.wrapping_add(1).to_le_bytes());
}

/// Writes the clock into the copy that the guest has registered, by the page tables of whoever registers it.
pub fn publish_time_copy(l4: Mfn, v: &VcpuState) {
    if v.time_area_va == 0 {
        return;
    }
    let mut bytes = [0u8; vcpu_time_info::SIZE];
    DirectMap.read(v.info.offset(vcpu_info::TIME as u64), &mut bytes);
    // A guest that has unmapped its area gets nothing, as with Xen.
    let _ = GuestMem::new(&DirectMap, l4).write(v.time_area_va, &bytes);
}
