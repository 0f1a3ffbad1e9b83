//! The command line: see `actpatch --help`.

fn main() -> std::process::ExitCode {
    actpatch::cli::main()
}
