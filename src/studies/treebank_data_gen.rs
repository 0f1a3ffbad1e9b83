//! Datasets of the Stanford Sentiment Treebank: model x split x scaffold.

use super::fields::list;
use super::maps::pass;
use super::{Plan, Study};
use crate::backend::Backend;
use crate::choice::choices;
use crate::datasets::treebank::{
    Archive, Encoded, Loss, OFFICIAL_ARCHIVE, PairedSentence, Provenance as Source, Scaffold, Split, Treebank,
    TreebankError, TreebankFiles, answer_tokens, dataset_text, encode, pair, table_of_pairs,
};
use crate::engine::{Engine, Flops};
use crate::experiments::logit_filter::logit_differences;
use crate::files::{csv_bytes, sha256_of_file, write_whole};
use crate::model::{HubSettings, Model};
use crate::report::{Manifest, RunRecord, Table};
use crate::session::{
    DeviceWork, Fault, Mend, Note, Observer, Progress, Provenance, Session, SessionOptions, Silent, Standing, note_kept,
};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Makes datasets of the Stanford Sentiment Treebank (Socher et al. 2013): pairs of a positive and a negative sentence of
/// equal length, as a dataset file and as a table, for every split and scaffold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TreebankDataGen {
    /// Folder with the Treebank's files, or where they are downloaded to.
    #[serde(serialize_with = "write_path")]
    pub root: PathBuf,
    /// Texts around the sentences.
    #[serde(deserialize_with = "list")]
    pub scaffolds: Vec<Scaffold>,
    /// Parts of the Treebank.
    #[serde(deserialize_with = "list")]
    pub splits: Vec<Split>,
    /// Keep only sentences to which the model prefers the right answer.
    pub filter: Filter,
    /// Look up sentences without a phrase again, with bracket tokens written out and doubly encoded letters decoded. The
    /// paper's sizes (7864 train, 1007 dev, 2058 test) are those without.
    pub repair: bool,
    /// Address of the archive that is downloaded when files are missing.
    pub url: String,
    /// SHA-256 that the archive must have.
    pub sha256: Option<String>,
    /// Never download.
    pub offline: bool,
}

impl Default for TreebankDataGen {
    fn default() -> Self {
        Self {
            root: "stanfordSentimentTreebank".into(),
            scaffolds: Scaffold::ALL.to_vec(),
            splits: Split::ALL.to_vec(),
            filter: Filter::Auto,
            repair: false,
            url: OFFICIAL_ARCHIVE.into(),
            sha256: None,
            offline: false,
        }
    }
}

fn write_path<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

choices! {
    /// Which datasets keep only what the model gets right.
    pub enum Filter {
        /// Those of the paper's code.
        Auto = "auto",
        /// All but plain ones.
        Always = "always",
        /// None.
        Never = "never",
    }
}

impl Filter {
    fn applies(self, model: &str, split: Split, scaffold: Scaffold) -> bool {
        match self {
            Filter::Auto => model == "pythia-1.4b" && split == Split::Test && scaffold == Scaffold::Classification,
            Filter::Always => scaffold != Scaffold::Plain,
            Filter::Never => false,
        }
    }
}

/// What became of one dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generated {
    /// Its name.
    pub dataset: String,
    /// The text around its sentences.
    pub scaffold: Scaffold,
    /// Its file.
    pub file: String,
    /// Sentences of the split.
    pub sentences: usize,
    /// Sentences whose prompt is longer than the model's context.
    pub too_long: usize,
    /// Sentences that the model gets wrong; none unless filtered.
    pub filtered_out: usize,
    /// Sentences without a partner of the same length.
    pub unpaired: usize,
    /// Pairs.
    pub rows: usize,
}

/// The Treebank's files, joined.
#[derive(Debug, Clone)]
pub struct Joined {
    treebank: Treebank,
    /// Files with their hashes.
    sources: Vec<(String, String)>,
    /// The table of sentences that are in no dataset.
    losses: PathBuf,
}

/// The datasets of one model.
#[derive(Debug, Clone, Serialize)]
pub struct TreebankDatasets {
    /// The model's name.
    pub model: String,
    /// Every dataset that was asked for, those that were there already among them.
    pub datasets: Vec<Generated>,
    /// The manifest; none when nothing was to be written.
    pub manifest: Option<RunRecord>,
}

