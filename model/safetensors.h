/* safetensors.h: the safetensors file format, read without trust and written durably.
 *
 * A file is: header length (8 bytes, little-endian), header (a JSON object from tensor name to dtype, shape and
 * data_offsets, and `__metadata__`, strings by name), data. The reader checks all of it before it believes any of it:
 * lengths, JSON, names, dtypes, shapes, offsets, and the format's rule that tensors cover the data without overlap or
 * hole. It reads files into memory instead of mapping them: a file that somebody shortens then is an error, not a
 * SIGBUS, and what was checked cannot change. Opening reads the header only, so that a file's claims can be compared
 * with what is wanted before memory is spent on its data.
 * Any thread, one at a time per object; a loaded object is read-only and may be shared.
 */
#ifndef DDIMD_MODEL_SAFETENSORS_H
#define DDIMD_MODEL_SAFETENSORS_H

#include "kernels/error.h"

#include <stddef.h>
#include <stdint.h>

enum {
    SAFETENSORS_MAX_HEADER = 4 << 20, // bytes of header that are read
    SAFETENSORS_MAX_RANK = 8,
    SAFETENSORS_MAX_NAME = 255, // bytes, printable ASCII
};

enum safetensors_dtype {
    SAFETENSORS_BOOL,
    SAFETENSORS_U8,
    SAFETENSORS_I8,
    SAFETENSORS_U16,
    SAFETENSORS_I16,
    SAFETENSORS_F16,
    SAFETENSORS_BF16,
    SAFETENSORS_U32,
    SAFETENSORS_I32,
    SAFETENSORS_F32,
    SAFETENSORS_U64,
    SAFETENSORS_I64,
    SAFETENSORS_F64,
    SAFETENSORS_DTYPE_COUNT
};
extern const char *const safetensors_dtype_names[SAFETENSORS_DTYPE_COUNT + 1]; // "BOOL", "U8", ...; NULL-terminated
size_t safetensors_dtype_bytes(enum safetensors_dtype dtype);

struct safetensor {
    const char *name;
    enum safetensors_dtype dtype;
    int32_t rank;
    int64_t dim[SAFETENSORS_MAX_RANK]; // slowest first
    const void *data;                  // little-endian, not aligned; NULL before safetensors_load()
    size_t bytes;                      // product of dim times dtype's bytes; a writer may leave it 0
};
int64_t safetensor_elements(const struct safetensor *t);

/* One string of `__metadata__`. */
struct safetensors_entry {
    const char *key, *value;
};

struct safetensors;

/* Reads and checks the header. dir_fd, name: openat; AT_FDCWD and a path for a command line. 0, -ENOENT, -EACCES,
 * -EINVAL (err), -EIO, -ENOMEM. */
int safetensors_open(int dir_fd, const char *name, struct safetensors **ret_file, struct error *err);
/* Reads the data; tensors have their `data` from then on. Idempotent. 0, -EINVAL (the file changed), -EIO, -ENOMEM. */
int safetensors_load(struct safetensors *s, struct error *err);
/* The same from a file's bytes in memory, which must outlive the object. Loaded at once. */
int safetensors_from_memory(const void *bytes, size_t n, struct safetensors **ret_file, struct error *err);
void safetensors_close(struct safetensors *s); // NULL is fine

size_t safetensors_count(const struct safetensors *s);
const struct safetensor *safetensors_at(const struct safetensors *s, size_t i);           // in order of the data
const struct safetensor *safetensors_find(const struct safetensors *s, const char *name); // NULL: no such tensor
const char *safetensors_metadata(const struct safetensors *s, const char *key);           // NULL: no such string
/* SHA-256 of the whole file. Loaded files only. ret_hex: [FILE_SHA256_CHARS + 1] */
void safetensors_digest(const struct safetensors *s, char *ret_hex);

/* Writes n tensors in their order, durably (file.h). Bytes are a function of the arguments. The data is aligned to 8
 * bytes, and each tensor to its element where no smaller dtype comes before a larger one. 0, -EINVAL (a name, shape or
 * string that the reader would refuse, or a name twice), -ENOMEM, or the file's error. */
int safetensors_write(int dir_fd, const char *path, const struct safetensor *tensors, size_t n,
                      const struct safetensors_entry *metadata, size_t n_metadata, struct error *err);

/* Elements [first, first + n) of an F32, BF16 or F16 tensor as f32, exactly. 0, -EINVAL (another dtype). */
int safetensor_to_f32(const struct safetensor *t, size_t first, size_t n, float *ret_values);
/* n values as dtype (F32, BF16, F16), to nearest, ties to even. 0, -EINVAL (another dtype), -ERANGE (a finite value
 * became infinite). ret_data: n times dtype's bytes, any alignment. */
int safetensor_from_f32(enum safetensors_dtype dtype, const float *values, size_t n, void *ret_data);

#endif
