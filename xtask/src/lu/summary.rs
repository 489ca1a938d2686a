//! What a stream amounts to: the numbers that the incoming side reports, and each domain's memory.

use super::body;
use super::layout::kind;
use super::stream::Stream;
use super::value::{Extent, Value};
use serde::Serialize;

/// The numbers of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Stream version.
    pub version: u32,
    /// Number of the update since the cold boot.
    pub update: u64,
    /// The build that wrote it.
    pub build: String,
    /// Its length.
    pub stream_bytes: u64,
    /// Records, END included.
    pub nr_records: u64,
    /// Optional records that are unknown here.
    pub skipped: u64,
    /// Extents of all domains.
    pub nr_extents: u64,
    /// Frames in them.
    pub nr_frames: u64,
    /// Frames that domains have given up and that are still theirs.
    pub nr_lingering: u64,
    /// The domains, in the order of the stream.
    pub domains: Vec<Domain>,
}

/// One domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Domain {
    /// Its number.
    pub domain: u64,
    /// Its name.
    pub name: String,
    /// Records from DOMAIN_BEGIN to DOMAIN_END.
    pub nr_records: u64,
    /// Frames in its extents.
    pub nr_frames: u64,
    /// Its extents.
    #[serde(skip)]
    pub extents: Vec<Extent>,
    /// Frames that are its own but in no extent: shared_info, the grant table's, those that it has given up.
    #[serde(skip)]
    pub others: Vec<u64>,
}

impl Summary {
    /// Counts.
    pub fn of(stream: &Stream) -> Self {
        let mut summary = Self {
            version: stream.version,
            update: 0,
            build: String::new(),
            stream_bytes: stream.len_bytes,
            nr_records: stream.records.len() as u64,
            skipped: stream.skipped,
            nr_extents: 0,
            nr_frames: 0,
            nr_lingering: 0,
            domains: Vec::new(),
        };
        for record in &stream.records {
            if record.kind == kind::LU_VERSION {
                summary.update = record.number("update");
                summary.build = text(record.fields.get("build"));
            }
            if record.kind == kind::DOMAIN_BEGIN {
                summary.domains.push(Domain {
                    domain: record.number("domain"),
                    name: text(record.fields.get("name")),
                    nr_records: 0,
                    nr_frames: 0,
                    extents: Vec::new(),
                    others: record.fields.get("shared_info").and_then(Value::number).into_iter().collect(),
                });
            }
            if record.domain.is_none() {
                continue;
            }
            let Some(domain) = summary.domains.last_mut() else { continue };
            domain.nr_records += 1;
            match record.kind {
                kind::LU_EXTENTS => {
                    domain.extents.extend(record.list("extents").iter().filter_map(|item| match item {
                        Value::Extent(extent) => Some(*extent),
                        _ => None,
                    }))
                }
                kind::LU_GRANTS => domain.others.extend(record.list("frames").iter().filter_map(Value::number)),
                kind::LU_LINGERING => {
                    summary.nr_lingering += record.list("frames").len() as u64;
                    let frames = record.list("frames").iter().filter_map(|item| match item {
                        Value::Map(map) => Some(body::number(map, "mfn")),
                        _ => None,
                    });
                    domain.others.extend(frames);
                }
                _ => {}
            }
        }
        for domain in &mut summary.domains {
            domain.nr_frames = domain.extents.iter().map(|extent| extent.count).sum();
            summary.nr_frames += domain.nr_frames;
            summary.nr_extents += domain.extents.len() as u64;
        }
        summary
    }
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::Text(text)) => text.clone(),
        _ => String::new(),
    }
}
