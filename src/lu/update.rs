//! The outgoing side: trigger, plan, quiesce, save, jump.
//!
//! ```text
//!   request ─ stage (plan, signature, digest, entry list, relocation tables, seal) ── guests run all the while
//!   the seal is looked at
//!   pause:  quiesce ─ save ─ breadcrumb into the list ─ jump
//! ```
//!
//! A *dry run* is the same without staging and jump: what was saved is read back and thrown away.
//!
//! Until the jump every failure gives the running hypervisor back with its guests; after it nothing may fail that could
//! have been checked before. A staged image stays staged: an update that was refused or aborted can be asked for again.

mod pause;
mod plan;
mod refusal;
mod seal;
mod stage;
mod trial;

use super::history::History;
use super::records::{HistoryEntry, LuHost, NR_STAGES, Name, Outcome};
use super::report::{self, Report};
use crate::cmdline::Expect;
use crate::kexec::image::{DigestCheck, NextImage};
use crate::log;
use crate::mm::buddy::Block;
use crate::run::console;
use crate::run::host::Host;
use crate::run::plug_in;
use crate::verdict::{self, Verdict};
use crate::x86::traps::Frame;
use crate::x86::tsc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub use plan::plan_only;
use plan::{Plan, choose, loaded_bytes, plan, trust};
pub use refusal::Refusal;
pub use seal::is_test;
pub use stage::build_relocation;
use stage::{Looked, Staged, check_next, check_staged, stage, unstage};

/// Where the relocation code's copy is mapped executable.
pub const RELOC_VA: u64 = 0xffff_82d0_c000_0000;
/// Image files that a privileged domain has loaded.
struct Loaded {
    block: Block,
    len_bytes: u64,
}

/// What was asked for and is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Update,
    DryRun,
}

/// What the hypervisor knows about its updates.
pub struct UpdateState {
    sequence: u64,
    asked: Option<Asked>,
    /// It is to be gone on with at once.
    requested: bool,
    automatic_done: u64,
    pub(super) next_ns: u64,
    finish_ns: Option<u64>,
    finish_typed: bool,
    refusals: u64,
    staged: Option<Staged>,
    loaded: Option<Loaded>,
    pub(super) report: Option<(Report, String)>,
    pub(super) later_created: bool,
    /// The next image's digest, being computed piece by piece while guests run.
    checking: Option<(Looked, DigestCheck<'static>)>,
    next_check_ns: u64,
    /// The image that was found right.
    verified: Option<Looked>,
    pub(super) history: History,
}

impl UpdateState {
    /// After a cold boot.
    pub fn cold() -> Self {
        Self {
            sequence: 0,
            asked: None,
            requested: false,
            automatic_done: 0,
            next_ns: 0,
            finish_ns: None,
            finish_typed: false,
            refusals: 0,
            staged: None,
            loaded: None,
            report: None,
            later_created: false,
            checking: None,
            next_check_ns: 0,
            verified: None,
            history: History::default(),
        }
    }

