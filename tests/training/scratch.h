/* scratch.h: a folder for one test, removed after it. */
#ifndef DDIMD_TESTS_TRAINING_SCRATCH_H
#define DDIMD_TESTS_TRAINING_SCRATCH_H

/* Makes an empty folder; returns its path, malloc'd. Asserts. */
char *scratch_make(void);

/* Removes it with all that is in it, and frees the path. */
void scratch_remove(char *path);

#endif
