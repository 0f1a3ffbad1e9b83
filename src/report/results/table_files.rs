//! A table as CSV and as a page with cells shaded from white to red, as the paper's tables are.

use crate::report::ReportError;
use crate::report::error::write_whole;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A table of shaded cells.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct TableFile {
    /// File name without its ending.
    pub(super) stem: String,
    pub(super) title: String,
    /// What a reader must know to read the values right.
    pub(super) caption: String,
    /// Names of the leading columns of text.
    pub(super) heads: Vec<String>,
    /// Names of the columns of values.
    pub(super) columns: Vec<String>,
    /// Per row its leading texts and, per column, a value with its text; `None` is not measured.
    pub(super) rows: Vec<(Vec<String>, Vec<Option<(f64, String)>>)>,
    /// Values of white and of the darkest red.
    pub(super) range: (f64, f64),
}

/// Writes `<stem>.csv` and `<stem>.html` into `folder`.
pub(super) fn write_tables(table: &TableFile, folder: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let (csv, html) = (format!("{}.csv", table.stem), format!("{}.html", table.stem));
    let mut written = Vec::new();
    for (name, bytes) in [(csv, table.csv(folder)?), (html, table.html().into_bytes())] {
        let path = folder.join(name);
        write_whole(&path, &bytes)?;
        written.push(path);
    }
    Ok(written)
}

impl TableFile {
    fn csv(&self, folder: &Path) -> Result<Vec<u8>, ReportError> {
        let failed = |message: String| ReportError::Io { path: folder.into(), source: std::io::Error::other(message) };
        let mut writer = csv::Writer::from_writer(Vec::new());
        let head = self.heads.iter().chain(&self.columns).cloned().collect::<Vec<_>>();
        let rows = self.rows.iter().map(|(texts, cells)| {
            let cells = cells.iter().map(|cell| cell.as_ref().map_or(String::new(), |(_, text)| text.clone()));
            texts.iter().cloned().chain(cells).collect()
        });
        for row in std::iter::once(head).chain(rows) {
            writer.write_record(&row).map_err(|error| failed(error.to_string()))?;
        }
        writer.into_inner().map_err(|error| failed(error.to_string()))
    }

    fn html(&self) -> String {
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>\
             body{{font:14px sans-serif;margin:2em}}table{{border-collapse:collapse}}\
             th,td{{padding:.3em .7em;border-bottom:1px solid #ddd}}td{{text-align:right}}\
             th{{text-align:left;font-weight:600}}caption{{caption-side:bottom;text-align:left;color:#555;padding-top:.6em}}\
             </style></head><body><h1 style=\"font-size:1.2em\">{0}</h1><table><caption>{1}</caption><thead><tr>",
            escaped(&self.title),
            escaped(&self.caption)
        );
        // Writing into a string cannot fail.
        for head in self.heads.iter().chain(&self.columns) {
            let _ = write!(page, "<th scope=\"col\">{}</th>", escaped(head));
        }
        page.push_str("</tr></thead><tbody>\n");
        for (texts, cells) in &self.rows {
            page.push_str("<tr>");
            for text in texts {
                let _ = write!(page, "<th scope=\"row\">{}</th>", escaped(text));
            }
            for cell in cells {
                match cell {
                    Some((value, text)) => {
                        let _ = write!(page, "<td style=\"{}\">{}</td>", self.shade(*value), escaped(text));
                    }
                    None => page.push_str("<td></td>"),
                }
            }
            page.push_str("</tr>\n");
        }
        page.push_str("</tbody></table></body></html>\n");
        page
    }

    /// White to a dark red, with light text where the ground is dark.
    fn shade(&self, value: f64) -> String {
        let (low, high) = self.range;
        let share = ((value - low) / (high - low)).clamp(0.0, 1.0);
        let channel = |end: f64| (255.0 + share * (end - 255.0)).round();
        let text = if share > 0.6 { "#fff" } else { "#111" };
        format!("background:rgb({},{},{});color:{text}", channel(165.0), channel(15.0), channel(21.0))
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_shaded_by_value_and_escaped() {
        let table = TableFile {
            stem: "t".into(),
            title: "a < b".into(),
            heads: vec!["method".into()],
            columns: vec!["x".into(), "y".into()],
            rows: vec![(vec!["das".into()], vec![Some((100.0, "100.0 (3)".into())), None])],
            range: (0.0, 100.0),
            ..TableFile::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let paths = write_tables(&table, folder.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&paths[0]).unwrap(), "method,x,y\ndas,100.0 (3),\n");
        let html = std::fs::read_to_string(&paths[1]).unwrap();
        assert!(
            html.contains("a &lt; b") && html.contains("background:rgb(165,15,21);color:#fff\">100.0 (3)"),
            "{html}"
        );
        assert_eq!(table.shade(0.0), "background:rgb(255,255,255);color:#111");
    }
}
