//! Every token of a corpus read along directions.

mod files;
mod kept;
mod pages;

use super::corpus::{Corpus, of_corpus};
use super::hash_of_direction;
use crate::backend::Backend;
use crate::engine::{Engine, Flops, Layout};
use crate::experiments::neuroscope::{Channel, Channels, Measure, Settings, Words, read_corpus};
use crate::files::{read_text, sha256};
use crate::model::Model;
use crate::report::neuroscope::{ChannelSummary, TopRow};
use crate::report::{Manifest, RunRecord, Table};
use crate::session::{DeviceWork, Note, Observer, OfSetting, Progress, Provenance, Session, layers, note_kept, wrong};
use crate::studies::fields::{list, not_empty, optional_path};
use crate::studies::{Notes, Plan, Study};
use anyhow::Result;
use files::Files;
use kept::{Found, Kept};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// Reads every token of texts along directions: values, extremes, samples to label.
///
/// The corpus goes through the model once, piece by piece, whatever the number of directions and layers. BOS is not
/// counted; every row begins with it, whether or not given tokens do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Neuroscope {
    /// What is read.
    #[serde(flatten)]
    pub corpus: Corpus,
    /// Directions by name, `*` and `?` match anything.
    #[serde(deserialize_with = "list")]
    pub directions: Vec<String>,
    /// Where residuals are read: `own`, each direction at its own layer, or layers for all directions (`all`,
    /// 0,3,6..9).
    #[serde(deserialize_with = "list")]
    pub layers: Vec<String>,
    /// Values: cosines of residual and direction, or their products (no samples and no quantiles then).
    pub measure: Measure,
    /// How many largest and smallest values. At least 1.
    pub top: u16,
    /// Tokens shown on either side of one.
    pub window: u16,
    /// Width of the bins that samples are drawn from: 0.001 to 1.
    pub bin_width: f64,
    /// Samples of each bin.
    pub samples: u16,
    /// Least occurrences of a token in the table of tokens' means.
    pub min_count: u64,
    /// A file of words, one a line, that the lists of tokens leave out: each in lower case, Capitalised and in UPPER
    /// CASE, with and without a space in front or behind.
    #[serde(serialize_with = "optional_path")]
    pub exclude: Option<PathBuf>,
    /// Share of the tokens beyond either quantile of the summary: 0 or more and below 0.5.
    pub tail: f64,
    /// Write every token's values; always done for texts that are no file.
    pub every_token: bool,
}

impl Default for Neuroscope {
    fn default() -> Self {
        Self {
            corpus: Corpus::default(),
            directions: Vec::new(),
            layers: vec!["own".into()],
            measure: Measure::Cosine,
            top: 10,
            window: 10,
            bin_width: 0.02,
            samples: 20,
            min_count: 10,
            exclude: None,
            tail: 0.001,
            every_token: false,
        }
    }
}

/// What a reading tells of a model.
#[derive(Debug, Clone, Serialize)]
pub struct Readings {
    /// The model's name.
    pub model: String,
    /// What values are.
    #[serde(skip)]
    pub measure: Measure,
    /// Every direction at every layer.
    pub channels: Vec<ChannelSummary>,
    /// The ends of all of them.
    pub top: Vec<TopRow>,
    /// The manifest; none when the reading was there.
    pub manifest: Option<RunRecord>,
}

/// How many tokens of an end the text shows.
const SHOWN: usize = 3;

impl fmt::Display for Readings {
    /// The summary with the outermost tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["direction", "layer", "tokens", "mean", "std", "largest", "smallest"]);
        for one in &self.channels {
            let ends = ["largest", "smallest"].map(|end| {
                let own = |row: &&TopRow| row.end == end && row.direction == one.direction && row.layer == one.layer;
                let words = self.top.iter().filter(own).take(SHOWN).map(|row| format!("{:?}", row.token));
                words.collect::<Vec<_>>().join(" ")
            });
            let place = [one.direction.clone(), one.layer.to_string(), one.tokens.to_string()];
            let moments = [one.mean, one.std].map(|number| format!("{number:.4}"));
            table.push(place.into_iter().chain(moments).chain(ends));
        }
        write!(f, "{}, {} per token\n{table}", self.model, self.measure.name())
    }
}

