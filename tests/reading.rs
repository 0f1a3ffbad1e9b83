//! Residuals, heads and neurons read along directions against TransformerLens in f64, on tiny random models.
//!
//! Fixtures and the script that made them: `tests/fixtures/reading`, `tests/reference/make_reading_fixtures.py`.

mod support;

use actpatch::backend::{CpuBackend, Dtype};
use actpatch::engine::Engine;
use actpatch::experiments::corpus::{RowShape, Rows};
use actpatch::experiments::head_cosines::{HeadNode, head_cosines};
use actpatch::experiments::logit_attribution::{Attributed, LogitMap, direction_attribution};
use actpatch::experiments::neuron_cosines::neuron_cosines;
use actpatch::experiments::neuroscope::{Channel, Channels, Measure, read_corpus};
use actpatch::model::{Bos, LoadOptions, Model};
use actpatch::types::{Matrix, PairedPrompts};
use std::fmt::Write;
use support::within;

const MODELS: [&str; 6] = ["gpt2-tiny", "neox-parallel", "neox-sequential", "llama-tiny", "mistral-tiny", "qwen3-tiny"];

/// Values of order 1 in f32, through up to three blocks.
const ABSOLUTE: f64 = 1e-4;

struct Fixture {
    name: &'static str,
    tensors: support::Tensors,
    engine: Engine<CpuBackend>,
}

fn fixtures() -> impl Iterator<Item = Fixture> {
    MODELS.into_iter().map(|name| {
        let folder = support::fixture(&format!("../engine/{name}"));
        // The fixture's rows begin with BOS, also those of a family that is used without.
        let options = LoadOptions { bos: Bos::Always, ..LoadOptions::default() };
        let model = Model::load(folder.to_str().unwrap(), &options).unwrap();
        let engine = Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap();
        let tensors = support::read_tensors(&support::fixture(&format!("../reading/{name}.safetensors")));
        Fixture { name, tensors, engine }
    })
}

impl Fixture {
    fn directions(&self) -> Matrix {
        let [n, width] = self.tensors["directions"].shape[..] else { panic!() };
        Matrix::new(n, width, self.tensors["directions"].values())
    }

    fn prompts(&self) -> PairedPrompts {
        let file = support::fixture(&format!("../circuits/{}/results.safetensors", self.name));
        support::circuit_prompts(&support::read_tensors(&file))
    }

    #[track_caller]
    fn compare(&self, what: &str, found: impl IntoIterator<Item = f64>) -> f64 {
        let (found, expected) = (found.into_iter().collect::<Vec<_>>(), self.tensors[what].values());
        assert_eq!(found.len(), expected.len(), "{} {what}", self.name);
        let off = found.iter().zip(&expected).map(|(f, e)| (f - f64::from(*e)).abs()).fold(0.0, f64::max);
        assert!(off <= ABSOLUTE, "{} {what}: off by {off:e}: {found:?} {expected:?}", self.name);
        off
    }
}

#[test]
fn every_token_at_every_layer_matches_transformer_lens() {
    for fixture in fixtures() {
        let (directions, n_layers) = (fixture.directions(), fixture.engine.config().n_layers);
        let mut list = Vec::new();
        for layer in (0..=n_layers).rev() {
            for number in 0..directions.rows {
                list.push((Channel { direction: number.to_string(), layer }, directions.row(number).to_vec()));
            }
        }
        let channels = Channels::new(list);
        let at = |channel: usize| (channels.list()[channel].layer, &*channels.list()[channel].direction);
        assert_eq!((at(0), at(4)), ((0, "0"), (1, "1")), "sorted by layer");

        // BOS comes with the row, so the file has the tokens behind it; so has the fixture.
        let tokens = support::integers(&fixture.tensors, "tokens");
        let length = fixture.tensors["tokens"].shape[1];
        let (folder, mut text) = (tempfile::tempdir().unwrap(), String::new());
        tokens.chunks(length).for_each(|row| writeln!(text, "{{\"tokens\": {:?}}}", &row[1..]).unwrap());
        let file = folder.path().join("corpus.jsonl");
        std::fs::write(&file, text).unwrap();
        let model = fixture.engine.model();
        assert_eq!(model.tokenizer.bos(), Some(tokens[0]));
        let shape = RowShape { tokenizer: &model.tokenizer, length, d_vocab: model.config.d_vocab };

        for (measure, name) in [(Measure::Cosine, "cosine"), (Measure::Projection, "projection")] {
            let rows = Rows::of_file(&file, shape).unwrap();
            let mut found = Vec::new();
            let count = read_corpus(&fixture.engine, rows, &channels, measure, |reading| {
                assert_eq!(reading.token(), tokens[reading.document() * length + 1 + reading.position()]);
                found.extend(reading.values().iter().map(|value| f64::from(*value)));
                anyhow::Ok(())
            });
            assert_eq!(count.unwrap(), tokens.len() - tokens.len() / length);
            println!("{}: {name} off by at most {:e}", fixture.name, fixture.compare(name, found));
        }
    }
}

