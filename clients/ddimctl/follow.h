/* follow.h: a job's events as they come, until it ends: drawn over in a terminal, a line now and then elsewhere. */
#ifndef DDIMCTL_FOLLOW_H
#define DDIMCTL_FOLLOW_H

#include "clients/ddimctl/run.h"

/* job: as GET /jobs/{id} answers it. OK: it succeeded; JOB_FAILED, JOB_CANCELLED; INTERRUPTED: the watcher left. */
enum outcome follow_job(struct session *s, const json_t *job);
/* The program's output instead, until the job ends. */
enum outcome follow_log(struct session *s, const char *id, bool stay);

#endif
