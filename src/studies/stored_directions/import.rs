//! Directions from elsewhere, taken over into a folder of results.

use crate::directions::{
    Direction, DirectionError, FitRecord, FoundDirections, ImportSource, LeftOut, Wanted, read_files,
};
use crate::model::Model;
use crate::report::{RunRecord, Table};
use crate::session::{
    DEFAULT_MODEL, Fault, Mend, Note, Observer, OfSetting, Rewrite, SessionOptions, layers, note_kept,
    processing_names, processing_of, start_manifest, wrong,
};
use crate::studies::fields::{list, optional_text};
use crate::studies::suite_tables::forget;
use anyhow::Result;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt;
use std::path::{Path, PathBuf};

/// Takes over directions of any name: `.npy`, `.npz` and `.safetensors` arrays or JSON lists. They are named
/// `<name>_layer<l>`, those of the paper's code `<method>_<dataset>_<POSITION>_layer<l>`; all of them are checked before
/// the first is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImportDirections {
    /// The file, or the folder with the files.
    #[serde(serialize_with = "write_path")]
    pub from: PathBuf,
    /// The model that the directions belong to. Its files are not needed if it has an alias.
    pub model: String,
    /// Which of them: names without the files' ending, `*` and `?` match anything.
    #[serde(deserialize_with = "list")]
    pub directions: Vec<String>,
    /// The layer of those whose name has none; negative numbers count from the end, -1 is behind the last block.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_text")]
    pub layer: Option<String>,
    /// The weight processing they were fitted with. The paper's code fitted on the checkpoint's own weights.
    #[serde(deserialize_with = "list")]
    pub weight_processing: Vec<Rewrite>,
    /// They are stored in the folder of the model's name in it.
    #[serde(serialize_with = "write_path")]
    pub data_dir: PathBuf,
    /// Replace directions of the same names, and forget their results, instead of keeping them.
    pub overwrite: bool,
    /// Texts of tables that are written anew get an apostrophe in front where a spreadsheet would compute them.
    pub csv_guard: bool,
    /// How the program was called, for the manifest.
    #[serde(skip)]
    pub arguments: Vec<String>,
}

impl Default for ImportDirections {
    fn default() -> Self {
        Self {
            from: PathBuf::new(),
            model: DEFAULT_MODEL.into(),
            directions: vec!["*".into()],
            layer: None,
            weight_processing: vec![Rewrite::None],
            data_dir: SessionOptions::default().data_dir,
            overwrite: false,
            csv_guard: false,
            arguments: Vec::new(),
        }
    }
}

fn write_path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// A direction with the file it was read from.
type Import = (Direction, ImportSource);

/// Directions that were taken over, or would be.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The folder of results.
    pub folder: PathBuf,
    /// The directions with their sources, without those that were there already.
    pub directions: Vec<(String, ImportSource)>,
    /// Were they stored?
    pub stored: bool,
    /// The manifest; none when nothing was stored.
    pub manifest: Option<RunRecord>,
}

impl ImportDirections {
    /// Says what would be stored.
    ///
    /// # Errors
    /// As [`ImportDirections::run`].
    pub fn plan(&self, observer: &mut dyn Observer) -> Result<Imported> {
        let (folder, _, wanted) = self.wanted(observer)?;
        Ok(Imported { folder, directions: named(&wanted), stored: false, manifest: None })
    }

    /// Stores them.
    ///
    /// # Errors
    /// A file that is no direction of the model, one that stands in the place of another direction, and those of the
    /// file system.
    pub fn run(&self, observer: &mut dyn Observer) -> Result<Imported> {
        let (folder, processing, wanted) = self.wanted(observer)?;
        let mut manifest = None;
        if !wanted.is_empty() {
            let configuration = serde_json::to_value(self)?;
            let arguments = self.arguments.clone();
            let mut started = start_manifest(&folder, "directions-import", configuration, arguments, None)?;
            // Results must never outlive the direction they were measured with.
            let replaced = wanted.iter().map(|(direction, _)| format!("{}.npy", direction.name));
            forget(&folder, &replaced.collect(), self.csv_guard)?;
            for (direction, source) in &wanted {
                let record = FitRecord {
                    model: self.model.clone(),
                    weight_processing: processing.clone(),
                    imported: Some(source.clone()),
                    ..FitRecord::of(&direction.name)
                };
                started.wrote(&direction.write(&folder, &record)?, []);
            }
            manifest = Some(started.finish()?);
        }
        Ok(Imported { folder, directions: named(&wanted), stored: true, manifest })
    }

    /// The folder of results, the processing of the weights, and the directions that are not there yet.
    fn wanted(&self, observer: &mut dyn Observer) -> Result<(PathBuf, Vec<String>, Vec<Import>)> {
        let shape = Model::shape(&self.model, None).of_setting("model")?;
        let processing = processing_names(processing_of(&self.weight_processing)?.possible(shape.norm));
        let all = self.found(shape.d_model, shape.n_layers, observer)?;
        all.iter().try_for_each(|import| check_own_record(import, &processing))?;
        let folder = self.data_dir.join(Model::results_name(&self.model, None)?);
        let count = all.len();
        let mut wanted = Vec::new();
        for import in all {
            if self.overwrite || !is_there(&folder, &import, &processing)? {
                wanted.push(import);
            }
        }
        note_kept(observer, count - wanted.len(), "directions", &folder);
        Ok((folder, processing, wanted))
    }

