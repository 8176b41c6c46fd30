//! The two Services of a cluster: one for clients, one that gives each pod its DNS name.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::names::{PORT_NAME, headless_service};

use super::ValidatedCluster;
use super::arguments::port;

/// The Service for clients, of the cluster's own name.
pub fn client(cluster: &ValidatedCluster) -> Service {
    service(cluster, cluster.name.clone(), None)
}

/// The headless Service `<name>-pods`. It names pods that are not ready too: a server that loads for minutes can
/// be looked at meanwhile.
pub fn headless(cluster: &ValidatedCluster) -> Service {
    service(cluster, headless_service(&cluster.name), Some("None".into()))
}

fn service(cluster: &ValidatedCluster, name: String, cluster_ip: Option<String>) -> Service {
    let headless = cluster_ip.is_some();
    Service {
        metadata: cluster.owned(name),
        spec: Some(ServiceSpec {
            selector: Some(cluster.selector()),
            ports: Some(vec![ServicePort {
                name: Some(PORT_NAME.into()),
                port: port(&cluster.spec),
                target_port: Some(IntOrString::String(PORT_NAME.into())),
                ..ServicePort::default()
            }]),
            publish_not_ready_addresses: headless.then_some(true),
            cluster_ip,
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
