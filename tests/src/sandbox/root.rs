//! A root file system for one container: that of its image, or of the node, with its own mounts in it.
//!
//! A tmpfs with every entry of that root bound into it, so that a mount point like `/certs` can be made. A mount point
//! that is missing deeper down is made by *shadowing* its nearest existing directory: a tmpfs over it into which the
//! directory's entries are bound again.
//!
//! **Architecture invariant**: nothing of the node's own files, or of the image's, is created, changed or removed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::StatVfsMountFlags;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change, mount_remount,
};
use serde::{Deserialize, Serialize};

/// Something that shows up in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, in the container.
    pub target: PathBuf,
    /// A file or directory of the node; none is an empty tmpfs.
    pub source: Option<PathBuf>,
    /// Whether the container may only read it.
    pub read_only: bool,
}

/// Whose files lie at a path of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ground {
    /// A tmpfs of this container, or a volume: mount points may be made.
    Own,
    /// The image's, or the node's.
    Image,
}

/// A root under construction.
#[derive(Debug)]
pub struct Root {
    at: PathBuf,
    /// Whose entries it has: the folder with an image's files, or the node's own root.
    image: PathBuf,
    ground: BTreeMap<PathBuf, Ground>,
}

/// A symbolic link chain this long is a loop, as in the kernel.
const MAX_LINKS: usize = 40;

impl Root {
    /// Starts one on the empty directory `at`, with everything of the node in it but for `/tmp` and `/dev/shm`, which are
    /// the container's own; or with the files of an image and nothing else, but for what every container is given.
    pub fn build(at: &Path, image: Option<&Path>) -> anyhow::Result<Self> {
        let (given, own): (&[_], &[_]) = match image {
            Some(_) => (&["/dev", "/proc", "/sys"], &[]),
            None => (&[], &["/tmp", "/dev/shm"]),
        };
        let image = image.unwrap_or(Path::new("/")).to_owned();
        let mut root = Self { at: at.to_owned(), image, ground: BTreeMap::new() };
        root.shadow(Path::new("/"))?;
        for target in given.iter().map(PathBuf::from) {
            root.mount(Mount { source: Some(target.clone()), target, read_only: false })?;
        }
        for target in own {
            root.mount(Mount { target: target.into(), source: None, read_only: false })?;
        }
        Ok(root)
    }

    /// Makes the node's `program` reachable whatever is mounted over its directory, and says where.
    pub fn program(&mut self, program: &Path) -> anyhow::Result<PathBuf> {
        let name = program.file_name().context("a program needs a file name")?;
        let target = Path::new("/.image").join(name);
        let mount = Mount { target: target.clone(), source: Some(program.to_owned()), read_only: false };
        self.mount(mount)?;
        Ok(target)
    }

    /// Mounts all, outer mount points before those inside of them.
    pub fn mount_all(&mut self, mut mounts: Vec<Mount>) -> anyhow::Result<()> {
        mounts.sort_by(|a, b| a.target.cmp(&b.target));
        mounts.into_iter().try_for_each(|mount| self.mount(mount))
    }

    /// Makes sure that `target` is a directory.
    pub fn directory(&mut self, target: &Path) -> anyhow::Result<()> {
        self.place(target, true).map(drop)
    }

    /// Makes this the root of the calling process.
    pub fn enter(self) -> anyhow::Result<()> {
        rustix::process::chroot(&self.at).context("entering the container's root")
    }

    fn mount(&mut self, one: Mount) -> anyhow::Result<()> {
        let Mount { target, source, read_only } = one;
        let shown = target.display().to_string();
        let directory = match &source {
            Some(source) => {
                fs::metadata(source).with_context(|| format!("{} for {shown}", source.display()))?.is_dir()
            }
            None => true,
        };
        let place = self.place(&target, directory).with_context(|| format!("mount point {shown}"))?;
        let full = self.full(&place);
        match source {
            Some(source) => mount_bind_recursive(&source, &full),
            None => mount("tmpfs", &full, "tmpfs", MountFlags::empty(), Some(c"mode=1777")),
        }
        .with_context(|| format!("mounting {shown}"))?;
        if read_only {
            set_read_only(&full).with_context(|| format!("making {shown} read-only"))?;
        }
        self.ground.insert(place, Ground::Own);
        Ok(())
    }

    /// The path without links at which `target` is, made if it is missing.
    fn place(&mut self, target: &Path, directory: bool) -> anyhow::Result<PathBuf> {
        let (base, missing) = resolve(&self.at, target)?;
        if missing.is_empty() {
            if self.full(&base).is_dir() != directory {
                bail!("{} is {}", base.display(), if directory { "not a directory" } else { "a directory" });
            }
            return Ok(base);
        }
        if ground(&self.ground, &base) == Ground::Image {
            self.shadow(&base)?;
        }
        let place = missing.iter().fold(base, |path, name| path.join(name));
        let full = self.full(&place);
        if directory {
            fs::create_dir_all(&full)?;
        } else {
            full.parent().map_or(Ok(()), fs::create_dir_all)?;
            File::create(&full)?;
        }
        Ok(place)
    }

