//! What a library user, the command line and other front ends hold: a model on a device, its prompts, its stored
//! directions, and the folder of its results.
//!
//! A [`Session`] is cheap to clone; its clones share the model and the device. [`crate::studies`] compute with it.
//!
//! ```
//! use actpatch::datasets::treebank::Scaffold;
//! use actpatch::session::{Session, SessionOptions};
//!
//! let session = Session::open("demo", SessionOptions::default())?;
//! let prompts = session.prompts("simple_test", Scaffold::Plain)?;
//! assert_eq!(prompts.sequences[0].first().copied(), session.model().tokenizer.bos());
//! # Ok::<(), anyhow::Error>(())
//! ```

mod activations;
mod continuations;
mod device;
mod edits;
mod fault;
mod gradients;
pub(crate) mod lists;
mod observer;
mod options;
mod places;
mod prompts;
mod provenance;
mod results;
mod stored;

pub use crate::directions::family;
pub use crate::sweep::Stopped;
pub use activations::{Activations, Forward, Wanted};
pub use continuations::Continue;
pub use device::Device;
pub use edits::{Change, Edit};
pub use fault::{Fault, Fields, Mend, OfSetting, Spelling, text_of};
pub use gradients::{Backward, Gradients};
pub use observer::{Note, Observer, Progress, Silent, note_kept};
pub use options::{DEFAULT_MODEL, Rewrite, SessionOptions, processing_names, processing_of};
pub use places::text_places;
pub use prompts::{fingerprint, layers, planned_rows};
pub use provenance::{Provenance, Standing};
pub use stored::{ByLayer, at_layers};

pub(crate) use device::DeviceWork;
pub(crate) use fault::wrong;
pub(crate) use prompts::need_classes;
pub(crate) use provenance::{Recorded, RowRecords, check_output, contents, hash_of_matrix, is_hash, shown};
pub(crate) use results::{MODEL, Owner, place, start_manifest};
pub(crate) use stored::hash_of_layers;

use crate::datasets::Catalogue;
use crate::engine::{Layout, MEMORY_BUDGET};
use crate::model::{HubSettings, LoadOptions, Model, ModelConfig, ModelError};
use anyhow::{Context, Result};
use device::Engines;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once, OnceLock};

/// A model with everything that studies need of it. Clones share the model, its copy on the device, and the threads.
#[derive(Clone)]
pub struct Session {
    loaded: Arc<Loaded>,
    options: Arc<SessionOptions>,
    pool: Arc<rayon::ThreadPool>,
    catalogue: Arc<OnceLock<Arc<Catalogue>>>,
}

/// A model, and its copy on the devices once something was computed.
struct Loaded {
    /// How it was asked for.
    name: String,
    model: Arc<Model>,
    engines: Mutex<Option<Arc<Engines>>>,
    /// What its weights are known by, once that was asked for.
    weights: OnceLock<String>,
    /// Has what killed processes left among the results been cleared?
    cleared: Once,
}

impl Loaded {
    fn new(name: &str, model: impl Into<Arc<Model>>) -> Arc<Self> {
        let (name, model) = (name.to_owned(), model.into());
        Arc::new(Self { name, model, engines: Mutex::new(None), weights: OnceLock::new(), cleared: Once::new() })
    }
}

impl Session {
    /// Loads a model by name: `demo`, an alias such as `gpt2-small`, a Hub id, a folder, a GGUF file, `random:<alias>`, or any
    /// of these behind `NAME=` to file its results under that name. Nothing is uploaded before something is computed.
    ///
    /// # Errors
    /// A [`Fault`] of an option, and everything that can be wrong with the model's files ([`Model::load`]).
    pub fn open(model: &str, options: SessionOptions) -> Result<Self> {
        options.validate()?;
        let threads = rayon::ThreadPoolBuilder::new().num_threads(options.threads.into());
        let pool = threads.build().of_setting("threads")?;
        let loaded = Loaded::new(model, load(model, &options)?);
        Ok(Self { loaded, options: Arc::new(options), pool: Arc::new(pool), catalogue: Arc::default() })
    }

