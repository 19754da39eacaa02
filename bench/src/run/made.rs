//! What the harness makes for the peers: a certificate, and plugins.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::load::SERVER_NAME;

const HEADER: &str = include_str!("../../../c_plugins/arus_plugin.h");
const FILTER: &str = include_str!("../../../c_plugins/filter.c");
const PASS: &str = include_str!("../../peers/pass.c");
/// As `make build-plugin` compiles.
const FLAGS: [&str; 6] = ["-std=c99", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-o"];

/// ECDSA P-256, signed by itself: the load knows it by its bytes.
pub(crate) struct Certificate {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// Both, as HAProxy wants them.
    pub(crate) bundle: PathBuf,
}

impl Certificate {
    pub(crate) fn make(dir: &Path) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let cert = CertificateParams::new([SERVER_NAME.to_owned()])?.self_signed(&key)?;
        let (cert, key) = (cert.pem(), key.serialize_pem());
        let private = |name: &str, text: &str| -> Result<PathBuf> {
            let path = dir.join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            Ok(path)
        };
        Ok(Self {
            cert: private("bench.pem", &cert)?,
            key: private("bench.key", &key)?,
            bundle: private("bundle.pem", &format!("{cert}{key}"))?,
        })
    }
}

/// Plugins of arus, compiled.
pub(crate) struct Plugins {
    /// Passes everything.
    pub(crate) pass: PathBuf,
    /// Leaves each direction at its first bytes.
    pub(crate) detach: PathBuf,
    /// The example `c_plugins/filter.c`.
    pub(crate) filter: PathBuf,
}

impl Plugins {
    pub(crate) fn build(cc: &Path, dir: &Path) -> Result<Self> {
        fs::write(dir.join("arus_plugin.h"), HEADER)?;
        let library = |name: &str, text: &str, define: &str| -> Result<PathBuf> {
            let (source, library) = (dir.join(format!("{name}.c")), dir.join(format!("{name}.so")));
            fs::write(&source, text)?;
            let mut compiler = Command::new(cc);
            compiler.args(FLAGS).arg(&library).arg(define).arg(&source);
            let status = compiler.status().with_context(|| cc.display().to_string())?;
            ensure!(status.success(), "{name}.c does not compile");
            // arus takes no library that others may write to, whatever the umask here.
            fs::set_permissions(&library, fs::Permissions::from_mode(0o755))?;
            Ok(library)
        };
        Ok(Self {
            pass: library("pass", PASS, "-DANSWER=ARUS_OK")?,
            detach: library("detach", PASS, "-DANSWER=ARUS_DETACH")?,
            filter: library("filter", FILTER, "-DNDEBUG")?,
        })
    }
}
