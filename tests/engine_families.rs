//! What is particular to grouped heads, attention windows and gated MLPs. (Numbers against other implementations:
//! engine_parity.rs.)

mod support;

use actpatch::backend::{Backend, CpuBackend, Dtype};
use actpatch::engine::*;
use actpatch::model::WeightProcessing;
use std::collections::HashSet;

const FAMILIES: [&str; 5] = ["llama-tiny", "mistral-tiny", "qwen2-tiny", "qwen3-tiny", "stablelm-tiny"];

fn engine(name: &str) -> Engine<CpuBackend> {
    let model = support::load(&support::fixture(&format!("../engine/{name}")), WeightProcessing::processed()).unwrap();
    Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap()
}

fn prompts() -> Vec<Vec<u32>> {
    let prompt = |seed: u32| (0..9).map(|i| if i == 0 { 0 } else { (seed * 17 + i * 7) % 49 + 1 }).collect();
    (1..=3).map(prompt).collect()
}

fn last_logits(run: &Run<CpuBackend>) -> Vec<f32> {
    run.logits().unwrap().values.data.clone()
}

fn largest_difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(l, r)| (l - r).abs()).fold(0.0, f32::max)
}

fn replace<'a>(
    site: Site,
    part: Part,
    positions: std::ops::Range<usize>,
    run: &'a Run<CpuBackend>,
) -> Intervention<'a, CpuBackend> {
    let patch = |position| Patch { row: 0, position, source: run.token(1, position).unwrap(), basis: 0 };
    Intervention { site, part, patches: positions.map(patch).collect(), op: Op::Replace(Source::Run(run)) }
}

/// Sequence 0 with the keys or values of one key-value head taken from sequence 1: which heads' `z` change?
fn changed_heads(engine: &Engine<CpuBackend>, site: Site, head: usize) -> HashSet<usize> {
    let run = engine.run(&prompts(), &[site, Site::Z(1)], &[], Output::None).unwrap();
    let patch = replace(site, Part::Head(head), 1..9, &run);
    let patched = engine.run_patched(&prompts()[..1], &[patch], &[Site::Z(1)], Output::None).unwrap();
    let z = |run: &Run<CpuBackend>| engine.backend().download(run.site(Site::Z(1)).unwrap()).unwrap();
    let (before, after, d_head) = (z(&run), z(&patched), engine.config().d_head);
    let places = after.iter().zip(&before).enumerate().filter(|(_, (a, b))| a != b);
    places.map(|(index, _)| index % engine.config().d_attn() / d_head).collect()
}

#[test]
fn a_key_value_head_serves_the_query_heads_of_its_group_and_no_others() {
    for name in &FAMILIES[..4] {
        let engine = engine(name);
        assert_eq!((engine.config().n_heads, engine.config().n_kv_heads), (4, 2));
        for site in [Site::K(1), Site::V(1)] {
            assert_eq!(changed_heads(&engine, site, 0), HashSet::from([0, 1]), "{name} {site}");
            assert_eq!(changed_heads(&engine, site, 1), HashSet::from([2, 3]), "{name} {site}");
        }
    }
}

#[test]
fn heads_are_counted_per_site() {
    let engine = engine("llama-tiny");
    let capture = [Site::Q(0), Site::K(0), Site::V(0), Site::Z(0)];
    let run = engine.run(&prompts(), &capture, &[], Output::None).unwrap();
    let width = |site| engine.backend().len(run.site(site).unwrap()) / run.layout().n_tokens();
    assert_eq!(capture.map(width), [40, 20, 20, 40]);
    for (site, expected) in [(Site::K(0), "0 to 1 key-value heads, found 2"), (Site::Q(0), "0 to 3, found 4")] {
        let head = site.n_heads(engine.config());
        let patch = replace(site, Part::Head(head), 4..5, &run);
        let error = engine.run_patched(&prompts()[..1], &[patch], &[], Output::Last).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Rows that start behind a captured prefix must see its keys through the window, the norms and the rotation.
#[test]
fn rows_that_start_at_the_patch_equal_whole_ones() {
    for name in FAMILIES {
        let engine = engine(name);
        let prompts = prompts();
        let capture = [Site::ResidPre(0), Site::ResidPre(1), Site::MlpPost(1)];
        let run = engine.run(&prompts, &capture, &[8; 3], Output::Last).unwrap();
        for (layer, start) in [(0, 3), (0, 6), (1, 5), (1, 8)] {
            let patch = || replace(Site::ResidPre(layer), Part::All, start..9, &run);
            let whole = engine.run_patched(&prompts[..1], &[patch()], &[], Output::Last).unwrap();
            let resume = Resume { run: &run, layer, rows: &[(0, start)] };
            let resumed = engine.resume(&resume, &[patch()], &[], Output::Last).unwrap();
            let difference = largest_difference(&last_logits(&whole), &last_logits(&resumed));
            // The same sums in another order, on logits of order 5.
            assert!(difference < 1e-5, "{name}, layer {layer}, position {start}: {difference:e}");
            let moved = largest_difference(&last_logits(&whole), run.logits().unwrap().values.row(0));
            assert!(moved > 1e-2, "{name}, layer {layer}, position {start}: the patch did nothing");
        }
    }
}

#[test]
fn a_window_hides_what_lies_before_it() {
    let engine = engine("mistral-tiny");
    assert_eq!(engine.config().attention_window, Some(5));
    let run = engine.run(&prompts(), &[Site::V(1)], &[], Output::Last).unwrap();
    let before = run.logits().unwrap().values.row(0).to_vec();
    for (position, seen) in [(3, false), (4, true), (8, true)] {
        let patch = replace(Site::V(1), Part::All, position..position + 1, &run);
        let patched = engine.run_patched(&prompts()[..1], &[patch], &[], Output::Last).unwrap();
        let moved = largest_difference(&last_logits(&patched), &before);
        assert_eq!(moved > 0.0, seen, "value at position {position}: {moved:e}");
    }
}

#[test]
fn the_gate_multiplies_what_it_lets_through() {
    let engine = engine("qwen2-tiny");
    let zero = Intervention {
        site: Site::MlpPre(0),
        part: Part::Neuron(3),
        patches: vec![Patch { row: 0, position: 4, source: 0, basis: 0 }],
        op: Op::Replace(Source::Zero),
    };
    let sites = [Site::MlpPre(0), Site::MlpPost(0)];
    let run = engine.run_patched(&prompts()[..1], &[zero], &sites, Output::None).unwrap();
    let at = |site: Site| engine.backend().download(run.site(site).unwrap()).unwrap();
    let (pre, post, d_mlp) = (at(sites[0]), at(sites[1]), engine.config().d_mlp);
    for (index, (pre, post)) in pre.iter().zip(&post).enumerate() {
        // silu(0) = 0 closes the gate whatever lies behind it.
        assert_eq!(*post == 0.0, index == 4 * d_mlp + 3, "{index}: {pre} {post}");
    }
}
