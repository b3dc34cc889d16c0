package durability

import (
	"math"
	"slices"
)

// Capacity is what the data backends hold. Zeros: no sizes were given.
type Capacity struct {
	Raw    int64 `json:"raw"`    // bytes of all data backends, without spares
	Usable int64 `json:"usable"` // of files' contents, beside Headroom
	// Unused is what no object can use, because the other backends are smaller.
	Unused int64 `json:"unused"`
	Wanted int64 `json:"wanted"` // what the file system shall hold
	// Each is the size that every data backend has to have for Wanted.
	Each int64 `json:"each"`
	// Meta is what each metadata backend needs, about.
	Meta     int64 `json:"meta"`
	MetaSize int64 `json:"meta_size"` // and has; zero: not known
}

// Headroom is the part of each data backend that is kept for what is not files'
// contents: headers of zdb, zdbfs and compression (at worst 0.07 % in all: 68 bytes
// for each block of 128 KiB and each piece of 2 MiB, 8 for each 64 KiB that cannot
// be compressed), the file system's own records, checkpoints, and objects that are
// replaced.
const Headroom = 0.05

// BackendSize is the size that each of count data backends has to have for a file
// system of so many bytes: size / needed where count is total, and less with more
// of them; with Headroom, in multiples of unit, which may be 1. It is zero where
// there is no such size.
//
// What is overwritten or deleted keeps its space: size is what will ever be
// written.
func BackendSize(size int64, needed, total, count int, unit int64) int64 {
	if size <= 0 || needed < 1 || count < total || total < needed {
		return 0
	}
	each := float64(size) / float64(needed) * (1 + Headroom) * float64(total) / float64(count)
	units := math.Ceil(each / float64(max(unit, 1)))
	return int64(min(units*float64(max(unit, 1)), math.MaxInt64/2))
}

// Sized gives the data backends, where no size is known, the one that Size needs,
// in multiples of unit.
func (sh Shape) Sized(unit int64) Shape {
	if sh.Data.Size == 0 && !slices.ContainsFunc(sh.Data.Groups, func(g Group) bool { return g.Size > 0 }) {
		sh.Data.Size = BackendSize(sh.Size, sh.Data.Needed, sh.Data.Total, sh.Data.Count(), unit)
	}
	return sh
}

// each lists the sizes of all data backends; nil where one is not known.
func (s Set) each() []int64 {
	if len(s.Groups) == 0 {
		if s.Size == 0 {
			return nil
		}
		return slices.Repeat([]int64{s.Size}, s.Backends)
	}
	var out []int64
	for _, g := range s.Groups {
		size := s.sizeOf(g)
		if size == 0 && g.Backends > 0 {
			return nil
		}
		out = append(out, slices.Repeat([]int64{size}, g.Backends)...)
	}
	return out
}

func (sh Shape) capacity() Capacity {
	d := sh.Data
	c := Capacity{Wanted: sh.Size, MetaSize: sh.Meta.smallest()}
	c.Each = BackendSize(sh.Size, d.Needed, d.Total, d.Count(), 1)
	sizes := d.each()
	for _, v := range sizes {
		c.Raw += v
	}
	if len(sizes) >= d.Total && d.Total > 0 {
		level := filled(sizes, d.Total)
		c.Usable = int64(level * float64(d.Needed) / (1 + Headroom))
		c.Unused = max(0, c.Raw-int64(math.Ceil(level*float64(d.Total))))
	}
	c.Meta = sh.metaBytes(max(c.Usable, c.Wanted))
	return c
}

// filled is how many bytes of shards fit side by side, when each object has one
// on each of so many backends: the largest x where the sum of min(size, x) is
// total·x.
func filled(sizes []int64, total int) float64 {
	full := 0.0 // of those that are smaller than x
	for i, size := range slices.Sorted(slices.Values(sizes)) {
		if others := len(sizes) - i; others < total {
			if x := full / float64(total-others); x < float64(size) {
				return x
			}
		}
		full += float64(size)
	}
	return full / float64(total)
}

// smallest is the size of the smallest backend; zero where one is not known.
func (s Set) smallest() int64 {
	each := s.each()
	if len(each) == 0 {
		return 0
	}
	return slices.Min(each)
}

// metaBytes is about what each metadata backend holds: a record for each data and
// each index file, of which it has a half and 17 bytes. A record has some 100 bytes
// for each shard (checksum, address, namespace, password) and 24 for each of its
// pieces of 2 MiB; zdb's log keeps replaced ones: twice that.
func (sh Shape) metaBytes(size int64) int64 {
	if size == 0 {
		return 0
	}
	d := sh.Data
	objects := 2 * math.Ceil(float64(size)/float64(sh.DataFile))
	pieces := math.Ceil(float64(sh.DataFile) / float64(d.Needed) / (2 << 20))
	record := 100 + float64(d.Total)*(100+24*pieces)
	return int64(2 * objects * (record/2 + 17 + 100))
}
