//! What is wrong with what was asked for, and what would mend it, in terms that every front end can spell in its own way.

use std::error::Error;
use std::fmt;

/// A request that cannot be met: the setting that asks for it, what is wrong, and what would mend it.
///
/// Displayed, it names settings as the fields of specifications; the command line names its options instead.
#[derive(Debug, Default)]
pub struct Fault {
    /// The field of a specification, or of [`super::SessionOptions`], that cannot be honoured.
    pub setting: Option<String>,
    /// What is wrong, with what was expected and what was found.
    pub message: String,
    /// What would mend it; any one of them does.
    pub mends: Vec<Mend>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// A way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mend {
    /// This setting with this value; an empty value switches it on.
    Set(&'static str, String),
    /// Another value of this setting.
    Another(&'static str),
    /// A study with these settings, first.
    Study(&'static str, Vec<(&'static str, String)>),
}

impl Fault {
    /// Something that is wrong with no one setting.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    /// Something that is wrong with a setting.
    pub fn of(setting: impl Into<String>, message: impl Into<String>) -> Self {
        Self { setting: Some(setting.into()), ..Self::new(message) }
    }

    /// The same with a way out.
    pub fn mended_by(mut self, mend: Mend) -> Self {
        self.mends.push(mend);
        self
    }

    /// The same without its causes, to be told once more.
    pub(crate) fn repeated(&self) -> Self {
        let Self { setting, message, mends, .. } = self;
        Self { setting: setting.clone(), message: message.clone(), mends: mends.clone(), source: None }
    }

    /// Its text, with names of settings and ways out as `spell` has them.
    pub fn text(&self, spell: &dyn Spelling) -> String {
        let setting = self.setting.as_ref().map_or(String::new(), |setting| spell.setting(setting) + ": ");
        let offered = self.mends.iter().filter(|mend| mend.setting().is_none_or(|setting| spell.offers(setting)));
        let mends: Vec<String> = offered.map(|mend| mend.text(spell)).collect();
        let end = if mends.is_empty() { String::new() } else { format!("; {}", mends.join(", or ")) };
        format!("{setting}{}{end}", self.message)
    }
}

impl Mend {
    /// The setting that it is about.
    fn setting(&self) -> Option<&'static str> {
        match self {
            Mend::Set(setting, _) | Mend::Another(setting) => Some(setting),
            Mend::Study(..) => None,
        }
    }

    fn text(&self, spell: &dyn Spelling) -> String {
        match self {
            Mend::Set(setting, value) => format!("use {}", spell.value(setting, value)),
            Mend::Another(setting) => format!("use another {}", spell.setting(setting)),
            Mend::Study(name, settings) => {
                let settings: Vec<String> = settings.iter().map(|(name, value)| spell.value(name, value)).collect();
                spell.study(name, &settings)
            }
        }
    }
}

/// How a front end writes settings and studies.
pub trait Spelling {
    /// Can what is being done be given this setting? Only then it is a way out.
    fn offers(&self, name: &str) -> bool {
        let _ = name;
        true
    }

    /// A setting.
    fn setting(&self, name: &str) -> String {
        name.to_owned()
    }

    /// A setting with its value; an empty value switches it on.
    fn value(&self, name: &str, value: &str) -> String {
        let value = if value.is_empty() { "true" } else { value };
        format!("{name} = {value}")
    }

    /// A study that is to be run first, with its settings.
    fn study(&self, name: &str, settings: &[String]) -> String {
        let settings = if settings.is_empty() { String::new() } else { format!(" with {}", settings.join(", ")) };
        format!("run {name}{settings} first")
    }
}

/// Settings as the fields of specifications.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fields;

impl Spelling for Fields {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(&Fields))
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().and_then(Error::source)
    }
}

