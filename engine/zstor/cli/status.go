package cli

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"

	"github.com/threefoldtech/quantumd/backend"
)

// status prints a table of metadata backends and one of data backends. It succeeds
// with all of them down.
func (r *runner) status(ctx context.Context, args []string) error {
	if err := parse(r.flags("status"), args); err != nil {
		return err
	}
	cfg, err := r.load()
	if err != nil {
		return err
	}
	for _, list := range [][]backend.Backend{cfg.Meta, cfg.Data} {
		rows := make([][]string, len(list))
		var asking sync.WaitGroup
		for i, b := range list {
			asking.Go(func() { rows[i] = r.statusRow(ctx, b) })
		}
		asking.Wait()
		fmt.Fprint(r.out, table([]string{"backend", "reachable", "objects", "used space", "free space", "usage percentage"}, rows))
	}
	return nil
}

func (r *runner) statusRow(ctx context.Context, b backend.Backend) []string {
	ns := b.Namespace
	if ns == "" {
		ns = "default"
	}
	name := fmt.Sprintf("%s - %s", b.Address, ns)
	info, err := r.info(ctx, b)
	if err != nil {
		return []string{name, "No", "-", "-", "-", "-"}
	}
	free, of := uint64(math.MaxUint64), info.Used+info.Free
	if info.Limit > 0 {
		free, of = uint64(info.Limit), info.Limit
	}
	percent := int64(0)
	if of > 0 {
		percent = 100 * info.Used / of
	}
	return []string{name, "Yes", strconv.FormatInt(info.Entries, 10), strconv.FormatInt(info.Used, 10),
		strconv.FormatUint(free, 10), strconv.FormatInt(percent, 10)}
}

// table draws as the original does: text to the left, numbers to the right.
func table(head []string, rows [][]string) string {
	width := make([]int, len(head))
	for _, row := range append([][]string{head}, rows...) {
		for i, cell := range row {
			width[i] = max(width[i], len(cell))
		}
	}
	var b strings.Builder
	line := func(c string) {
		for _, w := range width {
			b.WriteString("+" + strings.Repeat(c, w+2))
		}
		b.WriteString("+\n")
	}
	write := func(row []string, right bool) {
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-len(cell))
			if right && i > 1 {
				b.WriteString("| " + pad + cell + " ")
			} else {
				b.WriteString("| " + cell + pad + " ")
			}
		}
		b.WriteString("|\n")
	}
	line("-")
	write(head, false)
	line("=")
	for _, row := range rows {
		write(row, true)
		line("-")
	}
	return b.String()
}
