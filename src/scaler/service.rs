//! KEDA's gRPC protocol: a reference to a ScaledObject in, a metric out.
//!
//! KEDA tells which ScaledObject asks, and which metadata its trigger has. The cluster is the one that this ScaledObject
//! drives, in its own namespace: nothing in the metadata can name another.
//!
//! Architecture invariant: what a server does wrong is never an error here (see `answer`); what KEDA or the trigger does
//! wrong is one.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use crate::telemetry::ScalerMetrics;
use crate::world::live::{Live, LiveError};
use crate::world::{Cluster, Key, World};

use super::answer::{Answer, Readings, answer};
use super::collect::{Collector, Fleet};
use super::protocol::external_scaler_server::ExternalScaler;
use super::protocol::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef,
};
use super::trigger::Trigger;

/// How long a live read may take of what the watches have not told yet.
const LIVE: Duration = Duration::from_secs(1);

/// Answers KEDA.
pub struct Service {
    world: Arc<World>,
    live: Live,
    collector: Collector,
    metrics: ScalerMetrics,
}

impl Service {
    /// Answers from what is known, and for what is not known yet from what is read live.
    pub fn new(world: Arc<World>, live: Live, metrics: &ScalerMetrics) -> Self {
        Self { world, live, collector: Collector::new(metrics.clone()), metrics: metrics.clone() }
    }

    async fn answer(&self, reference: &ScaledObjectRef) -> Result<Answer, Status> {
        let answered = self.answer_to(reference).await;
        match &answered {
            Ok((signal, answer)) => self.metrics.answered(signal, answer.held),
            Err(_) => self.metrics.refused(),
        }
        answered.map(|(_, answer)| answer)
    }

    async fn answer_to(&self, reference: &ScaledObjectRef) -> Result<(&'static str, Answer), Status> {
        let trigger = trigger(reference)?;
        let ScaledObjectRef { name, namespace, .. } = reference;
        let cluster = self.cluster_of(namespace, name).await?;
        let key = Key::new(namespace, cluster);
        let readings = match self.fleet(&key).await? {
            Some(fleet) => self.collector.readings(&key, &fleet, &trigger).await,
            // There is nothing to be scaled; the least of what is there keeps everything as it is.
            None => Readings { replicas: 1, absent: 1, ..Readings::default() },
        };
        Ok((trigger.measure.name(), answer(&trigger, &readings)))
    }

    /// The cluster that a ScaledObject drives.
    async fn cluster_of(&self, namespace: &str, name: &str) -> Result<String, Status> {
        if let Some(cluster) = self.world.driven_by(namespace, name) {
            return Ok(cluster);
        }
        let attachment = self.live.scaler(namespace, name, LIVE).await.map_err(|error| unread(&error))?;
        attachment.map(|attachment| attachment.cluster).ok_or_else(|| {
            Status::not_found(format!(
                "there is no ScaledObject {namespace}/{name} that drives a VLLMCluster; only the servers of one are read"
            ))
        })
    }

    /// The cluster as it is known; `None` if there is none.
    async fn fleet(&self, key: &Key) -> Result<Option<Fleet>, Status> {
        let Key { namespace, name } = key;
        let known = self.world.target(namespace, name).cluster.clone();
        let cluster = match known {
            Some(cluster) => Some(cluster),
            None => self.live.cluster(namespace, name, LIVE).await.map_err(|error| unread(&error))?,
        };
        Ok(cluster.map(|Cluster { uid, replicas, port, .. }| Fleet {
            replicas: u32::try_from(replicas).unwrap_or_default().max(1),
            port,
            servers: self.world.servers.of(namespace, name, &uid),
        }))
    }
}

/// The API server did not answer: KEDA asks again.
fn unread(error: &LiveError) -> Status {
    Status::unavailable(error.to_string())
}

fn trigger(reference: &ScaledObjectRef) -> Result<Trigger, Status> {
    Trigger::read(reference.scaler_metadata.iter()).map_err(|faults| {
        let faults = faults.iter().map(|fault| format!("metadata.{} {}", fault.key, fault.message));
        Status::invalid_argument(faults.collect::<Vec<_>>().join("; "))
    })
}

type Stream<T> = futures::stream::Empty<Result<T, Status>>;

#[tonic::async_trait]
impl ExternalScaler for Service {
    type StreamIsActiveStream = Stream<IsActiveResponse>;
    type StreamMetricSpecStream = Stream<GetMetricSpecResponse>;

    async fn is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<IsActiveResponse>, Status> {
        let Answer { active, .. } = self.answer(request.get_ref()).await?;
        Ok(Response::new(IsActiveResponse { result: active }))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        let trigger = trigger(request.get_ref())?;
        let spec = MetricSpec {
            metric_name: trigger.metric_name().to_owned(),
            target_size_float: trigger.target(),
            ..MetricSpec::default()
        };
        Ok(Response::new(GetMetricSpecResponse { metric_specs: vec![spec] }))
    }

    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        let GetMetricsRequest { scaled_object_ref, metric_name } = request.into_inner();
        let reference =
            scaled_object_ref.ok_or_else(|| Status::invalid_argument("scaledObjectRef is missing"))?;
        let Answer { value, .. } = self.answer(&reference).await?;
        let value = MetricValue { metric_name, metric_value_float: value, ..MetricValue::default() };
        Ok(Response::new(GetMetricsResponse { metric_values: vec![value] }))
    }

    async fn stream_is_active(
        &self,
        _: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        Err(Status::unimplemented("this scaler answers and does not push; use type: external"))
    }

    async fn stream_metric_spec(
        &self,
        _: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamMetricSpecStream>, Status> {
        Err(Status::unimplemented("this scaler answers and does not push; use type: external"))
    }
}
