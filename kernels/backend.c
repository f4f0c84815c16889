/* backend.c: the list of backends, the only place that knows which ones this build has. */
#include "kernels/backend.h"

#include <errno.h>
#include <string.h>

const struct backend *backend_find(const char *name, struct error *err)
{
    static const struct backend *const backends[] = {&backend_cpu};
    if (!strcmp(name, "auto"))
        return backends[0];
    for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++)
        if (!strcmp(name, backends[i]->name))
            return backends[i];
    if (!strcmp(name, "cuda"))
        error_set(err, -ENOTSUP, "device", "this ddimd was built without CUDA: use \"cpu\" or \"auto\"");
    else
        error_set(err, -EINVAL, "device", "unknown device \"%.64s\": use \"auto\", \"cpu\" or \"cuda\"", name);
    return NULL;
}
