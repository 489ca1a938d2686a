//! What distinguishes one build from another: its name, and what it asks of the region.

use crate::frame::CHUNK_SIZE;
use crate::kexec::image::{MachineFeatures, Needs};
use crate::lu::records::StreamVersion;
use crate::mm::frametable::{BOOT_SPLITS_MAX, BYTES_PER_PAGE, ChunkEntry};
use crate::trust::PublicKey;

/// The name of this build: what the banner shows and the stream carries.
pub const VERSION: &str = if cfg!(feature = "next") {
    concat!("luxen ", env!("CARGO_PKG_VERSION"), "-b")
} else if cfg!(feature = "v1") {
    concat!("luxen ", env!("CARGO_PKG_VERSION"), "-v1")
} else {
    concat!("luxen ", env!("CARGO_PKG_VERSION"), "-a")
};

/// The key that next images have to be signed with, unless the command line names others: what the variable `LUXEN_KEY` had when this
/// was built, 64 hexadecimal digits. Without it no key is built in.
///
/// It stands in the image once, as its 32 bytes, and no code is made for one key: builds of the same sources with two keys differ in nothing else.
pub fn key() -> Option<PublicKey> {
    static KEY: Option<PublicKey> = match option_env!("LUXEN_KEY") {
        None => None,
        Some(text) => match PublicKey::parse(text) {
            Some(key) => Some(key),
            None => panic!("LUXEN_KEY is not a public key of 64 hexadecimal digits"),
        },
    };
    *core::hint::black_box(&KEY)
}

/// Bytes of the slot that an image fills, as linker.ld has it.
pub const SLOT_BYTES: u64 = 2 * CHUNK_SIZE;

/// Bytes of the region for the hypervisor's small objects until ordinary memory is plugged in.
pub const EARLY_HEAP_BYTES: u64 = if cfg!(feature = "next") { 3 << 20 } else { 2 << 20 };

/// What boot takes from the region whatever the machine: small objects, page tables of the image and the first gigabytes, breadcrumb page
/// and boot information, page records for chunks that are RAM only in part.
pub const BOOT_FOOTPRINT: u64 = EARLY_HEAP_BYTES + (1 << 20);

/// Bytes of small objects that boot needs for each frame of the stream while it has nothing but [`EARLY_HEAP_BYTES`]: its number, and again in a
/// sorted list and as a run of its own, each in a vector that has just been doubled. And bytes for everything else: modules, history, M2P.
const BYTES_A_STREAM_FRAME: u64 = 96;
const BYTES_FOR_THE_REST: u64 = 512 << 10;
/// Frames of a stream, list pages included, that boot can keep in mind.
const MAX_STREAM_FRAMES: u32 = ((EARLY_HEAP_BYTES - BYTES_FOR_THE_REST) / BYTES_A_STREAM_FRAME) as u32;

const _: () = assert!(MAX_STREAM_FRAMES >= Needs::UNSAID_STREAM_FRAMES);

/// What this build asks of the one that starts it, read there from the ELF note before anything is paused (I11).
pub const NEEDS: Needs = Needs {
    page_info_bytes: BYTES_PER_PAGE,
    chunk_entry_bytes: size_of::<ChunkEntry>() as u32,
    stream_min: StreamVersion::OLDEST.get(),
    stream_max: StreamVersion::CURRENT.get(),
    stream_writes: StreamVersion::CURRENT.get(),
    boot_footprint_bytes: BOOT_FOOTPRINT,
    features: MachineFeatures::NX.bits(),
    slot_bytes: SLOT_BYTES,
    max_splits: BOOT_SPLITS_MAX,
    max_stream_frames: MAX_STREAM_FRAMES,
};

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "a section of its own")]
mod notes {
    use super::*;
    use crate::kexec::image::{ElfNote, NOTE_DIGEST, NOTE_NEEDS, NOTE_SIGNATURE, NOTE_VERSION, SIGNATURE_NOTE_LEN};

    const fn version_bytes() -> [u8; VERSION.len()] {
        let mut out = [0; VERSION.len()];
        let mut i = 0;
        while i < out.len() {
            out[i] = VERSION.as_bytes()[i];
            i += 1;
        }
        out
    }

    #[used]
    #[unsafe(link_section = ".note.luxen")]
    pub static DIGEST: ElfNote<32> = ElfNote::new(NOTE_DIGEST, [0; 32]);
    #[used]
    #[unsafe(link_section = ".note.luxen")]
    pub static SIGNATURE: ElfNote<SIGNATURE_NOTE_LEN> = ElfNote::new(NOTE_SIGNATURE, [0; SIGNATURE_NOTE_LEN]);
    #[used]
    #[unsafe(link_section = ".note.luxen")]
    pub static NEEDS_NOTE: ElfNote<{ Needs::LEN }> = ElfNote::new(NOTE_NEEDS, NEEDS.encode());
    #[used]
    #[unsafe(link_section = ".note.luxen")]
    pub static VERSION_NOTE: ElfNote<{ VERSION.len() }> = ElfNote::new(NOTE_VERSION, version_bytes());
}
