//! The command reference, manual pages and completions: made of the program's own definitions.

use super::*;

/// `docs/cli.md`; with ACTPATCH_DOCS=write it is written.
#[test]
fn the_command_reference_is_what_help_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let reference = actpatch::cli::reference();
    if std::env::var_os("ACTPATCH_DOCS").is_some_and(|value| value == "write") {
        std::fs::write(&path, &reference).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == reference, "docs/cli.md is stale: ACTPATCH_DOCS=write cargo test --test cli reference");
}

#[test]
fn every_command_has_a_manual_page_and_is_completed() {
    let folder = tempfile::tempdir().unwrap();
    finish(actpatch(&["man", "--folder"]).arg(folder.path())).success();
    let pages = all_files(folder.path());
    for page in ["actpatch.1", "actpatch-path-patching.1", "actpatch-directions-import.1"] {
        let text = String::from_utf8_lossy(&pages[Path::new(page)]).into_owned();
        assert!(text.starts_with(".ie") || text.contains(".TH"), "{page}: {text}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = finish(&mut actpatch(&["completions", shell])).success().stdout;
        assert!(script.contains("path-patching") && script.contains("senders"), "{shell}");
    }
    finish(&mut actpatch(&["completions", "csh"])).fails(2, &["csh", "zsh"]);
}
