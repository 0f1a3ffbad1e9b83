//! Every study that runs on a session, by name.

use super::*;
use crate::choice::{nearest, suggestion};
use crate::session::Fault;
use serde_json::{Map, Value};

/// What came of a study, for those who do not know which one it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// For people.
    pub text: String,
    /// For programs.
    pub json: Value,
    /// What failed of that which was checked, if anything did.
    pub failed: Option<String>,
}

/// Makes the enumeration of all studies.
macro_rules! registry {
    ($($study:ident),+ $(,)?) => {
        /// A study of any kind.
        #[derive(Debug, Clone, PartialEq)]
        pub enum AnyStudy {
            $(
                #[doc = concat!("See [`", stringify!($study), "`].")]
                $study(Box<$study>),
            )+
        }

        impl AnyStudy {
            /// The names of all studies.
            pub const NAMES: &'static [&'static str] = &[$(<$study as Study>::NAME),+];

            /// The study of a name with these settings.
            ///
            /// # Errors
            /// A [`Fault`] that names the study or the setting.
            pub fn new(name: &str, settings: Map<String, Value>) -> Result<Self> {
                $(
                    if name == <$study as Study>::NAME {
                        let study: $study = from_settings(settings)?;
                        study.validate()?;
                        return Ok(Self::$study(Box::new(study)));
                    }
                )+
                let known = Self::NAMES.join(", ");
                let meant = suggestion(nearest(name, Self::NAMES));
                Err(Fault::new(format!("expected a study, found {name:?}; there are {known}{meant}")).into())
            }

            /// The settings of a study by name, with their defaults.
            ///
            /// # Errors
            /// As [`AnyStudy::new`].
            pub fn settings(name: &str) -> Result<Map<String, Value>> {
                $(
                    if name == <$study as Study>::NAME {
                        return Ok(fields::fields_of::<$study>()?);
                    }
                )+
                Self::new(name, Map::new()).map(|_| Map::new())
            }

            /// As [`Study::plan`].
            ///
            /// # Errors
            /// Those of the study.
            pub fn plan(&self, session: &Session) -> Result<Plan> {
                match self {
                    $(Self::$study(study) => study.plan(session),)+
                }
            }

            /// As [`Study::run`].
            ///
            /// # Errors
            /// Those of the study.
            pub fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Report> {
                match self {
                    $(Self::$study(study) => {
                        let outcome = study.run(session, observer)?;
                        let (text, json) = (outcome.to_string(), serde_json::to_value(&outcome)?);
                        Ok(Report { text, json, failed: <$study as Study>::failed(&outcome) })
                    })+
                }
            }
        }
    };
}

registry! {
    Ablation,
    AblationMaps,
    ActivationPatchingMaps,
    AttentionMaps,
    AttributionPatching,
    Benchmark,
    Ccs,
    Demo,
    Faithfulness,
    FitDirections,
    HeadCosines,
    LogitAttribution,
    LogitLens,
    Negation,
    NeuronCosines,
    Neuroscope,
    PatchingSuite,
    PathPatching,
    Probing,
    RandomDirections,
    Reproduce,
    SelfCheck,
    Steering,
    SuiteResults,
    TextLoss,
    TreebankDataGen,
    Verify,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_study_reads_its_own_defaults() {
        for name in AnyStudy::NAMES {
            let defaults = AnyStudy::settings(name).unwrap();
            // A study may need more than its defaults, but never less.
            if let Ok(study) = AnyStudy::new(name, Map::new()) {
                assert_eq!(AnyStudy::new(name, defaults).unwrap(), study, "{name}");
            }
        }
        let slip = AnyStudy::new("fit_directions", Map::new()).unwrap_err().to_string();
        assert!(slip.ends_with("; did you mean \"fit-directions\"?"), "{slip}");
        let unknown = AnyStudy::new("paths", Map::new()).unwrap_err().to_string();
        assert!(
            unknown.starts_with("expected a study, found \"paths\"") && unknown.contains("path-patching"),
            "{unknown}"
        );
    }
}
