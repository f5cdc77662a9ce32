/* A FAKE UCX, for tests of what the probe does when a real one breaks. It takes the place of libucs, libuct and libucp, says that it
 * is 1.22.0, and misbehaves in ucp_init_version as FAKE_UCX tells it, or HOW when it is compiled: abort, segv, hang, chatter, garbage or exit. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef HOW
#define HOW getenv("FAKE_UCX")
#endif

void ucp_get_version(unsigned *major, unsigned *minor, unsigned *release)
{
    *major = 1;
    *minor = 22;
    *release = 0;
}

signed char ucp_config_read(const char *prefix, const char *file, void **config)
{
    *config = config;
    return 0;
}

void ucp_config_release(void *config)
{
}

signed char ucp_init_version(unsigned major, unsigned minor, const void *params, const void *config, void **context)
{
    const char *how = HOW;

    if (how == NULL || strcmp(how, "abort") == 0) {
        fprintf(stderr, "Assertion `fake' failed: req->flags\n");
        abort();
    }
    if (strcmp(how, "segv") == 0) {
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    }
    if (strcmp(how, "hang") == 0) {
        for (;;)
            pause();
    }
    if (strcmp(how, "chatter") == 0) {
        for (;;)
            printf("a library that does not stop talking to standard output\n");
    }
    if (strcmp(how, "garbage") == 0) {
        for (int fd = 3; fd < 64; fd++)
            if (write(fd, "{\"next\":\"\",\"facts\":{\"nonsense\xff\n", 31) < 0)
                continue;
        _exit(0);
    }
    exit(3);
}
