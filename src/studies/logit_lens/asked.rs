//! What is asked for: prompts or texts, their runs, and the rows that become of them.

use super::LogitLens;
use crate::datasets::PairedPrompts;
use crate::engine::Site;
use crate::experiments::attention::check_prompt;
use crate::experiments::chunks::chosen;
use crate::experiments::logit_lens::{Lens, LensPatch, LensPrompt, Predicted, Ranked, check};
use crate::files::sha256;
use crate::model::{ModelError, Tokenizer};
use crate::report::{Manifest, NOTHING, PredictedAs, PredictedBy, PredictionRow, SeenTexts};
use crate::session::{
    Fault, Mend, OfSetting, Provenance, Session, distinct, fingerprint, hash_of_matrix, layers, wrong,
};
use crate::studies::Study;
use crate::studies::texts::with_bos;
use crate::types::Matrix;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// How many prompts of a dataset are read unless they are named.
const FIRST: usize = 8;

/// Most rows of a table: they are in memory at once, and on one page.
const MOST_ROWS: usize = 500_000;

/// A run of every prompt.
pub(super) struct Run {
    by: PredictedBy,
    /// What is patched, and at which positions.
    patched: String,
    positions: String,
}

impl Run {
    /// A run without a patch.
    fn plain(by: PredictedBy) -> Self {
        Self { by, patched: NOTHING.into(), positions: NOTHING.into() }
    }

    /// Its sequence of a prompt.
    fn sequence<'a>(&self, prompt: &'a LensPrompt) -> &'a Vec<u32> {
        match self.by {
            PredictedBy::Clean => &prompt.clean,
            PredictedBy::Corrupted | PredictedBy::Patched => prompt.corrupted.as_ref().unwrap_or(&prompt.clean),
        }
    }
}

/// What the model sees.
enum Seen {
    Pairs(PairedPrompts),
    Texts(Vec<String>),
}

/// What is read under one name.
pub(super) struct Asked {
    /// Of a dataset, or of texts.
    pub name: String,
    /// Name of the files without their ending.
    pub stem: String,
    seen: Seen,
    /// Numbers of the prompts.
    numbers: Vec<usize>,
    pub prompts: Vec<LensPrompt>,
    /// Why the answers of every prompt are asked for.
    roles: Vec<Vec<PredictedAs>>,
    pub layers: Vec<usize>,
    pub runs: Vec<Run>,
    pub patches: Vec<LensPatch>,
    top: usize,
    pub provenance: Provenance,
}

impl Asked {
    /// Everything that a study asks of a model, a dataset after the other.
    ///
    /// # Errors
    /// Whatever cannot be read, or patched.
    pub fn all(study: &LogitLens, session: &Session) -> Result<Vec<Self>> {
        let layers = layers("layers", &study.layers, session.config().n_layers)?;
        let shared = session.provenance(LogitLens::NAME)?.with("layers", &layers)?.with("top", study.top)?;
        let asked = match study.text.is_empty() {
            false => vec![Self::of_texts(study, session, layers, shared)?],
            true => {
                let sets = study.sets.prompts(session)?;
                let of_pairs = |prompts| Self::of_pairs(study, session, prompts, (layers.clone(), shared.clone()));
                sets.iter().map(of_pairs).collect::<Result<_>>()?
            }
        };
        for one in &asked {
            let lens = Lens { layers: &one.layers, top: one.top };
            check(session.config(), lens, &one.prompts, &one.patches).with_context(|| one.name.clone())?;
            one.check_rows()?;
        }
        Ok(asked)
    }

    fn of_texts(study: &LogitLens, session: &Session, layers: Vec<usize>, shared: Provenance) -> Result<Self> {
        let (model, n_ctx) = (session.model(), session.config().n_ctx);
        let prompt = |(number, text): (usize, &String)| -> Result<LensPrompt> {
            let clean = with_bos("text", model, text)?;
            if clean.len() > n_ctx {
                wrong!("text", "text {number} has {} tokens; {} takes at most {n_ctx}", clean.len(), model.name);
            }
            Ok(LensPrompt { clean, ..LensPrompt::default() })
        };
        let prompts = study.text.iter().enumerate().map(prompt).collect::<Result<Vec<_>>>()?;
        let corpus = study.corpus();
        let name = corpus.name()?;
        Ok(Self {
            stem: format!("logit_lens_{name}"),
            name,
            seen: Seen::Texts(study.text.clone()),
            numbers: (0..prompts.len()).collect(),
            roles: vec![Vec::new(); prompts.len()],
            prompts,
            layers,
            runs: vec![Run::plain(PredictedBy::Clean)],
            patches: Vec::new(),
            top: usize::from(study.top).min(session.config().d_vocab),
            provenance: shared.with("texts", corpus.fingerprint()?)?,
        })
    }