    /// The same session under changed options. What they do not touch is shared: the model unless it is read otherwise,
    /// its copy on the device unless it is computed otherwise.
    ///
    /// # Errors
    /// Those of [`Session::open`].
    pub fn with(&self, change: impl FnOnce(&mut SessionOptions)) -> Result<Self> {
        let mut options = SessionOptions::clone(&self.options);
        change(&mut options);
        if !options.loads_like(&self.options) {
            return Self::open(&self.loaded.name, options);
        }
        options.validate()?;
        let mut session = Self { catalogue: Arc::default(), ..self.clone() };
        if !options.computes_like(&self.options) {
            session.loaded = Loaded::new(&self.loaded.name, self.loaded.model.clone());
            let threads = rayon::ThreadPoolBuilder::new().num_threads(options.threads.into());
            session.pool = Arc::new(threads.build().of_setting("threads")?);
        }
        session.options = Arc::new(options);
        Ok(session)
    }

    /// The same session with a direction behind the model's vocabulary, along which runs are measured instead of by
    /// their answers ([`Model::with_readout`]).
    ///
    /// # Errors
    /// A direction of another width, and those of loading the model once more.
    pub fn reading_along(&self, direction: Vec<f32>) -> Result<Self> {
        let model = load(&self.loaded.name, &self.options)?.with_readout(direction)?;
        Ok(Self { loaded: Loaded::new(&self.loaded.name, model), ..self.clone() })
    }

    /// How the model was asked for.
    pub fn asked(&self) -> &str {
        &self.loaded.name
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.loaded.model
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.loaded.model.config
    }

    /// The options.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// The seed of everything that is drawn at random.
    pub fn seed(&self) -> u64 {
        self.options.seed
    }

    /// Most tokens of one batch.
    pub fn batch_tokens(&self) -> usize {
        self.options.batch_tokens as usize
    }

    /// The folder of the model's results: below the data folder, by the model's name.
    pub fn folder(&self) -> PathBuf {
        self.options.data_dir.join(&self.model().name)
    }

    /// Values that a run over `whole` keeps at most, as plans count them.
    pub fn planned_values(&self, whole: &Layout) -> usize {
        let config = self.config();
        let budget = self.options.memory_budget().unwrap_or(MEMORY_BUDGET);
        (whole.n_tokens() * config.d_model * (3 * config.n_layers + 20)).min(budget / 4)
    }

    /// Expected memory of a run, in bytes: packed weights, and `activations` values in f32.
    pub fn planned_memory(&self, activations: usize) -> usize {
        let config = self.config();
        config.n_layers * config.block_weights() * self.options.dtype.weight_bytes() + 4 * activations
    }
}

fn load(name: &str, options: &SessionOptions) -> Result<Model> {
    let load = LoadOptions {
        processing: options.weight_processing,
        revision: options.revision.clone(),
        tokenizer: options.tokenizer.clone(),
        bos: options.bos,
        seed: options.seed,
    };
    let hub = HubSettings { observer: options.downloads.clone(), ..HubSettings::from_environment() };
    let model = match Model::load_from(name, &load, &hub) {
        Err(ModelError::Name { spec, message }) if Some(&spec) == options.tokenizer.as_ref() && spec != name => {
            Err(ModelError::Name { spec, message }).of_setting("tokenizer")
        }
        Err(error @ ModelError::Name { .. }) => Err(error).of_setting("models"),
        model => model.with_context(|| format!("model {name}")),
    }?;
    tracing::info!(model = model.name, config = ?model.config, "loaded");
    Ok(model)
}

/// The entries of a list in their order, each once.
pub fn distinct<T: Clone + PartialEq>(list: &[T]) -> Vec<T> {
    let mut kept: Vec<T> = Vec::with_capacity(list.len());
    for entry in list {
        if !kept.contains(entry) {
            kept.push(entry.clone());
        }
    }
    kept
}
