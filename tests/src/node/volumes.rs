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
    /// Of a kind that this node has not.
    #[error("volume {0:?} is of a kind that this node does not have (it has configMap, downwardAPI, emptyDir, hostPath, projected and secret)")]
    Unsupported(String),
}

/// What `volume` of `pod` should hold.
pub fn content(pod: &Pod, volume: &Volume, objects: &Objects, addresses: &Addresses) -> Result<Content, VolumeError> {
    let failed = |source| VolumeError::Source { volume: volume.name.clone(), source };
    let mut files = Files::new();
    if volume.empty_dir.is_some() {
        return Ok(Content::Empty);
    } else if let Some(host) = &volume.host_path {
        return Ok(Content::Host(PathBuf::from(&host.path)));
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
                    select("secret", &source.name, data, source.items.as_deref(), optional).map_err(failed)?,
                );
            }
            if let Some(source) = &source.config_map {
                let data = objects.config_maps.get(&source.name).map(config_data);
                let optional = source.optional == Some(true);
                files.extend(
                    select("configmap", &source.name, data, source.items.as_deref(), optional).map_err(failed)?,
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
    let binary = map.binary_data.iter().flatten().map(|(key, ByteString(value))| (key.clone(), value.clone()));
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
    let version = (0u32..)
        .map(|number| format!("..{number}"))
        .find(|name| !at.join(name).exists())
        .ok_or(io::ErrorKind::StorageFull)?;
    let directory = at.join(&version);
    fs::create_dir(&directory)?;
    for (path, bytes) in files {
        let file = directory.join(path);
        file.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(file, bytes)?;
    }
    let next = at.join("..data_next");
    symlink(&version, &next)?;
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
