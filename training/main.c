/* main.c: the program ddimd-train: its command line, its signals, its exit codes.
 */
#include "kernels/backend.h"
#include "training/classify.h"
#include "training/evaluation.h"
#include "training/export.h"
#include "training/report.h"
#include "training/trainer.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SETS = 64, MAX_LISTS = 16, MAX_THREADS = 1024 };

/* Exit codes; frozen: job runners tell by them what happened. */
enum {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_CONFIG = 2,
    EXIT_DATA = 3,
    EXIT_DIVERGED = 4,
    EXIT_MEMORY = 5,
    EXIT_BUSY = 6
};

static const char usage[] =
    "usage: ddimd-train CONFIG.json --out DIR [options]      train a model, or a classifier that evaluations use\n"
    "       ddimd-train CONFIG.json --check [options]        check the configuration, train nothing\n"
    "       ddimd-train evaluate CONFIG.json --out DIR [options]   measure generated images (docs/QUALITY.md)\n"
    "       ddimd-train export MODEL.safetensors --dtype F16|BF16|F32 --out FILE\n"
    "\n"
    "  --out DIR            folder of the run: metrics.jsonl, samples/, checkpoints/ (made where it is missing)\n"
    "  --resume             go on from the folder's last checkpoint; from the beginning where there is none\n"
    "  --datasets DIR       dataset.path is relative to this folder, and never leads out of it\n"
    "  --mirror URL         fetch data sets (dataset.download) from this address instead of the usual ones\n"
    "  --threads N          compute threads; default: all processors\n"
    "  --precision P        f32, bf16 or auto (what the device computes in); instead of the configuration's\n"
    "  --set KEY=VALUE      set a key of the configuration (dataset.path=mnist, optimizer.lr=1e-3); may be repeated\n"
    "  --check              validate only\n"
    "  --models DIR         evaluate: model and extractor are names, DIR/NAME.safetensors, "
    "DIR/../extractors/NAME.safetensors\n"
    "  --steps, --sampler, --method, --eta, --guidance A,B,C   evaluate: every combination, instead of `sampling`\n"
    "  --help, --version\n"
    "\n"
    "SIGTERM and SIGINT: the step is finished, a checkpoint written, exit code 0.\n"
    "\n"
    "exit codes:\n"
    "  0  trained to the end, stopped early by early_stopping, or stopped by a signal after a checkpoint;\n"
    "     the last line says which, and where the model is\n"
    "  1  failed: files, disk, device\n"
    "  2  command line or configuration\n"
    "  3  the data set cannot be read\n"
    "  4  the loss was not finite in 10 steps in a row\n"
    "  5  not enough memory\n"
    "  6  another process trains in this folder, or it holds a run and --resume was not given\n";

static volatile sig_atomic_t stop_requested;

static void request_stop(int signal_number)
{
    (void)signal_number;
    stop_requested = 1;
}

struct arguments {
    const char *config, *out, *dtype, *datasets, *mirror, *models;
    const char *sets[MAX_SETS];
    int32_t n_sets, threads;
    bool resume, check;
    char precision[32];         // "precision=f32", "" for none
    char lists[MAX_LISTS][256]; // "sampling.steps=[10,20]"
    int32_t n_lists;
};

/* 0, or an exit code + 1 (1: --help or --version has been served). */
static int bad_usage(const char *message, const char *what)
{
    fprintf(stderr, "ddimd-train: %s%s%s\n\n%s", message, what ? ": " : "", what ? what : "", usage);
    return EXIT_CONFIG + 1;
}

static int add_set(struct arguments *a, const char *set)
{
    if (a->n_sets == MAX_SETS)
        return bad_usage("too many --set", NULL);
    a->sets[a->n_sets++] = set;
    return 0;
}

/* "10,20" as the assignment "sampling.steps=[10,20]", names in quotes. */
static int add_list(struct arguments *a, const char *key, const char *text, bool names)
{
    const char *quote = names ? "\"" : "";
    if (a->n_lists == MAX_LISTS || strlen(text) > 128)
        return bad_usage("too many values", key);
    char *to = a->lists[a->n_lists++];
    int n = snprintf(to, sizeof a->lists[0], "sampling.%s=[%s", key, quote);
    for (; *text && n < (int)sizeof a->lists[0] - 8; text++)
        n += *text == ',' ? sprintf(to + n, "%s,%s", quote, quote) : sprintf(to + n, "%c", *text);
    sprintf(to + n, "%s]", quote);
    return add_set(a, to);
}

static int read_threads(struct arguments *a, const char *text)
{
    char *end;
    long n = strtol(text, &end, 10);
    if (*end || end == text || n < 1 || n > MAX_THREADS)
        return bad_usage("--threads must be a whole number from 1 to 1024", text);
    a->threads = (int32_t)n;
    return 0;
}

