//! Passes of a session over token sequences: against TransformerLens (f64) on the engine's fixtures, and against passes that
//! are cut otherwise.

mod support;

use actpatch::engine::{EngineError, Part, Site};
use actpatch::experiments::sampling::Sampling;
use actpatch::session::{
    Activations, Backward, Change, Continue, Edit, Forward, Observer, Session, SessionOptions, Silent, Stopped, Wanted,
};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::thread::{self, ThreadId};

const MODELS: [&str; 4] = ["gpt2-tiny", "neox-parallel", "llama-tiny", "qwen3-tiny"];

/// As in engine_parity.rs.
const ABSOLUTE: f32 = 1e-4;

struct Fixture {
    session: Session,
    tensors: support::Tensors,
    cases: Value,
}

fn open(name: &str, batch_tokens: u32) -> Fixture {
    let folder = support::fixture(&format!("../engine/{name}"));
    let options = SessionOptions { batch_tokens, ..SessionOptions::default() };
    let session = Session::open(folder.to_str().unwrap(), options).unwrap();
    let tensors = support::read_tensors(&folder.join("processed.safetensors"));
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("cases.json")).unwrap()).unwrap();
    Fixture { session, tensors, cases }
}

impl Fixture {
    fn values(&self, name: &str) -> Vec<f32> {
        self.tensors.get(name).unwrap_or_else(|| panic!("{name} is not in the fixture")).values()
    }

    fn sequences(&self, name: &str, lengths: &[usize]) -> Vec<Vec<u32>> {
        let mut tokens = integers(&self.tensors[name]).into_iter();
        lengths.iter().map(|&length| tokens.by_ref().take(length).collect()).collect()
    }

    fn ragged(&self) -> Vec<Vec<u32>> {
        let lengths = self.cases["lengths"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize);
        self.sequences("tokens", &lengths.collect::<Vec<_>>())
    }

    fn cases(&self) -> &Value {
        &self.cases["processed"]
    }

    fn forward(&self, forward: &Forward<'_>) -> anyhow::Result<Activations> {
        self.session.forward(forward, &mut Silent)
    }

    fn message(&self, forward: &Forward<'_>) -> String {
        format!("{:#}", self.forward(forward).unwrap_err())
    }
}

fn integers(tensor: &support::Stored) -> Vec<u32> {
    let width = tensor.bytes.len() / tensor.shape.iter().product::<usize>();
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |all, byte| all << 8 | u64::from(*byte)) as u32;
    tensor.bytes.chunks(width).map(number).collect()
}

fn compare(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: off by {worst:e}");
}

