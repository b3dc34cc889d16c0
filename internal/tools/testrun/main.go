// Command testrun runs `go test -json`, prints what failed, and lists at the
// end every test that was skipped, with its reason. With -strict a skip that
// the list of known ones does not name is a failure.
//
// A line of that list is `PACKAGE TEST reason…`; TEST may end with /* for the
// tests below one, and PACKAGE is the path below the module.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sort"
	"strings"
)

type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
}

type key struct{ pkg, test string }

func main() {
	skips := flag.String("skips", "", "file with the known skips")
	strict := flag.Bool("strict", false, "fail on a skip that is not known")
	timeout := flag.String("timeout", "10m", "of each package")
	race := flag.Bool("race", raceWorks(), "with the race detector")
	flag.Parse()
	known, err := readSkips(*skips)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		os.Exit(2)
	}
	args := []string{"test", "-json", "-timeout", *timeout}
	if *race {
		args = append(args, "-race")
	}
	os.Exit(run(append(args, flag.Args()...), known, *strict))
}

func goProgram() string {
	if g := os.Getenv("GO"); g != "" {
		return g
	}
	return "go"
}

// raceWorks tries a build with the race detector, which needs a C compiler.
func raceWorks() bool {
	dir, err := os.MkdirTemp("", "race-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(dir) //nolint:errcheck // temporary
	file := dir + "/main.go"
	if os.WriteFile(file, []byte("package main\nfunc main() {}\n"), 0o600) != nil {
		return false
	}
	return exec.Command(goProgram(), "build", "-race", "-o", dir+"/main", file).Run() == nil
}

func readSkips(path string) (map[key]bool, error) {
	known := map[key]bool{}
	if path == "" {
		return known, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 3 {
			return nil, fmt.Errorf("%s: %q: want package, test and reason", path, lines.Text())
		}
		known[key{fields[0], fields[1]}] = true
	}
	return known, lines.Err()
}

func run(args []string, known map[key]bool, strict bool) int {
	cmd := exec.Command(goProgram(), args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		return 2
	}
	r := &report{output: map[key][]string{}, known: known}
	if err := r.read(out); err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
	}
	err = cmd.Wait()
	unknown := r.print()
	switch {
	case err != nil:
		return 1
	case strict && unknown > 0:
		fmt.Printf("FAIL: %d skipped tests are not in the list of known skips\n", unknown)
		return 1
	}
	return 0
}

type report struct {
	output  map[key][]string
	known   map[key]bool
	passed  int
	failed  []key
	skipped []key
}

func (r *report) read(in io.Reader) error {
	lines := bufio.NewReaderSize(in, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Print(string(line)) // a build error
			} else {
				r.take(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) take(e event) {
	k := key{short(e.Package), e.Test}
	switch e.Action {
	case "output", "build-output":
		r.output[k] = append(r.output[k], e.Output)
	case "pass":
		if e.Test == "" {
			fmt.Printf("ok    %-40s %6.1f s\n", k.pkg, e.Elapsed)
		} else {
			r.passed++
			delete(r.output, k)
		}
	case "fail":
		r.failed = append(r.failed, k)
		fmt.Printf("FAIL  %s %s\n%s", k.pkg, k.test, strings.Join(r.output[k], ""))
	case "skip":
		if e.Test != "" {
			r.skipped = append(r.skipped, k)
		}
	}
}

// module is cut off package paths.
const module = "github.com/threefoldtech/quantumd/"

func short(pkg string) string { return strings.TrimPrefix(pkg, module) }

// print lists the skipped tests and gives how many of them are not known.
func (r *report) print() int {
	sort.Slice(r.skipped, func(i, j int) bool {
		return r.skipped[i].pkg+r.skipped[i].test < r.skipped[j].pkg+r.skipped[j].test
	})
	unknown := 0
	for _, k := range r.skipped {
		mark := ""
		if !r.isKnown(k) {
			unknown++
			mark = " (not in the list of known skips)"
		}
		fmt.Printf("skip  %s %s: %s%s\n", k.pkg, k.test, r.reason(k), mark)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", r.passed, len(r.failed), len(r.skipped))
	return unknown
}

func (r *report) isKnown(k key) bool {
	if r.known[k] {
		return true
	}
	for i := range len(k.test) {
		if k.test[i] == '/' && r.known[key{k.pkg, k.test[:i] + "/*"}] {
			return true
		}
	}
	return false
}

// reason is what the test printed when it was skipped.
func (r *report) reason(k key) string {
	for _, line := range r.output[k] {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			return line
		}
	}
	return "no reason given"
}
