//! Where the control socket of a running arus is.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

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
        let (file, named) = match &self.config {
            Some(file) => (file.as_path(), true),
            None => (Path::new("proxy.toml"), false),
        };
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && !named => String::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        let base = std::path::absolute(file)?;
        let base = base.parent().unwrap_or(Path::new("/"));
        socket_of(&text, base).with_context(|| format!("cannot find the control socket by {}", file.display()))
    }
}

/// Reads only what it needs: a file with an error in it must not keep an operator from asking the running arus.
fn socket_of(text: &str, base: &Path) -> anyhow::Result<PathBuf> {
    let table: toml::Table = text.parse().context("it is no TOML; name the socket with --socket")?;
    let path = |section: &str, key: &str| match table.get(section).and_then(|section| section.get(key)) {
        None => Ok(None),
        Some(toml::Value::String(path)) => Ok(Some(PathBuf::from(path))),
        Some(_) => bail!("{section}.{key} is not a string"),
    };
    let state_dir = match path("engine", "state_dir")? {
        Some(path) => base.join(path),
        None => default_state_dir(),
    };
    Ok(state_dir.join(path("admin", "socket")?.unwrap_or_else(|| "control.sock".into())))
}

/// Where arus keeps its state unless it is told: see `[engine] state_dir` in docs/CONFIG.md.
fn default_state_dir() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0) {
        return "/var/lib/arus".into();
    }
    let state = variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    state.unwrap_or_else(|| ".".into()).join("arus")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn found(text: &str) -> PathBuf {
        socket_of(text, Path::new("/etc/arus")).unwrap()
    }

    #[test]
    fn the_file_names_the_socket() {
        assert_eq!(found(""), default_state_dir().join("control.sock"));
        assert_eq!(found("[engine]\nstate_dir = '/run/x'"), Path::new("/run/x/control.sock"));
        assert_eq!(found("[engine]\nstate_dir = 'x'"), Path::new("/etc/arus/x/control.sock"));
        assert_eq!(found("[engine]\nstate_dir = '/s'\n[admin]\nsocket = 'c'"), Path::new("/s/c"));
        assert_eq!(found("[admin]\nsocket = '/run/c'"), Path::new("/run/c"));
    }

    #[test]
    fn errors_elsewhere_in_the_file_do_not_matter() {
        assert_eq!(found("[engine]\nshards = -1\nstate_dir = '/s'\n[nonsense]\n"), Path::new("/s/control.sock"));
        assert!(socket_of("[engine", Path::new("/")).is_err());
    }

    #[test]
    fn a_named_file_must_exist() {
        let missing = SocketArgs { socket: None, config: Some("/nonexistent/proxy.toml".into()) };
        assert!(missing.find().is_err());
    }
}
