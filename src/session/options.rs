//! The options of a session: how a model is read, where it computes, and where results go.

use super::lists::list;
use super::{Device, Fault, wrong};
use crate::backend::Dtype;
use crate::choice::choices;
use crate::compat::Compat;
use crate::model::hub::Observer as Downloads;
use crate::model::{Bos, WeightProcessing};
use anyhow::Result;
use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The model that is asked for where none is named: the one that comes with the program.
pub const DEFAULT_MODEL: &str = "demo";

/// How a session reads its model, computes, and files results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionOptions {
    /// Branch, tag or commit on the Hub.
    pub revision: Option<String>,
    /// Tokenizer (file, folder or Hub id) instead of the model's own; random models use the demo model's without it.
    pub tokenizer: Option<String>,
    /// Beginning-of-sequence token in front of every text: as the model's family is used, always, or never.
    pub bos: Bos,
    /// Rewrites of the weights as TransformerLens does them.
    #[serde(serialize_with = "write_processing", deserialize_with = "read_processing")]
    pub weight_processing: WeightProcessing,
    /// Ways of the paper's code that are followed where results differ from them on purpose.
    #[serde(deserialize_with = "list")]
    pub compat: Vec<Compat>,
    /// Results go to a folder of the model's name in it; its `words.toml` and `datasets.toml` add to the built-in ones.
    #[serde(serialize_with = "write_path")]
    pub data_dir: PathBuf,
    /// Further files of datasets.
    #[serde(serialize_with = "write_paths", deserialize_with = "read_paths")]
    pub dataset_file: Vec<PathBuf>,
    /// Where to compute.
    pub device: Device,
    /// Number format of the matrix products.
    pub dtype: Dtype,
    /// Threads; 0 for one per core.
    pub threads: u16,
    /// Most tokens of one batch.
    pub batch_tokens: u32,
    /// Most memory for what is kept of prompts at once; by default a quarter of what the device has free behind the weights.
    #[serde(serialize_with = "write_memory")]
    pub memory: Option<ByteSize>,
    /// Seed of everything that is drawn: starts of DAS, sampled positions, resampled and balanced prompts, texts that are
    /// written, and the weights of random models.
    pub seed: u64,
    /// Compute what already exists again, instead of keeping it.
    pub overwrite: bool,
    /// Texts of tables that a spreadsheet would compute (they begin with =, +, -, @, a tab or a carriage return) get an
    /// apostrophe in front.
    pub csv_guard: bool,
    /// How the program was called, for manifests.
    #[serde(skip)]
    pub arguments: Vec<String>,
    /// Hears how far downloads from the Hub are.
    #[serde(skip)]
    pub downloads: Downloads,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            revision: None,
            tokenizer: None,
            bos: Bos::default(),
            weight_processing: WeightProcessing::default(),
            compat: Vec::new(),
            data_dir: "data".into(),
            dataset_file: Vec::new(),
            device: Device::Auto,
            dtype: Dtype::F32,
            threads: 0,
            batch_tokens: 4096,
            memory: None,
            seed: 0,
            overwrite: false,
            csv_guard: false,
            arguments: Vec::new(),
            downloads: Downloads::default(),
        }
    }
}

/// More threads than this are a slip of the hand.
const MOST_THREADS: u16 = 1024;

impl SessionOptions {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// A [`Fault`] that names the field.
    pub fn validate(&self) -> Result<()> {
        if self.batch_tokens == 0 {
            wrong!("batch_tokens", "expected at least 1, found 0");
        }
        if self.threads > MOST_THREADS {
            wrong!("threads", "expected at most {MOST_THREADS}, found {}", self.threads);
        }
        Ok(())
    }