#[test]
fn batches_of_any_size_read_the_same() {
    let fixture = fixtures().next().unwrap();
    let direction = fixture.directions().row(0).to_vec();
    let channels = Channels::new(vec![(Channel { direction: "0".into(), layer: 2 }, direction)]);
    let tokens = support::integers(&fixture.tensors, "tokens");
    let read = |engine: &Engine<CpuBackend>| {
        let text = tokens.iter().map(|token| format!("w{token} ")).collect::<String>();
        let model = engine.model();
        let shape = RowShape { tokenizer: &model.tokenizer, length: 7, d_vocab: model.config.d_vocab };
        let rows = Rows::of_texts(vec![text.replace("w0 ", ""); 3], shape);
        let mut values = Vec::new();
        read_corpus(engine, rows, &channels, Measure::Cosine, |reading| {
            values.push((reading.document(), reading.position(), reading.token(), reading.values()[0]));
            anyhow::Ok(())
        })
        .unwrap();
        values
    };
    let whole = read(&fixture.engine);
    assert_eq!(whole.len(), 3 * tokens.iter().filter(|token| **token != 0).count());
    let small = Engine::new(
        CpuBackend::new(Dtype::F32).unwrap(),
        Model::load(support::fixture("../engine/gpt2-tiny").to_str().unwrap(), &LoadOptions::default()).unwrap(),
    );
    let small = read(&small.unwrap().with_max_tokens(8));
    for (a, b) in whole.iter().zip(&small) {
        // Sums of f32 in another order.
        assert!((a.0, a.1, a.2) == (b.0, b.1, b.2) && (a.3 - b.3).abs() < 1e-5, "{a:?} {b:?}");
    }
    assert_eq!(whole.len(), small.len());
}

#[test]
fn what_heads_write_along_a_direction_matches_transformer_lens() {
    for fixture in fixtures() {
        let prompts = fixture.prompts();
        let (direction, maps) = (fixture.directions().row(0).to_vec(), [LogitMap::Heads, LogitMap::HeadsByPosition]);
        let mut worst: f64 = 0.0;
        for (of, run) in [(Attributed::Clean, "clean"), (Attributed::Corrupted, "corrupted")] {
            for least in [false, true] {
                let found = within(least, |budget| {
                    direction_attribution(&fixture.engine, &prompts, &maps, of, &direction, budget)
                });
                for attribution in found {
                    let name = format!("{}.{run}", attribution.map);
                    assert_eq!(attribution.shape, fixture.tensors[&name].shape);
                    worst = worst.max(fixture.compare(&name, attribution.values));
                }
            }
        }
        println!("{}: heads along a direction off by at most {worst:e}", fixture.name);
        let narrow = direction_attribution(&fixture.engine, &prompts, &maps, Attributed::Clean, &direction[1..], 1);
        assert!(narrow.unwrap_err().to_string().contains("width of the directions"));
    }
}

#[test]
fn neurons_match_the_weights_of_transformer_lens() {
    for fixture in fixtures() {
        let directions = fixture.directions();
        let directions: Vec<Vec<f32>> = (0..directions.rows).map(|row| directions.row(row).to_vec()).collect();
        let mut layers = 0;
        let found = neuron_cosines(fixture.engine.model(), &directions, |done| {
            layers = done;
            anyhow::Ok(())
        });
        println!("{}: neurons off by at most {:e}", fixture.name, fixture.compare("neurons", found.unwrap().concat()));
        assert_eq!(layers, fixture.engine.config().n_layers);
    }
}

#[test]
fn changes_that_heads_write_match_transformer_lens() {
    for fixture in fixtures() {
        let prompts = fixture.prompts();
        let node = |node: &[u32]| {
            let [layer, head, position] = [0, 1, 2].map(|number| node[number] as usize);
            HeadNode { layer, head, positions: vec![position; prompts.clean.len()] }
        };
        let mut nodes: Vec<HeadNode> = support::integers(&fixture.tensors, "nodes").chunks(3).map(node).collect();
        for least in [false, true] {
            let found = within(least, |budget| head_cosines(&fixture.engine, &prompts, &nodes, budget));
            println!("{}: head cosines off by at most {:e}", fixture.name, fixture.compare("node_cosines", found));
        }
        // In front of the first token that differs heads write the same.
        nodes[0].positions = vec![1; prompts.clean.len()];
        let error = head_cosines(&fixture.engine, &prompts, &nodes, usize::MAX).unwrap_err().to_string();
        assert!(error.contains("expected a difference"), "{error}");
        nodes[0].head = 9;
        let error = head_cosines(&fixture.engine, &prompts, &nodes, usize::MAX).unwrap_err().to_string();
        assert!(error.contains("head") && error.contains("found 9"), "{error}");
    }
}