impl Neuroscope {
    /// Does every token get a line?
    fn writes_values(&self) -> bool {
        self.every_token || self.corpus.corpus.is_none()
    }

    /// How much is kept.
    fn settings(&self, seed: u64) -> Settings {
        Settings {
            measure: self.measure,
            top: self.top.into(),
            window: self.window.into(),
            bin_width: self.bin_width,
            samples: self.samples.into(),
            seed,
        }
    }

    /// The tokens of the vocabulary that lists leave out.
    fn excluded(&self, model: &Model) -> Result<BTreeSet<u32>> {
        let Some(path) = &self.exclude else { return Ok(BTreeSet::new()) };
        let file = path.display();
        let words = match read_text(path) {
            Ok(text) => Words::of_lines(&text),
            Err(error) => wrong!("exclude", "{file}: {error}"),
        };
        if words.is_empty() {
            wrong!("exclude", "{file}: expected a word a line, found none");
        }
        let mut excluded = BTreeSet::new();
        for token in 0..model.config.d_vocab as u32 {
            if words.contains(&model.tokenizer.decode(&[token])?) {
                excluded.insert(token);
            }
        }
        if excluded.is_empty() {
            wrong!("exclude", "{file}: expected a word that is one token of {}, found none", model.name);
        }
        Ok(excluded)
    }

    /// The directions that are asked for, at their layers, and what they are made of.
    fn channels(&self, session: &Session, provenance: Provenance) -> Result<(Channels, Provenance)> {
        let own = self.layers == ["own"];
        let layers = if own { Vec::new() } else { layers("layers", &self.layers, session.config().n_layers)? };
        let (mut channels, mut provenance) = (Vec::new(), provenance);
        for (name, direction) in session.unit_directions(&self.directions)? {
            provenance = provenance.with(format!("direction {name}"), hash_of_direction(&direction))?;
            for layer in if own { vec![name.layer()] } else { layers.clone() } {
                channels.push((Channel { direction: name.to_string(), layer }, direction.clone()));
            }
        }
        let channels = Channels::new(channels);
        let names: Vec<String> = channels.list().iter().map(column).collect();
        Ok((channels, provenance.with("channels", names)?))
    }

    /// What is asked for of a model.
    fn asked(&self, session: &Session) -> Result<Asked> {
        self.validate()?;
        let name = self.corpus.name()?;
        let provenance = session
            .provenance(Self::NAME)?
            .with("corpus", self.corpus.fingerprint().of_setting("corpus")?)?
            .with("corpus_format", self.corpus.format())?
            .with("row_tokens", self.corpus.row_length(session.config()))?;
        let (channels, provenance) = self.channels(session, provenance)?;
        let excluded = self.excluded(session.model())?;
        let hash =
            (!excluded.is_empty()).then(|| sha256(bytemuck::cast_slice(&Vec::from_iter(excluded.iter().copied()))));
        let mut provenance = provenance
            .with("exclude", hash)?
            .with("measure", self.measure)?
            .with("top", self.top)?
            .with("window", self.window)?
            .with("min_count", self.min_count)?
            .with("every_token", self.writes_values())?;
        if self.measure == Measure::Cosine {
            provenance = provenance
                .with("bin_width", self.bin_width)?
                .with("samples", self.samples)?
                .with("seed", session.seed())?
                .with("tail", self.tail)?;
        }
        Ok(Asked { channels, excluded, stem: format!("neuroscope_{name}"), name, provenance })
    }

    /// The reading that is there, if it is the one that is asked for.
    fn kept(&self, session: &Session, asked: &Asked, observer: &mut dyn Observer) -> Result<Option<Kept>> {
        if session.options().overwrite {
            return Ok(None);
        }
        let found = kept::find(session, asked)?;
        if let Found::Kept(kept) = found {
            note_kept(observer, 1, &format!("reading of {:?}", asked.name), session.folder());
            return Ok(Some(kept));
        }
        kept::refuse_labelled(session, &asked.stem)?;
        if let Found::Other(difference) = found {
            observer.note(&Note::Renewed { what: asked.stem.clone(), difference });
        }
        Ok(None)
    }
}

