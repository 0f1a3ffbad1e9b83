//! `steering`.

use super::common::{
    CompatArgs, ModelArgs, RunArgs, bar, bytes, distinct, note_skipped, print, print_json, resolve_layers,
};
use super::device::DeviceWork;
use super::stored_directions::unit_directions;
use crate::backend::Backend;
use crate::directions::DirectionName;
use crate::engine::{Engine, Flops, Layout, Site};
use crate::experiments::sampling::Sampling;
use crate::experiments::steering::{Steering, Wanted, Written, write_texts};
use crate::model::{Model, ModelConfig, Tokenizer};
use crate::report::{Manifest, RunRecord, SteeredText, SteeredTexts, Table};
use crate::types::PairedPrompts;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::str::FromStr;

/// Arguments of `steering`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch steering --directions kmeans_simple_train_ADJ_layer1 --coefficients -10..10:5 --samples 3
  actpatch steering --models pythia-1.4b --directions das_simple_train_ADJ_layer1 --coefficients -20..0 --threads 8
  actpatch steering --directions kmeans_simple_train_ADJ --layers 1,2 --temperature 0 --prompt 'The film was'

A coefficient times the direction, of unit length, is added at every position of the prompt and of every token that is
written. Texts depend on their own settings and --seed alone: a grid can grow, and be computed in any order.
File in DATA_DIR/<model>/: steering_<direction>.jsonl, to which every run adds its texts, one a line: settings, text, tokens,
log_probabilities of the tokens (steered model, whole vocabulary, temperature 1), and whether a token ended the text. Once
somebody has labelled them, label-shares --value coefficient draws the labels' shares.")]
pub struct Args {
    #[command(flatten)]
    pub models: ModelArgs,
    /// Directions: das_simple_train_ADJ_layer1 at its own layer unless --layers or --sites say where, das_simple_train_ADJ is
    /// every layer's own.
    #[arg(long, value_delimiter = ',', required = true)]
    pub directions: Vec<String>,
    /// Layers in front of which the directions are added together (the number of layers stands for the end).
    #[arg(long, value_delimiter = ',')]
    pub layers: Vec<String>,
    /// Hook names of the sites at which the directions are added together, such as blocks.0.hook_mlp_out.
    #[arg(long, value_delimiter = ',', conflicts_with = "layers")]
    pub sites: Vec<Site>,
    /// What directions are multiplied by: numbers, and ranges with both ends, -20..0 in steps of 1, -20..0:5 in steps of 5.
    #[arg(long, value_delimiter = ',', default_value = "-20..0", allow_hyphen_values = true)]
    pub coefficients: Vec<Coefficients>,
    /// A text to continue; may be given again.
    #[arg(long = "prompt", value_name = "TEXT", default_value = PROMPT)]
    pub prompts: Vec<String>,
    /// Texts of every prompt and coefficient; without it 20, or the one that there is with --temperature 0.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: Option<u32>,
    /// Most tokens of a text; one that ends a text ends it earlier.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_new_tokens: u32,
    /// What logits are divided by before a token is drawn; 0 for the likeliest token.
    #[arg(long, default_value_t = 1.0, value_parser = temperature)]
    pub temperature: f64,
    /// Draw from this many of the likeliest tokens; 0 for all.
    #[arg(long, default_value_t = 10)]
    pub top_k: usize,
    #[command(flatten)]
    pub compat: CompatArgs,
    #[command(flatten)]
    pub run: RunArgs,
}

/// The prompt of the paper's code.
const PROMPT: &str = "I really enjoyed the movie, in fact I loved it. I thought the movie was just very";

/// Does a direction's name have its layer?
fn is_single(name: &str) -> bool {
    name.parse::<DirectionName>().is_ok()
}

fn temperature(text: &str) -> std::result::Result<f64, String> {
    let found = text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0);
    found.ok_or_else(|| "expected a number of at least 0".into())
}

/// An entry of the list of coefficients; in records its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Coefficients(Vec<f32>);

