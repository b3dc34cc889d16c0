package durability

import (
	"fmt"
	"math"
	"strings"
)

// Level is how bad a warning is.
type Level string

// Levels of warnings.
const (
	Note       Level = "note"       // worth knowing
	Danger     Level = "warning"    // looks safe and is not
	Impossible Level = "impossible" // cannot be deployed
)

// Warning is something that the figures alone do not say.
type Warning struct {
	Level  Level  `json:"level"`
	Code   string `json:"code"` // stable, such as no-spare
	Text   string `json:"text"`
	Remedy string `json:"remedy"` // may be empty
}

type warner struct {
	sh   Shape
	r    Rates
	rep  Report
	list []Warning
}

func (w *warner) add(level Level, code, text, remedy string) {
	w.list = append(w.list, Warning{level, code, text, remedy})
}

// warnings looks for what cannot be, then for what is not as safe as it looks.
func warnings(sh Shape, r Rates, rep Report) []Warning {
	w := &warner{sh: sh, r: r, rep: rep, list: []Warning{}}
	w.possible(sh.Data, "data")
	w.possible(sh.Meta, "metadata")
	w.shards()
	w.groups(sh.Data, "data")
	w.groups(sh.Meta, "metadata")
	w.repair()
	w.sizes()
	w.weakest()
	return w.list
}

func (w *warner) possible(s Set, what string) {
	switch n := s.Count(); {
	case n < s.Total:
		w.add(Impossible, what+"-too-few", fmt.Sprintf("%d %s backends, but each object needs %d", n, what, s.Total),
			fmt.Sprintf("plan %d more, or fewer shards", s.Total-n))
	case s.placeable():
	case len(s.Groups) == 0:
		w.add(Impossible, what+"-no-groups", fmt.Sprintf("%s and %s of each other one shall be lost without harm, but the %s backends have no groups",
			plural(s.RedundantGroups, "group"), plural(s.RedundantNodes, "backend"), what), "name the group of each backend")
	default:
		w.add(Impossible, what+"-no-placement", fmt.Sprintf("%d shards, of which %d are needed, cannot be spread over these groups so that %s and %s of each other one may be lost",
			s.Total, s.Needed, plural(s.RedundantGroups, "group"), plural(s.RedundantNodes, "backend")),
			fmt.Sprintf("lower redundant_groups (%d is possible) or redundant_nodes, or plan more groups", s.groupsPossible()))
	}
}

func (w *warner) shards() {
	d := w.sh.Data
	switch {
	case d.Parity() == 0:
		w.add(Danger, "no-parity", fmt.Sprintf("%d of %d shards are needed: the first backend that fails takes data with it, and more backends make that more likely", d.Needed, d.Total),
			fmt.Sprintf("%d of %d survives two", d.Needed, d.Needed+2))
	case d.Needed == 1 && d.Total > 1:
		w.add(Note, "replication", fmt.Sprintf("1 of %d is replication: it stores everything %d times", d.Total, d.Total),
			fmt.Sprintf("4 of %d survives the loss of as many for %.2f times the space", 3+d.Total, float64(3+d.Total)/4))
	case d.Parity() == 1:
		w.add(Danger, "one-parity", "only one backend may be lost: during each repair nothing more may fail, nor be damaged", fmt.Sprintf("%d of %d survives two", d.Needed, d.Total+1))
	}
}

func (w *warner) groups(s Set, what string) {
	sizes := s.sizes()
	if len(sizes) == 0 {
		if what == "data" {
			w.add(Note, "no-groups", "no groups are given: the figures suppose that no two backends share a machine, a farm, or anything else that can fail",
				"give the group of each backend, or a list of numbers")
		}
		return
	}
	if !s.placeable() || s.Parity() == 0 {
		return
	}
	if len(sizes) == 1 {
		w.add(Danger, what+"-one-group", fmt.Sprintf("all %d %s backends are in one group: what takes it takes everything, however many shards there are", sizes[0], what),
			"spread them over several machines, farms or countries")
		return
	}
	if sizes[0] == 1 || s.groupsTolerated() > 0 {
		w.limit(s, what)
		return
	}
	text := fmt.Sprintf("one group may hold %d shards of an object, and only %d of them may be lost: the largest of %d groups, gone, takes data with it",
		s.atWorst(1), s.Parity(), len(sizes))
	if what == "metadata" {
		text = fmt.Sprintf("one group holds %d of the %d metadata backends, and only %d may be lost", sizes[0], s.Total, s.Parity())
	}
	w.add(Danger, what+"-group-takes-all", text, w.spread(s))
}

