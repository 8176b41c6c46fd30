//! The admission port with the API server's certificate demanded, on an API server that shows one.

use anyhow::ensure;
use serde_json::json;
use testbed::addons;
use testbed::parts::operator_binary;
use testbed::plane::{Plane, PlaneOptions};

use super::suite::{TESTBED, apply, cluster, kubectl, namespace};

const OPERATOR: &str = "vllm-operator-system";
const NS: &str = "client";
const NAME: &str = "kube-apiserver-webhooks";

/// The webhooks are called with it, and judge; whoever shows none gets no TLS session; another name is not let in.
pub async fn demanded() -> anyhow::Result<()> {
    let mut options = PlaneOptions::new("client", TESTBED);
    options.operator_exe = Some(tokio::task::spawn_blocking(operator_binary).await??);
    options.webhook_client = Some(NAME.to_owned());
    let plane = Plane::start(options).await?;
    addons::install_operator(&plane).await?;
    let authority = plane.state_dir().join("pki/ca.crt");
    let from = format!("create configmap webhook-clients --from-file=ca.crt={}", authority.display());
    kubectl(&plane, OPERATOR, &from).ok().await?;
    demand(&plane, NAME).await?;
    namespace(&plane, NS).await?;
    apply(&plane, NS, &cluster("a", "replicas: 2\nmaxReplicas: 3")).await?;
    let text = kubectl(&plane, NS, "scale vllmcluster a --replicas=5").output().await?.refused()?;
    ensure!(
        text.contains("5 is above the maximum 3 (spec.maxReplicas"),
        "not admission's own sentence: {text}"
    );
    // The API server's proxy to Services shows no certificate.
    let service = format!("/api/v1/namespaces/{OPERATOR}/services/https:vllm-operator:443/proxy/");
    let text = plane.kubectl(&["get", "--raw", &service]).output().await?.refused()?;
    ensure!(text.contains("certificate required"), "{text}");
    // The API server's own certificate is what lets it in: by another name it cannot call.
    demand(&plane, "somebody-else").await?;
    let text = kubectl(&plane, NS, "apply -f -").stdin(cluster("b", "")).output().await?.refused()?;
    ensure!(text.contains("failed calling webhook"), "{text}");
    plane.stop().await
}

/// Has the operator demand certificates of this name, as `docs/security.md` says.
async fn demand(plane: &Plane, name: &str) -> anyhow::Result<()> {
    let patch = json!({"spec": {"template": {"spec": {
        "volumes": [{"name": "webhook-clients", "configMap": {"name": "webhook-clients"}}],
        "containers": [{
            "name": "operator",
            "args": ["run", "--client-ca-file=/etc/webhook-clients/ca.crt", format!("--client-name={name}")],
            "volumeMounts": [{"name": "webhook-clients", "mountPath": "/etc/webhook-clients"}],
        }],
    }}}});
    let patch = patch.to_string();
    plane.kubectl(&["-n", OPERATOR, "patch", "deployment", "vllm-operator", "-p", &patch]).ok().await?;
    kubectl(plane, OPERATOR, "rollout status deployment/vllm-operator --timeout=60s").ok().await?;
    addons::wait_for_operator(plane).await
}
