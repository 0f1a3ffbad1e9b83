//! One page about several results: Markdown, with tables as text and figures beside it.

use super::ReportError;
use super::error::write_whole;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A part of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// What it says.
    pub text: String,
    /// Tables, as text.
    pub table: String,
    /// Figures below the folder of the page.
    pub figures: Vec<PathBuf>,
}

/// Writes a page whole. Figures are linked where they are there.
///
/// # Errors
/// [`ReportError::Io`].
pub fn write_page(path: &Path, title: &str, sections: &[Section]) -> Result<(), ReportError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut page = format!("# {title}\n");
    for Section { title, text, table, figures } in sections {
        let _ = write!(page, "\n## {title}\n");
        if !text.is_empty() {
            let _ = write!(page, "\n{text}\n");
        }
        if !table.is_empty() {
            let _ = write!(page, "\n```\n{}\n```\n", table.trim_end());
        }
        for figure in figures.iter().filter(|figure| figure.is_file()) {
            let name = figure.file_stem().unwrap_or_default().to_string_lossy();
            let link = figure.strip_prefix(folder).unwrap_or(figure);
            let _ = write!(page, "\n![{name}](<{}>)\n", link.display());
        }
    }
    write_whole(path, page.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_its_sections_and_the_figures_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let (drawn, lost) = (folder.path().join("figures/a b.svg"), folder.path().join("lost.svg"));
        std::fs::create_dir(folder.path().join("figures")).unwrap();
        std::fs::write(&drawn, "<svg/>").unwrap();
        let section = Section {
            title: "Maps".into(),
            text: "Largest first.".into(),
            table: "head\n1.2\n".into(),
            figures: vec![drawn, lost],
        };
        let path = folder.path().join("page.md");
        write_page(&path, "demo", &[section]).unwrap();
        let expected = "# demo\n\n## Maps\n\nLargest first.\n\n```\nhead\n1.2\n```\n\n![a b](<figures/a b.svg>)\n";
        assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
    }
}
