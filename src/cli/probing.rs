//! `probing` and `ccs`.

use super::common::{bar, distinct, processing_names};
use super::fit_directions::revision;
use super::maps::{MadeMaps, MapArgs, MapCommand, Named, in_percent};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::datasets::treebank::Split;
use crate::directions::{CcsSettings, Direction, DirectionName, FitRecord, Method};
use crate::engine::{Engine, Flops, Layout};
use crate::experiments::activation_maps::common_length;
use crate::experiments::component::Component;
use crate::experiments::probing::{CcsLayers, ccs_layers, probes};
use crate::model::Model;
use crate::report::ResultMap;
use crate::report::figure::{Axis, Facet, Figure, Plot, Scale, Series};
use crate::types::Matrix;
use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

/// Arguments of `probing`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch probing --models gpt2-small --eval-sets simple --components resid_post,attn_out

Logistic regressions of the prompts' class (features scaled, C = 1, intercept free) at every layer and position, fitted on
four fifths of the prompts, chosen by --seed, and tested on the rest.
Files in DATA_DIR/<model>/: probing_<test|train>_<dataset>_<scaffold>_<component>.npy and .csv, accuracy in percent, .svg,
.png and .html, and probing_test_…_weights.npy: (layer, position, width + 1) weights with the intercept behind them.")]
pub struct ProbingArgs {
    #[command(flatten)]
    pub shared: MapArgs,
    /// Activations: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q, k, v, pre, post.
    #[arg(long, value_delimiter = ',', default_value = "resid_post")]
    pub components: Vec<Component>,
}

/// Arguments of `ccs`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch ccs --models pythia-1.4b --eval-sets treebank_test --scaffold classification
  actpatch ccs --models pythia-1.4b --eval-sets classification_4
  actpatch logit-attribution --models pythia-1.4b --eval-sets classification_4 --along ccs_classification_4_ANSWER_layer24

Every prompt is completed with its positive and its negative answer; at the completion's token, in front of every block and
behind the last, contrast-consistent search (no labels) and a logistic regression on the difference of both completions
(labels) are fitted on the first half of the prompts and tested on the second.
Files in DATA_DIR/<model>/: ccs_accuracy_<dataset>_<scaffold>_resid.npy and .csv (method, layer), in percent, .svg, .png and
.html, and …_weights.npy: (layer, d_model + 1) weights of the search with the intercept behind them; and every layer's direction
from false to true, ccs_<dataset>_ANSWER_layer<l>.npy and .json, to be named like those of fit-directions.")]
pub struct CcsArgs {
    #[command(flatten)]
    pub shared: MapArgs,
    /// Steps of each try.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub epochs: u32,
    /// Random starts, of which the one with the lowest loss counts.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub tries: u32,
}

/// A pass over the clean prompts for every layer.
fn passes(model: &Model, prompts: &PairedPrompts, layers: usize) -> Flops {
    let layout = Layout::new(prompts.clean.iter().map(|&sequence| (0, prompts.sequences[sequence].len())));
    Flops(Flops::forward(&model.config, &layout, 0, 1).0 * layers as u64)
}

impl MapCommand for ProbingArgs {
    const NAME: &'static str = "probing";
    /// Of the unseen prompts, or of those of the fit.
    type Kind = (Component, bool);

    fn shared(&self) -> &MapArgs {
        &self.shared
    }

    fn kinds(&self, model: &Model, prompts: &PairedPrompts) -> Result<Vec<Self::Kind>> {
        common_length(prompts)?;
        for component in &self.components {
            if *component == Component::Pattern {
                bail!("--components: expected activations that are vectors, found {component}");
            }
            component.site(0).check(&model.config)?;
        }
        Ok(self.components.iter().flat_map(|&component| [(component, true), (component, false)]).collect())
    }

    fn stem(&self, &(component, test): &Self::Kind, set: &str) -> String {
        self.shared.stem("probing", component.name(), if test { "test" } else { "train" }, set)
    }

