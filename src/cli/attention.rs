//! `attention`.

use super::choice::choice;
use super::common::{distinct, prompt_positions};
use super::maps::{MadeMaps, MapArgs, MapCommand, Named, position_labels};
use crate::backend::Backend;
use crate::choice::{choices, serde_by_text};
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Flops, Layout};
use crate::experiments::activation_maps::common_length;
use crate::experiments::attention::{Head, attention_to, check_prompt, mean_patterns, prompt_patterns};
use crate::experiments::logit_attribution::head_contributions;
use crate::model::{Model, ModelConfig, Tokenizer};
use crate::report::figure::{Axis, Class, Facet, Figure, HeatMap, Plot, Point, Scale};
use crate::report::{ResultMap, Table};
use anyhow::{Result, bail};
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// Arguments of `attention`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch attention --models gpt2-small --heads 7.1,9.2,10.1,10.4 --prompts 0,21
  actpatch attention --models gpt2-small --heads top:4 --to ADJ,VRB

Every clean prompt is read at its last position: `contribution` is what a head writes there along the answers (the logit
difference's share, final norm frozen), and --to sets it against the head's attention from there to a position.
Files in DATA_DIR/<model>/: attention_<map>_<dataset>_<scaffold>_<heads>.npy and .csv, and .svg, .png and .html.")]
pub struct Args {
    #[command(flatten)]
    pub shared: MapArgs,
    /// Heads: a list of layer.head, all, or top:N for those that write most along the answers.
    #[arg(long, default_value = "top:6")]
    pub heads: HeadsArg,
    /// Over all prompts: mean patterns, the same weighted by the lengths of the values read, and heads' contributions.
    #[arg(long, value_delimiter = ',', default_value = "mean,weighted,contribution")]
    #[arg(value_parser = choice::<OverPrompts>())]
    pub maps: Vec<OverPrompts>,
    /// Patterns of these prompts too, by number.
    #[arg(long, value_delimiter = ',')]
    pub prompts: Vec<usize>,
    /// Attention from the last position to these, beside the contribution, prompt by prompt: placeholders or numbers.
    #[arg(long, value_delimiter = ',')]
    pub to: Vec<String>,
}

choices! {
    /// What is averaged over prompts, or listed for all of them.
    pub enum OverPrompts {
        /// Mean patterns.
        Mean = "mean",
        /// Weighted by values.
        Weighted = "weighted",
        /// What heads write along the answers.
        Contribution = "contribution",
    }
}

/// Which heads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadsArg {
    /// Every head.
    All,
    /// The first by their mean contribution, whatever its sign.
    Top(usize),
    /// These.
    List(Vec<Head>),
}

impl fmt::Display for HeadsArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeadsArg::All => f.write_str("all"),
            HeadsArg::Top(count) => write!(f, "top:{count}"),
            HeadsArg::List(heads) => f.write_str(&heads.iter().map(head_name).collect::<Vec<_>>().join(",")),
        }
    }
}

impl HeadsArg {
    /// The same as a part of file names.
    fn file_part(&self) -> String {
        self.to_string().replace(':', "").replace(',', "-")
    }
}

impl FromStr for HeadsArg {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let expected = || format!("expected heads such as 9.2,10.4, all, or top:6, found {text:?}");
        if text == "all" {
            return Ok(HeadsArg::All);
        }
        if let Some(count) = text.strip_prefix("top:") {
            return match count.parse() {
                Ok(count) if count > 0 => Ok(HeadsArg::Top(count)),
                _ => Err(expected()),
            };
        }
        let head = |item: &str| {
            let (layer, head) = item.split_once('.')?;
            Some((layer.parse().ok()?, head.parse().ok()?))
        };
        let heads: Option<Vec<Head>> = text.split(',').map(head).collect();
        Ok(HeadsArg::List(distinct(&heads.ok_or_else(expected)?)))
    }
}

serde_by_text!(HeadsArg);

fn head_name((layer, head): &Head) -> String {
    format!("{layer}.{head}")
}

/// One result.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Of all prompts.
    Over(OverPrompts),
    /// The patterns of one prompt.
    Prompt(usize),
    /// Attention to a position, by its name.
    To(String),
}

impl Kind {
    fn name(&self) -> String {
        match self {
            Kind::Over(OverPrompts::Mean) => "mean".into(),
            Kind::Over(OverPrompts::Weighted) => "weighted".into(),
            Kind::Over(OverPrompts::Contribution) => "contribution".into(),
            Kind::Prompt(prompt) => format!("prompt{prompt}"),
            Kind::To(position) => format!("to_{position}"),
        }
    }

    fn is_mean(&self) -> bool {
        matches!(self, Kind::Over(OverPrompts::Mean | OverPrompts::Weighted))
    }
}

