//! The plane's keys and certificates: one CA that signs every component's certificate, and the service account key.
//!
//! **Architecture invariant**: made in memory and written once; nothing here starts or asks a component.

use std::io;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

/// Longer than any plane lives, shorter than what makes a left-over key interesting.
const LIFETIME: Duration = Duration::days(365);

/// A key or certificate could not be made or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// The crypto library refused.
    #[error("making the plane's certificates: {0}")]
    Crypto(#[from] rcgen::Error),
    /// The state directory could not be written.
    #[error("writing {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// A certificate with its key, both as PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// The CA of one plane.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A fresh CA.
    pub fn generate() -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = params("testbed-ca", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// The CA's certificate as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A client certificate: Kubernetes reads the user from the common name and the group from the organization.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Pair, PkiError> {
        let mut params = params(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// A server certificate for `names`, which may be DNS names or addresses.
    pub fn server(&self, common_name: &str, names: &[&str]) -> Result<Pair, PkiError> {
        let mut params = params(common_name, None);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into()?),
            });
        }
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Pair, PkiError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }
}

fn params(common_name: &str, organization: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name = name;
    // An hour back, so that a clock set right after the start does not make them invalid.
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = params.not_before + LIFETIME;
    params
}

/// Everything a plane's components need, before it is written.
pub struct Pki {
    /// The CA; the front proxy's clients are verified against it too.
    pub authority: Authority,
    /// The API server's serving certificate.
    pub apiserver: Pair,
    /// What the API server shows to aggregated API servers.
    pub front_proxy: Pair,
    /// Signs service account tokens; `certificate` is the public key.
    pub service_account: Pair,
}

impl Pki {
    /// Makes all of it. `addresses` are the API server's own, besides the names it always has.
    pub fn generate(addresses: &[String]) -> Result<Self, PkiError> {
        let authority = Authority::generate()?;
        let mut names = vec![
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "127.0.0.1",
        ];
        names.extend(addresses.iter().map(String::as_str));
        let apiserver = authority.server("kube-apiserver", &names)?;
        let front_proxy = authority.client("front-proxy", None)?;
        let key = KeyPair::generate()?;
        let service_account = Pair { certificate: key.public_key_pem(), key: key.serialize_pem() };
        Ok(Self { authority, apiserver, front_proxy, service_account })
    }

    /// Writes `ca.crt`, `apiserver.{crt,key}`, `front-proxy.{crt,key}` and `sa.{pub,key}` into `folder`.
    pub fn write(&self, folder: &Path) -> Result<(), PkiError> {
        let files = [
            ("ca.crt", self.authority.certificate()),
            ("apiserver.crt", &self.apiserver.certificate),
            ("apiserver.key", &self.apiserver.key),
            ("front-proxy.crt", &self.front_proxy.certificate),
            ("front-proxy.key", &self.front_proxy.key),
            ("sa.pub", &self.service_account.certificate),
            ("sa.key", &self.service_account.key),
        ];
        for (name, text) in files {
            let path = folder.join(name);
            write_private(&path, text).map_err(|source| PkiError::Write { path, source })?;
        }
        Ok(())
    }
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_complete_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("temporary folder");
        let pki = Pki::generate(&["10.245.0.1".to_owned()]).expect("certificates");
        pki.write(folder.path()).expect("written");
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .expect("folder")
            .map(|e| e.expect("entry").file_name().into_string().expect("name"))
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "apiserver.crt",
                "apiserver.key",
                "ca.crt",
                "front-proxy.crt",
                "front-proxy.key",
                "sa.key",
                "sa.pub"
            ]
        );
        let mode = std::fs::metadata(folder.path().join("sa.key")).expect("sa.key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(pki.service_account.certificate.starts_with("-----BEGIN PUBLIC KEY-----"));
    }
}
