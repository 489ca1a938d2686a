//! The record that begins a domain, and that of its watchdogs.

use super::super::stream::{Fields, RecordError, Sink};
use super::text::Name;
use super::{DOMAIN_BEGIN, LU_WATCHDOGS, NO_MFN, SavedRecord};
use crate::frame::{DomId, Mfn};
use bitflags::bitflags;

bitflags! {
    /// What a domain is, and how far it has got.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DomainFlags: u16 {
        /// It may control the host.
        const PRIVILEGED = 1;
        /// It is being torn down: its vCPUs will never run again, and may be missing from the stream.
        const DYING = 2;
        /// It has shut down, for the reason noted beside.
        const SHUT_DOWN = 4;
        /// It is paused by a control operation.
        const PAUSED = 8;
        /// It is not complete yet: its builder is at work.
        const IN_BUILDER = 16;
    }
}

/// A domain begins: everything of it that there is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainBegin {
    /// Its number, below [`DomId::FIRST_RESERVED`].
    pub domid: DomId,
    /// What it is.
    pub flags: DomainFlags,
    /// Why it shut down (Xen's SHUTDOWN_* numbers); of meaning only if it has.
    pub shutdown_reason: u32,
    /// Frames that it may own.
    pub max_pages: u64,
    /// Its shared_info frame, unless it has none any more.
    pub shared_info: Option<Mfn>,
    /// The frame of its console ring.
    pub console: Option<Mfn>,
    /// The event channel of its console ring, 0 for none.
    pub console_evtchn: u32,
    /// The event channel of its store ring, 0 for none.
    pub store_evtchn: u32,
    /// The frame of its store ring.
    pub store: Option<Mfn>,
    /// vCPUs that it was made with: LU_VCPU records that follow.
    pub nr_vcpus: u32,
    /// How often it is paused by control operations.
    pub pause_count: u32,
    /// Its UUID.
    pub handle: [u8; 16],
    /// Its name.
    pub name: Name<32>,
    /// Seconds that its wall clock is ahead of the host's.
    pub time_offset_sec: i64,
    /// Its VMASST_TYPE_* bits, of which Xen has some above 31.
    pub vm_assist: u64,
}

fn mfn_or_none(mfn: Option<Mfn>) -> u64 {
    mfn.map_or(NO_MFN, Mfn::get)
}

impl SavedRecord for DomainBegin {
    const KIND: u32 = DOMAIN_BEGIN;
    const LEN_BYTES: u64 = 144;

    fn encode(&self, out: &mut impl Sink) {
        out.put_u16(self.domid.get());
        out.put_u16(self.flags.bits());
        out.put_u32(self.shutdown_reason);
        out.put_u64(self.max_pages);
        out.put_u64(mfn_or_none(self.shared_info));
        out.put_u64(mfn_or_none(self.console));
        out.put_u32(self.console_evtchn);
        out.put_u32(self.store_evtchn);
        out.put_u64(mfn_or_none(self.store));
        out.put_u32(self.nr_vcpus);
        out.put_u32(self.pause_count);
        out.put(&self.handle);
        self.name.encode(out);
        out.put_u64(self.time_offset_sec.cast_unsigned());
        out.put_u64(self.vm_assist);
        out.put_zeros(24);
    }

    fn decode_fields(from: &mut Fields<'_>) -> Result<Self, RecordError> {
        let saved = Self {
            domid: from.checked_u16(|number| Some(DomId::new(number)).filter(|domid| domid.is_domain()))?,
            flags: from.checked_u16(DomainFlags::from_bits)?,
            shutdown_reason: from.u32()?,
            max_pages: from.u64()?,
            shared_info: from.optional_mfn()?,
            console: from.optional_mfn()?,
            console_evtchn: from.u32()?,
            store_evtchn: from.u32()?,
            store: from.optional_mfn()?,
            nr_vcpus: from.u32()?,
            pause_count: from.u32()?,
            handle: from.bytes()?,
            name: Name::decode(from)?,
            time_offset_sec: from.u64()?.cast_signed(),
            vm_assist: from.u64()?,
        };
        from.reserved(24)?;
        Ok(saved)
    }
}

/// A domain's watchdogs. Absent if none is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuWatchdogs {
    /// System time at which each runs out, 0 for one that is not in use.
    pub ends_ns: [u64; 2],
}

impl SavedRecord for LuWatchdogs {
    const KIND: u32 = LU_WATCHDOGS;
    const LEN_BYTES: u64 = 16;

    fn encode(&self, out: &mut impl Sink) {
        for end in self.ends_ns {
            out.put_u64(end);
        }
    }

    fn decode_fields(from: &mut Fields<'_>) -> Result<Self, RecordError> {
        Ok(Self { ends_ns: [from.u64()?, from.u64()?] })
    }
}
