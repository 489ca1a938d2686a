//! What `cargo xtask lu dump` prints.

use super::Handover;
use super::rule::Violation;
use super::stream::Record;
use super::summary::Summary;
use super::value::{Map, Value};
use serde::Serialize;
use std::fmt::Write;

/// The whole of it as JSON.
#[derive(Serialize)]
pub struct Json<'a> {
    summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<ListJson>,
    records: Vec<RecordJson<'a>>,
    violations: Vec<&'a Violation>,
}

#[derive(Serialize)]
struct ListJson {
    version: u32,
    stream_bytes: u64,
    stream_crc32c: String,
    frames: Vec<u64>,
}

#[derive(Serialize)]
struct RecordJson<'a> {
    offset: u64,
    #[serde(rename = "type")]
    kind: String,
    name: &'static str,
    len: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<u64>,
    body: &'a Map,
}

/// As JSON.
pub fn json(handover: &Handover) -> Json<'_> {
    Json {
        summary: Summary::of(&handover.stream),
        list: handover.list.as_ref().map(|list| ListJson {
            version: list.version,
            stream_bytes: list.stream_len,
            stream_crc32c: format!("{:#010x}", list.stream_crc),
            frames: list.frames.iter().map(|(mfn, _)| *mfn).collect(),
        }),
        records: handover
            .stream
            .records
            .iter()
            .map(|record| RecordJson {
                offset: record.offset,
                kind: format!("{:#x}", record.kind),
                name: record.name(),
                len: record.len,
                domain: record.domain,
                body: &record.fields,
            })
            .collect(),
        violations: handover.violations().collect(),
    }
}

/// As text: a line for each record, its fields and its items indented below.
pub fn text(handover: &Handover) -> String {
    let mut out = String::new();
    write_text(handover, &mut out).unwrap_or_else(|_| unreachable!("a string takes all that is written to it"));
    out
}

fn write_text(handover: &Handover, out: &mut String) -> std::fmt::Result {
    if let Some(list) = &handover.list {
        let (nr, crc) = (list.frames.len(), list.stream_crc);
        writeln!(out, "list: version {}, {} bytes in {nr} frames, CRC-32C {crc:#010x}", list.version, list.stream_len)?;
    }
    for record in &handover.stream.records {
        write_record(record, out)?;
    }
    let summary = Summary::of(&handover.stream);
    writeln!(
        out,
        "\nstream: version {}, update {} from {}, {} bytes, {} records ({} skipped), {} domains, {} extents, {} frames",
        summary.version,
        summary.update,
        summary.build,
        summary.stream_bytes,
        summary.nr_records,
        summary.skipped,
        summary.domains.len(),
        summary.nr_extents,
        summary.nr_frames
    )?;
    for domain in &summary.domains {
        writeln!(
            out,
            "d{} {:<12} {} records, {} extents, {} frames",
            domain.domain,
            domain.name,
            domain.nr_records,
            domain.extents.len(),
            domain.nr_frames
        )?;
    }
    let mut count = 0;
    for violation in handover.violations() {
        writeln!(out, "violation: {violation}")?;
        count += 1;
    }
    writeln!(out, "{count} violations")
}

fn write_record(record: &Record, out: &mut String) -> std::fmt::Result {
    write!(out, "{:#08x} {}", record.offset, record.name())?;
    if record.layout.is_none() {
        write!(out, " type {:#x}", record.kind)?;
    }
    if let Some(domain) = record.domain {
        write!(out, " d{domain}")?;
    }
    writeln!(out, " {} bytes", record.len)?;
    for (name, value) in &record.fields {
        writeln!(out, "    {name} {value}")?;
        if let Value::List(items) = value {
            items.iter().try_for_each(|item| writeln!(out, "        {item}"))?;
        }
    }
    Ok(())
}
