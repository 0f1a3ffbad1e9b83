//! Our numbers beside those that others have published or computed.

mod directions;
mod experiment;
mod maps;
mod runs;
mod texts;
mod tokens;

use super::fields::list;
use super::{Plan, Study, bytes};
use crate::model::Model;
use crate::report::{Golden, GoldenFile, Table};
use crate::session::{Fault, Fields, Mend, Observer, OfSetting, Session, SessionOptions, Spelling, distinct, wrong};
use anyhow::Result;
use experiment::{Numbers, Setup, ran};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};
use std::fmt;
use std::path::PathBuf;

/// Runs the experiments behind published numbers anew, and sets ours beside theirs.
///
/// Results go to a folder of their own that is gone afterwards; imported directions and datasets of the Treebank are
/// taken from the model's folder of results.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verify {
    /// Further files of golden numbers (docs/verify.md describes the format).
    #[serde(deserialize_with = "list")]
    pub golden: Vec<PathBuf>,
    /// Only these kinds of experiments; all without any.
    #[serde(deserialize_with = "list")]
    pub experiments: Vec<String>,
}

impl Verify {
    /// Begins to verify a model by name; one that cannot be loaded is told of by every experiment that needs it.
    ///
    /// # Errors
    /// A file of golden numbers that is wrong, a model without any, experiments that there are none of.
    pub fn begin(&self, model: &str, options: SessionOptions) -> Result<Verification> {
        options.validate()?;
        let name = Model::results_name(model, options.revision.as_deref()).of_setting("models")?;
        let entries = self.entries(&name)?;
        let folder = options.data_dir.join(&name);
        let session = Session::open(model, options).map_err(|error| match error.downcast::<Fault>() {
            Ok(fault) => fault,
            Err(error) => Fault::new(format!("{error:#}")),
        });
        let setup = Setup::new(model.to_owned(), folder, session)?;
        Ok(Verification { model: name, entries: entries.into_iter(), setup })
    }

    /// The experiments on a model by name; how much memory they take is not told of one that cannot be loaded.
    ///
    /// # Errors
    /// Those of [`Verify::begin`].
    pub fn plan_of(&self, model: &str, options: SessionOptions) -> Result<Plan> {
        options.validate()?;
        let name = Model::results_name(model, options.revision.as_deref()).of_setting("models")?;
        let table = self.table(&name)?;
        Ok(match Session::open(model, options) {
            Ok(session) => with_memory(table, &session),
            Err(error) => Plan::of(format!("{table}cannot be loaded: {error:#}\n")),
        })
    }

    fn table(&self, model: &str) -> Result<Table> {
        let mut table = Table::new([model, "experiment", "numbers"]);
        for golden in self.entries(model)? {
            table.push([golden.name, golden.experiment, golden.values.len().to_string()]);
        }
        Ok(table)
    }

    /// The golden numbers of a model that are asked for.
    fn entries(&self, model: &str) -> Result<Vec<Golden>> {
        let mut files = GoldenFile::built_in()?;
        for path in &self.golden {
            files.push(GoldenFile::read(path)?);
        }
        if let Some(file) = files.iter().find(|file| file.quantised_from.as_deref() == Some(model)) {
            let name = &file.model;
            let found = format!("the golden numbers are of {model} quantised, whose weights are others");
            return Err(Fault::of(
                "models",
                format!("{found}: expected {name}=FILE with its file, as docs/verify.md says"),
            )
            .into());
        }
        let known: Vec<String> = files.iter().map(|file| file.model.clone()).collect();
        let of_model = files.into_iter().filter(|file| file.model == model);
        let mut entries: Vec<Golden> = of_model.flat_map(|file| file.golden).collect();
        if entries.is_empty() {
            let found = format!("no golden numbers for {model}, but for {}", known.join(", "));
            return Err(Fault::of("models", found).mended_by(Mend::Set("golden", "FILE".into())).into());
        }
        let kinds: Vec<String> = distinct(&entries.iter().map(|golden| golden.experiment.clone()).collect::<Vec<_>>());
        if let Some(unknown) = self.experiments.iter().find(|kind| !kinds.contains(kind)) {
            let kinds = kinds.join(", ");
            wrong!("experiments", "{model} has no golden numbers of {unknown:?}, it has those of {kinds}");
        }
        entries.retain(|golden| self.experiments.is_empty() || self.experiments.contains(&golden.experiment));
        Ok(entries)
    }
}

