{{/* The objects of manifests/base, one by one, in the release's namespace; what they are is not written a second time here. */}}
{{- define "railbind.objects" -}}
{{- $paths := list -}}
{{- range (.Files.Get "base/kustomization.yaml" | fromYaml).resources }}{{ $paths = append $paths (printf "base/%s" .) }}{{ end -}}
{{- if eq .Values.bindingEngine "policy" }}{{ $paths = append $paths "policy-engine/policy-engine.yaml" }}{{ end -}}
{{- range $paths -}}
{{- range ($.Files.Get . | required (printf "%s is missing: package the chart from a checkout with symbolic links" .) | replace "railbind-system" $.Release.Namespace | splitList "\n---\n") -}}
{{- $object := fromYaml . -}}
{{- if $object }}
---
{{ include (printf "railbind.%s" (ternary (lower $object.kind) "asis" (has $object.kind (list "Namespace" "CustomResourceDefinition" "Deployment" "DaemonSet" "PodDisruptionBudget" "NetworkPolicy")))) (dict "root" $ "object" $object) }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "railbind.asis" -}}{{ toYaml .object }}{{- end -}}

{{- define "railbind.namespace" -}}{{ if .root.Values.namespace.create }}{{ toYaml .object }}{{ end }}{{- end -}}

{{- define "railbind.customresourcedefinition" -}}
{{- if .root.Values.crds.install -}}
{{- if .root.Values.crds.keep }}{{ $_ := set .object.metadata "annotations" (dict "helm.sh/resource-policy" "keep") }}{{ end -}}
{{ toYaml .object }}
{{- end -}}
{{- end -}}

{{- define "railbind.poddisruptionbudget" -}}
{{- with .root.Values.webhook.disruptionBudget -}}
{{- if .enabled }}{{ $_ := set $.object.spec "minAvailable" .minAvailable }}{{ toYaml $.object }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "railbind.networkpolicy" -}}
{{- with .root.Values.networkPolicy -}}
{{- if .enabled -}}
{{- $monitoring := .monitoringNamespace -}}
{{- range $.object.spec.ingress }}{{ range .from }}{{ $_ := set .namespaceSelector.matchLabels "kubernetes.io/metadata.name" $monitoring }}{{ end }}{{ end -}}
{{ toYaml $.object }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "railbind.deployment" -}}
{{- $values := .root.Values.webhook -}}
{{- $spec := .object.spec.template.spec -}}
{{- $container := first $spec.containers -}}
{{- $args := list -}}
{{- range $container.args }}{{ $args = append $args (ternary (printf "--binding-engine=%s" $.root.Values.bindingEngine) . (hasPrefix "--binding-engine=" .)) }}{{ end -}}
{{- $_ := set $container "args" $args -}}
{{- $_ := set .object.spec "replicas" $values.replicas -}}
{{- with $values.strategy }}{{ $_ := set $.object.spec "strategy" . }}{{ end -}}
{{- $_ := set $spec "priorityClassName" $values.priorityClassName -}}
{{- $_ := set $spec "topologySpreadConstraints" (concat $spec.topologySpreadConstraints $values.topologySpreadConstraints) -}}
{{- with $values.affinity }}{{ $_ := set $spec "affinity" . }}{{ end -}}
{{- with $values.tolerations }}{{ $_ := set $spec "tolerations" . }}{{ end -}}
{{- include "railbind.workload" (dict "root" .root "object" .object "values" $values) -}}
{{- end -}}

{{- define "railbind.daemonset" -}}
{{- $container := first .object.spec.template.spec.containers -}}
{{- $args := list -}}
{{- range $container.args }}{{ $args = append $args (ternary (printf "--admin-listen=%s" $.root.Values.agent.adminListen) . (hasPrefix "--admin-listen=" .)) }}{{ end -}}
{{- $_ := set $container "args" $args -}}
{{- $_ := set .object.spec.template.spec "tolerations" .root.Values.agent.tolerations -}}
{{- include "railbind.workload" (dict "root" .root "object" .object "values" .root.Values.agent) -}}
{{- end -}}

{{/* What both workloads have. */}}
{{- define "railbind.workload" -}}
{{- $image := .root.Values.image -}}
{{- $pod := .object.spec.template -}}
{{- $container := first $pod.spec.containers -}}
{{- $_ := set $container "image" (printf "%s%s:%s" $image.registry $container.image (default .root.Chart.AppVersion $image.tag)) -}}
{{- with $image.pullPolicy }}{{ $_ := set $container "imagePullPolicy" . }}{{ end -}}
{{- with $image.pullSecrets }}{{ $_ := set $pod.spec "imagePullSecrets" . }}{{ end -}}
{{- with .root.Values.logLevel }}{{ $_ := set $container "args" (append $container.args (printf "--log-level=%s" .)) }}{{ end -}}
{{- $_ := set $container "args" (concat $container.args .values.extraArgs) -}}
{{- $_ := set $container "resources" .values.resources -}}
{{- with .values.nodeSelector }}{{ $_ := set $pod.spec "nodeSelector" . }}{{ end -}}
{{- with .values.podAnnotations }}{{ $_ := set $pod.metadata "annotations" . }}{{ end -}}
{{ toYaml .object }}
{{- end -}}
