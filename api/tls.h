/* tls.h: TLS of a connection's outside, on GnuTLS.
 *
 * TLS 1.3 and 1.2 with forward secrecy and authenticated ciphers, nothing else; ALPN says http/1.1. Certificates can be
 * exchanged while connections use the old ones: each session holds a reference. A session belongs to one thread.
 */
#ifndef DDIMD_API_TLS_H
#define DDIMD_API_TLS_H

#include "kernels/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct tls_credentials;
/* From PEM files, the certificate with its chain. 0; -EINVAL (not a pair, not PEM, expired), -ENOENT, -EACCES, -ENOMEM;
 * err names certificate or key as "tls_certificate", "tls_key". */
int tls_credentials_load(const char *certificate, const char *key, struct tls_credentials **ret_credentials,
                         struct error *err);
void tls_credentials_retain(struct tls_credentials *c);
void tls_credentials_release(struct tls_credentials *c); // NULL is fine

struct tls;
/* A session on a non-blocking socket, which stays the caller's. 0, -ENOMEM. */
int tls_create(struct tls_credentials *c, int fd, struct tls **ret_tls);
void tls_free(struct tls *t); // NULL is fine

/* 0: done; -EAGAIN: call again when tls_wants_write() or its opposite is possible; -EPROTO: it failed. */
int tls_handshake(struct tls *t);
bool tls_wants_write(const struct tls *t);
/* As recv() and send(): bytes, 0 at the end, -EAGAIN, -EPROTO, -ECONNRESET. After -EAGAIN tls_write() is called again
 * with the same bytes first. */
ssize_t tls_read(struct tls *t, void *to, size_t n);
ssize_t tls_write(struct tls *t, const void *from, size_t n);
/* Bytes that are decrypted and wait, which no poll sees. */
bool tls_pending(const struct tls *t);
/* Says goodbye, without waiting for an answer. */
void tls_bye(struct tls *t);

#endif
