//! The tables, pages and figures of `neuroscope`.

use super::neuroscope::Args;
use super::token_pages::{PAGE_TOKENS, Shown, around, documents, spelled};
use crate::experiments::neuroscope::{Channel, Channels, Findings, OfChannel, Reading, TokenMean};
use crate::model::{Model, ModelError};
use crate::report::figure::{Axis, Bars, Facet, Figure, HeatMap, Plot, Scale, TextGroup, TextPage};
use crate::report::neuroscope::{ChannelSummary, SampleRow, TokenMeanRow, TopRow};
use crate::report::{CsvFile, Manifest, Table, write_csv};
use anyhow::{Result, bail};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Most tokens of a heat map.
const MAP_TOKENS: usize = 60;
/// Most directions of a heat map, one below the other.
const MAP_DIRECTIONS: usize = 12;
/// Most directions and layers whose tokens are shown as bars.
const BAR_CHANNELS: usize = 6;
/// Decimals that hide what is rounded away in the ends of bins.
const BIN_DECIMALS: f64 = 1e6;

/// What a list of tokens is sorted by, the smallest first.
type Order = fn(&TokenMean) -> f64;

/// What a terminal or a program is told.
pub struct Outcome {
    /// Channel by channel.
    pub summaries: Vec<ChannelSummary>,
    /// The ends of every channel.
    pub top: Vec<TopRow>,
}

impl Outcome {
    /// The summary with the outermost tokens.
    pub fn table(&self) -> Table {
        let mut table = Table::new(["direction", "layer", "tokens", "mean", "std", "largest", "smallest"]);
        for one in &self.summaries {
            let ends = ["largest", "smallest"].map(|end| {
                let own = |row: &&TopRow| row.end == end && row.direction == one.direction && row.layer == one.layer;
                let words = self.top.iter().filter(own).take(3).map(|row| format!("{:?}", row.token));
                words.collect::<Vec<_>>().join(" ")
            });
            let place = [one.direction.clone(), one.layer.to_string(), one.tokens.to_string()];
            let moments = [one.mean, one.std].map(|number| format!("{number:.4}"));
            table.push(place.into_iter().chain(moments).chain(ends));
        }
        table
    }
}

/// Everything that a pass gathers, on its way into files.
pub struct Files<'a> {
    args: &'a Args,
    model: &'a Model,
    /// Of every file, the beginning of its path.
    stem: PathBuf,
    findings: Findings,
    /// Every token.
    values: Option<CsvFile>,
    /// The first tokens, when every token is written.
    shown: Vec<Shown>,
}

impl<'a> Files<'a> {
    /// Nothing yet.
    ///
    /// # Errors
    /// A table that cannot be begun.
    pub fn new(
        args: &'a Args,
        channels: &Channels,
        excluded: HashSet<u32>,
        model: &'a Model,
        stem: PathBuf,
    ) -> Result<Self> {
        let findings = Findings::new(channels, model.config.d_vocab, &args.settings(), excluded);
        let mut files = Self { args, model, stem, findings, values: None, shown: Vec::new() };
        if args.writes_values() {
            let heads = channels.list().iter().map(|Channel { direction, layer }| format!("{direction}@{layer}"));
            let header: Vec<String> =
                ["document", "position", "token"].map(str::to_owned).into_iter().chain(heads).collect();
            files.values.insert(CsvFile::create(&files.path("values.csv"))?).push(header)?;
        }
        Ok(files)
    }

    fn path(&self, ending: &str) -> PathBuf {
        let mut path = self.stem.clone().into_os_string();
        path.push("_");
        path.push(ending);
        path.into()
    }

    /// Looks at a token.
    ///
    /// # Errors
    /// A token that cannot be spelled, a table that cannot be written.
    pub fn add(&mut self, reading: &Reading<'_>) -> Result<()> {
        self.findings.add(reading);
        let Some(values) = &mut self.values else { return Ok(()) };
        let text = self.model.tokenizer.decode(&[reading.token()])?;
        values.push((reading.document(), reading.position(), &text, reading.values()))?;
        if self.shown.len() < PAGE_TOKENS {
            self.shown.push(Shown { document: reading.document(), text, values: reading.values().to_vec() });
        }
        Ok(())
    }

