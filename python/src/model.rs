//! A session, as Python holds it.

use crate::errors::exception;
use crate::passes::{EditArguments, arrays, edit, sequences, sites, slice, wanted};
use crate::watched::{directly, opened, own_pool, watched};
use actpatch::datasets::treebank::Scaffold;
use actpatch::experiments::sampling::Sampling;
use actpatch::session::{
    Backward, Continue, Fault, Forward, Observer, Session, SessionOptions, Silent, processing_names,
};
use actpatch::studies::{AnyStudy, Circuit, ImportDirections, from_settings, list_datasets};
use actpatch::types::AnswerPair;
use anyhow::Result;
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

type Floats<'py> = Bound<'py, PyArray1<f32>>;

/// A model on a device.
#[pyclass(frozen, module = "actpatch._core")]
pub struct Model {
    /// None once it is closed.
    session: Mutex<Option<Session>>,
    /// Threads and devices stay behind when a process forks.
    process: u32,
}

/// Settings from JSON.
fn map(json: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(json)? {
        Value::Object(map) => Ok(map),
        other => Err(Fault::new(format!("expected settings by name, found {other}")).into()),
    }
}

/// The options of a session, changed.
fn changed(options: &SessionOptions, changes: &str) -> Result<SessionOptions> {
    let mut fields = match serde_json::to_value(options)? {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    for (name, value) in map(changes)? {
        // A name that there is not is told of with those that there are.
        let single = format!("{name}s");
        let known = if fields.contains_key(&single) { single } else { name };
        fields.insert(known, value);
    }
    Ok(from_settings(fields)?)
}

impl Model {
    fn of(session: Session) -> Self {
        Self { session: Mutex::new(Some(session)), process: std::process::id() }
    }

    fn session(&self, py: Python<'_>) -> PyResult<Session> {
        if std::process::id() != self.process {
            let text = "this model was opened in another process, whose threads and devices did not come along when it forked: \
                        open it again in this one, or start processes by \"spawn\"";
            return Err(exception(py, "DeviceError", text.into()));
        }
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        session.ok_or_else(|| exception(py, "SettingError", "this model is closed: open it again".into()))
    }

    /// Work of the session that is over in no time.
    fn quickly<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&Session) -> Result<T> + Send) -> PyResult<T> {
        let session = self.session(py)?;
        directly(py, |_| work(&session))
    }

    /// A pass: in the calling thread if it is one batch, else so that it can be stopped.
    fn pass<T: Send>(
        py: Python<'_>,
        (session, tokens): (&Session, usize),
        progress: Option<&Py<PyAny>>,
        work: impl FnOnce(&mut dyn Observer) -> Result<T> + Send,
    ) -> PyResult<T> {
        if tokens > session.batch_tokens() {
            return watched(py, progress, work);
        }
        own_pool();
        directly(py, work)
    }
}

#[pymethods]
impl Model {
    /// Loads a model by name; `options` are a session's, as JSON.
    #[new]
    #[pyo3(signature = (name, options, progress=None))]
    fn new(py: Python<'_>, name: String, options: String, progress: Option<Py<PyAny>>) -> PyResult<Self> {
        let open = move |downloads| {
            let options = changed(&SessionOptions::default(), &options)?;
            Session::open(&name, SessionOptions { downloads, ..options })
        };
        opened(py, progress.as_ref(), open).map(Self::of)
    }

    /// The same model under changed options.
    fn with_options(&self, py: Python<'_>, options: String) -> PyResult<Self> {
        let session = self.session(py)?;
        let open = move |downloads| {
            let changed = changed(session.options(), &options)?;
            session.with(|own| *own = SessionOptions { downloads, ..changed })
        };
        opened(py, None, open).map(Self::of)
    }

