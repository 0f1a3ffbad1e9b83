//! Whole analyses from one file: a model, groups of nodes for each model it knows, and steps, which are studies.

use super::fields::fields_of;
use super::registry::AnyStudy;
use crate::files::read_text;
use crate::session::{Fault, Session, SessionOptions, wrong};
use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An analysis.
///
/// A step is a study and its settings, the session's among them; a value that begins with `$` is a group of the model.
#[derive(Debug, Clone)]
pub struct Circuit {
    path: PathBuf,
    file: CircuitFile,
}

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CircuitFile {
    model: String,
    /// By model: names of groups, and what they stand for.
    #[serde(default)]
    groups: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    steps: Vec<toml::Table>,
}

/// A step of an analysis, ready to be run.
#[derive(Debug, Clone)]
pub struct Step {
    /// The name of the study.
    pub name: String,
    /// What the file says of it.
    pub settings: Vec<(String, Value)>,
    /// What it says, and the caller, of the session.
    options: Map<String, Value>,
    study: AnyStudy,
}

/// What a caller asks of an analysis as a whole: whether its steps are run, and how it is shown.
const OF_THE_WHOLE: [&str; 2] = ["dry_run", "json"];

impl Circuit {
    /// Reads the file of an analysis.
    ///
    /// # Errors
    /// A file that cannot be read, or is none of an analysis.
    pub fn read(path: &Path) -> Result<Self> {
        let named = || path.display().to_string();
        let text = read_text(path).with_context(named)?;
        let file = toml::from_str(&text).with_context(named)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// The model that the file names.
    pub fn model(&self) -> &str {
        &self.file.model
    }

    /// The steps for a model, with further settings for every one of them.
    ///
    /// # Errors
    /// A step that is no study, or has a setting that its study cannot have: none is run then.
    pub fn steps(&self, model: &str, further: &[(String, Value)]) -> Result<Vec<Step>> {
        let step = |(number, step): (usize, &toml::Table)| {
            let context = || format!("{}: step {}", self.path.display(), number + 1);
            self.step(step, model, further).with_context(context)
        };
        self.file.steps.iter().enumerate().map(step).collect()
    }

    fn step(&self, step: &toml::Table, model: &str, further: &[(String, Value)]) -> Result<Step> {
        let Some(toml::Value::String(name)) = step.get("command") else {
            return Err(Fault::new("command: expected the name of a study, such as path-patching").into());
        };
        let own = step.iter().filter(|(setting, _)| *setting != "command");
        let settings = own
            .map(|(setting, value)| Ok((setting.replace('-', "_"), self.value(model, value).context(setting.clone())?)))
            .collect::<Result<Vec<_>>>()?;
        if let Some((setting, _)) = settings.iter().find(|(setting, _)| OF_THE_WHOLE.contains(&setting.as_str())) {
            wrong!(setting, "it is asked of the whole analysis, not of a step");
        }
        let of_session = fields_of::<SessionOptions>()?;
        let all = settings.iter().chain(further).cloned();
        let (options, of_study): (Map<_, _>, Map<_, _>) =
            all.partition(|(setting, _)| of_session.contains_key(setting));
        super::from_settings::<SessionOptions>(options.clone())?;
        Ok(Step { name: name.clone(), study: AnyStudy::new(name, of_study)?, settings, options })
    }

    /// A value of a step, with what its groups stand for.
    fn value(&self, model: &str, value: &toml::Value) -> Result<Value> {
        match value {
            toml::Value::String(text) => match text.strip_prefix('$') {
                Some(group) => Ok(self.group(model, group)?.join(",").into()),
                None => Ok(text.clone().into()),
            },
            toml::Value::Integer(number) => Ok((*number).into()),
            toml::Value::Float(number) => Ok((*number).into()),
            toml::Value::Boolean(value) => Ok((*value).into()),
            toml::Value::Array(values) => {
                values.iter().map(|value| self.value(model, value)).collect::<Result<Vec<_>>>().map(Value::from)
            }
            other => {
                let expected = "expected text, a number, true, false or a list of them";
                Err(Fault::new(format!("{expected}, found {other}")).into())
            }
        }
    }

    fn group(&self, model: &str, group: &str) -> Result<&[String]> {
        // Groups are for an architecture: random weights of it have the same nodes.
        let name = Path::new(model).file_name().and_then(|name| name.to_str()).unwrap_or(model);
        let name = name.strip_prefix("random:").unwrap_or(name);
        let groups = self.file.groups.get(name).ok_or_else(|| {
            let known = Vec::from_iter(self.file.groups.keys().map(String::as_str)).join(", ");
            let missing = format!("[groups.{name}] is missing: ${group} has to be named for {name}");
            Fault::new(format!("{missing} (the file knows {known})"))
        })?;
        let found = groups.get(group).map(Vec::as_slice);
        Ok(found.ok_or_else(|| Fault::new(format!("[groups.{name}]: {group} is missing")))?)
    }
}

impl Step {
    /// The session that the step runs in: the given one, unless the step has settings of its own for it.
    ///
    /// # Errors
    /// A setting that a session cannot have.
    pub fn session(&self, session: &Session) -> Result<Session> {
        let mut options = match serde_json::to_value(session.options())? {
            Value::Object(options) => options,
            _ => Map::new(),
        };
        options.extend(self.options.clone());
        let arguments = session.options().arguments.clone();
        let options: SessionOptions = super::from_settings(options)?;
        session.with(|own| *own = SessionOptions { arguments, ..options })
    }

    /// The study.
    pub fn study(&self) -> &AnyStudy {
        &self.study
    }
}

/// The options of a session among settings, and what is left of those.
///
/// # Errors
/// A setting that a session cannot have.
pub fn session_options(settings: Vec<(String, Value)>) -> Result<(SessionOptions, Vec<(String, Value)>)> {
    let of_session = fields_of::<SessionOptions>()?;
    let (options, others): (Vec<_>, Vec<_>) =
        settings.into_iter().partition(|(setting, _)| of_session.contains_key(setting));
    Ok((super::from_settings(options.into_iter().collect())?, others))
}
