//! A reading that is there already: read back, with lost pages and figures drawn again from its tables.

use super::files::{SAMPLES, SUMMARY, TEXTS, TOKEN_MEANS, TOP, VALUES, file};
use super::pages::Pages;
use super::{Asked, Neuroscope};
use crate::files::unguarded;
use crate::report::neuroscope::{ChannelSummary, SampleRow, TopRow};
use crate::report::pages::{PAGE_TOKENS, ShownToken, write_view};
use crate::report::{ReportError, read_csv};
use crate::session::{Fault, Mend, Session, Standing};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A reading that is there.
pub(super) struct Kept {
    /// What is printed of it.
    pub channels: Vec<ChannelSummary>,
    /// The same.
    pub top: Vec<TopRow>,
    /// Pages and figures that are lost, and that its tables have everything of.
    lost: Vec<String>,
}

/// The endings of a figure's files.
const FORMATS: [&str; 4] = ["svg", "png", "pdf", "html"];

/// How a reading that is asked for stands.
pub(super) enum Found {
    /// It is not there.
    Absent,
    /// Something else is there in its place; with the first difference.
    Other(String),
    /// It is there.
    Kept(Kept),
}

/// The tables that are read back.
pub(super) fn tables(folder: &Path, stem: &str) -> [PathBuf; 2] {
    [SUMMARY, TOP].map(|ending| file(folder, stem, ending))
}

/// Looks for the reading that is asked for.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn find(session: &Session, asked: &Asked) -> Result<Found> {
    let (folder, stem) = (session.folder(), &asked.stem);
    let notes = match session.standing(stem, &tables(&folder, stem), &asked.provenance)? {
        Standing::Absent => return Ok(Found::Absent),
        Standing::Other(difference) => return Ok(Found::Other(difference)),
        Standing::Kept(notes) => notes,
    };
    let Ok(written) = serde_json::from_value::<Vec<String>>(notes) else {
        return Ok(Found::Other("nothing says which files it has".into()));
    };
    let lost: Vec<String> = written.into_iter().filter(|name| !folder.join(name).is_file()).collect();
    // What no table replaces is made again with all the rest.
    if let Some(name) = lost.iter().find(|name| table_of(&folder, stem, name).is_none()) {
        return Ok(Found::Other(format!("{name} is not there")));
    }
    let [summary, top] = tables(&folder, stem);
    let top = read_csv(&top, "a row of the ends of values")?;
    Ok(Found::Kept(Kept { channels: ChannelSummary::read(&summary)?, top, lost }))
}

/// The table that has everything of a lost page or figure, if it is there.
fn table_of(folder: &Path, stem: &str, name: &str) -> Option<PathBuf> {
    let figure = |of: &str| FORMATS.iter().any(|ending| name == format!("{stem}_{of}.{ending}"));
    let table = match name == format!("{stem}_{TEXTS}.html") || figure(VALUES) {
        true => VALUES,
        false => Some(TOKEN_MEANS).filter(|means| figure(means))?,
    };
    Some(file(folder, stem, &format!("{table}.csv"))).filter(|path| path.is_file())
}

impl Kept {
    /// Draws what is lost again.
    ///
    /// # Errors
    /// A table that cannot be read, a file that cannot be written.
    pub fn draw_lost(&self, study: &Neuroscope, session: &Session, asked: &Asked) -> Result<()> {
        let (folder, stem) = (session.folder(), &asked.stem);
        let pages = Pages { model: &session.model().name, measure: study.measure, channels: asked.channels.list() };
        let tables: BTreeSet<PathBuf> = self.lost.iter().filter_map(|name| table_of(&folder, stem, name)).collect();
        for table in tables {
            if table == file(&folder, stem, &format!("{TOKEN_MEANS}.csv")) {
                let rows = read_csv(&table, "a row of tokens' means")?;
                pages.extremes(&rows).write_beside_data(&folder, &format!("{stem}_{TOKEN_MEANS}"))?;
                continue;
            }
            let shown = read_shown(&table, pages.channels.len())?;
            write_view(&pages.texts(&shown), &folder, &format!("{stem}_{TEXTS}"))?;
            if let Some(figure) = pages.heat_map(&shown) {
                figure.write_beside_data(&folder, &format!("{stem}_{VALUES}"))?;
            }
        }
        Ok(())
    }
}

/// The first tokens of the table of every token's values.
fn read_shown(path: &Path, channels: usize) -> Result<Vec<ShownToken>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| path.display().to_string())?;
    let mut shown = Vec::new();
    let rows =
        reader.records().take(PAGE_TOKENS).collect::<Result<_, _>>().with_context(|| path.display().to_string())?;
    for (number, record) in unguarded(rows).into_iter().enumerate() {
        let token = || {
            let values = (0..channels).map(|channel| record.get(3 + channel)?.parse().ok());
            let (document, text) = (record.get(0)?.parse().ok()?, record.get(2)?.to_owned());
            Some(ShownToken { document, text, values: values.collect::<Option<_>>()? })
        };
        shown.push(token().ok_or_else(|| ReportError::Content {
            path: path.into(),
            field: format!("row {}", number + 1),
            expected: format!("a token with {channels} values"),
            found: record.iter().collect::<Vec<_>>().join(","),
        })?);
    }
    Ok(shown)
}

/// Refuses to write another reading over samples that somebody has labelled in their place.
///
/// # Errors
/// A table of samples with columns of other people.
pub(super) fn refuse_labelled(session: &Session, stem: &str) -> Result<()> {
    let path = file(&session.folder(), stem, SAMPLES);
    if !path.is_file() {
        return Ok(());
    }
    let mut reader = csv::Reader::from_path(&path).with_context(|| path.display().to_string())?;
    let header = reader.headers().with_context(|| path.display().to_string())?;
    let added: Vec<&str> = header.iter().filter(|column| !SampleRow::COLUMNS.contains(column)).collect();
    if added.is_empty() {
        return Ok(());
    }
    let (path, added) = (path.display(), added.join(", "));
    let message = format!("{path}: expected samples without labels, found {added}, which another reading would lose");
    Err(Fault::new(message).mended_by(Mend::Another("name")).mended_by(Mend::Set("overwrite", String::new())).into())
}
