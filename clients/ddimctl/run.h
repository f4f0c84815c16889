/* run.h: what a command runs in, and the commands themselves, one function for each row of the table. */
#ifndef DDIMCTL_RUN_H
#define DDIMCTL_RUN_H

#include "clients/ddimctl/arguments.h"
#include "clients/ddimctl/client.h"
#include "clients/ddimctl/terminal.h"

struct session {
    struct client *client;
    struct terminal out, err; // results; progress
    bool json, quiet;
    const volatile sig_atomic_t *interrupted;
};

enum outcome run_generate(struct session *s, const struct arguments *a);
enum outcome run_grid(struct session *s, const struct arguments *a);
enum outcome run_result(struct session *s, const struct arguments *a);
enum outcome run_replay(struct session *s, const struct arguments *a);
enum outcome run_train(struct session *s, const struct arguments *a);
enum outcome run_evaluate(struct session *s, const struct arguments *a);
enum outcome run_jobs(struct session *s, const struct arguments *a);
enum outcome run_job(struct session *s, const struct arguments *a);
enum outcome run_cancel(struct session *s, const struct arguments *a);
enum outcome run_resume(struct session *s, const struct arguments *a);
enum outcome run_retry(struct session *s, const struct arguments *a);
enum outcome run_delete(struct session *s, const struct arguments *a);
enum outcome run_publish(struct session *s, const struct arguments *a);
enum outcome run_models(struct session *s, const struct arguments *a);
enum outcome run_model(struct session *s, const struct arguments *a);
enum outcome run_load(struct session *s, const struct arguments *a);
enum outcome run_unload(struct session *s, const struct arguments *a);
enum outcome run_default(struct session *s, const struct arguments *a);
enum outcome run_rollback(struct session *s, const struct arguments *a);
enum outcome run_status(struct session *s, const struct arguments *a);
enum outcome run_schedule(struct session *s, const struct arguments *a);
enum outcome run_completion(struct session *s, const struct arguments *a);
enum outcome run_manual(struct session *s, const struct arguments *a);

/* ---- what several of them do ---- */

/* One request without a stream. *ret_json: the answer, a new reference, where the outcome is OK; what went wrong is
 * said already. body NULL: none. */
enum outcome session_ask(struct session *s, const char *method, const char *path, const json_t *body,
                         json_t **ret_json);
/* PREFIX/operand/SUFFIX with the operand percent-encoded, in buffer; returns it. */
const char *session_path(char *buffer, size_t bytes, const char *prefix, const char *operand, const char *suffix);
/* The value on stdout; indented where it is alone. */
void session_print_json(const json_t *value, bool alone);
/* The fields among the options as a form. 0, -ENOMEM. */
int session_form(const struct arguments *a, struct buffer *ret_form);
/* A random seed of 53 bits, as the daemon's own, in buffer: chosen here, so that a second attempt gives the same bytes.
 */
const char *session_seed(char buffer[24]);

/* Members of an answer, for printing. */
const char *json_text_of(const json_t *object, const char *name); // NULL where it is no string
const char *json_word_of(const json_t *object, const char *name); // "?" where it is no string
double json_number_of(const json_t *object, const char *name);    // NAN where it is no number

#endif
