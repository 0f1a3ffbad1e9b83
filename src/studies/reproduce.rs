//! What is asked of a new model, in one run: directions by every method, what they cause, the heads that matter, the
//! direction taken away at commas, and one page of it all.

use super::ablation::of_all_prompts;
use super::demo::best_layers;
use super::{Ablation, ActivationPatchingMaps, Attention, FitDirections, PatchingSuite, Plan, Study};
use crate::datasets::treebank::Scaffold;
use crate::datasets::{DatasetError, PairedPrompts};
use crate::directions::{DirectionName, Method, family};
use crate::engine::Metric;
use crate::experiments::ablation::Replacement;
use crate::report::figure::Figure;
use crate::report::results::{self, BEST_LAYER, Best, Named, ResultFile, best_layers_table};
use crate::report::{RunRecord, Section, write_page};
use crate::session::{Note, Observer, OfSetting, Session, processing_names};
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
    /// What the model cannot have, with the reason.
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

/// The datasets that are asked for, as far as the model can have them.
#[derive(Default)]
struct Available {
    eval_sets: Vec<String>,
    maps: bool,
    commas: bool,
    left_out: Vec<(String, String)>,
}

impl Available {
    /// The prompts of a dataset, unless it is the tokenizer that they cannot be made for.
    fn prompts(&mut self, session: &Session, setting: &'static str, set: &str) -> Result<Option<PairedPrompts>> {
        match session.prompts(set, Scaffold::Plain) {
            Ok(prompts) => Ok(Some(prompts)),
            Err(error) if error.chain().any(is_about_the_tokenizer) => {
                if self.left_out.iter().all(|(other, _)| other != set) {
                    self.left_out.push((set.to_owned(), error.to_string()));
                }
                Ok(None)
            }
            Err(error) => Err(error).of_setting(setting),
        }
    }
}

