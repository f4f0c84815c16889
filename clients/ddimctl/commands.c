/* commands.c: see commands.h. */
#include "clients/ddimctl/commands.h"

#include "clients/ddimctl/run.h"

#include <string.h>

static const char *const method_names[] = {"linear", "quadratic", "trailing", NULL};
static const char *const sampler_names[] = {"ddim", "ddpm", "dpmpp_2m", NULL};
static const char *const priority_names[] = {"low", "normal", "high", NULL};
static const char *const state_names[] = {"queued", "running", "succeeded", "failed", "cancelled", NULL};
static const char *const show_names[] = {"auto", "blocks", "sixel", "kitty", "viewer", NULL};
static const char *const format_names[] = {"png", "json", "zip", "npy", NULL};

const struct option no_options[] = {{0}};

const struct option common_options[] = {
    {"url", .kind = VALUE_TEXT, .value = "URL", .help = "where ddimd is: http://HOST:PORT, https://..., or unix:/PATH"},
    {"key-file", .kind = VALUE_FILE, .value = "FILE", .help = "file whose first line is the key"},
    {"key", .kind = VALUE_TEXT, .value = "KEY",
     .help = "the key itself; others on this machine can see it in the list of processes"},
    {"ca", .kind = VALUE_FILE, .value = "FILE", .help = "certificates to trust for https, instead of the system's"},
    {"config", .kind = VALUE_FILE, .value = "FILE", .help = "settings, in place of ~/.config/ddimd/client.json"},
    {"retries", .kind = VALUE_NUMBER, .value = "N",
     .help = "how often to try again where the daemon is busy or out of reach [5]"},
    {"json", .kind = VALUE_NONE, .help = "answer in JSON, one value on each line where there are several"},
    {"quiet", 'q', VALUE_NONE, .help = "no progress, no notices; lists show only names or numbers"},
    {"help", 'h', VALUE_NONE, .help = "say what a command does and takes"},
    {0},
};

static const struct option field_options[] = {
    {"class", 'c', VALUE_TEXT, "LIST", .is_field = true,
     .help = "classes by index or name, \"0,3,cat\"; all, or none [all]"},
    {"n", 'n', VALUE_NUMBER, "N", .is_field = true, .help = "images for each class [1]"},
    {"steps", 's', VALUE_NUMBER, "N", .is_field = true, .help = "sampling steps [50]"},
    {"method", .kind = VALUE_NAME, .value = "NAME", .is_field = true, .names = method_names,
     .help = "spacing of the timesteps [quadratic]"},
    {"eta", 'e', VALUE_TEXT, "X", .is_field = true, .help = "0 is DDIM, 1 has DDPM's noise [0]"},
    {"sampler", .kind = VALUE_NAME, .value = "NAME", .is_field = true, .names = sampler_names,
     .help = "sampling method [ddim]"},
    {"guidance", 'g', VALUE_TEXT, "X", .is_field = true, .help = "scale of classifier-free guidance; 1 is without [1]"},
    {"seed", .kind = VALUE_NUMBER, .value = "N", .is_field = true,
     .help = "the same seed, fields and model give the same bytes [random]"},
    {"model", 'm', VALUE_MODEL, "NAME", .is_field = true, .help = "model [the daemon's default]"},
    {"nrow", .kind = VALUE_NUMBER, .value = "N", .is_field = true, .help = "images in each row of the picture"},
    {"scale", .kind = VALUE_NUMBER, .value = "N", .is_field = true, .help = "enlarges the picture by whole pixels [1]"},
    {"to-grayscale", .kind = VALUE_SWITCH, .is_field = true, .help = "turns the picture grey"},
    {"result-only", .kind = VALUE_SWITCH, .is_field = true,
     .help = "--no-result-only makes each image a row of its intermediate results"},
    {"interval", .kind = VALUE_NUMBER, .value = "N", .is_field = true,
     .help = "with --no-result-only: every how many steps"},
    {"clip", .kind = VALUE_SWITCH, .is_field = true, .help = "clips the predicted image at each step"},
    {"priority", .kind = VALUE_NAME, .value = "NAME", .is_field = true, .names = priority_names,
     .help = "which queue the request waits in [normal]"},
    {"timeout-ms", .kind = VALUE_NUMBER, .value = "N", .is_field = true, .help = "give up after so many milliseconds"},
    {0},
};

