//! The interactive page: the drawing, transparent shapes with values over it, and a script that shows and zooms them.

use super::canvas::{Drawing, fine};
use super::{Figure, escaped};

const SCRIPT: &str = include_str!("figure.js");
const STYLE: &str = include_str!("figure.css");

/// One file without any reference to the network.
pub(super) fn page(figure: &Figure, drawing: &Drawing) -> String {
    let title = if figure.title.is_empty() { "Figure" } else { &figure.title };
    let marks: Vec<String> = drawing
        .marks
        .iter()
        .map(|mark| {
            let (x, y, width, height) = mark.place;
            format!(
                r#"<rect x="{}" y="{}" width="{}" height="{}" data-value="{}"/>"#,
                fine(x),
                fine(y),
                fine(width).max(1),
                fine(height).max(1),
                escaped(&mark.text)
            )
        })
        .collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n{}\n{}\n<g id=\"marks\">\n{}\n</g>\n</svg>\n\
         <p>Point at a mark for its values. Wheel: zoom. Drag: move. Double click: all.</p>\n<div id=\"tip\"></div>\n\
         <script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        escaped(title),
        drawing.root(r#" id="figure""#),
        drawing.body,
        marks.join("\n"),
    )
}
