//! Which heads restore the logit difference? Patches the output of every head on its own, and names the strongest.
//!
//! cargo run --release --example head_map [MODEL [DATA_DIR]]

use actpatch::session::{Session, SessionOptions, Silent};
use actpatch::studies::{ActivationPatchingMaps, Study};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| "demo".into());
    let data_dir = arguments.next().unwrap_or_else(|| "data".into()).into();
    let session = Session::open(&model, SessionOptions { data_dir, ..SessionOptions::default() })?;

    let study = ActivationPatchingMaps { maps: vec!["z".parse()?], ..Default::default() };
    for named in study.run(&session, &mut Silent)?.maps {
        println!("{}: {:?} values in {}", named.stem, named.map.shape, named.map.unit);
        for index in named.map.by_size().into_iter().take(5) {
            println!("  {:>6}  {:7.2}", named.map.labels(index).join("."), named.map.values[index]);
        }
    }
    Ok(())
}
