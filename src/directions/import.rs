//! Directions from elsewhere: arrays as the code of arXiv 2310.15154 and other tools write them.

use super::formats::{Arrays, Ending, Format, READABLE, of_array};
use super::name::glob;
use super::storage::{file_error, read_bounded};
use super::{Direction, DirectionError, DirectionName, FitRecord};
use crate::types::Matrix;
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file that an imported direction was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportSource {
    /// Its path.
    pub file: String,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// The direction's name in a file that may hold several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<String>,
}

/// Which directions are read, and for which model.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Names without the file's ending; `*` and `?` match anything.
    pub patterns: &'a [String],
    /// The layer of those whose name has none.
    pub layer: Option<usize>,
    /// Width of the model's residual stream.
    pub d_model: usize,
    /// Blocks of the model.
    pub n_layers: usize,
}

/// What the files hold.
#[derive(Debug, Clone, Default)]
pub struct FoundDirections {
    /// The directions, with the files that they were read from.
    pub directions: Vec<(Direction, ImportSource)>,
    /// What only a pattern meant, and what has no layer in its name: no direction, as far as that tells.
    pub left_out: Vec<LeftOut>,
    /// Is there a direction that has its layer from [`Wanted::layer`]?
    pub layer_was_needed: bool,
}

/// What is no direction, as far as its name tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The file.
    pub file: PathBuf,
    /// What it would be called.
    pub name: String,
}

/// Reads the wanted directions of a file, or of all `.npy`, `.npz`, `.json` and `.safetensors` files of a folder. A
/// direction goes by its file's name; where a file holds several, or its own name has no layer, by its name there. All
/// of them or none: the first fault is the answer. Of a folder, records of fits are not read, nor is what has no layer in
/// its name unless it is asked for by that name.
///
/// # Errors
/// [`DirectionError::NameIn`] for a name that is no direction's, [`DirectionError::File`] for two files of one direction,
/// a layer that the model has not, a format that cannot be read, and everything that [`Direction::read`] refuses;
/// [`DirectionError::NoMatch`] for a pattern that selects nothing; [`DirectionError::Io`].
pub fn read_files(from: &Path, wanted: Wanted<'_>) -> Result<FoundDirections, DirectionError> {
    let files = files(from)?;
    let mut reader = Reader {
        wanted,
        patterns: wanted.patterns.iter().map(|pattern| Pattern::new(pattern)).collect(),
        is_folder: from.is_dir(),
        by_name: BTreeMap::new(),
        found: FoundDirections::default(),
        unreadable: None,
    };
    files.iter().try_for_each(|candidate| reader.take(candidate))?;
    reader.finish(from, files.len())
}

/// A file that may be read.
struct Candidate {
    path: PathBuf,
    ending: Ending,
}

/// How something is asked for: what is named is more than what a pattern covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    ByPattern,
    ByName,
}

/// A name, or a pattern of names.
struct Pattern<'a> {
    text: &'a str,
    matcher: Option<Regex>,
    /// Has it matched anything?
    hit: bool,
}

impl<'a> Pattern<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, matcher: glob(text), hit: false }
    }

    fn asks_for(&mut self, name: &str) -> Option<Asked> {
        let matches = self.matcher.as_ref().is_some_and(|regex| regex.is_match(name));
        self.hit |= matches;
        let asked = if self.text.contains(['*', '?']) { Asked::ByPattern } else { Asked::ByName };
        matches.then_some(asked)
    }
}

/// Columns that are further from orthogonal than this are no basis: what is patched along them would count twice what they
/// share. DAS bases of other tools are orthogonal to about 1e-6.
const MOST_COSINE: f32 = 1e-3;