    fn of_pairs(
        study: &LogitLens,
        session: &Session,
        prompts: &PairedPrompts,
        (layers, shared): (Vec<usize>, Provenance),
    ) -> Result<Self> {
        let mut numbers = match &study.prompts[..] {
            [] => (0..prompts.clean.len().min(FIRST)).collect(),
            numbers => distinct(numbers),
        };
        numbers.sort_unstable();
        numbers.iter().try_for_each(|&prompt| check_prompt(prompts, prompt)).of_setting("prompts")?;
        let part = chosen(prompts, &numbers);
        let mut provenance = shared.with("dataset", fingerprint(&part)?)?.with("prompts", &numbers)?;
        let mut runs = vec![Run::plain(PredictedBy::Clean), Run::plain(PredictedBy::Corrupted)];
        let mut patches = Vec::new();
        let positions = study.positions.iter().map(|text| session.places_name("positions", prompts, text));
        let positions = distinct(&positions.collect::<Result<Vec<_>>>()?);
        for (patched, site, along) in targets(study, session)? {
            for positions in &positions {
                let places = session.places("positions", &part, positions)?;
                let length = |prompt: usize| part.sequences[part.clean[prompt]].len();
                let places: Vec<Vec<usize>> =
                    (0..numbers.len()).map(|prompt| places.of(prompt, length(prompt))).collect();
                let made_of = (along.as_ref().map(|columns| hash_of_matrix(columns)), &places);
                let hash = sha256(&serde_json::to_vec(&made_of)?);
                provenance = provenance.with(format!("patched {patched} at {positions}"), hash)?;
                patches.push(LensPatch { site, along: along.clone(), places });
                runs.push(Run { by: PredictedBy::Patched, patched: patched.clone(), positions: positions.clone() });
            }
        }
        let (prompts, roles) = (0..numbers.len()).map(|prompt| lens_prompt(&part, prompt)).unzip();
        Ok(Self {
            name: part.name.clone(),
            stem: format!("logit_lens_{}_{}{}", part.name, study.sets.scaffold, session.options().compat_ending()),
            seen: Seen::Pairs(part),
            numbers,
            prompts,
            roles,
            layers,
            runs,
            patches,
            top: usize::from(study.top).min(session.config().d_vocab),
            provenance,
        })
    }

    /// Refuses tables that no memory, no page and no reader is for.
    fn check_rows(&self) -> Result<(), Fault> {
        let setting = match self.seen {
            Seen::Pairs(_) => "prompts",
            Seen::Texts(_) => "text",
        };
        match self.rows() {
            0..=MOST_ROWS => Ok(()),
            found => {
                let message = format!("{}: expected at most {MOST_ROWS} rows of predictions, found {found}", self.name);
                Err(Fault::of(setting, message).mended_by(Mend::Another("layers")).mended_by(Mend::Another("top")))
            }
        }
    }

    /// The file of the table.
    pub fn path(&self, session: &Session) -> PathBuf {
        session.folder().join(format!("{}.csv", self.stem))
    }

    /// The sequences of all runs of all prompts.
    pub fn sequences(&self) -> impl Iterator<Item = &Vec<u32>> {
        self.prompts.iter().flat_map(|prompt| self.runs.iter().map(move |run| run.sequence(prompt)))
    }

    /// How many predictions are read.
    pub fn predictions(&self) -> usize {
        self.sequences().map(Vec::len).sum::<usize>() * self.layers.len()
    }

    /// How many rows come of them.
    pub fn rows(&self) -> usize {
        let answers: usize = self.prompts.iter().map(|prompt| prompt.answers.len()).sum();
        // Of every position but the last the next token is asked for.
        let next = self.sequences().map(|sequence| sequence.len().saturating_sub(1)).sum::<usize>();
        self.predictions() * self.top + (next + answers * self.runs.len()) * self.layers.len()
    }

