package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/uptrace/bun"
)

// Placement says on which backends an object has its shards.
type Placement struct {
	ID       int64    // grows in the order in which objects came; stays when the object moves
	Object   string   // path of the object, with its version
	Backends []string // ids, in the order of the shards
}

// maxShards bounds the backends of one object; zstor's formats end at 255.
const maxShards = 255

// SetPlacements records where the shards of an object are, over what was known
// of it. Each backend counts once per object, however many shards it holds.
func (s *Store) SetPlacements(ctx context.Context, objectPath string, backendIDs []string) error {
	err := s.update(ctx, func(tx bun.Tx) error { return s.setPlacementsTx(ctx, tx.Tx, objectPath, backendIDs) })
	return note(err, "placements of %q", objectPath)
}

func (s *Store) setPlacementsTx(ctx context.Context, tx *sql.Tx, objectPath string, backendIDs []string) error {
	if objectPath == "" || len(backendIDs) > maxShards {
		return fmt.Errorf("object %q on %d backends", objectPath, len(backendIDs))
	}
	shards := make([]byte, 0, len(backendIDs)*2)
	numbers := make([]int64, len(backendIDs))
	for i, id := range backendIDs {
		n, err := s.internTx(ctx, tx, id)
		if err != nil {
			return err
		}
		numbers[i] = n
		shards = binary.AppendUvarint(shards, uint64(n))
	}
	var object int64
	err := tx.QueryRowContext(ctx, s.q(`INSERT INTO {objects} (path, shards) VALUES (?,?)
		ON CONFLICT (path) DO UPDATE SET shards = excluded.shards RETURNING id`), objectPath, shards).Scan(&object)
	if err != nil {
		return err
	}
	// What it leaves is found by its number; backends are few.
	if _, err := tx.ExecContext(ctx, s.q(`DELETE FROM {placements} WHERE object = ? AND backend IN (SELECT number FROM {places})`), object); err != nil {
		return err
	}
	for _, n := range numbers {
		if _, err := tx.ExecContext(ctx, s.q(`INSERT OR IGNORE INTO {placements} (backend, object) VALUES (?,?)`), n, object); err != nil {
			return err
		}
	}
	return nil
}

// internTx gives the number of a backend's id.
func (s *Store) internTx(ctx context.Context, tx *sql.Tx, id string) (int64, error) {
	if id == "" {
		return 0, errors.New("a backend without an id")
	}
	var n int64
	err := tx.QueryRowContext(ctx, s.q(`SELECT number FROM {places} WHERE id = ?`), id).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		err = tx.QueryRowContext(ctx, s.q(`INSERT INTO {places} (id, n) VALUES (?, 0) RETURNING number`), id).Scan(&n)
	}
	return n, err
}

// ForgetObjects removes what is known of the placements of objects; unknown
// ones are no error.
func (s *Store) ForgetObjects(ctx context.Context, objectPaths ...string) error {
	err := s.update(ctx, func(tx bun.Tx) error {
		for _, p := range objectPaths {
			if err := s.forgetObjectsTx(ctx, tx.Tx, `path = ?`, p); err != nil {
				return err
			}
		}
		return nil
	})
	return note(err, "forget %d objects", len(objectPaths))
}

// ForgetObjectsBelow removes what is known of the placements of all objects
// whose paths begin with prefix, but of those of these paths.
func (s *Store) ForgetObjectsBelow(ctx context.Context, prefix string, keep ...string) error {
	where := `path >= ? AND path < ?`
	args := []any{prefix, prefix + "\xff"}
	for _, k := range keep {
		where += ` AND path <> ?`
		args = append(args, k)
	}
	err := s.update(ctx, func(tx bun.Tx) error { return s.forgetObjectsTx(ctx, tx.Tx, where, args...) })
	return note(err, "forget objects below %q", prefix)
}

func (s *Store) forgetObjectsTx(ctx context.Context, tx *sql.Tx, where string, args ...any) error {
	_, err := tx.ExecContext(ctx, s.q(`DELETE FROM {placements} WHERE backend IN (SELECT number FROM {places})
		AND object IN (SELECT id FROM {objects} WHERE `+where+`)`), args...)
	if err == nil {
		_, err = tx.ExecContext(ctx, s.q(`DELETE FROM {objects} WHERE `+where), args...)
	}
	return err
}

