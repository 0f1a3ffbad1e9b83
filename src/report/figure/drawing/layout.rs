//! Where everything stands: facets in a grid, title above, caption below, legend and colour bar on the right.

use super::axes::{self, Place, Rulers};
use super::canvas::{Anchor, Canvas, DrawError, Drawing, SMALL, TEXT, TITLE, drawing, widest, wrapped};
use super::legend::{ColourBar, Legend};
use super::{Facet, Figure, HeatMap, Plot, Rgb, bars, colours, heat_map, points, series};
use std::borrow::Cow;

/// Around the whole figure, and between facets.
const MARGIN: f64 = 10.0;
const GAP: f64 = 16.0;

/// Rooms around the inside of a facet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Room {
    /// Inside of the axes.
    pub inner: (f64, f64),
    /// Tick labels beside and below.
    pub left: f64,
    /// Below the axes.
    pub below: f64,
}

/// A facet with its measures.
struct Panel<'a> {
    facet: &'a Facet,
    room: Room,
    rulers: Option<Rulers>,
}

/// Room that the names of the axes need beyond the tick labels.
fn name_room(label: &str) -> f64 {
    if label.is_empty() { 0.0 } else { 18.0 }
}

impl<'a> Panel<'a> {
    fn new(facet: &'a Facet, alone: bool) -> Self {
        let inner = match &facet.plot {
            Plot::HeatMap(map) => {
                return Self { facet, room: heat_map::room(map, alone), rulers: None };
            }
            Plot::Bars(bars) => (if alone { 360.0 } else { 250.0 }, bars::height(bars)),
            Plot::Scatter(_) => {
                if alone {
                    (460.0, 340.0)
                } else {
                    (320.0, 260.0)
                }
            }
            _ => {
                if alone {
                    (420.0, 280.0)
                } else {
                    (270.0, 200.0)
                }
            }
        };
        let rulers = Rulers::new(facet, inner);
        let left = match &facet.plot {
            Plot::Bars(bars) => widest(bars.labels.iter().map(String::as_str), SMALL),
            _ => widest(rulers.y.labels(), SMALL),
        };
        Self { facet, room: Room { inner, left: left + 8.0, below: 18.0 }, rulers: Some(rulers) }
    }

    /// Width and height with labels, names and title.
    fn size(&self) -> (f64, f64) {
        let Room { inner: (width, height), left, below } = self.room;
        let title = if self.facet.title.is_empty() { 8.0 } else { 20.0 };
        let right = 8.0;
        (left + name_room(&self.facet.y.label) + width + right, title + height + below + name_room(&self.facet.x.label))
    }

    /// The inside, when the outside's left top corner is here.
    fn place(&self, (left, top): (f64, f64)) -> Place {
        let title = if self.facet.title.is_empty() { 8.0 } else { 20.0 };
        let (width, height) = self.room.inner;
        (left + self.room.left + name_room(&self.facet.y.label), top + title, width, height)
    }
}

/// The figure with maps that are too wide for a page in bands.
fn banded(figure: &Figure) -> Cow<'_, Figure> {
    let wide = |facet: &Facet| matches!(&facet.plot, Plot::HeatMap(map) if map.columns.len() > heat_map::BAND);
    if !figure.facets.iter().any(wide) {
        return Cow::Borrowed(figure);
    }
    let bands = |facet: &Facet| -> Vec<Facet> {
        let Plot::HeatMap(map) = &facet.plot else { return vec![facet.clone()] };
        let band = |(map, ends): (HeatMap, Option<(usize, usize)>)| Facet {
            title: ends.map_or(facet.title.clone(), |(first, last)| {
                format!("{} {} {first} to {last}", facet.title, facet.x.label).trim().to_owned()
            }),
            plot: Plot::HeatMap(map),
            ..facet.clone()
        };
        heat_map::bands(map).into_iter().map(band).collect()
    };
    Cow::Owned(Figure { facets: figure.facets.iter().flat_map(bands).collect(), columns: 1, ..figure.clone() })
}

