//! Model folders for tests: the fixtures' tensors, changed and written again.
#![allow(dead_code, reason = "every test binary uses another part")]

use actpatch::engine::{EngineError, MEMORY_BUDGET};
use actpatch::model::hub::{Limits, Observer};
use actpatch::model::{HubSettings, LoadOptions, Model, ModelError, WeightProcessing};
use actpatch::types::PairedPrompts;
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A tensor as it is in a file.
#[derive(Debug, Clone)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// The tensors of a file by name.
pub type Tensors = BTreeMap<String, Stored>;

/// `tests/fixtures/models/{name}`. ACTPATCH_FIXTURES names the folder of fixtures of a program that was brought to
/// another machine (tests/gpu_bundle.sh).
pub fn fixture(name: &str) -> PathBuf {
    let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::env::var_os("ACTPATCH_FIXTURES").map_or_else(here, PathBuf::from).join("models").join(name)
}

/// Reads every tensor of a `.safetensors` file.
pub fn read_tensors(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |view: TensorView<'_>| Stored {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    file.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect()
}

/// Writes a `.safetensors` file, a new one: models of the old one have it mapped.
pub fn write_tensors(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, tensor)| {
        (name.as_str(), TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    if path.exists() {
        std::fs::remove_file(path).unwrap();
    }
    std::fs::write(path, bytes).unwrap();
}

impl Stored {
    /// The values as f32.
    pub fn values(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => self.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => self.bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => self.bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            other => panic!("{other:?} is not in the fixtures"),
        }
    }

    /// The same values stored as f32.
    pub fn widened(&self) -> Self {
        let bytes = self.values().iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: self.shape.clone(), bytes }
    }
}

impl Stored {
    /// The same values stored as f64.
    pub fn doubled(&self) -> Self {
        let bytes = self.values().iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect();
        Self { dtype: Dtype::F64, shape: self.shape.clone(), bytes }
    }
}

/// Where the warnings of a test go.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What `work` returns, and the warnings that it logs on this thread.
pub fn warnings<T>(work: impl FnOnce() -> T) -> (T, String) {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    let result = tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    (result, text)
}

/// A copy of a fixture's folder that a test may spoil.
pub struct Copy {
    folder: tempfile::TempDir,
}

impl Copy {
    /// Copies config, tokenizer and weights.
    pub fn of(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            std::fs::copy(fixture(name).join(file), folder.path().join(file)).unwrap();
        }
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Rewrites the weights.
    pub fn tensors(&self, change: impl FnOnce(&mut Tensors)) -> &Self {
        let path = self.file("model.safetensors");
        let mut tensors = read_tensors(&path);
        change(&mut tensors);
        write_tensors(&path, &tensors);
        self
    }

    /// Sets a field of `config.json`; `null` removes it.
    pub fn config(&self, field: &str, value: serde_json::Value) -> &Self {
        let path = self.file("config.json");
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let fields = json.as_object_mut().unwrap();
        if value.is_null() {
            fields.remove(field)
        } else {
            fields.insert(field.to_owned(), value)
        };
        std::fs::write(&path, json.to_string()).unwrap();
        self
    }

    /// Writes a JSON file beside the configuration.
    pub fn json(&self, name: &str, value: serde_json::Value) -> &Self {
        std::fs::write(self.file(name), value.to_string()).unwrap();
        self
    }

    /// Rewrites `tokenizer.json`.
    pub fn tokenizer(&self, change: impl FnOnce(&mut serde_json::Value)) -> &Self {
        let path = self.file("tokenizer.json");
        let mut json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut json);
        self.json("tokenizer.json", json)
    }

    /// Splits the weights into two shards and an index.
    pub fn shard(&self) -> &Self {
        let whole = self.file("model.safetensors");
        let mut first = read_tensors(&whole);
        let middle = first.keys().nth(first.len() / 2).unwrap().clone();
        let second = first.split_off(&middle);
        let mut map = serde_json::Map::new();
        for (name, tensors) in
            [("model-00001-of-00002.safetensors", &first), ("model-00002-of-00002.safetensors", &second)]
        {
            write_tensors(&self.file(name), tensors);
            map.extend(tensors.keys().map(|tensor| (tensor.clone(), name.into())));
        }
        std::fs::remove_file(whole).unwrap();
        let index = serde_json::json!({ "metadata": {}, "weight_map": map });
        std::fs::write(self.file("model.safetensors.index.json"), index.to_string()).unwrap();
        self
    }

    pub fn load(&self) -> Result<Model, ModelError> {
        load(self.path(), WeightProcessing::none())
    }

    /// The message of the error that loading must end in.
    pub fn complaint(&self) -> String {
        self.load().map(|model| model.name).expect_err("must not load").to_string()
    }
}

/// Settings that never reach the network.
pub fn offline(cache: &Path) -> HubSettings {
    HubSettings {
        cache: cache.into(),
        endpoint: "http://127.0.0.1:9".to_owned(),
        token: None,
        offline: true,
        limits: Limits::default(),
        observer: Observer::default(),
    }
}

/// Loads a folder.
pub fn load(folder: &Path, processing: WeightProcessing) -> Result<Model, ModelError> {
    let options = LoadOptions { processing, ..LoadOptions::default() };
    Model::load_from(folder.to_str().unwrap(), &options, &offline(folder))
}

/// Whole numbers of a fixture.
pub fn integers(tensors: &Tensors, name: &str) -> Vec<u32> {
    let tensor = &tensors[name];
    assert_eq!(tensor.dtype, Dtype::I64);
    tensor.bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
}

/// The prompts of a circuit fixture: every one's corrupted prompt is the next.
pub fn circuit_prompts(tensors: &Tensors) -> PairedPrompts {
    let [n, length] = tensors["tokens"].shape[..] else { panic!() };
    let pairs = tensors["answers"].shape[1];
    let answers = integers(tensors, "answers");
    let answers = answers.chunks(2 * pairs).map(|row| row.chunks(2).map(|pair| (pair[0], pair[1])).collect());
    PairedPrompts {
        name: "fixture".into(),
        texts: vec![String::new(); n],
        sequences: integers(tensors, "tokens").chunks(length).map(<[u32]>::to_vec).collect(),
        clean: (0..n).collect(),
        corrupted: (0..n).map(|row| (row + 1) % n).collect(),
        positive: (0..n).map(|row| row % 2 == 0).collect(),
        has_classes: true,
        answers: answers.collect(),
        positions: BTreeMap::new(),
    }
}

/// What `run` finds under the usual memory budget, or under the least with which it runs: one prompt at a time.
pub fn within<T>(least: bool, run: impl Fn(usize) -> Result<T, EngineError>) -> T {
    let mut budget = if least { 1 } else { MEMORY_BUDGET };
    loop {
        match run(budget) {
            Err(EngineError::Memory { needed, .. }) if needed > budget => budget = needed,
            result => return result.unwrap(),
        }
    }
}

/// Logits and logit differences of order 1 to 10 in f32, through up to three blocks, beside f64.
pub const ABSOLUTE: f64 = 1e-4;

/// Checks values against a reference within [`ABSOLUTE`]; returns the largest difference.
#[track_caller]
pub fn compare(what: &str, found: &[f64], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(f, e)| (f - f64::from(*e)).abs()).fold(0.0, f64::max);
    assert!(worst <= ABSOLUTE, "{what}: off by {worst:e}: {found:?} {expected:?}");
    worst
}