#[test]
fn captured_sites_are_those_of_transformer_lens_however_passes_are_cut() {
    for (model, batch_tokens) in MODELS.into_iter().flat_map(|model| [(model, 4096), (model, 8)]) {
        let fixture = open(model, batch_tokens);
        let stored = fixture.cases()["stored_prompts"].as_array().unwrap();
        let all = fixture.ragged();
        let sequences: Vec<_> = stored.iter().map(|i| all[i.as_u64().unwrap() as usize].clone()).collect();
        let names: Vec<&str> =
            fixture.cases()["sites"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let capture: Vec<Site> = names.iter().map(|name| fixture.session.site(name).unwrap()).collect();
        let forward =
            Forward { sequences: &sequences, capture: &capture, logits: Wanted::Nothing, ..Forward::default() };
        let found = fixture.forward(&forward).unwrap();
        assert_eq!(found.lengths, sequences.iter().map(Vec::len).collect::<Vec<_>>());
        assert_eq!(found.logits, None);
        for (name, (site, values)) in names.iter().zip(&found.sites) {
            assert_eq!(site.to_string(), *name);
            compare(&format!("{model} {name}"), values, &fixture.values(&format!("site.{name}")), ABSOLUTE);
        }
    }
}

#[test]
fn last_logits_are_the_last_of_all() {
    for model in MODELS {
        let fixture = open(model, 8);
        let sequences = fixture.ragged();
        let ask = |logits| fixture.forward(&Forward { sequences: &sequences, logits, ..Forward::default() }).unwrap();
        let (all, last) = (ask(Wanted::All).logits.unwrap(), ask(Wanted::Last).logits.unwrap());
        assert_eq!(last.rows, sequences.len());
        let mut end = 0;
        for (row, sequence) in sequences.iter().enumerate() {
            end += sequence.len();
            compare(model, last.row(row), all.row(end - 1), 1e-5);
        }
        assert_eq!(all.rows, end);
    }
}

/// What every row of the fixture's patches takes its values from: its own prompt and the next one's.
struct Sources {
    clean: BTreeMap<Site, Vec<f32>>,
}

const ROWS: usize = 4;
const LENGTH: usize = 9;

impl Sources {
    fn new(fixture: &Fixture, prompts: &[Vec<u32>]) -> Self {
        let config = fixture.session.config();
        let capture: Vec<Site> =
            Site::all(config).into_iter().filter(|site| !site.to_string().ends_with("_input")).collect();
        let forward = Forward { sequences: prompts, capture: &capture, logits: Wanted::Nothing, ..Forward::default() };
        Self { clean: fixture.forward(&forward).unwrap().sites.into_iter().collect() }
    }

    /// The values of a part of a site at one token, `row` counted over the clean prompts.
    fn at(&self, fixture: &Fixture, site: Site, part: Part, row: usize, position: usize) -> Vec<f32> {
        let config = fixture.session.config();
        let (values, n_heads) = (&self.clean[&site], config.n_heads);
        if let Site::Pattern(_) = site {
            let heads: Vec<usize> = if let Part::Head(head) = part { vec![head] } else { (0..n_heads).collect() };
            let keys = |head: usize| ((row * n_heads + head) * LENGTH + position) * LENGTH;
            return heads.into_iter().flat_map(|head| values[keys(head)..keys(head) + LENGTH].to_vec()).collect();
        }
        let all =
            &values[(row * LENGTH + position) * values.len() / (ROWS * LENGTH)..][..values.len() / (ROWS * LENGTH)];
        match part {
            Part::Head(head) => all.chunks(all.len() / site.n_heads(config)).nth(head).unwrap().to_vec(),
            _ => all.to_vec(),
        }
    }
}

/// The values of a case's operation at every place, in the order of the places.
fn values(fixture: &Fixture, sources: &Sources, case: &Value, places: &[(usize, usize)]) -> Vec<f32> {
    let (site, part) = place(fixture, case);
    let mean = |position: usize| {
        let rows: Vec<Vec<f32>> = (0..ROWS).map(|row| sources.at(fixture, site, part, row, position)).collect();
        (0..rows[0].len()).map(|at| rows.iter().map(|row| row[at]).sum::<f32>() / ROWS as f32).collect::<Vec<_>>()
    };
    let value = |&(row, position): &(usize, usize)| match case["op"].as_str().unwrap() {
        "replace" | "swap" => sources.at(fixture, site, part, row, position),
        "freeze" => sources.at(fixture, site, part, (row + 1) % ROWS, position),
        "ablate_mean" | "mean" => mean(position),
        "ablate_zero" => vec![0.0; mean(position).len()],
        "add" => fixture.values("patch.vector"),
        "zero" => Vec::new(),
        other => panic!("{other}"),
    };
    places.iter().flat_map(value).collect()
}

fn place(fixture: &Fixture, case: &Value) -> (Site, Part) {
    let site = fixture.session.site(case["site"].as_str().unwrap()).unwrap();
    (site, case["head"].as_u64().map_or(Part::All, |head| Part::Head(head as usize)))
}

#[test]
fn edits_with_values_from_the_host_are_the_patches_of_transformer_lens() {
    for (model, batch_tokens) in MODELS.into_iter().flat_map(|model| [(model, 4096), (model, 2 * LENGTH as u32)]) {
        let fixture = open(model, batch_tokens);
        let prompts = fixture.sequences("patch.tokens", &[LENGTH; ROWS]);
        let corrupted: Vec<Vec<u32>> = (0..ROWS).map(|row| prompts[(row + 1) % ROWS].clone()).collect();
        let sources = Sources::new(&fixture, &prompts);
        let columns = fixture.values("patch.subspace");
        let basis: Vec<f32> = (0..2).flat_map(|j| columns.iter().skip(j).step_by(2).copied()).collect();
        let cases = fixture.cases()["patches"].as_array().unwrap();
        assert!(cases.len() > 5, "{model}");
        for case in cases {
            let list = case["interventions"].as_array().unwrap();
            let part = |item: &Value| {
                let positions = item["position"].as_u64().map_or(0..LENGTH, |p| p as usize..p as usize + 1);
                let places: Vec<_> =
                    (0..ROWS).flat_map(|row| positions.clone().map(move |position| (row, position))).collect();
                let (site, part) = place(&fixture, item);
                let values = values(&fixture, &sources, item, &places);
                (site, part, values, places, item["op"].as_str().unwrap().to_owned())
            };
            let parts: Vec<_> = list.iter().map(part).collect();
            // The result of all heads is patched head by head: one edit says one head's values.
            if parts.iter().any(|(site, part, ..)| matches!((site, part), (Site::Result(_), Part::All))) {
                continue;
            }
            let edits: Vec<Edit<'_>> = parts
                .iter()
                .map(|(site, part, values, places, op)| {
                    let change = match op.as_str() {
                        "swap" | "ablate_zero" | "ablate_mean" => Change::Swap { values, basis: &basis },
                        "add" => Change::Add(values),
                        "zero" => Change::Zero,
                        _ => Change::Replace(values),
                    };
                    Edit { site: *site, part: *part, places: Cow::Borrowed(places), change }
                })
                .collect();
            let forward = Forward { sequences: &corrupted, edits: &edits, logits: Wanted::Last, ..Forward::default() };
            let name = case["logits"].as_str().unwrap();
            let found = fixture.forward(&forward).unwrap().logits.unwrap();
            compare(&format!("{model} {name}"), &found.data, &fixture.values(name), ABSOLUTE);
        }
    }
}

#[test]
fn one_row_of_values_is_every_places() {
    let fixture = open("gpt2-tiny", 4096);
    let sequences = fixture.ragged();
    let site = Site::ResidPre(1);
    let width = fixture.session.config().d_model;
    let vector: Vec<f32> = (0..width).map(|i| (i as f32).sin()).collect();
    let places = [(0, 2), (1, 0), (2, 5)];
    let logits = |values: &[f32]| {
        let edit = Edit { site, part: Part::All, places: Cow::Borrowed(&places), change: Change::Add(values) };
        let forward = Forward { sequences: &sequences, edits: &[edit], ..Forward::default() };
        fixture.forward(&forward).unwrap().logits.unwrap()
    };
    let (one, each) = (logits(&vector), logits(&vector.repeat(places.len())));
    assert_eq!(one, each);
    let plain = fixture.forward(&Forward { sequences: &sequences, ..Forward::default() }).unwrap().logits.unwrap();
    assert_ne!(one, plain);
}

#[test]
fn edits_that_cannot_be_meant_say_why() {
    let fixture = open("gpt2-tiny", 4096);
    let (config, sequences) = (fixture.session.config(), fixture.ragged());
    let width = config.d_model;
    let zeros = vec![0.0; width];
    let message = |site: Site, part: Part, places: &[(usize, usize)], change: Change<'_>| {
        let edit = Edit { site, part, places: Cow::Borrowed(places), change };
        fixture.message(&Forward { sequences: &sequences, edits: &[edit], ..Forward::default() })
    };
    let resid = |places: &[(usize, usize)], change: Change<'_>| message(Site::ResidPre(0), Part::All, places, change);
    let longest = sequences[0].len();
    for (found, expected) in [
        (resid(&[], Change::Zero), "never fires: it names no place"),
        (resid(&[(9, 0)], Change::Zero), "sequence of an edit at blocks.0.hook_resid_pre: expected 0 to 4, found 9"),
        (resid(&[(0, longest)], Change::Zero), "in sequence 0: expected 0 to 6, found 7"),
        (resid(&[(0, 0), (0, 0)], Change::Zero), "each row and position once"),
        (resid(&[(0, 0)], Change::Add(&zeros[1..])), "number of values of an edit at blocks.0.hook_resid_pre"),
        (resid(&[(0, 0)], Change::Add(&vec![f32::NAN; width])), "expected finite numbers, found NaN"),
        (resid(&[(0, 0)], Change::Swap { values: &zeros, basis: &zeros }), "rows of unit length"),
        (resid(&[(0, 0)], Change::Swap { values: &zeros, basis: &[] }), "basis of an edit"),
        (message(Site::Z(0), Part::Head(99), &[(0, 0)], Change::Zero), "head at blocks.0.attn.hook_z"),
        (message(Site::ResidPre(77), Part::All, &[(0, 0)], Change::Zero), "blocks.77.hook_resid_pre"),
        (message(Site::Pattern(0), Part::All, &[(0, 0)], Change::Add(&zeros)), "replace or zero, found add"),
        (message(Site::Pattern(0), Part::Head(0), &[(0, 0)], Change::Replace(&zeros)), "number of values"),
    ] {
        assert!(found.contains(expected), "{expected}: {found}");
    }
    let edit = Edit {
        site: Site::Result(0),
        part: Part::Head(0),
        places: Cow::Borrowed(&[(0, 0)]),
        change: Change::Add(&zeros),
    };
    let forward = Forward { sequences: &sequences, edits: &[edit], capture: &[Site::Result(0)], ..Forward::default() };
    assert!(fixture.message(&forward).contains("capture hook_attn_out"));
}