    /// Writes every table, page and figure, the summary last: it says that the others are there.
    ///
    /// # Errors
    /// A corpus of nothing but excluded words; those of the file system.
    pub fn write(mut self, manifest: &mut Manifest) -> Result<Outcome> {
        let (mut written, top) = (Vec::new(), self.top()?);
        if let (true, Some(words)) = (top.is_empty(), &self.args.exclude) {
            bail!(
                "--exclude: {}: expected words that leave something of the corpus, found nothing left",
                words.display()
            );
        }
        if let Some(values) = self.values.take() {
            written.push(values.finish()?);
            written.push(self.texts().write(&self.path("texts.html"))?);
        }
        if let Some(figure) = self.heat_map() {
            written.extend(self.write_figure("values", &figure)?);
        }
        written.push(self.write_rows("top.csv", &top)?);
        written.push(self.top_page()?.write(&self.path("top.html"))?);
        let (samples, means) = (self.samples()?, self.token_means()?);
        // A table without rows would be a file without a header.
        if !samples.is_empty() {
            written.push(self.write_rows("samples.csv", &samples)?);
        }
        if !means.is_empty() {
            written.push(self.write_rows("token_means.csv", &means)?);
            written.extend(self.write_figure("token_means", &self.extremes(&means))?);
        }
        let summaries: Vec<ChannelSummary> =
            self.findings.channels.iter().map(|of| summary(of, self.args.tail)).collect();
        written.push(self.write_rows("summary.csv", &summaries)?);
        written.iter().for_each(|path| manifest.wrote(path, []));
        Ok(Outcome { summaries, top })
    }

    fn write_figure(&self, ending: &str, figure: &Figure) -> Result<Vec<PathBuf>> {
        let path = self.path(ending);
        let stem = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(figure.write(path.parent().unwrap_or(Path::new("")), &stem)?)
    }

    fn write_rows(&self, ending: &str, rows: &[impl serde::Serialize]) -> Result<PathBuf> {
        let path = self.path(ending);
        write_csv(&path, rows)?;
        Ok(path)
    }

    fn top(&self) -> Result<Vec<TopRow>> {
        let mut rows = Vec::new();
        for OfChannel { channel, largest, smallest, .. } in &self.findings.channels {
            for (end, list) in [("largest", largest), ("smallest", smallest)] {
                for (rank, found) in list.found().iter().enumerate() {
                    let [token, text] = spelled(&self.model.tokenizer, found)?;
                    let Channel { direction, layer } = channel.clone();
                    let (value, document, position) = (found.value(), found.document, found.position);
                    rows.push(TopRow { direction, layer, end, rank: rank + 1, value, document, position, token, text });
                }
            }
        }
        Ok(rows)
    }

    fn samples(&self) -> Result<Vec<SampleRow>> {
        let mut rows = Vec::new();
        for OfChannel { channel, samples, .. } in &self.findings.channels {
            for (ends, bin) in samples.iter().flat_map(|samples| samples.bins()) {
                let [lower, upper] = ends.map(|end| (end * BIN_DECIMALS).round() / BIN_DECIMALS);
                for found in &bin.samples {
                    let [token, text] = spelled(&self.model.tokenizer, found)?;
                    let Channel { direction, layer } = channel.clone();
                    let (value, document, position) = (found.value(), found.document, found.position);
                    let count = bin.count;
                    rows.push(SampleRow {
                        direction,
                        layer,
                        lower,
                        upper,
                        count,
                        value,
                        document,
                        position,
                        token,
                        text,
                    });
                }
            }
        }
        Ok(rows)
    }

    fn token_means(&self) -> Result<Vec<TokenMeanRow>> {
        let lists: [(&str, Order); 4] = [
            ("largest_mean", |token| -token.mean),
            ("smallest_mean", |token| token.mean),
            ("largest_std", |token| -token.std),
            ("smallest_std", |token| token.std),
        ];
        let mut rows = Vec::new();
        for (number, OfChannel { channel, .. }) in self.findings.channels.iter().enumerate() {
            let mut all = self.findings.tokens.of_channel(number, self.args.min_count);
            for (list, order) in lists {
                all.sort_by(|a, b| order(a).total_cmp(&order(b)));
                for (rank, one) in all.iter().take(self.args.top.into()).enumerate() {
                    let Channel { direction, layer } = channel.clone();
                    let TokenMean { token: id, count, mean, std } = *one;
                    let token = self.model.tokenizer.decode(&[id])?;
                    rows.push(TokenMeanRow { direction, layer, list, rank: rank + 1, token, id, count, mean, std });
                }
            }
        }
        Ok(rows)
    }