    fn plan(&self, model: &Model, prompts: &PairedPrompts, kinds: &[Self::Kind]) -> Result<String> {
        let shape = [model.config.n_layers, common_length(prompts)?];
        let line = |kind: &Self::Kind| format!("{}: {shape:?} values", self.stem(kind, &prompts.name));
        let lines = kinds.iter().map(line).collect::<Vec<_>>().join("\n");
        let flops = passes(model, prompts, model.config.n_layers);
        Ok(format!("{lines}\n{flops} per component, and as many fits as values\n"))
    }
}

impl MadeMaps for ProbingArgs {
    fn make<B: Backend>(
        &self,
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        kinds: &[Self::Kind],
    ) -> Result<Vec<Named>> {
        let mut all = Vec::new();
        for &component in &distinct(&self.components) {
            let wanted: Vec<_> = kinds.iter().filter(|kind| kind.0 == component).collect();
            if wanted.is_empty() {
                continue;
            }
            let progress = bar(1000, format!("probing {component} on {}", prompts.name));
            let found = probes(
                engine,
                prompts,
                component,
                self.shared.run.seed,
                engine.memory_budget(),
                |share| -> Result<()> {
                    progress.set_position((1000.0 * share) as u64);
                    Ok(())
                },
            )?;
            progress.finish_and_clear();
            let width = component.site(0).width(engine.config());
            for kind in wanted {
                let (values, which) = if kind.1 { (&found.test, "test") } else { (&found.train, "train") };
                let map = in_percent(vec!["layer", "position"], found.shape.to_vec(), values);
                let title = format!("Probes of {component} on {} ({which}), {}", prompts.name, engine.model().name);
                let mut named = Named::new(self.stem(kind, &prompts.name), map, &title, "accuracy (%)", prompts);
                for facet in named.figure.iter_mut().flat_map(|figure| &mut figure.facets) {
                    if let Plot::HeatMap(map) = &mut facet.plot {
                        map.scale = Scale::Reds { low: 50.0, high: 100.0 };
                    }
                }
                named.weights = kind.1.then(|| ([&found.shape[..], &[width + 1]].concat(), found.weights.clone()));
                all.push(named);
            }
        }
        Ok(all)
    }
}

impl MapCommand for CcsArgs {
    const NAME: &'static str = "ccs";
    type Kind = ();

    fn shared(&self) -> &MapArgs {
        &self.shared
    }

    fn kinds(&self, _: &Model, prompts: &PairedPrompts) -> Result<Vec<()>> {
        // A name that cannot be a file's is found before the work is done.
        self.direction(prompts, 0)?;
        Ok(vec![()])
    }

    fn stem(&self, (): &(), set: &str) -> String {
        self.shared.stem("ccs", "resid", "accuracy", set)
    }

    fn plan(&self, model: &Model, prompts: &PairedPrompts, _: &[()]) -> Result<String> {
        let layers = model.config.n_layers + 1;
        let flops = passes(model, prompts, 2 * layers);
        let fits = format!("{layers} x {} fits of {} epochs", self.tries, self.epochs);
        Ok(format!("{}: {fits}, {flops} for the passes\n", self.stem(&(), &prompts.name)))
    }
}

