//! Scatter plots, with labels where there is room for them.

use super::axes::{Place, Rulers};
use super::canvas::{Anchor, Canvas, DrawError, SMALL, text_width};
use super::legend::{Legend, marker};
use super::{Class, Rgb, colours};

/// Radius of a point, and the height a label takes.
const RADIUS: f64 = 3.2;
const LABEL: f64 = 11.0;

/// Draws all classes, then the labels.
pub(super) fn draw(
    canvas: &Canvas,
    classes: &[Class],
    rulers: &Rulers,
    place: Place,
    legend: &Legend,
) -> Result<(), DrawError> {
    rulers.draw_x(canvas, place)?;
    rulers.draw_y(canvas, place)?;
    let mut labels: Vec<(&str, (f64, f64))> = Vec::new();
    let mut taken = Vec::new();
    for class in classes {
        for point in &class.points {
            let (x, y) = rulers.pixel(place, (point.x, point.y));
            marker(canvas, (x, y), RADIUS, legend.style(&class.name))?;
            taken.push((x - RADIUS, y - RADIUS, 2.0 * RADIUS, 2.0 * RADIUS));
            if !point.label.is_empty() {
                labels.push((&point.label, (x, y)));
            }
        }
    }
    for (label, point) in labels {
        let width = text_width(label, SMALL);
        let Some(free) = free_place(point, width, place, &taken) else { continue };
        taken.push(free);
        let middle = (free.0 + width / 2.0, free.1 + LABEL / 2.0);
        if let Some(end) = leader(point, free) {
            canvas.line(&[point, end], colours::GREY, 0.5, false)?;
        }
        canvas.rectangle(free, Rgb(255, 255, 255).at_opacity(0.6))?;
        canvas.text(label, middle, SMALL, colours::INK, Anchor::Centre)?;
    }
    Ok(())
}

/// The first free place for a label of `width` around a point, nearest first; none when all are taken.
fn free_place(point: (f64, f64), width: f64, (left, top, w, h): Place, taken: &[Place]) -> Option<Place> {
    for distance in [4.0, 9.0, 16.0, 25.0, 36.0, 48.0] {
        for (dx, dy) in
            [(1.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (0.0, 1.0), (0.7, -0.7), (0.7, 0.7), (-0.7, -0.7), (-0.7, 0.7)]
        {
            let middle = (point.0 + dx * (distance + width / 2.0), point.1 + dy * (distance + LABEL / 2.0));
            let here = (middle.0 - width / 2.0, middle.1 - LABEL / 2.0, width, LABEL);
            let inside = here.0 >= left + 2.0
                && here.1 >= top + 1.0
                && here.0 + width <= left + w - 2.0
                && here.1 + LABEL <= top + h - 1.0;
            if inside && !taken.iter().any(|other| overlap(here, *other)) {
                return Some(here);
            }
        }
    }
    None
}

fn overlap(a: Place, b: Place) -> bool {
    a.0 < b.0 + b.2 && b.0 < a.0 + a.2 && a.1 < b.1 + b.3 && b.1 < a.1 + a.3
}

/// Where a line from the point to a label that stands apart ends.
fn leader((x, y): (f64, f64), label: Place) -> Option<(f64, f64)> {
    let end = (x.clamp(label.0, label.0 + label.2), y.clamp(label.1 + 2.0, label.1 + label.3 - 2.0));
    ((end.0 - x).hypot(end.1 - y) > 8.0).then_some(end)
}
