//! Built-in tests of what only the machine can show (`test=<name>`): they run after a cold boot in place of guests and end the run with a verdict.
//!
//! `reloc`: the relocation code obeys random lists, and its simulator, which the host tests compare with a plain model, obeys the same
//! ones on a copy of memory. Both must leave the same bytes and have read as many entries.
//!
//! Those whose name begins with `flip-` are not here: an update carries them out (`lu/update/seal.rs`).
//!
//! `debug`: a debug exception in the hypervisor is taken on a stack of its own, and does no harm.

use crate::frame::{Maddr, Mfn, Order, PAGE_SIZE};
use crate::kexec::kimage::Entry;
use crate::kexec::reloc::{self, RelocArgs};
use crate::kexec::simulate;
use crate::log;
use crate::lu::update::{self, RELOC_VA};
use crate::mm::physmem::PhysMem;
use crate::run::host::Host;
use crate::verdict::Verdict;
use crate::x86::directmap::DirectMap;
use crate::x86::{debug, traps};
use alloc::vec::Vec;

/// Random lists obeyed.
const ROUNDS: u64 = 300;
/// Frames in the arena: the first are destinations and sources, the last hold the list.
const ARENA: Order = Order::new(6);
const LIST_FRAMES: u64 = 4;
/// Seed of the lists, printed with every finding.
const SEED: u64 = 0x6c75_7865_6e01_2026;

/// Runs the test of that name.
pub fn run(host: &Host, name: &str) -> ! {
    let verdict = match name {
        "reloc" => relocation(host),
        "debug" if debug::survives_on_a_bad_stack() => Verdict::Success,
        "debug" => {
            log!("test", "debug: no exception came");
            Verdict::Failure
        }
        other => {
            log!(
                "test",
                "there is no test {other}, there are: bad-frames, debug, reloc, flip-file, flip-list, flip-tables, flip-code, flip-late, flip-nothing, and those that damage a stream"
            );
            Verdict::Error
        }
    };
    traps::finish(verdict)
}

/// xorshift64: enough to vary lists, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Memory in which the arena's addresses lead to its copy.
struct Shadow {
    arena: Mfn,
    copy: Mfn,
}

impl Shadow {
    fn place(&self, at: Maddr) -> Maddr {
        let offset = at.get().wrapping_sub(self.arena.maddr().get());
        if offset < ARENA.len_bytes() { self.copy.maddr().offset(offset) } else { at }
    }
}

impl PhysMem for Shadow {
    fn read_u64(&self, at: Maddr) -> u64 {
        DirectMap.read_u64(self.place(at))
    }
    fn write_u64(&self, at: Maddr, value: u64) {
        DirectMap.write_u64(self.place(at), value);
    }
    fn compare_exchange_u64(&self, at: Maddr, old: u64, new: u64) -> Result<(), u64> {
        DirectMap.compare_exchange_u64(self.place(at), old, new)
    }
    fn read(&self, at: Maddr, into: &mut [u8]) {
        DirectMap.read(self.place(at), into);
    }
    fn write(&self, at: Maddr, from: &[u8]) {
        DirectMap.write(self.place(at), from);
    }
    fn zero(&self, at: Maddr, len_bytes: u64) {
        DirectMap.zero(self.place(at), len_bytes);
    }
}

/// Writes a random list into the arena's last frames and returns its first.
fn write_list(random: &mut Random, arena: Mfn) -> Mfn {
    let data_frames = ARENA.nr_frames() - LIST_FRAMES;
    let list = |n: u64| arena.offset(data_frames + n);
    let (mut page, mut slot) = (0, 0);
    let mut put = |entry: Entry| {
        DirectMap.write_u64(list(page).maddr().offset(slot * 8), entry.encode());
        slot += 1;
        if let Entry::Indirection(_) = entry {
            page += 1;
            slot = 0;
        }
    };
    for page in 1..=LIST_FRAMES {
        for _ in 0..random.below(24) + 1 {
            // A run stays inside the data frames: it starts low enough for all its pages.
            let len = random.below(4) + 1;
            put(Entry::Destination(arena.offset(random.below(data_frames - len))));
            if random.below(4) == 0 {
                for _ in 0..len {
                    put(Entry::Write64(random.next() & !0xfff & ((1 << 52) - 1)));
                }
                continue;
            }
            for _ in 0..len {
                match random.below(3) {
                    0 => put(Entry::Zero),
                    _ => put(Entry::Source(arena.offset(random.below(data_frames)))),
                }
            }
        }
        if page < LIST_FRAMES {
            put(Entry::Indirection(list(page)));
        }
    }
    put(Entry::Done);
    list(0)
}

fn frame_bytes(mfn: Mfn) -> [u8; PAGE_SIZE as usize] {
    let mut bytes = [0; PAGE_SIZE as usize];
    DirectMap.read(mfn.maddr(), &mut bytes);
    bytes
}

fn relocation(host: &Host) -> Verdict {
    let mut blocks = Vec::new();
    let (tables, code) = match update::build_relocation(host, &mut blocks) {
        Ok(built) => built,
        Err(e) => {
            log!("test", "reloc: {e}");
            return Verdict::Error;
        }
    };
    let (Some(arena), Some(copy)) = (host.alloc_private(ARENA), host.alloc_private(ARENA)) else {
        log!("test", "reloc: no memory for the arena");
        return Verdict::Error;
    };
    let (arena, copy) = (arena.mfn(), copy.mfn());
    let shadow = Shadow { arena, copy };
    let mut random = Random(SEED);
    let mut entries = 0;
    for round in 0..ROUNDS {
        for word in 0..ARENA.len_bytes() / 8 {
            DirectMap.write_u64(arena.maddr().offset(word * 8), random.next());
        }
        let list = write_list(&mut random, arena);
        for i in 0..ARENA.nr_frames() {
            DirectMap.copy_frame(arena.offset(i), copy.offset(i));
        }
        let outcome = match simulate::run(&shadow, list, 1 << 16) {
            Ok(outcome) => outcome,
            Err(e) => {
                log!("test", "reloc: seed {SEED:#x} round {round}: the simulator refuses the list: {e}");
                return Verdict::Error;
            }
        };
        let args = RelocArgs { copy: code, tables: tables.l4(), list, entry: 0, mbi: 0, stamps: None };
        let found = obey(&args);
        let differs = (0..ARENA.nr_frames()).find(|&i| frame_bytes(arena.offset(i)) != frame_bytes(copy.offset(i)));
        if found != outcome.entries || differs.is_some() {
            log!(
                "test",
                "reloc: seed {SEED:#x} round {round}: {found} entries, the simulator {}; first frame that differs {differs:?}",
                outcome.entries
            );
            return Verdict::Failure;
        }
        entries += found;
    }
    log!("test", "reloc: {ROUNDS} lists of {entries} entries, the same bytes as the simulator's");
    Verdict::Success
}

#[expect(unsafe_code, reason = "runs the relocation code")]
fn obey(args: &RelocArgs) -> u64 {
    // SAFETY: R1 and R2 as `build_relocation` has it; R3: destinations are in the arena; R4: interrupts are off, one CPU runs.
    unsafe { reloc::self_test(RELOC_VA as *const u8, args) }
}