    /// Notes in a manifest what the model sees.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn note(&self, manifest: &mut Manifest) -> Result<()> {
        match &self.seen {
            Seen::Pairs(prompts) => manifest.saw(prompts)?,
            Seen::Texts(texts) => {
                let sequences: Vec<Vec<u32>> = self.prompts.iter().map(|prompt| prompt.clean.clone()).collect();
                manifest.saw_texts(&SeenTexts { name: &self.name, texts, sequences: &sequences })?;
            }
        }
        Ok(())
    }

    /// The rows of what was found of every prompt and run.
    ///
    /// # Errors
    /// A token that cannot be spelled.
    pub fn table(&self, found: &[Vec<Predicted>], tokenizer: &Tokenizer) -> Result<Vec<PredictionRow>, ModelError> {
        let mut spelling = Spelling { tokenizer, known: HashMap::new() };
        let mut rows = Vec::with_capacity(self.rows());
        for (number, (prompt, of_runs)) in self.prompts.iter().zip(found).enumerate() {
            for (run, predicted) in self.runs.iter().zip(of_runs) {
                let sequence = run.sequence(prompt);
                for (position, of_layers) in predicted.chunks(self.layers.len()).enumerate() {
                    let last = position + 1 == sequence.len();
                    let roles: &[PredictedAs] = if last { &self.roles[number] } else { &[PredictedAs::Next] };
                    let place = Place { prompt: self.numbers[number], run, position, token: sequence[position] };
                    for (&layer, prediction) in self.layers.iter().zip(of_layers) {
                        let top = prediction.top.iter().map(|ranked| (PredictedAs::Top, ranked));
                        for told in top.chain(roles.iter().copied().zip(&prediction.asked)) {
                            rows.push(place.row(layer, told, &mut spelling)?);
                        }
                    }
                }
            }
        }
        Ok(rows)
    }
}

/// Where something is predicted.
struct Place<'a> {
    prompt: usize,
    run: &'a Run,
    position: usize,
    token: u32,
}

impl Place<'_> {
    /// The row of a token at a layer.
    fn row(
        &self,
        layer: usize,
        (role, ranked): (PredictedAs, &Ranked),
        spelling: &mut Spelling<'_>,
    ) -> Result<PredictionRow, ModelError> {
        Ok(PredictionRow {
            prompt: self.prompt,
            run: self.run.by,
            patched: self.run.patched.clone(),
            patched_positions: self.run.positions.clone(),
            position: self.position,
            token: spelling.of(self.token)?,
            layer,
            role,
            rank: ranked.rank,
            predicted: spelling.of(ranked.token)?,
            log_probability: ranked.log_probability as f32,
            predicted_id: ranked.token,
            token_id: self.token,
        })
    }
}

/// What is patched: its name, where, and along which unit columns if not as a whole.
type Target = (String, Site, Option<Arc<Matrix>>);

/// Every direction at its own layer, and every site.
fn targets(study: &LogitLens, session: &Session) -> Result<Vec<Target>> {
    let mut targets: Vec<Target> = Vec::new();
    if !study.directions.is_empty() {
        let names = session.selected(&study.directions).of_setting("directions")?;
        session.check_directions(&names).of_setting("directions")?;
        for name in names {
            let columns = session.direction(&name).of_setting("directions")?.0.unit_columns();
            let site = Site::resid(name.layer(), session.config().n_layers);
            targets.push((name.to_string(), site, Some(Arc::new(columns))));
        }
    }
    targets.extend(distinct(&study.sites).into_iter().map(|site| (site.to_string(), site, None)));
    Ok(targets)
}

/// A prompt with its answers, the right ones first, and why each is asked for.
fn lens_prompt(prompts: &PairedPrompts, prompt: usize) -> (LensPrompt, Vec<PredictedAs>) {
    let pairs = &prompts.answers[prompt];
    let correct = pairs.iter().map(|(correct, _)| (*correct, PredictedAs::Correct));
    let incorrect = pairs.iter().map(|(_, incorrect)| (*incorrect, PredictedAs::Incorrect));
    let (answers, roles) = distinct(&correct.chain(incorrect).collect::<Vec<_>>()).into_iter().unzip();
    let sequence = |number: usize| prompts.sequences[number].clone();
    let (clean, corrupted) = (sequence(prompts.clean[prompt]), sequence(prompts.corrupted[prompt]));
    (LensPrompt { clean, corrupted: Some(corrupted), answers }, roles)
}

/// Texts of tokens, each spelled once.
struct Spelling<'a> {
    tokenizer: &'a Tokenizer,
    known: HashMap<u32, String>,
}

impl Spelling<'_> {
    fn of(&mut self, token: u32) -> Result<String, ModelError> {
        if let Some(text) = self.known.get(&token) {
            return Ok(text.clone());
        }
        let text = self.tokenizer.decode(&[token])?;
        Ok(self.known.entry(token).or_insert(text).clone())
    }
}
