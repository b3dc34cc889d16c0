package main

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/qsfs/durability"
)

type planCmd struct {
	Shards          string      `placeholder:"K/N" help:"Any K of N shards give a file back; else min_shards and expected_shards."`
	Size            config.Size `placeholder:"SIZE" help:"What the file system shall hold; else total_storage_size."`
	BackendSize     config.Size `placeholder:"SIZE" help:"Of each data backend; else data_size, or what --size asks for."`
	Backends        int         `placeholder:"N" help:"Data backends, without spares; else those listed, or as many as shards."`
	Groups          string      `placeholder:"LIST" help:"Data backends by what fails together (machine, farm, country): 4x5, or 6,6,8."`
	MetaGroups      string      `placeholder:"LIST" help:"The same for the four metadata backends: 2,1,1."`
	Spares          int         `placeholder:"N" default:"-1" help:"Spare data backends; else those listed, or others are rented when needed."`
	RedundantGroups int         `placeholder:"N" default:"-1" help:"Groups that may be lost; else redundant_groups."`
	RedundantNodes  int         `placeholder:"N" default:"-1" help:"Backends of each other group that may be lost; else redundant_nodes."`

	FailureRate      string            `placeholder:"RATE" default:"4%" help:"Part of the backends that are gone for good in a year; 4% unless given."`
	GroupFailureRate string            `placeholder:"RATE" default:"1%" help:"Part of the groups that are gone whole in a year; 1% unless given."`
	Repair           string            `placeholder:"TIME" help:"From a failure until all that was lost is made anew, or never; else replace.after and the rebuild."`
	RebuildRate      config.Size       `placeholder:"SIZE" help:"Bytes a second that a rebuild moves; else replace.rate, or 12M (100 Mbit/s)."`
	cfg              *config.Config    `kong:"-"`
	reasons          map[string]string `kong:"-"`
}

// Help tells what is shown, with examples.
func (planCmd) Help() string {
	return `Tells what a set of backends is worth before it is paid for: how much it holds, what may be
lost of it, how likely data is lost, and what looks safe and is not. Nothing is asked or
changed. Without a shape the configuration is planned; with one, no configuration is read
unless -c names it.
  quantumd plan
  quantumd plan -c config.yaml --failure-rate 8%
  quantumd plan --shards 16/20 --size 1T
  quantumd plan --shards 4/6 --groups 2,2,2 --repair 2d
  quantumd plan --shards 16/20 --groups 6x9 --redundant-groups 1 --json
Exit code 1: this cannot be deployed. Warnings do not change the exit code.`
}

// Run shows the plan.
func (c *planCmd) Run(a *app) error {
	if err := c.load(a); err != nil {
		return err
	}
	shape, more, err := c.shape(a)
	if err != nil {
		return err
	}
	rates, err := c.rates(a, shape)
	if err != nil {
		return err
	}
	report, err := durability.Evaluate(shape, rates)
	if err != nil {
		return &usageError{err}
	}
	report.Warnings = append(report.Warnings, more...)
	err = a.print(struct {
		Schema int       `json:"schema"`
		File   string    `json:"file"` // the configuration; empty: none was read
		Rates  planRates `json:"rates"`
		durability.Report
	}{client.SchemaVersion, c.cfg.File(), planRates{rates.Failures, rates.GroupFailures, rates.Repair.Seconds(), c.reasons["repair"], rates.MaxPerDay}, report},
		func() { c.show(a, shape, rates, report) })
	if err == nil && !report.Possible {
		return &codeError{code: exitFailed}
	}
	return err
}

type planRates struct {
	Failures      float64 `json:"failures_per_year"`
	GroupFailures float64 `json:"group_failures_per_year"`
	Repair        float64 `json:"repair_seconds"` // zero: never
	Reason        string  `json:"repair_reason"`
	MaxPerDay     int     `json:"max_per_day"` // zero: no limit
}