// spread says how shards would survive a group.
func (w *warner) spread(s Set) string {
	if possible := s.groupsPossible(); possible > 0 && s.RedundantGroups < possible && s.Count() > s.Total {
		return fmt.Sprintf("redundant_groups: %d spreads shards so that %s may be lost", possible, plural(possible, "group"))
	}
	least := (s.Total + s.Parity() - 1) / s.Parity() // groups of n-k each
	return fmt.Sprintf("at most %s in a group: %d groups or more", plural(s.Parity(), "backend"), least)
}

// limit tells of groups that are replaced more slowly than one may think.
func (w *warner) limit(s Set, what string) {
	if per := w.r.MaxPerDay; w.r.Repair > 0 && per > 0 && s.sizes()[0] > per {
		w.add(Note, what+"-group-slow", fmt.Sprintf("a lost group of %d takes %d days at %d replacements a day", s.sizes()[0], (s.sizes()[0]+per-1)/per, per),
			"raise replace.max_per_day, or replace by hand then")
	}
}

func (w *warner) repair() {
	d := w.sh.Data
	if w.r.Repair == 0 {
		w.add(Danger, "no-repair", "lost backends are not replaced: shards run out with the years, and the durability is that of a disk on a shelf",
			"set replace.enabled, with spares or a provisioner that has others")
		return
	}
	perYear := float64(d.Count()+w.sh.Meta.Count()) * w.r.Failures
	switch {
	case d.Supply:
	case d.Spares == 0:
		w.add(Danger, "no-spare", fmt.Sprintf("no spare: %s in a year are expected, and each stays until somebody lists another backend; the figures suppose that it is replaced in time",
			failuresWords(perYear)), "list spares with role: data, and one with role: meta")
	case perYear > float64(d.Spares):
		w.add(Note, "few-spares", fmt.Sprintf("%s in a year are expected: %s last about %.2g years", failuresWords(perYear), plural(d.Spares, "spare"), float64(d.Spares)/perYear),
			"list others as they are used up")
	}
	if w.r.Repair >= 7*day {
		w.add(Danger, "slow-repair", fmt.Sprintf("a repair takes %s: others fail meanwhile, and their rebuilds share the same line", short(w.r.Repair)),
			"plan more and smaller backends, or raise replace.rate and the bandwidth behind it")
	}
}

func failuresWords(n float64) string { return fmt.Sprintf("%.2g failures", n) }

func (w *warner) sizes() {
	c := w.rep.Capacity
	if c.Raw > 0 && c.Wanted > c.Usable {
		w.add(Danger, "too-small", fmt.Sprintf("%s of files' contents fit, but %s are wanted", bytes(c.Usable), bytes(c.Wanted)),
			fmt.Sprintf("each data backend needs %s (data_size)", bytes(c.Each)))
	}
	if c.Unused > c.Raw/20 {
		w.add(Note, "unequal", fmt.Sprintf("%s of %s cannot be used: each object needs %d different backends, and the smaller ones are full first",
			bytes(c.Unused), bytes(c.Raw), w.sh.Data.Total), "plan backends of the same size, or more of them")
	}
	if c.MetaSize > 0 && c.Meta > c.MetaSize {
		w.add(Danger, "meta-too-small", fmt.Sprintf("the metadata backends have %s, but about %s are needed", bytes(c.MetaSize), bytes(c.Meta)),
			"raise meta_size, or zdb_data_size: there are fewer objects then")
	}
}

// weakest tells which part decides.
func (w *warner) weakest() {
	data, meta := w.rep.Data.Any, w.rep.Meta.Any
	if data.MTTDL == 0 || meta.MTTDL == 0 {
		return
	}
	if more := data.Ten.Nines - meta.Ten.Nines; more > math.Log10(2) && data.Year.Nines > meta.Year.Nines {
		w.add(Note, "metadata-decides", fmt.Sprintf("metadata is 2 of 4, always: it is lost sooner than data (%.1f nines less in ten years), and more parity for data does not help", more),
			"keep the four metadata backends on the best machines, in four groups, with a spare")
	}
}

// bytes shows a size with three digits, in powers of 1024.
func bytes(n int64) string {
	v, u := float64(n), 0
	for v >= 1000 && u < 6 {
		v, u = v/1024, u+1
	}
	return strings.TrimSpace(fmt.Sprintf("%.3g %s", v, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}[u]))
}
