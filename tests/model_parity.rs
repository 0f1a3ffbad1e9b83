//! Weights, processed and not, against those of TransformerLens (tests/reference/make_weight_fixtures.py).

mod support;

use actpatch::model::{LinearWeights, Model, NormWeights, WeightProcessing};
use actpatch::types::{Activation, Matrix, Positions, RotaryScaling};
use support::{Tensors, fixture, load, read_tensors};

/// Both sides work in f32, on values up to about 3: sums of 60 terms differ by rounding alone.
const TOLERANCE: f32 = 1e-5;

struct Reference(Tensors);

impl Reference {
    /// Compares `found` with the tensor called `name`; `place` gives a value's index in the reference.
    fn check(&self, name: &str, found: &[f32], place: impl Fn(usize) -> usize) {
        let expected = self.0.get(name).unwrap_or_else(|| panic!("{name} is not in the reference")).values();
        assert_eq!(expected.len(), found.len(), "{name}");
        let worst = found.iter().enumerate().map(|(index, value)| (value - expected[place(index)]).abs());
        let worst = worst.fold(0.0, f32::max);
        assert!(worst <= TOLERANCE, "{name}: off by {worst}");
    }

    fn same(&self, name: &str, found: &[f32]) {
        self.check(name, found, |index| index);
    }

    /// `W_Q`, `W_K`, `W_V` are (head, d_model, d_head) in TransformerLens and (d_model, head * d_head) here.
    fn heads(&self, layer: usize, letter: char, found: &Matrix, bias: &[f32], d_head: usize) {
        let (rows, cols) = (found.rows, found.cols);
        self.check(&format!("blocks.{layer}.attn.W_{letter}"), &found.data, |index| {
            let (row, column) = (index / cols, index % cols);
            ((column / d_head) * rows + row) * d_head + column % d_head
        });
        self.same(&format!("blocks.{layer}.attn.b_{letter}"), bias);
    }

    fn linear(&self, weight: &str, bias: &str, found: &LinearWeights) {
        self.same(weight, &found.weight.data);
        self.same(bias, &found.bias);
    }

    fn norm(&self, name: &str, found: Option<&NormWeights>) {
        let gone = !self.0.contains_key(&format!("{name}.w"));
        assert_eq!(gone, found.is_none(), "{name}");
        if let Some(norm) = found {
            self.same(&format!("{name}.w"), &norm.gain);
            self.same(&format!("{name}.b"), norm.bias.as_ref().expect("layer norms have biases"));
        }
    }
}

fn columns(matrix: &Matrix, from: usize, to: usize) -> Matrix {
    let data = (0..matrix.rows).flat_map(|row| matrix.row(row)[from..to].to_vec()).collect();
    Matrix::new(matrix.rows, to - from, data)
}

fn check_layer(reference: &Reference, model: &Model, layer: usize) {
    let weights = model.layer(layer).unwrap();
    let (d_head, width) = (model.config.d_head, model.config.n_heads * model.config.d_head);
    let key_value = &weights.key_value;
    reference.heads(layer, 'Q', &weights.query.weight, &weights.query.bias, d_head);
    reference.heads(layer, 'K', &columns(&key_value.weight, 0, width), &key_value.bias[..width], d_head);
    reference.heads(layer, 'V', &columns(&key_value.weight, width, 2 * width), &key_value.bias[width..], d_head);
    let name = |part: &str| format!("blocks.{layer}.{part}");
    reference.linear(&name("attn.W_O"), &name("attn.b_O"), &weights.attn_out);
    reference.linear(&name("mlp.W_in"), &name("mlp.b_in"), &weights.mlp_in);
    reference.linear(&name("mlp.W_out"), &name("mlp.b_out"), &weights.mlp_out);
    reference.norm(&name("ln1"), weights.ln1.as_ref());
    reference.norm(&name("ln2"), weights.ln2.as_ref());
}

fn check_outside(reference: &Reference, model: &Model) {
    let all: Vec<u32> = (0..model.config.d_vocab as u32).collect();
    reference.same("embed.W_E", &model.embed(&all).unwrap().data);
    match model.position_embedding().unwrap() {
        Some(positions) => reference.same("pos_embed.W_pos", &positions.data),
        None => assert!(!reference.0.contains_key("pos_embed.W_pos")),
    }
    let whole = model.unembedding().unwrap();
    reference.linear("unembed.W_U", "unembed.b_U", &whole);
    reference.norm("ln_final", model.final_norm().unwrap().as_ref());
    let (some, bias) = model.unembed_columns(&[110, 0, 7, 7]).unwrap();
    for (line, token) in [110, 0, 7, 7].into_iter().enumerate() {
        let column: Vec<f32> = (0..model.config.d_model).map(|row| whole.weight.row(row)[token]).collect();
        assert_eq!((some.row(line), bias[line]), (column.as_slice(), whole.bias[token]), "token {token}");
    }
}

fn check(name: &str) {
    for (file, processing, layer) in [
        ("unprocessed.safetensors", WeightProcessing::none(), 0),
        ("processed.safetensors", WeightProcessing::processed(), 1),
    ] {
        let reference = Reference(read_tensors(&fixture(name).join(file)));
        let model = load(&fixture(name), processing).unwrap();
        check_layer(&reference, &model, layer);
        check_outside(&reference, &model);
    }
}

#[test]
fn gpt2() {
    check("gpt2-tiny");
}

#[test]
fn neox_parallel() {
    check("neox-tiny");
}

#[test]
fn neox_sequential() {
    check("neox-sequential");
}

#[test]
fn configurations() {
    let gpt2 = load(&fixture("gpt2-tiny"), WeightProcessing::none()).unwrap().config;
    assert_eq!((gpt2.n_layers, gpt2.d_model, gpt2.n_heads, gpt2.d_head), (2, 60, 3, 20));
    assert_eq!((gpt2.d_mlp, gpt2.n_ctx, gpt2.d_vocab, gpt2.norm_eps), (21, 48, 111, 1e-5));
    assert_eq!((gpt2.positions, gpt2.activation), (Positions::Learned, Activation::GeluTanh));
    assert!(!gpt2.parallel_residual);
    let neox = load(&fixture("neox-tiny"), WeightProcessing::none()).unwrap().config;
    assert_eq!(neox.positions, Positions::Rotary { dims: 6, base: 10_000.0, scaling: RotaryScaling::None });
    assert_eq!((neox.activation, neox.parallel_residual), (Activation::Gelu, true));
    assert!(!load(&fixture("neox-sequential"), WeightProcessing::none()).unwrap().config.parallel_residual);
}
