//! The outgoing side: trigger, plan, quiesce, save, jump.
//!
//! ```text
//!   request ─ stage (image checked, plan, entry list, relocation tables) ── guests run all the while
//!   pause:  quiesce ─ save ─ breadcrumb into the list ─ jump
//! ```
//!
//! Until the jump every failure gives the running hypervisor back with its guests; after it nothing may fail that could
//! have been checked before. A staged image stays staged: an update that was refused or aborted can be asked for again.

use super::needs::{Load, RegionNeeds, partial_chunks};
use super::records::{LuHost, StreamVersion};
use super::report::{self, Report};
use super::save::{self, SaveError, UpdateFacts};
use crate::cmdline::{self, Expect};
use crate::domain::spec::ModuleSpec;
use crate::frame::{DomId, Maddr, Mfn, MfnRange, Order};
use crate::kexec::idmap::{IdmapError, RelocTables};
use crate::kexec::image::{DigestCheck, ImageError, Needs, NextImage};
use crate::kexec::kimage::{self, Kimage, KimageError};
use crate::kexec::mbi::{MapEntry, MbiError, MbiWriter};
use crate::kexec::reloc::{self, RelocArgs};
use crate::log;
use crate::mm::buddy::Block;
use crate::mm::physmem::PhysMem;
use crate::run::host::Host;
use crate::run::{console, context, grants, teardown, work};
use crate::verdict::{self, Verdict};
use crate::x86::directmap::{self, DirectMap};
use crate::x86::traps::Frame;
use crate::x86::{apic, paging, tsc};
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

/// Where the relocation code's copy is mapped executable.
pub const RELOC_VA: u64 = 0xffff_82d0_c000_0000;
/// First frame at or above 4 GiB.
const LIMIT_4G: u64 = 1 << 20;
/// Bytes of an image that are hashed at a time, and nanoseconds from one piece to the next: guests run in between.
const CHECK_BYTES: usize = 16 << 10;
const CHECK_EVERY_NS: u64 = 500_000;
/// Bytes for the boot information of the incoming image.
const MBI_BYTES: usize = 64 << 10;

/// An update is not possible; nothing has been paused, or everything runs again.
#[derive(Debug)]
#[expect(missing_docs, reason = "said by Display")]
pub enum Refusal {
    NoImage,
    Image { name: String, error: ImageError },
    RegionTooSmall { needs: RegionNeeds, has: u64 },
    StreamVersion { error: ImageError },
    CommandLine,
    Mbi(MbiError),
    Stage(KimageError),
    Tables(IdmapError),
    NoMemory,
    Save(SaveError),
    Deadline { ns: u64, what: &'static str },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoImage => f.write_str("no next image: give a module `image name=<name>`, or load one with kexec_op"),
            Self::Image { name, error } => write!(f, "image {name}: {error}"),
            Self::RegionTooSmall { needs, has } => {
                let mib = needs.total().div_ceil(2 << 20) * 2;
                write!(
                    f,
                    "the region is too small: the next build needs {mib} MiB ({needs}), it has {} MiB; boot with liveupdate={mib}M",
                    has >> 20
                )
            }
            Self::StreamVersion { error } => write!(f, "{error}"),
            Self::CommandLine => f.write_str("the command line of the next build is too long"),
            Self::Mbi(e) => write!(f, "boot information: {e}"),
            Self::Stage(e) => write!(f, "the image cannot be staged: {e}"),
            Self::Tables(e) => write!(f, "relocation tables: {e}"),
            Self::NoMemory => f.write_str("no memory to stage the image"),
            Self::Save(e) => write!(f, "{e}"),
            Self::Deadline { ns, what } => write!(f, "not quiet within {} us: {what}", ns / 1000),
        }
    }
}

/// An image in place to be jumped to: all that the pause needs, and the proof that it was checked (I11).
struct Staged {
    at: Maddr,
    needs: Needs,
    kimage: Kimage,
    tables: RelocTables,
    copy: Mfn,
    blocks: Vec<Block>,
}

