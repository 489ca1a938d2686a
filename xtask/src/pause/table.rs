//! The figures beside what they have to reach, and their pictures.

use super::point::{Measured, Series};
use crate::report;
use luxen_figures::{Bars, Report, Row, Spread, Target};

const NS_PER_MS: f64 = 1e6;
/// Milliseconds, whatever the RAM, as long as no guest's pages are typed.
const UNTYPED_MS: f64 = 2.0;
/// Nanoseconds for each typed page, on top of that.
const PAGE_NS: f64 = 60.0;
/// Microseconds for each further domain.
const DOMAIN_US: f64 = 30.0;
/// Microseconds for each further GiB of RAM that nobody owns: no term may grow with it.
const UNOWNED_US: f64 = 0.1;

/// What others take, in milliseconds, until the first guest or process runs again; from the same QEMU settings, but not taken by this bench. Xen loses
/// every domain. The memory is the host's; a memfd is the memory that KHO hands over.
fn published(series: Series, mib: u64) -> &'static [(&'static str, f64)] {
    match (series, mib) {
        (Series::Untyped, 256) => &[("Linux KHO, memfd of 256 MiB in 2 MiB folios (published)", 1236.0)],
        (Series::Untyped, 1024) => &[
            ("Xen 4.17 kexec, 1 GiB (published)", 329.0),
            ("the same without its waits (published)", 51.0),
            ("Linux KHO, 1 GiB, nothing handed over (published)", 1230.0),
        ],
        (Series::Untyped, 4096) => &[
            ("Xen 4.17 kexec, 4 GiB (published)", 340.0),
            ("the same without its waits (published)", 110.0),
            ("Linux KHO, memfd of 2 GiB in 2 MiB folios (published)", 1306.0),
        ],
        (Series::Untyped, 12_288) => &[
            ("Xen 4.17 kexec, 16 GiB (published)", 718.0),
            ("the same without its waits (published)", 392.0),
            ("Linux KHO, memfd of 8 GiB in 2 MiB folios (published)", 1486.0),
        ],
        (Series::Mapped | Series::Linux, 256) => &[("Linux KHO, memfd of 256 MiB in 4 KiB folios (published)", 1422.0)],
        (Series::Mapped | Series::Linux, 4096) => &[("Linux KHO, memfd of 2 GiB in 4 KiB folios (published)", 2984.0)],
        (Series::Mapped | Series::Linux, 12_288) => {
            &[("Linux KHO, memfd of 8 GiB in 4 KiB folios (published)", 7472.0)]
        }
        _ => &[],
    }
}

/// What the pauses come to, and what they have to.
pub fn report(measured: &[Measured]) -> Report {
    let mut report = Report::default();
    let of = |series: Series| measured.iter().filter(move |m| m.series == series);
    for series in Series::ALL {
        for m in of(series) {
            let what = format!("pause, {}", series.at(m.x));
            let mut row = Row::new(what, "ms", Spread::exact(pause(m) / NS_PER_MS));
            if matches!(series, Series::Untyped | Series::Unowned) {
                row = row.target(Target::AtMost(UNTYPED_MS));
            }
            for (name, ms) in published(series, m.x) {
                row = row.beside(name, Spread::exact(*ms));
            }
            report.add(details(row, m));
            // What a guest of that size costs whose pages are not typed is not the pages' cost.
            let base = of(Series::Untyped).find(|base| base.x == m.x);
            if let (Series::Mapped | Series::Linux, Some(base)) = (series, base) {
                let ns = (pause(m) - pause(base)) / m.update.pages as f64;
                let what = format!("a typed page, {}", series.at(m.x));
                report.add(Row::new(what, "ns", Spread::exact(ns)).target(Target::AtMost(PAGE_NS)));
            }
        }
        let (first, last) = (of(series).min_by_key(|m| m.x), of(series).max_by_key(|m| m.x));
        if let (Some(first), Some(last), Some((what, unit, ns_per_unit, target))) = (first, last, slope(series))
            && first.x != last.x
        {
            let each = (pause(last) - pause(first)) / (last.x - first.x) as f64 / ns_per_unit;
            let row = Row::new(format!("{what}, from {} to {}", first.x, last.x), unit, Spread::exact(each));
            report.add(if let Some(target) = target { row.target(Target::AtMost(target)) } else { row });
        }
        if first.is_some() {
            report.bars.push(picture(series, of(series)));
        }
    }
    let updates = measured.iter().map(|m| (m.name(), &m.update));
    report.sheets.push(("Each pause by stage, in µs", report::stages("point", updates)));
    report
}

