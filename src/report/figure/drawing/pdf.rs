//! PDF of an SVG: its shapes, and its texts as outlines, so that no reader needs the font.

use crate::report::ReportError;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use pdf_writer::writers::ExtGraphicsState;
use pdf_writer::{Content, Filter, Finish, Name, Pdf, Rect, Ref};
use resvg::tiny_skia::{Path as Outline, PathSegment, Point};
use resvg::usvg::{Color, FillRule, Group, Node, Opacity, Paint, Path, Tree};
use std::collections::BTreeSet;
use std::io::Write;

/// Points per pixel of the SVG: an inch has 72 of them and 96 pixels.
const POINTS: f32 = 0.75;

/// One page of the size of the drawing, an SVG of ours; `title` names it in errors.
pub(super) fn render(tree: &Tree, title: &str) -> Result<Vec<u8>, ReportError> {
    let fault = |found: String| ReportError::Figure {
        title: title.into(),
        field: "pdf".into(),
        expected: "shapes and texts of plain colours".into(),
        found,
    };
    let (width, height) = (POINTS * tree.size().width(), POINTS * tree.size().height());
    let mut page = Page { content: Content::new(), opacities: BTreeSet::new() };
    // The vertical axis of a PDF points upwards.
    page.content.transform([POINTS, 0.0, 0.0, -POINTS, 0.0, height]);
    page.group(tree.root(), Opacity::ONE).map_err(|found| fault(found.into()))?;
    let Page { content, opacities } = page;

    let [catalogue, pages, one, shapes] = [1, 2, 3, 4].map(Ref::new);
    let mut pdf = Pdf::new();
    pdf.catalog(catalogue).pages(pages);
    pdf.pages(pages).kids([one]).count(1);
    let mut written = pdf.page(one);
    written.media_box(Rect::new(0.0, 0.0, width, height)).parent(pages).contents(shapes);
    let mut resources = written.resources();
    let mut states = resources.ext_g_states();
    for opacity in opacities {
        let mut state: ExtGraphicsState = states.insert(Name(name_of(opacity).as_bytes())).start();
        let alpha = f32::from(opacity) / 255.0;
        state.non_stroking_alpha(alpha).stroking_alpha(alpha);
    }
    states.finish();
    resources.finish();
    written.finish();
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    let packed = packed.write_all(&content.finish()).and_then(|()| packed.finish());
    pdf.stream(shapes, &packed.map_err(|error| fault(error.to_string()))?).filter(Filter::FlateDecode);
    Ok(pdf.finish())
}

/// The graphics state of an opacity.
fn name_of(opacity: u8) -> String {
    format!("opacity{opacity}")
}

struct Page {
    content: Content,
    /// Those that occur, in steps of 1 / 255.
    opacities: BTreeSet<u8>,
}