/// The text of an error with all its causes. Errors may repeat their cause at the end of their own message: each
/// sentence is there once.
pub fn text_of(error: &anyhow::Error, spell: &dyn Spelling) -> String {
    let mut message = String::new();
    for cause in error.chain() {
        let text = match cause.downcast_ref::<Fault>() {
            Some(fault) => fault.text(spell),
            None => cause.to_string(),
        };
        if !message.contains(&text) {
            message = if message.is_empty() { text } else { format!("{message}: {text}") };
        }
    }
    message
}

/// Says which setting an error comes from.
pub trait OfSetting<T> {
    /// The same error as one of `setting`, unless it is one of a setting already.
    fn of_setting(self, setting: &str) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OfSetting<T> for Result<T, E> {
    fn of_setting(self, setting: &str) -> anyhow::Result<T> {
        self.map_err(|error| {
            let source: anyhow::Error = error.into();
            if source.downcast_ref::<Fault>().is_some_and(|fault| fault.setting.is_some()) {
                return source;
            }
            let (message, mends) = match source.downcast_ref::<Fault>() {
                Some(fault) => (fault.message.clone(), fault.mends.clone()),
                None => (source.to_string(), Vec::new()),
            };
            Fault { setting: Some(setting.to_owned()), message, mends, source: Some(source.into()) }.into()
        })
    }
}

/// Returns a [`Fault`] of a setting from a function whose error it can become.
macro_rules! wrong {
    ($setting:expr, $($message:tt)+) => {
        return Err($crate::session::Fault::of($setting, format!($($message)+)).into())
    };
}
pub(crate) use wrong;

#[cfg(test)]
mod tests {
    use super::*;

    struct Flags;

    impl Spelling for Flags {
        fn setting(&self, name: &str) -> String {
            format!("--{name}")
        }

        fn value(&self, name: &str, value: &str) -> String {
            format!("--{name} {value}").trim_end().to_owned()
        }

        fn offers(&self, name: &str) -> bool {
            name != "models"
        }
    }

    #[test]
    fn faults_speak_of_fields_and_front_ends_of_their_own() {
        let fault = Fault::of("positions", "expected ADJ, found X")
            .mended_by(Mend::Set("overwrite", String::new()))
            .mended_by(Mend::Another("data_dir"));
        let elsewhere = Fault::new("another model's").mended_by(Mend::Another("models"));
        assert_eq!(elsewhere.text(&Fields), "another model's; use another models");
        assert_eq!(elsewhere.text(&Flags), "another model's", "what cannot be given is no way out");
        let text = "positions: expected ADJ, found X; use overwrite = true, or use another data_dir";
        assert_eq!(fault.to_string(), text);
        let flags = "--positions: expected ADJ, found X; use --overwrite, or use another --data_dir";
        assert_eq!(fault.text(&Flags), flags);
        let first = Fault::new("none fitted").mended_by(Mend::Study("fit-directions", vec![("layers", "3".into())]));
        assert_eq!(first.to_string(), "none fitted; run fit-directions with layers = 3 first");
    }

    #[test]
    fn an_error_of_a_setting_keeps_its_causes() {
        let inner: Result<(), _> = Err(std::io::Error::other("no disk"));
        let error = inner.of_setting("along").unwrap_err();
        assert_eq!(error.to_string(), "along: no disk");
        let named: anyhow::Result<()> = Err(Fault::new("none").mended_by(Mend::Another("along")).into());
        assert_eq!(named.of_setting("along").unwrap_err().to_string(), "along: none; use another along");
        let caused: anyhow::Result<()> = Err(anyhow::anyhow!("cause").context("effect"));
        let own: anyhow::Result<()> = Err(Fault::of("scaffold", "none").into());
        assert_eq!(own.of_setting("eval_sets").unwrap_err().to_string(), "scaffold: none");
        assert_eq!(text_of(&caused.of_setting("x").unwrap_err(), &Fields), "x: effect: cause");
        let repeated = anyhow::anyhow!("no disk").context("file: no disk");
        assert_eq!(text_of(&repeated, &Fields), "file: no disk");
    }
}
