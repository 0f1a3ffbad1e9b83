//! PNG of an SVG.

use super::canvas::FONT;
use crate::report::ReportError;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};
use std::sync::Arc;

/// Pixels per pixel of the SVG, of which an inch has 96.
const ENLARGEMENT: f32 = 3.0;

/// Renders an SVG of ours; `title` names it in errors.
pub(super) fn render(svg: &str, title: &str) -> Result<Vec<u8>, ReportError> {
    let fault = |field: &str, found: String| ReportError::Figure {
        title: title.into(),
        field: field.into(),
        expected: "a picture".into(),
        found,
    };
    let mut options = Options::default();
    let fonts = Arc::make_mut(&mut options.fontdb);
    fonts.load_font_data(FONT.to_vec());
    fonts.set_sans_serif_family("Liberation Sans");
    let tree = Tree::from_str(svg, &options).map_err(|error| fault("svg", error.to_string()))?;
    let size = tree.size();
    let side = |length: f32| (length * ENLARGEMENT).ceil() as u32;
    let mut pixels = Pixmap::new(side(size.width()), side(size.height()))
        .ok_or_else(|| fault("size", format!("{} x {}", size.width(), size.height())))?;
    resvg::render(&tree, Transform::from_scale(ENLARGEMENT, ENLARGEMENT), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| fault("png", error.to_string()))
}