static int read_option(struct arguments *a, int option)
{
    switch (option) {
    case 'o':
        a->out = optarg;
        return 0;
    case 'd':
        a->dtype = optarg;
        return 0;
    case 'D':
        a->datasets = optarg;
        return 0;
    case 'm':
        a->mirror = optarg;
        return 0;
    case 'r':
        a->resume = true;
        return 0;
    case 'c':
        a->check = true;
        return 0;
    case 't':
        return read_threads(a, optarg);
    case 'p':
        snprintf(a->precision, sizeof a->precision, "precision=%.16s", optarg);
        return 0;
    case 's':
        return add_set(a, optarg);
    case 'F':
        a->models = optarg;
        return 0;
    case 'S':
        return add_list(a, "steps", optarg, false);
    case 'A':
        return add_list(a, "sampler", optarg, true);
    case 'M':
        return add_list(a, "method", optarg, true);
    case 'E':
        return add_list(a, "eta", optarg, false);
    case 'G':
        return add_list(a, "guidance", optarg, false);
    case 'h':
        fputs(usage, stdout);
        return 1;
    case 'v':
        puts("ddimd-train " DDIMD_VERSION);
        return 1;
    default:
        fputs("ddimd-train --help lists the options\n", stderr);
        return EXIT_CONFIG + 1;
    }
}

static int read_arguments(int argc, char **argv, struct arguments *a)
{
    static const struct option options[] = {
        {"out", required_argument, NULL, 'o'},      {"resume", no_argument, NULL, 'r'},
        {"threads", required_argument, NULL, 't'},  {"precision", required_argument, NULL, 'p'},
        {"set", required_argument, NULL, 's'},      {"check", no_argument, NULL, 'c'},
        {"dtype", required_argument, NULL, 'd'},    {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'v'},        {"steps", required_argument, NULL, 'S'},
        {"sampler", required_argument, NULL, 'A'},  {"method", required_argument, NULL, 'M'},
        {"eta", required_argument, NULL, 'E'},      {"models", required_argument, NULL, 'F'},
        {"guidance", required_argument, NULL, 'G'}, {"datasets", required_argument, NULL, 'D'},
        {"mirror", required_argument, NULL, 'm'},   {0}};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        int r = read_option(a, option);
        if (r)
            return r;
    }
    if (argc - optind != 1)
        return bad_usage(optind == argc ? "a configuration is missing" : "too many arguments", NULL);
    a->config = argv[optind];
    return a->precision[0] ? add_set(a, a->precision) : 0;
}

static void print_error(const struct error *err)
{
    if (err->field[0])
        fprintf(stderr, "ddimd-train: %s: %s\n", err->field, err->message);
    else
        fprintf(stderr, "ddimd-train: %s\n", err->message);
}

static int exit_code(int r, const struct error *err)
{
    if (r != -ENOMEM && (strcmp(err->field, "dataset.path") == 0 || strcmp(err->field, "dataset.download") == 0))
        return EXIT_DATA;
    switch (r) {
    case -EINVAL: // without a field it is a damaged file
        return err->field[0] ? EXIT_CONFIG : EXIT_FAILED;
    case -ENOTSUP:
        return EXIT_CONFIG;
    case -ERANGE:
        return EXIT_DIVERGED;
    case -ENOMEM:
        return EXIT_MEMORY;
    case -EBUSY:
    case -EEXIST:
        return EXIT_BUSY;
    default:
        return EXIT_FAILED;
    }
}

static void print_outcome(const struct trainer_outcome *o)
{
    static const char *const ends[] = {[TRAINER_FINISHED] = "finished",
                                       [TRAINER_EARLY] = "stopped early, nothing improves any more",
                                       [TRAINER_STOPPED] = "stopped on request, go on with --resume"};
    printf("%s after %lld steps, %lld images; the model: %s\n", ends[o->end], (long long)o->state.step,
           (long long)o->state.images, o->model);
}