    /// Lays a tmpfs over the image's directory `path` and binds its entries into it.
    fn shadow(&mut self, path: &Path) -> anyhow::Result<()> {
        let over = self.full(path);
        mount("tmpfs", &over, "tmpfs", MountFlags::empty(), Some(c"mode=0755"))
            .with_context(|| format!("shadowing {}", path.display()))?;
        // The root lies in a directory that is bound into it: without this it would hold a copy of itself.
        mount_change(&over, MountPropagationFlags::UNBINDABLE)?;
        self.ground.insert(path.to_owned(), Ground::Own);
        for entry in fs::read_dir(below(&self.image, path))? {
            let entry = entry?;
            // What cannot be bound (a stale mount, an entry that has just gone) is missing in the container.
            if bind_entry(&entry, &over.join(entry.file_name())).is_ok() {
                self.ground.insert(path.join(entry.file_name()), Ground::Image);
            }
        }
        Ok(())
    }

    fn full(&self, path: &Path) -> PathBuf {
        below(&self.at, path)
    }
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn bind_entry(entry: &fs::DirEntry, to: &Path) -> io::Result<()> {
    let from = entry.path();
    let kind = entry.file_type()?;
    if kind.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(&from)?, to);
    }
    if kind.is_dir() {
        fs::create_dir(to)?;
    } else {
        File::create(to)?;
    }
    Ok(mount_bind_recursive(&from, to)?)
}

/// Flags that the mount already has must be stated again: in a user namespace they cannot be dropped.
fn set_read_only(path: &Path) -> io::Result<()> {
    let has = rustix::fs::statvfs(path)?.f_flag;
    let kept = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    let flags = kept
        .iter()
        .filter(|(has_flag, _)| has.contains(*has_flag))
        .fold(MountFlags::BIND | MountFlags::RDONLY, |flags, (_, flag)| flags | *flag);
    Ok(mount_remount(path, flags, "")?)
}

/// Whose `path` is: what the nearest entry above it says.
fn ground(known: &BTreeMap<PathBuf, Ground>, path: &Path) -> Ground {
    path.ancestors().find_map(|above| known.get(above)).copied().unwrap_or(Ground::Image)
}

/// Follows `path` below `root` as a process would whose root that is: the part that exists, without links in it, and the
/// names that are missing.
fn resolve(root: &Path, path: &Path) -> anyhow::Result<(PathBuf, Vec<OsString>)> {
    let mut found = PathBuf::from("/");
    let mut left = components(path);
    let mut links = 0;
    while let Some(name) = left.pop() {
        if name == ".." {
            found.pop();
            continue;
        }
        let next = found.join(&name);
        let full = below(root, &next);
        match fs::symlink_metadata(&full) {
            Ok(entry) if entry.is_symlink() => {
                links += 1;
                if links > MAX_LINKS {
                    bail!("{} is a loop of links", path.display());
                }
                let link = fs::read_link(&full)?;
                if link.is_absolute() {
                    found = PathBuf::from("/");
                }
                left.extend(components(&link));
            }
            Ok(_) => found = next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                left.push(name);
                left.reverse();
                return Ok((found, left));
            }
            Err(error) => return Err(error).with_context(|| full.display().to_string()),
        }
    }
    Ok((found, Vec::new()))
}

/// The names of a path, last one first.
fn components(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_followed_within_the_root() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| fs::create_dir_all(root.path().join(path)).unwrap();
        let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, root.path().join(at)).unwrap();
        make("run/secrets");
        make("var/lib");
        link("/run", "var/run");
        link("../run/secrets", "var/relative");
        link("loop", "loop");
        link("/gone/away", "dangling");
        let none: &[&str] = &[];
        for (path, found, missing) in [
            ("/", "/", none),
            ("/var/lib", "/var/lib", none),
            ("/var/lib/a/b", "/var/lib", &["a", "b"]),
            ("/var/run/secrets", "/run/secrets", none),
            ("/var/run/secrets/kubernetes.io/sa", "/run/secrets", &["kubernetes.io", "sa"]),
            ("/var/relative/x", "/run/secrets", &["x"]),
            ("/var/../run", "/run", none),
            ("/../../run", "/run", none),
            ("/dangling/x", "/", &["gone", "away", "x"]),
        ] {
            let missing = missing.iter().map(OsString::from).collect();
            assert_eq!(resolve(root.path(), Path::new(path)).unwrap(), (found.into(), missing), "{path}");
        }
        assert!(resolve(root.path(), Path::new("/loop/x")).is_err());
    }

    #[test]
    fn the_nearest_entry_says_whose_a_path_is() {
        let known = [
            ("/", Ground::Own),
            ("/run", Ground::Own),
            ("/run/lock", Ground::Image),
            ("/etc", Ground::Image),
        ]
        .map(|(path, ground)| (PathBuf::from(path), ground))
        .into();
        for (path, expected) in [
            ("/", Ground::Own),
            ("/certs", Ground::Own),
            ("/run/secrets/x", Ground::Own),
            ("/run/lock/x", Ground::Image),
            ("/etc", Ground::Image),
            ("/etc/deep/er", Ground::Image),
        ] {
            assert_eq!(ground(&known, Path::new(path)), expected, "{path}");
        }
    }
}
