//! Plain texts: what is read in them along directions, what ablation costs on them, and what is written under steering.

mod corpus;
mod found;
mod label_shares;
mod losses_by_token;
mod negation;
mod neuroscope;
mod steering;
mod text_loss;

pub use corpus::Corpus;
pub use label_shares::{LabelShares, LabelledShares};
pub use negation::{Negation, Negations, ScoreRow};
pub use neuroscope::{Neuroscope, Readings};
pub use steering::COEFFICIENTS;
pub use steering::{Coefficients, SteeredDirection, Steering, Texts};
pub use text_loss::TEXT_METHODS;
pub use text_loss::TextLoss;

use crate::files::sha256;
use crate::model::Model;
use crate::session::wrong;
use anyhow::Result;

/// The tokens of a text that `setting` gives, BOS in front where the model has one.
///
/// # Errors
/// A text that the tokenizer refuses; one without a token, as a fault of `setting`.
pub(super) fn with_bos(setting: &str, model: &Model, text: &str) -> Result<Vec<u32>> {
    let tokens: Vec<u32> = model.tokenizer.bos().into_iter().chain(model.tokenizer.encode(text)?).collect();
    if tokens.is_empty() {
        wrong!(setting, "expected a text, found an empty one, and {} has no BOS token", model.name);
    }
    Ok(tokens)
}

/// The hash of a direction.
fn hash_of_direction(direction: &[f32]) -> String {
    sha256(bytemuck::cast_slice(direction))
}

#[cfg(test)]
mod tests {
    use crate::session::Fault;
    use crate::studies::{
        LabelShares, Negation, Neuroscope, Steering, Study, TextLoss, from_settings, texts::steering::PROMPT,
    };
    use serde_json::{Map, Value, json};

    /// What is wrong with settings: the field, and the message.
    fn wrong<S: Study>(settings: Value) -> (String, String) {
        let Value::Object(settings) = settings else { panic!("{settings}") };
        let study: S = from_settings(settings).unwrap();
        let error = study.validate().unwrap_err();
        let fault: &Fault = error.downcast_ref().unwrap();
        (fault.setting.clone().unwrap(), fault.message.clone())
    }

    #[test]
    fn what_cannot_be_asked_for_is_named_by_its_field() {
        let read = |field: &str, value: Value| {
            let mut settings = json!({ "text": "Well, good", "directions": "das_*" });
            settings[field] = value;
            wrong::<Neuroscope>(settings)
        };
        assert_eq!(read("text", json!([])), ("corpus".into(), "expected a file or texts, found neither".into()));
        assert_eq!(read("corpus", "a.txt".into()).1, "expected a file or texts, found both");
        assert_eq!(read("row_tokens", 1.into()), ("row_tokens".into(), "expected at least 2, found 1".into()));
        assert_eq!(read("name", "a/b".into()).0, "name");
        assert_eq!(read("directions", json!([])).0, "directions");
        assert_eq!(read("top", 0.into()), ("top".into(), "expected at least 1, found 0".into()));
        assert_eq!(read("bin_width", 0.into()), ("bin_width".into(), "expected a width of 0.001 to 1, found 0".into()));
        assert_eq!(read("tail", 0.5.into()).0, "tail");
        assert_eq!(read("layers", json!([])), ("layers".into(), "expected at least one, found none".into()));
        let loss = |field: &str, value: Value| {
            let mut settings = json!({ "text": "Well, good" });
            settings[field] = value;
            wrong::<TextLoss>(settings)
        };
        let expected = "expected one of zero, resample, mean_over_places, found corrupted";
        assert_eq!(loss("methods", "zero,corrupted".into()), ("methods".into(), expected.into()));
        assert_eq!(loss("by_token", 0.into()).0, "by_token");
        assert_eq!(loss("positions", json!([])).0, "positions");
        assert_eq!(loss("random", u32::MAX.into()).1, "expected at most 10000, found 4294967295");
        let means = loss("means_corpus", "a.txt".into());
        assert_eq!(means, ("means_corpus".into(), "found no method that takes means".into()));
        assert_eq!(wrong::<Negation>(json!({})).0, "directions");
    }

    #[test]
    fn texts_that_cannot_be_written_are_named_by_their_field() {
        let steer = |field: &str, value: Value| {
            let mut settings = json!({ "directions": "das_simple_train_ADJ_layer1", "temperature": 0 });
            settings[field] = value;
            wrong::<Steering>(settings)
        };
        assert_eq!(steer("directions", json!([])).0, "directions");
        let samples = steer("samples", 2.into());
        assert_eq!(
            samples,
            ("samples".into(), "expected 1 at temperature 0, which has no chance in it, found 2".into())
        );
        assert_eq!(steer("samples", 0.into()).0, "samples");
        assert_eq!(steer("samples", u32::MAX.into()).1, "expected at most 10000, found 4294967295");
        assert_eq!(steer("coefficients", json!([])).0, "coefficients");
        assert_eq!(steer("temperature", json!(-1.0)).0, "temperature");
        assert_eq!(steer("max_new_tokens", 0.into()).0, "max_new_tokens");
        assert_eq!(steer("prompt", json!([])).0, "prompt");
        assert_eq!(steer("coefficients", json!(1e39)).0, "coefficients");
        let settings = json!({ "directions": "x", "layers": 1, "sites": "blocks.0.hook_mlp_out" });
        assert_eq!(wrong::<Steering>(settings).0, "sites");
        // A prompt has commas, which are no ends of list entries.
        let study: Steering = from_settings(Map::from_iter([("prompt".to_owned(), PROMPT.into())])).unwrap();
        assert_eq!(study.prompt, [PROMPT]);
    }

    #[test]
    fn labels_need_a_file_and_a_number_of_parts() {
        let wrong = |labels: LabelShares| labels.validate().unwrap_err().to_string();
        assert!(wrong(LabelShares::default()).starts_with("labels: expected a file"));
        let parts = wrong(LabelShares { labels: "a.csv".into(), parts: 1001, ..LabelShares::default() });
        assert_eq!(parts, "parts: expected 1 to 1000, found 1001");
    }
}
