/* tls.c: see tls.h. */
#include "api/tls.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char priorities[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-KX-ALL:+ECDHE-ECDSA:+ECDHE-RSA:"
                                 "-CIPHER-ALL:+AES-256-GCM:+AES-128-GCM:+CHACHA20-POLY1305:-MAC-ALL:+AEAD:"
                                 "-SIGN-RSA-SHA1:-SIGN-ECDSA-SHA1:%SERVER_PRECEDENCE";

struct tls_credentials {
    atomic_int refs;
    gnutls_certificate_credentials_t certificates;
    gnutls_priority_t priorities;
};

struct tls {
    struct tls_credentials *credentials;
    gnutls_session_t session;
    size_t unsent; // of a write that gave -EAGAIN
};

/* ---- certificates ---- */

static int file_load(const char *path, const char *field, gnutls_datum_t *ret_data, struct error *err)
{
    errno = 0;
    if (gnutls_load_file(path, ret_data) == 0)
        return 0;
    int rc = errno ? -errno : -EINVAL;
    return error_set(err, rc, field, "%.200s cannot be read: %s", path, strerror(-rc));
}

/* The first certificate is the server's own; one that is over would only fail at every client. */
static int expiry_check(const gnutls_datum_t *pem, const char *path, struct error *err)
{
    gnutls_x509_crt_t crt = NULL;
    if (gnutls_x509_crt_init(&crt))
        return error_set(err, -ENOMEM, "tls_certificate", "no memory for the certificate");
    int rc = gnutls_x509_crt_import(crt, pem, GNUTLS_X509_FMT_PEM);
    time_t end = rc ? 0 : gnutls_x509_crt_get_expiration_time(crt);
    gnutls_x509_crt_deinit(crt);
    if (rc)
        return error_set(err, -EINVAL, "tls_certificate", "%.200s holds no PEM certificate: %s", path,
                         gnutls_strerror(rc));
    if (end != (time_t)-1 && end < time(NULL))
        return error_set(err, -EINVAL, "tls_certificate", "the certificate in %.200s has expired", path);
    return 0;
}

static int pair_set(struct tls_credentials *c, const char *certificate, const char *key, struct error *err)
{
    gnutls_datum_t crt = {0}, secret = {0};
    int rc = file_load(certificate, "tls_certificate", &crt, err);
    if (rc == 0)
        rc = file_load(key, "tls_key", &secret, err);
    if (rc == 0)
        rc = expiry_check(&crt, certificate, err);
    if (rc == 0) {
        int e = gnutls_certificate_set_x509_key_mem(c->certificates, &crt, &secret, GNUTLS_X509_FMT_PEM);
        if (e < 0)
            rc = error_set(err, -EINVAL, "tls_key", "%.150s is no PEM key for %.150s: %s", key, certificate,
                           gnutls_strerror(e));
    }
    if (secret.data)
        gnutls_memset(secret.data, 0, secret.size);
    gnutls_free(secret.data);
    gnutls_free(crt.data);
    return rc;
}

int tls_credentials_load(const char *certificate, const char *key, struct tls_credentials **ret_credentials,
                         struct error *err)
{
    struct tls_credentials *c = calloc(1, sizeof(*c));
    if (!c)
        return error_set(err, -ENOMEM, "tls_certificate", "no memory for the certificate");
    atomic_init(&c->refs, 1);
    int rc = 0;
    if (gnutls_certificate_allocate_credentials(&c->certificates) ||
        gnutls_priority_init(&c->priorities, priorities, NULL))
        rc = error_set(err, -ENOMEM, "tls_certificate", "no memory for the certificate");
    if (rc == 0)
        rc = pair_set(c, certificate, key, err);
    if (rc) {
        tls_credentials_release(c);
        return rc;
    }
    *ret_credentials = c;
    return 0;
}

void tls_credentials_retain(struct tls_credentials *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
}

void tls_credentials_release(struct tls_credentials *c)
{
    if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (c->certificates)
        gnutls_certificate_free_credentials(c->certificates);
    if (c->priorities)
        gnutls_priority_deinit(c->priorities);
    free(c);
}

/* ---- sessions ---- */

static int session_init(struct tls *t, int fd)
{
    static const gnutls_datum_t http = {(unsigned char *)"http/1.1", 8};
    if (gnutls_init(&t->session, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL))
        return -ENOMEM;
    if (gnutls_priority_set(t->session, t->credentials->priorities) ||
        gnutls_credentials_set(t->session, GNUTLS_CRD_CERTIFICATE, t->credentials->certificates) ||
        gnutls_alpn_set_protocols(t->session, &http, 1, 0))
        return -ENOMEM;
    gnutls_transport_set_int(t->session, fd);
    gnutls_handshake_set_timeout(t->session, GNUTLS_INDEFINITE_TIMEOUT); // the connection has its own
    return 0;
}

int tls_create(struct tls_credentials *c, int fd, struct tls **ret_tls)
{
    struct tls *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    tls_credentials_retain(c);
    t->credentials = c;
    int rc = session_init(t, fd);
    if (rc) {
        tls_free(t);
        return rc;
    }
    *ret_tls = t;
    return 0;
}

void tls_free(struct tls *t)
{
    if (!t)
        return;
    if (t->session)
        gnutls_deinit(t->session);
    tls_credentials_release(t->credentials);
    free(t);
}

/* GnuTLS' errors as ours. */
static int code_of(ssize_t e)
{
    if (e == GNUTLS_E_AGAIN || e == GNUTLS_E_INTERRUPTED)
        return -EAGAIN;
    if (e == GNUTLS_E_PULL_ERROR || e == GNUTLS_E_PUSH_ERROR)
        return -ECONNRESET;
    return -EPROTO;
}

int tls_handshake(struct tls *t)
{
    int e = gnutls_handshake(t->session);
    if (e == 0)
        return 0;
    return gnutls_error_is_fatal(e) ? code_of(e) : -EAGAIN;
}

bool tls_wants_write(const struct tls *t)
{
    return gnutls_record_get_direction(t->session) == 1;
}

ssize_t tls_read(struct tls *t, void *to, size_t n)
{
    ssize_t got = gnutls_record_recv(t->session, to, n);
    if (got >= 0)
        return got;
    if (got == GNUTLS_E_PREMATURE_TERMINATION)
        return 0; // no goodbye: the request's own framing says whether it is whole
    return got == GNUTLS_E_REHANDSHAKE ? -EPROTO : code_of(got);
}

ssize_t tls_write(struct tls *t, const void *from, size_t n)
{
    ssize_t sent = t->unsent ? gnutls_record_send(t->session, NULL, 0) : gnutls_record_send(t->session, from, n);
    if (sent >= 0) {
        t->unsent = 0;
        return sent;
    }
    int rc = code_of(sent);
    if (rc == -EAGAIN)
        t->unsent = n;
    return rc;
}

bool tls_pending(const struct tls *t)
{
    return gnutls_record_check_pending(t->session) > 0;
}

void tls_bye(struct tls *t)
{
    gnutls_bye(t->session, GNUTLS_SHUT_WR);
}