impl TreebankDatasets {
    fn table(&self) -> Table {
        let head = ["dataset", "scaffold", "sentences", "too long", "filtered out", "unpaired", "rows"];
        let mut table = Table::new(head);
        for one in &self.datasets {
            let Generated { sentences, too_long, filtered_out, unpaired, rows, .. } = one;
            let counts = [sentences, too_long, filtered_out, unpaired, rows].map(ToString::to_string);
            table.push([one.dataset.clone(), one.scaffold.to_string()].into_iter().chain(counts));
        }
        table
    }
}

impl fmt::Display for TreebankDatasets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.model, self.table())
    }
}

impl Joined {
    /// How many sentences there are.
    pub fn sentences(&self) -> usize {
        self.treebank.sentences.len()
    }

    /// How many sentences are lost in joining the files, by reason.
    pub fn losses(&self) -> BTreeMap<Loss, usize> {
        let mut counts = BTreeMap::new();
        self.treebank.losses.iter().for_each(|(_, _, loss)| *counts.entry(*loss).or_insert(0) += 1);
        counts
    }

    /// What came of the files, with the datasets of several models.
    pub fn with_models(&self, models: Vec<TreebankDatasets>) -> TreebankOfModels {
        TreebankOfModels { sentences: self.sentences(), losses: self.losses(), models }
    }
}

/// The Treebank's files and what was made of them for several models.
#[derive(Debug, Clone, Serialize)]
pub struct TreebankOfModels {
    /// How many sentences there are.
    pub sentences: usize,
    /// How many are lost in joining the files, by reason.
    pub losses: BTreeMap<Loss, usize>,
    /// The datasets by model.
    pub models: Vec<TreebankDatasets>,
}

impl fmt::Display for Joined {
    /// Sentences per split, and why others are missing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["split", "sentences", "positive", "negative"]);
        for split in Split::ALL {
            let all = self.treebank.split(split).count();
            let positive = self.treebank.split(split).filter(|sentence| sentence.positive).count();
            table.push([split.to_string(), all.to_string(), positive.to_string(), (all - positive).to_string()]);
        }
        let lost: Vec<String> =
            self.losses().into_iter().map(|(loss, count)| format!("{count} {}", loss.name())).collect();
        match lost.is_empty() {
            true => writeln!(f, "{table}no sentence is lost in joining the files\n"),
            false => {
                let (lost, file) = (lost.join(", "), self.losses.display());
                writeln!(f, "{table}lost in joining the files: {lost} (see {file})\n")
            }
        }
    }
}

impl Study for TreebankDataGen {
    const NAME: &'static str = "treebank-data-gen";
    type Outcome = TreebankDatasets;

