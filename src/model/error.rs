//! What can be wrong with a model on disk or on the Hub.

#[cfg(feature = "hub")]
use super::hub::HubError;
use std::path::PathBuf;

/// Every variant names the file and the field, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `tokenizer.json` is not a tokenizer, or cannot encode a text.
    #[error("{path}: {message}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer library said.
        message: String,
    },
    /// A beginning-of-sequence token was asked for, but no file names one that exists.
    #[error(
        "{path}: no beginning-of-sequence token: neither the tokenizer nor the files beside it name one that exists"
    )]
    NoBos {
        /// The tokenizer's file.
        path: PathBuf,
    },
    /// A JSON file is not JSON, or not an object.
    #[error("{path}: not a JSON object: {message}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        message: String,
    },
    /// A field of `config.json` is missing, has a value that no model can have, or asks for something unsupported.
    #[error("{path}: field `{field}`: expected {expected}, found {found}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What would be accepted.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// `model_type` names a family that has no code here.
    #[error("{path}: field `model_type`: {found} is not a supported architecture (supported: {supported})")]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What the file says.
        found: String,
        /// The families there are.
        supported: String,
    },
    /// A file that a model folder needs is not there.
    #[error("{path}: missing; {hint}")]
    MissingFile {
        /// The file.
        path: PathBuf,
        /// What to do about it.
        hint: String,
    },
    /// A `.safetensors` file, or its index, is damaged.
    #[error("{path}: {message}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A tensor is not in the file where it should be.
    #[error("{path}: tensor `{tensor}` of shape {expected:?} is missing")]
    MissingTensor {
        /// The file (the index of a sharded model).
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape that `config.json` asks for.
        expected: Vec<usize>,
    },
    /// A tensor's shape does not fit `config.json`.
    #[error("{path}: tensor `{tensor}`: expected shape {expected:?} by config.json, found {found:?}")]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape that `config.json` asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A checkpoint whose weights are packed into fewer bits.
    #[error(
        "{path}: {what}: quantised checkpoints are not read; take the model's unquantised files, or make them in Python: \
         AutoModelForCausalLM.from_pretrained(FOLDER).dequantize().save_pretrained(OTHER)"
    )]
    Quantised {
        /// The file.
        path: PathBuf,
        /// What shows it: a field of `config.json`, or a tensor.
        what: String,
    },
    /// A tensor's values are not floating-point numbers of a known width.
    #[error("{path}: tensor `{tensor}`: expected dtype F64, F32, F16 or BF16, found {found}")]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The dtype in the file.
        found: String,
    },
    /// A part of a GGUF file is damaged, missing, or asks for something unsupported.
    #[error("{path}: {}{what}: expected {expected}, found {found}", place(*.byte))]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Where in it, if the part is there.
        byte: Option<usize>,
        /// The key, the tensor or the part of the header.
        what: String,
        /// What would be accepted.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// A model's name is neither an alias, a folder nor a Hub id.
    #[error("model `{spec}`: {message}")]
    Name {
        /// What was asked for.
        spec: String,
        /// What is wrong, and what would be accepted.
        message: String,
    },
    /// A token id that the model has no row for.
    #[error(
        "{model}: token id {token} is out of range: the model has {d_vocab} ids (is this the model's own tokenizer?)"
    )]
    TokenOutOfRange {
        /// The model's name.
        model: String,
        /// The id.
        token: u32,
        /// Rows of the embedding.
        d_vocab: usize,
    },
    /// A direction of another width than the residual stream.
    #[error("{model}: direction to read along: expected {expected} values, found {found}")]
    Readout {
        /// The model's name.
        model: String,
        /// Width of the residual stream.
        expected: usize,
        /// Of the direction.
        found: usize,
    },
    /// A layer that the model does not have.
    #[error("{model}: layer {layer} is out of range: the model has {n_layers} layers")]
    LayerOutOfRange {
        /// The model's name.
        model: String,
        /// The layer asked for.
        layer: usize,
        /// Number of layers.
        n_layers: usize,
    },
    /// The crate was built without what loads from the Hub.
    #[error(
        "{repo} at {revision}: loading from the Hugging Face Hub needs the feature `hub`, without which this program was \
         built; a folder with the model's files can be loaded"
    )]
    WithoutHub {
        /// The repository.
        repo: String,
        /// The branch, tag or commit.
        revision: String,
    },
    /// The Hub, or its local cache, did not give the files.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// `byte 24: `, where the byte is known.
fn place(byte: Option<usize>) -> String {
    byte.map(|byte| format!("byte {byte}: ")).unwrap_or_default()
}