/// A range of more is a slip of the hand.
const MOST_COEFFICIENTS: f64 = 10_000.0;

impl FromStr for Coefficients {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let expected = |what: &str| format!("expected {what}, found {text:?}");
        let number = |part: &str| {
            let value = part.parse().ok().filter(|value: &f64| (*value as f32).is_finite());
            value.ok_or_else(|| expected("numbers and ranges such as -20..0 or -20..0:5"))
        };
        // Zero has one sign: random numbers depend on the coefficient.
        let single = |value: f64| value as f32 + 0.0;
        let Some((first, rest)) = text.split_once("..") else { return Ok(Self(vec![single(number(text)?)])) };
        let (last, step) = rest.split_once(':').unwrap_or((rest, "1"));
        let (first, last, step) = (number(first)?, number(last)?, number(step)?);
        if first > last || step <= 0.0 {
            return Err(expected("a range that goes up, in steps above 0"));
        }
        // What is lost in decimals must not cost the last one.
        let steps = ((last - first) / step + 1e-6).floor();
        if steps >= MOST_COEFFICIENTS {
            return Err(expected(&format!("at most {MOST_COEFFICIENTS} coefficients")));
        }
        Ok(Self((0..=steps as u32).map(|i| single(first + f64::from(i) * step)).collect()))
    }
}

impl Args {
    fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            max_new_tokens: self.max_new_tokens as usize,
            seed: self.run.seed,
        }
    }

    fn samples(&self) -> Result<u32> {
        let greedy = self.temperature == 0.0;
        match self.samples {
            Some(samples) if greedy && samples > 1 => {
                bail!("--samples: expected 1 with --temperature 0, which has no chance in it, found {samples}")
            }
            samples => Ok(samples.unwrap_or(if greedy { 1 } else { 20 })),
        }
    }

    /// Stored directions by layer, of unit length: the one of this name, or all whose name is this one and a layer.
    fn stored(&self, model: &Model, name: &str) -> Result<BTreeMap<usize, Vec<f32>>> {
        let pattern = if is_single(name) { name.to_owned() } else { format!("{name}_layer*") };
        let found = unit_directions((&self.run, &self.compat), model, &[pattern])?;
        Ok(found.into_iter().map(|(name, direction)| (name.layer(), direction)).collect())
    }

    /// Where a direction is added, and what.
    fn steered(&self, model: &Model, name: &str) -> Result<Vec<(Site, Vec<f32>)>> {
        let (single, n_layers) = (is_single(name), model.config.n_layers);
        if !single && !self.sites.is_empty() {
            bail!("--sites: expected a direction with its layer, such as {name}_layer1, found {name}");
        }
        let stored = self.stored(model, name)?;
        let at_layer = |layer: usize| {
            let direction = if single { stored.values().next() } else { stored.get(&layer) };
            let missing = || format!("--layers: {name} has no layer {layer}; fit it with --layers {layer}");
            Ok((Site::resid(layer, n_layers), direction.with_context(missing)?.clone()))
        };
        match (self.layers.is_empty(), stored.values().next()) {
            (true, Some(direction)) if !self.sites.is_empty() => {
                Ok(self.sites.iter().map(|site| (*site, direction.clone())).collect())
            }
            (true, _) => Ok(stored.iter().map(|(layer, own)| (Site::resid(*layer, n_layers), own.clone())).collect()),
            (false, _) => resolve_layers(&self.layers, n_layers)?.into_iter().map(at_layer).collect(),
        }
    }

    /// The prompts as the model sees them.
    fn prompts(&self, model: &Model) -> Result<PairedPrompts> {
        let texts = distinct(&self.prompts);
        let tokenizer = &model.tokenizer;
        let (n_ctx, most) = (model.config.n_ctx, self.max_new_tokens as usize);
        let encode = |text: &String| -> Result<Vec<u32>> {
            let tokens: Vec<u32> = tokenizer.bos().into_iter().chain(tokenizer.encode(text)?).collect();
            match tokens.len() {
                0 => bail!("--prompt: expected a text, found an empty one, and {} has no BOS token", model.name),
                length if length + most > n_ctx => bail!(
                    "--prompt: {text:?} has {length} tokens and {most} more may be written (--max-new-tokens); {} takes at \
                     most {n_ctx}",
                    model.name
                ),
                _ => Ok(tokens),
            }
        };
        let sequences = texts.iter().map(encode).collect::<Result<Vec<_>>>()?;
        let every: Vec<usize> = (0..texts.len()).collect();
        Ok(PairedPrompts {
            name: "steering".into(),
            positive: vec![true; texts.len()],
            answers: vec![Vec::new(); texts.len()],
            clean: every.clone(),
            corrupted: every,
            positions: BTreeMap::new(),
            sequences,
            texts,
        })
    }

    /// All texts of a direction, still to be written.
    fn grid(&self, direction: &str, steered: &[(Site, Vec<f32>)], prompts: &PairedPrompts) -> Result<Vec<SteeredText>> {
        let coefficients: Vec<f32> = self.coefficients.iter().flat_map(|list| list.0.iter().copied()).collect();
        let (coefficients, samples) = (distinct(&coefficients), self.samples()?);
        let mut grid = Vec::with_capacity(prompts.texts.len() * coefficients.len() * samples as usize);
        for prompt in &prompts.texts {
            for &coefficient in &coefficients {
                grid.extend((0..samples).map(|sample| SteeredText {
                    direction: direction.into(),
                    sites: steered.iter().map(|(site, _)| site.to_string()).collect(),
                    prompt: prompt.clone(),
                    temperature: self.temperature,
                    top_k: self.top_k,
                    max_new_tokens: self.max_new_tokens as usize,
                    seed: self.run.seed,
                    coefficient,
                    sample,
                    text: String::new(),
                    tokens: Vec::new(),
                    log_probabilities: Vec::new(),
                    log_probability: 0.0,
                    ended: false,
                }));
            }
        }
        Ok(grid)
    }
}

