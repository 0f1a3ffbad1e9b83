//! Names of direction files: `<method>_<dataset>_<POSITION>_layer<l>`, `random_direction_layer<ll>`, and `<any name>_layer<l>`
//! of a direction that was found elsewhere.

use super::{DirectionError, FoundBy, Method};
use regex::Regex;
use std::fmt;
use std::str::FromStr;

/// Longest name without its layer, in bytes: it is a part of file names.
const LONGEST_NAME: usize = 150;

/// What a direction is, as its file name tells. Ordered by method, dataset, position and layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectionName {
    found_by: FoundBy,
    /// Dataset and placeholder of the fit.
    source: Option<(String, String)>,
    layer: usize,
}

impl DirectionName {
    /// A direction fitted on `dataset` at the placeholder `position` (`ADJ`, `ALL`, …), at `layer`: 0 to `n_layers`.
    ///
    /// # Errors
    /// [`DirectionError::Name`] when a part cannot stand in a file name: datasets are made of letters, digits, `_`, `-`
    /// and `.`, positions of letters and digits.
    pub fn fitted(method: Method, dataset: &str, position: &str, layer: usize) -> Result<Self, DirectionError> {
        let source = Some((dataset.to_owned(), position.to_owned()));
        Self { found_by: FoundBy::Method(method), source, layer }.checked()
    }

    /// The random direction of `layer`.
    pub fn random(layer: usize) -> Self {
        Self { found_by: FoundBy::Method(Method::RandomDirection), source: None, layer }
    }

    /// How it was found.
    pub fn found_by(&self) -> &FoundBy {
        &self.found_by
    }

    /// The method that found it, if it is one of ours.
    pub fn method(&self) -> Option<Method> {
        self.found_by.method()
    }

    /// Dimensions of the subspace; none where they may be any.
    pub fn dimensions(&self) -> Option<usize> {
        self.method().map(Method::dimensions)
    }

    /// The dataset it was fitted on.
    pub fn dataset(&self) -> Option<&str> {
        self.source.as_ref().map(|(dataset, _)| dataset.as_str())
    }

    /// The placeholder at whose last token it was fitted; `ALL` for any token.
    pub fn position(&self) -> Option<&str> {
        self.source.as_ref().map(|(_, position)| position.as_str())
    }

    /// `l < n_layers`: `blocks.{l}.hook_resid_pre`; `n_layers`: the last block's `hook_resid_post`.
    pub fn layer(&self) -> usize {
        self.layer
    }

    fn checked(self) -> Result<Self, DirectionError> {
        let fault = |field, expected: &str| {
            Err(DirectionError::Name { name: self.to_string(), field, expected: expected.to_owned() })
        };
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
        if let FoundBy::Elsewhere(name) = &self.found_by
            && (name.is_empty() || name.starts_with('.') || !name.chars().all(plain))
        {
            return fault("name", "letters, digits, `_`, `-` and `.`, which does not come first");
        }
        if family(&self).len() > LONGEST_NAME {
            return fault("name", &format!("at most {LONGEST_NAME} letters in front of the layer"));
        }
        let Some((dataset, position)) = &self.source else { return Ok(self) };
        if self.method() == Some(Method::RandomDirection) {
            return fault("dataset", "none for a random direction");
        }
        if dataset.is_empty() || dataset.starts_with('.') || !dataset.chars().all(plain) {
            return fault("dataset", "letters, digits, `_`, `-` and `.`");
        }
        if position.is_empty() || !position.chars().all(|letter| letter.is_ascii_alphanumeric()) {
            return fault("position", "letters and digits");
        }
        Ok(self)
    }
}

impl fmt::Display for DirectionName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (found_by, layer) = (&self.found_by, self.layer);
        let text = match &self.source {
            Some((dataset, position)) => format!("{found_by}_{dataset}_{position}_layer{layer}"),
            None if self.method() == Some(Method::RandomDirection) => format!("{found_by}_layer{layer:02}"),
            None => format!("{found_by}_layer{layer}"),
        };
        formatter.pad(&text)
    }
}

impl FromStr for DirectionName {
    type Err = DirectionError;