impl Args {
    /// The heads; `contributions` is `(prompts, n_layers, n_heads)`.
    fn resolve(&self, config: &ModelConfig, contributions: &[f64]) -> Vec<Head> {
        let all = || (0..config.n_layers).flat_map(|layer| (0..config.n_heads).map(move |head| (layer, head)));
        match &self.heads {
            HeadsArg::All => all().collect(),
            HeadsArg::List(heads) => heads.clone(),
            HeadsArg::Top(count) => {
                let n = config.n_layers * config.n_heads;
                let sum = |(layer, head): Head| {
                    contributions.iter().skip(layer * config.n_heads + head).step_by(n).sum::<f64>().abs()
                };
                let mut ranked: Vec<(Head, f64)> = all().map(|head| (head, sum(head))).collect();
                ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
                ranked.into_iter().take(*count).map(|(head, _)| head).collect()
            }
        }
    }

    fn check(&self, config: &ModelConfig, prompts: &PairedPrompts) -> Result<()> {
        if let HeadsArg::List(heads) = &self.heads {
            for (layer, head) in heads {
                if *layer >= config.n_layers || *head >= config.n_heads {
                    let (layers, count) = (config.n_layers, config.n_heads);
                    bail!("--heads: the model has layers 0..{layers} and heads 0..{count}, found {layer}.{head}");
                }
            }
        }
        self.prompts.iter().try_for_each(|&prompt| check_prompt(prompts, prompt))?;
        self.to.iter().try_for_each(|name| prompt_positions("--to", prompts, name).map(|_| ()))
    }
}

impl MapCommand for Args {
    const NAME: &'static str = "attention";
    type Kind = Kind;

    fn shared(&self) -> &MapArgs {
        &self.shared
    }

    fn kinds(&self, model: &Model, prompts: &PairedPrompts) -> Result<Vec<Kind>> {
        self.check(&model.config, prompts)?;
        let over = self.maps.iter().copied().map(Kind::Over);
        let single = self.prompts.iter().copied().map(Kind::Prompt);
        let kinds: Vec<Kind> = over.chain(single).chain(self.to.iter().cloned().map(Kind::To)).collect();
        if kinds.iter().any(Kind::is_mean) {
            common_length(prompts)?;
        }
        Ok(kinds)
    }

    fn stem(&self, kind: &Kind, set: &str) -> String {
        self.shared.stem("attention", &self.heads.file_part(), kind.name(), set)
    }

    fn plan(&self, model: &Model, prompts: &PairedPrompts, kinds: &[Kind]) -> Result<String> {
        let mut table = Table::new(["prompt", "map", "heads"]);
        for kind in kinds {
            table.push([prompts.name.clone(), kind.name(), self.heads.file_part()]);
        }
        let layout = Layout::new(prompts.sequences.iter().map(|sequence| (0, sequence.len())));
        let pass = Flops::forward(&model.config, &layout, 0, 1);
        Ok(format!("{table}a pass over {} prompts for every map, {pass} each\n", prompts.sequences.len()))
    }
}

impl MadeMaps for Args {
    fn make<B: Backend>(&self, engine: &Engine<B>, prompts: &PairedPrompts, kinds: &[Kind]) -> Result<Vec<Named>> {
        let needed = |kind: &Kind| matches!(kind, Kind::To(_) | Kind::Over(OverPrompts::Contribution));
        let contributions = match matches!(self.heads, HeadsArg::Top(_)) || kinds.iter().any(needed) {
            true => head_contributions(engine, prompts, engine.memory_budget())?,
            false => Vec::new(),
        };
        let heads = self.resolve(engine.config(), &contributions);
        let made = Made { args: self, engine, prompts, heads, contributions };
        kinds.iter().map(|kind| made.make(kind)).collect()
    }
}

/// What the maps of a dataset are made from.
struct Made<'a, B: Backend> {
    args: &'a Args,
    engine: &'a Engine<B>,
    prompts: &'a PairedPrompts,
    heads: Vec<Head>,
    /// `(prompts, n_layers, n_heads)`.
    contributions: Vec<f64>,
}