/// A direction with its texts.
struct Job {
    direction: String,
    steered: Vec<(Site, Vec<f32>)>,
    file: SteeredTexts,
    /// Every text that was asked for, and those of them that are not there.
    grid: Vec<SteeredText>,
    missing: Vec<SteeredText>,
}

/// Writes the texts of a model.
struct Work<'a> {
    args: &'a Args,
    prompts: &'a PairedPrompts,
    jobs: &'a mut [Job],
    manifest: &'a mut Manifest,
}

impl DeviceWork for Work<'_> {
    type Output = ();

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<()> {
        self.manifest.computed_on(engine);
        self.manifest.saw(self.prompts)?;
        let tokenizer = &engine.model().tokenizer;
        for job in self.jobs.iter_mut().filter(|job| !job.missing.is_empty()) {
            let steering = Steering {
                prompts: &self.prompts.sequences,
                steered: &job.steered,
                ends: tokenizer.ends(),
                sampling: self.args.sampling(),
            };
            let wanted: Vec<Wanted> = job.missing.iter().map(|text| wanted(text, self.prompts)).collect();
            let progress = bar(wanted.len(), format!("steering along {}", job.direction));
            write_texts(engine, &steering, &wanted, |batch| -> Result<()> {
                for (number, written) in batch {
                    let prompt = &self.prompts.sequences[wanted[number].prompt];
                    job.file.insert(filled(&job.missing[number], written, tokenizer, prompt)?);
                    progress.inc(1);
                }
                // A run that is stopped keeps what it has written.
                Ok(job.file.write()?)
            })
            .with_context(|| job.direction.clone())?;
            progress.finish_and_clear();
            self.manifest.wrote(job.file.path(), []);
        }
        Ok(())
    }
}

fn wanted(text: &SteeredText, prompts: &PairedPrompts) -> Wanted {
    let prompt = prompts.texts.iter().position(|prompt| *prompt == text.prompt).unwrap_or(0);
    Wanted { prompt, coefficient: text.coefficient, sample: text.sample }
}

