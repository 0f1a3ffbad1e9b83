//! Choices: enumerations whose variants go by one name each, everywhere.
//!
//! A call of `choices!` holds a variant's documentation and its name once. Everything else that names the variants is
//! made of it: files, command lines, help texts, messages.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::str::FromStr;

/// An enumeration of which every variant has a name: in files, on command lines, when it is displayed, parsed or
/// serialised.
pub trait Choice:
    Copy + Eq + Display + FromStr<Err = UnknownName> + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// All of them, in the order of the enumeration.
    const ALL: &'static [Self];

    /// Its name.
    fn name(self) -> &'static str;

    /// Other names that are understood, and never written.
    fn aliases(self) -> &'static [&'static str];

    /// What it is: the first paragraph of its documentation, on one line.
    fn about(self) -> String;

    /// The one that goes by a name or an alias.
    fn named(name: &str) -> Result<Self, UnknownName> {
        let matches = |choice: &Self| choice.name() == name || choice.aliases().contains(&name);
        Self::ALL.iter().copied().find(matches).ok_or_else(|| {
            let expected: Vec<&'static str> = Self::ALL.iter().map(|choice| choice.name()).collect();
            UnknownName { nearest: nearest(name, &expected), expected, found: name.to_owned() }
        })
    }
}

/// A text that is not what it is read as; with what was expected, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

impl From<String> for Malformed {
    fn from(message: String) -> Self {
        Self(message)
    }
}

/// A name that none of a list has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {}, found {found:?}{}", expected.join(", "), suggestion(*nearest))]
pub struct UnknownName {
    /// The names there are.
    pub expected: Vec<&'static str>,
    /// What was there instead.
    pub found: String,
    /// The name that was probably meant.
    pub nearest: Option<&'static str>,
}

pub(crate) fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
}

/// The name most like `found`, if any is alike enough for a slip of the hand.
pub(crate) fn nearest(found: &str, names: &[&'static str]) -> Option<&'static str> {
    nearest_of(found, names.iter().copied()).into_iter().next()
}

/// The three names most like `found`, the most alike first, of those that are alike enough.
pub(crate) fn nearest_of<'a>(found: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    /// From here on the command line's parser suggests names too.
    const ALIKE: f64 = 0.7;
    let found = found.to_lowercase();
    let alike = names.into_iter().map(|name| (strsim::jaro(&found, name), name));
    let mut alike: Vec<_> = alike.filter(|(share, _)| *share > ALIKE).collect();
    alike.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    alike.into_iter().rev().take(3).map(|(_, name)| name).collect()
}

/// The first paragraph of a documentation's lines, on one line.
pub(crate) fn first_paragraph(lines: &[&str]) -> String {
    let lines = lines.iter().map(|line| line.trim());
    lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Makes an enumeration a [`Choice`], with `ALL` and `name` of its own:
///
/// ```text
/// choices! {
///     /// What takes a value's place.
///     pub enum Substitute {
///         /// Nothing at all.
///         Zero = "zero",
///         /// The mean over all prompts.
///         Mean = "mean" | "average",
///     }
/// }
/// ```
macro_rules! choices {
    (
        $(#[doc = $doc:literal])+
        $visibility:vis enum $choice:ident {
            $($(#[doc = $about:literal])+ $variant:ident = $name:literal $(| $alias:literal)*),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $visibility enum $choice {
            $($(#[doc = $about])+ $variant,)+
        }

        impl $choice {
            /// All of them, in the order of the enumeration.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// The name in files and on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }

        impl $crate::choice::Choice for $choice {
            const ALL: &'static [Self] = &Self::ALL;

            fn name(self) -> &'static str {
                self.name()
            }

            fn aliases(self) -> &'static [&'static str] {
                match self {
                    $(Self::$variant => &[$($alias),*],)+
                }
            }

            fn about(self) -> String {
                let lines: &[&str] = match self {
                    $(Self::$variant => &[$($about),+],)+
                };
                $crate::choice::first_paragraph(lines)
            }
        }

        impl std::fmt::Display for $choice {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.pad(self.name())
            }
        }

        impl std::str::FromStr for $choice {
            type Err = $crate::choice::UnknownName;

            fn from_str(name: &str) -> std::result::Result<Self, Self::Err> {
                $crate::choice::Choice::named(name)
            }
        }

        $crate::choice::serde_by_text!($choice);
    };
}
pub(crate) use choices;

/// Serialises a type as the text that it displays, and parses that text to read it back.
macro_rules! serde_by_text {
    ($kind:ty) => {
        impl serde::Serialize for $kind {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $kind {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_by_text;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    choices! {
        /// What takes a value's place.
        enum Substitute {
            /// Nothing at all.
            Zero = "zero",
            /// The mean over
            /// all prompts.
            ///
            /// A second paragraph.
            OverPrompts = "over_prompts" | "mean" | "average",
        }
    }

    #[test]
    fn one_name_serves_everywhere() {
        assert_eq!(Substitute::ALL, [Substitute::Zero, Substitute::OverPrompts]);
        let mean = Substitute::OverPrompts;
        assert_eq!((mean.name(), mean.to_string().as_str()), ("over_prompts", "over_prompts"));
        assert_eq!(format!("{mean:>14}|"), "  over_prompts|");
        assert_eq!(serde_json::to_string(&mean).unwrap(), "\"over_prompts\"");
        for name in ["over_prompts", "mean", "average"] {
            assert_eq!(name.parse::<Substitute>().unwrap(), mean);
            assert_eq!(serde_json::from_value::<Substitute>(name.into()).unwrap(), mean);
        }
        let by_choice = BTreeMap::from([(Substitute::Zero, 1)]);
        assert_eq!(serde_json::to_string(&by_choice).unwrap(), r#"{"zero":1}"#);
        assert_eq!(serde_json::from_str::<BTreeMap<Substitute, i32>>(r#"{"zero":1}"#).unwrap(), by_choice);
    }

    #[test]
    fn help_is_the_first_paragraph() {
        assert_eq!(Substitute::Zero.about(), "Nothing at all.");
        assert_eq!(Substitute::OverPrompts.about(), "The mean over all prompts.");
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones_and_the_nearest() {
        let message = |name: &str| name.parse::<Substitute>().unwrap_err().to_string();
        let known = "expected one of zero, over_prompts, found";
        assert_eq!(message("Zeros"), format!("{known} \"Zeros\"; did you mean \"zero\"?"));
        assert_eq!(message("over-prompts"), format!("{known} \"over-prompts\"; did you mean \"over_prompts\"?"));
        assert_eq!(message(""), format!("{known} \"\""));
        assert_eq!(message("quantile"), format!("{known} \"quantile\""));
        let error = serde_json::from_str::<Substitute>("\"Zeros\"").unwrap_err().to_string();
        assert!(error.starts_with(&message("Zeros")), "{error}");
        assert!(serde_json::from_str::<Substitute>("3").unwrap_err().to_string().contains("expected a string"));
    }
}
