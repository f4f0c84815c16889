/* sql.c: the wrappers, and the one place that turns SQLite's results into errno. */
#include "training/sql.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>

static const struct {
    int result, code;
    const char *message;
} meanings[] = {
    {SQLITE_FULL, -ENOSPC, "no space left on the disk that holds the jobs"},
    {SQLITE_BUSY, -EAGAIN, "the database of jobs is locked by another program"},
    {SQLITE_LOCKED, -EAGAIN, "the database of jobs is locked"},
    {SQLITE_READONLY, -EROFS, "the database of jobs cannot be written"},
    {SQLITE_CANTOPEN, -EIO, "the database of jobs cannot be opened"},
    {SQLITE_IOERR, -EIO, "reading or writing the database of jobs failed"},
    {SQLITE_CORRUPT, -EBADMSG, "the database of jobs is damaged"},
    {SQLITE_NOTADB, -EBADMSG, "the database of jobs is not a database"},
    {SQLITE_NOMEM, -ENOMEM, "out of memory"},
    {SQLITE_TOOBIG, -EFBIG, "a value is too long for the database of jobs"},
};

int sql_error(sqlite3 *db, struct error *err)
{
    int result = sqlite3_errcode(db) & 0xff;
    for (size_t i = 0; i < sizeof meanings / sizeof meanings[0]; i++) {
        if (meanings[i].result == result)
            return error_set(err, meanings[i].code, NULL, "%s (%s)", meanings[i].message, sqlite3_errmsg(db));
    }
    return error_set(err, -EIO, NULL, "the database of jobs: %s", sqlite3_errmsg(db));
}

static int bind_all(sqlite3_stmt *statement, struct error *err, const char *types, va_list arguments)
{
    int rc = SQLITE_OK;
    for (int i = 0; types[i] && rc == SQLITE_OK; i++) {
        assert(types[i] == 'i' || types[i] == 's');
        if (types[i] == 'i')
            rc = sqlite3_bind_int64(statement, i + 1, va_arg(arguments, int64_t));
        else
            rc = sqlite3_bind_text(statement, i + 1, va_arg(arguments, const char *), -1, SQLITE_STATIC);
    }
    return rc == SQLITE_OK ? 0 : sql_error(sqlite3_db_handle(statement), err);
}

int sql_bind(sqlite3_stmt *statement, struct error *err, const char *types, ...)
{
    va_list arguments;
    va_start(arguments, types);
    int rc = bind_all(statement, err, types, arguments);
    va_end(arguments);
    return rc;
}

static int prepare(sqlite3 *db, sqlite3_stmt **ret_statement, struct error *err, const char *sql, const char *types,
                   va_list arguments)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK)
        return sql_error(db, err);
    int rc = bind_all(statement, err, types, arguments);
    if (rc < 0) {
        sqlite3_finalize(statement);
        return rc;
    }
    *ret_statement = statement;
    return 0;
}

int sql_prepare(sqlite3 *db, sqlite3_stmt **ret_statement, struct error *err, const char *sql, const char *types, ...)
{
    va_list arguments;
    va_start(arguments, types);
    int rc = prepare(db, ret_statement, err, sql, types, arguments);
    va_end(arguments);
    return rc;
}

int sql_step(sqlite3_stmt *statement, struct error *err)
{
    int rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW)
        return 1;
    return rc == SQLITE_DONE ? 0 : sql_error(sqlite3_db_handle(statement), err);
}

int sql_run(sqlite3 *db, struct error *err, const char *sql, const char *types, ...)
{
    sqlite3_stmt *statement = NULL;
    va_list arguments;
    va_start(arguments, types);
    int rc = prepare(db, &statement, err, sql, types, arguments);
    va_end(arguments);
    if (rc < 0)
        return rc;
    do {
        rc = sql_step(statement, err);
    } while (rc > 0);
    sqlite3_finalize(statement);
    return rc < 0 ? rc : sqlite3_changes(db);
}

int sql_value(sqlite3 *db, int64_t *ret_value, struct error *err, const char *sql, const char *types, ...)
{
    sqlite3_stmt *statement = NULL;
    va_list arguments;
    va_start(arguments, types);
    int rc = prepare(db, &statement, err, sql, types, arguments);
    va_end(arguments);
    if (rc < 0)
        return rc;
    rc = sql_step(statement, err);
    if (rc > 0)
        *ret_value = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    if (rc == 0)
        return -ENOENT;
    return rc < 0 ? rc : 0;
}

int sql_script(sqlite3 *db, const char *sql, struct error *err)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : sql_error(db, err);
}

int sql_end(sqlite3 *db, int rc, struct error *err)
{
    if (rc >= 0) {
        int committed = sql_script(db, "COMMIT", err);
        if (committed == 0)
            return rc;
        rc = committed;
    }
    if (!sqlite3_get_autocommit(db))
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}
