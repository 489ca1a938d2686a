//! The plan: which image is next, what it needs, and all that can be said against it before anything is paused (I11).

use super::super::mfn_list;
use super::super::needs::{Load, RegionNeeds, check_places, partial_chunks};
use super::super::records::StreamVersion;
use super::refusal::Refusal;
use crate::domain::spec::ModuleSpec;
use crate::frame::{Maddr, MfnRange, PAGE_SIZE};
use crate::kexec::image::{MachineFeatures, Needs, NextImage};
use crate::log;
use crate::mm::buddy::Block;
use crate::run::domain::Carried;
use crate::run::host::Host;
use crate::trust::Trust;
use crate::x86::directmap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// The next image: what a privileged domain has loaded, or the first module that is another build than this one.
pub(super) fn choose(host: &Host) -> Result<(String, Maddr, &'static [u8]), Refusal> {
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
pub(super) fn loaded_bytes(at: Maddr, len_bytes: u64) -> &'static [u8] {
    // SAFETY: the block is owned by `UpdateState.loaded`, written before it got there, and given back only when a new image is loaded or this one
    // is unloaded, both of which unstage first.
    unsafe { directmap::bytes(at, len_bytes) }
}

/// Everything that cuts chunks on the incoming side but the stream: what it will have to claim, and the ends of RAM.
fn cuts_of(host: &Host) -> Vec<MfnRange> {
    let mut cuts: Vec<MfnRange> = host.modules.lock().iter().map(|m| m.frames()).collect();
    // Frame 0 is nobody's memory, whatever the firmware says.
    cuts.extend(host.memmap.ram().filter_map(|ram| MfnRange::between(ram.start().max(1), ram.end())));
    cuts.extend(host.withheld.lock().iter());
    // Those that somebody has cut nothing that is claimed; but by then they may be nobody's.
    cuts.extend(host.bad_frames.lock().iter());
    cuts.extend(log::place());
    let domains: Vec<_> = host.domains.lock().values().cloned().collect();
    for domain in &domains {
        let mut memory = domain.memory.lock();
        memory.settle(host.frames, domain.id);
        cuts.extend(memory.ranges());
        cuts.push(MfnRange::new(memory.shared_info, 1));
        drop(memory);
        let tables = host.grants.lock();
        let frames = [tables.shared_frames(domain.id), tables.status_frames(domain.id)];
        cuts.extend(frames.into_iter().flatten().map(|mfn| MfnRange::new(*mfn, 1)));
    }
    cuts
}

/// Gives up the frames that domains gave up before and that nothing refers to any more.
pub(super) fn settle_all(host: &Host) {
    let domains: Vec<_> = host.domains.lock().values().cloned().collect();
    domains.iter().for_each(|domain| domain.memory.lock().settle(host.frames, domain.id));
}

/// About how many frames stream and list will have: what is small is taken as large as it usually is.
fn stream_frames_of(host: &Host, version: StreamVersion) -> u64 {
    let domains: Vec<_> = host.domains.lock().values().cloned().collect();
    // Of the host, and its history.
    let mut frames = 16 + 8 + (host.bad_frames.lock().len() + host.withheld.lock().len()) as u64 / 200;
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
        if let Some(Carried::Whole { records, .. }) = domain.refusal().map(|refusal| &refusal.carried) {
            frames += records.len() as u64 / PAGE_SIZE;
        }
        frames += 3 + domain.vcpus.lock().len() as u64 * 4;
        frames += extents / 200 + lingering / 400 + nr_grants as u64 / 200;
        frames += host.evtchn.lock().ports(domain.id).count() as u64 / 200;
    }
    frames + mfn_list::nr_list_pages(version, frames)
}

/// What the incoming side's boot depends on. The frames of the stream are known only when it is written: until then an
/// estimate of their number stands for the chunks that they cut, which they mostly share; [`fits`] looks again before the jump.
fn load_of(host: &Host, version: StreamVersion) -> Load {
    let stream_frames = stream_frames_of(host, version);
    let partial_chunks = partial_chunks(cuts_of(host)) + stream_frames.div_ceil(8) + 4;
    Load { ram_end: host.memmap.end(), gib_pages: host.features.gib_pages, partial_chunks, stream_frames }
}

/// Bytes and places of the incoming side against the load.
fn check_load(host: &Host, image: &Needs, load: &Load) -> Result<RegionNeeds, Refusal> {
    check_places(image, load).map_err(Refusal::Places)?;
    let needs = RegionNeeds::of(image, load);
    if needs.total() > host.region.len_bytes() {
        return Err(Refusal::RegionTooSmall { needs, has: host.region.len_bytes() });
    }
    Ok(needs)
}

/// Who must have signed a next image.
pub(super) fn trust(host: &Host) -> Trust {
    Trust::of(&host.options.lu_key, crate::build::key())
}