impl<B: Backend> Made<'_, B> {
    fn make(&self, kind: &Kind) -> Result<Named> {
        let (prompts, heads) = (self.prompts, &self.heads);
        match kind {
            Kind::Over(OverPrompts::Mean) => {
                let mean = mean_patterns(self.engine, prompts, heads, self.engine.memory_budget())?;
                Ok(self.patterns(kind, mean.length, mean.patterns, &position_labels(prompts)))
            }
            Kind::Over(OverPrompts::Weighted) => {
                let mean = mean_patterns(self.engine, prompts, heads, self.engine.memory_budget())?;
                Ok(self.patterns(kind, mean.length, mean.weighted(), &position_labels(prompts)))
            }
            Kind::Prompt(prompt) => {
                let tokens = &prompts.sequences[prompts.clean[*prompt]];
                let patterns = prompt_patterns(self.engine, prompts, *prompt, heads)?;
                let labels = token_labels(&self.engine.model().tokenizer, tokens)?;
                Ok(self.patterns(kind, tokens.len(), patterns, &labels))
            }
            Kind::Over(OverPrompts::Contribution) => {
                let values = (0..heads.len()).flat_map(|head| self.contribution(head)).collect();
                let map = self.by_prompt("logits", values);
                Ok(Named::new(self.stem(kind), map, &self.title("Contribution"), CONTRIBUTION, prompts))
            }
            Kind::To(name) => {
                let to = prompt_positions("--to", prompts, name)?;
                let to = attention_to(self.engine, prompts, heads, &to, self.engine.memory_budget())?;
                let figure = Some(self.scatter(name, &to));
                Ok(Named { figure, ..Named::bare(self.stem(kind), self.by_prompt("probability", to)) })
            }
        }
    }

    fn stem(&self, kind: &Kind) -> String {
        self.args.stem(kind, &self.prompts.name)
    }

    fn title(&self, what: &str) -> String {
        format!("{what} of heads on {}, {}", self.prompts.name, self.engine.model().name)
    }

    /// What a chosen head writes in every prompt.
    fn contribution(&self, number: usize) -> Vec<f64> {
        let config = self.engine.config();
        let (layer, head) = self.heads[number];
        let n = config.n_layers * config.n_heads;
        self.contributions.iter().skip(layer * config.n_heads + head).step_by(n).copied().collect()
    }

    fn by_prompt(&self, unit: &'static str, values: Vec<f64>) -> ResultMap {
        let shape = vec![self.heads.len(), self.prompts.clean.len()];
        let components = self.heads.iter().map(head_name).collect();
        ResultMap { axes: vec!["head", "prompt"], shape, components, unit, values }
    }

    /// Patterns as one heat map per head, queries from top to bottom.
    fn patterns(&self, kind: &Kind, length: usize, values: Vec<f64>, labels: &[String]) -> Named {
        let (what, measure) = match kind {
            Kind::Over(OverPrompts::Weighted) => {
                ("Value-weighted attention".to_owned(), "share of value-weighted attention")
            }
            Kind::Prompt(prompt) => (format!("Attention in prompt {prompt}"), "attention probability"),
            _ => ("Mean attention".to_owned(), "attention probability"),
        };
        let facet = |(head, pattern): (&Head, &[f64])| Facet {
            title: head_name(head),
            x: Axis::new("key"),
            y: Axis::new("query"),
            plot: Plot::HeatMap(HeatMap {
                rows: labels.to_vec(),
                columns: labels.to_vec(),
                values: pattern.iter().copied().map(Some).collect(),
                scale: Scale::Reds { low: 0.0, high: 1.0 },
                measure: measure.to_owned(),
                decimals: None,
            }),
        };
        let drawn = self.heads.iter().zip(values.chunks((length * length).max(1))).take(DRAWN);
        let figure = self.figure(self.title(&what), drawn.map(facet).collect());
        let components = self.heads.iter().map(head_name).collect();
        let shape = vec![self.heads.len(), length, length];
        let map = ResultMap { axes: vec!["head", "query", "key"], shape, components, unit: "probability", values };
        Named { figure: Some(figure), ..Named::bare(self.stem(kind), map) }
    }

    /// Every prompt's contribution over its attention, one facet per head.
    fn scatter(&self, to: &str, attention: &[f64]) -> Figure {
        let prompts = self.prompts;
        let facet = |(number, head): (usize, &Head)| {
            let points = attention.iter().skip(number * prompts.clean.len()).zip(self.contribution(number));
            let mut classes = ["positive", "negative"].map(|name| Class { name: name.into(), points: Vec::new() });
            for (prompt, (&x, y)) in points.enumerate() {
                let class = &mut classes[usize::from(!prompts.positive[prompt])];
                class.points.push(Point { x, y, label: String::new() });
            }
            let x = Axis::new(format!("attention from the last position to {to}"));
            Facet { title: head_name(head), x, y: Axis::new(CONTRIBUTION), plot: Plot::Scatter(classes.into()) }
        };
        let facets = self.heads.iter().enumerate().take(DRAWN).map(facet).collect();
        self.figure(self.title("Attention and contribution"), facets)
    }

    /// One facet per head.
    fn figure(&self, title: String, facets: Vec<Facet>) -> Figure {
        let caption = match self.heads.len() {
            all if all > DRAWN => format!("The first {DRAWN} of {all} heads; the array and the table have all."),
            _ => String::new(),
        };
        Figure { caption, columns: if facets.len() > 4 { 4 } else { 0 }, ..Figure::new(title, facets) }
    }
}

/// More heads than this are not drawn.
const DRAWN: usize = 24;

/// What a head writes along the answers.
const CONTRIBUTION: &str = "contribution to the logit difference (logits)";

/// Positions with their tokens.
fn token_labels(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<Vec<String>> {
    let label = |(position, token): (usize, &u32)| {
        let text = tokenizer.decode(&[*token])?;
        Ok(format!("{position} {}", text.replace('\n', "\\n").trim()))
    };
    tokens.iter().enumerate().map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_recorded_as_the_option_takes_them() {
        for (name, file_part) in [("all", "all"), ("top:6", "top6"), ("9.2,10.4", "9.2-10.4")] {
            let heads: HeadsArg = serde_json::from_value(name.into()).unwrap();
            assert_eq!(serde_json::to_value(&heads).unwrap(), name);
            assert_eq!(heads.file_part(), file_part);
        }
    }
}