/// Is this why a dataset cannot be made for one tokenizer, while it can for others?
fn is_about_the_tokenizer(error: &(dyn std::error::Error + 'static)) -> bool {
    use DatasetError as E;
    matches!(
        error.downcast_ref(),
        Some(
            E::NoWords { .. }
                | E::TooFewAnswers { .. }
                | E::AnswerTokens { .. }
                | E::SameAnswer { .. }
                | E::UnequalLengths { .. }
                | E::TooLong { .. }
                | E::UnequalPositions { .. }
                | E::PositionInsideToken { .. }
        )
    )
}

impl Reproduce {
    fn available(&self, session: &Session) -> Result<Available> {
        self.validate()?;
        session.catalogue()?;
        let mut available = Available::default();
        for set in &self.eval_sets {
            if available.prompts(session, "eval_sets", set)?.is_some() {
                available.eval_sets.push(set.clone());
            }
        }
        available.maps = available.prompts(session, "map_set", &self.map_set)?.is_some();
        if let Some(prompts) = available.prompts(session, "comma_set", &self.comma_set)? {
            session.places("comma_set", &prompts, COMMA)?;
            available.commas = true;
        }
        Ok(available)
    }

    fn fits(&self, available: &Available) -> FitDirections {
        FitDirections {
            methods: self.methods.clone(),
            train_sets: vec![TRAIN_SET.into()],
            layers: self.layers.clone(),
            epochs: self.epochs,
            test_sets: available.eval_sets.first().cloned().into_iter().collect(),
            ..FitDirections::default()
        }
    }

    /// Patching along what was fitted.
    fn suite(&self, available: &Available, fitted: &[DirectionName]) -> Option<PatchingSuite> {
        let wanted = !available.eval_sets.is_empty() && !fitted.is_empty();
        wanted.then(|| PatchingSuite {
            directions: fitted.iter().map(DirectionName::to_string).collect(),
            eval_sets: available.eval_sets.clone(),
            metrics: self.metrics.clone(),
            positions: vec!["auto".into(), "ALL".into()],
            ..PatchingSuite::default()
        })
    }

    fn maps(&self, available: &Available) -> Option<ActivationPatchingMaps> {
        available.maps.then(|| ActivationPatchingMaps { sets: sets(&self.map_set), ..Default::default() })
    }

    /// The direction of DAS, or of the first method without it, taken away at commas and everywhere.
    fn commas(&self, available: &Available, fitted: &[DirectionName]) -> Option<Ablation> {
        let with = |wanted: fn(Method) -> bool| fitted.iter().find(|name| name.method().is_some_and(wanted));
        let first =
            with(|method| method == Method::Das).or_else(|| with(|method| method != Method::RandomDirection))?;
        let layers = fitted.iter().filter(|name| family(name) == family(first)).map(|name| name.layer().to_string());
        available.commas.then(|| Ablation {
            sets: sets(&self.comma_set),
            directions: vec![family(first)],
            layers: layers.collect(),
            random: 2,
            methods: vec![Replacement::Zero, Replacement::MeanOverPlaces],
            positions: vec![COMMA.into(), "ALL".into()],
            attention: vec![Attention::Live, Attention::Frozen],
            ..Ablation::default()
        })
    }
}

/// Every comma.
const COMMA: &str = "COMMA";

fn sets(set: &str) -> MapSets {
    MapSets { eval_sets: vec![set.to_owned()], ..MapSets::default() }
}

/// That a dataset is left out, and why.
fn note_left_out(available: &Available) -> impl Iterator<Item = Note> {
    available.left_out.iter().map(|(set, reason)| Note::Warning(format!("{set} is left out: {reason}")))
}

impl Study for Reproduce {
    const NAME: &'static str = "reproduce";
    type Outcome = Reproduced;

    fn validate(&self) -> Result<()> {
        not_empty(&[("eval_sets", self.eval_sets.len()), ("metrics", self.metrics.len())])?;
        self.fits(&Available::default()).validate()
    }

    /// The fits and the maps: what the rest costs is known when its directions are there.
    fn plan(&self, session: &Session) -> Result<Plan> {
        let available = self.available(session)?;
        let mut plan = self.fits(&available).plan(session)?;
        plan.notes.extend(note_left_out(&available));
        if let Some(maps) = self.maps(&available) {
            let maps = maps.plan(session)?;
            plan.text += &maps.text;
            plan.notes.extend(maps.notes);
            plan.operations = plan.operations.zip(maps.operations).map(|(fits, maps)| fits + maps);
            plan.memory_bytes = plan.memory_bytes.max(maps.memory_bytes);
        }
        plan.text += "patching along the directions, and the ablation at commas, come on top\n";
        Ok(plan)
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Reproduced> {
        let available = self.available(session)?;
        note_left_out(&available).for_each(|note| observer.note(&note));
        let mut page = Page::new(self, session)?;
        let fits = self.fits(&available).run(session, observer)?;
        page.manifests.extend(fits.manifest);
        let fitted = fits.directions.iter().filter(|fitted| fitted.skipped.is_none());
        let fitted = fitted.map(|fitted| Ok(fitted.name.parse()?)).collect::<Result<Vec<DirectionName>>>()?;
        let mut bests = BTreeMap::new();
        if let Some(suite) = self.suite(&available, &fitted) {
            page.manifests.extend(suite.run(session, observer)?.manifest);
            let mut files = suite.results(session)?;
            files.iter_mut().for_each(|file| file.cells.retain(|cell| fitted.contains(&cell.direction)));
            bests = best_layers(&files);
            page.suite(&bests, &files)?;
        }
        if let Some(maps) = self.maps(&available) {
            let made = maps.run(session, observer)?;
            page.maps(&self.map_set, &made.to_string(), made.maps.iter().map(|map| map.stem.as_str()));
            page.manifests.extend(made.manifest);
        }
        if let Some(commas) = self.commas(&available, &fitted) {
            let mut made = commas.run(session, observer)?;
            // Those of either class are in the table's file.
            made.tables.iter_mut().for_each(|table| table.rows.retain(of_all_prompts));
            page.commas(&made.to_string(), made.tables.iter().map(|table| table.file.as_str()));
            page.manifests.extend(made.manifest);
        }
        page.left_out(&available.left_out);
        let (page, manifests) = page.write()?;
        let model = session.model().name.clone();
        Ok(Reproduced { model, best_layers: bests, left_out: available.left_out, page, manifests })
    }
}

/// The page, as it grows.
struct Page<'a> {
    session: &'a Session,
    sections: Vec<Section>,
    manifests: Vec<RunRecord>,
}

impl<'a> Page<'a> {
    fn new(study: &Reproduce, session: &'a Session) -> Result<Self> {
        let (model, config, options) = (session.model(), session.config(), session.options());
        let named = |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let text = format!(
            "{} ({} layers, d_model {}, {} heads), weights {}; rewrites of the weights: {}; BOS {}; computed in {}, seed \
             {}, compat: {}, by actpatch {}. Settings: `{}`. Directions are fitted on {TRAIN_SET}. 0 % is the corrupted \
             run and 100 % the clean one (noising: 0 % the clean run and -100 % the corrupted one).",
            session.asked(),
            config.n_layers,
            config.d_model,
            config.n_heads,
            session.weights()?,
            named(processing_names(model.processing)),
            options.bos,
            options.dtype,
            session.seed(),
            named(options.compat.iter().map(ToString::to_string).collect()),
            env!("CARGO_PKG_VERSION"),
            serde_json::to_string(study)?,
        );
        let made_of = Section { title: "What it was made of".into(), text, ..Section::default() };
        Ok(Self { session, sections: vec![made_of], manifests: Vec::new() })
    }

    fn suite(&mut self, bests: &BTreeMap<Metric, Vec<Best>>, files: &[ResultFile]) -> Result<()> {
        for (metric, bests) in bests {
            self.sections.push(Section {
                title: format!("Patching along directions: {metric}, percent at the best layer (layer)"),
                text: BEST_LAYER.into(),
                table: tables(bests),
                figures: Vec::new(),
            });
        }
        let folder = self.session.folder().join("figures");
        let mut drawn = Vec::new();
        for Named { stem, figure } in results::layers(files).into_iter().chain(results::cross_dataset(files)) {
            drawn.extend(figure.write_beside_data(&folder, &stem)?.into_iter().next());
        }
        self.sections.push(Section { title: "By layer and dataset".into(), figures: drawn, ..Section::default() });
        Ok(())
    }

    fn maps<'b>(&mut self, set: &str, table: &str, stems: impl Iterator<Item = &'b str>) {
        let figures = self.figures(stems);
        let title = format!("Heads, layers and positions on {set}");
        let text =
            "Every head, or every layer and position, patched on its own; the largest values of each map.".into();
        self.sections.push(Section { title, text, table: table.into(), figures });
    }

    fn commas<'b>(&mut self, table: &str, stems: impl Iterator<Item = &'b str>) {
        let figures = self.figures(stems);
        let text = "The direction of every layer taken away in front of its block: at commas alone, and everywhere; \
                    two random directions beside it."
            .into();
        self.sections.push(Section { title: "The direction at commas".into(), text, table: table.into(), figures });
    }

    fn figures<'b>(&self, stems: impl Iterator<Item = &'b str>) -> Vec<PathBuf> {
        let folder = self.session.folder();
        stems.filter_map(|stem| Figure::paths(&folder, stem).into_iter().next()).collect()
    }

    fn left_out(&mut self, sets: &[(String, String)]) {
        if !sets.is_empty() {
            let lines: Vec<String> = sets.iter().map(|(set, reason)| format!("- {set}: {reason}")).collect();
            let title = "Left out".to_owned();
            self.sections.push(Section { title, text: lines.join("\n"), ..Section::default() });
        }
    }

    fn write(self) -> Result<(String, Vec<RunRecord>)> {
        let path = self.session.folder().join(format!("reproduce{}.md", self.session.options().compat_ending()));
        write_page(&path, &self.session.model().name, &self.sections)?;
        Ok((path.display().to_string(), self.manifests))
    }
}
