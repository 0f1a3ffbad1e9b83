//! Pages that people look at: one file each, without any reference to the network.
//!
//! A page is a view and its data. Data go into the page as JSON, arrays of numbers in it as base64; `page.js` and the view's
//! script draw them, show what the pointer or the keys find, and save what is shown as SVG, PNG and CSV. The scripts and the
//! style are files beside this one, and lie in every page.

mod attention;
mod overview;
mod packed;
mod paths;
mod predictions;
mod steering;
mod texts;

use super::ReportError;
use super::error::write_whole;
use super::figure::{Figure, Scale};
pub use attention::{AttentionPage, AttentionPattern};
pub use overview::{Card, Entry, Grid, OverviewPage, Part, SweepBar, Trouble, link};
pub(crate) use packed::{floats, packed};
pub use paths::{PathsMap, PathsPage};
pub use predictions::PredictionsPage;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
pub use steering::SteeringPage;
pub use texts::{Channel, PAGE_TOKENS, PageText, ShownToken, TextPage, documents};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const FIGURE: &str = include_str!("figure.js");

/// No page and no figure is larger: browsers and readers give up on it.
pub const LARGEST: usize = 20_000_000;

/// What saves a picture.
const SAVERS: &str =
    r#"<button data-save="svg">SVG</button><button data-save="png">PNG</button><button data-save="csv">CSV</button>"#;

/// What shows a picture as a table.
const TABLE: &str = r#"<details id="table"><summary>What is shown, as a table</summary><div id="rows"></div></details>
"#;

/// What a page shows.
pub trait View: Serialize {
    /// Its name, by which the script knows it.
    const NAME: &'static str;
    /// Its script, behind the one of all pages.
    const SCRIPT: &'static str;
    /// Its style, behind the one of all pages.
    const STYLE: &'static str = "";
    /// Is it one picture, which can be saved and shown as a table?
    const PICTURE: bool = true;

    /// Above everything.
    fn title(&self) -> &str;

    /// What its security policy lets in besides its own style and scripts.
    fn sources(&self) -> &'static str {
        "img-src data: blob:"
    }
}

impl View for Figure {
    const NAME: &'static str = "figure";
    const SCRIPT: &'static str = FIGURE;

    fn title(&self) -> &str {
        &self.title
    }
}

/// Writes the page of a view to `<folder>/<stem>.html`, whole or not at all. Its data are on disk already: a page that is
/// too large costs a warning, and no data.
///
/// # Errors
/// [`ReportError::Io`].
pub fn write_view<V: View>(view: &V, folder: &Path, stem: &str) -> Result<Option<PathBuf>, ReportError> {
    match html(view, stem) {
        Ok(page) => {
            let path = folder.join(format!("{stem}.html"));
            // A folder that can only be read may have it already.
            if std::fs::read(&path).ok().as_deref() != Some(page.as_bytes()) {
                write_whole(&path, page.as_bytes())?;
            }
            Ok(Some(path))
        }
        Err(error) => {
            tracing::warn!("the page {stem} is not written, its data are there: {error}");
            Ok(None)
        }
    }
}

