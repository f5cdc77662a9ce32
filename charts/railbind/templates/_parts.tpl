{{/* The objects of manifests/base, one by one, in the release's namespace; what they are is not written a second time here. */}}
{{- define "railbind.objects" -}}
{{- $paths := list -}}
{{- range (.Files.Get "base/kustomization.yaml" | fromYaml).resources }}{{ $paths = append $paths (printf "base/%s" .) }}{{ end -}}
{{- if eq .Values.bindingEngine "policy" }}{{ $paths = append $paths "policy-engine/policy-engine.yaml" }}{{ end -}}
{{- if eq .Values.certificates.mode "certManager" }}{{ $paths = append $paths "cert-manager/certificates.yaml" }}{{ end -}}
{{- if .Values.agent.selftest.enabled }}{{ $paths = append $paths "selftest/priority.yaml" }}{{ end -}}
{{- range $paths -}}
{{- range ($.Files.Get . | required (printf "%s is missing: package the chart from a checkout with symbolic links" .) | replace "railbind-system" $.Release.Namespace | splitList "\n---\n") -}}
{{- $object := fromYaml . -}}
{{- if $object }}
---
{{ include (printf "railbind.%s" (ternary (lower $object.kind) "asis" (has $object.kind (list "Namespace" "CustomResourceDefinition" "Deployment" "DaemonSet" "PodDisruptionBudget" "NetworkPolicy" "Role" "MutatingWebhookConfiguration" "Issuer" "Certificate")))) (dict "root" $ "object" $object) }}
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

{{/* With a Secret that the kubelet reads, the account needs no right to any. */}}
{{- define "railbind.role" -}}
{{- if and (ne .root.Values.certificates.mode "own") (eq .object.metadata.name "railbind-webhook") -}}
{{- $rules := list -}}
{{- range .object.rules }}{{ if not (has "secrets" .resources) }}{{ $rules = append $rules . }}{{ end }}{{ end -}}
{{- $_ := set .object "rules" $rules -}}
{{- end -}}
{{ toYaml .object }}
{{- end -}}

{{- define "railbind.mutatingwebhookconfiguration" -}}
{{- if eq .root.Values.certificates.mode "certManager" -}}
{{- $_ := set .object.metadata "annotations" (dict "cert-manager.io/inject-ca-from" (printf "%s/railbind-webhook" .root.Release.Namespace)) -}}
{{- end -}}
{{ toYaml .object }}
{{- end -}}

{{/* A CA of the namespace's own is not needed where there is an issuer. */}}
{{- define "railbind.issuer" -}}{{ if not .root.Values.certificates.issuerRef }}{{ toYaml .object }}{{ end }}{{- end -}}

{{- define "railbind.certificate" -}}
{{- with .root.Values.certificates -}}
{{- if or (eq $.object.metadata.name "railbind-webhook") (not .issuerRef) -}}
{{- if eq $.object.metadata.name "railbind-webhook" }}{{ $_ := set $.object.spec "secretName" .secretName }}{{ end -}}
{{- if .issuerRef }}{{ $_ := set $.object.spec "issuerRef" .issuerRef }}{{ end -}}
{{ toYaml $.object }}
{{- end -}}
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
{{- $mounts := list -}}
{{- $volumes := list -}}
{{- with .root.Values.certificates -}}
{{- if ne .mode "own" -}}
{{- $args = append $args "--tls-cert-dir=/etc/railbind/tls" -}}
{{- if eq .mode "certManager" }}{{ $args = append $args "--ca-bundle=injected" }}{{ end -}}
{{- $mounts = append $mounts (dict "name" "tls" "mountPath" "/etc/railbind/tls" "readOnly" true) -}}
{{- $volumes = append $volumes (dict "name" "tls" "secret" (dict "secretName" .secretName "defaultMode" 288)) -}}
{{- $_ := set $spec "securityContext" (dict "fsGroup" 65532) -}}
{{- end -}}
{{- if .clientCaConfigMap -}}
{{- $args = append $args "--client-ca=/etc/railbind/clients/ca.crt" -}}
{{- $mounts = append $mounts (dict "name" "clients" "mountPath" "/etc/railbind/clients" "readOnly" true) -}}
{{- $volumes = append $volumes (dict "name" "clients" "configMap" (dict "name" .clientCaConfigMap)) -}}
{{- end -}}
{{- end -}}
{{- with $mounts }}{{ $_ := set $container "volumeMounts" . }}{{ end -}}
{{- with $volumes }}{{ $_ := set $spec "volumes" . }}{{ end -}}
{{- $_ := set $container "args" $args -}}
{{- $_ := set .object.spec "replicas" $values.replicas -}}
{{- with $values.strategy }}{{ $_ := set $.object.spec "strategy" . }}{{ end -}}
{{- $_ := set $spec "priorityClassName" $values.priorityClassName -}}
{{- $_ := set $spec "topologySpreadConstraints" (concat $spec.topologySpreadConstraints $values.topologySpreadConstraints) -}}
{{- with $values.affinity }}{{ $_ := set $spec "affinity" . }}{{ end -}}
{{- with $values.tolerations }}{{ $_ := set $spec "tolerations" . }}{{ end -}}
{{- include "railbind.workload" (dict "root" .root "object" .object "values" $values) -}}
{{- end -}}

