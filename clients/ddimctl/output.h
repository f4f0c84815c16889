/* output.h: where a result goes: a file, or standard output for "-". */
#ifndef DDIMCTL_OUTPUT_H
#define DDIMCTL_OUTPUT_H

#include "clients/ddimctl/run.h"

/* The value of --output, else MODEL-SEED.suffix in buffer. */
const char *output_name(const struct arguments *a, const char *model, const char *seed, const char *suffix,
                        char *buffer, size_t bytes);
/* All or nothing: a file that was there stays as it was until the new one is whole. Says what is in the way. */
enum outcome output_write(const char *path, const void *data, size_t n);
/* Writes, and shows where --show asks for it (png). */
enum outcome output_picture(struct session *s, const struct arguments *a, const char *path, const void *png, size_t n);

#endif
