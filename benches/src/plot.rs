//! Draws the curves.

use crate::report::Curve;
use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use std::path::{Path, PathBuf};

const COLOURS: [RGBColor; 6] = [
    RGBColor(0xc0, 0x20, 0x20),
    RGBColor(0x20, 0x60, 0xb0),
    RGBColor(0x20, 0x90, 0x40),
    RGBColor(0xd0, 0x80, 0x10),
    RGBColor(0x80, 0x40, 0xa0),
    RGBColor(0x60, 0x60, 0x60),
];

/// Draws a curve into `dir`; the file that it became. A line goes through the medians, and a bar through each of its points from the lowest figure to the highest.
pub fn draw(curve: &Curve, dir: &Path) -> Result<PathBuf> {
    let path = dir.join(curve.file).with_extension("svg");
    draw_to(curve, &path).map_err(|e| anyhow!("{e}")).with_context(|| format!("cannot draw {}", path.display()))?;
    Ok(path)
}

fn draw_to<'a>(curve: &Curve, path: &'a Path) -> Result<(), Box<dyn std::error::Error + 'a>> {
    let points = || curve.series.iter().flat_map(|s| &s.points);
    let least = |f: &dyn Fn(&(f64, crate::measure::Spread)) -> f64| points().map(f).fold(f64::INFINITY, f64::min);
    let most = |f: &dyn Fn(&(f64, crate::measure::Spread)) -> f64| points().map(f).fold(0.0, f64::max);
    let (x_low, x_high) = (least(&|p| p.0), most(&|p| p.0));
    let (y_low, y_high) = (least(&|p| p.1.low), most(&|p| p.1.high));
    let root = SVGBackend::new(path, (900, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(&curve.title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d((x_low / 1.3..x_high * 1.3).log_scale(), (y_low / 2.0..y_high * 2.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(curve.x)
        .y_desc(curve.y)
        .x_label_formatter(&|x| tick(*x))
        .y_label_formatter(&|y| tick(*y))
        .light_line_style(BLACK.mix(0.06))
        .draw()?;
    for (nth, series) in curve.series.iter().enumerate() {
        let colour = COLOURS[nth % COLOURS.len()];
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

fn tick(value: f64) -> String {
    if value >= 1.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Spread;

    #[test]
    fn a_curve_becomes_a_picture_with_all_its_lines() {
        let mut curve = Curve::new("bench-test-curve", "Claims", "GiB", "ms");
        for (x, y) in [(1.0, 0.01), (64.0, 0.5), (1024.0, 8.0)] {
            curve.add("ours", x, Spread { median: y, low: y / 2.0, high: y * 2.0 });
            curve.add("flat", x, Spread::exact(100.0 * y));
        }
        let path = draw(&curve, &std::env::temp_dir()).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for text in ["<svg", "Claims", "ours", "flat", "GiB"] {
            assert!(svg.contains(text), "no {text} in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 6);
    }
}
