//! The files of a pod's volumes.
//!
//! **Architecture invariant**: what a volume should hold ([`content`]) is pure; writing it swaps all of a volume's files at
//! once, as a kubelet does, so a reader never sees half of a certificate's renewal.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume};

use super::env::{Addresses, EnvError, field};
use super::objects::{Objects, TokenKey};

/// Files by their path in the volume.
pub type Files = BTreeMap<String, Vec<u8>>;

/// What a volume is on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Kept up to date by the node.
    Files(Files),
    /// Empty at first, then whatever the containers make of it.
    Empty,
    /// A path of the machine.
    Host(PathBuf),
}

/// Why a volume cannot be mounted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum VolumeError {
    /// What it shows is not there.
    #[error("volume {volume:?}: {source}")]
    Source {
        /// Its name.
        volume: String,
        /// What is missing.
        source: EnvError,
    },
    /// The claim leads to no folder.
    #[error(
        "volume {volume:?}: persistentvolumeclaim {claim:?} is not bound to a volume of kind hostPath, the only one that this node can mount"
    )]
    Claim {
        /// Its name.
        volume: String,
        /// The claim's.
        claim: String,
    },
    /// Of a kind that this node has not.
    #[error(
        "volume {0:?} is of a kind that this node does not have (it has configMap, downwardAPI, emptyDir, hostPath, projected, secret, and persistentVolumeClaim)"
    )]
    Unsupported(String),
}

/// What `volume` of `pod` should hold.
pub fn content(
    pod: &Pod,
    volume: &Volume,
    objects: &Objects,
    addresses: &Addresses,
) -> Result<Content, VolumeError> {
    let failed = |source| VolumeError::Source { volume: volume.name.clone(), source };
    let mut files = Files::new();
    if volume.empty_dir.is_some() {
        return Ok(Content::Empty);
    } else if let Some(host) = &volume.host_path {
        return Ok(Content::Host(PathBuf::from(&host.path)));
    } else if let Some(source) = &volume.persistent_volume_claim {
        let unbound = || VolumeError::Claim { volume: volume.name.clone(), claim: source.claim_name.clone() };
        return objects.claims.get(&source.claim_name).cloned().map(Content::Host).ok_or_else(unbound);
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let data = objects.secrets.get(name).map(secret_data);
        let optional = source.optional == Some(true);
        files.extend(select("secret", name, data, source.items.as_deref(), optional).map_err(failed)?);
    } else if let Some(source) = &volume.config_map {
        let data = objects.config_maps.get(&source.name).map(config_data);
        let optional = source.optional == Some(true);
        files.extend(
            select("configmap", &source.name, data, source.items.as_deref(), optional).map_err(failed)?,
        );
    } else if let Some(source) = &volume.downward_api {
        files.extend(downward(pod, source.items.as_deref(), addresses).map_err(failed)?);
    } else if let Some(projected) = &volume.projected {
        for source in projected.sources.iter().flatten() {
            if let Some(source) = &source.secret {
                let data = objects.secrets.get(&source.name).map(secret_data);
                let optional = source.optional == Some(true);
                files.extend(
                    select("secret", &source.name, data, source.items.as_deref(), optional)
                        .map_err(failed)?,
                );
            }
            if let Some(source) = &source.config_map {
                let data = objects.config_maps.get(&source.name).map(config_data);
                let optional = source.optional == Some(true);
                files.extend(
                    select("configmap", &source.name, data, source.items.as_deref(), optional)
                        .map_err(failed)?,
                );
            }
            if let Some(source) = &source.downward_api {
                files.extend(downward(pod, source.items.as_deref(), addresses).map_err(failed)?);
            }
            if let Some(source) = &source.service_account_token {
                let token = objects.tokens.get(&TokenKey::of(source)).cloned().unwrap_or_default();
                files.insert(source.path.clone(), token.into_bytes());
            }
            if source.cluster_trust_bundle.is_some() {
                return Err(VolumeError::Unsupported(volume.name.clone()));
            }
        }
    } else {
        return Err(VolumeError::Unsupported(volume.name.clone()));
    }
    Ok(Content::Files(files))
}

