package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/uptrace/bun"
)

// migrations lead from an empty database to the newest schema. They are only
// ever appended to.
var migrations = [][]string{
	{ // 1: the queue, files and checkpoints
		`CREATE TABLE {queue} (
			id INTEGER PRIMARY KEY AUTOINCREMENT, -- order of arrival
			path TEXT NOT NULL,
			version TEXT NOT NULL,
			kind TEXT NOT NULL,
			rank INTEGER NOT NULL,                -- of kind
			source TEXT NOT NULL,
			checkpoint INTEGER NOT NULL,
			size INTEGER NOT NULL,
			priority INTEGER NOT NULL,
			created_at INTEGER NOT NULL,          -- ms since 1970, as every time here
			tries INTEGER NOT NULL DEFAULT 0,
			last_error TEXT NOT NULL DEFAULT '',
			ready INTEGER NOT NULL DEFAULT 1,     -- 1: may be claimed
			next_at INTEGER NOT NULL DEFAULT 0,   -- not ready before, when not leased
			leased INTEGER NOT NULL DEFAULT 0,
			token INTEGER NOT NULL DEFAULT 0,     -- of the last lease
			owner TEXT NOT NULL DEFAULT '',
			session TEXT NOT NULL DEFAULT '',     -- the RetryQueue that gave the lease
			lease_ms INTEGER NOT NULL DEFAULT 0,
			lease_until INTEGER NOT NULL DEFAULT 0,
			UNIQUE (path, version)
		)`,
		// Each question of a claim is one look into a small index.
		`CREATE INDEX {queue_ready} ON {queue} (checkpoint, rank, priority DESC, id) WHERE ready = 1`,
		`CREATE INDEX {queue_waiting} ON {queue} (next_at) WHERE ready = 0 AND leased = 0`,
		`CREATE INDEX {queue_leased} ON {queue} (path, lease_until) WHERE leased = 1`,
		`CREATE INDEX {queue_checkpoint} ON {queue} (checkpoint)`,
		`CREATE INDEX {queue_created} ON {queue} (created_at)`,
		// The last version of each path that was done.
		`CREATE TABLE {done} (
			path TEXT PRIMARY KEY,
			version TEXT NOT NULL,
			object_path TEXT NOT NULL,
			checksum TEXT NOT NULL,
			done_at INTEGER NOT NULL
		)`,
		// Sums are kept by triggers: a status must not count a million rows.
		`CREATE TABLE {sums} (name TEXT PRIMARY KEY, n INTEGER NOT NULL)`,
		`INSERT INTO {sums} VALUES ('items', 0), ('bytes', 0), ('tried', 0), ('done', 0)`,
		`CREATE TRIGGER {queue_insert} AFTER INSERT ON {queue} BEGIN
			UPDATE {sums} SET n = n + CASE name WHEN 'items' THEN 1 WHEN 'bytes' THEN NEW.size ELSE NEW.tries > 0 END
			WHERE name IN ('items', 'bytes', 'tried');
		END`,
		`CREATE TRIGGER {queue_delete} AFTER DELETE ON {queue} BEGIN
			UPDATE {sums} SET n = n - CASE name WHEN 'items' THEN 1 WHEN 'bytes' THEN OLD.size ELSE OLD.tries > 0 END
			WHERE name IN ('items', 'bytes', 'tried');
		END`,
		`CREATE TRIGGER {queue_tried} AFTER UPDATE OF tries ON {queue} WHEN (OLD.tries > 0) <> (NEW.tries > 0) BEGIN
			UPDATE {sums} SET n = n + (NEW.tries > 0) - (OLD.tries > 0) WHERE name = 'tried';
		END`,
		`CREATE TRIGGER {done_insert} AFTER INSERT ON {done} BEGIN
			UPDATE {sums} SET n = n + 1 WHERE name = 'done';
		END`,
		`CREATE TRIGGER {done_delete} AFTER DELETE ON {done} BEGIN
			UPDATE {sums} SET n = n - 1 WHERE name = 'done';
		END`,
		`CREATE TABLE {files} (
			path TEXT PRIMARY KEY,
			namespace TEXT NOT NULL,
			kind TEXT NOT NULL,
			file_id INTEGER NOT NULL,
			version TEXT NOT NULL,
			length INTEGER NOT NULL,
			checksum TEXT NOT NULL,
			object_path TEXT NOT NULL,
			epoch INTEGER NOT NULL,
			generation INTEGER NOT NULL,
			checkpoint INTEGER NOT NULL,
			state TEXT NOT NULL,
			stamp TEXT NOT NULL,
			stored_at INTEGER NOT NULL,
			verified_at INTEGER NOT NULL,
			tries INTEGER NOT NULL,
			last_error TEXT NOT NULL
		)`,
		`CREATE INDEX {files_namespace} ON {files} (namespace, kind, file_id)`,
		`CREATE TABLE {checkpoints} (
			seq INTEGER PRIMARY KEY,
			epoch INTEGER NOT NULL,
			state TEXT NOT NULL,
			created_at INTEGER NOT NULL,
			committed_at INTEGER NOT NULL,
			manifest TEXT NOT NULL
		)`,
		`CREATE INDEX {checkpoints_state} ON {checkpoints} (state, seq)`,
	},
	{ // 2: backends, events and state
		`CREATE TABLE {generations} (
			number INTEGER PRIMARY KEY,
			created_at INTEGER NOT NULL,
			reason TEXT NOT NULL,
			backends BLOB NOT NULL
		)`,
		`CREATE TABLE {backends} (
			id TEXT PRIMARY KEY,
			role TEXT NOT NULL,
			state TEXT NOT NULL,
			since INTEGER NOT NULL,
			generation INTEGER NOT NULL,
			info BLOB NOT NULL
		)`,
		`CREATE TABLE {events} (
			id INTEGER PRIMARY KEY AUTOINCREMENT,
			at INTEGER NOT NULL,
			kind TEXT NOT NULL,
			subject TEXT NOT NULL,
			message TEXT NOT NULL
		)`,
		`CREATE TABLE {state} (key TEXT PRIMARY KEY, value BLOB NOT NULL)`,
		`CREATE INDEX {files_state} ON {files} (state, path)`,
	},
	{ // 3: replacements, placements, failed tries
		`CREATE TABLE {replacements} (
			id INTEGER PRIMARY KEY AUTOINCREMENT,
			backend TEXT NOT NULL,
			role TEXT NOT NULL,
			successor TEXT NOT NULL,
			step TEXT NOT NULL,
			ended INTEGER NOT NULL,
			reason TEXT NOT NULL,
			started_at INTEGER NOT NULL,
			changed_at INTEGER NOT NULL,
			objects INTEGER NOT NULL,
			rebuilt INTEGER NOT NULL,
			bytes INTEGER NOT NULL,
			error TEXT NOT NULL,
			next_at INTEGER NOT NULL,
			generation INTEGER NOT NULL,
			position TEXT NOT NULL
		)`,
		`CREATE INDEX {replacements_open} ON {replacements} (id) WHERE ended = 0`,
		// Ids of backends become numbers: five million placements then take some
		// ten bytes each. Objects are looked up by backend and by path.
		`CREATE TABLE {places} (
			number INTEGER PRIMARY KEY AUTOINCREMENT,
			id TEXT NOT NULL UNIQUE,
			n INTEGER NOT NULL                    -- of its rows in placements, kept by triggers
		)`,
		`CREATE TABLE {objects} (
			id INTEGER PRIMARY KEY AUTOINCREMENT,
			path TEXT NOT NULL UNIQUE,
			shards BLOB NOT NULL,                 -- uvarint numbers of the shards' backends, in order
			retired INTEGER NOT NULL DEFAULT 0    -- the checkpoint whose commit makes it waste
		)`,
		`CREATE INDEX {objects_retired} ON {objects} (retired) WHERE retired > 0`,
		`CREATE TABLE {placements} (
			backend INTEGER NOT NULL,
			object INTEGER NOT NULL,
			PRIMARY KEY (backend, object)
		) WITHOUT ROWID`,
		`CREATE TRIGGER {placements_insert} AFTER INSERT ON {placements} BEGIN
			UPDATE {places} SET n = n + 1 WHERE number = NEW.backend;
		END`,
		`CREATE TRIGGER {placements_delete} AFTER DELETE ON {placements} BEGIN
			UPDATE {places} SET n = n - 1 WHERE number = OLD.backend;
		END`,
		// What took an object's place is committed later: until then a restore would
		// read the old one, so it is kept track of until then.
		`CREATE TRIGGER {files_moved} AFTER UPDATE OF object_path ON {files} WHEN OLD.object_path <> NEW.object_path BEGIN
			UPDATE {objects} SET retired = max(1, NEW.checkpoint) WHERE path = OLD.object_path;
		END`,
		`CREATE TABLE {failures} (
			id INTEGER PRIMARY KEY AUTOINCREMENT,
			path TEXT NOT NULL,
			version TEXT NOT NULL,
			at INTEGER NOT NULL,
			error TEXT NOT NULL
		)`,
		`CREATE INDEX {failures_path} ON {failures} (path, id)`,
	},
	{ // 4: what would be lost with the machine, as a sum
		// Data files by the checkpoint that first needed them; of committed ones
		// nothing has to be kept.
		`CREATE TABLE {unsettled} (checkpoint INTEGER PRIMARY KEY, files INTEGER NOT NULL, bytes INTEGER NOT NULL)`,
		`INSERT INTO {unsettled} SELECT checkpoint, count(*), sum(length) FROM {files} WHERE kind = 'data' AND (checkpoint = 0
			OR checkpoint > (SELECT coalesce(max(seq), 0) FROM {checkpoints} WHERE state = 'committed')) GROUP BY checkpoint`,
		`CREATE TRIGGER {files_insert} AFTER INSERT ON {files} WHEN NEW.kind = 'data' BEGIN
			INSERT INTO {unsettled} VALUES (NEW.checkpoint, 1, NEW.length)
				ON CONFLICT (checkpoint) DO UPDATE SET files = files + 1, bytes = bytes + excluded.bytes;
		END`,
		`CREATE TRIGGER {files_delete} AFTER DELETE ON {files} WHEN OLD.kind = 'data' BEGIN
			UPDATE {unsettled} SET files = files - 1, bytes = bytes - OLD.length WHERE checkpoint = OLD.checkpoint;
		END`,
		`CREATE TRIGGER {files_settle} AFTER UPDATE OF checkpoint, length ON {files}
			WHEN NEW.kind = 'data' AND (OLD.checkpoint <> NEW.checkpoint OR OLD.length <> NEW.length) BEGIN
			UPDATE {unsettled} SET files = files - 1, bytes = bytes - OLD.length WHERE checkpoint = OLD.checkpoint;
			INSERT INTO {unsettled} VALUES (NEW.checkpoint, 1, NEW.length)
				ON CONFLICT (checkpoint) DO UPDATE SET files = files + 1, bytes = bytes + excluded.bytes;
		END`,
	},
	{ // 5: what earlier programs say is stored
		`CREATE TABLE {legacy} (
			path TEXT PRIMARY KEY,   -- absolute, as it was written
			checksum TEXT NOT NULL,
			source TEXT NOT NULL,
			state TEXT NOT NULL,
			reason TEXT NOT NULL
		)`,
		`CREATE INDEX {legacy_state} ON {legacy} (state, path)`,
	},
	{ // 6: the number of data files, for a look at a million of them
		`CREATE TABLE {datafiles} (namespace TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID`,
		`INSERT INTO {datafiles} SELECT namespace, count(*) FROM {files} WHERE kind = 'data' GROUP BY namespace`,
		`CREATE TRIGGER {datafiles_insert} AFTER INSERT ON {files} WHEN NEW.kind = 'data' BEGIN
			INSERT INTO {datafiles} VALUES (NEW.namespace, 1) ON CONFLICT (namespace) DO UPDATE SET n = n + 1;
		END`,
		`CREATE TRIGGER {datafiles_delete} AFTER DELETE ON {files} WHEN OLD.kind = 'data' BEGIN
			UPDATE {datafiles} SET n = n - 1 WHERE namespace = OLD.namespace;
		END`,
	},
	{ // 7: contracts on the grid, each noted before it is asked for
		`CREATE TABLE {contracts} (
			name TEXT PRIMARY KEY,
			backend TEXT NOT NULL,
			role TEXT NOT NULL,
			node INTEGER NOT NULL,
			farm INTEGER NOT NULL,
			country TEXT NOT NULL,
			size INTEGER NOT NULL,
			contract INTEGER NOT NULL,     -- 0: not known
			state TEXT NOT NULL,
			address TEXT NOT NULL,
			namespace TEXT NOT NULL,
			usd REAL NOT NULL,             -- a month
			error TEXT NOT NULL,
			changed_at INTEGER NOT NULL
		)`,
	},
}

