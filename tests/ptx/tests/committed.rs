//! The committed files, all of them.

use ptx::Module;
use std::path::Path;

fn texts() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/ptx");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let ptx = files.filter(|path| path.extension().is_some_and(|extension| extension == "ptx"));
    ptx.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap())).collect()
}

#[test]
fn every_instruction_of_the_committed_files_is_known() {
    let texts = texts();
    assert!(texts.len() >= 9, "{} files", texts.len());
    for (path, text) in texts {
        let module = Module::read(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(module.kernels.len(), text.matches(".entry ").count(), "{path}");
        assert!(module.kernels.iter().all(|kernel| kernel.instructions.len() > 10), "{path}");
    }
}