    /// Takes a file name with or without `.npy`. What is not named after a method and a dataset is a direction that was
    /// found elsewhere.
    fn from_str(text: &str) -> Result<Self, DirectionError> {
        let fault =
            |field, expected: &str| DirectionError::Name { name: text.into(), field, expected: expected.into() };
        let stem = text.strip_suffix(".npy").unwrap_or(text);
        let (rest, layer) =
            stem.rsplit_once("_layer").ok_or_else(|| fault("layer", "an ending `_layer` and a number"))?;
        if layer.is_empty() || !layer.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(fault("layer", "a number after `_layer`"));
        }
        let layer = layer.parse().map_err(|_| fault("layer", "a number that fits in 64 bits"))?;
        let fitted = of_method(rest, layer).and_then(|name| name.checked().ok());
        let elsewhere = || Self { found_by: FoundBy::Elsewhere(rest.to_owned()), source: None, layer }.checked();
        fitted.map_or_else(elsewhere, Ok)
    }
}

/// The name of a direction of one of our methods; none if `rest`, which is in front of the layer, tells of none.
fn of_method(rest: &str, layer: usize) -> Option<DirectionName> {
    // `das` begins `das2d`: a method's name ends the text or an underscore follows.
    let (method, source) = Method::all()
        .filter_map(|method| Some((method, rest.strip_prefix(method.name())?)))
        .find(|(_, after)| after.is_empty() || after.starts_with('_'))?;
    let source = match source.strip_prefix('_') {
        None => None,
        Some(source) => {
            let (dataset, position) = source.rsplit_once('_')?;
            Some((dataset.to_owned(), position.to_owned()))
        }
    };
    Some(DirectionName { found_by: FoundBy::Method(method), source, layer })
}

/// A direction's name without its layer.
pub fn family(name: &DirectionName) -> String {
    let text = name.to_string();
    text.rsplit_once("_layer").map_or(text.clone(), |(family, _)| family.to_owned())
}

/// The folder of a model's directions: the Hub name without its organisation; `gpt2` is called `gpt2-small`.
pub fn model_folder(hub_name: &str) -> &str {
    let name = hub_name.trim_end_matches('/');
    match name.rsplit_once('/').map_or(name, |(_, model)| model) {
        "gpt2" => "gpt2-small",
        name => name,
    }
}

/// A name as it is stored, whatever spelling of its layer it was typed in; what names no one direction stays as it is.
pub fn spelled(name: &str) -> String {
    name.parse::<DirectionName>().map_or_else(|_| name.to_owned(), |name| name.to_string())
}

/// What a pattern matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matched {
    /// Names.
    Names(Vec<DirectionName>),
    /// Names without their layer: every layer's of each.
    Families(Vec<DirectionName>),
}

impl Matched {
    /// The directions, however they were matched.
    pub fn names(self) -> Vec<DirectionName> {
        match self {
            Matched::Names(names) | Matched::Families(names) => names,
        }
    }
}

/// The names that a pattern (`*`, `?`, with or without `.npy`) matches, in their order. One that no name matches is a pattern
/// of names without their layer.
///
/// # Errors
/// [`DirectionError::NoMatch`] for a pattern that matches nothing.
pub fn matched(pattern: &str, names: &[DirectionName]) -> Result<Matched, DirectionError> {
    let spelled = spelled(pattern);
    let matcher = glob(&unpadded(spelled.strip_suffix(".npy").unwrap_or(&spelled)));
    let matches = |text: &str| matcher.as_ref().is_some_and(|regex| regex.is_match(text));
    let that_match = |text: fn(&DirectionName) -> String| -> Vec<DirectionName> {
        let either = |name: &&DirectionName| matches(&text(name)) || matches(&unpadded(&text(name)));
        names.iter().filter(either).cloned().collect()
    };
    let found = that_match(DirectionName::to_string);
    if !found.is_empty() {
        return Ok(Matched::Names(found));
    }
    let found = that_match(family);
    if !found.is_empty() {
        return Ok(Matched::Families(found));
    }
    let first: Vec<_> = names.iter().take(3).map(ToString::to_string).collect();
    let examples = if first.is_empty() { String::new() } else { format!(" ({}, …)", first.join(", ")) };
    Err(DirectionError::NoMatch { pattern: pattern.to_owned(), available: names.len(), examples })
}

