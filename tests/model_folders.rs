//! Model folders of every kind, against what transformers makes of them: logits, token ids, BOS and ends, or a refusal.
//!
//! tests/reference/make_model_folders.py drew them. ACTPATCH_FOLDERS names another folder of such folders to read instead.

mod support;

use actpatch::backend::{Backend, CpuBackend, Dtype};
use actpatch::engine::{Engine, Output, Resume, Run, Site};
use actpatch::model::WeightProcessing;
use actpatch::types::Matrix;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use support::load;

/// Logits of order 1 to 10 in f32 through up to four blocks, beside f64 (beside f32 where transformers computes in f32 only).
const TOLERANCE: f32 = 1e-4;

/// What transformers makes of a folder.
#[derive(Deserialize)]
struct Expected {
    /// Why transformers does not load it, or why it should not be loaded.
    refused: Option<String>,
    sequences: Vec<Vec<u32>>,
    /// Of every sequence's last token.
    #[serde(default)]
    logits: Vec<Vec<f32>>,
    /// Of the second sequence's last logit of token 1 minus token 2, to its embedded tokens.
    #[serde(default)]
    gradient: Vec<f32>,
    #[serde(default)]
    texts: Vec<String>,
    /// Of the texts, without special tokens.
    #[serde(default)]
    ids: Vec<Vec<u32>>,
    bos: Option<u32>,
    #[serde(default)]
    ends: Vec<u32>,
}

fn folders() -> Vec<PathBuf> {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/folders");
    let root = std::env::var_os("ACTPATCH_FOLDERS").map_or(committed, PathBuf::from);
    let entries = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.join("expected.json").is_file()).collect();
    folders.sort();
    assert!(folders.len() >= 30, "{} folders", folders.len());
    folders
}

type CpuEngine = Engine<CpuBackend>;

fn engine(folder: &Path, processing: WeightProcessing) -> Result<CpuEngine, String> {
    let model = load(folder, processing).map_err(|error| error.to_string())?;
    Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).map_err(|error| error.to_string())
}

fn rows(run: &Run<CpuBackend>) -> Vec<Vec<f32>> {
    let values = &run.logits().unwrap().values;
    (0..values.rows).map(|row| values.row(row).to_vec()).collect()
}

/// Logits of every sequence's last token.
fn logits(engine: &CpuEngine, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, String> {
    engine.run(sequences, &[], &[], Output::Last).map(|run| rows(&run)).map_err(|error| error.to_string())
}

/// The same, of rows that start in the middle of the last block's input, behind captured keys and values.
fn resumed_logits(engine: &CpuEngine, sequences: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let layer = engine.config().n_layers - 1;
    let starts: Vec<usize> = sequences.iter().map(|sequence| sequence.len() / 2).collect();
    let run = engine.run(sequences, &[Site::ResidPre(layer)], &starts, Output::None).unwrap();
    let resume = Resume { run: &run, layer, rows: &starts.into_iter().enumerate().collect::<Vec<_>>() };
    rows(&engine.resume(&resume, &[], &[], Output::Last).unwrap())
}

/// The gradient of a sequence's last logit of token 1 minus token 2 to the first block's input.
fn gradient(engine: &CpuEngine, sequence: &[u32]) -> Vec<f32> {
    let run = engine.run(&[sequence.to_vec()], &[Site::ResidPre(0)], &[], Output::None).unwrap();
    let resume = Resume { run: &run, layer: 0, rows: &[(0, 0)] };
    let columns = engine.answer_columns(&[1, 2]).unwrap();
    let output = Output::Answers(&columns);
    let (_, tape) = engine.resume_with_tape(&resume, &[], output).unwrap();
    let d_logits = Matrix::new(1, 2, vec![1.0, -1.0]);
    engine.backend().download(&engine.backward(&resume, &tape, &columns, &d_logits).unwrap()).unwrap()
}

/// The largest difference between two tables.
fn difference(left: &[Vec<f32>], right: &[Vec<f32>]) -> f32 {
    assert_eq!(left.iter().map(Vec::len).collect::<Vec<_>>(), right.iter().map(Vec::len).collect::<Vec<_>>());
    let pairs = left.iter().flatten().zip(right.iter().flatten());
    pairs.map(|(l, r)| if l.is_finite() { (l - r).abs() } else { f32::INFINITY }).fold(0.0, f32::max)
}

/// Rows without their mean, which `center_unembed` takes away.
fn centred(rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mean = |row: &[f32]| row.iter().sum::<f32>() / row.len() as f32;
    rows.iter().map(|row| row.iter().map(|value| value - mean(row)).collect()).collect()
}

/// What is wrong with our reading of a folder, and how far the logits are off.
fn check(folder: &Path) -> Result<f32, String> {
    let expected: Expected =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).map_err(|e| e.to_string())?;
    let loaded = load(folder, WeightProcessing::none());
    if let Some(reason) = &expected.refused {
        return match loaded {
            Ok(_) => Err(format!("loaded, but transformers says: {reason}")),
            Err(error) if error.to_string().contains("json: field `") => Ok(0.0),
            Err(error) if error.to_string().contains(": tensor `") => Ok(0.0),
            Err(error) => Err(format!("refused without a field or a tensor: {error}")),
        };
    }
    let model = loaded.map_err(|error| error.to_string())?;
    let tokenizer = &model.tokenizer;
    let same = |what: &str, found: &dyn std::fmt::Debug, right: &dyn std::fmt::Debug| {
        let (found, right) = (format!("{found:?}"), format!("{right:?}"));
        if found == right { Ok(()) } else { Err(format!("{what}: found {found}, transformers has {right}")) }
    };
    for (text, ids) in expected.texts.iter().zip(&expected.ids) {
        let found = tokenizer.encode(text).map_err(|error| error.to_string())?;
        same(text, &found, ids)?;
    }
    same("BOS", &tokenizer.bos(), &expected.bos)?;
    same("recorded BOS", &model.provenance.bos_choice.as_ref().unwrap().token, &expected.bos)?;
    same("ends", &tokenizer.ends(), &expected.ends)?;
    let plain = engine(folder, WeightProcessing::none())?;
    let processed = engine(folder, WeightProcessing::processed())?;
    let largest = expected.gradient.iter().map(|value| value.abs()).fold(1.0, f32::max);
    let scaled = |values: Vec<f32>| vec![values.into_iter().map(|value| value / largest).collect::<Vec<f32>>()];
    let differences = [
        difference(&logits(&plain, &expected.sequences)?, &expected.logits),
        difference(&resumed_logits(&plain, &expected.sequences), &expected.logits),
        difference(&centred(&logits(&processed, &expected.sequences)?), &centred(&expected.logits)),
        difference(&scaled(gradient(&plain, &expected.sequences[1])), &scaled(expected.gradient.clone())),
    ];
    if differences.iter().any(|difference| *difference > TOLERANCE) {
        return Err(format!("whole, resumed, processed logits and gradient are off by {differences:?}"));
    }
    Ok(differences.into_iter().fold(0.0, f32::max))
}

#[test]
fn folders_mean_what_they_mean_to_transformers() {
    let (mut wrong, mut worst, folders) = (Vec::new(), 0.0f32, folders());
    for folder in &folders {
        match check(folder) {
            Ok(difference) => worst = worst.max(difference),
            Err(what) => wrong.push(format!("{}: {what}", folder.file_name().unwrap().display())),
        }
    }
    println!("{} folders, logits and gradients within {worst:e}", folders.len());
    assert!(wrong.is_empty(), "{} of {} folders:\n{}", wrong.len(), folders.len(), wrong.join("\n"));
}
