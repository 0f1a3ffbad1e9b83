//! Attention: where heads attend, beside what they write along the answers.

use super::fields::{joined, list, not_empty};
use super::heads::{HeadChoice, check_head, head_name};
use super::maps::{AskedSet, MadeMaps, MapSets, MapStudy, Named, maps_study, pass, position_labels};
use crate::backend::Backend;
use crate::choice::choices;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Flops};
use crate::experiments::activation_maps::common_length;
use crate::experiments::attention::{Head, attention_to, check_prompt, mean_patterns, prompt_patterns};
use crate::experiments::logit_attribution::head_contributions;
use crate::model::{ModelConfig, Tokenizer};
use crate::report::figure::{Axis, Class, Facet, Figure, HeatMap, Plot, Point, Scale};
use crate::report::pages::{AttentionPage, AttentionPattern, write_view};
use crate::report::{ResultMap, Table};
use crate::session::{Observer, OfSetting, Session};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Shows where heads attend: mean, value-weighted and single patterns, attention beside contribution.
///
/// Every clean prompt is read at its last position: `contribution` is what a head writes there along the answers (the
/// logit difference's share, final norm frozen), and `to` sets it against the head's attention from there to a
/// position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttentionMaps {
    /// Which datasets.
    #[serde(flatten)]
    pub sets: MapSets,
    /// Heads: a list of layer.head, all, or top:N for those that write most along the answers, whatever its sign.
    #[serde(deserialize_with = "joined")]
    pub heads: HeadChoice,
    /// Over all prompts: mean patterns, the same weighted by the lengths of the values read, and heads' contributions.
    #[serde(deserialize_with = "list")]
    pub maps: Vec<OverPrompts>,
    /// Patterns of these prompts too, by number.
    #[serde(deserialize_with = "list")]
    pub prompts: Vec<usize>,
    /// Attention from the last position to these, beside the contribution, prompt by prompt: placeholders or numbers.
    #[serde(deserialize_with = "list")]
    pub to: Vec<String>,
}

impl Default for AttentionMaps {
    fn default() -> Self {
        Self {
            sets: MapSets::default(),
            heads: HeadChoice::Top(6),
            maps: OverPrompts::ALL.to_vec(),
            prompts: Vec::new(),
            to: Vec::new(),
        }
    }
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

/// One result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
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
            Kind::Over(over) => over.name().into(),
            Kind::Prompt(prompt) => format!("prompt{prompt}"),
            Kind::To(position) => format!("to_{position}"),
        }
    }

    fn is_mean(&self) -> bool {
        matches!(self, Kind::Over(OverPrompts::Mean | OverPrompts::Weighted))
    }

    /// Is it made of what heads write along the answers?
    fn has_contributions(&self) -> bool {
        matches!(self, Kind::To(_) | Kind::Over(OverPrompts::Contribution))
    }
}

impl AttentionMaps {
    /// The heads; `contributions` is `(prompts, n_layers, n_heads)`.
    fn chosen(&self, config: &ModelConfig, contributions: &[f64]) -> Vec<Head> {
        let all = || (0..config.n_layers).flat_map(|layer| (0..config.n_heads).map(move |head| (layer, head)));
        match &self.heads {
            HeadChoice::All => all().collect(),
            HeadChoice::List(heads) => heads.clone(),
            HeadChoice::Top(count) => {
                let size = |head| of_head(config, contributions, head).sum::<f64>().abs();
                let mut ranked: Vec<(Head, f64)> = all().map(|head| (head, size(head))).collect();
                ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
                ranked.into_iter().take(*count).map(|(head, _)| head).collect()
            }
        }
    }

    fn check(&self, session: &Session, prompts: &PairedPrompts) -> Result<()> {
        if let HeadChoice::List(heads) = &self.heads {
            heads.iter().try_for_each(|&head| check_head("heads", session.config(), head, head_name(head)))?;
        }
        self.prompts.iter().try_for_each(|&prompt| check_prompt(prompts, prompt)).of_setting("prompts")?;
        self.to.iter().try_for_each(|name| session.prompt_positions("to", prompts, name).map(|_| ()))
    }
}

/// What a head writes in every prompt, out of `(prompts, n_layers, n_heads)`.
fn of_head(config: &ModelConfig, contributions: &[f64], (layer, head): Head) -> impl Iterator<Item = f64> {
    let n = config.n_layers * config.n_heads;
    contributions.iter().skip(layer * config.n_heads + head).step_by(n).copied()
}

