//! `circuit`: a whole analysis from one file, every step a command of this program.

use super::{Cli, Command, execute};
use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Arguments of `circuit`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch circuit --config data/experiments/toy_movie_review.toml
  actpatch circuit --config data/experiments/toy_movie_review.toml --model gpt2-small -- --threads 8 --dry-run

The file names a model, groups of nodes for each model it knows, and steps. A step is a command and its options without
dashes; a value that begins with $ is a group of the model. Options behind -- go to every step.")]
pub struct Args {
    /// The analysis (docs/experiments.md describes the format).
    #[arg(long)]
    config: PathBuf,
    /// Model instead of the file's.
    #[arg(long)]
    model: Option<String>,
    /// Options for every step.
    #[arg(last = true)]
    options: Vec<String>,
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    model: String,
    /// By model: names of groups, and what they stand for.
    #[serde(default)]
    groups: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    steps: Vec<toml::Table>,
}

/// Runs every step in order; a step that cannot be parsed ends the analysis before it begins.
pub fn run(args: Args) -> Result<()> {
    let path = args.config.display();
    let text = std::fs::read_to_string(&args.config).with_context(|| format!("--config: {path}"))?;
    let config: Config = toml::from_str(&text).with_context(|| format!("--config: {path}"))?;
    let model = args.model.as_ref().unwrap_or(&config.model);
    let mut commands = Vec::new();
    for number in 0..config.steps.len() {
        let parsed = parsed(&config, number, model, &args.options);
        commands.push(parsed.with_context(|| format!("{path}: step {}", number + 1))?);
    }
    for (number, (line, command)) in commands.into_iter().enumerate() {
        writeln!(std::io::stderr(), "step {}: {line}", number + 1).context("stderr")?;
        execute(command).with_context(|| format!("{path}: step {}", number + 1))?;
    }
    Ok(())
}

/// The command line of a step, and the command it is.
fn parsed(config: &Config, number: usize, model: &str, options: &[String]) -> Result<(String, Command)> {
    let step = &config.steps[number];
    let Some(toml::Value::String(name)) = step.get("command") else {
        bail!("command: expected the name of a command, such as path-patching");
    };
    let mut arguments = vec![name.clone(), "--models".into(), model.into()];
    for (option, value) in step.iter().filter(|(option, _)| *option != "command") {
        let flag = format!("--{}", option.replace('_', "-"));
        match value {
            toml::Value::Boolean(true) => arguments.push(flag),
            toml::Value::Boolean(false) => {}
            value => arguments.push(format!("{flag}={}", joined(config, model, value).context(option.clone())?)),
        }
    }
    arguments.extend_from_slice(options);
    let line = arguments.join(" ");
    let whole = std::iter::once("actpatch".to_owned()).chain(arguments);
    // What clap prints for a terminal, as one line.
    let reason = |error: clap::Error| error.to_string().lines().next().unwrap_or_default().replace("error: ", "");
    let cli = Cli::try_parse_from(whole).map_err(|error| anyhow!("{line}: {}", reason(error)))?;
    match cli.command {
        Command::Circuit(_) => bail!("command: expected another command than circuit"),
        command => Ok((line, command)),
    }
}

/// The value of an option as the command line takes it.
fn joined(config: &Config, model: &str, value: &toml::Value) -> Result<String> {
    match value {
        toml::Value::String(text) => match text.strip_prefix('$') {
            Some(group) => Ok(group_of(config, model, group)?.join(",")),
            None => Ok(text.clone()),
        },
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Array(values) => {
            let values: Vec<String> = values.iter().map(|value| joined(config, model, value)).collect::<Result<_>>()?;
            Ok(values.join(","))
        }
        other => bail!("expected text, a number, true, false or a list of them, found {other}"),
    }
}

fn group_of<'a>(config: &'a Config, model: &str, group: &str) -> Result<&'a [String]> {
    // Groups are for an architecture: random weights of it have the same nodes.
    let name = Path::new(model).file_name().and_then(|name| name.to_str()).unwrap_or(model);
    let name = name.strip_prefix("random:").unwrap_or(name);
    let groups = config.groups.get(name).ok_or_else(|| {
        let known: Vec<&str> = config.groups.keys().map(String::as_str).collect();
        anyhow!("[groups.{name}] is missing: ${group} has to be named for {name} (the file knows {})", known.join(", "))
    })?;
    groups.get(group).map(Vec::as_slice).ok_or_else(|| anyhow!("[groups.{name}]: {group} is missing"))
}
