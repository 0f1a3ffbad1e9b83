//! The texts of a direction: those that are there, and the writing of the others.

use super::{Prompts, SteeredDirection, Steering};
use crate::backend::Backend;
use crate::engine::{Engine, Site};
use crate::experiments::sampling::Sampling;
use crate::experiments::steering::{self as experiment, Wanted, Written, write_texts};
use crate::model::{ModelError, Tokenizer};
use crate::report::pages::{SteeringPage, write_view};
use crate::report::{Manifest, SeenTexts, SteeredText, SteeredTexts};
use crate::session::{
    DeviceWork, Note, Observer, Progress, Provenance, RowRecords, Session, check_output, contents, distinct, note_kept,
};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A direction with its texts.
pub(super) struct Job {
    pub direction: String,
    steered: Vec<(Site, Vec<f32>)>,
    path: PathBuf,
    /// What texts are made of, by id.
    made_of: BTreeMap<String, Provenance>,
    /// Every text that is asked for.
    texts: Vec<Asked>,
}

/// A text that is asked for.
struct Asked {
    text: SteeredText,
    /// Is it written?
    written: bool,
}

impl Job {
    /// Finds the texts that are there already.
    pub fn new(
        study: &Steering,
        session: &Session,
        direction: &str,
        prompts: &Prompts,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let steered = study.steered(session, direction)?;
        check_output(&stem(direction))?;
        let path = session.results()?.join(format!("{}.jsonl", stem(direction)));
        let (direction, texts) = (direction.to_owned(), Vec::new());
        let mut job = Self { direction, steered, path, made_of: BTreeMap::new(), texts };
        let mut grid = Vec::new();
        for (prompt, tokens) in prompts.texts.iter().zip(&prompts.sequences) {
            let provenance = study.made_of(session, &job.steered, tokens)?;
            grid.extend(study.grid(&job.direction, &job.sites(), prompt, (session.seed(), &provenance.id())));
            job.made_of.insert(provenance.id(), provenance);
        }
        job.find(session, grid, observer)?;
        Ok(job)
    }

    /// Takes from the file what is made of the same things; texts of others are written again.
    fn find(&mut self, session: &Session, grid: Vec<SteeredText>, observer: &mut dyn Observer) -> Result<()> {
        let file = SteeredTexts::read(&self.path)?;
        let records = session.row_records(&stem(&self.direction));
        let found = contents_of(&file)?;
        let mut differences = Vec::new();
        for text in grid {
            let there = file.get(&text).filter(|_| !session.options().overwrite);
            match there {
                Some(there) if there.provenance == text.provenance && records.whole(&text.provenance, &found) => {
                    self.texts.push(Asked { text: there.clone(), written: true });
                    continue;
                }
                Some(there) => differences.push(self.difference(&records, &text.provenance, &there.provenance)),
                None => {}
            }
            self.texts.push(Asked { text, written: false });
        }
        for difference in distinct(&differences) {
            observer.note(&Note::Renewed { what: format!("steering along {}", self.direction), difference });
        }
        note_kept(observer, self.texts.len() - self.missing().count(), "texts", &self.path);
        Ok(())
    }

    /// What tells a text that is there from the one that is asked for.
    fn difference(&self, records: &RowRecords, wanted: &str, found: &str) -> String {
        let Some((wanted, found)) = self.made_of.get(wanted).zip(records.get(found)) else {
            return "nothing says what it was made of".into();
        };
        wanted.difference(found).unwrap_or("its texts have changed since they were written".into())
    }

    /// Hook names of the steered sites.
    pub fn sites(&self) -> Vec<String> {
        self.steered.iter().map(|(site, _)| site.to_string()).collect()
    }

    /// The texts that have to be written.
    pub fn missing(&self) -> impl Iterator<Item = &SteeredText> {
        self.texts.iter().filter(|asked| !asked.written).map(|asked| &asked.text)
    }

    /// Adds texts to the file as it is by now, whoever else adds to it, and records what they were made of.
    fn add(&self, session: &Session, texts: Vec<SteeredText>) -> Result<()> {
        session.locked(|| {
            let mut file = SteeredTexts::read(&self.path)?;
            texts.into_iter().for_each(|text| file.insert(text));
            file.write()?;
            let mut records = session.row_records(&stem(&self.direction));
            self.made_of.values().cloned().for_each(|provenance| records.insert(provenance));
            session.record_rows(&stem(&self.direction), records, contents_of(&file)?)
        })
    }