fn secret_data(secret: &Secret) -> Files {
    secret.data.iter().flatten().map(|(key, ByteString(value))| (key.clone(), value.clone())).collect()
}

fn config_data(map: &ConfigMap) -> Files {
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary =
        map.binary_data.iter().flatten().map(|(key, ByteString(value))| (key.clone(), value.clone()));
    text.chain(binary).collect()
}

/// All of `data`, or the `items` of it under their paths.
fn select(
    kind: &'static str,
    name: &str,
    data: Option<Files>,
    items: Option<&[KeyToPath]>,
    optional: bool,
) -> Result<Files, EnvError> {
    let Some(mut data) = data else {
        let missing = EnvError::NotFound { kind, name: name.to_owned() };
        return if optional { Ok(Files::new()) } else { Err(missing) };
    };
    let Some(items) = items.filter(|items| !items.is_empty()) else { return Ok(data) };
    let mut files = Files::new();
    for KeyToPath { key, path, mode: _ } in items {
        match data.remove(key) {
            Some(value) => {
                files.insert(path.clone(), value);
            }
            None if optional => {}
            None => return Err(EnvError::NoKey { kind, name: name.to_owned(), key: key.clone() }),
        }
    }
    Ok(files)
}

fn downward(
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    addresses: &Addresses,
) -> Result<Files, EnvError> {
    let file = |item: &DownwardAPIVolumeFile| match &item.field_ref {
        Some(from) => Ok((item.path.clone(), field(pod, &from.field_path, addresses)?.into_bytes())),
        None => Err(EnvError::Field("resourceFieldRef".into())),
    };
    items.unwrap_or_default().iter().map(file).collect()
}

/// Name of the link that leads to the files that count.
const CURRENT: &str = "..data";

/// Makes the directory `at` hold exactly `files`; says whether that changed anything.
pub fn write(at: &Path, files: &Files) -> io::Result<bool> {
    fs::create_dir_all(at)?;
    let before = fs::read_link(at.join(CURRENT)).ok();
    if before.is_some() && read(&at.join(CURRENT))? == *files {
        return Ok(false);
    }
    // Two names are enough: the one that is not in use is removed at the end of every write.
    let version = if before.as_deref() == Some(Path::new("..0")) { "..1" } else { "..0" };
    let directory = at.join(version);
    fs::create_dir(&directory)?;
    for (path, bytes) in files {
        let file = directory.join(path);
        file.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(file, bytes)?;
    }
    let next = at.join("..data_next");
    symlink(version, &next)?;
    fs::rename(next, at.join(CURRENT))?;

    let shown: BTreeSet<OsString> =
        files.keys().filter_map(|path| path.split('/').next()).map(OsString::from).collect();
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(at)? {
        let name = entry?.file_name();
        if !name.to_string_lossy().starts_with("..") {
            there.insert(name);
        }
    }
    for name in shown.difference(&there) {
        symlink(Path::new(CURRENT).join(name), at.join(name))?;
    }
    for name in there.difference(&shown) {
        fs::remove_file(at.join(name))?;
    }
    if let Some(before) = before {
        fs::remove_dir_all(at.join(before))?;
    }
    Ok(true)
}

