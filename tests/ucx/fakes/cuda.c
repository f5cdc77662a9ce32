/* A FAKE NVIDIA driver (libcuda.so.1), for tests of the probe on machines without a GPU. "GPU memory" is a memfd, which an export
 * hands out. FAKE_CUDA_INIT and FAKE_CUDA_EXPORT are the statuses of cuInit and of the export, FAKE_CUDA_HANG hangs in cuInit. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int from_env(const char *name)
{
    const char *value = getenv(name);

    return value != NULL ? atoi(value) : 0;
}

int cuInit(unsigned flags)
{
    if (from_env("FAKE_CUDA_HANG"))
        for (;;)
            pause();
    return from_env("FAKE_CUDA_INIT");
}

int cuDriverGetVersion(int *version)
{
    *version = 13000;
    return 0;
}

int cuGetErrorName(int error, const char **name)
{
    *name = error == 34 ? "CUDA_ERROR_STUB_LIBRARY" : error == 801 ? "CUDA_ERROR_NOT_SUPPORTED" : NULL;
    return *name != NULL ? 0 : 1;
}

int cuDeviceGetCount(int *count)
{
    *count = 2;
    return 0;
}

int cuDeviceGet(int *device, int index)
{
    *device = index;
    return index < 2 ? 0 : 101;
}

int cuDeviceGetName(char *name, int length, int device)
{
    snprintf(name, length, "FAKE GPU %d", device);
    return 0;
}

int cuDeviceGetPCIBusId(char *id, int length, int device)
{
    snprintf(id, length, "0000:%02X:00.0", 0x1b + device);
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    if (attribute == 128)
        return 1; /* CUDA_ERROR_INVALID_VALUE: an attribute that is newer than this driver */
    *value = attribute == 116 || attribute == 124;
    return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device)
{
    *context = &from_env;
    return 0;
}

int cuDevicePrimaryCtxRelease_v2(int device)
{
    return 0;
}

int cuCtxSetCurrent(void *context)
{
    return 0;
}

int cuMemAlloc_v2(unsigned long long *address, size_t size)
{
    *address = 0x7f0000000000;
    return size % 4096 == 0 ? 0 : 1;
}

int cuMemFree_v2(unsigned long long address)
{
    return address == 0x7f0000000000 ? 0 : 1;
}

int cuMemGetHandleForAddressRange(void *handle, unsigned long long address, size_t size, int type, unsigned long long flags)
{
    int status = from_env("FAKE_CUDA_EXPORT");

    if (status == 0)
        *(int *)handle = memfd_create("fake-gpu-memory", MFD_CLOEXEC);
    return status;
}
