//! Stops a machine at the jump: the relocation code has put the next image in place and written the breadcrumb, and nothing of the image has run.
//!
//! ```text
//! outgoing build ─ relocation code at its alias ─ at its machine address ─ reloc_leave ─ incoming build
//!                  ^ breakpoint: where is the copy?      breakpoint: here ^
//! ```
//!
//! The machine is started standing still ([`crate::qemu::Inspect`]), and QEMU's gdb server stops it. Nothing of the hypervisor is asked where its things are; the
//! registers that boot/reloc.S documents lead to them.
//!
//! Limitation: with `-icount sleep=off` QEMU takes a CPU that has just stopped for one that sleeps, and moves the virtual clock on to the next timer (up to
//! 55 ms, the PIT's period) before it notes that the machine stands. So each stop is time that passes, the same in every run; no instruction is executed in it.

pub mod gdb;
pub mod qmp;
mod symbols;

use crate::{build, paths};
use anyhow::{Context, Result, anyhow, bail, ensure};
use gdb::{Gdb, Pause};
use multiboot2::{BootInformation, BootInformationHeader, MemoryAreaType};
use qmp::Qmp;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use symbols::Relocation;

/// Where the outgoing build maps the relocation code, `RELOC_VA` in src/lu/update.rs.
const RELOC_VA: u64 = 0xffff_82d0_c000_0000;
/// How long QEMU may take to open its sockets.
const SOCKETS_WITHIN: Duration = Duration::from_secs(20);
/// Bytes of a frame.
pub const FRAME_BYTES: u64 = 4096;
/// A Multiboot2 information of more bytes than this is none of ours.
const MBI_LEN_MAX: usize = 1 << 20;

/// The names of a machine's sockets in its directory.
pub const GDB_SOCKET: &str = "gdb";
/// See [`GDB_SOCKET`].
pub const QMP_SOCKET: &str = "qmp";

/// Somebody who watches a machine from its first instruction on. Whoever lets go of it lets the machine run.
pub struct Watch {
    memory: Memory,
    builds: Vec<Relocation>,
    /// Jumps seen.
    count: u32,
    /// The breakpoint that is set.
    breakpoint: Option<u64>,
    is_over: bool,
}

/// A machine that stands at the jump.
#[derive(Clone, Debug)]
pub struct Jump {
    /// Number of the update: 1 for the first since the watch began.
    pub number: u32,
    /// Machine address of the first page of the region, which has the breadcrumb.
    pub breadcrumb_page: u64,
    /// What the incoming build is told.
    pub told: Told,
}

/// What a Multiboot2 information says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The command line.
    pub command_line: String,
    /// Machine addresses of RAM.
    pub ram: Vec<Range<u64>>,
}

/// The memory of a machine, by machine addresses. It is steady only while the machine stands.
pub struct Memory {
    gdb: Gdb,
    qmp: Qmp,
    files: tempfile::TempDir,
}

impl Memory {
    /// Bytes from an address on: a few, as they come by the gdb protocol.
    pub fn read(&mut self, address: u64, len: usize) -> Result<Vec<u8>> {
        self.gdb.read(address, len)
    }

    /// Any number of bytes from an address on.
    pub fn read_much(&mut self, address: u64, len_bytes: u64) -> Result<Vec<u8>> {
        let file = self.files.path().join("memory");
        self.qmp.save_memory(address, len_bytes, &file)?;
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        ensure!(bytes.len() as u64 == len_bytes, "{} of {len_bytes} bytes were saved", bytes.len());
        Ok(bytes)
    }

    /// Puts bytes at an address.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.gdb.write(address, bytes)
    }

    /// Makes one bit another.
    pub fn flip(&mut self, address: u64, bit: u8) -> Result<()> {
        let byte = self.read(address, 1)?[0];
        self.write(address, &[byte ^ 1 << (bit & 7)])
    }

    /// Stops a machine that runs.
    pub fn halt(&mut self) -> Result<()> {
        self.qmp.stop()
    }

    /// Ends the machine.
    pub fn quit(&mut self) -> Result<()> {
        self.qmp.quit()
    }
}

/// Runs a machine and, in a thread beside it, somebody who watches it. If the one who watches fails, the machine runs on alone.
pub fn watched<M, W: Send>(
    sockets: &Path,
    run: impl FnOnce() -> Result<M>,
    watch: impl FnOnce(&mut Watch) -> Result<W> + Send,
) -> Result<(M, Result<W>)> {
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| watch(&mut Watch::connect(sockets, &debug_files())?));
        let ran = run();
        let watched = beside.join().unwrap_or_else(|_| Err(anyhow!("the one who watches has panicked")));
        // Whatever is wrong with the machine says more than what one could not see of it.
        Ok((ran?, watched))
    })
}

/// The builds' files with symbols.
fn debug_files() -> Vec<PathBuf> {
    build::KERNELS.iter().map(|(name, _)| paths::out(&format!("{name}.debug"))).collect()
}

impl Watch {
    /// Connects to a machine that was started standing still. Its builds' files with symbols are `debug_files`.
    fn connect(sockets: &Path, debug_files: &[PathBuf]) -> Result<Self> {
        let builds = debug_files.iter().map(|file| Relocation::of_file(file)).collect::<Result<_>>()?;
        let until = Instant::now() + SOCKETS_WITHIN;
        let qmp = Qmp::new(connect(&sockets.join(QMP_SOCKET), until)?)?;
        let gdb = Gdb::new(connect(&sockets.join(GDB_SOCKET), until)?)?;
        let files = tempfile::tempdir().context("cannot make a temporary directory")?;
        Ok(Self { memory: Memory { gdb, qmp, files }, builds, count: 0, breakpoint: None, is_over: false })
    }

