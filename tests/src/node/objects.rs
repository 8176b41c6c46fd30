//! What a pod refers to: the `Secret`s, `ConfigMap`s and claims of its namespace, and its tokens.
//!
//! **Architecture invariant**: [`Needs`] is found and [`Objects`] is used without I/O; only `gather` asks the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount,
};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt as _};

/// Names of what a pod, or a part of it, refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Secrets by name.
    pub secrets: BTreeSet<String>,
    /// `ConfigMap`s by name.
    pub config_maps: BTreeSet<String>,
    /// `PersistentVolumeClaim`s by name.
    pub claims: BTreeSet<String>,
    /// Service account tokens.
    pub tokens: BTreeSet<TokenKey>,
}

/// What tells one token of a pod from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenKey {
    /// Whom it is for; empty is the API server.
    pub audience: String,
    /// How long it lives, in seconds.
    pub expiration: i64,
}

/// What was found; a name that is missing here does not exist.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Secrets by name.
    pub secrets: BTreeMap<String, Secret>,
    /// `ConfigMap`s by name.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// The folders of the machine that `PersistentVolumeClaim`s are bound to, by the name of the claim.
    pub claims: BTreeMap<String, PathBuf>,
    /// Tokens.
    pub tokens: BTreeMap<TokenKey, String>,
}

impl Needs {
    /// What the environment of `container` refers to.
    pub fn of_environment(container: &Container) -> Self {
        let mut needs = Self::default();
        for variable in container.env.iter().flatten() {
            let Some(source) = &variable.value_from else { continue };
            needs.secrets.extend(source.secret_key_ref.iter().map(|key| key.name.clone()));
            needs.config_maps.extend(source.config_map_key_ref.iter().map(|key| key.name.clone()));
        }
        for source in container.env_from.iter().flatten() {
            needs.secrets.extend(source.secret_ref.iter().map(|all| all.name.clone()));
            needs.config_maps.extend(source.config_map_ref.iter().map(|all| all.name.clone()));
        }
        needs
    }

    /// What the volumes of `pod` refer to.
    pub fn of_volumes(pod: &Pod) -> Self {
        let mut needs = Self::default();
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        for volume in volumes {
            needs.secrets.extend(volume.secret.iter().filter_map(|secret| secret.secret_name.clone()));
            needs.config_maps.extend(volume.config_map.iter().map(|map| map.name.clone()));
            needs
                .claims
                .extend(volume.persistent_volume_claim.iter().map(|source| source.claim_name.clone()));
            let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
            for source in projected {
                needs.secrets.extend(source.secret.iter().map(|secret| secret.name.clone()));
                needs.config_maps.extend(source.config_map.iter().map(|map| map.name.clone()));
                needs.tokens.extend(source.service_account_token.iter().map(TokenKey::of));
            }
        }
        needs
    }

    /// Whether there is nothing to fetch.
    pub fn is_empty(&self) -> bool {
        let Self { secrets, config_maps, claims, tokens } = self;
        secrets.is_empty() && config_maps.is_empty() && claims.is_empty() && tokens.is_empty()
    }
}

impl TokenKey {
    /// The token that a volume asks for.
    pub fn of(projection: &k8s_openapi::api::core::v1::ServiceAccountTokenProjection) -> Self {
        Self {
            audience: projection.audience.clone().unwrap_or_default(),
            expiration: projection.expiration_seconds.unwrap_or(3600),
        }
    }
}

/// Fetches for one pod, and keeps its tokens until they are due to be renewed.
pub struct Fetcher {
    client: Client,
    tokens: BTreeMap<TokenKey, (String, jiff::Timestamp)>,
}

impl Fetcher {
    /// One without tokens.
    pub fn new(client: Client) -> Self {
        Self { client, tokens: BTreeMap::new() }
    }

    /// Fetches what `pod` needs.
    pub async fn gather(&mut self, pod: &Pod, needs: &Needs) -> Result<Objects, kube::Error> {
        let namespace = pod.namespace().unwrap_or_default();
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &namespace);
        let config_maps = Api::<ConfigMap>::namespaced(self.client.clone(), &namespace);
        let mut objects = Objects::default();
        for name in &needs.secrets {
            if let Some(secret) = secrets.get_opt(name).await? {
                objects.secrets.insert(name.clone(), secret);
            }
        }
        for name in &needs.config_maps {
            if let Some(map) = config_maps.get_opt(name).await? {
                objects.config_maps.insert(name.clone(), map);
            }
        }
        for name in &needs.claims {
            if let Some(folder) = self.folder(&namespace, name).await? {
                objects.claims.insert(name.clone(), folder);
            }
        }
        for key in &needs.tokens {
            objects.tokens.insert(key.clone(), self.token(pod, &namespace, key).await?);
        }
        Ok(objects)
    }

    /// The folder behind a claim, if it is bound to a volume that is a folder of the machine.
    async fn folder(&self, namespace: &str, claim: &str) -> Result<Option<PathBuf>, kube::Error> {
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace);
        let claim = claims.get_opt(claim).await?;
        let Some(volume) = claim.and_then(|claim| claim.spec?.volume_name) else { return Ok(None) };
        let volumes = Api::<PersistentVolume>::all(self.client.clone());
        let volume = volumes.get_opt(&volume).await?;
        Ok(volume.and_then(|volume| volume.spec?.host_path).map(|host| PathBuf::from(host.path)))
    }

    async fn token(&mut self, pod: &Pod, namespace: &str, key: &TokenKey) -> Result<String, kube::Error> {
        let now = jiff::Timestamp::now();
        if let Some((token, renew)) = self.tokens.get(key)
            && now < *renew
        {
            return Ok(token.clone());
        }
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        let request = TokenRequest {
            metadata: ObjectMeta::default(),
            spec: TokenRequestSpec {
                audiences: if key.audience.is_empty() { Vec::new() } else { vec![key.audience.clone()] },
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(pod.name_any()),
                    uid: pod.uid(),
                }),
                expiration_seconds: Some(key.expiration),
            },
            status: None,
        };
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let answer = accounts
            .create_token_request(account.unwrap_or("default"), &PostParams::default(), &request)
            .await?;
        let token = answer.status.map(|status| status.token).unwrap_or_default();
        // A kubelet renews at four fifths of what was asked for.
        let renew = now + jiff::SignedDuration::from_secs(key.expiration * 4 / 5);
        self.tokens.insert(key.clone(), (token.clone(), renew));
        Ok(token)
    }
}