#[test]
fn a_heads_result_is_changed_once_and_added_to_ever_after() {
    let fixture = open("gpt2-tiny", 4096);
    let sequences = fixture.ragged();
    let ones = vec![1.0; fixture.session.config().d_model];
    let at_result = |head: usize, change| {
        let part = Part::Head(head);
        Edit { site: Site::Result(0), part, places: Cow::Borrowed(&[(0, 1)]), change }
    };
    for (first, then) in [
        (Change::Zero, Change::Zero),
        (Change::Replace(&ones), Change::Replace(&ones)),
        (Change::Add(&ones), Change::Zero),
    ] {
        let edits = [at_result(2, first), at_result(2, then)];
        let message = fixture.message(&Forward { sequences: &sequences, edits: &edits, ..Forward::default() });
        let expected = "blocks.0.attn.hook_result at position 1 of row 0: expected one, found two";
        assert!(message.contains(expected), "{message}");
    }
    let last = |edits: &[Edit<'_>]| {
        let forward = Forward { sequences: &sequences, edits, logits: Wanted::Last, ..Forward::default() };
        fixture.forward(&forward).unwrap().logits.unwrap().data
    };
    let replaced = last(&[at_result(2, Change::Replace(&ones))]);
    compare(
        "zero, then ones",
        &last(&[at_result(2, Change::Zero), at_result(2, Change::Add(&ones))]),
        &replaced,
        ABSOLUTE,
    );
    let others = last(&[at_result(1, Change::Zero), at_result(2, Change::Replace(&ones))]);
    assert_ne!(others, replaced, "of other heads there may be as many");
}

