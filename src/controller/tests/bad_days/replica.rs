//! All of a replica that calls the API server, put together as the program does.
//!
//! Architecture invariant: starts and looks; what happens to it is the network's.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::api_server::ApiServer;
use super::network::Network;
pub use crate::certificates::tests::SECRET;
use crate::certificates::tests::{MUTATING, VALIDATING, settings};
use crate::certificates::{self, Certificates};
use crate::leader::{self, Candidate, Fence, LeaseApi};
use crate::telemetry::{CertificateMetrics, Metrics};
use crate::world::World;
use crate::world::watch::Synced;

pub const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/n/leases/l";
pub const WEBHOOKS: [&str; 2] = [MUTATING, VALIDATING];

/// A replica that runs until it is dropped.
pub struct Replica {
    pub world: Arc<World>,
    fence: Fence,
    synced: watch::Receiver<Synced>,
    in_place: watch::Receiver<bool>,
    tasks: JoinSet<()>,
}

impl Replica {
    /// One that reaches its API server through this network.
    pub fn start(network: &Network) -> Self {
        let (world, fence) = (Arc::new(World::default()), Fence::default());
        let (synced, synced_seen) = watch::channel(Synced::default());
        let (in_place, in_place_seen) = watch::channel(false);
        let (leading, leading_seen) = watch::channel(false);
        let client = network.client(None);
        let mut tasks = JoinSet::new();
        tasks.spawn(crate::world::watch::run(client.clone(), Arc::clone(&world), synced, true));
        tasks.spawn(certificates::run(Certificates {
            client: client.clone(),
            settings: settings(),
            resolver: Arc::default(),
            in_place,
            scaler_clients: Arc::new(certs::Clients::none_yet(Vec::new())),
            published: watch::channel(false).0,
            leading: leading_seen,
            own_time: Box::new(Timestamp::now),
            metrics: CertificateMetrics::default(),
        }));
        let [duration, deadline, retry] = [15, 10, 2].map(Duration::from_secs);
        let candidate = Candidate {
            store: LeaseApi::new(network.plain_client(), client, "n", "l"),
            name: "l".into(),
            identity: "r".into(),
            settings: leader::Settings::new(duration, deadline, retry).unwrap(),
            fence: fence.clone(),
            leading: Gauge::default(),
            clock: Arc::new(Timestamp::now),
        };
        let leaders = network.client(Some(&fence));
        let (index, listed) = (Arc::clone(&world), synced_seen.clone());
        tasks.spawn(async move {
            let mut listed = listed;
            listed.wait_for(|synced| *synced == Synced::ALL).await.unwrap();
            let metrics = Metrics::default().controller;
            let lead = |ending| {
                let (leading, leaders, index) = (leading.clone(), leaders.clone(), Arc::clone(&index));
                let metrics = metrics.clone();
                async move {
                    leading.send_replace(true);
                    super::super::run(leaders, Arc::clone(&index), index.listen(), metrics, ending).await;
                }
            };
            leader::run(&candidate, lead, CancellationToken::new()).await.unwrap();
        });
        Self { world, fence, synced: synced_seen, in_place: in_place_seen, tasks }
    }

    /// What a replica knows that is started now.
    pub async fn known(server: &ApiServer) -> Arc<World> {
        let (world, (synced, mut seen)) = (Arc::new(World::default()), watch::channel(Synced::default()));
        let running =
            tokio::spawn(crate::world::watch::run(server.client(), Arc::clone(&world), synced, true));
        seen.wait_for(|synced| *synced == Synced::ALL).await.unwrap();
        running.abort();
        world
    }

    /// What is not as it should be of readiness, bundles and leading.
    pub fn wrong(&self, server: &ApiServer) -> Vec<String> {
        assert_eq!(self.tasks.len(), 3);
        let mut wrong = Vec::new();
        if *self.synced.borrow() != Synced::ALL || !*self.in_place.borrow() {
            wrong.push(format!("not ready: {:?}, {}", *self.synced.borrow(), *self.in_place.borrow()));
        }
        let holder = server.object(LEASE).map(|lease| lease["spec"]["holderIdentity"].clone());
        if !self.fence.is_open() || holder.as_ref().is_none_or(|holder| holder != "r") {
            wrong.push(format!("leading: {}, holder: {holder:?}", self.fence.is_open()));
        }
        let published = server.object(SECRET).map(|secret| secret["data"]["ca-bundle.crt"].clone());
        let published = published.filter(serde_json::Value::is_string);
        for path in WEBHOOKS {
            let configuration = server.object(path).unwrap();
            for webhook in configuration["webhooks"].as_array().unwrap() {
                if published.as_ref() != Some(&webhook["clientConfig"]["caBundle"]) {
                    wrong.push(format!("{path} has another bundle than {}", published.is_some()));
                }
            }
        }
        wrong
    }
}