/// The page of a view; what is saved from it is named by `stem`.
///
/// # Errors
/// [`ReportError::Figure`] for one that is too large.
pub fn html<V: View>(view: &V, stem: &str) -> Result<String, ReportError> {
    let wrong = |expected: String, found: String| ReportError::Figure {
        title: view.title().into(),
        field: "page".into(),
        expected,
        found,
    };
    let mut data = json!({ "view": V::NAME, "name": stem, "scales": scales() });
    let own = serde_json::to_value(view).map_err(|error| wrong("data".into(), error.to_string()))?;
    if let (Some(data), Value::Object(own)) = (data.as_object_mut(), own) {
        data.extend(own);
    }
    // Within a script only `<` could end it.
    let data = data.to_string().replace('<', "\\u003c");
    let title = if view.title().is_empty() { "Figure" } else { view.title() };
    let (title, script, style, sources) = (super::figure::escaped(title), V::SCRIPT, V::STYLE, view.sources());
    let (saves, savers, table) = if V::PICTURE { ("Save what is shown, c", SAVERS, TABLE) } else { ("C", "", "") };
    let page = format!(
        r##"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; {sources}">
<title>{title}</title>
<style>
{STYLE}{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<div class="tools" role="group" aria-label="{saves}hange the colours of the page">
{savers}<button id="theme">Dark or light</button>
</div>
</header>
<main>
<div id="controls" class="controls"></div>
<div id="view"></div>
<p id="status" role="status"></p>
{table}<noscript><p>This page is drawn by its own script; the numbers are in the files beside it.</p></noscript>
</main>
<div id="tip" role="tooltip" hidden></div>
<script type="application/json" id="data">{data}</script>
<script>
{SCRIPT}{script}start();
</script>
</body>
</html>
"##
    );
    match page.len() {
        0..=LARGEST => Ok(page),
        length => Err(wrong("at most 20 MB".into(), format!("{:.1} MB", length as f64 / 1e6))),
    }
}

/// The colours of all scales, evenly spread.
fn scales() -> Value {
    const STOPS: usize = 17;
    let stops = |scale: Scale| -> Vec<String> {
        (0..STOPS).map(|stop| scale.colour(stop as f64 / (STOPS - 1) as f64).hex()).collect()
    };
    json!({
        "diverging": stops(Scale::Diverging),
        "sequential": stops(Scale::Sequential),
        "reds": stops(Scale::Reds { low: 0.0, high: 1.0 }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "</script><script>alert(\"1\")</script>&'\u{202e}\u{0}";

    fn texts(tokens: usize) -> TextPage {
        let text = PageText {
            caption: HOSTILE.into(),
            tokens: vec![HOSTILE.into(); tokens],
            position: Some(0),
            marked: None,
            values: vec![0.5; tokens],
        };
        TextPage {
            title: HOSTILE.into(),
            measure: HOSTILE.into(),
            channels: vec![(HOSTILE.into(), String::new())],
            documents: vec![text],
            samples: Vec::new(),
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_page_that_is_there_is_not_written_again() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let file = |tokens| {
            let path = write_view(&texts(tokens), folder.path(), "x").unwrap().unwrap();
            std::fs::metadata(path).unwrap().ino()
        };
        let first = file(1);
        assert_eq!(file(1), first);
        assert_ne!(file(2), first);
    }

    #[test]
    fn no_text_breaks_out_of_a_page() {
        let page = html(&texts(2), "x").unwrap();
        assert_eq!(page.matches("<script").count(), 2, "its data and its script");
        assert_eq!(page.matches("</script>").count(), 2);
        let (_, data) = page.split_once("id=\"data\">").unwrap();
        let data: Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
        assert_eq!((&data["view"], &data["name"], &data["title"]), (&"texts".into(), &"x".into(), &HOSTILE.into()));
        assert_eq!(data["documents"][0]["tokens"][1], HOSTILE);
        assert!(page.contains("<title>&lt;/script&gt;&lt;script&gt;alert(&quot;1&quot;)"));
    }

    #[test]
    fn a_page_asks_nothing_of_the_network() {
        let page = html(&texts(1), "x").unwrap().replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "");
        assert!(!page.contains("http") && !page.contains("src=\"") && !page.contains("@import"));
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn a_page_that_is_too_large_costs_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let large = texts(400_000);
        let error = html(&large, "x").unwrap_err().to_string();
        assert!(error.contains("page: expected at most 20 MB, found "), "{error}");
        assert_eq!(write_view(&large, folder.path(), "x").unwrap(), None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(write_view(&texts(1), folder.path(), "x").unwrap(), Some(folder.path().join("x.html")));
    }
}
