{{- /* The image, by its digest where there is one. */ -}}
{{- define "vllm-operator.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end -}}

{{- /* The user as which KEDA scales and writes. */ -}}
{{- define "vllm-operator.kedaAccount" -}}
system:serviceaccount:{{ .Values.scaler.keda.namespace }}:{{ .Values.scaler.keda.serviceAccount }}
{{- end -}}

{{- /* All autoscalers with a comma between them; nothing where they are those that the operator knows by itself. */ -}}
{{- define "vllm-operator.autoscalers" -}}
{{- $keda := include "vllm-operator.kedaAccount" . -}}
{{- $hpa := list "system:serviceaccount:kube-system:horizontal-pod-autoscaler" "system:kube-controller-manager" -}}
{{- if or .Values.admission.autoscalers (ne $keda "system:serviceaccount:keda:keda-operator") -}}
{{- concat (list $keda) $hpa .Values.admission.autoscalers | join "," -}}
{{- end -}}
{{- end -}}

{{- /* The Secret that is mounted for the operator's own TLS; nothing where it needs none. */ -}}
{{- define "vllm-operator.tlsSecret" -}}
{{- with .Values.certificates -}}
{{- if eq .mode "self" }}{{ .trustSecretName | default "" }}{{ else }}{{ .secretName }}{{ end -}}
{{- end -}}
{{- end -}}

{{- /* Which namespaces' writes a webhook is asked about; nothing where it is all of them. */ -}}
{{- define "vllm-operator.namespaceSelector" -}}
{{- with .Values.watchNamespaces -}}
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: In
      values: {{ toJson . }}
{{- end -}}
{{- end -}}

{{- /* Who issues where cert-manager does. */ -}}
{{- define "vllm-operator.issuerRef" -}}
{{- .Values.certificates.certManager.issuerRef | default (dict "name" "vllm-operator" "kind" "Issuer") | toYaml -}}
{{- end -}}
