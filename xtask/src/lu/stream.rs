//! The stream: records one behind the other, docs/handover.md §4.

use super::body;
use super::layout::{self, Layout, OPTIONAL, kind};
use super::order::Order;
use super::rule::{Rule, StreamRule, Violations};
use super::value::{Map, Value};

/// Bytes of a record's header.
const HEADER_BYTES: usize = 8;
/// The longest body.
const BODY_MAX: u32 = 0x0800_0000;

/// A record.
#[derive(Debug)]
pub struct Record {
    /// Where its header stands in the stream.
    pub offset: u64,
    /// Its type.
    pub kind: u32,
    /// The length of its body.
    pub len: u32,
    /// The domain whose it is.
    pub domain: Option<u64>,
    /// Its layout; none for END, and for a type that this stream version does not have.
    pub layout: Option<&'static Layout>,
    /// What it says.
    pub fields: Map,
}

impl Record {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self.layout {
            Some(layout) => layout.name,
            None if self.kind == kind::END => "END",
            None => "unknown",
        }
    }

    /// A field's number; 0 if there is none.
    pub fn number(&self, name: &str) -> u64 {
        body::number(&self.fields, name)
    }

    /// The list of that name; empty if there is none.
    pub fn list(&self, name: &str) -> &[Value] {
        match self.fields.get(name) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    /// The bytes of header, body and padding in the stream.
    pub fn range(&self) -> std::ops::Range<usize> {
        let start = self.offset as usize;
        start..start + HEADER_BYTES + (self.len as usize).next_multiple_of(8)
    }
}

/// A stream, taken apart.
#[derive(Debug)]
pub struct Stream {
    /// The version in its LU_VERSION; 1 without one.
    pub version: u32,
    /// Its length.
    pub len_bytes: u64,
    /// The records, in their order.
    pub records: Vec<Record>,
    /// Records that were passed over because they are optional and unknown.
    pub skipped: u64,
    /// What is wrong.
    pub violations: Violations,
}

/// Takes a stream apart, as far as it can be followed.
pub fn decode(bytes: &[u8]) -> Stream {
    let mut stream = Stream {
        version: version_of(bytes),
        len_bytes: bytes.len() as u64,
        records: Vec::new(),
        skipped: 0,
        violations: Violations::default(),
    };
    let mut order = Order::new(stream.version, bytes);
    let mut at = 0;
    loop {
        let Some((kind, len)) = header(bytes, at) else {
            let left = bytes.len() - at;
            stream.wrong(at, StreamRule::MissingEnd, format!("{left} bytes left and no END"));
            break;
        };
        let end = at + HEADER_BYTES + (len as usize).next_multiple_of(8);
        if len > BODY_MAX {
            stream.wrong(at, StreamRule::TooLong, format!("a body of {len:#x} bytes"));
            break;
        }
        if end > bytes.len() {
            stream.wrong(at, StreamRule::PastEnd, format!("it ends at {end:#x} of {:#x}", bytes.len()));
            break;
        }
        let body = &bytes[at + HEADER_BYTES..][..len as usize];
        if bytes[at + HEADER_BYTES + len as usize..end].iter().any(|byte| *byte != 0) {
            stream.wrong(at, StreamRule::Padding, "it is not zero");
        }
        let record = stream.decode_record(at, kind, body);
        stream.records.push(order.take(record, &mut stream.violations));
        let start = std::mem::replace(&mut at, end);
        if kind == kind::END {
            if len != 0 {
                stream.wrong(start, StreamRule::EndNotEmpty, format!("{len} bytes"));
            }
            if at != bytes.len() {
                stream.wrong(at, StreamRule::AfterEnd, format!("{} bytes", bytes.len() - at));
            }
            break;
        }
    }
    order.finish(&mut stream.violations);
    stream
}

impl Stream {
    fn wrong(&mut self, at: usize, rule: StreamRule, detail: impl Into<String>) {
        self.violations.add(at as u64, Rule::Stream(rule), detail);
    }

    fn decode_record(&mut self, at: usize, kind: u32, body: &[u8]) -> Record {
        let layout = layout::layout_of(kind, self.version);
        let mut fields = Map::new();
        match layout {
            Some(layout) => {
                let decoded = body::decode(layout, body);
                for (rule, detail) in decoded.faults {
                    self.violations.add(at as u64, Rule::Record(rule), format!("{}: {detail}", layout.name));
                }
                fields = decoded.fields;
            }
            None if kind == kind::END => {}
            None if kind & OPTIONAL != 0 => self.skipped += 1,
            None => {
                self.wrong(at, StreamRule::Unknown, format!("type {kind:#x} in a stream of version {}", self.version));
            }
        }
        Record { offset: at as u64, kind, len: body.len() as u32, domain: None, layout, fields }
    }
}

fn header(bytes: &[u8], at: usize) -> Option<(u32, u32)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some((word(at)?, word(at + 4)?))
}

/// The version decides which types are known, so it is looked for before anything else.
fn version_of(bytes: &[u8]) -> u32 {
    match (header(bytes, 0), header(bytes, HEADER_BYTES)) {
        (Some((kind::LU_VERSION, 4..)), Some((version, _))) => version.max(1),
        _ => 1,
    }
}
