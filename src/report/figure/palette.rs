//! Colours that readers with any colour vision tell apart.

use serde::Serialize;

/// A colour: red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::report) struct Rgb(pub u8, pub u8, pub u8);

/// The colours of a heat map.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
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

impl Rgb {
    /// As pages write it.
    pub fn hex(self) -> String {
        let Self(red, green, blue) = self;
        format!("#{red:02x}{green:02x}{blue:02x}")
    }
}

impl Scale {
    /// Lowest and highest colour for values between `low` and `high`.
    #[cfg(feature = "figures")]
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
    pub(in crate::report) fn colour(self, share: f64) -> Rgb {
        let gradient = match self {
            Self::Diverging => colorous::RED_BLUE,
            Self::Sequential => colorous::CIVIDIS,
            Self::Reds { .. } => colorous::REDS,
        };
        let colour = gradient.eval_continuous(share.clamp(0.0, 1.0));
        Rgb(colour.r, colour.g, colour.b)
    }
}

/// Black or white, whichever is legible on `background` (relative luminance of sRGB).
#[cfg(feature = "figures")]
pub(super) fn ink_on(background: Rgb) -> Rgb {
    let linear = |channel: u8| (f64::from(channel) / 255.0).powf(2.2);
    let Rgb(red, green, blue) = background;
    let luminance = 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
    // Where the contrast ratios of black and white text are equal.
    if luminance > 0.18 { Rgb(0, 0, 0) } else { Rgb(255, 255, 255) }
}