impl MadeMaps for CcsArgs {
    fn make<B: Backend>(&self, engine: &Engine<B>, prompts: &PairedPrompts, _: &[()]) -> Result<Vec<Named>> {
        let progress = bar(1000, format!("searching {}", prompts.name));
        let settings = CcsSettings {
            epochs: self.epochs as usize,
            tries: self.tries as usize,
            seed: self.shared.run.seed,
            ..CcsSettings::default()
        };
        let found = ccs_layers(engine, prompts, &settings, engine.memory_budget(), |share| -> Result<()> {
            progress.set_position((1000.0 * share) as u64);
            Ok(())
        })?;
        progress.finish_and_clear();
        let directions = self.directions(engine.model(), prompts, &settings, &found)?;
        let layers = found.test.len();
        let methods = [
            ("ccs_test", &found.test),
            ("ccs_train", &found.train),
            ("logistic_regression_test", &found.supervised_test),
            ("logistic_regression_train", &found.supervised_train),
        ];
        let values: Vec<f64> = methods.iter().flat_map(|(_, values)| values.iter().copied()).collect();
        let components = methods.iter().map(|(name, _)| (*name).to_owned()).collect();
        let map = ResultMap { components, ..in_percent(vec!["method", "layer"], vec![methods.len(), layers], &values) };
        let title = format!("Contrast-consistent search on {}, {}", prompts.name, engine.model().name);
        let weights = Some((vec![layers, engine.config().d_model + 1], found.weights));
        let stem = self.stem(&(), &prompts.name);
        let figure = Some(figure(title, &map, layers));
        Ok(vec![Named { figure, weights, directions, ..Named::bare(stem, map) }])
    }
}

/// The position of a direction of completions: that of the answer's token, behind the prompt.
const ANSWER: &str = "ANSWER";

impl CcsArgs {
    fn direction(&self, prompts: &PairedPrompts, layer: usize) -> Result<DirectionName> {
        Ok(DirectionName::fitted(Method::Ccs, &prompts.name, ANSWER, layer)?)
    }

    /// The directions that the search has found, with their records.
    fn directions(
        &self,
        model: &Model,
        prompts: &PairedPrompts,
        search: &CcsSettings,
        found: &CcsLayers,
    ) -> Result<Vec<(Direction, FitRecord)>> {
        let MapArgs { models, compat, run, scaffold, .. } = &self.shared;
        let named =
            |spec: &&String| Model::results_name(spec, models.revision.as_deref()).is_ok_and(|name| name == model.name);
        let CcsSettings { learning_rate, weight_decay, epochs, tries, seed } = *search;
        let mut settings = json!({
            "learning_rate": learning_rate, "weight_decay": weight_decay, "epochs": epochs, "tries": tries,
            "dtype": run.dtype.to_string(),
        });
        if Split::of_dataset(&prompts.name).is_some() {
            settings["scaffold"] = json!(scaffold);
        }
        let mut all = Vec::new();
        for (layer, values) in found.directions.iter().enumerate() {
            let name = self.direction(prompts, layer)?;
            let Some(values) = values else {
                tracing::warn!("{name} is not written: completions by one answer are all the same there");
                continue;
            };
            let record = FitRecord {
                name: name.to_string(),
                model: models.models.iter().find(named).unwrap_or(&model.name).clone(),
                revision: revision(model),
                weight_processing: processing_names(model.processing),
                method: Method::Ccs,
                dataset: Some(prompts.name.clone()),
                position: Some(ANSWER.into()),
                layer,
                seed,
                compat: compat.names(),
                settings: settings.clone(),
                loss_curve: Vec::new(),
                test_loss_curves: BTreeMap::new(),
                final_metric: found.train.get(layer).copied(),
                version: env!("CARGO_PKG_VERSION").into(),
                imported: None,
            };
            all.push((Direction { name, columns: Matrix::new(values.len(), 1, values.clone()) }, record));
        }
        Ok(all)
    }
}

/// Accuracy over layers, a line per method.
fn figure(title: String, map: &ResultMap, layers: usize) -> Figure {
    let line = |(name, values): (&String, &[f64])| Series {
        name: name.replace('_', " "),
        points: values.iter().enumerate().map(|(layer, value)| (layer as f64, *value)).collect(),
        baseline: false,
    };
    let mut series: Vec<Series> = map.components.iter().zip(map.values.chunks(layers.max(1))).map(line).collect();
    let ends = [0.0, layers.saturating_sub(1) as f64];
    series.push(Series { name: "chance".into(), points: ends.map(|layer| (layer, 50.0)).to_vec(), baseline: true });
    let plot = Plot::Lines(series);
    let facet = Facet { title: String::new(), x: Axis::whole("layer"), y: Axis::new("accuracy (%)"), plot };
    Figure::new(title, vec![facet])
}
