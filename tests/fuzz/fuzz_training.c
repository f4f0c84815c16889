/* fuzz_training.c: any text as the configuration of a training run. What is accepted is written, and accepted again. */
#include "tests/fuzz/fuzz.h"

#include "model/json.h"
#include "training/config.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct train_config c, again;
    struct error err = {0};
    json_t *json;
    if (json_parse((const char *)bytes, n, &json, &err))
        return 0;
    int rc = train_config_parse(json, &c, &err);
    json_decref(json);
    if (rc) {
        json_t *message = json_string(err.message); // goes into an answer: must be UTF-8
        if (err.code != rc || !message || !err.message[0])
            abort();
        json_decref(message);
        return 0;
    }
    json_t *written = train_config_json(&c);
    if (!written || train_config_parse(written, &again, &err))
        abort();
    json_t *twice = train_config_json(&again);
    if (!json_equal(written, twice))
        abort();
    json_decref(written);
    json_decref(twice);
    return 0;
}
