package doctor

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// bytes is a number of bytes for people.
func bytes(n int64) string {
	switch {
	case n >= 10*gib:
		return fmt.Sprintf("%d GiB", n/gib)
	case n >= gib:
		return fmt.Sprintf("%.1f GiB", float64(n)/gib)
	case n >= mib:
		return fmt.Sprintf("%d MiB", n/mib)
	}
	return fmt.Sprintf("%d KiB", n/kib)
}

func platformCheck(_ context.Context, x *examination) []Result {
	switch x.sys.arch {
	case "amd64", "arm64":
		return ok(x.sys.arch, platform())
	}
	return bad(Warning, x.sys.arch, platform(), "this architecture is not tested", "use a machine with amd64 or arm64 where data matters")
}

// Kernels: 4.20 takes requests of 1 MiB, before that FUSE is many times slower;
// 3.15 is the first that caches what is written.
var (
	leastKernel = [2]int{3, 15}
	goodKernel  = [2]int{4, 20}
)

func kernel(_ context.Context, x *examination) []Result {
	release, err := x.sys.release()
	if err != nil {
		return skip("the kernel does not tell its version: " + err.Error())
	}
	var v [2]int
	if _, err := fmt.Sscanf(release, "%d.%d", &v[0], &v[1]); err != nil {
		return bad(Note, "", release, "a version that is not understood", "")
	}
	below := func(least [2]int) bool { return v[0] < least[0] || v[0] == least[0] && v[1] < least[1] }
	switch {
	case below(leastKernel):
		return bad(Problem, "", release, "too old for what the mount needs of FUSE", "boot Linux 4.20 or newer")
	case below(goodKernel):
		return bad(Warning, "", release, "before Linux 4.20 FUSE moves 128 KiB at a time at most: large files are slow", "boot Linux 4.20 or newer")
	}
	return ok("", release)
}

// spare is what a system takes beside memory_limit: program, database, tree.
const spare = 96 * mib

// needed is the memory that a system takes.
func (x *examination) needed() int64 {
	return int64(x.settings().MemoryLimit) + spare
}

func memory(_ context.Context, x *examination) []Result {
	total, available := meminfo(x.sys, "MemTotal"), meminfo(x.sys, "MemAvailable")
	if total == 0 {
		return skip("/proc/meminfo does not tell")
	}
	measured := fmt.Sprintf("%s, %s available", bytes(total), bytes(available))
	switch {
	case total < x.needed():
		return bad(Problem, "", measured, fmt.Sprintf("memory_limit and the program take up to %s", bytes(x.needed())), "lower memory_limit, or give the machine more memory")
	case available < x.needed() && x.status == nil:
		return bad(Warning, "", measured, fmt.Sprintf("memory_limit and the program take up to %s, more than is available now", bytes(x.needed())), "lower memory_limit, or end what takes the memory")
	}
	return ok("", measured)
}

// meminfo gives bytes.
func meminfo(s *system, key string) int64 {
	for line := range strings.SplitSeq(s.fact("proc/meminfo"), "\n") {
		if name, rest, found := strings.Cut(line, ":"); found && name == key {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n * kib
		}
	}
	return 0
}

// memoryCgroup looks at limits of this process's control groups: a container's,
// or a session's. A service has one of its own.
func memoryCgroup(_ context.Context, x *examination) []Result {
	limit, where := cgroupLimit(x.sys, "memory.max", "memory", "memory.limit_in_bytes")
	if where == "" || limit >= 1<<60 {
		return ok("", "no limit")
	}
	if limit < x.needed() {
		return bad(Problem, where, bytes(limit), fmt.Sprintf("memory_limit and the program take up to %s: the kernel would kill it", bytes(x.needed())), "raise the control group's limit, or lower memory_limit")
	}
	return ok(where, bytes(limit))
}

