package takeover

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Names in the root of a file system that are compared.
const (
	maxSeen  = 1000
	lookTime = 10 * time.Second // for a file system to answer: a dead one never does
)

// names lists what is in the root of a mounted file system; nothing where it does
// not answer, or is an empty folder.
func names(mountpoint string) []string {
	answer := make(chan []string, 1)
	go func() { // ends with the kernel's answer
		d, err := os.Open(mountpoint)
		if err != nil {
			answer <- nil
			return
		}
		defer d.Close()                    //nolint:errcheck // read only
		list, _ := d.Readdirnames(maxSeen) // what came before an error counts
		answer <- list
	}()
	select {
	case list := <-answer:
		slices.Sort(list)
		return list
	case <-time.After(lookTime):
		return nil
	}
}

// compare looks whether what was in the file system before is in it still.
// Applications may have removed some of that in the moment before the stop: it is
// another file system only where most is missing.
func (t *Takeover) compare(o *Options) error {
	missing := []string{}
	for _, name := range t.Seen {
		if _, err := os.Lstat(filepath.Join(t.Mountpoint, name)); err != nil {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) == 0:
		return nil
	case 2*len(missing) > len(t.Seen):
		return &Error{Msg: fmt.Sprintf("%d of %d names that were in %s are not there, such as %q", len(missing), len(t.Seen), t.Mountpoint, missing[0]),
			Remedy: "report this: nothing was removed, and the older programs have all that they had"}
	}
	o.say("%d of %d names that were in %s are not there, such as %q: somebody may have removed them meanwhile", len(missing), len(t.Seen), t.Mountpoint, missing[0])
	return nil
}
