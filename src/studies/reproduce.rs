//! What is asked of a new model, in one run: directions by every method, what they cause, the heads that matter, the
//! direction taken away at commas, and one page of it all.

use super::{Ablation, ActivationPatchingMaps, Attention, FitDirections, PatchingSuite, Plan, Study, SuiteResults};
use crate::datasets::treebank::Scaffold;
use crate::directions::Method;
use crate::engine::Metric;
use crate::experiments::ablation::Replacement;
use crate::report::figure::Figure;
use crate::report::results::{BEST_LAYER, Best, best_layers_table};
use crate::report::{RunRecord, Section, write_page};
use crate::session::{Note, Observer, Session, processing_names};
use crate::studies::fields::{list, not_empty};
use crate::studies::maps::MapSets;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Fits directions, patches along them on datasets of other words and sentences, patches every head, takes a direction
/// away at commas and everywhere, draws the figures, and writes a page about it. Stopped, it goes on where it was.
///
/// Datasets that a model's tokenizer cannot have (answers of several tokens) are left out, and the page says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reproduce {
    /// Methods; all without any.
    #[serde(deserialize_with = "list")]
    pub methods: Vec<Method>,
    /// Layers at which directions are fitted and patched: `all`, numbers, ranges.
    #[serde(deserialize_with = "list")]
    pub layers: Vec<String>,
    /// DAS: passes over the dataset: 64 without it. At least 1.
    pub epochs: Option<u32>,
    /// Datasets to patch along the directions, which are fitted on `simple_train`.
    #[serde(deserialize_with = "list")]
    pub eval_sets: Vec<String>,
    /// Metrics.
    #[serde(deserialize_with = "list")]
    pub metrics: Vec<Metric>,
    /// Dataset of the maps of heads, layers and positions.
    pub map_set: String,
    /// Dataset with commas.
    pub comma_set: String,
}

impl Default for Reproduce {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            methods: Vec::new(),
            layers: names(&["all"]),
            epochs: None,
            eval_sets: names(&["simple_test", "simple_adverb", "simple_product", "simple_book", "proper_nouns"]),
            metrics: vec![Metric::LogitDiff, Metric::LogitFlip],
            map_set: "simple".into(),
            comma_set: "classification_4".into(),
        }
    }
}

/// The dataset that directions are fitted on.
const TRAIN_SET: &str = "simple_train";

/// What was made of one model.
#[derive(Debug, Clone, Serialize)]
pub struct Reproduced {
    /// The model's name.
    pub model: String,
    /// The best layers of the methods, by metric.
    pub best_layers: BTreeMap<Metric, Vec<Best>>,
    /// Datasets that the model cannot have, with the reason.
    pub left_out: Vec<(String, String)>,
    /// The page.
    pub page: String,
    /// The manifests of what was not there already.
    pub manifests: Vec<RunRecord>,
}

impl fmt::Display for Reproduced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.model)?;
        for (metric, bests) in &self.best_layers {
            writeln!(f, "{metric}: percent at the best layer (layer)\n{}", tables(bests))?;
        }
        for (set, reason) in &self.left_out {
            writeln!(f, "left out: {set}: {reason}")?;
        }
        writeln!(f, "everything is on {}", self.page)
    }
}

/// The tables of the best layers: patched at one position, and at all of them.
fn tables(bests: &[Best]) -> String {
    let (everywhere, at_one): (Vec<Best>, Vec<Best>) =
        bests.iter().cloned().partition(|best| best.patched.ends_with(" ALL"));
    let tables = [at_one, everywhere].into_iter().filter(|bests| !bests.is_empty());
    tables.map(|bests| format!("{}\n", best_layers_table(&bests))).collect()
}

/// The studies, with what they are made for left out where a model cannot have it.
struct Steps {
    fits: FitDirections,
    suite: Option<PatchingSuite>,
    maps: Option<ActivationPatchingMaps>,
    commas: Option<Ablation>,
    left_out: Vec<(String, String)>,
}

