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

use super::records::{self, AnyRecord, DOMAIN_BEGIN, ListWriter, OpenDomain, Pin, SavedExtent, StreamVersion};
use super::stream::{Dest, StreamError, WriteError, Writer};
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
    version: StreamVersion,
    region: MfnRange,
    stream: &[u8],
    out: &mut Writer<D>,
) -> Result<(), WriteError> {
    let unreadable = |e: StreamError| match e {
        StreamError::MissingEnd { at, .. } => WriteError::End { at },
        _ => WriteError::NotOpen { at: 0 },
    };
    let mut nr_domains = 0;
    let mut open: Option<OpenDomain> = None;
    // A frame of the first domain, and its shared_info.
    let (mut first_frame, mut shared) = (None, None);
    let mut reader = records::reader(stream);
    while let Some(record) = reader.next_record().map_err(unreadable)? {
        nr_domains += u32::from(record.kind == DOMAIN_BEGIN);
        let in_first = nr_domains == 1;
        let decoded = AnyRecord::decode(&record).map_err(unreadable)?;
        match (&decoded, &mut open) {
            (AnyRecord::DomainBegin(begin), _) => {
                shared = shared.or(begin.shared_info);
                open = Some(OpenDomain::begin(out, version, begin)?);
                continue;
            }
            (AnyRecord::Vcpu(_) | AnyRecord::VcpuBasic(_) | AnyRecord::VcpuXsave(_), _)
                if in_first && damage == Damage::Vcpu =>
            {
                continue;
            }
            (AnyRecord::Extents(extents), _) => {
                first_frame = first_frame.or(extents.iter().flatten().next().and_then(|extent| extent.mfns().first()));
            }
            (AnyRecord::DomainEnd, Some(_)) => {
                let Some(mut domain) = open.take() else { continue };
                let extra = match damage {
                    Damage::Overlap if nr_domains == 2 => first_frame,
                    Damage::Region if in_first => Some(Mfn::new(region.start() + 5)),
                    _ => None,
                };
                if let Some(extent) = extra.and_then(|mfn| SavedExtent::try_new(MfnRange::new(mfn, 1), None).ok()) {
                    let mut list = ListWriter::extents(out);
                    domain.count(&extent);
                    list.push(&extent);
                    list.finish()?;
                }
                let pin = shared.filter(|_| in_first && damage == Damage::Types).and_then(|mfn| Pin::try_new(mfn, 1));
                if let Some(pin) = pin {
                    let mut list = ListWriter::pinned(out);
                    list.push(&pin);
                    list.finish()?;
                }
                domain.end(out)?;
                continue;
            }
            (AnyRecord::Stages(_), _) if damage == Damage::Module => {
                out.save_module(Mfn::new(region.start()), 4096, b"ramdisk name=x")?;
            }
            _ => {}
        }
        match &mut open {
            Some(domain) => domain.copy(out, &record)?,
            None => {
                let body = record.body.to_vec().map_err(|_| WriteError::NoMemory { at: record.at })?;
                out.record(record.kind, &body)?;
            }
        }
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