    /// The compatibility settings that results of every kind depend on, sorted, each once.
    pub fn compat(&self) -> Vec<Compat> {
        let of_results = self.compat.iter().copied().filter(|compat| compat.is_of_results());
        of_results.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The ending that sets result files of a run apart from those of one without these compatibility settings.
    pub fn compat_ending(&self) -> String {
        let names = self.compat().into_iter().map(Compat::name).collect::<Vec<_>>().join("_");
        if names.is_empty() { names } else { format!("_compat_{names}") }
    }

    /// The memory budget, if there is one, in bytes.
    pub fn memory_budget(&self) -> Option<usize> {
        self.memory.map(|size| usize::try_from(size.as_u64()).unwrap_or(usize::MAX))
    }

    /// Do both read the same model?
    pub(super) fn loads_like(&self, other: &Self) -> bool {
        let how = |options: &Self| {
            let Self { revision, tokenizer, bos, weight_processing, seed, .. } = options.clone();
            (revision, tokenizer, bos, weight_processing, seed)
        };
        how(self) == how(other)
    }

    /// Do both compute in the same way?
    pub(super) fn computes_like(&self, other: &Self) -> bool {
        let how = |options: &Self| {
            let Self { device, dtype, threads, batch_tokens, memory, .. } = options.clone();
            (device, dtype, threads, batch_tokens, memory)
        };
        how(self) == how(other)
    }
}

choices! {
    /// One rewrite of the weights.
    pub enum Rewrite {
        /// Fold layer norms' gain and bias into the next product.
        FoldLn = "fold_ln",
        /// Centre everything that writes to the residual stream.
        CenterWritingWeights = "center_writing_weights",
        /// Centre the unembedding over the vocabulary.
        CenterUnembed = "center_unembed",
        /// Move value biases behind the attention.
        FoldValueBiases = "fold_value_biases",
        /// None of them.
        None = "none",
    }
}

impl Rewrite {
    /// Those of TransformerLens: all there are.
    pub const TRANSFORMER_LENS: [Self; 4] =
        [Self::FoldLn, Self::CenterWritingWeights, Self::CenterUnembed, Self::FoldValueBiases];
}

/// The names of the rewrites that are on, as records store them.
pub fn processing_names(processing: WeightProcessing) -> Vec<String> {
    let WeightProcessing { fold_ln, center_writing_weights, center_unembed, fold_value_biases } = processing;
    let on = [fold_ln, center_writing_weights, center_unembed, fold_value_biases];
    let named = Rewrite::TRANSFORMER_LENS.iter().zip(on).filter(|(_, on)| *on);
    named.map(|(rewrite, _)| rewrite.name().to_owned()).collect()
}

/// What a list of rewrites asks for.
///
/// # Errors
/// [`Rewrite::None`] beside others.
pub fn processing_of(rewrites: &[Rewrite]) -> Result<WeightProcessing, Fault> {
    let has = |rewrite| rewrites.contains(&rewrite);
    if has(Rewrite::None) && rewrites.len() > 1 {
        return Err(Fault::of("weight_processing", "`none` stands alone"));
    }
    Ok(WeightProcessing {
        fold_ln: has(Rewrite::FoldLn),
        center_writing_weights: has(Rewrite::CenterWritingWeights),
        center_unembed: has(Rewrite::CenterUnembed),
        fold_value_biases: has(Rewrite::FoldValueBiases),
    })
}

fn write_processing<S: Serializer>(processing: &WeightProcessing, serializer: S) -> Result<S::Ok, S::Error> {
    match processing_names(*processing) {
        names if names.is_empty() => ["none"].serialize(serializer),
        names => names.serialize(serializer),
    }
}

fn read_processing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<WeightProcessing, D::Error> {
    processing_of(&list(deserializer)?).map_err(|fault| D::Error::custom(fault.message))
}

fn write_path<S: Serializer>(path: &std::path::Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

fn write_paths<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.display().to_string()))
}

/// A text with commas is several paths; paths of a list keep theirs.
fn read_paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    match value {
        Value::Array(_) => serde_json::from_value(value).map_err(D::Error::custom),
        value => list(value).map_err(D::Error::custom),
    }
}

/// In bytes: what people write, such as `8 GB`, is read as well.
fn write_memory<S: Serializer>(memory: &Option<ByteSize>, serializer: S) -> Result<S::Ok, S::Error> {
    memory.map(|size| size.as_u64()).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_are_read_as_people_write_them() {
        let read = |json: Value| serde_json::from_value::<SessionOptions>(json);
        let texts = json!({
            "weight_processing": "fold_ln,center_unembed", "compat": "double-spaces", "dataset_file": "x.toml,y.toml",
        });
        let lists = json!({
            "weight_processing": ["fold_ln", "center_unembed"], "compat": ["double-spaces"],
            "dataset_file": ["x.toml", "y.toml"],
        });
        let expected = read(lists).unwrap();
        assert_eq!(expected.dataset_file, [PathBuf::from("x.toml"), "y.toml".into()]);
        assert_eq!(read(texts).unwrap(), expected);
        let none = read(json!({ "weight_processing": "none" })).unwrap();
        assert_eq!(processing_names(none.weight_processing), [""; 0]);
        let message = read(json!({ "weight_processing": "none,fold_ln" })).unwrap_err().to_string();
        assert_eq!(message, "`none` stands alone");
        assert!(read(json!({ "compat": "x" })).unwrap_err().to_string().contains("expected one of"));
        // What was written is read back.
        let commas = SessionOptions { dataset_file: vec!["a,b.toml".into()], ..SessionOptions::default() };
        assert_eq!(read(serde_json::to_value(&commas).unwrap()).unwrap(), commas);
    }
}
