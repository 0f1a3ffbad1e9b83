//! What the library says, in the words of the command line: settings are options, studies are commands, and errors of the
//! engine get the option that mends them.

use crate::backend::BackendError;
use crate::directions::DirectionError;
use crate::directions::das::TrainError;
use crate::engine::EngineError;
use crate::report::ReportError;
use crate::session::{self, Note, Spelling};
use crate::sweep::{Stopped, SweepError};
use std::error::Error;

/// Settings as options, studies as commands.
pub struct Options;

impl Spelling for Options {
    fn setting(&self, name: &str) -> String {
        format!("--{}", name.replace('_', "-"))
    }

    fn value(&self, name: &str, value: &str) -> String {
        format!("{} {value}", self.setting(name)).trim_end().to_owned()
    }

    fn study(&self, name: &str, settings: &[String]) -> String {
        let settings: String = settings.iter().map(|setting| format!(" {setting}")).collect();
        format!("run first: actpatch {name}{settings}")
    }
}

/// The text of an error, with the options that mend it.
pub fn text_of(error: &anyhow::Error) -> String {
    let hints: String = error.chain().filter_map(hint).map(|hint| format!("; {hint}")).collect();
    session::text_of(error, &Options) + &hints
}

/// A text for the terminal: what files and names hold must not steer it.
pub fn without_control(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\t' => shown.push(letter),
            letter if letter.is_control() => shown.extend(letter.escape_debug()),
            letter => shown.push(letter),
        }
    }
    shown
}

/// The option that mends an error of the rooms below.
fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<SweepError>() {
        return match error {
            SweepError::Configuration { .. } => Some("use another --data-dir, or move the ledger away"),
            SweepError::Failed { .. } => Some("--retry-failed computes them again, `actpatch status` lists them"),
            _ => None,
        };
    }
    if let Some(ReportError::Content { .. }) = error.downcast_ref::<ReportError>() {
        return Some("moved away, it is made again by its study");
    }
    // Errors that only pass another one on do not show it as their cause.
    if let Some(TrainError::Engine(error)) = error.downcast_ref::<TrainError>() {
        return hint(error);
    }
    if let Some(DirectionError::Backend(error)) = error.downcast_ref::<DirectionError>() {
        return hint(error);
    }
    match error.downcast_ref::<EngineError>() {
        Some(EngineError::Memory { .. }) => return Some("--memory allows more"),
        Some(EngineError::Backend(error)) => return hint(error),
        _ => {}
    }
    match error.downcast_ref::<BackendError>()? {
        BackendError::Dtype { .. } => Some("--dtype and --device name others"),
        BackendError::NoDriver | BackendError::CapabilityTooLow { .. } => Some("--device cpu needs none"),
        BackendError::NoSuchDevice { .. } => Some("--device names another"),
        BackendError::OutOfMemory { .. } | BackendError::TooLarge { .. } => Some("use a smaller --batch-tokens"),
        BackendError::HeadTooWide { .. } => Some("use --device cpu"),
        _ => None,
    }
}

/// What a stopped command says.
pub fn stopped(Stopped { left }: &Stopped) -> String {
    let left = left.map_or(String::new(), |left| format!(" with {left} cells left"));
    format!("stopped by a signal{left}; the same command goes on from here")
}

/// The text of a note.
pub fn note_text(note: &Note, spell: &dyn Spelling) -> String {
    match note {
        Note::Kept { .. } => format!("{note} ({} computes them again)", spell.setting("overwrite")),
        note => note.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_steers_the_terminal() {
        let text = "a\u{1b}[31m\0\r\u{9b}b\té\nc";
        assert_eq!(without_control(text), "a\\u{1b}[31m\\0\\r\\u{9b}b\té\nc");
    }
}
