//! Cosines of what neurons write with directions.

use crate::model::{Model, ModelError};
use rayon::prelude::*;

/// The cosine of every neuron's row of `W_out` with each direction of unit length: per direction `(n_layers, d_mlp)`. A
/// neuron that writes nothing has a cosine of zero.
///
/// # Errors
/// Those of reading weights, and of `told`, which hears how many layers are done.
pub fn neuron_cosines<E: From<ModelError>>(
    model: &Model,
    directions: &[Vec<f32>],
    mut told: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<Vec<f64>>, E> {
    let mut found = vec![Vec::new(); directions.len()];
    for layer in 0..model.config.n_layers {
        let weight = model.layer(layer)?.mlp_out.weight;
        for (direction, found) in directions.iter().zip(&mut found) {
            let rows = weight.data.par_chunks(weight.cols);
            found.extend(rows.map(|row| cosine(row, direction)).collect::<Vec<f64>>());
        }
        told(layer + 1)?;
    }
    Ok(found)
}

/// The cosine of a vector with one of unit length.
fn cosine(row: &[f32], direction: &[f32]) -> f64 {
    let (dot, squares) = row.iter().zip(direction).fold((0.0, 0.0), |(dot, squares), (x, d)| {
        let (x, d) = (f64::from(*x), f64::from(*d));
        (dot + x * d, squares + x * x)
    });
    if squares > 0.0 { dot / squares.sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cosine_knows_no_length_and_a_silent_neuron_has_none() {
        assert!((cosine(&[3.0, 4.0], &[0.6, 0.8]) - 1.0).abs() < 1e-7);
        assert_eq!((cosine(&[-2.0, 0.0], &[1.0, 0.0]), cosine(&[0.0, 0.0], &[1.0, 0.0])), (-1.0, 0.0));
    }
}