/// The names that match any of `patterns` as [`matched`] says, in order and without repetition.
///
/// # Errors
/// Those of [`matched`].
pub fn select(patterns: &[String], names: &[DirectionName]) -> Result<Vec<DirectionName>, DirectionError> {
    let mut selected = Vec::new();
    for pattern in patterns {
        selected.extend(matched(pattern, names)?.names());
    }
    selected.sort();
    selected.dedup();
    Ok(selected)
}

/// A name or pattern that ends with the number of its layer, without zeros in front of the number.
fn unpadded(text: &str) -> String {
    let rest = text.trim_end_matches(|letter: char| letter.is_ascii_digit());
    match text[rest.len()..].parse::<usize>() {
        Ok(layer) if rest.ends_with("layer") => format!("{rest}{layer}"),
        _ => text.to_owned(),
    }
}

/// A matcher of a pattern with `*` and `?`; `None` when the pattern is too long for one, so that it matches nothing.
pub(super) fn glob(pattern: &str) -> Option<Regex> {
    let body = regex::escape(pattern).replace(r"\*", ".*").replace(r"\?", ".");
    Regex::new(&format!("^{body}$")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> DirectionName {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_has_one_spelling_and_without_its_layer_stands_for_every_layer() {
        assert_eq!(spelled("das_a_END_layer01"), "das_a_END_layer1");
        assert_eq!(spelled("random_direction_layer3.npy"), "random_direction_layer03");
        assert_eq!(spelled("das_*_layer01"), "das_*_layer01");
        let names = ["das_a_END_layer1", "das_a_END_layer2", "das_a_END2_layer1", "probe_layer1"].map(parse);
        let chosen = |pattern: &str| select(&[pattern.to_owned()], &names).unwrap();
        assert_eq!(chosen("das_a_END"), names[..2]);
        assert_eq!(chosen("das_a_END_layer02"), names[1..2]);
        assert_eq!(chosen("probe"), names[3..]);
        assert_eq!(chosen("*_layer1").len(), 3);
        assert_eq!(chosen("d*_END"), names[..2]);
        assert!(select(&["das_a".to_owned()], &names).is_err());
        assert_eq!(matched("d*_END", &names).unwrap(), Matched::Families(names[..2].to_vec()));
        assert_eq!(matched("d*_END_*", &names).unwrap(), Matched::Names(names[..2].to_vec()));
    }

    #[test]
    fn names_round_trip() {
        for text in [
            "kmeans_simple_train_ADJ_layer0",
            "das_simple_train_ADJ_layer12",
            "das2d_treebank_train_ALL_layer3",
            "das3d_mine_v2.1_NOUN_layer7",
            "logistic_regression_simple_adverb_ADV_layer10",
            "mean_diff_a_layer_b_FEEL_layer2",
            "svd_simple_product_ADJ1_layer1",
            "ccs_classification_4_ANSWER_layer3",
            "pca_layer4",
            "random_direction_layer05",
            "random_direction_layer31",
            "truth_layer3",
            "rotation_direction0_layer1",
            "dasx_simple_ADJ_layer1",
            "das_ADJ_layer1",
            "das__ADJ_layer1",
            "das_simple__layer1",
            "random_direction_simple_train_ADJ_layer1",
        ] {
            assert_eq!(parse(text).to_string(), text);
            assert_eq!(parse(&format!("{text}.npy")).to_string(), text);
        }
        let name = parse("mean_diff_a_layer_b_FEEL_layer2");
        assert_eq!((name.dataset(), name.position(), name.layer()), (Some("a_layer_b"), Some("FEEL"), 2));
        assert_eq!(name, DirectionName::fitted(Method::MeanDiff, "a_layer_b", "FEEL", 2).unwrap());
        assert_eq!(DirectionName::random(3), parse("random_direction_layer3"));
        assert_eq!(parse("das_simple_train_ADJ_layer03").to_string(), "das_simple_train_ADJ_layer3");
        assert_eq!(parse("truth_layer03").to_string(), "truth_layer3");
        let elsewhere = FoundBy::Elsewhere("das_ADJ".into());
        assert_eq!((parse("das_ADJ_layer1").found_by(), parse("das_ADJ_layer1").dimensions()), (&elsewhere, None));
        assert_eq!(
            (parse("das2d_a_ADJ_layer1").method(), parse("das2d_a_ADJ_layer1").dimensions()),
            (Some(Method::Das2d), Some(2))
        );
        for name in ["truth_layer3", "das2d_a_ADJ_layer1"] {
            let found_by = parse(name).found_by().clone();
            let json = serde_json::to_string(&found_by).unwrap();
            assert_eq!(serde_json::from_str::<FoundBy>(&json).unwrap(), found_by, "{json}");
        }
    }

    #[test]
    fn faults_are_named() {
        for (text, field) in [
            ("das_simple_train_ADJ", "layer"),
            ("das_simple_train_ADJ_layer", "layer"),
            ("das_simple_train_ADJ_layer-1", "layer"),
            ("das_simple_train_ADJ_layer99999999999999999999", "layer"),
            ("_layer1", "name"),
            (".hidden_layer1", "name"),
            ("das_../../etc_ADJ_layer1", "name"),
            ("my probe_layer1", "name"),
            ("a\u{1b}_layer1", "name"),
            (&format!("{}_layer1", "a".repeat(LONGEST_NAME + 1)), "name"),
            (&format!("das_{}_ADJ_layer1", "a".repeat(LONGEST_NAME)), "name"),
        ] {
            let message = text.parse::<DirectionName>().unwrap_err().to_string();
            assert!(message.contains(&format!(": {field}: expected")), "{text}: {message}");
        }
        assert!(DirectionName::fitted(Method::RandomDirection, "simple", "ADJ", 0).is_err());
        assert!(DirectionName::fitted(Method::Das, "simple", "A_B", 0).is_err());
    }

    #[test]
    fn order_is_method_dataset_position_layer() {
        let mut names = ["das_a_ADJ_layer10", "das_a_ADJ_layer9", "kmeans_b_ADJ_layer0", "das_a_ALL_layer0"].map(parse);
        names.sort();
        let expected = ["kmeans_b_ADJ_layer0", "das_a_ADJ_layer9", "das_a_ADJ_layer10", "das_a_ALL_layer0"];
        assert_eq!(names.map(|name| name.to_string()), expected);
    }

    #[test]
    fn patterns_select() {
        let names = ["das_simple_train_ADJ_layer1", "das_simple_train_ADJ_layer11", "das2d_simple_train_ADJ_layer1"];
        let names = names.map(parse);
        let count = |patterns: &[&str]| {
            select(&patterns.iter().map(ToString::to_string).collect::<Vec<_>>(), &names).map(|found| found.len())
        };
        assert_eq!(count(&["das_simple_train_*"]).unwrap(), 2);
        assert_eq!(count(&["das*layer1.npy", "das_*"]).unwrap(), 3);
        assert_eq!(count(&["das_simple_train_ADJ_layer?"]).unwrap(), 1);
        // A layer's number is the same however it is written.
        let names =
            ["random_direction_layer01", "das_simple_train_ADJ_layer1", "das_simple_train_ADJ_layer10"].map(parse);
        for (patterns, expected) in [
            (&["*layer1", "*_layer01", "*layer?"][..], &names[..2]),
            (&["das*layer1", "das*layer001"], &names[1..2]),
            (&["random*layer1", "random*layer01.npy"], &names[..1]),
        ] {
            for pattern in patterns {
                assert_eq!(select(&[(*pattern).to_owned()], &names).unwrap(), expected, "{pattern}");
            }
        }
        let message = count(&["kmeans*"]).unwrap_err().to_string();
        assert!(message.contains("kmeans*") && message.contains("3 directions"), "{message}");
        // A dot is a dot, and a bracket never breaks the matcher.
        assert!(count(&["das.simple_train_ADJ_layer1"]).is_err() && count(&["das[("]).is_err());
    }

    #[test]
    fn folders_follow_the_hub() {
        assert_eq!(model_folder("gpt2"), "gpt2-small");
        assert_eq!(model_folder("openai-community/gpt2"), "gpt2-small");
        assert_eq!(model_folder("EleutherAI/pythia-1.4b"), "pythia-1.4b");
    }
}