/// A text with what was written.
fn filled(text: &SteeredText, written: Written, tokenizer: &Tokenizer, prompt: &[u32]) -> Result<SteeredText> {
    let shown = written.tokens.len() - usize::from(written.ended);
    // Some tokenizers drop a space in front of the first token they are given: it is decoded behind the prompt.
    let before = tokenizer.decode(prompt)?;
    let whole = tokenizer.decode(&[prompt, &written.tokens[..shown]].concat())?;
    let text_alone = match whole.strip_prefix(&before) {
        Some(rest) => rest.to_owned(),
        None => tokenizer.decode(&written.tokens[..shown])?,
    };
    Ok(SteeredText {
        text: text_alone,
        log_probability: written.log_probabilities.iter().sum::<f64>() as f32,
        log_probabilities: written.log_probabilities.iter().map(|value| *value as f32).collect(),
        tokens: written.tokens,
        ended: written.ended,
        ..text.clone()
    })
}

/// Writes texts along directions, for every model.
pub fn run(args: Args) -> Result<()> {
    args.samples()?;
    let mut all = Vec::new();
    for spec in &distinct(&args.models.models) {
        let model = args.models.load(spec, args.run.seed)?;
        let (name, folder) = (model.name.clone(), args.run.folder(&model.name));
        let prompts = args.prompts(&model)?;
        let mut jobs = Vec::new();
        for direction in &distinct(&args.directions) {
            let steered = args.steered(&model, direction)?;
            let checked = Steering { prompts: &[], steered: &steered, ends: &[], sampling: args.sampling() };
            checked.check(&model.config).with_context(|| direction.clone())?;
            let file = SteeredTexts::read(&folder.join(format!("steering_{direction}.jsonl")))?;
            let grid = args.grid(direction, &steered, &prompts)?;
            let new = |text: &&SteeredText| args.run.overwrite || file.get(text).is_none();
            let missing: Vec<SteeredText> = grid.iter().filter(new).cloned().collect();
            note_skipped(grid.len() - missing.len(), "texts", file.path());
            jobs.push(Job { direction: direction.clone(), steered, file, grid, missing });
        }
        if args.run.dry_run {
            print(&plan(&args, &model.config, &name, &prompts, &jobs))?;
            continue;
        }
        let mut record = None;
        if jobs.iter().any(|job| !job.missing.is_empty()) {
            let mut manifest = args.run.manifest("steering", &args, &folder, Some(&model))?;
            let work = Work { args: &args, prompts: &prompts, jobs: &mut jobs, manifest: &mut manifest };
            args.run.in_pool(|| args.run.on_device(model, work))?;
            record = Some(manifest.finish()?);
        }
        if !args.run.json {
            print(&summary(&name, &jobs))?;
        }
        all.push(as_json(&name, &jobs, &record));
    }
    if args.run.json { print_json(&all) } else { Ok(()) }
}

/// The texts of a job that were asked for, as the file has them.
fn texts(job: &Job) -> impl Iterator<Item = &SteeredText> {
    job.grid.iter().filter_map(|text| job.file.get(text))
}

