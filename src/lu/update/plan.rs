//! The plan: which image is next, what it needs, and all that can be said against it before anything is paused (I11).

use super::super::needs::{Load, RegionNeeds, partial_chunks};
use super::super::records::StreamVersion;
use super::refusal::Refusal;
use crate::domain::spec::ModuleSpec;
use crate::frame::{Maddr, MfnRange, PAGE_SIZE};
use crate::kexec::image::{Needs, NextImage};
use crate::log;
use crate::mm::buddy::Block;
use crate::run::domain::Carried;
use crate::run::grants;
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

/// Everything that the incoming side will have to claim but the stream.
fn claims_of(host: &Host) -> Vec<MfnRange> {
    let mut claims: Vec<MfnRange> = host.modules.lock().iter().map(|m| m.frames()).collect();
    claims.extend(host.withheld.lock().iter());
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
        if let Some(Carried::Whole { records, .. }) = domain.refusal().map(|refusal| &refusal.carried) {
            stream_frames += records.len() as u64 / PAGE_SIZE;
        }
        stream_frames += 3 + domain.vcpus.lock().len() as u64 * 4;
        stream_frames += extents / 200 + lingering / 400 + nr_grants as u64 / 200;
    }
    let partial_chunks = partial_chunks(claims_of(host)) + stream_frames.div_ceil(8) + 4;
    Load { ram_end: host.memmap.end(), gib_pages: host.features.gib_pages, partial_chunks }
}

/// The last check before the jump: with the stream where it is now, the region is large enough.
pub(super) fn fits(host: &Host, image: &Needs, stream: &[Block]) -> Result<(), Refusal> {
    let claims = claims_of(host).into_iter().chain(stream.iter().map(Block::range));
    let load =
        Load { ram_end: host.memmap.end(), gib_pages: host.features.gib_pages, partial_chunks: partial_chunks(claims) };
    let needs = RegionNeeds::of(image, &load);
    if needs.total() > host.region.len_bytes() {
        return Err(Refusal::RegionTooSmall { needs, has: host.region.len_bytes() });
    }
    Ok(())
}

/// Who must have signed a next image.
pub(super) fn trust(host: &Host) -> Trust {
    Trust::of(&host.options.lu_key, crate::build::KEY)
}

/// All the checks (I11) but the digest and the signature's mathematics, which take long: the image is whole, says that somebody trusted has signed it,
/// fits slot and region, and reads what is written.
pub(super) fn plan<'a>(host: &Host, name: &str, file: &'a [u8]) -> Result<(NextImage<'a>, RegionNeeds), Refusal> {
    let refuse = |error| Refusal::Image { name: name.to_string(), error };
    let image = NextImage::parse(file).map_err(refuse)?;
    image.check_signer(&trust(host)).map_err(refuse)?;
    image.place(host.slot).map_err(refuse)?;
    image.check_features(0).map_err(refuse)?;
    stream_version(host, &image)?;
    let needs = RegionNeeds::of(image.needs(), &load_of(host));
    if needs.total() > host.region.len_bytes() {
        return Err(Refusal::RegionTooSmall { needs, has: host.region.len_bytes() });
    }
    Ok((image, needs))
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

/// Plans an update and says what comes out; nothing is staged.
pub fn plan_only(host: &Host) {
    let result =
        choose(host).and_then(|(name, _, file)| plan(host, &name, file).map(|(i, n)| (i.version().to_string(), n)));
    match result {
        Ok((version, needs)) => {
            let has = host.region.len_bytes() >> 10;
            log!("lu", "plan: to {version}, the region has {has} KiB, needed are {}", needs.total() >> 10);
            log!("lu", "plan: {needs}");
            log!("lu", "plan: {}", trust(host));
        }
        Err(refusal) => log!("lu", "plan: refused: {refusal}"),
    }
}
