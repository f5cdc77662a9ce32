/* A FAKE libibverbs (libibverbs.so.1) with two devices: one takes exported GPU memory, the other refuses it. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

static char *devices[] = {"mlx5_0", "mlx5_1", NULL};

char **ibv_get_device_list(int *count)
{
    *count = 2;
    return devices;
}

void ibv_free_device_list(char **list)
{
}

const char *ibv_get_device_name(char *device)
{
    return device;
}

void *ibv_open_device(char *device)
{
    return device;
}

int ibv_close_device(void *context)
{
    return 0;
}

void *ibv_alloc_pd(void *context)
{
    return context;
}

int ibv_dealloc_pd(void *domain)
{
    return 0;
}

void *ibv_reg_dmabuf_mr(void *domain, uint64_t offset, size_t length, uint64_t address, int fd, int access)
{
    if (domain == devices[1] || lseek(fd, 0, SEEK_END) < 0) {
        errno = EOPNOTSUPP;
        return NULL;
    }
    return domain;
}

int ibv_dereg_mr(void *region)
{
    return 0;
}