// load reads the configuration; for a shape of its own, none but what -c names.
func (c *planCmd) load(a *app) (err error) {
	own := c.Shards != "" || c.Size > 0 || c.BackendSize > 0 || c.Backends > 0 || c.Groups != "" || c.MetaGroups != "" ||
		c.Spares >= 0 || c.RedundantGroups >= 0 || c.RedundantNodes >= 0
	c.reasons = map[string]string{}
	if own && a.globals.Config == "" && a.globals.Dir == "" {
		c.cfg, err = config.Parse("", nil, a.configOptions(false)...)
		return err
	}
	c.cfg, err = config.Load(a.configPath(), a.configOptions(true)...) // keys and mnemonics need not be there yet
	if err == nil {
		for _, w := range c.cfg.Warnings() {
			a.notef("%s", w)
		}
	}
	return err
}

// shape is what is planned, and what there is to say of the listed backends.
func (c *planCmd) shape(a *app) (durability.Shape, []durability.Warning, error) {
	cfg := c.cfg
	sh := durability.Shape{Size: int64(cfg.TotalStorageSize), DataFile: int64(cfg.ZdbDataSize)}
	sh.Data = durability.Set{
		Needed: cfg.MinShards, Total: cfg.ExpectedShards, RedundantGroups: cfg.RedundantGroups, RedundantNodes: cfg.RedundantNodes,
		Size: int64(cfg.DataSize), Supply: true,
	}
	sh.Meta.Supply = true
	var more []durability.Warning
	if len(cfg.Backends) > 0 {
		list, err := cfg.BackendList()
		if err != nil {
			return sh, nil, err
		}
		here := a.localBeside(cfg) != nil
		listed(&sh.Data, list, backend.Data, here)
		listed(&sh.Meta, list, backend.Meta, here)
		more = shared(list)
	} else {
		sh.Meta.Size = int64(cfg.MetaSize)
	}
	err := c.flags(&sh)
	if len(cfg.Backends) == 0 { // the grid rents whole GiB
		sh.Data.Size = (sh.Data.Size + int64(config.GiB) - 1) / int64(config.GiB) * int64(config.GiB)
	}
	if sh.Data.Backends == 0 && len(sh.Data.Groups) == 0 {
		sh.Data.Backends = sh.Data.Total
	}
	if len(cfg.Backends) == 0 || c.Backends > 0 || c.Groups != "" { // those that are there have a size of their own
		sh = sh.Sized(int64(config.GiB))
	}
	return sh, more, err
}

// flags lays what was asked for over the configuration.
func (c *planCmd) flags(sh *durability.Shape) (err error) {
	d := &sh.Data
	if c.Shards != "" {
		if d.Needed, d.Total, err = shardsOf(c.Shards); err != nil {
			return err
		}
	}
	if c.Size > 0 {
		sh.Size = int64(c.Size)
	}
	if c.BackendSize > 0 {
		d.Size = int64(c.BackendSize)
	}
	if c.Backends < 0 {
		return &usageError{errors.New("--backends wants a positive number")}
	}
	if c.Backends > 0 {
		d.Backends, d.Groups = c.Backends, nil
	}
	if c.Groups != "" {
		if d.Groups, err = groupsOf("--groups", c.Groups); err != nil {
			return err
		}
		d.Backends = c.Backends
	}
	if c.MetaGroups != "" {
		if sh.Meta.Groups, err = groupsOf("--meta-groups", c.MetaGroups); err != nil {
			return err
		}
		sh.Meta.Backends = 0
	}
	if c.Spares >= 0 {
		d.Spares, d.Supply = c.Spares, false
	}
	if c.RedundantGroups >= 0 {
		d.RedundantGroups = c.RedundantGroups
	}
	if c.RedundantNodes >= 0 {
		d.RedundantNodes = c.RedundantNodes
	}
	return nil
}

// listed fills a set with the backends of a configuration. What has no group is
// grouped by its machine; where no two share one, nothing is known.
func listed(s *durability.Set, list []backend.Backend, role backend.Role, here bool) {
	index := map[string]int{}
	var groups []durability.Group
	named := false
	for _, b := range list {
		switch {
		case b.Role != role:
			continue
		case b.Spare:
			s.Spares++
			continue
		}
		name := b.Group
		if named = named || name != ""; name == "" {
			name = b.Address.Addr().String()
		}
		i, known := index[name]
		if !known {
			i = len(groups)
			index[name] = i
			groups = append(groups, durability.Group{Name: name})
		}
		groups[i].Backends++
		s.Backends++
	}
	if named || len(groups) < s.Backends {
		s.Groups, s.Backends = groups, 0
	}
	s.Supply = here
}