#[test]
fn a_name_that_there_is_not_is_told_of_with_those_most_like_it() {
    let session = open("gpt2-tiny", 4096).session;
    let message = session.site("blocks.1.hook_residpre").unwrap_err().to_string();
    assert!(message.contains("most like it are blocks.1.hook_resid_pre"), "{message}");
    let message = session.site("blocks.9.hook_resid_pre").unwrap_err().to_string();
    assert!(message.contains("the model has layers") && message.contains("most like it are"), "{message}");
    assert!(matches!(session.site("?"), Err(EngineError::NoSuchSite { .. })));
}

#[test]
fn gradients_are_the_slopes_of_the_logit_difference() {
    for (model, batch_tokens) in MODELS.into_iter().flat_map(|model| [(model, 4096), (model, 8)]) {
        let fixture = open(model, batch_tokens);
        let (session, config) = (&fixture.session, fixture.session.config());
        let sequences = fixture.ragged();
        let answers: Vec<Vec<(u32, u32)>> =
            (0..sequences.len() as u32).map(|row| vec![(row + 1, row + 2), (5, 9)]).collect();
        let last = config.n_layers - 1;
        let sites =
            [Site::ResidPre(0), Site::ResidPost(last), Site::Z(last), Site::MlpPost(0), Site::K(last), Site::Q(last)];
        let found = session
            .gradients(&Backward { sequences: &sequences, answers: &answers, sites: &sites }, &mut Silent)
            .unwrap();
        let difference = |edits: &[Edit<'_>]| -> Vec<f64> {
            let forward = Forward { sequences: &sequences, edits, logits: Wanted::Last, ..Forward::default() };
            let logits = session.forward(&forward, &mut Silent).unwrap().logits.unwrap();
            let of = |(row, pairs): (usize, &Vec<(u32, u32)>)| {
                let logit = |token: u32| f64::from(logits.row(row)[token as usize]);
                pairs.iter().map(|&(right, wrong)| logit(right) - logit(wrong)).sum::<f64>() / pairs.len() as f64
            };
            answers.iter().enumerate().map(of).collect()
        };
        for (found, expected) in found.differences.iter().zip(difference(&[])) {
            assert!((f64::from(*found) - expected).abs() < 1e-4, "{model}: {found} {expected}");
        }
        let places: Vec<(usize, usize)> = sequences
            .iter()
            .enumerate()
            .flat_map(|(row, sequence)| (0..sequence.len()).map(move |position| (row, position)))
            .collect();
        for (site, gradient) in &found.sites {
            let width = site.width(config);
            assert_eq!(gradient.len(), places.len() * width, "{model} {site}");
            let step: Vec<f32> = (0..gradient.len()).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 3e-3).collect();
            let back: Vec<f32> = step.iter().map(|value| -value).collect();
            let moved = |values: &[f32]| {
                let places = Cow::Borrowed(&places[..]);
                difference(&[Edit { site: *site, part: Part::All, places, change: Change::Add(values) }])
            };
            let (ahead, behind) = (moved(&step), moved(&back));
            let mut start = 0;
            for (row, sequence) in sequences.iter().enumerate() {
                let own = start * width..(start + sequence.len()) * width;
                start += sequence.len();
                let slope: f64 =
                    gradient[own.clone()].iter().zip(&step[own]).map(|(g, s)| f64::from(*g) * f64::from(*s)).sum();
                let expected = (ahead[row] - behind[row]) / 2.0;
                // Central differences in f32: logits of order 1 are exact to 1e-6, curvature to the third power of the step.
                let error = (slope - expected).abs();
                assert!(error < 2e-2 * expected.abs() + 1e-5, "{model} {site} row {row}: {slope} {expected}");
            }
        }
        let no_gradient = Backward { sequences: &sequences, answers: &answers, sites: &[Site::Embed] };
        let message = session.gradients(&no_gradient, &mut Silent).unwrap_err().to_string();
        assert!(message.contains("hook_embed"), "{message}");
        let too_few = Backward { sequences: &sequences, answers: &answers[1..], sites: &sites };
        let message = session.gradients(&too_few, &mut Silent).unwrap_err().to_string();
        assert!(message.contains("answers: expected one pair at least for each of 5 sequences"), "{message}");
    }
}