static void catch_signals(void)
{
    const struct sigaction action = {.sa_handler = request_stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
}

static int failed(int r, const struct error *err)
{
    print_error(err);
    return exit_code(r, err);
}

static int bad_config(int r, const struct error *err)
{
    print_error(err);
    return r == -ENOMEM ? EXIT_MEMORY : EXIT_CONFIG;
}

static int checked(const struct arguments *a)
{
    printf("%s: good\n", a->config);
    return EXIT_DONE;
}

static struct run_options run_options(const struct arguments *a)
{
    return (struct run_options){.out = a->out,
                                .resume = a->resume,
                                .threads = a->threads,
                                .datasets = a->datasets,
                                .mirror = a->mirror,
                                .log = stdout,
                                .stop = &stop_requested};
}

static int train_model(const struct arguments *a, const json_t *json)
{
    struct train_config config;
    struct error err = {0};
    int r = train_config_parse(json, &config, &err);
    if (r < 0)
        return bad_config(r, &err);
    if (a->check)
        return checked(a);
    const struct run_options o = run_options(a);
    struct trainer_outcome outcome;
    r = trainer_run(&config, &o, &outcome, &err);
    if (r == -ECANCELED) { // nothing to keep yet: ends as the signal would have it
        signal(SIGTERM, SIG_DFL);
        raise(SIGTERM);
    }
    if (r < 0)
        return failed(r, &err);
    print_outcome(&outcome);
    return EXIT_DONE;
}

static int train_classifier(const struct arguments *a, const json_t *json)
{
    struct classify_config config;
    struct classify_outcome outcome;
    struct error err = {0};
    int r = classify_config_parse(json, &config, &err);
    if (r < 0)
        return bad_config(r, &err);
    if (a->check)
        return checked(a);
    const struct run_options o = run_options(a);
    r = classify_run(&config, &o, &outcome, &err);
    if (r < 0)
        return failed(r, &err);
    printf("%s after %lld steps, accuracy %.2f %%; the classifier: %s/checkpoints/" RUN_LAST_NAME "\n",
           outcome.stopped ? "stopped on request" : "finished", (long long)outcome.steps, 100 * outcome.accuracy,
           a->out);
    return EXIT_DONE;
}

/* The file of a name beneath --models. */
static int find_named(const char *folder, const char *below, const char *field, char path[TRAIN_PATH_BYTES],
                      struct error *err)
{
    char name[TRAIN_PATH_BYTES];
    memcpy(name, path, sizeof name);
    if (!folder || !name[0])
        return 0;
    if (strchr(name, '/') || name[0] == '.')
        return error_set(err, -EINVAL, field, "must be a name, not a path");
    if (snprintf(path, TRAIN_PATH_BYTES, "%s%s/%s.safetensors", folder, below, name) >= TRAIN_PATH_BYTES)
        return error_set(err, -EINVAL, field, "is too long");
    return 0;
}

static int evaluate(const struct arguments *a, const json_t *json)
{
    struct evaluate_config config;
    struct error err = {0};
    bool stopped = false;
    int r = evaluate_config_parse(json, &config, &err);
    if (r == 0)
        r = find_named(a->models, "", "model", config.model, &err);
    if (r == 0)
        r = find_named(a->models, "/../extractors", "extractor", config.extractor, &err);
    if (r < 0)
        return bad_config(r, &err);
    if (a->check)
        return checked(a);
    const struct run_options o = run_options(a);
    r = evaluation_run(&config, &o, &stopped, &err);
    if (r < 0)
        return failed(r, &err);
    printf("%s; the report: %s/" REPORT_MARKDOWN_NAME "\n",
           stopped ? "stopped on request, go on with --resume" : "finished", a->out);
    return EXIT_DONE;
}

/* Reads the configuration; what it has says what is trained. */
static int run(const struct arguments *a, bool evaluates)
{
    json_t *json;
    struct error err = {0};
    int r = train_config_read(a->config, a->sets, a->n_sets, &json, &err);
    if (r < 0)
        return bad_config(r, &err);
    catch_signals();
    if (evaluates)
        r = evaluate(a, json);
    else if (json_object_get(json, "classifier"))
        r = train_classifier(a, json);
    else
        r = train_model(a, json);
    json_decref(json);
    return r;
}

static int export_to(const struct arguments *a)
{
    struct error err = {0};
    int r = export_model(a->config, a->dtype, a->out, &err);
    if (r == 0) {
        printf("%s: %s written to %s\n", a->config, a->dtype, a->out);
        return EXIT_DONE;
    }
    print_error(&err);
    return r == -EINVAL ? EXIT_CONFIG : r == -ENOMEM ? EXIT_MEMORY : EXIT_FAILED;
}

int main(int argc, char **argv)
{
    backend_cpu_settle(argv);
    struct arguments a = {0};
    bool exports = argc > 1 && strcmp(argv[1], "export") == 0, evaluates = argc > 1 && strcmp(argv[1], "evaluate") == 0,
         verb = exports || evaluates;
    int r = read_arguments(argc - verb, argv + verb, &a);
    if (r)
        return r - 1;
    if (exports) {
        if (!a.dtype || !a.out)
            return bad_usage("export needs --dtype and --out", NULL) - 1;
        return export_to(&a);
    }
    if (!a.out && !a.check)
        return bad_usage("--out is missing", NULL) - 1;
    return run(&a, evaluates);
}