    fn plan(&self, session: &Session) -> Result<Plan> {
        let joined = self.join(session.options(), true, &mut Silent)?;
        self.planned(&joined, session)
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<TreebankDatasets> {
        let joined = self.join(session.options(), false, observer)?;
        self.generate(&joined, session, observer)
    }
}

impl TreebankDataGen {
    /// Reads and joins the Treebank's files, which are downloaded if need be, and writes the table of losses; a dry run
    /// does neither.
    ///
    /// # Errors
    /// Files that are missing or are not what they should be.
    pub fn join(&self, options: &SessionOptions, dry_run: bool, observer: &mut dyn Observer) -> Result<Joined> {
        let files = self.provide(dry_run, observer)?;
        let treebank = Treebank::read(&files, self.repair)?;
        let hashed = |path: &Path| -> Result<_> {
            let sha256 = sha256_of_file(path).with_context(|| path.display().to_string())?;
            Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), sha256))
        };
        let sources = files.paths().into_iter().map(hashed).collect::<Result<Vec<_>>>()?;
        let losses = options.data_dir.join("treebank_losses.csv");
        if !dry_run {
            write_whole(&losses, &losses_csv(&treebank, options.csv_guard)?)
                .with_context(|| losses.display().to_string())?;
        }
        Ok(Joined { treebank, sources, losses })
    }

    /// The files, downloaded if need be.
    fn provide(&self, dry_run: bool, observer: &mut dyn Observer) -> Result<TreebankFiles> {
        let HubSettings { offline, limits, .. } = HubSettings::from_environment();
        let offline = self.offline || dry_run || offline;
        let archive = Archive { url: self.url.clone(), sha256: self.sha256.clone(), offline, limits };
        let mut begun = false;
        let provided = archive.provide(&self.root, |done, total| {
            if !std::mem::replace(&mut begun, true) {
                observer.begin("downloading the Treebank", total);
            }
            observer.progress(done);
        });
        if begun {
            observer.end();
        }
        match provided {
            Err(error @ TreebankError::Missing { .. }) => {
                Err(Fault::new(error.to_string()).mended_by(Mend::Another("root")).into())
            }
            files => Ok(files?),
        }
    }

    /// Makes the datasets of one model that are not there yet.
    ///
    /// # Errors
    /// A model that lacks the answers' tokens; those of the device and of the file system.
    pub fn generate(
        &self,
        joined: &Joined,
        session: &Session,
        observer: &mut dyn Observer,
    ) -> Result<TreebankDatasets> {
        let asked = self.asked(joined, session, observer)?;
        let wanted: Vec<&Asked> = asked.iter().filter(|asked| asked.kept.is_none()).collect();
        let (mut made, mut manifest) = (Vec::new(), None);
        if !wanted.is_empty() {
            let mut started = session.manifest(Self::NAME, self)?;
            let making = Making { joined, session, wanted: &wanted };
            // Only the filter runs the model; everything else needs its tokenizer alone.
            made = match wanted.iter().any(|asked| asked.filtered) {
                true => session.compute(observer, Filtered { making, manifest: &mut started })?,
                false => making.write(None, &mut started, observer)?,
            };
            manifest = Some(started.finish()?);
        }
        let mut made = made.into_iter();
        let datasets = asked.into_iter().filter_map(|asked| asked.kept.or_else(|| made.next())).collect();
        Ok(TreebankDatasets { model: session.model().name.clone(), datasets, manifest })
    }

    /// Counts the datasets of one model, and the arithmetic of the filter, without writing them.
    fn planned(&self, joined: &Joined, session: &Session) -> Result<Plan> {
        let asked = self.asked(joined, session, &mut Silent)?;
        let wanted: Vec<&Asked> = asked.iter().filter(|asked| asked.kept.is_none()).collect();
        if wanted.is_empty() {
            return Ok(Plan::nothing(session));
        }
        let making = Making { joined, session, wanted: &wanted };
        let arithmetic = Cell::new(Flops::default());
        // A filter that keeps everything, and counts what a filter would compute.
        let counts = |all: Vec<Encoded>, _| {
            arithmetic.set(arithmetic.get() + pass(session.config(), all.iter().map(|one| &one.tokens)));
            Ok(all)
        };
        let count = |asked: &&Asked| Ok(making.pairs(asked, Some(&counts))?.1);
        let datasets = wanted.iter().map(count).collect::<Result<_>>()?;
        let model = session.model().name.clone();
        let planned = TreebankDatasets { model, datasets, manifest: None };
        Ok(match wanted.iter().any(|asked| asked.filtered) {
            true => Plan::of_passes(session, &planned.table().to_string(), arithmetic.get(), 0),
            false => Plan::of(planned.to_string()).costing(arithmetic.get(), None),
        })
    }

    /// Every dataset that is asked for, each once.
    fn asked(&self, joined: &Joined, session: &Session, observer: &mut dyn Observer) -> Result<Vec<Asked>> {
        let folder = session.results()?;
        let mut all: Vec<Asked> = Vec::new();
        for &split in &self.splits {
            for &scaffold in &self.scaffolds {
                if all.iter().any(|asked| (asked.split, asked.scaffold) == (split, scaffold)) {
                    continue;
                }
                let filtered = self.filter.applies(&session.model().name, split, scaffold);
                let provenance = session
                    .provenance(Self::NAME)?
                    .with("sources", &joined.sources)?
                    .with("repair", self.repair)?
                    .with("filtered", filtered)?;
                let files = [scaffold.csv_file(&folder, split), scaffold.dataset_file(&folder, split)];
                let output = format!("{}_{scaffold}", split.dataset());
                let mut asked = Asked { split, scaffold, filtered, provenance, output, files, kept: None };
                asked.find(session, observer)?;
                all.push(asked);
            }
        }
        note_kept(observer, all.iter().filter(|asked| asked.kept.is_some()).count(), "datasets", folder);
        Ok(all)
    }
}

/// A dataset that is asked for.
struct Asked {
    split: Split,
    scaffold: Scaffold,
    /// Does the model decide which sentences are kept?
    filtered: bool,
    provenance: Provenance,
    output: String,
    /// The table, and the dataset.
    files: [PathBuf; 2],
    /// What became of it, if it is there.
    kept: Option<Generated>,
}

impl Asked {
    fn find(&mut self, session: &Session, observer: &mut dyn Observer) -> Result<()> {
        if session.options().overwrite {
            return Ok(());
        }
        match session.standing(&self.output, &self.files, &self.provenance)? {
            Standing::Absent => {}
            Standing::Kept(generated) => self.kept = serde_json::from_value(generated).ok(),
            Standing::Other(difference) => observer.note(&Note::Renewed { what: self.output.clone(), difference }),
        }
        Ok(())
    }
}