static const struct option schedule_options[] = {
    {"steps", 's', VALUE_NUMBER, "N", .is_field = true, .help = "sampling steps [50]"},
    {"method", .kind = VALUE_NAME, .value = "NAME", .is_field = true, .names = method_names,
     .help = "spacing of the timesteps [quadratic]"},
    {"eta", 'e', VALUE_TEXT, "X", .is_field = true, .help = "0 is DDIM, 1 has DDPM's noise [0]"},
    {"sampler", .kind = VALUE_NAME, .value = "NAME", .is_field = true, .names = sampler_names,
     .help = "sampling method [ddim]"},
    {"model", 'm', VALUE_MODEL, "NAME", .is_field = true, .help = "model [the daemon's default]"},
    {0},
};

static const struct option picture_options[] = {
    {"output", 'o', VALUE_FILE, "FILE", .help = "file to write, - for standard output [MODEL-SEED.png]"},
    {"show", .kind = VALUE_NAME, .value = "HOW", .optional = true, .names = show_names,
     .help = "shows the picture too: in a terminal as kitty's graphics, sixel or half blocks, else in the desktop's "
             "viewer"},
    {0},
};

static const struct option generate_options[] = {
    {"format", .kind = VALUE_NAME, .value = "NAME", .names = format_names,
     .help = "png (one picture), json, zip (one PNG for each image) or npy (float32) [by the file's name, else png]"},
    {"dry-run", .kind = VALUE_NONE, .help = "only check: says the resolved parameters, the cost and the expected wait"},
    {"detach", .kind = VALUE_NONE,
     .help = "do not wait: leaves a job with the daemon, whose images `ddimctl result` fetches"},
    {0},
};

static const struct option result_options[] = {
    {"format", .kind = VALUE_NAME, .value = "NAME", .names = format_names,
     .help = "png, json, zip or npy [by the file's name, else png]"},
    {0},
};

static const struct option train_options[] = {
    {"name", .kind = VALUE_TEXT, .value = "TEXT", .help = "the job's name [the file's name]"},
    {"set", .kind = VALUE_TEXT, .value = "KEY=VALUE", .repeats = true,
     .help = "changes one key of the configuration, as in dataset.path=digits; may be repeated"},
    {"dry-run", .kind = VALUE_NONE, .help = "only check: says what the run would take"},
    {"follow", 'f', VALUE_NONE, .help = "stays and shows how it goes on"},
    {0},
};

static const struct option job_options[] = {
    {"follow", 'f', VALUE_NONE, .help = "stays and shows how it goes on"},
    {"log", 'l', VALUE_NONE, .help = "the program's output; with --follow as it comes"},
    {"samples", .kind = VALUE_TEXT, .value = "EPOCH", .optional = true,
     .help = "the grid of samples of an epoch [the newest]; see --output and --show"},
    {0},
};

static const struct option jobs_options[] = {
    {"state", .kind = VALUE_NAME, .value = "NAME", .is_field = true, .names = state_names,
     .help = "only jobs in this state"},
    {"type", .kind = VALUE_TEXT, .value = "TYPE", .is_field = true,
     .help = "only jobs of this type: train, generate, evaluate"},
    {"limit", .kind = VALUE_NUMBER, .value = "N", .is_field = true, .help = "at most so many [100]"},
    {0},
};

static const struct option publish_options[] = {
    {"checkpoint", .kind = VALUE_TEXT, .value = "WHICH", .help = "best, last, or the number of an epoch [best]"},
    {"default", .kind = VALUE_NONE, .help = "make it the default model as well"},
    {0},
};