// ObjectsOn gives objects with a shard on a backend, in the order of their ids,
// at most limit and only those behind the id after; zero begins.
func (s *Store) ObjectsOn(ctx context.Context, backendID string, after int64, limit int) ([]Placement, error) {
	names, err := s.placeNames(ctx)
	if err != nil {
		return nil, note(err, "objects on %s", backendID)
	}
	rows, err := s.db.DB.QueryContext(ctx, s.q(`SELECT o.id, o.path, o.shards FROM {placements} AS p JOIN {objects} AS o ON o.id = p.object
		WHERE p.backend = (SELECT number FROM {places} WHERE id = ?) AND p.object > ? ORDER BY p.object LIMIT ?`), backendID, after, limit)
	if err != nil {
		return nil, note(err, "objects on %s", backendID)
	}
	out, err := scanPlacements(rows, names)
	return out, note(err, "objects on %s", backendID)
}

// PlacementOf gives the placements of an object, or [ErrNotFound].
func (s *Store) PlacementOf(ctx context.Context, objectPath string) (Placement, error) {
	names, err := s.placeNames(ctx)
	if err != nil {
		return Placement{}, note(err, "object %q", objectPath)
	}
	rows, err := s.db.DB.QueryContext(ctx, s.q(`SELECT id, path, shards FROM {objects} WHERE path = ?`), objectPath)
	if err != nil {
		return Placement{}, note(err, "object %q", objectPath)
	}
	out, err := scanPlacements(rows, names)
	if err == nil && len(out) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Placement{}, note(err, "object %q", objectPath)
	}
	return out[0], nil
}

// Unplaced gives files that are stored, but whose placements are not known, as
// after a lost database: at most limit, behind the path after.
func (s *Store) Unplaced(ctx context.Context, after string, limit int) ([]File, error) {
	rows, err := s.db.DB.QueryContext(ctx, s.q(`SELECT `+fileColumns+` FROM {files} AS f WHERE path > ? AND state IN ('stored', 'degraded')
		AND NOT EXISTS (SELECT 1 FROM {objects} AS o WHERE o.path = f.object_path) ORDER BY path LIMIT ?`), after, limit)
	if err != nil {
		return nil, note(err, "unplaced files")
	}
	defer rows.Close()
	var out []File
	for rows.Next() {
		f, err := scanFile(rows)
		if err != nil {
			return nil, note(err, "unplaced files")
		}
		out = append(out, f)
	}
	return out, note(rows.Err(), "unplaced files")
}

// ObjectCounts gives how many objects have a shard on each backend that ever
// held one, in a time that does not grow with them.
func (s *Store) ObjectCounts(ctx context.Context) (map[string]int64, error) {
	rows, err := s.db.DB.QueryContext(ctx, s.q(`SELECT id, n FROM {places}`))
	if err != nil {
		return nil, note(err, "objects per backend")
	}
	defer rows.Close()
	out := map[string]int64{}
	for rows.Next() {
		var id string
		var n int64
		if err := rows.Scan(&id, &n); err != nil {
			return nil, note(err, "objects per backend")
		}
		out[id] = n
	}
	return out, note(rows.Err(), "objects per backend")
}

func (s *Store) placeNames(ctx context.Context) (map[int64]string, error) {
	rows, err := s.db.DB.QueryContext(ctx, s.q(`SELECT number, id FROM {places}`))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	names := map[int64]string{}
	for rows.Next() {
		var n int64
		var id string
		if err := rows.Scan(&n, &id); err != nil {
			return nil, err
		}
		names[n] = id
	}
	return names, rows.Err()
}

func scanPlacements(rows *sql.Rows, names map[int64]string) ([]Placement, error) {
	defer rows.Close()
	var out []Placement
	for rows.Next() {
		var p Placement
		var shards []byte
		if err := rows.Scan(&p.ID, &p.Object, &shards); err != nil {
			return nil, err
		}
		for len(shards) > 0 {
			n, size := binary.Uvarint(shards)
			name, ok := names[int64(n)]
			if size <= 0 || !ok {
				return nil, fmt.Errorf("%w: shards of %q", errDamaged, strings.ToValidUTF8(p.Object, "?"))
			}
			p.Backends = append(p.Backends, name)
			shards = shards[size:]
		}
		out = append(out, p)
	}
	return out, rows.Err()
}
