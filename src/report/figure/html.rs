//! Text in documents of XML and HTML.

/// Text as part of a page or of an attribute; lines stay lines.
pub(crate) fn escaped(text: &str) -> String {
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            printable(line).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
        })
        .collect();
    lines.join("&#10;")
}

/// Without characters that XML has no way to write.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}
