#!/bin/sh
# usage: make_driver.sh STUB OUT.c -- writes a libcuda.so.1 for machines without a GPU, with every function of the toolkit's
# stub library STUB: it says that there is no device, pretends to load code, and does nothing else. cuDNN wants a driver
# to exist before it compiles kernels for a GPU that is only described to it.
set -eu
stub=$1 out=$2
answers='
int cuInit(unsigned flags) { (void)flags; return 100; } /* CUDA_ERROR_NO_DEVICE */
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuGetErrorName(int e, const char **name) { (void)e; *name = "CUDA_ERROR_NO_DEVICE"; return 0; }
int cuGetErrorString(int e, const char **text) { (void)e; *text = "no CUDA-capable device is detected"; return 0; }
int cuGetExportTable(const void **table, const void *id) { (void)id; *table = 0; return 100; }
int cuGetProcAddress(const char *name, void **p, int version, uint64_t flags) { (void)version; (void)flags; return find(name, p); }
int cuGetProcAddress_v2(const char *name, void **p, int version, uint64_t flags, int *found)
{ int rc = find(name, p); (void)version; (void)flags; if (found) *found = rc != 0; return rc; }
'
loaders='cuLibraryLoadData cuLibraryGetKernel cuLibraryGetModule cuKernelGetFunction cuModuleLoadData cuModuleLoadDataEx cuModuleGetFunction'
{
    printf '#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <stdint.h>\nstatic char code[256];\n'
    printf 'static int find(const char *name, void **p) { *p = dlsym(dlopen("libcuda.so.1", RTLD_NOW), name); return *p ? 0 : 500; }\n'
    printf '%s\n' "$answers"
    for f in $loaders; do echo "int $f(void **handle) { *handle = code; return 0; }"; done
    known=$(printf '%s\n' "$answers" | sed -n 's/^int \(cu[A-Za-z0-9_]*\)(.*/\1/p'; printf '%s\n' $loaders)
    nm -D --defined-only "$stub" | awk '{ print $3 }' | grep '^cu[A-Z]' | sort -u | grep -vxF "$known" | sed 's/.*/int &(void) { return 0; }/'
} >"$out"