maps_study!(AttentionMaps, "attention", {
    fn validate(&self) -> Result<()> {
        let results = self.maps.len() + self.prompts.len() + self.to.len();
        Ok(not_empty(&[self.sets.counted(), ("maps", results)])?)
    }
});

impl MapStudy for AttentionMaps {
    type Kind = Kind;

    fn sets(&self) -> &MapSets {
        &self.sets
    }

    fn kinds(&self, session: &Session, prompts: &PairedPrompts) -> Result<Vec<Kind>> {
        self.check(session, prompts)?;
        let over = self.maps.iter().copied().map(Kind::Over);
        let single = self.prompts.iter().copied().map(Kind::Prompt);
        let to = self.to.iter().map(|name| Ok(Kind::To(session.position("to", prompts, name)?.0)));
        let to = to.collect::<Result<Vec<_>>>()?;
        let kinds: Vec<Kind> = over.chain(single).chain(to).collect();
        if kinds.iter().any(Kind::is_mean) {
            common_length(prompts)?;
        }
        Ok(kinds)
    }

    fn stem(&self, session: &Session, kind: &Kind, set: &str) -> String {
        self.sets.stem(session, "attention", &self.heads.file_part(), kind.name(), set)
    }

    fn planned(&self, session: &Session, prompts: &PairedPrompts, kinds: &[Kind]) -> Result<(String, Flops)> {
        let mut table = Table::new(["prompt", "map", "heads"]);
        for kind in kinds {
            table.push([prompts.name.clone(), kind.name(), self.heads.file_part()]);
        }
        let pass = pass(session.config(), &prompts.sequences);
        let text = format!("{table}a pass over {} prompts for every map, {pass} each\n", prompts.sequences.len());
        Ok((text, Flops(pass.0 * kinds.len() as u64)))
    }

    fn figure(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        kind: &Kind,
        map: &ResultMap,
    ) -> Result<Option<Figure>> {
        let title = |what: &str| title(session, prompts, what);
        Ok(match kind {
            Kind::To(_) => None,
            Kind::Over(OverPrompts::Contribution) => {
                map.figure(&title("Contribution"), CONTRIBUTION, &position_labels(prompts))
            }
            Kind::Over(OverPrompts::Mean) => {
                let labels = position_labels(prompts);
                Some(pattern_figure(title("Mean attention"), PROBABILITY, &labels, map))
            }
            Kind::Over(OverPrompts::Weighted) => {
                Some(pattern_figure(title("Value-weighted attention"), WEIGHTED, &position_labels(prompts), map))
            }
            Kind::Prompt(prompt) => {
                let tokens = &prompts.sequences[prompts.clean[*prompt]];
                let labels = token_labels(&session.model().tokenizer, tokens)?;
                Some(pattern_figure(title(&format!("Attention in prompt {prompt}")), PROBABILITY, &labels, map))
            }
        })
    }

    fn write_page(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        maps: &[(&Kind, &ResultMap)],
    ) -> Result<Option<PathBuf>> {
        let pattern = |(kind, map): &(&Kind, &ResultMap)| pattern_of(session, prompts, kind, map).transpose();
        let patterns = maps.iter().filter_map(pattern).collect::<Result<Vec<_>>>()?;
        let Some(heads) = maps.iter().find(|(_, map)| map.axes.len() == 3).map(|(_, map)| map.components.clone())
        else {
            return Ok(None);
        };
        let stem = self.sets.stem(session, "attention", &self.heads.file_part(), "patterns", &prompts.name);
        let page = AttentionPage { title: title(session, prompts, "Attention"), heads, maps: patterns };
        Ok(write_view(&page, &session.folder(), &stem)?)
    }

    fn lacks(&self, kind: &Kind, _: &Named, figure_lost: bool) -> Option<&'static str> {
        let drawn_of_more = matches!(kind, Kind::To(_));
        (drawn_of_more && figure_lost).then_some("its figure, which shows what heads write too, is lost")
    }
}

impl MadeMaps for AttentionMaps {
    fn make<B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        set: &AskedSet<Kind>,
        _: &mut dyn Observer,
    ) -> Result<Vec<Named>> {
        let (prompts, kinds) = (&set.prompts, set.wanted());
        let ranked = matches!(self.heads, HeadChoice::Top(_));
        let contributions = match ranked || kinds.iter().any(Kind::has_contributions) {
            true => head_contributions(engine, prompts, engine.memory_budget())?,
            false => Vec::new(),
        };
        let heads = self.chosen(session.config(), &contributions);
        let making = Making { study: self, session, engine, prompts, heads, contributions };
        kinds.iter().map(|kind| making.make(kind)).collect()
    }
}