    /// Lets go of the model. What is under way goes on.
    fn close(&self) {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Everything that is known of the model without computing, as JSON.
    fn about(&self, py: Python<'_>) -> PyResult<String> {
        self.quickly(py, |session| {
            let (model, config) = (session.model(), session.config());
            let about = json!({
                "name": model.name, "asked": session.asked(), "folder": session.folder(), "options": session.options(),
                "bos": model.tokenizer.bos(), "ends": model.tokenizer.ends(),
                "config": {
                    "n_layers": config.n_layers, "d_model": config.d_model, "n_heads": config.n_heads,
                    "n_key_value_heads": config.n_kv_heads, "d_head": config.d_head, "d_mlp": config.d_mlp,
                    "n_ctx": config.n_ctx, "d_vocab": config.d_vocab, "parallel_attn_mlp": config.parallel_residual,
                    "gated_mlp": config.gated_mlp,
                },
            });
            Ok(about.to_string())
        })
    }

    /// The hook names that the model has.
    fn sites(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let all = |session: &Session| {
            Ok(actpatch::engine::Site::all(session.config()).iter().map(ToString::to_string).collect())
        };
        self.quickly(py, all)
    }

    /// Token ids of texts; a special token that a text spells is that token.
    fn encode<'py>(&self, py: Python<'py>, texts: Vec<String>, bos: bool) -> PyResult<Vec<Bound<'py, PyArray1<i64>>>> {
        let encoded = self.quickly(py, |session| {
            let tokenizer = &session.model().tokenizer;
            let bos = tokenizer.bos().filter(|_| bos);
            let encode = |text: &String| -> Result<Vec<i64>> {
                Ok(bos.into_iter().chain(tokenizer.encode(text)?).map(i64::from).collect())
            };
            texts.iter().map(encode).collect::<Result<Vec<_>>>()
        })?;
        Ok(encoded.into_iter().map(|tokens| tokens.into_pyarray(py)).collect())
    }

    /// The text of tokens.
    fn decode(&self, py: Python<'_>, tokens: PyReadonlyArray1<'_, i64>) -> PyResult<String> {
        let tokens = slice(&tokens)?;
        self.quickly(py, |session| {
            let tokens = sequences(tokens, &[tokens.len()])?.concat();
            Ok(session.model().tokenizer.decode(&tokens)?)
        })
    }

    /// The text of every one of some tokens.
    fn decode_each(&self, py: Python<'_>, tokens: PyReadonlyArray1<'_, i64>) -> PyResult<Vec<String>> {
        let tokens = slice(&tokens)?;
        self.quickly(py, |session| {
            let tokens = sequences(tokens, &[tokens.len()])?.concat();
            tokens.iter().map(|&token| Ok(session.model().tokenizer.decode(&[token])?)).collect()
        })
    }

    /// Runs sequences with edits: the values of sites, flat, in the order of their names, and the logits.
    #[pyo3(signature = (tokens, lengths, names, edits, logits, progress=None))]
    #[expect(clippy::too_many_arguments, reason = "Python's own")]
    fn forward<'py>(
        &self,
        py: Python<'py>,
        tokens: PyReadonlyArray1<'py, i64>,
        lengths: Vec<usize>,
        names: Vec<String>,
        edits: Vec<EditArguments<'py>>,
        logits: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(Vec<Floats<'py>>, Option<Floats<'py>>)> {
        let session = self.session(py)?;
        let tokens = slice(&tokens)?;
        let edits = edits.iter().map(|arguments| edit(&session, arguments)).collect::<PyResult<Vec<_>>>()?;
        let pass = |observer: &mut dyn Observer| {
            let sequences = sequences(tokens, &lengths)?;
            let (edits, capture) = (edits.into_iter().collect::<Result<Vec<_>>>()?, sites(&session, &names)?);
            let forward = Forward { sequences: &sequences, edits: &edits, capture: &capture, logits: wanted(logits)? };
            session.forward(&forward, observer)
        };
        let found = Self::pass(py, (&session, tokens.len()), progress.as_ref(), pass)?;
        let logits = found.logits.map(|logits| logits.data.into_pyarray(py));
        Ok((arrays(py, found.sites), logits))
    }

    /// Logit differences at last positions, and their gradients by site.
    #[pyo3(signature = (tokens, lengths, answers, names, progress=None))]
    fn gradients<'py>(
        &self,
        py: Python<'py>,
        tokens: PyReadonlyArray1<'py, i64>,
        lengths: Vec<usize>,
        answers: Vec<Vec<AnswerPair>>,
        names: Vec<String>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(Floats<'py>, Vec<Floats<'py>>)> {
        let session = self.session(py)?;
        let tokens = slice(&tokens)?;
        let pass = |observer: &mut dyn Observer| {
            let (sequences, sites) = (sequences(tokens, &lengths)?, sites(&session, &names)?);
            session.gradients(&Backward { sequences: &sequences, answers: &answers, sites: &sites }, observer)
        };
        let found = Self::pass(py, (&session, tokens.len()), progress.as_ref(), pass)?;
        Ok((found.differences.into_pyarray(py), arrays(py, found.sites)))
    }

    /// Writes texts: of each its tokens, their log probabilities, and whether a token ended it.
    #[pyo3(signature = (tokens, lengths, samples, steered, ends, temperature, top_k, max_new_tokens, seed, progress=None))]
    #[expect(clippy::too_many_arguments, reason = "Python's own")]
    #[expect(clippy::type_complexity, reason = "a list of triples")]
    fn generate<'py>(
        &self,
        py: Python<'py>,
        tokens: PyReadonlyArray1<'py, i64>,
        lengths: Vec<usize>,
        samples: u32,
        steered: Vec<(String, Vec<f32>)>,
        ends: Vec<u32>,
        temperature: f64,
        top_k: usize,
        max_new_tokens: usize,
        seed: u64,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Vec<(Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f64>>, bool)>> {
        let session = self.session(py)?;
        let tokens = slice(&tokens)?;
        let sampling = Sampling { temperature, top_k, max_new_tokens, seed };
        let write = |observer: &mut dyn Observer| {
            let prompts = sequences(tokens, &lengths)?;
            let steered = steered.into_iter().map(|(name, values)| Ok((session.site(&name)?, values)));
            let steered = steered.collect::<Result<Vec<_>>>()?;
            let asked = Continue { prompts: &prompts, samples, steered: &steered, ends: &ends, sampling };
            session.write(&asked, observer)
        };
        let texts = watched(py, progress.as_ref(), write)?;
        let text = |text: actpatch::experiments::steering::Written| {
            let tokens: Vec<i64> = text.tokens.into_iter().map(i64::from).collect();
            (tokens.into_pyarray(py), text.log_probabilities.into_pyarray(py), text.ended)
        };
        Ok(texts.into_iter().map(text).collect())
    }

    /// Runs a study: its text, its outcome as JSON, and what failed of that which it has checked.
    #[pyo3(signature = (name, settings, progress=None))]
    fn study(
        &self,
        py: Python<'_>,
        name: &str,
        settings: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(String, String, Option<String>)> {
        let session = self.session(py)?;
        watched(py, progress.as_ref(), |observer| {
            let report = AnyStudy::new(name, map(settings)?)?.run(&session, observer)?;
            Ok((report.text, report.json.to_string(), report.failed))
        })
    }

    /// What a study will compute: the text of the plan, its arithmetic and its memory where they are known.
    fn plan(&self, py: Python<'_>, name: &str, settings: &str) -> PyResult<(String, Option<u64>, Option<usize>)> {
        let session = self.session(py)?;
        watched(py, None, |_| {
            let plan = AnyStudy::new(name, map(settings)?)?.plan(&session)?;
            Ok((plan.text, plan.operations, plan.memory_bytes))
        })
    }

    /// Runs a whole analysis from a file: of every step its study, text, outcome as JSON, and what failed.
    #[pyo3(signature = (path, settings, progress=None))]
    #[expect(clippy::type_complexity, reason = "a list of steps")]
    fn circuit(
        &self,
        py: Python<'_>,
        path: &str,
        settings: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Vec<(String, String, String, Option<String>)>> {
        let session = self.session(py)?;
        watched(py, progress.as_ref(), |observer| {
            let further: Vec<(String, Value)> = map(settings)?.into_iter().collect();
            let steps = Circuit::read(Path::new(path))?.steps(session.asked(), &further)?;
            let mut reports = Vec::with_capacity(steps.len());
            for step in steps {
                let report = step.study().run(&step.session(&session)?, observer)?;
                reports.push((step.name.clone(), report.text, report.json.to_string(), report.failed));
            }
            Ok(reports)
        })
    }

    /// The names of the stored directions that a pattern matches.
    fn directions(&self, py: Python<'_>, pattern: &str) -> PyResult<Vec<String>> {
        self.quickly(py, |session| {
            Ok(session.selected(&[pattern.to_owned()])?.iter().map(ToString::to_string).collect())
        })
    }

    /// Takes over directions from a file or a folder, and returns the names of those that were not there.
    #[pyo3(signature = (path, overwrite, settings="{}"))]
    fn import_directions(&self, py: Python<'_>, path: &str, overwrite: bool, settings: &str) -> PyResult<Vec<String>> {
        self.quickly(py, |session| {
            let processing = match processing_names(session.model().processing) {
                names if names.is_empty() => vec!["none".to_owned()],
                names => names,
            };
            let mut fields = Map::from_iter([("weight_processing".to_owned(), json!(processing))]);
            fields.extend(map(settings)?);
            fields.extend([
                ("from".to_owned(), json!(path)),
                ("model".to_owned(), json!(session.asked())),
                ("data_dir".to_owned(), json!(session.options().data_dir)),
                ("overwrite".to_owned(), json!(overwrite)),
            ]);
            let import: ImportDirections = from_settings(fields)?;
            Ok(import.run(&mut Silent)?.directions.into_iter().map(|(name, _)| name).collect())
        })
    }

    /// A dataset for the model, as JSON.
    fn prompts(&self, py: Python<'_>, name: &str, scaffold: Option<String>) -> PyResult<String> {
        self.quickly(py, |session| {
            let scaffold: Scaffold = match scaffold {
                None => Scaffold::Plain,
                Some(name) => name.parse().map_err(|error| Fault::of("scaffold", format!("{error}")))?,
            };
            Ok(serde_json::to_string(&session.prompts(name, scaffold)?)?)
        })
    }

    /// All datasets that the model can build, as JSON.
    fn datasets(&self, py: Python<'_>) -> PyResult<String> {
        self.quickly(py, |session| Ok(serde_json::to_string(&list_datasets(session)?)?))
    }
}
