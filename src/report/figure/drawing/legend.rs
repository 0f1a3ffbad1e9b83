//! What the colours mean: names of series and classes, and the colour bar of heat maps.

use super::axes::Ruler;
use super::canvas::{Anchor, Canvas, DrawError, SMALL, TEXT, widest, wrapped};
use super::{Axis, Figure, Plot, Rgb, Scale, colours, extent};

/// One line of a legend.
const LINE: f64 = 16.0;

/// The names of a figure's series, each with its style.
pub(super) struct Legend {
    names: Vec<(String, Style)>,
    markers: Markers,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Style {
    pub colour: Rgb,
    pub baseline: bool,
    /// Shape of its markers.
    pub shape: usize,
}

/// What stands before a name.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Markers {
    Lines,
    Points,
    Blocks,
}

impl Legend {
    pub fn of(figure: &Figure) -> Self {
        let mut names: Vec<(String, Style)> = Vec::new();
        let mut classes = 0;
        for (name, baseline) in figure.facets.iter().flat_map(|facet| series_of(&facet.plot)) {
            if names.iter().any(|(known, _)| known == name) {
                continue;
            }
            let colour = if baseline { colours::GREY } else { colours::class(classes) };
            names.push((name.to_owned(), Style { colour, baseline, shape: classes }));
            classes += usize::from(!baseline);
        }
        let has = |kind: fn(&Plot) -> bool| figure.facets.iter().any(|facet| kind(&facet.plot));
        let markers = if has(|plot| matches!(plot, Plot::Lines(_))) {
            Markers::Lines
        } else if has(|plot| matches!(plot, Plot::Scatter(_))) {
            Markers::Points
        } else {
            Markers::Blocks
        };
        Self { names, markers }
    }

    /// The style of a series.
    pub fn style(&self, name: &str) -> Style {
        let known = self.names.iter().find(|(known, _)| known == name);
        known.map_or(Style { colour: colours::INK, baseline: false, shape: 0 }, |(_, style)| *style)
    }

    /// A single series is named by the axis.
    fn shown(&self) -> &[(String, Style)] {
        if self.names.len() == 1 { &[] } else { &self.names }
    }

    pub fn width(&self) -> f64 {
        match self.shown() {
            [] => 0.0,
            names => 28.0 + widest(names.iter().map(|(name, _)| name.as_str()), TEXT),
        }
    }

    pub fn height(&self) -> f64 {
        LINE * self.shown().len() as f64 + if self.shown().is_empty() { 0.0 } else { 24.0 }
    }

    pub fn draw(&self, canvas: &Canvas, (left, top): (f64, f64)) -> Result<(), DrawError> {
        for (line, (name, style)) in self.shown().iter().enumerate() {
            let y = top + LINE * line as f64 + 6.0;
            match self.markers {
                Markers::Lines => {
                    canvas.line(&[(left, y), (left + 22.0, y)], style.colour, 1.6, style.baseline)?;
                    marker(canvas, (left + 11.0, y), 3.0, *style)?;
                }
                Markers::Points => marker(canvas, (left + 11.0, y), 4.0, *style)?,
                Markers::Blocks => canvas.rectangle((left + 6.0, y - 5.0, 12.0, 10.0), style.colour)?,
            }
            canvas.text(name, (left + 27.0, y), TEXT, colours::INK, Anchor::Left)?;
        }
        Ok(())
    }
}

/// Names that the legend explains, with whether each is a baseline.
fn series_of(plot: &Plot) -> Vec<(&str, bool)> {
    match plot {
        Plot::HeatMap(_) => Vec::new(),
        Plot::Lines(series) | Plot::Areas(series) => {
            series.iter().map(|series| (series.name.as_str(), series.baseline)).collect()
        }
        Plot::Scatter(classes) => classes.iter().map(|class| (class.name.as_str(), false)).collect(),
        Plot::Bars(bars) => bars.series.iter().map(|(name, _)| (name.as_str(), false)).collect(),
        Plot::Histogram(histogram) => histogram.series.iter().map(|(name, _)| (name.as_str(), false)).collect(),
    }
}

