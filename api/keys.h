/* keys.h: who may do what: the keys of clients.
 *
 * A key is "ddim_" and 43 characters of base64url: 256 random bits. The file holds its SHA-256, which is as good as any
 * slower hash for a secret that cannot be guessed, so that reading the file gives nobody access. Every comparison takes
 * the same time.
 *
 *     {"keys": [{"name": "lab", "sha256": "9f86...", "roles": ["generate"], "requests_per_minute": 600}]}
 *
 * Any thread. Tables are shared by reference and do not change, but for the count of what each key has used up.
 */
#ifndef DDIMD_API_KEYS_H
#define DDIMD_API_KEYS_H

#include "model/json.h"

enum { KEY_NAME_BYTES = 65, KEY_TEXT_BYTES = 49, KEY_HASH_BYTES = 32, KEYS_MAX_COUNT = 256 };
enum role { ROLE_GENERATE = 1, ROLE_TRAIN = 2, ROLE_ADMIN = 4 }; // admin may do everything
extern const char *const role_names[];                           // of 1, 2, 4; NULL-terminated

struct key {
    char name[KEY_NAME_BYTES];
    char sha256[2 * KEY_HASH_BYTES + 1]; // hexadecimal
    char roles[3][16];
    int32_t n_roles;
    int32_t requests_per_minute; // 0: no limit
    int64_t max_row_steps;       // work of this key's requests that is left, at any time; 0: as max_client_row_steps
};
extern const struct json_field key_fields[]; // of one entry
extern const struct key key_defaults;

struct keys;
/* From a file. 0; -EINVAL, -ENOENT and so on; -EPERM: others may write to it. err says file, line and field. */
int keys_load(const char *path, struct keys **ret_keys, struct error *err);
void keys_retain(struct keys *k);
void keys_release(struct keys *k); // NULL is fine
/* What keys of `old` (NULL: none) have used up counts on for the same keys of k. Before k is shared. */
void keys_inherit(struct keys *k, struct keys *old);
int keys_count(const struct keys *k);

/* Whose key the text after "Bearer " is; NULL: nobody's. Lives as long as k. */
const struct key *keys_find(const struct keys *k, const char *text);
/* Roles as bits. */
unsigned key_roles(const struct key *key);
/* Counts a request of a key of k. 0, or seconds until there is room for another. */
int keys_spend(struct keys *k, const struct key *key, int64_t now_ns);

/* A new secret, and the SHA-256 of one in hexadecimal. 0, -EIO (no randomness). */
int key_make(char ret_text[KEY_TEXT_BYTES]);
void key_hash(const char *text, char ret_hex[2 * KEY_HASH_BYTES + 1]);

#endif