/// The last check before the jump: with the stream where it is now, the incoming side has bytes and places for all that it will claim.
pub(super) fn fits(host: &Host, image: &Needs, stream: &[Block]) -> Result<(), Refusal> {
    let cuts = cuts_of(host).into_iter().chain(stream.iter().map(Block::range));
    let load = Load {
        ram_end: host.memmap.end(),
        gib_pages: host.features.gib_pages,
        partial_chunks: partial_chunks(cuts),
        stream_frames: stream.len() as u64,
    };
    check_load(host, image, &load).map(|_| ())
}

/// A next image that nothing speaks against, and the figures that say so.
pub(super) struct Plan<'a> {
    pub(super) image: NextImage<'a>,
    load: Load,
    pub(super) needs: RegionNeeds,
    pub(super) version: StreamVersion,
}

/// All the checks (I11) but the digest and the signature's mathematics, which take long: the image is whole, says that somebody trusted has signed it,
/// fits slot, machine and region, and reads what is written.
pub(super) fn plan<'a>(host: &Host, name: &str, file: &'a [u8]) -> Result<Plan<'a>, Refusal> {
    let refuse = |error| Refusal::Image { name: name.to_string(), error };
    let image = NextImage::parse(file).map_err(refuse)?;
    image.check_signer(&trust(host)).map_err(refuse)?;
    image.place(host.slot).map_err(refuse)?;
    image.check_features(host.features.offered()).map_err(refuse)?;
    let version = stream_version(host, &image)?;
    let load = load_of(host, version);
    let needs = check_load(host, image.needs(), &load)?;
    Ok(Plan { image, load, needs, version })
}

/// The version that the next stream is written in: the newest that both sides know, or the one that the command line asks for.
pub(super) fn stream_version(host: &Host, image: &NextImage<'_>) -> Result<StreamVersion, Refusal> {
    let sequence = host.update.lock().sequence + 1;
    match host.options.lu_stream.map(|turns| turns.of(sequence)) {
        None => {
            let known = StreamVersion::OLDEST.get()..=StreamVersion::CURRENT.get();
            let newest = image.stream_version(known).map_err(|error| Refusal::StreamVersion { error })?;
            StreamVersion::try_new(newest)
        }
        Some(asked) => StreamVersion::try_new(asked).filter(|_| image.stream_version(asked..=asked).is_ok()),
    }
    .ok_or_else(|| Refusal::StreamAsked {
        asked: host.options.lu_stream.map_or(0, |turns| turns.of(sequence)),
        reads: (image.needs().stream_min, image.needs().stream_max),
    })
}

/// Plans an update and says what comes out, item by item; nothing is staged.
pub fn plan_only(host: &Host) {
    let planned = choose(host).and_then(|(name, at, file)| plan(host, &name, file).map(|plan| (name, at, plan)));
    match planned {
        Ok((name, at, plan)) => plan.print(host, &name, at),
        Err(refusal) => log!("lu", "plan: refused: {refusal}"),
    }
}

impl Plan<'_> {
    fn print(&self, host: &Host, name: &str, at: Maddr) {
        let Self { image, load, needs, version } = self;
        let Needs { stream_min, stream_max, max_splits, max_stream_frames, page_info_bytes, .. } = image.needs();
        let to = image.version();
        let (domains, extents, frames) = carried(host);
        log!("lu", "plan: from {} to {to}, the image {name}", crate::build::VERSION);
        log!("lu", "plan: to be carried: {domains} domains, {frames} frames in {extents} extents");
        let is_verified = host.update.lock().verified.is_some_and(|looked| looked.at == at);
        log!(
            "lu",
            "plan: image: {} KiB in a slot of {} KiB; its digest {}",
            image.extent_bytes() >> 10,
            host.slot.len_bytes() >> 10,
            if is_verified { "is right" } else { "is checked when the update is asked for" }
        );
        log!("lu", "plan: {}", trust(host));
        let needed = MachineFeatures::of_note(image.needs().features);
        log!("lu", "plan: features: needed {needed}; the machine has {}", host.features.offered());
        log!(
            "lu",
            "plan: stream: version {version}, it reads {stream_min} to {stream_max}; about {} KiB in {} frames, it takes {max_stream_frames}",
            load.stream_frames * (PAGE_SIZE >> 10),
            load.stream_frames
        );
        log!(
            "lu",
            "plan: page records: {} chunks with what is spare, 512 of {page_info_bytes} bytes each; it has places for {max_splits}",
            load.nr_splits()
        );
        let (has, total) = (host.region.len_bytes() >> 10, needs.total().div_ceil(1024));
        log!("lu", "plan: region: {needs}: {total} KiB of {has}");
        log!("lu", "plan: an update to {to} is possible");
    }
}

/// Domains, their extents and frames.
fn carried(host: &Host) -> (usize, u64, u64) {
    let domains: Vec<_> = host.domains.lock().values().cloned().collect();
    let (mut extents, mut frames) = (0, 0);
    for domain in &domains {
        let mut memory = domain.memory.lock();
        extents += memory.extents.nr_extents() as u64;
        frames += memory.nr_frames(host.frames, domain.id);
    }
    (domains.len(), extents, frames)
}
