// A webhook written with controller-runtime, the way most Go webhooks are: the peer that railbind-webhook is compared with in
// `make bench`. It gives a pod the patch that PEER_PATCH holds, and a Binding the annotations that PEER_ANNOTATIONS holds, and
// decides nothing: what it costs is what controller-runtime costs.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// What a pod gets.
type additions struct {
	Annotations  map[string]string    `json:"annotations"`
	Env          []corev1.EnvVar      `json:"env"`
	Capabilities []corev1.Capability  `json:"capabilities"`
	Resources    corev1.ResourceList  `json:"resources"`
	Volumes      []corev1.Volume      `json:"volumes"`
	VolumeMounts []corev1.VolumeMount `json:"volumeMounts"`
	Affinity     *corev1.Affinity     `json:"affinity"`
}

type pods struct {
	decoder admission.Decoder
	add     additions
}

func (hook *pods) Handle(_ context.Context, request admission.Request) admission.Response {
	pod := &corev1.Pod{}
	if err := hook.decoder.Decode(request, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	maps.Copy(pod.Annotations, hook.add.Annotations)
	for index := range pod.Spec.Containers {
		container := &pod.Spec.Containers[index]
		container.Env = append(container.Env, hook.add.Env...)
		container.VolumeMounts = append(container.VolumeMounts, hook.add.VolumeMounts...)
		for name, quantity := range hook.add.Resources {
			for _, list := range []*corev1.ResourceList{&container.Resources.Limits, &container.Resources.Requests} {
				if *list == nil {
					*list = corev1.ResourceList{}
				}
				(*list)[name] = quantity
			}
		}
		if len(hook.add.Capabilities) > 0 {
			if container.SecurityContext == nil {
				container.SecurityContext = &corev1.SecurityContext{}
			}
			if container.SecurityContext.Capabilities == nil {
				container.SecurityContext.Capabilities = &corev1.Capabilities{}
			}
			added := &container.SecurityContext.Capabilities.Add
			*added = append(*added, hook.add.Capabilities...)
		}
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, hook.add.Volumes...)
	if hook.add.Affinity != nil {
		pod.Spec.Affinity = hook.add.Affinity
	}
	patched, err := json.Marshal(pod)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	return admission.PatchResponseFromRaw(request.Object.Raw, patched)
}

type bindings struct {
	decoder admission.Decoder
	add     map[string]string
}

func (hook *bindings) Handle(_ context.Context, request admission.Request) admission.Response {
	binding := &corev1.Binding{}
	if err := hook.decoder.Decode(request, binding); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	if binding.Annotations == nil {
		binding.Annotations = map[string]string{}
	}
	maps.Copy(binding.Annotations, hook.add)
	patched, err := json.Marshal(binding)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	return admission.PatchResponseFromRaw(request.Object.Raw, patched)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "peer-webhook:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 3 {
		return errors.New("usage: PEER_PATCH=JSON PEER_ANNOTATIONS=JSON peer-webhook PORT DIRECTORY-OF-tls.crt-AND-tls.key")
	}
	log.SetLogger(zap.New())
	port, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return fmt.Errorf("port: %w", err)
	}
	var add additions
	if err := json.Unmarshal([]byte(os.Getenv("PEER_PATCH")), &add); err != nil {
		return fmt.Errorf("PEER_PATCH: %w", err)
	}
	var values map[string]string
	if err := json.Unmarshal([]byte(os.Getenv("PEER_ANNOTATIONS")), &values); err != nil {
		return fmt.Errorf("PEER_ANNOTATIONS: %w", err)
	}
	scheme := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(scheme))
	decoder := admission.NewDecoder(scheme)
	server := webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: port, CertDir: os.Args[2]})
	server.Register("/mutate/pods", &admission.Webhook{Handler: &pods{decoder, add}})
	server.Register("/mutate/bindings", &admission.Webhook{Handler: &bindings{decoder, values}})
	return server.Start(ctrl.SetupSignalHandler())
}
