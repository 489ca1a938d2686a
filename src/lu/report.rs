//! The report of an update: how long guests stood still, by stage, and what was carried.
//!
//! The stamps are TSC values. The outgoing side's travel in the stream, the relocation code leaves two in the region's first page, the rest are
//! the incoming side's. The line is printed when guests run again.

use super::records::{HistoryEntry, Outcome, Stage, Summary, stage};
use super::update::name_of;
use crate::frame::{Mfn, MfnRange};
use crate::kexec::reloc;
use crate::log;
use crate::mm::physmem::PhysMem;
use crate::run::create;
use crate::run::host::Host;
use crate::x86::directmap::DirectMap;
use crate::x86::tsc;
use alloc::string::String;
use core::sync::atomic::{AtomicBool, Ordering};

/// The stages of an update, in TSC stamps, and what was carried.
pub struct Report {
    summary: Summary,
    paused: u64,
    saved: u64,
    relocation: [u64; 2],
    entered: u64,
    plugged: u64,
    restored: u64,
    resumed: u64,
}

static RESUME_EXPECTED: AtomicBool = AtomicBool::new(false);

impl Report {
    /// A report on a stream; the relocation code has left its stamps in the region's first page.
    pub fn new(summary: Summary, region: MfnRange) -> Self {
        let page = region.first().unwrap_or(Mfn::ZERO).maddr();
        let stamp = |offset: usize| DirectMap.read_u64(page.offset(offset as u64));
        Self {
            summary,
            paused: 0,
            saved: 0,
            relocation: [stamp(reloc::STAMP_START_OFFSET as usize), stamp(reloc::STAMP_END_OFFSET as usize)],
            entered: 0,
            plugged: 0,
            restored: 0,
            resumed: 0,
        }
    }

    /// A stamp of the outgoing side.
    pub fn stamp_outgoing(&mut self, stamp: Stage) {
        match stamp.stage {
            stage::PAUSED => self.paused = stamp.tsc,
            stage::SAVED => self.saved = stamp.tsc,
            _ => {}
        }
    }

    /// The image was entered.
    pub fn entered(&mut self, tsc: u64) {
        self.entered = tsc;
    }

    /// Free memory is plugged in.
    pub fn plugged(&mut self) {
        self.plugged = tsc::rdtsc();
    }

    /// Domains are restored.
    pub fn restored(&mut self) {
        self.restored = tsc::rdtsc();
    }
}

/// The next return to a guest ends the pause.
pub fn expect_resume(host: &Host, report: Report, from: String) {
    host.update.lock().report = Some((report, from));
    RESUME_EXPECTED.store(true, Ordering::Release);
}

/// True in a pause that has not ended.
pub fn is_awaited() -> bool {
    RESUME_EXPECTED.load(Ordering::Acquire)
}

/// A guest is about to run.
pub fn note_resume(host: &Host) {
    if RESUME_EXPECTED.swap(false, Ordering::AcqRel)
        && let Some((report, _)) = &mut host.update.lock().report
    {
        report.resumed = tsc::rdtsc();
    }
}

/// Prints the report once the first guest has run (or is not going to).
pub fn print(host: &Host) {
    let waits = RESUME_EXPECTED.load(Ordering::Acquire);
    let (r, from) = {
        let mut u = host.update.lock();
        match &u.report {
            None => return,
            Some(_) if waits && host.sched.lock().is_contended() => return,
            Some(_) => {}
        }
        let Some(taken) = u.report.take() else { return };
        taken
    };
    RESUME_EXPECTED.store(false, Ordering::Release);
    host.update.lock().next_ns = tsc::now_ns() + host.options.lu_every_ns;
    let clock = tsc::clock();
    let resumed = if r.resumed != 0 { r.resumed } else { tsc::rdtsc() };
    let between = |a: u64, b: u64| clock.scale.ns(b.saturating_sub(a));
    log::release();
    let s = &r.summary;
    let entry = HistoryEntry {
        number: 0,
        sequence: s.version.update_sequence,
        outcome: Outcome::Done,
        nr_domains: u32::try_from(s.nr_domains).unwrap_or(u32::MAX),
        at_ns: clock.ns_at(r.paused),
        pause_ns: between(r.paused, resumed),
        stages_ns: [
            between(r.paused, r.relocation[0].max(r.saved)),
            between(r.relocation[0].max(r.saved), r.entered),
            between(r.entered, r.plugged),
            between(r.plugged, r.restored),
            between(r.restored, resumed),
        ],
        nr_extents: s.nr_extents,
        nr_frames: s.nr_pages,
        stream_bytes: s.len_bytes,
        from: s.version.build,
        to: name_of(crate::build::VERSION),
    };
    let [save, relocate, boot, restore, resume] = entry.stages_ns;
    log!(
        "lu",
        "report {{\"sequence\":{},\"from\":\"{from}\",\"to\":\"{}\",\"pause_ns\":{},\"stages\":{{\"save\":{save},\"relocate\":{relocate},\"boot\":{boot},\"restore\":{restore},\"resume\":{resume}}},\"domains\":{},\"extents\":{},\"pages\":{},\"stream_bytes\":{},\"stream_version\":{}}}",
        entry.sequence,
        crate::build::VERSION,
        entry.pause_ns,
        s.nr_domains,
        s.nr_extents,
        s.nr_pages,
        s.len_bytes,
        s.version.stream_version
    );
    super::update::print_trust(host);
    host.update.lock().history.add(entry, "");
    let first = !core::mem::replace(&mut host.update.lock().later_created, true);
    if first && s.version.update_sequence == 1 {
        create::create_later_domains(host);
    }
}
