/* jobs_types.c: the table of the kinds of jobs. A kind is an entry here: its name, what checks its configuration, and
 * which launcher runs it. Everything else about jobs asks this table.
 */
#include "api/api.h"
#include "api/jobs.h"
#include "api/jobs_generate.h"

/* In the order of the table. */
const char *const job_type_names[] = {"train", GENERATE_JOB_TYPE, "evaluate", NULL};

const struct job_type api_job_types[] = {
    {.name = "train", .place = JOB_IN_PROCESS, .check = job_train_check},
    {.name = GENERATE_JOB_TYPE,
     .place = JOB_IN_DAEMON,
     .at_once = GENERATE_JOBS_AT_ONCE,
     .store_plan = true,
     .check = job_generate_check},
    {.name = "evaluate", .place = JOB_IN_PROCESS, .verb = "evaluate", .check = job_evaluate_check},
};
enum { N_TYPES = sizeof(api_job_types) / sizeof(api_job_types[0]) };
const int32_t api_n_job_types = N_TYPES;

_Static_assert(sizeof(job_type_names) / sizeof(job_type_names[0]) == N_TYPES + 1, "a name for each kind");
