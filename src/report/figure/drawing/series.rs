//! Lines and stacked areas.

use super::axes::{Place, Rulers};
use super::canvas::{Canvas, DrawError};
use super::legend::{Legend, marker};
use super::{Series, stacked};

/// Lines with a marker at every point.
pub(super) fn draw_lines(
    canvas: &Canvas,
    series: &[Series],
    rulers: &Rulers,
    place: Place,
    legend: &Legend,
) -> Result<(), DrawError> {
    rulers.draw_x(canvas, place)?;
    rulers.draw_y(canvas, place)?;
    for one in series {
        let style = legend.style(&one.name);
        let places: Vec<(f64, f64)> = one.points.iter().map(|&point| rulers.pixel(place, point)).collect();
        match places[..] {
            // A baseline has no markers, and one point makes no line.
            [only] if one.baseline => canvas.circle(only, 1.6, style.colour)?,
            _ => canvas.line(&places, style.colour, 1.6, one.baseline)?,
        }
        for place in places {
            marker(canvas, place, 2.6, style)?;
        }
    }
    Ok(())
}

/// Bands on top of each other.
pub(super) fn draw_areas(
    canvas: &Canvas,
    series: &[Series],
    rulers: &Rulers,
    place: Place,
    legend: &Legend,
) -> Result<(), DrawError> {
    for (one, band) in series.iter().zip(stacked(series)) {
        let lower = band.iter().map(|&(x, bottom, _)| rulers.pixel(place, (x, bottom)));
        let upper = band.iter().rev().map(|&(x, _, top)| rulers.pixel(place, (x, top)));
        let outline: Vec<(f64, f64)> = lower.chain(upper).collect();
        canvas.polygon(&outline, legend.style(&one.name).colour.at_opacity(0.85))?;
    }
    // Over the bands: behind them no line of the grid would be seen.
    rulers.draw_x(canvas, place)?;
    rulers.draw_y(canvas, place)
}
