//! Streams that are wrong, for tests (`test=lu-<name>`): the outgoing side of the first update writes one, and everything behind the check that it is to fail has
//! its turn only with a checksum that is right.
//!
//! | name | what is wrong | what comes of it |
//! |---|---|---|
//! | `lu-flip` | a bit of the stream, after the checksum | the machine stops |
//! | `lu-module` | a module lies in the region | the machine stops |
//! | `lu-vcpu` | the first domain has lost its vCPUs | it is refused and lost |
//! | `lu-overlap` | the second domain claims a frame of the first | both are refused and lost |
//! | `lu-region` | the first domain claims a frame of the region | it is refused and lost |
//! | `lu-types` | the first domain's shared_info is pinned as a page table | it is refused and kept whole |
//! | `lu-refuse` | nothing, but the incoming side refuses the first domain | it is kept whole, and runs after the next update |

use super::records::{
    self, DOMAIN_BEGIN, DOMAIN_END, DomainBegin, LU_EXTENTS, LU_STAGES, LU_VCPU, ListWriter, Pin, SavedExtent,
    SavedRecord, X86_PV_VCPU_BASIC, X86_PV_VCPU_XSAVE,
};
use super::stream::{Body, Dest, StreamError, WriteError, Writer};
use crate::cmdline::Options;
use crate::frame::{DomId, Mfn, MfnRange};
use crate::mm::physmem::PhysMem;

/// The number of the first domain of all.
pub const FIRST_DOMAIN: DomId = DomId::new(1);

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A bit, after the checksum.
    Flip,
    /// A module in the region.
    Module,
    /// No vCPU of the first domain.
    Vcpu,
    /// A frame of two domains.
    Overlap,
    /// A domain's frame in the region.
    Region,
    /// A pin of what cannot be a table.
    Types,
    /// Nothing.
    Refuse,
}

/// All of them by name.
const NAMES: [(&str, Damage); 7] = [
    ("lu-flip", Damage::Flip),
    ("lu-module", Damage::Module),
    ("lu-vcpu", Damage::Vcpu),
    ("lu-overlap", Damage::Overlap),
    ("lu-region", Damage::Region),
    ("lu-types", Damage::Types),
    ("lu-refuse", Damage::Refuse),
];

impl Damage {
    /// The damage that the command line asks for.
    pub fn asked(options: &Options) -> Option<Self> {
        let asked = options.test?;
        NAMES.iter().find(|(name, _)| *name == asked.as_str()).map(|(_, damage)| *damage)
    }
}

/// Writes the stream again, with the damage in it, up to its END. The stream is a good one.
pub fn rewrite<D: Dest>(
    damage: Damage,
    region: MfnRange,
    stream: &[u8],
    out: &mut Writer<D>,
) -> Result<(), WriteError> {
    let unreadable = |e: StreamError| match e {
        StreamError::MissingEnd { at, .. } => WriteError::End { at },
        _ => WriteError::NotOpen { at: 0 },
    };
    let mut nr_domains = 0;
    // A frame of the first domain, and its shared_info.
    let (mut first_frame, mut shared) = (None, None);
    let mut reader = records::reader(stream);
    while let Some(record) = reader.next_record().map_err(unreadable)? {
        if record.kind == DOMAIN_BEGIN {
            nr_domains += 1;
        }
        let in_first = nr_domains == 1;
        let body = record.body.to_vec().map_err(|_| WriteError::NoMemory { at: record.at })?;
        match record.kind {
            LU_VCPU | X86_PV_VCPU_BASIC | X86_PV_VCPU_XSAVE if in_first && damage == Damage::Vcpu => continue,
            DOMAIN_BEGIN if in_first => {
                shared = DomainBegin::decode(Body::whole(&body)).ok().and_then(|begin| begin.shared_info);
            }
            LU_EXTENTS if in_first => {
                let word = body.first_chunk::<8>().map_or(0, |word| u64::from_le_bytes(*word));
                first_frame = first_frame.or(Mfn::try_new(word & ((1 << 40) - 1)).ok());
            }
            DOMAIN_END => {
                let extra = match damage {
                    Damage::Overlap if nr_domains == 2 => first_frame,
                    Damage::Region if in_first => Some(Mfn::new(region.start() + 5)),
                    _ => None,
                };
                if let Some(extent) = extra.and_then(|mfn| SavedExtent::try_new(MfnRange::new(mfn, 1), None).ok()) {
                    let mut list = ListWriter::extents(out);
                    list.push(&extent);
                    list.finish()?;
                }
                if let (Damage::Types, true, Some(pin)) =
                    (damage, in_first, shared.and_then(|mfn| Pin::try_new(mfn, 1)))
                {
                    let mut list = ListWriter::pinned(out);
                    list.push(&pin);
                    list.finish()?;
                }
                out.end_domain()?;
                continue;
            }
            LU_STAGES if damage == Damage::Module => {
                out.save_module(Mfn::new(region.start()), 4096, b"ramdisk name=x")?
            }
            _ => {}
        }
        out.record(record.kind, &body)?;
    }
    Ok(())
}

/// Flips a bit in the body of the stream's first record.
pub fn flip<M: PhysMem + ?Sized>(mem: &M, pages: &[Mfn]) {
    if let Some(page) = pages.first() {
        let at = page.maddr().offset(16);
        mem.write_u64(at, mem.read_u64(at) ^ 1 << 20);
    }
}
