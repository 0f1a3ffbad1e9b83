//! Colours that readers with any colour vision tell apart.

use plotters::style::RGBColor;

/// The colours of a heat map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// Red below zero, white at zero, blue above; both ends equally far from zero.
    Diverging,
    /// Cividis over the data, dark to light.
    Sequential,
    /// White to red over a fixed range, as the paper's tables: percentages, cosines.
    Reds {
        /// Value of white.
        low: f64,
        /// Value of the darkest red.
        high: f64,
    },
}

impl Scale {
    /// Lowest and highest colour for values between `low` and `high`.
    pub(super) fn ends(self, low: f64, high: f64) -> (f64, f64) {
        match self {
            Self::Diverging => {
                let most = low.abs().max(high.abs());
                if most > 0.0 { (-most, most) } else { (-1.0, 1.0) }
            }
            Self::Sequential if low < high => (low, high),
            Self::Sequential => (low - 0.5, high + 0.5),
            Self::Reds { low, high } => (low, high),
        }
    }

    /// The colour at `share` of the way from the lowest to the highest.
    pub(super) fn colour(self, share: f64) -> RGBColor {
        let gradient = match self {
            Self::Diverging => colorous::RED_BLUE,
            Self::Sequential => colorous::CIVIDIS,
            Self::Reds { .. } => colorous::REDS,
        };
        let colour = gradient.eval_continuous(share.clamp(0.0, 1.0));
        RGBColor(colour.r, colour.g, colour.b)
    }
}

/// Black or white, whichever is legible on `background` (relative luminance of sRGB).
pub(super) fn ink_on(background: RGBColor) -> RGBColor {
    let linear = |channel: u8| (f64::from(channel) / 255.0).powf(2.2);
    let RGBColor(red, green, blue) = background;
    let luminance = 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
    // Where the contrast ratios of black and white text are equal.
    if luminance > 0.18 { RGBColor(0, 0, 0) } else { RGBColor(255, 255, 255) }
}

/// The colour-blind safe set of Okabe and Ito, the strongest on white first.
const CLASSES: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(240, 228, 66),
];

/// Colour of the n-th class.
pub(super) fn class(index: usize) -> RGBColor {
    CLASSES[index % CLASSES.len()]
}

/// Text and axes.
pub(super) const INK: RGBColor = RGBColor(30, 30, 30);
/// What is only there to compare with, and captions.
pub(super) const GREY: RGBColor = RGBColor(110, 110, 110);
/// Lines of the grid.
pub(super) const GRID: RGBColor = RGBColor(228, 228, 228);
/// Cells that were not measured: a grey that no scale has.
pub(super) const MISSING: RGBColor = RGBColor(205, 205, 205);
