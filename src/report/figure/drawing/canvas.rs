//! The drawing surface: plotters' SVG backend in CSS pixels.

use super::{Rgb, colours};
use ab_glyph::{Font, FontRef};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::sync::LazyLock;

/// Plotters' coordinates are whole numbers: this many of them make a pixel.
pub(super) const FINE: f64 = 10.0;

/// What an SVG asks for: the program's own font and others of the same widths.
pub const FONT_FAMILY: &str = "Liberation Sans, Arial, Helvetica, sans-serif";

/// The font that text is measured with and the PNG is rendered with. Its licence is beside it.
pub(super) const FONT: &[u8] = include_bytes!("../../../../data/fonts/LiberationSans-Regular.ttf");

/// Type sizes in pixels: at a figure's natural width 8.25, 7.5 and 9.75 points.
pub(super) const TEXT: f64 = 11.0;
pub(super) const SMALL: f64 = 10.0;
pub(super) const TITLE: f64 = 13.0;

pub(super) type DrawError = DrawingAreaErrorKind<std::io::Error>;

/// A finished drawing.
pub(super) struct Drawing {
    /// Width and height in pixels.
    pub size: (f64, f64),
    /// Elements between the root's tags, in units of 1 / [`FINE`] pixels.
    pub body: String,
}

impl Drawing {
    /// The whole document.
    pub fn svg(&self) -> String {
        let (width, height) = self.size;
        let view = (width * FINE, height * FINE);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {} {}\">\n{}\n</svg>\n",
            view.0, view.1, self.body
        )
    }
}

/// Whole plotters units.
pub(super) fn fine(pixels: f64) -> i32 {
    (pixels * FINE).round() as i32
}

/// A place in plotters units.
pub(super) fn at((x, y): (f64, f64)) -> (i32, i32) {
    (fine(x), fine(y))
}

/// Where text stands relative to its place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Left,
    Centre,
    Right,
}

/// A surface under work.
pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

/// Draws on a surface of `size` pixels.
pub(super) fn drawing(
    size: (f64, f64),
    draw: impl FnOnce(&Canvas) -> Result<(), DrawError>,
) -> Result<Drawing, DrawError> {
    let mut text = String::new();
    {
        let backend = SVGBackend::with_string(&mut text, (fine(size.0) as u32, fine(size.1) as u32));
        let area = backend.into_drawing_area();
        area.fill(&WHITE)?;
        let canvas = Canvas { area };
        draw(&canvas)?;
        canvas.area.present()?;
    }
    // The root's own tag carries the size in fine units: ours replaces it.
    let start = text.find('>').map_or(0, |end| end + 1);
    let end = text.rfind("</svg>").unwrap_or(text.len());
    let body = text.get(start..end).unwrap_or_default().trim().to_owned();
    Ok(Drawing { size, body })
}

