//! The pages and figures of a reading, each from rows of its tables.

use crate::experiments::neuroscope::{Channel, Measure};
use crate::report::figure::{Axis, Bars, Facet, Figure, HeatMap, Plot, Scale};
use crate::report::neuroscope::TokenMeanRow;
use crate::report::pages::{PageText, ShownToken, TextPage, documents};

/// Most tokens of a heat map.
const MAP_TOKENS: usize = 60;
/// Most directions of a heat map, one below the other.
const MAP_DIRECTIONS: usize = 12;
/// Most directions and layers whose tokens are shown as bars.
const BAR_CHANNELS: usize = 6;

/// What pages tell of.
pub(super) struct Pages<'a> {
    /// The model's name.
    pub model: &'a str,
    /// What values are.
    pub measure: Measure,
    /// Directions and layers, in the order of the values.
    pub channels: &'a [Channel],
}

impl Pages<'_> {
    /// Rows of tokens' means as bars: means on the left, deviations on the right, the largest on top.
    pub fn extremes(&self, rows: &[TokenMeanRow]) -> Figure {
        let measure = self.measure.name();
        let channels = rows.chunk_by(|a, b| (&a.direction, a.layer) == (&b.direction, b.layer));
        let facets = channels.take(BAR_CHANNELS).flat_map(|own| EXTREMES.map(|extremes| extremes.facet(own, measure)));
        let mut figure = Figure::new(format!("Tokens of the vocabulary, {}", self.model), facets.collect());
        figure.columns = EXTREMES.len();
        let all = self.channels.len();
        if all > BAR_CHANNELS {
            figure.caption = format!("The first {BAR_CHANNELS} of {all} directions and layers; the table has all.");
        }
        figure
    }

    /// The ends of every channel in colour, channel by channel.
    pub fn ends(&self, samples: Vec<Vec<PageText>>) -> TextPage {
        self.page("Largest and smallest values", Vec::new(), samples)
    }

    /// The texts in colour, a paragraph per document.
    pub fn texts(&self, shown: &[ShownToken]) -> TextPage {
        self.page("Tokens along directions", documents(shown), Vec::new())
    }

    fn page(&self, what: &str, documents: Vec<PageText>, samples: Vec<Vec<PageText>>) -> TextPage {
        let channel = |Channel { direction, layer }: &Channel| (direction.clone(), layer.to_string());
        let (title, measure) = (format!("{what}, {}", self.model), self.measure.name().to_owned());
        TextPage { title, measure, channels: self.channels.iter().map(channel).collect(), documents, samples }
    }

    /// Layers below each other and the tokens of a short text beside each other, one facet per direction.
    pub fn heat_map(&self, shown: &[ShownToken]) -> Option<Figure> {
        if shown.is_empty() || shown.len() > MAP_TOKENS {
            return None;
        }
        let mut directions: Vec<&String> = self.channels.iter().map(|channel| &channel.direction).collect();
        directions.sort();
        directions.dedup();
        directions.truncate(MAP_DIRECTIONS);
        let facets = directions.into_iter().map(|direction| self.heat_map_of(direction, shown)).collect();
        let mut figure = Figure::new(format!("Tokens along directions, {}", self.model), facets);
        figure.columns = 1;
        Some(figure)
    }

    fn heat_map_of(&self, direction: &str, shown: &[ShownToken]) -> Facet {
        let own = |(_, channel): &(usize, &Channel)| channel.direction == direction;
        let rows: Vec<(usize, &Channel)> = self.channels.iter().enumerate().filter(own).collect();
        let values =
            |&(number, _): &(usize, &Channel)| shown.iter().map(move |token| Some(token.values[number].into()));
        let map = HeatMap {
            rows: rows.iter().map(|(_, channel)| channel.layer.to_string()).collect(),
            columns: shown.iter().map(|token| token.text.replace('\n', "⏎")).collect(),
            values: rows.iter().flat_map(values).collect(),
            scale: Scale::Diverging,
            measure: self.measure.name().to_owned(),
            decimals: None,
        };
        let (x, y) = (Axis::new("token"), Axis::new("layer"));
        Facet { title: direction.to_owned(), x, y, plot: Plot::HeatMap(map) }
    }
}

/// Tokens at both ends of a statistic.
#[derive(Clone, Copy)]
struct Extremes {
    /// Of the facet.
    title: &'static str,
    /// The statistic.
    what: &'static str,
    /// Lists of the table: the largest, the smallest.
    lists: [&'static str; 2],
    value: fn(&TokenMeanRow) -> f64,
}

const EXTREMES: [Extremes; 2] = [
    Extremes {
        title: "Most extreme means",
        what: "mean",
        lists: ["largest_mean", "smallest_mean"],
        value: |row| row.mean,
    },
    Extremes {
        title: "Most extreme standard deviations",
        what: "standard deviation of",
        lists: ["largest_std", "smallest_std"],
        value: |row| row.std,
    },
];

impl Extremes {
    /// The tokens of one channel, from the largest to the smallest.
    fn facet(&self, own: &[TokenMeanRow], measure: &str) -> Facet {
        let [largest, smallest] = self.lists.map(|list| own.iter().filter(move |row| row.list == list));
        let mut shown: Vec<&TokenMeanRow> = largest.collect();
        // Of few tokens the largest are also among the smallest.
        let is_shown =
            |row: &TokenMeanRow, shown: &[&TokenMeanRow]| shown.iter().any(|one| one.token_id == row.token_id);
        let others: Vec<&TokenMeanRow> = smallest.filter(|row| !is_shown(row, &shown)).collect();
        shown.extend(others.into_iter().rev());
        let of = own.first().map_or(String::new(), |row| format!("{} at layer {}", row.direction, row.layer));
        let bars = Bars {
            labels: shown.iter().map(|row| format!("{:?}", row.token)).collect(),
            series: vec![(measure.to_owned(), shown.iter().map(|row| Some((self.value)(row))).collect())],
        };
        Facet {
            title: self.title.into(),
            x: Axis::new(format!("{} {measure}", self.what)),
            y: Axis::new(of),
            plot: Plot::Bars(bars),
        }
    }
}
