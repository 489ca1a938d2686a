//! Staging, while guests run: the image's digest, its entry list, and the tables that the relocation code runs on.

use super::super::records::StreamVersion;
use super::RELOC_VA;
use super::plan::{Plan, choose, plan, trust};
use super::refusal::Refusal;
use super::seal::{Flip, Seal};
use crate::cmdline;
use crate::crc32c;
use crate::frame::{Maddr, Mfn, Order};
use crate::kexec::idmap::RelocTables;
use crate::kexec::image::{DigestCheck, Needs, NextImage};
use crate::kexec::kimage::{self, Kimage};
use crate::kexec::mbi::{MapEntry, MbiWriter};
use crate::kexec::reloc;
use crate::log;
use crate::mm::buddy::Block;
use crate::mm::physmem::PhysMem;
use crate::run::host::Host;
use crate::trust::KeyId;
use crate::x86::directmap::DirectMap;
use crate::x86::{paging, tsc};
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

/// First frame at or above 4 GiB.
const LIMIT_4G: u64 = 1 << 20;
/// Bytes of an image that are hashed at a time: guests run in between, for as long as the piece took, and for this many nanoseconds at least.
const CHECK_BYTES: usize = 8 << 10;
const CHECK_PAUSE_NS: u64 = 100_000;
/// Bytes for the boot information of the incoming image.
const MBI_BYTES: usize = 64 << 10;

/// An image in place to be jumped to: all that the pause needs, and the proof that it was checked (I11).
pub(super) struct Staged {
    pub(super) at: Maddr,
    pub(super) needs: Needs,
    /// The version that the stream will be written in.
    pub(super) version: StreamVersion,
    pub(super) kimage: Kimage,
    pub(super) tables: RelocTables,
    pub(super) copy: Mfn,
    pub(super) seal: Seal,
    blocks: Vec<Block>,
}

/// An image that was found right, or that is being looked at.
#[derive(Clone, Copy)]
pub(super) struct Looked {
    pub(super) at: Maddr,
    /// The CRC-32C of its file before that began.
    file_sum: u32,
    /// Who has signed it, if anybody is asked to have.
    signer: Option<KeyId>,
}

impl Looked {
    /// Begins to look at an image: all that is asked of it but its digest.
    pub(super) fn begin(host: &Host, name: &str, at: Maddr, image: &NextImage<'_>) -> Result<Self, Refusal> {
        let file_sum = crc32c::of(image.file());
        let signer =
            image.verify_signature(&trust(host)).map_err(|error| Refusal::Image { name: name.to_string(), error })?;
        Ok(Self { at, file_sum, signer })
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

/// Looks at a piece of an image; what came of it when all of it was found to be what its notes say.
fn check_image(host: &Host, name: &str, at: Maddr, image: &NextImage<'static>) -> Result<Option<Looked>, Refusal> {
    let checking = {
        let mut u = host.update.lock();
        if let Some(looked) = u.verified.filter(|looked| looked.at == at) {
            return Ok(Some(looked));
        }
        u.checking.take()
    };
    let (looked, mut check): (Looked, DigestCheck<'static>) = match checking {
        Some((looked, check)) if looked.at == at => (looked, check),
        // The signature first: it says whether the rest is worth the time. The digest that it is for is the one that is expected from here on.
        _ => (Looked::begin(host, name, at, image)?, image.digest_check()),
    };
    let done = check.step(CHECK_BYTES);
    let mut u = host.update.lock();
    match done {
        None => {
            u.checking = Some((looked, check));
            Ok(None)
        }
        Some(Ok(())) => {
            u.verified = Some(looked);
            Ok(Some(looked))
        }
        Some(Err(error)) => Err(Refusal::Image { name: name.to_string(), error }),
    }
}

/// A next image with a plan, which was found right.
pub(super) struct Checked {
    name: String,
    looked: Looked,
    pub(super) plan: Plan<'static>,
}

/// Plans for the next image and looks at it; `None` if guests are to run before it goes on.
pub(super) fn check_next(host: &Host) -> Result<Option<Checked>, Refusal> {
    let (name, at, file) = choose(host)?;
    // Between two steps of the digest nothing is planned anew: that takes its time where guests have memory in many pieces.
    let is_checking = host.update.lock().checking.as_ref().is_some_and(|(looked, _)| looked.at == at);
    let planned = if is_checking { None } else { Some(plan(host, &name, file)?) };
    let image = NextImage::parse(file).map_err(|error| Refusal::Image { name: name.to_string(), error })?;
    let started_ns = tsc::now_ns();
    let Some(looked) = check_image(host, &name, at, &image)? else {
        // Guests have the CPU at least half of the time.
        let now = tsc::now_ns();
        host.update.lock().next_check_ns = now + now.saturating_sub(started_ns).max(CHECK_PAUSE_NS);
        return Ok(None);
    };
    let plan = match planned {
        Some(plan) => plan,
        // As things are now.
        None => plan(host, &name, file)?,
    };
    Ok(Some(Checked { name, looked, plan }))
}

/// Stages an image, unless it is staged already.
pub(super) fn stage(host: &Host, checked: &Checked) -> Result<(), Refusal> {
    let Checked { name, looked, plan: Plan { image, version, .. } } = checked;
    let at = looked.at;
    if host.update.lock().staged.as_ref().is_some_and(|s| s.at == at) {
        return Ok(());
    }
    unstage(host);
    let mut blocks = Vec::new();
    let result = build_stage(host, image, at, &mut blocks)
        .and_then(|built| Seal::new(image.file(), looked.file_sum, &blocks).map(|seal| (built, seal)));
    match result {
        Ok(((kimage, tables, copy), seal)) => {
            let entries = kimage.nr_entries();
            let by = match looked.signer {
                Some(key) => alloc::format!("signed by key {key}"),
                None => "unsigned".to_string(),
            };
            let build = image.version();
            log!("lu", "staged {build} from module {name}, {by}: {entries} entries, stream version {version}");
            let staged = Staged { at, needs: *image.needs(), version: *version, kimage, tables, copy, seal, blocks };
            if let Some(flip) = Flip::asked(host).filter(|flip| *flip != Flip::Late) {
                flip.carry_out(&staged);
            }
            host.update.lock().staged = Some(staged);
            Ok(())
        }
        Err(e) => {
            for block in blocks {
                host.frames.free(block);
            }
            Err(e)
        }
    }
}

/// Looks at what was staged for the last time before the pause.
pub(super) fn check_staged(host: &Host) -> Result<(), Refusal> {
    let u = host.update.lock();
    let staged = u.staged.as_ref().ok_or(Refusal::NoImage)?;
    staged.seal.check_file()?;
    staged.seal.check_parts()?;
    if let Some(Flip::Late) = Flip::asked(host) {
        Flip::Late.carry_out(staged);
    }
    Ok(())
}

pub(super) fn unstage(host: &Host) {
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
    let largest = if host.features.gib_pages { Order::MAX } else { Order::CHUNK };
    let tables = RelocTables::build(&DirectMap, ram, (RELOC_VA, copy), largest, [host.slot, region], &mut take)
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
