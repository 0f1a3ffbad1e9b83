//! A sweep that says how it comes along, is stopped half way, and goes on where it was.
//!
//! cargo run --release --example observed_sweep [DATA_DIR]

use actpatch::session::{Note, Observer, Session, SessionOptions, Stopped};
use actpatch::studies::{ActivationPatchingMaps, Study};

/// Prints every piece of work, and wants to stop after a number of values.
struct Watcher {
    most: u64,
    done: u64,
}

impl Observer for Watcher {
    fn begin(&mut self, what: &str, total: u64) {
        println!("{what}{}", if total > 0 { format!(": {total} steps") } else { String::new() });
    }

    fn progress(&mut self, done: u64) {
        self.done = done;
        println!("  {done} done");
    }

    fn note(&mut self, note: &Note) {
        println!("{note}");
    }

    fn cancelled(&self) -> bool {
        self.done >= self.most
    }
}

fn main() -> anyhow::Result<()> {
    let data_dir = std::env::args().nth(1).unwrap_or_else(|| "data".into()).into();
    // Every value again, so that there is something to stop.
    let options = SessionOptions { data_dir, overwrite: true, ..SessionOptions::default() };
    let session = Session::open("demo", options)?;
    let maps = vec!["z_by_position".parse()?];
    let study = ActivationPatchingMaps { maps, ..ActivationPatchingMaps::default() };

    let stopped = study.run(&session, &mut Watcher { most: 200, done: 0 });
    match stopped.as_ref().err().and_then(|error| error.downcast_ref::<Stopped>()) {
        Some(stopped) => println!("{stopped}"),
        None => drop(stopped?),
    }
    let session = session.with(|options| options.overwrite = false)?;
    let maps = study.run(&session, &mut Watcher { most: u64::MAX, done: 0 })?;
    println!("{} values of {}", maps.maps[0].map.values.len(), maps.maps[0].stem);
    Ok(())
}
