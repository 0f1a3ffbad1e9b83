//! Horizontal bars, and histograms.

use super::axes::{Place, Rulers};
use super::canvas::{Anchor, Canvas, DrawError, SMALL};
use super::legend::Legend;
use super::{Bars, Histogram, colours};

/// Height of all groups.
pub(super) fn height(bars: &Bars) -> f64 {
    let group = 6.0 + 12.0 * bars.series.len().max(1) as f64;
    (group * bars.labels.len() as f64).max(40.0)
}

/// Draws the groups, first label on top.
pub(super) fn draw(
    canvas: &Canvas,
    bars: &Bars,
    rulers: &Rulers,
    place: Place,
    legend: &Legend,
) -> Result<(), DrawError> {
    let (left, top, width, height) = place;
    rulers.draw_x(canvas, place)?;
    let group = height / bars.labels.len().max(1) as f64;
    let thickness = (group - 4.0) / bars.series.len().max(1) as f64;
    let across = |value: f64| left + width * rulers.x.share(value).clamp(0.0, 1.0);
    for (row, label) in bars.labels.iter().enumerate() {
        let start = top + group * row as f64;
        canvas.text(label, (left - 5.0, start + group / 2.0), SMALL, colours::INK, Anchor::Right)?;
        for (number, (name, values)) in bars.series.iter().enumerate() {
            let y = start + 2.0 + thickness * number as f64;
            let Some(value) = values.get(row).copied().flatten() else { continue };
            let (from, to) = (across(value.min(0.0)), across(value.max(0.0)));
            canvas.rectangle((from, y, to - from, thickness), legend.style(name).colour)?;
        }
    }
    let zero = across(0.0);
    canvas.line(&[(zero, top), (zero, top + height)], colours::INK, 0.8, false)
}

/// Draws every series as translucent blocks with an outline.
pub(super) fn draw_histogram(
    canvas: &Canvas,
    histogram: &Histogram,
    rulers: &Rulers,
    place: Place,
    legend: &Legend,
) -> Result<(), DrawError> {
    rulers.draw_x(canvas, place)?;
    rulers.draw_y(canvas, place)?;
    let bottom = place.1 + place.3;
    for (name, values) in &histogram.series {
        let colour = legend.style(name).colour;
        let mut outline = Vec::new();
        for (edges, value) in histogram.edges.windows(2).zip(values) {
            let (left, top) = rulers.pixel(place, (edges[0], *value));
            let (right, _) = rulers.pixel(place, (edges[1], *value));
            canvas.rectangle((left, top, right - left, bottom - top), colour.at_opacity(0.35))?;
            outline.extend([(left, top), (right, top)]);
        }
        canvas.line(&outline, colour, 1.2, false)?;
    }
    Ok(())
}