/// What a dry run says: every text of its full length, the prompt once for all of a coefficient.
fn plan(args: &Args, config: &ModelConfig, model: &str, prompts: &PairedPrompts, jobs: &[Job]) -> String {
    let mut table = Table::new(["direction", "sites", "texts", "tokens at most", "arithmetic", "without a cache"]);
    let most = args.max_new_tokens as usize;
    let mut longest = 0;
    for job in jobs {
        let (mut done, mut naive) = (Flops::default(), Flops::default());
        let mut last = None;
        for text in &job.missing {
            let wanted = wanted(text, prompts);
            let prompt = prompts.sequences[wanted.prompt].len();
            let key = (wanted.prompt, wanted.coefficient.to_bits());
            if last.replace(key) != Some(key) {
                done = done + Flops::forward(config, &Layout::new([(0, prompt)]), 0, config.d_vocab);
            }
            for length in prompt..prompt + most {
                let whole = Layout::new([(0, length)]);
                naive = naive + Flops::whole(config, &whole);
                if length > prompt {
                    done = done + Flops::forward(config, &Layout::new([(length - 1, length)]), 0, config.d_vocab);
                }
            }
        }
        longest = longest.max(job.missing.len() * most);
        let sites = job.steered.iter().map(|(site, _)| site.to_string()).collect::<Vec<_>>().join(" ");
        let (texts, tokens) = (job.missing.len().to_string(), (job.missing.len() * most).to_string());
        table.push([job.direction.clone(), sites, texts, tokens, done.to_string(), naive.to_string()]);
    }
    let kept = longest.min(args.run.batch_tokens as usize) * 2 * config.n_layers * config.d_kv();
    let memory = bytes(args.run.memory(config, kept + config.d_vocab * config.d_model));
    format!("{model}\n{table}about {memory} of memory, {} of it keys and values\n", bytes(4 * kept))
}

/// How much of a text the summary shows.
const SHOWN: usize = 100;

fn summary(model: &str, jobs: &[Job]) -> String {
    let mut text = format!("{model}\n");
    for job in jobs {
        text += &format!("steering_{}\n", job.direction);
        let mut table = Table::new(["prompt", "coefficient", "texts", "ended", "mean log probability"]);
        let mut firsts = String::new();
        let all: Vec<&SteeredText> = texts(job).collect();
        for group in all.chunk_by(|a, b| (&a.prompt, a.coefficient) == (&b.prompt, b.coefficient)) {
            let tokens: usize = group.iter().map(|text| text.tokens.len()).sum();
            let sum: f32 = group.iter().map(|text| text.log_probability).sum();
            let first = &group[0];
            table.push([
                shortened(&first.prompt, 24),
                first.coefficient.to_string(),
                group.len().to_string(),
                group.iter().filter(|text| text.ended).count().to_string(),
                format!("{:.3}", sum / tokens.max(1) as f32),
            ]);
            firsts += &format!("{:>6}: {}\n", first.coefficient, shortened(&first.text, SHOWN));
        }
        text += &format!("{table}the first text of each:\n{firsts}\n");
    }
    text
}

/// A text on one line, its end left out when it is long.
fn shortened(text: &str, length: usize) -> String {
    let line = text.replace('\n', "\\n");
    match line.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn as_json(model: &str, jobs: &[Job], manifest: &Option<RunRecord>) -> serde_json::Value {
    let job = |job: &Job| {
        let file = job.file.path().file_name().map(|name| name.to_string_lossy());
        json!({ "direction": job.direction, "file": file, "texts": texts(job).collect::<Vec<_>>() })
    };
    json!({ "model": model, "directions": jobs.iter().map(job).collect::<Vec<_>>(), "manifest": manifest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_are_numbers_and_ranges() {
        let list = |text: &str| text.parse::<Coefficients>().map(|list| list.0);
        assert_eq!(list("-3..0").unwrap(), [-3.0, -2.0, -1.0, 0.0]);
        assert_eq!(list("-1..1:0.5").unwrap(), [-1.0, -0.5, 0.0, 0.5, 1.0]);
        assert_eq!(list("0..0.3:0.1").unwrap(), [0.0, 0.1, 0.2, 0.3]);
        assert_eq!(list("2.5").unwrap(), [2.5]);
        assert_eq!(list("-0").unwrap()[0].to_bits(), 0);
        for wrong in
            ["", "x", "..", "1..", "1..0", "0..1:0", "0..1:-1", "0..1e9", "nan", "inf", "0..inf", "1:2", "0..1:x"]
        {
            let message = list(wrong).unwrap_err();
            assert!(message.starts_with("expected") && message.contains(&format!("{wrong:?}")), "{message}");
        }
    }

    #[test]
    fn long_texts_are_shortened_between_letters() {
        assert_eq!(shortened("né\nà", 9), "né\\nà");
        assert_eq!(shortened("éééé", 3), "ééé…");
    }
}
