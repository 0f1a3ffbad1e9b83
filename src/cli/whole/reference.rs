//! `completions`, `man`, and the command reference: all made of the same definitions as the help texts.

use crate::cli::command;
use crate::cli::runner::print;
use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;
use std::path::{Path, PathBuf};

/// Arguments of `completions`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  actpatch completions bash > ~/.local/share/bash-completion/completions/actpatch")]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  actpatch man --folder ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Where the pages go: one of the program, and one of every command.
    #[arg(long)]
    folder: PathBuf,
}

/// Prints what completes command lines in a shell.
pub fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "actpatch", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Writes manual pages.
pub fn man(args: &ManArgs) -> Result<()> {
    std::fs::create_dir_all(&args.folder).with_context(|| format!("--folder: {}", args.folder.display()))?;
    let mut command = command();
    command.build();
    pages(&command, "actpatch", &args.folder)
}

fn pages(command: &Command, name: &str, folder: &Path) -> Result<()> {
    let path = folder.join(format!("{name}.1"));
    let mut page = Vec::new();
    let titled = clap_mangen::Man::new(command.clone()).title(name.to_owned());
    titled.render(&mut page).with_context(|| path.display().to_string())?;
    crate::files::write_whole(&path, &page).with_context(|| path.display().to_string())?;
    let commands = command.get_subcommands().filter(|command| command.get_name() != "help");
    commands.into_iter().try_for_each(|command| pages(command, &format!("{name}-{}", command.get_name()), folder))
}

/// The command reference, as Markdown: every command with its help.
pub fn markdown() -> String {
    let mut command = command();
    command.build();
    let mut text =
        "# Commands\n\nWhat `actpatch --help` and `actpatch <command> --help` say, on one page.\n".to_owned();
    sections(&mut command, "actpatch", &mut text);
    text
}

fn sections(command: &mut Command, name: &str, text: &mut String) {
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    *text += &format!("\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end());
    for command in command.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        let name = format!("{name} {}", command.get_name());
        sections(command, &name, text);
    }
}
