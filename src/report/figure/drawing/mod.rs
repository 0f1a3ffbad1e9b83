//! A figure drawn: plotters makes the SVG, resvg the PNG of it, and the page carries the same drawing.

mod axes;
mod bars;
mod canvas;
mod colours;
mod heat_map;
mod layout;
mod legend;
mod page;
mod png;
mod points;
mod series;

use super::html::{escaped, printable};
use super::palette::{Rgb, ink_on};
use super::{Axis, Bars, Class, Facet, Figure, HeatMap, Histogram, Plot, ReportError, Scale, Series, extent, stacked};
pub use canvas::FONT_FAMILY;

/// The bytes of the SVG, the PNG and the HTML of a figure that can be drawn; `stem` names it in errors.
pub(super) fn files(figure: &Figure, stem: &str) -> Result<[Vec<u8>; 3], ReportError> {
    let drawing = draw(figure)?;
    let svg = drawing.svg();
    let png = png::render(&svg, stem)?;
    Ok([svg.into_bytes(), png, page::page(figure, &drawing).into_bytes()])
}

/// The SVG alone.
pub(super) fn svg(figure: &Figure) -> Result<String, ReportError> {
    Ok(draw(figure)?.svg())
}

fn draw(figure: &Figure) -> Result<canvas::Drawing, ReportError> {
    layout::draw(figure).map_err(|error| figure.fault("drawing", "a drawing", &error.to_string()))
}
