package testenv

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/store"
)

// Many says how a frontend that was stopped is made one of very many files.
type Many struct {
	Pairs   int  // data files, and as many index files
	Local   int  // of the newest data files that are here; the others were dropped
	Pending int  // of the newest data files that are not stored: they fill the queue
	Size    int  // bytes of data files that are not stored; zero: the smallest that there is
	Whole   bool // placements and the list of what is done too, as a long life leaves them
}

// manySpace is the namespace that grows.
const manySpace = "zdbfs-data"

// Seed adds tiny files to the namespace of the data of a frontend, with rows
// that call them stored. Their objects do not exist.
func Seed(ctx context.Context, l qsfs.Layout, m Many) error {
	first, err := seedFiles(l, m)
	if err != nil {
		return err
	}
	if err := seedCheckpoint(ctx, l); err != nil {
		return err
	}
	db, err := store.Open(ctx, l.Database, store.Options{})
	if err != nil {
		return err
	}
	return errors.Join(seedRows(ctx, db, l, first, m), db.Close())
}

// seedFiles makes pairs of one entry each, behind those that are there.
func seedFiles(l qsfs.Layout, m Many) (first int, err error) {
	indexDir, dataDir := filepath.Join(l.IndexDir(), manySpace), filepath.Join(l.DataDir(), manySpace)
	var slot uint64
	for ; ; first++ {
		st, err := os.Stat(filepath.Join(indexDir, segment.IndexName(uint32(first))))
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			return 0, err
		}
		slot += uint64(st.Size()-segment.IndexHeaderSize) / segment.SeqSlotSize
	}
	payload := []byte("x")
	for i := first; i < m.Pairs; i++ {
		id := uint32(i)
		key := segment.SeqKey(slot)
		slot++
		entry := segment.IndexEntry{Key: key, Offset: segment.DataHeaderSize, Length: 1, DataFile: id, CRC: segment.Checksum(payload), Timestamp: 1}
		index := entry.Append(segment.AppendIndexHeader(nil, id, segment.Sequential))
		if err := os.WriteFile(filepath.Join(indexDir, segment.IndexName(id)), index, 0o600); err != nil {
			return 0, err
		}
		if i < m.Pairs-max(m.Local, 1) {
			continue
		}
		d := segment.DataEntry{Key: key, Length: 1, CRC: entry.CRC, Timestamp: 1}
		data := append(d.Append(segment.AppendDataHeader(nil, id)), payload...)
		if m.big(i) {
			data = append(data, make([]byte, m.Size-len(data))...)
			_, _ = rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(data[smallest:]) // never fails; of no entry, so nobody reads it
		}
		if err := os.WriteFile(filepath.Join(dataDir, segment.DataName(id)), data, 0o600); err != nil {
			return 0, err
		}
	}
	return first, os.Remove(filepath.Join(indexDir, server.CheckpointName))
}

// smallest is the length of a data file of one entry of one byte.
const smallest = segment.DataHeaderSize + segment.DataEntrySize + segment.SeqKeySize + 1

// big says whether a pair's data file has Size bytes. The newest one has not:
// the zdb looks at its end.
func (m Many) big(i int) bool { return m.Size > smallest && i >= m.Pairs-m.Pending && i < m.Pairs-1 }

// seedCheckpoint has the zdb take the files in, and end clean.
func seedCheckpoint(ctx context.Context, l qsfs.Layout) error {
	s, err := server.Open(ctx, server.Options{DataDir: l.DataDir(), IndexDir: l.IndexDir(), Mode: server.Sequential, KeepDirty: true})
	if err != nil {
		return err
	}
	n, ok := s.Namespace(manySpace)
	if !ok {
		return errors.Join(fmt.Errorf("no namespace %s", manySpace), s.Close())
	}
	_, err = n.Jump(ctx)
	n.ResetDirty(n.DirtyIndexes())
	return errors.Join(err, s.Close())
}

func seedRows(ctx context.Context, db *store.Store, l qsfs.Layout, first int, m Many) error {
	committed, err := db.LatestCommitted(ctx)
	if err != nil {
		return err
	}
	const batch = 2000
	files, items := make([]store.File, 0, 2*batch), make([]store.Item, 0, batch)
	flush := func() error {
		if len(items) > 0 {
			err := db.BeginCheckpoint(ctx, store.Checkpoint{Seq: committed.Seq + 1, Epoch: 1}, items, files)
			files, items = files[:0], items[:0]
			return err
		}
		err := db.UpsertFiles(ctx, files...)
		files = files[:0]
		return err
	}
	now := time.Now()
	sum := make([]byte, 16)
	add := func(kind store.Kind, path string, id, generation, length int64, pending bool) error {
		for i := 0; i < len(sum); i += 8 {
			copy(sum[i:], fmt.Sprintf("%08x", rand.Uint32()))
		}
		v := fmt.Sprintf("1.%d", generation)
		f := store.File{Path: path, Namespace: manySpace, Kind: kind, FileID: id, Version: v, Length: length, ObjectPath: path + "@" + v,
			Epoch: 1, Generation: generation, Checkpoint: committed.Seq, State: store.FileStored, Checksum: hex.EncodeToString(sum), StoredAt: now, VerifiedAt: now}
		if pending {
			f.Checkpoint, f.State, f.Checksum, f.StoredAt, f.VerifiedAt = committed.Seq+1, store.FilePending, "", time.Time{}, time.Time{}
			items = append(items, store.Item{Path: path, Version: v, Kind: kind, Source: filepath.Join(l.Root, path), Checkpoint: committed.Seq + 1, Size: length})
		}
		if files = append(files, f); len(files) < cap(files)/2 {
			return nil
		}
		return flush()
	}
	for i := first; i < m.Pairs; i++ {
		pending, length := i >= m.Pairs-m.Pending, int64(smallest)
		if m.big(i) {
			length = int64(m.Size)
		}
		if err := add(store.KindIndex, fmt.Sprintf("index/%s/i%d", manySpace, i), int64(i), committed.Seq, segment.IndexHeaderSize+segment.SeqSlotSize, false); err != nil {
			return err
		}
		if err := add(store.KindData, fmt.Sprintf("data/%s/d%d", manySpace, i), int64(i), length, length, pending); err != nil {
			return err
		}
	}
	if err := flush(); err != nil || !m.Whole {
		return err
	}
	return seedWhole(ctx, db)
}

func seedWhole(ctx context.Context, db *store.Store) error {
	for _, statement := range []string{
		`INSERT OR IGNORE INTO {done} SELECT path, version, object_path, checksum, stored_at FROM {files} WHERE state = 'stored'`,
		`INSERT OR IGNORE INTO {objects} (path, shards) SELECT object_path, x'0102030405' FROM {files} WHERE state = 'stored'`,
		`INSERT OR IGNORE INTO {places} (number, id, n) VALUES (1,'a',0), (2,'b',0), (3,'c',0), (4,'d',0), (5,'e',0)`,
		`INSERT OR IGNORE INTO {placements} SELECT number, o.id FROM {places} JOIN {objects} AS o WHERE number <= 5 ORDER BY number, o.id`,
	} {
		if _, err := db.DB().ExecContext(ctx, strings.NewReplacer("{", store.DefaultTablePrefix, "}", "").Replace(statement)); err != nil {
			return err
		}
	}
	return nil
}
