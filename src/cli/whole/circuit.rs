//! `circuit`: a whole analysis from one file, every step a command of this program.

use crate::cli::args::arguments;
use crate::cli::errors::Options;
use crate::cli::runner::{Printer, Terminal, end, tell};
use crate::session::{OfSetting, Session, SessionOptions, Spelling};
use crate::studies::{Circuit, Report, Step, session_options};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Arguments of `circuit`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch circuit --config data/experiments/toy_movie_review.toml
  actpatch circuit --config data/experiments/toy_movie_review.toml --model gpt2-small --dry-run -- --threads 8

The file names a model, groups of nodes for each model it knows, and steps. A step is a command and its options without
dashes; a value that begins with $ is a group of the model. Options behind -- go to every step.")]
pub struct Args {
    /// The analysis (docs/experiments.md describes the format).
    #[arg(long)]
    config: PathBuf,
    /// Model instead of the file's.
    #[arg(long)]
    model: Option<String>,
    /// Print what every step would compute, its arithmetic and memory, and stop.
    #[arg(long)]
    dry_run: bool,
    /// Print the results of every step, or what it would compute, as one JSON document.
    #[arg(long)]
    json: bool,
    /// Options for every step.
    #[arg(last = true)]
    options: Vec<String>,
}

/// Runs every step in order, on one session; a step that cannot be read ends the analysis before it begins, one whose
/// checks fail does not end it, but fails it.
pub fn run(args: Args) -> Result<()> {
    let circuit = Circuit::read(&args.config).of_setting("config")?;
    let model = args.model.unwrap_or_else(|| circuit.model().to_owned());
    let mut settings = settings_of(&args.options)?;
    let dry_run = taken(&mut settings, "dry_run") || args.dry_run;
    let json = taken(&mut settings, "json") || args.json;
    let (options, further) = session_options(settings)?;
    let steps = circuit.steps(&model, &further)?;
    let session = Session::open(&model, SessionOptions { arguments: arguments(), ..options })?;
    let (mut printer, mut failed) = (Printer::new(json), Vec::new());
    let mut run = |(number, step): (usize, &Step)| -> Result<()> {
        tell(&format!("step {}: {}", number + 1, line(step, &model, &args.options)));
        let place = || format!("{}: step {}", args.config.display(), number + 1);
        let verdict = run_step(step, number + 1, &session, dry_run, &mut printer).with_context(place)?;
        failed.extend(verdict.map(|verdict| format!("{}: {verdict}", place())));
        Ok(())
    };
    let result = steps.iter().enumerate().try_for_each(&mut run);
    printer.finish(result)?;
    end(&failed)
}

/// Runs a step by its number; returns what failed of that which it checks.
fn run_step(
    step: &Step,
    number: usize,
    session: &Session,
    dry_run: bool,
    printer: &mut Printer,
) -> Result<Option<String>> {
    let session = step.session(session)?;
    if dry_run {
        printer.plan(&session.model().name, &step.study().plan(&session)?.timed(&session))?;
        return Ok(None);
    }
    let Report { text, json, failed } = step.study().run(&session, &mut Terminal::new()?)?;
    printer.show(&text, json!({ "step": number, "command": step.name, "results": json }))?;
    Ok(failed)
}

/// Options behind `--` as settings: with a value behind `=` or next to it, or switched on; one that is given several
/// times has a list of values.
fn settings_of(options: &[String]) -> Result<Vec<(String, Value)>> {
    let mut settings: Vec<(String, Value)> = Vec::new();
    let mut options = options.iter().peekable();
    while let Some(option) = options.next() {
        if option == "--verbose" || option.starts_with("-v") {
            bail!("{option} is an option of the program, not of its steps: it stands in front of --");
        }
        let Some(option) = option.strip_prefix("--") else {
            bail!("expected an option behind --, found {option:?}");
        };
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Value::from(value)),
            None => match options.next_if(|next| !next.starts_with("--")) {
                Some(value) => (option, Value::from(value.clone())),
                None => (option, Value::from(true)),
            },
        };
        let name = name.replace('-', "_");
        match settings.iter_mut().find(|(setting, _)| *setting == name) {
            None => settings.push((name, value)),
            Some((_, Value::Array(values))) => values.push(value),
            Some((_, before)) if *before == value && value.is_boolean() => {}
            Some((_, before)) => *before = vec![before.take(), value].into(),
        }
    }
    Ok(settings)
}

/// Takes a switch out of settings.
fn taken(settings: &mut Vec<(String, Value)>, name: &str) -> bool {
    let before = settings.len();
    settings.retain(|(setting, _)| setting != name);
    settings.len() < before
}

/// A step as a command line.
fn line(step: &Step, model: &str, options: &[String]) -> String {
    let mut words = vec![step.name.clone(), format!("--models {model}")];
    for (setting, value) in &step.settings {
        let flag = Options.setting(setting);
        match value {
            Value::Bool(true) => words.push(flag),
            Value::Bool(false) => {}
            value => words.push(format!("{flag}={}", plain(value))),
        }
    }
    words.extend_from_slice(options);
    words.join(" ")
}

/// A value as a command line takes it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[&str]) -> Result<Value> {
        let options: Vec<String> = options.iter().map(|&option| option.into()).collect();
        Ok(Value::Object(settings_of(&options)?.into_iter().collect()))
    }

    #[test]
    fn options_that_are_given_several_times_are_lists() {
        let once = read(&["--seed=3", "--prompt", "one", "--overwrite"]).unwrap();
        assert_eq!(once, json!({ "seed": "3", "prompt": "one", "overwrite": true }));
        let several = ["--prompt", "one", "--prompt=two", "--prompt", "three", "--overwrite", "--overwrite"];
        assert_eq!(read(&several).unwrap(), json!({ "prompt": ["one", "two", "three"], "overwrite": true }));
    }

    #[test]
    fn options_of_the_program_are_told_where_they_stand() {
        for option in ["-v", "-vv", "--verbose"] {
            let message = read(&["--seed=3", option]).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{option} is an option of the program")), "{message}");
        }
        assert!(read(&["x"]).unwrap_err().to_string().contains("found \"x\""));
    }
}
