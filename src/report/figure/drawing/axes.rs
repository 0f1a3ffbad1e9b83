//! Numeric axes: range, ticks, grid, labels.

use super::canvas::{Anchor, Canvas, DrawError, SMALL, TEXT};
use super::{Axis, Facet, Plot, colours};
use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;

/// Left, top, width and height in pixels.
pub(super) type Place = (f64, f64, f64, f64);

/// One numeric axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ruler {
    low: f64,
    high: f64,
    ticks: Vec<(f64, String)>,
}

impl Ruler {
    /// An axis over `range`, widened by `padding` of it unless the axis has its own, with room for `ticks` labels.
    pub fn new(axis: &Axis, range: Option<(f64, f64)>, padding: (f64, f64), ticks: usize) -> Self {
        let (mut low, mut high) = axis.range.or(range).unwrap_or((0.0, 1.0));
        if axis.range.is_none() {
            let span = high - low;
            (low, high) = (low - padding.0 * span, high + padding.1 * span);
        }
        if low == high {
            // One value: any span shows it; half a unit of the last place a label would have.
            let half = if low == 0.0 { 0.5 } else { 0.5 * low.abs() };
            (low, high) = (low - half, high + half);
        }
        let mut places = RangedCoordf64::from(low..high).key_points(ticks);
        if axis.whole {
            places.retain(|place| place.fract() == 0.0);
        }
        let step = places.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
        let decimals = if step.is_finite() { (-step.log10()).ceil().clamp(0.0, 12.0) as usize } else { 2 };
        let ticks = places.into_iter().map(|place| (place, number(place, decimals))).collect();
        Self { low, high, ticks }
    }

    /// Where a value lies between 0 (lowest) and 1.
    pub fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Values with a label.
    pub fn ticks(&self) -> impl Iterator<Item = (f64, &str)> {
        self.ticks.iter().map(|(value, label)| (*value, label.as_str()))
    }

    /// The labels.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.ticks.iter().map(|(_, label)| label.as_str())
    }
}

/// A number with so many decimals, without the sign of a rounded zero, and with a real minus.
pub(super) fn number(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(digits) if digits.chars().any(|digit| digit.is_ascii_digit() && digit != '0') => {
            format!("\u{2212}{digits}")
        }
        Some(digits) => digits.to_owned(),
        None => text,
    }
}

/// Both axes of a facet.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rulers {
    pub x: Ruler,
    pub y: Ruler,
}

impl Rulers {
    /// The axes of a plot `(width, height)` pixels large.
    pub fn new(facet: &Facet, (width, height): (f64, f64)) -> Self {
        let (x, y) = facet.plot.ranges();
        let (pad_x, pad_y) = match &facet.plot {
            Plot::Scatter(_) => ((0.06, 0.06), (0.06, 0.06)),
            Plot::Areas(_) => ((0.0, 0.0), (0.0, 0.02)),
            Plot::Histogram(_) => ((0.0, 0.0), (0.0, 0.05)),
            Plot::Bars(_) => ((if x.is_some_and(|(low, _)| low < 0.0) { 0.03 } else { 0.0 }, 0.03), (0.0, 0.0)),
            Plot::Lines(_) | Plot::HeatMap(_) => ((0.03, 0.03), (0.04, 0.04)),
        };
        let ticks = |pixels: f64, each: f64| (pixels / each).max(2.0) as usize;
        Self {
            x: Ruler::new(&facet.x, x, pad_x, ticks(width, 38.0)),
            y: Ruler::new(&facet.y, y, pad_y, ticks(height, 34.0)),
        }
    }

    /// Pixels of a point inside `place`.
    pub fn pixel(&self, (left, top, width, height): Place, (x, y): (f64, f64)) -> (f64, f64) {
        (left + width * self.x.share(x), top + height * (1.0 - self.y.share(y)))
    }

    /// Grid lines and tick labels across.
    pub fn draw_x(&self, canvas: &Canvas, (left, top, width, height): Place) -> Result<(), DrawError> {
        let bottom = top + height;
        for (value, label) in &self.x.ticks {
            let x = left + width * self.x.share(*value);
            canvas.line(&[(x, top), (x, bottom)], colours::GRID, 0.7, false)?;
            canvas.line(&[(x, bottom), (x, bottom + 3.0)], colours::INK, 0.8, false)?;
            canvas.text(label, (x, bottom + 10.0), SMALL, colours::INK, Anchor::Centre)?;
        }
        Ok(())
    }

    /// Grid lines and tick labels upwards.
    pub fn draw_y(&self, canvas: &Canvas, (left, top, width, height): Place) -> Result<(), DrawError> {
        for (value, label) in &self.y.ticks {
            let y = top + height * (1.0 - self.y.share(*value));
            canvas.line(&[(left, y), (left + width, y)], colours::GRID, 0.7, false)?;
            canvas.line(&[(left - 3.0, y), (left, y)], colours::INK, 0.8, false)?;
            canvas.text(label, (left - 5.0, y), SMALL, colours::INK, Anchor::Right)?;
        }
        Ok(())
    }
}

/// The names of both axes, `left` and `below` pixels away from the plot.
pub(super) fn names(canvas: &Canvas, facet: &Facet, place: Place, left: f64, below: f64) -> Result<(), DrawError> {
    let (x, y, width, height) = place;
    canvas.text(&facet.x.label, (x + width / 2.0, y + height + below), TEXT, colours::INK, Anchor::Centre)?;
    canvas.upward_text(&facet.y.label, (x - left, y + height / 2.0), TEXT, Anchor::Centre)
}
