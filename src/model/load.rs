//! From a name to a [`Model`].

use super::config::ConfigFile;
use super::families::{self, Architecture};
use super::gguf::{self, GgufTensors};
use super::hub::HubSettings;
#[cfg(feature = "hub")]
use super::hub::{self, HubError, Wanted};
use super::names::{self, Named, Place};
use super::provenance::{FileRecord, Provenance, Source};
use super::random::RandomTensors;
use super::source::WeightSource;
use super::special_tokens::TokenFiles;
use super::tensors::{self, TensorFiles};
use super::tokenizer_files::{self, Loaded};
use super::{Bos, Model, ModelConfig, ModelError, Tokenizer, WeightProcessing, shapes};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The files of the demo model, part of the program.
mod demo {
    pub const FOLDER: &str = "data/models/demo";
    pub const CONFIG: &[u8] = include_bytes!("../../data/models/demo/config.json");
    pub const TOKENIZER: &[u8] = include_bytes!("../../data/models/demo/tokenizer.json");
    pub const WEIGHTS: &[u8] = include_bytes!("../../data/models/demo/model.safetensors");
}

/// How to load a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Which rewrites of the weights to do; those that would change the predictions are left out
    /// ([`WeightProcessing::possible`]).
    pub processing: WeightProcessing,
    /// Branch, tag or commit on the Hub; `main` without.
    pub revision: Option<String>,
    /// A `tokenizer.json`, a folder with one, or a Hub id, instead of the model's own. Random models have none of
    /// their own and use the demo model's otherwise.
    pub tokenizer: Option<String>,
    /// When a beginning-of-sequence token opens every text.
    pub bos: Bos,
    /// Seed of `random:` models.
    pub seed: u64,
}

impl Model {
    /// Loads a model by name: `demo`, `random:<alias>`, an alias such as `gpt2-small` or `pythia-1.4b`, a folder, a
    /// GGUF file, or a Hub id `organisation/name[@revision]`.
    ///
    /// Every tensor's presence, shape and type are checked here; values are read layer by layer, later.
    ///
    /// # Errors
    /// Anything that is wrong with the name, the files or the Hub, named; without the feature `hub`
    /// [`ModelError::WithoutHub`] for an alias and a Hub id.
    pub fn load(spec: &str, options: &LoadOptions) -> Result<Self, ModelError> {
        Self::load_from(spec, options, &HubSettings::from_environment())
    }

    /// The same with the Hub's cache and address given, not taken from the environment.
    ///
    /// # Errors
    /// See [`Model::load`].
    pub fn load_from(spec: &str, options: &LoadOptions, settings: &HubSettings) -> Result<Self, ModelError> {
        let Named { place, name } = names::parse(spec, options.revision.as_deref())?;
        match place {
            Place::Demo => load_demo(name, options, settings),
            Place::Random { alias } => load_random(name, alias, options, settings),
            Place::Folder(path) => {
                let source = Source::Folder { path: path.display().to_string() };
                load_folder(name, &path, source, options, settings)
            }
            Place::File(path) => {
                let source = Source::File { path: path.display().to_string() };
                load_gguf(name, &path, source, options, settings)
            }
            #[cfg(not(feature = "hub"))]
            Place::Hub { repo, revision } => Err(ModelError::WithoutHub { repo, revision }),
            #[cfg(feature = "hub")]
            Place::Hub { repo, revision } => {
                let wanted = Wanted { weights: true, tokenizer: options.tokenizer.is_none() };
                let snapshot = hub::snapshot(settings, &repo, &revision, wanted)?;
                let source = Source::Hub { repo, revision, commit: snapshot.commit };
                load_folder(name, &snapshot.folder, source, options, settings)
            }
        }
    }
}

impl Model {
    /// The name that a model's results are filed under, without loading it.
    ///
    /// # Errors
    /// [`ModelError::Name`] for what names no model.
    pub fn results_name(spec: &str, revision: Option<&str>) -> Result<String, ModelError> {
        names::parse(spec, revision).map(|named| named.name)
    }

    /// Refuses what names no model, and different models whose results would be filed under one name.
    ///
    /// # Errors
    /// [`ModelError::Name`].
    pub fn check_names(specs: &[String], revision: Option<&str>) -> Result<(), ModelError> {
        let mut seen: Vec<(&String, names::Named)> = Vec::new();
        for spec in specs {
            let named = names::parse(spec, revision)?;
            if let Some((first, _)) = seen.iter().find(|(_, other)| other.name == named.name && *other != named) {
                let message = format!(
                    "results of {first} are filed under {0}, too; NAME={spec} files them under another name",
                    named.name
                );
                return Err(ModelError::Name { spec: spec.clone(), message });
            }
            seen.push((spec, named));
        }
        Ok(())
    }

    /// The shape of a model, without its weights. That of a published model with an alias is known; any other is read
    /// from its `config.json`.
    ///
    /// # Errors
    /// See [`Model::load`].
    pub fn shape(spec: &str, revision: Option<&str>) -> Result<ModelConfig, ModelError> {
        Self::shape_from(spec, revision, &HubSettings::from_environment())
    }

