//! What `neuroscope` gathers in its pass, and the files it becomes.

use super::neuroscope::Args;
use crate::experiments::neuroscope::{
    Accuracy, Bin, Channel, Channels, Distribution, Extremes, Found, LabelError, Labels, Measure, Reading, Samples,
    TokenMean, TokenStatistics,
};
use crate::model::Tokenizer;
use crate::report::figure::{Axis, Facet, Figure, HeatMap, Plot, Scale, Series};
use crate::report::{CsvTable, Table};
use anyhow::Result;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Most facets of a figure, and most tokens of a heat map.
const MOST: (usize, usize) = (12, 60);
/// Parts of the range in the figure of labels.
const PARTS: usize = 50;

/// Everything that one pass gathers.
pub struct Files {
    channels: Vec<Channel>,
    distributions: Vec<Distribution>,
    extremes: Vec<Extremes>,
    /// None when values are no cosines.
    samples: Option<Vec<Samples>>,
    tokens: TokenStatistics,
    labels: Option<Labels>,
    /// Every token: document, position, text, values.
    values: Option<CsvTable>,
    /// The first tokens' texts and values, for a heat map; none when there are too many.
    shown: Option<Vec<(String, Vec<f32>)>>,
    accuracies: Vec<Option<Accuracy>>,
    tokenizer: Tokenizer,
    random: ChaCha20Rng,
    options: Args,
}

impl Files {
    /// Nothing yet.
    ///
    /// # Errors
    /// A table that cannot be begun.
    pub fn new(
        args: &Args,
        channels: &Channels,
        labels: Option<Labels>,
        d_vocab: usize,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let channels = channels.list().to_vec();
        let (n, cosines) = (channels.len(), args.measure == Measure::Cosine);
        let window = args.window.into();
        let heads = channels.iter().map(|Channel { direction, layer }| format!("{direction}@{layer}"));
        let header: Vec<String> =
            ["document", "position", "token"].map(str::to_owned).into_iter().chain(heads).collect();
        Ok(Self {
            distributions: vec![Distribution::new(cosines); n],
            extremes: (0..n).map(|channel| Extremes::new(channel, args.top.into(), window)).collect(),
            samples: cosines
                .then(|| (0..n).map(|channel| Samples::new(channel, args.samples.into(), window)).collect()),
            tokens: TokenStatistics::new(d_vocab, n),
            labels,
            values: args.writes_values().then(|| CsvTable::new(header)).transpose()?,
            shown: args.writes_values().then(Vec::new),
            accuracies: vec![None; n],
            tokenizer: tokenizer.clone(),
            random: ChaCha20Rng::seed_from_u64(args.run.seed),
            options: args.clone(),
            channels,
        })
    }

    /// Looks at a token.
    ///
    /// # Errors
    /// Labels that do not fit, a table that cannot be written.
    pub fn add(&mut self, reading: Reading<'_>) -> Result<()> {
        for (distribution, value) in self.distributions.iter_mut().zip(reading.values) {
            distribution.add(*value);
        }
        self.extremes.iter_mut().for_each(|extremes| extremes.add(&reading));
        for samples in self.samples.iter_mut().flatten() {
            samples.add(&reading, &mut self.random);
        }
        self.tokens.add(&reading);
        if let Some(labels) = &mut self.labels {
            labels.add(&reading, &self.tokenizer)?;
        }
        if let Some(values) = &mut self.values {
            let token = self.tokenizer.decode(&[reading.token()])?;
            let place = [reading.document().to_string(), reading.position().to_string(), token.clone()];
            values.push(place.into_iter().chain(reading.values.iter().map(f32::to_string)))?;
            if self.shown.as_ref().is_some_and(|shown| shown.len() >= MOST.1) {
                self.shown = None;
            }
            if let Some(shown) = &mut self.shown {
                shown.push((token, reading.values.to_vec()));
            }
        }
        Ok(())
    }

    /// Did every label meet its token? Then accuracies are known.
    ///
    /// # Errors
    /// [`LabelError`].
    pub fn check(&mut self) -> Result<(), LabelError> {
        let Some(labels) = &self.labels else { return Ok(()) };
        labels.check()?;
        let share = self.options.share;
        self.accuracies =
            self.distributions.iter().enumerate().map(|(n, all)| labels.accuracy(n, all, share)).collect();
        Ok(())
    }

    fn text_of(&self, found: &Found) -> Result<[String; 2]> {
        Ok([self.tokenizer.decode(&[found.token])?, self.tokenizer.decode(&found.window)?])
    }

