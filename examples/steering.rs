//! Writes texts while a fitted direction is added to the residual stream.
//!
//! cargo run --release --example steering [DATA_DIR]

use actpatch::session::{Session, SessionOptions, Silent};
use actpatch::studies::{FitDirections, Steering, Study};

fn main() -> anyhow::Result<()> {
    let data_dir = std::env::args().nth(1).unwrap_or_else(|| "data".into()).into();
    let session = Session::open("demo", SessionOptions { data_dir, ..SessionOptions::default() })?;
    let (methods, layers) = (vec!["mean_diff".parse()?], vec!["1".into()]);
    FitDirections { methods, layers, ..FitDirections::default() }.run(&session, &mut Silent)?;

    let steering = Steering {
        directions: vec!["mean_diff_simple_train_ADJ_layer1".into()],
        coefficients: vec!["-8..8:8".parse()?],
        prompt: vec!["I thought this movie was".into()],
        temperature: 0.0,
        max_new_tokens: 8,
        ..Steering::default()
    };
    for written in steering.run(&session, &mut Silent)?.directions.iter().flat_map(|direction| &direction.texts) {
        println!("{:>4}: {}{}", written.coefficient, written.prompt, written.text.replace('\n', " "));
    }
    Ok(())
}
