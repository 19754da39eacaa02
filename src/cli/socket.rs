//! Where the control socket of a running arus is.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::config::{self, Environment, Source};

/// Which arus is meant.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(super) struct SocketArgs {
    /// Control socket of the running arus [default: as the configuration says]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Configuration file that names the control socket [default: ./proxy.toml where there is one]
    #[arg(short, long, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
}

impl SocketArgs {
    /// # Errors
    /// When the file that was named cannot be read, or is no TOML.
    pub(super) fn find(&self) -> anyhow::Result<PathBuf> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let environment = Environment::detect();
        let source = config::locate(self.config.as_deref());
        match (config::load(&source, &environment), source) {
            (Ok(loaded), _) => Ok(loaded.plan.admin.socket),
            (Err(_), Source::File(file)) => {
                let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
                let base = environment.directory.join(file.parent().unwrap_or(Path::new("")));
                socket_of(&text, &base, &environment.state_dir())
                    .with_context(|| format!("cannot find the control socket by {}", file.display()))
            }
            (Err(errors), Source::Example) => Err(errors.into()),
        }
    }
}

/// Reads no more than it needs: a file with an error in it must not keep an operator from asking the running arus.
fn socket_of(text: &str, base: &Path, state_dir: &Path) -> anyhow::Result<PathBuf> {
    let table: toml::Table = text.parse().context("it is no TOML; name the socket with --socket")?;
    let path = |section: &str, key: &str| match table.get(section).and_then(|section| section.get(key)) {
        None => Ok(None),
        Some(toml::Value::String(path)) => Ok(Some(PathBuf::from(path))),
        Some(_) => bail!("{section}.{key} is not a string"),
    };
    let state_dir = path("engine", "state_dir")?.map_or_else(|| state_dir.to_path_buf(), |path| base.join(path));
    Ok(state_dir.join(path("admin", "socket")?.unwrap_or_else(|| "control.sock".into())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn found(text: &str) -> PathBuf {
        socket_of(text, Path::new("/etc/arus"), Path::new("/var/lib/arus")).unwrap()
    }

    #[test]
    fn a_file_with_errors_still_names_the_socket() {
        assert_eq!(found("nonsense = 1"), Path::new("/var/lib/arus/control.sock"));
        assert_eq!(found("[engine]\nshards = -1\nstate_dir = '/run/x'"), Path::new("/run/x/control.sock"));
        assert_eq!(found("[engine]\nstate_dir = 'x'"), Path::new("/etc/arus/x/control.sock"));
        assert_eq!(found("[engine]\nstate_dir = '/s'\n[admin]\nsocket = 'c'"), Path::new("/s/c"));
        assert_eq!(found("[admin]\nsocket = '/run/c'"), Path::new("/run/c"));
        assert!(socket_of("[engine", Path::new("/"), Path::new("/")).is_err());
    }

    #[test]
    fn what_a_good_file_names_and_the_quick_reading_agree() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("proxy.toml");
        let text = format!("[engine]\nstate_dir = 'state'\n{}", config::EXAMPLE.replace("[engine]", ""));
        std::fs::write(&file, &text).unwrap();
        let args = SocketArgs { socket: None, config: Some(file) };
        assert_eq!(args.find().unwrap(), directory.path().join("state/control.sock"));
        assert_eq!(socket_of(&text, directory.path(), Path::new("/")).unwrap(), args.find().unwrap());
    }

    #[test]
    fn a_named_file_must_exist() {
        let missing = SocketArgs { socket: None, config: Some("/nonexistent/proxy.toml".into()) };
        assert!(missing.find().is_err());
    }
}
