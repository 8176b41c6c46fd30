//! The command lines and configuration files of the control plane's components.
//!
//! **Architecture invariant**: pure; every address is one of the plane's own network namespace, so ports are fixed.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use super::child::Component;
use super::spec::Spec;
use crate::namespaces::{NODE_ADDRESS, POD_RANGE, SERVICE_RANGE};
use crate::parts::Part;

/// Where components inside reach the API server.
pub const APISERVER: &str = "https://127.0.0.1:6443";
/// The port of it.
pub const APISERVER_PORT: u16 = 6443;
/// etcd's client port on loopback.
pub const ETCD_PORT: u16 = 2379;
/// The cluster's DNS server: the address of the Service `kube-dns`.
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The Service `kubernetes`: always the first of the range.
pub const KUBERNETES_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Components with a kubeconfig of their own, with user and group.
pub const IDENTITIES: [(&str, &str, Option<&str>); 4] = [
    ("admin", "kubernetes-admin", Some("system:masters")),
    ("controller-manager", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    // CoreDNS, node and proxy read and write all over the cluster, and nothing under test depends on what they may.
    ("node", "system:testbed:node-0", Some("system:masters")),
];

/// Writes, so that a test can count them; without bodies. Of reads, which would be most of the log, only the one that each
/// of the operator's reconciliations makes.
pub const AUDIT_POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
  "rules": [
    {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
    {"level": "Metadata", "verbs": ["get"], "resources": [{"group": "apps", "resources": ["statefulsets"]}],
      "users": ["system:serviceaccount:vllm-operator-system:vllm-operator"]},
    {"level": "None"}
  ]
}
"#;

/// etcd, which may lose everything at a power cut.
pub fn etcd(spec: &Spec) -> Component {
    let client = format!("http://127.0.0.1:{ETCD_PORT}");
    let peer = format!("http://127.0.0.1:{}", ETCD_PORT + 1);
    component("etcd", spec, Part::Etcd, |args| {
        args.path("data-dir", &spec.state.etcd());
        args.set("listen-client-urls", &client);
        args.set("advertise-client-urls", &client);
        args.set("listen-peer-urls", &peer);
        args.set("initial-advertise-peer-urls", &peer);
        args.set("initial-cluster", &format!("default={peer}"));
        args.set("unsafe-no-fsync", "true");
        args.set("log-level", "warn");
    })
}

/// The API server, with RBAC, aggregation and audit.
pub fn apiserver(spec: &Spec) -> Component {
    let pki = |file: &str| spec.state.pki(file);
    component("kube-apiserver", spec, Part::Apiserver, |args| {
        args.set("etcd-servers", &format!("http://127.0.0.1:{ETCD_PORT}"));
        args.set("bind-address", "0.0.0.0");
        args.set("advertise-address", &NODE_ADDRESS.to_string());
        args.set("secure-port", &APISERVER_PORT.to_string());
        // The Service `kubernetes` gets an endpoint, as in a cluster.
        args.set("endpoint-reconciler-type", "lease");
        args.set("service-cluster-ip-range", &range(SERVICE_RANGE));
        // Webhooks and aggregated APIs are called at the endpoints of their Services.
        args.set("enable-aggregator-routing", "true");
        args.set("authorization-mode", "Node,RBAC");
        args.path("tls-cert-file", &pki("apiserver.crt"));
        args.path("tls-private-key-file", &pki("apiserver.key"));
        args.path("client-ca-file", &pki("ca.crt"));
        args.set("service-account-issuer", "https://kubernetes.default.svc.cluster.local");
        args.path("service-account-key-file", &pki("sa.pub"));
        args.path("service-account-signing-key-file", &pki("sa.key"));
        args.path("requestheader-client-ca-file", &pki("ca.crt"));
        args.set("requestheader-allowed-names", "front-proxy");
        args.set("requestheader-extra-headers-prefix", "X-Remote-Extra-");
        args.set("requestheader-group-headers", "X-Remote-Group");
        args.set("requestheader-username-headers", "X-Remote-User");
        args.path("proxy-client-cert-file", &pki("front-proxy.crt"));
        args.path("proxy-client-key-file", &pki("front-proxy.key"));
        args.path("audit-policy-file", &spec.state.config("audit-policy.json"));
        args.path("audit-log-path", &spec.state.audit_log());
        // A write is in the log before its answer is: counting needs no waiting.
        args.set("audit-log-mode", "blocking");
        // In MiB. What is put aside into another file, nobody counts.
        args.set("audit-log-maxsize", "1048576");
        if spec.owner_references_checked {
            args.set("enable-admission-plugins", "OwnerReferencesPermissionEnforcement");
        }
        if spec.webhook_client.is_some() {
            args.path("admission-control-config-file", &spec.state.config("admission.json"));
        }
    })
}

/// What tells the API server to show a certificate to webhooks: the file that `docs/security.md` has.
pub fn admission_configuration(spec: &Spec) -> String {
    let plugin = |name: &str| {
        serde_json::json!({"name": name, "configuration": {
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "WebhookAdmissionConfiguration",
            "kubeConfigFile": spec.state.config("webhook-client")}})
    };
    serde_json::json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
        "plugins": [plugin("MutatingAdmissionWebhook"), plugin("ValidatingAdmissionWebhook")],
    })
    .to_string()
}

