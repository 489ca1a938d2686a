//! What comes out: rows of a table, the same as JSON, and the points of curves.

use crate::measure::Spread;
use anyhow::{Context, Result};
use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use indexmap::IndexMap;
use serde::Serialize;
use std::path::Path;

/// What a figure has to reach.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Target {
    const fn value(self) -> f64 {
        match self {
            Self::AtMost(value) | Self::AtLeast(value) => value,
        }
    }

    fn is_met(self, found: f64) -> bool {
        match self {
            Self::AtMost(most) => found <= most,
            Self::AtLeast(least) => found >= least,
        }
    }
}

/// One line of the table.
pub struct Row {
    what: String,
    unit: &'static str,
    ours: Spread,
    baselines: Vec<(&'static str, Spread)>,
    target: Option<Target>,
}

impl Row {
    /// A figure of ours.
    pub fn new(what: impl Into<String>, unit: &'static str, ours: Spread) -> Self {
        Self { what: what.into(), unit, ours, baselines: Vec::new(), target: None }
    }

    /// What the same takes another.
    pub fn beside(mut self, name: &'static str, figure: Spread) -> Self {
        self.baselines.push((name, figure));
        self
    }

    /// What it has to reach.
    pub const fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }
}

/// A row as JSON has it.
#[derive(Serialize)]
struct JsonRow<'a> {
    what: &'a str,
    unit: &'a str,
    ours: f64,
    baselines: IndexMap<&'a str, f64>,
    target: Option<f64>,
    met: Option<bool>,
}

/// Points of one line of a picture.
pub struct Series {
    /// Whose they are.
    pub name: &'static str,
    /// x, and what was found there.
    pub points: Vec<(f64, Spread)>,
}

/// One picture, both axes logarithmic.
pub struct Curve {
    /// Name of its file, without `.svg`.
    pub file: &'static str,
    /// What stands above it.
    pub title: String,
    /// Along x.
    pub x: &'static str,
    /// Along y.
    pub y: &'static str,
    /// Its lines.
    pub series: Vec<Series>,
}

impl Curve {
    /// A picture without lines.
    pub fn new(file: &'static str, title: impl Into<String>, x: &'static str, y: &'static str) -> Self {
        Self { file, title: title.into(), x, y, series: Vec::new() }
    }

    /// Adds a point to a line, which is begun if it is a new one.
    pub fn add(&mut self, name: &'static str, x: f64, y: Spread) {
        match self.series.iter_mut().find(|s| s.name == name) {
            Some(series) => series.points.push((x, y)),
            None => self.series.push(Series { name, points: vec![(x, y)] }),
        }
    }
}

/// A line under the head and nothing else.
const PLAIN: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// All that was found.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    /// The pictures.
    pub curves: Vec<Curve>,
}

impl Report {
    /// Adds a line.
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Adds a line that tells how many times one figure is another one; its ends are those that can be.
    pub fn add_ratio(&mut self, what: impl Into<String>, of: Spread, to: Spread, target: Target) {
        let ratio = Spread { median: of.median / to.median, low: of.low / to.high, high: of.high / to.low };
        self.add(Row::new(what, "times", ratio).target(target));
    }

    /// Targets that were met, and those that there are.
    pub fn nr_met(&self) -> (usize, usize) {
        let judged = self.rows.iter().filter_map(|row| row.target.map(|t| t.is_met(row.ours.median)));
        judged.fold((0, 0), |(met, all), is_met| (met + usize::from(is_met), all + 1))
    }

    /// The table.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(PLAIN);
        table.set_header(["what", "unit", "ours", "spread", "baseline", "figure", "ratio", "target", "met"]);
        for row in &self.rows {
            let lines = |f: &dyn Fn(&(&'static str, Spread)) -> String| {
                row.baselines.iter().map(f).collect::<Vec<String>>().join("\n")
            };
            let target = match row.target {
                Some(Target::AtMost(value)) => format!("≤ {}", short(value)),
                Some(Target::AtLeast(value)) => format!("≥ {}", short(value)),
                None => String::new(),
            };
            let met = match row.target.map(|t| t.is_met(row.ours.median)) {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "",
            };
            table.add_row([
                row.what.clone(),
                row.unit.to_owned(),
                short(row.ours.median),
                format!("{} - {}", short(row.ours.low), short(row.ours.high)),
                lines(&|(name, _)| (*name).to_owned()),
                lines(&|(_, figure)| short(figure.median)),
                lines(&|(_, figure)| short(figure.median / row.ours.median)),
                target,
                met.to_owned(),
            ]);
        }
        for column in [2, 3, 5, 6, 7] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    /// Writes the lines as a list: what, unit, ours, baselines, target, met.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(&self.json()).context("cannot write the result as JSON")?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn json(&self) -> Vec<JsonRow<'_>> {
        let row = |row| {
            let Row { what, unit, ours, baselines, target }: &Row = row;
            JsonRow {
                what,
                unit,
                ours: ours.median,
                baselines: baselines.iter().map(|(name, figure)| (*name, figure.median)).collect(),
                target: target.map(Target::value),
                met: target.map(|t| t.is_met(ours.median)),
            }
        };
        self.rows.iter().map(row).collect()
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    let digits = if value == 0.0 { 0 } else { (2 - value.abs().log10().floor() as i32).clamp(0, 6) };
    format!("{value:.*}", digits as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_matter() {
        let shorts = [0.0, 0.000_763, 1.0, 1.234, 12.34, 123.4, 12_345.0, 9.999].map(short);
        assert_eq!(shorts, ["0", "0.000763", "1.00", "1.23", "12.3", "123", "12345", "10.00"]);
    }

    #[test]
    fn a_row_is_judged_by_its_median() {
        let mut report = Report::default();
        let spread = Spread { median: 2.0, low: 1.0, high: 9.0 };
        report.add(Row::new("a", "ms", spread).beside("b", Spread::exact(4.0)).target(Target::AtMost(2.0)));
        report.add(Row::new("c", "GB/s", spread).target(Target::AtLeast(2.5)));
        report.add(Row::new("d", "ns", spread));
        assert_eq!(report.nr_met(), (1, 2));
        let json = serde_json::to_value(report.json()).unwrap();
        let expected = serde_json::json!([
            {"what": "a", "unit": "ms", "ours": 2.0, "baselines": {"b": 4.0}, "target": 2.0, "met": true},
            {"what": "c", "unit": "GB/s", "ours": 2.0, "baselines": {}, "target": 2.5, "met": false},
            {"what": "d", "unit": "ns", "ours": 2.0, "baselines": {}, "target": null, "met": null},
        ]);
        assert_eq!(json, expected);
        let table = report.table().to_string();
        assert!(table.contains("≤ 2.00") && table.contains("NO") && table.contains("1.00 - 9.00"), "{table}");
    }

    #[test]
    fn a_ratio_has_the_ends_that_can_be() {
        let mut report = Report::default();
        let spread = |low, median, high| Spread { median, low, high };
        report.add_ratio("r", spread(10.0, 20.0, 30.0), spread(1.0, 2.0, 5.0), Target::AtLeast(10.0));
        assert_eq!(report.rows[0].ours, spread(2.0, 10.0, 30.0));
        assert_eq!(report.nr_met(), (1, 1));
    }
}