    /// The same with the Hub's cache and address given, not taken from the environment.
    ///
    /// # Errors
    /// See [`Model::load`].
    #[cfg_attr(not(feature = "hub"), expect(unused_variables, reason = "settings of the Hub"))]
    pub fn shape_from(spec: &str, revision: Option<&str>, settings: &HubSettings) -> Result<ModelConfig, ModelError> {
        let place = names::parse(spec, revision)?.place;
        let known = match &place {
            Place::Random { alias } => shapes::architecture(alias),
            Place::Hub { repo, .. } => names::aliases_of(repo).find_map(shapes::architecture),
            Place::Demo | Place::Folder(_) | Place::File(_) => None,
        };
        if let Some(architecture) = known {
            return Ok(architecture.config().clone());
        }
        let config = match place {
            Place::Folder(folder) => config_in(&folder)?,
            Place::File(file) => gguf::config(&gguf::Parts::open(&file)?)?,
            #[cfg(feature = "hub")]
            Place::Hub { repo, revision } => {
                let of = |weights| hub::snapshot(settings, &repo, &revision, Wanted { weights, tokenizer: false });
                let snapshot = match of(false) {
                    // A repository of models in one file each has no configuration of its own.
                    Err(HubError::NotFound { .. } | HubError::Offline { .. }) => of(true)?,
                    snapshot => snapshot?,
                };
                config_in(&snapshot.folder)?
            }
            #[cfg(not(feature = "hub"))]
            Place::Hub { repo, revision } => return Err(ModelError::WithoutHub { repo, revision }),
            Place::Demo | Place::Random { .. } => demo_config()?,
        };
        Ok(families::read(&config)?.config().clone())
    }
}

fn load_folder(
    name: String,
    folder: &Path,
    source: Source,
    options: &LoadOptions,
    settings: &HubSettings,
) -> Result<Model, ModelError> {
    if let Some(file) = gguf_in(folder)? {
        return load_gguf(name, &file, source, options, settings);
    }
    let config = read_config(&folder.join("config.json"))?;
    let architecture = families::read(&config)?;
    let tokenizer = match &options.tokenizer {
        Some(tokenizer) => tokenizer_elsewhere(tokenizer, settings)?,
        None => tokenizer_files::in_folder(folder)?,
    };
    let files = TensorFiles::open(folder, architecture.as_ref())?;
    let mut records = vec![FileRecord::of_file(config.path())?];
    for path in files.paths() {
        records.push(FileRecord::of_file(path)?);
    }
    let weights = WeightSource::Files(files);
    finish(Parts { name, architecture, source: weights, quantised: None, tokenizer, records, from: source }, options)
}

fn load_gguf(
    name: String,
    file: &Path,
    from: Source,
    options: &LoadOptions,
    settings: &HubSettings,
) -> Result<Model, ModelError> {
    let parts = gguf::Parts::open(file)?;
    let config = gguf::config(&parts)?;
    let architecture = families::read(&config)?;
    let tokenizer = match &options.tokenizer {
        Some(tokenizer) => tokenizer_elsewhere(tokenizer, settings)?,
        None => gguf::tokenizer(&parts, &config)?,
    };
    let tensors = GgufTensors::find(parts, &config, architecture.as_ref())?;
    let quantised = tensors.parts().quantisation();
    let records = tensors.parts().paths().map(FileRecord::of_file).collect::<Result<Vec<_>, _>>()?;
    let source = WeightSource::Gguf(tensors);
    finish(Parts { name, architecture, source, quantised, tokenizer, records, from }, options)
}

fn load_demo(name: String, options: &LoadOptions, settings: &HubSettings) -> Result<Model, ModelError> {
    let config = demo_config()?;
    let architecture = families::read(&config)?;
    let tokenizer = match &options.tokenizer {
        Some(tokenizer) => tokenizer_elsewhere(tokenizer, settings)?,
        None => demo_tokenizer()?,
    };
    let weights = Path::new(demo::FOLDER).join("model.safetensors");
    let files = TensorFiles::embedded(&weights, demo::WEIGHTS, architecture.as_ref())?;
    let records =
        vec![FileRecord::of_bytes(config.path(), demo::CONFIG), FileRecord::of_bytes(&weights, demo::WEIGHTS)];
    let source = WeightSource::Files(files);
    let from = Source::Embedded;
    finish(Parts { name, architecture, source, quantised: None, tokenizer, records, from }, options)
}

fn load_random(
    name: String,
    alias: String,
    options: &LoadOptions,
    settings: &HubSettings,
) -> Result<Model, ModelError> {
    let architecture = shapes::architecture(&alias)
        .ok_or_else(|| ModelError::Name { spec: format!("random:{alias}"), message: "no such shape".to_owned() })?;
    let tokenizer = match &options.tokenizer {
        Some(tokenizer) => tokenizer_elsewhere(tokenizer, settings)?,
        None => demo_tokenizer()?,
    };
    let source = WeightSource::Random(RandomTensors::new(architecture.as_ref(), options.seed));
    let from = Source::Random { shape: alias, seed: options.seed };
    finish(Parts { name, architecture, source, quantised: None, tokenizer, records: Vec::new(), from }, options)
}

