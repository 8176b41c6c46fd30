//! What admission knows of the operator's own scaler: settings, and whether KEDA can reach it by now.
//!
//! Architecture invariant: decides nothing; what becomes of triggers for the scaler is the policy's.

use tokio::sync::watch;

use crate::api::names::{CLUSTER_DOMAIN, OPERATOR_NAMESPACE, SCALER_AUTHENTICATION, SCALER_SERVICE};
use crate::args::ScalerMode;
use crate::policy::scaled_object::{ExternalScaler, Reach};

/// The operator's own scaler.
#[derive(Clone, Debug)]
pub struct OwnScaler {
    /// How KEDA's calls come to it.
    pub mode: ScalerMode,
    /// The Service under which KEDA reaches it.
    pub service: String,
    /// The namespace of that Service.
    pub namespace: String,
    /// The domain of the cluster's DNS names.
    pub domain: String,
    /// Whether triggers of an older form are brought up to date.
    pub rewrites: bool,
    /// Whether KEDA has the certificate that it is to show, and what it is to trust. Without TLS, nobody asks.
    pub published: watch::Receiver<bool>,
}

impl OwnScaler {
    /// That of an installation as it comes, within KEDA's reach.
    pub fn usual() -> Self {
        Self {
            mode: ScalerMode::Tls,
            service: SCALER_SERVICE.into(),
            namespace: OPERATOR_NAMESPACE.into(),
            domain: CLUSTER_DOMAIN.into(),
            rewrites: true,
            published: watch::channel(true).1,
        }
    }

    /// What the policy is to know of it now.
    pub(super) fn known(&self) -> ExternalScaler<'_> {
        let Self { mode, service, namespace, domain, rewrites, published } = self;
        let reach = match mode {
            ScalerMode::Tls if *published.borrow() => Reach::Ready,
            ScalerMode::Tls => Reach::Unpublished,
            ScalerMode::Plaintext => Reach::Ready,
            ScalerMode::Off => Reach::Off,
        };
        let authentication = match mode {
            ScalerMode::Tls => Some(SCALER_AUTHENTICATION),
            ScalerMode::Plaintext | ScalerMode::Off => None,
        };
        ExternalScaler { service, namespace, authentication, reach, rewrites: *rewrites, domain }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn the_usual_one_is_the_policys() {
        assert_eq!(OwnScaler::usual().known(), ExternalScaler::USUAL);
    }

    #[rstest]
    #[case(ScalerMode::Tls, false, Reach::Unpublished, Some("vllm-operator-scaler"))]
    #[case(ScalerMode::Tls, true, Reach::Ready, Some("vllm-operator-scaler"))]
    #[case(ScalerMode::Plaintext, false, Reach::Ready, None)]
    #[case(ScalerMode::Off, true, Reach::Off, None)]
    fn what_the_settings_come_to(
        #[case] mode: ScalerMode,
        #[case] is_published: bool,
        #[case] reach: Reach,
        #[case] authentication: Option<&str>,
    ) {
        let (publish, published) = watch::channel(!is_published);
        let scaler = OwnScaler { mode, published, rewrites: false, ..OwnScaler::usual() };
        publish.send_replace(is_published);
        let known = scaler.known();
        assert_eq!((known.reach, known.authentication, known.rewrites), (reach, authentication, false));
    }
}
