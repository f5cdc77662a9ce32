/* A FAKE NVIDIA driver with one GPU whose memory is ordinary memory, for tests of transfers on machines without a GPU: with it, the
 * CUDA modules of an unmodified UCX (a wheel's) load, and stage "GPU" memory as they would. Compiled to libcuda.so.1, and with NVML
 * defined to libnvidia-ml.so.1. It shows that the calls are right, never how fast anything is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef NVML
#define NOT_SUPPORTED 801
#define INVALID_VALUE 1
#define INVALID_CONTEXT 201
#define NOT_FOUND 500
#define ALLOCATIONS 64
#define CONTEXT ((void *)0x1000)

static struct allocation {
    uintptr_t start;
    size_t size;
    uint64_t id;
} allocations[ALLOCATIONS];
static uint64_t last_id;
static __thread void *stack[16];
static __thread int depth;

static struct allocation *find(uintptr_t address)
{
    for (int i = 0; i < ALLOCATIONS; i++)
        if (allocations[i].start != 0 && address - allocations[i].start < allocations[i].size)
            return &allocations[i];
    return NULL;
}

/* The driver and its devices. */
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 12080; return 0; }
int cuGetErrorName(int error, const char **name) { *name = "CUDA_ERROR_FAKE"; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "an error of the fake driver"; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return index == 0 ? 0 : 101; }
int cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "FAKE GPU"); return 0; }
int cuDeviceGetUuid(uint8_t *uuid, int device) { memset(uuid, 0xa0, 16); return 0; }
int cuDeviceGetUuid_v2(uint8_t *uuid, int device) { return cuDeviceGetUuid(uuid, device); }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)80 << 30; return 0; }
int cuDeviceGetPCIBusId(char *id, int length, int device) { snprintf(id, length, "0000:1B:00.0"); return 0; }

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    switch (attribute) {
    case 33: *value = 0x1b; break; /* PCI_BUS_ID */
    case 75: *value = 9; break; /* COMPUTE_CAPABILITY_MAJOR */
    case 16: *value = 132; break; /* MULTIPROCESSOR_COUNT */
    case 41: *value = 1; break; /* UNIFIED_ADDRESSING */
    default: *value = 0;
    }
    return 0;
}

/* Contexts: one, the device's. */
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = CONTEXT; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }
int cuCtxGetCurrent(void **context) { *context = depth > 0 ? stack[depth - 1] : NULL; return 0; }
int cuCtxSetCurrent(void *context) { depth = 1; stack[0] = context; return 0; }
int cuCtxPushCurrent_v2(void *context) { stack[depth++ & 15] = context; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return depth > 0 ? 0 : INVALID_CONTEXT; }
int cuCtxGetId(void *context, unsigned long long *id) { *id = 1; return 0; }
int cuCtxSynchronize(void) { return depth > 0 ? 0 : INVALID_CONTEXT; }

int cuCtxPopCurrent_v2(void **context)
{
    if (depth == 0)
        return INVALID_CONTEXT;
    depth--;
    if (context != NULL)
        *context = stack[depth];
    return 0;
}

/* Memory. */
int cuMemAlloc_v2(uintptr_t *address, size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return 2;
    for (int i = 0; i < ALLOCATIONS; i++) {
        if (allocations[i].start == 0) {
            allocations[i] = (struct allocation){(uintptr_t)memory, size, ++last_id};
            *address = (uintptr_t)memory;
            return 0;
        }
    }
    return 2;
}

int cuMemAllocManaged(uintptr_t *address, size_t size, unsigned flags) { return cuMemAlloc_v2(address, size); }

int cuMemFree_v2(uintptr_t address)
{
    struct allocation *found = find(address);

    if (found == NULL)
        return INVALID_VALUE;
    munmap((void *)found->start, found->size);
    found->start = 0;
    return 0;
}

int cuMemGetAddressRange_v2(uintptr_t *start, size_t *size, uintptr_t address)
{
    struct allocation *found = find(address);

    if (found == NULL)
        return NOT_FOUND;
    if (start != NULL)
        *start = found->start;
    if (size != NULL)
        *size = found->size;
    return 0;
}

static void attribute(void *value, int attribute, const struct allocation *found)
{
    switch (attribute) {
    case 1: *(void **)value = found != NULL ? CONTEXT : NULL; break; /* CONTEXT */
    case 2: *(unsigned *)value = found != NULL ? 2 : 0; break; /* MEMORY_TYPE: device */
    case 7: *(uint64_t *)value = found != NULL ? found->id : 0; break; /* BUFFER_ID */
    case 8: *(unsigned *)value = 0; break; /* IS_MANAGED */
    case 9: *(int *)value = found != NULL ? 0 : -2; break; /* DEVICE_ORDINAL */
    case 11: *(uintptr_t *)value = found != NULL ? found->start : 0; break; /* RANGE_START_ADDR */
    case 12: *(size_t *)value = found != NULL ? found->size : 0; break; /* RANGE_SIZE */
    case 17: *(void **)value = NULL; break; /* MEMPOOL_HANDLE */
    }
}

