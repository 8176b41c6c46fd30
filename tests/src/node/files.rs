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
            searches.extend([
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.to_owned(),
            ]);
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
    let mut lines = Vec::new();
    if !searches.is_empty() {
        lines.push(format!("search {}", searches.join(" ")));
    }
    lines.extend(servers.iter().map(|server| format!("nameserver {server}")));
    if !options.is_empty() {
        lines.push(format!("options {}", options.join(" ")));
    }
    Some(lines.join("\n") + "\n")
}

/// The pod's hosts file.
pub fn hosts(pod: &Pod, address: &str, domain: &str) -> String {
    let name = hostname(pod);
    let spec = pod.spec.as_ref();
    let full = spec.and_then(|spec| spec.subdomain.as_deref()).map(|subdomain| {
        format!("{name}.{subdomain}.{}.svc.{domain}\t", pod.namespace().unwrap_or_default())
    });
    let mut lines = vec!["127.0.0.1\tlocalhost".to_owned(), "::1\tlocalhost ip6-localhost".to_owned()];
    lines.push(format!("{address}\t{}{name}", full.unwrap_or_default()));
    for alias in spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten()) {
        lines.push(format!("{}\t{}", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t")));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: &serde_json::Value) -> Pod {
        let pod = json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn names_are_looked_up_where_the_policy_says() {
        let cluster = "search shop.svc.c.local svc.c.local c.local\nnameserver 10.96.0.10\n";
        let options = "options ndots:5 attempts:2 timeout:2\n";
        let more = json!({"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "1"}]});
        for (spec, expected) in [
            (json!({"containers": []}), Some(format!("{cluster}{options}"))),
            (json!({"containers": [], "dnsPolicy": "Default"}), None),
            (json!({"containers": [], "dnsPolicy": "ClusterFirst", "hostNetwork": true}), None),
            (
                json!({"containers": [], "dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
                Some(format!("{cluster}{options}")),
            ),
            (
                json!({"containers": [], "dnsPolicy": "None", "dnsConfig": more}),
                Some("search x\nnameserver 1.1.1.1\noptions ndots:1\n".to_owned()),
            ),
            (
                json!({"containers": [], "dnsConfig": more}),
                Some(
                    "search shop.svc.c.local svc.c.local c.local x\nnameserver 10.96.0.10\nnameserver 1.1.1.1\n\
                     options attempts:2 timeout:2 ndots:1\n"
                        .to_owned(),
                ),
            ),
        ] {
            assert_eq!(resolv_conf(&pod(&spec), "10.96.0.10", "c.local"), expected, "{spec}");
        }
    }

    #[test]
    fn a_pod_knows_its_own_name() {
        let bare = pod(&json!({"containers": []}));
        let member = pod(&json!({
            "containers": [], "hostname": "zero", "subdomain": "web",
            "hostAliases": [{"ip": "9.9.9.9", "hostnames": ["a", "b"]}],
        }));
        let local = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n";
        assert_eq!(hosts(&bare, "10.0.0.1", "c.local"), format!("{local}10.0.0.1\tweb-0\n"));
        let expected = format!("{local}10.0.0.1\tzero.web.shop.svc.c.local\tzero\n9.9.9.9\ta\tb\n");
        assert_eq!(hosts(&member, "10.0.0.1", "c.local"), expected);
    }
}