/// What is asked for of a model.
struct Asked {
    channels: Channels,
    /// Tokens that lists leave out.
    excluded: BTreeSet<u32>,
    /// The corpus' name.
    name: String,
    /// The beginning of the files' names.
    stem: String,
    provenance: Provenance,
}

/// A channel as columns of tables name it.
fn column(Channel { direction, layer }: &Channel) -> String {
    format!("{direction}@{layer}")
}

impl Study for Neuroscope {
    const NAME: &'static str = "neuroscope";
    type Outcome = Readings;

    fn validate(&self) -> Result<()> {
        self.corpus.validate()?;
        if self.directions.is_empty() {
            wrong!("directions", "expected names of directions, found none");
        }
        not_empty(&[("layers", self.layers.len())])?;
        if self.top == 0 {
            wrong!("top", "expected at least 1, found 0");
        }
        if !(0.001..=1.0).contains(&self.bin_width) {
            wrong!("bin_width", "expected a width of 0.001 to 1, found {}", self.bin_width);
        }
        if !(0.0..0.5).contains(&self.tail) {
            wrong!("tail", "expected a share of 0 or more and below 0.5, found {}", self.tail);
        }
        Ok(())
    }

    /// The corpus is counted, not read by the model.
    fn plan(&self, session: &Session) -> Result<Plan> {
        let (asked, model, config) = (self.asked(session)?, session.model(), session.config());
        let mut notes = Notes::default();
        if self.kept(session, &asked, &mut notes)?.is_some() {
            return Ok(Plan::of(format!("{}\n", model.name)).costing(Flops::default(), None).with(notes));
        }
        let (mut rows, mut tokens, mut flops) = (0usize, 0usize, Flops::default());
        for row in self.corpus.rows(&model.tokenizer, config).of_setting("corpus")? {
            let row = row.of_setting("corpus")?;
            rows += 1;
            tokens += row.tokens.len() - row.bos;
            flops = flops + Flops::forward(config, &Layout::new([(0, row.tokens.len())]), 0, 0);
        }
        let mut table = Table::new(["direction", "layer"]);
        for Channel { direction, layer } in asked.channels.list() {
            table.push([direction.clone(), layer.to_string()]);
        }
        let cost = format!("one pass over {tokens} tokens in {rows} rows, {flops}");
        Ok(Plan::of(format!("{}\n{table}{cost}\n", model.name)).costing(flops, None).with(notes))
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Readings> {
        let asked = self.asked(session)?;
        let (model, measure) = (session.model().name.clone(), self.measure);
        if let Some(kept) = self.kept(session, &asked, observer)? {
            kept.draw_lost(self, session, &asked)?;
            let Kept { channels, top, .. } = kept;
            return Ok(Readings { model, measure, channels, top, manifest: None });
        }
        let mut manifest = session.manifest(Self::NAME, self)?;
        let work = Pass { study: self, session, asked, manifest: &mut manifest };
        let (channels, top) = of_corpus(session.compute(observer, work))?;
        Ok(Readings { model, measure, channels, top, manifest: Some(manifest.finish()?) })
    }
}

/// The pass over the corpus.
struct Pass<'a> {
    study: &'a Neuroscope,
    session: &'a Session,
    asked: Asked,
    manifest: &'a mut Manifest,
}

/// After how many tokens the observer is told of them.
const TOLD: usize = 1024;

impl DeviceWork for Pass<'_> {
    type Output = (Vec<ChannelSummary>, Vec<TopRow>);

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<Self::Output> {
        let Self { study, session, asked, manifest } = self;
        manifest.computed_on(engine);
        let rows = study.corpus.rows(&engine.model().tokenizer, engine.config())?;
        let mut files = Files::new(study, session, &asked, engine.model())?;
        let mut progress = Progress::new(observer, format!("reading {}", asked.name), 0);
        let mut told = 0;
        let count = read_corpus(engine, rows, &asked.channels, study.measure, |reading| -> Result<()> {
            told += 1;
            if told % TOLD == 0 {
                progress.at(format!("reading {}: {told} tokens", asked.name))?;
            }
            files.add(&reading)
        })?;
        tracing::info!(tokens = count, "read");
        files.write(manifest)
    }
}
