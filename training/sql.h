/* sql.h: SQLite's calls in the house's convention: 0 or negative errno, and a sentence for a person.
 *
 * Private to the store of jobs. A connection is used by one thread at a time.
 */
#ifndef DDIMD_TRAINING_SQL_H
#define DDIMD_TRAINING_SQL_H

#include "kernels/error.h"

#include <sqlite3.h>
#include <stdarg.h>
#include <stdint.h>

/* The last failure of a connection as a negative errno, told in err. */
int sql_error(sqlite3 *db, struct error *err);

/* Prepares one statement and binds its parameters. types: 'i' int64_t, 's' const char * (NULL binds NULL), which must
 * live until the statement is finalized. *ret_statement: sqlite3_finalize. */
int sql_prepare(sqlite3 *db, sqlite3_stmt **ret_statement, struct error *err, const char *sql, const char *types, ...);

/* Binds again, after sqlite3_reset. */
int sql_bind(sqlite3_stmt *statement, struct error *err, const char *types, ...);

/* Steps: 1 a row, 0 done, negative errno. */
int sql_step(sqlite3_stmt *statement, struct error *err);

/* Runs one statement to its end. Returns the number of rows changed, or negative errno. */
int sql_run(sqlite3 *db, struct error *err, const char *sql, const char *types, ...);

/* The first column of the first row. -ENOENT (err untouched) where there is no row. */
int sql_value(sqlite3 *db, int64_t *ret_value, struct error *err, const char *sql, const char *types, ...);

/* Runs statements without parameters, as in a schema. */
int sql_script(sqlite3 *db, const char *sql, struct error *err);

/* Ends a transaction: commits where rc >= 0, else (or where the commit fails) rolls back. Returns rc or the commit's
 * failure. */
int sql_end(sqlite3 *db, int rc, struct error *err);

#endif
