//! What every other number rests on: the demo model knows the answers.

use actpatch::backend::{CpuBackend, Dtype};
use actpatch::datasets::{BuildOptions, Catalogue};
use actpatch::engine::{Engine, MEMORY_BUDGET};
use actpatch::experiments::chunks::baselines;
use actpatch::model::{LoadOptions, Model};

#[test]
fn the_demo_model_knows_the_answers() {
    let model = Model::load("demo", &LoadOptions::default()).unwrap();
    let catalogue = Catalogue::load(None).unwrap();
    let prompts = catalogue.build("simple_test", &model.tokenizer, &BuildOptions::default()).unwrap();
    let engine = Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap();
    let baselines = baselines(&engine, &prompts, MEMORY_BUDGET).unwrap();
    let accuracy = baselines.clean.accuracy();
    assert!(accuracy >= 0.95, "clean accuracy {accuracy}");
    let (clean, corrupted) = baselines.logit_differences();
    assert!(clean > 1.0 && corrupted < -1.0, "logit differences {clean} and {corrupted}");
}
