//! Writes what every target may be fed to `corpus/<target>/`, where cargo-fuzz begins.

#[path = "../tests/support/targets.rs"]
mod targets;

use std::path::Path;

fn main() -> std::io::Result<()> {
    for (name, target) in targets::ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in target().seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