/// What a model is put together from.
struct Parts {
    name: String,
    architecture: Box<dyn Architecture>,
    source: WeightSource,
    quantised: Option<String>,
    tokenizer: Loaded,
    records: Vec<FileRecord>,
    from: Source,
}

fn finish(parts: Parts, options: &LoadOptions) -> Result<Model, ModelError> {
    let Parts { name, architecture, source, quantised, tokenizer, records, from } = parts;
    let Loaded { tokenizer, record, files } = tokenizer;
    let config = architecture.config().clone();
    let bos = files.bos(options.bos, &tokenizer, architecture.as_ref())?;
    let ends = files.ends(&tokenizer, config.d_vocab)?;
    let tokenizer = tokenizer.with_bos(bos.token).with_ends(ends);
    let provenance =
        Provenance { source: from, files: records, quantised, tokenizer: Some(record), bos_choice: Some(bos) };
    let processing = options.processing.possible(config.norm);
    let unembedding = OnceLock::new();
    Ok(Model { name, config, processing, tokenizer, provenance, architecture, source, unembedding, readout: None })
}

/// The GGUF file of a folder that has no other weights.
fn gguf_in(folder: &Path) -> Result<Option<PathBuf>, ModelError> {
    if tensors::has_weights(folder) { Ok(None) } else { gguf::in_folder(folder) }
}

/// The configuration of the model in a folder.
fn config_in(folder: &Path) -> Result<ConfigFile, ModelError> {
    match gguf_in(folder)? {
        Some(file) => gguf::config(&gguf::Parts::open(&file)?),
        None => read_config(&folder.join("config.json")),
    }
}

fn read_config(path: &Path) -> Result<ConfigFile, ModelError> {
    ConfigFile::parse(path, &read(path, "a model folder holds config.json, tokenizer.json and model.safetensors")?)
}

/// A file that has to be there; `hint` says what for.
pub(super) fn read(path: &Path, hint: &str) -> Result<Vec<u8>, ModelError> {
    std::fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => ModelError::MissingFile { path: path.into(), hint: hint.to_owned() },
        _ => ModelError::Io { path: path.into(), source },
    })
}

fn demo_config() -> Result<ConfigFile, ModelError> {
    ConfigFile::parse(&Path::new(demo::FOLDER).join("config.json"), demo::CONFIG)
}

fn demo_tokenizer() -> Result<Loaded, ModelError> {
    let path = Path::new(demo::FOLDER).join("tokenizer.json");
    Ok(Loaded {
        tokenizer: Tokenizer::from_bytes(&path, demo::TOKENIZER, None)?,
        record: FileRecord::of_bytes(&path, demo::TOKENIZER),
        files: TokenFiles::of_config(demo_config()?),
    })
}

/// The tokenizer that the user asked for in place of the model's own.
#[cfg_attr(not(feature = "hub"), expect(unused_variables, reason = "settings of the Hub"))]
fn tokenizer_elsewhere(spec: &str, settings: &HubSettings) -> Result<Loaded, ModelError> {
    let path = Path::new(spec);
    if path.is_file() {
        return if gguf::is_gguf(path) { gguf::tokenizer_of(path) } else { tokenizer_files::file(path) };
    }
    if spec == "demo" {
        return demo_tokenizer();
    }
    match names::parse(spec, None)?.place {
        #[cfg(not(feature = "hub"))]
        Place::Hub { repo, revision } => Err(ModelError::WithoutHub { repo, revision }),
        #[cfg(feature = "hub")]
        Place::Hub { repo, revision } => {
            let wanted = Wanted { weights: false, tokenizer: true };
            tokenizer_files::in_folder(&hub::snapshot(settings, &repo, &revision, wanted)?.folder)
        }
        Place::Folder(folder) if tokenizer_files::has_none(&folder) => match gguf::in_folder(&folder)? {
            Some(file) => gguf::tokenizer_of(&file),
            None => tokenizer_files::in_folder(&folder),
        },
        Place::Folder(folder) => tokenizer_files::in_folder(&folder),
        Place::File(file) => gguf::tokenizer_of(&file),
        Place::Demo | Place::Random { .. } => Err(ModelError::Name {
            spec: spec.to_owned(),
            message: "has no tokenizer of its own: expected a tokenizer.json, a folder with one, or a Hub id"
                .to_owned(),
        }),
    }
}

#[cfg(all(test, not(feature = "hub")))]
mod tests {
    use super::*;

    #[test]
    fn without_the_hub_feature_its_models_are_an_error() {
        let complaint = |spec: &str, tokenizer: Option<&str>| {
            let options = LoadOptions { tokenizer: tokenizer.map(str::to_owned), ..LoadOptions::default() };
            Model::load(spec, &options).map(|model| model.name).unwrap_err().to_string()
        };
        for message in [complaint("gpt2-small", None), complaint("demo", Some("openai-community/gpt2"))] {
            assert!(message.starts_with("openai-community/gpt2 at main: "), "{message}");
            assert!(message.contains("the feature `hub`"), "{message}");
        }
    }
}