    /// After update `sequence`, with what the outgoing build knew.
    pub fn resumed(sequence: u64, host: &LuHost, history: History) -> Self {
        use super::records::HostFlags;
        Self {
            sequence,
            automatic_done: host.updates_done,
            next_ns: host.next_trigger_ns,
            finish_ns: (host.finish_ns != 0).then_some(host.finish_ns),
            finish_typed: host.flags.contains(HostFlags::FINISH_TYPED),
            refusals: host.refusals,
            history,
            ..Self::cold()
        }
    }
}

/// Asks for an update, as soon as the calling guest is left.
pub fn request(host: &Host) {
    let mut u = host.update.lock();
    (u.asked, u.requested) = (Some(Asked::Update), true);
}

/// Asks for a dry run. An update that has been asked for goes first, and says more.
pub fn request_dry_run(host: &Host) {
    let mut u = host.update.lock();
    let is_update = u.asked == Some(Asked::Update);
    if !is_update {
        (u.asked, u.requested) = (Some(Asked::DryRun), true);
    }
    drop(u);
    if is_update {
        log!("lu", "dry run: an update is under way");
    }
}

/// True if an update or a dry run is to be gone on with.
pub fn is_requested(host: &Host) -> bool {
    host.update.lock().requested
}

/// True if an update is under way, or will come by itself.
pub fn is_busy(host: &Host) -> bool {
    let u = host.update.lock();
    u.asked.is_some() || u.report.is_some() || u.automatic_done < u64::from(host.options.lu_updates)
}

/// Updates refused so far.
pub fn refusals(host: &Host) -> u64 {
    host.update.lock().refusals
}

/// Automatic updates that were asked for and have not come about.
pub fn missing(host: &Host) -> u64 {
    match host.options.expect {
        Expect::Success => u64::from(host.options.lu_updates).saturating_sub(host.update.lock().sequence),
        Expect::Refuse => 0,
    }
}

/// When [`tick`] has something to do next.
pub fn next_tick(host: &Host) -> u64 {
    let u = host.update.lock();
    let o = &host.options;
    if u.report.is_some() {
        return u64::MAX;
    }
    if u.asked.is_some() {
        return u.next_check_ns;
    }
    if u.automatic_done < u64::from(o.lu_updates) {
        return u.next_ns.max(o.lu_first_ns);
    }
    match (o.finish_ns, u.finish_typed) {
        (Some(_), false) => u.finish_ns.unwrap_or(0),
        _ => u64::MAX,
    }
}

/// Triggers automatic updates, types `finish`, prints the report of an update that has come about.
pub fn tick(host: &Host, now: u64) {
    report::print(host);
    if now < next_tick(host) {
        return;
    }
    let o = &host.options;
    let mut u = host.update.lock();
    if u.asked.is_some() {
        u.requested = true;
        return;
    }
    if u.automatic_done < u64::from(o.lu_updates) {
        u.automatic_done += 1;
        (u.asked, u.requested) = (Some(Asked::Update), true);
        return;
    }
    if let (Some(after), false) = (o.finish_ns, u.finish_typed) {
        match u.finish_ns {
            None => u.finish_ns = Some(now + after),
            Some(_) => {
                u.finish_typed = true;
                drop(u);
                console::finish_all(host);
            }
        }
    }
}

/// Goes on with what was asked for: an update, from which there is no return, or a dry run.
pub fn run_pending(host: &Host, frame: &mut Frame) {
    let asked = {
        let mut u = host.update.lock();
        u.requested = false;
        u.asked
    };
    plug_in::finish(host);
    match asked {
        Some(Asked::Update) => update(host, frame),
        Some(Asked::DryRun) => trial::run(host, frame),
        None => {}
    }
}

fn update(host: &Host, frame: &mut Frame) {
    let staged = check_next(host).and_then(|checked| match checked {
        Some(checked) => stage(host, &checked).map(|()| Some(checked.plan.needs)),
        None => Ok(None),
    });
    match staged {
        // The incoming build says what it used.
        Ok(Some(needs)) => log!("lu", "planned of the region: {needs}"),
        Ok(None) => return,
        Err(refusal) => return refuse(host, &refusal, 0),
    }
    if let Err(refusal) = check_staged(host) {
        return refuse(host, &refusal, 0);
    }
    let paused_tsc = tsc::rdtsc();
    log::hold();
    let result = pause::pause_and_jump(host, frame, paused_tsc);
    log::release();
    let Err(refusal) = result;
    refuse(host, &refusal, tsc::clock().scale.ns(tsc::rdtsc().saturating_sub(paused_tsc)));
}

/// Says why there is no update; `pause_ns` is how long guests stood still for it.
fn refuse(host: &Host, refusal: &Refusal, pause_ns: u64) {
    let outcome = if matches!(refusal, Refusal::Deadline { .. }) { Outcome::Aborted } else { Outcome::Refused };
    log!("lu", "{}: {refusal}", outcome.word());
    if matches!(refusal, Refusal::Altered { .. }) {
        // Nothing that was found before holds any more: the next attempt begins with the image's digest.
        host.update.lock().verified = None;
        unstage(host);
    }
    let to =
        choose(host).ok().and_then(|(_, _, file)| NextImage::parse(file).ok()).map(|image| name_of(image.version()));
    let now = tsc::now_ns();
    {
        let mut u = host.update.lock();
        u.refusals += 1;
        (u.asked, u.checking) = (None, None);
        u.next_ns = now + host.options.lu_every_ns;
        let entry = HistoryEntry {
            number: 0,
            sequence: u.sequence + 1,
            outcome,
            nr_domains: 0,
            at_ns: now.saturating_sub(pause_ns),
            pause_ns,
            stages_ns: [0; NR_STAGES],
            nr_extents: 0,
            nr_frames: 0,
            stream_bytes: 0,
            from: name_of(crate::build::VERSION),
            to: to.unwrap_or(Name::EMPTY),
        };
        u.history.add(entry, &refusal.to_string());
    }
    if host.options.expect == Expect::Success {
        verdict::note(Verdict::Failure);
    }
}

/// A build's name as records have it; none if it is too long for that.
pub(super) fn name_of(version: &str) -> Name<48> {
    Name::try_new(version).unwrap_or(Name::EMPTY)
}

/// Prints the history.
pub fn print_history(host: &Host) {
    let lines: Vec<String> = {
        let u = host.update.lock();
        let lost = u.history.nr_lost();
        let lost = (lost != 0).then(|| alloc::format!("{lost} more are no longer known"));
        lost.into_iter().chain(u.history.iter().map(|past| past.to_string())).collect()
    };
    if lines.is_empty() {
        log!("history", "no update so far");
    }
    for line in lines {
        log!("history", "{line}");
    }
}

/// Keeps an image that a privileged domain has loaded, after all the checks of a plan.
pub fn load(host: &Host, block: Block, len_bytes: u64) -> Result<(), (Block, Refusal)> {
    let at = block.mfn().maddr();
    let checked = plan(host, "loaded", loaded_bytes(at, len_bytes)).and_then(|Plan { image, .. }| {
        let looked = Looked::begin(host, "loaded", at, &image)?;
        image.verify_digest().map_err(|error| Refusal::Image { name: "loaded".to_string(), error })?;
        Ok(looked)
    });
    let looked = match checked {
        Ok(looked) => looked,
        Err(refusal) => return Err((block, refusal)),
    };
    unload(host);
    let mut u = host.update.lock();
    u.loaded = Some(Loaded { block, len_bytes });
    u.verified = Some(looked);
    Ok(())
}

/// Forgets the image that was loaded; false if there was none.
pub fn unload(host: &Host) -> bool {
    let loaded = host.update.lock().loaded.take();
    let Some(loaded) = loaded else { return false };
    {
        let mut u = host.update.lock();
        (u.verified, u.checking) = (None, None);
    }
    unstage(host);
    host.frames.free(loaded.block);
    true
}

/// Says who must have signed a next image.
pub fn print_trust(host: &Host) {
    log!("lu", "{}", trust(host));
}

/// True if there is an image to go to: one that is loaded, or a module.
pub fn has_next(host: &Host) -> bool {
    choose(host).is_ok()
}

/// True if an image is loaded.
pub fn is_loaded(host: &Host) -> bool {
    host.update.lock().loaded.is_some()
}
