//! Lines and stacked areas.

use super::axes::{Place, Rulers, precise};
use super::canvas::{Canvas, DrawError};
use super::legend::{Legend, marker};
use super::{Facet, Series, stacked};

/// Half the side of the square in which the pointer finds a point.
pub(super) const REACH: f64 = 5.0;

/// Lines with a marker at every point.
pub(super) fn draw_lines(
    canvas: &mut Canvas,
    series: &[Series],
    facet: &Facet,
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
        for (&(x, y), &point) in places.iter().zip(&one.points) {
            marker(canvas, (x, y), 2.6, style)?;
            canvas.mark((x - REACH, y - REACH, 2.0 * REACH, 2.0 * REACH), tip(one, facet, point));
        }
    }
    Ok(())
}

/// Bands on top of each other.
pub(super) fn draw_areas(
    canvas: &mut Canvas,
    series: &[Series],
    facet: &Facet,
    rulers: &Rulers,
    place: Place,
    legend: &Legend,
) -> Result<(), DrawError> {
    for (one, band) in series.iter().zip(stacked(series)) {
        let lower = band.iter().map(|&(x, bottom, _)| rulers.pixel(place, (x, bottom)));
        let upper = band.iter().rev().map(|&(x, _, top)| rulers.pixel(place, (x, top)));
        let outline: Vec<(f64, f64)> = lower.chain(upper).collect();
        canvas.polygon(&outline, legend.style(&one.name).colour.at_opacity(0.85))?;
        for (&(x, bottom, top), &point) in band.iter().zip(&one.points) {
            let ((x, top), (_, bottom)) = (rulers.pixel(place, (x, top)), rulers.pixel(place, (x, bottom)));
            canvas.mark((x - REACH, top, 2.0 * REACH, bottom - top), tip(one, facet, point));
        }
    }
    // Over the bands: behind them no line of the grid would be seen.
    rulers.draw_x(canvas, place)?;
    rulers.draw_y(canvas, place)
}

fn tip(series: &Series, facet: &Facet, (x, y): (f64, f64)) -> String {
    format!("{}\n{}: {}\n{}: {}", series.name, facet.x.label, precise(x), facet.y.label, precise(y))
}
