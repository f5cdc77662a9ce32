/* A FAKE libucp, for tests of a transfer on a UCX that is broken. It stands in front of a real libucp, which it is linked to, so that
 * everything that it does not define is the real one. HOW says, when it is compiled, what is wrong with it:
 *   lose-put, lose-get, lose-tag  the last byte of every such operation is not moved
 *   flip-put, flip-tag            a byte in the middle is another one
 *   no-memory                     no memory can be registered, as where RLIMIT_MEMLOCK is too low for a NIC
 *   hang, abort                   making the endpoint hangs, or aborts
 *   stall                         puts never complete */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is(const char *what)
{
    return strcmp(HOW, what) == 0;
}

static void *real(const char *name)
{
    void *function = dlsym(RTLD_NEXT, name);

    if (function == NULL) {
        fprintf(stderr, "the fake found no real %s\n", name);
        abort();
    }
    return function;
}

/* Turns a byte once: the same buffer is sent many times. */
static void flip(unsigned char *buffer, size_t length)
{
    static unsigned char *at, value;
    unsigned char *middle = buffer + length / 2;

    if (middle == at && *middle == value)
        return;
    *middle ^= 0x10;
    at = middle;
    value = *middle;
}

void *ucp_put_nbx(void *ep, void *buffer, size_t count, uint64_t remote, void *rkey, const void *param)
{
    void *(*put)(void *, const void *, size_t, uint64_t, void *, const void *) = real("ucp_put_nbx");
    static char request[4096];

    if (is("stall"))
        return request;
    if (is("flip-put"))
        flip(buffer, count);
    return put(ep, buffer, is("lose-put") ? count - 1 : count, remote, rkey, param);
}

void *ucp_get_nbx(void *ep, void *buffer, size_t count, uint64_t remote, void *rkey, const void *param)
{
    void *(*get)(void *, void *, size_t, uint64_t, void *, const void *) = real("ucp_get_nbx");

    return get(ep, buffer, is("lose-get") ? count - 1 : count, remote, rkey, param);
}

void *ucp_tag_send_nbx(void *ep, void *buffer, size_t count, uint64_t tag, const void *param)
{
    void *(*send)(void *, const void *, size_t, uint64_t, const void *) = real("ucp_tag_send_nbx");

    /* The wire-up's and the acknowledgements' eight bytes are left alone. */
    if (count > 8 && is("flip-tag"))
        flip(buffer, count);
    return send(ep, buffer, count > 8 && is("lose-tag") ? count - 1 : count, tag, param);
}

signed char ucp_mem_map(void *context, const void *params, void **memh)
{
    signed char (*map)(void *, const void *, void **) = real("ucp_mem_map");

    if (is("no-memory"))
        return -4; /* UCS_ERR_NO_MEMORY */
    return map(context, params, memh);
}

signed char ucp_ep_create(void *worker, const void *params, void **ep)
{
    signed char (*create)(void *, const void *, void **) = real("ucp_ep_create");

    if (is("hang"))
        for (;;)
            pause();
    if (is("abort")) {
        fprintf(stderr, "Assertion `fake' failed: ep->worker\n");
        abort();
    }
    return create(worker, params, ep);
}
