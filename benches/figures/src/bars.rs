//! Pictures of bars whose parts stand one on the other.

use crate::{COLOURS, SIZE};
use anyhow::{Context, Result, anyhow};
use indexmap::IndexSet;
use plotters::prelude::*;
use std::path::{Path, PathBuf};

/// One bar: what stands below it, and its parts from below.
type Bar = (String, Vec<(String, f64)>);

/// One picture, a bar beside the other.
pub struct Bars {
    file: String,
    title: String,
    x: String,
    y: &'static str,
    bars: Vec<Bar>,
}

impl Bars {
    /// A picture without bars: its file's name without `.svg`, what stands above it, and along its axes.
    pub fn new(file: impl Into<String>, title: impl Into<String>, x: impl Into<String>, y: &'static str) -> Self {
        Self { file: file.into(), title: title.into(), x: x.into(), y, bars: Vec::new() }
    }

    /// Adds a bar.
    pub fn add(&mut self, label: impl Into<String>, parts: Vec<(String, f64)>) {
        self.bars.push((label.into(), parts));
    }

    /// Draws it into `dir`; the file that it became.
    pub(crate) fn draw(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join(&self.file).with_extension("svg");
        // The drawing area borrows the path, and its error is not one that travels.
        self.draw_to(&path).map_err(|e| anyhow!("{e}")).with_context(|| format!("cannot draw {}", path.display()))?;
        Ok(path)
    }

    fn draw_to<'a>(&self, path: &'a Path) -> Result<(), Box<dyn std::error::Error + 'a>> {
        let names: IndexSet<&str> =
            self.bars.iter().flat_map(|(_, parts)| parts.iter().map(|(name, _)| name.as_str())).collect();
        let sum = |(_, parts): &Bar| parts.iter().map(|(_, high)| high).sum::<f64>();
        let top = self.bars.iter().map(sum).fold(0.0, f64::max);
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d((0..(self.bars.len() as u32).saturating_sub(1)).into_segmented(), 0.0..top * 1.1)?;
        let label = |at: &SegmentValue<u32>| match at {
            SegmentValue::CenterOf(index) => {
                self.bars.get(*index as usize).map_or(String::new(), |(label, _)| label.clone())
            }
            SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_desc(&self.x)
            .y_desc(self.y)
            .x_label_formatter(&label)
            .light_line_style(BLACK.mix(0.06))
            .draw()?;
        let mut bases = vec![0.0; self.bars.len()];
        for (name, colour) in names.iter().zip(COLOURS.iter().cycle()) {
            let mut rectangles = Vec::new();
            for (index, ((_, parts), base)) in (0u32..).zip(self.bars.iter().zip(&mut bases)) {
                let high = *base + parts.iter().filter(|(part, _)| part == name).map(|(_, high)| high).sum::<f64>();
                let (left, right) = (SegmentValue::Exact(index), SegmentValue::Exact(index + 1));
                let mut rectangle = Rectangle::new([(left, *base), (right, high)], colour.filled());
                rectangle.set_margin(0, 0, 14, 14);
                rectangles.push(rectangle);
                *base = high;
            }
            chart
                .draw_series(rectangles)?
                .label(*name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_has_its_label_and_every_part_its_colour() {
        let mut bars = Bars::new("figures-test-bars", "Pause", "domains", "ms");
        let parts = |save, boot| vec![("save".to_owned(), save), ("boot".to_owned(), boot)];
        bars.add("one", parts(1.0, 2.0));
        bars.add("four", parts(1.5, 2.0));
        let dir = tempfile::tempdir().unwrap();
        let path = bars.draw(dir.path()).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in ["Pause", "one", "four", "save", "boot", "domains"] {
            assert!(svg.contains(text), "no {text} in {svg}");
        }
        // Two bars and the legend.
        assert_eq!(svg.matches("fill=\"#4C72B0\"").count(), 3, "{svg}");
    }
}
