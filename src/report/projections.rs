//! `<direction>_projections.csv`: where the prompts of a fit, and of the datasets it was tested on, lie in the plane of
//! its first two components.

use super::ReportError;
use super::error::{read_table, write_csv};
use crate::directions::DirectionName;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProjectedPrompt {
    /// Its dataset: that of the fit, or one of the test sets.
    pub set: String,
    /// Placeholder whose residual was projected, or `ALL`.
    pub position: String,
    /// The token at that place.
    pub word: String,
    /// Is its correct answer the positive one?
    pub positive: bool,
    /// Coordinate along the fitted direction, in units of the residual stream.
    pub component_1: f64,
    /// Coordinate along the second component.
    pub component_2: f64,
}

/// The prompts of one fit in one plane.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Projections {
    /// Those of the fit first.
    pub prompts: Vec<ProjectedPrompt>,
}

impl Projections {
    /// The file beside a direction.
    pub fn path(folder: &Path, name: &DirectionName) -> PathBuf {
        folder.join(format!("{name}_projections.csv"))
    }

    /// Reads the file of a direction; no file is `None`.
    ///
    /// # Errors
    /// [`ReportError`] for a file that cannot be read, a line that does not parse, a coordinate that is no finite
    /// number.
    pub fn read(folder: &Path, name: &DirectionName) -> Result<Option<Self>, ReportError> {
        let path = Self::path(folder, name);
        if !path.exists() {
            return Ok(None);
        }
        let content = |field: String, found: String| ReportError::Content {
            path: path.clone(),
            field,
            expected: "set,position,word,positive,component_1,component_2".into(),
            found,
        };
        let broken = |error: csv::Error| {
            content(
                error.position().map_or("header".into(), |place| format!("line {}", place.line())),
                error.to_string(),
            )
        };
        let table = read_table(&path)?;
        let mut reader = csv::Reader::from_reader(&table[..]);
        let prompts: Vec<ProjectedPrompt> = reader.deserialize().collect::<Result<_, _>>().map_err(broken)?;
        let finite = |prompt: &ProjectedPrompt| prompt.component_1.is_finite() && prompt.component_2.is_finite();
        match prompts.iter().position(|prompt| !finite(prompt)) {
            Some(row) => Err(content(format!("prompt {}", row + 1), "a coordinate that is not finite".into())),
            None => Ok(Some(Self { prompts })),
        }
    }

    /// Writes the file of a direction, its cells guarded against spreadsheets or not.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(&self, folder: &Path, name: &DirectionName, guard: bool) -> Result<PathBuf, ReportError> {
        let path = Self::path(folder, name);
        write_csv(&path, &self.prompts, guard)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projections_survive_a_round_trip_and_faults_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let name: DirectionName = "pca_simple_train_ADJ_layer3".parse().unwrap();
        assert_eq!(Projections::read(folder.path(), &name).unwrap(), None);
        let prompt = ProjectedPrompt {
            set: "simple_train".into(),
            position: "ADJ".into(),
            word: " \"great\", é".into(),
            positive: true,
            component_1: -1.5,
            component_2: 1e-9,
        };
        let formula = ProjectedPrompt { positive: false, word: "=1".into(), ..prompt.clone() };
        let written = Projections { prompts: vec![prompt, formula] };
        let path = Projections::path(folder.path(), &name);
        for guard in [true, false] {
            assert_eq!(written.write(folder.path(), &name, guard).unwrap(), path);
            assert_eq!(std::fs::read_to_string(&path).unwrap().contains(",'=1,"), guard);
            assert_eq!(Projections::read(folder.path(), &name).unwrap().as_ref(), Some(&written));
        }
        let header = "set,position,word,positive,component_1,component_2\n";
        for (text, place) in [
            ("notes\nx\n", "line 2"),
            (&format!("{header}a,ADJ,x,maybe,1,2\n"), "line 2"),
            (&format!("{header}a,ADJ,x,true,NaN,2\n"), "prompt 1"),
        ] {
            std::fs::write(&path, text).unwrap();
            let message = Projections::read(folder.path(), &name).unwrap_err().to_string();
            assert!(message.contains("_projections.csv") && message.contains(place), "{message}");
        }
    }
}
