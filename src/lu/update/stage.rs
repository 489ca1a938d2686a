//! Staging, while guests run: the image's digest, its entry list, and the tables that the relocation code runs on.

use super::super::records::StreamVersion;
use super::RELOC_VA;
use super::plan::{choose, plan, stream_version};
use super::refusal::Refusal;
use crate::cmdline;
use crate::frame::{Maddr, Mfn, Order};
use crate::kexec::idmap::RelocTables;
use crate::kexec::image::{Needs, NextImage};
use crate::kexec::kimage::{self, Kimage};
use crate::kexec::mbi::{MapEntry, MbiWriter};
use crate::kexec::reloc;
use crate::log;
use crate::mm::buddy::Block;
use crate::mm::physmem::PhysMem;
use crate::run::host::Host;
use crate::x86::directmap::DirectMap;
use crate::x86::paging;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

/// First frame at or above 4 GiB.
const LIMIT_4G: u64 = 1 << 20;
/// Bytes of an image that are hashed at a time, and nanoseconds from one piece to the next: guests run in between.
const CHECK_BYTES: usize = 16 << 10;
pub(super) const CHECK_EVERY_NS: u64 = 500_000;
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
    blocks: Vec<Block>,
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
pub(super) fn stage_next(host: &Host) -> Result<bool, Refusal> {
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
    let version = stream_version(host, &image)?;
    let mut blocks = Vec::new();
    let result = build_stage(host, &image, at, &mut blocks);
    match result {
        Ok((kimage, tables, copy)) => {
            let entries = kimage.nr_entries();
            log!("lu", "staged {} from module {name}: {entries} entries, stream version {version}", image.version());
            host.update.lock().staged =
                Some(Staged { at, needs: *image.needs(), version, kimage, tables, copy, blocks });
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
