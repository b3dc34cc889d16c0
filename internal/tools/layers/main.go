// Command layers checks the direction of imports that ARCHITECTURE.md
// describes: downwards, and never between neighbours.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

const module = "github.com/threefoldtech/quantumd"

// rule: packages below From may import, of this module, only those below To.
type rule struct {
	From string
	To   []string
}

// The first rule that fits a package counts. Packages of one rule may import
// one another where the rule names itself.
var rules = []rule{
	{"backend/local", []string{"backend", "engine/zdb", "services", "hooks", "internal"}},
	{"backend/static", []string{"backend", "engine/zdb", "internal"}},
	{"backend/backendtest", []string{"backend", "internal"}},
	{"backend/grid/sdkprocess", []string{"backend", "backend/grid", "internal"}},
	{"backend/grid/internal/sdk", []string{"backend", "backend/grid", "internal"}},
	{"backend/grid/tfgrid", []string{"backend/grid", "internal"}},
	{"backend/grid/gridtest", []string{"backend", "backend/grid", "engine/zdb", "internal"}},
	{"backend/grid", []string{"backend", "engine/zdb", "store", "internal"}},
	{"backend", []string{"internal"}},
	{"hooks", []string{"internal"}},
	{"services", []string{"services", "internal"}},
	{"store", []string{"internal"}},
	{"engine/zdb", []string{"engine/zdb", "backend", "hooks", "internal"}},
	{"engine/zstor", []string{"engine/zstor", "backend", "internal"}},
	{"engine/zdbfs", []string{"engine/zdbfs", "backend", "internal"}},
	{"qsfs/config", []string{"backend", "internal"}},
	{"qsfs/client", []string{"internal"}},
	{"qsfs/manifest", []string{"internal"}},
	{"qsfs/epoch", []string{"qsfs/manifest", "backend", "internal"}},
	{"qsfs/generation", []string{"backend", "internal"}},
	{"qsfs/pushgateway", []string{"internal"}},
	{"qsfs/binaries", []string{"internal"}},
	{"qsfs/durability", []string{"backend", "internal"}},
	{"qsfs/dashboard", []string{"qsfs/client", "internal"}},
	{"qsfs", []string{"qsfs", "backend", "engine", "services", "hooks", "store", "internal"}},
	{"internal/demo", []string{""}},    // a story told by the whole
	{"internal/testenv", []string{""}}, // a whole system for tests
	{"internal", []string{"internal"}},
	{"cmd", []string{""}},
	{"examples", []string{""}},
}

// exact: a vocabulary package may be imported, what lies below it not.
var exact = map[string]bool{"backend": true, "services": true, "hooks": true}

// forbidden modules: heavy ones stay behind the doors of the rooms that need
// them. The key is the package, without what lies below it.
var forbidden = map[string][]string{
	"hooks":   {"github.com/hanwen/go-fuse", "github.com/godbus/dbus"},
	"backend": {"github.com/hanwen/go-fuse", "github.com/godbus/dbus"},
	"store":   {"github.com/hanwen/go-fuse", "github.com/godbus/dbus"},
}

// sdk is the grid SDK: compiled with the packages below these folders and with no
// other, so that whoever imports those does without it.
var (
	sdk = []string{"github.com/scottyeager/tfgrid-sdk-go", "github.com/threefoldtech/tfgrid-sdk-go",
		"github.com/threefoldtech/tfchain", "github.com/threefoldtech/zosbase"}
	withSDK = []string{"backend/grid/internal/sdk", "backend/grid/tfgrid", "backend/grid/gridtest", "cmd/quantumd", "examples/provisioning-service"}
)

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func main() {
	pkgs, err := list()
	if err != nil {
		fmt.Fprintln(os.Stderr, "layers:", err)
		os.Exit(2)
	}
	if bad := check(pkgs); len(bad) > 0 {
		fmt.Println(strings.Join(bad, "\n"))
		os.Exit(1)
	}
}

func list(tags ...string) ([]pkg, error) {
	g := os.Getenv("GO")
	if g == "" {
		g = "go"
	}
	cmd := exec.Command(g, "list", "-tags="+strings.Join(tags, ","), "-json=ImportPath,Imports,Deps", module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var pkgs []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, err
		}
		pkgs = append(pkgs, p)
	}
}

func check(pkgs []pkg) []string {
	var bad []string
	for _, p := range pkgs {
		from := rel(p.ImportPath)
		if from == "" {
			continue
		}
		r, ok := ruleOf(from)
		if !ok {
			bad = append(bad, fmt.Sprintf("%s: a folder that no rule knows: add it to internal/tools/layers and to ARCHITECTURE.md", from))
			continue
		}
		for _, i := range p.Imports {
			if to := rel(i); strings.HasPrefix(i, module) && !allowed(r, from, to) {
				bad = append(bad, fmt.Sprintf("%s imports %s: packages below %s may import only %s", from, to, r.From, strings.Join(r.To, ", ")))
			}
		}
		no := forbidden[from]
		if !oneOf(from, withSDK) {
			no = slices.Concat(no, sdk)
		}
		for _, f := range no {
			for _, dep := range p.Deps {
				if strings.HasPrefix(dep, f) {
					bad = append(bad, fmt.Sprintf("%s depends on %s, which must stay out of it", from, dep))
				}
			}
		}
	}
	return bad
}

func rel(path string) string { return strings.TrimPrefix(strings.TrimPrefix(path, module), "/") }

func ruleOf(name string) (rule, bool) {
	for _, r := range rules {
		if oneOf(name, []string{r.From}) {
			return r, true
		}
	}
	return rule{}, false
}

func allowed(r rule, from, to string) bool {
	for _, t := range r.To {
		if t == "" {
			return true
		}
		if exact[t] && t != r.From && r.From != "qsfs" {
			if to == t {
				return true
			}
			continue
		}
		if oneOf(to, []string{t}) {
			return true
		}
	}
	return from == to
}

func oneOf(name string, roots []string) bool {
	for _, r := range roots {
		if name == r || strings.HasPrefix(name, r+"/") {
			return true
		}
	}
	return false
}