    /// Writes every table and figure, and says which.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&mut self, folder: &Path, stem: &str, model: &str) -> Result<Vec<PathBuf>> {
        let path = |name: &str| folder.join(format!("{stem}_{name}.csv"));
        let mut written = Vec::new();
        if let Some(values) = self.values.take() {
            written.push(values.write(&path("values"))?);
        }
        written.push(self.top()?.write(&path("top"))?);
        if let Some(samples) = self.samples.take() {
            written.push(self.sample_table(&samples)?.write(&path("samples"))?);
        }
        written.push(self.token_means()?.write(&path("token_means"))?);
        if self.labels.is_some() {
            written.push(self.accuracy_table()?.write(&path("accuracy"))?);
        }
        if let Some(figure) = self.heat_map(model) {
            written.extend(figure.write(folder, &format!("{stem}_values"))?);
        }
        if let Some(figure) = self.shares(model) {
            written.extend(figure.write(folder, &format!("{stem}_labels"))?);
        }
        // Last: a summary says that the others are there.
        written.push(self.summary()?.write(&path("summary"))?);
        Ok(written)
    }

    /// A table whose rows begin with direction and layer.
    fn table(columns: &[&str]) -> Result<CsvTable> {
        Ok(CsvTable::new(["direction", "layer"].iter().chain(columns).map(|name| (*name).to_owned()).collect())?)
    }

    fn each(&self) -> impl Iterator<Item = (usize, [String; 2])> {
        let keys = |Channel { direction, layer }: &Channel| [direction.clone(), layer.to_string()];
        self.channels.iter().map(keys).enumerate()
    }

    fn summary(&self) -> Result<CsvTable> {
        let mut table = Self::table(&["tokens", "mean", "std", "min", "max", "lower", "upper"])?;
        for (channel, keys) in self.each() {
            let all = &self.distributions[channel];
            let share = self.options.share;
            let quantile = |q| all.quantile(q).map_or(String::new(), |value: f64| value.to_string());
            let (min, max) = all.range();
            let numbers = [all.mean(), all.std(), min.into(), max.into()].map(|number: f64| number.to_string());
            let quantiles = [quantile(share), quantile(1.0 - share)];
            table.push(keys.into_iter().chain([all.count().to_string()]).chain(numbers).chain(quantiles))?;
        }
        Ok(table)
    }

    fn top(&self) -> Result<CsvTable> {
        let mut table = Self::table(&["end", "rank", "value", "document", "position", "token", "text"])?;
        for (channel, keys) in self.each() {
            let ends = [("largest", self.extremes[channel].largest()), ("smallest", self.extremes[channel].smallest())];
            for (end, list) in ends {
                for (rank, found) in list.iter().enumerate() {
                    let place = [end.to_owned(), (rank + 1).to_string()].into_iter().chain(numbers(found));
                    table.push(keys.iter().cloned().chain(place).chain(self.text_of(found)?))?;
                }
            }
        }
        Ok(table)
    }

    fn sample_table(&mut self, samples: &[Samples]) -> Result<CsvTable> {
        let mut table =
            Self::table(&["bin", "lower", "upper", "count", "value", "document", "position", "token", "text"])?;
        let bins: Vec<Vec<Bin>> =
            samples.iter().map(|one| one.bins(self.options.bins.into(), &mut self.random)).collect();
        for (channel, keys) in self.each() {
            for (number, bin) in bins[channel].iter().enumerate() {
                for found in &bin.samples {
                    let place = [number.to_string(), short(bin.range.0), short(bin.range.1), bin.count.to_string()];
                    let place = place.into_iter().chain(numbers(found));
                    table.push(keys.iter().cloned().chain(place).chain(self.text_of(found)?))?;
                }
            }
        }
        Ok(table)
    }

    fn token_means(&self) -> Result<CsvTable> {
        let mut table = Self::table(&["list", "rank", "token", "count", "mean", "std"])?;
        for (channel, keys) in self.each() {
            let all = self.tokens.of_channel(channel, self.options.min_count);
            let lists: [(&str, fn(&TokenMean) -> f64); 3] = [
                ("largest_mean", |token| -token.mean),
                ("smallest_mean", |token| token.mean),
                ("largest_std", |token| -token.std),
            ];
            for (list, order) in lists {
                let mut sorted = all.clone();
                sorted.sort_by(|a, b| order(a).total_cmp(&order(b)));
                for (rank, one) in sorted.iter().take(self.options.top.into()).enumerate() {
                    let text = self.tokenizer.decode(&[one.token])?;
                    let place = [list.to_owned(), (rank + 1).to_string(), text, one.count.to_string()];
                    let numbers = [one.mean.to_string(), one.std.to_string()];
                    table.push(keys.iter().cloned().chain(place).chain(numbers))?;
                }
            }
        }
        Ok(table)
    }

    fn accuracy_table(&self) -> Result<CsvTable> {
        let mut table = Self::table(&["labelled_above", "labelled_below", "accuracy", "accuracy_of_the_paper"])?;
        for (channel, keys) in self.each() {
            let found = match self.accuracies[channel] {
                None => std::array::from_fn(|_| String::new()),
                Some(Accuracy { labelled: (above, below), paper, opposite }) => {
                    [above.to_string(), below.to_string(), opposite.to_string(), paper.to_string()]
                }
            };
            table.push(keys.into_iter().chain(found))?;
        }
        Ok(table)
    }

    /// The tokens of a short text beside each other, one facet per direction.
    fn heat_map(&self, model: &str) -> Option<Figure> {
        let shown = self.shown.as_ref().filter(|shown| !shown.is_empty())?;
        let mut directions: Vec<&String> = self.channels.iter().map(|channel| &channel.direction).collect();
        directions.sort();
        directions.dedup();
        let facet = |direction: &&String| {
            let rows: Vec<usize> =
                (0..self.channels.len()).filter(|&channel| self.channels[channel].direction == **direction).collect();
            let map = HeatMap {
                rows: rows.iter().map(|&channel| self.channels[channel].layer.to_string()).collect(),
                columns: shown.iter().map(|(token, _)| token.replace('\n', "⏎")).collect(),
                values: rows.iter().flat_map(|&row| shown.iter().map(move |(_, v)| Some(v[row].into()))).collect(),
                scale: Scale::Diverging,
                measure: self.measure().to_owned(),
                decimals: None,
            };
            Facet {
                title: (*direction).clone(),
                x: Axis::new("token"),
                y: Axis::new("layer"),
                plot: Plot::HeatMap(map),
            }
        };
        let facets = directions.iter().take(MOST.0).map(facet).collect();
        let mut figure = Figure::new(format!("Residuals along directions, {model}"), facets);
        figure.columns = 1;
        Some(figure)
    }

    /// The labels' shares along the values, one facet per channel.
    fn shares(&self, model: &str) -> Option<Figure> {
        let labels = self.labels.as_ref()?;
        let facet = |(channel, [direction, layer]): (usize, [String; 2])| {
            let parts = labels.proportions(channel, PARTS);
            let names = parts.first().map_or(Vec::new(), |(_, shares)| shares.keys().cloned().collect());
            let points = |name: &String| parts.iter().map(|(x, shares)| (*x, 100.0 * shares[name])).collect();
            let series =
                names.iter().map(|name| Series { name: name.clone(), points: points(name), baseline: false }).collect();
            Facet {
                title: format!("{direction} at layer {layer}"),
                x: Axis::new(self.measure()),
                y: Axis { range: Some((0.0, 100.0)), ..Axis::new("share of labels (%)") },
                plot: Plot::Areas(series),
            }
        };
        let facets: Vec<Facet> = self.each().take(MOST.0).map(facet).collect();
        Some(Figure::new(format!("Labels by value, {model}"), facets))
    }

    fn measure(&self) -> &'static str {
        match self.options.measure {
            Measure::Cosine => "cosine",
            Measure::Projection => "projection",
        }
    }

    /// What a terminal shows: the summary, and the ends of every channel.
    pub fn text(&self, args: &Args) -> String {
        let mut table = Table::new(["direction", "layer", "tokens", "mean", "std", "largest", "smallest", "accuracy"]);
        for (channel, [direction, layer]) in self.each() {
            let all = &self.distributions[channel];
            let words = |list: &[Found]| {
                let word = |found: &Found| self.tokenizer.decode(&[found.token]).unwrap_or_default();
                list.iter().take(3).map(|found| format!("{:?}", word(found))).collect::<Vec<_>>().join(" ")
            };
            let ends = [words(self.extremes[channel].largest()), words(self.extremes[channel].smallest())];
            let accuracy = self.accuracies[channel].map_or(String::new(), |found| format!("{:.3}", found.opposite));
            let moments = [format!("{:.4}", all.mean()), format!("{:.4}", all.std())];
            let row = [direction, layer, all.count().to_string()].into_iter().chain(moments).chain(ends);
            table.push(row.chain([accuracy]));
        }
        format!("{} per token\n{table}", if args.measure == Measure::Cosine { "cosine" } else { "projection" })
    }

    /// The same for programs.
    pub fn as_json(&self) -> serde_json::Value {
        let channel = |(channel, [direction, layer]): (usize, [String; 2])| {
            let all = &self.distributions[channel];
            let found = self.accuracies[channel];
            json!({
                "direction": direction, "layer": layer.parse::<usize>().ok(), "tokens": all.count(),
                "mean": all.mean(), "std": all.std(), "min": all.range().0, "max": all.range().1,
                "accuracy": found.map(|found| found.opposite), "accuracy_of_the_paper": found.map(|found| found.paper),
            })
        };
        self.each().map(channel).collect()
    }
}

fn numbers(found: &Found) -> [String; 3] {
    [found.value.to_string(), found.document.to_string(), found.position.to_string()]
}

/// The end of a bin without the rounding of its sum.
fn short(value: f64) -> String {
    format!("{value:.3}")
}