/// Draws a figure.
pub(super) fn draw(figure: &Figure) -> Result<Drawing, DrawError> {
    let figure = &*banded(figure);
    let alone = figure.facets.len() == 1;
    let panels: Vec<Panel> = figure.facets.iter().map(|facet| Panel::new(facet, alone)).collect();
    let columns = columns(figure, &panels);
    let sizes: Vec<(f64, f64)> = panels.iter().map(Panel::size).collect();
    let widths: Vec<f64> = (0..columns)
        .map(|column| sizes.iter().skip(column).step_by(columns).map(|size| size.0).fold(0.0, f64::max))
        .collect();
    let heights: Vec<f64> =
        sizes.chunks(columns).map(|row| row.iter().map(|size| size.1).fold(0.0, f64::max)).collect();
    let grid = |lengths: &[f64]| lengths.iter().sum::<f64>() + GAP * lengths.len().saturating_sub(1) as f64;
    let (grid_width, grid_height) = (grid(&widths), grid(&heights));
    let (legend, bar) = (Legend::of(figure), ColourBar::of(figure));
    let right = legend.width().max(bar.as_ref().map_or(0.0, ColourBar::width));
    let width = 2.0 * MARGIN + grid_width + if right > 0.0 { GAP + right } else { 0.0 };
    let title = wrapped(&figure.title, TITLE, width - 2.0 * MARGIN);
    let caption = wrapped(&figure.caption, SMALL, width - 2.0 * MARGIN);
    let top = MARGIN + 18.0 * title.len() as f64;
    let beside = legend.height() + bar.as_ref().map_or(0.0, ColourBar::height);
    let body = grid_height.max(beside);
    let height = top + body + MARGIN + 14.0 * caption.len() as f64;
    drawing((width.ceil(), height.ceil()), |canvas| {
        lines(canvas, &title, (MARGIN, MARGIN + 8.0), 18.0, TITLE, colours::INK)?;
        let mut corner = (MARGIN, top);
        for (row, height) in panels.chunks(columns).zip(&heights) {
            corner.0 = MARGIN;
            for (panel, width) in row.iter().zip(&widths) {
                draw_panel(canvas, panel, corner, &legend, bar.as_ref())?;
                corner.0 += width + GAP;
            }
            corner.1 += height + GAP;
        }
        let beside = (MARGIN + grid_width + GAP, top + 20.0);
        legend.draw(canvas, beside)?;
        if let Some(bar) = &bar {
            bar.draw(canvas, (beside.0, beside.1 + legend.height()))?;
        }
        lines(canvas, &caption, (MARGIN, top + body + 12.0), 14.0, SMALL, colours::GREY)
    })
}

/// Facets in a row: at most three lines or points, or as many heat maps as keep the figure about a page wide.
fn columns(figure: &Figure, panels: &[Panel]) -> usize {
    let widest = panels.iter().map(|panel| panel.size().0).fold(1.0, f64::max);
    let chosen = match figure.columns {
        0 => ((1040.0 / (widest + GAP)) as usize).clamp(1, 4),
        columns => columns,
    };
    chosen.min(panels.len()).max(1)
}

fn lines(
    canvas: &Canvas,
    lines: &[String],
    (left, top): (f64, f64),
    step: f64,
    size: f64,
    colour: Rgb,
) -> Result<(), DrawError> {
    for (number, line) in lines.iter().enumerate() {
        canvas.text(line, (left, top + step * number as f64), size, colour, Anchor::Left)?;
    }
    Ok(())
}

fn draw_panel(
    canvas: &Canvas,
    panel: &Panel,
    corner: (f64, f64),
    legend: &Legend,
    bar: Option<&ColourBar>,
) -> Result<(), DrawError> {
    let place = panel.place(corner);
    let (left, top, width, _) = place;
    let facet = panel.facet;
    canvas.text(&facet.title, (left + width / 2.0, top - 10.0), TEXT, colours::INK, Anchor::Centre)?;
    axes::names(canvas, facet, place, panel.room.left + 8.0, panel.room.below + 8.0)?;
    match (&facet.plot, &panel.rulers, bar) {
        (Plot::HeatMap(map), _, Some(bar)) => return heat_map::draw(canvas, map, place, bar),
        (Plot::Lines(lines), Some(rulers), _) => series::draw_lines(canvas, lines, rulers, place, legend)?,
        (Plot::Areas(areas), Some(rulers), _) => series::draw_areas(canvas, areas, rulers, place, legend)?,
        (Plot::Scatter(classes), Some(rulers), _) => points::draw(canvas, classes, rulers, place, legend)?,
        (Plot::Bars(bars), Some(rulers), _) => bars::draw(canvas, bars, rulers, place, legend)?,
        (Plot::Histogram(histogram), Some(rulers), _) => {
            bars::draw_histogram(canvas, histogram, rulers, place, legend)?;
        }
        (_, None, _) | (Plot::HeatMap(_), _, None) => {}
    }
    canvas.frame(place, colours::INK)
}
