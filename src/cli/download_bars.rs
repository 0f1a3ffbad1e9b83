//! Progress bars of downloads from the Hub.

use super::runner::bar;
use crate::model::hub::{Observer, Progress};
use indicatif::ProgressBar;
use std::sync::{Mutex, PoisonError};

/// Shows each file as it comes.
pub fn download_bars() -> Observer {
    let current: Mutex<Option<(String, ProgressBar)>> = Mutex::default();
    Observer::new(move |Progress { file, bytes, total }| {
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, bar) = match current.take() {
            Some((name, bar)) if name == file => current.insert((name, bar)),
            _ => current.insert((file.to_owned(), bar(0, &format!("downloading {file}")))),
        };
        bar.set_length(total);
        bar.set_position(bytes);
        if bytes == total {
            bar.finish_and_clear();
            *current = None;
        }
    })
}