fn losses_csv(treebank: &Treebank, guard: bool) -> std::io::Result<Vec<u8>> {
    let row = |(index, text, loss): &(u64, String, Loss)| [index.to_string(), loss.name().to_owned(), text.clone()];
    let header = ["sentence_index", "reason", "text"].map(str::to_owned);
    csv_bytes(std::iter::once(header).chain(treebank.losses.iter().map(row)), guard)
}

/// Keeps the sentences whose right answer, of the two given tokens, has the higher logit.
type Keep<'a> = &'a dyn Fn(Vec<Encoded>, (u32, u32)) -> Result<Vec<Encoded>>;

/// The datasets of one model that are to be made.
struct Making<'a> {
    joined: &'a Joined,
    session: &'a Session,
    wanted: &'a [&'a Asked],
}

/// The same where the model filters sentences.
struct Filtered<'a> {
    making: Making<'a>,
    manifest: &'a mut Manifest,
}

impl DeviceWork for Filtered<'_> {
    type Output = Vec<Generated>;

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<Vec<Generated>> {
        self.manifest.computed_on(engine);
        let keep = |all, answers| right_ones(engine, all, answers);
        self.making.write(Some(&keep), self.manifest, observer)
    }
}

impl Making<'_> {
    /// Makes and writes the datasets. The table first: a dataset that is there has its table.
    fn write(
        &self,
        filter: Option<Keep<'_>>,
        manifest: &mut Manifest,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Generated>> {
        let model = self.session.model();
        let mut progress = Progress::new(observer, format!("datasets of {}", model.name), self.wanted.len());
        let mut all = Vec::new();
        for asked in self.wanted {
            let (rows, generated) = self.pairs(asked, filter)?;
            let source = Source {
                model: model.name.clone(),
                sources: self.joined.sources.clone(),
                filtered: asked.filtered,
                sentences: generated.sentences,
            };
            let text = dataset_text(&rows, asked.split, asked.scaffold, &source).into_bytes();
            let table = csv_bytes(table_of_pairs(&rows), self.session.options().csv_guard)?;
            for (file, bytes) in asked.files.iter().zip([table, text]) {
                write_whole(file, &bytes).with_context(|| file.display().to_string())?;
                manifest.wrote(file, []);
            }
            let notes = serde_json::to_value(&generated)?;
            self.session.record(&asked.output, &asked.provenance, &asked.files, notes)?;
            all.push(generated);
            progress.add(1)?;
        }
        Ok(all)
    }

    /// The pairs of a dataset.
    fn pairs(&self, asked: &Asked, filter: Option<Keep<'_>>) -> Result<(Vec<PairedSentence>, Generated)> {
        let (model, Asked { split, scaffold, .. }): (&Model, _) = (self.session.model(), asked);
        let (split, scaffold) = (*split, *scaffold);
        let answers = answer_tokens(scaffold, &model.tokenizer)?;
        let all = encode(self.joined.treebank.split(split), scaffold, &model.tokenizer)?;
        let sentences = all.len();
        let mut usable: Vec<Encoded> = all.into_iter().filter(|one| one.tokens.len() <= model.config.n_ctx).collect();
        let too_long = sentences - usable.len();
        if let (true, Some(filter)) = (asked.filtered, filter) {
            usable = filter(usable, answers)?;
        }
        let filtered_out = sentences - too_long - usable.len();
        let rows = pair(&usable, split)?;
        let generated = Generated {
            dataset: split.dataset().to_owned(),
            scaffold,
            file: asked.files[1].display().to_string(),
            sentences,
            too_long,
            filtered_out,
            unpaired: usable.len() - rows.len(),
            rows: rows.len(),
        };
        Ok((rows, generated))
    }
}

/// The sentences whose right answer has the higher logit.
fn right_ones<B: Backend>(engine: &Engine<B>, mut all: Vec<Encoded>, answers: (u32, u32)) -> Result<Vec<Encoded>> {
    let sequences: Vec<Vec<u32>> = all.iter().map(|one| one.tokens.clone()).collect();
    let differences = logit_differences(engine, &sequences, answers)?;
    let mut right = all.iter().zip(differences).map(|(one, difference)| match one.positive {
        true => difference > 0.0,
        false => difference < 0.0,
    });
    let keep: Vec<bool> = right.by_ref().collect();
    let mut keep = keep.into_iter();
    all.retain(|_| keep.next().unwrap_or(false));
    Ok(all)
}
