//! What a package installs beside the binary: completions and the manual page.

use std::io::{self, Write};

use clap::CommandFactory;

use super::Cli;

/// Print a completion script for a shell
///
/// Example: arus completions bash > /etc/bash_completion.d/arus
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    shell: clap_complete::Shell,
}

/// Print the manual page (roff)
///
/// Example: arus man > /usr/local/share/man/man1/arus.1
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {}

pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    // clap_complete panics on a failed write, so it writes into memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "arus", &mut script);
    Ok(io::stdout().write_all(&script)?)
}

pub(super) fn man(_: &ManArgs) -> anyhow::Result<()> {
    Ok(io::stdout().write_all(&manual()?)?)
}

/// One page: that of arus, with the options and texts of each command as further sections.
fn manual() -> io::Result<Vec<u8>> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        writeln!(page, ".SH \"arus {}\"", subcommand.get_name())?;
        let man = clap_mangen::Man::new(subcommand.clone());
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
    }
    // The sections of a command are parts of its own.
    let page = String::from_utf8_lossy(&page).into_owned();
    let (first, rest) = page.split_once(".SH \"arus ").unwrap_or((&page, ""));
    let rest = rest.replace(".SH DESCRIPTION", ".PP").replace(".SH OPTIONS", ".SS Options");
    let separator = if rest.is_empty() { "" } else { ".SH \"arus " };
    Ok(format!("{first}{separator}{rest}").into_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_every_command() {
        let page = String::from_utf8(manual().unwrap()).unwrap();
        let mut commands = 0;
        for subcommand in Cli::command().get_subcommands() {
            assert!(page.contains(&format!(".SH \"arus {}\"", subcommand.get_name())), "{}", subcommand.get_name());
            commands += 1;
        }
        assert!(commands > 5);
        assert_eq!(page.matches(".SH DESCRIPTION").count(), 1);
    }
}