impl Page {
    /// Draws what is in a group; an error says what it has that our drawings have not.
    fn group(&mut self, group: &Group, opacity: Opacity) -> Result<(), &'static str> {
        // What lies over each other in a translucent group would shine through.
        let together = group.opacity() != Opacity::ONE && group.children().len() > 1;
        if together || group.clip_path().is_some() || group.mask().is_some() || !group.filters().is_empty() {
            return Err("a group with effects");
        }
        let opacity = opacity * group.opacity();
        for node in group.children() {
            match node {
                Node::Group(group) => self.group(group, opacity)?,
                Node::Path(path) => self.path(path, opacity)?,
                Node::Text(text) => self.group(text.flattened(), opacity)?,
                Node::Image(_) => return Err("an image"),
            }
        }
        Ok(())
    }

    fn path(&mut self, path: &Path, opacity: Opacity) -> Result<(), &'static str> {
        if !path.is_visible() {
            return Ok(());
        }
        self.content.save_state();
        let to = path.abs_transform();
        self.content.transform([to.sx, to.ky, to.kx, to.sy, to.tx, to.ty]);
        if let Some(fill) = path.fill() {
            let [red, green, blue] = self.colour(fill.paint(), opacity * fill.opacity())?;
            self.content.set_fill_rgb(red, green, blue);
            self.outline(path.data());
            match fill.rule() {
                FillRule::NonZero => self.content.fill_nonzero(),
                FillRule::EvenOdd => self.content.fill_even_odd(),
            };
        }
        if let Some(stroke) = path.stroke() {
            let [red, green, blue] = self.colour(stroke.paint(), opacity * stroke.opacity())?;
            self.content.set_stroke_rgb(red, green, blue).set_line_width(stroke.width().get());
            if let Some(dashes) = stroke.dasharray() {
                self.content.set_dash_pattern(dashes.iter().copied(), stroke.dashoffset());
            }
            self.outline(path.data());
            self.content.stroke();
        }
        self.content.restore_state();
        Ok(())
    }

    /// A plain colour, whose opacity is set.
    fn colour(&mut self, paint: &Paint, opacity: Opacity) -> Result<[f32; 3], &'static str> {
        let Paint::Color(Color { red, green, blue }) = paint else { return Err("a gradient or a pattern") };
        let opacity = opacity.to_u8();
        self.opacities.insert(opacity);
        self.content.set_parameters(Name(name_of(opacity).as_bytes()));
        Ok([red, green, blue].map(|part| f32::from(*part) / 255.0))
    }

    fn outline(&mut self, outline: &Outline) {
        let mut last = Point::zero();
        for segment in outline.segments() {
            match segment {
                PathSegment::MoveTo(to) => self.content.move_to(to.x, to.y),
                PathSegment::LineTo(to) => self.content.line_to(to.x, to.y),
                // PDF has cubic curves alone; the same curve, of a higher degree.
                PathSegment::QuadTo(by, to) => {
                    let near = |end: Point| (end.x + (by.x - end.x) * 2.0 / 3.0, end.y + (by.y - end.y) * 2.0 / 3.0);
                    let (first, second) = (near(last), near(to));
                    self.content.cubic_to(first.0, first.1, second.0, second.1, to.x, to.y)
                }
                PathSegment::CubicTo(first, second, to) => {
                    self.content.cubic_to(first.x, first.y, second.x, second.y, to.x, to.y)
                }
                PathSegment::Close => self.content.close_path(),
            };
            if let PathSegment::MoveTo(to)
            | PathSegment::LineTo(to)
            | PathSegment::QuadTo(_, to)
            | PathSegment::CubicTo(_, _, to) = segment
            {
                last = to;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::render;
    use flate2::read::ZlibDecoder;
    use resvg::usvg::{Options, Tree};
    use std::io::Read;

    fn tree(body: &str) -> Tree {
        let svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"80\" height=\"40\" viewBox=\"0 0 800 400\">{body}</svg>"
        );
        Tree::from_str(&svg, &Options::default()).unwrap()
    }

    #[test]
    fn a_page_has_the_shapes_of_the_drawing() {
        let triangle = r##"<polygon points="0,0 100,0 100,50" fill="#FF0000" opacity="0.2"/>"##;
        let line =
            r##"<polyline points="8,16 24,16" fill="none" stroke="#00FF00" stroke-width="4" stroke-dasharray="2,1"/>"##;
        let curve = r##"<path d="M 0 0 Q 30 0 30 60" fill="#0000FF"/>"##;
        let pdf = render(&tree(&[triangle, line, curve].concat()), "shapes").unwrap();
        let found = |part: &[u8]| pdf.windows(part.len()).position(|window| window == part);
        assert!(pdf.starts_with(b"%PDF-") && found(b"/MediaBox [0 0 60 30]").is_some());
        assert!(found(b"/opacity51").is_some() && found(b"/opacity255").is_some());
        let start = found(b"stream\n").unwrap() + b"stream\n".len();
        let mut shapes = String::new();
        ZlibDecoder::new(&pdf[start..]).read_to_string(&mut shapes).unwrap();
        let shapes: Vec<&str> = shapes.lines().collect();
        let expected = [
            "0.75 0 0 -0.75 0 30 cm",
            "q",
            "0.1 0 0 0.1 0 0 cm",
            "/opacity51 gs",
            "1 0 0 rg",
            "0 0 m",
            "100 0 l",
            "100 50 l",
            "h",
            "f",
            "Q",
            "q",
            "0.1 0 0 0.1 0 0 cm",
            "/opacity255 gs",
            "0 1 0 RG",
            "4 w",
            "[2 1] 0 d",
            "8 16 m",
            "24 16 l",
            "S",
            "Q",
            "q",
            "0.1 0 0 0.1 0 0 cm",
            "/opacity255 gs",
            "0 0 1 rg",
            "0 0 m",
            "20 0 30 20 30 60 c",
            "f",
            "Q",
        ];
        assert_eq!(shapes, expected);
    }

    #[test]
    fn what_would_look_otherwise_is_refused() {
        let gradient = r##"<linearGradient id="a"><stop stop-color="red"/><stop offset="1"/></linearGradient><rect width="9" height="9" fill="url(#a)"/>"##;
        let group = r##"<g opacity="0.5"><rect width="9" height="9"/><rect width="5" height="5" fill="red"/></g>"##;
        for (body, says) in [(gradient, "a gradient"), (group, "a group with effects")] {
            let error = render(&tree(body), "stem").unwrap_err().to_string();
            assert!(error.contains("stem") && error.contains(says), "{error}");
        }
    }
}
