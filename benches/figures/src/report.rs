//! All that was found, and where it goes.

use crate::{Bars, Curve, Row, Sheet, Spread, Target, short};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the pictures go, from the repository's root.
const PICTURES: &str = "target/luxen/bench";
/// Where the documentation has its tables and pictures.
const DOCS: &str = "docs/figures";

/// Where a report goes, beside the terminal.
#[derive(Clone, Debug, Default)]
pub struct Destination {
    /// A file that becomes the JSON list.
    pub json: Option<PathBuf>,
    /// If the documentation's tables and pictures are replaced.
    pub docs: bool,
}

/// All that was found.
#[derive(Default)]
pub struct Report {
    /// The lines, in the order of the table.
    pub rows: Vec<Row>,
    /// Further tables, each under its heading.
    pub sheets: Vec<(&'static str, Sheet)>,
    /// Pictures of lines.
    pub curves: Vec<Curve>,
    /// Pictures of bars.
    pub bars: Vec<Bars>,
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
        let judged = self.rows.iter().filter_map(Row::is_met);
        judged.fold((0, 0), |(met, all), is_met| (met + usize::from(is_met), all + 1))
    }

    /// The table. "Ratio" is the baseline's figure over ours.
    pub fn sheet(&self) -> Sheet {
        let head = ["what", "unit", "ours", "spread", "baseline", "figure", "ratio", "target", "met"];
        let mut sheet = Sheet::new(head).numbers(2..4).numbers(5..8);
        for row in &self.rows {
            let lines = |f: &dyn Fn(&(&'static str, Spread)) -> String| {
                row.baselines.iter().map(f).collect::<Vec<String>>().join("\n")
            };
            let Spread { median, low, high } = row.ours;
            sheet.add([
                row.what.clone(),
                row.unit.to_owned(),
                short(median),
                if row.ours.is_exact() { String::new() } else { format!("{} - {}", short(low), short(high)) },
                lines(&|(name, _)| (*name).to_owned()),
                lines(&|(_, figure)| short(figure.median)),
                lines(&|(_, figure)| short(figure.median / median)),
                row.target_text(),
                row.is_met().map_or("", |is_met| if is_met { "yes" } else { "NO" }).to_owned(),
            ]);
        }
        sheet
    }

    /// The lines as a list: what, unit, ours, baselines, target, met, and what a row has more.
    pub fn json(&self) -> Result<Value> {
        serde_json::to_value(self.rows.iter().map(Row::json).collect::<Vec<_>>()).context("cannot write it as JSON")
    }

    /// Prints the tables, draws the pictures, and writes what is asked for. The documentation's page is `name`.md; `measured` says on what, and how.
    pub fn publish(&self, name: &str, measured: &str, to: &Destination) -> Result<()> {
        for (heading, sheet) in &self.sheets {
            println!("{heading}\n{}\n", sheet.text());
        }
        println!("{}", self.sheet().text());
        println!("pictures: {} in {PICTURES}", self.draw(Path::new(PICTURES))?.len());
        if let Some(json) = &to.json {
            let text = serde_json::to_string_pretty(&self.json()?).context("cannot write the result as JSON")?;
            fs::write(json, text + "\n").with_context(|| format!("cannot write {}", json.display()))?;
            println!("json: {}", json.display());
        }
        if to.docs {
            let pictures = self.draw(Path::new(DOCS))?;
            let page = Path::new(DOCS).join(name).with_extension("md");
            fs::write(&page, self.page(name, measured, &pictures))
                .with_context(|| format!("cannot write {}", page.display()))?;
            println!("page: {}", page.display());
        }
        let (met, all) = self.nr_met();
        println!("{met} of {all} targets met");
        Ok(())
    }

    /// Every picture, as a file in `dir`.
    fn draw(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let curves = self.curves.iter().map(|curve| curve.draw(dir));
        curves.chain(self.bars.iter().map(|bars| bars.draw(dir))).collect()
    }

    fn page(&self, name: &str, measured: &str, pictures: &[PathBuf]) -> String {
        let (met, all) = self.nr_met();
        let mut page = format!(
            "# Figures: {name}\n\nWritten by a run; [performance.md](../performance.md) tells what they mean. {measured}.\n\n\
             {met} of {all} targets were met. \"Ratio\" is the baseline's figure over ours.\n\n{}",
            self.sheet().markdown()
        );
        for (heading, sheet) in &self.sheets {
            page.push_str(&format!("\n## {heading}\n\n{}", sheet.markdown()));
        }
        if !pictures.is_empty() {
            page.push_str("\n## Pictures\n");
        }
        for file in pictures.iter().filter_map(|path| path.file_name()) {
            let file = file.to_string_lossy();
            page.push_str(&format!("\n![{}]({file})\n", file.trim_end_matches(".svg")));
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPREAD: Spread = Spread { median: 2.0, low: 1.0, high: 9.0 };

    fn report() -> Report {
        let mut report = Report::default();
        report.add(Row::new("a", "ms", SPREAD).beside("b", Spread::exact(4.0)).target(Target::AtMost(2.0)));
        report.add(Row::new("c", "GB/s", SPREAD).target(Target::AtLeast(2.5)));
        report.add(Row::new("d", "ns", SPREAD).with("stages", serde_json::json!({"save": 5})));
        report
    }

    #[test]
    fn a_row_is_judged_by_its_median() {
        let report = report();
        assert_eq!(report.nr_met(), (1, 2));
        let expected = serde_json::json!([
            {"what": "a", "unit": "ms", "ours": 2.0, "baselines": {"b": 4.0}, "target": 2.0, "met": true},
            {"what": "c", "unit": "GB/s", "ours": 2.0, "baselines": {}, "target": 2.5, "met": false},
            {"what": "d", "unit": "ns", "ours": 2.0, "baselines": {}, "target": null, "met": null, "stages": {"save": 5}},
        ]);
        assert_eq!(report.json().unwrap(), expected);
        let table = report.sheet().text();
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

    #[test]
    fn a_page_has_all_of_it() {
        let mut report = report();
        report.sheets.push(("By stage", Sheet::new(["point"])));
        let page = report.page("host", "On one core", &["docs/figures/x.svg".into()]);
        for text in ["| a | ms | 2.00 | 1.00 - 9.00 | b | 4.00 | 2.00 | ≤ 2.00 | yes |", "## By stage", "![x](x.svg)"]
        {
            assert!(page.contains(text), "no {text} in {page}");
        }
        assert!(page.contains("On one core.") && page.contains("1 of 2 targets"), "{page}");
    }
}