// shared tells of machines that hold backends of several groups.
func shared(list []backend.Backend) []durability.Warning {
	of := map[netip.Addr]backend.Backend{}
	for _, b := range list {
		first, known := of[b.Address.Addr()]
		if !known {
			of[b.Address.Addr()] = b
		} else if first.Group != b.Group && first.Role == b.Role {
			return []durability.Warning{{Level: durability.Danger, Code: "machine-in-two-groups",
				Text:   fmt.Sprintf("%s and %s have the same address, %s, and different groups: they fail together all the same", first.ID, b.ID, b.Address.Addr()),
				Remedy: "give backends of one machine the same group"}}
		}
	}
	return nil
}

// A rebuild reads all the shards that are needed, and writes one, over a line of
// 100 Mbit/s where nothing else is said.
const rebuildRate = 12 * config.MiB

// rates are the flags', with a repair time from the configuration.
func (c *planCmd) rates(a *app, sh durability.Shape) (r durability.Rates, err error) {
	if r.Failures, err = rateOf("--failure-rate", c.FailureRate); err != nil {
		return r, err
	}
	if r.GroupFailures, err = rateOf("--group-failure-rate", c.GroupFailureRate); err != nil {
		return r, err
	}
	r.MaxPerDay = c.cfg.Replace.MaxPerDay
	if c.Repair != "" {
		c.reasons["repair"] = "as given"
		if c.Repair == "never" {
			return r, nil
		}
		d, err := config.ParseDuration(c.Repair)
		if err == nil && d <= 0 {
			err = errors.New("write never, or a duration above zero")
		}
		if err != nil {
			return r, &usageError{fmt.Errorf("--repair: %w", err)}
		}
		r.Repair = d.Std()
		return r, nil
	}
	if why := c.notReplaced(sh); why != "" {
		c.reasons["repair"] = why
		return r, nil
	}
	r.Repair, c.reasons["repair"] = c.repairTime(sh)
	return r, nil
}

// notReplaced says why lost backends stay lost; "": they do not.
func (c *planCmd) notReplaced(sh durability.Shape) string {
	switch c.cfg.Replace.Enabled {
	case "true":
		return ""
	case "false":
		return "replace.enabled is false"
	}
	if !sh.Data.Supply && sh.Data.Spares == 0 {
		return "no spare, and replace.enabled is auto"
	}
	return ""
}

// repairTime is the grace period and the rebuild of a full backend.
func (c *planCmd) repairTime(sh durability.Shape) (time.Duration, string) {
	d := sh.Data
	each := max(d.Size, durability.BackendSize(sh.Size, d.Needed, d.Total, max(d.Backends, d.Count()), 1))
	if each == 0 {
		return durability.DefaultRepair, "a day is taken, for sizes are not known"
	}
	rate := rebuildRate
	if c.cfg.Replace.Rate > 0 {
		rate = c.cfg.Replace.Rate
	}
	if c.RebuildRate > 0 {
		rate = c.RebuildRate
	}
	moved := min(float64(each)*float64(d.Needed+1), math.MaxInt64/4)
	rebuild := time.Duration(min(moved/float64(rate)*float64(time.Second), math.MaxInt64/4))
	return max(c.cfg.Replace.After.Std()+rebuild, time.Second),
		fmt.Sprintf("replace.after %s, then %s to read and write %s at %s/s", c.cfg.Replace.After, hours(rebuild), size(int64(moved)), size(int64(rate)))
}

func hours(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%.3g days", d.Hours()/24)
	case d >= time.Hour:
		return fmt.Sprintf("%.3g h", d.Hours())
	}
	return d.Round(time.Second).String()
}

func shardsOf(text string) (k, n int, err error) {
	a, b, both := strings.Cut(text, "/")
	k, err = strconv.Atoi(a)
	if err == nil {
		n, err = strconv.Atoi(b)
	}
	if !both || err != nil {
		return 0, 0, &usageError{fmt.Errorf("--shards %s: write needed and all shards, such as 16/20", text)}
	}
	return k, n, nil
}

// rateOf reads 4% or 0.04.
func rateOf(flag, text string) (float64, error) {
	number, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(number, 64)
	if percent {
		v /= 100
	}
	if err != nil || v < 0 || math.IsNaN(v) || !percent && v > 1 {
		return 0, &usageError{fmt.Errorf("%s %s: write a part of a year's backends, such as 4%% or 0.04", flag, text)}
	}
	return v, nil
}