/// A marker in the shape of its class, so that colour is never the only difference.
pub(super) fn marker(canvas: &Canvas, (x, y): (f64, f64), size: f64, style: Style) -> Result<(), DrawError> {
    let around =
        |corners: &[(f64, f64)]| corners.iter().map(|(dx, dy)| (x + dx * size, y + dy * size)).collect::<Vec<_>>();
    match style.shape % 4 {
        _ if style.baseline => Ok(()),
        0 => canvas.circle((x, y), size, style.colour),
        1 => canvas.polygon(&around(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]), style.colour),
        2 => canvas.polygon(&around(&[(0.0, -1.2), (1.1, 0.9), (-1.1, 0.9)]), style.colour),
        _ => canvas.polygon(&around(&[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]), style.colour),
    }
}

/// The common colours of a figure's heat maps.
pub(super) struct ColourBar {
    scale: Scale,
    low: f64,
    high: f64,
    measure: Vec<String>,
    ruler: Ruler,
    missing: bool,
}

/// The bar itself, in pixels.
const BAR: (f64, f64) = (14.0, 150.0);

impl ColourBar {
    /// `None` without heat maps.
    pub fn of(figure: &Figure) -> Option<Self> {
        let maps = figure.facets.iter().filter_map(|facet| match &facet.plot {
            Plot::HeatMap(map) => Some(map),
            _ => None,
        });
        let maps: Vec<_> = maps.collect();
        let first = maps.first()?;
        let values = maps.iter().flat_map(|map| map.values.iter().flatten().copied());
        let (low, high) = extent(values).map(|(low, high)| first.scale.ends(low, high))?;
        let axis = Axis { range: Some((low, high)), ..Axis::default() };
        Some(Self {
            scale: first.scale,
            low,
            high,
            measure: wrapped(&first.measure, TEXT, 130.0),
            ruler: Ruler::new(&axis, None, (0.0, 0.0), 5),
            missing: maps.iter().any(|map| map.values.contains(&None)),
        })
    }

    /// The colour of a value.
    pub fn colour(&self, value: f64) -> Rgb {
        self.scale.colour((value - self.low) / (self.high - self.low))
    }

    pub fn width(&self) -> f64 {
        let ticks = BAR.0 + 8.0 + widest(self.ruler.labels(), SMALL);
        let missing = if self.missing { 18.0 + widest(["not measured"], SMALL) } else { 0.0 };
        ticks.max(widest(self.measure.iter().map(String::as_str), TEXT)).max(missing)
    }

    pub fn height(&self) -> f64 {
        14.0 * self.measure.len() as f64 + 8.0 + BAR.1 + 30.0 + if self.missing { 22.0 } else { 0.0 }
    }

    pub fn draw(&self, canvas: &Canvas, (left, top): (f64, f64)) -> Result<(), DrawError> {
        for (number, line) in self.measure.iter().enumerate() {
            canvas.text(line, (left, top + 14.0 * number as f64), TEXT, colours::INK, Anchor::Left)?;
        }
        let top = top + 14.0 * self.measure.len() as f64 + 2.0;
        let steps = 75;
        let step = BAR.1 / f64::from(steps);
        for number in 0..steps {
            let share = 1.0 - (f64::from(number) + 0.5) / f64::from(steps);
            canvas.rectangle((left, top + step * f64::from(number), BAR.0, step), self.scale.colour(share))?;
        }
        canvas.frame((left, top, BAR.0, BAR.1), colours::INK)?;
        for (value, label) in self.ruler.ticks() {
            let y = top + BAR.1 * (1.0 - self.ruler.share(value));
            canvas.line(&[(left + BAR.0, y), (left + BAR.0 + 3.0, y)], colours::INK, 0.8, false)?;
            canvas.text(label, (left + BAR.0 + 6.0, y), SMALL, colours::INK, Anchor::Left)?;
        }
        if self.missing {
            let y = top + BAR.1 + 16.0;
            missing(canvas, (left, y - 6.0, BAR.0, 12.0))?;
            canvas.text("not measured", (left + BAR.0 + 4.0, y), SMALL, colours::INK, Anchor::Left)?;
        }
        Ok(())
    }
}

/// A cell without a value.
pub(super) fn missing(canvas: &Canvas, (x, y, w, h): (f64, f64, f64, f64)) -> Result<(), DrawError> {
    canvas.rectangle((x, y, w, h), colours::MISSING)?;
    canvas.line(&[(x, y + h), (x + w, y)], colours::GREY, 0.5, false)
}
