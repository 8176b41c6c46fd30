// The peer of bench-admission: an admission webhook for /scale as it is written with controller-runtime, with an informer cache and a
// field index, and the same rule: a person's count outside of the cluster's bounds or of its ScaledObject's range is refused.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

const byTarget = "target"

type bounds struct {
	Replicas    *int32 `json:"replicas,omitempty"`
	MinReplicas *int32 `json:"minReplicas,omitempty"`
	MaxReplicas *int32 `json:"maxReplicas,omitempty"`
}

type cluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              bounds `json:"spec"`
}

type clusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []cluster `json:"items"`
}

type target struct {
	Kind string `json:"kind,omitempty"`
	Name string `json:"name"`
}

type scaledObjectSpec struct {
	ScaleTargetRef  target `json:"scaleTargetRef"`
	MinReplicaCount *int32 `json:"minReplicaCount,omitempty"`
	MaxReplicaCount *int32 `json:"maxReplicaCount,omitempty"`
}

type scaledObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              scaledObjectSpec `json:"spec"`
}

type scaledObjectList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []scaledObject `json:"items"`
}

func copied(number *int32) *int32 {
	if number == nil {
		return nil
	}
	value := *number
	return &value
}

func (in *cluster) DeepCopyObject() runtime.Object {
	out := *in
	in.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Spec = bounds{copied(in.Spec.Replicas), copied(in.Spec.MinReplicas), copied(in.Spec.MaxReplicas)}
	return &out
}

func (in *clusterList) DeepCopyObject() runtime.Object {
	out := *in
	out.Items = make([]cluster, len(in.Items))
	for i := range in.Items {
		out.Items[i] = *in.Items[i].DeepCopyObject().(*cluster)
	}
	return &out
}

func (in *scaledObject) DeepCopyObject() runtime.Object {
	out := *in
	in.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Spec.MinReplicaCount = copied(in.Spec.MinReplicaCount)
	out.Spec.MaxReplicaCount = copied(in.Spec.MaxReplicaCount)
	return &out
}

func (in *scaledObjectList) DeepCopyObject() runtime.Object {
	out := *in
	out.Items = make([]scaledObject, len(in.Items))
	for i := range in.Items {
		out.Items[i] = *in.Items[i].DeepCopyObject().(*scaledObject)
	}
	return &out
}

type validator struct {
	client  client.Client
	decoder admission.Decoder
}

// Handle decides a write to /scale.
func (v *validator) Handle(ctx context.Context, req admission.Request) admission.Response {
	var scale autoscalingv1.Scale
	if err := v.decoder.Decode(req, &scale); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	var of cluster
	if err := v.client.Get(ctx, client.ObjectKey{Namespace: req.Namespace, Name: req.Name}, &of); err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	low, high := int32(1), int32(1<<30)
	if of.Spec.MinReplicas != nil {
		low = max(low, *of.Spec.MinReplicas)
	}
	if of.Spec.MaxReplicas != nil {
		high = min(high, *of.Spec.MaxReplicas)
	}
	var scalers scaledObjectList
	if err := v.client.List(ctx, &scalers, client.InNamespace(req.Namespace), client.MatchingFields{byTarget: req.Name}); err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	for i := range scalers.Items {
		spec := &scalers.Items[i].Spec
		if spec.MinReplicaCount != nil {
			low = max(low, *spec.MinReplicaCount)
		}
		if spec.MaxReplicaCount != nil {
			high = min(high, *spec.MaxReplicaCount)
		}
	}
	if count := scale.Spec.Replicas; count < low || count > high {
		return admission.Denied(fmt.Sprintf("spec.replicas: %d is not between %d and %d", count, low, high))
	}
	return admission.Allowed("")
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	kubeconfig := flag.String("config", "", "kubeconfig")
	host := flag.String("host", "127.0.0.1", "address to listen on")
	port := flag.Int("port", 9443, "port to listen on")
	certificates := flag.String("cert-dir", "", "folder with tls.crt and tls.key")
	flag.Parse()
	ctrl.SetLogger(zap.New())

	scheme := runtime.NewScheme()
	ours := schema.GroupVersion{Group: "training.distributed-inference.io", Version: "v1alpha1"}
	scheme.AddKnownTypeWithName(ours.WithKind("VLLMCluster"), &cluster{})
	scheme.AddKnownTypeWithName(ours.WithKind("VLLMClusterList"), &clusterList{})
	metav1.AddToGroupVersion(scheme, ours)
	kedas := schema.GroupVersion{Group: "keda.sh", Version: "v1alpha1"}
	scheme.AddKnownTypeWithName(kedas.WithKind("ScaledObject"), &scaledObject{})
	scheme.AddKnownTypeWithName(kedas.WithKind("ScaledObjectList"), &scaledObjectList{})
	metav1.AddToGroupVersion(scheme, kedas)
	fail(autoscalingv1.AddToScheme(scheme))

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	fail(err)
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:        scheme,
		Metrics:       metricsserver.Options{BindAddress: "0"},
		WebhookServer: webhook.NewServer(webhook.Options{Host: *host, Port: *port, CertDir: *certificates}),
	})
	fail(err)
	index := func(object client.Object) []string { return []string{object.(*scaledObject).Spec.ScaleTargetRef.Name} }
	ctx := ctrl.SetupSignalHandler()
	fail(manager.GetFieldIndexer().IndexField(ctx, &scaledObject{}, byTarget, index))
	_, err = manager.GetCache().GetInformer(ctx, &cluster{})
	fail(err)
	handler := &validator{client: manager.GetClient(), decoder: admission.NewDecoder(scheme)}
	manager.GetWebhookServer().Register("/validate/scale", &webhook.Admission{Handler: handler})
	fail(manager.Start(ctx))
}
