//! The stream: extents encoded into frames, and decoded out of them, checksum included; beside copies of the same bytes.

use crate::Bench;
use crate::measure::{Contender, interleave};
use crate::memory::Backing;
use crc::{CRC_32_ISCSI, Crc, Table};
use luxen::frame::{Mfn, MfnRange, PAGE_SIZE, Pfn};
use luxen::lu::mfn_list::{self, Written, nr_list_pages};
use luxen::lu::records::{AnyRecord, ListWriter, SavedExtent, StreamVersion, reader};
use luxen::lu::stream::{PagedDest, Writer};
use luxen::mm::physmem::PhysMem;
use luxen_figures::{Curve, Row, Spread, Target};
use std::hint::black_box;

static SIXTEEN: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
const OURS: &str = "luxen";
const COPY: &str = "copy (floor)";
const SUM: &str = "copy and CRC-32C by tables";
/// The frame that the stream may begin at; the region is below.
const FIRST: u64 = 0x1_0000;

/// The extents of a guest whose frames lie in any order, so that none continues the one before.
fn extents(nr: u64) -> Vec<SavedExtent> {
    let extent = |i: u64| {
        let mfns = MfnRange::new(Mfn::new(0x10_0000 + 3 * (nr - i)), 1 + i % 3);
        SavedExtent::try_new(mfns, Some(Pfn::new(3 * i))).expect("the numbers are small")
    };
    (0..nr).map(extent).collect()
}

/// All of it.
pub fn run(bench: &mut Bench) {
    let mut curves = [
        Curve::new("stream-encode", "Extents into a stream, its checksum included", "extents", "GB/s"),
        Curve::new("stream-decode", "Extents out of a stream, checksum and MFN list included", "extents", "GB/s"),
    ];
    let sizes: &[u64] =
        if bench.is_quick { &[1 << 10, 1 << 16] } else { &[1 << 10, 1 << 13, 1 << 16, 1 << 19, 1 << 22] };
    for &nr in sizes {
        bench.progress(&format!("stream: {nr} extents"));
        let is_last = Some(&nr) == sizes.last();
        one_size(bench, nr, &mut curves, is_last);
    }
    bench.report.curves.extend(curves);
}

fn one_size(bench: &mut Bench, nr: u64, curves: &mut [Curve; 2], is_last: bool) {
    let clock = bench.clock;
    let list = extents(nr);
    // A header for each of its records, END, and room to spare.
    let nr_pages = (nr * 16).div_ceil(PAGE_SIZE) + nr / 0x1_0000 + 3;
    let nr_lists = nr_list_pages(StreamVersion::CURRENT, nr_pages);
    let memory = Backing::new(FIRST, nr_pages + nr_lists);
    let source = Backing::new(0, nr_pages);
    let frame = |i: u64| Mfn::new(FIRST + i);
    let encode = || {
        let mut next = 0;
        let mut writer = Writer::new(PagedDest::new(&memory, || {
            next += 1;
            Some(frame(next - 1))
        }));
        let (ns, finished) = clock.time(|| {
            let mut out = ListWriter::extents(&mut writer);
            list.iter().for_each(|extent| out.push(extent));
            let written = out.finish().expect("there is room");
            assert_eq!(written, nr, "all extents are written");
            writer.finish().expect("there is room")
        });
        vec![ns, finished.len_bytes as f64]
    };
    let len_bytes = encode()[1] as u64;
    let pages: Vec<Mfn> = (0..len_bytes.div_ceil(PAGE_SIZE)).map(frame).collect();
    let lists: Vec<Mfn> =
        (0..nr_list_pages(StreamVersion::CURRENT, pages.len() as u64)).map(|i| frame(nr_pages + i)).collect();
    let mut writer = Writer::new(PagedDest::new(&memory, {
        let mut pages = pages.iter();
        move || pages.next().copied()
    }));
    let mut out = ListWriter::extents(&mut writer);
    list.iter().for_each(|extent| out.push(extent));
    out.finish().expect("there is room");
    let finished = writer.finish().expect("there is room");
    let (_, page_crcs) = writer.into_dest().into_parts();
    let root = mfn_list::write(
        &memory,
        &lists,
        &Written { version: StreamVersion::CURRENT, pages: &pages, page_crcs: &page_crcs, finished },
    )
    .expect("the list is right");
    let expected: u64 = list.iter().map(|e| e.mfns().start() ^ e.nr_frames() << 50).fold(0, |sum, e| sum ^ e);
    let decode = || {
        let (ns, found) = clock.time(|| {
            let region = MfnRange::new(Mfn::new(0x1000), 0x1000);
            let list = mfn_list::read(&memory, root, region, |_| true).expect("the list is right");
            let source = list.open(&memory).expect("the checksum is right");
            let mut records = reader(&source);
            let (mut sum, mut found) = (0, 0);
            while let Some(record) = records.next_record().expect("the records are right") {
                let AnyRecord::Extents(items) = AnyRecord::decode(&record).expect("the body is right") else {
                    continue;
                };
                for extent in items.iter() {
                    let extent = extent.expect("the extent is right");
                    sum ^= extent.mfns().start() ^ extent.nr_frames() << 50;
                    found += 1;
                }
            }
            (sum, found)
        });
        assert_eq!(found, (expected, nr), "what is read is what was written");
        vec![ns]
    };
    let mut buffer = vec![0; len_bytes as usize];
    let mut copied = vec![0; len_bytes as usize];
    let at = Mfn::new(0).maddr();
    let copy = || {
        let (ns, ()) = clock.time(|| source.read(at, black_box(&mut buffer)));
        vec![ns]
    };
    let copy_and_sum = || {
        let (ns, sum) = clock.time(|| {
            source.read(at, &mut copied);
            SIXTEEN.checksum(&copied)
        });
        black_box(sum);
        vec![ns]
    };
    let mut contenders = [
        Contender::new("encode", encode),
        Contender::new("decode", decode),
        Contender::new(COPY, copy),
        Contender::new(SUM, copy_and_sum),
    ];
    let spreads = interleave(bench.rounds(12), &mut contenders);
    let rates: Vec<Spread> = spreads.iter().map(|s| s[0].rate_of(len_bytes as f64)).collect();
    for (curve, rate) in curves.iter_mut().zip(&rates) {
        for (name, rate) in [(OURS, rate), (COPY, &rates[2]), (SUM, &rates[3])] {
            curve.add(name, nr as f64, *rate);
        }
    }
    for (way, rate) in ["encode", "decode"].iter().zip(&rates) {
        let row = Row::new(format!("stream, {way} {nr} extents"), "GB/s", *rate);
        let row = row.beside(COPY, rates[2]).beside(SUM, rates[3]).target(Target::AtLeast(2.0));
        bench.report.add(row);
    }
    if is_last {
        // Headers and the names of the frames in the MFN list are what is above 16.
        let each = len_bytes as f64 / nr as f64;
        let whole = (pages.len() + lists.len()) as f64 * PAGE_SIZE as f64 / nr as f64;
        let bytes = |what, each| Row::new(what, "bytes", Spread::exact(each));
        bench.report.add(bytes("stream, an item of LU_EXTENTS", 16.0).target(Target::AtMost(16.0)));
        bench.report.add(bytes("stream, bytes an extent with headers and padding", each));
        bench.report.add(bytes("stream, frames an extent with MFN list", whole));
    }
}
