package store

import (
	"context"
	"database/sql"
	"time"
)

// Failure is one try that failed.
type Failure struct {
	Time    time.Time
	Version string
	Error   string
}

// What is kept of failures: of one path, and of all. With every backend away
// a million files fail again and again, and a log of that must not fill a disk;
// the number of tries and the last error of each stay in its own row.
const (
	failuresPerPath = 10
	maxFailures     = 10_000
)

func (q *RetryQueue) recordFailureTx(ctx context.Context, tx *sql.Tx, path, version, text string) error {
	r, err := tx.ExecContext(ctx, q.q(`INSERT INTO {failures} (path, version, at, error) VALUES (?,?,?,?)`), path, version, q.now(), text)
	if err != nil {
		return err
	}
	id, err := r.LastInsertId()
	if err != nil {
		return err
	}
	if _, err = tx.ExecContext(ctx, q.q(`DELETE FROM {failures} WHERE id <= ?`), id-maxFailures); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, q.q(`DELETE FROM {failures} WHERE id IN
		(SELECT id FROM {failures} WHERE path = ? ORDER BY id DESC LIMIT -1 OFFSET ?)`), path, failuresPerPath)
	return err
}

// Failures gives the newest failed tries of a path, the newest first: at most
// ten, fewer where many files failed since.
func (q *RetryQueue) Failures(ctx context.Context, path string) ([]Failure, error) {
	rows, err := q.db.DB.QueryContext(ctx, q.q(`SELECT at, version, error FROM {failures} WHERE path = ? ORDER BY id DESC`), path)
	if err != nil {
		return nil, wrap("failures", err)
	}
	defer rows.Close()
	var out []Failure
	for rows.Next() {
		var f Failure
		var at int64
		if err := rows.Scan(&at, &f.Version, &f.Error); err != nil {
			return nil, wrap("failures", err)
		}
		f.Time = stamp(at)
		out = append(out, f)
	}
	return out, wrap("failures", rows.Err())
}
