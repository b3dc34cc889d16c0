package tree

import "context"

// Records tells which records hold an inode and its content: meta are keys of the
// metadata namespace, data those of the blocks, in order, without holes. memory
// counts blocks that are in no record yet.
func (t *Tree) Records(ctx context.Context, ino uint64) (meta, data []uint64, memory int, err error) {
	n, err := t.get(ctx, ino)
	if err != nil {
		return nil, nil, 0, err
	}
	defer t.put(n)
	n.st.Lock()
	defer n.st.Unlock()
	meta = append(meta, n.ino)
	if n.extKey != 0 {
		meta = append(meta, n.extKey)
	}
	if n.dir != nil {
		for _, key := range n.dir.keys {
			if key != 0 {
				meta = append(meta, key)
			}
		}
	}
	for _, id := range n.blocks {
		switch id {
		case 0: // a hole
		case pendingBlock:
			memory++
		default:
			data = append(data, uint64(id))
		}
	}
	return meta, data, memory, nil
}
