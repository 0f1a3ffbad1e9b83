//! From a specification to what the terminal shows: every command that is a study goes this way.

use super::args::Asked;
use super::errors::{BeginsAnew, Options, note_text, without_control};
use super::stop::Stop;
use crate::model::Model;
use crate::session::{Note, Observer, OfSetting, Session, Stopped};
use crate::studies::{Outcome, Plan, Study};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static QUIET: AtomicBool = AtomicBool::new(false);

/// From now on nothing is told of what goes on but warnings.
pub fn be_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

fn quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Writes a line on stderr, unless all is to be quiet.
pub fn tell(line: &str) {
    if !quiet() {
        // A closed stderr is no reason to stop.
        let _ = writeln!(std::io::stderr(), "{}", without_control(line));
    }
}

/// Runs a study on every model that is asked for, or says what it would do.
pub fn run<S: Study>(asked: Asked, study: S) -> Result<()> {
    study.validate()?;
    let options = asked.options()?;
    // Before the first of them takes its time.
    Model::check_names(&asked.models(), options.revision.as_deref()).of_setting("models")?;
    let mut printer = Printer::new(asked.run.json);
    let mut failed = Vec::new();
    let mut run_on = |model: &String| -> Result<()> {
        let session = Session::open(model, options.clone())?;
        if asked.run.dry_run {
            return printer.plan(&session.model().name, &study.plan(&session)?.timed(&session));
        }
        let outcome =
            study.run(&session, &mut Terminal::new()?).map_err(|error| match error.is::<Stopped>() && !S::GOES_ON {
                true => error.context(BeginsAnew),
                false => error,
            })?;
        failed.extend(S::failed(&outcome));
        printer.outcome(&outcome)
    };
    let result = asked.models().iter().try_for_each(&mut run_on);
    printer.finish(result)?;
    end(&failed)
}

/// The end of a command: an error if anything that it has checked failed.
pub fn end(failed: &[String]) -> Result<()> {
    match failed {
        [] => Ok(()),
        failed => bail!("{}", failed.join("; ")),
    }
}

/// Prints what comes of a command with several outcomes: texts as they come, or all of them as one list in JSON.
pub struct Printer {
    json: Option<Vec<Value>>,
}

impl Printer {
    /// Prints texts, or JSON.
    pub fn new(json: bool) -> Self {
        Self { json: json.then(Vec::new) }
    }

    /// Shows what came of a study on a model; the entries of a list stand beside those of other models.
    pub fn outcome(&mut self, outcome: &impl Outcome) -> Result<()> {
        match &mut self.json {
            None => print(&outcome.to_string()),
            Some(all) => {
                match serde_json::to_value(outcome)? {
                    Value::Array(entries) => all.extend(entries),
                    value => all.push(value),
                }
                Ok(())
            }
        }
    }

    /// Shows a text, or what it says as a value.
    pub fn show(&mut self, text: &str, value: Value) -> Result<()> {
        match &mut self.json {
            None => print(text),
            Some(all) => {
                all.push(value);
                Ok(())
            }
        }
    }

    /// Shows what a study will compute on a model, and on stderr what was noted on the way.
    pub fn plan(&mut self, model: &str, plan: &Plan) -> Result<()> {
        let mut terminal = Terminal::new()?;
        plan.notes.iter().for_each(|note| terminal.note(note));
        let Plan { text, operations, memory_bytes, least_seconds, notes: _ } = plan;
        // Null for what cannot be told beforehand.
        let value = json!({
            "model": model,
            "plan": text,
            "operations": operations,
            "memory_bytes": memory_bytes,
            "least_seconds": least_seconds,
        });
        self.show(text, value)?;
        if let Some((seconds, operations)) = least_seconds.zip(*operations) {
            let milliseconds = if seconds < 10.0 { (1e3 * seconds).ceil() } else { 1e3 * seconds.round() };
            let time = humantime::format_duration(Duration::from_millis(milliseconds as u64));
            let peak = operations as f64 / seconds / 1e9;
            tell(&format!("at least {time} at the processor's peak of {peak:.0} GFLOP/s"));
        }
        Ok(())
    }

    /// Prints the list, if it is JSON: what there is of it also when the command has failed on the way.
    pub fn finish(self, result: Result<()>) -> Result<()> {
        match self.json {
            Some(all) if result.is_ok() || !all.is_empty() => print_json(&all)?,
            _ => {}
        }
        result
    }
}

/// Prints what came of a call, as text or as JSON.
pub fn show(outcome: &impl Outcome, json: bool) -> Result<()> {
    if json { print_json(outcome) } else { print(&outcome.to_string()) }
}

/// Shows progress on stderr, and hears signals.
pub struct Terminal {
    stop: Stop,
    bar: Option<ProgressBar>,
}

impl Terminal {
    /// Listens to signals from now on.
    pub fn new() -> Result<Self> {
        Ok(Self { stop: Stop::listen().context("signals")?, bar: None })
    }
}

impl Observer for Terminal {
    fn begin(&mut self, what: &str, total: u64) {
        self.bar = Some(match total {
            0 => spinner(what),
            total => bar(total, what),
        });
    }

    fn progress(&mut self, done: u64) {
        self.bar.iter().for_each(|bar| bar.set_position(done));
    }

    fn at(&mut self, what: &str) {
        self.bar.iter().for_each(|bar| bar.set_message(what.to_owned()));
    }

    fn end(&mut self) {
        self.bar.take().iter().for_each(ProgressBar::finish_and_clear);
    }

    fn note(&mut self, note: &Note) {
        let text = without_control(&note_text(note, &Options));
        let write = || match note {
            // Warnings are heard in any case.
            Note::Warning(_) => drop(writeln!(std::io::stderr(), "{text}")),
            _ => tell(&text),
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.asked()
    }
}

/// A bar on stderr; invisible when stderr is no terminal.
pub fn bar(total: u64, what: &str) -> ProgressBar {
    if quiet() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total).with_message(what.to_owned());
    match ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// The same for work of unknown length.
fn spinner(what: &str) -> ProgressBar {
    if quiet() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(200));
    spinner
}

/// Writes text to stdout, where nothing that it holds steers the terminal; a closed pipe ends the program quietly.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(without_control(text).as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.context("stdout"),
    }
}

/// Prints a value as JSON.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}
