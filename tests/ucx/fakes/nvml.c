/* A FAKE libnvidia-ml.so.1 for tests, with the driver's interface and nothing behind it: two GPUs, whose use is in FAKE_NVML as
 * "processes,percent,MiB" of the second GPU (the first is idle). FAKE_NVML_FILE names a file with the same, read at every start.
 * FAKE_NVML_INIT: what nvmlInit answers. FAKE_NVML_HANG: it never does. FAKE_NVML_ABORT: it dies. FAKE_NVML_BLIND: no list of processes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_t;
typedef struct { unsigned gpu, memory; } rates_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_t;

static unsigned processes, percent;
static unsigned long long mib = 3;

EXPORT int nvmlInit_v2(void)
{
    const char *path = getenv("FAKE_NVML_FILE"), *text = getenv("FAKE_NVML"), *status = getenv("FAKE_NVML_INIT");
    static char line[64];
    FILE *file = path ? fopen(path, "r") : NULL;
    if (file && fgets(line, sizeof line, file)) text = line;
    if (file) fclose(file);
    if (getenv("FAKE_NVML_HANG")) for (;;) pause();
    if (getenv("FAKE_NVML_ABORT")) abort();
    if (text) sscanf(text, "%u,%u,%llu", &processes, &percent, &mib);
    return status ? atoi(status) : 0;
}
EXPORT int nvmlInitWithFlags(unsigned flags) { (void)flags; return nvmlInit_v2(); }
EXPORT int nvmlShutdown(void) { return 0; }
EXPORT const char *nvmlErrorString(int error) { (void)error; return "an error of the fake NVML"; }
EXPORT int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "FAKE 1.0"); return 0; }
EXPORT int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    *device = (void *)(size_t)(index + 1);
    return index < 2 ? 0 : 2;
}
static int second(void *device) { return device == (void *)2; }
EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *list)
{
    unsigned have = second(device) ? processes : 0, room = *count;
    if (getenv("FAKE_NVML_BLIND")) return 4;
    *count = have;
    if (have == 0) return 0;
    if (!list || room < have) return 7;
    memset(list, 0, have * sizeof *list);
    for (unsigned i = 0; i < have; i++) list[i].pid = 1000 + i;
    return 0;
}
EXPORT int nvmlDeviceGetUtilizationRates(void *device, rates_t *rates)
{
    rates->gpu = second(device) ? percent : 0;
    rates->memory = 0;
    return 0;
}
EXPORT int nvmlDeviceGetMemoryInfo_v2(void *device, memory_t *memory)
{
    memory->total = 80ull << 30;
    memory->reserved = 600ull << 20;
    memory->used = (second(device) ? mib : 3) << 20;
    memory->free = memory->total - memory->used;
    return 0;
}