impl Reproduce {
    fn steps(&self, session: &Session) -> Result<Steps> {
        self.validate()?;
        session.catalogue()?;
        let mut left_out: Vec<(String, String)> = Vec::new();
        let mut possible = |set: &String| match session.prompts(set, Scaffold::Plain) {
            Ok(_) => true,
            Err(error) => {
                if left_out.iter().all(|(other, _)| other != set) {
                    left_out.push((set.clone(), error.to_string()));
                }
                false
            }
        };
        let eval_sets: Vec<String> = self.eval_sets.iter().filter(|set| possible(set)).cloned().collect();
        let (maps, commas) = (possible(&self.map_set), possible(&self.comma_set));
        let sets = |set: &String| MapSets { eval_sets: vec![set.clone()], ..MapSets::default() };
        let train = session.prompts(TRAIN_SET, Scaffold::Plain)?;
        let (at, _) = session.position("positions", &train, "auto")?;
        let direction = format!("{}_{TRAIN_SET}_{at}", self.of_commas());
        let positions = vec!["auto".to_owned(), "ALL".to_owned()];
        Ok(Steps {
            fits: FitDirections {
                methods: self.methods.clone(),
                layers: self.layers.clone(),
                epochs: self.epochs,
                test_sets: eval_sets.first().cloned().into_iter().collect(),
                ..FitDirections::default()
            },
            suite: (!eval_sets.is_empty()).then(|| PatchingSuite {
                directions: self.patched(&at),
                eval_sets,
                metrics: self.metrics.clone(),
                positions,
                ..PatchingSuite::default()
            }),
            maps: maps.then(|| ActivationPatchingMaps { sets: sets(&self.map_set), ..Default::default() }),
            commas: commas.then(|| Ablation {
                sets: sets(&self.comma_set),
                directions: vec![direction],
                random: 2,
                methods: vec![Replacement::Zero, Replacement::MeanOverPlaces],
                positions: vec!["COMMA".into(), "ALL".into()],
                attention: vec![Attention::Live, Attention::Frozen],
                ..Ablation::default()
            }),
            left_out,
        })
    }

    /// The patterns of the directions that are patched along.
    fn patched(&self, position: &str) -> Vec<String> {
        let methods: Vec<Method> = match self.methods.is_empty() {
            true => FitDirections::default().methods().to_vec(),
            false => self.methods.clone(),
        };
        let pattern = |method: Method| match method {
            Method::RandomDirection => format!("{method}_layer*"),
            _ => format!("{method}_{TRAIN_SET}_{position}_layer*"),
        };
        methods.into_iter().map(pattern).collect()
    }

    /// The method whose directions are taken away at commas: DAS if it is asked for.
    fn of_commas(&self) -> Method {
        match self.methods.is_empty() || self.methods.contains(&Method::Das) {
            true => Method::Das,
            false => self.methods[0],
        }
    }
}

impl Study for Reproduce {
    const NAME: &'static str = "reproduce";
    type Outcome = Reproduced;

    fn validate(&self) -> Result<()> {
        not_empty(&[("eval_sets", self.eval_sets.len()), ("metrics", self.metrics.len())])?;
        Ok(FitDirections { methods: self.methods.clone(), epochs: self.epochs, ..Default::default() }.validate()?)
    }

    /// The fits and the maps: what the suite costs is known when its directions are there.
    fn plan(&self, session: &Session) -> Result<Plan> {
        let steps = self.steps(session)?;
        let mut plan = steps.fits.plan(session)?;
        if let Some(maps) = steps.maps {
            let maps = maps.plan(session)?;
            plan.text += &maps.text;
            plan.notes.extend(maps.notes);
        }
        Ok(plan)
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Reproduced> {
        let Steps { fits, suite, maps, commas, left_out } = self.steps(session)?;
        for (set, reason) in &left_out {
            observer.note(&Note::Warning(format!("{set} is left out: {reason}")));
        }
        let mut page = Pages::new(session)?;
        page.manifests.extend(fits.run(session, observer)?.manifest);
        let mut best_layers = BTreeMap::new();
        if let Some(suite) = suite {
            page.manifests.extend(suite.run(session, observer)?.manifest);
            best_layers = suite.best_layers(session)?;
            let drawn = SuiteResults {}.run(session, observer)?.written;
            page.suite(&best_layers, drawn);
        }
        if let Some(maps) = maps {
            let made = maps.run(session, observer)?;
            page.maps(&self.map_set, &made.to_string(), made.maps.iter().map(|map| map.stem.clone()));
            page.manifests.extend(made.manifest);
        }
        if let Some(commas) = commas {
            let made = commas.run(session, observer)?;
            page.commas(&made.to_string(), made.tables.iter().map(|table| table.file.clone()));
            page.manifests.extend(made.manifest);
        }
        page.left_out(&left_out);
        let (page, manifests) = page.write()?;
        Ok(Reproduced { model: session.model().name.clone(), best_layers, left_out, page, manifests })
    }
}

/// The page, as it grows.
struct Pages<'a> {
    session: &'a Session,
    sections: Vec<Section>,
    manifests: Vec<RunRecord>,
}