/// What the maps of a dataset are made from.
struct Making<'a, B: Backend> {
    study: &'a AttentionMaps,
    session: &'a Session,
    engine: &'a Engine<B>,
    prompts: &'a PairedPrompts,
    heads: Vec<Head>,
    /// `(prompts, n_layers, n_heads)`.
    contributions: Vec<f64>,
}

impl<B: Backend> Making<'_, B> {
    fn make(&self, kind: &Kind) -> Result<Named> {
        let (engine, prompts, heads) = (self.engine, self.prompts, &self.heads);
        let (budget, stem) = (engine.memory_budget(), self.study.stem(self.session, kind, &prompts.name));
        Ok(match kind {
            Kind::Over(OverPrompts::Mean) => {
                let mean = mean_patterns(engine, prompts, heads, budget)?;
                Named::new(stem, self.patterns(mean.length, mean.patterns))
            }
            Kind::Over(OverPrompts::Weighted) => {
                let mean = mean_patterns(engine, prompts, heads, budget)?;
                Named::new(stem, self.patterns(mean.length, mean.weighted()))
            }
            Kind::Prompt(prompt) => {
                let length = prompts.sequences[prompts.clean[*prompt]].len();
                Named::new(stem, self.patterns(length, prompt_patterns(engine, prompts, *prompt, heads)?))
            }
            Kind::Over(OverPrompts::Contribution) => {
                let values = heads.iter().flat_map(|&head| self.contribution(head)).collect();
                Named::new(stem, self.by_prompt("logits", values))
            }
            Kind::To(name) => {
                let to = self.session.prompt_positions("to", prompts, name)?;
                let map = self.by_prompt("probability", attention_to(engine, prompts, heads, &to, budget)?);
                Named { figure: Some(self.scatter(name, &map)), ..Named::new(stem, map) }
            }
        })
    }

    /// What a head writes in every prompt.
    fn contribution(&self, head: Head) -> impl Iterator<Item = f64> {
        of_head(self.engine.config(), &self.contributions, head)
    }

    fn names(&self) -> Vec<String> {
        self.heads.iter().map(|&head| head_name(head)).collect()
    }

    fn by_prompt(&self, unit: &str, values: Vec<f64>) -> ResultMap {
        let shape = vec![self.heads.len(), self.prompts.clean.len()];
        ResultMap::new(&["head", "prompt"], shape, unit, values).with_components(self.names())
    }

    fn patterns(&self, length: usize, values: Vec<f64>) -> ResultMap {
        let shape = vec![self.heads.len(), length, length];
        ResultMap::new(&["head", "query", "key"], shape, "probability", values).with_components(self.names())
    }

    /// Every prompt's contribution over its attention, one facet per head.
    fn scatter(&self, to: &str, attention: &ResultMap) -> Figure {
        let prompts = self.prompts;
        let facet = |(&head, attention): (&Head, &[f64])| {
            let names: &[&str] = if prompts.has_classes { &["positive", "negative"] } else { &["prompts"] };
            let class = |name: &&str| Class { name: (*name).into(), points: Vec::new() };
            let mut classes: Vec<Class> = names.iter().map(class).collect();
            for (prompt, (&x, y)) in attention.iter().zip(self.contribution(head)).enumerate() {
                let class = &mut classes[usize::from(!prompts.positive[prompt])];
                class.points.push(Point { x, y, label: String::new() });
            }
            let x = Axis::new(format!("attention from the last position to {to}"));
            Facet { title: head_name(head), x, y: Axis::new(CONTRIBUTION), plot: Plot::Scatter(classes) }
        };
        let of_heads = self.heads.iter().zip(attention.values.chunks(prompts.clean.len().max(1)));
        let facets = of_heads.take(DRAWN).map(facet).collect();
        let title = title(self.session, prompts, "Attention and contribution");
        figure_of_heads(title, facets, self.heads.len())
    }
}