/// Wants to stop as soon as anything is done.
#[derive(Default)]
struct Impatient {
    done: u64,
}

impl Observer for Impatient {
    fn progress(&mut self, done: u64) {
        self.done = done;
    }

    fn cancelled(&self) -> bool {
        self.done > 0
    }
}

#[test]
fn passes_stop_between_two_batches() {
    let fixture = open("gpt2-tiny", 8);
    let sequences = fixture.ragged();
    let mut observer = Impatient::default();
    let forward = Forward { sequences: &sequences, ..Forward::default() };
    let error = fixture.session.forward(&forward, &mut observer).unwrap_err();
    assert!(error.is::<Stopped>() && observer.done == 1, "{error} {}", observer.done);
}

/// The thread in which a pass was computed.
struct Computed(Option<ThreadId>);

impl Observer for Computed {
    fn progress(&mut self, _: u64) {
        self.0 = Some(thread::current().id());
    }
}

#[test]
fn little_passes_stay_in_a_pools_thread_and_are_the_same() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for name in MODELS {
        let fixture = open(name, 4096);
        let (sequences, answers) = (&fixture.ragged()[..1], [vec![(1, 2)]]);
        let sites = [Site::ResidPre(1), Site::Z(1), Site::Pattern(0)];
        let forward = Forward { sequences, capture: &sites, ..Forward::default() };
        let backward = Backward { sequences, answers: &answers, sites: &sites };
        let both = || {
            let (mut first, mut second) = (Computed(None), Computed(None));
            let activations = fixture.session.forward(&forward, &mut first).unwrap();
            let gradients = fixture.session.gradients(&backward, &mut second).unwrap();
            let here = Some(thread::current().id());
            (activations, gradients, [first.0 == here, second.0 == here])
        };
        let (activations, gradients, at_hand) = both();
        assert_eq!(at_hand, [false, false], "{name}");
        assert_eq!(pool.install(both), (activations, gradients, [true, true]), "{name}");
    }
}

