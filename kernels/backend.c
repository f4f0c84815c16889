/* backend.c: the list of backends, the only place that knows which ones there are and where they come from.
 *
 * The CPU's is linked in. CUDA's is a library that is loaded on request, so that the same program starts on machines
 * without CUDA; it exports one symbol, its struct backend.
 */
#include "kernels/backend.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY "libddimd-cuda.so"
#define SYMBOL "ddimd_backend"

/* The folder of the running program. */
static void program_folder(char folder[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", folder, PATH_MAX - 1);
    folder[n > 0 ? n : 0] = '\0';
    char *end = strrchr(folder, '/');
    *(end ? end : folder) = '\0';
}

/* The first folder that has the library: where the environment says, the build tree, the installation. */
static bool find_library(char path[2 * PATH_MAX])
{
    char folder[PATH_MAX];
    const char *named = getenv("DDIMD_PLUGINS");
    program_folder(folder);
    const char *const places[][2] = {
        {named ? named : "", ""}, {folder, "/../kernels/cuda"}, {folder, "/../lib/ddimd"}, {PLUGIN_FOLDER, ""}};
    for (size_t i = named ? 0 : 1; i < sizeof(places) / sizeof(places[0]); i++) {
        snprintf(path, 2 * PATH_MAX, "%s%s/" LIBRARY, places[i][0], places[i][1]);
        if (access(path, F_OK) == 0)
            return true;
        if (i == 0)
            break; // what is named is meant
    }
    return false;
}

/* Never unloaded: CUDA's libraries are not made for that. */
static const struct backend *cuda_load(struct error *err)
{
    char path[2 * PATH_MAX];
    if (!find_library(path)) {
        error_set(err, -ENOTSUP, "device", "this ddimd was built or installed without CUDA (no " LIBRARY ")");
        return NULL;
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        error_set(err, -ENODEV, "device", "CUDA cannot be loaded: %s", dlerror());
        return NULL;
    }
    const struct backend *b = dlsym(library, SYMBOL);
    if (b && b->abi == BACKEND_ABI)
        return b;
    if (b)
        error_set(err, -ENOTSUP, "device", "%s belongs to another version of ddimd (ABI %d, not %d)", path, b->abi,
                  BACKEND_ABI);
    else
        error_set(err, -ENOTSUP, "device", "%s is no backend of ddimd", path);
    dlclose(library);
    return NULL;
}

static const struct backend *cuda_find(struct error *err)
{
    const struct backend *b = cuda_load(err);
    return b && b->available(err) == 0 ? b : NULL;
}

static const struct backend *choose(struct error *err)
{
    char path[2 * PATH_MAX];
    *err = (struct error){0};
    const struct backend *cuda = find_library(path) ? cuda_find(err) : NULL;
    err->code = 0;
    return cuda ? cuda : &backend_cpu;
}

const struct backend *backend_find(const char *name, struct error *err)
{
    if (!strcmp(name, "auto"))
        return choose(err);
    if (!strcmp(name, "cpu"))
        return &backend_cpu;
    if (!strcmp(name, "cuda"))
        return cuda_find(err);
    error_set(err, -EINVAL, "device", "unknown device \"%.64s\": use \"auto\", \"cpu\" or \"cuda\"", name);
    return NULL;
}
