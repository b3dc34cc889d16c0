package tree

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/threefoldtech/quantumd/backend"
)

// Finding is one thing that Check found wrong.
type Finding struct {
	Ino    uint64 // the inode concerned; zero: none
	Path   string // a path that leads to it, when known
	Damage bool   // false: nothing is lost but space
	Text   string
}

func (f Finding) String() string {
	kind := "waste"
	if f.Damage {
		kind = "damage"
	}
	return fmt.Sprintf("%s: inode %d %q: %s", kind, f.Ino, f.Path, f.Text)
}

// Existence is implemented by Records that can tell whether a record exists
// without reading it. Check then looks for the blocks of files too.
type Existence interface {
	Exists(ctx context.Context, id uint64) (bool, error)
}

// Lister is implemented by Records that can list themselves. Check then finds
// records that nothing leads to. fn's error ends the listing.
type Lister interface {
	EachID(ctx context.Context, fn func(id uint64) error) error
}

// maxFindings ends a check of a tree that is beyond listing.
const maxFindings = 1000

// Check makes the tree durable, then walks it as it is stored, and tells what
// is wrong with it. It changes nothing else. What is changed during the walk
// may show as a false finding. The error is that of the records, or of ctx.
func (t *Tree) Check(ctx context.Context) ([]Finding, error) {
	if err := t.Sync(ctx); err != nil {
		return nil, err
	}
	t.commit.run.Lock()
	journalKeys := append([]uint64{t.commit.journalKey}, t.commit.chunks...)
	journalKeys = append(journalKeys, t.commit.reapKeys...)
	t.commit.run.Unlock()
	c := &checker{
		t: t, meta: map[uint64]uint64{0: 0}, data: map[uint32]uint64{},
		names: map[uint64]uint64{}, links: map[uint64]uint64{}, paths: map[uint64]string{},
	}
	for _, key := range journalKeys {
		c.meta[key] = Root
	}
	if err := c.journal(ctx); err != nil {
		return c.found, err
	}
	if err := c.walk(ctx); err != nil {
		return c.found, err
	}
	for ino, want := range c.links {
		if c.names[ino] != want {
			c.damage(ino, c.paths[ino], "%d names, and %d links", c.names[ino], want)
		}
	}
	return c.found, c.leaks(ctx)
}

// checker is one check under way.
type checker struct {
	t     *Tree
	found []Finding
	meta  map[uint64]uint64 // records in use: owner
	data  map[uint32]uint64 // blocks in use: owner
	names map[uint64]uint64 // of inodes that are no folders
	links map[uint64]uint64 // as stored
	paths map[uint64]string
	queue []uint64 // folders to look into
}

func (c *checker) add(ino uint64, path string, damage bool, text string) {
	if len(c.found) < maxFindings {
		c.found = append(c.found, Finding{ino, path, damage, text})
	}
}

func (c *checker) damage(ino uint64, path, format string, args ...any) {
	c.add(ino, path, true, fmt.Sprintf(format, args...))
}

// journal counts what is on its way to be deleted as used.
func (c *checker) journal(ctx context.Context) error {
	t := c.t
	value, err := t.meta.Get(ctx, t.commit.journalKey)
	if err != nil {
		return fault("journal", t.commit.journalKey, err)
	}
	j, _, err := decodeJournal(value, func(id uint64) ([]byte, error) { return t.meta.Get(ctx, id) })
	if err != nil {
		c.damage(0, "", "%v", err)
		return nil
	}
	for _, id := range j.frees {
		c.data[id] = 0
	}
	for _, ino := range j.orphans {
		records, blocks, err := t.orphan(ctx, ino)
		if err != nil {
			c.damage(ino, "", "orphan: %v", err)
		}
		for _, id := range records {
			c.meta[id] = ino
		}
		for _, id := range blocks {
			c.data[id] = ino
		}
	}
	return nil
}

func (c *checker) walk(ctx context.Context) error {
	c.paths[Root] = "/"
	c.queue = append(c.queue, Root)
	if err := c.inode(ctx, Root, "/"); err != nil {
		return err
	}
	for len(c.queue) > 0 {
		ino := c.queue[0]
		c.queue = c.queue[1:]
		if err := c.folder(ctx, ino); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return interrupted(ctx)
		}
	}
	return nil
}

// get reads a record; nil and a finding where it is missing.
func (c *checker) get(ctx context.Context, id, ino uint64, path, what string) ([]byte, error) {
	value, err := c.t.meta.Get(ctx, id)
	if errors.Is(err, backend.ErrNotFound) {
		c.damage(ino, path, "%s %d is missing", what, id)
		return nil, nil
	}
	return value, fault(what, id, err)
}

// claim notes the use of a metadata record.
func (c *checker) claim(id, ino uint64, path, what string) {
	if owner, used := c.meta[id]; used {
		c.damage(ino, path, "%s %d is that of inode %d too", what, id, owner)
	}
	c.meta[id] = ino
}

