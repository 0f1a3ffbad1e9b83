//! Figures and pages, in all their forms.

use super::files::{Found, ending};
use super::records::Records;
use crate::report::pages::Card;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Forms of a figure or a page: those that a browser shows, the best to look at first, and their data.
const FORMS: [&str; 8] = ["html", "svg", "png", "pdf", "csv", "npy", "jsonl", "md"];

/// How many of them a browser shows.
const SHOWN: usize = 4;

/// Larger pictures are not shown small: a page has many.
const LARGEST_SVG: u64 = 500_000;
const LARGEST_PNG: u64 = 3_000_000;

/// Is this a figure or a page?
pub(super) fn is_shown(found: &Found) -> bool {
    FORMS[..SHOWN].contains(&&*found.ending())
}

/// A card for every figure and page among files, which come in the order of their paths.
pub(super) fn of(own: &[&Found], records: &Records) -> Vec<Card> {
    let mut groups: BTreeMap<PathBuf, Vec<&Found>> = BTreeMap::new();
    for found in own.iter().filter(|found| FORMS.contains(&&*found.ending())) {
        groups.entry(found.path.with_extension("")).or_default().push(found);
    }
    let shown = groups.into_iter().filter(|(_, files)| files.iter().any(|found| is_shown(found)));
    shown.filter_map(|(stem, files)| card(&stem.display().to_string(), &files, records)).collect()
}

fn card(name: &str, files: &[&Found], records: &Records) -> Option<Card> {
    let with = |ending: &str| files.iter().find(|found| found.ending() == ending);
    let listed = FORMS.iter().filter_map(|ending| Some(((*ending).to_owned(), with(ending)?.href()?)));
    let small = with("svg").filter(|found| found.bytes <= LARGEST_SVG);
    let picture = small.or_else(|| with("png").filter(|found| found.bytes <= LARGEST_PNG));
    // Of its files, those that are not there are listed nowhere.
    let own = |path: &Path| path.with_extension("") == Path::new(name) && FORMS.contains(&&*ending(path));
    let wrong = records.wrong.iter().find(|(path, _)| own(path)).map(|(_, trouble)| trouble);
    let settings = files.iter().map(|found| records.settings(&found.path)).find(|settings| !settings.is_empty());
    let modified = files.iter().map(|found| found.modified).max()?;
    let made = files.iter().find_map(|found| records.made(&found.path));
    Some(Card {
        name: name.to_owned(),
        href: FORMS.iter().find_map(|ending| with(ending))?.href()?,
        picture: picture.and_then(|found| found.href()),
        files: listed.collect(),
        made: made.unwrap_or_else(|| super::files::minute(modified)),
        settings: settings.unwrap_or_default(),
        trouble: wrong.map(|trouble| format!("{}: {}", trouble.kind, trouble.why)),
    })
}
