//! Certificates for tests: an authority, and what it signs, as PEM files in a directory of the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, RsaKeySize};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The key of a certificate, and how its file says it. SEC1 and PKCS#1 need the openssl program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// P-256 as PKCS#8.
    Ecdsa,
    /// P-256 as SEC1, `BEGIN EC PRIVATE KEY`.
    EcdsaSec1,
    /// 2,048 bits as PKCS#8.
    Rsa,
    /// 2,048 bits as PKCS#1, `BEGIN RSA PRIVATE KEY`.
    RsaPkcs1,
}

/// A certificate and its key, each in a file.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pair {
    /// The leaf certificate, to tell one from another.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.cert).unwrap()
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(&self.cert).unwrap().map(Result::unwrap).collect()
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).unwrap()
    }

    /// Both in one file, as HAProxy wants them.
    pub(crate) fn bundle(&self) -> PathBuf {
        let path = self.cert.with_extension("bundle.pem");
        let (mut text, key) = (fs::read_to_string(&self.cert).unwrap(), fs::read_to_string(&self.key).unwrap());
        text.push_str(&key);
        write_private(&path, &text);
        path
    }

    /// `{ cert = "...", key = "..." }`, as the configuration has it.
    pub(crate) fn toml(&self) -> String {
        format!("{{ cert = {:?}, key = {:?} }}", self.cert, self.key)
    }

    /// Overwrites these files with the content of another pair, each by a rename.
    pub(crate) fn become_like(&self, other: &Self) {
        for (from, to) in [(&other.cert, &self.cert), (&other.key, &self.key)] {
            let new = to.with_extension("new");
            write_private(&new, &fs::read_to_string(from).unwrap());
            fs::rename(&new, to).unwrap();
        }
    }
}

/// A certificate authority.
pub(crate) struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    cert: PathBuf,
}

impl Authority {
    /// With its certificate in `NAME.pem` of the directory.
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let cert = directory.join(format!("{name}.pem"));
        fs::write(&cert, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { directory: directory.into(), issuer: Issuer::new(params, key), cert }
    }

    /// Its certificate.
    pub(crate) fn cert(&self) -> &Path {
        &self.cert
    }

    pub(crate) fn roots(&self) -> Arc<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.cert).unwrap()).unwrap();
        Arc::new(roots)
    }

    /// A server's certificate for names and addresses, in `FILE.pem` and `FILE.key`.
    pub(crate) fn server(&self, file: &str, names: &[&str], key: Key) -> Pair {
        self.sign(file, named(names[0], names), ExtendedKeyUsagePurpose::ServerAuth, key)
    }

    /// A server's certificate that runs out after so many days, and half a day.
    pub(crate) fn ending(&self, file: &str, names: &[&str], days: u64) -> Pair {
        let mut params = named(names[0], names);
        params.not_after = (SystemTime::now() + Duration::from_secs((2 * days + 1) * 12 * 60 * 60)).into();
        self.sign(file, params, ExtendedKeyUsagePurpose::ServerAuth, Key::Ecdsa)
    }

    /// A server's certificate that has run out.
    pub(crate) fn expired(&self, file: &str, names: &[&str]) -> Pair {
        let mut params = named(names[0], names);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        self.sign(file, params, ExtendedKeyUsagePurpose::ServerAuth, Key::Ecdsa)
    }

    /// A client's certificate with this common name.
    pub(crate) fn client(&self, name: &str) -> Pair {
        self.sign(&format!("client-{name}"), named(name, &[]), ExtendedKeyUsagePurpose::ClientAuth, Key::Ecdsa)
    }

    fn sign(&self, file: &str, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose, key: Key) -> Pair {
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let pair = match key {
            Key::Ecdsa | Key::EcdsaSec1 => KeyPair::generate(),
            Key::Rsa | Key::RsaPkcs1 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
        };
        let pair = pair.unwrap();
        let at = |extension: &str| self.directory.join(format!("{file}.{extension}"));
        let files = Pair { cert: at("pem"), key: at("key") };
        fs::write(&files.cert, params.signed_by(&pair, &self.issuer).unwrap().pem()).unwrap();
        write_private(&files.key, &pair.serialize_pem());
        if matches!(key, Key::EcdsaSec1 | Key::RsaPkcs1) {
            make_traditional(&files.key);
        }
        files
    }
}

fn named(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

/// Readable by its owner alone, as keys should be.
fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// From PKCS#8 to the form of its kind.
fn make_traditional(key: &Path) {
    let mut command = Command::new("openssl");
    let output = command.arg("pkey").arg("-traditional").arg("-in").arg(key).output().unwrap();
    assert!(output.status.success(), "openssl pkey: {}", String::from_utf8_lossy(&output.stderr));
    write_private(key, &String::from_utf8(output.stdout).unwrap());
}