/// The files below `at`, by their path in it.
fn read(at: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(at.join(&directory))? {
            let entry = entry?;
            let path = format!("{directory}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                directories.push(path + "/");
            } else {
                files.insert(path, fs::read(entry.path())?);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn content_of(volume: &serde_json::Value) -> Result<Content, VolumeError> {
        let secret = json!({"metadata": {"name": "tls"}, "data": {"crt": "Qw==", "key": "Sw=="}});
        let map = json!({"data": {"text": "t"}, "binaryData": {"raw": "/w=="}});
        let key = TokenKey { audience: String::new(), expiration: 3607 };
        let objects = Objects {
            secrets: [("tls".to_owned(), serde_json::from_value(secret).unwrap())].into(),
            config_maps: [("conf".to_owned(), serde_json::from_value(map).unwrap())].into(),
            claims: [("bound".to_owned(), "/models".into())].into(),
            tokens: [(key, "jwt".to_owned())].into(),
        };
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}}});
        let mut volume = volume.clone();
        volume["name"] = "v".into();
        let addresses = Addresses { pod: "10.0.0.1".into(), host: "10.0.0.2".into() };
        content(
            &serde_json::from_value(pod).unwrap(),
            &serde_json::from_value(volume).unwrap(),
            &objects,
            &addresses,
        )
    }

    #[test]
    fn volumes_hold_what_their_sources_say() {
        let service_account = json!({"projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "conf", "items": [{"key": "text", "path": "deep/ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            {"secret": {"name": "none", "optional": true}},
        ]}});
        for (volume, files) in [
            (json!({"secret": {"secretName": "tls"}}), "crt=C key=K"),
            (json!({"secret": {"secretName": "tls", "items": [{"key": "key", "path": "k"}]}}), "k=K"),
            (json!({"secret": {"secretName": "none", "optional": true}}), ""),
            (json!({"configMap": {"name": "conf", "items": [{"key": "text", "path": "a"}]}}), "a=t"),
            (
                json!({"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
                "l=a=\"b\"",
            ),
            (service_account, "deep/ca.crt=t namespace=ns token=jwt"),
        ] {
            let Content::Files(found) = content_of(&volume).unwrap() else { panic!("{volume}") };
            let found: Vec<_> = found
                .iter()
                .map(|(name, bytes)| format!("{name}={}", String::from_utf8_lossy(bytes)))
                .collect();
            assert_eq!(found.join(" "), files, "{volume}");
        }
        assert_eq!(content_of(&json!({"emptyDir": {}})), Ok(Content::Empty));
        assert_eq!(content_of(&json!({"hostPath": {"path": "/x"}})), Ok(Content::Host("/x".into())));
        let claim = json!({"persistentVolumeClaim": {"claimName": "bound"}});
        assert_eq!(content_of(&claim), Ok(Content::Host("/models".into())));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (volume, problem) in [
            (json!({"secret": {"secretName": "none"}}), "volume \"v\": secret \"none\" not found"),
            (
                json!({"configMap": {"name": "conf", "items": [{"key": "k", "path": "p"}]}}),
                "volume \"v\": couldn't find key k in configmap conf",
            ),
            (
                json!({"persistentVolumeClaim": {"claimName": "c"}}),
                "volume \"v\": persistentvolumeclaim \"c\" is not bound to a volume of kind hostPath",
            ),
            (
                json!({"nfs": {"server": "s", "path": "/"}}),
                "volume \"v\" is of a kind that this node does not have",
            ),
        ] {
            let error = content_of(&volume).unwrap_err().to_string();
            assert!(error.starts_with(problem), "{error}");
        }
    }

    #[test]
    fn files_are_swapped_together_and_only_on_a_difference() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("v");
        let files = |list: &[(&str, &str)]| -> Files {
            list.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
        };
        let versions = [
            files(&[("a", "1"), ("deep/b", "2")]),
            files(&[("a", "3"), ("c", "4")]),
            files(&[]),
            files(&[("deep/b", "5")]),
        ];
        for version in &versions {
            assert!(write(&at, version).unwrap(), "{version:?}");
            assert!(!write(&at, version).unwrap(), "{version:?} is there already");
            assert_eq!(read(&at.join(CURRENT)).unwrap(), *version);
            for (path, bytes) in version {
                assert_eq!(fs::read(at.join(path)).unwrap(), *bytes, "through the link of its own");
            }
            let names = fs::read_dir(&at).unwrap().count();
            let shown =
                version.keys().filter_map(|path| path.split('/').next()).collect::<BTreeSet<_>>().len();
            assert_eq!(names, shown + 2, "nothing of earlier versions is left");
        }
    }
}
