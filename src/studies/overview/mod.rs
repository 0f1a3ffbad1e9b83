//! What a folder of results holds, as one page: models, their runs and settings, figures, tables, directions, and what is
//! missing, stale or damaged. No model is loaded, and nothing is computed.

mod cards;
mod directions;
mod files;
mod part;
mod records;
#[cfg(feature = "cli")]
mod server;
mod sweeps;
mod tables;

#[cfg(feature = "cli")]
pub use server::{Listening, PORT};

use crate::files::write_whole;
use crate::report::pages::{OverviewPage, SweepBar, Trouble, html};
use crate::session::{Fault, Mend};
use anyhow::{Context, Result};
use files::{Hashes, Listing};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use sweeps::Sweeps;

/// The page in a folder of results.
pub(super) const INDEX: &str = "index.html";

/// Where a page that is served asks how far sweeps are.
const PROGRESS: &str = "progress.json";

/// A folder of results that is looked at, perhaps again and again: what takes long to find out is kept.
#[derive(Debug)]
pub struct Overview {
    /// As it was named.
    data_dir: PathBuf,
    /// Without links: nothing outside it is looked at.
    root: PathBuf,
    hashes: Hashes,
    sweeps: Sweeps,
}

/// How far sweeps are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// Changes with every result that is added, replaced or taken away.
    pub stamp: String,
    /// Ledger by ledger.
    pub sweeps: Vec<SweepBar>,
}

impl Overview {
    /// Looks at a folder of results.
    ///
    /// # Errors
    /// A folder that is not there.
    pub fn open(data_dir: &Path) -> Result<Self> {
        let wrong = |error| Fault::of("data_dir", format!("{}: {error}", data_dir.display()));
        let root = data_dir.canonicalize().map_err(wrong)?;
        if !root.is_dir() {
            return Err(
                Fault::of("data_dir", format!("{}: expected a folder, found a file", data_dir.display())).into()
            );
        }
        Ok(Self { data_dir: data_dir.to_owned(), root, hashes: Hashes::default(), sweeps: Sweeps::default() })
    }

    /// The page as it is now; one that is `served` asks how sweeps come along. What is damaged is listed, and no error.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn page(&self, served: bool) -> Result<OverviewPage> {
        let listing = Listing::of(&self.root).with_context(|| self.data_dir.display().to_string())?;
        let name = self.root.file_name().map_or("results".into(), |name| name.to_string_lossy().into_owned());
        Ok(OverviewPage {
            title: format!("Results in {name}"),
            made: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            progress: served.then(|| PROGRESS.to_owned()),
            stamp: listing.stamp(),
            sweeps: self.sweeps.bars(&self.root, &listing.models(), false),
            parts: part::parts(&self.root, &listing, &self.hashes),
        })
    }

    /// How far sweeps are. Ledgers that have not changed since they were last read are not read again.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn progress(&self) -> Result<Progress> {
        let listing = Listing::of(&self.root).with_context(|| self.data_dir.display().to_string())?;
        Ok(Progress { stamp: listing.stamp(), sweeps: self.sweeps.bars(&self.root, &listing.models(), true) })
    }
}

/// The page that was written over a folder of results.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WrittenOverview {
    /// Where it is.
    pub page: String,
    /// The models that there are results of.
    pub models: Vec<String>,
    /// How many runs have left a manifest.
    pub runs: usize,
    /// How many figures and pages there are.
    pub figures: usize,
    /// How many tables there are.
    pub tables: usize,
    /// How many directions there are.
    pub directions: usize,
    /// What is missing, stale or damaged.
    pub troubles: Vec<Trouble>,
}

/// Writes `index.html` over everything in a folder of results.
///
/// # Errors
/// A folder without results; an `index.html` of somebody else; a page that is too large, or cannot be written.
pub fn write_overview(data_dir: &Path) -> Result<WrittenOverview> {
    let page = Overview::open(data_dir)?.page(false)?;
    if page.parts.is_empty() {
        let fault = Fault::new(format!("{}: no results", data_dir.display()));
        return Err(fault.mended_by(Mend::Another("data_dir")).mended_by(Mend::Study("demo", Vec::new())).into());
    }
    let path = data_dir.join(INDEX);
    if path.exists() && !is_overview(&path) {
        let found = "expected no file, or a page over results, found another page that may be somebody's own";
        return Err(Fault::new(format!("{}: {found}", path.display())).into());
    }
    write_whole(&path, html(&page, "index")?.as_bytes()).with_context(|| path.display().to_string())?;
    let count = |of: fn(&crate::report::pages::Part) -> usize| page.parts.iter().map(of).sum();
    Ok(WrittenOverview {
        page: path.display().to_string(),
        models: page.parts.iter().filter(|part| !part.facts.is_empty()).map(|part| part.name.clone()).collect(),
        runs: count(|part| part.runs.as_ref().map_or(0, |grid| grid.rows.len())),
        figures: count(|part| part.cards.len()),
        tables: count(|part| part.tables.len()),
        directions: count(|part| part.directions.as_ref().map_or(0, |grid| grid.rows.len())),
        troubles: page.parts.iter().flat_map(|part| part.troubles.iter().cloned()).collect(),
    })
}

/// Is this file such a page? Then it may be replaced.
fn is_overview(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|page| {
        String::from_utf8_lossy(&page).contains(r#"<script type="application/json" id="data">{"view":"overview","#)
    })
}

/// How many troubles a text lists.
const SHOWN: usize = 20;

impl fmt::Display for WrittenOverview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { page, models, runs, figures, tables, directions, troubles } = self;
        writeln!(
            f,
            "{page}: {} models, {runs} runs, {figures} figures and pages, {tables} tables, {directions} directions",
            models.len()
        )?;
        for Trouble { kind, what, why, .. } in troubles.iter().take(SHOWN) {
            writeln!(f, "{kind}: {what}: {why}")?;
        }
        match troubles.len().checked_sub(SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => writeln!(f, "… and {more} more (the page lists them)"),
        }
    }
}

#[cfg(test)]
mod tests;
