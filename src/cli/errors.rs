//! What the library says, in the words of the command line: settings are options, studies are commands, and errors of the
//! engine get the option that mends them.

use crate::backend::BackendError;
use crate::directions::DirectionError;
use crate::directions::das::TrainError;
use crate::engine::EngineError;
use crate::report::ReportError;
use crate::session::{self, Note, Spelling};
use crate::sweep::{Stopped, SweepError};
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::sync::OnceLock;

/// The options of the command that runs; none while it is not known, or where any may be passed on.
static OPTIONS: OnceLock<BTreeSet<String>> = OnceLock::new();

/// From now on messages name no options but those of this command.
pub fn speak_of(command: &clap::Command) {
    if command.get_positionals().any(clap::Arg::is_last_set) {
        return;
    }
    let named = |arg: &clap::Arg| {
        Vec::from_iter(arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default()).map(str::to_owned))
    };
    // A program runs one command: nobody has set them before.
    let _ = OPTIONS.set(command.get_arguments().flat_map(named).collect());
}

/// Is there such an option?
fn has(option: &str) -> bool {
    OPTIONS.get().is_none_or(|options| options.contains(option))
}

/// Settings as options, studies as commands.
pub struct Options;

impl Spelling for Options {
    fn offers(&self, name: &str) -> bool {
        has(&name.replace('_', "-"))
    }

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
    let hints: String = error.chain().filter_map(hint).filter_map(|hint| offered(hint, has)).collect();
    session::text_of(error, &Options) + &hints
}

/// The parts of a hint that name no option but those there are, behind what they mend.
fn offered(hint: &str, has: impl Fn(&str) -> bool) -> Option<String> {
    let names_others = |part: &&str| part.split(' ').filter_map(|word| word.strip_prefix("--")).any(|name| !has(name));
    let parts: Vec<&str> = hint.split(", ").filter(|part| !names_others(part)).collect();
    (!parts.is_empty()).then(|| format!("; {}", parts.join(", ")))
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

/// Where a command was stopped that begins anew when it is called again.
#[derive(Debug, Clone, Copy)]
pub struct BeginsAnew;

impl fmt::Display for BeginsAnew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the same command begins anew")
    }
}

/// What a command says that was stopped, if that is what ended it.
pub fn stopped(error: &anyhow::Error) -> Option<String> {
    let Stopped { left } = error.downcast_ref()?;
    let left = left.map_or(String::new(), |left| format!(" with {left} cells left"));
    let next = match error.downcast_ref::<BeginsAnew>() {
        Some(anew) => anew.to_string(),
        None => "the same command goes on from here".to_owned(),
    };
    Some(format!("stopped by a signal{left}; {next}"))
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
    fn hints_name_the_options_of_the_command_alone() {
        let hint = "--retry-failed computes them again, `actpatch status` lists them";
        assert_eq!(offered(hint, |_| true).unwrap(), format!("; {hint}"));
        assert_eq!(offered(hint, |_| false).unwrap(), "; `actpatch status` lists them");
        assert_eq!(offered("--dtype and --device name others", |name| name == "dtype"), None);
    }

    #[test]
    fn nothing_in_a_text_steers_the_terminal() {
        let text = "a\u{1b}[31m\0\r\u{9b}b\té\nc";
        assert_eq!(without_control(text), "a\\u{1b}[31m\\0\\r\\u{9b}b\té\nc");
    }
}
