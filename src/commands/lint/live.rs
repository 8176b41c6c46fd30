//! What a cluster holds around the manifests.
//!
//! Architecture invariant: lists, and never writes; a kind that is not installed has no objects.

use std::collections::BTreeSet;

use anyhow::Context as _;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client};

use crate::api::names::VERSION;
use crate::args::Connection;
use crate::commands::connect::{Again, connect};
use crate::commands::listing::list;
use crate::world::files::{Kind, Objects};

/// All that the policy looks at in these namespaces, by the kubeconfig or the service account at hand.
pub(super) async fn around(
    connection: &Connection,
    namespaces: &BTreeSet<String>,
) -> anyhow::Result<Objects> {
    let (client, _) = connect(connection, Again::Soon).await?;
    let mut objects = Objects::default();
    for namespace in namespaces {
        for kind in Kind::ALL {
            let (_, plural) = kind.resource();
            let listed = list(&api(client.clone(), namespace, kind), &ListParams::default()).await;
            let listed =
                listed.with_context(|| format!("cannot list the {plural} of namespace {namespace}"))?;
            for object in listed.unwrap_or_default() {
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                objects.put(kind, namespace, &name, object);
            }
        }
    }
    Ok(objects)
}

fn api(client: Client, namespace: &str, kind: Kind) -> Api<DynamicObject> {
    let (group, plural) = kind.resource();
    let version = match kind {
        Kind::Cluster | Kind::ScaledObject => VERSION,
        Kind::Hpa => "v2",
        Kind::LimitRange => "v1",
    };
    let resource = ApiResource {
        group: group.into(),
        version: version.into(),
        api_version: if group.is_empty() { version.into() } else { format!("{group}/{version}") },
        kind: kind.name().into(),
        plural: plural.into(),
    };
    Api::namespaced_with(client, namespace, &resource)
}