#[test]
fn texts_are_written_along_what_is_added() {
    let session = Session::open("demo", SessionOptions::default()).unwrap();
    let tokenizer = &session.model().tokenizer;
    let encode = |text: &str| tokenizer.bos().into_iter().chain(tokenizer.encode(text).unwrap()).collect::<Vec<u32>>();
    let prompts = [encode("I thought this movie was"), encode("The film is")];
    let site = Site::ResidPre(1);
    let sampling = Sampling { temperature: 0.0, top_k: 0, max_new_tokens: 3, seed: 0 };
    let vector: Vec<f32> = (0..session.config().d_model).map(|i| 5.0 * (i as f32).cos()).collect();
    let steered = [(site, vector.clone())];
    let asked = Continue { prompts: &prompts, samples: 2, steered: &steered, ends: &[], sampling };
    let texts = session.write(&asked, &mut Silent).unwrap();
    assert_eq!(texts.len(), 4);
    // The same, a whole pass for every token.
    for (number, text) in texts.iter().enumerate() {
        let mut sequence = prompts[number / 2].clone();
        for &token in &text.tokens {
            let places: Vec<(usize, usize)> = (0..sequence.len()).map(|position| (0, position)).collect();
            let change = Change::Add(&vector);
            let edit = Edit { site, part: Part::All, places: Cow::Owned(places), change };
            let forward =
                Forward { sequences: &[sequence.clone()], edits: &[edit], logits: Wanted::Last, ..Forward::default() };
            let logits = session.forward(&forward, &mut Silent).unwrap().logits.unwrap().data;
            let likeliest = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            assert_eq!(token as usize, likeliest);
            sequence.push(token);
        }
        assert_eq!(text.tokens.len(), 3);
    }
}
