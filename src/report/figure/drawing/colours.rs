//! The colours of what is drawn, and the step from a colour of ours to one of plotters'.

use super::Rgb;
use plotters::style::RGBAColor;

impl From<Rgb> for RGBAColor {
    fn from(colour: Rgb) -> Self {
        colour.at_opacity(1.0)
    }
}

impl Rgb {
    /// The colour, through which what lies below shows unless `opacity` is 1.
    pub fn at_opacity(self, opacity: f64) -> RGBAColor {
        let Self(red, green, blue) = self;
        RGBAColor(red, green, blue, opacity)
    }
}

/// The colour-blind safe set of Okabe and Ito, the strongest on white first.
const CLASSES: [Rgb; 8] = [
    Rgb(0, 114, 178),
    Rgb(213, 94, 0),
    Rgb(0, 158, 115),
    Rgb(204, 121, 167),
    Rgb(230, 159, 0),
    Rgb(86, 180, 233),
    Rgb(0, 0, 0),
    Rgb(240, 228, 66),
];

/// Colour of the n-th class.
pub(super) fn class(index: usize) -> Rgb {
    CLASSES[index % CLASSES.len()]
}

/// Text and axes.
pub(super) const INK: Rgb = Rgb(30, 30, 30);
/// What is only there to compare with, and captions.
pub(super) const GREY: Rgb = Rgb(110, 110, 110);
/// Lines of the grid.
pub(super) const GRID: Rgb = Rgb(228, 228, 228);
/// Cells that were not measured: a grey that no scale has.
pub(super) const MISSING: Rgb = Rgb(205, 205, 205);
