//! Pages of texts whose tokens are coloured by their values.

use super::ReportError;
use super::html::escaped;
use super::palette::{Rgb, Scale, ink_on};
use std::path::{Path, PathBuf};

const STYLE: &str = "\
body { margin: 16px; background: #fff; color: #1e1e1e; font: 15px \"Liberation Sans\", Arial, Helvetica, sans-serif; }
summary { margin: 12px 0 6px; font-weight: bold; cursor: pointer; }
p { margin: 4px 0; line-height: 1.7; white-space: pre-wrap; }
span { padding: 2px 0; }
b { border-bottom: 2px solid; }
small { display: inline-block; min-width: 16em; color: #6e6e6e; }";

/// Tokens in a row.
#[derive(Debug, Clone, PartialEq)]
pub struct ColouredText {
    /// In front of them.
    pub caption: String,
    /// Each with its value.
    pub tokens: Vec<(String, f64)>,
    /// The token that the text is about.
    pub marked: Option<usize>,
}

/// Texts below each other with one scale of colours: red below zero, white at zero, blue above.
#[derive(Debug, Clone, PartialEq)]
pub struct TextGroup {
    /// Above them.
    pub heading: String,
    /// The texts.
    pub texts: Vec<ColouredText>,
}

/// A page of groups, of which the first is open.
#[derive(Debug, Clone, PartialEq)]
pub struct TextPage {
    /// Above everything.
    pub title: String,
    /// What the values are.
    pub measure: String,
    /// The groups.
    pub groups: Vec<TextGroup>,
}

impl TextPage {
    /// Writes the page, one file without any reference to the network.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(&self, path: &Path) -> Result<PathBuf, ReportError> {
        super::write_whole(path, self.html().as_bytes())?;
        Ok(path.into())
    }

    fn html(&self) -> String {
        let title = escaped(&self.title);
        let groups: String = self.groups.iter().enumerate().map(|(number, group)| group.html(number == 0)).collect();
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>\n{STYLE}\n</style>\n\
             </head>\n<body>\n<h1>{title}</h1>\n<p>Colour: {} (red below zero, blue above), under the pointer its value.</p>\n\
             {groups}</body>\n</html>\n",
            escaped(&self.measure)
        )
    }
}

impl TextGroup {
    fn html(&self, open: bool) -> String {
        let values = || self.texts.iter().flat_map(|text| text.tokens.iter().map(|(_, value)| *value));
        let most = values().fold(0.0, |most: f64, value| most.max(value.abs()));
        let texts: String = self.texts.iter().map(|text| text.html(most)).collect();
        let open = if open { " open" } else { "" };
        format!("<details{open}>\n<summary>{}</summary>\n{texts}</details>\n", escaped(&self.heading))
    }
}

impl ColouredText {
    /// A paragraph; values of `most` have the strongest colour.
    fn html(&self, most: f64) -> String {
        let (low, high) = Scale::Diverging.ends(-most, most);
        let token = |(number, (token, value)): (usize, &(String, f64))| {
            let background = Scale::Diverging.colour((value - low) / (high - low));
            let (Rgb(red, green, blue), Rgb(ink, ..)) = (background, ink_on(background));
            let text = escaped(&token.replace('\n', "⏎"));
            let text = if self.marked == Some(number) { format!("<b>{text}</b>") } else { text };
            // A new line of the text is one of the page.
            let end = "\n".repeat(token.matches('\n').count());
            format!(
                "<span style=\"background:#{red:02x}{green:02x}{blue:02x};color:#{ink:02x}{ink:02x}{ink:02x}\" \
                 title=\"{value:.4}\">{text}</span>{end}"
            )
        };
        let tokens: String = self.tokens.iter().enumerate().map(token).collect();
        format!("<p><small>{}</small>{tokens}</p>\n", escaped(&self.caption))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_coloured_and_cannot_break_the_page() {
        let tokens = vec![(" <b>".to_owned(), 0.5), ("\n".to_owned(), 0.0), ("\u{7}".to_owned(), -0.5)];
        let text = ColouredText { caption: "a & b".into(), tokens, marked: Some(0) };
        let group = TextGroup { heading: "das".into(), texts: vec![text] };
        let page = TextPage { title: "x".into(), measure: "cosine".into(), groups: vec![group.clone(), group] }.html();
        assert!(page.contains("<small>a &amp; b</small>") && page.contains("<b> &lt;b&gt;</b>"), "{page}");
        let Rgb(red, green, blue) = Scale::Diverging.colour(0.5);
        let zero = format!("background:#{red:02x}{green:02x}{blue:02x};color:#000000\" title=\"0.0000\">⏎</span>\n");
        assert!(page.contains(&zero), "{page}");
        assert!(page.contains("title=\"-0.5000\">\u{fffd}</span>"), "{page}");
        assert_eq!((page.matches("<details open>").count(), page.matches("<details>").count()), (1, 1));
    }
}