/// Warns of columns that are not orthogonal.
fn warn_unless_orthogonal(path: &Path, direction: &Direction) {
    let columns = direction.unit_columns();
    let (k, d) = (columns.cols, columns.rows);
    let cosine = |a: usize, b: usize| (0..d).map(|row| columns.data[row * k + a] * columns.data[row * k + b]).sum();
    let pairs = (1..k).flat_map(|b| (0..b).map(move |a| (a, b)));
    let cosines = pairs.map(|(a, b)| -> (usize, usize, f32) { (a, b, cosine(a, b)) });
    if let Some((a, b, found)) = cosines.into_iter().find(|(_, _, cosine)| cosine.abs() > MOST_COSINE) {
        tracing::warn!(
            "{}: columns {a} and {b} are not orthogonal (their cosine is {found:.4}): patches along them count twice what \
             they share; numpy.linalg.qr makes a basis of them",
            path.display()
        );
    }
}

/// Reads file after file.
struct Reader<'a> {
    wanted: Wanted<'a>,
    patterns: Vec<Pattern<'a>>,
    is_folder: bool,
    by_name: BTreeMap<DirectionName, (Direction, ImportSource)>,
    found: FoundDirections,
    /// The first fault of a file that no pattern meant by its own name.
    unreadable: Option<DirectionError>,
}

impl Reader<'_> {
    /// How the patterns ask for a name. All of them are tried, for each has to match something.
    fn asked(&mut self, name: &str) -> Option<Asked> {
        self.patterns.iter_mut().filter_map(|pattern| pattern.asks_for(name)).max()
    }

    /// Is this no direction, as far as its name tells? Then it is noted.
    fn leaves_out(&mut self, path: &Path, name: &str, asked: Option<Asked>) -> bool {
        let is_none = self.is_folder && asked == Some(Asked::ByPattern);
        let leaves_out = is_none && self.wanted.layer.is_none() && !has_layer(name);
        if leaves_out {
            self.found.left_out.push(LeftOut { file: path.to_owned(), name: name.to_owned() });
        }
        leaves_out
    }

    /// Reads what is wanted of a file.
    fn take(&mut self, Candidate { path, ending }: &Candidate) -> Result<(), DirectionError> {
        let stem = stem(path);
        let of_file = self.asked(&stem);
        // What has no names inside need not be opened to know whether it is wanted.
        if !ending.is_named() && (of_file.is_none() || self.leaves_out(path, &stem, of_file)) {
            return Ok(());
        }
        let arrays = match Arrays::open(path, *ending) {
            Err(error) if self.is_folder && of_file.is_none() => {
                self.unreadable.get_or_insert(error);
                return Ok(());
            }
            arrays => arrays?,
        };
        let alone = arrays.names.len() == 1;
        let (mut chosen, mut names) = (Vec::new(), Vec::new());
        for array in &arrays.names {
            let asked = of_file.max(array.as_deref().and_then(|array| self.asked(array)));
            let name = called(&stem, array.as_deref(), alone);
            if asked.is_some() && !self.leaves_out(path, name, asked) {
                chosen.push(array.clone());
                names.push(self.direction_name(path, name)?);
            }
        }
        if chosen.is_empty() {
            return Ok(());
        }
        let sha256 = arrays.sha256();
        for ((columns, array), name) in arrays.read(&chosen)?.into_iter().zip(chosen).zip(names) {
            let source = ImportSource { file: path.display().to_string(), sha256: sha256.clone(), array };
            self.add(path, name, source, columns)?;
        }
        Ok(())
    }

    /// The direction's name of a name whose layer may be missing.
    fn direction_name(&mut self, path: &Path, name: &str) -> Result<DirectionName, DirectionError> {
        let name: DirectionName = match self.wanted.layer {
            Some(layer) if !has_layer(name) => {
                self.found.layer_was_needed = true;
                format!("{name}_layer{layer}").parse()
            }
            _ => name.parse(),
        }
        .map_err(|error: DirectionError| error.in_file(path))?;
        if name.layer() > self.wanted.n_layers {
            let expected = format!("0 to {}", self.wanted.n_layers);
            return Err(file_error(path, "layer", expected, name.layer().to_string()));
        }
        Ok(name)
    }

    /// Adds an array as the direction of this name.
    fn add(
        &mut self,
        path: &Path,
        name: DirectionName,
        source: ImportSource,
        columns: Matrix,
    ) -> Result<(), DirectionError> {
        if let Some((_, first)) = self.by_name.get(&name) {
            let both = format!("{} as well", first.file);
            return Err(file_error(path, "name", format!("one file of {name}"), both));
        }
        let checked = Direction::checked(path, &name, self.wanted.d_model, columns);
        let direction = match &source.array {
            Some(array) => checked.map_err(of_array(array))?,
            None => checked?,
        };
        warn_unless_orthogonal(path, &direction);
        self.by_name.insert(name, (direction, source));
        Ok(())
    }

    /// What was found, when every pattern meant something.
    fn finish(self, from: &Path, available: usize) -> Result<FoundDirections, DirectionError> {
        if let Some(pattern) = self.patterns.iter().find(|pattern| !pattern.hit) {
            let unreadable = self.unreadable.map_or(String::new(), |error| format!("; {error}"));
            let examples = format!(" ({READABLE} files in {}{unreadable})", from.display());
            return Err(DirectionError::NoMatch { pattern: pattern.text.to_owned(), available, examples });
        }
        if self.by_name.is_empty()
            && let Some(first) = self.found.left_out.first()
        {
            // Its name has no layer, and nothing else was meant.
            first.name.parse::<DirectionName>().map_err(|error| error.in_file(&first.file))?;
        }
        Ok(FoundDirections { directions: self.by_name.into_values().collect(), ..self.found })
    }
}