/// Image files that a privileged domain has loaded.
struct Loaded {
    block: Block,
    len_bytes: u64,
}

/// What the hypervisor knows about its updates.
pub struct UpdateState {
    sequence: u64,
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
    checking: Option<(Maddr, DigestCheck<'static>)>,
    next_check_ns: u64,
    /// The image whose digest was found right.
    verified: Option<Maddr>,
}

impl UpdateState {
    /// After a cold boot.
    pub fn cold() -> Self {
        Self {
            sequence: 0,
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
        }
    }

    /// After update `sequence`, with what the outgoing build knew.
    pub fn resumed(sequence: u64, host: &LuHost) -> Self {
        use super::records::HostFlags;
        Self {
            sequence,
            automatic_done: host.updates_done,
            next_ns: host.next_trigger_ns,
            finish_ns: (host.finish_ns != 0).then_some(host.finish_ns),
            finish_typed: host.flags.contains(HostFlags::FINISH_TYPED),
            refusals: host.refusals,
            ..Self::cold()
        }
    }
}

/// Asks for an update, as soon as the calling guest is left.
pub fn request(host: &Host) {
    host.update.lock().requested = true;
}

/// True if an update has been asked for.
pub fn is_requested(host: &Host) -> bool {
    host.update.lock().requested
}

/// True if an update is under way, or will come by itself.
pub fn is_busy(host: &Host) -> bool {
    let u = host.update.lock();
    u.requested || u.checking.is_some() || u.report.is_some() || u.automatic_done < u64::from(host.options.lu_updates)
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
    if u.checking.is_some() {
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
    if u.checking.is_some() {
        u.next_check_ns = now + CHECK_EVERY_NS;
        u.requested = true;
        return;
    }
    if u.automatic_done < u64::from(o.lu_updates) {
        u.automatic_done += 1;
        u.requested = true;
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

/// The next image: what a privileged domain has loaded, or the first module that is another build than this one.
fn choose(host: &Host) -> Result<(String, Maddr, &'static [u8]), Refusal> {
    if let Some(loaded) = &host.update.lock().loaded {
        let at = loaded.block.mfn().maddr();
        return Ok(("loaded".to_string(), at, loaded_bytes(at, loaded.len_bytes)));
    }
    let modules = host.modules.lock();
    let mut found: Option<(String, Maddr, &'static [u8])> = None;
    for module in modules.iter() {
        let Ok(ModuleSpec::Image { name }) = ModuleSpec::parse(&module.string) else { continue };
        let is_own = NextImage::parse(module.bytes()).is_ok_and(|i| i.version() == crate::build::VERSION);
        if !is_own {
            return Ok((name.to_string(), module.start, module.bytes()));
        }
        found.get_or_insert((name.to_string(), module.start, module.bytes()));
    }
    found.ok_or(Refusal::NoImage)
}

#[expect(unsafe_code, reason = "an owned block as bytes")]
fn loaded_bytes(at: Maddr, len_bytes: u64) -> &'static [u8] {
    // SAFETY: the block is owned by `UpdateState.loaded`, written before it got there, and given back only when a new image is loaded or this one
    // is unloaded, both of which unstage first.
    unsafe { directmap::bytes(at, len_bytes) }
}

/// Everything that the incoming side will have to claim but the stream.
fn claims_of(host: &Host) -> Vec<MfnRange> {
    let mut claims: Vec<MfnRange> = host.modules.lock().iter().map(|m| m.frames()).collect();
    claims.extend(log::place());
    let domains: Vec<_> = host.domains.lock().values().cloned().collect();
    for domain in &domains {
        let mut memory = domain.memory.lock();
        memory.settle(host.frames, domain.id);
        claims.extend(memory.ranges());
        claims.push(MfnRange::new(memory.shared_info, 1));
        drop(memory);
        claims.extend(grants::frames(host, domain.id).into_iter().map(|mfn| MfnRange::new(mfn, 1)));
    }
    claims
}

/// What the incoming side's boot depends on. The frames of the stream are known only when it is written: until then a bound on
/// their number stands for the chunks that they cut, which they mostly share; `fits` looks again before the jump.
fn load_of(host: &Host) -> Load {
    let domains: Vec<_> = host.domains.lock().values().cloned().collect();
    let mut stream_frames = 16;
    for domain in &domains {
        let (extents, lingering) = {
            let memory = domain.memory.lock();
            (memory.extents.nr_extents() as u64, memory.lingering.nr_frames())
        };
        let nr_grants = {
            let tables = host.grants.lock();
            let nr_frames = tables.shared_frames(domain.id).len() + tables.status_frames(domain.id).len();
            nr_frames / 2 + tables.active(domain.id).count() + tables.maps(domain.id).count()
        };
        stream_frames += 3 + domain.vcpus.lock().len() as u64 * 4;
        stream_frames += extents / 200 + lingering / 400 + nr_grants as u64 / 200;
    }
    let partial_chunks = partial_chunks(claims_of(host)) + stream_frames.div_ceil(8) + 4;
    Load { ram_end: host.memmap.end(), gib_pages: host.features.gib_pages, partial_chunks }
}

/// The last check before the jump: with the stream where it is now, the region is large enough.
fn fits(host: &Host, image: &Needs, stream: &[Block]) -> Result<(), Refusal> {
    let claims = claims_of(host).into_iter().chain(stream.iter().map(Block::range));
    let load =
        Load { ram_end: host.memmap.end(), gib_pages: host.features.gib_pages, partial_chunks: partial_chunks(claims) };
    let needs = RegionNeeds::of(image, &load);
    if needs.total() > host.region.len_bytes() {
        return Err(Refusal::RegionTooSmall { needs, has: host.region.len_bytes() });
    }
    Ok(())
}

/// All the checks (I11) but the digest, which takes long: the image is whole, fits slot and region, and reads what is written.
fn plan<'a>(host: &Host, name: &str, file: &'a [u8]) -> Result<(NextImage<'a>, RegionNeeds), Refusal> {
    let refuse = |error| Refusal::Image { name: name.to_string(), error };
    let image = NextImage::parse(file).map_err(refuse)?;
    image.place(host.slot).map_err(refuse)?;
    image.check_features(0).map_err(refuse)?;
    let writes = StreamVersion::CURRENT.get()..=StreamVersion::CURRENT.get();
    image.stream_version(writes).map_err(|error| Refusal::StreamVersion { error })?;
    let needs = RegionNeeds::of(image.needs(), &load_of(host));
    if needs.total() > host.region.len_bytes() {
        return Err(Refusal::RegionTooSmall { needs, has: host.region.len_bytes() });
    }
    Ok((image, needs))
}

/// Plans an update and says what comes out; nothing is staged.
pub fn plan_only(host: &Host) {
    let result =
        choose(host).and_then(|(name, _, file)| plan(host, &name, file).map(|(i, n)| (i.version().to_string(), n)));
    match result {
        Ok((version, needs)) => {
            let has = host.region.len_bytes() >> 10;
            log!("lu", "plan: to {version}, the region has {has} KiB, needed are {}", needs.total() >> 10);
            log!("lu", "plan: {needs}");
        }
        Err(refusal) => log!("lu", "plan: refused: {refusal}"),
    }
}

fn boot_information(host: &Host) -> Result<Vec<u8>, Refusal> {
    let mut line = vec![0; crate::start::bootinfo::MAX_COMMAND_LINE];
    let line = cmdline::write_incoming(&host.command_line, host.region.range(), &mut line)
        .map_err(|_| Refusal::CommandLine)?
        .to_string();
    let mut buf = vec![0; MBI_BYTES];
    let mut mbi = MbiWriter::new(&mut buf).map_err(Refusal::Mbi)?;
    mbi.command_line(&line).map_err(Refusal::Mbi)?;
    mbi.loader_name(crate::build::VERSION).map_err(Refusal::Mbi)?;
    // Modules travel in the stream: they may lie above 4 GiB, which a Multiboot2 tag cannot say.
    let entries = host.memmap.firmware_entries();
    mbi.memory_map(entries.iter().map(|e| MapEntry { base: e.start, len_bytes: e.len_bytes, kind: e.number }))
        .map_err(Refusal::Mbi)?;
    let len = mbi.finish().map_err(Refusal::Mbi)?;
    buf.truncate(len);
    Ok(buf)
}

/// Hashes a piece of an image; true when all of it was found to be what its note says.
fn check_digest(host: &Host, name: &str, at: Maddr, image: &NextImage<'static>) -> Result<bool, Refusal> {
    let mut u = host.update.lock();
    if u.verified == Some(at) {
        return Ok(true);
    }
    let mut check = match u.checking.take() {
        Some((place, check)) if place == at => check,
        _ => image.digest_check(),
    };
    match check.step(CHECK_BYTES) {
        None => {
            u.checking = Some((at, check));
            Ok(false)
        }
        Some(Ok(())) => {
            u.verified = Some(at);
            Ok(true)
        }
        Some(Err(error)) => Err(Refusal::Image { name: name.to_string(), error }),
    }
}

/// Stages the next image, unless it is staged already; false if guests are to run before it goes on.
fn stage_next(host: &Host) -> Result<bool, Refusal> {
    let (name, at, file) = choose(host)?;
    // Between two steps of the digest nothing is planned anew: that takes its time where guests have memory in many pieces.
    let is_checking = host.update.lock().checking.as_ref().is_some_and(|(place, _)| *place == at);
    let image = if is_checking {
        NextImage::parse(file).map_err(|error| Refusal::Image { name: name.to_string(), error })?
    } else {
        plan(host, &name, file)?.0
    };
    if !check_digest(host, &name, at, &image)? {
        return Ok(false);
    }
    if host.update.lock().staged.as_ref().is_some_and(|s| s.at == at) {
        return Ok(true);
    }
    unstage(host);
    let mut blocks = Vec::new();
    let result = build_stage(host, &image, at, &mut blocks);
    match result {
        Ok((kimage, tables, copy)) => {
            let entries = kimage.nr_entries();
            log!("lu", "staged {} from module {name}: {entries} entries", image.version());
            host.update.lock().staged = Some(Staged { at, needs: *image.needs(), kimage, tables, copy, blocks });
            Ok(true)
        }
        Err(e) => {
            for block in blocks {
                host.frames.free(block);
            }
            Err(e)
        }
    }
}

fn unstage(host: &Host) {
    let staged = host.update.lock().staged.take();
    for block in staged.into_iter().flat_map(|s| s.blocks) {
        host.frames.free(block);
    }
}

/// Copies the relocation code to a frame of its own and builds the tables that it runs on.
pub fn build_relocation(host: &Host, blocks: &mut Vec<Block>) -> Result<(RelocTables, Mfn), Refusal> {
    let region = host.region.range();
    let copy_block = host.frames.alloc_below(Order::PAGE, LIMIT_4G).ok_or(Refusal::NoMemory)?;
    let copy = copy_block.mfn();
    blocks.push(copy_block);
    DirectMap.write(copy.maddr(), reloc::code());
    let mut take = || {
        let block = host.frames.alloc(Order::PAGE)?;
        let mfn = block.mfn();
        blocks.push(block);
        Some(mfn)
    };
    let ram = host.memmap.ram();
    let tables = RelocTables::build(&DirectMap, ram, (RELOC_VA, copy), [host.slot, region], &mut take)
        .map_err(|e| Refusal::Tables(e.cause))?;
    // Executable in the hypervisor's own tables too, where the code starts.
    // The tables that this takes the first time stay linked there for good: a later staging only changes the last entry.
    let mut builder = paging::Builder::new(|| host.alloc_private(Order::PAGE).map(|block| block.mfn()));
    builder.map(host.own_l4, RELOC_VA, copy.maddr(), 1, paging::RW | paging::AD).ok_or(Refusal::NoMemory)?;
    Ok((tables, copy))
}

fn build_stage(
    host: &Host,
    image: &NextImage<'_>,
    at: Maddr,
    blocks: &mut Vec<Block>,
) -> Result<(Kimage, RelocTables, Mfn), Refusal> {
    let name = || image.version().to_string();
    let placed = image.place(host.slot).map_err(|error| Refusal::Image { name: name(), error })?;
    let mbi = boot_information(host)?;
    let mut take = || {
        let block = host.frames.alloc(Order::PAGE)?;
        let mfn = block.mfn();
        blocks.push(block);
        Some(mfn)
    };
    let region = host.region.range();
    let kimage =
        kimage::stage(&DirectMap, &placed, at, region, &mbi, &mut take).map_err(|e| Refusal::Stage(e.cause))?;
    let (tables, copy) = build_relocation(host, blocks)?;
    Ok((kimage, tables, copy))
}

/// Carries out the update that was asked for. Returns only if there is none.
pub fn run_pending(host: &Host, frame: &mut Frame) {
    host.update.lock().requested = false;
    match stage_next(host) {
        Ok(true) => {}
        Ok(false) => return,
        Err(refusal) => return refuse(host, &refusal),
    }
    let paused_tsc = tsc::rdtsc();
    log::hold();
    let result = pause_and_jump(host, frame, paused_tsc);
    log::release();
    let Err(refusal) = result;
    refuse(host, &refusal);
}

fn refuse(host: &Host, refusal: &Refusal) {
    let word = if matches!(refusal, Refusal::Deadline { .. }) { "aborted" } else { "refused" };
    log!("lu", "{word}: {refusal}");
    {
        let mut u = host.update.lock();
        u.refusals += 1;
        u.checking = None;
        u.next_ns = tsc::now_ns() + host.options.lu_every_ns;
    }
    if host.options.expect == Expect::Success {
        verdict::note(Verdict::Failure);
    }
}

fn pause_and_jump(host: &Host, frame: &mut Frame, paused_tsc: u64) -> Result<core::convert::Infallible, Refusal> {
    quiesce(host, frame)?;
    let facts = facts(host, paused_tsc);
    let saved = save::save(host, &facts).map_err(Refusal::Save)?;
    let needs = host.update.lock().staged.as_ref().map(|s| s.needs);
    if let Err(refusal) = needs.ok_or(Refusal::NoImage).and_then(|needs| fits(host, &needs, &saved.blocks)) {
        for block in saved.blocks {
            host.frames.free(block);
        }
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
    apic::quiesce();
    jump(&args)
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
fn quiesce(host: &Host, frame: &mut Frame) -> Result<(), Refusal> {
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

fn facts(host: &Host, paused_tsc: u64) -> UpdateFacts {
    use super::records::HostFlags;
    let u = host.update.lock();
    let mut flags = save::verdict_flags();
    flags.set(HostFlags::FINISH_TYPED, u.finish_typed);
    flags.set(HostFlags::REFUSED, u.refusals != 0);
    UpdateFacts {
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

/// Keeps an image that a privileged domain has loaded, after all the checks of a plan.
pub fn load(host: &Host, block: Block, len_bytes: u64) -> Result<(), (Block, Refusal)> {
    let at = block.mfn().maddr();
    let checked = plan(host, "loaded", loaded_bytes(at, len_bytes)).and_then(|(image, _)| {
        image.verify_digest().map_err(|error| Refusal::Image { name: "loaded".to_string(), error })
    });
    if let Err(refusal) = checked {
        return Err((block, refusal));
    }
    unload(host);
    let mut u = host.update.lock();
    u.loaded = Some(Loaded { block, len_bytes });
    u.verified = Some(at);
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

/// True if there is an image to go to: one that is loaded, or a module.
pub fn has_next(host: &Host) -> bool {
    choose(host).is_ok()
}

/// True if an image is loaded.
pub fn is_loaded(host: &Host) -> bool {
    host.update.lock().loaded.is_some()
}
