//! The pause by stage, one picture a curve.

use super::point::{Measured, Series};
use crate::paths;
use anyhow::{Context, Result, anyhow};
use indexmap::IndexSet;
use plotters::prelude::*;
use std::fs;
use std::path::PathBuf;

/// Pixels.
const SIZE: (u32, u32) = (800, 500);
/// Of the stages, from the first on.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x4c, 0x72, 0xb0),
    RGBColor(0xdd, 0x84, 0x52),
    RGBColor(0x55, 0xa8, 0x68),
    RGBColor(0xc4, 0x4e, 0x52),
    RGBColor(0x81, 0x72, 0xb3),
    RGBColor(0x93, 0x78, 0x60),
];

/// Draws every curve of which there are points; where the pictures are.
pub fn draw_all(measured: &[Measured]) -> Result<Vec<PathBuf>> {
    let dir = paths::out("bench");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut files = Vec::new();
    for series in Series::ALL {
        let points: Vec<&Measured> = measured.iter().filter(|m| m.series == series).collect();
        if points.is_empty() {
            continue;
        }
        let file = dir.join(format!("pause-{}.svg", series.name()));
        // The drawing area borrows the path and its error is not one that travels.
        draw(series, &points, &file).map_err(|error| anyhow!("cannot draw {}: {error}", file.display()))?;
        files.push(file);
    }
    Ok(files)
}

/// Bars of stages, one on the other, one bar a point.
fn draw(series: Series, points: &[&Measured], file: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let stages: IndexSet<&str> = points.iter().flat_map(|m| m.update.stages.keys().map(String::as_str)).collect();
    let top = points.iter().map(|m| m.update.pause_ns).max().unwrap_or(1) as f64 / 1e6;
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Pause of an update by stage", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((0..points.len() as u32).into_segmented(), 0.0..top * 1.1)?;
    let label = |at: &SegmentValue<u32>| match at {
        SegmentValue::CenterOf(index) => points.get(*index as usize).map_or(String::new(), |m| m.x.to_string()),
        SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc(series.counts())
        .y_desc("ms (1 ms = 10⁶ instructions)")
        .x_label_formatter(&label)
        .draw()?;
    let mut bases = vec![0.0; points.len()];
    for (stage, colour) in stages.iter().zip(COLOURS.iter().cycle()) {
        let mut bars = Vec::new();
        for (index, (m, base)) in points.iter().zip(&mut bases).enumerate() {
            let high = *base + m.update.stages.get(*stage).copied().unwrap_or(0) as f64 / 1e6;
            let (left, right) = (SegmentValue::Exact(index as u32), SegmentValue::Exact(index as u32 + 1));
            let mut bar = Rectangle::new([(left, *base), (right, high)], colour.filled());
            bar.set_margin(0, 0, 12, 12);
            bars.push(bar);
            *base = high;
        }
        chart
            .draw_series(bars)?
            .label(*stage)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}