    /// The rows of [`Files::token_means`] as bars: means on the left, deviations on the right, the largest on top.
    fn extremes(&self, rows: &[TokenMeanRow]) -> Figure {
        let measure = self.args.measure.name();
        let channels = rows.chunk_by(|a, b| (&a.direction, a.layer) == (&b.direction, b.layer));
        let facets = channels.take(BAR_CHANNELS).flat_map(|own| EXTREMES.map(|extremes| extremes.facet(own, measure)));
        let mut figure = Figure::new(format!("Tokens of the vocabulary, {}", self.model.name), facets.collect());
        figure.columns = EXTREMES.len();
        let all = self.findings.channels.len();
        if all > BAR_CHANNELS {
            figure.caption = format!("The first {BAR_CHANNELS} of {all} directions and layers; the table has all.");
        }
        figure
    }

    /// The ends of every channel in colour.
    fn top_page(&self) -> Result<TextPage> {
        let group = |of: &OfChannel| {
            let ends = of.largest.found().iter().chain(of.smallest.found().iter().rev());
            let texts = ends.map(|found| around(&self.model.tokenizer, found)).collect::<Result<_, ModelError>>()?;
            Ok(TextGroup { heading: heading(&of.channel), texts })
        };
        let groups = self.findings.channels.iter().map(group).collect::<Result<_, ModelError>>()?;
        Ok(self.page("Largest and smallest values", groups))
    }

    /// The texts in colour, a paragraph per document.
    fn texts(&self) -> TextPage {
        let group = |(number, of): (usize, &OfChannel)| TextGroup {
            heading: heading(&of.channel),
            texts: documents(&self.shown, number),
        };
        self.page("Tokens along directions", self.findings.channels.iter().enumerate().map(group).collect())
    }

    fn page(&self, what: &str, groups: Vec<TextGroup>) -> TextPage {
        let title = format!("{what}, {}", self.model.name);
        TextPage { title, measure: self.args.measure.name().to_owned(), groups }
    }

    /// Layers below each other and the tokens of a short text beside each other, one facet per direction.
    fn heat_map(&self) -> Option<Figure> {
        if self.shown.is_empty() || self.shown.len() > MAP_TOKENS {
            return None;
        }
        let mut directions: Vec<&String> = self.findings.channels.iter().map(|of| &of.channel.direction).collect();
        directions.sort();
        directions.dedup();
        directions.truncate(MAP_DIRECTIONS);
        let facet = |direction: &&String| {
            let own = |(_, of): &(usize, &OfChannel)| of.channel.direction == **direction;
            let rows: Vec<(usize, &OfChannel)> = self.findings.channels.iter().enumerate().filter(own).collect();
            let values = |&(number, _): &(usize, &OfChannel)| {
                self.shown.iter().map(move |token| Some(token.values[number].into()))
            };
            let map = HeatMap {
                rows: rows.iter().map(|(_, of)| of.channel.layer.to_string()).collect(),
                columns: self.shown.iter().map(|token| token.text.replace('\n', "⏎")).collect(),
                values: rows.iter().flat_map(values).collect(),
                scale: Scale::Diverging,
                measure: self.args.measure.name().to_owned(),
                decimals: None,
            };
            let (x, y) = (Axis::new("token"), Axis::new("layer"));
            Facet { title: (*direction).clone(), x, y, plot: Plot::HeatMap(map) }
        };
        let mut figure = Figure::new(
            format!("Tokens along directions, {}", self.model.name),
            directions.iter().map(facet).collect(),
        );
        figure.columns = 1;
        Some(figure)
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
        let others: Vec<&TokenMeanRow> = smallest.filter(|row| shown.iter().all(|one| one.id != row.id)).collect();
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

fn heading(Channel { direction, layer }: &Channel) -> String {
    format!("{direction} at layer {layer}")
}

fn summary(OfChannel { channel, values, .. }: &OfChannel, tail: f64) -> ChannelSummary {
    let (min, max) = values.range();
    ChannelSummary {
        direction: channel.direction.clone(),
        layer: channel.layer,
        tokens: values.count(),
        mean: values.mean(),
        std: values.std(),
        min,
        max,
        lower: values.quantile(tail),
        upper: values.quantile(1.0 - tail),
    }
}