{{/* Nodes with the self-test's label have a DaemonSet of their own: manifests/components/selftest says why. */}}
{{- define "railbind.daemonset" -}}
{{- $agent := .root.Values.agent -}}
{{- $spec := .object.spec.template.spec -}}
{{- $container := first $spec.containers -}}
{{- $args := list -}}
{{- range $container.args }}{{ $args = append $args (ternary (printf "--admin-listen=%s" $agent.adminListen) . (hasPrefix "--admin-listen=" .)) }}{{ end -}}
{{- $_ := set $container "args" $args -}}
{{- $_ := set $spec "tolerations" $agent.tolerations -}}
{{- $twin := deepCopy .object -}}
{{- $label := splitn "=" 2 $agent.selftest.nodeLabel -}}
{{- if $agent.selftest.enabled -}}
{{- $terms := list (dict "matchExpressions" (list (dict "key" $label._0 "operator" "NotIn" "values" (list $label._1)))) -}}
{{- $_ := set $spec "affinity" (dict "nodeAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms))) -}}
{{- end -}}
{{ include "railbind.workload" (dict "root" .root "object" .object "values" $agent) }}
{{- if $agent.selftest.enabled }}
---
{{ include "railbind.selftest" (dict "root" .root "object" $twin "label" $label) }}
{{- end -}}
{{- end -}}

{{/* The agent with the self-test: what the components selftest, selftest-nvidia and selftest-ucx patch. */}}
{{- define "railbind.selftest" -}}
{{- $agent := .root.Values.agent -}}
{{- $own := $agent.selftest -}}
{{- $spec := .object.spec.template.spec -}}
{{- $container := first $spec.containers -}}
{{- $name := printf "%s-selftest" .object.metadata.name -}}
{{- $_ := set .object.metadata "name" $name -}}
{{- range list .object.metadata.labels .object.spec.selector.matchLabels .object.spec.template.metadata.labels }}{{ $_ := set . "app.kubernetes.io/name" $name }}{{ end -}}
{{- $_ := set $spec "priorityClassName" "railbind-selftest" -}}
{{- $_ := set $container.securityContext.capabilities "add" (list "IPC_LOCK") -}}
{{- $args := list "--selftest=on" -}}
{{- with $own.gpu.runtimeClassName -}}
{{- $_ := set $spec "runtimeClassName" . -}}
{{- $_ := set $container "env" (concat $container.env (list (dict "name" "NVIDIA_VISIBLE_DEVICES" "value" "all") (dict "name" "NVIDIA_DRIVER_CAPABILITIES" "value" "compute,utility"))) -}}
{{- end -}}
{{- with $own.ucx.volume -}}
{{- $args = append $args (printf "--ucx-lib=/opt/ucx/%s" $own.ucx.folder) -}}
{{- $_ := set $container "volumeMounts" (append $container.volumeMounts (dict "name" "ucx" "mountPath" "/opt/ucx" "readOnly" true)) -}}
{{- $_ := set $spec "volumes" (append $spec.volumes (merge (dict "name" "ucx") .)) -}}
{{- end -}}
{{- $limits := dict "memory" (default (ternary "2Gi" "1Gi" (ne $own.gpu.runtimeClassName "")) $own.memoryLimit) -}}
{{- with $own.rdmaResource }}{{ $_ := set $limits . "1" }}{{ end -}}
{{- $resources := dict "requests" (default dict $agent.resources.requests) "limits" (merge $limits (default dict $agent.resources.limits)) -}}
{{- $selector := merge (dict .label._0 .label._1) $agent.nodeSelector -}}
{{- $values := dict "extraArgs" (concat $agent.extraArgs $args $own.extraArgs) "resources" $resources "nodeSelector" $selector "podAnnotations" $agent.podAnnotations -}}
{{- include "railbind.workload" (dict "root" .root "object" .object "values" $values) -}}
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