const struct command commands[] = {
    {"generate",
     "",
     VALUE_NONE,
     0,
     0,
     "generate images into a file",
     "The picture's file says in its text chunk how to make it again (see replay). Interrupted with Ctrl-C, the "
     "generation is given up and its place in the batch is free at the next step.",
     {generate_options, picture_options, field_options},
     run_generate},
    {"grid",
     "FIELD=VALUES [FIELD=VALUES]",
     VALUE_TEXT,
     1,
     2,
     "sweep one or two fields into one labelled picture",
     "VALUES is a list (steps=5,10,50) or a range (eta=0..1:0.25). The first field runs from left to right, the second "
     "from top to bottom. All cells have the same seed and are under way at once, so that they share batches.",
     {picture_options, field_options},
     run_grid},
    {"result",
     "ID",
     VALUE_JOB,
     1,
     1,
     "fetch the images of a generation that was left as a job",
     NULL,
     {result_options, picture_options},
     run_result},
    {"replay",
     "FILE",
     VALUE_FILE,
     1,
     1,
     "make a picture again from its own text and compare",
     "Ends with 0 where the bytes are identical, else with 13, naming what differs: model, build or device.",
     {no_options},
     run_replay},
    {"train",
     "CONFIG",
     VALUE_FILE,
     1,
     1,
     "submit a training run",
     "CONFIG is a JSON file like those in etc/train; dataset.path is relative to the daemon's folder of data sets. The "
     "job "
     "goes on without ddimctl; a run that is followed can be left with Ctrl-C.",
     {train_options},
     run_train},
    {"evaluate",
     "CONFIG",
     VALUE_FILE,
     1,
     1,
     "submit an evaluation",
     "CONFIG is a JSON file with the model, the images to compare with, and what to sweep.",
     {train_options},
     run_evaluate},
    {"jobs", "", VALUE_NONE, 0, 0, "list jobs, newest first", NULL, {jobs_options}, run_jobs},
    {"job",
     "ID",
     VALUE_JOB,
     1,
     1,
     "show one job: state, progress, the curve of its loss",
     "With --follow until it ends; the stream of its events is taken up again where it broke, also over a restart of "
     "the daemon. Then ends with 11 where the job failed, 12 where it was cancelled.",
     {job_options, picture_options},
     run_job},
    {"cancel", "ID...", VALUE_JOB, 1, 64, "stop jobs, after a checkpoint", NULL, {no_options}, run_cancel},
    {"resume",
     "ID...",
     VALUE_JOB,
     1,
     64,
     "go on with failed or cancelled jobs from their last checkpoints",
     NULL,
     {no_options},
     run_resume},
    {"retry", "ID...", VALUE_JOB, 1, 64, "queue copies of ended jobs", NULL, {no_options}, run_retry},
    {"delete",
     "ID...",
     VALUE_JOB,
     1,
     64,
     "remove ended jobs with all that they produced",
     NULL,
     {no_options},
     run_delete},
    {"publish",
     "ID NAME",
     VALUE_JOB,
     2,
     2,
     "serve a job's result as the model NAME",
     "Requests under way finish on the model that they began with. `ddimctl rollback NAME` goes back.",
     {publish_options},
     run_publish},
    {"models", "", VALUE_NONE, 0, 0, "list the models", NULL, {no_options}, run_models},
    {"model", "NAME", VALUE_MODEL, 1, 1, "show one model", NULL, {no_options}, run_model},
    {"load", "NAME...", VALUE_MODEL, 1, 64, "make models resident", NULL, {no_options}, run_load},
    {"unload", "NAME...", VALUE_MODEL, 1, 64, "let go of resident models", NULL, {no_options}, run_unload},
    {"default", "NAME", VALUE_MODEL, 1, 1, "make a model the default", NULL, {no_options}, run_default},
    {"rollback",
     "NAME",
     VALUE_MODEL,
     1,
     1,
     "serve again what had this name before the last publication",
     NULL,
     {no_options},
     run_rollback},
    {"status",
     "",
     VALUE_NONE,
     0,
     0,
     "is the daemon ready, what does it do",
     "Ends with 0 where it can serve, else with 7.",
     {no_options},
     run_status},
    {"schedule",
     "",
     VALUE_NONE,
     0,
     0,
     "the rows of numbers that a sampling method runs",
     NULL,
     {schedule_options},
     run_schedule},
    {"completion",
     "SHELL",
     VALUE_NAME,
     1,
     1,
     "print the completion for a shell (bash)",
     "Put `source <(ddimctl completion bash)` into ~/.bashrc where no package installed it.",
     {no_options},
     run_completion},
    {"manual", "", VALUE_NONE, 0, 0, "print the manual page, in roff", NULL, {no_options}, run_manual},
    {0},
};

const struct command *command_find(const char *name)
{
    for (const struct command *c = commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

const struct option *command_options(const struct command *c, int i)
{
    int own = 0;
    while (c && own < COMMAND_OPTION_TABLES && c->options[own])
        own++;
    return i < own ? c->options[i] : i == own ? common_options : NULL;
}
