// Package segment is the byte format of a zdb namespace on disk: headers,
// entries, the descriptor and the checksum, as 0-db 2.0.7 writes them (data
// format 3, index format 4). Nothing else in this module knows these offsets.
//
//	<data root>/<namespace>/d0 d1 …     <index root>/<namespace>/zdb-namespace i0 i1 …
//
//	data entry   klen:1 length:4 previous:4 crc:4 flags:1 timestamp:4 key payload
//	index entry  klen:1 offset:4 length:4 previous:4 flags:1 datafile:4 timestamp:4 crc:4 parent:4+4 key
//
// All integers are little-endian. Use [DataHeader], [DataEntry], [IndexEntry]
// and [Descriptor] with their Append and Decode functions, and [Walker] to
// read a data file entry by entry. The package holds no state and opens no
// files: what a sequence of entries means is the business of
// engine/zdb/server.
//
// Every decoder takes hostile bytes: it checks lengths before it slices and
// returns an error that matches [ErrFormat].
package segment
