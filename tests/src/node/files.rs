//! The files by which a pod finds its way: resolv.conf, hosts, hostname.
//!
//! **Architecture invariant**: pure.

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt as _;

/// What the pod calls itself.
pub fn hostname(pod: &Pod) -> String {
    let own = pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
    let mut name = own.unwrap_or_else(|| pod.name_any());
    name.truncate(63);
    name.trim_end_matches(['-', '.']).to_owned()
}

/// The pod's resolv.conf; none means the machine's own.
pub fn resolv_conf(pod: &Pod, dns: &str, domain: &str) -> Option<String> {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let mut servers = Vec::new();
    let mut searches = Vec::new();
    let mut options = Vec::new();
    match (spec.dns_policy.as_deref(), spec.host_network) {
        (Some("None"), _) => {}
        (Some("Default"), _) | (Some("ClusterFirst"), Some(true)) => return None,
        _ => {
            let namespace = pod.namespace().unwrap_or_default();
            servers.push(dns.to_owned());
            searches.extend([format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()]);
            options.extend(["ndots:5", "attempts:2", "timeout:2"].map(String::from));
        }
    }
    if let Some(more) = &spec.dns_config {
        servers.extend(more.nameservers.iter().flatten().cloned());
        searches.extend(more.searches.iter().flatten().cloned());
        for option in more.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            options.retain(|known: &String| known.split(':').next() != Some(&name));
            options.push(option.value.iter().fold(name, |name, value| format!("{name}:{value}")));
        }
    }
    let mut text = String::new();
    if !searches.is_empty() {
        text += &format!("search {}\n", searches.join(" "));
    }
    servers.iter().for_each(|server| text += &format!("nameserver {server}\n"));
    if !options.is_empty() {
        text += &format!("options {}\n", options.join(" "));
    }
    Some(text)
}

/// The pod's hosts file.
pub fn hosts(pod: &Pod, address: &str, domain: &str) -> String {
    let name = hostname(pod);
    let spec = pod.spec.as_ref();
    let full = spec.and_then(|spec| spec.subdomain.as_deref()).map(|subdomain| {
        format!("{name}.{subdomain}.{}.svc.{domain}\t", pod.namespace().unwrap_or_default())
    });
    let mut text =
        format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{address}\t{}{name}\n", full.unwrap_or_default());
    for alias in spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten()) {
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        text += &format!("{}\t{names}\n", alias.ip);
    }
    text
}