impl Canvas<'_> {
    /// A filled rectangle; nothing where it is too thin to be seen, which would be no rectangle to a renderer.
    pub fn rectangle(&self, (x, y, w, h): (f64, f64, f64, f64), fill: impl Into<RGBAColor>) -> Result<(), DrawError> {
        let corners = [at((x, y)), at((x + w, y + h))];
        if corners[0].0 == corners[1].0 || corners[0].1 == corners[1].1 {
            return Ok(());
        }
        self.area.draw(&Rectangle::new(corners, fill.into().filled()))
    }

    /// A rectangle's outline.
    pub fn frame(&self, (x, y, w, h): (f64, f64, f64, f64), colour: Rgb) -> Result<(), DrawError> {
        // As a line: plotters' SVG rectangles have outlines of one unit whatever is asked for.
        self.line(&[(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)], colour, 0.8, false)
    }

    /// A line through places, solid or dashed.
    pub fn line(&self, places: &[(f64, f64)], colour: Rgb, width: f64, dashed: bool) -> Result<(), DrawError> {
        let style = RGBAColor::from(colour).stroke_width(fine(width) as u32);
        let places: Vec<(i32, i32)> = places.iter().copied().map(at).collect();
        if dashed {
            self.area.draw(&plotters::element::DashedPathElement::new(places, fine(5.0), fine(3.0), style))
        } else {
            self.area.draw(&PathElement::new(places, style))
        }
    }

    /// A filled polygon.
    pub fn polygon(&self, places: &[(f64, f64)], fill: impl Into<RGBAColor>) -> Result<(), DrawError> {
        self.area.draw(&Polygon::new(places.iter().copied().map(at).collect::<Vec<_>>(), fill.into().filled()))
    }

    /// A filled circle.
    pub fn circle(&self, centre: (f64, f64), radius: f64, fill: impl Into<RGBAColor>) -> Result<(), DrawError> {
        self.area.draw(&Circle::new(at(centre), fine(radius), fill.into().filled()))
    }

    /// Text, its middle at the height of `place`.
    pub fn text(&self, text: &str, place: (f64, f64), size: f64, colour: Rgb, anchor: Anchor) -> Result<(), DrawError> {
        self.area.draw(&Text::new(shown(text), at(place), style(size, colour, anchor, FontTransform::None)))
    }

    /// Text that reads upwards, its middle at `place` across; `anchor` is where along the line `place` stands.
    pub fn upward_text(&self, text: &str, place: (f64, f64), size: f64, anchor: Anchor) -> Result<(), DrawError> {
        let style = style(size, colours::INK, anchor, FontTransform::Rotate270);
        self.area.draw(&Text::new(shown(text), at(place), style))
    }
}

/// The text with their numbers in place of control characters and of letters that the font lacks, `\u{4e2d}`: XML has no way
/// to write the former, and no viewer is known to have another font for the latter.
fn shown(text: &str) -> String {
    static FACE: LazyLock<Option<FontRef<'static>>> = LazyLock::new(|| FontRef::try_from_slice(FONT).ok());
    let lacks = |letter: char| letter.is_control() || FACE.as_ref().is_some_and(|face| face.glyph_id(letter).0 == 0);
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match lacks(letter) {
            true => shown.extend(letter.escape_unicode()),
            false => shown.push(letter),
        }
    }
    shown
}

/// Plotters divides the size it is given by this.
const PLOTTERS_EM: f64 = 1.24;

fn style(size: f64, colour: Rgb, anchor: Anchor, transform: FontTransform) -> TextStyle<'static> {
    let h_pos = match anchor {
        Anchor::Left => HPos::Left,
        Anchor::Centre => HPos::Center,
        Anchor::Right => HPos::Right,
    };
    FontDesc::new(FontFamily::Name(FONT_FAMILY), size * FINE * PLOTTERS_EM, FontStyle::Normal)
        .transform(transform)
        .color(&RGBAColor::from(colour))
        .pos(Pos::new(h_pos, VPos::Center))
}

/// Ascent and descent of the font together, in ems: plotters measures by them.
const LINE_HEIGHT: f64 = 1.117;

/// Width of a text in pixels.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    static FACE: LazyLock<bool> =
        LazyLock::new(|| plotters::style::register_font(FONT_FAMILY, FontStyle::Normal, FONT).is_ok());
    let estimate = || {
        let font = FontDesc::new(FontFamily::Name(FONT_FAMILY), size * FINE * LINE_HEIGHT, FontStyle::Normal);
        font.box_size(&shown(text)).ok().map(|(width, _)| f64::from(width) / FINE)
    };
    // Half an em a letter is what text of this font has on average.
    let guess = || 0.5 * size * text.chars().count() as f64;
    if *FACE { estimate().unwrap_or_else(guess) } else { guess() }
}

/// The widest of several texts, in pixels.
pub(super) fn widest<'a>(texts: impl IntoIterator<Item = &'a str>, size: f64) -> f64 {
    texts.into_iter().map(|text| text_width(text, size)).fold(0.0, f64::max)
}

/// Words in lines of at most `width` pixels.
pub(super) fn wrapped(text: &str, size: f64, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if text_width(&format!("{line} {word}"), size) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