/// The plan of these experiments, with the memory of the weights and of one batch.
fn with_memory(table: Table, session: &Session) -> Plan {
    let memory = session.planned_memory(session.batch_tokens() * session.config().passing_values());
    let text = format!("{table}at least {} of memory\n", bytes(memory));
    Plan { memory_bytes: Some(memory), ..Plan::of(text) }
}

impl Study for Verify {
    const NAME: &'static str = "verify";
    type Outcome = Verified;

    fn plan(&self, session: &Session) -> Result<Plan> {
        Ok(with_memory(self.table(&session.model().name)?, session))
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Verified> {
        let model = session.model().name.clone();
        let entries = self.entries(&model)?.into_iter();
        let setup = Setup::new(session.asked().to_owned(), session.folder(), Ok(session.clone()))?;
        let mut verification = Verification { model, entries, setup };
        let mut verified = Verified::default();
        while let Some(entry) = verification.next(observer)? {
            verified.entries.push(entry);
        }
        Ok(verified)
    }

    fn failed(verified: &Verified) -> Option<String> {
        verified.verdict().check().err().map(|fault| fault.message)
    }
}

/// The experiments behind a model's golden numbers, one after the other.
pub struct Verification {
    model: String,
    entries: std::vec::IntoIter<Golden>,
    setup: Setup,
}

impl Verification {
    /// Runs the next experiment; none behind the last one.
    ///
    /// # Errors
    /// Golden numbers that are wrong, an experiment that fails on the way. What is not there is no error, but the
    /// entry's [`Ran::Cannot`].
    pub fn next(&mut self, observer: &mut dyn Observer) -> Result<Option<Entry>> {
        let Some(golden) = self.entries.next() else { return Ok(None) };
        let ran = ran(&golden, &self.setup, observer)?;
        Ok(Some(Entry { model: self.model.clone(), golden, ran }))
    }
}

/// Golden numbers with ours beside them.
#[derive(Debug)]
pub struct Entry {
    /// The model's name.
    pub model: String,
    /// Theirs.
    pub golden: Golden,
    /// Ours.
    pub ran: Ran,
}

/// What came of an experiment.
#[derive(Debug)]
pub enum Ran {
    /// One number for every golden one.
    Numbers(Numbers),
    /// What it lacks.
    Cannot(Fault),
}

impl Entry {
    fn passes(&self, name: &str, ours: f64) -> bool {
        // A NaN is no pass.
        self.golden.values.get(name).is_some_and(|theirs| (ours - theirs).abs() <= self.golden.tolerance)
    }

    /// Its text, with names of settings and ways out as `spell` has them.
    pub fn text(&self, spell: &dyn Spelling) -> String {
        let Golden { name, experiment, source, tolerance, values, .. } = &self.golden;
        let head = format!("{name}\n  {experiment}; {source}\n");
        let numbers = match &self.ran {
            Ran::Cannot(fault) => return format!("{head}  cannot run: {}\n\n", fault.text(spell)),
            Ran::Numbers(numbers) => numbers,
        };
        let mut table = Table::new(["", "theirs", "ours", "difference", "tolerance", "result"]);
        for (name, ours) in numbers {
            let theirs = values.get(name).copied().unwrap_or(f64::NAN);
            let shown = [theirs, *ours, ours - theirs].map(|number| format!("{number:.4}"));
            let result = if self.passes(name, *ours) { "passed" } else { "FAILED" };
            let row = [name.clone()].into_iter().chain(shown).chain([tolerance.to_string(), result.to_owned()]);
            table.push(row);
        }
        format!("{head}{table}\n")
    }

    /// The same as JSON.
    pub fn as_json(&self, spell: &dyn Spelling) -> Value {
        let Golden { name, experiment, source, tolerance, values: theirs, .. } = &self.golden;
        let (values, reason) = match &self.ran {
            Ran::Cannot(fault) => (Vec::new(), Some(fault.text(spell))),
            Ran::Numbers(numbers) => {
                let row = |(name, ours): (&String, &f64)| {
                    let passed = self.passes(name, *ours);
                    json!({ "name": name, "theirs": theirs.get(name), "ours": ours, "passed": passed })
                };
                (numbers.iter().map(row).collect(), None)
            }
        };
        json!({
            "model": self.model, "name": name, "experiment": experiment, "source": source, "tolerance": tolerance,
            "values": values, "cannot_run": reason,
        })
    }
}

/// How many numbers were checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Numbers that are as they should be.
    pub passed: usize,
    /// Numbers that are off.
    pub failed: usize,
    /// Experiments that could not run.
    pub not_run: usize,
}

