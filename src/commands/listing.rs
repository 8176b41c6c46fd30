//! Lists of whole objects, for commands.
//!
//! Architecture invariant: reads, page by page; what the objects mean is known to the commands.

use kube::Api;
use kube::api::{DynamicObject, ListParams};
use serde_json::Value;

/// Objects a page.
const PAGE: u32 = 500;

/// All that `api` has of what `wanted` asks for; `None` where the kind is not installed.
pub(super) async fn list(
    api: &Api<DynamicObject>,
    wanted: &ListParams,
) -> anyhow::Result<Option<Vec<Value>>> {
    let mut page = wanted.clone().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let list = match api.list(&page).await {
            Ok(list) => list,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        for object in list.items {
            objects.push(serde_json::to_value(object)?);
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(Some(objects)),
        }
    }
}
