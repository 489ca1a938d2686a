//! Pictures of lines, both axes logarithmic.

use crate::{COLOURS, SIZE, Spread};
use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use std::path::{Path, PathBuf};

/// Points of one line of a picture.
struct Series {
    /// Whose they are.
    name: &'static str,
    /// x, and what was found there.
    points: Vec<(f64, Spread)>,
}

/// One picture, both axes logarithmic.
pub struct Curve {
    file: &'static str,
    title: String,
    x: &'static str,
    y: &'static str,
    series: Vec<Series>,
}

impl Curve {
    /// A picture without lines: its file's name without `.svg`, what stands above it, and along its axes.
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

    /// Draws it into `dir`; the file that it became. A line goes through the medians, and a bar through each of its points from the lowest figure to the highest.
    pub(crate) fn draw(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join(self.file).with_extension("svg");
        // The drawing area borrows the path, and its error is not one that travels.
        self.draw_to(&path).map_err(|e| anyhow!("{e}")).with_context(|| format!("cannot draw {}", path.display()))?;
        Ok(path)
    }

    fn draw_to<'a>(&self, path: &'a Path) -> Result<(), Box<dyn std::error::Error + 'a>> {
        let points = || self.series.iter().flat_map(|s| &s.points);
        let least = |f: &dyn Fn(&(f64, Spread)) -> f64| points().map(f).fold(f64::INFINITY, f64::min);
        let most = |f: &dyn Fn(&(f64, Spread)) -> f64| points().map(f).fold(0.0, f64::max);
        let (x_low, x_high) = (least(&|p| p.0), most(&|p| p.0));
        let (y_low, y_high) = (least(&|p| p.1.low), most(&|p| p.1.high));
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d((x_low / 1.3..x_high * 1.3).log_scale(), (y_low / 2.0..y_high * 2.0).log_scale())?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|x| tick(*x))
            .y_label_formatter(&|y| tick(*y))
            .light_line_style(BLACK.mix(0.06))
            .draw()?;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let line = series.points.iter().map(|(x, y)| (*x, y.median));
            chart
                .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
                .label(series.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], colour.stroke_width(2)));
            chart.draw_series(line.map(|at| Circle::new(at, 3, colour.filled())))?;
            let bars = series.points.iter().map(|(x, y)| PathElement::new([(*x, y.low), (*x, y.high)], colour));
            chart.draw_series(bars)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        root.present()?;
        Ok(())
    }
}

fn tick(value: f64) -> String {
    if value >= 1.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_becomes_a_picture_with_all_its_lines() {
        let mut curve = Curve::new("figures-test-curve", "Claims", "GiB", "ms");
        for (x, y) in [(1.0, 0.01), (64.0, 0.5), (1024.0, 8.0)] {
            curve.add("ours", x, Spread { median: y, low: y / 2.0, high: y * 2.0 });
            curve.add("flat", x, Spread::exact(100.0 * y));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = curve.draw(dir.path()).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in ["<svg", "Claims", "ours", "flat", "GiB"] {
            assert!(svg.contains(text), "no {text} in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 6);
    }
}
