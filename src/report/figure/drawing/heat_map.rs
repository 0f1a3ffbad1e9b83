//! Matrices of coloured cells.

use super::axes::{Place, number};
use super::canvas::{Anchor, Canvas, DrawError, SMALL, text_width, widest};
use super::layout::Room;
use super::legend::{ColourBar, missing};
use super::{HeatMap, colours, ink_on};

/// Smallest distance of two labels' middles.
const PITCH: f64 = 11.0;

/// Columns side by side; a wider map is drawn in bands, one below the other.
pub(super) const BAND: usize = 200;

/// The map in bands of about as many columns, each with the numbers of its first and last one; itself when it is narrow.
pub(super) fn bands(map: &HeatMap) -> Vec<(HeatMap, Option<(usize, usize)>)> {
    let columns = map.columns.len();
    if columns <= BAND {
        return vec![(map.clone(), None)];
    }
    let width = columns.div_ceil(columns.div_ceil(BAND));
    let band = |first: usize| {
        let end = (first + width).min(columns);
        let values = map.values.chunks(columns).flat_map(|row| row[first..end].iter().copied()).collect();
        (HeatMap { columns: map.columns[first..end].to_vec(), values, ..map.clone() }, Some((first, end - 1)))
    };
    (0..columns).step_by(width).map(band).collect()
}

/// Width and height of a cell: room for its value, square without values, and the whole about half a page.
fn cell(map: &HeatMap, alone: bool) -> (f64, f64) {
    let (rows, columns) = (map.rows.len().max(1) as f64, map.columns.len().max(1) as f64);
    let space = if alone { 440.0 } else { 300.0 };
    let fit = |count: f64| (space / count).clamp(4.0, 34.0);
    match map.decimals {
        Some(decimals) => {
            let widest = map.values.iter().flatten().map(|value| text_width(&number(*value, decimals), SMALL));
            (fit(columns).max(widest.fold(0.0, f64::max) + 8.0), fit(rows).clamp(16.0, 22.0))
        }
        // Layers of a band would be slivers.
        None if columns as usize > BAND / 2 && rows < columns / 4.0 => (fit(columns), fit(rows).min(12.0)),
        None => {
            let side = fit(rows).min(fit(columns));
            (side, side)
        }
    }
}

fn upright(map: &HeatMap, cell_width: f64) -> bool {
    widest(map.columns.iter().map(String::as_str), SMALL) + 4.0 > cell_width
}

/// Room of a map with its labels.
pub(super) fn room(map: &HeatMap, alone: bool) -> Room {
    let (width, height) = cell(map, alone);
    let labels = widest(map.columns.iter().map(String::as_str), SMALL);
    Room {
        inner: (width * map.columns.len() as f64, height * map.rows.len() as f64),
        left: widest(map.rows.iter().map(String::as_str), SMALL) + 8.0,
        below: if upright(map, width) && width < labels && longer_than_number(map) { labels + 10.0 } else { 18.0 },
    }
}

/// Numbers are thinned out where they do not fit, names are turned.
fn longer_than_number(map: &HeatMap) -> bool {
    map.columns.iter().any(|label| label.parse::<i64>().is_err())
}

/// Cells of which there are more are drawn as one where they stand beside each other in one colour: the file would be
/// too large.
const SINGLE: usize = 5000;

/// The first cell of every run that is drawn as one, and its length.
fn runs(map: &HeatMap, bar: &ColourBar) -> Vec<(usize, usize)> {
    let columns = map.columns.len().max(1);
    let colour = |index: usize| map.values[index].map(|value| bar.colour(value));
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for index in 0..map.values.len() {
        match runs.last_mut() {
            Some((first, same))
                if map.values.len() > SINGLE
                    && map.decimals.is_none()
                    && index % columns > 0
                    && colour(*first) == colour(index) =>
            {
                *same += 1;
            }
            _ => runs.push((index, 1)),
        }
    }
    runs
}

/// Draws cells, values and labels.
pub(super) fn draw(canvas: &Canvas, map: &HeatMap, place: Place, bar: &ColourBar) -> Result<(), DrawError> {
    let (left, top, inner_width, inner_height) = place;
    let (rows, columns) = (map.rows.len().max(1), map.columns.len().max(1));
    let (width, height) = (inner_width / columns as f64, inner_height / rows as f64);
    for (index, same) in runs(map, bar) {
        let (row, column) = (index / columns, index % columns);
        let here = (left + width * column as f64, top + height * row as f64, width * same as f64, height);
        match &map.values[index] {
            Some(value) => {
                let colour = bar.colour(*value);
                canvas.rectangle(here, colour)?;
                if let Some(decimals) = map.decimals {
                    let middle = (here.0 + width / 2.0, here.1 + height / 2.0);
                    canvas.text(&number(*value, decimals), middle, SMALL, ink_on(colour), Anchor::Centre)?;
                }
            }
            None => missing(canvas, here)?,
        }
    }
    canvas.frame(place, colours::INK)?;
    let every = |pitch: f64, count: usize| ((PITCH / pitch).ceil() as usize).clamp(1, count.max(1));
    for (row, label) in map.rows.iter().enumerate().step_by(every(height, rows)) {
        let y = top + height * (row as f64 + 0.5);
        canvas.text(label, (left - 5.0, y), SMALL, colours::INK, Anchor::Right)?;
    }
    let turned = upright(map, width) && longer_than_number(map);
    let needed = if turned { PITCH } else { widest(map.columns.iter().map(String::as_str), SMALL) + 4.0 };
    let step = ((needed / width).ceil() as usize).clamp(1, columns);
    for (column, label) in map.columns.iter().enumerate().step_by(step) {
        let x = left + width * (column as f64 + 0.5);
        if turned {
            canvas.upward_text(label, (x, top + inner_height + 5.0), SMALL, Anchor::Right)?;
        } else {
            canvas.text(label, (x, top + inner_height + 10.0), SMALL, colours::INK, Anchor::Centre)?;
        }
    }
    Ok(())
}
