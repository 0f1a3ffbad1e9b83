//! The page over a folder of results.

use super::View;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, Serializer};
use std::path::{Component, Path};

/// Everything in a folder of results.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct OverviewPage {
    /// Above everything.
    pub title: String,
    /// When it was looked at, in UTC.
    pub made: String,
    /// Version of this crate.
    pub version: String,
    /// Where a page that is served asks how far sweeps are; a page in a file asks nobody.
    pub progress: Option<String>,
    /// Changes with every result that is added, replaced or taken away.
    pub stamp: String,
    /// How far sweeps are.
    pub sweeps: Vec<SweepBar>,
    /// Model by model, and what belongs to several.
    pub parts: Vec<Part>,
}

/// The results of a model, or those of several together.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Which model it is, and how it was read.
    pub facts: Vec<(String, String)>,
    /// What is missing, stale or damaged.
    pub troubles: Vec<Trouble>,
    /// The best layer of every method.
    pub best: Option<Grid>,
    /// What was run, with its settings.
    pub runs: Option<Grid>,
    /// Figures and pages.
    pub cards: Vec<Card>,
    /// Tables of results.
    pub tables: Vec<Grid>,
    /// Stored directions.
    pub directions: Option<Grid>,
    /// Every file.
    pub files: Option<Grid>,
}

/// Something that is not as its record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// In a word: `missing`, `changed`.
    pub kind: &'static str,
    /// The file.
    pub what: String,
    /// Where it is, if it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub href: Option<String>,
    /// The reason.
    pub why: String,
}

/// A figure or a page, in all its forms.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Card {
    /// The name that its files share.
    pub name: String,
    /// Where its best form is.
    pub href: String,
    /// A picture of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
    /// Its files: endings and addresses.
    pub files: Vec<(String, String)>,
    /// By which study, and when.
    pub made: String,
    /// What it was made of.
    pub settings: Vec<(String, String)>,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A table to sort and to filter.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Grid {
    /// What it is called.
    pub name: String,
    /// Heads.
    pub columns: Vec<String>,
    /// The rows, or the first of them.
    pub rows: Vec<Vec<Entry>>,
    /// How many there are, where that is known.
    pub total: Option<usize>,
    /// The file that has all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub href: Option<String>,
    /// The column whose percentages are drawn as bars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bars: Option<usize>,
    /// What else is to be said of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// A cell of a grid.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entry {
    text: String,
    href: Option<String>,
    sort: Option<f64>,
    settings: Vec<(String, String)>,
}

impl Entry {
    /// A text; numbers are found by the page.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A text that leads somewhere.
    pub fn link(text: impl Into<String>, href: Option<String>) -> Self {
        Self { href, ..Self::text(text) }
    }

    /// A text that is sorted by a number.
    pub fn sorted(text: impl Into<String>, sort: f64) -> Self {
        Self { sort: Some(sort), ..Self::text(text) }
    }

    /// A text that unfolds into settings.
    pub fn folded(text: impl Into<String>, settings: Vec<(String, String)>) -> Self {
        Self { settings, ..Self::text(text) }
    }

    /// What it says.
    pub fn as_text(&self) -> &str {
        &self.text
    }
}

impl Serialize for Entry {
    /// A plain text as itself, which most are.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Full<'a> {
            text: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            href: &'a Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            sort: Option<f64>,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            settings: &'a [(String, String)],
        }
        let Self { text, href, sort, settings } = self;
        match (href, sort) {
            (None, None) if settings.is_empty() => text.serialize(serializer),
            (href, sort) => Full { text, href, sort: *sort, settings }.serialize(serializer),
        }
    }
}

/// How far a sweep is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SweepBar {
    /// The folder of its ledger, below the folder of all results.
    pub name: String,
    /// Cells with a value.
    pub done: usize,
    /// Cells with an error.
    pub failed: usize,
    /// Cells with neither.
    pub missing: usize,
    /// Cells of prompts or directions that have changed since.
    pub stale: usize,
    /// Processes at work.
    pub processes: usize,
    /// Cells that they compute now.
    pub computing: usize,
    /// Seconds that it would take one process.
    #[serde(skip)]
    pub alone: Option<f64>,
    /// How long it will take, for people.
    pub left: Option<String>,
    /// Some of the cells that failed, and why.
    pub failures: Vec<(String, String)>,
    /// Why the ledger cannot be read.
    pub damaged: Option<String>,
}

impl View for OverviewPage {
    const NAME: &'static str = "overview";
    const SCRIPT: &'static str = include_str!("overview.js");
    const STYLE: &'static str = include_str!("overview.css");
    const PICTURE: bool = false;

    fn title(&self) -> &str {
        &self.title
    }

    /// Figures beside the page; whoever serves it may be asked for progress.
    fn sources(&self) -> &'static str {
        match &self.progress {
            None => "img-src 'self' file: data: blob:",
            Some(_) => "img-src 'self' data: blob:; connect-src 'self'",
        }
    }
}

/// What stays as it is in an address: nothing that could begin a scheme, a query or another host.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The address of a file by its path below the folder of the page; none for a path that leads elsewhere, or is no text.
pub fn link(path: &Path) -> Option<String> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(utf8_percent_encode(name.to_str()?, PLAIN).to_string()),
        _ => None,
    };
    let parts = path.components().map(part).collect::<Option<Vec<_>>>()?;
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_to_files_and_nowhere_else() {
        let of = |path: &str| link(Path::new(path));
        assert_eq!(of("demo/a b_ü.svg").unwrap(), "demo/a%20b_%C3%BC.svg");
        assert_eq!(of("javascript:alert(1).html").unwrap(), "javascript%3Aalert%281%29.html");
        assert_eq!(of("a?b#c%2e\"<&'.csv").unwrap(), "a%3Fb%23c%252e%22%3C%26%27.csv");
        for elsewhere in ["", "..", "a/../b", "/etc/passwd", "./a", "//host/a"] {
            let found = of(elsewhere);
            assert!(found.is_none(), "{elsewhere}: {found:?}");
        }
    }

    #[test]
    fn only_a_page_that_is_served_may_ask() {
        let file = OverviewPage::default();
        let served = OverviewPage { progress: Some("progress.json".into()), ..file.clone() };
        let [file, served] = [file, served].map(|page| crate::report::pages::html(&page, "index").unwrap());
        assert!(!file.contains("connect-src") && served.contains("; connect-src 'self'\">"));
        for page in [file, served] {
            assert!(page.contains("default-src 'none'") && !page.contains("data-save="));
        }
    }

    #[test]
    fn plain_cells_are_plain_texts() {
        let row = [Entry::text("a"), Entry::link("b", Some("b.csv".into())), Entry::sorted("1 kB", 1024.0)];
        let expected = r#"["a",{"text":"b","href":"b.csv"},{"text":"1 kB","sort":1024.0}]"#;
        assert_eq!(serde_json::to_string(&row).unwrap(), expected);
    }
}