int cuPointerGetAttribute(void *value, int which, uintptr_t address)
{
    struct allocation *found = find(address);

    attribute(value, which, found);
    return found != NULL ? 0 : INVALID_VALUE;
}

int cuPointerGetAttributes(unsigned count, int *which, void **values, uintptr_t address)
{
    for (unsigned i = 0; i < count; i++)
        attribute(values[i], which[i], find(address));
    return 0;
}

int cuPointerSetAttribute(const void *value, int which, uintptr_t address) { return 0; }

/* Copies and streams: everything is done at once. */
static int copy(uintptr_t to, uintptr_t from, size_t size) { memcpy((void *)to, (void *)from, size); return 0; }
int cuMemcpy(uintptr_t to, uintptr_t from, size_t size) { return copy(to, from, size); }
int cuMemcpyAsync(uintptr_t to, uintptr_t from, size_t size, void *stream) { return copy(to, from, size); }
int cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t size, void *stream) { return copy(to, from, size); }
int cuMemcpyHtoD_v2(uintptr_t to, const void *from, size_t size) { return copy(to, (uintptr_t)from, size); }
int cuMemcpyDtoH_v2(void *to, uintptr_t from, size_t size) { return copy((uintptr_t)to, from, size); }
int cuStreamCreate(void **stream, unsigned flags) { *stream = malloc(1); return 0; }
int cuStreamDestroy_v2(void *stream) { free(stream); return 0; }
int cuStreamSynchronize(void *stream) { return 0; }
int cuStreamAddCallback(void *stream, void (*done)(void *, int, void *), void *data, unsigned flags) { done(stream, 0, data); return 0; }
int cuEventCreate(void **event, unsigned flags) { *event = malloc(1); return 0; }
int cuEventDestroy_v2(void *event) { free(event); return 0; }
int cuEventQuery(void *event) { return 0; }
int cuEventRecord(void *event, void *stream) { return 0; }
int cuMemHostRegister_v2(void *memory, size_t size, unsigned flags) { return 0; }
int cuMemHostUnregister(void *memory) { return 0; }
int cuMemRetainAllocationHandle(void *handle, void *address) { return INVALID_VALUE; }

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *found)
{
    char second[128];
    Dl_info own;
    void *self;

    dladdr((void *)cuInit, &own);
    self = dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    snprintf(second, sizeof(second), "%s_v2", name);
    *function = dlsym(self, second);
    if (*function == NULL)
        *function = dlsym(self, name);
    if (found != NULL)
        *found = *function != NULL ? 0 : 1;
    return *function != NULL ? 0 : NOT_FOUND;
}

/* What this GPU cannot do: virtual memory management, pools, sharing between processes, DMA-BUF. */
#define REFUSE(name) int name() { return NOT_SUPPORTED; }
REFUSE(cuIpcCloseMemHandle)
REFUSE(cuIpcGetMemHandle)
REFUSE(cuIpcOpenMemHandle_v2)
REFUSE(cuMemAddressFree)
REFUSE(cuMemAddressReserve)
REFUSE(cuMemCreate)
REFUSE(cuMemExportToShareableHandle)
REFUSE(cuMemGetAllocationGranularity)
REFUSE(cuMemGetAllocationPropertiesFromHandle)
REFUSE(cuMemGetHandleForAddressRange)
REFUSE(cuMemImportFromShareableHandle)
REFUSE(cuMemMap)
REFUSE(cuMemPoolDestroy)
REFUSE(cuMemPoolExportPointer)
REFUSE(cuMemPoolExportToShareableHandle)
REFUSE(cuMemPoolImportFromShareableHandle)
REFUSE(cuMemPoolImportPointer)
REFUSE(cuMemPoolSetAccess)
REFUSE(cuMemRangeGetAttribute)
REFUSE(cuMemRelease)
REFUSE(cuMemSetAccess)
REFUSE(cuMemUnmap)
REFUSE(cuMemAllocAsync)
REFUSE(cuMemAllocFromPoolAsync)
REFUSE(cuMemAllocPitch_v2)
REFUSE(cuMemFreeAsync)
REFUSE(cuMemFreeHost)

#else
/* NVML: one device, without NVLink. */
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int error) { return "an error of the fake NVML"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetFieldValues() { return 3; }
int nvmlDeviceGetHandleByIndex_v2() { return 3; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2() { return 3; }
int nvmlDeviceGetGpuFabricInfo() { return 3; }
#endif