impl Verdict {
    /// Counts a further entry.
    pub fn count(&mut self, entry: &Entry) {
        match &entry.ran {
            Ran::Cannot(_) => self.not_run += 1,
            Ran::Numbers(numbers) => {
                let passed = numbers.iter().filter(|(name, ours)| entry.passes(name, **ours)).count();
                self.passed += passed;
                self.failed += numbers.len() - passed;
            }
        }
    }

    /// Are all numbers as they should be?
    ///
    /// # Errors
    /// Numbers that are off; none that could be checked.
    pub fn check(self) -> Result<(), Fault> {
        match (self.passed, self.failed) {
            (0, 0) => Err(Fault::new("no number could be checked")),
            (_, 0) => Ok(()),
            (passed, failed) => Err(Fault::new(format!("{failed} of {} numbers are off", passed + failed))),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, not_run } = self;
        writeln!(f, "{passed} numbers passed, {failed} failed; {not_run} experiments could not run")
    }
}

/// A model's golden numbers with ours beside them.
#[derive(Debug, Default)]
pub struct Verified {
    /// Entry by entry.
    pub entries: Vec<Entry>,
}

impl Verified {
    /// How many numbers are as they should be.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::default();
        self.entries.iter().for_each(|entry| verdict.count(entry));
        verdict
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.iter().try_for_each(|entry| f.write_str(&entry.text(&Fields)))?;
        self.verdict().fmt(f)
    }
}

impl Serialize for Verified {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.entries.iter().map(|entry| entry.as_json(&Fields)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Silent, Stopped};

    /// Wants everything to stop.
    struct Impatient;

    impl Observer for Impatient {
        fn cancelled(&self) -> bool {
            true
        }
    }

    fn session(data: &std::path::Path) -> Session {
        Session::open("demo", SessionOptions { data_dir: data.into(), ..SessionOptions::default() }).unwrap()
    }

    #[test]
    fn numbers_of_a_session_are_verified_in_a_folder_of_their_own() {
        let data = tempfile::tempdir().unwrap();
        let verify = Verify { experiments: vec!["ablation".into(), "baselines".into()], ..Verify::default() };
        let verified = verify.run(&session(data.path()), &mut Silent).unwrap();
        let wanted: usize = verify.entries("demo").unwrap().iter().map(|golden| golden.values.len()).sum();
        assert!(wanted > 9);
        assert_eq!(verified.verdict(), Verdict { passed: wanted, failed: 0, not_run: 0 });
        assert_eq!(Verify::failed(&verified), None);
        let json = serde_json::to_value(&verified).unwrap();
        assert_eq!((&json[0]["model"], &json[0]["cannot_run"]), (&"demo".into(), &Value::Null));
        let verdict = format!("{wanted} numbers passed, 0 failed; 0 experiments could not run\n");
        assert!(verified.to_string().ends_with(&verdict));
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_stopped_is_no_fault_of_the_numbers() {
        let data = tempfile::tempdir().unwrap();
        let verify = Verify { experiments: vec!["directional_patching".into()], ..Verify::default() };
        let error = verify.run(&session(data.path()), &mut Impatient).unwrap_err();
        assert!(error.is::<Stopped>(), "{error:#}");
    }

    #[test]
    fn what_is_lacking_is_told_in_the_words_of_specifications() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("golden.toml");
        let entry = |kind: &str, settings: &str| {
            format!(
                "[[golden]]\nname = \"n\"\nsource = \"s\"\nexperiment = \"{kind}\"\n{settings}\ntolerance = 1\n\
                 values = {{ 0-1 = 1 }}\n"
            )
        };
        let directions = entry("direction_cosines", "directions = \"das_simple_train_ADJ\"");
        let treebank = entry("activation_patching", "dataset = \"treebank_test\"\nnode = \"z\"");
        std::fs::write(&path, format!("model = \"demo\"\n{directions}{treebank}")).unwrap();
        let verify = Verify { golden: vec![path], experiments: vec!["direction_cosines".into()] };
        let verified = verify.run(&session(data.path()), &mut Silent).unwrap();
        let text = verified.to_string();
        assert!(text.contains("run directions import FOLDER with model = demo first"), "{text}");
        assert_eq!(Verify::failed(&verified).unwrap(), "no number could be checked");
        let verify = Verify { experiments: vec!["activation_patching".into()], ..verify };
        let verified = verify.run(&session(data.path()), &mut Silent).unwrap();
        let reason = &serde_json::to_value(&verified).unwrap()[4]["cannot_run"];
        assert!(
            reason.as_str().unwrap().contains("run treebank-data-gen with models = demo, splits = test"),
            "{reason}"
        );
        assert_eq!(verified.verdict().not_run, 1);
    }
}