    /// Writes the page about all texts of the file.
    ///
    /// # Errors
    /// A token that cannot be spelled; those of the file system.
    pub fn write_page(&self, session: &Session) -> Result<Option<PathBuf>> {
        let (file, model) = (SteeredTexts::read(&self.path)?, session.model());
        let spelled = |text: &SteeredText| -> Result<Vec<String>, ModelError> {
            text.tokens.iter().map(|token| model.tokenizer.decode(&[*token])).collect()
        };
        let texts = file.texts().iter().map(|text| Ok((text, spelled(text)?)));
        let texts = texts.collect::<Result<Vec<_>, ModelError>>()?;
        let title = format!("Texts steered along {}, {}", self.direction, model.name);
        Ok(write_view(&SteeringPage::new(title, texts), &session.folder(), &stem(&self.direction))?)
    }

    /// What came of it.
    pub fn outcome(self) -> SteeredDirection {
        let file = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let texts = self.texts.into_iter().filter(|asked| asked.written).map(|asked| asked.text).collect();
        SteeredDirection { direction: self.direction, file, texts }
    }
}

/// Hashes of the texts of every id.
fn contents_of(file: &SteeredTexts) -> Result<BTreeMap<String, String>> {
    contents(file.texts().iter().map(|text| (&*text.provenance, text)))
}

/// The beginning of the name of a direction's file.
fn stem(direction: &str) -> String {
    format!("steering_{direction}")
}

/// Writes the texts of a model.
pub(super) struct Work<'a> {
    pub session: &'a Session,
    pub sampling: Sampling,
    pub prompts: &'a Prompts,
    pub jobs: &'a mut [Job],
    pub manifest: &'a mut Manifest,
}

impl DeviceWork for Work<'_> {
    type Output = ();

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<()> {
        let Self { session, sampling, prompts, jobs, manifest } = self;
        manifest.computed_on(engine);
        let Prompts { texts, sequences } = prompts;
        manifest.saw_texts(&SeenTexts { name: "steering", texts, sequences })?;
        for job in jobs.iter_mut().filter(|job| job.missing().next().is_some()) {
            let steered = job.steered.clone();
            let ends = engine.model().tokenizer.ends();
            let steering = experiment::Steering { prompts: sequences, steered: &steered, ends, sampling };
            job.write(session, engine, &steering, prompts, observer).with_context(|| job.direction.clone())?;
            manifest.wrote(&job.path, []);
        }
        Ok(())
    }
}

impl Job {
    /// Writes what is missing.
    fn write<B: Backend>(
        &mut self,
        session: &Session,
        engine: &Engine<B>,
        steering: &experiment::Steering<'_>,
        prompts: &Prompts,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let missing: Vec<usize> = (0..self.texts.len()).filter(|&number| !self.texts[number].written).collect();
        let wanted: Vec<Wanted> = missing.iter().map(|&number| prompts.wanted(&self.texts[number].text)).collect();
        let mut progress = Progress::new(observer, format!("steering along {}", self.direction), wanted.len());
        write_texts(engine, steering, &wanted, |batch| -> Result<()> {
            let (count, mut texts) = (batch.len(), Vec::new());
            for (number, written) in batch {
                let (prompt, asked) = (&steering.prompts[wanted[number].prompt], &mut self.texts[missing[number]]);
                asked.text = filled(&asked.text, written, &engine.model().tokenizer, prompt)?;
                asked.written = true;
                texts.push(asked.text.clone());
            }
            // A run that is stopped keeps what it has written.
            self.add(session, texts)?;
            progress.add(count)
        })
    }
}

/// A text with what was written.
fn filled(text: &SteeredText, written: Written, tokenizer: &Tokenizer, prompt: &[u32]) -> Result<SteeredText> {
    let shown = written.tokens.len() - usize::from(written.ended);
    // Some tokenizers drop a space in front of the first token they are given: it is decoded behind the prompt.
    let before = tokenizer.decode(prompt)?;
    let whole = tokenizer.decode(&[prompt, &written.tokens[..shown]].concat())?;
    let text_alone = match whole.strip_prefix(&before) {
        Some(rest) => rest.to_owned(),
        None => tokenizer.decode(&written.tokens[..shown])?,
    };
    Ok(SteeredText {
        text: text_alone,
        log_probability: written.log_probabilities.iter().sum::<f64>() as f32,
        log_probabilities: written.log_probabilities.iter().map(|value| *value as f32).collect(),
        tokens: written.tokens,
        ended: written.ended,
        ..text.clone()
    })
}