    /// The directions of the files; what is left out is said.
    fn found(&self, d_model: usize, n_layers: usize, observer: &mut dyn Observer) -> Result<Vec<Import>> {
        let layer = self.layer.as_ref().map(|layer| one_layer(layer, n_layers)).transpose()?;
        let wanted = Wanted { patterns: &self.directions, layer, d_model, n_layers };
        let found = read_files(&self.from, wanted).map_err(|error| match &error {
            DirectionError::NameIn { field: "layer", .. } if layer.is_none() => {
                Fault::new(error.to_string()).mended_by(Mend::Set("layer", "L".into())).into()
            }
            _ => anyhow::Error::from(error),
        })?;
        let FoundDirections { directions, left_out, layer_was_needed } = found;
        let Some((first, _)) = directions.first() else {
            return Err(Fault::new(format!("{}: expected directions, found none", self.from.display())).into());
        };
        if let Some(layer) = layer.filter(|_| !layer_was_needed) {
            let name = &first.name;
            wrong!(
                "layer",
                "expected a direction whose name has no layer for {layer}, found only others such as {name}"
            );
        }
        if !left_out.is_empty() {
            observer.note(&Note::Warning(names_without_layer(&left_out)));
        }
        Ok(directions)
    }
}

/// The one layer that a text means.
fn one_layer(text: &String, n_layers: usize) -> Result<usize> {
    match layers("layer", std::slice::from_ref(text), n_layers)?[..] {
        [layer] => Ok(layer),
        _ => wrong!("layer", "expected one layer, found {text:?}"),
    }
}

/// A direction that lies beside a record of its fit says itself which weights it was fitted on.
fn check_own_record((direction, source): &Import, processing: &[String]) -> Result<()> {
    let folder = Path::new(&source.file).parent().unwrap_or(Path::new(""));
    let Ok(record) = FitRecord::read(folder, &direction.name) else { return Ok(()) };
    if record.weight_processing == processing {
        return Ok(());
    }
    let listed = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(",") };
    let (found, expected) = (listed(&record.weight_processing), listed(processing));
    let message = format!("{}: its record says {found}, expected {expected}", source.file);
    Err(Fault::of("weight_processing", message).mended_by(Mend::Set("weight_processing", found)).into())
}

/// Names that a message lists.
const EXAMPLES: usize = 3;

fn names_without_layer(left_out: &[LeftOut]) -> String {
    let example = |LeftOut { file, name }: &LeftOut| {
        let file = file.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} ({file})")
    };
    let mut examples: Vec<String> = left_out.iter().take(EXAMPLES).map(example).collect();
    if left_out.len() > EXAMPLES {
        examples.push("…".to_owned());
    }
    format!("left out, as no directions: {} without a layer in the name: {}", left_out.len(), examples.join(", "))
}

/// Is this very direction there? Another one in its place is refused.
fn is_there(folder: &Path, (direction, source): &Import, processing: &[String]) -> Result<bool> {
    let (array, record) = Direction::paths(folder, &direction.name);
    if !array.exists() {
        return Ok(false);
    }
    let found = match record.exists() {
        false => "one without a record".to_owned(),
        true => match FitRecord::read(folder, &direction.name)? {
            FitRecord { imported: None, .. } => "one that was fitted".into(),
            FitRecord { imported: Some(theirs), .. }
                if (&theirs.sha256, &theirs.array) != (&source.sha256, &source.array) =>
            {
                format!("other contents, imported from {}", theirs.file)
            }
            record if record.weight_processing != processing => {
                format!("one of weight_processing {}", record.weight_processing.join(","))
            }
            _ => return Ok(true),
        },
    };
    let message = format!("{}: expected the direction of {}, found {found}", array.display(), source.file);
    Err(Fault::new(message)
        .mended_by(Mend::Set("overwrite", String::new()))
        .mended_by(Mend::Another("data_dir"))
        .into())
}

fn named(imports: &[Import]) -> Vec<(String, ImportSource)> {
    imports.iter().map(|(direction, source)| (direction.name.to_string(), source.clone())).collect()
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["direction", "file"]);
        self.directions.iter().for_each(|(name, source)| table.push([name.clone(), source.file.clone()]));
        let done = if self.stored { "imported" } else { "would be imported" };
        write!(f, "{} directions {done} into {}\n{table}", self.directions.len(), self.folder.display())
    }
}

impl Serialize for Imported {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let direction = |(name, source): &(String, ImportSource)| json!({ "name": name, "imported": source });
        let directions: Vec<_> = self.directions.iter().map(direction).collect();
        let folder = self.folder.display().to_string();
        json!({ "folder": folder, "directions": directions, "manifest": self.manifest }).serialize(serializer)
    }
}
