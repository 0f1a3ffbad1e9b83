//! The tables, pages and figures of a reading.

use super::kept::tables;
use super::pages::Pages;
use super::{Asked, Neuroscope, column};
use crate::experiments::neuroscope::{Channel, Findings, OfChannel, Reading, TokenMean};
use crate::model::{Model, ModelError};
use crate::report::figure::Figure;
use crate::report::neuroscope::{ChannelSummary, SampleRow, TokenMeanRow, TopRow};
use crate::report::pages::{PAGE_TOKENS, PageText, ShownToken, View, write_view};
use crate::report::{CsvFile, Manifest, write_csv};
use crate::session::{Session, wrong};
use crate::studies::texts::found::{around, spelled};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Statistics of every direction and layer.
pub(super) const SUMMARY: &str = "summary.csv";
/// The largest and the smallest values.
pub(super) const TOP: &str = "top.csv";
/// The same among their neighbours, in colour.
const TOP_PAGE: &str = "top";
/// Random tokens of every bin.
pub(super) const SAMPLES: &str = "samples.csv";
/// The texts in colour.
pub(super) const TEXTS: &str = "texts";
/// A table of tokens' means, and its figure.
pub(super) const TOKEN_MEANS: &str = "token_means";
/// A table of every token's values, and of short texts a heat map of them.
pub(super) const VALUES: &str = "values";

/// Decimals that hide what is rounded away in the ends of bins.
const BIN_DECIMALS: f64 = 1e6;

/// What a list of tokens is sorted by, the smallest first.
type Order = fn(&TokenMean) -> f64;

/// A file of the reading whose files' names begin with `stem`.
pub(super) fn file(folder: &Path, stem: &str, ending: &str) -> PathBuf {
    folder.join(format!("{stem}_{ending}"))
}

/// Everything that a pass gathers, on its way into files.
pub(super) struct Files<'a> {
    study: &'a Neuroscope,
    session: &'a Session,
    asked: &'a Asked,
    model: &'a Model,
    folder: PathBuf,
    findings: Findings,
    /// Every token.
    values: Option<CsvFile>,
    /// The first tokens, when every token is written.
    shown: Vec<ShownToken>,
}

impl<'a> Files<'a> {
    /// Nothing yet.
    ///
    /// # Errors
    /// A table that cannot be begun.
    pub fn new(study: &'a Neuroscope, session: &'a Session, asked: &'a Asked, model: &'a Model) -> Result<Self> {
        let excluded = asked.excluded.iter().copied().collect();
        let findings = Findings::new(&asked.channels, model.config.d_vocab, &study.settings(session.seed()), excluded);
        let (folder, shown) = (session.folder(), Vec::new());
        let mut files = Self { study, session, asked, model, folder, findings, values: None, shown };
        if study.writes_values() {
            let channels = asked.channels.list().iter().map(column);
            let places = ["document", "position", "token"].map(str::to_owned).into_iter();
            let header: Vec<String> = places.chain(channels).chain(["token_id".to_owned()]).collect();
            let table = CsvFile::create(&files.path(&format!("{VALUES}.csv")), session.options().csv_guard)?;
            files.values.insert(table).push(header)?;
        }
        Ok(files)
    }

    fn path(&self, ending: &str) -> PathBuf {
        file(&self.folder, &self.asked.stem, ending)
    }