/// The patterns of a map on a page; none of a map that has no patterns.
fn pattern_of(
    session: &Session,
    prompts: &PairedPrompts,
    kind: &Kind,
    map: &ResultMap,
) -> Result<Option<AttentionPattern>> {
    let count = prompts.clean.len();
    let (name, measure, tokens) = match kind {
        Kind::To(_) | Kind::Over(OverPrompts::Contribution) => return Ok(None),
        Kind::Over(OverPrompts::Mean) => {
            (format!("mean of {count} prompts"), PROBABILITY, shared_labels(session, prompts)?)
        }
        Kind::Over(OverPrompts::Weighted) => {
            (format!("value-weighted mean of {count} prompts"), WEIGHTED, shared_labels(session, prompts)?)
        }
        Kind::Prompt(prompt) => {
            let tokens = &prompts.sequences[prompts.clean[*prompt]];
            (format!("prompt {prompt}"), PROBABILITY, token_labels(&session.model().tokenizer, tokens)?)
        }
    };
    Ok(Some(AttentionPattern { name, measure: measure.into(), tokens, values: map.values.clone() }))
}

/// Labels of positions, each with its token where that is the same in all prompts.
fn shared_labels(session: &Session, prompts: &PairedPrompts) -> Result<Vec<String>> {
    let clean: Vec<&Vec<u32>> = prompts.clean.iter().map(|&sequence| &prompts.sequences[sequence]).collect();
    let Some(first) = clean.first() else { return Ok(Vec::new()) };
    let tokens = token_labels(&session.model().tokenizer, first)?;
    let label = |((position, label), token): ((usize, String), String)| {
        let shared = clean.iter().all(|tokens| tokens.get(position) == first.get(position));
        if shared { [token, named(&label)].concat() } else { label }
    };
    Ok(position_labels(prompts).into_iter().enumerate().zip(tokens).map(label).collect())
}

/// What stands at a position, behind its number.
fn named(label: &str) -> String {
    label.split_once(' ').map_or(String::new(), |(_, names)| format!(" ({names})"))
}

/// More heads than this are not drawn.
const DRAWN: usize = 24;

/// What a head writes along the answers.
const CONTRIBUTION: &str = "contribution to the logit difference (logits)";

/// What a pattern holds.
const PROBABILITY: &str = "attention probability";

/// What a pattern weighted by values holds.
const WEIGHTED: &str = "share of value-weighted attention";

fn title(session: &Session, prompts: &PairedPrompts, what: &str) -> String {
    format!("{what} of heads on {}, {}", prompts.name, session.model().name)
}

/// Patterns as one heat map per head, queries from top to bottom; `labels` are those of the positions.
fn pattern_figure(title: String, measure: &str, labels: &[String], map: &ResultMap) -> Figure {
    let facet = |(head, pattern): (&String, &[f64])| Facet {
        title: head.clone(),
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
    let length = map.shape.last().copied().unwrap_or(0);
    let patterns = map.values.chunks((length * length).max(1));
    let facets = map.components.iter().zip(patterns).take(DRAWN).map(facet).collect();
    figure_of_heads(title, facets, map.components.len())
}

/// One facet per head, of as many as are drawn out of `all`.
fn figure_of_heads(title: String, facets: Vec<Facet>, all: usize) -> Figure {
    let caption = match all > DRAWN {
        true => format!("The first {DRAWN} of {all} heads; the array and the table have all."),
        false => String::new(),
    };
    Figure { caption, columns: if facets.len() > 4 { 4 } else { 0 }, ..Figure::new(title, facets) }
}

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
    use crate::studies::from_settings;
    use serde_json::json;

    #[test]
    fn heads_and_positions_may_be_lists_or_texts() {
        let read = |settings: serde_json::Value| from_settings::<AttentionMaps>(settings.as_object().unwrap().clone());
        let lists = json!({ "heads": ["9.2", "10.4"], "to": ["ADJ", 18], "prompts": [3], "maps": ["mean"] });
        let texts = json!({ "heads": "9.2,10.4", "to": "ADJ,18", "prompts": 3, "maps": "mean" });
        let expected = AttentionMaps {
            heads: HeadChoice::List(vec![(9, 2), (10, 4)]),
            maps: vec![OverPrompts::Mean],
            prompts: vec![3],
            to: vec!["ADJ".into(), "18".into()],
            ..AttentionMaps::default()
        };
        assert_eq!(read(lists).unwrap(), expected);
        assert_eq!(read(texts).unwrap(), expected);
        assert!(read(json!({ "heads": ["9"] })).unwrap_err().to_string().starts_with("heads: expected heads such as"));
    }
}
