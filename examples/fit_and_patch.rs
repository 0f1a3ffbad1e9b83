//! Fits DAS directions at every layer of the demo model, patches along them, and prints the suite's table.
//!
//! cargo run --release --example fit_and_patch [DATA_DIR]

use actpatch::session::{Session, SessionOptions, Silent};
use actpatch::studies::{FitDirections, PatchingSuite, Study};

fn main() -> anyhow::Result<()> {
    let data_dir = std::env::args().nth(1).unwrap_or_else(|| "data".into()).into();
    let session = Session::open("demo", SessionOptions { data_dir, ..SessionOptions::default() })?;

    let fit = FitDirections { methods: vec!["das".parse()?], ..FitDirections::default() };
    let fits = fit.run(&session, &mut Silent)?;
    println!("{} directions in {}", fits.directions.len(), fits.folder);

    let suite = PatchingSuite { directions: vec!["das_*".into()], ..PatchingSuite::default() };
    for cell in suite.run(&session, &mut Silent)?.cells {
        let percent = cell.percent.map_or("undefined".into(), |percent| format!("{percent:.2} %"));
        println!("{:<30} on {} at {}: {percent}", cell.direction, cell.prompt, cell.position);
    }
    Ok(())
}
