//! PNG of an SVG.

use crate::report::ReportError;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::Tree;

/// Pixels per pixel of the SVG, of which an inch has 96.
const ENLARGEMENT: f32 = 3.0;

/// Renders an SVG; `title` names it in errors.
pub(super) fn render(tree: &Tree, title: &str) -> Result<Vec<u8>, ReportError> {
    let fault = |field: &str, found: String| ReportError::Figure {
        title: title.into(),
        field: field.into(),
        expected: "a picture".into(),
        found,
    };
    let size = tree.size();
    let side = |length: f32| (length * ENLARGEMENT).ceil() as u32;
    let mut pixels = Pixmap::new(side(size.width()), side(size.height()))
        .ok_or_else(|| fault("size", format!("{} x {}", size.width(), size.height())))?;
    resvg::render(tree, Transform::from_scale(ENLARGEMENT, ENLARGEMENT), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| fault("png", error.to_string()))
}
