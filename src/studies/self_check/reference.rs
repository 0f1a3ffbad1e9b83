//! What the processor computes in f32, in a file: a machine compares with it that would take long to compute it.

use crate::experiments::comparison::Measured;
use crate::files::write_whole;
use crate::session::Provenance;
use anyhow::{Context, Result, anyhow, bail};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::path::Path;

/// Where the file's header says what the values were made of.
const MADE_OF: &str = "made_of";

/// The arrays of a layer and their names.
fn named(measured: &Measured) -> [(&'static str, &Vec<f32>); 5] {
    let Measured { answer_logits, patched, gradient, losses, direction } = measured;
    [
        ("answer_logits", answer_logits),
        ("patched", patched),
        ("gradient", gradient),
        ("losses", losses),
        ("direction", direction),
    ]
}

/// Writes what was measured at each layer.
pub fn write(path: &Path, made_of: &Provenance, layers: &[(usize, Measured)]) -> Result<()> {
    let arrays = layers
        .iter()
        .flat_map(|(layer, measured)| named(measured).map(|(name, values)| (format!("{layer}.{name}"), values)));
    let views: Result<Vec<_>, _> = arrays
        .map(|(name, values)| {
            TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values)).map(|view| (name, view))
        })
        .collect();
    let header = HashMap::from([(MADE_OF.to_owned(), serde_json::to_string(made_of)?)]);
    let bytes = safetensors::serialize(views?, Some(header))?;
    write_whole(path, &bytes).with_context(|| path.display().to_string())
}

/// Reads what was measured at `layers`, if it was made of `wanted`.
pub fn read(path: &Path, wanted: &Provenance, layers: &[usize]) -> Result<Vec<(usize, Measured)>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    values(&bytes, wanted, layers).with_context(|| path.display().to_string())
}

fn values(bytes: &[u8], wanted: &Provenance, layers: &[usize]) -> Result<Vec<(usize, Measured)>> {
    let (_, header) = SafeTensors::read_metadata(bytes).context("not a .safetensors file")?;
    let made_of = header.metadata().as_ref().and_then(|header| header.get(MADE_OF));
    let made_of = made_of.ok_or_else(|| anyhow!("no field {MADE_OF} in its header: self-check has not recorded it"))?;
    let made_of: Provenance = serde_json::from_str(made_of).context(MADE_OF)?;
    if let Some(difference) = wanted.difference(&made_of) {
        bail!("made of something else: {difference}");
    }
    let file = SafeTensors::deserialize(bytes)?;
    let array = |layer: usize, name: &str| -> Result<Vec<f32>> {
        let name = format!("{layer}.{name}");
        let view = file.tensor(&name).map_err(|_| anyhow!("no array {name}: layer {layer} was not recorded"))?;
        if view.dtype() != Dtype::F32 {
            bail!("{name}: expected F32, found {:?}", view.dtype());
        }
        Ok(view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    };
    let measured = |&layer: &usize| {
        let array = |name| array(layer, name);
        let measured = Measured {
            answer_logits: array("answer_logits")?,
            patched: array("patched")?,
            gradient: array("gradient")?,
            losses: array("losses")?,
            direction: array("direction")?,
        };
        Ok((layer, measured))
    };
    layers.iter().map(measured).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn made_of(weights: &str) -> Provenance {
        let settings = BTreeMap::from([("weights".to_owned(), weights.into())]);
        Provenance { study: "self-check".into(), settings }
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_refused_for_another_model_or_layer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("demo.safetensors");
        let measured = Measured {
            answer_logits: vec![1.5, -2.0],
            patched: vec![0.1],
            gradient: vec![1e-30, 3.0, f32::MAX],
            losses: vec![],
            direction: vec![0.5; 4],
        };
        let layers = [(0, measured.clone()), (2, Measured { patched: vec![7.0], ..measured })];
        write(&path, &made_of("a"), &layers).unwrap();
        assert_eq!(read(&path, &made_of("a"), &[0, 2]).unwrap(), layers);
        assert_eq!(read(&path, &made_of("a"), &[2]).unwrap(), layers[1..]);
        let refused =
            |wanted: &str, layers: &[usize]| format!("{:#}", read(&path, &made_of(wanted), layers).unwrap_err());
        assert!(refused("b", &[0]).ends_with("demo.safetensors: made of something else: weights: expected b, found a"));
        assert!(refused("a", &[1]).ends_with("no array 1.answer_logits: layer 1 was not recorded"));
        std::fs::write(
            &path,
            safetensors::serialize([("x", TensorView::new(Dtype::F32, vec![0], &[]).unwrap())], None).unwrap(),
        )
        .unwrap();
        assert!(refused("a", &[0]).contains("no field made_of"));
        std::fs::write(&path, "x").unwrap();
        assert!(refused("a", &[0]).contains("not a .safetensors file"));
    }
}
