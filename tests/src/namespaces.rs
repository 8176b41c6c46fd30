//! Namespaces of a plane's own: user (unless root), network, PID and mount, by system calls.
//!
//! A plane gets whole address ranges to itself, so planes stand side by side without port clashes, and the kernel ends
//! every process of a plane when the first process of its PID namespace ends.
//!
//! **Architecture invariant**: nothing here knows Kubernetes; nothing here starts a process. No external program is run.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use futures::TryStreamExt as _;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::route::{RouteProtocol, RouteScope, RouteType};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use rustix::mount::{MountFlags, MountPropagationFlags};

/// Every Service address lies in this range, and all of it is local to the plane.
pub const SERVICE_RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 16);
/// Every pod address lies in this range; each pod's address is routed to a network namespace of its own.
pub const POD_RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 244, 0, 0), 16);
/// Pods without processes have addresses of this range, all of it local to the plane: what is to answer for them listens there.
pub const HOLLOW_RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 246, 0, 0), 16);
/// Address of the one node, where the API server is reached too.
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 245, 0, 1);
/// What pods use as their gateway; link-local, so that it is in nobody's way.
pub const GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The kernel's local routing table, which is consulted before the main table.
const LOCAL_TABLE: u32 = 255;

/// Why the namespaces could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// The kernel refused; the text says what to enable.
    #[error("{0}")]
    Refused(String),
    /// A mount inside the new mount namespace failed.
    #[error("{what}: {source}")]
    Mount {
        /// What was being mounted.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A kernel setting of the new network namespace could not be written.
    #[error("writing {path}: {source}")]
    Setting {
        /// The file below `/proc/sys`.
        path: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// An address or route could not be set.
    #[error("network namespace: {0}")]
    Network(#[from] rtnetlink::Error),
    /// The netlink socket could not be opened.
    #[error("netlink socket: {0}")]
    Netlink(#[source] io::Error),
    /// The loopback device is missing.
    #[error("the new network namespace has no loopback device")]
    NoLoopback,
}

/// Moves this process into new network and mount namespaces, and its next child into a new PID namespace.
///
/// Must be called before any second thread exists: the kernel refuses a user namespace to a process with threads.
/// Root gets by without a user namespace, unless it lacks the capabilities (root of a container).
pub fn enter() -> Result<(), NamespaceError> {
    let spaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if uid == 0 && unshare(spaces).is_ok() {
        return Ok(());
    }
    let refused = |what: &str, errno: Errno| NamespaceError::Refused(explain(what, errno, &Knobs::read()));
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| refused("a user namespace", e))?;
    let as_root = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    for (path, text) in as_root {
        fs::write(path, text).map_err(|e| {
            refused("root inside the user namespace", Errno::from_raw(e.raw_os_error().unwrap_or(0)))
        })?;
    }
    unshare(spaces).map_err(|e| refused("network, PID and mount namespaces", e))
}

/// The kernel's settings that forbid user namespaces; absent files mean the kernel does not have that setting.
#[derive(Debug, Default)]
struct Knobs {
    unprivileged_userns_clone: Option<String>,
    apparmor_restrict: Option<String>,
    max_user_namespaces: Option<String>,
}

impl Knobs {
    fn read() -> Self {
        let knob =
            |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|s| s.trim().to_owned());
        Self {
            unprivileged_userns_clone: knob("kernel/unprivileged_userns_clone"),
            apparmor_restrict: knob("kernel/apparmor_restrict_unprivileged_userns"),
            max_user_namespaces: knob("user/max_user_namespaces"),
        }
    }
}

/// Says what to change so that the kernel allows what it just refused.
fn explain(what: &str, errno: Errno, knobs: &Knobs) -> String {
    let cure = if knobs.unprivileged_userns_clone.as_deref() == Some("0") {
        "enable them with `sysctl -w kernel.unprivileged_userns_clone=1`"
    } else if knobs.apparmor_restrict.as_deref() == Some("1") {
        "AppArmor restricts them; allow them with `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
    } else if knobs.max_user_namespaces.as_deref() == Some("0") {
        "enable them with `sysctl -w user.max_user_namespaces=10000`"
    } else if errno == Errno::ENOSPC {
        "too many exist already; raise user.max_user_namespaces and user.max_net_namespaces"
    } else if errno == Errno::EINVAL {
        "the kernel may have been built without CONFIG_USER_NS, CONFIG_NET_NS or CONFIG_PID_NS"
    } else {
        "in a container, its seccomp profile must allow unshare and mount (or run it with --privileged)"
    };
    format!("the kernel refuses {what} ({errno}): the testbed needs unprivileged user namespaces; {cure}")
}

/// First steps of PID 1: keep our mounts to ourselves, and show this PID namespace's processes under `/proc`.
pub fn mount_own_proc() -> Result<(), NamespaceError> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| NamespaceError::Mount { what: "making the mounts private", source: e.into() })?;
    rustix::mount::mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
        .map_err(|e| NamespaceError::Mount {
            what: "mounting /proc in the plane's namespaces (a container may mask parts of /proc: run it with --privileged)",
            source: e.into(),
        })
}

/// Brings loopback up, makes the Service range and the node's addresses local, and lets packets between pods pass.
pub async fn configure_network() -> Result<(), NamespaceError> {
    let settings = [
        ("/proc/sys/net/ipv4/ip_forward", "1"),
        // A container may bind port 80 in a cluster, whoever it runs as.
        ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ];
    for (path, value) in settings {
        fs::write(path, value).map_err(|source| NamespaceError::Setting { path, source })?;
    }
    let (connection, handle, _) = rtnetlink::new_connection().map_err(NamespaceError::Netlink)?;
    let connection = tokio::spawn(connection);
    let loopback = handle.link().get().match_name("lo".to_owned()).execute().try_next().await?;
    let index = loopback.ok_or(NamespaceError::NoLoopback)?.header.index;
    handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
    for address in [NODE_ADDRESS, GATEWAY_ADDRESS] {
        handle.address().add(index, address.into(), 32).execute().await?;
    }
    for (address, length) in [SERVICE_RANGE, HOLLOW_RANGE] {
        let all = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, length)
            .output_interface(index)
            .table_id(LOCAL_TABLE)
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .protocol(RouteProtocol::Boot)
            .build();
        handle.route().add(all).execute().await?;
    }
    connection.abort();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knobs(clone: &str, apparmor: &str, max: &str) -> Knobs {
        let knob = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        Knobs {
            unprivileged_userns_clone: knob(clone),
            apparmor_restrict: knob(apparmor),
            max_user_namespaces: knob(max),
        }
    }

    #[test]
    fn a_refusal_names_the_setting_that_causes_it() {
        for (knobs, errno, cure) in [
            (knobs("0", "", "100"), Errno::EPERM, "kernel.unprivileged_userns_clone=1"),
            (knobs("1", "1", "100"), Errno::EACCES, "kernel.apparmor_restrict_unprivileged_userns=0"),
            (knobs("", "", "0"), Errno::ENOSPC, "user.max_user_namespaces=10000"),
            (knobs("", "0", "100"), Errno::ENOSPC, "raise user.max_user_namespaces"),
            (knobs("", "", "100"), Errno::EINVAL, "CONFIG_USER_NS"),
            (knobs("1", "0", "100"), Errno::EPERM, "seccomp"),
        ] {
            let text = explain("a user namespace", errno, &knobs);
            assert!(text.contains(cure), "{knobs:?} {errno}: {text}");
        }
    }
}