// cgroupLimit finds the lowest limit of the groups that this process is in: of
// version 2 under the name unified, else of version 1 in a hierarchy.
func cgroupLimit(s *system, unified, hierarchy, legacy string) (limit int64, where string) {
	take := func(file string) {
		if n, ok := s.number(file); ok && (where == "" || n < limit) {
			limit, where = n, "/"+file
		}
	}
	for line := range strings.SplitSeq(s.fact("proc/self/cgroup"), "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 {
			continue
		}
		base, file := "sys/fs/cgroup", unified
		if parts[1] != "" {
			if !strings.Contains(","+parts[1]+",", ","+hierarchy+",") {
				continue
			}
			base, file = "sys/fs/cgroup/"+hierarchy, legacy
		}
		for dir := path.Join("/", parts[2]); ; dir = path.Dir(dir) {
			take(path.Join(base, dir, file))
			if dir == "/" {
				break
			}
		}
	}
	return limit, where
}

func swap(_ context.Context, x *examination) []Result {
	n := meminfo(x.sys, "SwapTotal")
	if n == 0 {
		return ok("", "none")
	}
	return bad(Note, "", bytes(n), "keys in memory can reach the swap space: it should be on an encrypted disk", "")
}

// oldest is before any release of this program.
var oldest = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

func clockDate(_ context.Context, x *examination) []Result {
	now := x.sys.now()
	measured := now.UTC().Format(time.DateTime) + " UTC"
	if now.Before(oldest) || now.Year() > oldest.Year()+75 {
		return bad(Problem, "", measured, "the clock is wrong: times of files and certificates of downloads would be, too", "set the clock: `timedatectl set-ntp true`, or `date -s`")
	}
	return ok("", measured)
}

func clockSync(_ context.Context, x *examination) []Result {
	c, err := x.sys.clock()
	if err != nil {
		return skip("the kernel does not tell whether the clock is synchronised: " + err.Error())
	}
	if !c.synchronised {
		return bad(Warning, "", "not synchronised", "nothing keeps the clock right (kernel: STA_UNSYNC); in a container the host's clock counts", "run a time service: `timedatectl set-ntp true`, chrony or ntpd")
	}
	return ok("", fmt.Sprintf("synchronised, at most %s off", c.maxError.Round(time.Millisecond)))
}

// Open files: data files, index files, connections, and those of the mount.
const (
	leastFiles = 512
	goodFiles  = 4096
)

func openFiles(_ context.Context, x *examination) []Result {
	for line := range strings.SplitSeq(x.sys.fact("proc/self/limits"), "\n") {
		rest, found := strings.CutPrefix(line, "Max open files")
		f := strings.Fields(rest)
		if !found || len(f) < 2 {
			continue
		}
		hard, err := strconv.ParseInt(f[1], 10, 64)
		measured := "hard limit " + f[1]
		switch {
		case err != nil: // unlimited
		case hard < leastFiles:
			return bad(Problem, "", measured, fmt.Sprintf("data files, connections and the mount need at least %d open files", leastFiles), "raise the hard limit: `ulimit -Hn`, /etc/security/limits.conf, or the container's --ulimit nofile")
		case hard < goodFiles:
			return bad(Warning, "", measured, fmt.Sprintf("below %d a busy system may run out of open files", goodFiles), "raise the hard limit: `ulimit -Hn`, /etc/security/limits.conf, or the container's --ulimit nofile")
		}
		return ok("", measured)
	}
	return skip("/proc/self/limits does not tell")
}

const leastProcesses = 128

func processesLimit(_ context.Context, x *examination) []Result {
	limit, where := cgroupLimit(x.sys, "pids.max", "pids", "pids.max")
	if n, ok := x.sys.number("proc/sys/kernel/pid_max"); ok && (where == "" || n < limit) {
		limit, where = n, "/proc/sys/kernel/pid_max"
	}
	if where == "" {
		return skip("no limit is told")
	}
	if limit < leastProcesses {
		return bad(Warning, where, strconv.FormatInt(limit, 10), fmt.Sprintf("threads, hooks and external programs need room for %d", leastProcesses), "raise the limit of processes")
	}
	return ok(where, strconv.FormatInt(limit, 10))
}