func (c *checker) folder(ctx context.Context, ino uint64) error {
	path := c.paths[ino]
	value, err := c.get(ctx, ino, ino, path, "inode")
	if err != nil || value == nil {
		return err
	}
	r, err := decodeInode(value)
	if err != nil || r.buckets == nil {
		return nil // told by inode
	}
	var size uint64
	for slot, key := range r.buckets {
		if key == 0 {
			continue
		}
		c.claim(key, ino, path, "bucket")
		value, err := c.get(ctx, key, ino, path, "bucket")
		if err != nil {
			return err
		}
		if value == nil {
			continue
		}
		entries, sorted, err := decodeBucket(value)
		if err != nil {
			c.damage(ino, path, "bucket %d: %v", key, err)
			continue
		}
		if !sorted {
			c.damage(ino, path, "bucket %d is not sorted", key)
		}
		if len(value) >= bucketHead && le.Uint64(value) != key {
			c.damage(ino, path, "bucket %d says it is %d", key, le.Uint64(value))
		}
		for i, e := range entries {
			if isDot(e.name) {
				continue
			}
			size += uint64(entryBytes + len(e.name))
			if slotOf(e.name) != slot {
				c.damage(ino, path, "name %q is in bucket %d of %d", e.name, slot, slotOf(e.name))
			}
			if i > 0 && entries[i-1].name == e.name {
				c.damage(ino, path, "name %q is there twice", e.name)
			}
			if err := c.inode(ctx, e.ino, strings.TrimSuffix(path, "/")+"/"+e.name); err != nil {
				return err
			}
		}
	}
	if size != r.size {
		c.damage(ino, path, "size %d, the names need %d", r.size, size)
	}
	return nil
}

// inode looks at what a name leads to.
func (c *checker) inode(ctx context.Context, ino uint64, path string) error {
	if _, seen := c.links[ino]; seen {
		c.names[ino]++
		return nil
	}
	value, err := c.get(ctx, ino, ino, path, "inode")
	if err != nil || value == nil {
		return err
	}
	c.claim(ino, ino, path, "inode")
	r, err := decodeInode(value)
	if err != nil {
		c.damage(ino, path, "%v", err)
		return nil
	}
	if err := c.extension(ctx, ino, path, &r); err != nil {
		return err
	}
	if r.buckets != nil {
		if _, seen := c.paths[ino]; seen && ino != Root {
			c.damage(ino, path, "a folder with two names")
			return nil
		}
		c.paths[ino] = path
		if ino != Root {
			c.queue = append(c.queue, ino)
		}
		return nil
	}
	c.names[ino]++
	c.links[ino], c.paths[ino] = uint64(r.links), path
	return c.blocks(ctx, ino, path, &r)
}

func (c *checker) extension(ctx context.Context, ino uint64, path string, r *rawInode) error {
	key := uint64(r.dev)
	if ino == Root {
		key = c.t.commit.rootExt
	}
	if key == 0 {
		return nil
	}
	value, err := c.t.meta.Get(ctx, key)
	if errors.Is(err, backend.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fault("extension", key, err)
	}
	if !isExtension(value, ino) {
		return nil
	}
	c.claim(key, ino, path, "extension")
	if _, err := decodeExtension(value); err != nil {
		c.damage(ino, path, "extension %d: %v", key, err)
	}
	return nil
}

func (c *checker) blocks(ctx context.Context, ino uint64, path string, r *rawInode) error {
	exists, ok := c.t.data.(Existence)
	for i, id := range r.blocks {
		if id == 0 {
			continue
		}
		if owner, used := c.data[id]; used {
			c.damage(ino, path, "block %d, key %d, is one of inode %d too, or was dropped", i, id, owner)
		}
		c.data[id] = ino
		if !ok {
			continue
		}
		there, err := exists.Exists(ctx, uint64(id))
		if err != nil {
			return fault("block", uint64(id), err)
		}
		if !there {
			c.damage(ino, path, "block %d, key %d, is missing", i, id)
		}
	}
	return nil
}

// leaks finds records that nothing leads to.
func (c *checker) leaks(ctx context.Context) error {
	if l, ok := c.t.meta.(Lister); ok {
		err := l.EachID(ctx, func(id uint64) error {
			if _, used := c.meta[id]; !used {
				c.add(0, "", false, fmt.Sprintf("nothing leads to metadata record %d", id))
			}
			return nil
		})
		if err != nil {
			return fault("listing of the metadata", 0, err)
		}
	}
	if l, ok := c.t.data.(Lister); ok {
		err := l.EachID(ctx, func(id uint64) error {
			if _, used := c.data[uint32(id)]; !used && id != 0 {
				c.add(0, "", false, fmt.Sprintf("nothing leads to block %d", id))
			}
			return nil
		})
		if err != nil {
			return fault("listing of the data", 0, err)
		}
	}
	return nil
}
