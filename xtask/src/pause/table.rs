//! The figures as a table, and beside what they have to reach.

use super::point::{Measured, Series};
use comfy_table::{CellAlignment, Table};
use indexmap::{IndexMap, IndexSet};
use serde::Serialize;

/// One figure.
#[derive(Debug, Serialize)]
pub struct Row {
    what: String,
    unit: &'static str,
    ours: f64,
    baselines: IndexMap<&'static str, f64>,
    target: Option<f64>,
    met: Option<bool>,
}

impl Row {
    fn new(what: String, unit: &'static str, ours: f64, target: Option<f64>) -> Self {
        Self { what, unit, ours, baselines: IndexMap::new(), target, met: target.map(|target| ours <= target) }
    }

    fn beside(mut self, baselines: &[(&'static str, f64)]) -> Self {
        self.baselines.extend(baselines.iter().copied());
        self
    }
}

/// Until the first guest runs, on a machine of 1 GiB, in milliseconds; measured once, under the same conditions, by others' builds. Xen loses every domain.
const PUBLISHED_1G: [(&str, f64); 2] = [("Xen 4.17 kexec (published)", 329.0), ("Linux KHO (published)", 1230.0)];
const NS_PER_MS: f64 = 1e6;

/// What the pauses come to, and what they have to.
pub fn rows(measured: &[Measured]) -> Vec<Row> {
    let of = |series: Series| measured.iter().filter(move |m| m.series == series);
    let pause = |m: &Measured| m.update.pause_ns as f64;
    let mut rows = Vec::new();
    for m in of(Series::Untyped) {
        let row = Row::new(format!("pause, one guest of {} MiB, untyped", m.x), "ms", pause(m) / NS_PER_MS, Some(2.0));
        rows.push(if m.x == 1 << 10 { row.beside(&PUBLISHED_1G) } else { row });
    }
    for (series, who) in [(Series::Typed, "a guest that maps all"), (Series::Linux, "Linux")] {
        for m in of(series) {
            rows.push(Row::new(format!("pause, {who}, {} MiB", m.x), "ms", pause(m) / NS_PER_MS, None));
            // What a guest of that size costs whose pages are not typed is not the pages' cost.
            let base = of(Series::Untyped).filter(|base| base.x <= m.x).max_by_key(|base| base.x);
            if let Some(base) = base {
                let ns = (pause(m) - pause(base)) / m.update.pages as f64;
                rows.push(Row::new(format!("a typed page, {who}, {} MiB", m.x), "ns", ns, Some(60.0)));
            }
        }
    }
    let mut slope = |series: Series, what: &str, unit, per: f64, target| {
        let (first, last) = (of(series).min_by_key(|m| m.x), of(series).max_by_key(|m| m.x));
        if let (Some(first), Some(last)) = (first, last)
            && first.x != last.x
        {
            let each = (pause(last) - pause(first)) / (last.x - first.x) as f64 / per;
            rows.push(Row::new(format!("{what}, from {} to {}", first.x, last.x), unit, each, target));
        }
    };
    slope(Series::Domains, "each further domain of 1 MiB", "µs", 1e3, Some(30.0));
    slope(Series::Extents, "each further extent", "ns", 1.0, None);
    // No term may grow with it: what is left is what two machines of a size differ in.
    slope(Series::Unowned, "each further GiB of RAM that nobody owns, MiB", "µs", 1e3 / 1024.0, Some(0.1));
    rows
}

/// All pauses by stage, in microseconds.
pub fn stages(measured: &[Measured]) -> String {
    let stages: IndexSet<&str> = measured.iter().flat_map(|m| m.update.stages.keys().map(String::as_str)).collect();
    let micros = |ns: u64| format!("{:.1}", ns as f64 / 1e3);
    let mut table = Table::new();
    let mut head = vec!["point", "to", "pause, µs"];
    head.extend(&stages);
    head.extend(["domains", "extents", "pages", "stream bytes"]);
    let columns = head.len();
    table.set_header(head);
    for m in measured {
        let update = &m.update;
        let mut row = vec![format!("{} {}", m.series.name(), m.x), update.to.clone(), micros(update.pause_ns)];
        row.extend(stages.iter().map(|stage| update.stages.get(*stage).map_or("-".to_owned(), |ns| micros(*ns))));
        row.extend([update.domains, update.extents, update.pages, update.stream_bytes].map(|n| n.to_string()));
        table.add_row(row);
    }
    align(&mut table, 2..columns);
    table.to_string()
}

/// All figures beside what they have to reach.
pub fn summary(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.set_header(["what", "ours", "unit", "target", "met", "beside"]);
    for row in rows {
        let beside: Vec<String> =
            row.baselines.iter().map(|(name, value)| format!("{name}: {value} ({:.0} x)", value / row.ours)).collect();
        table.add_row([
            row.what.clone(),
            format!("{:.3}", row.ours),
            row.unit.to_owned(),
            row.target.map_or("-".to_owned(), |target| target.to_string()),
            row.met.map_or("-", |met| if met { "yes" } else { "NO" }).to_owned(),
            beside.join(", "),
        ]);
    }
    align(&mut table, 1..2);
    table.to_string()
}

fn align(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Update;

    fn measured(series: Series, x: u64, pause_ns: u64) -> Measured {
        let stages = IndexMap::from([("save".to_owned(), pause_ns)]);
        let (from, to) = ("a".to_owned(), "b".to_owned());
        let update =
            Update { sequence: 1, from, to, pause_ns, stages, domains: 1, extents: 1, pages: x * 256, stream_bytes: 1 };
        Measured { series, x, update }
    }

    fn row<'a>(rows: &'a [Row], what: &str) -> &'a Row {
        rows.iter().find(|row| row.what.contains(what)).unwrap_or_else(|| panic!("{what}: {rows:?}"))
    }

    #[test]
    fn a_slope_is_between_the_first_and_the_last() {
        let rows = rows(&[
            measured(Series::Domains, 64, 2_950_000),
            measured(Series::Domains, 1, 1_060_000),
            measured(Series::Domains, 4, 9_000_000),
            measured(Series::Unowned, 1024, 1_000_000),
            measured(Series::Unowned, 3072, 1_020_000),
        ]);
        assert_eq!((row(&rows, "further domain").ours, row(&rows, "further domain").met), (30.0, Some(true)));
        assert_eq!((row(&rows, "further GiB").ours, row(&rows, "further GiB").met), (10.0, Some(false)));
    }

    #[test]
    fn a_typed_page_is_what_lies_on_top_of_an_untyped_guest() {
        let rows =
            rows(&[measured(Series::Untyped, 64, 1_000_000), measured(Series::Typed, 64, 1_000_000 + 61 * 16_384)]);
        assert_eq!((row(&rows, "a typed page").ours, row(&rows, "a typed page").met), (61.0, Some(false)));
        assert_eq!(row(&rows, "64 MiB, untyped").met, Some(true));
    }
}
