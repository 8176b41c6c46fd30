//! What a cluster holds around the manifests.
//!
//! Architecture invariant: lists, and never writes; a kind that is not installed has no objects.

use std::collections::BTreeSet;

use anyhow::Context as _;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client};
use serde_json::Value;

use crate::api::names::VERSION;
use crate::commands::connect::connect;
use crate::world::files::{Kind, Objects};

/// Objects a page.
const PAGE: u32 = 500;

/// All that the policy looks at in these namespaces, by the kubeconfig or the service account at hand.
pub(super) async fn around(namespaces: &BTreeSet<String>) -> anyhow::Result<Objects> {
    let (client, _) = connect().await?;
    let mut objects = Objects::default();
    for namespace in namespaces {
        for kind in Kind::ALL {
            let (_, plural) = kind.resource();
            let listed = list(client.clone(), namespace, kind).await;
            for object in
                listed.with_context(|| format!("cannot list the {plural} of namespace {namespace}"))?
            {
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                objects.put(kind, namespace, &name, object);
            }
        }
    }
    Ok(objects)
}

async fn list(client: Client, namespace: &str, kind: Kind) -> anyhow::Result<Vec<Value>> {
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
    let api = Api::<DynamicObject>::namespaced_with(client, namespace, &resource);
    let mut page = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let list = match api.list(&page).await {
            Ok(list) => list,
            // The kind is not installed.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        for object in list.items {
            objects.push(serde_json::to_value(object)?);
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(objects),
        }
    }
}
