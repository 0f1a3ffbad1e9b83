//! From a specification to what the terminal shows: every command that is a study goes this way.

use super::args::Asked;
use super::errors::{Options, note_text, without_control};
use super::stop::Stop;
use crate::session::{Note, Observer, Session};
use crate::studies::{Outcome, Plan, Study};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;
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
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    for model in asked.models() {
        let session = Session::open(&model, options.clone())?;
        if asked.run.dry_run {
            show_plan(&study.plan(&session)?)?;
            continue;
        }
        let outcome = study.run(&session, &mut Terminal::new()?)?;
        failed.extend(S::failed(&outcome));
        match asked.run.json {
            true => match serde_json::to_value(&outcome)? {
                // Lists of several models are one list.
                Value::Array(entries) => all.extend(entries),
                value => all.push(value),
            },
            false => print(&outcome.to_string())?,
        }
    }
    if asked.run.json {
        print_json(&all)?;
    }
    end(&failed)
}

/// The end of a command: an error if anything that it has checked failed.
pub fn end(failed: &[String]) -> Result<()> {
    match failed {
        [] => Ok(()),
        failed => bail!("{}", failed.join("; ")),
    }
}

/// Prints a plan, and on stderr what was noted on the way.
pub fn show_plan(plan: &Plan) -> Result<()> {
    let mut terminal = Terminal::new()?;
    plan.notes.iter().for_each(|note| terminal.note(note));
    print(&plan.text)
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

/// Writes text to stdout; a closed pipe ends the program quietly.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.context("stdout"),
    }
}

/// Prints a value as JSON.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}