impl<'a> Pages<'a> {
    fn new(session: &'a Session) -> Result<Self> {
        let (model, config) = (session.model(), session.config());
        let processing = processing_names(model.processing);
        let processing = if processing.is_empty() { "none".to_owned() } else { processing.join(", ") };
        let text = format!(
            "{} ({} layers, d_model {}, {} heads), weights {}, rewritten by: {processing}; computed in {}, seed {}, by \
             actpatch {}. Directions are fitted on {TRAIN_SET}. 100 % is the clean run, 0 % the corrupted one.",
            session.asked(),
            config.n_layers,
            config.d_model,
            config.n_heads,
            session.weights()?,
            session.options().dtype,
            session.seed(),
            env!("CARGO_PKG_VERSION"),
        );
        let made_of = Section { title: "What it was made of".into(), text, ..Section::default() };
        Ok(Self { session, sections: vec![made_of], manifests: Vec::new() })
    }

    fn figures(&self, stems: impl Iterator<Item = String>) -> Vec<PathBuf> {
        let folder = self.session.folder();
        stems.filter_map(|stem| Figure::paths(&folder, &stem).into_iter().next()).collect()
    }

    fn suite(&mut self, best_layers: &BTreeMap<Metric, Vec<Best>>, drawn: Vec<PathBuf>) {
        let folder = self.session.folder();
        let own = |path: &PathBuf| path.starts_with(&folder) && path.extension().is_some_and(|ending| ending == "svg");
        for (metric, bests) in best_layers {
            self.sections.push(Section {
                title: format!("Patching along directions: {metric}, percent at the best layer (layer)"),
                text: BEST_LAYER.into(),
                table: tables(bests),
                figures: Vec::new(),
            });
        }
        let figures = drawn.into_iter().filter(own).collect();
        self.sections.push(Section { title: "By layer and dataset".into(), figures, ..Section::default() });
    }

    fn maps(&mut self, set: &str, table: &str, stems: impl Iterator<Item = String>) {
        let figures = self.figures(stems);
        let title = format!("Heads, layers and positions on {set}");
        let text =
            "Every head, or every layer and position, patched on its own; the largest values of each map.".into();
        self.sections.push(Section { title, text, table: table.into(), figures });
    }

    fn commas(&mut self, table: &str, stems: impl Iterator<Item = String>) {
        let figures = self.figures(stems);
        let text = "The direction of every layer taken away in front of its block: at commas alone, and everywhere; \
                    two random directions beside it."
            .into();
        self.sections.push(Section { title: "The direction at commas".into(), text, table: table.into(), figures });
    }

    fn left_out(&mut self, sets: &[(String, String)]) {
        if !sets.is_empty() {
            let lines: Vec<String> = sets.iter().map(|(set, reason)| format!("- {set}: {reason}")).collect();
            let title = "Left out".to_owned();
            self.sections.push(Section { title, text: lines.join("\n"), ..Section::default() });
        }
    }

    fn write(self) -> Result<(String, Vec<RunRecord>)> {
        let path = self.session.folder().join("reproduce.md");
        write_page(&path, &self.session.model().name, &self.sections)?;
        Ok((path.display().to_string(), self.manifests))
    }
}