/// Which certificate it shows to the operator's webhooks; users are named after the hosts that they are for.
pub fn webhook_kubeconfig(spec: &Spec) -> String {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config",
        "users": [{"name": "*.vllm-operator-system.svc", "user": {
            "client-certificate": spec.state.pki("webhook-client.crt"),
            "client-key": spec.state.pki("webhook-client.key")}}],
    })
    .to_string()
}

/// The controller manager: each controller under its own service account, as in a real cluster.
pub fn controller_manager(spec: &Spec) -> Component {
    component("kube-controller-manager", spec, Part::ControllerManager, |args| {
        let kubeconfig = spec.state.inner_kubeconfig("controller-manager");
        args.path("kubeconfig", &kubeconfig);
        args.path("authentication-kubeconfig", &kubeconfig);
        args.path("authorization-kubeconfig", &kubeconfig);
        args.path("service-account-private-key-file", &spec.state.pki("sa.key"));
        args.path("root-ca-file", &spec.state.pki("ca.crt"));
        args.set("use-service-account-credentials", "true");
        args.set("leader-elect", "false");
        args.set("bind-address", "127.0.0.1");
        // It makes fifty service accounts first; at the default of 20 requests a second that takes most of the start.
        args.set("kube-api-qps", "1000");
        args.set("kube-api-burst", "1000");
        args.set(
            "horizontal-pod-autoscaler-downscale-stabilization",
            &go_duration(spec.hpa_downscale_stabilization),
        );
        args.set("horizontal-pod-autoscaler-sync-period", &go_duration(spec.hpa_sync_period));
    })
}

/// The scheduler.
pub fn scheduler(spec: &Spec) -> Component {
    component("kube-scheduler", spec, Part::Scheduler, |args| {
        let kubeconfig = spec.state.inner_kubeconfig("scheduler");
        args.path("kubeconfig", &kubeconfig);
        args.path("authentication-kubeconfig", &kubeconfig);
        args.path("authorization-kubeconfig", &kubeconfig);
        args.set("leader-elect", "false");
        args.set("bind-address", "127.0.0.1");
    })
}

/// The cluster's DNS.
pub fn coredns(spec: &Spec) -> Component {
    component("coredns", spec, Part::Coredns, |args| {
        args.0.extend(["-conf".into(), spec.state.config("Corefile").to_string_lossy().into_owned()]);
    })
}

/// Services and pods by name; every other name does not exist, and nothing is asked outside.
pub fn corefile(spec: &Spec) -> String {
    let kubeconfig = spec.state.inner_kubeconfig("node");
    format!(
        "cluster.local:53 in-addr.arpa:53 {{\n    bind {DNS_ADDRESS}\n    errors\n    kubernetes cluster.local \
         in-addr.arpa {{\n        kubeconfig {}\n        pods insecure\n        ttl 1\n    }}\n}}\n\
         .:53 {{\n    bind {DNS_ADDRESS}\n    errors\n    template ANY ANY {{\n        rcode NXDOMAIN\n    }}\n}}\n",
        kubeconfig.display()
    )
}

/// A kubeconfig with everything embedded.
pub fn kubeconfig(server: &str, ca: &str, pair: &crate::pki::Pair) -> String {
    use base64::Engine as _;
    let data = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "testbed",
        "clusters": [{"name": "testbed",
            "cluster": {"server": server, "certificate-authority-data": data(ca)}}],
        "users": [{"name": "testbed", "user": {
            "client-certificate-data": data(&pair.certificate), "client-key-data": data(&pair.key)}}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "testbed"}}],
    })
    .to_string()
}

/// The pod range in CIDR notation.
pub fn pod_range() -> String {
    range(POD_RANGE)
}

fn range((address, length): (Ipv4Addr, u8)) -> String {
    format!("{address}/{length}")
}

fn go_duration(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

struct Args(Vec<String>);

impl Args {
    fn set(&mut self, flag: &str, value: &str) {
        self.0.push(format!("--{flag}={value}"));
    }

    fn path(&mut self, flag: &str, value: &Path) {
        self.set(flag, &value.to_string_lossy());
    }
}

fn component(name: &'static str, spec: &Spec, part: Part, fill: impl FnOnce(&mut Args)) -> Component {
    let mut args = Args(Vec::new());
    fill(&mut args);
    Component { name, program: spec.binaries.path(part), args: args.0 }
}
