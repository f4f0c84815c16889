/* cards.h: the models folder: names, files, and what each file says of itself, read once per version of the file.
 *
 * Any thread. Files are opened beneath the folder's descriptor only, by names that were checked.
 */
#ifndef DDIMD_SAMPLING_CARDS_H
#define DDIMD_SAMPLING_CARDS_H

#include "model/checkpoint.h"
#include "sampling/models.h"

#include <sys/types.h>

/* Which version of a file: all zero for none. */
struct file_version {
    dev_t device;
    ino_t inode;
    int64_t bytes, mtime_ns, ctime_ns;
};
bool file_version_equal(const struct file_version *a, const struct file_version *b);

struct card_folder;
int card_folder_open(const char *path, struct card_folder **ret_folder, struct error *err); // -ENOENT, -ENOTDIR, ...
void card_folder_close(struct card_folder *f);                                              // NULL is fine

/* [A-Za-z0-9._-], 1 to 64, not starting with '.'. */
bool model_name_valid(const char *name);
int model_name_check(const char *name, struct error *err); // 0, -EINVAL
/* Sorted names of the model files, NULL-terminated, in one block for free(). 0, -ENOMEM, -EIO. */
int card_folder_names(struct card_folder *f, char ***ret_names);
/* 0, -ENOENT (err->nearest), -EINVAL (name). */
int card_folder_version(struct card_folder *f, const char *name, struct file_version *ret_version, struct error *err);
/* Opens the model's file for loading, and remembers its card. */
int card_folder_checkpoint(struct card_folder *f, const char *name, struct file_version *ret_version,
                           struct checkpoint *ret_checkpoint, struct error *err);
/* What the file says: bytes, parameters, classes, image_size, mode, T, digest, training; or bytes and error. A copy. */
int card_folder_card(struct card_folder *f, const char *name, json_t **ret_card, struct error *err);

#endif