    fn pages(&self) -> Pages<'_> {
        Pages { model: &self.model.name, measure: self.study.measure, channels: self.asked.channels.list() }
    }

    /// Looks at a token.
    ///
    /// # Errors
    /// A token that cannot be spelled, a table that cannot be written.
    pub fn add(&mut self, reading: &Reading<'_>) -> Result<()> {
        self.findings.add(reading);
        let Some(values) = &mut self.values else { return Ok(()) };
        let text = self.model.tokenizer.decode(&[reading.token()])?;
        values.push((reading.document(), reading.position(), &text, reading.values(), reading.token()))?;
        if self.shown.len() < PAGE_TOKENS {
            self.shown.push(ShownToken { document: reading.document(), text, values: reading.values().to_vec() });
        }
        Ok(())
    }

    /// Writes every table, page and figure, removes those of an earlier reading, and records what they are made of.
    ///
    /// # Errors
    /// A corpus of nothing but excluded words; those of the file system.
    pub fn write(mut self, manifest: &mut Manifest) -> Result<(Vec<ChannelSummary>, Vec<TopRow>)> {
        let top = self.top()?;
        if let (true, Some(words)) = (top.is_empty(), &self.study.exclude) {
            let words = words.display();
            wrong!("exclude", "{words}: expected words that leave something of the corpus, found nothing left");
        }
        let mut written = Vec::new();
        if let Some(values) = self.values.take() {
            written.push(values.finish()?);
            written.extend(self.write_page(TEXTS, &self.pages().texts(&self.shown))?);
        }
        if let Some(figure) = self.pages().heat_map(&self.shown) {
            written.extend(self.write_figure(VALUES, &figure)?);
        }
        written.push(self.write_rows(TOP, &top)?);
        written.extend(self.write_page(TOP_PAGE, &self.pages().ends(self.ends()?))?);
        let (samples, means) = (self.samples()?, self.token_means()?);
        // A table without rows would be a file without a header.
        if !samples.is_empty() {
            written.push(self.write_rows(SAMPLES, &samples)?);
        }
        if !means.is_empty() {
            written.push(self.write_rows(&format!("{TOKEN_MEANS}.csv"), &means)?);
            written.extend(self.write_figure(TOKEN_MEANS, &self.pages().extremes(&means))?);
        }
        let channels: Vec<ChannelSummary> =
            self.findings.channels.iter().map(|of| summary(of, self.study.tail)).collect();
        written.push(self.write_rows(SUMMARY, &channels)?);
        written.iter().for_each(|path| manifest.wrote(path, []));
        self.remove_others(&written)?;
        self.record(&written)?;
        Ok((channels, top))
    }

    fn write_page(&self, name: &str, page: &impl View) -> Result<Option<PathBuf>> {
        Ok(write_view(page, &self.folder, &format!("{}_{name}", self.asked.stem))?)
    }

    fn write_figure(&self, name: &str, figure: &Figure) -> Result<Vec<PathBuf>> {
        Ok(figure.write_beside_data(&self.folder, &format!("{}_{name}", self.asked.stem))?)
    }

    fn write_rows(&self, ending: &str, rows: &[impl serde::Serialize]) -> Result<PathBuf> {
        let path = self.path(ending);
        write_csv(&path, rows, self.session.options().csv_guard)?;
        Ok(path)
    }

    /// Removes the files of an earlier reading that this one has none of: they would be taken for its own.
    fn remove_others(&self, written: &[PathBuf]) -> Result<()> {
        let of_figures = [TOKEN_MEANS, VALUES]
            .into_iter()
            .flat_map(|name| ["csv", "svg", "png", "pdf", "html"].map(|ending| self.path(&format!("{name}.{ending}"))));
        let all = of_figures.chain([self.path(&format!("{TEXTS}.html")), self.path(SAMPLES)]);
        for path in all.filter(|path| !written.contains(path) && path.is_file()) {
            std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Records what the reading is made of, and which files it has.
    fn record(&self, written: &[PathBuf]) -> Result<()> {
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let names: Vec<String> = written.iter().filter_map(name).collect();
        let Asked { stem, provenance, .. } = self.asked;
        self.session.record(stem, provenance, &tables(&self.folder, stem), names.into())
    }

    fn top(&self) -> Result<Vec<TopRow>> {
        let mut rows = Vec::new();
        for OfChannel { channel, largest, smallest, .. } in &self.findings.channels {
            for (end, list) in [("largest", largest), ("smallest", smallest)] {
                for (rank, found) in list.found().iter().enumerate() {
                    let [token, text] = spelled(&self.model.tokenizer, found)?;
                    let Channel { direction, layer } = channel.clone();
                    rows.push(TopRow {
                        direction,
                        layer,
                        end: end.into(),
                        rank: rank + 1,
                        value: found.value(),
                        document: found.document,
                        position: found.position,
                        token,
                        text,
                        token_id: found.token(),
                    });
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
                    rows.push(SampleRow {
                        direction,
                        layer,
                        lower,
                        upper,
                        count: bin.count,
                        value: found.value(),
                        document: found.document,
                        position: found.position,
                        token,
                        text,
                        token_id: found.token(),
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
            let mut all = self.findings.tokens.of_channel(number, self.study.min_count);
            for (list, order) in lists {
                all.sort_by(|a, b| order(a).total_cmp(&order(b)));
                for (rank, one) in all.iter().take(self.study.top.into()).enumerate() {
                    let Channel { direction, layer } = channel.clone();
                    let TokenMean { token: token_id, count, mean, std } = *one;
                    let (token, list, rank) = (self.model.tokenizer.decode(&[token_id])?, list.to_owned(), rank + 1);
                    rows.push(TokenMeanRow { direction, layer, list, rank, token, count, mean, std, token_id });
                }
            }
        }
        Ok(rows)
    }

    /// The ends of every channel among their neighbours.
    fn ends(&self) -> Result<Vec<Vec<PageText>>, ModelError> {
        let of_channel = |of: &OfChannel| {
            let ends = of.largest.found().iter().chain(of.smallest.found().iter().rev());
            ends.map(|found| around(&self.model.tokenizer, found)).collect()
        };
        self.findings.channels.iter().map(of_channel).collect()
    }
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
