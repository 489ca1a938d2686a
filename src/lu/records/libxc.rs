//! Records in libxc's layout: what Xen's own tools find in a migration stream of a PV guest.
//!
//! They have libxc's numbers and bodies, so that a domain's part of the stream, with the live-update records filtered
//! out, is one that Xen's checker accepts. Only what a PV guest needs is known here.

use super::super::stream::{Body, ByteSource, Dest, Fields, RecordError, Sink, WriteError, Writer};
use super::lists::Items;
use super::{SavedRecord, X86_PV_INFO, X86_PV_P2M_FRAMES, X86_PV_VCPU_BASIC, X86_PV_VCPU_XSAVE, X86_TSC_INFO};
use crate::frame::Pfn;

/// Bytes of a 64-bit `vcpu_guest_context`.
pub const VCPU_CONTEXT_LEN: usize = 5168;
/// Bytes of the body of SHARED_INFO: the whole frame.
pub const SHARED_INFO_LEN: usize = 4096;
/// Bytes of the smallest X86_PV_VCPU_XSAVE blob: the two masks.
pub const XSAVE_LEN_MIN: u64 = 16;
/// The largest xsave area taken: far above any processor's, so that a bad length is noticed before it is copied.
pub const XSAVE_AREA_LEN_MAX: u64 = 64 << 10;
/// P2M entries of 8 bytes in a frame.
pub const P2M_PFNS_PER_FRAME: u64 = 512;

const _: () = assert!(VCPU_CONTEXT_LEN == 5168 && SHARED_INFO_LEN == 4096 && P2M_PFNS_PER_FRAME == 512);

/// Width and page-table levels of a PV guest: 64-bit ones only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PvInfo;

impl PvInfo {
    const GUEST_WIDTH: u8 = 8;
    const PT_LEVELS: u8 = 4;
}

impl SavedRecord for PvInfo {
    const KIND: u32 = X86_PV_INFO;
    const LEN_BYTES: u64 = 8;

    fn encode(&self, out: &mut impl Sink) {
        out.put_u8(Self::GUEST_WIDTH);
        out.put_u8(Self::PT_LEVELS);
        out.put_zeros(6);
    }

    fn decode_fields(from: &mut Fields<'_>) -> Result<Self, RecordError> {
        from.checked_u8(|width| (width == Self::GUEST_WIDTH).then_some(()))?;
        from.checked_u8(|levels| (levels == Self::PT_LEVELS).then_some(()))?;
        from.reserved(6)?;
        Ok(Self)
    }
}

/// How the guest sees the TSC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscInfo {
    /// TSC_MODE_*.
    pub mode: u32,
    /// The frequency that the guest is told.
    pub khz: u32,
    /// Nanoseconds that have passed for the guest.
    pub nsec: u64,
    /// How often it was moved.
    pub incarnation: u32,
}

impl SavedRecord for TscInfo {
    const KIND: u32 = X86_TSC_INFO;
    const LEN_BYTES: u64 = 24;

    fn encode(&self, out: &mut impl Sink) {
        out.put_u32(self.mode);
        out.put_u32(self.khz);
        out.put_u64(self.nsec);
        out.put_u32(self.incarnation);
        out.put_u32(0);
    }

    fn decode_fields(from: &mut Fields<'_>) -> Result<Self, RecordError> {
        let saved = Self { mode: from.u32()?, khz: from.u32()?, nsec: from.u64()?, incarnation: from.u32()? };
        from.reserved(4)?;
        Ok(saved)
    }
}

/// Which frames hold the guest's P2M.
pub struct P2mFrames<'a, S: ?Sized> {
    /// The first pfn covered.
    pub start_pfn: u32,
    /// The last pfn covered.
    pub end_pfn: u32,
    /// The frames, as pfns.
    pub frames: Items<'a, S, Pfn, 1>,
}

/// Frames of P2M for the pfns from `start_pfn` to `end_pfn`, both included; none if they are in the wrong order.
const fn nr_p2m_frames(start_pfn: u32, end_pfn: u32) -> Option<u64> {
    match (end_pfn as u64 / P2M_PFNS_PER_FRAME).checked_sub(start_pfn as u64 / P2M_PFNS_PER_FRAME) {
        Some(between) if start_pfn <= end_pfn => Some(between + 1),
        _ => None,
    }
}

