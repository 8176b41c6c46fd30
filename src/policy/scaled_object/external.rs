//! The operator's own scaler, as a KEDA `external` trigger must name it.
//!
//! Architecture invariant: what is known of the scaler, and names. Which triggers must be what stands in `own` and `http`.

use crate::api::names::{
    CLUSTER_DOMAIN, OPERATOR_NAMESPACE, SCALER_AUTHENTICATION, SCALER_PORT, SCALER_SERVICE,
};

use super::view::{Authentication, Trigger};

/// The kind of what a trigger's `authenticationRef` must lead to.
pub(super) const AUTHENTICATION_KIND: &str = "ClusterTriggerAuthentication";
/// The key of the address.
pub(super) const ADDRESS: &str = "scalerAddress";
/// What to use where the scaler cannot be.
pub(super) const INSTEAD: &str =
    "use a prometheus trigger with a query on vllm:num_requests_waiting, the requests that wait for a server";

/// Whether KEDA can reach the scaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It can.
    Ready,
    /// The scaler is switched off.
    Off,
    /// The certificate that KEDA is to show, and what it is to trust, are not where KEDA reads them.
    Unpublished,
}

/// What is known of the operator's own scaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternalScaler<'a> {
    /// The Service under which KEDA reaches it.
    pub service: &'a str,
    /// The namespace of that Service.
    pub namespace: &'a str,
    /// The `ClusterTriggerAuthentication` by which KEDA connects; `None`: without TLS.
    pub authentication: Option<&'a str>,
    /// Whether KEDA can reach it.
    pub reach: Reach,
    /// Whether triggers of an older form are brought up to date, where the object says nothing else.
    pub rewrites: bool,
    /// The domain of the cluster's DNS names.
    pub domain: &'a str,
}

impl ExternalScaler<'static> {
    /// That of an installation as it comes, where nothing more is known.
    pub const USUAL: Self = Self {
        service: SCALER_SERVICE,
        namespace: OPERATOR_NAMESPACE,
        authentication: Some(SCALER_AUTHENTICATION),
        reach: Reach::Ready,
        rewrites: true,
        domain: CLUSTER_DOMAIN,
    };
}

impl Default for ExternalScaler<'_> {
    fn default() -> Self {
        ExternalScaler::USUAL
    }
}

impl ExternalScaler<'_> {
    /// The one address for all triggers: they share a connection, and it is a name of the served certificate.
    pub(super) fn address(&self) -> String {
        format!("{}.{}.svc:{SCALER_PORT}", self.service, self.namespace)
    }

    /// Whether a trigger means this scaler, by whatever spelling of its address.
    pub(super) fn is_meant_by(&self, trigger: &Trigger) -> bool {
        matches!(trigger.type_.as_str(), "external" | "external-push")
            && trigger.value(ADDRESS).is_some_and(|address| self.is_named_by(address))
    }

    fn is_named_by(&self, address: &str) -> bool {
        let Self { service, namespace, domain, .. } = self;
        let rest = address.split_once("://").map_or(address, |(_, rest)| rest).trim_start_matches('/');
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let name = host.strip_suffix(domain).and_then(|host| host.strip_suffix('.')).unwrap_or(&host);
        let name = name.strip_suffix(".svc").unwrap_or(name);
        name == *service
            || name.strip_suffix(namespace).and_then(|name| name.strip_suffix('.')) == Some(*service)
    }

    /// Whether this is the reference by which KEDA connects.
    pub(super) fn is_reached_by(&self, reference: &Authentication) -> bool {
        let Authentication { name, kind } = reference;
        self.authentication.is_some()
            && name.as_deref() == self.authentication
            && kind.as_deref() == Some(AUTHENTICATION_KIND)
    }

    /// Why a trigger of this type gets no answer, and what to do, if that is so.
    pub(super) fn unanswered(&self, type_: &str) -> Option<String> {
        let freezes = "and a trigger that KEDA cannot reach freezes the others too";
        match self.reach {
            Reach::Ready => None,
            Reach::Off => Some(format!(
                "{type_:?} would be answered by the operator's own scaler, which is switched off, {freezes}; have the operator run without --scaler=off, or {INSTEAD}"
            )),
            Reach::Unpublished => Some(format!(
                "{type_:?} is answered by the operator's own scaler, to which KEDA has no certificate yet, {freezes}; apply deploy/keda.yaml if that is not done and try again in a minute, or {INSTEAD}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::right("vllm-operator-scaler.vllm-operator-system.svc:443", true)]
    #[case::no_port("vllm-operator-scaler.vllm-operator-system.svc", true)]
    #[case::other_port("vllm-operator-scaler.vllm-operator-system.svc:9444", true)]
    #[case::short("vllm-operator-scaler.vllm-operator-system:443", true)]
    #[case::shortest("vllm-operator-scaler:443", true)]
    #[case::domain("vllm-operator-scaler.vllm-operator-system.svc.cluster.local:443", true)]
    #[case::dot("VLLM-operator-scaler.vllm-operator-system.svc.cluster.local.:443", true)]
    #[case::scheme("https://vllm-operator-scaler.vllm-operator-system.svc:443/", true)]
    #[case::resolver("dns:///vllm-operator-scaler.vllm-operator-system.svc:443", true)]
    #[case::other_namespace("vllm-operator-scaler.elsewhere.svc:443", false)]
    #[case::other_service("scaler.vllm-operator-system.svc:443", false)]
    #[case::longer("my-vllm-operator-scaler.vllm-operator-system.svc:443", false)]
    #[case::other_domain("vllm-operator-scaler.vllm-operator-system.svc.example.com:443", false)]
    #[case::nothing("", false)]
    fn spellings_of_its_address(#[case] address: &str, #[case] is_meant: bool) {
        assert_eq!(ExternalScaler::USUAL.is_named_by(address), is_meant);
        let trigger = |type_: &str| Trigger {
            type_: type_.into(),
            metadata: [(ADDRESS.into(), format!(" {address}"))].into(),
            ..Trigger::default()
        };
        assert_eq!(ExternalScaler::USUAL.is_meant_by(&trigger("external")), is_meant);
        assert_eq!(ExternalScaler::USUAL.is_meant_by(&trigger("external-push")), is_meant);
        assert!(!ExternalScaler::USUAL.is_meant_by(&trigger("prometheus")));
    }

    #[test]
    fn an_address_of_its_own() {
        let scaler = ExternalScaler { service: "s", namespace: "n", domain: "d.e", ..ExternalScaler::USUAL };
        assert_eq!(scaler.address(), "s.n.svc:443");
        assert!(scaler.is_named_by("s.n.svc.d.e:443") && !scaler.is_named_by("s.n.svc.cluster.local:443"));
    }
}
