//! Passes over tokens that Python has in hand: arguments and outcomes as flat arrays.

use actpatch::engine::{EngineError, Part, Site};
use actpatch::session::{Change, Edit, Fault, Session, Wanted};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use std::borrow::Cow;

/// An edit as Python writes it: hook name, head, neuron, (n, 2) places, operation, values, basis.
pub type EditArguments<'py> = (
    String,
    Option<usize>,
    Option<usize>,
    PyReadonlyArray2<'py, i64>,
    String,
    Option<PyReadonlyArray1<'py, f32>>,
    Option<PyReadonlyArray1<'py, f32>>,
);

/// Sequences of which only the tokens and the lengths are given.
pub fn sequences(tokens: &[i64], lengths: &[usize]) -> anyhow::Result<Vec<Vec<u32>>> {
    if lengths.iter().sum::<usize>() != tokens.len() {
        let message = format!("expected {} tokens, found {}", lengths.iter().sum::<usize>(), tokens.len());
        return Err(Fault::of("tokens", message).into());
    }
    let mut left = tokens;
    let mut all = Vec::with_capacity(lengths.len());
    for &length in lengths {
        let (own, rest) = left.split_at(length);
        all.push(own.iter().map(|&token| id(token)).collect::<Result<_, Fault>>()?);
        left = rest;
    }
    Ok(all)
}

fn id(token: i64) -> Result<u32, Fault> {
    u32::try_from(token).map_err(|_| Fault::of("tokens", format!("expected the number of a token, found {token}")))
}

/// The sites of these hook names.
pub fn sites(session: &Session, names: &[String]) -> Result<Vec<Site>, EngineError> {
    names.iter().map(|name| session.site(name)).collect()
}

/// The values of an array that lies in one piece, as the Python layer sends them.
pub fn slice<'a, T: numpy::Element>(array: &'a PyReadonlyArray1<'_, T>) -> PyResult<&'a [T]> {
    Ok(array.as_slice()?)
}

/// The library's edit.
pub fn edit<'a>(session: &Session, arguments: &'a EditArguments<'_>) -> PyResult<anyhow::Result<Edit<'a>>> {
    let (site, head, neuron, places, operation, values, basis) = arguments;
    let values = values.as_ref().map(slice).transpose()?.unwrap_or_default();
    let basis = basis.as_ref().map(slice).transpose()?.unwrap_or_default();
    let place = |row: numpy::ndarray::ArrayView1<'_, i64>| {
        let at = |number: i64| {
            let message = || format!("expected a number from 0 on, found {number}");
            usize::try_from(number).map_err(|_| Fault::of("positions", message()))
        };
        Ok((at(row[0])?, at(row[1])?))
    };
    let places = places.as_array().rows().into_iter().map(place).collect::<Result<Vec<_>, Fault>>();
    let part = match (head, neuron) {
        (Some(head), _) => Part::Head(*head),
        (None, Some(neuron)) => Part::Neuron(*neuron),
        (None, None) => Part::All,
    };
    let change = match operation.as_str() {
        "replace" => Change::Replace(values),
        "add" => Change::Add(values),
        "swap" => Change::Swap { values, basis },
        _ => Change::Zero,
    };
    let edit = || Ok(Edit { site: session.site(site)?, part, places: Cow::Owned(places?), change });
    Ok(edit())
}

/// Which logits are wanted.
pub fn wanted(logits: &str) -> Result<Wanted, Fault> {
    match logits {
        "none" => Ok(Wanted::Nothing),
        "last" => Ok(Wanted::Last),
        "all" => Ok(Wanted::All),
        other => Err(Fault::of("logits", format!("expected \"all\", \"last\" or None, found {other:?}"))),
    }
}

/// Values of sites as Python gets them, moved.
pub fn arrays<'py>(py: Python<'py>, sites: Vec<(Site, Vec<f32>)>) -> Vec<Bound<'py, PyArray1<f32>>> {
    sites.into_iter().map(|(_, values)| values.into_pyarray(py)).collect()
}
