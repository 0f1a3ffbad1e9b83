//! A figure drawn: plotters makes the SVG, resvg the PNG of it, `pdf-writer` the PDF, and the page is drawn by its own script.

mod axes;
mod bars;
mod canvas;
mod colours;
mod heat_map;
mod layout;
mod legend;
mod pdf;
mod png;
mod points;
mod series;

use super::palette::{Rgb, ink_on};
use super::{Axis, Bars, Class, Facet, Figure, HeatMap, Histogram, Plot, ReportError, Scale, Series, extent, stacked};
use crate::report::pages::{LARGEST, html};
pub use canvas::FONT_FAMILY;
use resvg::usvg::{Options, Tree};
use std::sync::Arc;

/// The bytes of the SVG, the PNG, the PDF and the HTML of a figure that can be drawn; `stem` names it in errors.
pub(super) fn files(figure: &Figure, stem: &str) -> Result<[Vec<u8>; 4], ReportError> {
    let svg = svg(figure)?;
    if svg.len() > LARGEST {
        return Err(figure.fault("drawing", "at most 20 MB", &format!("{:.1} MB", svg.len() as f64 / 1e6)));
    }
    let mut options = Options::default();
    let fonts = Arc::make_mut(&mut options.fontdb);
    fonts.load_font_data(canvas::FONT.to_vec());
    fonts.set_sans_serif_family("Liberation Sans");
    let tree = Tree::from_str(&svg, &options).map_err(|error| figure.fault("svg", "a picture", &error.to_string()))?;
    let (png, pdf) = (png::render(&tree, stem)?, pdf::render(&tree, stem)?);
    Ok([svg.into_bytes(), png, pdf, html(figure, stem)?.into_bytes()])
}

/// The SVG alone.
pub(super) fn svg(figure: &Figure) -> Result<String, ReportError> {
    Ok(draw(figure)?.svg())
}

fn draw(figure: &Figure) -> Result<canvas::Drawing, ReportError> {
    layout::draw(figure).map_err(|error| figure.fault("drawing", "a drawing", &error.to_string()))
}