/// What a direction is called: as its file, or as its array there.
fn called<'a>(stem: &'a str, array: Option<&'a str>, alone: bool) -> &'a str {
    match array {
        Some(array) if !alone || (has_layer(array) && !has_layer(stem)) => array,
        _ => stem,
    }
}

fn has_layer(name: &str) -> bool {
    let digits = name.rsplit_once("_layer").map(|(_, digits)| digits);
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A file itself, or those of a folder that have an ending of ours, sorted.
fn files(from: &Path) -> Result<Vec<Candidate>, DirectionError> {
    let io = |source| DirectionError::Io { path: from.into(), source };
    if std::fs::metadata(from).map_err(io)?.is_file() {
        return match Ending::of(from) {
            Some(ending) => Ok(vec![Candidate { path: from.to_owned(), ending }]),
            None => {
                let found = from.extension().unwrap_or_default().to_string_lossy().into_owned();
                Err(file_error(from, "format", READABLE.into(), format!("{found:?}")))
            }
        };
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(from).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if let Some(ending) = Ending::of(&path).filter(|_| path.is_file())
            && !is_record(&path, ending)
        {
            files.push(Candidate { path, ending });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Is this the record of the direction beside it, and no direction?
fn is_record(path: &Path, ending: Ending) -> bool {
    ending == Ending::Of(Format::Json)
        && path.with_extension("npy").is_file()
        && read_bounded(path).is_ok_and(|bytes| serde_json::from_slice::<FitRecord>(&bytes).is_ok())
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::ArrayView1;
    use ndarray_npy::WriteNpyExt;
    use safetensors::tensor::{Dtype, TensorView};
    use std::io::{Cursor, Write};

    fn npy(values: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        ArrayView1::from(values).write_npy(&mut bytes).unwrap();
        bytes
    }

    fn npz(arrays: &[(&str, &[u8])]) -> Vec<u8> {
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in arrays {
            archive.start_file(format!("{name}.npy"), options).unwrap();
            archive.write_all(bytes).unwrap();
        }
        archive.finish().unwrap().into_inner()
    }

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, bytes)| std::fs::write(folder.path().join(name), bytes).unwrap());
        folder
    }

    fn read(from: &Path, patterns: &[&str], layer: Option<usize>) -> Result<FoundDirections, DirectionError> {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        read_files(from, Wanted { patterns: &patterns, layer, d_model: 2, n_layers: 4 })
    }

    fn names(found: &FoundDirections) -> Vec<String> {
        found.directions.iter().map(|(direction, _)| direction.name.to_string()).collect()
    }

    fn refused(from: &Path, patterns: &[&str]) -> String {
        read(from, patterns, None).unwrap_err().to_string()
    }

    #[test]
    fn records_and_what_has_no_layer_in_its_name_are_no_directions_of_a_folder() {
        let array = npy(&[1.0, 2.0]);
        let from =
            folder(&[("model.json", b"{\"d_model\": 2}"), ("map.npy", &array), ("listed_layer1.json", b"[1, 2]")]);
        let name: DirectionName = "das_simple_train_ADJ_layer3".parse().unwrap();
        let direction = Direction { name: name.clone(), columns: Matrix::new(2, 1, vec![1.0, 2.0]) };
        direction.write(from.path(), &FitRecord::of(&name)).unwrap();
        let found = read(from.path(), &["*"], None).unwrap();
        assert_eq!(names(&found), ["das_simple_train_ADJ_layer3", "listed_layer1"]);
        let left_out: Vec<&str> = found.left_out.iter().map(|left_out| left_out.name.as_str()).collect();
        assert_eq!((left_out, found.layer_was_needed), (vec!["map", "model"], false));
        // What is asked for by its name is a direction, or an error.
        for patterns in [&["model"][..], &["*", "model"], &["mod*"]] {
            let message = refused(from.path(), patterns);
            assert!(message.contains("\"model\": layer"), "{message}");
        }
        let found = read(from.path(), &["map"], Some(2)).unwrap();
        assert_eq!((names(&found), found.layer_was_needed), (vec!["map_layer2".to_owned()], true));
        assert!(refused(&from.path().join("model.json"), &["*"]).contains("\"model\": layer"));
        // A list beside an array of its name is a second direction, not a record.
        std::fs::write(from.path().join("listed_layer1.npy"), &array).unwrap();
        assert!(refused(from.path(), &["*"]).contains("one file of listed_layer1"));
    }

    #[test]
    fn arrays_of_a_file_are_chosen_by_name_before_they_are_read() {
        let array = npy(&[1.0, 2.0]);
        let probes = npz(&[("truth_layer1", &array), ("broken_layer2", b"no array"), ("bias", b"no array")]);
        let (steps, honest) = (7i64.to_le_bytes(), [1f32, 2.0].map(f32::to_le_bytes).concat());
        let tensors = [
            ("step", TensorView::new(Dtype::I64, vec![1], &steps).unwrap()),
            ("honest_layer1", TensorView::new(Dtype::F32, vec![2], &honest).unwrap()),
        ];
        let honest = safetensors::serialize(tensors, None).unwrap();
        let from = folder(&[("probes.npz", &probes), ("honest.safetensors", &honest), ("corrupt.npz", b"PK")]);
        let chosen = |patterns: &[&str]| names(&read(from.path(), patterns, None).unwrap());
        assert_eq!(chosen(&["truth*"]), ["truth_layer1"]);
        assert_eq!(chosen(&["truth_layer1", "honest_layer1"]), ["honest_layer1", "truth_layer1"]);
        assert_eq!(chosen(&["hon*"]), ["honest_layer1"]);
        for patterns in [&["broken_layer2"][..], &["truth*", "bro*"], &["prob*"]] {
            let message = refused(from.path(), patterns);
            assert!(message.contains("probes.npz: header") && message.contains("array \"broken_layer2\""), "{message}");
        }
        // The whole file by its name is every array of it.
        assert!(refused(from.path(), &["honest"]).contains("\"step\""));
        for (from, patterns) in [
            (from.path().to_owned(), &["corrupt"][..]),
            (from.path().to_owned(), &["*"]),
            (from.path().join("corrupt.npz"), &["truth*"]),
        ] {
            let message = refused(&from, patterns);
            assert!(message.contains("corrupt.npz: archive: expected an .npz file"), "{message}");
        }
        let message = refused(from.path(), &["lies*"]);
        assert!(
            message.contains("\"lies*\" matches none of the 3") && message.contains("corrupt.npz: archive"),
            "{message}"
        );
    }
}
