//! The dry run: all of an update but the jump. What would be handed over is written, read back as the incoming build reads it, and
//! thrown away; the guests go on.
//!
//! 1. Nothing is different afterwards: the ledger before and behind it is compared, and a difference is an error of the hypervisor.
//! 2. Nothing is staged, and no update is counted as refused.

use super::super::mfn_list;
use super::super::records::{self, Summary};
use super::super::restore::RestoreError;
use super::super::save;
use super::pause::{facts, quiesce};
use super::plan::{Plan, fits, settle_all};
use super::refusal::Refusal;
use super::stage::check_next;
use crate::frame::MfnRange;
use crate::log;
use crate::mm::ledger::Ledger;
use crate::run::host::Host;
use crate::verdict::{self, Verdict};
use crate::x86::directmap::DirectMap;
use crate::x86::traps::Frame;
use crate::x86::tsc;
use alloc::string::ToString;

/// What a dry run has shown.
struct Rehearsal {
    summary: Summary,
    /// Frames of stream and list.
    nr_frames: usize,
    saved_tsc: u64,
    ledgers: [Ledger; 2],
}

/// Carries out the dry run that was asked for, or a piece of the digest's check, which comes before it.
pub(super) fn run(host: &Host, frame: &mut Frame) {
    let checked = match check_next(host) {
        Ok(None) => return,
        Ok(Some(checked)) => checked,
        Err(refusal) => return refuse(host, &refusal),
    };
    host.update.lock().asked = None;
    let to = checked.plan.image.version().to_string();
    let paused = tsc::rdtsc();
    log::hold();
    let result = rehearse(host, frame, paused, &checked.plan);
    let resumed = tsc::rdtsc();
    log::release();
    match result {
        Ok(rehearsal) => rehearsal.print(&to, paused, resumed),
        Err(refusal) => refuse(host, &refusal),
    }
}

fn refuse(host: &Host, refusal: &Refusal) {
    let mut u = host.update.lock();
    (u.asked, u.checking) = (None, None);
    drop(u);
    log!("lu", "dry run: refused: {refusal}");
    if matches!(refusal, Refusal::Unreadable(_)) {
        verdict::note(Verdict::Failure);
    }
}

fn rehearse(host: &Host, frame: &mut Frame, paused: u64, plan: &Plan<'_>) -> Result<Rehearsal, Refusal> {
    quiesce(host, frame)?;
    // What nothing refers to any more is given up by whoever looks next; that is no doing of the save.
    settle_all(host);
    let before = host.frames.ledger();
    let saved = save::save(host, &facts(host, plan.version, paused)).map_err(Refusal::Save)?;
    let saved_tsc = tsc::rdtsc();
    let nr_frames = saved.blocks.len();
    let found = fits(host, plan.image.needs(), &saved.blocks).and_then(|()| read_back(host, &saved));
    saved.free(host);
    let ledgers = [before, host.frames.ledger()];
    found.map(|summary| Rehearsal { summary, nr_frames, saved_tsc, ledgers })
}

/// Reads what was saved as the incoming build does, the breadcrumb aside, which the relocation code writes.
fn read_back(host: &Host, saved: &save::Saved) -> Result<Summary, Refusal> {
    let unreadable = |e| Refusal::Unreadable(RestoreError::Stream(e));
    let list_is_bad = |e| Refusal::Unreadable(RestoreError::List(e));
    let usable = |range: MfnRange| host.is_ram(range) && !range.overlaps(host.slot);
    let list = mfn_list::read(&DirectMap, saved.root, host.region.range(), usable).map_err(list_is_bad)?;
    let source = list.open(&DirectMap).map_err(unreadable)?;
    let summary = records::validate(records::reader(&source)).map_err(unreadable)?;
    list.check_version(summary.version.stream_version).map_err(list_is_bad)?;
    let missing = |what| Err(Refusal::Unreadable(RestoreError::Missing { what }));
    if list.frames().count() != saved.blocks.len() {
        return missing("list of all of its frames");
    }
    if summary.nr_domains != host.domains.lock().len() as u64 {
        return missing("record of each domain");
    }
    Ok(summary)
}

impl Rehearsal {
    fn print(&self, to: &str, paused: u64, resumed: u64) {
        let Self { summary: s, nr_frames, saved_tsc, ledgers: [before, after] } = self;
        let scale = tsc::clock().scale;
        let micros = |from: u64, to: u64| scale.ns(to.saturating_sub(from)) / 1000;
        log!(
            "lu",
            "dry run: an update to {to} is possible; pause {} us: save {}, read back {}",
            micros(paused, resumed),
            micros(paused, *saved_tsc),
            micros(*saved_tsc, resumed)
        );
        log!(
            "lu",
            "dry run: {} bytes in {} records and {nr_frames} frames; {} domains, {} frames in {} extents",
            s.len_bytes,
            s.nr_records,
            s.nr_domains,
            s.nr_pages,
            s.nr_extents
        );
        if before == after {
            log!("lu", "dry run: {} frames free before and after", before.free);
        } else {
            verdict::note(Verdict::Error);
            log!("lu", "dry run: MISMATCH before {before}");
            log!("lu", "dry run: MISMATCH after {after}");
        }
    }
}