fn pause(m: &Measured) -> f64 {
    m.update.pause_ns as f64
}

/// What one more costs: what it is called, its unit, nanoseconds in that, what it has to reach.
const fn slope(series: Series) -> Option<(&'static str, &'static str, f64, Option<f64>)> {
    match series {
        Series::Domains => Some(("each further domain of 2 MiB", "µs", 1e3, Some(DOMAIN_US))),
        Series::Extents => Some(("each further extent", "ns", 1.0, None)),
        Series::MappedExtents => Some(("each further extent of a guest that maps all", "ns", 1.0, None)),
        Series::Unowned => {
            Some(("each further GiB of RAM that nobody owns, MiB", "µs", 1e3 / 1024.0, Some(UNOWNED_US)))
        }
        Series::Untyped | Series::Mapped | Series::Linux => None,
    }
}

/// What the update was, for programs.
fn details(row: Row, m: &Measured) -> Row {
    let update = &m.update;
    let stages =
        update.stages.iter().map(|(stage, ns)| (stage.clone(), (*ns).into())).collect::<serde_json::Map<_, _>>();
    row.with("stages_ns", stages)
        .with("pauses_ns", m.pauses_ns.clone())
        .with("domains", update.domains)
        .with("extents", update.extents)
        .with("pages", update.pages)
        .with("stream_bytes", update.stream_bytes)
}

/// The pauses of a curve, each a bar of its stages.
fn picture<'a>(series: Series, points: impl Iterator<Item = &'a Measured>) -> Bars {
    let file = format!("pause-{}", series.name());
    let mut bars = Bars::new(file, "Pause of an update by stage", series.counts(), "ms (1 ms = 10⁶ instructions)");
    for m in points {
        let parts = m.update.stages.iter().map(|(stage, ns)| (stage.clone(), *ns as f64 / NS_PER_MS));
        bars.add(m.x.to_string(), parts.collect());
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Update;
    use indexmap::IndexMap;

    fn measured(series: Series, x: u64, pause_ns: u64) -> Measured {
        let stages = IndexMap::from([("save".to_owned(), pause_ns)]);
        let (from, to) = ("a".to_owned(), "b".to_owned());
        let update =
            Update { sequence: 1, from, to, pause_ns, stages, domains: 1, extents: 1, pages: x * 256, stream_bytes: 1 };
        Measured { series, x, pauses_ns: vec![pause_ns, pause_ns - 1], update }
    }

    fn row<'a>(report: &'a Report, what: &str) -> &'a Row {
        report.rows.iter().find(|row| row.what().contains(what)).unwrap_or_else(|| panic!("no {what}"))
    }

    #[test]
    fn a_slope_is_between_the_first_and_the_last() {
        let report = report(&[
            measured(Series::Domains, 64, 2_950_000),
            measured(Series::Domains, 1, 1_060_000),
            measured(Series::Domains, 4, 9_000_000),
            measured(Series::Unowned, 1024, 1_000_000),
            measured(Series::Unowned, 3072, 1_020_000),
        ]);
        let found = |what| (row(&report, what).ours.median, row(&report, what).is_met());
        assert_eq!(found("further domain"), (30.0, Some(true)));
        assert_eq!(found("further GiB"), (10.0, Some(false)));
        assert_eq!(report.bars.len(), 2);
    }

    #[test]
    fn a_typed_page_is_what_lies_on_top_of_an_untyped_guest() {
        let report =
            report(&[measured(Series::Untyped, 64, 1_000_000), measured(Series::Mapped, 64, 1_000_000 + 61 * 16_384)]);
        let page = row(&report, "a typed page");
        assert_eq!((page.ours.median, page.is_met()), (61.0, Some(false)));
        assert_eq!(row(&report, "not typed").is_met(), Some(true));
    }

    #[test]
    fn a_pause_has_its_stages_in_json() {
        let json = report(&[measured(Series::Untyped, 1024, 2_000_001)]).json().unwrap();
        assert_eq!(json[0]["stages_ns"]["save"], 2_000_001);
        assert_eq!(json[0]["pauses_ns"], serde_json::json!([2_000_001, 2_000_000]));
        assert_eq!((&json[0]["met"], &json[0]["target"]), (&false.into(), &2.0.into()));
        assert!(json[0]["baselines"].as_object().unwrap().keys().all(|name| name.ends_with("(published)")));
    }
}