// groupsOf reads 4x5, or 6,6,8.
func groupsOf(flag, text string) ([]durability.Group, error) {
	var out []durability.Group
	for part := range strings.SplitSeq(text, ",") {
		times, each, several := strings.Cut(part, "x")
		if !several {
			times, each = "1", part
		}
		n, err := strconv.Atoi(times)
		size, err2 := strconv.Atoi(each)
		if err != nil || err2 != nil || n < 1 || size < 1 || n > 10000 || len(out) > 10000 {
			return nil, &usageError{fmt.Errorf("%s %s: write the number of backends of each group, such as 4x5 (four groups of five) or 6,6,8", flag, text)}
		}
		for range n {
			out = append(out, durability.Group{Name: fmt.Sprintf("group%d", len(out)+1), Backends: size})
		}
	}
	return out, nil
}

// show prints one screen.
func (c *planCmd) show(a *app, sh durability.Shape, r durability.Rates, rep durability.Report) {
	d := rep.Data
	a.printf("%d of %d shards on %d data backends%s: %.3g times the space; metadata 2 of 4", d.Needed, d.Total, d.Backends, inGroups(d.Groups), d.Overhead)
	if k := rep.Capacity; k.Raw > 0 {
		a.printf("room      %s for files, of %s (%.0f %% kept for headers and what is replaced)%s", size(k.Usable), size(k.Raw), 100*durability.Headroom, perBackend(sh))
	} else if k.Each > 0 {
		a.printf("room      %s for files, where each data backend has %s", size(k.Wanted), size(k.Each))
	}
	a.printf("data      %s", d.Words)
	a.printf("metadata  %s", rep.Meta.Words)
	a.printf("failures  %.4g %% of the backends a year%s; repair %s", 100*r.Failures, ofGroups(sh, r), repaired(r, c.reasons["repair"]))
	if rep.Possible {
		a.printf("\n%-10s  %-24s %-24s %-24s %s", "loss", "within 1 year", "5 years", "10 years", "mean years to it")
		row := func(name string, v durability.Durability) {
			a.printf("%-10s  %-24s %-24s %-24s %.2g", name, risk(v.Year), risk(v.Five), risk(v.Ten), v.MTTDL)
		}
		row("any file", d.Any)
		if d.One != d.Any {
			row("one object", d.One)
		}
		row("metadata", rep.Meta.Any)
		row("either", rep.Both)
		a.printf("")
		for i, line := range rep.Model {
			a.printf("%-9s %s", first(i, "model"), line)
		}
		for i, line := range rep.Assumptions {
			a.printf("%-9s %s", first(i, "supposes"), line)
		}
	}
	if len(rep.Warnings) > 0 {
		a.printf("")
	}
	for _, w := range rep.Warnings {
		text := w.Text
		if w.Remedy != "" {
			text += "; " + w.Remedy
		}
		a.printf("%-10s%s", string(w.Level)+" ", text)
	}
}

func first(i int, word string) string {
	if i == 0 {
		return word
	}
	return ""
}

func risk(r durability.Risk) string {
	if r.Nines < 1 {
		return fmt.Sprintf("%.2g (no nines)", r.Loss)
	}
	if r.Loss == 0 {
		return fmt.Sprintf("%.1f nines", r.Nines)
	}
	return fmt.Sprintf("%.2g (%.1f nines)", r.Loss, r.Nines)
}

func inGroups(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return " in one group"
	}
	return fmt.Sprintf(" in %d groups", n)
}

func perBackend(sh durability.Shape) string {
	if sh.Data.Size == 0 {
		return ""
	}
	return ", " + size(sh.Data.Size) + " each"
}

func ofGroups(sh durability.Shape, r durability.Rates) string {
	if len(sh.Data.Groups)+len(sh.Meta.Groups) == 0 {
		return ""
	}
	return fmt.Sprintf(", %.4g %% of the groups", 100*r.GroupFailures)
}

func repaired(r durability.Rates, why string) string {
	if r.Repair == 0 {
		return "never (" + why + ")"
	}
	return hours(r.Repair) + " (" + why + ")"
}
