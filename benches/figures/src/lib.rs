//! Figures beside what they have to reach: tables, JSON, Markdown and pictures, the same for all that measures luxen.
//!
//! ```text
//!  Row ──┐                    ┌─ text on the terminal
//!  Sheet ┼─ Report::publish ──┼─ JSON: a list of {what, unit, ours, baselines, target, met}
//!  Curve ┤                    ├─ SVG under target/luxen/bench/
//!  Bars ─┘                    └─ Markdown and SVG under docs/figures/
//! ```

mod bars;
mod curve;
mod report;
mod row;
mod sheet;
mod spread;

pub use bars::Bars;
pub use curve::Curve;
pub use report::{Destination, Report};
pub use row::{Row, Target};
pub use sheet::Sheet;
pub use spread::Spread;

use plotters::style::RGBColor;

/// Of lines and stages, from the first on.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x4c, 0x72, 0xb0),
    RGBColor(0xdd, 0x84, 0x52),
    RGBColor(0x55, 0xa8, 0x68),
    RGBColor(0xc4, 0x4e, 0x52),
    RGBColor(0x81, 0x72, 0xb3),
    RGBColor(0x93, 0x78, 0x60),
];
/// Of a picture, in pixels.
const SIZE: (u32, u32) = (900, 540);

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
}
