package main

import (
	"context"

	cadvisor "github.com/google/cadvisor/info/v1"
	cadvisorv2 "github.com/google/cadvisor/info/v2"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	cadvisortest "k8s.io/kubernetes/pkg/kubelet/cadvisor/testing"
	"k8s.io/kubernetes/pkg/kubelet/cm"
)

const disk = 4 << 40

// machine is the hardware the kubelet believes in. Upstream's fake has one
// core, 3.75 GB and no disk, where none of our pods would be scheduled.
type machine struct {
	cadvisortest.Fake
	info   cadvisor.MachineInfo
	kernel string
}

func newMachine(name string, cpu int, memory int64, kernel string) *machine {
	return &machine{
		Fake: cadvisortest.Fake{NodeName: name},
		info: cadvisor.MachineInfo{
			NumCores: cpu, MemoryCapacity: uint64(memory), InstanceID: cadvisor.InstanceID(name), MachineID: name,
		},
		kernel: kernel,
	}
}

func (m *machine) MachineInfo() (*cadvisor.MachineInfo, error) {
	info := m.info
	return &info, nil
}

func (m *machine) VersionInfo() (*cadvisor.VersionInfo, error) {
	return &cadvisor.VersionInfo{KernelVersion: m.kernel, ContainerOsVersion: "Hollow Linux"}, nil
}

func (m *machine) ImagesFsInfo(context.Context) (cadvisorv2.FsInfo, error) { return filesystem(), nil }

func (m *machine) RootFsInfo() (cadvisorv2.FsInfo, error) { return filesystem(), nil }

func (m *machine) ContainerFsInfo(context.Context) (cadvisorv2.FsInfo, error) {
	return filesystem(), nil
}

func filesystem() cadvisorv2.FsInfo {
	return cadvisorv2.FsInfo{Device: "hollow", Capacity: disk, Available: disk}
}

// containerManager is upstream's stub with a disk: the stub says zero, and a
// pod that asks for ephemeral storage would stay pending.
type containerManager struct{ cm.ContainerManager }

func newContainerManager(resources v1.ResourceList) containerManager {
	return containerManager{cm.NewStubContainerManagerWithDevicePluginResource(resources)}
}

func (containerManager) GetCapacity(bool) v1.ResourceList {
	return v1.ResourceList{v1.ResourceEphemeralStorage: *resource.NewQuantity(disk, resource.BinarySI)}
}