    /// Lets the machine run to its next jump; none if it ends without one.
    pub fn next_jump(&mut self) -> Result<Option<Jump>> {
        if !self.run_to(RELOC_VA)? {
            return Ok(None);
        }
        let entry = self.memory.gdb.registers()?;
        ensure!(entry.rip == RELOC_VA, "the machine stopped at {:#x}, not at {RELOC_VA:#x}", entry.rip);
        let page = self.memory.read(entry.rdi, FRAME_BYTES as usize)?;
        let Some(build) = self.builds.iter().find(|build| build.is_in(&page)) else {
            bail!("the relocation code at {:#x} is none of the builds': boot what was built", entry.rdi);
        };
        let leave = entry.rdi + build.leave_offset;
        ensure!(self.run_to(leave)?, "the machine ended in its relocation code");
        let now = self.memory.gdb.registers()?;
        ensure!(now.rip == leave, "the machine stopped at {:#x}, not at {leave:#x}", now.rip);
        ensure!(entry.r10 != 0, "the relocation code was called without a page for time stamps");
        self.count += 1;
        let told = read_mbi(&mut self.memory, entry.r8).context("the Multiboot2 information of the incoming build")?;
        Ok(Some(Jump { number: self.count, breadcrumb_page: entry.r10, told }))
    }

    /// The memory of the machine, which stands.
    pub fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Lets the machine run on without breakpoints.
    pub fn let_run(&mut self) -> Result<()> {
        self.drop_breakpoint()?;
        self.memory.gdb.resume()
    }

    /// True if the machine has come there, false if it ended.
    fn run_to(&mut self, address: u64) -> Result<bool> {
        self.drop_breakpoint()?;
        self.memory.gdb.set_breakpoint(address)?;
        self.breakpoint = Some(address);
        self.memory.gdb.resume()?;
        let pause = self.memory.gdb.wait()?;
        self.is_over = pause == Pause::Ended;
        Ok(!self.is_over)
    }

    fn drop_breakpoint(&mut self) -> Result<()> {
        match self.breakpoint.take() {
            Some(address) => self.memory.gdb.clear_breakpoint(address),
            None => Ok(()),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.is_over {
            // A machine that is gone, or that runs already, cannot be let go: then there is nothing left to do.
            drop(self.memory.gdb.detach());
        }
    }
}

fn connect(socket: &Path, until: Instant) -> Result<UnixStream> {
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= until => {
                return Err(error).with_context(|| format!("QEMU does not open {}", socket.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn read_mbi(memory: &mut Memory, address: u64) -> Result<Told> {
    let head = memory.read(address, 8)?;
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    ensure!((16..=MBI_LEN_MAX).contains(&len), "{len} bytes at {address:#x} are none");
    told(&memory.read(address, len)?)
}

#[expect(unsafe_code, reason = "the library takes a pointer")]
fn told(bytes: &[u8]) -> Result<Told> {
    // The library wants it aligned to 8.
    let words: Vec<u64> = bytes
        .chunks(8)
        .map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        })
        .collect();
    // The length in the header is that of the bytes given, and `words` has at least as many.
    ensure!(
        bytes.len() >= 16 && bytes[..4] == (bytes.len() as u32).to_le_bytes(),
        "its length is not what its header says"
    );
    // SAFETY: `words` is aligned to 8, holds as many bytes as the header says (just checked), and outlives the result.
    let info = unsafe { BootInformation::load(words.as_ptr().cast::<BootInformationHeader>()) };
    let info = info.map_err(|error| anyhow!("{error:?}"))?;
    let line = info.command_line_tag().context("no command line")?;
    let command_line = line.cmdline().map_err(|error| anyhow!("command line: {error:?}"))?.to_owned();
    let map = info.memory_map_tag().context("no memory map")?;
    let ram = map
        .memory_areas()
        .iter()
        .filter(|area| area.typ() == MemoryAreaType::Available)
        .map(|area| area.start_address()..area.end_address())
        .collect();
    Ok(Told { command_line, ram })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By Multiboot2 §3.6: tags of type 1 (command line), 6 (memory map), 0 (end).
    fn mbi() -> Vec<u8> {
        let word = |n: u32| n.to_le_bytes();
        let mut bytes = [word(0), word(0)].concat();
        bytes.extend([word(1), word(8 + 4)].concat());
        bytes.extend(b"a=b\0\0\0\0\0");
        bytes.extend([word(6), word(16 + 3 * 24), word(24), word(0)].concat());
        for (base, len, kind) in [(0x1000u64, 0x2000u64, 1u32), (0x8000, 0x1000, 2), (0x9000, 0x1000, 1)] {
            bytes.extend(base.to_le_bytes());
            bytes.extend(len.to_le_bytes());
            bytes.extend([word(kind), word(0)].concat());
        }
        bytes.extend([word(0), word(8)].concat());
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&word(len));
        bytes
    }

    #[test]
    fn the_boot_information_tells_command_line_and_ram() {
        let expected = Told { command_line: "a=b".into(), ram: vec![0x1000..0x3000, 0x9000..0xa000] };
        assert_eq!(told(&mbi()).unwrap(), expected);
    }

    #[test]
    fn what_is_no_boot_information_is_refused() {
        assert!(told(&[]).is_err());
        assert!(told(&mbi()[..40]).is_err());
        assert!(told(&[16, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0]).is_err());
    }
}
