//! What a domain's records add up to: the last of them says it, from stream version 2 on.
//!
//! The checksums of the MFN list say that the bytes are those that were written. The sum says that they are all of a domain's: that no
//! record was left out, or written twice, or between those of another domain, by the one who wrote them.

use super::super::stream::{ByteSource, Dest, Fields, Record, RecordError, Sink, WriteError, Writer, behind};
use super::{AnyRecord, DomainBegin, LU_DOMAIN_SUM, SavedExtent, SavedRecord, StreamVersion};

/// The sum of a domain's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuDomainSum {
    /// Frames that its extents name.
    pub nr_frames: u64,
    /// Its extents.
    pub nr_extents: u64,
    /// Its records from DOMAIN_BEGIN on, the sum itself not counted.
    pub nr_records: u64,
    /// CRC-32C of these records, headers and padding included.
    pub crc: u32,
}

impl SavedRecord for LuDomainSum {
    const KIND: u32 = LU_DOMAIN_SUM;
    const LEN_BYTES: u64 = 32;

    fn encode(&self, out: &mut impl Sink) {
        out.put_u64(self.nr_frames);
        out.put_u64(self.nr_extents);
        out.put_u64(self.nr_records);
        out.put_u32(self.crc);
        out.put_u32(0);
    }

    fn decode_fields(from: &mut Fields<'_>) -> Result<Self, RecordError> {
        let saved = Self { nr_frames: from.u64()?, nr_extents: from.u64()?, nr_records: from.u64()?, crc: from.u32()? };
        from.reserved(4)?;
        Ok(saved)
    }
}

/// A domain that is being written: from DOMAIN_BEGIN to what its stream version ends it with.
#[must_use]
pub struct OpenDomain {
    version: StreamVersion,
    at: u64,
    /// CRC-32C of all that comes before it.
    crc: u32,
    nr_records: u64,
    nr_frames: u64,
    nr_extents: u64,
}

impl OpenDomain {
    /// Writes DOMAIN_BEGIN into a stream of that version.
    pub fn begin<D: Dest>(
        out: &mut Writer<D>,
        version: StreamVersion,
        begin: &DomainBegin,
    ) -> Result<Self, WriteError> {
        let crc = if version == StreamVersion::V1 { 0 } else { out.crc_so_far()? };
        let (at, nr_records) = (out.len_bytes(), out.nr_records());
        let open = Self { version, at, crc, nr_records, nr_frames: 0, nr_extents: 0 };
        out.save(begin)?;
        Ok(open)
    }

    /// Counts an extent that is written.
    pub fn count(&mut self, extent: &SavedExtent) {
        self.nr_frames += extent.nr_frames();
        self.nr_extents += 1;
    }

    /// Writes a record of a domain as it was read from another stream. What the sum says there is not copied: it will be others.
    pub fn copy<D: Dest, S: ByteSource + ?Sized>(
        &mut self,
        out: &mut Writer<D>,
        record: &Record<'_, S>,
    ) -> Result<(), WriteError> {
        if record.kind == LU_DOMAIN_SUM {
            return Ok(());
        }
        if let Ok(AnyRecord::Extents(extents)) = AnyRecord::decode(record) {
            extents.iter().flatten().for_each(|extent| self.count(&extent));
        }
        let body = record.body.to_vec().map_err(|_| WriteError::NoMemory { at: out.len_bytes() })?;
        out.record(record.kind, &body)
    }

    /// Writes the sum, if the version has one, and DOMAIN_END.
    pub fn end<D: Dest>(self, out: &mut Writer<D>) -> Result<(), WriteError> {
        if self.version >= StreamVersion::V2 {
            let nr_records = out.nr_records() - self.nr_records;
            let crc = behind(self.crc, out.crc_so_far()?, out.len_bytes() - self.at);
            out.save(&LuDomainSum { nr_frames: self.nr_frames, nr_extents: self.nr_extents, nr_records, crc })?;
        }
        out.end_domain()
    }
}

#[cfg(test)]
mod tests;