impl<'a, S: ByteSource + ?Sized> P2mFrames<'a, S> {
    /// Reads the body.
    pub fn decode(mut body: Body<'a, S>) -> Result<Self, RecordError> {
        let (start_pfn, end_pfn) = body.fields(8, |from| {
            let start_pfn = from.u32()?;
            Ok((start_pfn, from.checked_u32(|end| nr_p2m_frames(start_pfn, end).map(|_| end))?))
        })?;
        let nr_frames = nr_p2m_frames(start_pfn, end_pfn).unwrap_or(0);
        Ok(Self { start_pfn, end_pfn, frames: Items::exactly(body, nr_frames)? })
    }
}

/// Writes X86_PV_P2M_FRAMES.
pub fn write_p2m_frames<D: Dest>(
    out: &mut Writer<D>,
    start_pfn: u32,
    end_pfn: u32,
    frames: &[Pfn],
) -> Result<(), WriteError> {
    let due = nr_p2m_frames(start_pfn, end_pfn).unwrap_or(0);
    let found = frames.len() as u64;
    if due != found {
        return out.fail(WriteError::Count { kind: X86_PV_P2M_FRAMES, due, found });
    }
    out.open_record(X86_PV_P2M_FRAMES)?;
    out.put_u32(start_pfn);
    out.put_u32(end_pfn);
    for pfn in frames {
        out.put_u64(pfn.get());
    }
    out.close_record()
}

/// A vCPU's guest context.
pub struct VcpuBasic<'a, S: ?Sized> {
    /// The vCPU's number.
    pub vcpu: u32,
    /// Its `vcpu_guest_context`: [`VCPU_CONTEXT_LEN`] bytes.
    pub context: Body<'a, S>,
}

impl<'a, S: ByteSource + ?Sized> VcpuBasic<'a, S> {
    /// Reads the body.
    pub fn decode(mut body: Body<'a, S>) -> Result<Self, RecordError> {
        let vcpu = body.fields(8, vcpu_number)?;
        Ok(Self { vcpu, context: exactly(body, VCPU_CONTEXT_LEN as u64)? })
    }
}

/// The number that a vCPU's record begins with.
fn vcpu_number(from: &mut Fields<'_>) -> Result<u32, RecordError> {
    let vcpu = from.u32()?;
    from.reserved(4)?;
    Ok(vcpu)
}

/// Writes X86_PV_VCPU_BASIC.
pub fn write_vcpu_basic<D: Dest>(
    out: &mut Writer<D>,
    vcpu: u32,
    context: &[u8; VCPU_CONTEXT_LEN],
) -> Result<(), WriteError> {
    out.record_of(X86_PV_VCPU_BASIC, [&u64::from(vcpu).to_le_bytes(), context])
}

/// A vCPU's extended state.
pub struct VcpuXsave<'a, S: ?Sized> {
    /// The vCPU's number.
    pub vcpu: u32,
    /// Its XCR0.
    pub xcr0: u64,
    /// All bits that its XCR0 ever had.
    pub xcr0_accum: u64,
    /// The xsave area.
    pub area: Body<'a, S>,
}

impl<'a, S: ByteSource + ?Sized> VcpuXsave<'a, S> {
    /// Reads the body.
    pub fn decode(mut body: Body<'a, S>) -> Result<Self, RecordError> {
        let (vcpu, xcr0, xcr0_accum) = body.fields(24, |from| Ok((vcpu_number(from)?, from.u64()?, from.u64()?)))?;
        let saved = Self { vcpu, xcr0, xcr0_accum, area: body };
        let known = body.offset() + XSAVE_AREA_LEN_MAX;
        let found = body.offset() + body.remaining();
        if found <= known { Ok(saved) } else { Err(RecordError::Long { known, found }) }
    }
}

/// Writes X86_PV_VCPU_XSAVE.
pub fn write_vcpu_xsave<D: Dest>(
    out: &mut Writer<D>,
    vcpu: u32,
    xcr0: u64,
    xcr0_accum: u64,
    area: &[u8],
) -> Result<(), WriteError> {
    let head = [u64::from(vcpu), xcr0, xcr0_accum].map(u64::to_le_bytes);
    out.record_of(X86_PV_VCPU_XSAVE, [head.as_flattened(), area])
}

/// The body of SHARED_INFO.
pub(super) fn shared_info<S: ByteSource + ?Sized>(body: Body<'_, S>) -> Result<Body<'_, S>, RecordError> {
    exactly(body, SHARED_INFO_LEN as u64)
}

/// The rest of a body that has to be a blob of that length.
fn exactly<S: ByteSource + ?Sized>(body: Body<'_, S>, len_bytes: u64) -> Result<Body<'_, S>, RecordError> {
    let mut behind = body;
    behind.skip(len_bytes)?;
    behind.finish()?;
    Ok(body)
}
