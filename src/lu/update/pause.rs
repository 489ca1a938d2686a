//! The pause: guests come to rest, their state is saved, and the machine is given away.

use super::super::damage::Damage;
use super::super::records::{HostFlags, LuHost, StreamVersion};
use super::super::save::{self, UpdateFacts};
use super::RELOC_VA;
use super::plan::fits;
use super::refusal::Refusal;
use crate::frame::DomId;
use crate::kexec::reloc::{self, RelocArgs};
use crate::log;
use crate::run::host::Host;
use crate::run::{context, teardown, work};
use crate::start::failure;
use crate::x86::directmap::DirectMap;
use crate::x86::traps::Frame;
use crate::x86::{apic, tsc};

pub(super) fn pause_and_jump(
    host: &Host,
    frame: &mut Frame,
    paused_tsc: u64,
) -> Result<core::convert::Infallible, Refusal> {
    quiesce(host, frame)?;
    log::cut_listing();
    // `run_pending` has just staged it.
    let staged = host.update.lock().staged.as_ref().map(|s| (s.needs, s.version));
    let (needs, version) = staged.ok_or(Refusal::NoImage)?;
    let saved = save::save(host, &facts(host, version, paused_tsc)).map_err(Refusal::Save)?;
    if let Err(refusal) = fits(host, &needs, &saved.blocks).and_then(|()| check_parts(host)) {
        saved.free(host);
        return Err(refusal);
    }
    let args = {
        let mut u = host.update.lock();
        let Some(staged) = &mut u.staged else {
            // `run_pending` has just staged it.
            return Err(Refusal::NoImage);
        };
        staged.kimage.append_breadcrumb(&DirectMap, saved.root);
        RelocArgs {
            copy: staged.copy,
            tables: staged.tables.l4(),
            list: staged.kimage.first(),
            entry: staged.kimage.entry(),
            mbi: staged.kimage.mbi(),
            stamps: Some(staged.kimage.breadcrumb_page()),
        }
    };
    if Damage::asked(&host.options).is_some() {
        failure::print_sum(&host.memmap, host.region.range(), host.slot, args.copy);
    }
    apic::quiesce();
    jump(&args)
}

/// The last look at what obeys the list: from here to the jump nothing is written but the breadcrumb.
fn check_parts(host: &Host) -> Result<(), Refusal> {
    host.update.lock().staged.as_ref().map_or(Err(Refusal::NoImage), |staged| staged.seal.check_parts())
}

#[expect(unsafe_code, reason = "the point of no return")]
fn jump(args: &RelocArgs) -> ! {
    // SAFETY: the copy is mapped executable and writable at RELOC_VA in the tables that are loaded (`quiesce` loaded the hypervisor's
    // own) and in the relocation tables, which map all RAM; the list was built and checked by `kimage`, its breadcrumb is appended;
    // interrupts are off and one CPU runs.
    unsafe { reloc::jump(RELOC_VA as *const u8, args) }
}

/// Brings everything to a boundary from which another build can go on: the running vCPU's state is taken out of the CPU (all
/// others are at such a boundary, as they left the CPU on their way to a guest), and domains being taken apart are finished, within the deadline.
pub(super) fn quiesce(host: &Host, frame: &mut Frame) -> Result<(), Refusal> {
    let start = tsc::now_ns();
    if let Some(vcpu) = context::save_current(frame) {
        let runnable = vcpu.domain.may_run() && vcpu.state.lock().is_runnable();
        if runnable {
            work::requeue(host, vcpu);
        }
    }
    context::load_idle();
    let limit = host.options.lu_deadline_ns;
    while teardown::is_busy(host) {
        if tsc::now_ns().saturating_sub(start) >= limit {
            return Err(Refusal::Deadline { ns: limit, what: "a domain is still being taken apart" });
        }
        teardown::step(host);
    }
    Ok(())
}

pub(super) fn facts(host: &Host, version: StreamVersion, paused_tsc: u64) -> UpdateFacts {
    let u = host.update.lock();
    let mut flags = save::verdict_flags();
    flags.set(HostFlags::FINISH_TYPED, u.finish_typed);
    flags.set(HostFlags::REFUSED, u.refusals != 0);
    UpdateFacts {
        version,
        sequence: u.sequence + 1,
        host: LuHost {
            updates_done: u.automatic_done,
            next_trigger_ns: u.next_ns,
            flags,
            refusals: u.refusals,
            console_focus: host.console.lock().focus.map(DomId::get),
            next_domid: *host.next_domid.lock(),
            finish_ns: u.finish_ns.unwrap_or(0),
            domains_ended: 0,
        },
        paused_tsc,
    }
}
