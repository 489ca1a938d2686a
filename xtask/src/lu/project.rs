//! A domain's records as a stream of libxc's, format 3: what a live update adds is left out.
//!
//! Sources: Xen's docs/specs/libxc-migration-stream for the headers; docs/handover.md says which records are libxc's.

use super::layout::{LIVE_UPDATE, OPTIONAL, kind};
use super::stream::Stream;

/// Version of Xen's interface that guests are shown, as src/hypercall/version.rs has it.
const XEN_VERSION: (u32, u32) = (4, 17);

/// The domain's stream; none if there is no such domain. `bytes` are those that `stream` was taken from.
pub fn project(stream: &Stream, bytes: &[u8], domain: u64) -> Option<Vec<u8>> {
    let mut out = headers();
    let mut is_there = false;
    for record in stream.records.iter().filter(|record| record.domain == Some(domain)) {
        is_there |= record.kind == kind::DOMAIN_BEGIN;
        if record.kind & (LIVE_UPDATE | OPTIONAL) == 0 {
            out.extend(&bytes[record.range()]);
        }
    }
    out.extend([0; 8]);
    is_there.then_some(out)
}

/// The image header, big-endian, and the domain header, little-endian.
fn headers() -> Vec<u8> {
    let mut out = Vec::new();
    // Marker, id `XENF`, version, options (bit 0 clear: records are little-endian), reserved.
    out.extend([0xff; 8]);
    out.extend(0x5845_4e46u32.to_be_bytes());
    out.extend(3u32.to_be_bytes());
    out.extend([0; 8]);
    // Type 1 is x86 PV; page shift; reserved; Xen's version.
    out.extend(1u32.to_le_bytes());
    out.extend(12u16.to_le_bytes());
    out.extend([0; 2]);
    out.extend(XEN_VERSION.0.to_le_bytes());
    out.extend(XEN_VERSION.1.to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_libxc_s_lengths() {
        let headers = headers();
        assert_eq!(headers.len(), 24 + 16);
        assert_eq!(&headers[8..16], b"XENF\0\0\0\x03");
        assert_eq!(&headers[24..30], [1, 0, 0, 0, 12, 0]);
    }
}