// tables of the newest schema.
var tables = []string{"queue", "done", "sums", "files", "checkpoints", "generations", "backends", "events", "state",
	"replacements", "places", "objects", "placements", "failures", "unsettled", "legacy", "datafiles", "contracts"}

// migrate brings the schema to version target, in one transaction.
func (b *base) migrate(ctx context.Context, target int) error {
	if v, err := b.schemaVersion(ctx); err == nil && v == target {
		return b.verify(ctx)
	}
	err := b.update(ctx, func(tx bun.Tx) error {
		// Nothing may be written before the version is known: a newer database
		// is left as it is (the transaction is rolled back).
		if _, err := tx.Tx.ExecContext(ctx, b.q(`CREATE TABLE IF NOT EXISTS {schema} (version INTEGER NOT NULL)`)); err != nil {
			return err
		}
		var have int
		err := tx.Tx.QueryRowContext(ctx, b.q(`SELECT version FROM {schema}`)).Scan(&have)
		if errors.Is(err, sql.ErrNoRows) {
			_, err = tx.Tx.ExecContext(ctx, b.q(`INSERT INTO {schema} VALUES (0)`))
		}
		if err != nil {
			return err
		}
		if have > target {
			return &NewerSchemaError{Have: have, Want: target}
		}
		for v := have; v < target; v++ {
			for _, statement := range migrations[v] {
				if _, err := tx.Tx.ExecContext(ctx, b.q(statement)); err != nil {
					return fmt.Errorf("store: migration to schema version %d: %w", v+1, err)
				}
			}
		}
		_, err = tx.Tx.ExecContext(ctx, b.q(`UPDATE {schema} SET version = ?`), target)
		return err
	})
	if err != nil {
		return err
	}
	return b.verify(ctx)
}

// schemaVersion is the version of the database, or an error when it has none.
func (b *base) schemaVersion(ctx context.Context) (int, error) {
	var v int
	err := b.db.DB.QueryRowContext(ctx, b.q(`SELECT version FROM {schema}`)).Scan(&v)
	return v, err
}

// verify sees that the tables of the newest schema are there.
func (b *base) verify(ctx context.Context) error {
	for _, t := range tables {
		var n int
		err := b.db.DB.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?`, b.prefix+t).Scan(&n)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: table %s is missing", errDamaged, b.prefix+t)
		}
	}
	return nil
}
