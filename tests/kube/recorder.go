package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	apitest "k8s.io/cri-api/pkg/apis/testing"
)

// recorder is a container runtime that runs nothing: it writes what the
// kubelet asked for, one JSON file a container, so that a test can read what a
// pod really got. A container is "running" until it is stopped, except one
// whose command is exactly `true`, which exits with success: init containers
// and jobs need an end.
type recorder struct {
	*apitest.FakeRuntimeService
	dir, node string
	// Containers that exit as soon as they start, by id.
	brief sync.Map
}

// record is what a file holds: the interesting part of the CRI's
// ContainerConfig, names as in the CRI's .proto, absent where zero.
type record struct {
	Node string `json:"node"`
	// Of the pod, so that a reader can tell this container from one of an
	// earlier pod of the same name.
	UID string `json:"uid"`
	// The pod's, as the kubelet handed them to the sandbox.
	Annotations map[string]string         `json:"annotations"`
	Image       string                    `json:"image"`
	Command     []string                  `json:"command"`
	Args        []string                  `json:"args"`
	Env         map[string]string         `json:"env"`
	Mounts      []*cri.Mount              `json:"mounts"`
	Linux       *cri.LinuxContainerConfig `json:"linux"`
}

func newRecorder(dir, node string) *recorder {
	r := &recorder{FakeRuntimeService: apitest.NewFakeRuntimeService(), dir: dir, node: node}
	// Without these two conditions the kubelet never turns Ready.
	r.FakeStatus = &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{
		{Type: cri.RuntimeReady, Status: true},
		{Type: cri.NetworkReady, Status: true},
	}}
	return r
}

func (r *recorder) CreateContainer(ctx context.Context, sandbox string, c *cri.ContainerConfig, pod *cri.PodSandboxConfig) (string, error) {
	env := make(map[string]string, len(c.Envs))
	for _, variable := range c.Envs {
		env[variable.Key] = string(variable.Value)
	}
	name := pod.Metadata.Namespace + "_" + pod.Metadata.Name + "_" + c.Metadata.Name + ".json"
	err := r.write(name, record{
		Node: r.node, UID: pod.Metadata.Uid, Annotations: pod.Annotations,
		Image: c.GetImage().GetUserSpecifiedImage(), Command: c.Command, Args: c.Args,
		Env: env, Mounts: c.Mounts, Linux: c.Linux,
	})
	if err != nil {
		return "", err
	}
	id, err := r.FakeRuntimeService.CreateContainer(ctx, sandbox, c, pod)
	if err == nil && slices.Equal(c.Command, []string{"true"}) {
		r.brief.Store(id, true)
	}
	return id, err
}

func (r *recorder) StartContainer(ctx context.Context, id string) error {
	if err := r.FakeRuntimeService.StartContainer(ctx, id); err != nil {
		return err
	}
	if _, brief := r.brief.LoadAndDelete(id); brief {
		r.Lock()
		defer r.Unlock()
		c := r.Containers[id]
		c.State, c.Reason, c.FinishedAt = cri.ContainerState_CONTAINER_EXITED, "Completed", time.Now().UnixNano()
	}
	return nil
}

// write is atomic: a test polls for the file and must never read half of it.
func (r *recorder) write(name string, what record) error {
	text, err := json.MarshalIndent(what, "", "  ")
	if err != nil {
		return err
	}
	temporary, err := os.CreateTemp(r.dir, ".record-*")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	if _, err := temporary.Write(text); err != nil {
		return err
	}
	if err := temporary.Close(); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), filepath.Join(r.dir, name))
}
