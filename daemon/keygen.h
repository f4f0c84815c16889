/* keygen.h: `ddimd keygen`: adds a key to a file of keys (api/keys.h) and says it once. */
#ifndef DDIMD_DAEMON_KEYGEN_H
#define DDIMD_DAEMON_KEYGEN_H

#include "kernels/error.h"

#include <stdio.h>

/* Arguments after the word: FILE --name NAME [--roles generate,train,admin] [--requests-per-minute N]
 * [--max-row-steps N]. The file is made where it is missing, for its owner and group alone; the secret itself goes to
 * `to` and nowhere else. 0 or a negative errno; then the file is as it was. */
int keygen(int argc, char **argv, FILE *to, struct error *err);

#endif
